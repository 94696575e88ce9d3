//! Takes over what a former supervisor has left: containers that run, and whatever
//! it was in the middle of when it was killed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::machine::{Machine, News, Started, blocking};
use super::record::{ContainerRecord, containers, folders, lease_prefix};
use super::start::{self, PATIENCE, PAUSE, clear, log_end, places, started, take_in};
use super::view::{self, lock_path, ports_path};
use super::{HostError, create, spec};
use crate::monitor::Estate;
use crate::network::endpoint::Ends;
use crate::network::{bridge, record as networks};
use crate::plan::{ContainerState, Target};
use crate::runtime::{self, Liveness, Orders, Process, RunningRecord, RuntimeError};
use crate::store::{ContainerPaths, Lock, read_record, sweep_records, write_record};
use crate::volume::Volumes;

impl Machine {
    /// Takes over what runs already, and puts right what a killed process left:
    /// runs whose monitor is gone, folders without a record, addresses of
    /// containers that are no more, interfaces and firewall entries that nothing
    /// names, stops that have not come to their end. `killed`: the supervisor
    /// before this one was, and has not seen to restarts that were due.
    ///
    /// # Errors
    /// [`HostError`] when records cannot be read.
    pub async fn adopt(self: &Arc<Self>, killed: bool) -> Result<(), HostError> {
        let machine = self.clone();
        let ends = blocking(move || {
            let ends = Ends::look(&machine.world)?;
            machine.mend()?;
            Ok(ends)
        })
        .await?;
        for record in containers(&self.world, &self.project)? {
            self.holders().insert(record.lease_key(), record.id.clone());
            if let Err(error) = take_over(self, &record, killed).await {
                // The others are not to suffer.
                tracing::error!(container = record.name, %error, "could not be taken over");
            }
            let on: BTreeSet<&str> = record.networks.values().map(String::as_str).collect();
            if ends.networks(&record.lease_key()) != on
                && let Err(error) = self.reconnect(&record).await
            {
                tracing::error!(container = record.name, %error, "it is not on all of its networks");
            }
            if record.stopped && self.live().contains_key(&record.id) {
                self.stop_on(record);
            }
        }
        Ok(())
    }

    /// Brings a container that runs to its networks: whoever was changing them was
    /// killed meanwhile.
    async fn reconnect(&self, record: &ContainerRecord) -> Result<(), HostError> {
        let Some(running) = self.running(&record.id) else {
            return Ok(());
        };
        let (world, record) = (self.world.clone(), record.clone());
        blocking(move || start::connect_networks(&world, &record, &running)).await
    }

    /// Goes on with a stop whose supervisor was killed meanwhile.
    fn stop_on(self: &Arc<Self>, record: ContainerRecord) {
        let machine = self.clone();
        let task = tokio::spawn(async move {
            let target = Target {
                id: Some(record.id),
                service: record.config.name,
                number: record.number,
                name: record.name,
            };
            if let Err(error) = machine.stop(&target, None, None, false).await {
                tracing::error!(container = target.name, %error, "could not be stopped");
            }
        });
        self.stopping
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task);
    }

    /// Removes what has no record: what was being made or removed when a
    /// process was killed.
    fn mend(&self) -> Result<(), HostError> {
        let records = containers(&self.world, &self.project)?;
        let known: HashSet<&String> = records.iter().map(|record| &record.id).collect();
        let durable = folders(&self.world.stack(&self.project).join("containers"));
        let transient = folders(&self.world.stack_run(&self.project).join("containers"));
        for id in durable.iter().chain(&transient).filter(|id| !known.contains(id)) {
            create::discard(&self.world, &self.project, id)?;
        }
        let trash = self.world.stack(&self.project).join("trash");
        for id in folders(&trash) {
            create::remove_tree(&trash.join(id))?;
        }
        let _ = std::fs::remove_dir(&trash);
        sweep_records(&self.world.stack(&self.project));
        for id in &known {
            let paths = self.world.container(&self.project, id);
            sweep_records(&paths.state);
            sweep_records(&paths.run);
        }
        let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for record in &records {
            let on = keys.entry(record.lease_key()).or_default();
            on.extend(record.networks.values().cloned());
        }
        networks::release_all_but(&self.world, &lease_prefix(&self.project), &keys)?;
        bridge::sweep(&self.world)?;
        Volumes::new(&self.world).let_go_all()?;
        Ok(())
    }
}

