//! Changes of a container that need no new one.
//!
//! First what the kernel or somebody else may refuse, on the run that goes on:
//! limits, where output goes, networks, ports. Then the record, and last what
//! follows from it: names, `/etc/hosts`, addresses that are given back. So what is
//! refused is tried again by the next command; what a killed process leaves
//! between two steps, [`Machine::adopt`] brings back to the record.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::{Machine, News, blocking};
use super::record::ContainerRecord;
use super::view::state;
use super::{HostError, create, etc, given, logging, spec, start};
use crate::network::NetworkError;
use crate::network::record as networks;
use crate::plan::Target;
use crate::project::{NetworkMode, Project};
use crate::runtime::{self, Orders, RunningRecord, RuntimeError};
use crate::store::write_record;

/// Brings a container, which may be running, to its service as it is now.
///
/// # Errors
/// [`HostError`] when something is refused: its record says what it said.
pub(super) async fn container(
    machine: &Arc<Machine>,
    project: &Project,
    target: &Target,
) -> Result<Vec<String>, HostError> {
    let Some(found) = machine.record_of(target)? else {
        return Ok(vec![]);
    };
    let service = project
        .services
        .get(&target.service)
        .ok_or_else(|| HostError::NotInProject {
            what: format!("service {}", target.service),
        })?;
    let _guard = machine.lock(&found.id).await;
    let Some(old) = machine.record(&found.id)? else {
        return Ok(vec![]);
    };
    let image = machine.images.resolve(&service.image)?;
    let new = ContainerRecord {
        check: create::check(service, image.as_ref()),
        labels: create::labels(project, service, old.number, &old.image, old.one_off.as_ref()),
        given: given::of(project, service)?,
        networks: create::networks_of(&machine.world, project, service, &old.networks)?,
        config: service.clone(),
        ..old.clone()
    };
    let update = Update { machine, old, new };
    let warnings = match update.begin(project).await {
        Ok(warnings) => warnings,
        Err(error) => {
            update.take_back().await;
            return Err(error);
        }
    };
    update.finish().await?;
    Ok(warnings)
}

/// A container on its way from one record to another.
struct Update<'a> {
    machine: &'a Arc<Machine>,
    old: ContainerRecord,
    new: ContainerRecord,
}

