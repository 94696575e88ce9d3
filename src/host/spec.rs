//! Service and image to one run of the runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxDeviceCgroup, LinuxDeviceType, LinuxThrottleDevice, LinuxThrottleDeviceBuilder,
    LinuxWeightDeviceBuilder, Mount as SpecMount,
};

use super::etc::hostname;
use super::logging::log_plan;
use super::record::{ContainerRecord, containers};
use super::start::Shared;
use super::{HostError, cdi, given, others, runtimes, selinux};
use crate::image::{Image, LAYERS_LIMIT};
use crate::project::{
    BindRecursive, BlkioConfig, CgroupMode, Device, DeviceKind, DeviceRate, DeviceRule, DeviceWeight,
    IpcMode, Mount, MountSource, NetworkMode, PidMode, Service, UtsMode, VolumesOf,
};
use crate::runtime::seccomp::read_profile;
use crate::runtime::{
    self, CgroupRequest, Limits, Populate, Revive, Rootfs, RunRequest, Settings, Share, SpecError,
    bind_mount, bounding_set, default_spec, tmpfs_mount,
};
use crate::store::{ContainerPaths, World};
use crate::volume::Volumes;

/// Program and arguments: the service's, completed by the image's. An entry
/// point of the service's own takes the image's command out of use.
pub(super) fn command(service: &Service, image: &Image) -> Vec<String> {
    let entrypoint = service.entrypoint.as_ref().unwrap_or(&image.config.entrypoint);
    let arguments = match (&service.command, &service.entrypoint) {
        (Some(command), _) => command.as_slice(),
        (None, Some(_)) => &[],
        (None, None) => &image.config.cmd,
    };
    entrypoint.iter().chain(arguments).cloned().collect()
}

/// The cgroup of a container, below each hierarchy's base; with a `parent`,
/// below that, which is left when the container is gone.
pub(super) fn cgroup(world: &World, id: &str, parent: Option<&str>) -> PathBuf {
    let parent = parent.unwrap_or_default().trim_start_matches('/');
    Path::new(parent)
        .join(format!("rcompose-{}", world.id()))
        .join(id)
}

/// The cgroup of a container that has a record.
pub(super) fn cgroup_of(world: &World, record: &ContainerRecord) -> PathBuf {
    cgroup(world, &record.id, record.config.cgroup_parent.as_deref())
}

/// The files made for a container, which it sees in `/etc`.
pub(super) const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// One run of a container, and the volumes that it uses.
pub(super) fn request(
    world: &World,
    record: &ContainerRecord,
    image: &Image,
    revive: Revive,
    shared: &Shared,
    mounted: &BTreeMap<String, Vec<PathBuf>>,
) -> Result<(RunRequest, BTreeSet<String>), HostError> {
    let service = &record.config;
    let paths = world.container(&record.project, &record.id);
    let mut mounts = Mounts {
        world,
        list: vec![],
        populate: vec![],
        confined: BTreeMap::new(),
        layered: BTreeMap::new(),
        mounted,
        volumes: BTreeSet::new(),
    };
    for name in FILES {
        mounts.list.push(bind_mount(
            &paths.run.join(name),
            &format!("/etc/{name}"),
            &["rprivate"],
        ));
    }
    mounts.take_over(record, &mut BTreeSet::new(), false)?;
    mounts.all_of(record, false)?;
    for (source, target) in given::mounts(&paths, &record.given) {
        mounts
            .list
            .push(bind_mount(&source, &target, &["ro", "rprivate"]));
    }
    let user = service
        .user
        .clone()
        .or_else(|| Some(image.config.user.clone()).filter(|user| !user.is_empty()));
    let on_host = service.uts == Some(UtsMode::Host);
    let [pid, ipc, shm_of] = shared.paths();
    let mut settings = Settings {
        args: record.command.clone(),
        env: environment(service, image),
        cwd: service
            .working_dir
            .clone()
            .unwrap_or_else(|| image.config.working_dir.clone()),
        hostname: (!on_host).then(|| hostname(world, record)).transpose()?,
        domainname: service.domainname.clone().filter(|_| !on_host),
        tty: service.tty,
        ulimits: ulimits(service),
        sysctls: service.sysctls.clone(),
        resources: limits(service)?,
        devices: devices(service),
        device_rules: service.device_cgroup_rules.iter().map(device_rule).collect(),
        mounts: mounts.list,
        shm_size: service.shm_size,
        host_network: service.network_mode == NetworkMode::Host,
        pid: match service.pid {
            Some(PidMode::Host) => Share::Host,
            _ => pid.map_or(Share::Own, Share::Joined),
        },
        ipc: match service.ipc {
            Some(IpcMode::Host) => Share::Host,
            _ => ipc.map_or(Share::Own, Share::Joined),
        },
        no_shm: service.ipc == Some(IpcMode::None),
        host_uts: on_host,
        host_cgroup: service.cgroup == Some(CgroupMode::Host),
        oom_score_adj: service.oom_score_adj,
        annotations: service.annotations.clone(),
        ..security(service)
    };
    let mut group_add = service.group_add.clone();
    let hooks = cdi::apply(service, &mut settings, &mut group_add)?;
    let wrong = |error: SpecError| HostError::Container {
        name: record.name.clone(),
        source: error.into(),
    };
    if let Some(profile) = &record.seccomp {
        let capabilities = bounding_set(&settings).map_err(wrong)?;
        let profile = read_profile(profile, capabilities).map_err(|error| wrong(error.into()))?;
        settings.seccomp = Some(profile);
    }
    let (mut spec, seccomp) = default_spec(&settings).map_err(wrong)?;
    spec.set_hooks(hooks);
    let request = RunRequest {
        id: record.id.clone(),
        spec,
        rootfs: rootfs(world, &paths, image, service)?,
        populate: mounts.populate,
        confined: mounts.confined,
        layered: mounts.layered,
        shm_of,
        user,
        group_add,
        seccomp,
        cgroup: CgroupRequest {
            path: cgroup_of(world, record),
            strict: false,
        },
        init: service.init,
        stdin_open: service.stdin_open,
        log: paths.log(),
        log_plan: log_plan(record, image)?,
        exit_record: paths.exit(),
        running_record: paths.running(),
        foreign: runtimes::of(service)?.map(|(program, arguments)| runtime::Foreign {
            program,
            arguments,
            folder: runtime::Foreign::folder(&paths.running()),
        }),
        revive: Some(revive),
    };
    Ok((request, mounts.volumes))
}

