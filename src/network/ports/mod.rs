//! Published ports: the sockets of this machine that lead to containers.
//!
//! The supervisor binds every published port itself ([`bind`]) and keeps the
//! sockets while containers come and go. That reserves the port, tells early
//! when it is taken (and by whom), and lets a connection that comes while a
//! container is being replaced wait in the socket's backlog instead of being
//! refused. [`serve`] takes what arrives on a socket to where the container is.
//!
//! # Who serves what
//!
//! The kernel rewrites packets to an address of this machine other than
//! 127.0.0.0/8 before they reach these sockets ([`super::firewall`]): traffic
//! from outside, from other containers, and local traffic to the machine's own
//! addresses. The proxy gets the rest: 127.0.0.0/8, IPv6, everything when there
//! is no firewall, and everything while a container is away and its rule with
//! it. `cargo test --test network -- --nocapture bulk` measures both: on a
//! machine with two busy cores, one connection through the rewriting and one
//! through the proxy carry several Gbit/s each, the proxy at about two thirds
//! of the other's rate and 0.1 ms more a connection.
//!
//! # Limits
//!
//! A port has at most [`CONNECTIONS`] connections or flows at once in the
//! proxy; further TCP connections wait in the backlog, further UDP clients are
//! not heard. Each takes two descriptors (one for UDP), no buffer while idle.
//! A container sees the bridge's gateway as the peer of proxied connections.

mod holder;
mod tcp;
mod udp;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::socket::sockopt as options;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::sync::watch;

pub use super::firewall::Transport;
pub use holder::Holder;

/// Connections (or UDP clients) of one port that the proxy serves at a time.
pub const CONNECTIONS: usize = 1024;
/// Connections that wait to be accepted; the kernel caps it (`somaxconn`).
const BACKLOG: i32 = 4096;
/// How often another port is tried when the system picks one that is free for
/// IPv4 and taken for IPv6.
const ATTEMPTS: usize = 16;
/// Bytes moved at once.
const SCRATCH: usize = 128 * 1024;

thread_local! {
    /// Where bytes pass through between a read and a write with no await between.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// What can go wrong with a published port.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Somebody listens there already.
    #[error("port {address}/{transport} is in use{}", by(.holder))]
    InUse {
        /// Address and port.
        address: SocketAddr,
        /// Transport.
        transport: Transport,
        /// Who, when it can be found out.
        holder: Option<Holder>,
    },
    /// Every port of a range is taken.
    #[error("no port from {first} to {last} ({transport}) is free; {last} is in use{}", by(.holder))]
    NoneFree {
        /// First of the range.
        first: u16,
        /// Last of the range.
        last: u16,
        /// Transport.
        transport: Transport,
        /// Who has the last one.
        holder: Option<Holder>,
    },
    /// The port is for privileged processes.
    #[error("port {address}/{transport}: not permitted: low ports need root or CAP_NET_BIND_SERVICE")]
    Privilege {
        /// Address and port.
        address: SocketAddr,
        /// Transport.
        transport: Transport,
    },
    /// The address is not one of this machine.
    #[error("port {address}/{transport}: this machine has no address {}", address.ip())]
    NoSuchAddress {
        /// Address and port.
        address: SocketAddr,
        /// Transport.
        transport: Transport,
    },
    /// A system call failed.
    #[error("{operation} {address}/{transport}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Address and port.
        address: SocketAddr,
        /// Transport.
        transport: Transport,
        /// Why it failed.
        source: io::Error,
    },
}

fn by(holder: &Option<Holder>) -> String {
    holder
        .as_ref()
        .map(|holder| format!(" by {holder}"))
        .unwrap_or_default()
}

/// A published port: one number, one socket or two (IPv4 and IPv6).
#[derive(Debug)]
pub struct Bound {
    /// The port of this machine.
    pub port: u16,
    /// The sockets.
    pub sockets: Vec<BoundSocket>,
}

