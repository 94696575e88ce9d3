//! Network records: what a network is, and who has which address on it.
//!
//! One file a network in [`World::networks`]. Everything that decides (a
//! subnet, an address) happens under one lock of the world, so two commands
//! never decide for the same thing. An address is leased under a key of the
//! caller's, one that outlives a container (project, service and number, not
//! the container's id), so a recreated container has its old address again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;
use super::error::NetworkError;
use super::link;
use super::pool::{Pool, PoolRequest};
use crate::store::{Lock, World, read_record, remove_record, write_record};

/// The format that this program writes.
const VERSION: u32 = 1;

/// What a network is to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkSpec {
    /// Name on the host, unique in the world.
    pub name: String,
    /// The project that owns it; `None` for a network of no project.
    pub project: Option<String>,
    /// Key in the project.
    pub key: String,
    /// No way out and none in.
    pub internal: bool,
    /// IPv6 as well.
    pub enable_ipv6: bool,
    /// Address pools; empty picks free ones.
    pub pools: Vec<PoolRequest>,
    /// Addresses that others have, by name: no container gets them.
    pub reserved: BTreeMap<String, IpAddr>,
    /// Name of the bridge interface. One that is there already is used, and left
    /// when the network is removed.
    pub bridge: Option<String>,
    /// What else is special about it.
    pub settings: Settings,
    /// Largest packet in bytes; `None` is 1500, or less when the interface of
    /// the default route carries less.
    pub mtu: Option<u32>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The definition it is made from, for a later comparison.
    pub config: serde_json::Value,
}

/// What is special about a network; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Its containers do not reach each other, but by published ports.
    pub apart: bool,
    /// What leaves it keeps its source address.
    pub no_masquerade: bool,
    /// The bridge has no IPv4 address.
    pub no_address: bool,
    /// The bridge has no IPv6 address.
    pub no_address6: bool,
    /// All ports are reached from outside, by IPv4.
    pub open: bool,
    /// All ports are reached from outside, by IPv6.
    pub open6: bool,
    /// How the names of interfaces inside begin, in place of `eth`.
    pub interface_prefix: Option<String>,
    /// The options that it was made with, as they were written.
    pub options: BTreeMap<String, String>,
}

/// A network that exists (or is being made or removed).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Format of the record.
    pub version: u32,
    /// Twelve hexadecimal digits.
    pub id: String,
    /// Name on the host.
    pub name: String,
    /// The project that owns it.
    pub project: Option<String>,
    /// Key in the project.
    pub key: String,
    /// Name of the bridge interface: the one asked for, or `rc-` and the first ten
    /// digits of the id.
    pub bridge: String,
    /// The bridge was there before, somebody else's, and stays.
    #[serde(default)]
    pub borrowed: bool,
    /// What is special about it.
    #[serde(default)]
    pub settings: Settings,
    /// Addresses that others have, by name.
    #[serde(default)]
    pub reserved: BTreeMap<String, IpAddr>,
    /// IPv4 addresses.
    pub v4: Pool,
    /// IPv6 addresses, when enabled.
    pub v6: Option<Pool>,
    /// No way out and none in.
    pub internal: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The definition it was made from.
    pub config: serde_json::Value,
    /// Addresses by container key.
    pub leases: BTreeMap<String, Lease>,
}

/// The addresses of one container on one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// IPv4.
    pub address: Ipv4Addr,
    /// IPv6, when the network has it.
    pub address6: Option<Ipv6Addr>,
}

/// A container that wants an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Who: a name that stays when the container is recreated, unique on the
    /// network (`shop-web-1`: networks may be shared by projects).
    pub key: String,
    /// A fixed IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub address6: Option<Ipv6Addr>,
    /// Addresses that others ask for by name and that are not to be given out
    /// to whom any will do.
    pub avoid: Vec<IpAddr>,
}

