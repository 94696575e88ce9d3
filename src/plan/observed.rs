//! What is there now: one snapshot, taken by the host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Recorded;
use crate::lifecycle::Health;
use crate::project::Service;

/// One snapshot of everything of one stack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Every container of the project, running or not, in no particular order.
    pub containers: Vec<ObservedContainer>,
    /// Networks of the project, and external ones that the project names.
    pub networks: Vec<ObservedNetwork>,
    /// Volumes of the project (anonymous ones too), and external ones that it names.
    pub volumes: Vec<ObservedVolume>,
    /// For each image reference of the project that is on this machine: its image id.
    pub images: BTreeMap<String, String>,
    /// Of these, the ones that are older than the `pull_policy` of a service of
    /// the project allows (`refresh`, `daily`, `weekly`, `every_…`), by when their
    /// registry was last asked.
    #[serde(default)]
    pub stale: std::collections::BTreeSet<String>,
    /// This machine raises no limit of a process that runs: whoever manages
    /// containers may not (`CAP_SYS_RESOURCE`).
    #[serde(default)]
    pub limits_only_fall: bool,
    /// Digests of the configs and secrets that services use, as they are now,
    /// by their place in the project (`secrets.password`). What cannot be read
    /// is left out.
    #[serde(default)]
    pub contents: BTreeMap<String, String>,
    /// Which `pre_start` hooks have succeeded: by service (`db`), and by replica
    /// (`db/2`) for those that run for each, what [`prepared`] said of them then.
    #[serde(default)]
    pub prepared: BTreeMap<String, String>,
}

/// The key in [`Observed::prepared`].
pub fn preparation(service: &str, number: Option<u32>) -> String {
    match number {
        None => service.to_owned(),
        Some(number) => format!("{service}/{number}"),
    }
}

/// Tells apart the `pre_start` hooks of a service: those that run for each
/// replica, or those that run once. `None` when there are none.
/// `images` are the ids of the images that are there.
pub fn prepared(service: &Service, per_replica: bool, images: &BTreeMap<String, String>) -> Option<String> {
    let hooks: Vec<_> = service
        .pre_start
        .iter()
        .filter(|hook| hook.per_replica == per_replica)
        .map(|hook| {
            let image = hook.image.as_ref().unwrap_or(&service.image);
            (image, images.get(image), hook)
        })
        .collect();
    if hooks.is_empty() {
        return None;
    }
    serde_json::to_string(&hooks).ok()
}

/// A container that exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObservedContainer {
    /// 64 hexadecimal digits.
    pub id: String,
    /// `<project>-<service>-<number>`, or the service's `container_name`.
    pub name: String,
    /// Service key.
    pub service: String,
    /// Replica number, from 1.
    pub number: u32,
    /// The service as it was when the container was made
    /// ([`crate::project::Service`] as JSON).
    pub config: Recorded,
    /// Image id it was made from.
    pub image: String,
    /// What it is doing.
    pub state: ContainerState,
    /// Health, when it has a check.
    pub health: Option<Health>,
    /// Ids of the networks it is on, by network key.
    pub networks: BTreeMap<String, String>,
    /// Host names of the named volumes it mounts, by volume key.
    pub volumes: BTreeMap<String, String>,
    /// Digests of the configs and secrets that it was last given, as in
    /// [`Observed::contents`].
    #[serde(default)]
    pub contents: BTreeMap<String, String>,
    /// Creation time, nanoseconds since the epoch: orders duplicates.
    pub created: u64,
    /// None of the service's replicas: `run` made it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_off: bool,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Its process 1 is alive.
    Running {
        /// Nanoseconds since the epoch.
        started: u64,
        /// Its processes are frozen.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        paused: bool,
    },
    /// Ended.
    Exited {
        /// Exit status; 128 + n after signal n.
        code: i32,
        /// Nanoseconds since the epoch.
        finished: u64,
        /// Ended because a command stopped it: restart policies leave it alone.
        stopped: bool,
    },
}

impl ContainerState {
    /// Whether it runs and is frozen.
    pub fn is_paused(&self) -> bool {
        matches!(self, Self::Running { paused: true, .. })
    }

    /// Whether process 1 is alive.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// A network that exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObservedNetwork {
    /// Id, 12 hexadecimal digits.
    pub id: String,
    /// Name on the host.
    pub name: String,
    /// The project that owns it and its key there; `None` for a foreign one.
    pub owner: Option<Owner>,
    /// The definition it was made from ([`crate::project::Network`] as JSON).
    pub config: Recorded,
    /// The record is there and so is the kernel's bridge.
    pub alive: bool,
}

/// A volume that exists.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObservedVolume {
    /// Name on the host.
    pub name: String,
    /// The project that owns it and its key there; `None` for a foreign one.
    pub owner: Option<Owner>,
    /// An anonymous one.
    pub anonymous: bool,
    /// For an anonymous one, the id of the container that has it (that had it,
    /// when there is no such container any more).
    #[serde(default)]
    pub container: Option<String>,
    /// What is mounted for it ([`crate::project::Volume::driver_opts`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// For an anonymous one of a container that was removed to be replaced, and
    /// was not: the service and number of the one that is to have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaits: Option<(String, u32)>,
}

/// Who made a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Project name.
    pub project: String,
    /// Key in the project; empty for an anonymous volume.
    pub key: String,
}
