//! What a command asks for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::OneOff;
use crate::project::PullPolicy;

/// What a command asks for. An empty `services` is all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "intent", rename_all = "lowercase")]
pub enum Intent {
    /// Make and start what the project says (`up`; also live reload).
    Up(Up),
    /// Make and start a container beside those of a service (`run`), with what
    /// the service depends on.
    Run(Run),
    /// Stop and remove (`down`).
    Down(Down),
    /// Stop, keep (`stop`).
    Stop {
        /// Services to stop.
        services: Vec<String>,
        /// In place of each service's `stop_grace_period`.
        timeout: Option<Duration>,
    },
    /// Send a signal to what runs (`kill`).
    Kill {
        /// Services.
        services: Vec<String>,
        /// Name or number; `SIGKILL` unless said otherwise.
        signal: String,
        /// Containers of services that the project does not have, too.
        remove_orphans: bool,
    },
    /// Freeze what runs (`pause`).
    Pause {
        /// Services.
        services: Vec<String>,
    },
    /// Let go on what is frozen (`unpause`).
    Unpause {
        /// Services.
        services: Vec<String>,
    },
    /// Remove containers that do not run (`rm`).
    Remove {
        /// Services.
        services: Vec<String>,
        /// Stop those that run first.
        stop: bool,
        /// Their anonymous volumes too.
        volumes: bool,
    },
    /// Something of single containers, whatever their services are
    /// (`container stop` and so on).
    Containers {
        /// Their ids.
        ids: Vec<String>,
        /// What.
        verb: Verb,
    },
    /// Start what exists (`start`), with what it depends on.
    Start {
        /// Services to start.
        services: Vec<String>,
        /// Wait until they are running or healthy before saying done.
        #[serde(default)]
        wait: bool,
    },
    /// Start these containers again after a boot (`system resume`).
    Resume {
        /// Their ids.
        containers: Vec<String>,
        /// Those that depend on others wait for them as `start` has it.
        wait: bool,
    },
    /// Stop and start what exists (`restart`).
    Restart {
        /// Services to restart.
        services: Vec<String>,
        /// In place of each service's `stop_grace_period`.
        timeout: Option<Duration>,
        /// Leave dependents with `depends_on.restart` alone.
        no_deps: bool,
    },
}

impl Intent {
    /// Whether it ends all that runs of the stack.
    pub fn ends_all(&self) -> bool {
        match self {
            Self::Stop { services, .. } | Self::Kill { services, .. } | Self::Down(Down { services, .. }) => {
                services.is_empty()
            }
            _ => false,
        }
    }
}

/// What is asked of single containers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase")]
pub enum Verb {
    /// Start them, without what they depend on.
    Start,
    /// Stop them.
    Stop {
        /// In place of each service's `stop_grace_period`.
        timeout: Option<Duration>,
        /// In place of their stop signal: name or number.
        signal: Option<String>,
    },
    /// Stop and start them; those that do not run are started.
    Restart {
        /// In place of each service's `stop_grace_period`.
        timeout: Option<Duration>,
        /// In place of their stop signal: name or number.
        signal: Option<String>,
    },
    /// Send a signal to those that run.
    Kill {
        /// Name or number.
        signal: String,
    },
    /// Freeze those that run.
    Pause,
    /// Let those that are frozen go on.
    Unpause,
    /// Remove those that do not run.
    Remove {
        /// Kill those that do, and remove them too.
        force: bool,
        /// Their anonymous volumes too.
        volumes: bool,
    },
}

/// The options of `up`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Up {
    /// Services asked for, with what they depend on.
    pub services: Vec<String>,
    /// Without what they depend on.
    pub no_deps: bool,
    /// Make, do not start.
    pub no_start: bool,
    /// Replace containers that have not changed.
    pub force_recreate: bool,
    /// Replace no container.
    pub no_recreate: bool,
    /// Replace the dependencies of `services`, changed or not (`force_recreate`
    /// alone replaces only `services`).
    pub always_recreate_deps: bool,
    /// Fresh anonymous volumes instead of the replaced container's.
    pub renew_anon_volumes: bool,
    /// Remove containers of services that the project does not have.
    pub remove_orphans: bool,
    /// Replica counts in place of the project's.
    pub scale: BTreeMap<String, u32>,
    /// In place of each service's `stop_grace_period`.
    pub timeout: Option<Duration>,
    /// Wait until services are running or healthy before saying done (`--wait`).
    pub wait: bool,
    /// A reload of the stack file while the stack runs: what the user stopped
    /// stays stopped, networks and volumes that are no longer used go. `services`
    /// and `scale` are what was asked for once: what the file does not have any more
    /// is passed over, and what else was made of it is followed, too.
    pub reload: bool,
    /// Ids of containers that a reload which was cut off has asked to stop: they end
    /// by and by, and nobody but that has wanted it.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub ending: Box<[String]>,
    /// The images with `pull_policy: always` were fetched by this command
    /// already. A plan cannot know what a fetch brings: after a plan with
    /// [`super::Operation::PullImage`] `always`, the command observes and plans
    /// again with this set, and replaces what has a newer image now.
    pub pulled: bool,
    /// In place of each service's `pull_policy` (`--pull`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<PullPolicy>,
}

/// The options of `run`. What the container's definition has in place of the
/// service's is in the project already.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The service.
    pub service: String,
    /// Name of the container.
    pub name: String,
    /// The container.
    pub one_off: OneOff,
    /// For what the service depends on; its `services` do not count.
    pub up: Up,
}

/// The options of `down`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Down {
    /// Only these services (their containers; networks stay when still used).
    pub services: Vec<String>,
    /// Named and anonymous volumes too.
    pub volumes: bool,
    /// Containers of services that the project does not have.
    pub remove_orphans: bool,
    /// In place of each service's `stop_grace_period`.
    pub timeout: Option<Duration>,
}
