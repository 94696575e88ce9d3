//! `down` and `stop`: dependents before what they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::super::draft::{Draft, Step};
use super::super::{
    Cause, ContainerState, Down, Hold, Observed, ObservedContainer, Operation, Plan, PlanError,
};
use super::running::require_known;
use super::{grouped, hold, is_orphan, needs_stop, orphan_warning, recorded, target};
use crate::graph::mounted;
use crate::project::{NetworkMode, Project, Service};

/// Which containers a command is about, and why the others are left alone.
pub(super) fn in_scope(
    project: &Project,
    services: &[String],
    orphans_too: bool,
    container: &ObservedContainer,
) -> Result<(), Hold> {
    let service = &container.service;
    let reason = if !services.is_empty() {
        if services.contains(service) {
            return Ok(());
        }
        "not asked for".to_owned()
    } else if let Some(profiles) = project.disabled_services.get(service) {
        format!("its service is disabled, by profiles [{}]", profiles.join(" "))
    } else if is_orphan(project, service) && !orphans_too {
        "its service is not in the project".to_owned()
    } else {
        return Ok(());
    };
    Err(hold("container", &container.name, reason))
}

pub(super) fn stop(
    project: &Project,
    observed: &Observed,
    services: &[String],
    timeout: Option<Duration>,
) -> Result<Plan, PlanError> {
    require_known(project, observed, services)?;
    let mut draft = Draft::default();
    let mut holds = Vec::new();
    let mut stops: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for service in dependents_first(project, observed, Which::Replicas) {
        for container in service.containers {
            match in_scope(project, services, false, container) {
                Err(hold) => holds.push(hold),
                Ok(()) if needs_stop(container) => {
                    let step = draft.add(stop_operation(container, timeout), Cause::Requested);
                    stops.entry(service.name).or_default().push(step);
                }
                Ok(()) => {
                    let reason = match container.state {
                        ContainerState::Created => "never started".to_owned(),
                        ContainerState::Exited { stopped: true, .. } => "stopped already".to_owned(),
                        ContainerState::Exited { code, .. } => format!("ended with status {code}"),
                        ContainerState::Running { .. } => continue,
                    };
                    holds.push(hold("container", &container.name, reason));
                }
            }
        }
    }
    for (stop, dependents) in stops_in_order(project, observed, &stops) {
        draft.after(stop, dependents.iter().copied());
    }
    finish(draft, holds, Vec::new())
}

/// `rm`: containers that do not run go; with `stop` those that do are stopped first.
pub(super) fn remove(
    project: &Project,
    observed: &Observed,
    services: &[String],
    stop: bool,
    volumes: bool,
) -> Result<Plan, PlanError> {
    require_known(project, observed, services)?;
    let mut draft = Draft::default();
    let mut holds = Vec::new();
    let mut stops: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for service in dependents_first(project, observed, Which::Replicas) {
        for container in service.containers {
            if let Err(hold) = in_scope(project, services, false, container) {
                holds.push(hold);
                continue;
            }
            let runs = needs_stop(container);
            if runs && !stop {
                holds.push(hold("container", &container.name, "running"));
                continue;
            }
            let stopped = runs.then(|| draft.add(stop_operation(container, None), Cause::Requested));
            stops.entry(service.name).or_default().extend(stopped);
            let operation = Operation::RemoveContainer {
                container: target(container),
                volumes,
                replaced: false,
            };
            let remove = draft.add(operation, Cause::Requested);
            draft.after(remove, stopped);
        }
    }
    for (stop, dependents) in stops_in_order(project, observed, &stops) {
        draft.after(stop, dependents.iter().copied());
    }
    finish(draft, holds, Vec::new())
}

fn stop_operation(container: &ObservedContainer, timeout: Option<Duration>) -> Operation {
    Operation::StopContainer {
        container: target(container),
        timeout,
        signal: None,
        again: false,
    }
}

