//! What can be typed. Names, short forms and defaults are docker compose's.
//!
//! Each verb turns what was typed into what it means (an intent, a selection)
//! in its own file; nothing here decides anything.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::image::arguments as image;

/// Runs compose files on a built-in container runtime: no daemon, one static binary.
#[derive(Debug, Parser)]
#[command(
    name = "rcompose",
    version,
    disable_version_flag = true,
    propagate_version = false
)]
#[command(arg(clap::Arg::new("version").short('v').long("version").help("Print the version").action(clap::ArgAction::Version)))]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Run 'rcompose COMMAND --help' for the options of a command.")]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options that stand before the command.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Stack file; repeat it to merge several, '-' reads standard input
    #[arg(short, long = "file", value_name = "FILE")]
    pub(super) file: Vec<PathBuf>,
    /// Project name
    #[arg(short, long, value_name = "NAME")]
    pub(super) project_name: Option<String>,
    /// Folder that relative paths are resolved against [default: that of the first stack file]
    #[arg(long, value_name = "DIR", alias = "workdir")]
    pub(super) project_directory: Option<PathBuf>,
    /// Environment file in place of '.env'; repeat it to read several
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<PathBuf>,
    /// Profile to enable; repeat it for several, '*' enables all
    #[arg(long, value_name = "PROFILE")]
    pub(super) profile: Vec<String>,
    /// When to colour the output
    #[arg(long, value_name = "WHEN", default_value = "auto", env = "COMPOSE_ANSI")]
    pub(super) ansi: When,
    /// How to show progress
    #[arg(long, value_name = "HOW", default_value = "auto", env = "COMPOSE_PROGRESS")]
    pub(super) progress: Progress,
    /// Print what would be done, do nothing
    #[arg(long, global = true)]
    pub(super) dry_run: bool,
    /// How problems of the stack file are printed
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "RCOMPOSE_DIAGNOSTICS"
    )]
    pub(super) diagnostics: DiagnosticFormat,
    /// Include resources that no service uses
    #[arg(long)]
    pub(super) all_resources: bool,
    /// Folder of everything rcompose keeps; another one is another world
    #[arg(long, value_name = "DIR", env = "RCOMPOSE_STATE_ROOT")]
    pub(super) state_root: Option<PathBuf>,
}

/// When to colour the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Never
    Never,
    /// Always
    Always,
}

