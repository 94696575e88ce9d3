//! `start`, `restart` and `system resume`: containers as they are, whatever the file says now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::{Cause, ContainerState, Observed, ObservedContainer, Plan, PlanError};
use super::network::Networks;
use super::schedule::{Options, Schedule};
use super::volume::Volumes;
use super::{Fate, Names, Slot, by_service, is_orphan};
use crate::graph::{Graph, GraphError};
use crate::project::Project;

/// Services that are named, and others that exist although the project does
/// not have them any more.
struct Named {
    known: Vec<String>,
    orphans: BTreeSet<String>,
}

fn named(project: &Project, observed: &Observed, services: &[String]) -> Named {
    let exists = |service: &String| {
        observed
            .containers
            .iter()
            .any(|container| container.service == *service)
    };
    let (orphans, known): (Vec<String>, Vec<String>) = services
        .iter()
        .cloned()
        .partition(|service| !project.services.contains_key(service) && exists(service));
    Named {
        known,
        orphans: orphans.into_iter().collect(),
    }
}

pub(super) fn start(
    project: &Project,
    graph: &Graph,
    observed: &Observed,
    services: &[String],
    wait: bool,
) -> Result<Plan, PlanError> {
    let Named { known, orphans } = named(project, observed, services);
    let only_orphans = known.is_empty() && !orphans.is_empty();
    let roots = if only_orphans {
        BTreeSet::new()
    } else {
        graph.select(&known)?
    };
    let selected: Names = if only_orphans {
        Names::default()
    } else {
        graph.closure(&known)?.into_iter().collect()
    };
    let required: Names = graph.reach(roots, |link| link.required).into_iter().collect();
    let mut existing = by_service(observed);
    let nothing = observed.containers.is_empty();
    let mut slots: Vec<Slot<'_>> = Vec::new();
    let mut warnings = Vec::new();
    for name in graph.order() {
        let containers = existing.remove(name.as_str()).unwrap_or_default();
        let replicas = project.services.get(name).map_or(0, |service| service.replicas);
        if containers.is_empty() && replicas > 0 && selected.contains(name) {
            if required.contains(name) && (!services.is_empty() || nothing) {
                return Err(PlanError::NoContainer {
                    service: name.clone(),
                });
            }
            warnings.push(format!(
                "service {name} has no container to start: `up` makes one"
            ));
        }
        let mut theirs = judge(containers, |_| {
            if selected.contains(name) {
                Ok(())
            } else {
                Err("not asked for")
            }
        });
        follow_provider(graph, name, &slots, &mut theirs);
        require_provider(project, graph, name, &slots, &theirs)?;
        slots.extend(theirs);
    }
    for (service, containers) in existing {
        slots.extend(judge(containers, |_| {
            if orphans.contains(service) {
                Ok(())
            } else if is_orphan(project, service) {
                Err("its service is not in the project")
            } else {
                Err("its service is disabled by its profiles")
            }
        }));
    }
    let options = Options {
        selected,
        required,
        up: None,
        timeout: None,
        signal: None,
        starts_after: |_| true,
        wait,
        follow_restart: false,
    };
    finish(project, graph, observed, options, slots, warnings)
}

/// Containers that are to run again after a boot; they wait for those of their
/// dependencies that are, and one that shares the network of a container that
/// stays down stays down with it.
pub(super) fn resume(
    project: &Project,
    graph: &Graph,
    observed: &Observed,
    ids: &[String],
    wait: bool,
) -> Result<Plan, PlanError> {
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let mut existing = by_service(observed);
    let mut slots: Vec<Slot<'_>> = Vec::new();
    let mut warnings = Vec::new();
    let asked = |old: &ObservedContainer| {
        if ids.contains(old.id.as_str()) {
            Ok(())
        } else {
            Err("its restart policy leaves it alone after a boot")
        }
    };
    for name in graph.order() {
        let mut theirs = judge(existing.remove(name.as_str()).unwrap_or_default(), asked);
        if let Err(reason) = require_provider(project, graph, name, &slots, &theirs) {
            warnings.push(reason.to_string());
            for slot in theirs.iter_mut().filter(|slot| slot.start) {
                slot.decide(Fate::Keep, Cause::Requested);
                slot.hold = "the container whose network it shares stays down".into();
            }
        }
        slots.extend(theirs);
    }
    // Services whose file is gone have been running all the same.
    slots.extend(
        existing
            .into_values()
            .flat_map(|containers| judge(containers, asked)),
    );
    let selected: Names = slots
        .iter()
        .filter(|slot| slot.start)
        .map(|slot| slot.service.to_owned())
        .collect();
    let options = Options {
        required: selected.clone(),
        selected,
        up: None,
        timeout: None,
        wait: false,
        signal: None,
        starts_after: if wait { |_| true } else { |link| link.namespace },
        follow_restart: false,
    };
    finish(project, graph, observed, options, slots, warnings)
}