/// A socket that waits for what comes to a published port.
#[derive(Debug)]
pub struct BoundSocket {
    /// Address and port.
    pub address: SocketAddr,
    /// Transport.
    pub transport: Transport,
    /// The socket: bound, listening when TCP, not blocking.
    pub fd: OwnedFd,
}

impl BoundSocket {
    /// Takes over a socket that another process bound with [`bind`].
    ///
    /// # Errors
    /// What getsockname(2) and getsockopt(2) say, or `InvalidInput` when it is
    /// no such socket.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let address = SocketAddr::try_from(rustix::net::getsockname(&fd)?)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let transport = match sockopt::socket_type(&fd)? {
            SocketType::STREAM if sockopt::socket_acceptconn(&fd)? => Transport::Tcp,
            SocketType::DGRAM => Transport::Udp,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            address,
            transport,
            fd,
        })
    }

    /// A second descriptor of the same socket, to be handed to another process.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            address: self.address,
            transport: self.transport,
            fd: self.fd.try_clone()?,
        })
    }
}

/// Binds a published port: on one address, or (`None`) on all of IPv4 and, where
/// there is IPv6, on all of it. `ports` is an inclusive range of which the first
/// free one is taken; `None` is any free port. Nothing stays bound on an error.
///
/// # Errors
/// [`PortError`].
pub fn bind(
    host_ip: Option<IpAddr>,
    ports: Option<(u16, u16)>,
    transport: Transport,
) -> Result<Bound, PortError> {
    let Some((first, last)) = ports else {
        let mut attempt = bind_one(host_ip, 0, transport);
        for _ in 1..ATTEMPTS {
            if !matches!(attempt, Err(PortError::InUse { .. })) {
                break;
            }
            attempt = bind_one(host_ip, 0, transport);
        }
        return attempt;
    };
    for port in first..last {
        match bind_one(host_ip, port, transport) {
            Err(PortError::InUse { .. }) => {}
            other => return other,
        }
    }
    match bind_one(host_ip, last, transport) {
        Err(PortError::InUse { address, .. }) => {
            let holder = holder::find(address, transport);
            Err(if first < last {
                PortError::NoneFree {
                    first,
                    last,
                    transport,
                    holder,
                }
            } else {
                PortError::InUse {
                    address,
                    transport,
                    holder,
                }
            })
        }
        other => other,
    }
}

/// Binds one port; does not look for who holds it.
fn bind_one(host_ip: Option<IpAddr>, port: u16, transport: Transport) -> Result<Bound, PortError> {
    let first = host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let socket = open(SocketAddr::new(first, port), transport)?;
    let port = socket.address.port();
    let mut sockets = vec![socket];
    if host_ip.is_none() {
        let six = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        match open(six, transport) {
            Ok(socket) => sockets.push(socket),
            // No IPv6 on this machine.
            Err(PortError::NoSuchAddress { .. }) => {}
            Err(PortError::Io { source, .. })
                if source.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Bound { port, sockets })
}

fn open(address: SocketAddr, transport: Transport) -> Result<BoundSocket, PortError> {
    let failed = |operation: &'static str| {
        move |error: Errno| match error {
            Errno::ADDRINUSE => PortError::InUse {
                address,
                transport,
                holder: None,
            },
            Errno::ACCESS => PortError::Privilege { address, transport },
            Errno::ADDRNOTAVAIL => PortError::NoSuchAddress { address, transport },
            error => PortError::Io {
                operation,
                address,
                transport,
                source: error.into(),
            },
        }
    };
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, kind, flags, None).map_err(failed("open a socket for"))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true).map_err(failed("set up"))?;
    }
    match transport {
        // Old connections of a former owner do not keep the port; for UDP the
        // option would let two owners share it.
        Transport::Tcp => sockopt::set_socket_reuseaddr(&fd, true).map_err(failed("set up"))?,
        // An answer must come from the address that was asked.
        Transport::Udp => {
            let set = if address.is_ipv4() {
                nix::sys::socket::setsockopt(&fd, options::Ipv4PacketInfo, &true)
            } else {
                nix::sys::socket::setsockopt(&fd, options::Ipv6RecvPacketInfo, &true)
            };
            set.map_err(|error| failed("set up")(Errno::from_raw_os_error(error as i32)))?;
        }
    }
    rustix::net::bind(&fd, &address).map_err(failed("bind"))?;
    if transport == Transport::Tcp {
        rustix::net::listen(&fd, BACKLOG).map_err(failed("listen on"))?;
    }
    let bound = rustix::net::getsockname(fd.as_fd()).map_err(failed("look at"))?;
    Ok(BoundSocket {
        address: SocketAddr::try_from(bound).unwrap_or(address),
        transport,
        fd,
    })
}

