//! Makes what a container needs before it can be started, and removes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::machine::{Machine, blocking};
use super::record::{Check, ContainerRecord, VERSION};
use super::{HostError, given, spec};
use crate::image::Image;
use crate::lifecycle::health::HealthPolicy;
use crate::network::pool::PoolRequest;
use crate::network::record::{self, LeaseRequest, NetworkRecord, NetworkSpec, Settings};
use crate::network::{NetworkError, bridge, firewall};
use crate::plan::OneOff;
use crate::project::placement::{self, Condition};
use crate::project::{BridgeOptions, GatewayMode, HealthTest, MountSource, Project, Service};
use crate::runtime;
use crate::store::{World, read_record, write_record};
use crate::volume::{Holder, Volume, Volumes};

/// Docker compose's labels begin with this.
const LABEL: &str = "com.docker.compose.";

/// Makes a network of the project.
pub(super) async fn network(
    machine: &Arc<Machine>,
    project: &Project,
    key: &str,
) -> Result<Vec<String>, HostError> {
    let network = project.networks.get(key).ok_or_else(|| HostError::NotInProject {
        what: format!("network {key}"),
    })?;
    let mut labels = network.labels.clone();
    labels.insert(format!("{LABEL}project"), project.name.clone());
    labels.insert(format!("{LABEL}network"), key.to_owned());
    let options = BridgeOptions::of(&network.driver_opts).map_err(|wrong| HostError::Plan {
        reason: format!("network {key}: {}", wrong.message),
    })?;
    let wanted = NetworkSpec {
        name: network.name.clone(),
        project: Some(project.name.clone()),
        key: key.to_owned(),
        internal: network.internal,
        enable_ipv6: network.enable_ipv6,
        pools: network
            .ipam
            .iter()
            .map(|pool| PoolRequest {
                subnet: pool.subnet.clone(),
                ip_range: pool.ip_range.clone(),
                gateway: pool.gateway,
            })
            .collect(),
        reserved: network
            .ipam
            .iter()
            .flat_map(|pool| pool.aux_addresses.clone())
            .collect(),
        bridge: options.name.clone(),
        mtu: options.mtu,
        settings: network_settings(&options, network.driver_opts.clone()),
        labels,
        config: serde_json::to_value(network).unwrap_or_default(),
    };
    let world = machine.world.clone();
    let (_, warnings) = blocking(move || Ok(bridge::create(&world, &wanted)?)).await?;
    Ok(warnings.iter().map(ToString::to_string).collect())
}

/// What the options of a bridge mean for its network.
pub(super) fn network_settings(options: &BridgeOptions, written: BTreeMap<String, String>) -> Settings {
    let [v4, v6] = options.gateway;
    Settings {
        apart: options.apart,
        no_masquerade: options.no_masquerade,
        no_address: options.inhibit_ipv4 || v4 == GatewayMode::Isolated,
        no_address6: v6 == GatewayMode::Isolated,
        open: v4 == GatewayMode::Unprotected,
        open6: v6 == GatewayMode::Unprotected,
        interface_prefix: options.interface_prefix.clone(),
        options: written,
    }
}

/// Makes a named volume of the project.
pub(super) async fn volume(
    machine: &Arc<Machine>,
    project: &Project,
    key: &str,
) -> Result<Vec<String>, HostError> {
    let volume = project.volumes.get(key).ok_or_else(|| HostError::NotInProject {
        what: format!("volume {key}"),
    })?;
    let mut labels = volume.labels.clone();
    labels.insert(format!("{LABEL}project"), project.name.clone());
    labels.insert(format!("{LABEL}volume"), key.to_owned());
    let world = machine.world.clone();
    let draft = Volume {
        name: volume.name.clone(),
        project: project.name.clone(),
        key: key.to_owned(),
        labels,
        options: volume.driver_opts.clone(),
        ..Volume::default()
    };
    blocking(move || Ok(Volumes::new(&world).create(draft)?)).await?;
    Ok(vec![])
}

/// The ids of the networks that a service is on, by their keys; those that are
/// `known` already stay as they are.
///
/// # Errors
/// [`HostError::NoNetwork`] for one that is not there.
pub(super) fn networks_of(
    world: &World,
    project: &Project,
    service: &Service,
    known: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, HostError> {
    let mut networks = BTreeMap::new();
    for key in service.networks.keys() {
        if let Some(id) = known.get(key) {
            networks.insert(key.clone(), id.clone());
            continue;
        }
        let network = project.networks.get(key).map_or(key, |network| &network.name);
        let record = record::find(world, network)?.ok_or_else(|| HostError::NoNetwork {
            name: network.clone(),
        })?;
        networks.insert(key.clone(), record.id);
    }
    Ok(networks)
}

/// The ids of the images that a service mounts, by target path.
fn mounted_images(machine: &Machine, config: &Service) -> Result<BTreeMap<String, String>, HostError> {
    let mut found = BTreeMap::new();
    for mount in &config.volumes {
        let MountSource::Image { image, .. } = &mount.source else {
            continue;
        };
        let missing = || HostError::NoImage { image: image.clone() };
        let here = machine.images.resolve(image)?.ok_or_else(missing)?;
        found.insert(mount.target.clone(), here.id);
    }
    Ok(found)
}

/// What tells a container from others of its service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) number: u32,
    pub(super) name: &'a str,
    /// The container whose anonymous volumes it takes over.
    pub(super) inherit: Option<&'a str>,
    pub(super) one_off: Option<&'a OneOff>,
}

