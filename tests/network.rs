//! Networks on a real kernel. Every test is a machine of its own: a thread in
//! a network namespace that it made, with a world in a temporary folder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "all of this is test code"
)]

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rcompose::network::NetworkError;
use rcompose::network::bridge;
use rcompose::network::endpoint::{self, Namespace};
use rcompose::network::firewall::{self, Published, Transport};
use rcompose::network::names::{self, Forwarder, Names, Upstreams, View};
use rcompose::network::pool::PoolRequest;
use rcompose::network::ports;
use rcompose::network::record::{self, LeaseRequest, NetworkRecord, NetworkSpec};
use rcompose::store::World;
use rcompose::sys::netns;
use tokio::sync::watch;

/// How long anything that is expected to happen may take.
const SOON: Duration = Duration::from_secs(10);
/// How long is waited for what is expected not to happen.
const NEVER: Duration = Duration::from_millis(300);

/// A machine: a network namespace (the calling thread's) and a world.
struct Machine {
    world: World,
    _folder: tempfile::TempDir,
}

/// Runs a test on a machine of its own; says so when that is not possible.
fn on_a_machine(test: impl FnOnce(&Machine) + Send) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine {
        world: World::new(Some(folder.path())),
        _folder: folder,
    };
    netns::create(|_| {
        ip("link set lo up");
        test(&machine);
    })
    .expect("the test panicked");
}

/// ip(8) in this namespace.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// What a shell command prints, run in this namespace.
fn output_of(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until something holds.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

impl Machine {
    fn network(&self, name: &str) -> NetworkRecord {
        self.network_with(NetworkSpec {
            name: name.to_owned(),
            ..NetworkSpec::default()
        })
    }

    fn internal_network(&self, name: &str) -> NetworkRecord {
        self.network_with(NetworkSpec {
            name: name.to_owned(),
            internal: true,
            ..NetworkSpec::default()
        })
    }

    fn network_with(&self, spec: NetworkSpec) -> NetworkRecord {
        let (record, warnings) = bridge::create(&self.world, &spec).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        record
    }

    fn endpoint(&self, key: &str, network: &NetworkRecord) -> endpoint::Endpoint {
        let request = LeaseRequest {
            key: key.to_owned(),
            ..LeaseRequest::default()
        };
        let record = record::lease(&self.world, &network.id, &request).unwrap();
        record.endpoint(key, None, 0).unwrap().unwrap()
    }

    /// A container on some networks.
    fn container(&self, key: &str, networks: &[&NetworkRecord]) -> Container {
        let endpoints: Vec<_> = networks
            .iter()
            .map(|network| self.endpoint(key, network))
            .collect();
        let namespace = endpoint::create_namespace(&self.world, &endpoints).unwrap();
        let addresses = endpoints.iter().map(|endpoint| endpoint.address).collect();
        Container { namespace, addresses }
    }

    /// Another machine on a link of its own, 198.51.100.2; this one is .1 there.
    /// It has no route to any container.
    fn outside(&self) -> OwnedFd {
        let (outside, ()) = netns::create(|_| ip("link set lo up")).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), outside.as_raw_fd());
        ip("link add uplink type veth peer name far");
        ip(&format!("link set far netns {path}"));
        ip("addr add 198.51.100.1/24 dev uplink");
        ip("link set uplink up");
        ip("route add default via 198.51.100.2");
        netns::within(outside.as_fd(), || {
            ip("addr add 198.51.100.2/24 dev far");
            ip("link set far up");
        })
        .unwrap();
        outside
    }
}

struct Container {
    namespace: Namespace,
    addresses: Vec<Ipv4Addr>,
}

impl Container {
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.namespace.netns.as_fd(), work).unwrap()
    }

    fn address(&self) -> Ipv4Addr {
        self.addresses[0]
    }

    /// A server that says its name, and who is asking.
    fn serve(&self, port: u16, name: &'static str) {
        let listener = self.inside(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        serve(listener, name);
    }

    fn reaches(&self, to: impl Into<IpAddr>, port: u16) -> io::Result<String> {
        let to = SocketAddr::new(to.into(), port);
        self.inside(|| ask(to, SOON))
    }

    fn does_not_reach(&self, to: impl Into<IpAddr>, port: u16) {
        let to = SocketAddr::new(to.into(), port);
        let result = self.inside(|| ask(to, NEVER));
        assert!(result.is_err(), "{to} answered {result:?}");
    }
}

/// Runs a task of the supervisor on this machine, until it ends by itself.
fn supervise<F: Future>(task: impl FnOnce() -> F + Send + 'static) {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(task());
    });
}

/// Binds a port on all addresses and serves it by the proxy.
fn proxy(transport: Transport, to: SocketAddr) -> (u16, watch::Sender<Option<SocketAddr>>) {
    let (sender, target) = watch::channel(Some(to));
    let bound = ports::bind(None, None, transport).unwrap();
    for socket in bound.sockets {
        let target = target.clone();
        supervise(|| ports::serve(socket, target));
    }
    (bound.port, sender)
}

