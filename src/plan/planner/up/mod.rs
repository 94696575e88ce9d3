//! `up`, and reload of the stack file: what is to become of each container.

mod dependencies;
mod in_place;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::in_place::Holder;
use super::network::{Fate as NetworkFate, Networks};
use super::replicas::{remove_duplicates, remove_surplus};
use super::rollout::start_first;
use super::schedule::{Options, Schedule};
use super::volume::Volumes;
use super::{ByName, Fate, Names, Slot, by_service, container_name, is_orphan, orphan_warning};
use crate::graph::{Graph, attached, mounted};
use crate::plan::{
    Cause, Change, ContainerState, Observed, ObservedContainer, ObservedNetwork, Plan, PlanError, Run, Up,
    diff,
};
use crate::project::{Project, Service};

/// Decides about containers, in dependency order.
struct Decider<'a> {
    project: &'a Project,
    graph: &'a Graph,
    observed: &'a Observed,
    up: &'a Up,
    /// A container to make beside those of its service.
    run: Option<&'a Run>,
    /// Services that are brought up.
    selected: Names,
    /// Services whose containers are replaced even when nothing changed.
    forced: Names,
    networks: Networks<'a>,
    /// Ids of the networks that go.
    gone: BTreeSet<&'a str>,
    volumes: Volumes<'a>,
    slots: Vec<Slot<'a>>,
    /// Where the slots of a service are in `slots`.
    ranges: ByName<'a, std::ops::Range<usize>>,
    warnings: Vec<String>,
    /// Containers that were removed to be replaced and were not: their ids, by
    /// service and number.
    awaited: BTreeMap<&'a str, BTreeMap<u32, &'a str>>,
    /// Made when it is first asked for.
    holders: OnceCell<HashMap<u16, Vec<Holder<'a>>>>,
}

pub(super) fn plan(
    project: &Project,
    graph: &Graph,
    observed: &Observed,
    up: &Up,
) -> Result<Plan, PlanError> {
    for service in up.scale.keys().filter(|_| !up.reload) {
        graph.select(std::slice::from_ref(service))?;
    }
    let named = if up.reload && !up.services.is_empty() {
        followed(project, observed, up)
    } else {
        graph.select(&up.services)?
    };
    let selected = if up.no_deps || named.is_empty() {
        named.clone()
    } else {
        graph.closure(&named.iter().cloned().collect::<Vec<_>>())?
    };
    let required = graph.reach(named.clone(), |link| link.required);
    let flagged = up.force_recreate || up.always_recreate_deps;
    let forced: Names = selected
        .iter()
        .filter(|_| flagged)
        .filter(|service| {
            if named.contains(*service) {
                up.force_recreate
            } else {
                up.always_recreate_deps
            }
        })
        .cloned()
        .collect();
    let chosen = Chosen {
        selected: selected.into_iter().collect(),
        required: required.into_iter().collect(),
        forced,
    };
    decide(project, graph, observed, up, None, chosen)
}

/// What a reload of some services is about: those that the stack file still has,
/// and whatever else of it was made.
fn followed(project: &Project, observed: &Observed, up: &Up) -> BTreeSet<String> {
    let made = observed.containers.iter().filter(|container| !container.one_off);
    let made = made.map(|container| &container.service);
    let there = |service: &&String| project.services.contains_key(*service);
    made.chain(&up.services).filter(there).cloned().collect()
}

/// `run`: what the service depends on as `up` has it, and one container beside
/// those of the service.
pub(super) fn run(
    project: &Project,
    graph: &Graph,
    observed: &Observed,
    run: &Run,
) -> Result<Plan, PlanError> {
    let service = std::slice::from_ref(&run.service);
    graph.select(service)?;
    if let Some(holder) = observed.containers.iter().find(|other| other.name == run.name) {
        return Err(PlanError::NameTaken {
            name: run.name.clone(),
            service: holder.service.clone(),
        });
    }
    let mut selected = BTreeSet::new();
    if !run.up.no_deps {
        selected = graph.closure(service)?;
        selected.remove(&run.service);
    }
    let required = graph.reach(BTreeSet::from([run.service.clone()]), |link| link.required);
    let chosen = Chosen {
        selected: selected.into_iter().collect(),
        required: required.into_iter().collect(),
        forced: Names::default(),
    };
    decide(project, graph, observed, &run.up, Some(run), chosen)
}

