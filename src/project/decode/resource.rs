//! Networks and volumes.

use std::net::IpAddr;

use super::known;
use super::reader::Reader;
use crate::project::model::{IpamPool, Network, Volume};
use crate::stack::{Code, Node};

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

fn driver(reader: &mut Reader<'_>, path: &[&str], known: &[&str], field: &str) {
    if let Some(node) = reader.at(path)
        && let Some(driver) = node.as_text()
        && !driver.is_empty()
        && !known.contains(&driver)
    {
        let message = format!("{driver:?} is not supported");
        let hint = format!("use {} or leave it out", known.join(" or "));
        reader.fail(node.place, Code::Unsupported, field, &message, Some(&hint));
    }
}

pub(super) fn network(reader: &mut Reader<'_>) -> Network {
    let name = resource_name(reader);
    let others = ["driver", "ipam", "internal", "labels", "enable_ipv6"];
    let external = external(reader, &others);
    driver(reader, &["driver"], &["bridge", "default"], "driver");
    driver(reader, &["ipam", "driver"], &["default"], "ipam.driver");
    if let Some(node) = reader.get("enable_ipv4")
        && node.as_bool() == Some(false)
    {
        let message = "a network without IPv4 is not supported";
        reader.fail(node.place, Code::Unsupported, "enable_ipv4", message, None);
    }
    let pools = reader.at(&["ipam", "config"]).into_iter().flat_map(Node::items);
    let ipam = pools.filter_map(|node| pool(node, reader)).collect();
    Network {
        name,
        external,
        internal: reader.flag("internal"),
        enable_ipv6: reader.flag("enable_ipv6"),
        ipam,
        labels: reader.table("labels"),
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
    })
}

pub(super) fn volume(reader: &mut Reader<'_>) -> Volume {
    driver(reader, &["driver"], &["local", "default"], "driver");
    Volume {
        name: resource_name(reader),
        external: external(reader, &["labels"]),
        labels: reader.table("labels"),
    }
}
