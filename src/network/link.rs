//! Links, addresses, routes and neighbours as rtnetlink messages (rtnetlink(7)).
//!
//! One function a message; the callers put them into batches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::mpsc;

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;

use super::pool::Subnet;
use crate::sys::netlink::{
    ACK, Attributes, CREATE, EXCL, Message, NetlinkError, Protocol, REPLACE, Reply, Socket, attributes,
    string, u32_at,
};

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h, linux/veth.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTMGRP_LINK: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NTF_MASTER: u8 = 0x04;
const IFF_UP: u32 = 1;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

/// Index of the loopback interface in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: String,
    /// `bridge`, `veth`; empty for hardware.
    pub(super) kind: String,
    /// Index of the bridge it is a port of; 0 for none.
    pub(super) master: u32,
    /// Index of the other end of a veth pair, in that one's namespace.
    pub(super) peer: u32,
    pub(super) mtu: u32,
    pub(super) up: bool,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkAddress {
    pub(super) index: u32,
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Where to; `None` is the default route.
    pub(super) to: Option<Subnet>,
    /// Index of the interface; 0 when there is none or more than one.
    pub(super) index: u32,
}

/// `struct ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// Appends an address attribute.
fn put_address(list: &mut Attributes, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => list.put(kind, &address.octets()),
        IpAddr::V6(address) => list.put(kind, &address.octets()),
    };
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// Makes a bridge, down.
pub(super) fn add_bridge(name: &str, mac: [u8; 6], mtu: u32) -> Message {
    let mut message = Message::new(RTM_NEWLINK, ACK | CREATE | EXCL, format!("make bridge {name}"));
    message
        .body
        .raw(&link_header(0, 0, 0))
        .string(IFLA_IFNAME, name)
        .put(IFLA_ADDRESS, &mac)
        .u32(IFLA_MTU, mtu)
        .nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "bridge");
        });
    message
}

/// What one end of a veth pair inside a namespace is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer<'a> {
    pub(super) netns: BorrowedFd<'a>,
    pub(super) name: &'a str,
    pub(super) mac: [u8; 6],
}

/// Makes a veth pair, down: the host's end a port of a bridge, the other end
/// born inside its namespace. (Moving an end there later costs 15 ms; neither
/// end can come up before both are there.)
pub(super) fn add_veth(name: &str, bridge: u32, mtu: u32, peer: Peer<'_>) -> Message {
    let mut message = Message::new(
        RTM_NEWLINK,
        ACK | CREATE | EXCL,
        format!("make interface {} with its host end {name}", peer.name),
    );
    message
        .body
        .raw(&link_header(0, 0, 0))
        .string(IFLA_IFNAME, name)
        .u32(IFLA_MTU, mtu)
        .u32(IFLA_MASTER, bridge)
        .nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |end| {
                    end.raw(&link_header(0, 0, 0))
                        .string(IFLA_IFNAME, peer.name)
                        .put(IFLA_ADDRESS, &peer.mac)
                        .u32(IFLA_MTU, mtu)
                        .u32(IFLA_NET_NS_FD, peer.netns.as_raw_fd().cast_unsigned());
                });
            });
        });
    message
}

/// How a link is a port of its bridge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    /// It reaches no other port that is so too.
    pub(super) apart: bool,
}

/// Marks a host-side link as ours, keeps IPv6 addresses from appearing on it,
/// and brings it up.
///
/// A port of a bridge sends back to where a packet came from (hairpin): with
/// br_netfilter, the bridge itself rewrites the destination of a container that
/// connects to its own published port. Ports that are `apart` pass nothing to
/// each other (Linux 4.18), only from and to the bridge itself.
pub(super) fn own_and_raise(name: &str, alias: &str, port: Option<Port>) -> Message {
    let mut message = Message::new(RTM_NEWLINK, ACK, format!("set up interface {name}"));
    message
        .body
        .raw(&link_header(0, IFF_UP, IFF_UP))
        .string(IFLA_IFNAME, name)
        .put(IFLA_IFALIAS, alias.as_bytes())
        .nest(IFLA_AF_SPEC, |families| {
            families.nest(u16::from(AF_INET6), |v6| {
                v6.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
            });
        });
    if let Some(port) = port {
        message.body.nest(IFLA_LINKINFO, |info| {
            info.string(IFLA_INFO_SLAVE_KIND, "bridge")
                .nest(IFLA_INFO_SLAVE_DATA, |data| {
                    data.u8(IFLA_BRPORT_MODE, 1);
                    if port.apart {
                        data.u8(IFLA_BRPORT_ISOLATED, 1);
                    }
                });
        });
    }
    message
}

