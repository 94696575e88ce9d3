//! The network namespace of a container, with its interfaces.
//!
//! A short-lived thread makes the namespace; the veth pairs are made from the
//! host's side with the far end born inside (moving it there later costs 15 ms).
//! Nothing is ever deleted by a request: a namespace with all that is in it
//! goes when nothing of it is open any more, in the kernel's own time. So
//! whoever keeps [`Namespace::netns`] or one of the name service's sockets keeps
//! the namespace: let go of them when the container has ended.
//!
//! # The name service's place
//!
//! A container asks 127.0.0.11, port 53. A server inside that wants port 53 on
//! every address would not get it if we listened there: for TCP there is no way
//! around, and for UDP both sides would have to set `SO_REUSEADDR`. So we listen
//! on port [`NAMES_PORT`], outside the range ports are picked from, and rewrite
//! 53 to it and back as packets pass (no connection tracking, so other traffic
//! pays one comparison a packet). Without nf_tables we listen on port 53 itself.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use super::bridge::set;
use super::error::NetworkError;
use super::link::{self, LOOPBACK, Links, Peer};
use super::nftables;
use super::record;
use crate::store::World;
use crate::sys::netlink::Message;
use crate::sys::netns;

/// Where a container's resolver finds the name service (Docker's choice).
pub const NAMES_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port the name service really listens on, where port 53 can be rewritten.
pub const NAMES_PORT: u16 = 61_053;

/// One interface of a container: what connects it to one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Id of the network.
    pub network: String,
    /// Key of the lease.
    pub holder: String,
    /// The bridge.
    pub bridge: String,
    /// IPv4 address.
    pub address: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// The way out; `None` on an internal network.
    pub gateway: Option<IpAddr>,
    /// IPv6 address and prefix length.
    pub address6: Option<(Ipv6Addr, u8)>,
    /// The way out for IPv6.
    pub gateway6: Option<IpAddr>,
    /// MAC address.
    pub mac: [u8; 6],
    /// Largest packet in bytes.
    pub mtu: u32,
    /// The endpoint with the highest has the default route; of equals, the first.
    pub gw_priority: i64,
    /// It reaches no other container of the network.
    pub apart: bool,
    /// Name of the interface; `None` is the next of `interface_prefix`.
    pub interface: Option<String>,
    /// How that begins; `None` is `eth`.
    pub interface_prefix: Option<String>,
    /// Further addresses, good on the link only.
    pub link_local: Vec<IpAddr>,
    /// Parameters: files below `/proc/sys`, with `IFNAME` where the interface's
    /// name belongs, and what is written there.
    pub sysctls: Vec<(String, String)>,
}

impl Endpoint {
    /// Whether anything on it is of IPv6.
    fn has_ipv6(&self) -> bool {
        self.address6.is_some() || self.link_local.iter().any(IpAddr::is_ipv6)
    }
}

/// A network namespace ready for a container.
#[derive(Debug)]
pub struct Namespace {
    /// The namespace.
    pub netns: OwnedFd,
    /// Where queries for names arrive by UDP.
    pub dns_udp: OwnedFd,
    /// Where they arrive by TCP; listening.
    pub dns_tcp: OwnedFd,
    /// Names of the host's ends, `eth0`'s first.
    pub host_ends: Vec<String>,
}

/// Makes a network namespace with an interface for every endpoint (`eth0`,
/// `eth1`, … in this order unless they have other names), and the sockets of its
/// name service. On any error nothing is left.
///
/// # Errors
/// [`NetworkError::Missing`] when a bridge is gone ([`super::bridge::ensure`]
/// makes it again), [`NetworkError::Privilege`], and those of the kernel.
pub fn create_namespace(world: &World, endpoints: &[Endpoint]) -> Result<Namespace, NetworkError> {
    // The socket stays with the namespace it is opened in: this one.
    let mut host = Links::open()?;
    let pairs = Pair::plan(&mut host, &endpoints.iter().collect::<Vec<_>>(), BTreeSet::new())?;
    let work = |netns: BorrowedFd<'_>| {
        let mut inside = Links::open()?;
        quiet_ipv6(endpoints.iter().any(Endpoint::has_ipv6))?;
        make(world, &mut host, netns, &pairs)?;
        inside.send(&[link::raise(LOOPBACK)])?;
        let indices = configure(&mut inside, &pairs)?;
        inside.send(&default_routes(endpoints.iter().zip(indices)))?;
        names_sockets_here(true)
    };
    let (netns, result) = netns::create(work).map_err(NetworkError::io("make a network namespace"))?;
    let (dns_udp, dns_tcp) = result?;
    Ok(Namespace {
        netns,
        dns_udp,
        dns_tcp,
        host_ends: pairs.into_iter().map(|pair| pair.host_end).collect(),
    })
}

