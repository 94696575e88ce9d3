//! How traffic finds the containers of one project: published ports and names.
//!
//! The supervisor's process owns the listening sockets. They are bound before
//! anything of a plan is done ([`Traffic::reserve`]) and kept while a container
//! is replaced, so that a connection which arrives meanwhile waits in the
//! backlog. Each is inherited by the container's monitor too, which does nothing
//! with it: a new supervisor takes it over from there ([`Traffic::adopt`]).
//!
//! The ports of a container that runs may change ([`Traffic::change`]), and go
//! over to the container that takes its place ([`Traffic::hand_over`]).
//!
//! The monitor is told to keep the new ones and to let the others go
//! ([`Traffic::leave_with_monitor`]).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::machine::blocking;
use super::record::ContainerRecord;
use super::view::Published;
use super::{HostError, others};
use crate::network::firewall;
use crate::network::names::{Forwarder, Names, PORT, ResolvConf, Upstreams, View as NamesView, serve};
use crate::network::ports::{self, BoundSocket, Transport};
use crate::network::record::Lease;
use crate::project::{Port, Protocol, Service};
use crate::runtime::{self, Orders, RunningRecord};
use crate::store::{World, write_record};

/// Where this machine's own resolvers are written (resolv.conf(5)).
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What the names begin with under which monitors keep sockets of ports.
const PORT_NAME: &str = "port-";

/// What each container that a plan stops or starts will publish afterwards, by
/// container name.
pub(super) type Afterwards = BTreeMap<String, Vec<Port>>;

/// A container's place on one network.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Network id.
    pub(super) network: String,
    /// Name of the network on the host.
    pub(super) name: String,
    /// No way out of that network.
    pub(super) internal: bool,
    /// The addresses there.
    pub(super) lease: Lease,
    /// Further names there.
    pub(super) aliases: Vec<String>,
}

/// A published port that is held.
#[derive(Debug)]
struct Held {
    wanted: Port,
    port: u16,
    sockets: Vec<BoundSocket>,
    /// Where the container is; `None` while it is away.
    target: watch::Sender<Option<SocketAddr>>,
    tasks: Vec<AbortHandle>,
}

impl Held {
    /// Binds a port.
    fn new(wanted: &Port) -> Result<Self, HostError> {
        let bound = ports::bind(wanted.host_ip, wanted.published, transport(wanted.protocol)?)?;
        let (target, _) = watch::channel(None);
        Ok(Self {
            wanted: wanted.clone(),
            port: bound.port,
            sockets: bound.sockets,
            target,
            tasks: vec![],
        })
    }