/// How problems of the stack file are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DiagnosticFormat {
    /// For people, with the line and what to do
    Text,
    /// A JSON object a line, for editors and programs
    Json,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Progress {
    /// A live list on a terminal, lines elsewhere
    Auto,
    /// A live list
    Tty,
    /// A line for each change
    Plain,
    /// A JSON object for each change
    Json,
    /// Nothing
    #[value(alias = "none")]
    Quiet,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create and start the stack
    Up(Up),
    /// Stop and remove the stack's containers and networks
    Down(Down),
    /// List containers
    Ps(super::ps::Ps),
    /// Show what containers printed
    Logs(super::logs::Logs),
    /// List projects
    Ls(super::ls::Ls),
    /// Print where a port of a service is published
    Port(super::port::Port),
    /// List the processes of containers
    Top(super::top::Top),
    /// Show what containers use
    Stats(super::stats::Stats),
    /// List volumes
    Volumes(super::volumes::Volumes),
    /// Join a running container: its output, and its input
    Attach(super::attach::Attach),
    /// Copy files between this machine and containers
    Cp(super::cp::Cp),
    /// Draw what depends on what, and what it does now
    Graph(super::graph::Typed),
    /// Say what a service does, and why
    Why(super::why::Why),
    /// Show what happens to containers
    Events(super::events::Events),
    /// Wait until the containers of services have ended
    Wait(super::wait::Wait),
    /// Bring changed sources to running containers
    Watch(super::watch::Watch),
    /// Run a command in a running container
    Exec(Exec),
    /// Run a one-off container of a service
    Run(super::run::Run),
    /// Stop containers
    Stop(Stop),
    /// Start containers that exist
    Start(Start),
    /// Stop and start containers
    Restart(Restart),
    /// Create containers, networks and volumes without starting anything
    Create(Create),
    /// Send a signal to running containers
    Kill(Kill),
    /// Freeze all processes of containers
    Pause(Pause),
    /// Let paused containers go on
    Unpause(Pause),
    /// Remove containers that do not run
    Rm(Rm),
    /// Set the number of containers of services
    Scale(Scale),
    /// Print the stack file as it is understood
    #[command(alias = "convert")]
    Config(Config),
    /// Tell where a value of the stack is written, and what overrode what
    Explain(Explain),
    /// Print what 'up' would do, and why
    Plan(Plan),
    /// Run a saved plan as it is, or not at all
    Apply(Apply),
    /// List what the stack has been brought to
    History(super::history::History),
    /// Tell what changed between two generations, or since the newest one
    Diff(super::history::Diff),
    /// Bring the stack back to a generation
    Rollback(super::history::Rollback),
    /// Bring the images of the stack here
    Pull(image::Pull),
    /// Send the images of the stack that were made here to their registries
    Push(image::Push),
    /// List the images that the containers of the stack are made from
    Images(image::Images),
    /// Make an image of what a container of a service changed
    Commit(image::Commit),
    /// Write what a container of a service sees to an archive
    Export(image::Export),
    /// Images by name: list, pull, push, tag, remove, inspect, save, load, import, prune
    Image {
        /// What to do.
        #[command(subcommand)]
        command: image::Image,
    },
    /// Containers by name: list, inspect, start, stop, remove, logs, exec, diff, export, commit, ...
    Container {
        /// What to do.
        #[command(subcommand)]
        command: super::container::Container,
    },
    /// Networks by name: list, inspect, create, remove, prune
    Network {
        /// What to do.
        #[command(subcommand)]
        command: super::network::Verb,
    },
    /// Volumes by name: list, inspect, create, remove, prune
    Volume {
        /// What to do.
        #[command(subcommand)]
        command: super::volume::Verb,
    },
    /// Room on the disk: show it, make it; stacks that come back after a boot
    System {
        /// What to do.
        #[command(subcommand)]
        command: super::system::System,
    },
    /// Log in to a registry
    Login(image::Login),
    /// Log out of a registry
    Logout(image::Logout),
    /// Print the version
    Version(Version),
}

/// `up`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(super) struct Up {
    /// Services to bring up, with what they depend on [default: all]
    pub(super) services: Vec<String>,
    /// Leave the stack running in the background
    #[arg(short, long, conflicts_with_all = ["abort_on_container_exit", "abort_on_container_failure", "exit_code_from", "attach", "attach_dependencies"])]
    pub(super) detach: bool,
    /// Follow the sources of 'develop.watch'; with --detach, they and the stack file are followed in the background
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Wait until services are running or healthy; implies --detach
    #[arg(long)]
    pub(super) wait: bool,
    /// When it fails, bring the stack back to what it was; waits as --wait does
    #[arg(long)]
    pub(super) atomic: bool,
    /// Longest time to wait, in seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(super) wait_timeout: Option<u64>,
    /// Replace containers even if nothing changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub(super) force_recreate: bool,
    /// Keep containers even if their definition changed
    #[arg(long)]
    pub(super) no_recreate: bool,
    /// With --force-recreate: replace dependencies too
    #[arg(long, conflicts_with = "no_recreate")]
    pub(super) always_recreate_deps: bool,
    /// Without the services that these depend on
    #[arg(long)]
    pub(super) no_deps: bool,
    /// Create containers, do not start them
    #[arg(long)]
    pub(super) no_start: bool,
    /// Fresh anonymous volumes in place of those of the replaced containers
    #[arg(short = 'V', long, conflicts_with = "no_recreate")]
    pub(super) renew_anon_volumes: bool,
    /// Remove containers of services that the stack file does not have
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) remove_orphans: bool,
    /// Number of containers of a service
    #[arg(long, value_name = "SERVICE=NUM", value_parser = scale)]
    pub(super) scale: Vec<(String, u32)>,
    /// Seconds that containers get to stop before they are killed
    #[arg(short, long, value_name = "SECONDS")]
    pub(super) timeout: Option<u64>,
    /// Stop everything when any container ends
    #[arg(long)]
    pub(super) abort_on_container_exit: bool,
    /// Stop everything when any container ends with another status than 0
    #[arg(long)]
    pub(super) abort_on_container_failure: bool,
    /// End with the exit status of this service's container; implies --abort-on-container-exit
    #[arg(long, value_name = "SERVICE")]
    pub(super) exit_code_from: Option<String>,
    /// Show the output of these services only
    #[arg(long, value_name = "SERVICE")]
    pub(super) attach: Vec<String>,
    /// Show the output of the services that these depend on, too
    #[arg(long)]
    pub(super) attach_dependencies: bool,
    /// Do not show the output of these services
    #[arg(long, value_name = "SERVICE")]
    pub(super) no_attach: Vec<String>,
    #[command(flatten)]
    pub(super) lines: Lines,
    /// Show when each line was printed
    #[arg(long)]
    pub(super) timestamps: bool,
    /// When to fetch images, in place of what the stack file says
    #[arg(long, value_name = "POLICY")]
    pub(super) pull: Option<Pull>,
    /// Do not show that images are fetched
    #[arg(long)]
    pub(super) quiet_pull: bool,
    #[command(flatten)]
    pub(super) build: NoBuild,
    /// On a terminal, whether keys do something: w follows the sources, d leaves the stack running [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, env = "COMPOSE_MENU", hide_env = true,
          value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) menu: Option<bool>,
    /// Accepted for scripts: there is nothing to confirm
    #[arg(short, long, hide = true)]
    pub(super) yes: bool,
}

