//! The firewall: one nf_tables table a world.
//!
//! ```text
//! prerouting, output   to an address of this machine that is not 127.0.0.0/8
//!                      └▶ published: (address . transport . port) ▶ (container . port)
//!                                    (transport . port)           ▶ (container . port)
//! forward              within one bridge                      accept
//!                      from or to an internal network         drop
//!                      of a known connection                  accept
//!                      into a network, by a published port    accept
//!                      into a network that is open            accept
//!                      into a network, otherwise              drop
//! postrouting          from a network to elsewhere            masquerade, unless it does not
//!                      from a network by a published port     masquerade
//! ```
//!
//! A network is a few elements of sets, a published port one element of a map;
//! no chain grows. Each world guards its own bridges, so two worlds on one
//! machine are isolated from each other without knowing of each other. Nobody
//! outside gets at a port that is not published, even where this machine
//! routes. A container that reaches a published port by an address of this
//! machine appears to the target as the bridge's gateway: without that, answers
//! within one bridge would bypass the rewriting.
//!
//! 127.0.0.0/8 is left to the proxy ([`super::ports`]). Rewriting such packets
//! would need `route_localnet`, which lets neighbours on the link talk to
//! services that listen on loopback only (CVE-2020-8558). So is IPv6.
//!
//! What is published is recorded in the run directory before it is in effect,
//! so that the table can be rebuilt whole when somebody flushed it
//! ([`resync`]). A record of an earlier boot does not count.
//!
//! Known to be weak: a base chain of somebody else that drops what it does not
//! know (Docker's FORWARD policy) drops our forwarded packets too; published
//! ports work by the proxy then, and there is no way out. Connections that
//! connection tracking knows go on when a port is no longer published; UDP
//! flows do for as long as they are not idle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::{NetworkError, NetworkWarning};
use super::nftables::{
    self, Connection, Element, Family, Field, Hook, IPV4, IPV6, Meta, REGISTER_1, REGISTER_2, Rule, SetSpec,
    Transaction, Type, Verdict, WORD_0, WORD_1, WORD_2,
};
use super::pool::Subnet;
use super::record::{self, NetworkRecord};
use crate::store::{Lock, World, read_record, remove_record, write_record};
use crate::sys::netlink::NetlinkError;

/// An empty chain whose name says which rules the table has; changing the rules
/// below means changing it, and every table of an older form is rebuilt.
const FORMAT: &str = "format-2";

/// Transport protocols of published ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of this machine that leads to a port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Published {
    /// The address of this machine; `None` is every one. Loopback addresses
    /// have no effect here: the proxy serves them.
    pub host_ip: Option<Ipv4Addr>,
    /// The port of this machine.
    pub host_port: u16,
    /// Transport.
    pub transport: Transport,
    /// The container's address.
    pub address: Ipv4Addr,
    /// The container's port.
    pub port: u16,
}

impl Published {
    /// What no two published ports may share.
    fn place(&self) -> (Option<Ipv4Addr>, Transport, u16) {
        (self.host_ip, self.transport, self.host_port)
    }

    /// The map it belongs into and its element; `None` for a loopback address.
    fn element(&self) -> Option<(&'static str, Element)> {
        let mut key = Vec::with_capacity(12);
        let map = match self.host_ip {
            Some(address) if address.is_loopback() => return None,
            Some(address) if !address.is_unspecified() => {
                key.extend(address.octets());
                "published-at"
            }
            _ => "published",
        };
        key.extend([self.transport.number(), 0, 0, 0]);
        key.extend(self.host_port.to_be_bytes());
        key.extend([0, 0]);
        let mut value = self.address.octets().to_vec();
        value.extend(self.port.to_be_bytes());
        value.extend([0, 0]);
        Some((
            map,
            Element {
                key,
                value,
                end: false,
            },
        ))
    }
}

/// Everything one container has published.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct PublishedRecord {
    owner: String,
    boot: String,
    ports: Vec<Published>,
}