/// Asks a container's name service; the sorted addresses, or the error.
fn resolve(container: &Container, name: &str, kind: RecordType) -> Result<Vec<IpAddr>, ResponseCode> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let socket = container.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
    socket.connect((endpoint::NAMES_ADDRESS, 53)).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.send(&question.to_vec().unwrap()).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    let mut addresses: Vec<_> = answer
        .answers
        .iter()
        .filter_map(|record| record.data.ip_addr())
        .collect();
    addresses.sort();
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(addresses),
        code => Err(code),
    }
}

/// Serves names to a container.
fn serve_names(
    container: &Container,
    names: &Names,
    view: View,
    resolvers: Vec<SocketAddr>,
) -> watch::Sender<View> {
    let (sender, view) = watch::channel(view);
    let udp = container.namespace.dns_udp.try_clone().unwrap();
    let tcp = container.namespace.dns_tcp.try_clone().unwrap();
    let names = names.clone();
    let forwarder = Arc::new(Forwarder::new(Upstreams::fixed(resolvers)));
    supervise(|| names::serve(udp, tcp, names, view, forwarder));
    sender
}

/// Answers every connection with the name and the caller's address, for as long
/// as the test's process lives.
fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        while let Ok((mut stream, caller)) = listener.accept() {
            let _ = stream.write_all(format!("{name} {}", caller.ip()).as_bytes());
        }
    });
}

/// Connects and reads to the end.
fn ask(to: SocketAddr, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn publish(host_port: u16, to: &Container, port: u16) -> Published {
    Published {
        host_ip: None,
        host_port,
        transport: Transport::Tcp,
        address: to.address(),
        port,
    }
}

#[test]
fn containers_of_one_network_reach_each_other_and_nobody_else() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let back = machine.network("back");
        let web = machine.container("web-1", &[&front]);
        let app = machine.container("app-1", &[&front, &back]);
        let db = machine.container("db-1", &[&back]);
        for (container, name) in [(&web, "web"), (&app, "app"), (&db, "db")] {
            container.serve(80, name);
        }
        let says = |name: &str, caller: Ipv4Addr| format!("{name} {caller}");
        assert_eq!(
            web.reaches(app.addresses[0], 80).unwrap(),
            says("app", web.address())
        );
        assert_eq!(
            app.reaches(web.address(), 80).unwrap(),
            says("web", app.addresses[0])
        );
        assert_eq!(
            app.reaches(db.address(), 80).unwrap(),
            says("db", app.addresses[1])
        );
        assert_eq!(
            db.reaches(app.addresses[1], 80).unwrap(),
            says("app", db.address())
        );
        web.does_not_reach(db.address(), 80);
        db.does_not_reach(web.address(), 80);
        db.does_not_reach(app.addresses[0], 80);
        // The machine itself reaches all of them.
        assert!(ask((db.address(), 80).into(), SOON).is_ok());
    });
}

#[test]
fn a_container_has_loopback_its_interfaces_and_one_default_route() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let back = machine.internal_network("back");
        let app = machine.container("app-1", &[&back, &front]);
        let seen = app.inside(|| output_of("ip -o link; ip -o addr"));
        for expected in [
            "lo: <LOOPBACK,UP,LOWER_UP>",
            "eth0@",
            "eth1@",
            "link/ether 02:42:ac:11:00:02",
            "inet 172.17.0.2/16 brd 172.17.255.255",
            "inet6 ::1/128",
        ] {
            assert!(seen.contains(expected), "{expected} is not in\n{seen}");
        }
        assert!(!seen.contains("fe80"), "no IPv6 unless asked for:\n{seen}");
        let routes = app.inside(|| output_of("ip route show default; ip -6 route show default"));
        assert_eq!(routes.trim(), "default via 172.17.0.1 dev eth1 proto static");
        let host = output_of("ip -o -6 addr show scope link");
        assert!(!host.contains("rv") && !host.contains("rc-"), "{host}");
    });
}

#[test]
fn the_highest_gateway_priority_has_the_default_route() {
    on_a_machine(|machine| {
        let networks = [machine.network("a"), machine.network("b"), machine.network("c")];
        let mut endpoints = networks.each_ref().map(|network| machine.endpoint("x", network));
        let route = |endpoints: &[endpoint::Endpoint]| {
            let made = endpoint::create_namespace(&machine.world, endpoints).unwrap();
            netns::within(made.netns.as_fd(), || output_of("ip route show default")).unwrap()
        };
        assert!(route(&endpoints).contains("dev eth0"), "of equals, the first");
        endpoints[1].gw_priority = 7;
        endpoints[2].gw_priority = 5;
        assert!(route(&endpoints).contains("dev eth1"));
    });
}

#[test]
fn ipv6_networks_work_too() {
    on_a_machine(|machine| {
        let six = |name: &str| {
            machine.network_with(NetworkSpec {
                name: name.to_owned(),
                enable_ipv6: true,
                ..NetworkSpec::default()
            })
        };
        let front = six("front");
        let back = six("back");
        let address = |network: &NetworkRecord, key: &str| {
            let record = record::read(&machine.world, &network.id).unwrap().unwrap();
            IpAddr::from(record.leases[key].address6.unwrap())
        };
        let web = machine.container("web-1", &[&front]);
        let app = machine.container("app-1", &[&front]);
        let db = machine.container("db-1", &[&back]);
        for container in [&app, &db] {
            let listener = container.inside(|| TcpListener::bind("[::]:80").unwrap());
            serve(listener, "six");
        }
        let answer = web.reaches(address(&front, "app-1"), 80).unwrap();
        assert_eq!(answer, format!("six {}", address(&front, "web-1")));
        web.does_not_reach(address(&back, "db-1"), 80);
    });
}

