//! What the decisions about one service mean for those that depend on it.

use super::Decider;
use crate::plan::planner::replicas::follow_provider;
use crate::plan::planner::{Fate, Slot};
use crate::plan::{Cause, ContainerState, PlanError};

impl<'a> Decider<'a> {
    /// What the decisions about its dependencies mean for a service.
    pub(super) fn follow_dependencies(
        &mut self,
        name: &str,
        slots: &mut Vec<Slot<'a>>,
    ) -> Result<(), PlanError> {
        let mut warnings = Vec::new();
        for (dependency, link) in self.graph.dependencies(name) {
            let theirs = self.slots_of(dependency);
            if link.namespace {
                let provider = theirs
                    .iter()
                    .filter(|slot| slot.survives())
                    .min_by_key(|slot| (slot.number, !slot.will_run()));
                follow_provider(dependency, provider, slots, self.up.no_recreate, &mut warnings);
            }
            let restarts = link.restart && !self.up.no_deps;
            if restarts
                && theirs.iter().any(|slot| {
                    matches!(slot.fate, Fate::Restart | Fate::Recreate) || slot.successor.is_some()
                })
            {
                for slot in slots
                    .iter_mut()
                    .filter(|slot| slot.fate == Fate::Keep && slot.is_running())
                {
                    slot.decide(
                        Fate::Restart,
                        Cause::Replaced {
                            what: format!("service {dependency}"),
                        },
                    );
                }
            }
            // A plan that was cut off between the stop of a dependent and its
            // start left it as if it had ended by itself.
            if self.up.reload && (restarts || link.namespace) {
                let moved = theirs
                    .iter()
                    .any(|slot| slot.fate > Fate::Start && slot.survives());
                for slot in slots.iter_mut().filter(|slot| slot.fate == Fate::Keep) {
                    let Some(ContainerState::Exited {
                        finished,
                        stopped: false,
                        ..
                    }) = slot.old.map(|old| &old.state)
                    else {
                        continue;
                    };
                    let newer = theirs
                        .iter()
                        .filter_map(|slot| slot.old)
                        .any(|theirs| theirs.created > *finished);
                    if moved || newer {
                        slot.decide(
                            Fate::Start,
                            Cause::Replaced {
                                what: format!("service {dependency}"),
                            },
                        );
                    }
                }
            }
        }
        self.warnings.append(&mut warnings);
        self.require_provider(name, slots)
    }

    /// Containers that share a network are only started when its owner runs.
    fn require_provider(&mut self, name: &str, slots: &mut Vec<Slot<'a>>) -> Result<(), PlanError> {
        if self.up.no_start || !slots.iter().any(|slot| slot.start) {
            return Ok(());
        }
        let links = self.graph.dependencies(name);
        let Some((provider, _)) = links.into_iter().find(|(_, link)| link.namespace) else {
            return Ok(());
        };
        let first = self
            .slots_of(provider)
            .iter()
            .filter(|slot| slot.survives())
            .min_by_key(|slot| (slot.number, !slot.will_run()));
        if first.is_some_and(Slot::will_run) {
            return Ok(());
        }
        if !self.up.reload {
            return Err(PlanError::NamespaceMissing {
                service: name.to_owned(),
                provider: provider.to_owned(),
                origin: self
                    .project
                    .origin(&format!("services.{name}.network_mode"))
                    .cloned(),
            });
        }
        let reason = format!("service {provider}, whose network it shares, does not run");
        slots.retain(|slot| slot.fate != Fate::Create);
        for slot in slots.iter_mut().filter(|slot| slot.start) {
            if slot.fate == Fate::Recreate {
                slot.start = false;
            } else {
                slot.decide(Fate::Keep, Cause::Requested);
                slot.hold.clone_from(&reason);
            }
        }
        self.warnings
            .push(format!("service {name} is not started: {reason}"));
        Ok(())
    }
}