/// What a command is about.
struct Chosen {
    /// Services that are brought up.
    selected: Names,
    /// Those without which it has failed.
    required: Names,
    /// Services whose containers are replaced even when nothing changed.
    forced: Names,
}

fn decide<'a>(
    project: &'a Project,
    graph: &'a Graph,
    observed: &'a Observed,
    up: &'a Up,
    run: Option<&'a Run>,
    chosen: Chosen,
) -> Result<Plan, PlanError> {
    let Chosen {
        selected,
        required,
        forced,
    } = chosen;
    let mut decider = Decider {
        project,
        graph,
        observed,
        up,
        run,
        selected,
        forced,
        networks: Networks::new(project, observed),
        gone: BTreeSet::new(),
        volumes: Volumes::new(project, observed),
        slots: Vec::new(),
        ranges: ByName::default(),
        warnings: Vec::new(),
        awaited: BTreeMap::new(),
        holders: OnceCell::new(),
    };
    for volume in &observed.volumes {
        if let (Some((service, number)), Some(id)) = (&volume.awaits, &volume.container) {
            let of_service = decider.awaited.entry(service).or_default();
            of_service.insert(*number, id);
        }
    }
    decider.decide_networks()?;
    decider.decide_containers()?;
    let mut schedule = Schedule::new(
        project,
        graph,
        observed,
        Options {
            selected: decider.selected,
            required,
            up: Some(up),
            timeout: up.timeout,
            signal: None,
            starts_after: |_| true,
            wait: up.wait && !up.no_start,
            follow_restart: !up.no_deps,
        },
        decider.slots,
        decider.networks,
        decider.volumes,
    );
    schedule.warnings = decider.warnings;
    schedule.finish()
}

impl<'a> Decider<'a> {
    fn removes_orphans(&self) -> bool {
        self.up.remove_orphans || self.up.reload
    }

    /// Whether a container is made beside those of the service.
    fn runs(&self, service: &str) -> bool {
        self.run.is_some_and(|run| run.service == service)
    }

    fn replicas(&self, service: &Service) -> u32 {
        self.up
            .scale
            .get(&service.name)
            .copied()
            .unwrap_or(service.replicas)
    }

    fn decide_networks(&mut self) -> Result<(), PlanError> {
        let project = self.project;
        let mut wanted: BTreeSet<&'a str> = BTreeSet::new();
        for (name, service) in &project.services {
            if self.selected.contains(name) && self.replicas(service) > 0 || self.runs(name) {
                wanted.extend(attached(service));
            }
        }
        let stays = self.staying();
        for key in wanted {
            let fate = self.networks.decide(key)?;
            if let NetworkFate::Replace(network, _) = fate {
                self.require_free(network, &stays)?;
            }
            let (NetworkFate::Keep(network) | NetworkFate::Repair(network)) = fate else {
                continue;
            };
            let Some(definition) = project.networks.get(key).filter(|network| !network.external) else {
                continue;
            };
            let changes = diff::network_changes(project, key, definition, &network.config);
            if changes.is_empty() {
                continue;
            }
            if self.up.no_recreate {
                self.warnings.push(format!(
                    "network {} has changed and is kept as it is because of --no-recreate",
                    network.name
                ));
            } else if let Some(users) = stays.get(network.id.as_str()) {
                self.warnings.push(format!(
                    "network {} has changed and is kept as it is because containers that this command does not \
                     touch are on it: {}",
                    network.name,
                    users.join(", ")
                ));
            } else {
                self.networks.replace(
                    key,
                    network,
                    Cause::Changed {
                        changes: changes.into(),
                    },
                );
            }
        }
        self.gone = self
            .networks
            .duplicates
            .iter()
            .map(|network| network.id.as_str())
            .collect();
        for fate in self.networks.fates().values() {
            if let NetworkFate::Replace(network, _) = fate {
                self.gone.insert(&network.id);
            }
        }
        Ok(())
    }

