//! Walks a plan: performs its actions with all the parallelism the DAG has.
//!
//! The executor decides nothing. It starts every action whose prerequisites
//! have succeeded, at most [`PARALLEL`] at a time, and when one fails it skips
//! what depends on it and goes on with the rest, so that one broken service
//! does not keep the others down. Cancelling stops it from starting anything
//! new, abandons waits (for a condition, a pull, a container to stop), and lets
//! whatever else has begun come to its end: an action is
//! never torn in the middle by us. (It may be by SIGKILL; every action can be
//! repeated, and the next plan starts from what is really there.)
//!
//! Known to be weak: there is no priority among ready actions; they start in
//! plan order.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::host::{Host, HostError};
use crate::plan::{Action, Operation, Plan};
use crate::project::Project;

mod event;
#[cfg(test)]
mod tests;

pub use event::{Event, Phase, resource};

/// Most actions in progress at once. Actions mostly wait (for a pull, a grace
/// period, a health check), so this bounds memory and descriptors rather than
/// processor time; the host bounds that.
const PARALLEL: usize = 64;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Report {
    /// Actions that failed, by index, with their errors.
    pub failed: Vec<(usize, HostError)>,
    /// Actions not begun, because a prerequisite failed or the walk was cancelled.
    pub skipped: Vec<usize>,
    /// The walk was cancelled before its end.
    pub cancelled: bool,
}

impl Report {
    /// Whether every action was done.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.skipped.is_empty() && !self.cancelled
    }
}

/// The stop button of a walk. Dropping it does not press it.
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

/// What a walk, or a wait inside it, listens to.
#[derive(Clone, Debug)]
pub struct Cancelled(watch::Receiver<bool>);

/// A stop button and what listens to it.
pub fn cancellation() -> (Canceller, Cancelled) {
    let (sender, receiver) = watch::channel(false);
    (Canceller(sender), Cancelled(receiver))
}

impl Canceller {
    /// Presses the button.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancelled {
    /// Whether the button has been pressed.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when the button is pressed; never when it was dropped unpressed.
    pub async fn cancelled(&mut self) {
        if self.0.wait_for(|pressed| *pressed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Where each action of a walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many prerequisites are missing.
    Blocked(usize),
    Begun,
    Done,
    /// Failed, or not to be done because a prerequisite was not.
    Lost,
}

/// Performs every action of `plan` on `host`. `tell` hears of each change, in
/// the order it happens.
///
/// Failures are in the report, not an error: the rest of the plan goes on.
pub async fn execute<H: Host>(
    host: &Arc<H>,
    project: &Arc<Project>,
    plan: &Plan,
    mut cancelled: Cancelled,
    mut tell: impl FnMut(Event),
) -> Report {
    let mut states: Vec<State> = plan
        .actions
        .iter()
        .map(|action| State::Blocked(action.after.len()))
        .collect();
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); plan.actions.len()];
    for (index, action) in plan.actions.iter().enumerate() {
        for prerequisite in &action.after {
            if let Some(list) = dependents.get_mut(*prerequisite) {
                list.push(index);
            }
        }
    }
    let mut ready: std::collections::BTreeSet<usize> = (0..states.len())
        .filter(|index| states.get(*index) == Some(&State::Blocked(0)))
        .collect();
    let mut running: JoinSet<(usize, Result<Vec<String>, HostError>)> = JoinSet::new();
    let mut report = Report::default();
    loop {
        while running.len() < PARALLEL && !cancelled.is_cancelled() {
            let Some(index) = ready.pop_first() else { break };
            let Some(action) = plan.actions.get(index) else {
                continue;
            };
            set(&mut states, index, State::Begun);
            tell(Event::of(action, Phase::Begun));
            running.spawn(perform(
                host.clone(),
                project.clone(),
                action.clone(),
                index,
                cancelled.clone(),
            ));
        }
        let finished = tokio::select! {
            finished = running.join_next() => finished,
            () = cancelled.cancelled(), if !report.cancelled => { report.cancelled = true; continue }
        };
        let (index, result) = match finished {
            None => break,
            Some(Ok(finished)) => finished,
            // The runtime is shutting down, or an action panicked: its own
            // state is unknown, and its dependents must not be begun.
            Some(Err(error)) => {
                report.failed.push((
                    usize::MAX,
                    HostError::Interrupted {
                        reason: error.to_string(),
                    },
                ));
                continue;
            }
        };
        let Some(action) = plan.actions.get(index) else {
            continue;
        };
        match result {
            Ok(warnings) => {
                for text in warnings {
                    tell(Event::Warning { text });
                }
                tell(Event::of(action, Phase::Done));
                set(&mut states, index, State::Done);
                for dependent in dependents.get(index).into_iter().flatten() {
                    if unblock(&mut states, *dependent) {
                        ready.insert(*dependent);
                    }
                }
            }
            Err(error) => {
                let phase = if matches!(error, HostError::Cancelled) {
                    Phase::Cancelled
                } else {
                    Phase::Failed {
                        error: error.to_string(),
                    }
                };
                tell(Event::of(action, phase));
                if !matches!(error, HostError::Cancelled) {
                    report.failed.push((index, error));
                }
                set(&mut states, index, State::Lost);
                ready.extend(lose(plan, &mut states, &dependents, index));
            }
        }
    }
    report.skipped = states
        .iter()
        .enumerate()
        .filter(|(index, state)| {
            !matches!(state, State::Done) && !report.failed.iter().any(|(failed, _)| failed == index)
        })
        .map(|(index, _)| index)
        .collect();
    // What was abandoned may have come to its end before the button was seen.
    report.cancelled |= cancelled.is_cancelled() && !report.skipped.is_empty();
    report
}