#[test]
fn a_container_reaches_the_outside_as_this_machine() {
    on_a_machine(|machine| {
        let outside = machine.outside();
        let listener = netns::within(outside.as_fd(), || TcpListener::bind("0.0.0.0:80").unwrap());
        serve(listener.unwrap(), "outside");
        let far: IpAddr = "198.51.100.2".parse().unwrap();
        let front = machine.network("front");
        let web = machine.container("web-1", &[&front]);
        assert_eq!(web.reaches(far, 80).unwrap(), "outside 198.51.100.1");
        let inner = machine.internal_network("inner");
        let db = machine.container("db-1", &[&inner]);
        db.serve(80, "db");
        db.does_not_reach(far, 80);
        // Not even with a route of its own.
        db.inside(|| ip("route add default via 172.18.0.1"));
        db.does_not_reach(far, 80);
        web.does_not_reach(db.address(), 80);
        assert!(
            ask((db.address(), 80).into(), SOON).is_ok(),
            "the machine itself does"
        );
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    on_a_machine(|machine| published_everywhere(machine, "0"));
}

/// With br_netfilter, bridges hand their packets to the firewall (Kubernetes
/// hosts); it is off where the module is not there.
#[test]
fn a_published_port_is_reached_from_everywhere_with_bridge_netfilter() {
    on_a_machine(|machine| published_everywhere(machine, "1"));
}

fn published_everywhere(machine: &Machine, bridge_netfilter: &str) {
    {
        let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridge_netfilter);
        let outside = machine.outside();
        let front = machine.network("front");
        let back = machine.network("back");
        let web = machine.container("web-1", &[&front]);
        let app = machine.container("app-1", &[&front]);
        let db = machine.container("db-1", &[&back]);
        web.serve(80, "web");
        web.serve(81, "unpublished");
        let near: IpAddr = "198.51.100.1".parse().unwrap();
        let from_outside = |to: IpAddr, port: u16, patience: Duration| {
            netns::within(outside.as_fd(), || ask((to, port).into(), patience)).unwrap()
        };
        assert!(from_outside(near, 8080, NEVER).is_err());
        let warning = firewall::add_published(&machine.world, "web-1", &[publish(8080, &web, 80)]);
        assert!(warning.unwrap().is_none());
        assert_eq!(from_outside(near, 8080, SOON).unwrap(), "web 198.51.100.2");
        assert_eq!(ask((near, 8080).into(), SOON).unwrap(), "web 198.51.100.1");
        // By way of this machine's addresses, a container reaches itself and all others.
        for (name, container) in [("web", &web), ("app", &app), ("db", &db)] {
            for address in [near, front.v4.gateway, back.v4.gateway] {
                let answer = container.reaches(address, 8080);
                let expected = format!("web {}", front.v4.gateway);
                assert!(
                    answer.as_ref().is_ok_and(|answer| *answer == expected),
                    "{name} by {address}: {answer:?}"
                );
            }
        }
        // Only the published port is open, even to a neighbour with a route.
        netns::within(outside.as_fd(), || ip("route add 172.16.0.0/12 via 198.51.100.1")).unwrap();
        assert!(from_outside(web.address().into(), 81, NEVER).is_err());
        assert!(from_outside(web.address().into(), 80, NEVER).is_err());
        firewall::remove_published(&machine.world, "web-1").unwrap();
        assert!(from_outside(near, 8080, NEVER).is_err());
        assert!(firewall::owners(&machine.world).unwrap().is_empty());
    }
}

#[test]
fn a_port_is_published_on_one_address_only_when_asked() {
    on_a_machine(|machine| {
        ip("addr add 203.0.113.1/32 dev lo");
        ip("addr add 203.0.113.2/32 dev lo");
        let front = machine.network("front");
        let web = machine.container("web-1", &[&front]);
        web.serve(80, "web");
        let one: Ipv4Addr = "203.0.113.1".parse().unwrap();
        let port = Published {
            host_ip: Some(one),
            ..publish(8080, &web, 80)
        };
        firewall::add_published(&machine.world, "web-1", &[port]).unwrap();
        assert!(ask((one, 8080).into(), SOON).is_ok());
        assert!(ask("203.0.113.2:8080".parse().unwrap(), NEVER).is_err());
    });
}

#[test]
fn udp_is_published_too() {
    on_a_machine(|machine| {
        let outside = machine.outside();
        let front = machine.network("front");
        let dns = machine.container("dns-1", &[&front]);
        let server = dns.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, caller)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], caller);
            }
        });
        let port = Published {
            transport: Transport::Udp,
            ..publish(5353, &dns, 53)
        };
        firewall::add_published(&machine.world, "dns-1", &[port]).unwrap();
        let client = netns::within(outside.as_fd(), || UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.connect("198.51.100.1:5353").unwrap();
        client.send(b"ping").unwrap();
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"ping");
    });
}

