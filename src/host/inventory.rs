//! Networks and volumes by name, whoever made them: what `network` and `volume`
//! commands list, make and remove, and what `external: true` finds.
//!
//! Weak: a volume or network is removed when no container has it; one that a
//! supervisor is making a container for at that instant is not held off, and
//! the next `up` makes it again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use super::HostError;
use super::record::ContainerRecord;
use crate::network::bridge;
use crate::network::pool::PoolRequest;
use crate::network::record::{NetworkRecord, NetworkSpec, list};
use crate::project::{BridgeOptions, wrong_volume_option};
use crate::store::World;
use crate::volume::{Volume, Volumes};

/// A network, and who is on it.
#[derive(Clone, Debug)]
pub struct Network {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// Name on the host.
    pub name: String,
    /// The project that made it; `None` for one made by name.
    pub project: Option<String>,
    /// The bridge interface.
    pub bridge: String,
    /// Subnets with their gateways and the ranges that addresses are given from.
    pub pools: Vec<NetworkPool>,
    /// No way out and none in.
    pub internal: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Options that it was made with.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses with their prefix lengths, by the key of who has them.
    leases: BTreeMap<String, Vec<(IpAddr, u8)>>,
}

/// Addresses of a network.
#[derive(Clone, Debug)]
pub struct NetworkPool {
    /// In CIDR form.
    pub subnet: String,
    /// The bridge's own.
    pub gateway: IpAddr,
    /// The part that addresses are given from, when it is not all.
    pub range: Option<String>,
}

impl Network {
    fn of(record: NetworkRecord) -> Self {
        let pools: Vec<_> = std::iter::once(record.v4).chain(record.v6).collect();
        let prefix6 = record.v6.map_or(128, |pool| pool.subnet.prefix());
        let leases = record.leases.iter().map(|(key, lease)| {
            let mut addresses = vec![(IpAddr::V4(lease.address), record.v4.subnet.prefix())];
            addresses.extend(lease.address6.map(|address| (IpAddr::V6(address), prefix6)));
            (key.clone(), addresses)
        });
        Self {
            leases: leases.collect(),
            pools: pools
                .into_iter()
                .map(|pool| NetworkPool {
                    subnet: pool.subnet.to_string(),
                    gateway: pool.gateway,
                    range: (pool.range != pool.subnet).then(|| pool.range.to_string()),
                })
                .collect(),
            id: record.id,
            name: record.name,
            project: record.project,
            bridge: record.bridge,
            internal: record.internal,
            mtu: record.mtu,
            options: record.settings.options,
            labels: record.labels,
        }
    }

    /// The addresses of a container on it, with their prefix lengths: IPv4, then
    /// IPv6; none when it is not on it.
    pub fn addresses(&self, container: &ContainerRecord) -> &[(IpAddr, u8)] {
        let lease = self.leases.get(&container.lease_key());
        lease.map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether nothing has an address on it.
    pub fn is_unused(&self) -> bool {
        self.leases.is_empty()
    }
}

/// What a network made by name is to be.
#[derive(Clone, Debug, Default)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Subnet, range and gateway of each pool; empty picks a free one.
    pub pools: Vec<(Option<String>, Option<String>, Option<IpAddr>)>,
    /// IPv6 as well.
    pub ipv6: bool,
    /// No way out and none in.
    pub internal: bool,
    /// Options of the bridge driver, as docker's `--opt`.
    pub options: BTreeMap<String, String>,
    /// Addresses that others have, by name.
    pub reserved: BTreeMap<String, IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Every network of the world, by name.
///
/// # Errors
/// [`HostError::Network`] when a record cannot be read.
pub fn networks(world: &World) -> Result<Vec<Network>, HostError> {
    let mut found: Vec<Network> = list(world)?.into_iter().map(Network::of).collect();
    found.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    Ok(found)
}

/// Makes a network of no project; its id, and what the user should know.
///
/// # Errors
/// [`HostError::Network`]: the name is taken, the subnet is, or the kernel refuses;
/// [`HostError::Plan`] for an option that there is not.
pub fn create_network(world: &World, request: &NetworkRequest) -> Result<(String, Vec<String>), HostError> {
    let pools = request.pools.iter().map(|(subnet, range, gateway)| PoolRequest {
        subnet: subnet.clone(),
        ip_range: range.clone(),
        gateway: *gateway,
    });
    // Two calls make two networks, and so the second one is refused: what it
    // would be taken for the same by is never the same.
    if list(world)?.iter().any(|record| record.name == request.name) {
        return Err(HostError::NetworkExists {
            name: request.name.clone(),
        });
    }
    let options = BridgeOptions::of(&request.options).map_err(|wrong| HostError::Plan {
        reason: format!("make network: {}", wrong.message),
    })?;
    let spec = NetworkSpec {
        name: request.name.clone(),
        project: None,
        key: String::new(),
        internal: request.internal,
        enable_ipv6: request.ipv6,
        pools: pools.collect(),
        reserved: request.reserved.clone(),
        bridge: options.name.clone(),
        mtu: options.mtu,
        settings: super::create::network_settings(&options, request.options.clone()),
        labels: request.labels.clone(),
        config: serde_json::Value::Null,
    };
    let (record, warnings) = bridge::create(world, &spec)?;
    Ok((record.id, warnings.iter().map(ToString::to_string).collect()))
}

/// Removes a network that nobody has an address on.
///
/// # Errors
/// [`HostError::Network`] when containers have, or the kernel refuses.
pub fn remove_network(world: &World, id: &str) -> Result<(), HostError> {
    Ok(bridge::remove(world, &[id])?)
}

/// Every volume of the world with the place of its content, by name.
///
/// # Errors
/// [`HostError`] when a record cannot be read.
pub fn all_volumes(world: &World) -> Result<Vec<(Volume, PathBuf)>, HostError> {
    let store = Volumes::new(world);
    let mut found = Vec::new();
    for volume in store.list()? {
        let place = store.data_dir(&volume.name)?;
        found.push((volume, place));
    }
    Ok(found)
}

/// Makes a volume of no project, with a name of its own when none is given; one
/// of that name that is there stays as it is. Its name.
///
/// # Errors
/// [`HostError`] when the name is none, or it cannot be made.
pub fn create_volume(
    world: &World,
    name: Option<&str>,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
) -> Result<String, HostError> {
    if let Some(wrong) = wrong_volume_option(&options) {
        return Err(HostError::Plan {
            reason: format!("make volume: {}", wrong.message),
        });
    }
    let (name, anonymous) = match name {
        Some(name) => (name.to_owned(), false),
        None => (super::create::random_id()?, true),
    };
    let draft = Volume {
        name,
        labels,
        options,
        anonymous,
        ..Volume::default()
    };
    Ok(Volumes::new(world).create(draft)?.name)
}

/// Removes a volume and all that is in it. `false` when there is none.
///
/// # Errors
/// [`HostError`] when it cannot be removed.
pub fn remove_volume(world: &World, name: &str) -> Result<bool, HostError> {
    Ok(Volumes::new(world).remove(name)?)
}
