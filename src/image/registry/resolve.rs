//! Host names to addresses, without the C library's resolver: a static program
//! cannot load its modules.
//!
//! Order as in `nsswitch.conf` of a plain machine: address literals,
//! `localhost`, `/etc/hosts`, then the name servers of `/etc/resolv.conf`
//! (resolv.conf(5): `nameserver`, `search`, `domain`, `options ndots timeout
//! attempts`). Known to be weak: no mDNS, no DNSSEC, no cache.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hyper_util::client::legacy::connect::dns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Name servers that are asked (MAXNS).
const SERVERS_LIMIT: usize = 3;
/// Largest answer over UDP that is looked for.
const DATAGRAM: usize = 4096;

/// Finds addresses of hosts.
#[derive(Clone, Debug)]
pub(super) struct Resolver {
    hosts: PathBuf,
    configuration: PathBuf,
    port: u16,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            configuration: "/etc/resolv.conf".into(),
            port: 53,
        }
    }
}

/// What resolv.conf says.
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
}

impl Configuration {
    fn parse(text: &str) -> Self {
        let mut this = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A link-local address with its interface cannot be parsed and is passed over.
                    let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                    if this.servers.len() < SERVERS_LIMIT {
                        this.servers.extend(address);
                    }
                }
                Some("search" | "domain") => this.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    for option in words {
                        let (name, value) = option.split_once(':').unwrap_or((option, ""));
                        let Ok(value) = value.parse::<u32>() else { continue };
                        match name {
                            "ndots" => this.ndots = value.min(15) as usize,
                            "timeout" => this.timeout = Duration::from_secs(value.clamp(1, 30).into()),
                            "attempts" => this.attempts = value.clamp(1, 5),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if this.servers.is_empty() {
            this.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        this
    }

    /// The names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<_> = self
            .search
            .iter()
            .map(|domain| format!("{name}.{domain}"))
            .collect();
        let dots = name.bytes().filter(|&byte| byte == b'.').count();
        let place = if dots >= self.ndots { 0 } else { names.len() };
        names.insert(place, name.to_owned());
        names
    }
}

/// What a name server said.
enum Answer {
    Addresses(Vec<IpAddr>),
    /// There is no such name, or no address of this kind.
    Nothing,
}

impl Resolver {
    /// The addresses of a host, IPv4 first; at least one.
    pub(super) async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![address]);
        }
        let lower = host.trim_end_matches('.').to_ascii_lowercase();
        if lower == "localhost" || lower.ends_with(".localhost") {
            // RFC 6761, section 6.3.
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let hosts = std::fs::read_to_string(&self.hosts).unwrap_or_default();
        let found = in_hosts(&hosts, &lower);
        if !found.is_empty() {
            return Ok(found);
        }
        let configuration = std::fs::read_to_string(&self.configuration).unwrap_or_default();
        let configuration = Configuration::parse(&configuration);
        for name in configuration.candidates(host) {
            let (v4, v6) = tokio::join!(
                self.ask(&configuration, &name, RecordType::A),
                self.ask(&configuration, &name, RecordType::AAAA),
            );
            let mut addresses = Vec::new();
            let mut failure = None;
            for answer in [v4, v6] {
                match answer {
                    Ok(Answer::Addresses(some)) => addresses.extend(some),
                    Ok(Answer::Nothing) => {}
                    Err(error) => failure = Some(error),
                }
            }
            match failure {
                _ if !addresses.is_empty() => return Ok(addresses),
                Some(error) => return Err(error),
                None => {}
            }
        }
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no host named {host}"),
        ))
    }

    /// Asks the servers in turn, and again.
    async fn ask(&self, configuration: &Configuration, name: &str, kind: RecordType) -> io::Result<Answer> {
        let invalid = |error| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name} is no host name: {error}"),
            )
        };
        let mut question = Name::from_ascii(name).map_err(invalid)?;
        question.set_fqdn(true);
        let mut last = String::new();
        for _ in 0..configuration.attempts {
            for server in &configuration.servers {
                let server = SocketAddr::new(*server, self.port);
                match timeout(configuration.timeout, exchange(server, &question, kind)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) => last = format!("name server {server}: {error}"),
                    Err(_) => last = format!("name server {server} does not answer"),
                }
            }
        }
        Err(io::Error::other(format!("look up {name}: {last}")))
    }
}

/// One question over UDP, over TCP when the answer does not fit.
async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Answer> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    let request = message.to_vec().map_err(io::Error::other)?;
    let local: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(local).await?;
    // Connected: answers of anybody else never arrive.
    socket.connect(server).await?;
    socket.send(&request).await?;
    let mut buffer = vec![0; DATAGRAM];
    let answer = loop {
        let count = socket.recv(&mut buffer).await?;
        let answer = buffer
            .get(..count)
            .and_then(|bytes| Message::from_vec(bytes).ok());
        // Late or forged answers to something else are not ours.
        if let Some(answer) = answer.filter(|answer| belongs(answer, &message)) {
            break answer;
        }
    };
    if !answer.metadata.truncation {
        return read(&answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(request.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes()[..], &request].concat())
        .await?;
    let mut bytes = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut bytes).await?;
    let answer = Message::from_vec(&bytes).map_err(io::Error::other)?;
    if !belongs(&answer, &message) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is to another question",
        ));
    }
    read(&answer)
}

