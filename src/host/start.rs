//! One run of a container: begins it, and clears up after it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::sync::watch;

use super::etc::write_files;
use super::machine::{Live, Machine, News, Started, blocking};
use super::record::{ContainerRecord, containers};
use super::traffic::Place;
use super::view::{LOST, lock_path, ports_path};
use super::{HostError, create, given, health, others, spec};
use crate::image::Image;
use crate::lifecycle::restart::{RestartPolicy, Rules};
use crate::monitor::{self, Estate};
use crate::network::endpoint::{Endpoint, Namespace, change_namespace, create_namespace, loopback_only};
use crate::network::record as networks;
use crate::network::{NetworkError, bridge};
use crate::project::{EndpointOptions, IpcMode, NetworkMode, PidMode, Restart, Service};
use crate::runtime::{self, ExitRecord, Liveness, Process, RunRequest, RunningRecord};
use crate::store::{ContainerPaths, Lock, World, read_record, remove_record, write_record};
use crate::sys::readiness;
use crate::volume::{Hold, Volumes};

/// How long a monitor may take to begin or to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at that.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// What a run needs that only this process has.
#[derive(Debug)]
struct Prepared {
    request: RunRequest,
    network: Net,
    /// Goes to the monitor, which holds it until it ends: a supervisor that
    /// takes over knows by it that a run is about to begin.
    lock: Lock,
    /// Namespaces that the request names by descriptors of ours.
    shared: Shared,
    /// Go to the monitor: what is mounted for volumes stays until it ends.
    holds: Vec<Hold>,
    warnings: Vec<String>,
}

/// The network namespace of a run.
#[derive(Debug)]
enum Net {
    /// A fresh one, with interfaces and the sockets of its name service.
    Fresh(Namespace),
    /// One of its own with only a loopback interface, or another container's.
    Given(OwnedFd),
    /// The host's.
    Host,
}

