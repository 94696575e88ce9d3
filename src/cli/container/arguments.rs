//! What can be typed after `container`. Names, short forms and defaults are
//! docker's.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::super::image::arguments::{Authored, InspectContainers};
use super::super::{attach, cp, stats};

/// `container …`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Container {
    /// List containers of all stacks
    #[command(alias = "list", alias = "ps")]
    Ls(Ls),
    /// Print all that is known of containers
    Inspect(InspectContainers),
    /// Start containers that do not run
    Start(Start),
    /// Stop containers
    Stop(Stop),
    /// Stop and start containers
    Restart(Stop),
    /// Send a signal to running containers
    Kill(Kill),
    /// Freeze all processes of containers
    Pause(Names),
    /// Let paused containers go on
    Unpause(Unpause),
    /// Remove containers
    #[command(alias = "remove")]
    Rm(Rm),
    /// Remove all containers that do not run
    Prune(Prune),
    /// Wait until containers have ended, and print their exit statuses
    Wait(Names),
    /// Show what a container printed
    Logs(Logs),
    /// Join a running container: its output, and its input
    Attach(Attach),
    /// Run a command in a running container
    Exec(Exec),
    /// List the processes of a container
    Top(Top),
    /// Show what containers use
    Stats(Stats),
    /// Print where the ports of a container are published
    Port(Port),
    /// Copy files between this machine and containers
    Cp(Cp),
    /// List what a container changed in its file system
    Diff {
        /// Container
        name: String,
    },
    /// Write what a container sees to an archive
    Export {
        /// Container
        name: String,
        /// File to write [default: standard output]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make an image of what a container changed
    Commit {
        /// Container
        name: String,
        /// Name of the new image
        reference: Option<String>,
        #[command(flatten)]
        authored: Authored,
    },
    /// Refused: containers are made by stacks
    #[command(hide = true, disable_help_flag = true)]
    Create(Anything),
    /// Refused: containers are made by stacks
    #[command(hide = true, disable_help_flag = true)]
    Run(Anything),
    /// Refused: a container has the name that its stack gives it
    #[command(hide = true, disable_help_flag = true)]
    Rename(Anything),
    /// Refused: a container has the limits that its stack gives it
    #[command(hide = true, disable_help_flag = true)]
    Update(Anything),
}

/// What a command that is refused is given.
#[derive(Debug, Args)]
pub(in crate::cli) struct Anything {
    /// Whatever it is
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _rest: Vec<OsString>,
}

/// Containers by name.
#[derive(Debug, Args)]
pub(in crate::cli) struct Names {
    /// Containers, by name, id, or the first digits of one
    #[arg(required = true, value_name = "CONTAINER")]
    pub(super) names: Vec<String>,
}

/// `container unpause`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Unpause {
    #[command(flatten)]
    pub(super) names: Names,
    /// For ourselves: wait for the end of standard input before
    #[arg(long, hide = true)]
    pub(super) when_input_ends: bool,
}

/// `container ls`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(in crate::cli) struct Ls {
    /// Those that ended too
    #[arg(short, long)]
    pub(super) all: bool,
    /// name=TEXT, id=TEXT, status=STATUS, health=VERDICT, exited=STATUS, label=NAME[=VALUE], ancestor=IMAGE,
    /// volume=NAME|PATH, network=NAME, publish=PORT, expose=PORT, before=CONTAINER, since=CONTAINER; repeat it for several
    #[arg(short, long, value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(super) format: String,
    /// Only so many, the newest, running or not
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub(super) last: Option<usize>,
    /// Only the newest, running or not
    #[arg(short, long, conflicts_with = "last")]
    pub(super) latest: bool,
    /// Do not shorten
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Show what containers have written
    #[arg(short, long)]
    pub(super) size: bool,
}

/// `container start`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Start {
    #[command(flatten)]
    pub(super) names: Names,
    /// Show its output, and end with its exit status
    #[arg(short, long)]
    pub(super) attach: bool,
}

/// `container stop`, `container restart`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Stop {
    #[command(flatten)]
    pub(super) names: Names,
    /// Signal in place of their stop signal
    #[arg(short, long, value_name = "SIGNAL")]
    pub(super) signal: Option<String>,
    /// Seconds that they get to stop before they are killed; -1 for as long as it takes
    #[arg(
        short = 't',
        long = "timeout",
        alias = "time",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    pub(super) timeout: Option<i64>,
}

/// `container kill`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Kill {
    #[command(flatten)]
    pub(super) names: Names,
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub(super) signal: String,
}

/// `container rm`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Rm {
    #[command(flatten)]
    pub(super) names: Names,
    /// Kill those that run
    #[arg(short, long)]
    pub(super) force: bool,
    /// Their anonymous volumes too
    #[arg(short, long)]
    pub(super) volumes: bool,
}

/// `container prune`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Prune {
    /// until=DURATION|TIME, label=NAME[=VALUE], label!=NAME[=VALUE]; repeat it for several
    #[arg(long, value_name = "FILTER")]
    pub(in crate::cli) filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
}

/// `container logs`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    /// Container
    pub(super) name: String,
    /// Go on as more is printed
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only the last lines: a number, or 'all'
    #[arg(short = 'n', long, default_value = "all", value_name = "LINES")]
    pub(super) tail: String,
    /// Only what was printed since: 10m, 2026-11-20T15:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) since: Option<String>,
    /// Only what was printed before: 10m, 2026-11-20T15:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub(super) until: Option<String>,
    /// Show when each line was printed
    #[arg(short, long)]
    pub(super) timestamps: bool,
}

/// `container attach`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Attach {
    /// Container
    pub(super) name: String,
    #[command(flatten)]
    pub(super) how: attach::How,
}

/// `container exec`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(in crate::cli) struct Exec {
    /// Leave it running in the background
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Set a variable: NAME=VALUE, or NAME to pass the caller's
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// File with a variable a line
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// Connect standard input
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// All capabilities and devices
    #[arg(long)]
    pub(super) privileged: bool,
    /// With a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// User (and group) to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Folder to run in
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// Container
    pub(super) name: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// `container top`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Top {
    /// Container
    pub(super) name: String,
    /// Options of ps(1): only '-ef', which is what is shown
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) options: Vec<String>,
}

/// `container stats`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Stats {
    /// Containers [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub(super) names: Vec<String>,
    #[command(flatten)]
    pub(super) how: stats::How,
}

/// `container port`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Port {
    /// Container
    pub(super) name: String,
    /// Only this port of the container: PORT[/PROTOCOL]
    pub(super) port: Option<String>,
}

/// `container cp`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Cp {
    /// CONTAINER:PATH, a path of this machine, or '-' for a tar archive on standard input
    #[arg(allow_hyphen_values = true)]
    pub(super) source: OsString,
    /// CONTAINER:PATH, a path of this machine, or '-' for a tar archive on standard output
    #[arg(allow_hyphen_values = true)]
    pub(super) destination: OsString,
    #[command(flatten)]
    pub(super) how: cp::How,
    /// No progress
    #[arg(short, long)]
    pub(super) quiet: bool,
}
