//! Containers by name, whosever they are: what `container:NAME` and
//! `external_links` mean, and the names that containers of other stacks have on a
//! network that they share with ours.
//!
//! Nothing here is told when another stack changes; it is read when it is needed.
//! What a container has joined (a namespace, the mounts of `volumes_from`) it
//! keeps when the other one is restarted or replaced, as with Docker: then it has
//! to be restarted too, which is its own stack's business.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::HostError;
use super::record::{ContainerRecord, containers, folders, lease_prefix};
use crate::network::record as networks;
use crate::plan::{Operation, Plan};
use crate::project::{IpcMode, NetworkMode, PidMode, Project, Service, VolumesOf};
use crate::runtime::{self, Liveness, RunningRecord};
use crate::store::{World, read_record};

/// The container of a name, an id, or the first digits of one; `None` when there
/// is none, or when the digits are those of several.
pub(super) fn find(world: &World, name: &str) -> Result<Option<ContainerRecord>, HostError> {
    let plain = name.strip_prefix('/').unwrap_or(name);
    let digits = name.len() >= 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut by_digits = Vec::new();
    let mut projects = folders(&world.stacks());
    projects.sort();
    for project in projects {
        for record in containers(world, &project)? {
            if record.name == plain || record.id == name {
                return Ok(Some(record));
            }
            if digits && record.id.starts_with(name) {
                by_digits.push(record);
            }
        }
    }
    let only = by_digits.pop().filter(|_| by_digits.is_empty());
    Ok(only)
}

/// Whether process 1 of a container is alive.
fn runs(world: &World, record: &ContainerRecord) -> Result<bool, HostError> {
    let paths = world.container(&record.project, &record.id);
    let Some(running) = read_record::<RunningRecord>(&paths.running())? else {
        return Ok(false);
    };
    Ok(matches!(
        runtime::probe(&running)?,
        Liveness::Running { init: Some(_), .. }
    ))
}

/// The containers that a service names, with the fields that do, and whether they
/// have to run when it is started.
fn named(service: &Service) -> Vec<(&'static str, &str, bool)> {
    let mut all = Vec::new();
    if let NetworkMode::Container(name) = &service.network_mode {
        all.push(("network_mode", name.as_str(), true));
    }
    if let Some(IpcMode::Container(name)) = &service.ipc {
        all.push(("ipc", name, true));
    }
    if let Some(PidMode::Container(name)) = &service.pid {
        all.push(("pid", name, true));
    }
    for from in &service.volumes_from {
        if let VolumesOf::Container(name) = &from.source {
            all.push(("volumes_from", name, false));
        }
    }
    let links = service.external_links.iter();
    all.extend(links.map(|link| ("external_links", link.container.as_str(), false)));
    all
}

/// What is wrong with the containers that a service names, in words: those that
/// are not there, and those that do not run and have to. What the plan makes or
/// starts is there in time, or said then.
pub(super) fn missing(world: &World, project: &Project, service: &Service, plan: &Plan) -> Vec<String> {
    let made: BTreeSet<&str> = plan
        .actions
        .iter()
        .filter_map(|action| match &action.operation {
            Operation::CreateContainer { name, .. } => Some(name.as_str()),
            Operation::StartContainer { container } => Some(container.name.as_str()),
            _ => None,
        })
        .collect();
    let mut problems = Vec::new();
    for (field, name, must_run) in named(service) {
        if made.contains(name) {
            continue;
        }
        let problem = match find(world, name) {
            Err(error) => error.to_string(),
            Ok(None) => format!("no such container: {name}"),
            Ok(Some(record)) if must_run && !runs(world, &record).unwrap_or(false) => {
                format!("container {name} does not run")
            }
            Ok(Some(_)) => continue,
        };
        let path = format!("services.{}.{field}", service.name);
        problems.push(match project.origin(&path) {
            Some(origin) => format!("{path}: {problem} ({origin})"),
            None => format!("{path}: {problem}"),
        });
    }
    problems
}

/// The container whose network namespace a container is put into, and whose
/// names it so shares (as with Docker): of those of a service, the first that
/// runs; when that one shares another's, the other. `None` for one that shares
/// nobody's.
///
/// # Errors
/// [`HostError`] when records cannot be read.
pub(super) fn network_owner(
    world: &World,
    record: &ContainerRecord,
) -> Result<Option<ContainerRecord>, HostError> {
    let mut owner: Option<ContainerRecord> = None;
    let mut seen = BTreeSet::new();
    loop {
        let last = owner.as_ref().unwrap_or(record);
        let next = match &last.config.network_mode {
            NetworkMode::Service(service) => containers(world, &last.project)?.into_iter().find(|other| {
                other.config.name == *service
                    && other.one_off.is_none()
                    && runs(world, other).unwrap_or(false)
            }),
            NetworkMode::Container(name) => find(world, name)?,
            _ => None,
        };
        match next {
            Some(next) if seen.insert(next.id.clone()) => owner = Some(next),
            _ => return Ok(owner),
        }
    }
}

/// A container of another project that has a volume.
///
/// # Errors
/// [`HostError`] when records cannot be read.
pub(super) fn user_of_volume(world: &World, project: &str, name: &str) -> Result<Option<String>, HostError> {
    for other in folders(&world.stacks()) {
        if other == project {
            continue;
        }
        let has = |record: &ContainerRecord| {
            let mut own = record.volumes.values().chain(record.anonymous.values());
            own.any(|volume| volume == name)
        };
        if let Some(user) = containers(world, &other)?.into_iter().find(has) {
            return Ok(Some(user.name));
        }
    }
    Ok(None)
}

/// The addresses that containers of other projects have on a network under a
/// lower-case name: their own, their service's, or an alias there.
///
/// # Errors
/// [`HostError`] when records cannot be read.
pub(super) fn addresses(
    world: &World,
    project: &str,
    network: &str,
    name: &str,
) -> Result<Vec<IpAddr>, HostError> {
    let Some(network) = networks::read(world, network)? else {
        return Ok(vec![]);
    };
    let own = lease_prefix(project);
    let others: BTreeSet<&str> = network
        .leases
        .keys()
        .filter(|key| !key.starts_with(&own))
        .filter_map(|key| Some(key.split_once('/')?.0))
        .collect();
    let mut found = Vec::new();
    for other in others {
        for record in containers(world, other)? {
            let Some(lease) = network.leases.get(&record.lease_key()) else {
                continue;
            };
            let attached = record.networks.iter().find(|(_, id)| **id == network.id);
            let aliases = attached
                .and_then(|(key, _)| record.config.networks.get(key))
                .map(|attachment| attachment.aliases.as_slice())
                .unwrap_or_default();
            let is = |known: &str| known.eq_ignore_ascii_case(name);
            let common = record.one_off.as_ref().is_none_or(|one_off| one_off.aliases);
            let answers = is(&record.name)
                || is(record.short_id())
                || common && (is(&record.config.name) || aliases.iter().any(|alias| is(alias)));
            if attached.is_some() && answers && runs(world, &record)? {
                found.push(IpAddr::V4(lease.address));
                found.extend(lease.address6.map(IpAddr::V6));
            }
        }
    }
    Ok(found)
}
