//! How a service is reached: networks, ports, names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::known;
use super::reader::Reader;
use crate::project::model::{
    Attachment, ExternalLink, HostAddress, Link, Network, NetworkMode, Port, PortMode, Protocol, Service,
};
use crate::stack::{Code, Node, Place, Report, parse_port_range};

pub(super) fn network_mode(reader: &Reader<'_>) -> NetworkMode {
    let Some(node) = reader.get("network_mode") else {
        return NetworkMode::Networks;
    };
    match node.as_text().unwrap_or_default() {
        "" => NetworkMode::Networks,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        mode => {
            if let Some(other) = mode.strip_prefix("service:") {
                return NetworkMode::Service(other.to_owned());
            }
            if let Some(container) = mode.strip_prefix("container:") {
                return NetworkMode::Container(container.to_owned());
            }
            NetworkMode::Other(mode.to_owned())
        }
    }
}

pub(super) fn attachments(
    reader: &mut Reader<'_>,
    mode: &NetworkMode,
    replicas: u32,
) -> BTreeMap<String, Attachment> {
    let mut attachments = BTreeMap::new();
    if *mode != NetworkMode::Networks {
        return attachments;
    }
    for (key, node) in reader.get("networks").into_iter().flat_map(Node::entries) {
        let at = |field: &str| node.get(field).filter(|node| !node.is_null());
        let mut attachment = Attachment {
            aliases: at("aliases")
                .into_iter()
                .flat_map(Node::items)
                .filter_map(Node::scalar_text)
                .collect(),
            ..Attachment::default()
        };
        let prefix = format!("networks.{key}");
        attachment.interface_name = at("interface_name")
            .and_then(Node::as_text)
            .filter(|text| !text.is_empty())
            .map(str::to_owned);
        if let Some(name) = &attachment.interface_name
            && !known::is_interface_name(name)
            && let Some(node) = at("interface_name")
        {
            let message = format!("invalid interface name {name:?}: at most 15 bytes, no `/`, no space");
            let path = format!("{prefix}.interface_name");
            reader.fail(node.place, Code::Schema, &path, &message, None);
        }
        for item in at("link_local_ips").into_iter().flat_map(Node::items) {
            let text = item.as_text().unwrap_or_default();
            match text.parse() {
                Ok(address) => attachment.link_local_ips.push(address),
                Err(_) => {
                    let path = format!("{prefix}.link_local_ips");
                    let message = format!("invalid address: {text}");
                    reader.fail(item.place, Code::Schema, &path, &message, None);
                }
            }
        }
        attachment.driver_opts = at("driver_opts")
            .into_iter()
            .flat_map(Node::entries)
            .filter_map(|(key, node)| Some((key.to_owned(), node.scalar_text()?)))
            .collect();
        for (field, priority) in [
            ("priority", &mut attachment.priority),
            ("gw_priority", &mut attachment.gw_priority),
        ] {
            if let Some(number) = reader.whole(at(field), &format!("{prefix}.{field}")) {
                *priority = number;
            }
        }
        for field in ["ipv4_address", "ipv6_address", "mac_address"] {
            let Some(node) = at(field) else {
                continue;
            };
            let text = node.as_text().unwrap_or_default();
            let path = format!("{prefix}.{field}");
            let valid = match field {
                "ipv4_address" => {
                    attachment.ipv4_address = text.parse().ok();
                    attachment.ipv4_address.is_some()
                }
                "ipv6_address" => {
                    attachment.ipv6_address = text.parse().ok();
                    attachment.ipv6_address.is_some()
                }
                _ => {
                    attachment.mac_address = known::mac_address(text);
                    attachment.mac_address.is_some()
                }
            };
            if !valid {
                reader.fail(
                    node.place,
                    Code::Schema,
                    &path,
                    &format!("invalid address: {text}"),
                    None,
                );
            } else if replicas > 1 {
                reader.fail(
                    node.place,
                    Code::Conflict,
                    &path,
                    &format!("{replicas} containers cannot share one address"),
                    None,
                );
            }
        }
        attachments.insert(key.to_owned(), attachment);
    }
    attachments
}

