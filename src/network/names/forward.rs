//! Questions that are passed on to the resolvers of this machine.
//!
//! Packets go through as they are, but for their id; the client's buffer size
//! and flags are the client's business. Each question has a socket of its own,
//! so an answer must hit a random port, a random id and the same question. A
//! truncated answer is passed on; the client asks again by TCP, and so do we.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::{Way, error};
use super::files::ResolvConf;

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often each is asked.
const ROUNDS: usize = 2;
/// Questions on their way at a time, of all containers: each has a descriptor.
const IN_FLIGHT: usize = 512;
/// How old our picture of resolv.conf may be.
const FRESH: Duration = Duration::from_secs(1);

/// The resolvers of this machine.
#[derive(Debug)]
pub struct Upstreams {
    file: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    servers: Vec<SocketAddr>,
    looked: Option<Instant>,
    modified: Option<SystemTime>,
}

impl Upstreams {
    /// These resolvers.
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self {
            file: None,
            state: Mutex::new(State {
                servers,
                looked: None,
                modified: None,
            }),
        }
    }

    /// Those that a file in the form of resolv.conf(5) names, at any time.
    pub fn of_file(path: impl Into<PathBuf>) -> Self {
        Self {
            file: Some(path.into()),
            ..Self::fixed(Vec::new())
        }
    }

    /// The resolvers as of now (at most a second old).
    pub fn servers(&self) -> Vec<SocketAddr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file
            && state.looked.is_none_or(|looked| looked.elapsed() >= FRESH)
        {
            state.looked = Some(Instant::now());
            let modified = fs::metadata(file).and_then(|data| data.modified()).ok();
            if modified.is_none() || modified != state.modified {
                // Read whole or not at all: an unreadable file keeps what was there.
                match fs::read_to_string(file) {
                    Ok(text) => state.servers = ResolvConf::parse(&text).servers_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        state.servers = ResolvConf::default().servers_or_default();
                    }
                    Err(error) => tracing::warn!(%error, file = %file.display(), "cannot read the resolvers"),
                }
                state.modified = modified;
            }
        }
        state.servers.clone()
    }
}

/// Passes questions on.
#[derive(Debug)]
pub struct Forwarder {
    upstreams: Upstreams,
    room: Semaphore,
    random: RandomState,
    count: AtomicU64,
}

