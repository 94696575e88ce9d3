//! A request, checked and translated into what the init stage does: all that
//! can be wrong with a spec is found here, before any process exists.

mod mounts;
mod namespaces;
mod process;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, LinuxDeviceType, Spec, State};
use serde::{Deserialize, Serialize};

pub(crate) use self::process::{plan as process_plan, processors, resource_limit};
use super::cgroup::View;
use super::request::{Populate, Rootfs, RunRequest};
use super::seccomp::SeccompPolicy;
use super::spec::{SpecError, check_sysctl};
use crate::sys::clone::NEWTIME;

/// What the init stage does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Blueprint {
    pub(crate) rootfs: Rootfs,
    pub(crate) populate: Vec<Populate>,
    pub(crate) namespaces: Namespaces,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) mounts: Vec<MountStep>,
    pub(crate) cgroups: View,
    pub(crate) devices: Vec<DeviceNode>,
    pub(crate) masked: Vec<String>,
    pub(crate) readonly: Vec<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) process: ProcessPlan,
    pub(crate) init: bool,
    /// What only callers of the OCI command line ask for.
    pub(crate) bundle: Option<BundlePlan>,
    /// Propagation of the root mount: `MS_*`, and whether for those below too.
    pub(crate) propagation: Option<(u64, bool)>,
    /// The mount namespace that `/dev/shm` is taken from.
    pub(crate) shm_of: Option<PathBuf>,
}

/// How a container of the OCI command line differs from one of a stack: nobody
/// stays beside it, and it waits between `create` and `start`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BundlePlan {
    /// The listening socket on which `start` is waited for.
    pub(crate) wait: Option<i32>,
    /// The launcher has hooks to run before the root is changed.
    pub(crate) runtime_hooks: bool,
    /// `createContainer` hooks.
    pub(crate) create_container: Vec<Hook>,
    /// `startContainer` hooks.
    pub(crate) start_container: Vec<Hook>,
    /// The state for hooks and notification listeners; status and pid change.
    pub(crate) state: State,
    /// The root is changed with chroot(2) instead of pivot_root(2).
    pub(crate) no_pivot: bool,
    /// Mounts opened by the launcher: index of the step to descriptor.
    pub(crate) trees: Vec<(usize, i32)>,
    /// Devices opened by the launcher, where no node can be made: path in the
    /// container to descriptor.
    pub(crate) device_trees: Vec<(PathBuf, i32)>,
    /// The first descriptors from 3 on are the program's.
    pub(crate) preserved: u32,
    /// It is of a stack: its monitor stays beside it.
    pub(crate) monitored: bool,
}

/// Which namespaces are made and entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` of those made with the process.
    pub(crate) clone: i32,
    /// A cgroup namespace, made after the cgroup is joined.
    pub(crate) cgroup: bool,
    /// Those entered by path: `CLONE_NEW*` and path.
    pub(crate) join: Vec<(i32, PathBuf)>,
    /// Those that only new processes are in, so that they are entered before
    /// the process is made: pid and user namespaces.
    pub(crate) join_first: Vec<(i32, PathBuf)>,
    /// The ids of a fresh user namespace.
    pub(crate) mappings: Option<Mappings>,
    /// A fresh time namespace, and the clocks that are ahead in it: name (of
    /// `/proc/PID/timens_offsets`), seconds, nanoseconds.
    pub(crate) time: Option<Vec<(String, i64, u32)>>,
    /// The network namespace is fresh: its loopback interface is down.
    pub(crate) fresh_network: bool,
    /// The container is in the mount namespace of the host, with a root of its own.
    pub(crate) host_mounts: bool,
}

/// Which ids of a user namespace are which outside: inside, outside, length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mappings {
    pub(crate) uid: Vec<(u32, u32, u32)>,
    pub(crate) gid: Vec<(u32, u32, u32)>,
}

impl BundlePlan {
    /// The hooks of a container of a stack, whose monitor stays beside it.
    fn of_stack(request: &RunRequest, hooks: &oci_spec::runtime::Hooks) -> Self {
        let list = |hooks: &Option<Vec<Hook>>| hooks.clone().unwrap_or_default();
        let before = [hooks.prestart(), hooks.create_runtime()];
        Self {
            runtime_hooks: before
                .iter()
                .any(|list| list.as_ref().is_some_and(|list| !list.is_empty())),
            create_container: list(hooks.create_container()),
            start_container: list(hooks.start_container()),
            state: stack_state(request),
            monitored: true,
            ..Self::default()
        }
    }
}