/// Makes a container: its record, its addresses, its folders.
pub(super) async fn container(
    machine: &Arc<Machine>,
    project: &Project,
    service: &str,
    wanted: &Wanted<'_>,
) -> Result<Vec<String>, HostError> {
    let &Wanted {
        number,
        name,
        inherit,
        one_off,
    } = wanted;
    let config = project
        .services
        .get(service)
        .ok_or_else(|| HostError::NotInProject {
            what: format!("service {service}"),
        })?
        .clone();
    let image = machine
        .images
        .resolve(&config.image)?
        .ok_or_else(|| HostError::NoImage {
            image: config.image.clone(),
        })?;
    let id = match one_off {
        Some(one_off) => one_off.id.clone(),
        None => random_id()?,
    };
    let networks = networks_of(&machine.world, project, &config, &BTreeMap::new())?;
    let mut volumes = BTreeMap::new();
    for mount in &config.volumes {
        if let MountSource::Volume { volume, .. } = &mount.source {
            let name = project.volumes.get(volume).map_or(volume, |volume| &volume.name);
            volumes.insert(volume.clone(), name.clone());
        }
    }
    let targets = anonymous_targets(&config, &image);
    let inherited = match inherit {
        Some(old) if !targets.is_empty() => inherited(machine, old).await?,
        _ => BTreeMap::new(),
    };
    let mut anonymous = BTreeMap::new();
    for target in targets {
        let volume = match inherited.get(&target) {
            Some(volume) => volume.clone(),
            None => random_id()?,
        };
        anonymous.insert(target, volume);
    }
    let record = ContainerRecord {
        version: VERSION,
        id,
        name: name.to_owned(),
        project: project.name.clone(),
        number,
        image: image.id.clone(),
        command: spec::command(&config, &image),
        stop_signal: config
            .stop_signal
            .clone()
            .or_else(|| image.config.stop_signal.clone()),
        check: check(&config, Some(&image)),
        created: now(),
        networks,
        volumes,
        anonymous,
        images: mounted_images(machine, &config)?,
        given: given::of(project, &config)?,
        seccomp: seccomp_profile(project, &config)?,
        labels: labels(project, &config, number, &image.id, one_off),
        stopped: false,
        one_off: one_off.cloned(),
        config,
    };
    machine.holders().insert(record.lease_key(), record.id.clone());
    let world = machine.world.clone();
    // Addresses that others of the project ask for are not given to this one.
    let fixed = fixed_addresses(project.services.values());
    blocking(move || {
        let paths = world.container(&record.project, &record.id);
        write_record(&paths.record(), &record)?;
        given::write(&paths, &record.given)?;
        for key in record.networks.keys() {
            lease(&world, &record, key, fixed.clone())?;
        }
        give_volumes(&world, &record)
    })
    .await?;
    Ok(vec![])
}

/// The anonymous volumes of a container that is replaced, by target. The
/// container itself is gone by now.
async fn inherited(machine: &Arc<Machine>, old: &str) -> Result<BTreeMap<String, String>, HostError> {
    if let Some(record) = machine.record(old)? {
        return Ok(record.anonymous);
    }
    let (world, old) = (machine.world.clone(), old.to_owned());
    blocking(move || Ok(Volumes::new(&world).held_by(&old)?)).await
}

/// The addresses that services ask for by name.
pub(super) fn fixed_addresses<'a>(services: impl Iterator<Item = &'a Service>) -> Vec<IpAddr> {
    services
        .flat_map(|service| service.networks.values())
        .flat_map(|attachment| {
            let v4 = attachment.ipv4_address.map(IpAddr::V4);
            v4.into_iter().chain(attachment.ipv6_address.map(IpAddr::V6))
        })
        .collect()
}