/// Fixed addresses must be inside a subnet that the network is given.
pub(super) fn fixed_addresses(
    document: &Node,
    services: &BTreeMap<String, Service>,
    networks: &BTreeMap<String, Network>,
    report: &mut Report,
) {
    let mut taken: BTreeMap<(&str, IpAddr), &str> = BTreeMap::new();
    for (name, service) in services {
        for (key, attachment) in &service.networks {
            let Some(network) = networks.get(key).filter(|network| !network.external) else {
                continue;
            };
            let addresses = [
                ("ipv4_address", attachment.ipv4_address.map(IpAddr::V4)),
                ("ipv6_address", attachment.ipv6_address.map(IpAddr::V6)),
            ];
            for (field, address) in addresses {
                let Some(address) = address else {
                    continue;
                };
                let path = format!("services.{name}.networks.{key}.{field}");
                let message = if let Some(other) = taken.insert((key.as_str(), address), name.as_str()) {
                    format!("{path}: {address} is the address of service {other} already")
                } else if network.ipam.iter().any(|pool| {
                    pool.subnet
                        .as_deref()
                        .and_then(known::subnet)
                        .is_some_and(|subnet| known::contains(subnet, address))
                }) {
                    continue;
                } else {
                    format!("{path}: {address} is in no subnet of network {key}")
                };
                let place = document
                    .get("services")
                    .and_then(|node| node.get(name)?.get("networks")?.get(key)?.get(field))
                    .map_or(Place::NOWHERE, |node| node.place);
                let hint = format!("give the network a subnet under `networks.{key}.ipam.config`");
                report.error_hint(place, Code::Conflict, message, hint);
            }
        }
    }
}

pub(super) fn ports(reader: &mut Reader<'_>, replicas: u32, mode: &NetworkMode) -> Vec<Port> {
    let mut ports = Vec::new();
    let items = reader.get("ports").map(|node| node.items().collect::<Vec<_>>());
    for (index, item) in items.into_iter().flatten().enumerate() {
        let path = format!("ports.{index}");
        if !matches!(mode, NetworkMode::Networks | NetworkMode::Other(_)) {
            let mode = reader.text("network_mode").unwrap_or_default();
            reader.fail(
                item.place,
                Code::Conflict,
                &path,
                &format!("ports cannot be published with network_mode {mode:?}"),
                Some("take `ports` out, or put the service on a network"),
            );
            return ports;
        }
        let Some(target) = reader
            .whole::<u16>(item.get("target"), &path)
            .filter(|port| *port > 0)
        else {
            reader.fail(
                item.place,
                Code::Schema,
                &path,
                "a target port from 1 to 65535 is needed",
                None,
            );
            continue;
        };
        let protocol = match item
            .text_of("protocol")
            .unwrap_or("tcp")
            .to_ascii_lowercase()
            .as_str()
        {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => {
                reader.fail(
                    item.place,
                    Code::Schema,
                    &path,
                    &format!("unknown protocol {other:?}"),
                    Some("use tcp, udp or sctp"),
                );
                continue;
            }
        };
        let port_mode = match item.text_of("mode") {
            None | Some("" | "ingress") => PortMode::Ingress,
            Some("host") => PortMode::Host,
            Some(_) => {
                let message = "mode must be `ingress` or `host`";
                reader.fail(item.place, Code::Schema, &path, message, None);
                PortMode::Ingress
            }
        };
        let published = match item.text_of("published").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let Some(range) = parse_port_range(text) else {
                    reader.fail(
                        item.place,
                        Code::Schema,
                        &path,
                        &format!("invalid hostPort: {text}"),
                        None,
                    );
                    continue;
                };
                // Port 0 is any free one.
                (range != (0, 0)).then_some(range)
            }
        };
        if let Some((first, last)) = published
            && u32::from(last - first) + 1 < replicas
        {
            reader.fail(
                item.place,
                Code::Conflict,
                &path,
                &format!("{replicas} containers cannot share the published port {first}"),
                Some("publish a range, such as \"8000-8010:80\", or no host port"),
            );
        }
        ports.push(Port {
            target,
            published,
            // A malformed address has been reported with the document.
            host_ip: item.text_of("host_ip").and_then(|text| text.parse().ok()),
            protocol,
            name: said(item, "name"),
            mode: port_mode,
            app_protocol: said(item, "app_protocol"),
        });
    }
    ports
}

