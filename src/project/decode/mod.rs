//! A model to a [`Project`]: types, and what values must be beyond their kind.
//! Everything that the Compose Specification knows has a type here, whether or
//! not it can be run.
//!
//! The document has been checked against the field table, so kinds are known
//! here; what is checked is what values mean. Each function reads one field or
//! one group of fields through a [`Reader`], which knows their path.

mod build;
mod connections;
mod deploy;
mod devices;
mod known;
mod limits;
mod mounts;
mod reader;
mod resource;
mod service;

use std::collections::BTreeMap;

use connections::fixed_addresses;
pub(super) use known::{is_device_permissions, is_interface_name, is_this_platform, mac_address};
use reader::Reader;
pub(super) use reader::plain;
use service::service;

use super::check;
use super::driver::BridgeOptions;
use super::load::{Model, origins};
use super::model::{Attachment, Network, NetworkMode, Project, Service};
use crate::stack::{Code, Node, Place, Report};

/// External networks called `host` and `none` are the modes of these names, as
/// Docker has networks of them. They go with no other network, and publish nothing.
fn engine_network(
    service: &mut Service,
    networks: &BTreeMap<String, Network>,
    document: &Node,
    report: &mut Report,
) {
    let mode = |key: &String| match networks.get(key) {
        Some(network) if network.external && network.name == "host" => Some(NetworkMode::Host),
        Some(network) if network.external && network.name == "none" => Some(NetworkMode::None),
        _ => None,
    };
    let Some((key, mode)) = service.networks.keys().find_map(|key| Some((key, mode(key)?))) else {
        return;
    };
    let name = &service.name;
    let wrong = if service.networks.len() > 1 {
        Some((
            "networks",
            format!("{key} cannot be joined together with other networks"),
        ))
    } else if !service.ports.is_empty() {
        Some(("ports", format!("ports cannot be published on network {key}")))
    } else {
        None
    };
    if let Some((field, message)) = wrong {
        let node = document
            .get("services")
            .and_then(|services| services.get(name)?.get(field));
        let place = node.map_or(Place::NOWHERE, |node| node.place);
        report.error(
            place,
            Code::Conflict,
            format!("services.{name}.{field}: {message}"),
        );
    }
    service.network_mode = mode;
    service.networks.clear();
}

/// What Docker calls its own bridge (`network_mode: bridge`, or `default`): a
/// network of the stack for the services that ask for it, apart from the others.
/// They find each other by name there, which Docker's do not.
fn bridge_of_engine(
    services: &mut BTreeMap<String, Service>,
    networks: &mut BTreeMap<String, Network>,
    project: &str,
) {
    let asks =
        |service: &&mut Service| matches!(&service.network_mode, NetworkMode::Other(name) if is_bridge(name));
    let mut key = "bridge".to_owned();
    while networks.contains_key(&key) {
        // The stack's own network of that name is another one.
        key.push('_');
    }
    for service in services.values_mut().filter(asks) {
        service.network_mode = NetworkMode::Networks;
        service.networks.insert(key.clone(), Attachment::default());
        networks.entry(key.clone()).or_insert_with(|| Network {
            name: format!("{project}_{key}"),
            ..Network::default()
        });
    }
}

/// Whether a network mode is Docker's own bridge.
pub(super) fn is_bridge(mode: &str) -> bool {
    matches!(mode, "bridge" | "default")
}

/// Ports that name no address of the host are published on the one that the
/// network they come in by says.
fn bind_by_network(service: &mut Service, networks: &BTreeMap<String, Network>) {
    let order = service.networks_in_order();
    let of = |key: &&str| networks.get(*key);
    let open = |key: &&str| of(key).is_none_or(|network| !network.internal);
    let entrance = order.iter().find(|key| open(key)).or(order.first());
    let options = entrance
        .and_then(of)
        .and_then(|network| BridgeOptions::of(&network.driver_opts).ok());
    if let Some(address) = options.and_then(|options| options.host_binding) {
        for port in &mut service.ports {
            port.host_ip.get_or_insert(address.into());
        }
    }
}

/// Makes the project; what is wrong with it is in the report.
pub(super) fn project(model: &Model, report: &mut Report) -> Project {
    let document = &model.document;
    let mut origins = origins(document, report);
    let mut services = BTreeMap::new();
    for (name, entry) in document
        .get("services")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
    {
        if report.is_poisoned(name) || entry.node.as_map().is_none() {
            continue;
        }
        let mut reader = Reader::new(format!("services.{name}"), &entry.node, report);
        let service = service(name, entry, &mut reader, document);
        let aliases = std::mem::take(&mut reader.aliases);
        for (path, place) in aliases {
            if let Some(origin) = report.origin(place) {
                origins.insert(format!("services.{name}.{path}"), origin);
            }
        }
        services.insert(name.to_string(), service);
    }
    let mut networks = BTreeMap::new();
    for (key, node) in check::section(document, "networks") {
        let mut reader = Reader::new(format!("networks.{key}"), node, report);
        networks.insert(key.to_owned(), resource::network(&mut reader));
    }
    bridge_of_engine(&mut services, &mut networks, &model.name);
    for service in services.values_mut() {
        engine_network(service, &networks, document, report);
        bind_by_network(service, &networks);
    }
    let mut volumes = BTreeMap::new();
    for (key, node) in check::section(document, "volumes") {
        let mut reader = Reader::new(format!("volumes.{key}"), node, report);
        volumes.insert(key.to_owned(), resource::volume(&mut reader));
    }
    let mut configs = BTreeMap::new();
    for (key, node) in check::section(document, "configs") {
        let mut reader = Reader::new(format!("configs.{key}"), node, report);
        configs.insert(key.to_owned(), resource::config(&mut reader, &model.environment));
    }
    let mut secrets = BTreeMap::new();
    for (key, node) in check::section(document, "secrets") {
        let mut reader = Reader::new(format!("secrets.{key}"), node, report);
        secrets.insert(key.to_owned(), resource::secret(&mut reader, &model.environment));
    }
    let mut models = BTreeMap::new();
    for (key, node) in check::section(document, "models") {
        let mut reader = Reader::new(format!("models.{key}"), node, report);
        models.insert(key.to_owned(), resource::model(key, &mut reader));
    }
    let extensions = Reader::new(String::new(), document, report).extensions();
    fixed_addresses(document, &services, &networks, report);
    Project {
        name: model.name.clone(),
        working_dir: model.working_dir.clone(),
        config_files: model.config_files.clone(),
        inputs: model.inputs.clone(),
        services,
        disabled_services: model.disabled.clone(),
        networks,
        volumes,
        configs,
        secrets,
        models,
        extensions,
        origins,
    }
}
