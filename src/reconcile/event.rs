//! What a walk tells of itself, for people to read.

use serde::{Deserialize, Serialize};

use crate::plan::{Action, Operation};
use crate::project::Condition;

/// Something happened in a walk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An action changed its phase.
    Action {
        /// What it is about, as docker compose names it: `Container shop-web-1`.
        resource: String,
        /// The verb of this phase: `Creating`, `Created`, `Waiting`, `Healthy`.
        verb: String,
        /// The phase.
        phase: Phase,
    },
    /// Something to know that is not an error.
    Warning {
        /// One sentence.
        text: String,
    },
}

/// Where an action stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// In progress.
    Begun,
    /// Done.
    Done,
    /// Failed.
    Failed {
        /// Why.
        error: String,
    },
    /// Given up because the walk was cancelled.
    Cancelled,
}

impl Event {
    /// The event of an action that entered a phase.
    pub(super) fn of(action: &Action, phase: Phase) -> Self {
        let (resource, begun, done) = words(&action.operation);
        let verb = match &phase {
            Phase::Begun => begun,
            Phase::Done => done,
            Phase::Failed { .. } => "Error",
            Phase::Cancelled => "Cancelled",
        };
        Self::Action {
            resource,
            verb: verb.to_owned(),
            phase,
        }
    }
}

/// What an operation is about, as [`Event::Action`] names it.
pub fn resource(operation: &Operation) -> String {
    words(operation).0
}

/// Docker compose's words for an operation: resource, present, past.
fn words(operation: &Operation) -> (String, &'static str, &'static str) {
    match operation {
        Operation::PullImage { image, .. } => (format!("Image {image}"), "Pulling", "Pulled"),
        Operation::CreateNetwork { name, .. } => (format!("Network {name}"), "Creating", "Created"),
        Operation::RemoveNetwork { name, .. } => (format!("Network {name}"), "Removing", "Removed"),
        Operation::CreateVolume { name, .. } => (format!("Volume {name}"), "Creating", "Created"),
        Operation::RemoveVolume { name } => (format!("Volume {name}"), "Removing", "Removed"),
        Operation::CreateContainer {
            name, inherit: None, ..
        } => (format!("Container {name}"), "Creating", "Created"),
        Operation::CreateContainer {
            name,
            inherit: Some(_),
            ..
        } => (format!("Container {name}"), "Recreate", "Recreated"),
        Operation::UpdateContainer { container, .. } => (
            format!("Container {}", container.name),
            "Updating",
            "Updated in place",
        ),
        Operation::StartContainer { container } => {
            (format!("Container {}", container.name), "Starting", "Started")
        }
        Operation::StopContainer { container, .. } => {
            (format!("Container {}", container.name), "Stopping", "Stopped")
        }
        Operation::SignalContainer { container, .. } => {
            (format!("Container {}", container.name), "Killing", "Killed")
        }
        Operation::PauseContainer { container } => {
            (format!("Container {}", container.name), "Pausing", "Paused")
        }
        Operation::UnpauseContainer { container } => {
            (format!("Container {}", container.name), "Unpausing", "Unpaused")
        }
        Operation::RemoveContainer { container, .. } => {
            (format!("Container {}", container.name), "Removing", "Removed")
        }
        Operation::Prepare { service, .. } => (format!("Service {service}"), "Preparing", "Prepared"),
        Operation::Settle { service, .. } => (format!("Service {service}"), "Settling", "Settled"),
        Operation::Await {
            service, condition, ..
        } => (
            format!("Service {service}"),
            "Waiting",
            match condition {
                Condition::ServiceStarted => "Started",
                Condition::ServiceHealthy => "Healthy",
                Condition::ServiceCompletedSuccessfully => "Exited",
            },
        ),
    }
}