#[test]
fn a_port_goes_over_to_the_next_owner_and_survives_a_flush() {
    on_a_machine(|machine| {
        ip("addr add 203.0.113.1/32 dev lo");
        let here: SocketAddr = "203.0.113.1:8080".parse().unwrap();
        let front = machine.network("front");
        let old = machine.container("old-1", &[&front]);
        let new = machine.container("new-1", &[&front]);
        old.serve(80, "old");
        new.serve(80, "new");
        let says = |name: &str| ask(here, SOON).unwrap().starts_with(name);
        firewall::add_published(&machine.world, "old", &[publish(8080, &old, 80)]).unwrap();
        assert!(says("old"));
        firewall::add_published(&machine.world, "new", &[publish(8080, &new, 80)]).unwrap();
        assert!(says("new"));
        // The old owner no longer has it, so cannot take it away.
        firewall::remove_published(&machine.world, "old").unwrap();
        assert!(says("new"));
        let table = format!("inet rcompose-{}", machine.world.id());
        for damage in ["delete", "flush"] {
            output_of(&format!("nft {damage} table {table}"));
            assert!(ask(here, NEVER).is_err(), "{damage} needs nft(8)");
            assert!(firewall::resync(&machine.world).unwrap().is_none());
            assert!(says("new"));
        }
        // Without anybody asking: the next thing that needs the table makes it.
        output_of(&format!("nft delete table {table}"));
        bridge::ensure(&machine.world, &front).unwrap();
        assert!(says("new"));
    });
}

#[test]
fn a_recreated_container_has_its_address_again_and_is_reached_at_once() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let web = machine.container("web-1", &[&front]);
        let app = machine.container("app-1", &[&front]);
        app.serve(80, "first");
        let address = app.address();
        assert!(web.reaches(address, 80).is_ok());
        // The old namespace is still there when the new one comes.
        let again = machine.container("app-1", &[&front]);
        assert_eq!(again.address(), address);
        again.serve(80, "second");
        let began = Instant::now();
        assert!(web.reaches(address, 80).unwrap().starts_with("second"));
        // Sooner than a neighbour is looked for anew; the first packet may be lost,
        // and is sent again after a second.
        assert!(
            began.elapsed() < Duration::from_millis(2500),
            "{:?}",
            began.elapsed()
        );
        drop(app);
        assert!(web.reaches(address, 80).unwrap().starts_with("second"));
    });
}

#[test]
fn everything_of_a_container_goes_with_its_namespace() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let web = machine.container("web-1", &[&front]);
        let end = web.namespace.host_ends[0].clone();
        assert!(output_of("ip -o link").contains(&end));
        drop(web);
        eventually("the host's end is gone", || {
            !output_of("ip -o link").contains(&end)
        });
    });
}

#[test]
fn removing_networks_leaves_nothing() {
    on_a_machine(|machine| {
        let before = output_of("ip -o link; nft list ruleset; ip addr; ip route");
        let networks = ["a", "b", "c"].map(|name| machine.network(name));
        let web = machine.container("web-1", &[&networks[0]]);
        let ids = networks.each_ref().map(|network| network.id.as_str());
        let error = bridge::remove(&machine.world, &ids).unwrap_err();
        assert_eq!(error.to_string(), "network a is in use by web-1");
        drop(web);
        record::release(&machine.world, ids[0], "web-1").unwrap();
        let began = Instant::now();
        bridge::remove(&machine.world, &ids[..2]).unwrap();
        println!("two networks removed in {:?}", began.elapsed());
        let rules = output_of("nft list ruleset");
        assert!(rules.contains(&networks[2].bridge), "{rules}");
        assert!(!rules.contains(&networks[0].bridge), "{rules}");
        bridge::remove(&machine.world, &ids).unwrap();
        eventually("no link, rule, address or route is left", || {
            output_of("ip -o link; nft list ruleset; ip addr; ip route") == before
        });
        assert!(record::list(&machine.world).unwrap().is_empty());
    });
}

#[test]
fn creating_is_safe_to_repeat_and_repairs() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        assert_eq!(machine.network("front"), front);
        let alive = || bridge::alive(std::slice::from_ref(&front)).unwrap();
        assert_eq!(alive(), [true]);
        ip(&format!("link del {}", front.bridge));
        assert_eq!(alive(), [false]);
        let endpoint = machine.endpoint("x", &front);
        let error = endpoint::create_namespace(&machine.world, &[endpoint]).unwrap_err();
        assert!(matches!(error, NetworkError::Missing { .. }), "{error}");
        bridge::ensure(&machine.world, &front).unwrap();
        assert_eq!(alive(), [true]);
        assert!(output_of("ip addr").contains("inet 172.17.0.1/16"));
        let other = NetworkSpec {
            name: "front".to_owned(),
            project: Some("shop".to_owned()),
            ..NetworkSpec::default()
        };
        let error = bridge::create(&machine.world, &other).unwrap_err();
        assert_eq!(error.to_string(), "network front exists already");
    });
}