/// Starts what does not run of the containers that `asked` lets pass.
fn judge<'a>(
    containers: Vec<&'a ObservedContainer>,
    asked: impl Fn(&ObservedContainer) -> Result<(), &'static str>,
) -> Vec<Slot<'a>> {
    let places = places(&containers);
    containers
        .into_iter()
        .map(|old| match asked(old) {
            Err(reason) => Slot::keep(old, reason),
            Ok(()) if !places.contains(old.id.as_str()) => Slot::keep(old, TWIN),
            Ok(()) if old.state.is_running() => Slot::keep(old, "running"),
            Ok(()) => Slot::keep(old, "").with(Fate::Start, Cause::NotRunning),
        })
        .collect()
}

/// Why the other one of two containers with the same number is left alone.
const TWIN: &str = "another container has its place, `up` removes this one";

/// Ids of the containers that count. Of several with the same number, left by
/// a crash, that is one that runs, else the newest.
fn places<'a>(containers: &[&'a ObservedContainer]) -> BTreeSet<&'a str> {
    let mut best: BTreeMap<u32, (bool, u64, &str)> = BTreeMap::new();
    for container in containers {
        let this = (
            container.state.is_running(),
            container.created,
            container.id.as_str(),
        );
        let best = best.entry(container.number).or_insert(this);
        *best = this.max(*best);
    }
    best.into_values().map(|(_, _, id)| id).collect()
}

fn first<'s, 'a>(slots: &'s [Slot<'a>], service: &str) -> Option<&'s Slot<'a>> {
    slots
        .iter()
        .filter(|slot| slot.service == service)
        .min_by_key(|slot| (slot.number, !slot.will_run()))
}

/// What shares the network of a container that is started afresh is restarted.
pub(super) fn follow_provider(graph: &Graph, name: &str, slots: &[Slot<'_>], theirs: &mut [Slot<'_>]) {
    for (provider, _) in graph
        .dependencies(name)
        .into_iter()
        .filter(|(_, link)| link.namespace)
    {
        if first(slots, provider).is_some_and(|slot| matches!(slot.fate, Fate::Start | Fate::Restart)) {
            for slot in theirs
                .iter_mut()
                .filter(|slot| slot.fate == Fate::Keep && slot.is_running())
            {
                slot.decide(
                    Fate::Restart,
                    Cause::Replaced {
                        what: format!("service {provider}"),
                    },
                );
            }
        }
    }
}