fn rootfs(
    world: &World,
    paths: &ContainerPaths,
    image: &Image,
    service: &Service,
) -> Result<Rootfs, HostError> {
    let mut layers = image.layers.clone();
    // The most that the kernel takes is more to an image.
    if layers.len() < LAYERS_LIMIT {
        layers.push(mark(world)?);
    }
    Ok(Rootfs::Overlay {
        layers,
        upper: paths.state.join("upper"),
        work: paths.state.join("work"),
        mountpoint: paths.root(),
        readonly: service.read_only,
    })
}

/// A layer with nothing but `/.dockerenv`, an empty file by which scripts know that
/// they are in a container. Below all others it is no part of what a container has
/// changed, nor of its image.
fn mark(world: &World) -> Result<PathBuf, HostError> {
    let folder = world.mark();
    let file = folder.join(".dockerenv");
    if !file.exists() {
        // As Docker has it; whoever is first makes it.
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&file)?
                .set_permissions(fs::Permissions::from_mode(0o755))
        };
        make().map_err(HostError::io("make", &file))?;
    }
    Ok(folder)
}

/// `NAME=value`: the image's, then the service's.
fn environment(service: &Service, image: &Image) -> Vec<String> {
    let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
    let of_image = image
        .config
        .env
        .iter()
        .filter(|entry| !service.environment.contains_key(&name(entry)));
    let own = service
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    of_image.cloned().chain(own).collect()
}

/// What decides about the rights of a service's containers, without the profile
/// of system calls.
pub(super) fn security(service: &Service) -> Settings {
    Settings {
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        privileged: service.privileged,
        security_opt: service.security_opt.clone(),
        ..Settings::default()
    }
}

/// The devices of the host that a service asks for.
fn devices(service: &Service) -> Vec<runtime::Device> {
    let device = |device: &Device| match device {
        Device::File {
            source,
            target,
            permissions,
        } => Some(runtime::Device {
            host: source.clone(),
            container: target.clone(),
            access: permissions.clone(),
        }),
        // Those have edits of their own.
        Device::Cdi(_) => None,
    };
    service.devices.iter().filter_map(device).collect()
}

fn device_rule(rule: &DeviceRule) -> LinuxDeviceCgroup {
    let mut made = LinuxDeviceCgroup::default();
    made.set_allow(true);
    made.set_typ(Some(match rule.kind {
        DeviceKind::All => LinuxDeviceType::A,
        DeviceKind::Block => LinuxDeviceType::B,
        DeviceKind::Character => LinuxDeviceType::C,
    }));
    made.set_major(rule.major.map(i64::from));
    made.set_minor(rule.minor.map(i64::from));
    made.set_access(Some(rule.permissions.clone()));
    made
}

