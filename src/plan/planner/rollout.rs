//! Replacing the containers of a service a few at a time
//! (`deploy.update_config` of the Compose Specification).
//!
//! Without it, all are replaced at once. With it they are sorted into groups of
//! `parallelism`; each group waits for an [`Operation::Settle`] that watches the
//! group before it. *Stop first*, a container makes room for its successor; *start
//! first*, the successor has a number of its own and the old one goes when the
//! new one has settled. That needs nothing that only one of the two can have;
//! where they do, the plan says so and stops first.
//!
//! A service of which a container has to be stopped early (the folder's page
//! tells when) is replaced at once: what waits for it may be what its groups
//! would wait for.
//!
//! Weak: a container that is made by the plan is known by its name alone until
//! then, so an old one whose stop failed counts as its successor.

use std::collections::BTreeSet;

use super::super::draft::Step;
use super::super::{Cause, Observed, Operation, Target};
use super::schedule::Schedule;
use super::{Fate, Slot, container_name};
use crate::project::{FailureAction, MountSource, NetworkMode, Project, Service, UpdateConfig, UpdateOrder};

/// How a service wants to be updated; `None`: all at once.
fn config(service: &Service) -> Option<&UpdateConfig> {
    service.deploy.as_ref()?.update_config.as_ref()
}

/// Why a successor cannot run beside the container it replaces.
fn obstacle(service: &Service, observed: &Observed, slots: &[Slot<'_>]) -> Option<String> {
    if service.container_name.is_some() {
        return Some("of its container_name".to_owned());
    }
    let fixed = service.networks.values().any(|attachment| {
        attachment.ipv4_address.is_some()
            || attachment.ipv6_address.is_some()
            || attachment.mac_address.is_some()
    });
    if fixed || service.mac_address.is_some() {
        return Some("of its fixed addresses".to_owned());
    }
    if service.network_mode != NetworkMode::Networks && service.network_mode != NetworkMode::None {
        return Some("it has no network of its own".to_owned());
    }
    let own = service
        .volumes
        .iter()
        .any(|mount| mount.source == MountSource::Anonymous);
    let ids: BTreeSet<&str> = slots
        .iter()
        .filter_map(|slot| Some(slot.old?.id.as_str()))
        .collect();
    let has = observed.volumes.iter().any(|volume| {
        let holder = volume.container.as_deref();
        volume.anonymous && holder.is_some_and(|id| ids.contains(id))
    });
    (own || has).then(|| "its anonymous volumes go from one container to the next".to_owned())
}

/// Where the service wants that, gives each running container that is replaced a
/// successor that runs beside it for a while.
pub(super) fn start_first<'a>(
    project: &'a Project,
    observed: &Observed,
    service: &'a Service,
    slots: &mut Vec<Slot<'a>>,
    warnings: &mut Vec<String>,
) {
    let replaced = |slot: &Slot<'_>| slot.fate == Fate::Recreate && slot.start && slot.is_running();
    let wanted = config(service).is_some_and(|config| config.order == Some(UpdateOrder::StartFirst));
    if !wanted || !slots.iter().any(replaced) {
        return;
    }
    if let Some(obstacle) = obstacle(service, observed, slots) {
        warnings.push(format!(
            "service {}: its containers are stopped first, not started first, because {obstacle}",
            service.name
        ));
        return;
    }
    let mut taken: BTreeSet<u32> = slots.iter().map(|slot| slot.number).collect();
    let mut successors = Vec::new();
    for slot in slots.iter_mut().filter(|slot| replaced(slot)) {
        let number = (1..).find(|number| !taken.contains(number)).unwrap_or(u32::MAX);
        taken.insert(number);
        successors.push(Slot {
            number,
            name: container_name(project, service, number),
            old: None,
            fate: Fate::Create,
            ..slot.clone()
        });
        slot.decide(Fate::Remove, slot.cause.clone());
        slot.successor = Some(number);
    }
    slots.append(&mut successors);
}

/// A container and what takes its place: slots.
#[derive(Clone, Copy, Debug)]
struct Replacement {
    /// The one that goes, when another slot takes its place.
    old: Option<usize>,
    new: usize,
}