impl NetworkRecord {
    /// What connects a container to this network; `None` when `key` has no
    /// lease. `mac` in place of the address's own; the endpoint with the
    /// highest `gw_priority` has the default route.
    ///
    /// # Errors
    /// [`NetworkError::Mac`].
    pub fn endpoint(
        &self,
        key: &str,
        mac: Option<&str>,
        gw_priority: i64,
    ) -> Result<Option<Endpoint>, NetworkError> {
        let Some(lease) = self.leases.get(key) else {
            return Ok(None);
        };
        let mac = match mac {
            None => link::mac_of(lease.address),
            Some(text) => link::parse_mac(text).ok_or_else(|| NetworkError::Mac {
                text: text.to_owned(),
            })?,
        };
        let gateway = |pool: &Pool| (!self.internal).then_some(pool.gateway);
        Ok(Some(Endpoint {
            network: self.id.clone(),
            holder: key.to_owned(),
            bridge: self.bridge.clone(),
            address: lease.address,
            prefix: self.v4.subnet.prefix(),
            gateway: gateway(&self.v4),
            address6: lease
                .address6
                .zip(self.v6)
                .map(|(address, pool)| (address, pool.subnet.prefix())),
            gateway6: self.v6.as_ref().and_then(gateway),
            mac,
            mtu: self.mtu,
            gw_priority,
            apart: self.settings.apart,
            interface: None,
            interface_prefix: self.settings.interface_prefix.clone(),
            link_local: Vec::new(),
            sysctls: Vec::new(),
        }))
    }

    /// The mark on this network's bridge.
    pub(super) fn alias(&self, world: &World) -> String {
        super::alias(world, &self.id, "")
    }
}

fn path(world: &World, id: &str) -> PathBuf {
    world.networks().join(format!("{id}.json"))
}

/// Whether a text can be an id: nothing else is looked for on the disk.
fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Takes the lock under which subnets and addresses are decided.
pub(super) fn lock(world: &World) -> Result<Lock, NetworkError> {
    Ok(Lock::take(&world.networks().join(".lock"))?)
}

/// Reads a network; `None` when there is none of that id.
///
/// # Errors
/// [`NetworkError::Store`] or [`NetworkError::Version`].
pub fn read(world: &World, id: &str) -> Result<Option<NetworkRecord>, NetworkError> {
    if !is_id(id) {
        return Ok(None);
    }
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let path = path(world, id);
    let Some(value) = read_record::<serde_json::Value>(&path)? else {
        return Ok(None);
    };
    if let Ok(Versioned { version }) = Versioned::deserialize(&value)
        && version > VERSION
    {
        return Err(NetworkError::Version { path, found: version });
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|source| crate::store::StoreError::Malformed { path, source }.into())
}

/// Every network of the world, by id.
///
/// # Errors
/// [`NetworkError::Store`], [`NetworkError::Version`], or [`NetworkError::Io`]
/// when the folder cannot be read.
pub fn list(world: &World) -> Result<Vec<NetworkRecord>, NetworkError> {
    let folder = world.networks();
    let failed = |source: io::Error| NetworkError::Io {
        operation: format!("list networks in {}", folder.display()),
        source,
    };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut ids = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json"))
            && is_id(id)
        {
            ids.insert(id.to_owned());
        }
    }
    // One that is removed while we read is no longer there: fine.
    ids.iter().filter_map(|id| read(world, id).transpose()).collect()
}

/// The network of a name; `None` when there is none.
///
/// # Errors
/// As [`list`].
pub fn find(world: &World, name: &str) -> Result<Option<NetworkRecord>, NetworkError> {
    Ok(list(world)?.into_iter().find(|record| record.name == name))
}

/// Writes a record. The caller holds the lock.
pub(super) fn write(world: &World, record: &NetworkRecord) -> Result<(), NetworkError> {
    Ok(write_record(&path(world, &record.id), record)?)
}

/// Removes a record. The caller holds the lock.
pub(super) fn erase(world: &World, id: &str) -> Result<(), NetworkError> {
    Ok(remove_record(&path(world, id))?)
}

/// Twelve random hexadecimal digits.
pub(super) fn fresh_id() -> Result<String, NetworkError> {
    let mut bytes = [0; 6];
    random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Fills a buffer with random bytes.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), NetworkError> {
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(bytes))
        .map_err(NetworkError::io("read /dev/urandom"))
}