/// Weights and bounds of block devices, which the kernel knows by number.
fn block_io(config: &BlkioConfig) -> Result<LinuxBlockIo, HostError> {
    let number = |path: &Path| -> Result<(i64, i64), HostError> {
        let metadata = std::fs::metadata(path).map_err(HostError::io("look at block device", path))?;
        if !metadata.file_type().is_block_device() {
            let error = std::io::Error::other("not a block device");
            return Err(HostError::io("limit", path)(error));
        }
        let number = metadata.rdev();
        Ok((rustix::fs::major(number).into(), rustix::fs::minor(number).into()))
    };
    let odd = |error: oci_spec::OciSpecError| HostError::Interrupted {
        reason: error.to_string(),
    };
    let rates = |list: &[DeviceRate]| -> Result<Option<Vec<LinuxThrottleDevice>>, HostError> {
        let rate = |rate: &DeviceRate| {
            let (major, minor) = number(&rate.path)?;
            LinuxThrottleDeviceBuilder::default()
                .major(major)
                .minor(minor)
                .rate(rate.rate)
                .build()
                .map_err(odd)
        };
        let made: Result<Vec<_>, HostError> = list.iter().map(rate).collect();
        Ok(Some(made?).filter(|list| !list.is_empty()))
    };
    let weight = |weight: &DeviceWeight| {
        let (major, minor) = number(&weight.path)?;
        LinuxWeightDeviceBuilder::default()
            .major(major)
            .minor(minor)
            .weight(weight.weight)
            .build()
            .map_err(odd)
    };
    let weights: Result<Vec<_>, HostError> = config.weight_device.iter().map(weight).collect();
    let mut made = LinuxBlockIo::default();
    made.set_weight(config.weight);
    made.set_weight_device(Some(weights?).filter(|list| !list.is_empty()));
    made.set_throttle_read_bps_device(rates(&config.device_read_bps)?);
    made.set_throttle_read_iops_device(rates(&config.device_read_iops)?);
    made.set_throttle_write_bps_device(rates(&config.device_write_bps)?);
    made.set_throttle_write_iops_device(rates(&config.device_write_iops)?);
    Ok(made)
}

/// The limits of a service.
///
/// # Errors
/// [`HostError::Io`] for a block device that is not there or is none.
pub(super) fn limits(service: &Service) -> Result<Limits, HostError> {
    let resources = service.resources.clone();
    Ok(Limits {
        cpu_quota: resources.cpu_quota,
        cpu_period: resources.cpu_period,
        cpu_rt_runtime: resources.cpu_rt_runtime,
        cpu_rt_period: resources.cpu_rt_period,
        memory_swappiness: resources.memory_swappiness,
        oom_kill_disable: resources.oom_kill_disable,
        block_io: service.blkio_config.as_ref().map(block_io).transpose()?,
        memory: resources.memory,
        memory_reservation: resources.memory_reservation,
        memory_swap: resources.memory_swap,
        cpus_milli: resources.cpus_milli,
        cpu_shares: resources.cpu_shares,
        cpuset: resources.cpuset,
        pids: resources.pids,
    })
}

/// The soft and hard limits of each process of a service, by their names.
pub(super) fn ulimits(service: &Service) -> BTreeMap<String, (i64, i64)> {
    let limits = service.ulimits.iter();
    limits
        .map(|(name, limit)| (name.clone(), (limit.soft, limit.hard)))
        .collect()
}

struct Mounts<'a> {
    world: &'a World,
    list: Vec<SpecMount>,
    populate: Vec<Populate>,
    confined: BTreeMap<PathBuf, PathBuf>,
    layered: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// The layers of images that are mounted, by the image's id.
    mounted: &'a BTreeMap<String, Vec<PathBuf>>,
    /// The volumes, by name.
    volumes: BTreeSet<String>,
}