/// Gives a container its addresses on one of its networks; repeating it changes
/// nothing. Those in `avoid` are only given to who asks for them.
pub(super) fn lease(
    world: &World,
    record: &ContainerRecord,
    key: &str,
    avoid: Vec<IpAddr>,
) -> Result<NetworkRecord, HostError> {
    let missing = || HostError::NoNetwork { name: key.to_owned() };
    let id = record.networks.get(key).ok_or_else(missing)?;
    let attachment = record.config.networks.get(key).cloned().unwrap_or_default();
    let request = LeaseRequest {
        key: record.lease_key(),
        address: attachment.ipv4_address,
        address6: attachment.ipv6_address,
        avoid,
    };
    match record::lease(world, id, &request) {
        Err(NetworkError::Missing { .. }) => Err(missing()),
        other => Ok(other?),
    }
}

/// Makes the anonymous volumes of a container, those that are not there yet.
pub(super) fn give_volumes(world: &World, record: &ContainerRecord) -> Result<(), HostError> {
    let store = Volumes::new(world);
    for (target, volume) in &record.anonymous {
        let holder = Holder {
            container: record.id.clone(),
            target: target.clone(),
            awaits: None,
        };
        let own = record.config.volumes.iter().find(|mount| mount.target == *target);
        let labels = own.map(|mount| mount.volume_labels.clone());
        store.give(volume, &record.project, holder, labels.unwrap_or_default())?;
    }
    Ok(())
}

/// Where a container gets a volume without a name: the service's own, and the
/// image's that nothing else is mounted on.
fn anonymous_targets(service: &Service, image: &Image) -> Vec<String> {
    let own = service
        .volumes
        .iter()
        .filter(|mount| mount.source == MountSource::Anonymous);
    let mut targets: Vec<String> = own.map(|mount| mount.target.clone()).collect();
    for target in &image.config.volumes {
        let target = target.trim_end_matches('/');
        if !target.is_empty() && !service.volumes.iter().any(|mount| mount.target == target) {
            targets.push(target.to_owned());
        }
    }
    targets
}

/// The health check of a container: the service's, completed by the image's.
pub(super) fn check(service: &Service, image: Option<&Image>) -> Option<Check> {
    let image = image.and_then(|image| image.config.healthcheck.as_ref());
    let own = service.healthcheck.clone().unwrap_or_default();
    let built_in = own.probe;
    let test = match own.test {
        _ if built_in.is_some() => vec![],
        Some(HealthTest::None) => return None,
        Some(HealthTest::Cmd(arguments)) => arguments,
        Some(HealthTest::CmdShell(line)) => shell(&line),
        None => match image.map(|check| check.test.as_slice()) {
            Some([kind, rest @ ..]) if kind == "CMD" => rest.to_vec(),
            Some([kind, line, ..]) if kind == "CMD-SHELL" => shell(line),
            _ => return None,
        },
    };
    let of = |own: Option<std::time::Duration>, image: Option<std::time::Duration>| own.or(image);
    Some(Check {
        test,
        built_in,
        restart: own.restart,
        policy: HealthPolicy::new(
            of(own.interval, image.and_then(|check| check.interval)),
            of(own.timeout, image.and_then(|check| check.timeout)),
            own.retries.or(image.and_then(|check| check.retries)),
            of(own.start_period, image.and_then(|check| check.start_period)),
            of(own.start_interval, image.and_then(|check| check.start_interval)),
        ),
    })
}

fn shell(line: &str) -> Vec<String> {
    vec!["/bin/sh".to_owned(), "-c".to_owned(), line.to_owned()]
}

/// The user's labels and docker compose's.
pub(super) fn labels(
    project: &Project,
    service: &Service,
    number: u32,
    image: &str,
    one_off: Option<&OneOff>,
) -> BTreeMap<String, String> {
    let mut labels = service.labels.clone();
    let files: Vec<String> = project
        .config_files
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    let dependencies: Vec<String> = service
        .depends_on
        .iter()
        .map(|(name, dependency)| format!("{name}:{}:{}", dependency.condition, dependency.restart))
        .collect();
    for (key, value) in [
        ("project", project.name.clone()),
        ("service", service.name.clone()),
        ("container-number", number.to_string()),
        (
            "oneoff",
            if one_off.is_some() { "True" } else { "False" }.to_owned(),
        ),
        ("config-hash", crate::project::hash(service)),
        ("image", image.to_owned()),
        ("depends_on", dependencies.join(",")),
        ("project.working_dir", project.working_dir.display().to_string()),
        ("project.config_files", files.join(",")),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        labels.insert(format!("{LABEL}{key}"), value);
    }
    if let Some(one_off) = one_off {
        labels.insert(format!("{LABEL}slug"), one_off.id.clone());
    }
    labels
}