/// Brings a link up.
pub(super) fn raise(index: u32) -> Message {
    let mut message = Message::new(RTM_SETLINK, ACK, format!("bring up interface {index}"));
    message.body.raw(&link_header(index, IFF_UP, IFF_UP));
    message
}

/// Marks a link without touching anything else.
pub(super) fn set_alias(name: &str, alias: &str) -> Message {
    let mut message = Message::new(RTM_SETLINK, ACK, format!("name the owner of interface {name}"));
    message
        .body
        .raw(&link_header(0, 0, 0))
        .string(IFLA_IFNAME, name)
        .put(IFLA_IFALIAS, alias.as_bytes());
    message
}

/// Puts a link into a group.
pub(super) fn set_group(index: u32, name: &str, group: u32) -> Message {
    let mut message = Message::new(RTM_SETLINK, ACK, format!("mark interface {name} for removal"));
    message.body.raw(&link_header(index, 0, 0)).u32(IFLA_GROUP, group);
    message
}

/// Removes every link of a group: one wait of the kernel for all.
pub(super) fn delete_group(group: u32) -> Message {
    let mut message = Message::new(RTM_DELLINK, ACK, "remove interfaces");
    message.body.raw(&link_header(0, 0, 0)).u32(IFLA_GROUP, group);
    message
}

/// Removes a link.
pub(super) fn delete(index: u32, name: &str) -> Message {
    let mut message = Message::new(RTM_DELLINK, ACK, format!("remove interface {name}"));
    message.body.raw(&link_header(index, 0, 0));
    message
}

/// Asks for a link by name.
pub(super) fn get_link(name: &str) -> Message {
    let mut message = Message::new(RTM_GETLINK, 0, format!("find interface {name}"));
    message
        .body
        .raw(&link_header(0, 0, 0))
        .string(IFLA_IFNAME, name)
        .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    message
}

/// Gives a link an address; fine when it has it.
pub(super) fn add_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let mut message = Message::new(
        RTM_NEWADDR,
        ACK | CREATE | REPLACE,
        format!("give interface {index} the address {address}/{prefix}"),
    );
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut header = [0; 8];
    header[0] = family(address);
    header[1] = prefix;
    header[2] = flags;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    message.body.raw(&header);
    put_address(&mut message.body, IFA_LOCAL, address);
    put_address(&mut message.body, IFA_ADDRESS, address);
    if address.is_ipv4()
        && let Some(subnet) = Subnet::around(address, prefix)
    {
        put_address(&mut message.body, IFA_BROADCAST, subnet.last());
    }
    message
}

/// Takes an address from a link.
pub(super) fn remove_address(index: u32, address: IpAddr, prefix: u8) -> Message {
    let mut message = Message::new(
        RTM_DELADDR,
        ACK,
        format!("take the address {address}/{prefix} from interface {index}"),
    );
    let mut header = [0; 8];
    header[0] = family(address);
    header[1] = prefix;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    message.body.raw(&header);
    put_address(&mut message.body, IFA_LOCAL, address);
    message
}

/// Adds a default route.
pub(super) fn add_default_route(index: u32, gateway: IpAddr) -> Message {
    let mut message = Message::new(
        RTM_NEWROUTE,
        ACK | CREATE | REPLACE,
        format!("add the default route through {gateway}"),
    );
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
    message.body.raw(&[
        family(gateway),
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        0,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]);
    put_address(&mut message.body, RTA_GATEWAY, gateway);
    message.body.u32(RTA_OIF, index);
    message
}

