//! Why there is no plan.

use crate::graph::GraphError;
use crate::project::Origin;

/// Why a command cannot be planned. Nothing has been touched then. The origin,
/// when there is one, is the place in the stack file to look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The dependencies, or the selection, are at fault.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// `pull_policy: never`, and the image is not on this machine.
    #[error("service {service:?}: image {image} is not on this machine and pull_policy is never")]
    ImageAbsent {
        /// The service.
        service: String,
        /// Its image.
        image: String,
        /// Where the image is written.
        origin: Option<Origin>,
    },
    /// More than one replica of a service with a fixed container name.
    #[error(
        "service {service:?} has container_name {name:?}, so it cannot have {replicas} replicas: \
         remove container_name to scale it"
    )]
    NameScaled {
        /// The service.
        service: String,
        /// The container name.
        name: String,
        /// How many replicas were asked for.
        replicas: u32,
        /// Where the container name is written.
        origin: Option<Origin>,
    },
    /// An external network is not there.
    #[error("network {name} declared as external, but could not be found")]
    ExternalNetworkMissing {
        /// Name on the host.
        name: String,
        /// Where the network is written.
        origin: Option<Origin>,
    },
    /// An external network has a record and no bridge.
    #[error("network {name} declared as external, but is down: bring up the project that owns it")]
    ExternalNetworkDown {
        /// Name on the host.
        name: String,
        /// Where the network is written.
        origin: Option<Origin>,
    },
    /// An external volume is not there.
    #[error("volume {name} declared as external, but could not be found")]
    ExternalVolumeMissing {
        /// Name on the host.
        name: String,
        /// Where the volume is written.
        origin: Option<Origin>,
    },
    /// A network of that name exists, and somebody else made it.
    #[error(
        "network {name} exists and belongs to {}: declare {network:?} as external, or give it another name",
        owner.as_ref().map_or_else(|| "no project".to_owned(), |owner| format!("project {owner:?}"))
    )]
    ForeignNetwork {
        /// Key in the project.
        network: String,
        /// Name on the host.
        name: String,
        /// The project that owns it.
        owner: Option<String>,
        /// Where the network is written.
        origin: Option<Origin>,
    },
    /// A network has to be made anew under the same name, and containers that
    /// the command does not touch are on it.
    #[error("network {name} has to be made anew, but these containers are on it and stay: {}", users.join(", "))]
    NetworkInUse {
        /// Name on the host.
        name: String,
        /// Names of the containers.
        users: Vec<String>,
    },
    /// `start` or `restart` of a container whose network was removed.
    #[error("container {container} is on network {network:?}, which is gone: `up` makes both anew")]
    NetworkGone {
        /// The container.
        container: String,
        /// Key of the network.
        network: String,
    },
    /// `start` of a service that was never brought up.
    #[error("service {service:?} has no container to start: `up` makes one")]
    NoContainer {
        /// The service.
        service: String,
    },
    /// A service shares the network of one that does not run.
    #[error("service {service:?} shares the network of service {provider:?}, which does not run")]
    NamespaceMissing {
        /// The service.
        service: String,
        /// Whose network it shares.
        provider: String,
        /// Where that is written.
        origin: Option<Origin>,
    },
    /// `up --no-recreate` is to wait for the health of a container that cannot
    /// be started as it is.
    #[error(
        "service {service:?} waits until {dependency:?} is healthy, whose container {container} cannot run: {reason}"
    )]
    DependencyLeft {
        /// Who waits.
        service: String,
        /// For whom.
        dependency: String,
        /// The container.
        container: String,
        /// Why it is left as it is.
        reason: String,
    },
    /// `run` with a name that another container has.
    #[error(
        "the container name {name} is taken by a container of service {service:?}: choose another --name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Whose container has it.
        service: String,
    },
    /// The planner contradicts itself: a fault of this program.
    #[error("plan {action}: it would have to come after itself; please report this")]
    Contradiction {
        /// One of the actions that wait for each other.
        action: String,
    },
}

impl PlanError {
    /// The places in the stack files that this is about.
    pub fn origins(&self) -> Vec<&Origin> {
        match self {
            Self::Graph(error) => error.origins(),
            Self::ImageAbsent { origin, .. }
            | Self::NameScaled { origin, .. }
            | Self::ExternalNetworkMissing { origin, .. }
            | Self::ExternalNetworkDown { origin, .. }
            | Self::ExternalVolumeMissing { origin, .. }
            | Self::ForeignNetwork { origin, .. }
            | Self::NamespaceMissing { origin, .. } => origin.iter().collect(),
            Self::NetworkInUse { .. }
            | Self::NetworkGone { .. }
            | Self::NoContainer { .. }
            | Self::DependencyLeft { .. }
            | Self::NameTaken { .. }
            | Self::Contradiction { .. } => Vec::new(),
        }
    }
}
