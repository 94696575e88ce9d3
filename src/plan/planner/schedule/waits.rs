//! The actions of containers, and who waits for whom.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::super::draft::Step;
use super::super::super::{Cause, Operation, PlanError, Target, WAIT, preparation, prepared};
use super::super::{Fate, Slot, hold, needs_stop, target};
use super::{Schedule, Steps};
use crate::graph::Link;
use crate::lifecycle::Health;
use crate::project::{Condition, HealthTest, Service};

/// Up to this many pairs of (start, start that waits for it), replicas wait for
/// replicas one by one; beyond, through one action in the middle.
const PAIRS: usize = 100;

impl<'a> Schedule<'a> {
    /// The actions of every slot, and for each service that starts something
    /// the waiting for its dependencies.
    ///
    /// # Errors
    /// [`PlanError::DependencyLeft`].
    pub(super) fn add_containers(&mut self) -> Result<(), PlanError> {
        let mut last = None;
        let slots = Rc::clone(&self.slots);
        for (index, slot) in slots.iter().enumerate() {
            // What is left alone has no actions, and most may be.
            if slot.fate == Fate::Keep && slot.update.is_none() && !slot.start {
                continue;
            }
            if last != Some(slot.service) {
                last = Some(slot.service);
                self.add_gate(slot.service)?;
            }
            let steps = self.add_slot(slot);
            if let Some(place) = self.steps.get_mut(index) {
                *place = steps;
            }
        }
        Ok(())
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
                signal: self.options.signal.clone(),
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
                replaced: !renew && slot.fate == Fate::Recreate,
            };
            steps.remove = Some(self.draft.add(operation, slot.cause.clone()));
        }
        if slot.makes() {
            let operation = Operation::CreateContainer {
                service: slot.service.to_owned(),
                number: slot.number,
                name: slot.name.clone(),
                inherit: slot
                    .old
                    .map(|old| old.id.as_str())
                    .or(slot.inherits)
                    .filter(|_| !renew)
                    .map(str::to_owned),
                one_off: slot.one_off.cloned(),
            };
            steps.create = Some(self.draft.add(operation, slot.cause.clone()));
        }
        if slot.start {
            let operation = Operation::StartContainer {
                container: slot.target(),
            };
            steps.start = Some(self.draft.add(operation, slot.cause.clone()));
        }
        steps
    }

    /// What the starts of a service wait for. Its dependencies come before it
    /// in the list of slots, so their actions are there.
    fn add_gate(&mut self, service: &'a str) -> Result<(), PlanError> {
        let waiting = self.slots_of(service).filter(|(slot, _)| slot.start).count();
        if waiting == 0 {
            return Ok(());
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
            let few = starts.len().saturating_mul(waiting) <= PAIRS;
            if link.condition == Condition::ServiceStarted && (link.required && few || starts.is_empty()) {
                gate.extend(starts);
                continue;
            }
            let waited = self.waited_for(service, &dependency, &link, &theirs)?;
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
        if let Some(step) = self.add_preparation(service, None, &gate) {
            gate.push(step);
        }
        self.gates.insert(service, gate.into());
        Ok(())
    }

    /// The `pre_start` hooks of a service, if they have not succeeded as they
    /// are now.
    pub(super) fn add_preparation(
        &mut self,
        name: &'a str,
        number: Option<u32>,
        gate: &[Step],
    ) -> Option<Step> {
        let service = self.services.get(name).copied()?;
        let wanted = prepared(service, number.is_some(), &self.observed.images)?;
        // A service that is all new is prepared whatever was before it.
        let known = self
            .slots_of(name)
            .any(|(slot, _)| slot.old.is_some() && number.is_none_or(|number| slot.number == number));
        if known && self.observed.prepared.get(&preparation(name, number)) == Some(&wanted) {
            return None;
        }
        let operation = Operation::Prepare {
            service: name.to_owned(),
            number,
        };
        let cause = Cause::NeededBy {
            who: format!("service {name}"),
        };
        let step = self.draft.add(operation, cause);
        let needs = self.needs_of(service, true);
        self.draft.after(step, gate.iter().copied());
        self.draft.after(step, needs);
        Some(step)
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
    /// waits for the health of what does not run and will not; nor does a service
    /// that was not asked for and has to be brought back.
    fn waited_for(
        &mut self,
        service: &str,
        dependency: &str,
        link: &Link,
        theirs: &[(Slot<'a>, Steps)],
    ) -> Result<Vec<Target>, PlanError> {
        let healthy = link.condition == Condition::ServiceHealthy;
        let asked = self.options.selected.contains(service);
        let lenient = healthy && self.options.up.is_some_and(|up| up.reload || !asked);
        let kept = healthy && link.required && self.options.up.is_some_and(|up| up.no_recreate);
        if let Some((slot, _)) = theirs.iter().find(|(slot, _)| kept && !lenient && is_left(slot)) {
            return Err(PlanError::DependencyLeft {
                service: service.to_owned(),
                dependency: dependency.to_owned(),
                container: slot.name.clone(),
                reason: slot.hold.clone(),
            });
        }
        let waited: Vec<Target> = theirs
            .iter()
            .filter(|(slot, _)| !(lenient && is_left(slot)))
            .map(|(slot, _)| slot.target())
            .collect();
        if waited.is_empty() && !theirs.is_empty() {
            self.warnings.push(format!(
                "service {service} starts without {dependency}, which does not run and is left alone"
            ));
        }
        Ok(waited)
    }

    /// `up --wait`, `start --wait`: the user waits for everything the command is about.
    pub(super) fn add_waits(&mut self) {
        if !self.options.wait {
            return;
        }
        for name in self.graph.order() {
            let Some(service) = self
                .services
                .get(name.as_str())
                .copied()
                .filter(|_| self.is_up(name))
            else {
                continue;
            };
            let settled = |slot: &Slot<'a>| {
                slot.fate == Fate::Keep
                    && slot.is_running()
                    && slot
                        .old
                        .is_some_and(|old| matches!(old.health, None | Some(Health::Healthy)))
            };
            let mut theirs = self.counting(name);
            // Not for what is not started: a warning or a hold says why.
            theirs.retain(|(slot, _)| slot.start || slot.fate == Fate::Keep && !is_left(slot));
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
        let check = service.healthcheck.as_ref();
        match check.and_then(|check| check.test.as_ref()) {
            _ if ends => Condition::ServiceCompletedSuccessfully,
            _ if check.is_some_and(|check| check.probe.is_some()) => Condition::ServiceHealthy,
            Some(HealthTest::Cmd(_) | HealthTest::CmdShell(_)) => Condition::ServiceHealthy,
            Some(HealthTest::None) | None => Condition::ServiceStarted,
        }
    }

    pub(super) fn add_holds(&mut self) {
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

/// Whether a container does not run and is left so.
fn is_left(slot: &Slot<'_>) -> bool {
    slot.fate == Fate::Keep
        && slot
            .old
            .is_some_and(|old| !old.state.is_running() && !needs_stop(old))
}