/// Tells a bridge behind which port an address is, in place of what it learned.
pub(super) fn set_forwarding(port: u32, mac: [u8; 6]) -> Message {
    let mut message = Message::new(
        RTM_NEWNEIGH,
        ACK | CREATE | REPLACE,
        format!("point the bridge at interface {port}"),
    );
    // struct ndmsg: family, padding, ifindex, state, flags, type.
    let mut header = [0; 12];
    header[0] = AF_BRIDGE;
    header[4..8].copy_from_slice(&port.to_ne_bytes());
    header[8..10].copy_from_slice(&NUD_NOARP.to_ne_bytes());
    header[10] = NTF_MASTER;
    message.body.raw(&header).put(NDA_LLADDR, &mac);
    message
}

/// A connection to rtnetlink that understands the answers.
#[derive(Debug)]
pub(super) struct Links {
    socket: Socket,
}

impl Links {
    /// Opens it in the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: Socket::open(Protocol::Route)?,
        })
    }

    /// Sends a batch.
    pub(super) fn send(&mut self, messages: &[Message]) -> Result<Vec<Reply>, NetlinkError> {
        self.socket.transact(messages)
    }

    /// Sends a batch that removes links, and returns when none of them can be
    /// seen any more.
    ///
    /// The kernel answers only when the last reader of the removed links is
    /// surely gone: some 40 ms (`rcu_barrier` in `netdev_run_todo`, after the
    /// announcements and the lock). Nobody has to wait for that: a thread does.
    pub(super) fn remove(mut self, batch: Vec<Message>, mut indices: Vec<u32>) -> Result<(), NetlinkError> {
        let mut announcements = Socket::open(Protocol::Route)?;
        announcements.join(RTMGRP_LINK)?;
        let Ok((answered, answer)) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC) else {
            return self.send(&batch).map(drop);
        };
        let (tell, told) = mpsc::sync_channel(1);
        let spawned = std::thread::Builder::new()
            .name("links".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let result = self.send(&batch).map(drop);
                let _ = tell.send(result);
                drop(answer);
            });
        if let Err(source) = spawned {
            return Err(NetlinkError {
                operation: "start a thread that removes interfaces".to_owned(),
                source,
                text: None,
            });
        }
        loop {
            let mut waiting = [
                PollFd::new(&announcements, PollFlags::IN),
                PollFd::new(&answered, PollFlags::IN),
            ];
            let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut waiting, None));
            let answered = ready.is_err() || !waiting[1].revents().is_empty();
            // Some lost: the answer will come.
            for reply in announcements.announced().unwrap_or_default() {
                if let Some(gone) = removed(&reply) {
                    indices.retain(|index| *index != gone);
                }
            }
            if answered {
                return told.recv().unwrap_or(Ok(()));
            }
            if indices.is_empty() {
                return Ok(());
            }
        }
    }

    /// A link by name; `None` when there is none.
    pub(super) fn find(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        match self.socket.transact(&[get_link(name)]) {
            Ok(replies) => Ok(replies.iter().find_map(link)),
            Err(error) if error.is(rustix::io::Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All links.
    pub(super) fn all(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut message = Message::new(RTM_GETLINK, 0, "list interfaces");
        message
            .body
            .raw(&link_header(0, 0, 0))
            .u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
        Ok(self.socket.dump(&message)?.iter().filter_map(link).collect())
    }

    /// All addresses.
    pub(super) fn addresses(&mut self) -> Result<Vec<LinkAddress>, NetlinkError> {
        let mut message = Message::new(RTM_GETADDR, 0, "list addresses");
        message.body.raw(&[0; 8]);
        Ok(self
            .socket
            .dump(&message)?
            .iter()
            .filter_map(link_address)
            .collect())
    }

    /// All routes of the main table to unicast destinations.
    pub(super) fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut message = Message::new(RTM_GETROUTE, 0, "list routes");
        message.body.raw(&[0; 12]);
        Ok(self.socket.dump(&message)?.iter().filter_map(route).collect())
    }
}

/// Reads a link out of an answer.
pub(super) fn link(reply: &Reply) -> Option<Link> {
    if reply.kind != RTM_NEWLINK {
        return None;
    }
    let (header, list) = reply.split(16)?;
    let mut link = Link {
        index: u32_at(header, 4)?,
        up: u32_at(header, 8)? & IFF_UP != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(list) {
        match kind {
            IFLA_IFNAME => link.name = string(value)?.to_owned(),
            IFLA_IFALIAS => link.alias = string(value).unwrap_or_default().to_owned(),
            IFLA_MASTER => link.master = u32_at(value, 0)?,
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_LINK => link.peer = u32_at(value, 0)?,
            IFLA_LINKINFO => {
                if let Some((_, value)) = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND) {
                    link.kind = string(value).unwrap_or_default().to_owned();
                }
            }
            _ => {}
        }
    }
    Some(link)
}

/// The link that an announcement says is gone. A bridge announces in its own
/// family that a port has left it, which is something else.
fn removed(reply: &Reply) -> Option<u32> {
    let (header, _) = reply.split(16).filter(|_| reply.kind == RTM_DELLINK)?;
    (header.first() == Some(&AF_UNSPEC)).then(|| u32_at(header, 4))?
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(|octets| Ipv4Addr::from(octets).into())
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into()))
        .ok()
}

