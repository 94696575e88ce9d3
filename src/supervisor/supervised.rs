//! The machine as the executor sees it: with waits answered by the board.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::board::Board;
use super::journal::Journal;
use crate::host::{ContainerRecord, Host, HostError, Machine};
use crate::plan::{Observed, Operation, Target, WAIT};
use crate::project::{Condition, Project};
use crate::sys::signal;

/// The real machine, and the board that its containers stand on.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) machine: Arc<Machine>,
    pub(super) board: watch::Receiver<Board>,
    pub(super) journal: Arc<Journal>,
    /// Ids of the containers that the present plan has made.
    made: Mutex<Made>,
    /// The containers that it has asked to stop, and no more than that: services, by id.
    ending: Mutex<BTreeMap<String, String>>,
}

/// Ids of containers, by service and number.
type Made = HashMap<(String, u32), String>;

/// Those that are meant, with their ids: without one, a plan means a container that
/// it makes. One that was not made is nobody's, though another has its name.
fn identify(containers: &[Target], made: &Made) -> Vec<Target> {
    let identify = |target: &Target| {
        let made = || made.get(&(target.service.clone(), target.number)).cloned();
        Target {
            id: Some(target.id.clone().or_else(made).unwrap_or_default()),
            ..target.clone()
        }
    };
    containers.iter().map(identify).collect()
}

impl Host for Supervised {
    async fn observe(self: &Arc<Self>, project: &Arc<Project>) -> Result<Observed, HostError> {
        self.machine.observe(project).await
    }

    async fn perform(
        self: &Arc<Self>,
        project: &Project,
        operation: &Operation,
    ) -> Result<Vec<String>, HostError> {
        match operation {
            Operation::Await {
                service,
                containers,
                condition,
                required,
                by,
            } => match self.holds(service, containers, *condition, by == WAIT).await {
                Ok(()) => Ok(vec![]),
                Err(reason) if *required => Err(HostError::Dependency { reason }),
                Err(reason) => Ok(vec![format!("optional dependency: {reason}")]),
            },
            Operation::Settle {
                service,
                containers,
                monitor,
                delay,
                tolerated,
                required,
            } => {
                let containers = identify(containers, &self.made());
                let settled = self.settle(&containers, *monitor, *tolerated).await;
                let told = match settled {
                    Err(failures) if *required => {
                        return Err(HostError::Dependency {
                            reason: format!(
                                "the update of service \"{service}\" is not gone on with: {failures}"
                            ),
                        });
                    }
                    Err(failures) => vec![format!("update of service \"{service}\": {failures}")],
                    Ok(()) => vec![],
                };
                tokio::time::sleep(*delay).await;
                Ok(told)
            }
            other => {
                let stopping = self.announce(other);
                let result = self.machine.perform(project, other).await;
                if result.is_ok() {
                    self.note(project, other, stopping.as_deref());
                }
                result
            }
        }
    }
}

impl Supervised {
    pub(super) fn new(machine: Arc<Machine>, board: watch::Receiver<Board>, journal: Arc<Journal>) -> Self {
        Self {
            machine,
            board,
            journal,
            made: Mutex::default(),
            ending: Mutex::default(),
        }
    }

    /// Another plan is about to be walked.
    pub(super) fn begin(&self) {
        self.made().clear();
        self.ending().clear();
    }