impl<'a> Schedule<'a> {
    /// Has the groups of each service that wants it wait for each other.
    pub(super) fn order_rollouts(&mut self) {
        let project = self.project;
        for service in project.services.values() {
            if let Some(config) = config(service) {
                self.order_rollout(service, config);
            }
        }
    }

    fn order_rollout(&mut self, service: &'a Service, config: &UpdateConfig) {
        let replacements = self.replacements(&service.name);
        let is_early = |replacement: &Replacement| {
            let slots = [Some(replacement.new), replacement.old];
            slots.into_iter().flatten().any(|slot| self.is_early(slot))
        };
        if replacements.is_empty() {
            return;
        }
        if replacements.iter().any(is_early) {
            if replacements.len() > 1 {
                self.warnings.push(format!(
                    "service {}: its containers are replaced at once, because what they need is too",
                    service.name
                ));
            }
            return;
        }
        let all = replacements.len();
        let at_once = match config.parallelism {
            None => 1,
            Some(0) => all,
            Some(number) => usize::try_from(number).unwrap_or(all),
        };
        let tolerated = tolerated(all, config.max_failure_ratio.unwrap_or(0.0));
        let mut settled: Option<Step> = None;
        let mut done: Vec<Target> = Vec::new();
        for (at, group) in replacements.chunks(at_once.max(1)).enumerate() {
            for replacement in group {
                let steps = self.steps_of(replacement.new);
                let first = match replacement.old {
                    // Its place is free whatever becomes of the one before.
                    Some(_) => steps.create,
                    None => steps.stop.or(steps.remove).or(steps.create),
                };
                for step in first.into_iter().chain(steps.start) {
                    self.draft.after(step, settled);
                }
                done.extend(self.slots.get(replacement.new).map(Slot::target));
            }
            let last = (at + 1).saturating_mul(at_once) >= all;
            let operation = Operation::Settle {
                service: service.name.clone(),
                containers: done.clone(),
                monitor: config.monitor.unwrap_or_default(),
                delay: config.delay.filter(|_| !last).unwrap_or_default(),
                tolerated,
                required: config.failure_action != Some(FailureAction::Continue),
            };
            let cause = Cause::NeededBy {
                who: format!("the update of {}", service.name),
            };
            let settle = self.draft.add(operation, cause);
            for replacement in group {
                let start = self.steps_of(replacement.new).start;
                self.draft.after(settle, start);
                if let Some(old) = replacement.old {
                    let steps = self.steps_of(old);
                    if let Some(end) = steps.stop.or(steps.remove) {
                        self.draft.after(end, [settle]);
                    }
                }
            }
            self.draft.after(settle, settled);
            settled = Some(settle);
        }
    }

    /// The containers of a service that are replaced while they are started
    /// anew, by number.
    fn replacements(&self, service: &str) -> Vec<Replacement> {
        let slots: Vec<(usize, &Slot<'a>)> = self.numbered(service).collect();
        let mut found = Vec::new();
        for (index, slot) in &slots {
            if slot.fate == Fate::Recreate && slot.start {
                found.push(Replacement {
                    old: None,
                    new: *index,
                });
            } else if let Some(number) = slot.successor {
                let new = slots.iter().find(|(_, new)| new.number == number && new.makes());
                found.extend(new.map(|(new, _)| Replacement {
                    old: Some(*index),
                    new: *new,
                }));
            }
        }
        found
    }
}

/// How many of so many may fail.
fn tolerated(all: usize, ratio: f64) -> u32 {
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    // Never more than there are, and a fraction of one is none.
    (0..=all)
        .rev()
        .find(|some| f64::from(*some) <= f64::from(all) * ratio)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::tolerated;

    #[test]
    fn a_part_of_the_containers_may_fail() {
        for (all, ratio, expected) in [
            (10, 0.0, 0),
            (10, 0.25, 2),
            (3, 0.3, 0),
            (4, 1.0, 4),
            (4, 7.0, 4),
            (4, -1.0, 0),
        ] {
            assert_eq!(tolerated(all, ratio), expected, "{ratio} of {all}");
        }
        assert_eq!(tolerated(4, f64::NAN), 0);
    }
}
