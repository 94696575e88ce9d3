//! Bridges: one a network, with the gateway's address.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::error::{NetworkError, NetworkWarning};
use super::firewall;
use super::link::{self, Link, Links};
use super::pool::{self, Subnet, Taken};
use super::record::{self, NetworkRecord, NetworkSpec};
use crate::store::{World, sweep_records};

/// Ethernet's payload: what a network carries unless the way out carries less.
const MTU: u32 = 1500;
/// Every IPv6 link carries this much (RFC 8200); less is not worth following.
const SMALLEST_MTU: u32 = 1280;

/// Makes a network: decides its addresses, writes its record, makes its bridge
/// and lets it through the firewall. A network of the same name, owner and
/// definition is used as it is (and repaired).
///
/// # Errors
/// [`NetworkError::Exists`], those of [`pool::decide`], of the kernel and of
/// the store. After an error of the kernel the record stays: what was made can
/// be found by it, and the next attempt goes on from there.
pub fn create(
    world: &World,
    spec: &NetworkSpec,
) -> Result<(NetworkRecord, Vec<NetworkWarning>), NetworkError> {
    let record = {
        let _lock = record::lock(world)?;
        let records = record::list(world)?;
        match records.iter().find(|record| record.name == spec.name) {
            Some(found)
                if found.project == spec.project && found.key == spec.key && found.config == spec.config =>
            {
                found.clone()
            }
            Some(found) => {
                return Err(NetworkError::Exists {
                    name: spec.name.clone(),
                    owner: found.project.clone(),
                });
            }
            None => {
                let mut links = Links::open()?;
                let id = record::fresh_id()?;
                let taken = taken(&records, &mut links)?;
                let pools = pool::decide(&spec.name, &id, &spec.pools, spec.enable_ipv6, &taken)?;
                let mtu = match spec.mtu {
                    Some(mtu) => mtu,
                    None => uplink_mtu(&mut links)?,
                };
                let mut record = record::draft(spec, id, pools, mtu);
                check_reserved(&record)?;
                check_bridge(world, &mut record, &records, &mut links)?;
                record::write(world, &record)?;
                record
            }
        }
    };
    let warnings = ensure(world, &record)?;
    Ok((record, warnings))
}

/// Addresses that are set aside are the network's, and not the bridge's own.
fn check_reserved(record: &NetworkRecord) -> Result<(), NetworkError> {
    for (name, address) in &record.reserved {
        let pools = [Some(record.v4), record.v6];
        let pool = pools
            .into_iter()
            .flatten()
            .find(|pool| pool.subnet.contains(*address));
        let reason = match pool {
            None => "is in none of its subnets",
            Some(pool) if pool.gateway == *address => "is the gateway's",
            Some(_) => continue,
        };
        return Err(NetworkError::Unfit {
            network: record.name.clone(),
            reason: format!("the address {address} that is set aside for {name} {reason}"),
        });
    }
    Ok(())
}

/// Looks whether the bridge is there already: somebody else's is borrowed, another
/// network's is refused.
fn check_bridge(
    world: &World,
    record: &mut NetworkRecord,
    others: &[NetworkRecord],
    links: &mut Links,
) -> Result<(), NetworkError> {
    let unfit = |reason: String| NetworkError::Unfit {
        network: record.name.clone(),
        reason,
    };
    if let Some(other) = others.iter().find(|other| other.bridge == record.bridge) {
        return Err(unfit(format!(
            "interface {} is the bridge of network {}",
            record.bridge, other.name
        )));
    }
    let Some(found) = links.find(&record.bridge)? else {
        return Ok(());
    };
    let left = found.alias.starts_with(&super::alias_prefix(world));
    if found.kind != "bridge" || (!left && found.alias.starts_with("rcompose/")) {
        return Err(unfit(format!(
            "interface {} belongs to somebody else",
            record.bridge
        )));
    }
    // One of ours that no record names is left from a network that was removed.
    record.borrowed = !left;
    Ok(())
}