/// A new record from a specification and what was decided about it.
pub(super) fn draft(spec: &NetworkSpec, id: String, pools: (Pool, Option<Pool>), mtu: u32) -> NetworkRecord {
    NetworkRecord {
        version: VERSION,
        bridge: spec
            .bridge
            .clone()
            .unwrap_or_else(|| format!("rc-{}", id.get(..10).unwrap_or(&id))),
        borrowed: false,
        settings: spec.settings.clone(),
        reserved: spec.reserved.clone(),
        id,
        name: spec.name.clone(),
        project: spec.project.clone(),
        key: spec.key.clone(),
        v4: pools.0,
        v6: pools.1,
        internal: spec.internal,
        mtu,
        labels: spec.labels.clone(),
        config: spec.config.clone(),
        leases: BTreeMap::new(),
    }
}

/// Gives a container its addresses on a network: the ones it had, when it had
/// some and asks for no others. Returns the record with the lease in it.
///
/// # Errors
/// [`NetworkError::Missing`], [`NetworkError::AddressTaken`],
/// [`NetworkError::AddressUnfit`], [`NetworkError::AddressesExhausted`], or
/// those of the store.
pub fn lease(world: &World, id: &str, request: &LeaseRequest) -> Result<NetworkRecord, NetworkError> {
    let _lock = lock(world)?;
    let mut record = read(world, id)?.ok_or_else(|| NetworkError::Missing { id: id.to_owned() })?;
    let lease = assign(&record, request)?;
    if record.leases.insert(request.key.clone(), lease) != Some(lease) {
        write(world, &record)?;
    }
    Ok(record)
}

/// Takes the addresses of a container back; fine when it has none or the
/// network is gone.
///
/// # Errors
/// Those of the store.
pub fn release(world: &World, id: &str, key: &str) -> Result<(), NetworkError> {
    let _lock = lock(world)?;
    if let Some(mut record) = read(world, id)?
        && record.leases.remove(key).is_some()
    {
        write(world, &record)?;
    }
    Ok(())
}

/// Takes back the addresses of every container whose key begins with `prefix`,
/// but on the networks whose ids `keys` has for it: those of containers that are
/// no more, or have left a network, or were cut off joining it.
///
/// # Errors
/// As [`list`].
pub fn release_all_but(
    world: &World,
    prefix: &str,
    keys: &BTreeMap<String, BTreeSet<String>>,
) -> Result<(), NetworkError> {
    let _lock = lock(world)?;
    for mut record in list(world)? {
        let before = record.leases.len();
        record.leases.retain(|key, _| {
            let on = keys.get(key);
            !key.starts_with(prefix) || on.is_some_and(|on| on.contains(&record.id))
        });
        if record.leases.len() != before {
            write(world, &record)?;
        }
    }
    Ok(())
}

