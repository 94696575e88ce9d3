//! The machine as the executor sees it: with waits answered by the board.

use std::sync::Arc;

use tokio::sync::watch;

use super::board::Board;
use crate::host::{Host, HostError, Machine};
use crate::plan::{Observed, Operation, Target, WAIT};
use crate::project::{Condition, Project};

/// The real machine, and the board that its containers stand on.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) machine: Arc<Machine>,
    pub(super) board: watch::Receiver<Board>,
}

impl Host for Supervised {
    async fn observe(self: &Arc<Self>, project: &Project) -> Result<Observed, HostError> {
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
            other => self.machine.perform(project, other).await,
        }
    }
}

impl Supervised {
    async fn holds(
        &self,
        service: &str,
        containers: &[Target],
        condition: Condition,
        settled: bool,
    ) -> Result<(), String> {
        let mut board = self.board.clone();
        loop {
            let verdict = {
                let board = board.borrow_and_update();
                if settled && condition == Condition::ServiceStarted {
                    board.settled(containers)
                } else {
                    board.verdict(service, containers, condition)
                }
            };
            if let Some(verdict) = verdict {
                return verdict;
            }
            if board.changed().await.is_err() {
                return Err("the supervisor is ending".to_owned());
            }
        }
    }
}