async fn perform<H: Host>(
    host: Arc<H>,
    project: Arc<Project>,
    action: Action,
    index: usize,
    mut cancelled: Cancelled,
) -> (usize, Result<Vec<String>, HostError>) {
    let work = host.perform(&project, &action.operation);
    // Only a wait may be abandoned: it changes nothing. A container that has
    // been asked to stop ends all the same, or is asked again by the next plan
    // (but one that is to be started again: nobody else knows that it is about to
    // end, and the next plan would find it running);
    // the container of a hook is removed by whoever walks.
    let result = if matches!(
        action.operation,
        Operation::Await { .. }
            | Operation::Settle { .. }
            | Operation::Prepare { .. }
            | Operation::PullImage { .. }
            | Operation::StopContainer { again: false, .. }
    ) {
        tokio::select! {
            result = work => result,
            () = cancelled.cancelled() => Err(HostError::Cancelled),
        }
    } else {
        work.await
    };
    (index, result)
}

fn set(states: &mut [State], index: usize, state: State) {
    if let Some(place) = states.get_mut(index) {
        *place = state;
    }
}

/// One prerequisite of an action is out of the way; whether it was the last.
fn unblock(states: &mut [State], index: usize) -> bool {
    match states.get_mut(index) {
        Some(State::Blocked(missing)) => {
            *missing = missing.saturating_sub(1);
            *missing == 0
        }
        _ => false,
    }
}

/// Marks everything that needs `index` as lost, but for waits that may fail:
/// those go on, and are returned when they are ready.
fn lose(plan: &Plan, states: &mut [State], dependents: &[Vec<usize>], index: usize) -> Vec<usize> {
    let (mut reached, mut ready) = (vec![index], Vec::new());
    while let Some(at) = reached.pop() {
        for &dependent in dependents.get(at).into_iter().flatten() {
            let operation = |index: usize| plan.actions.get(index).map(|action| &action.operation);
            let optional = match operation(dependent) {
                Some(Operation::Await { required: false, .. }) => true,
                // One group of an update is not gone on with when the one before is not.
                Some(Operation::Settle { .. }) => !matches!(operation(at), Some(Operation::Settle { .. })),
                _ => false,
            };
            if optional {
                if unblock(states, dependent) {
                    ready.push(dependent);
                }
            } else if matches!(states.get(dependent), Some(State::Blocked(_))) {
                set(states, dependent, State::Lost);
                reached.push(dependent);
            }
        }
    }
    ready
}