pub(super) fn down(project: &Project, observed: &Observed, down: &Down) -> Result<Plan, PlanError> {
    require_known(project, observed, &down.services)?;
    let mut draft = Draft::default();
    let mut holds = Vec::new();
    let mut warnings = Vec::new();
    let mut stops: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    let mut stays: Vec<&ObservedContainer> = Vec::new();
    let mut removes: Vec<(&ObservedContainer, Step)> = Vec::new();
    for service in dependents_first(project, observed, Which::All) {
        for container in service.containers {
            let cause = match in_scope(project, &down.services, down.remove_orphans, container) {
                Err(hold) => {
                    holds.push(hold);
                    stays.push(container);
                    continue;
                }
                Ok(()) if is_orphan(project, &container.service) => Cause::Surplus,
                Ok(()) => Cause::Requested,
            };
            let stop = needs_stop(container)
                .then(|| draft.add(stop_operation(container, down.timeout), cause.clone()));
            stops.entry(service.name).or_default().extend(stop);
            let operation = Operation::RemoveContainer {
                container: target(container),
                volumes: down.volumes,
                replaced: false,
            };
            let remove = draft.add(operation, cause);
            draft.after(remove, stop);
            removes.push((container, remove));
        }
    }
    for (stop, dependents) in stops_in_order(project, observed, &stops) {
        draft.after(stop, dependents.iter().copied());
    }
    if down.services.is_empty() {
        warnings.extend(warn_of_staying(project, &stays));
        remove_networks(project, observed, &mut draft, &mut holds, &stays, &removes);
    }
    if down.volumes {
        remove_volumes(project, observed, down, &mut draft, &mut holds, &stays, &removes);
    }
    finish(draft, holds, warnings)
}

pub(super) fn finish(draft: Draft, mut holds: Vec<Hold>, warnings: Vec<String>) -> Result<Plan, PlanError> {
    holds.sort_by(|a, b| (&a.resource, &a.reason).cmp(&(&b.resource, &b.reason)));
    Ok(Plan {
        actions: draft.finish()?,
        holds,
        warnings,
    })
}

fn warn_of_staying(project: &Project, stays: &[&ObservedContainer]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut orphans: Vec<&str> = Vec::new();
    for container in stays {
        match project.disabled_services.get(&container.service) {
            None => orphans.push(&container.name),
            Some(profiles) => warnings.push(format!(
                "container {} is left: its service {:?} is disabled. Can be enabled by profiles [{}]",
                container.name,
                container.service,
                profiles.join(" ")
            )),
        }
    }
    orphans.sort_unstable();
    if !orphans.is_empty() {
        warnings.push(orphan_warning(&orphans));
    }
    warnings
}

/// Every network that the project made goes, unless something stays on it.
fn remove_networks(
    project: &Project,
    observed: &Observed,
    draft: &mut Draft,
    holds: &mut Vec<Hold>,
    stays: &[&ObservedContainer],
    removes: &[(&ObservedContainer, Step)],
) {
    let mut on: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for (container, remove) in removes {
        for id in container.networks.values() {
            on.entry(id).or_default().push(*remove);
        }
    }
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    for container in stays {
        for id in container.networks.values() {
            users.entry(id).or_insert(&container.name);
        }
    }
    let mut networks: Vec<_> = observed.networks.iter().collect();
    networks.sort_by_key(|network| (&network.name, &network.id));
    for network in networks {
        let Some(owner) = network
            .owner
            .as_ref()
            .filter(|owner| owner.project == project.name)
        else {
            continue;
        };
        let known = project.networks.get(&owner.key);
        if known.is_some_and(|network| network.external) {
            holds.push(hold("network", &network.name, "external"));
            continue;
        }
        if let Some(user) = users.get(network.id.as_str()) {
            holds.push(hold("network", &network.name, format!("still used by {user}")));
            continue;
        }
        let operation = Operation::RemoveNetwork {
            id: network.id.clone(),
            name: network.name.clone(),
        };
        let cause = if known.is_some() {
            Cause::Requested
        } else {
            Cause::Surplus
        };
        let step = draft.add(operation, cause);
        draft.after(step, on.remove(network.id.as_str()).unwrap_or_default());
    }
}

