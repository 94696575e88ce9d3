//! What can go wrong when the host is observed or changed.

use std::path::{Path, PathBuf};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The walk was cancelled while this waited.
    #[error("cancelled")]
    Cancelled,
    /// An action came to no end of its own.
    #[error("interrupted: {reason}")]
    Interrupted {
        /// What stopped it.
        reason: String,
    },
    /// A container of another stack has a volume that was to be removed.
    #[error("volume {name} is still used by container {user}")]
    VolumeInUse {
        /// The volume.
        name: String,
        /// The container.
        user: String,
    },
    /// A dependency's condition will not hold.
    #[error("{reason}")]
    Dependency {
        /// In docker compose's words: `dependency failed to start: container x is unhealthy`.
        reason: String,
    },
    /// No signal has that name.
    #[error("no signal is called {name:?}")]
    NoSignal {
        /// The name.
        name: String,
    },
    /// A container does not run, which is needed for what is asked.
    #[error("container {name} is not running")]
    NotRunning {
        /// Its name.
        name: String,
    },
    /// A container that an action is about is not there.
    #[error("no such container: {name}")]
    NoContainer {
        /// Its name.
        name: String,
    },
    /// Something that the project names is not in the project.
    #[error("{what} is not in the project")]
    NotInProject {
        /// What: `service web`.
        what: String,
    },
    /// Something that the project asks for and this host cannot do. What is
    /// known not to work is refused earlier (`project::unsupported`).
    #[error("{what} is not supported")]
    Unsupported {
        /// What: `network mode container:x`.
        what: String,
    },
    /// The planner refused.
    #[error("{reason}")]
    Plan {
        /// Why.
        reason: String,
    },
    /// Something is in the way of what is to be done; nothing was touched.
    #[error("{}", problems.join("\n"))]
    Preflight {
        /// What, one sentence each.
        problems: Vec<String>,
    },
    /// A published port is taken by another container of the stack.
    #[error("port {} is already published by container {container}", shown(.port))]
    PortTaken {
        /// The port.
        port: crate::project::Port,
        /// Who has it.
        container: String,
    },
    /// A port cannot be published.
    #[error(transparent)]
    Port(#[from] crate::network::ports::PortError),
    /// A network of that name is there already.
    #[error("network {name} exists already")]
    NetworkExists {
        /// Its name.
        name: String,
    },
    /// An image that should be here is not.
    #[error("image {image} is not on this machine")]
    NoImage {
        /// Its reference.
        image: String,
    },
    /// A hook failed.
    #[error("container {container}: {kind} hook `{command}`: {reason}")]
    Hook {
        /// Container name.
        container: String,
        /// `post_start`, `pre_stop` or `sync+exec`.
        kind: &'static str,
        /// What was run.
        command: String,
        /// Why, with the end of what it printed.
        reason: String,
    },
    /// A config or secret that a container is to be given cannot be had.
    #[error("{what}: {reason}")]
    NotGiven {
        /// What: `secrets.password`.
        what: String,
        /// Why.
        reason: String,
    },
    /// A network that should be here is not.
    #[error("network {name} is not there")]
    NoNetwork {
        /// Its name on the host.
        name: String,
    },
    /// A record was written by a newer rcompose.
    #[error("{} was written by a newer rcompose", path.display())]
    Newer {
        /// The record.
        path: PathBuf,
    },
    /// A device cannot be given to a container.
    #[error("device {device}: {reason}")]
    Device {
        /// Which.
        device: String,
        /// Why not.
        reason: String,
    },
    /// A file or folder could not be changed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A record could not be read or written.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// An image could not be had or read.
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    /// A network could not be changed.
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    /// A volume could not be changed.
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    /// A container could not be started, stopped or asked.
    #[error("container {name}: {source}")]
    Container {
        /// Container name.
        name: String,
        /// Why.
        source: crate::runtime::RuntimeError,
    },
    /// The remains of a container could not be removed.
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
}

/// A port as the stack file has it.
fn shown(port: &crate::project::Port) -> String {
    let ip = port.host_ip.map_or(String::new(), |ip| format!("{ip}:"));
    match port.published {
        Some((first, last)) if first == last => format!("{ip}{first}"),
        Some((first, last)) => format!("{ip}{first}-{last}"),
        None => format!("{ip}0"),
    }
}

impl HostError {
    /// For `map_err`: a failed operation on a file.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }

    /// The exit status that a container has that could not be started: 127, 126
    /// or 128, as docker counts.
    pub(super) fn exit_code(&self) -> i32 {
        match self {
            Self::Container { source, .. } | Self::Runtime(source) => source.kind().exit_code(),
            _ => 128,
        }
    }
}