/// The text of a field, unless it is empty.
fn said(node: &Node, field: &str) -> Option<String> {
    node.text_of(field)
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

pub(super) fn expose(reader: &mut Reader<'_>) -> Vec<String> {
    let Some(node) = reader.get("expose") else {
        return Vec::new();
    };
    for item in node.items() {
        let text = item.scalar_text().unwrap_or_default();
        let (numbers, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        if parse_port_range(numbers).is_none() || !matches!(protocol, "tcp" | "udp" | "sctp") {
            reader.fail(
                item.place,
                Code::Schema,
                "expose",
                &format!("invalid port {text:?}"),
                Some("ports are written PORT[/PROTOCOL]"),
            );
        }
    }
    reader.texts("expose")
}

/// `extra_hosts` of a service or a build.
pub(super) fn hosts(reader: &mut Reader<'_>) -> BTreeMap<String, Vec<HostAddress>> {
    let mut hosts: BTreeMap<String, Vec<HostAddress>> = BTreeMap::new();
    let Some(node) = reader.get("extra_hosts") else {
        return hosts;
    };
    for item in node.items() {
        let Some((host, address)) = item.as_text().and_then(|text| text.split_once('=')) else {
            continue;
        };
        match address.parse() {
            Ok(address) => hosts.entry(host.to_owned()).or_default().push(address),
            Err(_) => {
                let message = format!("invalid ip address: {address}");
                reader.fail(item.place, Code::Schema, "extra_hosts", &message, None);
            }
        }
    }
    hosts
}

/// Name servers.
pub(super) fn dns(reader: &mut Reader<'_>) -> Vec<IpAddr> {
    let mut servers = Vec::new();
    for item in reader.get("dns").into_iter().flat_map(Node::items) {
        let text = item.as_text().unwrap_or_default();
        match text.parse() {
            Ok(address) => servers.push(address),
            Err(_) => {
                let message = format!("invalid ip address: {text}");
                reader.fail(item.place, Code::Schema, "dns", &message, None);
            }
        }
    }
    servers
}

/// `NAME[:ALIAS]` items of a field.
fn aliased(field: &str, reader: &mut Reader<'_>) -> Vec<(String, String)> {
    let mut links = Vec::new();
    for item in reader.get(field).into_iter().flat_map(Node::items) {
        let text = item.as_text().unwrap_or_default();
        let (name, alias) = text.split_once(':').unwrap_or((text, text));
        if name.is_empty() || alias.is_empty() || alias.contains(':') {
            let message = format!("invalid link {text:?}");
            reader.fail(
                item.place,
                Code::Schema,
                field,
                &message,
                Some("links are written NAME[:ALIAS]"),
            );
        } else {
            links.push((name.to_owned(), alias.to_owned()));
        }
    }
    links
}

pub(super) fn links(reader: &mut Reader<'_>) -> Vec<Link> {
    let links = aliased("links", reader).into_iter();
    links.map(|(service, alias)| Link { service, alias }).collect()
}

pub(super) fn external_links(reader: &mut Reader<'_>) -> Vec<ExternalLink> {
    let links = aliased("external_links", reader).into_iter();
    links
        .map(|(container, alias)| ExternalLink { container, alias })
        .collect()
}

/// The address on the main network.
pub(super) fn mac_address(reader: &mut Reader<'_>, replicas: u32) -> Option<String> {
    let node = reader.get("mac_address")?;
    let text = node.as_text().filter(|text| !text.is_empty())?;
    let place = node.place;
    let address = known::mac_address(text);
    if address.is_none() {
        let message = format!("invalid address: {text}");
        reader.fail(place, Code::Schema, "mac_address", &message, None);
    } else if replicas > 1 {
        let message = format!("{replicas} containers cannot share one address");
        reader.fail(place, Code::Conflict, "mac_address", &message, None);
    }
    address
}
