//! What is there now, read from records and checked against the kernel. Needs
//! no supervisor and changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::health;
use super::record::{ContainerRecord, Glance, containers, glances};
use super::{HostError, given, prepare};
use crate::graph::mounted_images;
use crate::image::{ImageError, ImageStore};
use crate::lifecycle::Health;
use crate::network;
use crate::plan::{
    self, ContainerState, Observed, ObservedContainer, ObservedNetwork, ObservedVolume, Owner, Recorded,
};
use crate::project::{Project, Protocol, PullPolicy};
use crate::runtime::{self, ExitRecord, RunningRecord};
use crate::store::{ContainerPaths, StoreError, World, read_record};
use crate::volume::Volumes;

/// Status of a container whose monitor was killed: as after SIGKILL.
pub(super) const LOST: i32 = 137;

/// A container as people ask about it.
#[derive(Clone, Debug)]
pub struct View {
    /// What it is.
    pub record: ContainerRecord,
    /// What it is doing.
    pub state: ContainerState,
    /// The last verdict, while it runs and has a check.
    pub health: Option<Health>,
    /// Where its ports are published, while it runs.
    pub ports: Vec<Published>,
    /// What it printed.
    pub log: PathBuf,
}

/// A port that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The host address listened on; `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// The port on the host.
    pub published: u16,
    /// The port in the container.
    pub target: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl fmt::Display for Published {
    /// As `docker ps` prints it: `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host_ip,
            published,
            target,
            protocol,
        } = self;
        match host_ip {
            None => {
                write!(f, "0.0.0.0:{published}->{target}/{protocol}, ")?;
                write!(f, "[::]:{published}->{target}/{protocol}")
            }
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:{published}->{target}/{protocol}"),
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{published}->{target}/{protocol}"),
        }
    }
}

/// Every container of a project, in the order of services and numbers.
///
/// # Errors
/// [`HostError::Store`] when a record cannot be read.
pub fn views(world: &World, project: &str) -> Result<Vec<View>, HostError> {
    containers(world, project)?
        .into_iter()
        .map(|record| {
            let paths = world.container(project, &record.id);
            let state = state(&paths, record.stopped)?;
            let health = health::verdict(&paths, &state, record.check.is_some())?;
            let ports = if state.is_running() {
                read_record(&ports_path(&paths))?.unwrap_or_default()
            } else {
                vec![]
            };
            Ok(View {
                state,
                health,
                ports,
                log: paths.log(),
                record,
            })
        })
        .collect()
}

/// [`views`] without the containers that `run` made.
///
/// # Errors
/// [`HostError::Store`] when a record cannot be read.
pub fn replicas(world: &World, project: &str) -> Result<Vec<View>, HostError> {
    let mut views = views(world, project)?;
    views.retain(|view| view.record.one_off.is_none());
    Ok(views)
}

/// What a container is doing: the kernel's word where it has one. `stopped`: it
/// was asked to stop.
pub(super) fn state(paths: &ContainerPaths, stopped: bool) -> Result<ContainerState, HostError> {
    let running: Option<RunningRecord> = read_record(&paths.running())?;
    if let Some(running) = &running
        && runtime::is_running(running)?
    {
        return Ok(ContainerState::Running {
            paused: running.fixed.cgroup.is_frozen(),
            started: running.started_at,
        });
    }
    let mut exit: Option<ExitRecord> = read_record(&paths.exit())?;
    if running.is_none() && exit.is_none() {
        // It is being started again, or that was killed half way.
        exit = read_record(&runtime::earlier(&paths.exit()))?;
    }
    Ok(match (running, exit) {
        (Some(running), Some(exit)) if exit.finished_at >= running.started_at => ContainerState::Exited {
            code: exit.code,
            finished: exit.finished_at,
            stopped,
        },
        // Its monitor was killed before it could say how the run ended.
        (Some(running), _) => ContainerState::Exited {
            code: LOST,
            finished: running.started_at,
            stopped,
        },
        (None, Some(exit)) => ContainerState::Exited {
            code: exit.code,
            finished: exit.finished_at,
            stopped,
        },
        (None, None) => ContainerState::Created,
    })
}

/// Held by the monitor of the present run, from before it writes the running
/// record until it has ended.
pub(super) fn lock_path(paths: &ContainerPaths) -> PathBuf {
    paths.run.join("run.lock")
}

pub(super) fn ports_path(paths: &ContainerPaths) -> PathBuf {
    paths.run.join("ports.json")
}

/// One snapshot of everything of a project.
///
/// # Errors
/// [`HostError`] when records cannot be read.
pub fn observe(world: &World, project: &Project) -> Result<Observed, HostError> {
    observe_with(world, project, &HashMap::new())
}