/// What docker compose says of building. A stack file with something to build is
/// refused, so of the others none of this says anything.
#[derive(Clone, Copy, Debug, Args)]
#[expect(clippy::struct_field_names, reason = "they are named as the options are")]
pub(super) struct NoBuild {
    /// Accepted for scripts: nothing is to be built
    #[arg(long, hide = true, conflicts_with = "no_build")]
    build: bool,
    /// Accepted for scripts: nothing is built
    #[arg(long, hide = true)]
    no_build: bool,
    /// Accepted for scripts: nothing is built
    #[arg(long, hide = true)]
    quiet_build: bool,
}

/// When images are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pull {
    /// Always
    Always,
    /// When they are not here
    #[value(alias = "if_not_present")]
    Missing,
    /// Never
    Never,
}

impl From<Pull> for crate::project::PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Always => Self::Always,
            Pull::Missing => Self::Missing,
            Pull::Never => Self::Never,
        }
    }
}

/// How lines of containers are shown.
#[derive(Clone, Debug, Args)]
pub(super) struct Lines {
    /// No colours
    #[arg(long)]
    pub(super) no_color: bool,
    /// No prefix with the container's name
    #[arg(long)]
    pub(super) no_log_prefix: bool,
}

/// `down`.
#[derive(Debug, Args)]
pub(super) struct Down {
    /// Services to take down [default: all]
    pub(super) services: Vec<String>,
    /// Remove images too: 'all' that services use, or only the 'local' ones, that were built without a name
    #[arg(long, value_name = "WHICH")]
    pub(super) rmi: Option<Rmi>,
    /// Remove named volumes of the stack and anonymous volumes too
    #[arg(short, long)]
    pub(super) volumes: bool,
    /// Remove containers of services that the stack file does not have
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) remove_orphans: bool,
    /// Seconds that containers get to stop before they are killed
    #[arg(short, long, value_name = "SECONDS")]
    pub(super) timeout: Option<u64>,
}

/// Which images `down` removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Rmi {
    /// Those that services use
    All,
    /// Those that were built without a name
    Local,
}