impl Forwarder {
    /// Passes questions on to these resolvers.
    pub fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams,
            room: Semaphore::new(IN_FLIGHT),
            random: RandomState::new(),
            count: AtomicU64::new(0),
        }
    }

    /// The answer to a question: the first good one, else the last bad one,
    /// else `SERVFAIL`. `None` when too many questions are on their way: the
    /// client will ask again.
    pub(super) async fn ask(&self, packet: &[u8], way: Way) -> Option<Vec<u8>> {
        let _permit = self.room.try_acquire().ok()?;
        let id: [u8; 2] = packet.get(..2)?.try_into().ok()?;
        let mut bad = None;
        let servers = self.upstreams.servers();
        for server in (0..ROUNDS).flat_map(|_| &servers) {
            let attempt = async {
                match way {
                    Way::Udp => self.by_udp(*server, packet).await,
                    Way::Tcp => self.by_tcp(*server, packet).await,
                }
            };
            match timeout(PATIENCE, attempt).await {
                Ok(Ok(mut answer)) => {
                    restore(&mut answer, id);
                    if !is_failure(&answer) {
                        return Some(answer);
                    }
                    bad = Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver does not answer"),
                Err(_) => tracing::debug!(%server, "a resolver does not answer in time"),
            }
        }
        bad.or_else(|| error(packet, ResponseCode::ServFail))
    }

    /// The packet with an id that nobody can guess.
    fn disguise(&self, packet: &[u8]) -> Vec<u8> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let random = self.random.hash_one(count).to_ne_bytes();
        let mut disguised = packet.to_vec();
        restore(&mut disguised, [random[0], random[1]]);
        disguised
    }

    async fn by_udp(&self, server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
        let socket = UdpSocket::bind(if server.is_ipv4() {
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)
        } else {
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)
        })
        .await?;
        socket.connect(server).await?;
        let sent = self.disguise(packet);
        socket.send(&sent).await?;
        let mut answer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut answer).await?;
            let received = answer.get(..length).unwrap_or_default();
            if answers(received, &sent) {
                return Ok(received.to_vec());
            }
        }
    }

    async fn by_tcp(&self, server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server).await?;
        let sent = self.disguise(packet);
        let length = u16::try_from(sent.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        stream
            .write_all(&[&length.to_be_bytes(), sent.as_slice()].concat())
            .await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        if answers(&answer, &sent) {
            Ok(answer)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

/// Puts an id into a packet.
fn restore(packet: &mut [u8], id: [u8; 2]) {
    if let Some(place) = packet.get_mut(..2) {
        place.copy_from_slice(&id);
    }
}

/// Whether a packet is an answer to this one: same id, same question.
fn answers(answer: &[u8], question: &[u8]) -> bool {
    let is_answer = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let same_id = answer.get(..2) == question.get(..2);
    let same_question = match (first_question(answer), first_question(question)) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        // Servers leave the question out of errors.
        (None, _) => is_failure(answer) && answer.len() >= 12,
        (Some(_), None) => false,
    };
    is_answer && same_id && same_question
}

/// Whether another resolver may do better: neither an answer nor "no such name".
fn is_failure(answer: &[u8]) -> bool {
    answer.get(3).is_none_or(|flags| !matches!(flags & 0x0f, 0 | 3))
}

/// The first question of a packet: name, type, class.
fn first_question(packet: &[u8]) -> Option<&[u8]> {
    let count = u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?);
    if count == 0 {
        return None;
    }
    let mut at = 12;
    loop {
        let length = usize::from(*packet.get(at)?);
        if length > 63 {
            // A reference: nothing comes before the first name to refer to.
            return None;
        }
        at += 1 + length;
        if length == 0 {
            return packet.get(12..at + 4);
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::super::answer::tests::question;
    use super::*;

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let asked = question("example.org.", RecordType::A);
        let mut good = question("EXAMPLE.org.", RecordType::A);
        good[2] |= 0x80;
        assert!(answers(&good, &asked));
        assert!(!answers(&asked, &asked), "not an answer");
        let mut other = question("example.net.", RecordType::A);
        other[2] |= 0x80;
        assert!(!answers(&other, &asked));
        let mut wrong = good.clone();
        wrong[0] ^= 1;
        assert!(!answers(&wrong, &asked));
        let mut refused = good[..12].to_vec();
        refused[3] = 5;
        refused[5] = 0;
        assert!(answers(&refused, &asked));
        for cut in 0..good.len() {
            let _ = answers(&good[..cut], &asked);
        }
        assert!(!answers(&good[..20], &asked));
    }

    #[tokio::test]
    async fn a_silent_and_a_failing_resolver_do_not_keep_the_good_one_from_answering() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let failing = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let good = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = [&silent, &failing, &good].map(|socket| socket.local_addr().unwrap());
        let reply = |socket: UdpSocket, code: u8| async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                // A forged answer first: another id.
                let mut forged = buffer[..length].to_vec();
                forged[0] ^= 0xff;
                forged[2] |= 0x80;
                socket.send_to(&forged, from).await.unwrap();
                buffer[2] |= 0x80;
                buffer[3] = code;
                socket.send_to(&buffer[..length], from).await.unwrap();
            }
        };
        let failing = tokio::spawn(reply(failing, 2));
        let good = tokio::spawn(reply(good, 3));
        let forwarder = Forwarder::new(Upstreams::fixed(servers.to_vec()));
        let packet = question("example.org.", RecordType::A);
        let answer = forwarder.ask(&packet, Way::Udp).await.unwrap();
        assert_eq!(answer[..2], packet[..2]);
        assert_eq!(answer[3] & 15, 3);
        good.abort();
        failing.abort();
        let _ = silent;
    }

    #[tokio::test]
    async fn without_resolvers_the_answer_is_a_failure() {
        let forwarder = Forwarder::new(Upstreams::fixed(Vec::new()));
        let packet = question("example.org.", RecordType::A);
        let answer = forwarder.ask(&packet, Way::Udp).await.unwrap();
        assert_eq!(answer[3] & 15, 2);
    }

    #[test]
    fn the_resolvers_follow_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "nameserver 192.0.2.1\n").unwrap();
        let upstreams = Upstreams::of_file(file.path());
        assert_eq!(upstreams.servers(), ["192.0.2.1:53".parse().unwrap()]);
        fs::write(file.path(), "nameserver 192.0.2.2\n").unwrap();
        let later = SystemTime::now() + Duration::from_secs(5);
        file.as_file().set_modified(later).unwrap();
        upstreams.state.lock().unwrap().looked = None;
        assert_eq!(upstreams.servers(), ["192.0.2.2:53".parse().unwrap()]);
    }
}