/// Takes what arrives on a socket to `target`, the container's address and port;
/// while that is `None`, everything waits where the kernel keeps it. Returns
/// when the sender of `target` is gone; being dropped, it cuts its connections.
/// Must be called inside a tokio runtime.
///
/// # Errors
/// [`PortError::Io`] when the socket cannot be used any more.
pub async fn serve(
    socket: BoundSocket,
    target: watch::Receiver<Option<SocketAddr>>,
) -> Result<(), PortError> {
    let BoundSocket {
        address,
        transport,
        fd,
    } = socket;
    let result = match transport {
        Transport::Tcp => tcp::serve(fd, target).await,
        Transport::Udp => udp::serve(fd, address, target).await,
    };
    result.map_err(|source| PortError::Io {
        operation: "serve",
        address,
        transport,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_who_has_it() {
        let held = bind(Some(Ipv4Addr::LOCALHOST.into()), None, Transport::Tcp).unwrap();
        let error = bind(None, Some((held.port, held.port)), Transport::Tcp).unwrap_err();
        let message = error.to_string();
        let me = std::process::id();
        assert!(
            message.starts_with(&format!("port 0.0.0.0:{}/tcp is in use by ", held.port)),
            "{message}"
        );
        assert!(message.ends_with(&format!("(process {me})")), "{message}");
    }

    #[test]
    fn the_first_free_port_of_a_range_is_taken() {
        let local = Some(Ipv4Addr::LOCALHOST.into());
        for transport in [Transport::Tcp, Transport::Udp] {
            // Three in a row that are free now; another process may be quicker.
            let found = (0..100).find_map(|_| {
                let port = bind(local, None, transport).unwrap().port;
                let range = (port, port.checked_add(2)?);
                let one = bind(local, Some(range), transport).ok()?;
                let two = bind(local, Some(range), transport).ok()?;
                let three = bind(local, Some(range), transport).ok()?;
                Some((range, [one, two, three]))
            });
            let (range, bound) = found.unwrap();
            assert_eq!(
                bound.each_ref().map(|bound| bound.port),
                [range.0, range.0 + 1, range.0 + 2]
            );
            let error = bind(local, Some(range), transport).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("no port from {} to {}", range.0, range.1)),
                "{error}"
            );
        }
    }

    #[test]
    fn all_addresses_are_two_sockets_with_one_port() {
        let bound = bind(None, None, Transport::Udp).unwrap();
        assert!(
            bound
                .sockets
                .iter()
                .all(|socket| socket.address.port() == bound.port)
        );
        let again = BoundSocket::adopt(bound.sockets[0].try_clone().unwrap().fd).unwrap();
        assert_eq!(
            (again.address, again.transport),
            (bound.sockets[0].address, Transport::Udp)
        );
        let foreign: IpAddr = "192.0.2.1".parse().unwrap();
        let error = bind(Some(foreign), None, Transport::Tcp).unwrap_err();
        assert!(matches!(error, PortError::NoSuchAddress { .. }), "{error}");
    }

    #[test]
    fn only_sockets_that_wait_are_adopted() {
        let stream = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        assert!(BoundSocket::adopt(stream).is_err());
    }
}