/// What is in use: by networks, by interfaces, by routes, in the order in which
/// it is named in an error.
fn taken(records: &[NetworkRecord], links: &mut Links) -> Result<Vec<Taken>, NetworkError> {
    let mut taken = Vec::new();
    for record in records {
        for pool in [Some(record.v4), record.v6].into_iter().flatten() {
            taken.push(Taken {
                subnet: pool.subnet,
                by: format!("network {}", record.name),
                route: false,
            });
        }
    }
    let all = links.all()?;
    for found in links.addresses()? {
        let name = all.iter().find(|link| link.index == found.index);
        if let Some(subnet) = Subnet::around(found.address, found.prefix) {
            taken.push(Taken {
                subnet,
                by: format!("interface {}", name.map_or("?", |link| link.name.as_str())),
                route: false,
            });
        }
    }
    taken.extend(links.routes()?.into_iter().filter_map(|route| {
        Some(Taken {
            subnet: route.to?,
            by: "a route".to_owned(),
            route: true,
        })
    }));
    Ok(taken)
}

/// What the interface of the IPv4 default route carries, at most [`MTU`].
fn uplink_mtu(links: &mut Links) -> Result<u32, NetworkError> {
    let uplinks: Vec<u32> = links
        .routes()?
        .iter()
        .filter(|route| route.to.is_none() && route.index != 0)
        .map(|route| route.index)
        .collect();
    let smallest = links
        .all()?
        .iter()
        .filter(|link| uplinks.contains(&link.index))
        .map(|link| link.mtu)
        .min();
    Ok(smallest.map_or(MTU, |mtu| mtu.clamp(SMALLEST_MTU, MTU)))
}

/// Makes everything in the kernel as the record says, whatever of it is there.
///
/// # Errors
/// [`NetworkError::Missing`] when the network was removed meanwhile,
/// [`NetworkError::Unfit`] when an interface of that name is somebody else's,
/// and those of the kernel and of the store.
pub fn ensure(world: &World, record: &NetworkRecord) -> Result<Vec<NetworkWarning>, NetworkError> {
    let _lock = record::lock(world)?;
    if record::read(world, &record.id)?.is_none() {
        return Err(NetworkError::Missing {
            id: record.id.clone(),
        });
    }
    let mut links = Links::open()?;
    let mut warnings = Vec::new();
    let alias = record.alias(world);
    match links.find(&record.bridge)? {
        Some(ref found) if record.borrowed && found.kind == "bridge" => {}
        None if record.borrowed => {
            return Err(NetworkError::Unfit {
                network: record.name.clone(),
                reason: format!("bridge {}, which was there before it, is gone", record.bridge),
            });
        }
        Some(found) if found.kind != "bridge" || !(found.alias.is_empty() || found.alias == alias) => {
            return Err(NetworkError::Unfit {
                network: record.name.clone(),
                reason: format!("interface {} belongs to somebody else", record.bridge),
            });
        }
        Some(_) => {}
        None => {
            let mac = match record.v4.gateway {
                IpAddr::V4(gateway) => link::mac_of(gateway),
                IpAddr::V6(_) => [0x02, 0x42, 0, 0, 0, 1],
            };
            links.send(&[
                link::add_bridge(&record.bridge, mac, record.mtu),
                link::set_alias(&record.bridge, &alias),
            ])?;
        }
    }
    if record.borrowed {
        lend(&mut links, record)?;
    } else {
        set_up(&mut links, record, &alias)?;
    }
    if !record.internal {
        warnings.extend(forward("/proc/sys/net/ipv4/ip_forward")?);
        if record.v6.is_some() {
            keep_router_advertisements()?;
            warnings.extend(forward("/proc/sys/net/ipv6/conf/all/forwarding")?);
        }
    }
    warnings.extend(firewall::add_network(world, record)?);
    Ok(warnings)
}

/// Addresses that the bridge of a network has, with their prefix lengths.
fn own_addresses(record: &NetworkRecord) -> impl Iterator<Item = (IpAddr, u8)> {
    let v4 = (!record.settings.no_address).then_some(record.v4);
    let v6 = record.v6.filter(|_| !record.settings.no_address6);
    v4.into_iter()
        .chain(v6)
        .map(|pool| (pool.gateway, pool.subnet.prefix()))
}

