//! Stops, signals, freezes and removes containers.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::machine::{Live, Machine, News, blocking};
use super::record::ContainerRecord;
use super::view::state;
use super::{HostError, create, hook};
use crate::plan::{ContainerState, Target};
use crate::runtime::{self, RunningRecord, RuntimeError};
use crate::store::write_record;
use crate::sys::signal;
use crate::volume::Volumes;

/// Time between the first signal and SIGKILL when nobody says otherwise.
const GRACE: Duration = Duration::from_secs(10);

impl Machine {
    /// Leads what comes to the published ports of a container that is about to be
    /// stopped to the one that takes its place, if there is one: nobody waits.
    async fn hand_over(self: &Arc<Self>, record: &ContainerRecord) -> Result<(), HostError> {
        if record.config.ports.is_empty() || record.one_off.is_some() {
            return Ok(());
        }
        let siblings = self.holders().of_service(&self.project, &record.config.name);
        let running = siblings
            .into_iter()
            .filter(|id| *id != record.id && self.runs(id));
        for heir in running.filter_map(|id| self.record_by_id(&id)) {
            let takes = heir.config.name == record.config.name && heir.created > record.created;
            if takes
                && self
                    .traffic
                    .hand_over(&record.name, &heir.name, &heir.config.ports)
            {
                self.republish(&heir).await?;
                break;
            }
        }
        Ok(())
    }

    /// Ends the run of a container that is unhealthy, as a stop would; what
    /// follows is its restart policy's.
    pub async fn end_unhealthy(&self, id: &str) {
        let (Some(running), Ok(Some(record))) = (self.running(id), self.record(id)) else {
            return;
        };
        let Some((_, mut ended)) = self.live().get(id).map(Live::clone_of) else {
            return;
        };
        let grace = record.config.stop_grace_period.unwrap_or(GRACE);
        // It may have just ended.
        let _ = runtime::signal(&running, stop_signal(&record));
        if tokio::time::timeout(grace, ended.wait_for(|ended| *ended))
            .await
            .is_err()
        {
            let _ = blocking(move || Ok(runtime::kill_all(&running)?)).await;
        }
    }

    /// Stops a container and waits until it has ended. With `again` the plan
    /// starts it once more: nothing is noted of its being stopped but that its
    /// restart policy is to leave it alone until then.
    pub(super) async fn stop(
        self: &Arc<Self>,
        target: &Target,
        timeout: Option<Duration>,
        signal: Option<&str>,
        again: bool,
    ) -> Result<Vec<String>, HostError> {
        let wanted = match signal {
            Some(name) => Some(signal::number(name).ok_or_else(|| HostError::NoSignal {
                name: name.to_owned(),
            })?),
            None => None,
        };
        let Some(record) = self.record_of(target)? else {
            return Ok(vec![]);
        };
        let mut warnings = Vec::new();
        if !record.config.pre_stop.is_empty()
            && let Some(running) = self.running(&record.id)
        {
            // Frozen, it could run nothing.
            self.thaw(&record.id, &running).await?;
            // Whatever a hook comes to: the container is to stop.
            let (hooks, say) = (&record.config.pre_stop, self.teller(&record.name));
            if let Err(error) = hook::run(&running, &record.name, "pre_stop", hooks, say).await {
                warnings.push(error.to_string());
            }
        }
        if !again {
            self.hand_over(&record).await?;
        }
        let guard = self.lock(&record.id).await;
        let Some(mut record) = self.record(&record.id)? else {
            return Ok(warnings);
        };
        let path = self.world.container(&self.project, &record.id).record();
        if again {
            self.resting().insert(record.id.clone());
        } else if !record.stopped {
            record.stopped = true;
            write_record(&path, &record)?;
        }
        let found = self.live().get(&record.id).map(Live::clone_of);
        drop(guard);
        let Some((running, mut ended)) = found else {
            // Its restart may be due: it is not wanted any more.
            if let ContainerState::Exited { code, .. } =
                state(&self.world.container(&self.project, &record.id), record.stopped)?
            {
                self.hear(News::Exited {
                    id: record.id,
                    code,
                    stopped: true,
                });
            }
            return Ok(warnings);
        };
        let grace = timeout.or(record.config.stop_grace_period).unwrap_or(GRACE);
        if !grace.is_zero() {
            match runtime::signal(&running, wanted.unwrap_or_else(|| stop_signal(&record))) {
                // Just ended by itself.
                Err(RuntimeError::NotRunning(_)) => {}
                other => other?,
            }
            // Frozen, it would take no notice.
            self.thaw(&record.id, &running).await?;
            if tokio::time::timeout(grace, ended.wait_for(|ended| *ended))
                .await
                .is_ok()
            {
                return Ok(warnings);
            }
        }
        self.thaw(&record.id, &running).await?;
        blocking(move || Ok(runtime::kill_all(&running)?)).await?;
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(warnings)
    }