/// `down --volumes`: the volumes that the project has and made. Of those that
/// it does not have any more only with `--remove-orphans`, since the file that
/// would say what they are is gone.
fn remove_volumes(
    project: &Project,
    observed: &Observed,
    down: &Down,
    draft: &mut Draft,
    holds: &mut Vec<Hold>,
    stays: &[&ObservedContainer],
    removes: &[(&ObservedContainer, Step)],
) {
    let mut on: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for (container, remove) in removes {
        for name in container.volumes.values() {
            on.entry(name).or_default().push(*remove);
        }
    }
    let containers: BTreeSet<&str> = observed
        .containers
        .iter()
        .map(|container| container.id.as_str())
        .collect();
    // With a selection: the volumes that only its services mount.
    let asked: Option<BTreeSet<&str>> = (!down.services.is_empty()).then(|| {
        let of = |wanted: bool| {
            project
                .services
                .iter()
                .filter(move |(name, _)| down.services.contains(*name) == wanted)
                .flat_map(|(_, service)| mounted(service))
                .collect::<BTreeSet<_>>()
        };
        &of(true) - &of(false)
    });
    let mut users: BTreeMap<&str, &str> = BTreeMap::new();
    for container in stays {
        for name in container.volumes.values() {
            users.entry(name).or_insert(&container.name);
        }
    }
    let mut volumes: Vec<_> = observed.volumes.iter().collect();
    volumes.sort_by_key(|volume| (volume.anonymous, &volume.name));
    for volume in volumes {
        let Some(owner) = volume
            .owner
            .as_ref()
            .filter(|owner| owner.project == project.name)
        else {
            continue;
        };
        let mut cause = Cause::Requested;
        if volume.anonymous {
            // One whose container is there goes, or stays, with it.
            let attached = volume
                .container
                .as_deref()
                .is_some_and(|id| containers.contains(id));
            if attached || asked.is_some() {
                continue;
            }
            cause = Cause::Surplus;
        } else {
            let key = owner.key.as_str();
            if asked.as_ref().is_some_and(|asked| !asked.contains(key)) {
                continue;
            }
            match project.volumes.get(key) {
                Some(known) if known.external => {
                    holds.push(hold("volume", &volume.name, "external"));
                    continue;
                }
                Some(_) => {}
                None if down.remove_orphans => cause = Cause::Surplus,
                None => {
                    let reason = "not in the project any more, removed with --remove-orphans";
                    holds.push(hold("volume", &volume.name, reason));
                    continue;
                }
            }
        }
        if let Some(user) = users.get(volume.name.as_str()) {
            holds.push(hold("volume", &volume.name, format!("still used by {user}")));
            continue;
        }
        let step = draft.add(
            Operation::RemoveVolume {
                name: volume.name.clone(),
            },
            cause,
        );
        draft.after(step, on.remove(volume.name.as_str()).unwrap_or_default());
    }
}

/// A service with its containers.
pub(super) struct Group<'a> {
    pub(super) name: &'a str,
    pub(super) containers: Vec<&'a ObservedContainer>,
}

/// Which containers of a service a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Its replicas.
    Replicas,
    /// Those that `run` made, too.
    All,
}

/// Every service of the project or the host, dependents first.
pub(super) fn dependents_first<'a>(
    project: &'a Project,
    observed: &'a Observed,
    which: Which,
) -> Vec<Group<'a>> {
    let needs = needs(project, observed);
    let all = observed.containers.iter();
    let mut existing = grouped(all.filter(|container| which == Which::All || !container.one_off));
    let mut groups: Vec<Group<'a>> = sorted(&needs)
        .into_iter()
        .map(|name| Group {
            name,
            containers: existing.remove(name).unwrap_or_default(),
        })
        .collect();
    groups.reverse();
    groups
}

