//! `kill`, `pause` and `unpause`: what reaches the processes of containers and
//! leaves the containers as they are.

use super::super::draft::Draft;
use super::super::{Cause, ContainerState, Observed, ObservedContainer, Operation, Plan, PlanError};
use super::running::require_known;
use super::teardown::{Which, dependents_first, finish, in_scope};
use super::{hold, target};
use crate::project::Project;

/// What becomes of a container: an operation, or why it is left alone.
type Verdict = Result<Operation, String>;

fn each(
    project: &Project,
    observed: &Observed,
    services: &[String],
    which: Which,
    orphans: bool,
    verdict: impl Fn(&ObservedContainer) -> Verdict,
) -> Result<Plan, PlanError> {
    require_known(project, observed, services)?;
    let mut draft = Draft::default();
    let mut holds = Vec::new();
    for service in dependents_first(project, observed, which) {
        for container in service.containers {
            match in_scope(project, services, orphans, container) {
                Err(hold) => holds.push(hold),
                Ok(()) => match verdict(container) {
                    Ok(operation) => {
                        draft.add(operation, Cause::Requested);
                    }
                    Err(reason) => holds.push(hold("container", &container.name, reason)),
                },
            }
        }
    }
    finish(draft, holds, Vec::new())
}

fn does_not_run(container: &ObservedContainer) -> String {
    match container.state {
        ContainerState::Exited { code, .. } => format!("ended with status {code}"),
        _ => "never started".to_owned(),
    }
}

pub(super) fn kill(
    project: &Project,
    observed: &Observed,
    services: &[String],
    signal: &str,
    orphans: bool,
) -> Result<Plan, PlanError> {
    each(project, observed, services, Which::All, orphans, |container| {
        if container.state.is_running() {
            Ok(Operation::SignalContainer {
                container: target(container),
                signal: signal.to_owned(),
            })
        } else {
            Err(does_not_run(container))
        }
    })
}

/// Freezes, or lets go on.
pub(super) fn pause(
    project: &Project,
    observed: &Observed,
    services: &[String],
    freeze: bool,
) -> Result<Plan, PlanError> {
    each(project, observed, services, Which::Replicas, false, |container| {
        let container_of = || target(container);
        match (container.state.is_running(), container.state.is_paused(), freeze) {
            (true, false, true) => Ok(Operation::PauseContainer {
                container: container_of(),
            }),
            (true, true, false) => Ok(Operation::UnpauseContainer {
                container: container_of(),
            }),
            (true, true, true) => Err("paused already".to_owned()),
            (true, false, false) => Err("not paused".to_owned()),
            (false, ..) => Err(does_not_run(container)),
        }
    })
}