fn link_address(reply: &Reply) -> Option<LinkAddress> {
    if reply.kind != RTM_NEWADDR {
        return None;
    }
    let (header, list) = reply.split(8)?;
    // IFA_ADDRESS is the other end on a point-to-point link; IFA_LOCAL is ours.
    let mut own = None;
    for (kind, value) in attributes(list) {
        match kind {
            IFA_LOCAL => own = address(value),
            IFA_ADDRESS if own.is_none() => own = address(value),
            _ => {}
        }
    }
    Some(LinkAddress {
        index: u32_at(header, 4)?,
        address: own?,
        prefix: *header.get(1)?,
    })
}

fn route(reply: &Reply) -> Option<Route> {
    if reply.kind != RTM_NEWROUTE {
        return None;
    }
    let (header, list) = reply.split(12)?;
    if *header.get(4)? != RT_TABLE_MAIN || *header.get(7)? != RTN_UNICAST {
        return None;
    }
    let prefix = *header.get(1)?;
    let mut route = Route { to: None, index: 0 };
    for (kind, value) in attributes(list) {
        match kind {
            RTA_DST => route.to = Subnet::around(address(value)?, prefix),
            RTA_OIF => route.index = u32_at(value, 0)?,
            _ => {}
        }
    }
    Some(route)
}

/// The MAC address that goes with an IPv4 address: 02:42, then the address, so
/// that whoever remembers one is right about the other (Docker's rule).
pub(super) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// Reads a MAC address: six hexadecimal pairs after `:` or `-`, not a group address.
pub(super) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut pairs = text.split([':', '-']);
    for byte in &mut mac {
        let pair = pairs.next().filter(|pair| pair.len() == 2)?;
        if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    (pairs.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_strictly() {
        assert_eq!(parse_mac("02:42:ac:12:00:02"), Some([2, 0x42, 0xac, 0x12, 0, 2]));
        assert_eq!(parse_mac("02-42-AC-12-00-02"), Some([2, 0x42, 0xac, 0x12, 0, 2]));
        for wrong in [
            "",
            "02:42:ac:12:00",
            "02:42:ac:12:00:02:03",
            "2:42:ac:12:00:02",
            "02:42:ac:12:00:+2",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:42:ac:12:00:0g",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
        assert_eq!(mac_of(Ipv4Addr::new(172, 18, 0, 2)), [2, 0x42, 172, 18, 0, 2]);
    }

    #[test]
    fn the_loopback_interface_is_read_back() {
        let mut links = Links::open().unwrap();
        let lo = links.find("lo").unwrap().unwrap();
        assert_eq!((lo.index, lo.name.as_str()), (LOOPBACK, "lo"));
        assert!(links.all().unwrap().contains(&lo));
        assert_eq!(links.find("rc-not-there").unwrap(), None);
    }
}