/// The table of a world.
fn table(world: &World) -> String {
    format!("rcompose-{}", world.id())
}

fn lock(world: &World) -> Result<Lock, NetworkError> {
    Ok(Lock::take(&world.run().join("firewall.lock"))?)
}

fn folder(world: &World) -> PathBuf {
    world.run().join("published")
}

/// Removes what killed processes left of records they were writing.
pub(super) fn sweep_records(world: &World) {
    crate::store::sweep_records(&folder(world));
}

fn path(world: &World, owner: &str) -> PathBuf {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(owner.as_bytes());
    let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    folder(world).join(format!("{name}.json"))
}

/// What tells this boot of the kernel from others.
fn boot() -> Result<String, NetworkError> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(NetworkError::io(format!("read {path}")))
}

/// Reads what is published, by owner; records of an earlier boot are removed.
fn recorded(world: &World) -> Result<BTreeMap<String, Vec<Published>>, NetworkError> {
    let folder = folder(world);
    let failed = |source: io::Error| NetworkError::Io {
        operation: format!("list published ports in {}", folder.display()),
        source,
    };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(failed)?,
    };
    let boot = boot()?;
    let mut all = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        if let Some(record) = read_record::<PublishedRecord>(&path)? {
            if record.boot == boot {
                all.insert(record.owner, record.ports);
            } else {
                remove_record(&path)?;
            }
        }
    }
    Ok(all)
}

/// The owners that have ports published now (in the records).
///
/// # Errors
/// Those of the store.
pub fn owners(world: &World) -> Result<Vec<String>, NetworkError> {
    let _lock = lock(world)?;
    Ok(recorded(world)?.into_keys().collect())
}

/// Elements that a network has in the sets.
fn network_elements(record: &NetworkRecord) -> Vec<(&'static str, Vec<Element>)> {
    let name = nftables::interface(&record.bridge);
    let pair = [name.clone(), name.clone()].concat();
    let mut all = vec![
        ("bridges", vec![Element::key(name.clone())]),
        ("subnets", range(record.v4.subnet)),
    ];
    let settings = &record.settings;
    if !settings.apart {
        all.push(("same", vec![Element::key(pair)]));
    }
    if !settings.no_masquerade {
        all.push(("masqueraded", range(record.v4.subnet)));
    }
    if settings.open {
        all.push(("open", vec![Element::key(name.clone())]));
    }
    if settings.open6 {
        all.push(("open6", vec![Element::key(name.clone())]));
    }
    if let Some(pool) = record.v6 {
        all.push(("subnets6", range(pool.subnet)));
        if !settings.no_masquerade {
            all.push(("masqueraded6", range(pool.subnet)));
        }
    }
    if record.internal {
        all.push(("internal", vec![Element::key(name)]));
    }
    all
}

/// A subnet as the elements of an interval set: its first address, and the
/// first one after it (none when it reaches the end of all addresses).
fn range(subnet: Subnet) -> Vec<Element> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut elements = vec![Element::key(bytes(subnet.first()))];
    let mut after = bytes(subnet.last());
    for byte in after.iter_mut().rev() {
        let (next, carry) = byte.overflowing_add(1);
        *byte = next;
        if !carry {
            elements.push(Element {
                key: after,
                value: Vec::new(),
                end: true,
            });
            break;
        }
    }
    elements
}