/// `exec`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(super) struct Exec {
    /// Leave it running in the background
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Set a variable: NAME=VALUE, or NAME to pass the caller's
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Number of the container
    #[arg(long, default_value_t = 0, value_name = "NUMBER", hide_default_value = true)]
    pub(super) index: u32,
    /// No terminal, though standard input and output are one
    #[arg(short = 'T', long = "no-tty", alias = "no-TTY")]
    pub(super) no_tty: bool,
    /// All capabilities and devices
    #[arg(long)]
    pub(super) privileged: bool,
    /// User (and group) to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Folder to run in
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,
    /// Accepted for scripts: standard input is always connected
    #[arg(short, long, hide = true)]
    pub(super) interactive: bool,
    /// Accepted for scripts: a terminal is used when there is one
    #[arg(short, long, hide = true)]
    pub(super) tty: bool,
    /// Service
    pub(super) service: String,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// `stop`.
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// Services to stop [default: all]
    pub(super) services: Vec<String>,
    /// Seconds that containers get to stop before they are killed
    #[arg(short, long, value_name = "SECONDS")]
    pub(super) timeout: Option<u64>,
}

/// `start`.
#[derive(Debug, Args)]
pub(super) struct Start {
    /// Services to start [default: all]
    pub(super) services: Vec<String>,
    /// Wait until they are running or healthy
    #[arg(long)]
    pub(super) wait: bool,
    /// Longest time to wait, in seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    pub(super) wait_timeout: Option<u64>,
}

/// `restart`.
#[derive(Debug, Args)]
pub(super) struct Restart {
    /// Services to restart [default: all]
    pub(super) services: Vec<String>,
    /// Leave dependents alone
    #[arg(long)]
    pub(super) no_deps: bool,
    /// Seconds that containers get to stop before they are killed
    #[arg(short, long, value_name = "SECONDS")]
    pub(super) timeout: Option<u64>,
}

/// `create`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(super) struct Create {
    /// Services to create, with what they depend on [default: all]
    pub(super) services: Vec<String>,
    /// Replace containers even if nothing changed
    #[arg(long, conflicts_with = "no_recreate")]
    pub(super) force_recreate: bool,
    /// Keep containers even if their definition changed
    #[arg(long)]
    pub(super) no_recreate: bool,
    /// Remove containers of services that the stack file does not have
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) remove_orphans: bool,
    /// Number of containers of a service
    #[arg(long, value_name = "SERVICE=NUM", value_parser = scale)]
    pub(super) scale: Vec<(String, u32)>,
    /// When images are fetched
    #[arg(long, value_name = "POLICY")]
    pub(super) pull: Option<Pull>,
    /// Do not show that images are fetched
    #[arg(long)]
    pub(super) quiet_pull: bool,
    #[command(flatten)]
    pub(super) build: NoBuild,
    /// Accepted for scripts: there is nothing to confirm
    #[arg(short, long, hide = true)]
    pub(super) yes: bool,
}

/// `kill`.
#[derive(Debug, Args)]
pub(super) struct Kill {
    /// Services [default: all]
    pub(super) services: Vec<String>,
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGKILL")]
    pub(super) signal: String,
    /// Containers of services that the stack file does not have, too
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) remove_orphans: bool,
}

/// `pause`, `unpause`.
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// Services [default: all]
    pub(super) services: Vec<String>,
}

/// `rm`.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Services [default: all]
    pub(super) services: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(super) force: bool,
    /// Stop those that run first
    #[arg(short, long)]
    pub(super) stop: bool,
    /// Remove their anonymous volumes too
    #[arg(short, long)]
    pub(super) volumes: bool,
    /// Accepted for scripts: it is what is done
    #[arg(short, long, hide = true)]
    pub(super) all: bool,
}

/// `scale`.
#[derive(Debug, Args)]
pub(super) struct Scale {
    /// Number of containers of a service; repeat it for several
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = scale)]
    pub(super) scale: Vec<(String, u32)>,
    /// Without the services that these depend on
    #[arg(long)]
    pub(super) no_deps: bool,
}

