//! Network devices of the host that a bundle gives to its container
//! (`linux.netDevices` of the OCI runtime spec): moved into its network
//! namespace, with their addresses, and switched on there.
//!
//! With the namespace they end or, if they are of hardware, go back: the kernel
//! does that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use oci_spec::runtime::Linux;

use super::error::{Failure, Step};
use super::spec::SpecError;
use crate::sys::netlink::{
    ACK, CREATE, Message, NetlinkError, Protocol, REPLACE, Reply, Socket, attributes, u32_at,
};
use crate::sys::netns;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
/// Size of `struct ifaddrmsg`.
const ADDRESS: usize = 8;
/// `IFA_CACHEINFO`: how long an address holds, which is not kept.
const IFA_CACHEINFO: u16 = 6;

/// The longest name of an interface.
const LONGEST: usize = 15;

/// The devices that a configuration gives: name outside to name inside.
///
/// # Errors
/// [`SpecError::Unsupported`] without a network namespace, and for what cannot
/// be the name of an interface.
pub(super) fn plan(linux: &Linux, namespace: bool) -> Result<BTreeMap<String, String>, SpecError> {
    let mut all = BTreeMap::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let inside = device.name().clone().filter(|name| !name.is_empty());
        all.insert(name.clone(), inside.unwrap_or_else(|| name.clone()));
    }
    if !all.is_empty() && !namespace {
        return Err(SpecError::Unsupported(
            "linux.netDevices without a network namespace".into(),
        ));
    }
    let mut inside: Vec<&String> = all.values().collect();
    inside.sort();
    for name in all.keys().chain(inside.iter().copied()) {
        let odd = |letter: char| letter == '/' || letter == ':' || letter.is_whitespace() || letter == '\0';
        if name.is_empty()
            || name.len() > LONGEST
            || matches!(name.as_str(), "." | "..")
            || name.contains(odd)
        {
            return Err(SpecError::Unsupported(format!(
                "linux.netDevices: {name:?}, which cannot be the name of an interface,"
            )));
        }
    }
    if let Some(pair) = inside.windows(2).find(|pair| pair.first() == pair.last()) {
        return Err(SpecError::Unsupported(format!(
            "linux.netDevices: several devices of the name {:?}",
            pair.first().map_or("", |name| name.as_str())
        )));
    }
    Ok(all)
}

/// Moves devices into a network namespace.
///
/// # Errors
/// A [`Failure`] of [`Step::Namespace`] that names the device.
pub(super) fn give(devices: &BTreeMap<String, String>, namespace: BorrowedFd<'_>) -> Result<(), Failure> {
    for (name, inside) in devices {
        one(name, inside, namespace)
            .map_err(|error| Failure::new(Step::Namespace, format!("network: device {name}"), &error))?;
    }
    Ok(())
}

fn words(error: NetlinkError) -> io::Error {
    io::Error::other(error.to_string())
}

fn one(name: &str, inside: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let index = nix::net::if_::if_nametoindex(name)?;
    let mut socket = Socket::open(Protocol::Route).map_err(words)?;
    let mut ask = Message::new(RTM_GETADDR, 0, "list addresses");
    ask.body.raw(&[0; ADDRESS]);
    let addresses: Vec<Reply> = socket
        .dump(&ask)
        .map_err(words)?
        .into_iter()
        .filter(|reply| {
            // Family, prefix, flags, scope (0 is global), index.
            let scope = reply.payload.get(3).copied();
            reply.kind == RTM_NEWADDR && scope == Some(0) && u32_at(&reply.payload, 4) == Some(index)
        })
        .collect();
    let mut give = Message::new(RTM_NEWLINK, ACK, "move");
    give.body
        .raw(&link(index, 0))
        .string(IFLA_IFNAME, inside)
        .u32(IFLA_NET_NS_FD, namespace.as_raw_fd().cast_unsigned());
    socket.transact(&[give]).map_err(words)?;
    let set_up = || -> io::Result<()> {
        let index = nix::net::if_::if_nametoindex(inside)?;
        let mut socket = Socket::open(Protocol::Route).map_err(words)?;
        let mut messages = Vec::new();
        for reply in &addresses {
            let Some((head, rest)) = reply.split(ADDRESS) else {
                continue;
            };
            let mut head = head.to_vec();
            if let Some(place) = head.get_mut(4..8) {
                place.copy_from_slice(&index.to_ne_bytes());
            }
            let mut add = Message::new(RTM_NEWADDR, ACK | CREATE | REPLACE, "add address");
            add.body.raw(&head);
            for (kind, value) in attributes(rest) {
                if kind != IFA_CACHEINFO {
                    add.body.put(kind, value);
                }
            }
            messages.push(add);
        }
        let mut up = Message::new(RTM_NEWLINK, ACK, "switch on");
        up.body.raw(&link(index, IFF_UP));
        messages.push(up);
        socket.transact(&messages).map_err(words).map(|_| ())
    };
    netns::within(namespace.as_fd(), set_up)?
}

/// `struct ifinfomsg`: these flags are set.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let plan = |text: &str, namespace| {
            let linux: Linux = serde_json::from_str(text).unwrap();
            super::plan(&linux, namespace).map_err(|error| error.to_string())
        };
        let given = plan(r#"{"netDevices": {"a": {}, "b": {"name": "eth0"}}}"#, true).unwrap();
        assert_eq!(
            given,
            BTreeMap::from([("a".into(), "a".into()), ("b".into(), "eth0".into())])
        );
        assert!(plan(r#"{"netDevices": {"a": {}}}"#, false).is_err());
        assert!(plan("{}", false).unwrap().is_empty());
        for wrong in [
            r#"{"netDevices": {"": {}}}"#,
            r#"{"netDevices": {"a": {"name": "../x"}}}"#,
            r#"{"netDevices": {"a": {"name": "sixteen-letters-"}}}"#,
            r#"{"netDevices": {"a": {"name": "x"}, "b": {"name": "x"}}}"#,
        ] {
            assert!(plan(wrong, true).is_err(), "{wrong}");
        }
    }
}
