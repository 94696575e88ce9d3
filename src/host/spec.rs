//! Service and image to one run of the runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount as SpecMount;

use super::record::ContainerRecord;
use super::{HostError, given};
use crate::image::Image;
use crate::project::{Mount, MountSource, NetworkMode, Service};
use crate::runtime::{
    CgroupRequest, Limits, Populate, Revive, Rootfs, RunRequest, Settings, bind_mount, default_spec,
    tmpfs_mount,
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

/// The cgroup of a container, below each hierarchy's base.
pub(super) fn cgroup(world: &World, id: &str) -> PathBuf {
    PathBuf::from(format!("rcompose-{}", world.id())).join(id)
}

/// The files made for a container, which it sees in `/etc`.
pub(super) const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// One run of a container.
pub(super) fn request(
    world: &World,
    record: &ContainerRecord,
    image: &Image,
    revive: Revive,
) -> Result<RunRequest, HostError> {
    let service = &record.config;
    let paths = world.container(&record.project, &record.id);
    let mut mounts = Mounts {
        world,
        record,
        list: vec![],
        populate: vec![],
        confined: BTreeMap::new(),
    };
    if service.network_mode != NetworkMode::Host {
        for name in FILES {
            mounts.list.push(bind_mount(
                &paths.run.join(name),
                &format!("/etc/{name}"),
                &["rprivate"],
            ));
        }
    }
    for mount in &service.volumes {
        mounts.add(mount)?;
    }
    for (target, volume) in &record.anonymous {
        mounts.volume(target, volume, None, true, false)?;
    }
    for (source, target) in given::mounts(&paths, &record.given) {
        mounts
            .list
            .push(bind_mount(&source, &target, &["ro", "rprivate"]));
    }
    let user = service
        .user
        .clone()
        .or_else(|| Some(image.config.user.clone()).filter(|user| !user.is_empty()));
    let settings = Settings {
        args: record.command.clone(),
        env: environment(service, image),
        cwd: service
            .working_dir
            .clone()
            .unwrap_or_else(|| image.config.working_dir.clone()),
        hostname: Some(record.hostname().to_owned()),
        domainname: service.domainname.clone(),
        cap_add: service.cap_add.clone(),
        cap_drop: service.cap_drop.clone(),
        privileged: service.privileged,
        tty: service.tty,
        ulimits: service
            .ulimits
            .iter()
            .map(|(name, limit)| (name.clone(), (limit.soft, limit.hard)))
            .collect(),
        sysctls: service.sysctls.clone(),
        resources: limits(service),
        security_opt: service.security_opt.clone(),
        mounts: mounts.list,
        shm_size: service.shm_size,
        host_network: service.network_mode == NetworkMode::Host,
        ..Settings::default()
    };
    let (spec, seccomp) = default_spec(&settings).map_err(|error| HostError::Container {
        name: record.name.clone(),
        source: error.into(),
    })?;
    Ok(RunRequest {
        id: record.id.clone(),
        spec,
        rootfs: rootfs(&paths, image, service),
        populate: mounts.populate,
        confined: mounts.confined,
        user,
        group_add: service.group_add.clone(),
        seccomp,
        cgroup: CgroupRequest {
            path: cgroup(world, &record.id),
            strict: false,
        },
        init: service.init,
        stdin_open: service.stdin_open,
        log: paths.log(),
        exit_record: paths.exit(),
        running_record: paths.running(),
        revive: Some(revive),
    })
}

fn rootfs(paths: &ContainerPaths, image: &Image, service: &Service) -> Rootfs {
    Rootfs::Overlay {
        layers: image.layers.clone(),
        upper: paths.state.join("upper"),
        work: paths.state.join("work"),
        mountpoint: paths.root(),
        readonly: service.read_only,
    }
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

/// The limits of a service.
pub(super) fn limits(service: &Service) -> Limits {
    let resources = service.resources.clone();
    Limits {
        memory: resources.memory,
        memory_reservation: resources.memory_reservation,
        memory_swap: resources.memory_swap,
        cpus_milli: resources.cpus_milli,
        cpu_shares: resources.cpu_shares,
        cpuset: resources.cpuset,
        pids: resources.pids,
    }
}

struct Mounts<'a> {
    world: &'a World,
    record: &'a ContainerRecord,
    list: Vec<SpecMount>,
    populate: Vec<Populate>,
    confined: BTreeMap<PathBuf, PathBuf>,
}

impl Mounts<'_> {
    fn add(&mut self, mount: &Mount) -> Result<(), HostError> {
        let target = mount.target.as_str();
        match &mount.source {
            MountSource::Bind {
                path,
                create_host_path,
                propagation,
                ..
            } => {
                if *create_host_path && !path.exists() {
                    std::fs::create_dir_all(path).map_err(HostError::io("create bind source", path))?;
                }
                let mut options = vec![propagation.unwrap_or_default().as_str()];
                if mount.read_only {
                    options.push("ro");
                }
                self.list.push(bind_mount(path, target, &options));
            }
            MountSource::Volume {
                volume,
                nocopy,
                subpath,
            } => {
                let name = self.record.volumes.get(volume).unwrap_or(volume).clone();
                self.volume(target, &name, subpath.as_deref(), !nocopy, mount.read_only)?;
            }
            // By the record: these have names there.
            MountSource::Anonymous => {}
            MountSource::Image { .. } | MountSource::NamedPipe { .. } | MountSource::Cluster { .. } => {
                return Err(HostError::Unsupported {
                    what: format!("the kind of mount at {target}"),
                });
            }
            MountSource::Tmpfs { size, mode, options } => {
                let mut all = options.clone();
                all.extend(size.map(|size| format!("size={size}")));
                all.extend(mode.map(|mode| format!("mode={mode:o}")));
                if mount.read_only {
                    all.push("ro".to_owned());
                }
                let all: Vec<&str> = all.iter().map(String::as_str).collect();
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
