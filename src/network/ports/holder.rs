//! Who holds a port: /proc/net tells the socket, /proc/PID/fd its owner.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Transport;

/// A process that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name as the kernel has it (at most 15 bytes).
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The process whose socket keeps `address` from being bound, when it can be
/// found: it may be of another user, or of another machine's /proc.
pub(super) fn find(address: SocketAddr, transport: Transport) -> Option<Holder> {
    let inodes: Vec<u64> = ["", "6"]
        .iter()
        .filter_map(|version| fs::read_to_string(format!("/proc/thread-self/net/{transport}{version}")).ok())
        .flat_map(|table| conflicts(&table, address, transport))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let links: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let holds = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path())
                .is_ok_and(|target| links.iter().any(|link| target.as_os_str() == link.as_str()))
        });
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(Holder {
                pid,
                name: name.trim_end().to_owned(),
            });
        }
    }
    None
}

/// Inodes of the sockets in a table of /proc/net that are in the way.
fn conflicts(table: &str, address: SocketAddr, transport: Transport) -> Vec<u64> {
    // proc(5): sl local_address rem_address st … (uid, timeout) inode.
    let waiting = match transport {
        Transport::Tcp => "0A",
        Transport::Udp => "07",
    };
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let local = socket_address(fields.get(1)?)?;
            let in_the_way = *fields.get(3)? == waiting
                && local.port() == address.port()
                && (local.ip() == address.ip()
                    || local.ip().is_unspecified() && (local.is_ipv6() || address.is_ipv4())
                    || address.ip().is_unspecified() && local.is_ipv4() == address.is_ipv4());
            in_the_way.then(|| fields.get(9)?.parse().ok()).flatten()
        })
        .collect()
}

/// `0100007F:1F90`: words of the machine's byte order in hexadecimal, then the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        Some(
            u32::from_str_radix(address.get(at..at + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicting_sockets_are_found() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0\n   \
            1: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0\n   \
            2: 0100007F:1F92 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 333 1 0\n   \
            3: garbage\n";
        let of = |address: &str| conflicts(table, address.parse().unwrap(), Transport::Tcp);
        if cfg!(target_endian = "little") {
            assert_eq!(of("127.0.0.1:8080"), [111]);
            assert_eq!(of("0.0.0.0:8080"), [111]);
            assert!(of("127.0.0.2:8080").is_empty());
            assert_eq!(of("10.0.0.1:8081"), [222]);
        }
        assert!(of("127.0.0.1:8082").is_empty(), "connected, not waiting");
        assert!(of("[::1]:8081").is_empty());
    }
}