/// The whole table.
fn build<'a>(
    table: &'a str,
    networks: &[NetworkRecord],
    published: &BTreeMap<String, Vec<Published>>,
) -> Transaction<'a> {
    let mut change = Transaction::new(Family::Inet, table);
    // Making it first lets the removal succeed when there is none.
    change.add_table().delete_table().add_table().add_chain(FORMAT);
    for (name, key, value, interval) in [
        ("bridges", &[Type::Interface][..], &[][..], false),
        ("internal", &[Type::Interface], &[], false),
        ("same", &[Type::Interface, Type::Interface], &[], false),
        ("subnets", &[Type::Ipv4], &[], true),
        ("subnets6", &[Type::Ipv6], &[], true),
        ("masqueraded", &[Type::Ipv4], &[], true),
        ("masqueraded6", &[Type::Ipv6], &[], true),
        ("open", &[Type::Interface], &[], false),
        ("open6", &[Type::Interface], &[], false),
        (
            "published",
            &[Type::Protocol, Type::Port],
            &[Type::Ipv4, Type::Port],
            false,
        ),
        (
            "published-at",
            &[Type::Ipv4, Type::Protocol, Type::Port],
            &[Type::Ipv4, Type::Port],
            false,
        ),
    ] {
        change.add_set(SetSpec {
            name,
            key,
            value,
            interval,
        });
    }
    change
        .add_chain("published")
        .add_base_chain("prerouting", "nat", Hook::Prerouting, -100)
        .add_base_chain("output", "nat", Hook::Output, -100)
        .add_base_chain("forward", "filter", Hook::Forward, 0)
        .add_base_chain("postrouting", "nat", Hook::Postrouting, 100);
    for chain in ["prerouting", "output"] {
        change.add_rule(
            chain,
            Rule::new()
                .family(IPV4)
                .load(REGISTER_1, Field::IPV4_DESTINATION)
                .mask(REGISTER_1, &[255, 0, 0, 0])
                .differs(REGISTER_1, &[127, 0, 0, 0])
                .destination_is_local()
                .verdict(Verdict::Jump("published")),
        );
    }
    change
        .add_rule(
            "published",
            Rule::new()
                .load(WORD_0, Field::IPV4_DESTINATION)
                .meta(WORD_1, Meta::Transport)
                .load(WORD_2, Field::DESTINATION_PORT)
                .mapped(WORD_0, "published-at", WORD_0)
                .redirect(WORD_0, WORD_1),
        )
        .add_rule(
            "published",
            Rule::new()
                .meta(WORD_0, Meta::Transport)
                .load(WORD_1, Field::DESTINATION_PORT)
                .mapped(WORD_0, "published", WORD_0)
                .redirect(WORD_0, WORD_1),
        );
    let into = || {
        Rule::new()
            .meta(REGISTER_1, Meta::OutputName)
            .within(REGISTER_1, "bridges")
    };
    /// `ct state established,related`.
    const KNOWN: u32 = 1 << 1 | 1 << 2;
    change
        .add_rule(
            "forward",
            Rule::new()
                .meta(REGISTER_1, Meta::InputName)
                .meta(REGISTER_2, Meta::OutputName)
                .within(REGISTER_1, "same")
                .verdict(Verdict::Accept),
        )
        .add_rule(
            "forward",
            Rule::new()
                .meta(REGISTER_1, Meta::InputName)
                .within(REGISTER_1, "internal")
                .verdict(Verdict::Drop),
        )
        .add_rule(
            "forward",
            Rule::new()
                .meta(REGISTER_1, Meta::OutputName)
                .within(REGISTER_1, "internal")
                .verdict(Verdict::Drop),
        )
        .add_rule(
            "forward",
            Rule::new().connection_state(KNOWN).verdict(Verdict::Accept),
        )
        .add_rule("forward", into().redirected().verdict(Verdict::Accept));
    for (family, set) in [(IPV4, "open"), (IPV6, "open6")] {
        // From outside only: its own containers may be kept apart.
        change.add_rule(
            "forward",
            Rule::new()
                .family(family)
                .meta(REGISTER_1, Meta::InputName)
                .outside(REGISTER_1, "bridges")
                .meta(REGISTER_1, Meta::OutputName)
                .within(REGISTER_1, set)
                .verdict(Verdict::Accept),
        );
    }
    change.add_rule("forward", into().verdict(Verdict::Drop));
    for (family, source, set, masqueraded) in [
        (IPV4, Field::IPV4_SOURCE, "subnets", "masqueraded"),
        (IPV6, Field::IPV6_SOURCE, "subnets6", "masqueraded6"),
    ] {
        let from_one_of = |set| {
            Rule::new()
                .family(family)
                .load(REGISTER_1, source)
                .within(REGISTER_1, set)
        };
        let from = || from_one_of(set);
        change
            .add_rule(
                "postrouting",
                from_one_of(masqueraded)
                    .meta(REGISTER_1, Meta::OutputName)
                    .outside(REGISTER_1, "bridges")
                    .masquerade(),
            )
            .add_rule("postrouting", from().redirected().masquerade());
    }
    let mut elements: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
    for network in networks {
        for (set, list) in network_elements(network) {
            elements.entry(set).or_default().extend(list);
        }
    }
    for (map, element) in published.values().flatten().filter_map(Published::element) {
        elements.entry(map).or_default().push(element);
    }
    for (set, list) in elements {
        change.add_elements(set, &list);
    }
    change
}

