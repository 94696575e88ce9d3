//! What is to be done, why, and after what.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::project::{Condition, Origin};

/// A DAG of actions, and why the rest is left alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The actions. [`Action::after`] holds indices into this list, each
    /// smaller than the action's own: the list is in topological order.
    pub actions: Vec<Action>,
    /// What is left alone, and why.
    pub holds: Vec<Hold>,
    /// Things the user should know that are not errors.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// What to do.
    pub operation: Operation,
    /// Why.
    pub cause: Cause,
    /// Indices of the actions that must have succeeded before, in ascending
    /// order. An [`Operation::Await`] with `required: false` counts as succeeded
    /// whatever happens: its failure, and that of what it comes after, is a
    /// warning. An [`Operation::Settle`] is begun whatever becomes of what it
    /// comes after.
    pub after: Vec<usize>,
}

/// What one action does. Every operation is safe to repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub enum Operation {
    /// Bring an image to this machine.
    PullImage {
        /// Reference as the project writes it.
        image: String,
        /// Fetch even when it is here (`pull_policy: always`).
        always: bool,
    },
    /// Make a network of the project.
    CreateNetwork {
        /// Key in the project.
        network: String,
        /// Name on the host.
        name: String,
    },
    /// Remove a network.
    RemoveNetwork {
        /// Id on the host.
        id: String,
        /// Name on the host.
        name: String,
    },
    /// Make a named volume of the project.
    CreateVolume {
        /// Key in the project.
        volume: String,
        /// Name on the host.
        name: String,
    },
    /// Remove a volume and all that is in it.
    RemoveVolume {
        /// Name on the host.
        name: String,
    },
    /// Make a container: its record, its addresses, its folders. No process.
    CreateContainer {
        /// Service key.
        service: String,
        /// Replica number, from 1.
        number: u32,
        /// Container name.
        name: String,
        /// Id of the container it replaces, whose anonymous volumes it takes over.
        inherit: Option<String>,
        /// It is none of the service's replicas: `run` asks for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        one_off: Option<OneOff>,
    },
    /// Change the record of a container in place: nothing inside it notices.
    UpdateContainer {
        /// Which.
        container: Target,
        /// The changed fields of the service.
        fields: Vec<String>,
    },
    /// Run the `pre_start` hooks of a service, each to its end in a container of
    /// its own.
    Prepare {
        /// Service key.
        service: String,
        /// Those that run for each replica, for this one; `None`: those that run
        /// once for the service.
        number: Option<u32>,
    },
    /// Start the process of a container.
    StartContainer {
        /// Which.
        container: Target,
    },
    /// Stop a container: its stop signal, then SIGKILL after the grace period.
    StopContainer {
        /// Which.
        container: Target,
        /// In place of the service's `stop_grace_period`.
        timeout: Option<Duration>,
        /// In place of its stop signal: name or number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
        /// The plan starts it again: the stop is not recorded as the user's
        /// wish ([`super::ContainerState::Exited`] `stopped` stays false), and
        /// its restart policy rests until the plan is done.
        again: bool,
    },
    /// Send a signal to process 1 of a container; one that ends it is the
    /// user's wish, as in [`Operation::StopContainer`].
    SignalContainer {
        /// Which.
        container: Target,
        /// Name or number.
        signal: String,
    },
    /// Freeze all processes of a container.
    PauseContainer {
        /// Which.
        container: Target,
    },
    /// Let the processes of a frozen container go on.
    UnpauseContainer {
        /// Which.
        container: Target,
    },
    /// Remove a stopped container with its writable layer.
    RemoveContainer {
        /// Which.
        container: Target,
        /// Its anonymous volumes too.
        volumes: bool,
        /// Another one of its service and number is made in its place, and is to
        /// have its anonymous volumes: also when this plan is cut off in between.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        replaced: bool,
    },
    /// Wait until a dependency holds. [`Condition::ServiceStarted`] is met by
    /// what the action comes after; see [`WAIT`] for its meaning to `up --wait`.
    Await {
        /// The service waited for.
        service: String,
        /// Its containers, of all of which the condition must hold; others (that
        /// are about to be removed, say) do not matter.
        containers: Vec<Target>,
        /// What must hold.
        condition: Condition,
        /// `false`: failure (also of what it comes after) is a warning, and
        /// who waits goes on.
        required: bool,
        /// Who waits: a service, or [`WAIT`].
        by: String,
    },
    /// Wait until containers that were just replaced are as `up --wait` wants
    /// them, watch them for a while, and pause (`deploy.update_config`). It is
    /// begun when all it comes after has ended, well or not: what could not be
    /// started counts as failed.
    Settle {
        /// The service that is updated.
        service: String,
        /// The containers that were replaced so far.
        containers: Vec<Target>,
        /// For how long they are watched.
        monitor: Duration,
        /// The pause after that.
        delay: Duration,
        /// How many of them may fail.
        tolerated: u32,
        /// `false`: more failures than that are a warning, and the update goes on.
        required: bool,
    },
}

/// A container beside the replicas of a service: `run` makes it, or a hook runs
/// in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OneOff {
    /// The id it gets: 64 hexadecimal digits that nobody else has.
    pub id: String,
    /// It is removed, with its anonymous volumes, when it has ended.
    pub remove: bool,
    /// It is found under the names of its service.
    pub aliases: bool,
    /// It runs a hook of its service, and is removed by who runs it.
    pub hook: bool,
}

/// Who waits when the user does: the `by` of each [`Operation::Await`] that
/// `up --wait` asks for. There [`Condition::ServiceStarted`] means that every
/// container of the service is healthy if it has a check (the image's
/// included), has run for a moment if it has none, or ended with status 0
/// under `restart: no`.
pub const WAIT: &str = "--wait";

/// A container that an action is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Id when it is known already; `None` when an earlier action of the plan
    /// makes the container and only then it has one.
    pub id: Option<String>,
    /// Service key.
    pub service: String,
    /// Replica number.
    pub number: u32,
    /// Container name.
    pub name: String,
}

/// Why an action is in the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Cause {
    /// It is in the project and not on the host.
    Missing,
    /// Fields of the definition changed.
    Changed {
        /// The changes, sorted by path.
        changes: Arc<[Change]>,
    },
    /// The image behind the reference is another one now.
    ImageChanged {
        /// Image id of the container.
        old: String,
        /// Image id now.
        new: String,
    },
    /// Something it uses is replaced.
    Replaced {
        /// What, as the plan prints it (`network front`).
        what: String,
    },
    /// It is there and not running.
    NotRunning,
    /// A command that was cut off has asked it to stop.
    Ending,
    /// Needed by another action, as the plan prints it.
    NeededBy {
        /// Who needs it.
        who: String,
    },
    /// The command asks for it.
    Requested,
    /// The project has no such service, network or volume any more, or fewer replicas.
    Surplus,
    /// Its kernel object is gone, or the other way round.
    Repair,
}

/// One changed field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Path inside the definition (`environment.PORT`).
    pub field: SmolStr,
    /// Old value as compact JSON; `None` when it was not there.
    pub old: Option<SmolStr>,
    /// New value as compact JSON; `None` when it is gone.
    pub new: Option<SmolStr>,
    /// Where the new value is written.
    pub origin: Option<Origin>,
}

/// A resource that is left alone, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// As the plan prints it: `container web-1`.
    pub resource: String,
    /// Why: `up to date`, `stopped by hand`.
    pub reason: String,
}
