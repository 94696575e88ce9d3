//! What can be typed about images and their registries.
//! Names, short forms and defaults are those of docker and docker compose.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `pull`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(in crate::cli) struct Pull {
    /// Services whose images are pulled [default: all]
    pub(in crate::cli) services: Vec<String>,
    /// Leave out images that can be built
    #[arg(long)]
    pub(in crate::cli) ignore_buildable: bool,
    /// Pull what can be pulled, and leave the rest
    #[arg(long)]
    pub(in crate::cli) ignore_pull_failures: bool,
    /// The images of the services that these depend on too
    #[arg(long)]
    pub(in crate::cli) include_deps: bool,
    /// Pull images that are here too, or only those that are missing
    #[arg(long, value_name = "POLICY")]
    pub(in crate::cli) policy: Option<Policy>,
    /// No progress
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    /// Accepted for scripts: images are always pulled side by side
    #[arg(long, hide = true)]
    pub(in crate::cli) parallel: bool,
    /// One image after the other
    #[arg(long, hide = true)]
    pub(in crate::cli) no_parallel: bool,
}

/// `pull --policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Policy {
    /// Only those that are missing
    Missing,
    /// All
    Always,
}

/// `push`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    /// Services whose images are pushed [default: all]
    pub(in crate::cli) services: Vec<String>,
    /// Push what can be pushed, and leave the rest
    #[arg(long)]
    pub(in crate::cli) ignore_push_failures: bool,
    /// The images of the services that these depend on too
    #[arg(long)]
    pub(in crate::cli) include_deps: bool,
    /// No progress
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
}

/// `images`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Images {
    /// Services [default: all]
    pub(in crate::cli) services: Vec<String>,
    /// 'table', 'json', or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(in crate::cli) format: String,
    /// Print ids only
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
}

/// `commit`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Commit {
    /// Service
    pub(in crate::cli) service: String,
    /// Name of the new image
    pub(in crate::cli) reference: Option<String>,
    /// Number of the container
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub(in crate::cli) index: u32,
    #[command(flatten)]
    pub(in crate::cli) authored: Authored,
}

/// What `commit` says of the new image.
#[derive(Debug, Args)]
pub(in crate::cli) struct Authored {
    /// Freeze the container meanwhile
    #[arg(short, long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    pub(in crate::cli) pause: bool,
    /// Who made it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) author: String,
    /// Instruction of a Dockerfile that changes its configuration; repeat it for several
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(in crate::cli) change: Vec<String>,
    /// Why it was made
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) message: String,
}

/// `export`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// Service
    pub(in crate::cli) service: String,
    /// Number of the container
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub(in crate::cli) index: u32,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
}

/// `login`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Login {
    /// Registry [default: docker.io]
    pub(in crate::cli) registry: Option<String>,
    /// User name
    #[arg(short, long)]
    pub(in crate::cli) username: Option<String>,
    /// Password or token; others can see it while the command runs
    #[arg(short, long, conflicts_with = "password_stdin")]
    pub(in crate::cli) password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub(in crate::cli) password_stdin: bool,
}

/// `logout`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Logout {
    /// Registry [default: docker.io]
    pub(in crate::cli) registry: Option<String>,
}

/// `image …`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Image {
    /// List images
    #[command(alias = "list")]
    Ls(ImageLs),
    /// Bring an image here
    Pull(ImagePull),
    /// Send an image to its registry
    Push(ImagePush),
    /// Give an image one more name
    Tag {
        /// Image
        source: String,
        /// New names
        #[arg(required = true)]
        targets: Vec<String>,
    },
    /// Remove images
    #[command(alias = "remove")]
    Rm(ImageRm),
    /// Print all that is known of images
    Inspect(InspectImages),
    /// Print how an image came to be
    History(History),
    /// Write images to an archive
    Save(Save),
    /// Bring the images of an archive here
    Load(Load),
    /// Make an image of an archive of a root file system
    Import(Import),
    /// Remove images that nobody uses
    Prune(Prune),
}