#[test]
fn which_bridges_are_there_is_told_of_few_networks_and_of_many() {
    on_a_machine(|machine| {
        // Few are asked for one by one, many all at once.
        let networks: Vec<_> = (0..12)
            .map(|number| machine.network(&format!("net{number}")))
            .collect();
        ip(&format!("link del {}", networks[2].bridge));
        ip(&format!("link set {} down", networks[4].bridge));
        for count in [5, 12] {
            let alive = bridge::alive(&networks[..count]).unwrap();
            let gone: Vec<usize> = (0..count).filter(|at| !alive[*at]).collect();
            assert_eq!((alive.len(), gone), (count, vec![2, 4]));
        }
    });
}

#[test]
fn subnets_of_the_machine_and_of_other_networks_are_avoided() {
    on_a_machine(|machine| {
        ip("link add d0 type bridge");
        ip("link set d0 up");
        ip("addr add 172.17.5.1/24 dev d0");
        ip("route add 172.18.0.0/15 dev d0");
        ip("route add 10.0.0.0/8 dev d0");
        assert_eq!(machine.network("a").v4.subnet.to_string(), "172.20.0.0/16");
        let asking = |name: &str, subnet: &str| NetworkSpec {
            name: name.to_owned(),
            pools: vec![PoolRequest {
                subnet: Some(subnet.to_owned()),
                ..PoolRequest::default()
            }],
            ..NetworkSpec::default()
        };
        let refusal = |spec| bridge::create(&machine.world, &spec).unwrap_err().to_string();
        assert_eq!(
            refusal(asking("b", "172.17.5.128/25")),
            "network b: subnet 172.17.5.128/25 overlaps interface d0 (172.17.5.0/24)"
        );
        assert_eq!(
            refusal(asking("b", "172.20.1.0/24")),
            "network b: subnet 172.20.1.0/24 overlaps network a (172.20.0.0/16)"
        );
        assert!(bridge::create(&machine.world, &asking("c", "10.9.0.0/16")).is_ok());
    });
}

#[test]
fn sweeping_removes_what_no_record_names_and_nothing_else() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let back = machine.network("back");
        let web = machine.container("web-1", &[&front]);
        let lost = machine.container("lost-1", &[&front]);
        assert!(bridge::sweep(&machine.world).unwrap().is_empty());
        ip("link add rc-stranger type bridge");
        std::fs::remove_file(machine.world.networks().join(format!("{}.json", back.id))).unwrap();
        record::release(&machine.world, &front.id, "lost-1").unwrap();
        let mut removed = bridge::sweep(&machine.world).unwrap();
        removed.sort();
        let mut expected = [back.bridge.clone(), lost.namespace.host_ends[0].clone()];
        expected.sort();
        assert_eq!(removed, expected);
        let links = output_of("ip -o link");
        assert!(links.contains("rc-stranger"), "{links}");
        assert!(links.contains(&web.namespace.host_ends[0]), "{links}");
        // Another world's things are not ours.
        let folder = tempfile::tempdir().unwrap();
        let other = World::new(Some(folder.path()));
        assert!(bridge::sweep(&other).unwrap().is_empty());
    });
}

#[test]
fn a_network_that_was_removed_meanwhile_is_not_made_again() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let back = machine.network("back");
        bridge::remove(&machine.world, &[&front.id]).unwrap();
        let error = bridge::ensure(&machine.world, &front).unwrap_err();
        assert!(matches!(error, NetworkError::Missing { .. }), "{error}");
        // As if killed between the record's end and the firewall's.
        std::fs::remove_file(machine.world.networks().join(format!("{}.json", back.id))).unwrap();
        ip(&format!("link del {}", back.bridge));
        assert!(output_of("nft list ruleset").contains(&back.bridge));
        // The next network gets the same subnet, in spite of what is left.
        let again = machine.network("again");
        assert_eq!(again.v4.subnet, front.v4.subnet);
        let rules = output_of("nft list ruleset");
        assert!(rules.contains(&again.bridge), "{rules}");
        assert!(bridge::sweep(&machine.world).unwrap().is_empty());
        let rules = output_of("nft list ruleset");
        assert!(
            rules.contains(&again.bridge) && !rules.contains(&back.bridge),
            "{rules}"
        );
        bridge::remove(&machine.world, &[&again.id]).unwrap();
        assert_eq!(output_of("nft list ruleset"), "");
    });
}

/// Makes and removes things until it is killed: the child of the test below.
#[test]
#[ignore = "a helper of another test"]
fn make_and_remove_for_ever() {
    let Some(folder) = std::env::var_os("RCOMPOSE_TEST_WORLD") else {
        return;
    };
    let world = World::new(Some(folder.as_ref()));
    let mut number = 0u32;
    loop {
        number = number.wrapping_add(1);
        let spec = NetworkSpec {
            name: format!("net{}", number % 3),
            ..NetworkSpec::default()
        };
        let (network, _) = bridge::create(&world, &spec).unwrap();
        let key = format!("web-{number}");
        let request = LeaseRequest {
            key: key.clone(),
            ..LeaseRequest::default()
        };
        let record = record::lease(&world, &network.id, &request).unwrap();
        let endpoint = record.endpoint(&key, None, 0).unwrap().unwrap();
        let address = endpoint.address;
        let namespace = endpoint::create_namespace(&world, &[endpoint]).unwrap();
        let port = Published {
            host_ip: None,
            host_port: 8000 + (number % 10) as u16,
            transport: Transport::Tcp,
            address,
            port: 80,
        };
        firewall::add_published(&world, &key, &[port]).unwrap();
        firewall::remove_published(&world, &key).unwrap();
        drop(namespace);
        record::release(&world, &network.id, &key).unwrap();
        bridge::remove(&world, &[&network.id]).unwrap();
    }
}