impl Mounts<'_> {
    /// What a container mounts itself.
    fn all_of(&mut self, record: &ContainerRecord, read_only: bool) -> Result<(), HostError> {
        for mount in &record.config.volumes {
            self.add(record, mount, read_only)?;
        }
        for (target, volume) in &record.anonymous {
            let own = record.config.volumes.iter().find(|mount| mount.target == *target);
            let copy = own.is_none_or(|mount| !mount.volume_nocopy);
            let read_only = read_only || own.is_some_and(|mount| mount.read_only);
            self.volume(target, volume, None, copy, read_only)?;
        }
        Ok(())
    }

    /// The mounts of the services and containers in `volumes_from`, and of those that they take
    /// over themselves. What the container mounts on the same place wins, and
    /// what is named later.
    fn take_over(
        &mut self,
        record: &ContainerRecord,
        seen: &mut BTreeSet<String>,
        read_only: bool,
    ) -> Result<(), HostError> {
        for from in &record.config.volumes_from {
            let other = match &from.source {
                VolumesOf::Service(name) => {
                    if !seen.insert(format!("{}/{name}", record.project)) {
                        continue;
                    }
                    let mut all = containers(self.world, &record.project)?.into_iter();
                    let of_it =
                        |other: &ContainerRecord| other.config.name == *name && other.one_off.is_none();
                    all.find(of_it).ok_or_else(|| HostError::Dependency {
                        reason: format!(
                            "service \"{name}\" has no container whose volumes could be taken over"
                        ),
                    })?
                }
                VolumesOf::Container(name) => {
                    let found = others::find(self.world, name)?;
                    let other = found.ok_or_else(|| HostError::NoContainer { name: name.clone() })?;
                    if !seen.insert(other.id.clone()) {
                        continue;
                    }
                    other
                }
            };
            let read_only = read_only || from.read_only;
            self.take_over(&other, seen, read_only)?;
            self.all_of(&other, read_only)?;
        }
        Ok(())
    }

    /// Makes room: a later mount on the same place takes the place of this one.
    fn replace(&mut self, target: &str) {
        let target = Path::new(target);
        self.list.retain(|mount| mount.destination() != target);
        self.populate.retain(|populate| populate.destination != target);
        self.confined.remove(target);
        self.layered.remove(target);
    }

    fn add(&mut self, record: &ContainerRecord, mount: &Mount, read_only: bool) -> Result<(), HostError> {
        let read_only = read_only || mount.read_only;
        let target = mount.target.as_str();
        match &mount.source {
            MountSource::Bind {
                path,
                create_host_path,
                propagation,
                recursive,
                selinux,
            } => {
                if *create_host_path && !path.exists() {
                    std::fs::create_dir_all(path).map_err(HostError::io("create bind source", path))?;
                }
                let mut options = vec![propagation.unwrap_or_default().as_str()];
                if read_only {
                    options.push(match recursive {
                        BindRecursive::Enabled | BindRecursive::Readonly => "rro",
                        BindRecursive::Disabled | BindRecursive::Writable => "ro",
                    });
                }
                if selinux.is_some() {
                    selinux::relabel(path).map_err(HostError::io("set the SELinux label of", path))?;
                }
                self.replace(target);
                let mut bind = bind_mount(path, target, &options);
                if *recursive == BindRecursive::Disabled
                    && let Some(first) = bind.options_mut().as_mut().and_then(|list| list.first_mut())
                {
                    "bind".clone_into(first);
                }
                self.list.push(bind);
            }
            MountSource::Volume {
                volume,
                nocopy,
                subpath,
            } => {
                let name = record.volumes.get(volume).unwrap_or(volume).clone();
                self.volume(target, &name, subpath.as_deref(), !nocopy, read_only)?;
            }
            // By the record: these have names there.
            MountSource::Anonymous => {}
            MountSource::Image { image, subpath } => {
                let missing = || HostError::NoImage { image: image.clone() };
                let id = record.images.get(target).ok_or_else(missing)?;
                let layers = self.mounted.get(id).ok_or_else(missing)?.clone();
                self.replace(target);
                let inside = Path::new("/").join(subpath.as_deref().unwrap_or_default());
                self.list.push(bind_mount(&inside, target, &["ro", "rprivate"]));
                self.layered.insert(target.into(), layers);
            }
            MountSource::NamedPipe { .. } | MountSource::Cluster { .. } => {
                return Err(HostError::Unsupported {
                    what: format!("the kind of mount at {target}"),
                });
            }
            MountSource::Tmpfs { size, mode, options } => {
                let mut all = options.clone();
                all.extend(size.map(|size| format!("size={size}")));
                all.extend(mode.map(|mode| format!("mode={mode:o}")));
                if read_only {
                    all.push("ro".to_owned());
                }
                let all: Vec<&str> = all.iter().map(String::as_str).collect();
                self.replace(target);
                self.list.push(tmpfs_mount(target, &all));
            }
        }
        Ok(())
    }

    fn volume(
        &mut self,
        target: &str,
        name: &str,
        subpath: Option<&str>,
        copy: bool,
        read_only: bool,
    ) -> Result<(), HostError> {
        self.replace(target);
        self.volumes.insert(name.to_owned());
        let volumes = Volumes::new(self.world);
        let data = volumes.data_dir(name)?;
        let mut options = vec!["rprivate"];
        if read_only {
            options.push("ro");
        }
        match subpath {
            Some(subpath) => {
                self.list.push(bind_mount(Path::new(subpath), target, &options));
                self.confined.insert(target.into(), data);
            }
            None => {
                self.list.push(bind_mount(&data, target, &options));
                if copy {
                    self.populate.push(Populate {
                        destination: target.into(),
                        source: data,
                        marker: volumes.populated_marker(name)?,
                    });
                }
            }
        }
        Ok(())
    }
}
