//! The UDP side of a published port: a socket towards the container for every
//! client, kept while datagrams pass.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
};
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{BUFFER, CONNECTIONS};

/// A client that neither asks nor is answered for so long is forgotten (the
/// kernel's own time for a UDP stream is 120 s, docker-proxy's 90 s).
const IDLE: Duration = Duration::from_secs(90);

/// A client, and the address of this machine it talks to.
type Client = (SocketAddr, IpAddr);

/// What the main loop keeps of a client.
struct Flow {
    socket: Arc<UdpSocket>,
    activity: Arc<Activity>,
}

/// When something passed last, in milliseconds after the first time.
struct Activity {
    began: Instant,
    last: AtomicU64,
}

impl Activity {
    fn note(&self) {
        let passed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    fn expires(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed)) + IDLE
    }
}

/// Passes datagrams on for as long as the target's sender is there.
pub(super) async fn serve(
    fd: OwnedFd,
    address: SocketAddr,
    mut target: watch::Receiver<Option<SocketAddr>>,
) -> io::Result<()> {
    let socket = Arc::new(UdpSocket::from_std(std::net::UdpSocket::from(fd))?);
    'target: loop {
        // Not read while there is nowhere to go: the kernel keeps what it can.
        let server = match target.wait_for(Option::is_some).await.map(|server| *server) {
            Ok(Some(server)) => server,
            _ => return Ok(()),
        };
        target.mark_unchanged();
        let mut flows: HashMap<Client, Flow> = HashMap::new();
        let mut ends = JoinSet::new();
        loop {
            tokio::select! {
                readable = socket.readable() => readable?,
                Some(ended) = ends.join_next() => {
                    if let Ok(client) = ended {
                        flows.remove(&client);
                    }
                    continue;
                }
                changed = target.changed() => match changed {
                    Ok(()) => continue 'target,
                    Err(_) => return Ok(()),
                },
            }
            let received: io::Result<()> = BUFFER.with_borrow_mut(|buffer| {
                let (length, client) =
                    socket.try_io(Interest::READABLE, || receive(&socket, address, buffer))?;
                let room = flows.len() < CONNECTIONS;
                let flow = match flows.entry(client) {
                    Entry::Occupied(found) => found.into_mut(),
                    Entry::Vacant(_) if !room => {
                        tracing::debug!(client = %client.0, "too many clients of a published UDP port");
                        return Ok(());
                    }
                    Entry::Vacant(free) => {
                        let flow = open(server)?;
                        ends.spawn(answer(
                            Arc::clone(&socket),
                            client,
                            Arc::clone(&flow.socket),
                            Arc::clone(&flow.activity),
                        ));
                        free.insert(flow)
                    }
                };
                flow.activity.note();
                // Refused by the container, or no room: lost, as datagrams are.
                // (Not by tokio, which holds a new socket for unready.)
                let datagram = buffer.get(..length).unwrap_or_default();
                let _ = rustix::net::send(&*flow.socket, datagram, SendFlags::DONTWAIT);
                Ok(())
            });
            match received {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS)
                    ) =>
                {
                    tracing::warn!(%error, "a datagram to a published port is lost");
                }
                // An earlier answer found nobody; or nothing there after all.
                _ => {}
            }
        }
    }
}

/// A socket that talks to the container alone.
fn open(server: SocketAddr) -> io::Result<Flow> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    Ok(Flow {
        socket: Arc::new(UdpSocket::from_std(socket)?),
        activity: Arc::new(Activity {
            began: Instant::now(),
            last: AtomicU64::new(0),
        }),
    })
}

/// Takes the container's answers to one client; ends when both are silent.
async fn answer(
    outer: Arc<UdpSocket>,
    client: Client,
    inner: Arc<UdpSocket>,
    activity: Arc<Activity>,
) -> Client {
    loop {
        match tokio::time::timeout_at(activity.expires(), inner.readable()).await {
            Err(_) if activity.expires() <= Instant::now() => return client,
            Err(_) => continue,
            Ok(Err(_)) => return client,
            Ok(Ok(())) => {}
        }
        BUFFER.with_borrow_mut(|buffer| {
            if let Ok(length) = inner.try_recv(buffer) {
                activity.note();
                let answer = buffer.get(..length).unwrap_or_default();
                let _ = send(&outer, client, answer);
            }
        });
    }
}

/// Receives a datagram: its length, who sent it, and to which of our addresses.
fn receive(socket: &UdpSocket, bound: SocketAddr, buffer: &mut [u8]) -> io::Result<(usize, Client)> {
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let mut local = bound.ip();
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                local = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into();
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                local = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
            }
            _ => {}
        }
    }
    let sender = message.address.as_ref().and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|address| SocketAddr::V4((*address).into()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|address| SocketAddr::V6((*address).into()))
        })
    });
    let sender = sender.ok_or(io::ErrorKind::InvalidData)?;
    Ok((message.bytes, (sender, local)))
}

/// Sends a datagram from one of our addresses.
fn send(socket: &UdpSocket, (client, local): Client, bytes: &[u8]) -> io::Result<usize> {
    let parts = [IoSlice::new(bytes)];
    let fd = socket.as_raw_fd();
    let sent = match (client, local) {
        (SocketAddr::V4(client), IpAddr::V4(local)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(local.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&in4(client)))
        }
        (SocketAddr::V6(client), IpAddr::V6(local)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: local.octets(),
                },
                ipi6_ifindex: client.scope_id(),
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&in6(client)))
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(sent?)
}

fn in4(address: SocketAddrV4) -> SockaddrIn {
    address.into()
}

fn in6(address: SocketAddrV6) -> SockaddrIn6 {
    address.into()
}

#[cfg(test)]
mod tests {
    use super::super::{Transport, bind, serve};
    use super::*;

    #[tokio::test]
    async fn every_client_gets_its_own_answers_from_the_address_it_asked() {
        let mut bound = bind(None, None, Transport::Udp).unwrap();
        let port = bound.port;
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (sender, target) = watch::channel(None);
        let serving = tokio::spawn(serve(bound.sockets.remove(0), target));
        let mut clients = Vec::new();
        for (number, host) in [(0u8, "127.0.0.1"), (1, "127.0.0.2"), (2, "127.0.0.1")] {
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // A connected socket hears only the address that it asked.
            client.connect((host, port)).await.unwrap();
            client.send(&[number]).await.unwrap();
            clients.push(client);
        }
        sender.send_replace(Some(server.local_addr().unwrap()));
        let mut buffer = [0; 8];
        for _ in 0..3 {
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(length, 1);
            server.send_to(&[buffer[0] + 100], from).await.unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            let length = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], &[number as u8 + 100]);
        }
        drop(sender);
        serving.await.unwrap().unwrap();
    }
}