#[test]
fn a_process_killed_at_any_time_leaves_only_what_the_next_one_finds() {
    on_a_machine(|machine| {
        let seen = || output_of("ip -o link; nft list ruleset; ip addr; ip route");
        let before = seen();
        let mut found = 0;
        for round in 0..25u64 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "make_and_remove_for_ever", "--ignored"])
                .env("RCOMPOSE_TEST_WORLD", machine.world.state())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // Any moment will do; these are spread over several turns of the loop.
            std::thread::sleep(Duration::from_micros(10_000 + round * 7_919 % 150_000));
            child.kill().unwrap();
            child.wait().unwrap();
            // What the next command does.
            bridge::sweep(&machine.world).unwrap();
            for owner in firewall::owners(&machine.world).unwrap() {
                firewall::remove_published(&machine.world, &owner).unwrap();
            }
            let records = record::list(&machine.world).unwrap();
            found += records.len();
            for record in &records {
                bridge::ensure(&machine.world, record).unwrap();
                for key in record.leases.keys() {
                    record::release(&machine.world, &record.id, key).unwrap();
                }
            }
            let ids: Vec<_> = records.iter().map(|record| record.id.as_str()).collect();
            bridge::remove(&machine.world, &ids).unwrap();
            eventually("nothing is left", || seen() == before);
            let names: Vec<_> = std::fs::read_dir(machine.world.networks())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .filter(|name| !name.to_string_lossy().starts_with('.'))
                .collect();
            assert!(names.is_empty(), "{names:?}");
        }
        assert!(found > 5, "only {found} networks were left half way");
    });
}

#[test]
fn without_the_capability_the_error_says_what_is_needed() {
    on_a_machine(|machine| {
        // Of this thread alone, which ends with the test.
        let mut mine = rustix::thread::capabilities(None).unwrap();
        mine.effective.remove(rustix::thread::CapabilitySet::NET_ADMIN);
        rustix::thread::set_capabilities(None, mine).unwrap();
        let spec = NetworkSpec {
            name: "front".to_owned(),
            ..NetworkSpec::default()
        };
        let error = bridge::create(&machine.world, &spec).unwrap_err();
        assert!(matches!(error, NetworkError::Privilege { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    });
}

#[test]
fn two_worlds_in_one_namespace_are_isolated() {
    on_a_machine(|machine| {
        let folder = tempfile::tempdir().unwrap();
        let other = Machine {
            world: World::new(Some(folder.path())),
            _folder: folder,
        };
        let ours = machine.network("front");
        let theirs = other.network("front");
        assert_ne!(ours.v4.subnet, theirs.v4.subnet);
        let web = machine.container("web-1", &[&ours]);
        let db = other.container("db-1", &[&theirs]);
        web.serve(80, "web");
        db.serve(80, "db");
        web.does_not_reach(db.address(), 80);
        db.does_not_reach(web.address(), 80);
        firewall::add_published(&machine.world, "web-1", &[publish(8080, &web, 80)]).unwrap();
        assert!(db.reaches(theirs.v4.gateway, 8080).is_ok());
    });
}

#[test]
fn a_server_inside_may_have_port_53_for_itself() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let dns = machine.container("dns-1", &[&front]);
        let (udp, tcp) = dns.inside(|| (UdpSocket::bind("0.0.0.0:53"), TcpListener::bind("0.0.0.0:53")));
        let (_udp, _tcp) = (udp.unwrap(), tcp.unwrap());
        // And the name service is still where resolv.conf says.
        let service = UdpSocket::from(dns.namespace.dns_udp.try_clone().unwrap());
        service.set_nonblocking(false).unwrap();
        service.set_read_timeout(Some(SOON)).unwrap();
        let client = dns.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        client.connect("127.0.0.11:53").unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.send(b"who").unwrap();
        let mut buffer = [0; 16];
        let (_, caller) = service.recv_from(&mut buffer).unwrap();
        service.send_to(b"me", caller).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 2);
        let service = TcpListener::from(dns.namespace.dns_tcp.try_clone().unwrap());
        service.set_nonblocking(false).unwrap();
        serve(service, "names");
        let answer = dns.reaches(Ipv4Addr::new(127, 0, 0, 11), 53).unwrap();
        assert!(answer.starts_with("names"), "{answer}");
    });
}

#[test]
fn the_sockets_of_the_name_service_can_be_made_again() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let Container { namespace, .. } = machine.container("web-1", &[&front]);
        let error = endpoint::names_sockets(namespace.netns.as_fd()).unwrap_err();
        assert!(error.to_string().contains("127.0.0.11"), "{error}");
        drop((namespace.dns_udp, namespace.dns_tcp));
        endpoint::names_sockets(namespace.netns.as_fd()).unwrap();
    });
}