/// Brings the interfaces of the container that has leases as `holder` to what
/// `endpoints` say, while it runs in `netns`: those that are missing are made,
/// under the names they ask for or the first that are free, the default routes are moved, and
/// the interfaces of other networks of ours are removed, in this order. What
/// the container has made for itself there is left alone, but for its default
/// routes. Repeating it changes nothing.
///
/// # Errors
/// As [`create_namespace`]; what was done by then stays.
pub fn change_namespace(
    world: &World,
    netns: BorrowedFd<'_>,
    holder: &str,
    endpoints: &[Endpoint],
) -> Result<(), NetworkError> {
    let mut host = Links::open()?;
    let ends = Ends::of(world, host.all()?);
    let work = || {
        let mut inside = Links::open()?;
        let there = inside.all()?;
        // Each end names the other: an end of a container that is no more may
        // still be there, and one that the container has made may look alike.
        let mut present: Vec<(&str, &link::Link)> = Vec::new();
        for (network, end) in ends.of_holder(holder) {
            let is_other = |link: &&link::Link| link.peer == end.index && link.index == end.peer;
            present.extend(there.iter().find(is_other).map(|link| (network, link)));
        }
        let index_of = |endpoint: &Endpoint| {
            let found = present.iter().find(|(network, _)| *network == endpoint.network);
            found.map(|(_, link)| link.index)
        };
        let missing = endpoints.iter().filter(|endpoint| index_of(endpoint).is_none());
        let taken = there.iter().map(|link| link.name.clone()).collect();
        let pairs = Pair::plan(&mut host, &missing.collect::<Vec<_>>(), taken)?;
        quiet_ipv6(pairs.iter().any(|pair| pair.endpoint.has_ipv6()))?;
        make(world, &mut host, netns, &pairs)?;
        let made = configure(&mut inside, &pairs)?;
        let made = pairs.iter().zip(made).map(|(pair, index)| (pair.endpoint, index));
        let all: Vec<(&Endpoint, u32)> = endpoints
            .iter()
            .filter_map(|endpoint| Some((endpoint, index_of(endpoint)?)))
            .chain(made)
            .collect();
        // In the order of the endpoints, which decides between equals.
        let in_order = endpoints.iter().filter_map(|endpoint| {
            all.iter()
                .find(|(other, _)| other.network == endpoint.network)
                .copied()
        });
        inside.send(&default_routes(in_order))?;
        let surplus = present
            .iter()
            .filter(|(network, _)| !endpoints.iter().any(|endpoint| endpoint.network == *network));
        let (batch, indices): (Vec<_>, Vec<_>) = surplus
            .map(|(_, link)| (link::delete(link.index, &link.name), link.index))
            .unzip();
        if !batch.is_empty() {
            inside.remove(batch, indices)?;
        }
        Ok(())
    };
    netns::within(netns, work).map_err(NetworkError::io("enter the network namespace of a container"))?
}

/// The host's ends of the veth pairs of a world.
#[derive(Debug)]
pub struct Ends {
    prefix: String,
    world: World,
    /// By what names their holder, with the network of each.
    by_holder: HashMap<String, Vec<(String, link::Link)>>,
}

impl Ends {
    /// As they are now.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn look(world: &World) -> Result<Self, NetworkError> {
        Ok(Self::of(world, Links::open()?.all()?))
    }

    fn of(world: &World, links: Vec<link::Link>) -> Self {
        let prefix = super::alias_prefix(world);
        let mut by_holder: HashMap<String, Vec<(String, link::Link)>> = HashMap::new();
        for link in links {
            let mark = link.alias.strip_prefix(&prefix);
            if let Some((network, holder)) = mark.and_then(|mark| mark.split_once('/')) {
                let (network, holder) = (network.to_owned(), holder.to_owned());
                by_holder.entry(holder).or_default().push((network, link));
            }
        }
        Self {
            prefix,
            world: world.clone(),
            by_holder,
        }
    }

    fn of_holder(&self, holder: &str) -> impl Iterator<Item = (&str, &link::Link)> {
        let alias = super::alias(&self.world, "", holder);
        let mark = alias.strip_prefix(&self.prefix).unwrap_or_default();
        let found = self.by_holder.get(mark.trim_start_matches('/'));
        found
            .into_iter()
            .flatten()
            .map(|(network, link)| (network.as_str(), link))
    }

    /// The ids of the networks that a container is on.
    pub fn networks(&self, holder: &str) -> BTreeSet<&str> {
        self.of_holder(holder).map(|(network, _)| network).collect()
    }
}