/// Opens the connection; an unusable firewall is a warning.
fn open() -> Result<Result<Connection, NetworkWarning>, NetworkError> {
    usable(Connection::open())
}

/// Tells a kernel without nf_tables from a refusal.
fn usable<T>(result: Result<T, NetlinkError>) -> Result<Result<T, NetworkWarning>, NetworkError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if nftables::is_unsupported(&error) => Ok(Err(NetworkWarning::NoFirewall {
            reason: error.to_string(),
        })),
        Err(error) => Err(error.into()),
    }
}

/// Whether the table is there in the present form.
fn is_built(connection: &mut Connection, table: &str) -> Result<bool, NetlinkError> {
    nftables::has_chain(connection, Family::Inet, table, FORMAT)
}

/// Makes the table from the records when it is missing or of an older form.
/// Returns whether it did.
fn build_when_missing(
    world: &World,
    connection: &mut Connection,
) -> Result<Result<bool, NetworkWarning>, NetworkError> {
    let table = table(world);
    match usable(is_built(connection, &table))? {
        Ok(true) => return Ok(Ok(false)),
        Ok(false) => {}
        Err(warning) => return Ok(Err(warning)),
    }
    let change = build(&table, &record::list(world)?, &recorded(world)?);
    Ok(usable(change.commit(connection))?.map(|()| true))
}

/// Lets a network through: from its record, which is written already.
pub(super) fn add_network(
    world: &World,
    record: &NetworkRecord,
) -> Result<Option<NetworkWarning>, NetworkError> {
    let _lock = lock(world)?;
    let mut connection = match open()? {
        Ok(connection) => connection,
        Err(warning) => return Ok(Some(warning)),
    };
    match build_when_missing(world, &mut connection)? {
        Ok(true) => return Ok(None),
        Ok(false) => {}
        Err(warning) => return Ok(Some(warning)),
    }
    let table = table(world);
    let mut change = Transaction::new(Family::Inet, &table);
    for (set, list) in network_elements(record) {
        change.add_elements(set, &list);
    }
    commit_or_rebuild(world, &change, &mut connection)
}

/// Makes a change; when the table turns out not to be as the records say
/// (somebody changed it, or a process died between its record and its change),
/// makes the whole table anew from the records.
fn commit_or_rebuild(
    world: &World,
    change: &Transaction<'_>,
    connection: &mut Connection,
) -> Result<Option<NetworkWarning>, NetworkError> {
    use rustix::io::Errno;
    match change.commit(connection) {
        Ok(()) => Ok(None),
        Err(error)
            if [Errno::NOENT, Errno::EXIST, Errno::NOTEMPTY, Errno::BUSY]
                .into_iter()
                .any(|errno| error.is(errno)) =>
        {
            rebuild(world, connection)
        }
        Err(error) => Err(error.into()),
    }
}

