//! A project from what is there, for commands without a stack file.

use std::collections::BTreeMap;

use super::{Observed, ObservedContainer};
use crate::project::{Network, Project, Service, Volume};

/// The project that the containers, networks and volumes of `name` were made
/// from, as far as their records tell: what `rcompose -p name down` works on
/// when there is no stack file. Of the containers of one service the newest
/// counts. Nothing has an origin.
pub fn recall(name: &str, observed: &Observed) -> Project {
    let mut project = Project {
        name: name.to_owned(),
        ..Project::default()
    };
    let mut newest: BTreeMap<&str, (&ObservedContainer, u32)> = BTreeMap::new();
    for container in &observed.containers {
        let (best, count) = newest.entry(&container.service).or_insert((container, 0));
        *count += u32::from(!container.one_off);
        let rank = |one: &ObservedContainer| (!one.one_off, one.created, one.id.clone());
        if rank(container) > rank(best) {
            *best = container;
        }
    }
    for (service, (container, count)) in newest {
        // A record that cannot be read still names a service that exists.
        let recorded = container.config.read::<Service>().unwrap_or_default();
        let recalled = Service {
            name: service.to_owned(),
            replicas: count,
            ..recorded
        };
        project.services.insert(service.to_owned(), recalled);
    }
    for network in &observed.networks {
        let Some(owner) = network.owner.as_ref().filter(|owner| owner.project == name) else {
            continue;
        };
        let recorded = network.config.read::<Network>().unwrap_or_default();
        let recalled = Network {
            name: network.name.clone(),
            external: false,
            ..recorded
        };
        project.networks.insert(owner.key.clone(), recalled);
    }
    for volume in observed.volumes.iter().filter(|volume| !volume.anonymous) {
        let Some(owner) = volume.owner.as_ref().filter(|owner| owner.project == name) else {
            continue;
        };
        let recalled = Volume {
            name: volume.name.clone(),
            ..Volume::default()
        };
        project.volumes.insert(owner.key.clone(), recalled);
    }
    complete(&mut project);
    project
}

/// Leaves out what services refer to and is gone, so that the project is one
/// that can be planned.
fn complete(project: &mut Project) {
    let names: Vec<String> = project.services.keys().cloned().collect();
    for service in project.services.values_mut() {
        service
            .depends_on
            .retain(|dependency, _| names.contains(dependency));
        service
            .networks
            .retain(|key, _| project.networks.contains_key(key));
        for key in crate::graph::mounted(service)
            .map(str::to_owned)
            .collect::<Vec<_>>()
        {
            project.volumes.entry(key.clone()).or_insert_with(|| Volume {
                name: format!("{}_{key}", project.name),
                external: true,
                ..Volume::default()
            });
        }
    }
}