/// Starts a container. `again`: its restart policy does.
pub(super) async fn start(machine: &Arc<Machine>, id: &str, again: bool) -> Result<Vec<String>, HostError> {
    let _guard = loop {
        let guard = machine.lock(id).await;
        let live = machine.live().get(id).map(Live::clone_of);
        let Some((running, mut ended)) = live else {
            break guard;
        };
        if let Liveness::Running { init: Some(_), .. } = runtime::probe(&running)? {
            machine.resting().remove(id);
            return Ok(vec![]);
        }
        // It has just ended, which is noted under the lock.
        drop(guard);
        let _ = ended.wait_for(|ended| *ended).await;
    };
    let Some(mut record) = machine.record(id)? else {
        return Err(HostError::NoContainer { name: id.to_owned() });
    };
    if again && (record.stopped || machine.resting().contains(id)) {
        return Ok(vec![]);
    }
    machine.resting().remove(id);
    if record.stopped {
        record.stopped = false;
        write_record(&machine.world.container(&machine.project, id).record(), &record)?;
    }
    let image = machine
        .images
        .get(&record.image)?
        .or(machine.images.resolve(&record.config.image)?)
        .ok_or_else(|| HostError::NoImage {
            image: record.config.image.clone(),
        })?;
    // The container whose place it takes gives them up when it is stopped.
    let yields = |other: &str| machine.is_replica(other, &record.config.name);
    machine
        .traffic
        .reserve(&record.name, &record.config.ports, None, yields)?;
    let (world, revive) = (machine.world.clone(), machine.revive());
    let wanted = record.clone();
    let mounted = layers_of_mounted(machine, &record)?;
    let Prepared {
        request,
        network,
        lock,
        shared,
        holds,
        mut warnings,
    } = blocking(move || prepare(&world, &wanted, &image, revive, &mounted)).await?;
    let listeners = machine.traffic.listeners(&record.name);
    let client = first_client(&machine.world, &record);
    let (estate, monitors) = Estate::new().map_err(HostError::io("make", Path::new("socket pair")))?;
    let (link, monitor_end) = UnixStream::pair().map_err(HostError::io("make", Path::new("socket pair")))?;
    let offset = log_end(&machine.world, &record);
    let name = record.name.clone();
    let (network, estate, result) = blocking(move || {
        let netns = match &network {
            Net::Fresh(namespace) => Some(namespace.netns.as_fd()),
            Net::Given(netns) => Some(netns.as_fd()),
            Net::Host => None,
        };
        let mut kept: Vec<(String, BorrowedFd<'_>)> = Vec::new();
        if let Net::Fresh(namespace) = &network {
            kept.push(("dns-udp".to_owned(), namespace.dns_udp.as_fd()));
            kept.push(("dns-tcp".to_owned(), namespace.dns_tcp.as_fd()));
        }
        kept.extend(listeners.iter().map(|(name, fd)| (name.clone(), fd.as_fd())));
        kept.push(("run-lock".to_owned(), lock.as_fd()));
        if let Some(client) = &client {
            kept.push((runtime::FIRST_CLIENT.to_owned(), client.as_fd()));
        }
        kept.push((runtime::ESTATE.to_owned(), monitors.as_fd()));
        kept.push((monitor::ESTATE_KEPT.to_owned(), estate.descriptor()));
        for hold in &holds {
            kept.extend(hold.descriptor().map(|fd| (format!("{HOLD}{}", hold.name()), fd)));
        }
        let result = runtime::start(&request, netns, &kept, Some(monitor_end.as_fd()));
        drop(shared);
        if result.is_ok() {
            return Ok((network, Some(estate), result));
        }
        // It may have printed something before it was given up.
        drop(kept);
        estate.write();
        Ok((network, None, result))
    })
    .await?;
    let begun = result.map_err(|source| HostError::Container { name, source })?;
    let of_it = |text: &dyn std::fmt::Display| format!("container {}: {text}", record.name);
    warnings.extend(begun.warnings.iter().map(|text| of_it(text)));
    match connect(machine, &record, network).await {
        Ok(running) => take_in(machine, &record, running, begun.monitor, Some(link), estate),
        Err(error) => {
            // Nobody would look after it: it must not go on.
            abandon(machine, &record, begun.monitor, estate).await;
            return Err(error);
        }
    }
    machine.hear(News::Started(started(&machine.world, &record, again, offset)));
    Ok(warnings)
}

/// Where whoever asks for a container by `run` waits for its start, to have all
/// it prints and to give it input: a packet socket that listens.
pub fn client_path(world: &World, project: &str, id: &str) -> PathBuf {
    // Short, as the paths of sockets have to be.
    let short = id.get(..12).unwrap_or(id);
    world.stack_run(project).join(format!("{short}.run"))
}

/// A connection to who waits there, if anybody does.
fn first_client(world: &World, record: &ContainerRecord) -> Option<OwnedFd> {
    record.one_off.as_ref()?;
    let path = client_path(world, &record.project, &record.id);
    let address = SocketAddrUnix::new(&path).ok()?;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
    let connected = rustix::net::connect(&socket, &address);
    // One client, one start.
    let _ = remove_record(&path);
    connected.ok().map(|()| socket)
}

/// Leads names and ports to a container that has just been started.
async fn connect(
    machine: &Arc<Machine>,
    record: &ContainerRecord,
    network: Net,
) -> Result<RunningRecord, HostError> {
    let paths = machine.world.container(&machine.project, &record.id);
    let Some(running) = read_record::<RunningRecord>(&paths.running())? else {
        return Err(HostError::Interrupted {
            reason: "its running record is gone".to_owned(),
        });
    };
    let places = places(&machine.world, record)?;
    let published = machine.traffic.publish(record, &places).await?;
    write_record(&ports_path(&paths), &published)?;
    if let Net::Fresh(namespace) = network {
        machine
            .traffic
            .serve_names(record, &places, namespace.dns_udp, namespace.dns_tcp)?;
    }
    Ok(running)
}

/// Ends a container that was started and cannot be used.
async fn abandon(machine: &Arc<Machine>, record: &ContainerRecord, monitor: Process, estate: Option<Estate>) {
    // Its process 1 goes with it.
    let _ = monitor.signal(libc::SIGKILL);
    ended_process(&monitor).await;
    monitor.reap();
    if let Err(error) = clear(machine, record, estate).await {
        tracing::error!(container = record.name, %error, "its remains could not be cleared up");
    }
}

/// The layers of the images that a container mounts, by the image's id.
///
/// # Errors
/// [`HostError::NoImage`] for one that was removed since the container was made.
pub(super) fn layers_of_mounted(
    machine: &Machine,
    record: &ContainerRecord,
) -> Result<BTreeMap<String, Vec<PathBuf>>, HostError> {
    let layers = |id: &String| {
        let missing = || HostError::NoImage { image: id.clone() };
        let image = machine.images.get(id)?.ok_or_else(missing)?;
        Ok((id.clone(), image.layers))
    };
    record.images.values().map(layers).collect()
}

/// Everything of a run that can be made before its processes.
fn prepare(
    world: &World,
    record: &ContainerRecord,
    image: &Image,
    revive: runtime::Revive,
    mounted: &BTreeMap<String, Vec<PathBuf>>,
) -> Result<Prepared, HostError> {
    let paths = world.container(&record.project, &record.id);
    let lock = run_lock(&paths)?;
    create::give_volumes(world, record)?;
    let mut warnings = Vec::new();
    let mut resolved = None;
    let network = match &record.config.network_mode {
        NetworkMode::Host => Net::Host,
        NetworkMode::None => Net::Given(loopback_only()?),
        NetworkMode::Service(service) => Net::Given(namespace_of(
            world,
            record,
            &Owner::Service(service),
            "net",
            "network",
        )?),
        NetworkMode::Container(name) => Net::Given(namespace_of(
            world,
            record,
            &Owner::Container(name),
            "net",
            "network",
        )?),
        NetworkMode::Other(name) => {
            return Err(HostError::Unsupported {
                what: format!("the network of {name}"),
            });
        }
        NetworkMode::Networks => {
            let endpoints = endpoints(world, record)?;
            resolved = Some(endpoints.clone());
            let namespace = match create_namespace(world, &endpoints) {
                // After a boot the records are there and the bridges are not.
                Err(NetworkError::Missing { .. }) => {
                    for id in record.networks.values() {
                        if let Some(network) = networks::read(world, id)? {
                            let told = bridge::ensure(world, &network)?;
                            warnings.extend(told.iter().map(ToString::to_string));
                        }
                    }
                    create_namespace(world, &endpoints)?
                }
                other => other?,
            };
            Net::Fresh(namespace)
        }
    };
    std::fs::create_dir_all(&paths.run).map_err(HostError::io("create", &paths.run))?;
    write_files(world, record, &paths, resolved.as_deref())?;
    given::write(&paths, &record.given)?;
    remove_record(&health::path(&paths))?;
    let shared = Shared::of(world, record)?;
    let (request, volumes) = spec::request(world, record, image, revive, &shared, mounted)?;
    Ok(Prepared {
        request,
        network,
        lock,
        shared,
        holds: Volumes::new(world).hold_all(&volumes)?,
        warnings,
    })
}

/// What a monitor keeps the holds on volumes under, before their names.
const HOLD: &str = "volume-";

/// What connects a container to each of its networks, in the order of its
/// interfaces.
fn endpoints(world: &World, record: &ContainerRecord) -> Result<Vec<Endpoint>, HostError> {
    let mut endpoints = Vec::new();
    for key in record.config.networks_in_order() {
        let Some(id) = record.networks.get(key) else {
            continue;
        };
        let missing = || HostError::NoNetwork { name: key.to_owned() };
        let mut network = networks::read(world, id)?.ok_or_else(missing)?;
        if !network.leases.contains_key(&record.lease_key()) {
            // Whoever made it was killed before it had its addresses.
            let others = containers(world, &record.project)?;
            let fixed = create::fixed_addresses(others.iter().map(|other| &other.config));
            network = create::lease(world, record, key, fixed)?;
        }
        let attachment = record.config.networks.get(key).cloned().unwrap_or_default();
        let mac = record.config.mac_on(key);
        let endpoint = network.endpoint(&record.lease_key(), mac, attachment.gw_priority)?;
        let options = EndpointOptions::of(&attachment.driver_opts).unwrap_or_default();
        endpoints.push(Endpoint {
            interface: attachment.interface_name.clone().or(options.interface),
            sysctls: options.sysctls,
            link_local: attachment.link_local_ips.clone(),
            ..endpoint.ok_or_else(missing)?
        });
    }
    Ok(endpoints)
}

/// Brings the interfaces of a container that runs to what its record says.
///
/// # Errors
/// [`HostError`] when a network is missing or the kernel refuses; nothing is
/// done in a container that has ended.
pub(super) fn connect_networks(
    world: &World,
    record: &ContainerRecord,
    running: &RunningRecord,
) -> Result<(), HostError> {
    let endpoints = endpoints(world, record)?;
    let Liveness::Running { init: Some(init), .. } = runtime::probe(running)? else {
        return Ok(());
    };
    let path = format!("/proc/{}/ns/net", running.init.pid);
    let netns = File::open(&path).map_err(HostError::io("open", Path::new(&path)));
    // If it has ended meanwhile, the number may be another's.
    if init.has_ended() {
        return Ok(());
    }
    Ok(change_namespace(
        world,
        netns?.as_fd(),
        &record.lease_key(),
        &endpoints,
    )?)
}

/// The right to start a container, which the monitor of its last run gives back
/// when it has ended. Blocks until then, but not for long.
pub(super) fn run_lock(paths: &ContainerPaths) -> Result<Lock, HostError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = Lock::try_take(&lock_path(paths))? {
            return Ok(lock);
        }
        if Instant::now() > deadline {
            return Err(HostError::Interrupted {
                reason: "the monitor of its last run does not end".to_owned(),
            });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Namespaces of other containers that a container is put into. Held open until
/// it runs: a descriptor cannot come to stand for another process's.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pid: Option<OwnedFd>,
    ipc: Option<OwnedFd>,
    /// The mount namespace in which the shared `/dev/shm` is.
    mount: Option<OwnedFd>,
}

impl Shared {
    fn of(world: &World, record: &ContainerRecord) -> Result<Self, HostError> {
        let open = |owner: &Owner<'_>, kind: &str, what: &str| {
            namespace_of(world, record, owner, kind, what).map(Some)
        };
        let mut shared = Self::default();
        let pid = match &record.config.pid {
            Some(PidMode::Service(service)) => Some(Owner::Service(service)),
            Some(PidMode::Container(name)) => Some(Owner::Container(name)),
            Some(PidMode::Host) | None => None,
        };
        if let Some(owner) = pid {
            shared.pid = open(&owner, "pid", "process namespace")?;
        }
        let ipc = match &record.config.ipc {
            Some(IpcMode::Service(service)) => Some(Owner::Service(service)),
            Some(IpcMode::Container(name)) => Some(Owner::Container(name)),
            _ => None,
        };
        if let Some(owner) = ipc {
            shared.ipc = open(&owner, "ipc", "IPC namespace")?;
            shared.mount = open(&owner, "mnt", "/dev/shm")?;
        }
        Ok(shared)
    }

    /// Where other processes find them: PID namespace, IPC namespace, mount namespace.
    pub(super) fn paths(&self) -> [Option<PathBuf>; 3] {
        let path =
            |fd: &OwnedFd| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
        [&self.pid, &self.ipc, &self.mount].map(|fd| fd.as_ref().map(path))
    }
}