/// The state of a container of a stack, as its hooks see it. Its bundle is the
/// folder that its root is mounted in.
pub(crate) fn stack_state(request: &RunRequest) -> State {
    let place = match &request.rootfs {
        Rootfs::Overlay { mountpoint, .. } => mountpoint.parent().unwrap_or(mountpoint),
        Rootfs::Directory { path, .. } => path,
    };
    let mut state = State::default();
    state.set_version(request.spec.version().clone());
    state.set_id(request.id.clone());
    state.set_status(oci_spec::runtime::ContainerState::Creating);
    state.set_bundle(place.to_owned());
    state.set_annotations(request.spec.annotations().clone());
    state
}

impl Blueprint {
    /// Whether the init stage may be a mere clone of whoever launches it: nothing
    /// of the container is near it until the program runs, it does not stay, and
    /// it enters its namespaces as they are. `calls` is whether the filter lets
    /// through what a stub does.
    pub(crate) fn is_alone(&self, calls: bool) -> bool {
        let namespaces = &self.namespaces;
        let hooks = self.bundle.as_ref().is_some_and(|bundle| {
            bundle.runtime_hooks || !bundle.create_container.is_empty() || !bundle.start_container.is_empty()
        });
        let waits = self.bundle.as_ref().is_some_and(|bundle| bundle.wait.is_some());
        let own = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        let fresh = namespaces.clone & own == own && namespaces.join_first.is_empty();
        let plain = namespaces.mappings.is_none() && namespaces.time.is_none();
        calls && fresh && plain && !self.init && !hooks && !waits && self.process.listener.is_none()
    }
}

impl Blueprint {
    /// Mounts as callers of the OCI command line mean them: what they do not say of a
    /// bind mount is cleared, and a source in the container's root, where a mount of
    /// the container itself comes before, is that mount.
    pub(crate) fn mount_for_callers(&mut self) {
        mounts::imply(&mut self.mounts, self.namespaces.has_user());
        let root = self.rootfs.place();
        let real = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
        mounts::look_inside(&mut self.mounts, &[root, &real]);
    }
}

impl Namespaces {
    /// Whether the container is in a user namespace of its own.
    pub(crate) fn has_user(&self) -> bool {
        self.mappings.is_some()
            || self
                .join_first
                .iter()
                .any(|(kind, _)| *kind == libc::CLONE_NEWUSER)
    }

    /// `CLONE_NEW*` of all that differ from the host's: what exec enters.
    pub(crate) fn all(&self, given_network: bool) -> i32 {
        let joined = (self.join.iter().chain(&self.join_first)).fold(0, |all, (kind, _)| all | kind);
        let time = if self.time.is_some() { NEWTIME } else { 0 };
        let network = if given_network { libc::CLONE_NEWNET } else { 0 };
        let cgroup = if self.cgroup { libc::CLONE_NEWCGROUP } else { 0 };
        self.clone | joined | network | cgroup | time
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountStep {
    /// Absolute path in the container, without `.` and `..`.
    pub(crate) target: PathBuf,
    pub(crate) source: MountSource,
    pub(crate) attributes: MountAttributes,
    /// A tmpfs that first gets what is below it.
    pub(crate) copy_up: bool,
    /// A link at the end of `target` is not followed.
    pub(crate) on_link: bool,
    /// The ids are mapped, for those below too when the flag is set; without
    /// mappings as in the container's user namespace.
    pub(crate) mapped: Option<(Option<Mappings>, bool)>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MountSource {
    /// A path of the host.
    Bind {
        path: PathBuf,
        /// What is mounted below it, too.
        recursive: bool,
        /// `path` is resolved below this folder and cannot leave it.
        confined: Option<PathBuf>,
        /// A link at the end of `path` is not followed.
        itself: bool,
    },
    /// A path of the container, as the mounts before leave it.
    Inside {
        path: PathBuf,
        /// What is mounted below it, too.
        recursive: bool,
    },
    /// A symbolic link is made, nothing is mounted.
    Link(PathBuf),
    /// A file system.
    FileSystem {
        kind: String,
        source: String,
        options: Vec<(String, Option<String>)>,
    },
    /// Folders together, topmost first, read-only.
    Layers {
        layers: Vec<PathBuf>,
        /// What of them, without a leading `/`; everything when it is empty.
        inside: PathBuf,
    },
    /// The container's view of the cgroup hierarchies.
    Cgroup,
    /// Only the attributes of what is mounted there change.
    Remount,
}

/// Attributes as mount_setattr(2) takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountAttributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// The same for everything mounted below it.
    pub(crate) set_below: u64,
    pub(crate) clear_below: u64,
    /// Cleared too where that is allowed: what a source has and nobody has named.
    #[serde(default)]
    pub(crate) implied: u64,
    /// `MS_*`, and whether for everything below too.
    pub(crate) propagation: u64,
    pub(crate) propagation_below: bool,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
    pub(crate) path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub(crate) kind: u32,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What a process in the container is: shared by its first one and by exec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessPlan {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
    /// It has to be there: it is not made.
    pub(crate) cwd_exists: bool,
    /// `user[:group]`, looked up in the container; the numbers below otherwise.
    pub(crate) user: Option<String>,
    pub(crate) group_add: Vec<String>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) umask: Option<u32>,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) no_new_privileges: bool,
    pub(crate) limits: Vec<ResourceLimit>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) terminal: bool,
    /// Rows and columns.
    pub(crate) size: Option<(u16, u16)>,
    /// User and groups are exactly the numbers: nothing is looked up or added.
    pub(crate) exact: bool,
    /// Flags of seccomp(2) for the system call filter.
    pub(crate) filter_flags: u64,
    /// Who is given the descriptor of notifications.
    pub(crate) listener: Option<Listener>,
    pub(crate) schedule: Option<SchedulePlan>,
    /// Class and priority of ioprio_set(2).
    pub(crate) io_priority: Option<(u32, u32)>,
    /// The argument of personality(2).
    pub(crate) personality: Option<u32>,
    /// Mode (with flags) and nodes of set_mempolicy(2).
    pub(crate) memory_policy: Option<(i32, Vec<u32>)>,
    /// Processors of a further process before and after it joins the cgroup.
    pub(crate) affinity: (Vec<u32>, Vec<u32>),
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Option<String>,
    /// It keeps the session keyring of its caller.
    pub(crate) keep_keyring: bool,
    /// It has our groups, whatever is said of its own.
    #[serde(default)]
    pub(crate) keep_groups: bool,
    /// Its terminal passes on the ends of lines as they are: whoever shows them has
    /// a terminal that sees to them.
    #[serde(default)]
    pub(crate) lines_as_written: bool,
}

