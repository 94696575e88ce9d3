//! The sockets of one container's name service.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SendFlags;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{Outcome, Way, answer};
use super::forward::Forwarder;
use super::{Names, View};

/// Questions of one container that are on their way outside at a time; more are
/// not heard, and asked again.
const IN_FLIGHT: usize = 128;
/// TCP connections of one container at a time; more wait.
const STREAMS: usize = 32;
/// A connection that says nothing for so long is closed (RFC 7766).
const IDLE: Duration = Duration::from_secs(10);
/// Questions that are answered before others get a turn.
const AT_ONCE: usize = 64;
/// Pause after an error that will pass (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(100);

/// Answers the questions of one container, which arrive on the sockets of its
/// namespace ([`crate::network::endpoint::Namespace`]), until the sender of
/// `view` is gone. The sockets keep the namespace: let the sender go when the
/// container has ended. Must be called inside a tokio runtime.
///
/// # Errors
/// When a socket cannot be used any more.
pub async fn serve(
    udp: OwnedFd,
    tcp: OwnedFd,
    names: Names,
    view: watch::Receiver<View>,
    forwarder: Arc<Forwarder>,
) -> io::Result<()> {
    let service = Service {
        names,
        view: view.clone(),
        forwarder,
    };
    let mut ended = view;
    tokio::select! {
        result = datagrams(udp, &service) => result,
        result = streams(tcp, &service) => result,
        () = async { while ended.changed().await.is_ok() {} } => Ok(()),
    }
}

#[derive(Clone)]
struct Service {
    names: Names,
    view: watch::Receiver<View>,
    forwarder: Arc<Forwarder>,
}

impl Service {
    fn answer(&self, packet: &[u8], way: Way) -> Outcome {
        answer(packet, way, &self.names, &self.view.borrow())
    }
}

async fn datagrams(fd: OwnedFd, service: &Service) -> io::Result<()> {
    let socket = Arc::new(tokio::net::UdpSocket::from_std(UdpSocket::from(fd))?);
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut asking = JoinSet::new();
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        while asking.try_join_next().is_some() {}
        socket.readable().await?;
        for _ in 0..AT_ONCE {
            let (length, client) = match socket.try_recv_from(&mut buffer) {
                Ok(received) => received,
                // Nothing more; or an earlier answer found nobody.
                Err(_) => break,
            };
            let packet = buffer.get(..length).unwrap_or_default();
            match service.answer(packet, Way::Udp) {
                // A full buffer loses the answer, as the network may.
                Outcome::Reply(reply) => {
                    let _ = rustix::net::sendto(&*socket, &reply, SendFlags::DONTWAIT, &client);
                }
                Outcome::Ignore => {}
                Outcome::Forward => {
                    let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                        continue;
                    };
                    let packet = packet.to_vec();
                    let socket = Arc::clone(&socket);
                    let forwarder = Arc::clone(&service.forwarder);
                    asking.spawn(async move {
                        let _permit = permit;
                        if let Some(reply) = forwarder.ask(&packet, Way::Udp).await {
                            let _ = rustix::net::sendto(&*socket, &reply, SendFlags::DONTWAIT, &client);
                        }
                    });
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn streams(fd: OwnedFd, service: &Service) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(TcpListener::from(fd))?;
    let room = Arc::new(Semaphore::new(STREAMS));
    let mut streams = JoinSet::new();
    loop {
        while streams.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = service.clone();
                streams.spawn(async move {
                    let _permit = permit;
                    // An error here is the client's end of the conversation.
                    let _ = converse(stream, &service).await;
                });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot accept questions for names by TCP");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers the questions of one connection, one after the other.
async fn converse(mut stream: TcpStream, service: &Service) -> io::Result<()> {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut packet = vec![0; usize::from(length)];
            stream.read_exact(&mut packet).await?;
            Ok::<_, io::Error>(packet)
        };
        let Ok(packet) = timeout(IDLE, read).await else {
            return Ok(());
        };
        let packet = packet?;
        let reply = match service.answer(&packet, Way::Tcp) {
            Outcome::Reply(reply) => Some(reply),
            Outcome::Forward => service.forwarder.ask(&packet, Way::Tcp).await,
            Outcome::Ignore => None,
        };
        let Some(reply) = reply else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let bytes = [&length.to_be_bytes(), reply.as_slice()].concat();
        let Ok(written) = timeout(IDLE, stream.write_all(&bytes)).await else {
            return Ok(());
        };
        written?;
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::RecordType;

    use super::super::answer::tests::question;
    use super::super::forward::Upstreams;
    use super::*;

    /// A name service on loopback, with `web` at 10.0.0.2 and no resolvers.
    fn service(upstreams: Upstreams) -> (std::net::SocketAddr, std::net::SocketAddr, watch::Sender<View>) {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let addresses = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let names = Names::new();
        let _ = names.attach("n1", "c1", &["web".to_owned()], &[[10, 0, 0, 2].into()]);
        let (sender, view) = watch::channel(View {
            networks: vec!["n1".to_owned()],
            forward: true,
            ..View::default()
        });
        let forwarder = Arc::new(Forwarder::new(upstreams));
        tokio::spawn(serve(udp.into(), tcp.into(), names, view, forwarder));
        (addresses.0, addresses.1, sender)
    }

    async fn by_tcp(stream: &mut TcpStream, packet: &[u8]) -> Message {
        stream.write_u16(packet.len() as u16).await.unwrap();
        stream.write_all(packet).await.unwrap();
        let mut reply = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut reply).await.unwrap();
        Message::from_vec(&reply).unwrap()
    }

    #[tokio::test]
    async fn questions_are_answered_by_both_ways_until_the_view_ends() {
        let (udp, tcp, sender) = service(Upstreams::fixed(Vec::new()));
        let web = question("web.", RecordType::A);
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(udp).await.unwrap();
        let mut buffer = [0; 512];
        // Garbage is no reason to stop.
        client.send(b"garbage").await.unwrap();
        client.send(&web).await.unwrap();
        let length = client.recv(&mut buffer).await.unwrap();
        let reply = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(reply.answers.len(), 1);
        let mut stream = TcpStream::connect(tcp).await.unwrap();
        for _ in 0..2 {
            assert_eq!(by_tcp(&mut stream, &web).await.answers.len(), 1);
        }
        // A change of the view counts at once.
        sender.send_replace(View::default());
        let reply = by_tcp(&mut stream, &web).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        drop(sender);
        assert!(stream.read_u8().await.is_err());
        while TcpStream::connect(tcp).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn long_answers_come_through_by_tcp() {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = upstream.local_addr().unwrap();
        upstream.set_nonblocking(true).unwrap();
        let upstream = tokio::net::TcpListener::from_std(upstream).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = upstream.accept().await.unwrap();
            let mut packet = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut packet).await.unwrap();
            let mut reply = Message::from_vec(&packet).unwrap().into_response();
            let query = reply.queries[0].clone();
            for number in 0..100 {
                let data = hickory_proto::rr::rdata::A::new(192, 0, 2, number);
                let data = hickory_proto::rr::RData::A(data);
                reply.add_answer(hickory_proto::rr::Record::from_rdata(
                    query.name().clone(),
                    60,
                    data,
                ));
            }
            let reply = reply.to_vec().unwrap();
            stream.write_u16(reply.len() as u16).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        });
        let (_, tcp, _sender) = service(Upstreams::fixed(vec![address]));
        let mut stream = TcpStream::connect(tcp).await.unwrap();
        let reply = by_tcp(&mut stream, &question("example.org.", RecordType::A)).await;
        assert_eq!(reply.answers.len(), 100);
    }
}
