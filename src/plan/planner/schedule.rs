//! From decisions to actions in their order. The folder's page says which
//! action waits for which, and why no cycle can arise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::super::draft::{Draft, Step};
use super::super::{
    Cause, Hold, Observed, ObservedContainer, ObservedNetwork, Operation, Plan, PlanError, Target, Up, WAIT,
};
use super::network::{Fate as NetworkFate, Networks, may_overlap};
use super::teardown::stops_in_order;
use super::volume::Volumes;
use super::{Fate, Slot, hold, is_orphan, needs_stop, recorded, target};
use crate::graph::{Graph, Link, attached, mounted};
use crate::lifecycle::Health;
use crate::project::{Condition, HealthTest, Project, Protocol, PullPolicy, Service};

/// Up to this many pairs of (fetch or make, stop), every stop waits for every
/// fetch, so that nothing is touched when an image cannot be had. Beyond, a
/// plan of that form would grow with the square of the project.
pub(super) const BARRIER: usize = 100_000;

/// What differs between the commands that start containers.
pub(super) struct Options<'a> {
    /// Services the command is about.
    pub(super) selected: BTreeSet<String>,
    /// Those without which it has failed; the others are optional dependencies.
    pub(super) required: BTreeSet<String>,
    /// The options of `up`; `None` for commands that make nothing.
    pub(super) up: Option<&'a Up>,
    /// In place of each service's `stop_grace_period`.
    pub(super) timeout: Option<Duration>,
    /// Along which links a start waits for dependencies.
    pub(super) starts_after: fn(&Link) -> bool,
    /// Whether dependents with `depends_on.restart` stop before their dependency.
    pub(super) follow_restart: bool,
}

/// The actions of one slot.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    stop: Option<Step>,
    remove: Option<Step>,
    create: Option<Step>,
    update: Option<Step>,
    start: Option<Step>,
}