/// `image ls`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(in crate::cli) struct ImageLs {
    /// Only this repository, or image
    pub(in crate::cli) repository: Option<String>,
    /// Accepted for scripts: there are no intermediate images
    #[arg(short, long, hide = true)]
    pub(in crate::cli) all: bool,
    /// Show digests
    #[arg(long)]
    pub(in crate::cli) digests: bool,
    /// dangling=BOOL, reference=PATTERN, label=NAME[=VALUE], before=IMAGE, since=IMAGE, until=DURATION|TIME; repeat it for several
    #[arg(short, long, value_name = "FILTER")]
    pub(in crate::cli) filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(in crate::cli) format: String,
    /// Do not shorten
    #[arg(long)]
    pub(in crate::cli) no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    /// Refused: one image per name is kept
    #[arg(long, hide = true)]
    pub(in crate::cli) tree: bool,
}

/// `image pull`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImagePull {
    /// Images
    #[arg(required = true)]
    pub(in crate::cli) names: Vec<String>,
    /// Every tag of the repository
    #[arg(short, long)]
    pub(in crate::cli) all_tags: bool,
    /// Accepted for scripts: signatures are not checked
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(in crate::cli) disable_content_trust: Option<bool>,
    /// Platform, when the image is for several: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
    /// No progress
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
}

/// `image push`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImagePush {
    /// Images
    #[arg(required = true)]
    pub(in crate::cli) names: Vec<String>,
    /// Every tag of the repository
    #[arg(short, long)]
    pub(in crate::cli) all_tags: bool,
    /// No progress
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    /// Platform that the image is to be for: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
    /// Accepted for scripts: images are not signed
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(in crate::cli) disable_content_trust: Option<bool>,
}

/// `image rm`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ImageRm {
    /// Images
    #[arg(required = true)]
    pub(in crate::cli) names: Vec<String>,
    /// Though stopped containers use it, or it has several names
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
    /// Accepted for scripts: there are no untagged parents
    #[arg(long, hide = true)]
    pub(in crate::cli) no_prune: bool,
}

/// `inspect` of anything.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inspect {
    /// Which
    #[arg(required = true)]
    pub(in crate::cli) names: Vec<String>,
    /// 'json', or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub(in crate::cli) format: Option<String>,
}

/// `container inspect`.
#[derive(Debug, Args)]
pub(in crate::cli) struct InspectContainers {
    #[command(flatten)]
    pub(in crate::cli) which: Inspect,
    /// What it has written too
    #[arg(short, long)]
    pub(in crate::cli) size: bool,
}

/// `image inspect`.
#[derive(Debug, Args)]
pub(in crate::cli) struct InspectImages {
    #[command(flatten)]
    pub(in crate::cli) which: Inspect,
    /// Platform that the image is to be for: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
}

/// `image history`.
#[derive(Debug, Args)]
pub(in crate::cli) struct History {
    /// Image
    pub(in crate::cli) name: String,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    pub(in crate::cli) format: String,
    /// Sizes and times for people
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(in crate::cli) human: bool,
    /// Do not shorten
    #[arg(long)]
    pub(in crate::cli) no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    /// Platform that the image is to be for: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
}

/// `image save`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Save {
    /// Images
    #[arg(required = true)]
    pub(in crate::cli) names: Vec<String>,
    /// File to write [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) output: Option<PathBuf>,
    /// Platform that the images are to be for: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
}

/// `image load`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Load {
    /// Archive, or folder of an OCI layout [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) input: Option<PathBuf>,
    /// Platform, when an image is for several: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
    /// No progress
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
}

/// `image import`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
    /// Archive; '-' is standard input
    pub(in crate::cli) file: PathBuf,
    /// Name of the new image
    pub(in crate::cli) reference: Option<String>,
    /// Instruction of a Dockerfile that changes its configuration; repeat it for several
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub(in crate::cli) change: Vec<String>,
    /// Why it was made
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub(in crate::cli) message: String,
    /// Platform that it is for: os/architecture[/variant]
    #[arg(long, value_name = "PLATFORM")]
    pub(in crate::cli) platform: Option<String>,
}

/// `image prune`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Prune {
    /// Every image that no container is made from, not only those without a name
    #[arg(short, long)]
    pub(in crate::cli) all: bool,
    /// until=DURATION|TIME, label=NAME[=VALUE], label!=NAME[=VALUE]; repeat it for several
    #[arg(long, value_name = "FILTER")]
    pub(in crate::cli) filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub(in crate::cli) force: bool,
}