#[test]
fn fifty_namespaces_by_two_threads() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let endpoints: Vec<_> = (0..50)
            .map(|number| machine.endpoint(&format!("web-{number}"), &front))
            .collect();
        let began = Instant::now();
        let made: Vec<Namespace> = std::thread::scope(|scope| {
            let make = |endpoint| {
                let one = std::slice::from_ref(endpoint);
                endpoint::create_namespace(&machine.world, one).unwrap()
            };
            let halves: Vec<_> = endpoints
                .chunks(25)
                .map(|half| scope.spawn(move || half.iter().map(make).collect::<Vec<_>>()))
                .collect();
            halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
        });
        println!("50 namespaces by two threads: {:?} each", began.elapsed() / 50);
        let ends: BTreeSet<_> = made.iter().map(|made| &made.host_ends).collect();
        assert_eq!(ends.len(), 50);
        let ports = output_of(&format!("ip -o link show master {} up", front.bridge));
        assert_eq!(ports.lines().count(), 50, "{ports}");
    });
}

#[test]
fn names_of_the_own_networks_are_answered_and_others_forwarded() {
    on_a_machine(|machine| {
        // A resolver of the machine, on loopback as systemd-resolved is.
        let upstream = UdpSocket::bind("127.0.0.53:0").unwrap();
        let resolver = upstream.local_addr().unwrap();
        upstream.set_read_timeout(Some(SOON)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = upstream.recv_from(&mut buffer) {
                let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
                let name = answer.queries[0].name().clone();
                let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 80));
                answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 60, data));
                let _ = upstream.send_to(&answer.to_vec().unwrap(), from);
            }
        });
        let front = machine.network("front");
        let inner = machine.internal_network("inner");
        let names = Names::new();
        let view = |networks: &[&NetworkRecord]| View {
            networks: networks.iter().map(|network| network.id.clone()).collect(),
            forward: networks.iter().any(|network| !network.internal),
            ..View::default()
        };
        let attach = |network: &NetworkRecord, container: &Container, at: usize, list: &[&str]| {
            let list: Vec<_> = list.iter().map(|name| (*name).to_owned()).collect();
            let bad = names.attach(&network.id, &list[0], &list, &[container.addresses[at].into()]);
            assert!(bad.is_empty());
        };
        let web = machine.container("web-1", &[&front]);
        let app1 = machine.container("app-1", &[&front, &inner]);
        let app2 = machine.container("app-2", &[&front, &inner]);
        let db = machine.container("db-1", &[&inner]);
        attach(&front, &web, 0, &["shop-web-1", "web", "www"]);
        for (container, name) in [(&app1, "shop-app-1"), (&app2, "shop-app-2")] {
            attach(&front, container, 0, &[name, "app"]);
            attach(&inner, container, 1, &[name, "app"]);
        }
        attach(&inner, &db, 0, &["shop-db-1", "db"]);
        let _views = [
            serve_names(&web, &names, view(&[&front]), vec![resolver]),
            serve_names(&app1, &names, view(&[&front, &inner]), vec![resolver]),
            serve_names(&db, &names, view(&[&inner]), vec![resolver]),
        ];
        let v4 = |container: &Container, name: &str| resolve(container, name, RecordType::A);
        let own = |container: &Container, at: usize| IpAddr::from(container.addresses[at]);
        for name in ["web", "WWW", "shop-web-1"] {
            assert_eq!(v4(&app1, name), Ok(vec![own(&web, 0)]), "{name}");
        }
        assert_eq!(
            v4(&web, "app"),
            Ok(vec![own(&app1, 0), own(&app2, 0)]),
            "all replicas"
        );
        assert_eq!(
            v4(&db, "app"),
            Ok(vec![own(&app1, 1), own(&app2, 1)]),
            "on its own network"
        );
        assert_eq!(v4(&app1, "db"), Ok(vec![own(&db, 0)]));
        assert_eq!(resolve(&web, "app", RecordType::AAAA), Ok(vec![]));
        let outside = Ok(vec!["192.0.2.80".parse().unwrap()]);
        assert_eq!(v4(&web, "example.org"), outside);
        assert_eq!(v4(&app1, "example.org"), outside);
        assert_eq!(v4(&web, "db"), outside, "not a name of its networks");
        assert_eq!(v4(&db, "example.org"), Err(ResponseCode::NXDomain));
        assert_eq!(v4(&db, "web"), Err(ResponseCode::NXDomain));
        let began = Instant::now();
        for _ in 0..2000 {
            assert!(v4_quick(&web));
        }
        println!("a name: {:?} each, one after the other", began.elapsed() / 2000);
    });
}

/// One question on a socket kept for all of them.
fn v4_quick(container: &Container) -> bool {
    thread_local! {
        static SOCKET: std::cell::OnceCell<(UdpSocket, Vec<u8>)> = const { std::cell::OnceCell::new() };
    }
    SOCKET.with(|cell| {
        let (socket, question) = cell.get_or_init(|| {
            let socket = container.inside(|| UdpSocket::bind("127.0.0.1:0").unwrap());
            socket.connect((endpoint::NAMES_ADDRESS, 53)).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            let mut question = Message::query();
            question.add_query(Query::query(Name::from_ascii("app").unwrap(), RecordType::A));
            (socket, question.to_vec().unwrap())
        });
        socket.send(question).unwrap();
        socket
            .recv(&mut [0; 512])
            .is_ok_and(|length| length > question.len())
    })
}