    /// Sends a signal to process 1. One that ends containers, by its nature or
    /// because it is this one's stop signal, is the user's wish to have it ended:
    /// its restart policy leaves it alone.
    pub(super) async fn signal(&self, target: &Target, name: &str) -> Result<Vec<String>, HostError> {
        let number = signal::number(name).ok_or_else(|| HostError::NoSignal {
            name: name.to_owned(),
        })?;
        let Some(record) = self.record_of(target)? else {
            return Ok(vec![]);
        };
        let _guard = self.lock(&record.id).await;
        let (Some(running), Some(mut record)) = (self.running(&record.id), self.record(&record.id)?) else {
            return Ok(vec![]);
        };
        if number == libc::SIGKILL || number == stop_signal(&record) {
            record.stopped = true;
            write_record(&self.world.container(&self.project, &record.id).record(), &record)?;
        }
        match runtime::signal(&running, number) {
            Err(RuntimeError::NotRunning(_)) => {}
            other => other?,
        }
        if number == libc::SIGKILL {
            // Nobody dies frozen in a version 1 hierarchy.
            self.thaw(&record.id, &running).await?;
        }
        Ok(vec![])
    }

    /// Freezes a container, or lets it go on. Its health is not asked for
    /// meanwhile.
    pub(super) async fn freeze(&self, target: &Target, frozen: bool) -> Result<Vec<String>, HostError> {
        let Some(record) = self.record_of(target)? else {
            return Ok(vec![]);
        };
        let _guard = self.lock(&record.id).await;
        let Some(running) = self.running(&record.id) else {
            return Err(HostError::NotRunning {
                name: record.name.clone(),
            });
        };
        if !frozen {
            self.thaw(&record.id, &running).await?;
            return Ok(vec![]);
        }
        self.paused.send_modify(|paused| {
            paused.insert(record.id.clone());
        });
        let cgroup = running.fixed.cgroup;
        let done = blocking(move || Ok(cgroup.freeze(true).map_err(RuntimeError::from)?)).await;
        if done.is_err() {
            self.goes_on(&record.id);
        }
        done.map(|()| vec![])
    }

    async fn thaw(&self, id: &str, running: &RunningRecord) -> Result<(), HostError> {
        let cgroup = running.fixed.cgroup.clone();
        blocking(move || {
            if cgroup.is_frozen() {
                cgroup.freeze(false).map_err(RuntimeError::from)?;
            }
            Ok(())
        })
        .await?;
        self.goes_on(id);
        Ok(())
    }

    /// Notes that a container is not frozen, or no more.
    pub(super) fn goes_on(&self, id: &str) {
        self.paused.send_if_modified(|paused| paused.remove(id));
    }

    /// Removes a container, killing it first if it still runs.
    pub(super) async fn remove(self: &Arc<Self>, target: &Target, volumes: bool) -> Result<(), HostError> {
        let Some(record) = self.record_of(target)? else {
            return Ok(());
        };
        let _guard = loop {
            let guard = self.lock(&record.id).await;
            if !self.live().contains_key(&record.id) {
                break guard;
            }
            // Its end is noted under the lock.
            drop(guard);
            self.stop(target, Some(Duration::ZERO), None, false).await?;
        };
        let (world, project) = (self.world.clone(), self.project.clone());
        let (id, key) = (record.id.clone(), record.lease_key());
        // Of several, the last one gives the addresses back.
        let heir = {
            let mut holders = self.holders();
            holders.remove(&key, &id);
            !holders.of(&key).is_empty()
        };
        let removed = blocking(move || {
            if !heir {
                create::release_leases(&world, &record)?;
            }
            create::discard(&world, &project, &record.id)?;
            if volumes {
                let store = Volumes::new(&world);
                for name in record.anonymous.values() {
                    store.remove(name)?;
                }
            }
            Ok(())
        })
        .await;
        if let Err(error) = removed {
            self.holders().insert(key, id);
            return Err(error);
        }
        self.locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        self.hear(News::Removed { id });
        Ok(())
    }

    /// Notes whose the anonymous volumes of a container are to be that is about to
    /// be replaced.
    pub(super) async fn hand_on_volumes(&self, target: &Target) -> Result<(), HostError> {
        let Some(record) = self.record_of(target)? else {
            return Ok(());
        };
        let world = self.world.clone();
        blocking(move || {
            let store = Volumes::new(&world);
            for name in record.anonymous.values() {
                store.await_successor(name, &record.config.name, record.number)?;
            }
            Ok(())
        })
        .await
    }
}

/// The number of the signal that stops a container: the service's, the
/// image's, or SIGTERM.
pub(super) fn stop_signal(record: &ContainerRecord) -> i32 {
    let named = record.stop_signal.as_deref();
    named.and_then(signal::number).unwrap_or(libc::SIGTERM)
}
