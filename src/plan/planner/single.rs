//! Single containers, by id: what `container stop` and its like ask for. A
//! container that is not named is left alone, unless it shares the network of
//! one that is started afresh.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::draft::{Draft, Step};
use super::super::{Cause, ContainerState, Observed, ObservedContainer, Operation, Plan, PlanError, Verb};
use super::running::{again, finish as finish_running, follow_provider, require_provider};
use super::schedule::Options;
use super::teardown::{Which, dependents_first, finish, stops_in_order};
use super::{Fate, Names, Slot, grouped, hold, needs_stop, target};
use crate::graph::Graph;
use crate::project::Project;

/// Why a container is left alone that nobody named.
const NOT_ASKED: &str = "not asked for";

pub(super) fn plan(
    project: &Project,
    observed: &Observed,
    ids: &[String],
    verb: &Verb,
) -> Result<Plan, PlanError> {
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    match verb {
        Verb::Start => started(
            project,
            observed,
            &ids,
            |old| {
                if old.state.is_running() {
                    Slot::keep(old, "running")
                } else {
                    Slot::keep(old, "").with(Fate::Start, Cause::Requested)
                }
            },
            (None, None),
        ),
        Verb::Restart { timeout, signal } => started(
            project,
            observed,
            &ids,
            |old| again(old, Cause::Requested),
            (*timeout, signal.clone()),
        ),
        other => ended(project, observed, &ids, other),
    }
}

/// What starts something: networks that are down are made again first.
fn started<'a>(
    project: &'a Project,
    observed: &'a Observed,
    ids: &BTreeSet<&str>,
    decide: impl Fn(&'a ObservedContainer) -> Slot<'a>,
    (timeout, signal): (Option<Duration>, Option<String>),
) -> Result<Plan, PlanError> {
    let graph = Graph::new(project)?;
    // Of the containers that `run` made only those that are named: the others
    // count as nobody's replica.
    let counts = |old: &&ObservedContainer| !old.one_off || ids.contains(old.id.as_str());
    let mut existing = grouped(observed.containers.iter().filter(counts));
    let order: Vec<&str> = graph.order().iter().map(String::as_str).collect();
    let others: Vec<&str> = existing
        .keys()
        .copied()
        .filter(|name| !order.contains(name))
        .collect();
    let mut slots: Vec<Slot<'_>> = Vec::new();
    for name in order.into_iter().chain(others) {
        let containers = existing.remove(name).unwrap_or_default();
        let mut theirs: Vec<Slot<'_>> = containers
            .into_iter()
            .map(|old| {
                if ids.contains(old.id.as_str()) {
                    decide(old)
                } else {
                    Slot::keep(old, NOT_ASKED)
                }
            })
            .collect();
        follow_provider(&graph, name, &slots, &mut theirs);
        require_provider(project, &graph, name, &slots, &theirs)?;
        slots.extend(theirs);
    }
    let options = Options {
        selected: Names::default(),
        required: Names::default(),
        up: None,
        timeout,
        signal,
        // As docker: nobody waits for a dependency but for its network.
        wait: false,
        starts_after: |link| link.namespace,
        follow_restart: false,
    };
    finish_running(project, &graph, observed, options, slots, Vec::new())
}

/// What starts nothing.
fn ended(
    project: &Project,
    observed: &Observed,
    ids: &BTreeSet<&str>,
    verb: &Verb,
) -> Result<Plan, PlanError> {
    let mut draft = Draft::default();
    let mut holds = Vec::new();
    let mut stops: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for service in dependents_first(project, observed, Which::All) {
        for container in service.containers {
            let operation = if ids.contains(container.id.as_str()) {
                operation(container, verb)
            } else {
                Err(NOT_ASKED.to_owned())
            };
            match operation {
                Err(reason) => holds.push(hold("container", &container.name, reason)),
                Ok(operation) => {
                    let removes = matches!(operation, Operation::RemoveContainer { .. });
                    let stop = (removes && needs_stop(container)).then(|| {
                        let kill = Operation::StopContainer {
                            container: target(container),
                            timeout: Some(Duration::ZERO),
                            signal: None,
                            again: false,
                        };
                        draft.add(kill, Cause::Requested)
                    });
                    let stops_only = matches!(operation, Operation::StopContainer { .. });
                    let step = draft.add(operation, Cause::Requested);
                    draft.after(step, stop);
                    let own = if stops_only { Some(step) } else { stop };
                    stops.entry(service.name).or_default().extend(own);
                }
            }
        }
    }
    for (stop, dependents) in stops_in_order(project, observed, &stops) {
        draft.after(stop, dependents.iter().copied());
    }
    finish(draft, holds, Vec::new())
}

/// What one container needs, or why it is left alone.
fn operation(container: &ObservedContainer, verb: &Verb) -> Result<Operation, String> {
    let running = container.state.is_running();
    let idle = || match container.state {
        ContainerState::Exited { code, .. } => format!("ended with status {code}"),
        _ => "never started".to_owned(),
    };
    let container_of = || target(container);
    match verb {
        Verb::Stop { timeout, signal } if needs_stop(container) => Ok(Operation::StopContainer {
            container: container_of(),
            timeout: *timeout,
            signal: signal.clone(),
            again: false,
        }),
        Verb::Kill { signal } if running => Ok(Operation::SignalContainer {
            container: container_of(),
            signal: signal.clone(),
        }),
        Verb::Pause if running && !container.state.is_paused() => Ok(Operation::PauseContainer {
            container: container_of(),
        }),
        Verb::Pause if running => Err("paused already".to_owned()),
        Verb::Unpause if container.state.is_paused() => Ok(Operation::UnpauseContainer {
            container: container_of(),
        }),
        Verb::Unpause if running => Err("not paused".to_owned()),
        Verb::Remove { force, volumes } if *force || !needs_stop(container) => {
            Ok(Operation::RemoveContainer {
                container: container_of(),
                volumes: *volumes,
                replaced: false,
            })
        }
        Verb::Remove { .. } => Err("running".to_owned()),
        _ => Err(idle()),
    }
}