    /// The containers that the last walk has asked to stop and neither removed nor
    /// started again: their services, by id.
    pub(super) fn ending(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        // As below.
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        // Every change under the lock is one insertion, or all are removed.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is about to be done; the id of a container that runs and is
    /// to be stopped.
    fn announce(&self, operation: &Operation) -> Option<String> {
        match operation {
            Operation::StopContainer {
                container,
                again,
                signal,
                ..
            } => {
                let record = self.record(container)?;
                if !self.journal.runs(&record.id) {
                    return None;
                }
                self.ending().insert(record.id.clone(), container.service.clone());
                let signal = signal.as_deref().and_then(signal::number);
                let signal = signal.unwrap_or_else(|| self.machine.stop_signal(&record));
                self.journal.stopping(&record, signal, *again);
                Some(record.id)
            }
            Operation::StartContainer { container } => {
                self.ending().remove(&self.record(container)?.id);
                None
            }
            Operation::SignalContainer { container, signal } => {
                let record = self.record(container)?;
                if self.journal.runs(&record.id) {
                    self.journal
                        .signalled(&record, signal::number(signal).unwrap_or(libc::SIGKILL));
                }
                None
            }
            Operation::RemoveContainer { container, .. } => {
                // Its record is gone when its end is told.
                let record = self.record(container)?;
                self.ending().remove(&record.id);
                self.journal.learn(&record);
                None
            }
            _ => None,
        }
    }

    /// Notes what has been done, and is not heard of as news.
    fn note(&self, project: &Project, operation: &Operation, stopped: Option<&str>) {
        match operation {
            Operation::StopContainer { .. } => {
                if let Some(id) = stopped {
                    self.journal.stopped(id);
                }
            }
            Operation::CreateContainer {
                service,
                number,
                one_off,
                ..
            } => {
                let record = match one_off {
                    Some(one_off) => self.machine.record_by_id(&one_off.id),
                    None => self.machine.newest(service, *number),
                };
                if let Some(record) = record {
                    self.made().insert((service.clone(), *number), record.id.clone());
                    self.journal.created(&record);
                }
            }
            Operation::PauseContainer { container } | Operation::UnpauseContainer { container } => {
                if let Some(record) = self.record(container) {
                    let action = match operation {
                        Operation::PauseContainer { .. } => "pause",
                        _ => "unpause",
                    };
                    self.journal.changed(&record, action);
                }
            }
            Operation::CreateNetwork { network, name } => {
                let driver = project.networks.get(network).and_then(|of| of.driver.as_deref());
                let attributes = [("name", name.as_str()), ("type", driver.unwrap_or("bridge"))];
                self.journal.resource("network", "create", name, &attributes);
            }
            Operation::RemoveNetwork { name, .. } => {
                self.journal
                    .resource("network", "destroy", name, &[("name", name)]);
            }
            Operation::CreateVolume { name, .. } => {
                self.journal
                    .resource("volume", "create", name, &[("driver", "local")]);
            }
            Operation::RemoveVolume { name } => {
                self.journal
                    .resource("volume", "destroy", name, &[("driver", "local")]);
            }
            _ => {}
        }
    }

    fn record(&self, target: &Target) -> Option<ContainerRecord> {
        match &target.id {
            Some(id) => self.machine.record_by_id(id),
            None => self.machine.newest(&target.service, target.number),
        }
    }

    /// Waits until containers have settled, and watches them for a while.
    ///
    /// # Errors
    /// What happened to those that failed, when they are more than may.
    async fn settle(&self, containers: &[Target], monitor: Duration, tolerated: u32) -> Result<(), String> {
        let mut board = self.board.clone();
        let mut watched = None;
        loop {
            let (open, failures) = board.borrow_and_update().standing(containers);
            if failures.len() > usize::try_from(tolerated).unwrap_or(usize::MAX) {
                return Err(failures.join(", "));
            }
            if open == 0 && watched.is_none() {
                watched = Some(Instant::now() + monitor);
            }
            let end = async {
                match watched {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = board.changed() => if changed.is_err() {
                    return Err("the supervisor is ending".to_owned());
                },
                () = end => return Ok(()),
            }
        }
    }

    async fn holds(
        &self,
        service: &str,
        containers: &[Target],
        condition: Condition,
        settled: bool,
    ) -> Result<(), String> {
        let mut board = self.board.clone();
        loop {
            let (verdict, proven) = {
                let board = board.borrow_and_update();
                if settled && condition == Condition::ServiceStarted {
                    (board.settled(containers), board.proven(containers))
                } else {
                    (board.verdict(service, containers, condition), None)
                }
            };
            // A failure is one at once; success has to last.
            let lasts = proven.filter(|proven| verdict == Some(Ok(())) && *proven > Instant::now());
            if let (Some(verdict), None) = (verdict, lasts) {
                return verdict;
            }
            let proven = async {
                match lasts {
                    Some(proven) => tokio::time::sleep_until(proven).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = board.changed() => if changed.is_err() {
                    return Err("the supervisor is ending".to_owned());
                },
                () = proven => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::board::{Entry, Run};
    use super::*;

    #[test]
    fn one_that_the_plan_has_not_made_is_not_taken_for_another_of_its_name() {
        let target = Target {
            id: None,
            service: "web".into(),
            number: 1,
            name: "shop-web-1".into(),
        };
        let mut board = Board::default();
        let runs = |service: &str| Entry {
            service: service.into(),
            name: target.name.clone(),
            run: Run::Running { health: None },
            since: Instant::now(),
            probed: String::new(),
        };
        // It could not be stopped, so its successor was not made.
        board.set("old", runs("web"));
        let mut made = Made::new();
        let standing =
            |board: &Board, made: &Made| board.standing(&identify(std::slice::from_ref(&target), made));
        assert_eq!(
            standing(&board, &made),
            (0, vec!["container shop-web-1 was not started".to_owned()])
        );
        made.insert(("web".into(), 1), "new".into());
        assert_eq!(standing(&board, &made).1.len(), 1, "made, and not started");
        board.set("new", runs("web"));
        assert_eq!(standing(&board, &made), (0, vec![]));
    }
}
