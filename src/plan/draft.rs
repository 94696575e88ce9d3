//! A plan in the making: actions in any order, sorted at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Action, Cause, Operation, PlanError, render};

/// An action of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step(usize);

/// Actions with their prerequisites.
#[derive(Debug, Default)]
pub(super) struct Draft {
    actions: Vec<(Operation, Cause)>,
    after: Vec<Vec<usize>>,
}

impl Draft {
    /// Adds an action.
    pub(super) fn add(&mut self, operation: Operation, cause: Cause) -> Step {
        self.actions.push((operation, cause));
        self.after.push(Vec::new());
        Step(self.actions.len() - 1)
    }

    /// Makes `step` come after each of `others`; itself is left out.
    pub(super) fn after(&mut self, step: Step, others: impl IntoIterator<Item = Step>) {
        if let Some(after) = self.after.get_mut(step.0) {
            after.extend(
                others
                    .into_iter()
                    .map(|other| other.0)
                    .filter(|&other| other != step.0),
            );
        }
    }

    /// Whether an action comes after another one.
    pub(super) fn waits(&self, step: Step) -> bool {
        self.after.get(step.0).is_some_and(|after| !after.is_empty())
    }

    /// The actions in topological order; of those that could come next, the
    /// one that was added first.
    ///
    /// # Errors
    /// [`PlanError::Contradiction`] when actions wait for each other.
    pub(super) fn finish(mut self) -> Result<Vec<Action>, PlanError> {
        let count = self.actions.len();
        let mut waits = vec![0_usize; count];
        let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (index, after) in self.after.iter_mut().enumerate() {
            after.sort_unstable();
            after.dedup();
            if let Some(waits) = waits.get_mut(index) {
                *waits = after.len();
            }
            for &other in after.iter() {
                if let Some(dependents) = dependents.get_mut(other) {
                    dependents.push(index);
                }
            }
        }
        let mut ready: BinaryHeap<Reverse<usize>> = waits
            .iter()
            .enumerate()
            .filter(|(_, waits)| **waits == 0)
            .map(|(index, _)| Reverse(index))
            .collect();
        let mut position = vec![usize::MAX; count];
        let mut order = Vec::with_capacity(count);
        while let Some(Reverse(index)) = ready.pop() {
            if let Some(position) = position.get_mut(index) {
                *position = order.len();
            }
            order.push(index);
            for &dependent in dependents.get(index).map_or(&[][..], Vec::as_slice) {
                if let Some(waits) = waits.get_mut(dependent) {
                    *waits -= 1;
                    if *waits == 0 {
                        ready.push(Reverse(dependent));
                    }
                }
            }
        }
        if order.len() < count {
            let stuck = waits
                .iter()
                .position(|&waits| waits > 0)
                .and_then(|index| self.actions.get(index));
            return Err(PlanError::Contradiction {
                action: stuck.map_or_else(String::new, |(operation, _)| render::operation(operation)),
            });
        }
        let mut actions: Vec<Option<Action>> = self
            .actions
            .into_iter()
            .zip(self.after)
            .map(|((operation, cause), after)| {
                let mut after: Vec<usize> =
                    after.iter().filter_map(|&at| position.get(at).copied()).collect();
                after.sort_unstable();
                Some(Action {
                    operation,
                    cause,
                    after,
                })
            })
            .collect();
        Ok(order
            .into_iter()
            .filter_map(|index| actions.get_mut(index)?.take())
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> Operation {
        Operation::RemoveVolume { name: name.into() }
    }

    #[test]
    fn actions_are_sorted_and_renumbered() {
        let mut draft = Draft::default();
        let a = draft.add(volume("a"), Cause::Requested);
        let b = draft.add(volume("b"), Cause::Requested);
        let c = draft.add(volume("c"), Cause::Requested);
        draft.after(a, [c, b, c, a]);
        let actions = draft.finish().unwrap();
        let names: Vec<_> = actions.iter().map(|action| action.operation.clone()).collect();
        assert_eq!(names, [volume("b"), volume("c"), volume("a")]);
        assert_eq!(actions[2].after, [0, 1]);
    }

    #[test]
    fn a_contradiction_is_an_error() {
        let mut draft = Draft::default();
        let a = draft.add(volume("a"), Cause::Requested);
        let b = draft.add(volume("b"), Cause::Requested);
        draft.after(a, [b]);
        draft.after(b, [a]);
        assert!(matches!(draft.finish(), Err(PlanError::Contradiction { .. })));
    }
}