/// Replaces the whole table by what the records say. The caller has the lock:
/// records change before the table does, so what is read under it is not older
/// than the table.
fn rebuild(world: &World, connection: &mut Connection) -> Result<Option<NetworkWarning>, NetworkError> {
    let networks = record::list(world)?;
    let table = table(world);
    if networks.is_empty() {
        let mut change = Transaction::new(Family::Inet, &table);
        change.delete_table();
        forgive_missing(change.commit(connection))?;
        return Ok(None);
    }
    let change = build(&table, &networks, &recorded(world)?);
    Ok(usable(change.commit(connection))?.err())
}

/// Forgets networks whose records are gone; with the last one the table goes.
pub(super) fn remove_networks(world: &World, records: &[NetworkRecord]) -> Result<(), NetworkError> {
    let _lock = lock(world)?;
    let Ok(mut connection) = open()? else {
        return Ok(());
    };
    if record::list(world)?.is_empty() {
        return rebuild(world, &mut connection).map(drop);
    }
    let elements: Vec<_> = records.iter().flat_map(network_elements).collect();
    take_out(&mut connection, &table(world), &elements)
}

/// Removes elements, all at once, or when some are gone already one by one.
fn take_out(
    connection: &mut Connection,
    table: &str,
    elements: &[(&str, Vec<Element>)],
) -> Result<(), NetworkError> {
    if elements.is_empty() {
        return Ok(());
    }
    let mut all = Transaction::new(Family::Inet, table);
    for (set, list) in elements {
        all.delete_elements(set, list);
    }
    match all.commit(connection) {
        Ok(()) => return Ok(()),
        Err(error) if nftables::is_unsupported(&error) => {}
        Err(error) => return Err(error.into()),
    }
    for (set, list) in elements {
        let mut one = Transaction::new(Family::Inet, table);
        one.delete_elements(set, list);
        forgive_missing(one.commit(connection))?;
    }
    Ok(())
}