/// Who is told about system calls with the action `SCMP_ACT_NOTIFY`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listener {
    /// The socket.
    pub(crate) path: PathBuf,
    /// Passed on.
    pub(crate) metadata: String,
}

/// The argument of sched_setattr(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchedulePlan {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Capability sets as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilityPlan {
    pub(crate) bounding: u64,
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
    pub(crate) ambient: u64,
}

/// A resource limit by its `RLIMIT_*` number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResourceLimit {
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Blueprint {
    /// Checks and translates a request. What the container sees of its cgroup
    /// is not known yet.
    pub(crate) fn new(request: &RunRequest, given_network: bool) -> Result<Self, SpecError> {
        let spec = &request.spec;
        let mut process = process::plan(spec.process().as_ref().ok_or(SpecError::Missing("process"))?)?;
        process.user.clone_from(&request.user);
        process.group_add.clone_from(&request.group_add);
        let blueprint = Self::of_spec(spec, &request.rootfs, process, &request.confined, given_network)?;
        if spec
            .linux()
            .as_ref()
            .is_some_and(|linux| linux.net_devices().as_ref().is_some_and(|all| !all.is_empty()))
        {
            return Err(SpecError::Unsupported("linux.netDevices in a stack".into()));
        }
        if blueprint.namespaces.has_user() || blueprint.namespaces.clone & libc::CLONE_NEWNS == 0 {
            return Err(SpecError::Unsupported(
                "a user namespace, or a mount namespace by path, in a stack".into(),
            ));
        }
        if blueprint.mounts.iter().any(|mount| mount.mapped.is_some()) {
            return Err(SpecError::Unsupported("an idmapped mount in a stack".into()));
        }
        let root = blueprint
            .mounts
            .iter()
            .find(|mount| mount.target == Path::new("/"));
        if let Some(mount) = root {
            return Err(SpecError::Mount {
                target: mount.target.clone(),
                reason: "the root cannot be mounted over".into(),
            });
        }
        for populate in &request.populate {
            clean(&populate.destination)?;
        }
        let mut blueprint = blueprint;
        for step in &mut blueprint.mounts {
            if let (Some(layers), MountSource::Bind { path, .. }) =
                (request.layered.get(&step.target), &step.source)
            {
                let inside = path.strip_prefix("/").unwrap_or(path).to_owned();
                step.source = MountSource::Layers {
                    layers: layers.clone(),
                    inside,
                };
            }
        }
        if let Some(hooks) = spec.hooks() {
            blueprint.bundle = Some(BundlePlan::of_stack(request, hooks));
        }
        let mut blueprint = Self {
            populate: request.populate.clone(),
            init: request.init,
            shm_of: request.shm_of.clone(),
            ..blueprint
        };
        let profile = (request.seccomp == SeccompPolicy::Spec)
            .then(|| spec.linux().as_ref()?.seccomp().as_ref())
            .flatten();
        blueprint.process.filter_by(profile)?;
        Ok(blueprint)
    }

    /// Translates what the spec says of a container.
    pub(crate) fn of_spec(
        spec: &Spec,
        rootfs: &Rootfs,
        mut process: ProcessPlan,
        confined: &BTreeMap<PathBuf, PathBuf>,
        given_network: bool,
    ) -> Result<Self, SpecError> {
        let linux = spec.linux().as_ref().ok_or(SpecError::Missing("linux"))?;
        refuse_unsupported(linux)?;
        let namespaces = namespaces::plan(linux, given_network)?;
        process::of_container(&mut process, linux)?;
        let all = namespaces.all(given_network);
        let mut sysctls = Vec::new();
        for (name, value) in linux.sysctl().iter().flatten() {
            check_sysctl(name, all)?;
            sysctls.push((name.clone(), value.clone()));
        }
        sysctls.sort();
        if let Some(name) = spec.domainname()
            && let Some((_, other)) = sysctls
                .iter()
                .find(|(key, value)| key.replace('/', ".") == "kernel.domainname" && value != name)
        {
            return Err(SpecError::Sysctl(
                format!("kernel.domainname={other}"),
                "domainname says otherwise",
            ));
        }
        if all & libc::CLONE_NEWUTS == 0 && (spec.hostname().is_some() || spec.domainname().is_some()) {
            return Err(SpecError::Unsupported(
                "a host name without a uts namespace".into(),
            ));
        }
        let mounts: Result<Vec<MountStep>, SpecError> = spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| {
                mounts::step(
                    mount,
                    confined,
                    namespaces.has_user(),
                    all & libc::CLONE_NEWNET == 0,
                )
            })
            .collect();
        // The spec wants them absolute; a relative one is below the root, which
        // is where the runtimes before us are when they look for it.
        let paths = |list: &Option<Vec<String>>| {
            let list = list.iter().flatten();
            let mut seen = std::collections::BTreeSet::new();
            list.map(|path| format!("/{}", path.trim_start_matches('/')))
                .filter(|path| seen.insert(path.clone()))
                .collect()
        };
        Ok(Self {
            rootfs: rootfs.clone(),
            populate: Vec::new(),
            hostname: spec.hostname().clone(),
            domainname: spec.domainname().clone(),
            mounts: mounts?,
            cgroups: View::default(),
            devices: devices(linux)?,
            masked: paths(linux.masked_paths()),
            readonly: paths(linux.readonly_paths()),
            sysctls,
            process,
            init: false,
            shm_of: None,
            bundle: None,
            propagation: linux
                .rootfs_propagation()
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(|name| {
                    mounts::propagation(name)
                        .ok_or_else(|| SpecError::Unsupported(format!("linux.rootfsPropagation {name:?}")))
                })
                .transpose()?,
            namespaces,
        })
    }
}

