//! The files of `/etc` that a container is given: `hosts`, `hostname`,
//! `resolv.conf`.

use std::net::{IpAddr, Ipv4Addr};

use super::record::ContainerRecord;
use super::start::places;
use super::traffic::{RESOLV_CONF, own_resolv_conf};
use super::{HostError, others};
use crate::network::endpoint::Endpoint;
use crate::network::names::{ResolvConf, hosts_file, plain_resolv_conf, resolv_conf};
use crate::network::record as networks;
use crate::project::{HostAddress, NetworkMode};
use crate::store::{ContainerPaths, World};

/// The static names of a container that runs are others now.
pub(super) fn write_hosts(world: &World, record: &ContainerRecord) -> Result<(), HostError> {
    let paths = world.container(&record.project, &record.id);
    let places = places(world, record)?;
    let addresses: Vec<IpAddr> = places
        .iter()
        .map(|place| IpAddr::V4(place.lease.address))
        .collect();
    let mut gateway = None;
    for id in record.networks.values() {
        if let Some(network) = networks::read(world, id)?
            && let Some(endpoint) = network.endpoint(&record.lease_key(), None, 0)?
        {
            gateway = gateway.or(endpoint.gateway);
        }
    }
    let path = paths.run.join("hosts");
    // Not another file: this one is mounted.
    std::fs::write(&path, hosts(world, record, &addresses, gateway)?).map_err(HostError::io("write", &path))
}

/// The host name inside a container: that of the one whose network it is on,
/// unless it has been given one.
pub(super) fn hostname(world: &World, record: &ContainerRecord) -> Result<String, HostError> {
    let owner = match &record.config.hostname {
        Some(_) => None,
        None => others::network_owner(world, record)?,
    };
    let of = owner.as_ref().unwrap_or(record);
    Ok(of.hostname().into_owned())
}

/// The content of a container's `/etc/hosts`.
fn hosts(
    world: &World,
    record: &ContainerRecord,
    addresses: &[IpAddr],
    gateway: Option<IpAddr>,
) -> Result<String, HostError> {
    let name = hostname(world, record)?;
    let domain = record.config.domainname.as_ref();
    let with_domain = domain.map(|domain| format!("{name}.{domain}"));
    let own: Vec<String> = std::iter::once(name).chain(with_domain).collect();
    let mut extra = Vec::new();
    for (name, targets) in &record.config.extra_hosts {
        for target in targets {
            let address = match target {
                HostAddress::HostGateway => gateway.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                HostAddress::Address(address) => *address,
            };
            extra.push((name.clone(), address));
        }
    }
    // Where the network is another's, so are the names: the machine's are in the
    // machine's file, those of a container in that one's.
    let others = match others::network_owner(world, record)? {
        Some(owner) => Some(world.container(&owner.project, &owner.id).run.join("hosts")),
        None => (record.config.network_mode == NetworkMode::Host).then(|| "/etc/hosts".into()),
    };
    let given = others.and_then(|path| std::fs::read_to_string(path).ok());
    let own = if given.is_some() { vec![] } else { own };
    let made = hosts_file(&own, addresses, &extra).map_err(|error| HostError::Interrupted {
        reason: error.to_string(),
    })?;
    let Some(mut hosts) = given else {
        return Ok(made);
    };
    if !hosts.is_empty() && !hosts.ends_with('\n') {
        hosts.push('\n');
    }
    for (name, address) in &extra {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    Ok(hosts)
}

/// The files in `/etc` that are made for a container.
pub(super) fn write_files(
    world: &World,
    record: &ContainerRecord,
    paths: &ContainerPaths,
    endpoints: Option<&[Endpoint]>,
) -> Result<(), HostError> {
    let write = |name: &str, text: &str| {
        let path = paths.run.join(name);
        std::fs::write(&path, text).map_err(HostError::io("write", &path))
    };
    let addresses: Vec<IpAddr> = endpoints
        .unwrap_or_default()
        .iter()
        .map(|endpoint| IpAddr::V4(endpoint.address))
        .collect();
    let gateway = endpoints
        .unwrap_or_default()
        .iter()
        .find_map(|endpoint| endpoint.gateway);
    write("hosts", &hosts(world, record, &addresses, gateway)?)?;
    write("hostname", &format!("{}\n", hostname(world, record)?))?;
    write("resolv.conf", &resolver(world, record)?)
}

/// The content of a container's `/etc/resolv.conf`.
fn resolver(world: &World, record: &ContainerRecord) -> Result<String, HostError> {
    let host = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let own = own_resolv_conf(&record.config);
    // There, somebody answers at our name service's address.
    let owner = others::network_owner(world, record)?;
    let mode = &owner.as_ref().unwrap_or(record).config.network_mode;
    let named = *mode == NetworkMode::Networks;
    Ok(if named {
        resolv_conf(&ResolvConf::parse(&host), &own)
    } else {
        plain_resolv_conf(&host, &own)
    })
}

/// The resolver of a container that runs is another one now.
pub(super) fn write_resolver(world: &World, record: &ContainerRecord) -> Result<(), HostError> {
    let path = world
        .container(&record.project, &record.id)
        .run
        .join("resolv.conf");
    // Not another file: this one is mounted.
    std::fs::write(&path, resolver(world, record)?).map_err(HostError::io("write", &path))
}