#[test]
fn a_published_port_is_reached_on_loopback_and_waits_for_its_container() {
    on_a_machine(|machine| {
        ip("addr add 203.0.113.1/32 dev lo");
        let front = machine.network("front");
        let web = machine.container("web-1", &[&front]);
        web.serve(80, "first");
        let to = |container: &Container| SocketAddr::from((container.address(), 80));
        let (port, target) = proxy(Transport::Tcp, to(&web));
        let publish = |container: &Container| {
            let ports = [publish(port, container, 80)];
            assert!(
                firewall::add_published(&machine.world, "web-1", &ports)
                    .unwrap()
                    .is_none()
            );
        };
        publish(&web);
        let everywhere =
            ["127.0.0.1", "127.0.0.9", "203.0.113.1", "::1"].map(|a| a.parse::<IpAddr>().unwrap());
        let gateway = front.v4.gateway;
        for address in everywhere {
            let expected = if address == everywhere[2] {
                everywhere[2]
            } else {
                gateway
            };
            assert_eq!(
                ask((address, port).into(), SOON).unwrap(),
                format!("first {expected}"),
                "by {address}"
            );
        }
        // The container is replaced: whoever comes meanwhile waits.
        firewall::remove_published(&machine.world, "web-1").unwrap();
        target.send_replace(None);
        drop(web);
        let waiting: Vec<_> = everywhere
            .map(|address| std::thread::spawn(move || ask((address, port).into(), SOON)))
            .into_iter()
            .collect();
        let again = machine.container("web-1", &[&front]);
        again.serve(80, "second");
        eventually("all are connected", || {
            output_of("cat /proc/thread-self/net/tcp /proc/thread-self/net/tcp6")
                .lines()
                .filter(|line| line.split_whitespace().nth(3) == Some("01"))
                .count()
                >= 8
        });
        publish(&again);
        target.send_replace(Some(to(&again)));
        for waiting in waiting {
            assert!(waiting.join().unwrap().unwrap().starts_with("second"));
        }
    });
}

#[test]
fn udp_reaches_a_container_by_loopback() {
    on_a_machine(|machine| {
        let front = machine.network("front");
        let dns = machine.container("dns-1", &[&front]);
        let server = dns.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, caller)) = server.recv_from(&mut buffer) {
                let _ = server.send_to(&buffer[..length], caller);
            }
        });
        let (port, _target) = proxy(Transport::Udp, (dns.address(), 53).into());
        for host in ["127.0.0.1", "127.0.0.9", "::1"] {
            let host: IpAddr = host.parse().unwrap();
            let any = if host.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = UdpSocket::bind(any).unwrap();
            client.set_read_timeout(Some(SOON)).unwrap();
            client.connect((host, port)).unwrap();
            client.send(b"ping").unwrap();
            let mut buffer = [0; 64];
            assert_eq!(client.recv(&mut buffer).unwrap(), 4, "by {host}");
        }
    });
}

#[test]
fn bulk_data_passes_both_ways_of_publishing() {
    const BYTES: usize = 200_000_000;
    on_a_machine(|machine| {
        ip("addr add 203.0.113.1/32 dev lo");
        let front = machine.network("front");
        let web = machine.container("web-1", &[&front]);
        let listener = web.inside(|| TcpListener::bind("0.0.0.0:80").unwrap());
        std::thread::spawn(move || {
            let block = vec![7; 256 * 1024];
            while let Ok((mut stream, _)) = listener.accept() {
                let mut first = [0];
                if stream.read_exact(&mut first).is_ok() && first == [b'!'] {
                    let mut left = BYTES;
                    while left > 0 {
                        let part = left.min(block.len());
                        if stream.write_all(&block[..part]).is_err() {
                            break;
                        }
                        left -= part;
                    }
                }
            }
        });
        let (port, _target) = proxy(Transport::Tcp, (web.address(), 80).into());
        firewall::add_published(&machine.world, "web-1", &[publish(port, &web, 80)]).unwrap();
        for (way, address) in [("rewriting", "203.0.113.1"), ("proxy", "127.0.0.1")] {
            let began = Instant::now();
            let mut stream = TcpStream::connect((address, port)).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            stream.write_all(b"!").unwrap();
            let mut buffer = vec![0; 256 * 1024];
            let mut length = 0;
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    part => length += part,
                }
            }
            assert_eq!(length, BYTES, "{way}");
            let gigabits = BYTES as f64 * 8.0 / 1e9 / began.elapsed().as_secs_f64();
            let began = Instant::now();
            for _ in 0..200 {
                let mut stream = TcpStream::connect((address, port)).unwrap();
                stream.write_all(b"?").unwrap();
                assert_eq!(stream.read(&mut buffer).unwrap_or(0), 0);
            }
            println!(
                "{way}: {gigabits:.1} Gbit/s, {:?} a connection",
                began.elapsed() / 200
            );
        }
    });
}