/// What each service depends on: as the project says, or for services that it
/// does not have as the record of their newest container does.
fn needs<'a>(project: &'a Project, observed: &'a Observed) -> BTreeMap<&'a str, BTreeSet<String>> {
    let mut needs: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, service) in &project.services {
        needs.insert(name, dependencies(service));
    }
    for (name, containers) in grouped(observed.containers.iter()) {
        if let Some(newest) = containers.iter().max_by_key(|container| container.created) {
            needs.entry(name).or_insert_with(|| {
                recorded(newest)
                    .map(|service| dependencies(&service))
                    .unwrap_or_default()
            });
        }
    }
    needs
}

fn dependencies(service: &Service) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = service.depends_on.keys().cloned().collect();
    if let NetworkMode::Service(provider) = &service.network_mode {
        names.insert(provider.clone());
    }
    names
}

/// Dependencies first. Records of different times may contradict each other,
/// and a file may be at fault: what closes a cycle is ignored.
fn sorted<'a>(needs: &BTreeMap<&'a str, BTreeSet<String>>) -> Vec<&'a str> {
    enum Visit<'v> {
        Enter(&'v str),
        Leave(&'v str),
    }
    let mut order = Vec::with_capacity(needs.len());
    let mut entered: BTreeSet<&str> = BTreeSet::new();
    let mut stack: Vec<Visit<'a>> = Vec::new();
    for &root in needs.keys() {
        stack.push(Visit::Enter(root));
        while let Some(visit) = stack.pop() {
            match visit {
                Visit::Leave(name) => order.push(name),
                Visit::Enter(name) => {
                    if !entered.insert(name) {
                        continue;
                    }
                    stack.push(Visit::Leave(name));
                    let next = needs.get(name).into_iter().flatten().rev();
                    stack.extend(
                        next.filter_map(|name| needs.get_key_value(name.as_str()))
                            .filter(|(name, _)| !entered.contains(*name))
                            .map(|(name, _)| Visit::Enter(name)),
                    );
                }
            }
        }
    }
    order
}

/// For each stop, the stops of its dependents that it comes after. A service
/// without a stop hands those of its dependents on, so that order holds across
/// what does not run.
pub(super) fn stops_in_order(
    project: &Project,
    observed: &Observed,
    stops: &BTreeMap<&str, Vec<Step>>,
) -> Vec<(Step, Rc<Vec<Step>>)> {
    let mut edges = Vec::new();
    if stops.len() < 2 {
        return edges;
    }
    let needs = needs(project, observed);
    let order = sorted(&needs);
    let place: BTreeMap<&str, usize> = order.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    // For each service what must have stopped before it may.
    let mut before: BTreeMap<&str, Vec<Rc<Vec<Step>>>> = BTreeMap::new();
    for (at, name) in order.iter().enumerate().rev() {
        let incoming = merge(before.remove(name).unwrap_or_default());
        let own = stops.get(name).filter(|own| !own.is_empty());
        for &stop in own.into_iter().flatten() {
            if !incoming.is_empty() {
                edges.push((stop, Rc::clone(&incoming)));
            }
        }
        let outgoing = own.map_or(incoming, |own| Rc::new(own.clone()));
        if outgoing.is_empty() {
            continue;
        }
        for dependency in needs.get(name).into_iter().flatten() {
            if let Some((dependency, place)) = place.get_key_value(dependency.as_str())
                && *place < at
            {
                before.entry(dependency).or_default().push(Rc::clone(&outgoing));
            }
        }
    }
    edges
}

fn merge(mut lists: Vec<Rc<Vec<Step>>>) -> Rc<Vec<Step>> {
    if lists.len() < 2 {
        return lists.pop().unwrap_or_default();
    }
    let all: BTreeSet<Step> = lists.iter().flat_map(|list| list.iter().copied()).collect();
    Rc::new(all.into_iter().collect())
}