/// `config`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(super) struct Config {
    /// Services to print, with what they depend on [default: all]
    pub(super) select: Vec<String>,
    /// 'yaml' or 'json'
    #[arg(long, value_name = "FORMAT")]
    pub(super) format: Option<ConfigFormat>,
    /// Check only, print nothing
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Print the names of the services, one a line
    #[arg(long)]
    pub(super) services: bool,
    /// Print the names of the volumes, one a line
    #[arg(long)]
    pub(super) volumes: bool,
    /// Print the names of the networks, one a line
    #[arg(long)]
    pub(super) networks: bool,
    /// Print the images, one a line
    #[arg(long)]
    pub(super) images: bool,
    /// Print the profiles, one a line
    #[arg(long)]
    pub(super) profiles: bool,
    /// Print the models, one a line
    #[arg(long)]
    pub(super) models: bool,
    /// Print the variables that the files name, with their defaults
    #[arg(long)]
    pub(super) variables: bool,
    /// Print the variables that values are made of, with their values
    #[arg(long)]
    pub(super) environment: bool,
    /// Print every value with the place it is written at and how it came from there
    #[arg(long)]
    pub(super) provenance: bool,
    /// Leave variables in values as they are written
    #[arg(long)]
    pub(super) no_interpolate: bool,
    /// Leave out what is implied: names, the default network, dependencies
    #[arg(long)]
    pub(super) no_normalize: bool,
    /// Leave relative paths as they are written
    #[arg(long)]
    pub(super) no_path_resolution: bool,
    /// Leave undefined names and contradictions unchecked
    #[arg(long)]
    pub(super) no_consistency: bool,
    /// Leave environment files unread
    #[arg(long)]
    pub(super) no_env_resolution: bool,
    /// Print images with the digests that their registries have for them
    #[arg(long)]
    pub(super) resolve_image_digests: bool,
    /// Print an override file with the digests of images and nothing else
    #[arg(long)]
    pub(super) lock_image_digests: bool,
    /// Print the configuration hash of a service; '*' prints all
    #[arg(long, value_name = "SERVICE")]
    pub(super) hash: Option<String>,
    /// Write to a file
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

/// Formats of `config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ConfigFormat {
    /// YAML
    Yaml,
    /// JSON
    Json,
}

/// `explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The value, such as services.web.ports or services.web.ports.0.target
    pub(super) path: String,
    /// 'text' or 'json'
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(super) format: ExplainFormat,
}

/// Formats of `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ExplainFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Services to plan for, with what they depend on [default: all]
    pub(super) services: Vec<String>,
    /// 'text' or 'json'
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub(super) format: PlanFormat,
    /// Remove containers of services that the stack file does not have
    #[arg(long)]
    pub(super) remove_orphans: bool,
    /// Replace containers even if nothing changed
    #[arg(long)]
    pub(super) force_recreate: bool,
    /// Number of containers of a service
    #[arg(long, value_name = "SERVICE=NUM", value_parser = scale)]
    pub(super) scale: Vec<(String, u32)>,
    /// Save the plan, for 'apply'
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
}

/// `apply`.
#[derive(Debug, Args)]
pub(super) struct Apply {
    /// The file that 'plan --out' has written
    pub(super) plan: PathBuf,
}

/// Formats of `plan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum PlanFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `version`.
#[derive(Debug, Args)]
pub(super) struct Version {
    /// Print the number only
    #[arg(long)]
    pub(super) short: bool,
    /// 'pretty' or 'json'
    #[arg(short, long, default_value = "pretty", value_name = "FORMAT")]
    pub(super) format: VersionFormat,
}

/// Formats of `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum VersionFormat {
    /// For people
    Pretty,
    /// For programs
    Json,
}

fn scale(text: &str) -> Result<(String, u32), String> {
    let (service, number) = text.split_once('=').ok_or("use SERVICE=NUM")?;
    let number = number
        .parse()
        .map_err(|_| format!("{number} is no number of containers"))?;
    Ok((service.to_owned(), number))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn file_and_follow_do_not_collide() {
        let typed = Arguments::try_parse_from(["rcompose", "-f", "a.yaml", "logs", "-f", "web"]).unwrap();
        assert_eq!(typed.global.file, [PathBuf::from("a.yaml")]);
        assert!(matches!(typed.command, Command::Logs(logs) if logs.follow));
    }

    #[test]
    fn options_of_an_executed_command_are_its_own() {
        let typed =
            Arguments::try_parse_from(["rcompose", "exec", "-it", "web", "ls", "-l", "--all"]).unwrap();
        let Command::Exec(exec) = typed.command else {
            panic!("not exec")
        };
        assert_eq!(exec.command, ["ls", "-l", "--all"]);
    }
}