pub(super) fn require_provider(
    project: &Project,
    graph: &Graph,
    name: &str,
    slots: &[Slot<'_>],
    theirs: &[Slot<'_>],
) -> Result<(), PlanError> {
    if !theirs.iter().any(|slot| slot.start) {
        return Ok(());
    }
    match graph
        .dependencies(name)
        .into_iter()
        .find(|(_, link)| link.namespace)
    {
        Some((provider, _)) if !first(slots, provider).is_some_and(Slot::will_run) => {
            Err(PlanError::NamespaceMissing {
                service: name.to_owned(),
                provider: provider.to_owned(),
                origin: project.origin(&format!("services.{name}.network_mode")).cloned(),
            })
        }
        _ => Ok(()),
    }
}

pub(super) fn restart(
    project: &Project,
    graph: &Graph,
    observed: &Observed,
    services: &[String],
    timeout: Option<Duration>,
    no_deps: bool,
) -> Result<Plan, PlanError> {
    let Named { known, orphans } = named(project, observed, services);
    let roots = if known.is_empty() && !orphans.is_empty() {
        BTreeSet::new()
    } else {
        graph.select(&known)?
    };
    let selected = graph.reach_back(roots.clone(), |link| link.namespace || link.restart && !no_deps);
    let selected: Names = selected.into_iter().collect();
    let mut existing = by_service(observed);
    if let Some(service) = roots.iter().find(|service| {
        let replicas = project
            .services
            .get(*service)
            .map_or(0, |service| service.replicas);
        !services.is_empty() && replicas > 0 && !existing.contains_key(service.as_str())
    }) {
        return Err(PlanError::NoContainer {
            service: service.clone(),
        });
    }
    let mut slots: Vec<Slot<'_>> = Vec::new();
    for name in graph.order() {
        let containers = existing.remove(name.as_str()).unwrap_or_default();
        let mut theirs = Vec::new();
        let places = places(&containers);
        for old in containers {
            let asked = roots.contains(name);
            theirs.push(if !places.contains(old.id.as_str()) {
                Slot::keep(old, TWIN)
            } else if asked || selected.contains(name) && old.state.is_running() {
                let cause = if asked {
                    Cause::Requested
                } else {
                    followed(graph, name, &selected)
                };
                again(old, cause)
            } else {
                Slot::keep(old, "not asked for")
            });
        }
        follow_provider(graph, name, &slots, &mut theirs);
        require_provider(project, graph, name, &slots, &theirs)?;
        slots.extend(theirs);
    }
    for (service, containers) in existing {
        let places = places(&containers);
        for old in containers {
            slots.push(if !places.contains(old.id.as_str()) {
                Slot::keep(old, TWIN)
            } else if orphans.contains(service) {
                again(old, Cause::Requested)
            } else {
                Slot::keep(old, "its service is not in the project")
            });
        }
    }
    let options = Options {
        required: selected.clone(),
        selected,
        up: None,
        timeout,
        signal: None,
        // As docker compose: only what restarts with its dependency waits for it.
        wait: false,
        starts_after: |link| link.restart || link.namespace,
        follow_restart: !no_deps,
    };
    finish(project, graph, observed, options, slots, Vec::new())
}

pub(super) fn again(old: &ObservedContainer, cause: Cause) -> Slot<'_> {
    match old.state {
        ContainerState::Running { .. } => Slot::keep(old, "").with(Fate::Restart, cause),
        ContainerState::Created | ContainerState::Exited { .. } => {
            Slot::keep(old, "").with(Fate::Start, cause)
        }
    }
}

/// Why a dependent is restarted: the first of its dependencies that is.
fn followed(graph: &Graph, name: &str, selected: &Names) -> Cause {
    let links = graph.dependencies(name);
    let with = links
        .iter()
        .find(|(dependency, link)| (link.restart || link.namespace) && selected.contains(*dependency));
    Cause::Replaced {
        what: with.map_or_else(String::new, |(dependency, _)| format!("service {dependency}")),
    }
}

pub(super) fn finish(
    project: &Project,
    graph: &Graph,
    observed: &Observed,
    options: Options<'_>,
    slots: Vec<Slot<'_>>,
    warnings: Vec<String>,
) -> Result<Plan, PlanError> {
    let networks = Networks::new(project, observed);
    let volumes = Volumes::new(project, observed);
    let mut schedule = Schedule::new(project, graph, observed, options, slots, networks, volumes);
    schedule.warnings = warnings;
    schedule.finish()
}

/// An error for a name that neither the project nor the host knows.
pub(super) fn require_known(
    project: &Project,
    observed: &Observed,
    services: &[String],
) -> Result<(), GraphError> {
    for service in services {
        let known = project.services.contains_key(service)
            || project.disabled_services.contains_key(service)
            || observed
                .containers
                .iter()
                .any(|container| container.service == *service);
        if !known {
            let names = project
                .services
                .keys()
                .chain(observed.containers.iter().map(|container| &container.service));
            return Err(GraphError::NoSuchService {
                service: service.clone(),
                suggestion: crate::graph::nearest(service, names),
            });
        }
    }
    Ok(())
}