/// Takes over a container from a former supervisor, as it is now. With
/// `killed`, that one had no chance to see to its restarts.
///
/// # Errors
/// [`HostError`] when its records cannot be read or the kernel refuses.
async fn take_over(machine: &Arc<Machine>, record: &ContainerRecord, killed: bool) -> Result<(), HostError> {
    let paths = machine.world.container(&machine.project, &record.id);
    let look = paths.clone();
    let Some((running, monitor)) = blocking(move || present_run(&look)).await? else {
        return settle_end(machine, record, &paths, killed).await;
    };
    let (link, monitor_end) = UnixStream::pair().map_err(HostError::io("make", Path::new("socket pair")))?;
    // Fails when the container ends just now, which is heard of below.
    let linked = runtime::link(&running, monitor_end.as_fd());
    let run = running.clone();
    // Or what it has taken over from one that was killed is kept for nobody.
    if let Err(error) = blocking(move || Ok(keep_recorded(&run)?)).await {
        tracing::debug!(container = record.name, %error, "its monitor was not asked");
    }
    if let Err(error) = reconnect(machine, record, &running).await {
        tracing::error!(container = record.name, %error, "its ports or names do not work until it is started again");
    }
    // So does this; then there is nothing to be had.
    let estate = Estate::of(&running).ok();
    take_in(
        machine,
        record,
        running,
        monitor,
        linked.is_ok().then_some(link),
        estate,
    );
    machine.leave_sockets(record).await;
    machine.hear(News::Started(Started {
        tries: machine.tries(&record.id),
        ..started(&machine.world, record, false, log_end(&machine.world, record))
    }));
    Ok(())
}

/// Has the monitor of a container let go of what no record says it keeps: whoever
/// was changing that was killed between two steps, and ports would stay taken.
fn keep_recorded(running: &RunningRecord) -> Result<(), RuntimeError> {
    if !running.fixed.takes_orders {
        return Ok(());
    }
    Orders::open(running)?.keep_only(running.fixed.kept.values().copied().collect())
}

/// Takes over ports and names of a container that runs.
async fn reconnect(
    machine: &Arc<Machine>,
    record: &ContainerRecord,
    running: &RunningRecord,
) -> Result<(), HostError> {
    let places = places(&machine.world, record)?;
    machine.traffic.adopt(record, running, &places)?;
    let published = machine.traffic.publish(record, &places).await?;
    let paths = machine.world.container(&machine.project, &record.id);
    Ok(write_record(&ports_path(&paths), &published)?)
}

/// Clears up after a container that does not run, and lets everybody know how
/// it ended, if it ever ran.
async fn settle_end(
    machine: &Arc<Machine>,
    record: &ContainerRecord,
    paths: &ContainerPaths,
    killed: bool,
) -> Result<(), HostError> {
    // A first start may have been killed half way.
    let ran = view::state(paths, record.stopped)? != ContainerState::Created || paths.log().exists();
    if !ran {
        let (cgroup, paths) = (spec::cgroup_of(&machine.world, record), paths.clone());
        return blocking(move || {
            Ok(runtime::cleanup(
                &cgroup,
                &paths.running(),
                &paths.exit(),
                &paths.root(),
            )?)
        })
        .await;
    }
    let exit = clear(machine, record, None).await?;
    let offset = log_end(&machine.world, record);
    machine.hear(News::Ended {
        container: Started {
            tries: machine.tries(&record.id),
            waiting: machine.waiting(&record.id),
            ..started(&machine.world, record, false, offset)
        },
        code: exit.code,
        stopped: record.stopped || !killed,
    });
    Ok(())
}

/// The run of a container whose supervisor was killed; `None` when there is
/// none. Blocks while one is about to begin.
fn present_run(paths: &ContainerPaths) -> Result<Option<(RunningRecord, Process)>, HostError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // In this order: a monitor writes the record while it holds the lock.
        let free = Lock::try_take(&lock_path(paths))?.is_some();
        if let Some(running) = read_record::<RunningRecord>(&paths.running())?
            && let Liveness::Running { monitor, .. } = runtime::probe(&running)?
        {
            return Ok(Some((running, monitor)));
        }
        if free || Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
}