/// Whose namespace is shared.
#[derive(Debug)]
enum Owner<'a> {
    /// That of the first container of a service that runs.
    Service(&'a str),
    /// That of a container by name, of whatever stack.
    Container(&'a str),
}

/// A namespace of another container: `kind` as in `/proc/PID/ns`, `what` for
/// messages.
fn namespace_of(
    world: &World,
    record: &ContainerRecord,
    owner: &Owner<'_>,
    kind: &str,
    what: &str,
) -> Result<OwnedFd, HostError> {
    let (named, candidates) = match owner {
        Owner::Service(service) => {
            let mut all = containers(world, &record.project)?;
            all.retain(|other| other.config.name == *service && other.one_off.is_none());
            (format!("service \"{service}\""), all)
        }
        Owner::Container(name) => {
            let found = others::find(world, name)?;
            let found = found.ok_or_else(|| HostError::NoContainer {
                name: (*name).to_owned(),
            })?;
            (format!("container {name}"), vec![found])
        }
    };
    for other in candidates {
        let paths = world.container(&other.project, &other.id);
        if let Some(running) = read_record::<RunningRecord>(&paths.running())?
            && let Liveness::Running { init: Some(init), .. } = runtime::probe(&running)?
        {
            let path = format!("/proc/{}/ns/{kind}", running.init.pid);
            let opened = File::open(&path).map_err(HostError::io("open", Path::new(&path)));
            // If it has ended meanwhile, the number may be another's.
            if !init.has_ended() {
                return Ok(opened?.into());
            }
        }
    }
    Err(HostError::Dependency {
        reason: format!("{named} does not run, so its {what} cannot be shared"),
    })
}

/// Where a container is on each of its networks, in the order of its interfaces.
pub(super) fn places(world: &World, record: &ContainerRecord) -> Result<Vec<Place>, HostError> {
    let mut places = Vec::new();
    for key in record.config.networks_in_order() {
        let Some(id) = record.networks.get(key) else {
            continue;
        };
        let Some(network) = networks::read(world, id)? else {
            continue;
        };
        if let Some(lease) = network.leases.get(&record.lease_key()) {
            let aliases = record
                .config
                .networks
                .get(key)
                .map(|attachment| attachment.aliases.clone());
            places.push(Place {
                network: id.clone(),
                name: network.name.clone(),
                internal: network.internal,
                lease: *lease,
                aliases: aliases.unwrap_or_default(),
            });
        }
    }
    Ok(places)
}

/// Notes that a container runs, and waits for its end.
pub(super) fn take_in(
    machine: &Arc<Machine>,
    record: &ContainerRecord,
    running: RunningRecord,
    monitor: Process,
    link: Option<UnixStream>,
    estate: Option<Estate>,
) {
    let (end, ended) = watch::channel(false);
    let monitor = Arc::new(monitor);
    let live = Live {
        running,
        monitor: monitor.clone(),
        ended,
        link,
    };
    if live.running.fixed.cgroup.is_frozen() {
        machine.paused.send_modify(|paused| {
            paused.insert(record.id.clone());
        });
    }
    machine.live().insert(record.id.clone(), live);
    let (machine, record) = (machine.clone(), record.clone());
    tokio::spawn(async move {
        ended_process(&monitor).await;
        monitor.reap();
        let _guard = machine.lock(&record.id).await;
        bury(&machine, &record, estate).await;
        end.send_replace(true);
    });
}

/// Clears up after a run, and lets everybody know how it ended.
async fn bury(machine: &Arc<Machine>, record: &ContainerRecord, estate: Option<Estate>) {
    // At the other end somebody has stayed.
    if let Some(link) = machine.live().remove(&record.id).and_then(|live| live.link) {
        machine.stand_ins().push(link);
    }
    machine.goes_on(&record.id);
    // Its networks and ports may have changed since it was started.
    let present = machine.record(&record.id).ok().flatten();
    let code = match clear(machine, present.as_ref().unwrap_or(record), estate).await {
        Ok(exit) => exit.code,
        Err(error) => {
            tracing::error!(container = record.name, %error, "its remains could not be cleared up");
            LOST
        }
    };
    // A command may have stopped it since the record was read.
    let stopped = match machine.record(&record.id) {
        Ok(record) => record.is_none_or(|record| record.stopped),
        Err(_) => record.stopped,
    } || machine.resting().contains(&record.id);
    machine.hear(News::Exited {
        id: record.id.clone(),
        code,
        stopped,
    });
}

/// Kills what is left of a run, records how it ended if its monitor could not,
/// and removes what was made for it.
pub(super) async fn clear(
    machine: &Arc<Machine>,
    record: &ContainerRecord,
    estate: Option<Estate>,
) -> Result<ExitRecord, HostError> {
    let unpublished = machine.traffic.unpublish(record).await;
    let paths = machine.world.container(&machine.project, &record.id);
    let cgroup = spec::cgroup_of(&machine.world, record);
    let volumes = Volumes::new(&machine.world);
    let exit = blocking(move || {
        let running: Option<RunningRecord> = read_record(&paths.running())?;
        let settle = || estate.and_then(Estate::settle);
        let exit = runtime::reap_lost(running.as_ref(), &cgroup, &paths.exit(), settle)?;
        runtime::cleanup(&cgroup, &paths.running(), &paths.exit(), &paths.root())?;
        let kept = running.iter().flat_map(|running| running.fixed.kept.keys());
        for name in kept.filter_map(|name| name.strip_prefix(HOLD)) {
            volumes.try_let_go(name);
        }
        Ok(exit)
    })
    .await?;
    unpublished?;
    Ok(exit)
}

/// Resolves when a process has ended.
pub(super) async fn ended_process(process: &Process) {
    let told = async {
        // A pidfd becomes readable when its process has ended.
        let fd = readiness::watch(process.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        fd.readable().await.map(|_| ())
    };
    let told: std::io::Result<()> = told.await;
    if told.is_err() {
        // Out of descriptors, say.
        while !process.has_ended() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What is told of a container that runs; `offset` is where its run begins in the log.
pub(super) fn started(world: &World, record: &ContainerRecord, again: bool, offset: u64) -> Started {
    let log = world.container(&record.project, &record.id).log();
    Started {
        id: record.id.clone(),
        name: record.name.clone(),
        service: record.config.name.clone(),
        again,
        one_off: record.one_off.is_some(),
        restart: restart_rules(&record.config),
        tries: None,
        waiting: None,
        healthcheck: record.check.clone(),
        offset,
        log,
    }
}

/// The restart policy of a service's containers.
pub fn restart_policy(service: &Service) -> RestartPolicy {
    match service.restart {
        Restart::No => RestartPolicy::No,
        Restart::Always => RestartPolicy::Always,
        Restart::UnlessStopped => RestartPolicy::UnlessStopped,
        Restart::OnFailure { max_retries } => RestartPolicy::OnFailure { max_retries },
    }
}

/// What decides about restarts of a service's containers.
fn restart_rules(service: &Service) -> Rules {
    let deploy = service
        .deploy
        .as_ref()
        .and_then(|deploy| deploy.restart_policy.as_ref());
    Rules {
        policy: restart_policy(service),
        delay: deploy.and_then(|deploy| deploy.delay),
        max_attempts: deploy.and_then(|deploy| deploy.max_attempts),
        window: deploy.and_then(|deploy| deploy.window),
    }
}

/// How long a container's log is, in bytes.
pub(super) fn log_end(world: &World, record: &ContainerRecord) -> u64 {
    let log = world.container(&record.project, &record.id).log();
    std::fs::metadata(log).map_or(0, |log| log.len())
}
