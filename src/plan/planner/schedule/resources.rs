//! Images, networks and volumes: what is fetched, made and removed.

use std::collections::{BTreeMap, BTreeSet};

use super::super::super::{Cause, ObservedNetwork, Operation, PlanError, Up};
use super::super::network::Fate as NetworkFate;
use super::super::{Fate, hold};
use super::Schedule;
use crate::graph::{attached, mounted, mounted_images};
use crate::project::PullPolicy;

impl<'a> Schedule<'a> {
    pub(super) fn add_pulls(&mut self, up: &Up) -> Result<(), PlanError> {
        // Image to (fetch even when it is here, failure fails the command).
        let mut wanted: BTreeMap<&'a str, (bool, bool)> = BTreeMap::new();
        let project = self.project;
        for (name, service) in &project.services {
            let here = self.observed.images.contains_key(&service.image);
            let made = self.is_made(name);
            let policy = up.pull.unwrap_or(service.pull_policy);
            let due = match policy {
                PullPolicy::Always => true,
                PullPolicy::Refresh { .. } => self.observed.stale.contains(&service.image),
                _ => false,
            };
            let always = due && !up.reload && !up.pulled && self.is_up(name);
            if !(always || made && !here) {
                continue;
            }
            if policy == PullPolicy::Never {
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
        self.add_further_images(&mut wanted);
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

    /// The images that containers mount, and those of `pre_start` hooks that may
    /// be run.
    fn add_further_images(&self, wanted: &mut BTreeMap<&'a str, (bool, bool)>) {
        let project = self.project;
        for (name, service) in &project.services {
            let starts = self.slots_of(name).any(|(slot, _)| slot.start);
            let hooks = service.pre_start.iter().filter_map(|hook| hook.image.as_deref());
            let mounted = mounted_images(service).filter(|_| self.is_made(name));
            for image in hooks.filter(|_| starts).chain(mounted) {
                if !self.observed.images.contains_key(image) {
                    wanted.entry(image).or_insert((false, true));
                }
            }
        }
    }

    pub(super) fn add_networks(&mut self) -> Result<(), PlanError> {
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
                self.slots.get(**index).is_some_and(|slot| {
                    !matches!(slot.fate, Fate::Remove | Fate::Recreate) && !self.leaves(slot, &network.id)
                })
            };
            match users.iter().find(stays).and_then(|&index| self.slots.get(index)) {
                None => gone.push((network, cause)),
                Some(slot) => {
                    let reason = match cause {
                        Cause::Surplus => format!("not in the project any more, still used by {}", slot.name),
                        _ => format!(
                            "left over by a command that was cut off, still used by {}",
                            slot.name
                        ),
                    };
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

    pub(super) fn add_volumes(&mut self) -> Result<(), PlanError> {
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
                self.warnings.extend(self.volumes.options_warning(key));
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
}