/// What is to be removed may be gone, or the kernel may have no firewall at all.
fn forgive_missing(result: Result<(), NetlinkError>) -> Result<(), NetworkError> {
    match result {
        Err(error) if !nftables::is_unsupported(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Publishes ports of a container, in place of all that `owner` had published
/// before. A port that another owner has goes over to this one. A warning means
/// that only the proxy serves them.
///
/// # Errors
/// Those of the kernel and of the store.
pub fn add_published(
    world: &World,
    owner: &str,
    ports: &[Published],
) -> Result<Option<NetworkWarning>, NetworkError> {
    let _lock = lock(world)?;
    let boot = boot()?;
    let mut before = Vec::new();
    for (other, mut theirs) in recorded(world)? {
        if other == owner {
            before.extend(theirs);
            continue;
        }
        let count = theirs.len();
        theirs.retain(|port| {
            let goes = ports.iter().any(|new| new.place() == port.place());
            if goes {
                before.push(*port);
            }
            !goes
        });
        if theirs.len() != count {
            let record = PublishedRecord {
                owner: other.clone(),
                boot: boot.clone(),
                ports: theirs,
            };
            write_record(&path(world, &other), &record)?;
        }
    }
    let record = PublishedRecord {
        owner: owner.to_owned(),
        boot,
        ports: ports.to_vec(),
    };
    write_record(&path(world, owner), &record)?;
    let mut connection = match open()? {
        Ok(connection) => connection,
        Err(warning) => return Ok(Some(warning)),
    };
    match build_when_missing(world, &mut connection)? {
        Ok(true) => return Ok(None),
        Ok(false) => {}
        Err(warning) => return Ok(Some(warning)),
    }
    let table = table(world);
    let mut change = Transaction::new(Family::Inet, &table);
    for (map, element) in before.iter().filter_map(Published::element) {
        change.delete_elements(map, &[element]);
    }
    for (map, element) in ports.iter().filter_map(Published::element) {
        change.add_elements(map, &[element]);
    }
    commit_or_rebuild(world, &change, &mut connection)
}

/// Whether `owner` has published anything.
pub fn has_published(world: &World, owner: &str) -> bool {
    path(world, owner).exists()
}

/// Takes back all that `owner` has published; fine when that is nothing.
///
/// # Errors
/// Those of the kernel and of the store.
pub fn remove_published(world: &World, owner: &str) -> Result<(), NetworkError> {
    let _lock = lock(world)?;
    let path = path(world, owner);
    let Some(record) = read_record::<PublishedRecord>(&path)? else {
        return Ok(());
    };
    if let Ok(mut connection) = open()? {
        let elements: Vec<_> = record
            .ports
            .iter()
            .filter_map(Published::element)
            .map(|(map, element)| (map, vec![element]))
            .collect();
        take_out(&mut connection, &table(world), &elements)?;
    }
    Ok(remove_record(&path)?)
}

/// Replaces the whole table by what the records say, in one step: no packet
/// sees a moment between. Without networks there is no table.
///
/// # Errors
/// Those of the kernel and of the store.
pub fn resync(world: &World) -> Result<Option<NetworkWarning>, NetworkError> {
    let _lock = lock(world)?;
    match open()? {
        Ok(mut connection) => rebuild(world, &mut connection),
        Err(warning) => Ok(Some(warning)),
    }
}

/// Makes the table anew when it is not there or names other bridges than the
/// records do: somebody flushed it, or a process died half way.
pub(super) fn verify(world: &World) -> Result<Option<NetworkWarning>, NetworkError> {
    let _lock = lock(world)?;
    let mut connection = match open()? {
        Ok(connection) => connection,
        Err(warning) => return Ok(Some(warning)),
    };
    let table = table(world);
    let built = match usable(is_built(&mut connection, &table))? {
        Ok(built) => built,
        Err(warning) => return Ok(Some(warning)),
    };
    let found = nftables::keys(&mut connection, Family::Inet, &table, "bridges")?;
    let found: Option<BTreeSet<_>> = found.map(BTreeSet::from_iter);
    let networks = record::list(world)?;
    let expected: BTreeSet<_> = networks
        .iter()
        .map(|network| nftables::interface(&network.bridge))
        .collect();
    let good = match found {
        None => expected.is_empty(),
        Some(found) => built && found == expected && !expected.is_empty(),
    };
    if good {
        Ok(None)
    } else {
        rebuild(world, &mut connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_a_range() {
        let keys = |text: &str| -> Vec<(Vec<u8>, bool)> {
            range(text.parse().unwrap())
                .into_iter()
                .map(|element| (element.key, element.end))
                .collect()
        };
        assert_eq!(
            keys("172.17.0.0/16"),
            [(vec![172, 17, 0, 0], false), (vec![172, 18, 0, 0], true)]
        );
        assert_eq!(
            keys("10.0.0.252/30"),
            [(vec![10, 0, 0, 252], false), (vec![10, 0, 1, 0], true)]
        );
        assert_eq!(keys("255.255.255.0/24"), [(vec![255, 255, 255, 0], false)]);
    }

    #[test]
    fn a_published_port_is_one_element() {
        let mut port = Published {
            host_ip: None,
            host_port: 8080,
            transport: Transport::Tcp,
            address: Ipv4Addr::new(172, 17, 0, 2),
            port: 80,
        };
        let (map, element) = port.element().unwrap();
        assert_eq!(map, "published");
        assert_eq!(element.key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(element.value, [172, 17, 0, 2, 0, 80, 0, 0]);
        port.host_ip = Some(Ipv4Addr::UNSPECIFIED);
        assert_eq!(port.element().unwrap().0, "published");
        port.host_ip = Some(Ipv4Addr::new(10, 0, 0, 1));
        let (map, element) = port.element().unwrap();
        assert_eq!(map, "published-at");
        assert_eq!(element.key, [10, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        port.host_ip = Some(Ipv4Addr::LOCALHOST);
        assert_eq!(port.element(), None, "the proxy's");
    }
}