/// Turns slots into a plan.
pub(super) struct Schedule<'a> {
    project: &'a Project,
    graph: &'a Graph,
    observed: &'a Observed,
    options: Options<'a>,
    slots: Vec<Slot<'a>>,
    networks: Networks<'a>,
    volumes: Volumes<'a>,
    draft: Draft,
    steps: Vec<Steps>,
    /// Slots of each service.
    of: BTreeMap<&'a str, Vec<usize>>,
    /// Slots of the existing containers on each network, by its id.
    on: BTreeMap<&'a str, Vec<usize>>,
    pulls: BTreeMap<&'a str, Step>,
    /// Creations of networks by key, of volumes by name.
    made_networks: BTreeMap<&'a str, Step>,
    made_volumes: BTreeMap<&'a str, Step>,
    /// Removals of networks by id.
    gone_networks: BTreeMap<&'a str, Step>,
    /// What is there before anything is stopped.
    base: Vec<Step>,
    /// What each service's starts wait for.
    gates: BTreeMap<&'a str, Vec<Step>>,
    early: Vec<bool>,
    holds: Vec<Hold>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(
        project: &'a Project,
        graph: &'a Graph,
        observed: &'a Observed,
        options: Options<'a>,
        slots: Vec<Slot<'a>>,
        networks: Networks<'a>,
        volumes: Volumes<'a>,
    ) -> Self {
        let mut of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut on: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, slot) in slots.iter().enumerate() {
            of.entry(slot.service).or_default().push(index);
            for id in slot.old.iter().flat_map(|old| old.networks.values()) {
                on.entry(id).or_default().push(index);
            }
        }
        Self {
            project,
            graph,
            observed,
            options,
            networks,
            volumes,
            draft: Draft::default(),
            steps: vec![Steps::default(); slots.len()],
            early: vec![false; slots.len()],
            slots,
            of,
            on,
            pulls: BTreeMap::new(),
            made_networks: BTreeMap::new(),
            made_volumes: BTreeMap::new(),
            gone_networks: BTreeMap::new(),
            base: Vec::new(),
            gates: BTreeMap::new(),
            holds: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The plan.
    ///
    /// # Errors
    /// When an image, network or volume cannot be had.
    pub(super) fn finish(mut self) -> Result<Plan, PlanError> {
        if let Some(up) = self.options.up {
            self.add_pulls(up)?;
        }
        self.add_networks()?;
        self.add_volumes()?;
        self.add_containers();
        self.order_networks();
        self.find_early();
        self.order_containers();
        self.add_waits();
        self.add_holds();
        self.warnings.sort_unstable();
        self.warnings.dedup();
        Ok(Plan {
            actions: self.draft.finish()?,
            holds: self.holds,
            warnings: self.warnings,
        })
    }

    fn slots_of(&self, service: &str) -> impl Iterator<Item = (&Slot<'a>, Steps)> {
        let indices = self.of.get(service).map(Vec::as_slice).unwrap_or_default();
        indices
            .iter()
            .filter_map(|&index| Some((self.slots.get(index)?, *self.steps.get(index)?)))
    }

    /// Services that get a new container, or have one to be brought up.
    fn is_made(&self, service: &str) -> bool {
        self.slots_of(service).any(|(slot, _)| slot.makes())
    }

    fn is_up(&self, service: &str) -> bool {
        self.options.selected.contains(service) && self.slots_of(service).any(|(slot, _)| slot.survives())
    }

    fn add_pulls(&mut self, up: &Up) -> Result<(), PlanError> {
        // Image to (fetch even when it is here, failure fails the command).
        let mut wanted: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
        for (name, service) in &self.project.services {
            let here = self.observed.images.contains_key(&service.image);
            let made = self.is_made(name);
            let always =
                service.pull_policy == PullPolicy::Always && !up.reload && !up.pulled && self.is_up(name);
            if !(always || made && !here) {
                continue;
            }
            if service.pull_policy == PullPolicy::Never {
                return Err(PlanError::ImageAbsent {
                    service: name.clone(),
                    image: service.image.clone(),
                    origin: self.project.origin(&format!("services.{name}.image")).cloned(),
                });
            }
            let (forced, required) = wanted.entry(&service.image).or_default();
            *forced |= always;
            *required |= self.options.required.contains(name) || !self.options.selected.contains(name);
        }
        for (image, (always, required)) in wanted {
            let here = self.observed.images.contains_key(image);
            let operation = Operation::PullImage {
                image: image.to_owned(),
                always,
            };
            let step = self
                .draft
                .add(operation, if here { Cause::Requested } else { Cause::Missing });
            if required {
                self.base.push(step);
            }
            self.pulls.insert(image, step);
        }
        Ok(())
    }

    fn add_networks(&mut self) -> Result<(), PlanError> {
        let project = self.project;
        for (name, service) in &project.services {
            if self.is_made(name) {
                for key in attached(service) {
                    self.networks.decide(key)?;
                }
            }
        }
        let mut gone: Vec<(&'a ObservedNetwork, Cause)> = Vec::new();
        let mut made: Vec<(&'a str, &'a str, Cause)> = Vec::new();
        for (&key, fate) in self.networks.fates() {
            let name = project
                .networks
                .get(key)
                .map_or("", |network| network.name.as_str());
            match fate {
                NetworkFate::Keep(network) => {
                    if !project.networks.get(key).is_some_and(|network| network.external) {
                        self.holds.push(hold("network", &network.name, "up to date"));
                    }
                }
                NetworkFate::Create => made.push((key, name, Cause::Missing)),
                NetworkFate::Repair(network) => made.push((key, &network.name, Cause::Repair)),
                NetworkFate::Replace(network, cause) => {
                    gone.push((network, cause.clone()));
                    made.push((key, name, cause.clone()));
                }
            }
        }
        let mut surplus: Vec<_> = self
            .networks
            .duplicates
            .iter()
            .map(|network| (*network, Cause::Repair))
            .collect();
        if self.options.up.is_some_and(|up| up.reload) {
            surplus.extend(
                self.networks
                    .surplus()
                    .into_iter()
                    .map(|network| (network, Cause::Surplus)),
            );
        }
        for (network, cause) in surplus {
            let users = self
                .on
                .get(network.id.as_str())
                .map(Vec::as_slice)
                .unwrap_or_default();
            let stays = |index: &&usize| {
                self.slots
                    .get(**index)
                    .is_some_and(|slot| !matches!(slot.fate, Fate::Remove | Fate::Recreate))
            };
            match users.iter().find(stays).and_then(|&index| self.slots.get(index)) {
                None => gone.push((network, cause)),
                Some(slot) => {
                    let reason = format!("not in the project any more, still used by {}", slot.name);
                    self.holds.push(hold("network", &network.name, reason));
                }
            }
        }
        for (network, cause) in gone {
            let operation = Operation::RemoveNetwork {
                id: network.id.clone(),
                name: network.name.clone(),
            };
            let step = self.draft.add(operation, cause);
            self.gone_networks.insert(&network.id, step);
        }
        for (key, name, cause) in made {
            self.add_network(key, name, cause);
        }
        self.repair_networks()
    }

    fn add_network(&mut self, key: &'a str, name: &str, cause: Cause) {
        let operation = Operation::CreateNetwork {
            network: key.to_owned(),
            name: name.to_owned(),
        };
        let step = self.draft.add(operation, cause);
        self.made_networks.insert(key, step);
    }

    /// Networks that are down, of containers that are started as they are.
    fn repair_networks(&mut self) -> Result<(), PlanError> {
        let by_id: BTreeMap<&str, &'a ObservedNetwork> = self
            .observed
            .networks
            .iter()
            .map(|network| (network.id.as_str(), network))
            .collect();
        let mut repairs: BTreeMap<&'a str, &'a str> = BTreeMap::new();
        for slot in self.slots.iter().filter(|slot| slot.start && !slot.makes()) {
            for (key, id) in slot.old.iter().flat_map(|old| &old.networks) {
                match by_id.get(id.as_str()) {
                    None => {
                        return Err(PlanError::NetworkGone {
                            container: slot.name.clone(),
                            network: key.clone(),
                        });
                    }
                    Some(network) if network.alive => {}
                    Some(network) => {
                        if network
                            .owner
                            .as_ref()
                            .is_none_or(|owner| owner.project != self.project.name)
                        {
                            return Err(PlanError::ExternalNetworkDown {
                                name: network.name.clone(),
                                origin: self.project.origin(&format!("networks.{key}")).cloned(),
                            });
                        }
                        repairs.insert(key, &network.name);
                    }
                }
            }
        }
        for (key, name) in repairs {
            if !self.made_networks.contains_key(key) {
                self.add_network(key, name, Cause::Repair);
            }
        }
        Ok(())
    }

    fn add_volumes(&mut self) -> Result<(), PlanError> {
        let mut held: BTreeSet<&str> = BTreeSet::new();
        for (name, service) in &self.project.services {
            let used = self.is_made(name) || self.options.up.is_some() && self.is_up(name);
            if !used {
                continue;
            }
            for key in mounted(service) {
                let Some(volume) = self.volumes.name(key) else {
                    continue;
                };
                self.warnings.extend(self.volumes.foreign_warning(key));
                if !self.volumes.is_missing(key)? {
                    if held.insert(volume) {
                        self.holds.push(hold("volume", volume, "up to date"));
                    }
                } else if !self.made_volumes.contains_key(volume) {
                    let operation = Operation::CreateVolume {
                        volume: key.to_owned(),
                        name: volume.to_owned(),
                    };
                    let step = self.draft.add(operation, Cause::Missing);
                    self.made_volumes.insert(volume, step);
                    self.base.push(step);
                }
            }
        }
        if self.options.up.is_some_and(|up| up.reload) {
            for volume in self.observed.volumes.iter().filter(|volume| !volume.anonymous) {
                let ours = volume
                    .owner
                    .as_ref()
                    .filter(|owner| owner.project == self.project.name);
                if ours.is_some_and(|owner| !self.project.volumes.contains_key(&owner.key)) {
                    let reason = "not in the project any more, kept with its data";
                    self.holds.push(hold("volume", &volume.name, reason));
                }
            }
        }
        Ok(())
    }

    /// The actions of every slot, and for each service that starts something
    /// the waiting for its dependencies.
    fn add_containers(&mut self) {
        let mut last = None;
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index).cloned() else {
                continue;
            };
            if last != Some(slot.service) {
                last = Some(slot.service);
                self.add_gate(slot.service);
            }
            let steps = self.add_slot(&slot);
            if let Some(place) = self.steps.get_mut(index) {
                *place = steps;
            }
        }
    }

    fn add_slot(&mut self, slot: &Slot<'a>) -> Steps {
        let mut steps = Steps::default();
        let existing = slot.old.map(target);
        if let (Some(container), Some((fields, cause))) = (&existing, &slot.update) {
            let operation = Operation::UpdateContainer {
                container: container.clone(),
                fields: fields.clone(),
            };
            steps.update = Some(self.draft.add(operation, cause.clone()));
        }
        if let Some(container) = existing.as_ref().filter(|_| slot.stops()) {
            let operation = Operation::StopContainer {
                container: container.clone(),
                timeout: self.options.timeout,
                again: slot.fate == Fate::Restart,
            };
            steps.stop = Some(self.draft.add(operation, slot.cause.clone()));
        }
        let renew = self.options.up.is_some_and(|up| up.renew_anon_volumes);
        if let Some(container) = existing
            .as_ref()
            .filter(|_| matches!(slot.fate, Fate::Recreate | Fate::Remove))
        {
            let operation = Operation::RemoveContainer {
                container: container.clone(),
                volumes: renew && slot.fate == Fate::Recreate,
            };
            steps.remove = Some(self.draft.add(operation, slot.cause.clone()));
        }
        if slot.makes() {
            let operation = Operation::CreateContainer {
                service: slot.service.to_owned(),
                number: slot.number,
                name: slot.name.clone(),
                inherit: slot.old.map(|old| old.id.clone()).filter(|_| !renew),
            };
            steps.create = Some(self.draft.add(operation, slot.cause.clone()));
        }
        if slot.start {
            let planned = Target {
                id: None,
                service: slot.service.to_owned(),
                number: slot.number,
                name: slot.name.clone(),
            };
            let container = existing.filter(|_| !slot.makes()).unwrap_or(planned);
            steps.start = Some(
                self.draft
                    .add(Operation::StartContainer { container }, slot.cause.clone()),
            );
        }
        steps
    }

    /// What the starts of a service wait for. Its dependencies come before it
    /// in the list of slots, so their actions are there.
    fn add_gate(&mut self, service: &'a str) {
        if !self.slots_of(service).any(|(slot, _)| slot.start) {
            return;
        }
        let mut gate = Vec::new();
        let links: Vec<(String, Link)> = self
            .graph
            .dependencies(service)
            .into_iter()
            .filter(|(_, link)| (self.options.starts_after)(link))
            .map(|(name, link)| (name.to_owned(), link.clone()))
            .collect();
        for (dependency, link) in links {
            let theirs: Vec<(Slot<'a>, Steps)> = self.counting(&dependency);
            let starts: Vec<Step> = theirs.iter().filter_map(|(_, steps)| steps.start).collect();
            if !self.options.selected.contains(&dependency) && starts.is_empty() {
                continue;
            }
            if link.condition == Condition::ServiceStarted && (link.required || starts.is_empty()) {
                gate.extend(starts);
                continue;
            }
            let waited = self.waited_for(service, &dependency, &link, &theirs);
            if waited.is_empty() {
                continue;
            }
            let operation = Operation::Await {
                service: dependency,
                containers: waited,
                condition: link.condition,
                required: link.required,
                by: service.to_owned(),
            };
            let wait = self.draft.add(
                operation,
                Cause::NeededBy {
                    who: format!("service {service}"),
                },
            );
            self.draft.after(wait, starts);
            self.draft
                .after(wait, theirs.iter().filter_map(|(_, steps)| steps.update));
            gate.push(wait);
        }
        self.gates.insert(service, gate);
    }

    /// The containers of a service that will be there; of several with the
    /// same number, left by a crash, the one that will run.
    fn counting(&self, service: &str) -> Vec<(Slot<'a>, Steps)> {
        let mut best: BTreeMap<u32, (&Slot<'a>, Steps)> = BTreeMap::new();
        for (slot, steps) in self.slots_of(service).filter(|(slot, _)| slot.survives()) {
            let best = best.entry(slot.number).or_insert((slot, steps));
            if slot.will_run() && !best.0.will_run() {
                *best = (slot, steps);
            }
        }
        best.into_values()
            .map(|(slot, steps)| (slot.clone(), steps))
            .collect()
    }

    /// The containers whose condition is waited for. During a reload nobody
    /// waits for the health of what does not run and will not.
    fn waited_for(
        &mut self,
        service: &str,
        dependency: &str,
        link: &Link,
        theirs: &[(Slot<'a>, Steps)],
    ) -> Vec<Target> {
        let lenient =
            self.options.up.is_some_and(|up| up.reload) && link.condition == Condition::ServiceHealthy;
        let left = |slot: &Slot<'a>| {
            let ended = |old: &ObservedContainer| !old.state.is_running() && !needs_stop(old);
            lenient && slot.fate == Fate::Keep && slot.old.is_some_and(ended)
        };
        let waited: Vec<Target> = theirs
            .iter()
            .filter(|(slot, _)| !left(slot))
            .map(|(slot, _)| slot.target())
            .collect();
        if waited.is_empty() && !theirs.is_empty() {
            self.warnings.push(format!(
                "service {service} starts without {dependency}, which does not run and is left alone"
            ));
        }
        waited
    }

    fn order_networks(&mut self) {
        let by_id: BTreeMap<&str, &ObservedNetwork> = self
            .observed
            .networks
            .iter()
            .map(|network| (network.id.as_str(), network))
            .collect();
        for (id, &removal) in &self.gone_networks {
            let users = self.on.get(id).into_iter().flatten();
            let removes = users.filter_map(|&index| self.steps.get(index)?.remove);
            self.draft.after(removal, removes);
        }
        for (key, &creation) in &self.made_networks {
            let Some(network) = self.project.networks.get(*key) else {
                continue;
            };
            let replaced = match self.networks.fates().get(key) {
                Some(NetworkFate::Replace(network, _)) => Some(network.id.as_str()),
                Some(NetworkFate::Repair(_)) => continue,
                _ => None,
            };
            for (id, &removal) in &self.gone_networks {
                let in_the_way = by_id
                    .get(id)
                    .is_some_and(|gone| gone.name == network.name || may_overlap(network, gone));
                if in_the_way || replaced == Some(id) {
                    self.draft.after(creation, [removal]);
                }
            }
        }
        let free: Vec<Step> = self
            .made_networks
            .values()
            .copied()
            .filter(|step| !self.draft.waits(*step))
            .collect();
        self.base.extend(free);
    }

    /// Which containers are stopped early, and what waits for their stop.
    fn find_early(&mut self) {
        // Networks that have to go before another can be made.
        let blocking = self.made_networks.values().any(|step| self.draft.waits(*step));
        for id in self.gone_networks.keys().copied().filter(|_| blocking) {
            for &index in self.on.get(id).into_iter().flatten() {
                mark(&mut self.early, index);
            }
        }
        for (index, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.stops()) {
            let follows = self
                .graph
                .dependencies(slot.service)
                .into_iter()
                .any(|(dependency, link)| {
                    self.goes_with(link)
                        && self
                            .slots_of(dependency)
                            .any(|(slot, _)| slot.stops() && (slot.start || slot.makes()))
                });
            if follows {
                mark(&mut self.early, index);
            }
        }
        self.hand_over();
    }

    fn goes_with(&self, link: &Link) -> bool {
        link.namespace || link.restart && self.options.follow_restart
    }

    /// What only one container can have (a name, a fixed address, a published
    /// port) goes from one that stops to one that starts.
    fn hand_over(&mut self) {
        let mut names: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let mut addresses: BTreeMap<(String, IpAddr), Vec<usize>> = BTreeMap::new();
        let mut ports: BTreeMap<(Protocol, u16), Vec<usize>> = BTreeMap::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(old) = slot
                .old
                .filter(|_| matches!(slot.fate, Fate::Recreate | Fate::Remove))
            else {
                continue;
            };
            names.entry(&old.name).or_default().push(index);
            let Some(service) = recorded(old) else { continue };
            for address in fixed_addresses(&service) {
                addresses.entry(address).or_default().push(index);
            }
            if slot.stops() {
                for (protocol, (first, last)) in published(&service) {
                    for port in first..=last {
                        ports.entry((protocol, port)).or_default().push(index);
                    }
                }
            }
        }
        let mut edges: Vec<(Step, usize, bool)> = Vec::new();
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(steps) = self.steps.get(index) else {
                continue;
            };
            let Some(service) = self.project.services.get(slot.service) else {
                continue;
            };
            let others = |holders: Option<&Vec<usize>>| -> Vec<usize> {
                holders
                    .into_iter()
                    .flatten()
                    .copied()
                    .filter(|&holder| holder != index)
                    .collect()
            };
            if let Some(create) = steps.create {
                edges.extend(
                    others(names.get(slot.name.as_str()))
                        .into_iter()
                        .map(|holder| (create, holder, true)),
                );
                for address in fixed_addresses(service) {
                    edges.extend(
                        others(addresses.get(&address))
                            .into_iter()
                            .map(|holder| (create, holder, true)),
                    );
                }
            }
            if let Some(start) = steps.start {
                for (protocol, (first, last)) in published(service) {
                    // Of a range any free port will do.
                    if first == last {
                        edges.extend(
                            others(ports.get(&(protocol, first)))
                                .into_iter()
                                .map(|holder| (start, holder, false)),
                        );
                    }
                }
            }
        }
        for (step, holder, removed) in edges {
            let Some(steps) = self.steps.get(holder) else {
                continue;
            };
            let release = if removed { steps.remove } else { steps.stop };
            self.draft.after(step, release);
            mark(&mut self.early, holder);
        }
    }

    fn order_containers(&mut self) {
        let ends = self
            .steps
            .iter()
            .filter(|steps| steps.stop.or(steps.remove).is_some())
            .count();
        let all = self.base.len().saturating_mul(ends) <= BARRIER;
        let base: BTreeSet<Step> = self.base.iter().copied().collect();
        let mut orphans: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
        for index in 0..self.slots.len() {
            let (Some(slot), Some(&steps)) = (self.slots.get(index).cloned(), self.steps.get(index)) else {
                continue;
            };
            let needs = self.needs(&slot);
            let gate = self.gates.get(slot.service).cloned().unwrap_or_default();
            // What ends the present container: nothing is touched before its
            // successor can be made.
            if let Some(end) = steps.stop.or(steps.remove) {
                if all {
                    self.draft.after(end, self.base.iter().copied());
                } else {
                    self.draft
                        .after(end, needs.iter().copied().filter(|need| base.contains(need)));
                }
            }
            if let Some(stop) = steps.stop {
                let late = !self.early.get(index).copied().unwrap_or_default();
                if late && (slot.start || slot.cause == Cause::Repair) {
                    self.draft.after(stop, gate.iter().copied());
                }
                if slot.start || slot.makes() {
                    self.stop_after_dependents(&slot, stop);
                }
                if is_orphan(self.project, slot.service) {
                    orphans.entry(slot.service).or_default().push(stop);
                }
            }
            if let Some(remove) = steps.remove {
                self.draft.after(remove, steps.stop);
            }
            if let Some(create) = steps.create {
                self.draft.after(create, needs.iter().copied());
                self.draft.after(create, steps.remove);
                self.draft
                    .after(create, self.provider(slot.service).and_then(|steps| steps.create));
            }
            if let Some(start) = steps.start {
                self.draft.after(start, steps.create.or(steps.stop));
                self.draft.after(start, steps.update);
                self.draft.after(start, gate);
                if steps.create.is_none() {
                    self.draft.after(start, needs);
                }
                let twins: Vec<Step> = self
                    .slots_of(slot.service)
                    .filter(|(twin, _)| twin.number == slot.number && twin.fate == Fate::Remove)
                    .filter_map(|(_, steps)| steps.remove)
                    .collect();
                self.draft.after(start, twins);
            }
        }
        for (stop, dependents) in stops_in_order(self.project, self.observed, &orphans) {
            self.draft.after(stop, dependents.iter().copied());
        }
    }

    /// The fetches and creations that a container waits for.
    fn needs(&self, slot: &Slot<'a>) -> Vec<Step> {
        let mut needs = Vec::new();
        if let Some(service) = self.project.services.get(slot.service).filter(|_| slot.makes()) {
            needs.extend(self.pulls.get(service.image.as_str()));
            needs.extend(attached(service).filter_map(|key| self.made_networks.get(key)));
            let volumes = mounted(service).filter_map(|key| self.volumes.name(key));
            needs.extend(volumes.filter_map(|name| self.made_volumes.get(name)));
        } else if slot.start {
            let keys = slot.old.iter().flat_map(|old| old.networks.keys());
            needs.extend(keys.filter_map(|key| self.made_networks.get(key.as_str())));
        }
        needs
    }

    /// The actions of the container whose network a service shares.
    fn provider(&self, service: &str) -> Option<Steps> {
        let links = self.graph.dependencies(service);
        let (provider, _) = links.into_iter().find(|(_, link)| link.namespace)?;
        let first = self
            .slots_of(provider)
            .filter(|(slot, _)| slot.survives())
            .min_by_key(|(slot, _)| (slot.number, !slot.will_run()));
        first.map(|(_, steps)| steps)
    }

    fn stop_after_dependents(&mut self, slot: &Slot<'a>, stop: Step) {
        let mut first = Vec::new();
        for (dependent, link) in self.graph.dependents(slot.service) {
            if self.goes_with(link) {
                let theirs = self
                    .slots_of(dependent)
                    .filter(|(slot, _)| slot.start || slot.makes());
                first.extend(theirs.filter_map(|(_, steps)| steps.stop));
            }
        }
        self.draft.after(stop, first);
    }

    /// `up --wait`: the user waits for everything the command is about.
    fn add_waits(&mut self) {
        if !self.options.up.is_some_and(|up| up.wait && !up.no_start) {
            return;
        }
        let project = self.project;
        for name in self.graph.order() {
            let Some(service) = project.services.get(name).filter(|_| self.is_up(name)) else {
                continue;
            };
            let settled = |slot: &Slot<'a>| {
                slot.fate == Fate::Keep
                    && slot.is_running()
                    && slot
                        .old
                        .is_some_and(|old| matches!(old.health, None | Some(Health::Healthy)))
            };
            let theirs = self.counting(name);
            if theirs
                .iter()
                .all(|(slot, steps)| settled(slot) && steps.update.is_none())
            {
                continue;
            }
            let operation = Operation::Await {
                service: name.clone(),
                containers: theirs.iter().map(|(slot, _)| slot.target()).collect(),
                condition: self.settles(name, service),
                required: true,
                by: WAIT.to_owned(),
            };
            let wait = self.draft.add(operation, Cause::Requested);
            self.draft
                .after(wait, theirs.iter().filter_map(|(_, steps)| steps.start));
            self.draft
                .after(wait, theirs.iter().filter_map(|(_, steps)| steps.update));
        }
    }

    /// What `up --wait` waits for: the end of a service whose end is waited
    /// for, the health of one with a check.
    fn settles(&self, name: &str, service: &Service) -> Condition {
        let ends = self.graph.dependents(name).into_iter().any(|(dependent, link)| {
            link.condition == Condition::ServiceCompletedSuccessfully
                && self.options.selected.contains(dependent)
        });
        let test = service.healthcheck.as_ref().and_then(|check| check.test.as_ref());
        match test {
            _ if ends => Condition::ServiceCompletedSuccessfully,
            Some(HealthTest::Cmd(_) | HealthTest::CmdShell(_)) => Condition::ServiceHealthy,
            Some(HealthTest::None) | None => Condition::ServiceStarted,
        }
    }

    fn add_holds(&mut self) {
        let kept = self
            .slots
            .iter()
            .filter(|slot| slot.fate == Fate::Keep && slot.update.is_none());
        self.holds
            .extend(kept.map(|slot| hold("container", &slot.name, slot.hold.clone())));
        self.holds
            .sort_by(|a, b| (&a.resource, &a.reason).cmp(&(&b.resource, &b.reason)));
    }
}

fn mark(early: &mut [bool], index: usize) {
    if let Some(early) = early.get_mut(index) {
        *early = true;
    }
}

fn fixed_addresses(service: &Service) -> Vec<(String, IpAddr)> {
    let mut fixed = Vec::new();
    for (key, attachment) in &service.networks {
        fixed.extend(
            attachment
                .ipv4_address
                .map(|address| (key.clone(), IpAddr::V4(address))),
        );
        fixed.extend(
            attachment
                .ipv6_address
                .map(|address| (key.clone(), IpAddr::V6(address))),
        );
    }
    fixed
}

fn published(service: &Service) -> impl Iterator<Item = (Protocol, (u16, u16))> {
    service
        .ports
        .iter()
        .filter_map(|port| Some((port.protocol, port.published?)))
}
