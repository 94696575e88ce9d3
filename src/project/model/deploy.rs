//! What `deploy` says.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DeviceRequest, nanoseconds};

/// What `deploy` says beyond replicas and limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Deploy {
    /// How many containers there are.
    pub mode: DeployMode,
    /// Labels of the service as a whole.
    pub labels: BTreeMap<String, String>,
    /// How changes are rolled out.
    pub update_config: Option<UpdateConfig>,
    /// How failed changes are rolled back.
    pub rollback_config: Option<UpdateConfig>,
    /// When containers are restarted; `Service::restart` holds the condition too.
    pub restart_policy: Option<RestartPolicy>,
    /// Where containers run.
    pub placement: Placement,
    /// What is set aside, beside memory.
    pub reservations: Reservations,
    /// How the service is found by name.
    pub endpoint_mode: Option<EndpointMode>,
}

/// How many containers a service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeployMode {
    /// So many as `replicas` says.
    #[default]
    Replicated,
    /// One a node.
    Global,
    /// So many, until each has ended well.
    ReplicatedJob,
    /// One a node, until each has ended well.
    GlobalJob,
}

/// How a service is found by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// One address for all containers.
    Vip,
    /// The addresses of all containers in turn.
    Dnsrr,
}

/// How a change reaches the containers of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    /// Containers at a time; 0 is all, `None` is one.
    pub parallelism: Option<u64>,
    /// Time between one group and the next.
    #[serde(with = "nanoseconds")]
    pub delay: Option<Duration>,
    /// What follows a failure; `None` is to pause.
    pub failure_action: Option<FailureAction>,
    /// Time for which a failure counts.
    #[serde(with = "nanoseconds")]
    pub monitor: Option<Duration>,
    /// Part of the containers that may fail, 0 to 1.
    pub max_failure_ratio: Option<f64>,
    /// Which comes first; `None` is stop first.
    pub order: Option<UpdateOrder>,
}

/// What follows a failed update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// Go on.
    Continue,
    /// Go back to what was.
    Rollback,
    /// Stop here.
    Pause,
}

/// Which comes first in an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The old container is stopped, then the new one started.
    StopFirst,
    /// The new container is started, then the old one stopped.
    StartFirst,
}

/// When containers are restarted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// After which ends.
    pub condition: RestartCondition,
    /// Time before a restart.
    #[serde(with = "nanoseconds")]
    pub delay: Option<Duration>,
    /// Restarts at most; `None` never gives up.
    pub max_attempts: Option<u32>,
    /// Time after which a restart counts as successful.
    #[serde(with = "nanoseconds")]
    pub window: Option<Duration>,
}

/// After which ends a container is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// None.
    None,
    /// With a status other than 0.
    OnFailure,
    /// Any.
    #[default]
    Any,
}

/// Where containers run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// Conditions on nodes (`node.role==manager`).
    pub constraints: Vec<String>,
    /// Labels of nodes that containers are spread over.
    pub preferences: Vec<String>,
    /// Containers on one node at most.
    pub max_replicas_per_node: Option<u64>,
}

/// What is set aside for each container, beside memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reservations {
    /// Processors, in thousandths of one.
    pub cpus_milli: Option<u64>,
    /// Devices.
    pub devices: Vec<DeviceRequest>,
    /// Resources that the user counts.
    pub generic_resources: Vec<GenericResource>,
}

/// A resource that the user counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenericResource {
    /// What is counted.
    pub kind: String,
    /// How many.
    pub value: i64,
}
