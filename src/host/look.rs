//! What there is beside the containers of one project, for commands that only
//! look: the projects of a world, its volumes, the records of runs.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::{ContainerRecord, folders, lease_key};
use super::stop::stop_signal;
use super::view::{View, views};
use super::{HostError, Machine};
use crate::lifecycle::restart::Tries;
use crate::plan::ContainerState;
use crate::runtime::{ExitRecord, RunningRecord};
use crate::store::{World, read_record, remove_record, write_record};
use crate::volume::{Volume, Volumes};

/// Names of the stacks of which anything is on this machine, sorted.
pub fn stacks(world: &World) -> Vec<String> {
    let mut names = folders(&world.stacks());
    names.sort();
    names
}

/// The names of the projects that have a container, sorted.
///
/// # Errors
/// [`HostError::Store`] when a record cannot be read.
pub fn projects(world: &World) -> Result<Vec<(String, Vec<View>)>, HostError> {
    let mut found = Vec::new();
    for name in stacks(world) {
        let views = views(world, &name)?;
        if !views.is_empty() {
            found.push((name, views));
        }
    }
    Ok(found)
}

/// The volumes of a project and where their content is, by name.
///
/// # Errors
/// [`HostError`] when a record cannot be read.
pub fn volumes(world: &World, project: &str) -> Result<Vec<(Volume, PathBuf)>, HostError> {
    let store = Volumes::new(world);
    let mut found = Vec::new();
    for volume in store.list()? {
        if volume.project == project {
            let place = store.data_dir(&volume.name)?;
            found.push((volume, place));
        }
    }
    found.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    Ok(found)
}

/// The present run of a container; `None` when it has never run, or its run
/// has been cleared up after.
///
/// # Errors
/// [`HostError::Store`] when the record cannot be read.
pub fn running(world: &World, record: &ContainerRecord) -> Result<Option<RunningRecord>, HostError> {
    let paths = world.container(&record.project, &record.id);
    Ok(read_record(&paths.running())?)
}

/// How the last run of a container ended; `None` before that.
///
/// # Errors
/// [`HostError::Store`] when the record cannot be read.
pub fn last_exit(world: &World, record: &ContainerRecord) -> Result<Option<ExitRecord>, HostError> {
    let paths = world.container(&record.project, &record.id);
    Ok(read_record(&paths.exit())?)
}

/// A restart to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// After so long.
    pub left: Duration,
    /// How often it was restarted before.
    pub tries: Tries,
}

/// A restart to come, as it is noted.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    /// When, since 1970.
    due: Duration,
    tries: Tries,
}

fn now() -> Duration {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// There while a container waits for its restart policy to start it again.
fn restarting_path(world: &World, project: &str, id: &str) -> PathBuf {
    world.container(project, id).run.join("restarting")
}

/// There while a container has been restarted since its last start by a command.
fn tries_path(world: &World, project: &str, id: &str) -> PathBuf {
    world.container(project, id).run.join("restarts.json")
}

/// Whether a container that has ended waits for its restart policy.
pub fn is_restarting(world: &World, view: &View) -> bool {
    let waits = matches!(view.state, ContainerState::Exited { stopped: false, .. });
    waits && restarting_path(world, &view.record.project, &view.record.id).exists()
}

impl Machine {
    /// Notes, where `ps` finds it and for the supervisor after this one, that a
    /// container waits for its restart policy, and for how long; or that it does
    /// not.
    pub fn note_restarting(&self, id: &str, waiting: Option<Waiting>) {
        let path = restarting_path(&self.world, &self.project, id);
        let noted = match waiting {
            Some(Waiting { left, tries }) => {
                let due = now().saturating_add(left);
                write_record(&path, &Noted { due, tries })
            }
            None => remove_record(&path),
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "that a container waits for its restart was not noted");
        }
    }

    /// Notes how often a container was restarted, for the supervisor after this one.
    pub fn note_tries(&self, id: &str, tries: Tries) {
        let path = tries_path(&self.world, &self.project, id);
        let noted = if tries == Tries::default() {
            remove_record(&path)
        } else {
            write_record(&path, &tries)
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "how often a container was restarted was not noted");
        }
    }

    /// For how long a container still waits for a restart, as the supervisor before
    /// this one noted it; `None` when it had not come to that.
    pub(super) fn waiting(&self, id: &str) -> Option<Waiting> {
        let path = restarting_path(&self.world, &self.project, id);
        let Noted { due, tries } = read_record(&path).ok()??;
        // A clock that was set back is no reason to wait for longer.
        let left = due.saturating_sub(now()).min(tries.pause());
        Some(Waiting { left, tries })
    }

    /// How often a container was restarted, as the supervisor before this one noted it.
    pub(super) fn tries(&self, id: &str) -> Option<Tries> {
        // What cannot be read has never been counted.
        Some(
            read_record(&tries_path(&self.world, &self.project, id))
                .ok()?
                .unwrap_or_default(),
        )
    }

    /// The record of a container; `None` when there is none, or it cannot be read.
    pub fn record_by_id(&self, id: &str) -> Option<ContainerRecord> {
        self.record(id).ok().flatten()
    }

    /// The record of the newest container of a service with this number.
    pub fn newest(&self, service: &str, number: u32) -> Option<ContainerRecord> {
        let holders = self.holders().of(&lease_key(&self.project, service, number));
        let records = holders.iter().filter_map(|id| self.record_by_id(id));
        records.max_by_key(|record| record.created)
    }

    /// How the last run of a container ended.
    pub fn exit_of(&self, record: &ContainerRecord) -> Option<ExitRecord> {
        last_exit(&self.world, record).ok().flatten()
    }

    /// The number of the signal that stops a container.
    pub fn stop_signal(&self, record: &ContainerRecord) -> i32 {
        stop_signal(record)
    }
}