    /// A network that has to go must not have containers that stay.
    fn require_free(
        &self,
        network: &ObservedNetwork,
        stays: &BTreeMap<&'a str, Vec<&'a str>>,
    ) -> Result<(), PlanError> {
        let mut users: Vec<String> = stays
            .get(network.id.as_str())
            .into_iter()
            .flatten()
            .map(|name| (*name).to_owned())
            .collect();
        if self.up.no_recreate {
            let on_it =
                |container: &&ObservedContainer| container.networks.values().any(|id| *id == network.id);
            users.extend(
                self.observed
                    .containers
                    .iter()
                    .filter(on_it)
                    .map(|container| container.name.clone()),
            );
        }
        if users.is_empty() {
            return Ok(());
        }
        users.sort_unstable();
        users.dedup();
        Err(PlanError::NetworkInUse {
            name: network.name.clone(),
            users,
        })
    }

    /// Names of the containers that cannot be replaced, because the project
    /// has no definition of them, by the id of each network they are on.
    fn staying(&self) -> BTreeMap<&'a str, Vec<&'a str>> {
        let mut stays: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for container in &self.observed.containers {
            let goes = self.removes_orphans() && is_orphan(self.project, &container.service);
            let replaced = self.project.services.contains_key(&container.service) && !container.one_off;
            if replaced || goes {
                continue;
            }
            for id in container.networks.values() {
                stays.entry(id).or_default().push(&container.name);
            }
        }
        for names in stays.values_mut() {
            names.sort_unstable();
        }
        stays
    }