/// Gives somebody else's bridge the addresses of the network, and brings it up.
fn lend(links: &mut Links, record: &NetworkRecord) -> Result<(), NetworkError> {
    let found = links.find(&record.bridge)?.ok_or_else(|| NetworkError::Missing {
        id: record.id.clone(),
    })?;
    let mut batch = vec![link::raise(found.index)];
    batch.extend(
        own_addresses(record).map(|(address, prefix)| link::add_address(found.index, address, prefix)),
    );
    links.send(&batch)?;
    Ok(())
}

/// Marks our bridge, gives it the addresses of the network, and brings it up.
fn set_up(links: &mut Links, record: &NetworkRecord, alias: &str) -> Result<(), NetworkError> {
    // Before the bridge comes up, so that no address appears by itself.
    let ipv6 = format!("/proc/sys/net/ipv6/conf/{}", record.bridge);
    if record.v6.is_some() {
        for (name, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
            set(&format!("{ipv6}/{name}"), value)?;
        }
    } else if Path::new(&ipv6).exists() {
        set(&format!("{ipv6}/disable_ipv6"), "1")?;
    }
    let found = links.find(&record.bridge)?.ok_or_else(|| NetworkError::Missing {
        id: record.id.clone(),
    })?;
    let mut batch = vec![link::own_and_raise(&record.bridge, alias, None)];
    batch.extend(
        own_addresses(record).map(|(address, prefix)| link::add_address(found.index, address, prefix)),
    );
    links.send(&batch)?;
    Ok(())
}

/// Switches forwarding on when it is off. Read-only kernel parameters are a
/// warning: everything inside the networks works without.
fn forward(path: &str) -> Result<Option<NetworkWarning>, NetworkError> {
    match fs::read_to_string(path) {
        Ok(value) if value.trim() != "0" => return Ok(None),
        _ => {}
    }
    match fs::write(path, "1") {
        Ok(()) => Ok(None),
        Err(source) => Ok(Some(NetworkWarning::NoForwarding {
            path: path.to_owned(),
            source,
        })),
    }
}

/// A host that forwards IPv6 stops listening to routers unless told to go on:
/// it would lose its own way out. Interfaces that listen now (1) are told to
/// listen in any case (2).
fn keep_router_advertisements() -> Result<(), NetworkError> {
    let folder = Path::new("/proc/sys/net/ipv6/conf");
    let listed = fs::read_dir(folder).map_err(NetworkError::io(format!("list {}", folder.display())))?;
    for entry in listed.flatten() {
        let path = entry.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1")
            && let Some(path) = path.to_str()
        {
            set(path, "2")?;
        }
    }
    Ok(())
}

/// Sets a kernel parameter of the calling thread's network namespace.
pub(super) fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    fs::write(path, value).map_err(NetworkError::io(format!("set {path} to {value}")))
}

/// Up to so many links are asked for one by one, beyond all at once.
const FEW: usize = 8;

/// Whether each of these networks has its bridge, in their order.
///
/// # Errors
/// Those of the kernel.
pub fn alive(records: &[NetworkRecord]) -> Result<Vec<bool>, NetworkError> {
    let is_bridge = |link: &Link| link.kind == "bridge" && link.up;
    let mut links = Links::open()?;
    // There is a link for each container, too.
    if records.len() <= FEW {
        let found = records.iter().map(|record| links.find(&record.bridge));
        return found
            .map(|found| Ok(found?.as_ref().is_some_and(is_bridge)))
            .collect();
    }
    let links = links.all()?;
    let has = |record: &NetworkRecord| {
        links
            .iter()
            .any(|link| link.name == record.bridge && is_bridge(link))
    };
    Ok(records.iter().map(has).collect())
}