    /// Refuses connections from now on, whoever else has the sockets open: a
    /// monitor does until it is told. Of UDP, nothing can be refused before.
    fn shut(&self) {
        for socket in &self.sockets {
            let _ = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Both);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Container name, and which of its ports.
type Key = (String, usize);

/// Published ports and names of one project's containers.
#[derive(Debug)]
pub(super) struct Traffic {
    world: World,
    names: Names,
    forwarder: Arc<Forwarder>,
    /// What each container sees of the names; its name service ends with it.
    views: Mutex<HashMap<String, watch::Sender<NamesView>>>,
    held: Mutex<HashMap<Key, Held>>,
}

impl Traffic {
    pub(super) fn new(world: &World, project: &str) -> Self {
        let (there, own) = (world.clone(), project.to_owned());
        let elsewhere = move |network: &str, name: &str| {
            others::addresses(&there, &own, network, name).unwrap_or_else(|error| {
                tracing::warn!(name, %error, "could not be looked for in other stacks");
                vec![]
            })
        };
        Self {
            world: world.clone(),
            names: Names::with(Arc::new(elsewhere)),
            forwarder: Arc::new(Forwarder::new(Upstreams::of_file(RESOLV_CONF))),
            views: Mutex::default(),
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Key, Held>> {
        // Every change under the lock is one insertion or removal.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn views(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<NamesView>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the ports of a container, those it does not hold already. With
    /// `afterwards`, a port that another container of ours holds and is about
    /// to give up is left for later; so is one of a container that `yields`.
    pub(super) fn reserve(
        &self,
        name: &str,
        ports: &[Port],
        afterwards: Option<&Afterwards>,
        yields: impl Fn(&str) -> bool,
    ) -> Result<(), HostError> {
        let mut held = self.held();
        for (index, port) in ports.iter().enumerate() {
            let key = (name.to_owned(), index);
            if held.get(&key).is_some_and(|held| held.wanted == *port) {
                continue;
            }
            let rival = held
                .iter()
                .find(|((other, _), held)| other != name && collide(&held.wanted, port));
            if let Some(((other, _), rival)) = rival {
                let gives_up = afterwards
                    .and_then(|afterwards| afterwards.get(other))
                    .is_some_and(|ports| !ports.contains(&rival.wanted));
                if gives_up || yields(other) {
                    continue;
                }
                return Err(HostError::PortTaken {
                    port: port.clone(),
                    container: other.clone(),
                });
            }
            // Until it is stopped, the container serves on its old port: then
            // this is only a check, which its own old port must not fail.
            let checking = afterwards.is_some() && held.contains_key(&key);
            if checking && held.get(&key).is_some_and(|own| collide(&own.wanted, port)) {
                continue;
            }
            if !checking {
                held.remove(&key);
            }
            let bound = Held::new(port)?;
            if !checking {
                held.insert(key, bound);
            }
        }
        Ok(())
    }

    /// Has the monitor of a container that runs keep the sockets of its ports as
    /// they are now, and let go of those that it had; the running record as it is
    /// from then on. Blocks.
    ///
    /// Written to `path` before the monitor lets go and after it has taken: a
    /// process that is killed in between leaves sockets with the monitor that the
    /// next supervisor makes it let go.
    ///
    /// # Errors
    /// [`HostError`] when the monitor does not answer or the record cannot be
    /// written.
    pub(super) fn leave_with_monitor(
        &self,
        name: &str,
        running: &RunningRecord,
        path: &Path,
    ) -> Result<RunningRecord, HostError> {
        let mut running = running.clone();
        if !running.fixed.takes_orders {
            return Ok(running);
        }
        let mut there = kept_sockets(&running);
        let mut kept = running.fixed.kept.clone();
        kept.retain(|name, _| !name.starts_with(PORT_NAME));
        let mut orders = None;
        for (name, fd) in self.listeners(name) {
            let socket = BoundSocket::adopt(fd).map_err(HostError::io("look at", Path::new("socket")))?;
            let same = |(_, other): &(i32, BoundSocket)| {
                (other.address, other.transport) == (socket.address, socket.transport)
            };
            let number = match there.iter().position(same) {
                Some(at) => there.swap_remove(at).0,
                None => {
                    let orders = match &orders {
                        Some(orders) => orders,
                        None => orders.insert(Orders::open(&running)?),
                    };
                    orders.keep(socket.fd.as_fd())?
                }
            };
            kept.insert(name, number);
        }
        if kept == running.fixed.kept {
            return Ok(running);
        }
        running.fixed.kept = kept;
        write_record(path, &running)?;
        let orders = match orders {
            Some(orders) => orders,
            None => Orders::open(&running)?,
        };
        orders.keep_only(running.fixed.kept.values().copied().collect())?;
        Ok(running)
    }

    /// Duplicates of the sockets of a container, by the names that its monitor
    /// keeps them under.
    pub(super) fn listeners(&self, name: &str) -> Vec<(String, OwnedFd)> {
        let mut list = Vec::new();
        for ((_, index), held) in self.held().iter().filter(|((owner, _), _)| owner == name) {
            for (number, socket) in held.sockets.iter().enumerate() {
                if let Ok(fd) = socket.fd.try_clone() {
                    list.push((format!("{PORT_NAME}{index}-{number}"), fd));
                }
            }
        }
        list
    }

    /// Leads the ports of a container to where it is now, and gives it its
    /// names; what is published is returned.
    pub(super) async fn publish(
        &self,
        record: &ContainerRecord,
        places: &[Place],
    ) -> Result<Vec<Published>, HostError> {
        for place in places {
            let mut names = vec![record.name.clone(), record.short_id().to_owned()];
            if record.one_off.as_ref().is_none_or(|one_off| one_off.aliases) {
                names.push(record.config.name.clone());
                names.extend(place.aliases.iter().cloned());
            }
            let mut addresses = vec![IpAddr::V4(place.lease.address)];
            addresses.extend(place.lease.address6.map(IpAddr::V6));
            self.names.set_network(&place.network, &place.name);
            for name in self.names.attach(&place.network, &record.id, &names, &addresses) {
                tracing::warn!(name, "a name that nobody can ask for");
            }
        }
        let Some(place) = places.iter().find(|place| !place.internal).or(places.first()) else {
            return Ok(vec![]);
        };
        let address = place.lease.address;
        let (mut published, mut rules) = (Vec::new(), Vec::new());
        for ((_, index), held) in self
            .held()
            .iter_mut()
            .filter(|((name, _), _)| *name == record.name)
        {
            if record.config.ports.get(*index) != Some(&held.wanted) {
                continue;
            }
            let Port {
                target,
                host_ip,
                protocol,
                ..
            } = held.wanted;
            held.target
                .send_replace(Some(SocketAddr::new(address.into(), target)));
            if held.tasks.is_empty() {
                for socket in &held.sockets {
                    let socket = socket
                        .try_clone()
                        .map_err(HostError::io("duplicate", Path::new("socket")))?;
                    let serving = ports::serve(socket, held.target.subscribe());
                    let task = tokio::spawn(async move {
                        if let Err(error) = serving.await {
                            tracing::error!(%error, "a published port is not served any more");
                        }
                    });
                    held.tasks.push(task.abort_handle());
                }
            }
            published.push((
                *index,
                Published {
                    host_ip,
                    published: held.port,
                    target,
                    protocol,
                },
            ));
            if let None | Some(IpAddr::V4(_)) = host_ip {
                rules.push(firewall::Published {
                    host_ip: host_ip.and_then(|ip| match ip {
                        IpAddr::V4(ip) => Some(ip),
                        IpAddr::V6(_) => None,
                    }),
                    host_port: held.port,
                    transport: transport(protocol)?,
                    address,
                    port: target,
                });
            }
        }
        // None at all takes those back that were there before.
        if !rules.is_empty() || firewall::has_published(&self.world, &record.id) {
            let (world, id) = (self.world.clone(), record.id.clone());
            // Without the kernel's rewriting the proxy serves all.
            let warning = blocking(move || Ok(firewall::add_published(&world, &id, &rules)?)).await?;
            if let Some(warning) = warning {
                tracing::warn!(%warning, "published ports are served by the proxy alone");
            }
        }
        published.sort_by_key(|(index, _)| *index);
        Ok(published.into_iter().map(|(_, published)| published).collect())
    }

    /// Binds the ports that a running container is to have from now on, and gives
    /// up the others: those that stay are not touched. [`Traffic::publish`] leads
    /// them to it.
    ///
    /// # Errors
    /// When one cannot be bound: nothing has changed then.
    pub(super) fn change(&self, name: &str, ports: &[Port]) -> Result<(), HostError> {
        let mut held = self.held();
        let mut before: Vec<(Key, Held)> = held.extract_if(|(owner, _), _| owner == name).collect();
        let mut after: Vec<(usize, Held)> = Vec::new();
        let mut missing: Vec<usize> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let same = |held: &Held| {
                let wanted = &held.wanted;
                (wanted.host_ip, wanted.published, wanted.protocol)
                    == (port.host_ip, port.published, port.protocol)
            };
            match before.iter().position(|(_, held)| same(held)) {
                Some(at) => {
                    let (_, mut stays) = before.swap_remove(at);
                    stays.wanted = port.clone();
                    after.push((index, stays));
                }
                None => missing.push(index),
            }
        }
        let bound = missing
            .iter()
            .filter_map(|index| Some((*index, ports.get(*index)?)));
        let bound = bound.map(|(index, port)| {
            let rival = held.iter().find(|(_, held)| collide(&held.wanted, port));
            if let Some(((container, _), _)) = rival {
                return Err(HostError::PortTaken {
                    port: port.clone(),
                    container: container.clone(),
                });
            }
            Ok((index, Held::new(port)?))
        });
        match bound.collect::<Result<Vec<_>, HostError>>() {
            Ok(bound) => {
                let all = after.into_iter().chain(bound);
                held.extend(all.map(|(index, one)| ((name.to_owned(), index), one)));
                for (_, gone) in &before {
                    gone.shut();
                }
                Ok(())
            }
            Err(error) => {
                // Their numbers count from now on, which is what was wanted.
                held.extend(before);
                held.extend(
                    after
                        .into_iter()
                        .map(|(index, one)| ((name.to_owned(), index), one)),
                );
                Err(error)
            }
        }
    }

    /// Gives the ports of one container to the one that takes its place, as far
    /// as that wants them and has none yet. Whether there were any.
    pub(super) fn hand_over(&self, from: &str, to: &str, ports: &[Port]) -> bool {
        let mut held = self.held();
        let mut any = false;
        for (index, port) in ports.iter().enumerate() {
            let key = (to.to_owned(), index);
            if held.contains_key(&key) {
                continue;
            }
            let found = held
                .iter()
                .find(|((owner, _), held)| owner == from && held.wanted == *port);
            let Some(place) = found.map(|(key, _)| key.clone()) else {
                continue;
            };
            if let Some(one) = held.remove(&place) {
                held.insert(key, one);
                any = true;
            }
        }
        any
    }

    /// What a container sees of the names.
    fn view(record: &ContainerRecord, places: &[Place]) -> NamesView {
        NamesView {
            networks: places.iter().map(|place| place.network.clone()).collect(),
            forward: places.iter().any(|place| !place.internal),
            links: record
                .config
                .links
                .iter()
                .map(|link| (link.alias.to_lowercase(), link.service.to_lowercase()))
                .chain(
                    record
                        .config
                        .external_links
                        .iter()
                        .map(|link| (link.alias.to_lowercase(), link.container.to_lowercase())),
                )
                .collect(),
        }
    }

    /// A container that runs is on other networks, or has other links, than
    /// `before`: it sees what is there now, and is not seen where it was.
    pub(super) fn moved(&self, before: &ContainerRecord, record: &ContainerRecord, places: &[Place]) {
        if let Some(view) = self.views().get(&record.id) {
            view.send_replace(Self::view(record, places));
        }
        let left = before.networks.values();
        for network in left.filter(|id| !record.networks.values().any(|other| other == *id)) {
            self.names.detach(network, &record.id);
        }
    }

    /// A container that runs has other name servers now.
    pub(super) fn serve_names_anew(
        &self,
        record: &ContainerRecord,
        running: &RunningRecord,
        places: &[Place],
    ) -> Result<(), HostError> {
        let kept = |name| runtime::retrieve_kept(running, name);
        if let (Ok(udp), Ok(tcp)) = (kept("dns-udp"), kept("dns-tcp")) {
            self.serve_names(record, places, udp, tcp)?;
        }
        Ok(())
    }

    /// Answers a container's questions for names, until it is unpublished.
    pub(super) fn serve_names(
        &self,
        record: &ContainerRecord,
        places: &[Place],
        udp: OwnedFd,
        tcp: OwnedFd,
    ) -> Result<(), HostError> {
        let own = own_resolv_conf(&record.config);
        let forwarder = if own.servers.is_empty() {
            self.forwarder.clone()
        } else {
            Arc::new(Forwarder::new(Upstreams::fixed(own.servers)))
        };
        let (sender, view) = watch::channel(Self::view(record, places));
        // Whoever served it before ends with the sender that is dropped here.
        self.views().insert(record.id.clone(), sender);
        let serving = serve(udp, tcp, self.names.clone(), view, forwarder);
        let name = record.name.clone();
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(container = name, %error, "its questions for names are not answered any more");
            }
        });
        Ok(())
    }

    /// The container is away: connections wait, its names are gone, its name
    /// service is closed.
    pub(super) async fn unpublish(&self, record: &ContainerRecord) -> Result<(), HostError> {
        for ((name, _), held) in self.held().iter() {
            if *name == record.name {
                held.target.send_replace(None);
            }
        }
        for network in record.networks.values() {
            self.names.detach(network, &record.id);
        }
        self.views().remove(&record.id);
        if record.config.ports.is_empty() {
            return Ok(());
        }
        let (world, id) = (self.world.clone(), record.id.clone());
        blocking(move || Ok(firewall::remove_published(&world, &id)?)).await
    }

    /// Takes over the sockets of a container from its monitor.
    pub(super) fn adopt(
        &self,
        record: &ContainerRecord,
        running: &RunningRecord,
        places: &[Place],
    ) -> Result<(), HostError> {
        // By what they are bound to: its ports may have changed since it was started.
        let mut kept: Vec<BoundSocket> = kept_sockets(running)
            .into_iter()
            .map(|(_, socket)| socket)
            .collect();
        let mut ports: Vec<(usize, &Port)> = record.config.ports.iter().enumerate().collect();
        // The one that only one fits comes first.
        ports.sort_by_key(|(_, port)| port.published.map_or(u16::MAX, |(first, last)| last - first));
        for (index, port) in ports {
            let number = kept.iter().find(|socket| fits(socket, port));
            let number = number.map(|socket| socket.address.port());
            // Those of IPv4 and IPv6 have one number.
            let of_port =
                |socket: &mut BoundSocket| fits(socket, port) && Some(socket.address.port()) == number;
            let sockets: Vec<BoundSocket> = kept.extract_if(.., of_port).collect();
            let held = match sockets.first() {
                Some(first) => {
                    let (target, _) = watch::channel(None);
                    Held {
                        wanted: port.clone(),
                        port: first.address.port(),
                        sockets,
                        target,
                        tasks: vec![],
                    }
                }
                None => match Held::new(port) {
                    Ok(held) => held,
                    Err(error) => {
                        tracing::error!(container = record.name, %error, "a port is not published any more");
                        continue;
                    }
                },
            };
            self.held().insert((record.name.clone(), index), held);
        }
        self.serve_names_anew(record, running, places)
    }

    /// Whether any port is held.
    pub(super) fn holds_any(&self) -> bool {
        !self.held().is_empty()
    }

    /// Gives back the ports of all containers but these.
    pub(super) fn release_all_but(&self, names: &[String]) {
        self.held().retain(|(name, _), _| names.contains(name));
    }
}

/// What a service says of its resolver itself.
pub(super) fn own_resolv_conf(service: &Service) -> ResolvConf {
    ResolvConf {
        servers: service
            .dns
            .iter()
            .map(|address| SocketAddr::new(*address, PORT))
            .collect(),
        search: service.dns_search.clone(),
        options: service.dns_opt.clone(),
    }
}

fn transport(protocol: Protocol) -> Result<Transport, HostError> {
    match protocol {
        Protocol::Tcp => Ok(Transport::Tcp),
        Protocol::Udp => Ok(Transport::Udp),
        Protocol::Sctp => Err(HostError::Unsupported {
            what: "publishing SCTP ports".to_owned(),
        }),
    }
}

/// The sockets of published ports that a monitor keeps and that still listen,
/// with their numbers there.
fn kept_sockets(running: &RunningRecord) -> Vec<(i32, BoundSocket)> {
    let kept = running.fixed.kept.iter();
    kept.filter(|(name, _)| name.starts_with(PORT_NAME))
        .filter_map(|(name, number)| {
            let fd = runtime::retrieve_kept(running, name).ok()?;
            Some((*number, BoundSocket::adopt(fd).ok()?))
        })
        .collect()
}

/// Whether a socket is bound to what a port says.
fn fits(socket: &BoundSocket, port: &Port) -> bool {
    let number = socket.address.port();
    let same = transport(port.protocol).is_ok_and(|transport| transport == socket.transport);
    let ip = match port.host_ip {
        Some(ip) => socket.address.ip() == ip,
        None => socket.address.ip().is_unspecified(),
    };
    same && ip
        && port
            .published
            .is_none_or(|(first, last)| (first..=last).contains(&number))
}

/// Whether two fixed ports cannot be had at the same time.
fn collide(a: &Port, b: &Port) -> bool {
    let (Some((a_first, a_last)), Some((b_first, b_last))) = (a.published, b.published) else {
        return false;
    };
    let fixed = a_first == a_last && b_first == b_last && a_first == b_first;
    let any = |ip: Option<IpAddr>| ip.is_none_or(|ip| ip.is_unspecified());
    fixed && a.protocol == b.protocol && (any(a.host_ip) || any(b.host_ip) || a.host_ip == b.host_ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: Option<&str>, published: u16) -> Port {
        Port {
            target: 80,
            published: Some((published, published)),
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            protocol: Protocol::Tcp,
            ..Port::default()
        }
    }

    #[test]
    fn ports_collide_on_one_address() {
        assert!(collide(&port(None, 80), &port(Some("127.0.0.1"), 80)));
        assert!(collide(
            &port(Some("127.0.0.1"), 80),
            &port(Some("127.0.0.1"), 80)
        ));
        assert!(!collide(
            &port(Some("127.0.0.1"), 80),
            &port(Some("127.0.0.2"), 80)
        ));
        assert!(!collide(&port(None, 80), &port(None, 81)));
        let udp = Port {
            protocol: Protocol::Udp,
            ..port(None, 80)
        };
        assert!(!collide(&port(None, 80), &udp));
    }
}