impl Update<'_> {
    fn running(&self) -> Option<RunningRecord> {
        self.machine.running(&self.new.id)
    }

    fn moves(&self) -> bool {
        self.old.networks != self.new.networks || self.old.config.networks != self.new.config.networks
    }

    /// All that may be refused.
    async fn begin(&self, project: &Project) -> Result<Vec<String>, HostError> {
        let (before, after) = (&self.old.config, &self.new.config);
        let mut warnings = Vec::new();
        if self.old.networks != self.new.networks {
            // Addresses that others of the project ask for are not given to this one.
            let fixed = create::fixed_addresses(project.services.values());
            let (world, new) = (self.machine.world.clone(), self.new.clone());
            let joined: Vec<String> = self.joined().cloned().collect();
            blocking(move || {
                for key in joined {
                    create::lease(&world, &new, &key, fixed.clone())?;
                }
                Ok(())
            })
            .await?;
        }
        let Some(mut running) = self.running() else {
            return Ok(warnings);
        };
        if before.resources != after.resources || before.blkio_config != after.blkio_config {
            let resources = spec::limits(after)?.to_spec();
            let run = running.clone();
            let unmet = blocking(move || Ok(runtime::update(&run, &resources)?)).await?;
            warnings.extend(
                unmet
                    .iter()
                    .map(|warning| format!("container {}: {warning}", self.new.name)),
            );
        }
        if before.ulimits != after.ulimits || before.oom_score_adj != after.oom_score_adj {
            running = self.limit_processes(running).await?;
        }
        if before.logging != after.logging {
            warnings.extend(self.change_log(&running).await?);
        }
        if self.moves() && after.network_mode == NetworkMode::Networks {
            let (world, new, run) = (self.machine.world.clone(), self.new.clone(), running);
            blocking(move || start::connect_networks(&world, &new, &run)).await?;
        }
        if before.ports != after.ports {
            self.machine.traffic.change(&self.new.name, &after.ports)?;
        }
        Ok(warnings)
    }

    /// The keys of the networks that it was not on.
    fn joined(&self) -> impl Iterator<Item = &String> {
        let before = &self.old.networks;
        let joined = self.new.networks.iter();
        joined
            .filter(|(key, id)| before.get(*key) != Some(id))
            .map(|(key, _)| key)
    }

    async fn limit_processes(&self, mut running: RunningRecord) -> Result<RunningRecord, HostError> {
        let (before, after) = (&self.old.config, &self.new.config);
        let ulimits: Option<BTreeMap<String, (i64, i64)>> =
            (before.ulimits != after.ulimits).then(|| spec::ulimits(after));
        let score = after
            .oom_score_adj
            .filter(|score| before.oom_score_adj != Some(*score));
        let path = self
            .machine
            .world
            .container(&self.machine.project, &self.new.id)
            .running();
        let running = blocking(move || {
            if let Some(ulimits) = ulimits {
                runtime::limit_processes(&mut running, &ulimits)?;
            }
            if let Some(score) = score {
                runtime::adjust_oom_score(&mut running, score)?;
            }
            // What is executed in it later is limited alike.
            write_record(&path, &running)?;
            Ok(running)
        })
        .await?;
        self.machine.note_running(&self.new.id, running.clone());
        Ok(running)
    }

    /// Has the monitor write elsewhere, or otherwise; a warning when it is one of
    /// a version that cannot.
    async fn change_log(&self, running: &RunningRecord) -> Result<Option<String>, HostError> {
        let name = &self.new.name;
        if !running.fixed.takes_orders {
            return Ok(Some(format!(
                "container {name}: another log is kept from its next start on"
            )));
        }
        let missing = || HostError::NoImage {
            image: self.new.config.image.clone(),
        };
        let image = self.machine.images.get(&self.new.image)?.ok_or_else(missing)?;
        let (new, running) = (self.new.clone(), running.clone());
        let told = blocking(move || {
            let plan = logging::log_plan(&new, &image)?;
            match Orders::open(&running).and_then(|orders| orders.log(&plan)) {
                // It has just ended.
                Err(RuntimeError::NotRunning(_)) => Ok(()),
                other => other.map_err(|source| HostError::Container {
                    name: new.name.clone(),
                    source,
                }),
            }
        });
        told.await.map(|()| None)
    }

    /// Something was refused: the networks are as the record still says.
    async fn take_back(&self) {
        if !self.moves() {
            return;
        }
        let joined: Vec<String> = self
            .joined()
            .filter_map(|key| self.new.networks.get(key).cloned())
            .collect();
        let (world, old, running) = (self.machine.world.clone(), self.old.clone(), self.running());
        let done = blocking(move || {
            if let Some(running) = running {
                start::connect_networks(&world, &old, &running)?;
            }
            release(&world, &old, joined.iter())
        });
        if let Err(error) = done.await {
            tracing::error!(container = self.new.name, %error, "it may not be on its former networks");
        }
    }

    /// Writes the record, and brings everything else to it.
    async fn finish(&self) -> Result<(), HostError> {
        let Self { machine, old, new } = self;
        let (before, after) = (&old.config, &new.config);
        let paths = machine.world.container(&machine.project, &new.id);
        given::write(&paths, &new.given)?;
        write_record(&paths.record(), new)?;
        if let Some(running) = self.running() {
            let places = start::places(&machine.world, new)?;
            if self.moves() || before.links != after.links {
                machine.traffic.moved(old, new, &places);
            }
            let resolves = |service: &crate::project::Service| {
                (
                    service.dns.clone(),
                    service.dns_search.clone(),
                    service.dns_opt.clone(),
                )
            };
            if resolves(before) != resolves(after) {
                etc::write_resolver(&machine.world, new)?;
                machine.traffic.serve_names_anew(new, &running, &places)?;
            }
            if before.ports != after.ports || self.moves() {
                machine.republish(new).await?;
            }
            if before.extra_hosts != after.extra_hosts || self.moves() {
                let (world, new) = (machine.world.clone(), new.clone());
                blocking(move || etc::write_hosts(&world, &new)).await?;
            }
        }
        let left: Vec<String> = old
            .networks
            .values()
            .filter(|id| !new.networks.values().any(|other| other == *id))
            .cloned()
            .collect();
        if !left.is_empty() {
            let (world, new) = (machine.world.clone(), new.clone());
            blocking(move || release(&world, &new, left.iter())).await?;
        }
        if state(&paths, new.stopped)?.is_running() {
            // The keeper takes the new policy and check from here.
            let offset = start::log_end(&machine.world, new);
            machine.hear(News::Changed(start::started(&machine.world, new, true, offset)));
        }
        Ok(())
    }
}

/// Gives the addresses of a container on these networks back.
fn release<'a>(
    world: &crate::store::World,
    record: &ContainerRecord,
    ids: impl Iterator<Item = &'a String>,
) -> Result<(), HostError> {
    for id in ids {
        match networks::release(world, id, &record.lease_key()) {
            Err(NetworkError::Missing { .. }) => {}
            other => other?,
        }
    }
    Ok(())
}