    fn decide_containers(&mut self) -> Result<(), PlanError> {
        let mut existing = by_service(self.observed);
        for name in self.graph.order() {
            let Some((name, service)) = self.project.services.get_key_value(name.as_str()) else {
                continue;
            };
            let containers = existing.remove(name.as_str()).unwrap_or_default();
            let mut slots = if self.selected.contains(name) {
                self.bring_up(service, containers)?
            } else {
                let affected = |old: &'a ObservedContainer| match self.replaced(old) {
                    Some(cause) => Slot::keep(old, "").with(Fate::Recreate, cause),
                    None => Slot::keep(old, "not asked for"),
                };
                containers.into_iter().map(affected).collect()
            };
            slots.extend(
                self.run
                    .filter(|run| run.service == *name)
                    .map(|run| Slot::one_off(service, run)),
            );
            self.follow_dependencies(name, &mut slots)?;
            if slots.iter().any(Slot::makes) {
                remove_duplicates(&mut slots);
            }
            if !self.up.no_start {
                start_first(
                    self.project,
                    self.observed,
                    service,
                    &mut slots,
                    &mut self.warnings,
                );
            }
            let from = self.slots.len();
            if self.up.no_start {
                for slot in &mut slots {
                    slot.start = false;
                    if slot.fate == Fate::Restart {
                        slot.fate = Fate::Keep;
                        slot.hold = "not restarted because of --no-start".into();
                    }
                }
            }
            self.slots.append(&mut slots);
            self.ranges.insert(name, from..self.slots.len());
        }
        self.leftovers(existing);
        Ok(())
    }

    /// Containers of services that the project does not have.
    fn leftovers(&mut self, existing: BTreeMap<&'a str, Vec<&'a ObservedContainer>>) {
        let mut orphans = Vec::new();
        for (service, containers) in existing {
            for old in containers {
                let slot = if let Some(profiles) = self.project.disabled_services.get(service) {
                    Slot::keep(
                        old,
                        format!("its service is disabled, by profiles [{}]", profiles.join(" ")),
                    )
                } else if self.removes_orphans() {
                    Slot::keep(old, "").with(Fate::Remove, Cause::Surplus)
                } else {
                    orphans.push(old.name.as_str());
                    Slot::keep(old, "its service is not in the project")
                };
                self.slots.push(slot);
            }
        }
        if !orphans.is_empty() {
            self.warnings.push(orphan_warning(&orphans));
        }
        for old in self.observed.containers.iter().filter(|old| old.one_off) {
            let mut slot = Slot::keep(old, "made by `run`");
            // It counts for no service.
            slot.service = &old.name;
            if self.up.remove_orphans && !old.state.is_running() {
                slot.decide(Fate::Remove, Cause::Surplus);
            }
            self.slots.push(slot);
        }
    }

    /// The containers of a service that is asked for.
    fn bring_up(
        &mut self,
        service: &'a Service,
        containers: Vec<&'a ObservedContainer>,
    ) -> Result<Vec<Slot<'a>>, PlanError> {
        let replicas = self.replicas(service);
        if let Some(name) = service.container_name.as_ref().filter(|_| replicas > 1) {
            return Err(PlanError::NameScaled {
                service: service.name.clone(),
                name: name.clone(),
                replicas,
                origin: self
                    .project
                    .origin(&format!("services.{}.container_name", service.name))
                    .cloned(),
            });
        }
        let highest = containers.last().map_or(0, |container| container.number);
        let mut slots: Vec<Slot<'a>> = containers
            .into_iter()
            .map(|container| self.judge(service, container))
            .collect();
        remove_duplicates(&mut slots);
        remove_surplus(&mut slots, replicas);
        let there = slots.iter().filter(|slot| slot.survives()).count();
        let missing = replicas.saturating_sub(u32::try_from(there).unwrap_or(u32::MAX));
        // Those first that a plan which was cut off has removed to replace them.
        let mut awaited = self.awaited.remove(service.name.as_str()).unwrap_or_default();
        awaited.retain(|number, _| !slots.iter().any(|slot| slot.number == *number));
        let highest = awaited.keys().copied().max().unwrap_or(0).max(highest);
        let fresh = (1..).map(|more| (highest.saturating_add(more), None));
        let numbers = awaited
            .into_iter()
            .map(|(number, id)| (number, Some(id)))
            .chain(fresh);
        for (number, inherits) in numbers.take(usize::try_from(missing).unwrap_or(usize::MAX)) {
            slots.push(Slot {
                service: &service.name,
                number,
                name: container_name(self.project, service, number),
                old: None,
                fate: Fate::Create,
                cause: Cause::Missing,
                start: true,
                update: None,
                hold: String::new(),
                inherits,
                one_off: None,
                successor: None,
            });
        }
        Ok(slots)
    }

    /// One existing container of a service that is asked for, on its own.
    fn judge(&mut self, service: &'a Service, old: &'a ObservedContainer) -> Slot<'a> {
        let changes = diff::service_changes(self.project, service, &old.config);
        let movable = self.movable(service, old, &changes);
        let needs_new = |change: &&Change| !diff::in_place(change, movable);
        let (mut in_place, new) = if changes.iter().any(|change| needs_new(&change)) {
            (
                Vec::new(),
                Some(Cause::Changed {
                    changes: changes.into(),
                }),
            )
        } else {
            (changes, None)
        };
        let image = self.observed.images.get(&service.image);
        let mut slot = Slot::keep(old, "up to date");
        let changed = new.is_some();
        let recreate = new.or_else(|| {
            image
                .filter(|id| **id != old.image)
                .map(|new| Cause::ImageChanged {
                    old: old.image.clone(),
                    new: new.clone(),
                })
        });
        let recreate = recreate.or_else(|| self.replaced(old));
        let recreate = recreate.or_else(|| self.forced.contains(&service.name).then_some(Cause::Requested));
        if let Some(cause) = recreate {
            if !self.up.no_recreate {
                slot.name = container_name(self.project, service, old.number);
                return slot.with(Fate::Recreate, cause);
            }
            let gone = matches!(cause, Cause::Replaced { .. });
            slot.hold = match &cause {
                Cause::Changed { changes } => {
                    let fields = changes.iter().filter(needs_new);
                    let fields: Vec<_> = fields.map(|change| change.field.as_str()).collect();
                    format!("changed ({}), kept because of --no-recreate", fields.join(", "))
                }
                Cause::ImageChanged { .. } => "its image changed, kept because of --no-recreate".into(),
                Cause::Replaced { what } => {
                    self.warnings.push(format!(
                        "container {} needs to be replaced because its {what} was: run this command without \
                         --no-recreate",
                        old.name
                    ));
                    format!("its {what} was replaced, kept because of --no-recreate")
                }
                _ => "kept because of --no-recreate".into(),
            };
            if gone {
                return slot;
            }
        }
        in_place.extend(self.content_changes(old));
        if !in_place.is_empty() && !changed {
            let fields = in_place.iter().map(|change| change.field.to_string()).collect();
            slot.update = Some((
                fields,
                Cause::Changed {
                    changes: in_place.into(),
                },
            ));
        }
        self.run(&mut slot, old);
        slot
    }

    /// Configs and secrets whose content is another one now.
    fn content_changes(&self, old: &ObservedContainer) -> Vec<Change> {
        let now = |from: &String| self.observed.contents.get(from);
        old.contents
            .iter()
            .filter_map(|(from, digest)| {
                let new = now(from).filter(|new| *new != digest)?;
                Some(Change {
                    field: from.as_str().into(),
                    old: Some(diff::content(digest)),
                    new: Some(diff::content(new)),
                    origin: self.project.origin(from).cloned(),
                })
            })
            .collect()
    }

    /// Whether an up-to-date container is started, restarted or left alone.
    fn run(&self, slot: &mut Slot<'a>, old: &ObservedContainer) {
        let ending = !self.up.no_start && self.up.ending.contains(&old.id);
        match &old.state {
            ContainerState::Running { .. } if ending => slot.decide(Fate::Restart, Cause::Ending),
            ContainerState::Running { .. } => {
                let down = old.networks.iter().find(|(key, id)| {
                    matches!(self.networks.fates().get(key.as_str()), Some(NetworkFate::Repair(network))
                        if network.id == **id)
                });
                if let Some((key, _)) = down {
                    slot.decide(
                        Fate::Restart,
                        Cause::Replaced {
                            what: format!("network {key}"),
                        },
                    );
                }
            }
            ContainerState::Exited { code, stopped, .. } if self.up.reload && !ending => {
                slot.hold = if *stopped {
                    "stopped by hand".into()
                } else {
                    format!("ended with status {code}")
                };
            }
            _ if self.up.no_start => slot.hold = "not started because of --no-start".into(),
            _ => slot.decide(Fate::Start, Cause::NotRunning),
        }
    }

    /// Why a container cannot go on as it is although its definition is the
    /// same: a network or volume it uses is another one now.
    fn replaced(&self, old: &ObservedContainer) -> Option<Cause> {
        for (key, id) in &old.networks {
            let Some(fate) = self.networks.fates().get(key.as_str()) else {
                continue;
            };
            if fate.id() != Some(id) {
                return Some(Cause::Replaced {
                    what: format!("network {key}"),
                });
            }
        }
        if let Some((key, _)) = old
            .networks
            .iter()
            .find(|(_, id)| self.gone.contains(id.as_str()))
        {
            return Some(Cause::Replaced {
                what: format!("network {key}"),
            });
        }
        let service = self.project.services.get(&old.service)?;
        for key in mounted(service) {
            let (Some(recorded), Some(name)) = (old.volumes.get(key), self.volumes.name(key)) else {
                continue;
            };
            if recorded != name || !self.volumes.exists(name) {
                return Some(Cause::Replaced {
                    what: format!("volume {key}"),
                });
            }
        }
        None
    }

    fn slots_of(&self, service: &str) -> &[Slot<'a>] {
        self.ranges
            .get(service)
            .and_then(|range| self.slots.get(range.clone()))
            .unwrap_or_default()
    }
}