/// Bind mounts, and volumes that are binds, whose source must be there and is not.
pub(super) fn missing_sources(project: &Project, service: &Service) -> Vec<String> {
    let mut problems = Vec::new();
    for mount in &service.volumes {
        if let MountSource::Volume { volume, .. } = &mount.source
            && let Some(options) = project.volumes.get(volume).map(|volume| &volume.driver_opts)
            && let Some(device) = options.get("device")
            && options
                .get("o")
                .is_some_and(|o| o.split(',').any(|o| matches!(o, "bind" | "rbind")))
            && !Path::new(device).exists()
        {
            problems.push(format!(
                "service \"{}\": device of volume {volume} does not exist: {device}",
                service.name
            ));
        }
        if let MountSource::Bind {
            path,
            create_host_path: false,
            ..
        } = &mount.source
            && !path.exists()
        {
            problems.push(format!(
                "service \"{}\": bind source path does not exist: {}",
                service.name,
                path.display()
            ));
        }
    }
    problems
}

/// The content of the file that a service's `seccomp=FILE` names; relative
/// paths are below the project's folder.
fn seccomp_profile(project: &Project, service: &Service) -> Result<Option<String>, HostError> {
    let Some(file) = runtime::seccomp_file(&service.security_opt).filter(|_| !service.privileged) else {
        return Ok(None);
    };
    let path = project.working_dir.join(file);
    let text = std::fs::read_to_string(&path).map_err(HostError::io("read seccomp profile", &path))?;
    Ok(Some(text))
}

/// What is wrong with the security options of a service on this machine, in words.
pub(super) fn wrong_security(project: &Project, service: &Service) -> Option<String> {
    let wrong = |text: String| Some(format!("service \"{}\": {text}", service.name));
    let settings = spec::security(service);
    let capabilities = match runtime::bounding_set(&settings) {
        Ok(capabilities) => capabilities,
        Err(error) => return wrong(error.to_string()),
    };
    match seccomp_profile(project, service) {
        Err(error) => wrong(error.to_string()),
        Ok(Some(text)) => runtime::seccomp::read_profile(&text, capabilities)
            .err()
            .and_then(|error| wrong(error.to_string())),
        Ok(None) => None,
    }
}

/// What is wrong with where a service wants to run, in words: a condition on the
/// name of the machine that does not hold of this one.
pub(super) fn wrong_place(service: &Service) -> Option<String> {
    let deploy = service.deploy.as_ref()?;
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fails = |text: &&String| match placement::condition(text) {
        Condition::Hostname { name, same } => own.trim().eq_ignore_ascii_case(&name) != same,
        _ => false,
    };
    let failed = deploy.placement.constraints.iter().find(fails)?;
    Some(format!(
        "service \"{}\": deploy.placement.constraints: {failed:?} does not hold of this machine, {}",
        service.name,
        own.trim()
    ))
}

/// Gives back the addresses of a container. Not for one of whose number there is
/// another: they are that one's too.
pub(super) fn release_leases(world: &World, record: &ContainerRecord) -> Result<(), HostError> {
    let key = record.lease_key();
    for id in record.networks.values() {
        record::release(world, id, &key)?;
    }
    Ok(())
}

/// Removes everything of a container that is not running: its cgroups, its run
/// folder, and last its durable folder, which takes the record along. Works
/// from whatever part of it is there.
pub(super) fn discard(world: &World, project: &str, id: &str) -> Result<(), HostError> {
    let paths = world.container(project, id);
    // Without a record nothing of it was ever begun.
    let (cgroup, volumes) = match read_record::<ContainerRecord>(&paths.record())? {
        Some(record) => (
            spec::cgroup_of(world, &record),
            record.volumes.into_values().collect(),
        ),
        None => (spec::cgroup(world, id, None), vec![]),
    };
    runtime::cleanup(&cgroup, &paths.running(), &paths.exit(), &paths.root())?;
    firewall::remove_published(world, id)?;
    remove_tree(&paths.run)?;
    let store = Volumes::new(world);
    for volume in &volumes {
        store.let_go(volume)?;
    }
    // Out of sight at once, however long the files take.
    let trash = world.stack(project).join("trash");
    let grave = trash.join(id);
    loop {
        match std::fs::rename(&paths.state, &grave) {
            // The folder for them has just been removed, which must not pass
            // for a container that is gone.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && paths.state.exists() => {
                std::fs::create_dir_all(&trash).map_err(HostError::io("create", &trash))?;
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(HostError::io("remove", &paths.state)(error));
            }
            _ => break,
        }
    }
    remove_tree(&grave)?;
    Ok(())
}

pub(super) fn remove_tree(path: &Path) -> Result<(), HostError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HostError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// 64 hexadecimal digits that nobody else has.
pub(super) fn random_id() -> Result<String, HostError> {
    const RANDOM: &str = "/dev/urandom";
    let mut bytes = [0_u8; 32];
    std::fs::File::open(RANDOM)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(HostError::io("read", Path::new(RANDOM)))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Nanoseconds since the epoch.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
