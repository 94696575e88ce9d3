//! Networks, volumes, configs, secrets and models.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::known;
use super::reader::Reader;
use crate::project::model::{Config, FileSource, IpamPool, Network, Secret, ServedModel, Volume};
use crate::stack::{Code, Environment, Node};

/// The name of a resource on the host: it becomes part of file names.
fn resource_name(reader: &mut Reader<'_>) -> String {
    let name = reader.text("name").unwrap_or_default();
    if !known::is_resource_name(&name) {
        let place = reader.get("name").map_or(reader.node.place, |node| node.place);
        let message = format!("invalid name {name:?}");
        let hint = "names match [a-zA-Z0-9][a-zA-Z0-9_.-]*";
        reader.fail(place, Code::Schema, "name", &message, Some(hint));
    }
    name
}

fn external(reader: &mut Reader<'_>, others: &[&str]) -> bool {
    let external = reader.flag("external");
    for other in others {
        if external && let Some(node) = reader.get(other) {
            let message = format!("conflicting parameters \"external\" and {other:?} specified");
            reader.fail(node.place, Code::Conflict, other, &message, None);
        }
    }
    external
}

pub(super) fn network(reader: &mut Reader<'_>) -> Network {
    let name = resource_name(reader);
    let others = ["driver", "ipam", "internal", "labels", "enable_ipv6"];
    let external = external(reader, &others);
    let pools = reader.at(&["ipam", "config"]).into_iter().flat_map(Node::items);
    let ipam = pools.filter_map(|node| pool(node, reader)).collect();
    Network {
        name,
        external,
        internal: reader.flag("internal"),
        enable_ipv6: reader.flag("enable_ipv6"),
        ipam,
        labels: reader.table("labels"),
        driver: reader.text("driver"),
        driver_opts: reader.table("driver_opts"),
        attachable: reader.flag("attachable"),
        enable_ipv4: reader.get("enable_ipv4").and_then(Node::as_bool),
        ipam_driver: reader
            .at(&["ipam", "driver"])
            .and_then(Node::as_text)
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        ipam_options: reader
            .at(&["ipam", "options"])
            .into_iter()
            .flat_map(Node::entries)
            .filter_map(|(key, node)| Some((key.to_owned(), node.scalar_text()?)))
            .collect(),
        extensions: reader.extensions(),
    }
}

fn pool(node: &Node, reader: &mut Reader<'_>) -> Option<IpamPool> {
    let text = |field: &str| node.text_of(field).filter(|text| !text.is_empty());
    let field = "ipam.config";
    let subnet = text("subnet").map(known::subnet);
    let range = text("ip_range").map(known::subnet);
    let gateway: Option<Option<IpAddr>> = text("gateway").map(|gateway| gateway.parse().ok());
    for (name, malformed) in [
        ("subnet", subnet == Some(None)),
        ("ip_range", range == Some(None)),
        ("gateway", gateway == Some(None)),
    ] {
        if malformed {
            let message = format!("invalid {name} {:?}", text(name).unwrap_or_default());
            let hint = "a subnet is written 172.28.0.0/16, a gateway 172.28.0.1";
            reader.fail(node.place, Code::Schema, field, &message, Some(hint));
            return None;
        }
    }
    let (subnet, range, gateway) = (subnet.flatten(), range.flatten(), gateway.flatten());
    if subnet.is_none() && (range.is_some() || gateway.is_some()) {
        let message = "a gateway or ip_range needs a subnet";
        reader.fail(node.place, Code::Schema, field, message, None);
    }
    if let Some(subnet) = subnet {
        let outside = range.is_some_and(|range| range.1 < subnet.1 || !known::contains(subnet, range.0))
            || gateway.is_some_and(|gateway| !known::contains(subnet, gateway));
        if outside {
            let message = "the gateway and the ip_range must be inside the subnet";
            reader.fail(node.place, Code::Conflict, field, message, None);
        }
    }
    Some(IpamPool {
        subnet: text("subnet").map(str::to_owned),
        ip_range: text("ip_range").map(str::to_owned),
        gateway,
        aux_addresses: aux_addresses(node, reader),
    })
}

/// Addresses that others have.
fn aux_addresses(node: &Node, reader: &mut Reader<'_>) -> BTreeMap<String, IpAddr> {
    let mut addresses = BTreeMap::new();
    for (name, node) in node.get("aux_addresses").into_iter().flat_map(Node::entries) {
        let text = node.as_text().unwrap_or_default();
        match text.parse() {
            Ok(address) => {
                addresses.insert(name.to_owned(), address);
            }
            Err(_) => {
                let message = format!("invalid address: {text}");
                reader.fail(
                    node.place,
                    Code::Schema,
                    "ipam.config.aux_addresses",
                    &message,
                    None,
                );
            }
        }
    }
    addresses
}

pub(super) fn volume(reader: &mut Reader<'_>) -> Volume {
    Volume {
        name: resource_name(reader),
        external: reader.flag("external"),
        labels: reader.table("labels"),
        driver: reader.text("driver"),
        driver_opts: reader.table("driver_opts"),
        extensions: reader.extensions(),
    }
}

/// Where the content of a config or secret comes from.
fn file_source(reader: &mut Reader<'_>, environment: &Environment) -> FileSource {
    if reader.flag("external") {
        FileSource::External
    } else if let Some(path) = reader.path("file") {
        FileSource::File(path)
    } else if let Some(variable) = reader.text("environment") {
        FileSource::Environment {
            value: environment.get(&variable).cloned(),
            variable,
        }
    } else if let Some(content) = reader.get("content").and_then(Node::as_text) {
        FileSource::Content(content.to_owned())
    } else if reader.text("driver").is_some() {
        FileSource::External
    } else {
        let place = reader.node.place;
        let message = "nothing says where its content comes from";
        reader.fail(
            place,
            Code::Schema,
            "file",
            message,
            Some("give it a `file` or an `environment`"),
        );
        FileSource::External
    }
}

/// The name of a config or secret; it is no part of a file name.
fn granted_name(reader: &Reader<'_>) -> String {
    reader.text("name").unwrap_or_default()
}

pub(super) fn config(reader: &mut Reader<'_>, environment: &Environment) -> Config {
    Config {
        name: granted_name(reader),
        source: file_source(reader, environment),
        labels: reader.table("labels"),
        template_driver: reader.text("template_driver"),
        extensions: reader.extensions(),
    }
}

pub(super) fn secret(reader: &mut Reader<'_>, environment: &Environment) -> Secret {
    Secret {
        name: granted_name(reader),
        source: file_source(reader, environment),
        driver: reader.text("driver"),
        driver_opts: reader.table("driver_opts"),
        labels: reader.table("labels"),
        template_driver: reader.text("template_driver"),
        extensions: reader.extensions(),
    }
}

pub(super) fn model(key: &str, reader: &mut Reader<'_>) -> ServedModel {
    ServedModel {
        name: reader.text("name").unwrap_or_else(|| key.to_owned()),
        model: reader.text("model").unwrap_or_default(),
        context_size: reader.number("context_size"),
        runtime_flags: reader.texts("runtime_flags"),
        extensions: reader.extensions(),
    }
}
