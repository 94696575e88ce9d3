//! What a container is, as kept on disk.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::HostError;
use super::given::Given;
use crate::lifecycle::health::HealthPolicy;
use crate::plan::{OneOff, Recorded};
use crate::project::{NetworkMode, Probe, Service, UtsMode};
use crate::store::{World, read_record};

/// Raised when the shape of [`ContainerRecord`] changes so that an older
/// rcompose could not read it.
pub(super) const VERSION: u32 = 1;

/// The durable record of one container. Written before anything of the
/// container exists in the kernel; its removal is the last step of removing
/// the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Version of this shape.
    pub version: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Container name.
    pub name: String,
    /// Project name.
    pub project: String,
    /// Replica number, from 1.
    pub number: u32,
    /// The service it was made from.
    pub config: Service,
    /// Image id.
    pub image: String,
    /// Program and arguments, the image's defaults taken in.
    pub command: Vec<String>,
    /// The signal that stops it, the image's taken in.
    pub stop_signal: Option<String>,
    /// Health check, the image's taken in.
    pub check: Option<Check>,
    /// Creation time, nanoseconds since the epoch.
    pub created: u64,
    /// Ids of the networks it is on, by network key.
    pub networks: BTreeMap<String, String>,
    /// Host names of the named volumes it mounts, by volume key.
    pub volumes: BTreeMap<String, String>,
    /// Host names of its anonymous volumes, by target path.
    pub anonymous: BTreeMap<String, String>,
    /// Ids of the images it mounts, by target path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// Configs and secrets that it is given.
    #[serde(default)]
    pub given: Vec<Given>,
    /// The content of the file that `seccomp=FILE` names, as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<String>,
    /// Labels: the user's and docker compose's.
    pub labels: BTreeMap<String, String>,
    /// A command stopped it: restart policies leave it alone.
    pub stopped: bool,
    /// None of the service's replicas: `run` made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_off: Option<OneOff>,
}

impl ContainerRecord {
    /// The key of its addresses in a network: the same for its replacement.
    pub(super) fn lease_key(&self) -> String {
        match &self.one_off {
            None => lease_key(&self.project, &self.config.name, self.number),
            Some(_) => format!(
                "{}{}-run-{}",
                lease_prefix(&self.project),
                self.config.name,
                self.short_id()
            ),
        }
    }

    /// The ids of all images that it needs: its own, and those it mounts.
    pub fn images_used(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.image).chain(self.images.values())
    }

    /// Whether it is removed when it has ended.
    pub fn is_fleeting(&self) -> bool {
        self.one_off.as_ref().is_some_and(|one_off| one_off.remove)
    }

    /// The first twelve digits of the id, as people see it.
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    /// The host name inside the container: on the host's network, or among its
    /// names, that is the host's, unless the service says another.
    pub(super) fn hostname(&self) -> Cow<'_, str> {
        let config = &self.config;
        let on_host = config.network_mode == NetworkMode::Host || config.uts == Some(UtsMode::Host);
        match &config.hostname {
            Some(name) => name.into(),
            None if on_host => {
                let machine = rustix::system::uname();
                machine.nodename().to_string_lossy().into_owned().into()
            }
            None => self.short_id().into(),
        }
    }
}

/// The key of a replica's addresses in a network.
pub(super) fn lease_key(project: &str, service: &str, number: u32) -> String {
    format!("{}{service}-{number}", lease_prefix(project))
}

/// What the key of every replica of a project begins with.
pub(super) fn lease_prefix(project: &str) -> String {
    format!("{project}/")
}

/// A health check with every default taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The probe: program and arguments.
    pub test: Vec<String>,
    /// The probe, when it is one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built_in: Option<Probe>,
    /// An unhealthy container is ended, for its restart policy to go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
    /// When it runs, and what its results mean.
    pub policy: HealthPolicy,
}

/// Every container record of a project, by name. A folder without a record is
/// a container that was being made or removed when a process was killed; it is
/// left to [`super::Machine::adopt`].
///
/// # Errors
/// [`HostError::Store`] when a record is there and cannot be read.
pub fn containers(world: &World, project: &str) -> Result<Vec<ContainerRecord>, HostError> {
    let mut records = records(world, project, |record: &ContainerRecord| record.version)?;
    records.sort_by(|a, b| (&a.config.name, a.number, a.created).cmp(&(&b.config.name, b.number, b.created)));
    Ok(records)
}

/// What a plan needs of a [`ContainerRecord`], whose definition stays the text that
/// it is: there are many, and what is read of each is most of what `up` does when
/// there is nothing to do.
#[derive(Debug, Deserialize)]
pub(super) struct Glance {
    version: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) config: Recorded,
    pub(super) image: String,
    pub(super) check: Option<IgnoredAny>,
    pub(super) created: u64,
    pub(super) networks: BTreeMap<String, String>,
    pub(super) volumes: BTreeMap<String, String>,
    pub(super) anonymous: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) given: Vec<GivenContent>,
    pub(super) stopped: bool,
    #[serde(default)]
    pub(super) one_off: Option<IgnoredAny>,
}

/// What a plan needs of a [`Given`].
#[derive(Debug, Deserialize)]
pub(super) struct GivenContent {
    pub(super) from: String,
    pub(super) digest: String,
}

/// [`containers`] as a plan needs them, in no particular order.
pub(super) fn glances(world: &World, project: &str) -> Result<Vec<Glance>, HostError> {
    records(world, project, |glance: &Glance| glance.version)
}

fn records<T: DeserializeOwned>(
    world: &World,
    project: &str,
    version: impl Fn(&T) -> u32,
) -> Result<Vec<T>, HostError> {
    let mut records = Vec::new();
    for id in folders(&world.stack(project).join("containers")) {
        let path = world.container(project, &id).record();
        if let Some(record) = read_record(&path)? {
            if version(&record) > VERSION {
                return Err(HostError::Newer { path });
            }
            records.push(record);
        }
    }
    Ok(records)
}

/// Names of the entries of a folder; none when it is not there.
pub(super) fn folders(folder: &std::path::Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![];
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