fn belongs(answer: &Message, request: &Message) -> bool {
    answer.metadata.id == request.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == request.queries
}

fn read(answer: &Message) -> io::Result<Answer> {
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Ok(Answer::Nothing),
        other => return Err(io::Error::other(format!("it answers {other}"))),
    }
    // A recursive server has followed the aliases: every address is one of ours.
    let addresses: Vec<IpAddr> = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(address.0.into()),
            RData::AAAA(address) => Some(address.0.into()),
            _ => None,
        })
        .collect();
    if addresses.is_empty() {
        Ok(Answer::Nothing)
    } else {
        Ok(Answer::Addresses(addresses))
    }
}

/// The addresses of a name in hosts(5), IPv4 first.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else {
            continue;
        };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// What hyper's connector asks.
impl tower_service::Service<dns::Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.lookup(name.as_str()).await?;
            let sockets: Vec<_> = addresses
                .into_iter()
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            Ok(sockets.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, AAAA};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn resolv_conf() {
        let read = Configuration::parse(
            "# x\nnameserver 1.1.1.1\nnameserver fe80::1%eth0\nnameserver ::1\nsearch a.b c ; d\n\
             options ndots:2 timeout:1 attempts:9 rotate\n",
        );
        assert_eq!(
            read.servers,
            ["1.1.1.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
        assert_eq!(read.search, ["a.b", "c"]);
        assert_eq!((read.ndots, read.timeout.as_secs(), read.attempts), (2, 1, 5));
        assert_eq!(read.candidates("x"), ["x.a.b", "x.c", "x"]);
        assert_eq!(read.candidates("x.y.z"), ["x.y.z", "x.y.z.a.b", "x.y.z.c"]);
        assert_eq!(read.candidates("x."), ["x"]);
        assert_eq!(Configuration::parse("").servers, [IpAddr::from([127, 0, 0, 1])]);
    }

    /// A name server that knows `registry.test` (both families), `alias.test`
    /// (over TCP only) and fails for `broken.test`.
    async fn serve() -> u16 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = udp.local_addr().unwrap().port();
        let tcp = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let answer = |request: &[u8], over_tcp: bool| {
            let request = Message::from_vec(request).unwrap();
            let query = request.queries[0].clone();
            let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
            let name = query.name().to_string();
            match (name.as_str(), query.query_type()) {
                ("alias.test.", _) if !over_tcp => answer.metadata.truncation = true,
                ("registry.test." | "alias.test.", RecordType::A) => {
                    let data = RData::A(A::new(10, 0, 0, 7));
                    answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
                }
                ("registry.test.", RecordType::AAAA) => {
                    let data = RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 7));
                    answer.add_answer(Record::from_rdata(query.name().clone(), 1, data));
                }
                ("alias.test.", _) => {}
                ("broken.test.", _) => answer.metadata.response_code = ResponseCode::ServFail,
                _ => answer.metadata.response_code = ResponseCode::NXDomain,
            }
            answer.add_query(query);
            answer.to_vec().unwrap()
        };
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (count, from) = udp.recv_from(&mut buffer).await.unwrap();
                // Noise first: an answer to another question must be passed over.
                let mut noise = answer(&buffer[..count], false);
                noise[0] ^= 0xff;
                udp.send_to(&noise, from).await.unwrap();
                udp.send_to(&answer(&buffer[..count], false), from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut request = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut request).await.unwrap();
                let bytes = answer(&request, true);
                stream.write_u16(bytes.len() as u16).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn names_are_found_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let resolver = Resolver {
            hosts: folder.path().join("hosts"),
            configuration: folder.path().join("resolv.conf"),
            port: serve().await,
        };
        std::fs::write(
            &resolver.hosts,
            "fd00::1 box.test box\n10.0.0.1 BOX.test # not.test\n",
        )
        .unwrap();
        std::fs::write(
            &resolver.configuration,
            "nameserver 127.0.0.1\nsearch nowhere test\noptions timeout:2 attempts:1\n",
        )
        .unwrap();
        let lookup = async |name: &str| match resolver.lookup(name).await {
            Ok(found) => found.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        };
        assert_eq!(lookup("10.1.2.3").await, "10.1.2.3");
        assert_eq!(lookup("[::1]").await, "::1");
        assert_eq!(lookup("a.localhost").await, "127.0.0.1 ::1");
        assert_eq!(lookup("Box.Test").await, "10.0.0.1 fd00::1");
        assert_eq!(lookup("registry.test").await, "10.0.0.7 fd00::7");
        assert_eq!(lookup("registry").await, "10.0.0.7 fd00::7", "by the search list");
        assert_eq!(lookup("alias.test").await, "10.0.0.7", "over TCP");
        assert_eq!(lookup("not.test").await, "there is no host named not.test");
        assert!(
            lookup("broken.test")
                .await
                .contains("look up broken.test: name server 127.0.0.1")
        );
        assert!(lookup(&"a".repeat(70)).await.contains("is no host name"));
    }
}