/// The names of interfaces: as asked for, or numbered from 0 for each beginning,
/// past those that are taken.
fn interface_names(
    endpoints: &[&Endpoint],
    mut taken: BTreeSet<String>,
) -> Result<Vec<String>, NetworkError> {
    for endpoint in endpoints {
        if let Some(name) = &endpoint.interface
            && !taken.insert(name.clone())
        {
            return Err(NetworkError::Unfit {
                network: endpoint.network.clone(),
                reason: format!("interface {name} is on another network already"),
            });
        }
    }
    let mut names = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let prefix = endpoint.interface_prefix.as_deref().unwrap_or("eth");
        let free = || {
            let mut numbered = (0_u32..).map(|number| format!("{prefix}{number}"));
            numbered.find(|name| !taken.contains(name)).unwrap_or_default()
        };
        let name = endpoint.interface.clone().unwrap_or_else(free);
        taken.insert(name.clone());
        names.push(name);
    }
    Ok(names)
}

/// A veth pair to be made.
#[derive(Debug)]
struct Pair<'a> {
    endpoint: &'a Endpoint,
    /// Index of the bridge.
    bridge: u32,
    host_end: String,
    /// Name of the other end.
    interface: String,
}

impl<'a> Pair<'a> {
    /// A pair for each endpoint, in a namespace with interfaces of these names.
    fn plan(
        host: &mut Links,
        endpoints: &[&'a Endpoint],
        taken: BTreeSet<String>,
    ) -> Result<Vec<Self>, NetworkError> {
        let names = interface_names(endpoints, taken)?;
        let pair = |(endpoint, interface): (&&'a Endpoint, String)| {
            let missing = || NetworkError::Missing {
                id: endpoint.network.clone(),
            };
            Ok(Self {
                endpoint,
                bridge: host.find(&endpoint.bridge)?.ok_or_else(missing)?.index,
                host_end: host_end()?,
                interface,
            })
        };
        endpoints.iter().zip(names).map(pair).collect()
    }
}

/// Makes veth pairs, their far ends born in `netns`.
fn make(
    world: &World,
    host: &mut Links,
    netns: BorrowedFd<'_>,
    pairs: &[Pair<'_>],
) -> Result<(), NetworkError> {
    let mut batch = Vec::with_capacity(pairs.len() * 3);
    for pair in pairs {
        let peer = Peer {
            netns,
            name: &pair.interface,
            mac: pair.endpoint.mac,
        };
        let alias = super::alias(world, &pair.endpoint.network, &pair.endpoint.holder);
        let port = link::Port {
            apart: pair.endpoint.apart,
        };
        batch.push(link::add_veth(
            &pair.host_end,
            pair.bridge,
            pair.endpoint.mtu,
            peer,
        ));
        batch.push(link::own_and_raise(&pair.host_end, &alias, Some(port)));
        batch.push(link::get_link(&pair.host_end));
    }
    let made = host.send(&batch).map_err(|error| {
        if error.is(rustix::io::Errno::XFULL) {
            NetworkError::BridgeFull {
                operation: error.operation,
            }
        } else {
            error.into()
        }
    })?;
    // The bridge may still know this MAC address behind the port of the
    // container that had the address before and is not all gone.
    let forward: Vec<_> = made
        .iter()
        .filter_map(link::link)
        .zip(pairs)
        .map(|(port, pair)| link::set_forwarding(port.index, pair.endpoint.mac))
        .collect();
    host.send(&forward)?;
    Ok(())
}

/// A network namespace with nothing but a loopback interface.
///
/// # Errors
/// [`NetworkError::Privilege`], and those of the kernel.
pub fn loopback_only() -> Result<OwnedFd, NetworkError> {
    let (netns, result) =
        netns::create(|_| Ok::<_, NetworkError>(Links::open()?.send(&[link::raise(LOOPBACK)])?))
            .map_err(NetworkError::io("make a network namespace"))?;
    result?;
    Ok(netns)
}

/// The sockets of the name service of a container that runs already: for a
/// supervisor that takes over from one that died, whose sockets died with it.
///
/// # Errors
/// [`NetworkError::Io`] when another process still holds them (`EADDRINUSE`).
pub fn names_sockets(netns: BorrowedFd<'_>) -> Result<(OwnedFd, OwnedFd), NetworkError> {
    netns::within(netns, || names_sockets_here(false))
        .map_err(NetworkError::io("enter the network namespace of a container"))?
}

fn names_sockets_here(fresh: bool) -> Result<(OwnedFd, OwnedFd), NetworkError> {
    let port = match nftables::redirect_names(NAMES_ADDRESS, NAMES_PORT, fresh) {
        Ok(()) => NAMES_PORT,
        Err(error) if nftables::is_unsupported(&error) => 53,
        Err(error) => return Err(error.into()),
    };
    let failed = || NetworkError::io(format!("listen for names on {NAMES_ADDRESS}:{port}"));
    let udp = UdpSocket::bind((NAMES_ADDRESS, port)).map_err(failed())?;
    let tcp = TcpListener::bind((NAMES_ADDRESS, port)).map_err(failed())?;
    udp.set_nonblocking(true).map_err(failed())?;
    tcp.set_nonblocking(true).map_err(failed())?;
    Ok((udp.into(), tcp.into()))
}

/// Interfaces of this namespace have no IPv6 unless told so one by one:
/// otherwise a container has addresses that no network gave it (CVE-2024-32473).
/// Loopback, which is there already, keeps `::1`.
/// On the interfaces that will have it, addresses come from us alone and at once.
fn quiet_ipv6(some: bool) -> Result<(), NetworkError> {
    let defaults = "/proc/sys/net/ipv6/conf/default";
    if !Path::new(defaults).exists() {
        return Ok(());
    }
    set(&format!("{defaults}/disable_ipv6"), "1")?;
    if some {
        set(&format!("{defaults}/accept_ra"), "0")?;
        set(&format!("{defaults}/accept_dad"), "0")?;
    }
    Ok(())
}

/// Brings fresh interfaces of this namespace up, with their addresses; their
/// indices.
fn configure(inside: &mut Links, pairs: &[Pair<'_>]) -> Result<Vec<u32>, NetworkError> {
    for Pair {
        endpoint, interface, ..
    } in pairs
    {
        if endpoint.has_ipv6() {
            set(&format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
        }
        for (file, value) in &endpoint.sysctls {
            set(&format!("/proc/sys/{}", file.replace("IFNAME", interface)), value)?;
        }
    }
    let batch: Vec<_> = pairs.iter().map(|pair| link::get_link(&pair.interface)).collect();
    let indices: Vec<u32> = inside
        .send(&batch)?
        .iter()
        .filter_map(link::link)
        .map(|link| link.index)
        .collect();
    let mut batch = Vec::with_capacity(pairs.len() * 3);
    for (Pair { endpoint, .. }, index) in pairs.iter().zip(&indices) {
        batch.push(link::raise(*index));
        batch.push(link::add_address(
            *index,
            endpoint.address.into(),
            endpoint.prefix,
        ));
        if let Some((address, prefix)) = endpoint.address6 {
            batch.push(link::add_address(*index, address.into(), prefix));
        }
        for address in &endpoint.link_local {
            // 169.254.0.0/16 (RFC 3927), and the halves of fe80::/10 (RFC 4291).
            let prefix = if address.is_ipv4() { 16 } else { 64 };
            batch.push(link::add_address(*index, *address, prefix));
        }
    }
    inside.send(&batch)?;
    Ok(indices)
}

/// The default routes, in place of those that are there: through the endpoint
/// with the highest `gw_priority` that has a way out; of equals, the first.
fn default_routes<'a>(endpoints: impl Iterator<Item = (&'a Endpoint, u32)>) -> Vec<Message> {
    let endpoints: Vec<(&Endpoint, u32)> = endpoints.collect();
    let ways: [fn(&Endpoint) -> Option<IpAddr>; 2] =
        [|endpoint| endpoint.gateway, |endpoint| endpoint.gateway6];
    let out = |way: fn(&Endpoint) -> Option<IpAddr>| {
        // `max_by_key` takes the last of equals.
        let out = endpoints.iter().rev();
        out.filter_map(|(endpoint, index)| Some((endpoint.gw_priority, way(endpoint)?, *index)))
            .max_by_key(|(priority, _, _)| *priority)
    };
    ways.into_iter()
        .filter_map(out)
        .map(|(_, gateway, index)| link::add_default_route(index, gateway))
        .collect()
}

/// A name for the host's end of a veth pair that no other has.
fn host_end() -> Result<String, NetworkError> {
    let mut bytes = [0; 6];
    record::random(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("rv{}", digits.get(..11).unwrap_or(&digits)))
}