/// [`observe`], by who knows already of some containers that they run.
pub(super) fn observe_with(
    world: &World,
    project: &Project,
    running: &HashMap<String, ContainerState>,
) -> Result<Observed, HostError> {
    let glances = glances(world, &project.name)?;
    let users: BTreeMap<String, String> = glances
        .iter()
        .flat_map(|glance| {
            let volumes = glance.anonymous.values();
            volumes.map(|volume| (volume.clone(), glance.id.clone()))
        })
        .collect();
    let mut containers = Vec::with_capacity(glances.len());
    for glance in glances {
        let known = running.get(&glance.id).cloned();
        containers.push(observed(world, &project.name, glance, known)?);
    }
    // Of the same things the same plan is made, in the same words.
    containers.sort_by(|a, b| (&a.service, a.number, a.created).cmp(&(&b.service, b.number, b.created)));
    let named: Vec<&str> = project
        .networks
        .values()
        .map(|network| network.name.as_str())
        .collect();
    let mut networks = Vec::new();
    let records = network::record::list(world)?;
    let alive = network::bridge::alive(&records)?;
    for (record, alive) in records.into_iter().zip(alive) {
        let ours = record.project.as_deref() == Some(project.name.as_str());
        if ours || named.contains(&record.name.as_str()) {
            networks.push(ObservedNetwork {
                alive,
                owner: record.project.map(|project| Owner {
                    project,
                    key: record.key,
                }),
                id: record.id,
                name: record.name,
                config: Recorded::of(&record.config),
            });
        }
    }
    let named: Vec<&str> = project
        .volumes
        .values()
        .map(|volume| volume.name.as_str())
        .collect();
    let mut volumes = Vec::new();
    for record in Volumes::new(world).list()? {
        let ours = record.project == project.name;
        if ours || named.contains(&record.name.as_str()) {
            volumes.push(ObservedVolume {
                awaits: record.holder.as_ref().and_then(|holder| holder.awaits.clone()),
                container: users
                    .get(&record.name)
                    .cloned()
                    .or(record.holder.map(|holder| holder.container)),
                owner: Some(Owner {
                    project: record.project,
                    key: record.key,
                }),
                name: record.name,
                anonymous: record.anonymous,
                options: record.options,
            });
        }
    }
    let store = ImageStore::open(world.images());
    let mut images = BTreeMap::new();
    let mut stale = BTreeSet::new();
    let further = project.services.values().flat_map(|service| {
        let hooks = service.pre_start.iter().filter_map(|hook| hook.image.as_deref());
        hooks.chain(mounted_images(service))
    });
    for image in further {
        if let Ok(Some(found)) = store.resolve(image) {
            images.insert(image.to_owned(), found.id);
        }
    }
    for service in project.services.values() {
        if let PullPolicy::Refresh { after } = service.pull_policy
            && let Some(asked) = store.last_asked(&service.image)?
        {
            // A clock that was set back is no reason to wait for its time to come again.
            let age = std::time::SystemTime::now().duration_since(asked);
            if age.map_or(true, |age| age >= after.unwrap_or_default()) {
                stale.insert(service.image.clone());
            }
        }
        if images.contains_key(&service.image) {
            continue;
        }
        match store.resolve(&service.image) {
            Ok(Some(image)) => {
                images.insert(service.image.clone(), image.id);
            }
            // Who needs it will be told; `down` does not.
            Ok(None) | Err(ImageError::Place { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Observed {
        containers,
        networks,
        volumes,
        images,
        stale,
        contents: given::digests(project),
        limits_only_fall: !runtime::raises_limits(),
        prepared: prepare::noted(world, &project.name)?,
    })
}

/// What a plan knows of a container. `known`: what it is known to be doing.
fn observed(
    world: &World,
    project: &str,
    glance: Glance,
    known: Option<ContainerState>,
) -> Result<ObservedContainer, HostError> {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let paths = world.container(project, &glance.id);
    let Named { name: service } = glance.config.read().map_err(|source| StoreError::Malformed {
        path: paths.record(),
        source,
    })?;
    let state = match known {
        Some(state) => state,
        None => state(&paths, glance.stopped)?,
    };
    Ok(ObservedContainer {
        service,
        health: health::verdict(&paths, &state, glance.check.is_some())?,
        state,
        config: glance.config,
        id: glance.id,
        name: glance.name,
        number: glance.number,
        image: glance.image,
        networks: glance.networks,
        volumes: glance.volumes,
        contents: glance
            .given
            .into_iter()
            .map(|given| (given.from, given.digest))
            .collect(),
        created: glance.created,
        one_off: glance.one_off.is_some(),
    })
}

/// A project as the records have it: for a command that has a project's name
/// and no stack file.
///
/// # Errors
/// [`HostError`] when records cannot be read.
pub fn recall(world: &World, name: &str) -> Result<Project, HostError> {
    let nothing = Project {
        name: name.to_owned(),
        ..Project::default()
    };
    Ok(plan::recall(name, &observe(world, &nothing)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::write_record;

    #[test]
    fn what_is_being_started_again_has_ended_and_not_just_been_made() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ContainerPaths {
            state: folder.path().join("state"),
            run: folder.path().join("run"),
        };
        std::fs::create_dir(&paths.state).unwrap();
        assert_eq!(state(&paths, false).unwrap(), ContainerState::Created);
        let exit = ExitRecord {
            code: 3,
            signal: None,
            oom_killed: false,
            started_at: 1,
            finished_at: 2,
            error: None,
        };
        write_record(&runtime::earlier(&paths.exit()), &exit).unwrap();
        let ended = ContainerState::Exited {
            code: 3,
            finished: 2,
            stopped: false,
        };
        assert_eq!(state(&paths, false).unwrap(), ended);
    }
}