/// Removes networks, all together. Networks that are gone are fine.
///
/// # Errors
/// [`NetworkError::InUse`] when containers have addresses on one of them
/// (nothing is removed then), and those of the kernel and of the store.
pub fn remove(world: &World, ids: &[&str]) -> Result<(), NetworkError> {
    let _lock = record::lock(world)?;
    let mut records = Vec::new();
    for id in ids {
        records.extend(record::read(world, id)?);
    }
    if let Some(used) = records.iter().find(|record| !record.leases.is_empty()) {
        return Err(NetworkError::InUse {
            network: used.name.clone(),
            holders: used.leases.keys().cloned().collect(),
        });
    }
    // What was there before stays, without the addresses that it had from us.
    let (borrowed, own): (Vec<_>, Vec<_>) = records.iter().partition(|record| record.borrowed);
    for record in borrowed {
        let mut links = Links::open()?;
        if let Some(found) = links.find(&record.bridge)? {
            let taken: Vec<_> = links.addresses()?;
            let there = |address: IpAddr| {
                let at = |one: &&link::LinkAddress| one.index == found.index && one.address == address;
                taken.iter().find(at).is_some()
            };
            let batch: Vec<_> = own_addresses(record)
                .filter(|(address, _)| there(*address))
                .map(|(address, prefix)| link::remove_address(found.index, address, prefix))
                .collect();
            links.send(&batch)?;
        }
    }
    let names: Vec<&str> = own.iter().map(|record| record.bridge.as_str()).collect();
    let marks: Vec<String> = records
        .iter()
        .map(|record| format!("{}/", record.alias(world)))
        .collect();
    // Ends of containers that have just ended too: the kernel takes its time.
    delete_links(|link| {
        (link.kind == "bridge" && names.contains(&link.name.as_str()))
            || marks.iter().any(|mark| link.alias.starts_with(mark))
    })?;
    for record in &records {
        record::erase(world, &record.id)?;
    }
    // After the records: whoever rebuilds the table meanwhile does so from them.
    firewall::remove_networks(world, &records)
}

/// Removes this world's bridges and host ends of veth pairs that no record
/// names, and makes the firewall's table anew when it does not go with the
/// records. Returns the names of the interfaces it removed.
///
/// Records are written before and removed after what they name, so whatever is
/// there without one was left by a process that died.
///
/// # Errors
/// Those of the kernel and of the store.
pub fn sweep(world: &World) -> Result<Vec<String>, NetworkError> {
    let _lock = record::lock(world)?;
    sweep_records(&world.networks());
    firewall::sweep_records(world);
    let records = record::list(world)?;
    let prefix = super::alias_prefix(world);
    let removed = delete_links(|link| {
        let Some(mark) = link.alias.strip_prefix(&prefix) else {
            return false;
        };
        let (id, holder) = mark.split_once('/').unwrap_or((mark, ""));
        match records.iter().find(|record| record.id == id) {
            None => true,
            Some(_) if holder.is_empty() => false,
            Some(record) => !record
                .leases
                .keys()
                .any(|key| super::alias(world, id, key) == link.alias),
        }
    })?;
    firewall::verify(world)?;
    Ok(removed)
}

/// Removes all links that `chosen` picks, in one go.
fn delete_links(chosen: impl Fn(&link::Link) -> bool) -> Result<Vec<String>, NetworkError> {
    let mut links = Links::open()?;
    let chosen: Vec<link::Link> = links.all()?.into_iter().filter(|link| chosen(link)).collect();
    if chosen.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = [0; 4];
    record::random(&mut bytes)?;
    // Not 0, the group of every link that nobody put anywhere.
    let group = u32::from_ne_bytes(bytes) | 1 << 31;
    let mut batch: Vec<_> = chosen
        .iter()
        .map(|link| link::set_group(link.index, &link.name, group))
        .collect();
    batch.push(link::delete_group(group));
    match links.remove(batch, chosen.iter().map(|link| link.index).collect()) {
        // A veth pair may vanish with its namespace between the two looks.
        Err(error) if error.is(rustix::io::Errno::NODEV) => {}
        other => other?,
    }
    Ok(chosen.into_iter().map(|link| link.name).collect())
}
