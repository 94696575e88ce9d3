//! What comes after what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use super::super::super::draft::Step;
use super::super::super::{Cause, ObservedNetwork};
use super::super::network::{Fate as NetworkFate, may_overlap};
use super::super::teardown::stops_in_order;
use super::super::{Fate, Slot, is_orphan, recorded_places};
use super::{BARRIER, Schedule, Steps};
use crate::graph::{Link, attached, mounted, mounted_images};
use crate::project::{Protocol, Service};

impl<'a> Schedule<'a> {
    pub(super) fn order_networks(&mut self) {
        for (id, &removal) in &self.gone_networks {
            let users = self.on.get(id).into_iter().flatten();
            let ends = users.filter_map(|&index| {
                let steps = self.steps.get(index)?;
                let leaves = steps.update.filter(|_| {
                    let slot = self.slots.get(index);
                    slot.is_some_and(|slot| self.leaves(slot, id))
                });
                steps.remove.or(leaves)
            });
            self.draft.after(removal, ends.collect::<Vec<_>>());
        }
        let gone: Vec<(&'a ObservedNetwork, Step)> = self
            .observed
            .networks
            .iter()
            .filter_map(|network| Some((network, *self.gone_networks.get(network.id.as_str())?)))
            .collect();
        let mut by_name: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
        for (network, removal) in &gone {
            by_name.entry(&network.name).or_default().push(*removal);
        }
        for (key, &creation) in &self.made_networks {
            let Some(network) = self.project.networks.get(*key) else {
                continue;
            };
            match self.networks.fates().get(key) {
                Some(NetworkFate::Repair(_)) => continue,
                Some(NetworkFate::Replace(replaced, _)) => {
                    let removal = self.gone_networks.get(replaced.id.as_str()).copied();
                    self.draft.after(creation, removal);
                }
                _ => {}
            }
            let namesakes = by_name.get(network.name.as_str()).into_iter().flatten();
            self.draft.after(creation, namesakes.copied());
            if !network.ipam.is_empty() {
                let in_the_way = gone.iter().filter(|(gone, _)| may_overlap(network, gone));
                self.draft
                    .after(creation, in_the_way.map(|(_, removal)| *removal));
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
    pub(super) fn find_early(&mut self) {
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
            let Some(service) = recorded_places(old) else {
                continue;
            };
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
            let steps = self.steps_of(index);
            if steps.create.or(steps.start).is_none() {
                continue;
            }
            let Some(&service) = self.services.get(slot.service) else {
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
                        let holders = others(ports.get(&(protocol, first)));
                        // Whose place it takes hands them over when it runs.
                        let waits = holders.into_iter().filter(|&holder| !self.succeeds(slot, holder));
                        edges.extend(waits.map(|holder| (start, holder, false)));
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

    /// Whether a slot takes the place of another one while that still runs.
    fn succeeds(&self, slot: &Slot<'_>, of: usize) -> bool {
        self.slots
            .get(of)
            .is_some_and(|of| of.service == slot.service && of.successor == Some(slot.number))
    }

    pub(super) fn order_containers(&mut self) {
        let ends = self
            .steps
            .iter()
            .filter(|steps| steps.stop.or(steps.remove).is_some())
            .count();
        let all = self.base.len().saturating_mul(ends) <= BARRIER;
        let base: BTreeSet<Step> = self.base.iter().copied().collect();
        let mut orphans: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
        let slots = Rc::clone(&self.slots);
        for (index, slot) in slots.iter().enumerate() {
            let steps = self.steps_of(index);
            if steps.is_empty() {
                continue;
            }
            let needs = self.needs(slot);
            let gate = self.gates.get(slot.service).cloned().unwrap_or_default();
            // What ends the present container: nothing is touched before its
            // successor can be made.
            if let (Some(update), Some(service)) = (steps.update, self.services.get(slot.service)) {
                let joined = attached(service).filter_map(|key| self.made_networks.get(key));
                self.draft.after(update, joined.copied());
            }
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
                    self.stop_after_dependents(slot, stop);
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
                let prepared = self.add_preparation(slot.service, Some(slot.number), &gate);
                self.draft.after(start, prepared);
                self.draft.after(start, steps.create.or(steps.stop));
                self.draft.after(start, steps.update);
                self.draft.after(start, gate.iter().copied());
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
        if let Some(service) = self.services.get(slot.service).filter(|_| slot.makes()) {
            return self.needs_of(service, false);
        } else if slot.start {
            let keys = slot.old.iter().flat_map(|old| old.networks.keys());
            needs.extend(keys.filter_map(|key| self.made_networks.get(key.as_str())));
        }
        needs
    }

    /// The fetches and creations that containers of a service wait for; with
    /// `hooks`, those of its `pre_start` hooks.
    pub(super) fn needs_of(&self, service: &'a Service, hooks: bool) -> Vec<Step> {
        let mut needs = Vec::new();
        needs.extend(self.pulls.get(service.image.as_str()));
        needs.extend(mounted_images(service).filter_map(|image| self.pulls.get(image)));
        if hooks {
            let images = service.pre_start.iter().filter_map(|hook| hook.image.as_deref());
            needs.extend(images.filter_map(|image| self.pulls.get(image)));
        }
        needs.extend(attached(service).filter_map(|key| self.made_networks.get(key)));
        let volumes = mounted(service).filter_map(|key| self.volumes.name(key));
        needs.extend(volumes.filter_map(|name| self.made_volumes.get(name)));
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