/// What the spec can say and we do not do is refused, not ignored.
fn refuse_unsupported(linux: &Linux) -> Result<(), SpecError> {
    let refuse = |is: bool, name: &str| {
        if is {
            Err(SpecError::Unsupported(name.into()))
        } else {
            Ok(())
        }
    };
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt")?;
    refuse(
        linux
            .mount_label()
            .as_ref()
            .is_some_and(|label| !label.is_empty()),
        "linux.mountLabel (no SELinux)",
    )
}

fn devices(linux: &Linux) -> Result<Vec<DeviceNode>, SpecError> {
    let node = |device: &oci_spec::runtime::LinuxDevice| {
        let wrong = |reason: &str| SpecError::Device {
            path: device.path().clone(),
            reason: reason.into(),
        };
        let number = |number: i64| u32::try_from(number).map_err(|_| wrong("its number is out of range"));
        let kind = match device.typ() {
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => return Err(wrong("type `a` is no node")),
        };
        Ok(DeviceNode {
            path: clean(device.path()).map_err(|_| wrong("not an absolute path"))?,
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
        })
    };
    linux.devices().iter().flatten().map(node).collect()
}

/// An absolute path without `.`, `..` and doubled slashes.
fn clean(path: &Path) -> Result<PathBuf, SpecError> {
    let wrong = |reason: &str| SpecError::Mount {
        target: path.to_owned(),
        reason: reason.into(),
    };
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            Component::Prefix(_) => return Err(wrong("not a path of Linux")),
        }
    }
    if !path.is_absolute() {
        return Err(wrong("not an absolute path"));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(wrong("contains a NUL byte"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_without_the_file_system() {
        assert_eq!(clean(Path::new("/a//b/./c/../d/")).unwrap(), Path::new("/a/b/d"));
        assert_eq!(clean(Path::new("/../../x")).unwrap(), Path::new("/x"));
        assert!(clean(Path::new("x")).is_err());
    }
}