/// Decides the addresses of a container.
fn assign(record: &NetworkRecord, request: &LeaseRequest) -> Result<Lease, NetworkError> {
    let held = record.leases.get(&request.key);
    let others = || record.leases.iter().filter(|(key, _)| **key != request.key);
    let choose =
        |pool: &Pool, fixed: Option<IpAddr>, held: Option<IpAddr>, of: fn(&Lease) -> Option<IpAddr>| {
            if let Some(address) = fixed {
                if let Some(reason) = pool.unfit(address) {
                    return Err(NetworkError::AddressUnfit {
                        network: record.name.clone(),
                        address,
                        container: request.key.clone(),
                        reason,
                    });
                }
                let holder = others()
                    .find(|(_, lease)| of(lease) == Some(address))
                    .map(|(key, _)| key);
                let reserved = record.reserved.iter().find(|(_, reserved)| **reserved == address);
                return match holder.or(reserved.map(|(name, _)| name)) {
                    Some(holder) => Err(NetworkError::AddressTaken {
                        network: record.name.clone(),
                        address,
                        container: request.key.clone(),
                        holder: holder.clone(),
                    }),
                    None => Ok(address),
                };
            }
            let mut taken: BTreeSet<IpAddr> = others().filter_map(|(_, lease)| of(lease)).collect();
            if let Some(address) = held.filter(|address| !request.avoid.contains(address)) {
                return Ok(address);
            }
            taken.extend(&request.avoid);
            taken.extend(record.reserved.values());
            pool.free(&taken).ok_or_else(|| NetworkError::AddressesExhausted {
                network: record.name.clone(),
                range: pool.range,
            })
        };
    let address = choose(
        &record.v4,
        request.address.map(IpAddr::V4),
        held.map(|lease| lease.address.into()),
        |lease| Some(lease.address.into()),
    )?;
    let address6 = match (&record.v6, request.address6) {
        (None, None) => None,
        (None, Some(address)) => {
            return Err(NetworkError::AddressUnfit {
                network: record.name.clone(),
                address: address.into(),
                container: request.key.clone(),
                reason: "is IPv6, and the network does not set enable_ipv6".to_owned(),
            });
        }
        (Some(pool), fixed) => Some(choose(
            pool,
            fixed.map(IpAddr::V6),
            held.and_then(|lease| lease.address6).map(IpAddr::V6),
            |lease| lease.address6.map(IpAddr::V6),
        )?),
    };
    match (address, address6) {
        (IpAddr::V4(address), None) => Ok(Lease {
            address,
            address6: None,
        }),
        (IpAddr::V4(address), Some(IpAddr::V6(address6))) => Ok(Lease {
            address,
            address6: Some(address6),
        }),
        // A pool only has addresses of its own family; a damaged record may not.
        (address, _) => Err(NetworkError::AddressUnfit {
            network: record.name.clone(),
            address,
            container: request.key.clone(),
            reason: "is of the wrong family: the network's record is damaged".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::pool;

    fn record(ipv6: bool) -> NetworkRecord {
        let spec = NetworkSpec {
            name: "shop_front".to_owned(),
            enable_ipv6: ipv6,
            ..NetworkSpec::default()
        };
        let pools = pool::decide("shop_front", "0123456789ab", &[], ipv6, &[]).unwrap();
        draft(&spec, "0123456789ab".to_owned(), pools, 1500)
    }

    fn request(key: &str) -> LeaseRequest {
        LeaseRequest {
            key: key.to_owned(),
            ..LeaseRequest::default()
        }
    }

    fn world() -> (tempfile::TempDir, World) {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new(Some(folder.path()));
        (folder, world)
    }

    #[test]
    fn a_record_survives_the_disk() {
        let (_folder, world) = world();
        let mut before = record(true);
        before
            .leases
            .insert("web-1".to_owned(), assign(&before, &request("web-1")).unwrap());
        write(&world, &before).unwrap();
        assert_eq!(list(&world).unwrap(), [before.clone()]);
        assert_eq!(find(&world, "shop_front").unwrap(), Some(before.clone()));
        assert_eq!(before.bridge, "rc-0123456789");
        erase(&world, &before.id).unwrap();
        assert_eq!(read(&world, &before.id).unwrap(), None);
        assert_eq!(read(&world, "../../etc/x").unwrap(), None);
    }

    #[test]
    fn a_record_of_the_future_is_refused() {
        let (_folder, world) = world();
        let mut later = record(false);
        later.version = 2;
        write(&world, &later).unwrap();
        assert!(matches!(
            list(&world),
            Err(NetworkError::Version { found: 2, .. })
        ));
    }

    #[test]
    fn the_same_key_keeps_its_address_until_it_is_released() {
        let (_folder, world) = world();
        let id = record(true).id;
        write(&world, &record(true)).unwrap();
        let lease_of = |key: &str| lease(&world, &id, &request(key)).unwrap().leases[key];
        let web = lease_of("web-1");
        let db = lease_of("db-1");
        assert_eq!(web.address, Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(web.address6.unwrap().to_string(), "fd01:2345:6789::2");
        assert_eq!(db.address, Ipv4Addr::new(172, 17, 0, 3));
        assert_eq!(lease_of("web-1"), web);
        release(&world, &id, "web-1").unwrap();
        release(&world, &id, "web-1").unwrap();
        assert_eq!(lease_of("db-1"), db);
        assert_eq!(lease_of("cache-1").address, web.address);
        release(&world, "ffffffffffff", "web-1").unwrap();
        let missing = lease(&world, "ffffffffffff", &request("web-1"));
        assert!(matches!(missing, Err(NetworkError::Missing { .. })));
    }

    #[test]
    fn fixed_addresses_are_honoured_or_refused_with_the_reason() {
        let mut network = record(false);
        let ask = |network: &NetworkRecord, address: &str| {
            let request = LeaseRequest {
                address: Some(address.parse().unwrap()),
                ..request("web-1")
            };
            assign(network, &request).map_err(|error| error.to_string())
        };
        network
            .leases
            .insert("db-1".to_owned(), ask(&network, "172.17.0.9").unwrap());
        assert_eq!(
            ask(&network, "172.17.0.9").unwrap_err(),
            "network shop_front: address 172.17.0.9 for web-1 is taken by db-1"
        );
        assert_eq!(
            ask(&network, "172.18.0.9").unwrap_err(),
            "network shop_front: address 172.18.0.9 for web-1 is not in 172.17.0.0/16"
        );
        assert!(
            ask(&network, "172.17.0.1")
                .unwrap_err()
                .ends_with("is the gateway")
        );
        let six = LeaseRequest {
            address6: Some(Ipv6Addr::LOCALHOST),
            ..request("web-1")
        };
        assert!(
            assign(&network, &six)
                .unwrap_err()
                .to_string()
                .contains("enable_ipv6")
        );
    }

    #[test]
    fn addresses_that_others_will_ask_for_are_left_alone() {
        let mut network = record(false);
        let request = LeaseRequest {
            avoid: vec!["172.17.0.2".parse().unwrap()],
            ..request("web-1")
        };
        let lease = assign(&network, &request).unwrap();
        assert_eq!(lease.address, Ipv4Addr::new(172, 17, 0, 3));
        network.leases.insert("web-1".to_owned(), lease);
        let request = LeaseRequest {
            avoid: vec!["172.17.0.3".parse().unwrap()],
            ..request
        };
        assert_eq!(
            assign(&network, &request).unwrap().address,
            Ipv4Addr::new(172, 17, 0, 2)
        );
    }

    #[test]
    fn a_full_network_says_so() {
        let mut network = record(false);
        let asked = [PoolRequest {
            subnet: Some("10.0.0.0/30".to_owned()),
            ..PoolRequest::default()
        }];
        network.v4 = pool::decide("shop_front", &network.id, &asked, false, &[])
            .unwrap()
            .0;
        network
            .leases
            .insert("web-1".to_owned(), assign(&network, &request("web-1")).unwrap());
        assert_eq!(
            assign(&network, &request("web-2")).unwrap_err().to_string(),
            "network shop_front: no address is free in 10.0.0.0/30"
        );
    }

    #[test]
    fn only_addresses_of_containers_that_are_no_more_are_taken_back() {
        let (_folder, world) = world();
        write(&world, &record(false)).unwrap();
        let id = record(false).id;
        for key in ["shop/web-1", "shop/web-2", "shop2/web-1"] {
            lease(&world, &id, &request(key)).unwrap();
        }
        let keys = BTreeMap::from([
            ("shop/web-1".to_owned(), BTreeSet::from([id.clone()])),
            // It is on another network.
            ("shop/web-2".to_owned(), BTreeSet::from(["0".repeat(12)])),
        ]);
        release_all_but(&world, "shop/", &keys).unwrap();
        let leases = read(&world, &id).unwrap().unwrap().leases;
        let left: Vec<&str> = leases.keys().map(String::as_str).collect();
        assert_eq!(left, ["shop/web-1", "shop2/web-1"]);
    }

    #[test]
    fn threads_never_get_the_same_address() {
        let (_folder, world) = world();
        write(&world, &record(false)).unwrap();
        let id = record(false).id;
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (world, id) = (&world, &id);
                scope.spawn(move || {
                    for number in 0..10 {
                        lease(world, id, &request(&format!("{thread}-{number}"))).unwrap();
                    }
                });
            }
        });
        let leases = read(&world, &id).unwrap().unwrap().leases;
        let addresses: BTreeSet<_> = leases.values().map(|lease| lease.address).collect();
        assert_eq!((leases.len(), addresses.len()), (40, 40));
    }
}
