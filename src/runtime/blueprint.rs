//! A request, checked and translated into what the init stage does: all that
//! can be wrong with a spec is found here, before any process exists.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDeviceType, LinuxNamespaceType, LinuxResources, Mount, PosixRlimitType, Process, Spec,
};
use serde::{Deserialize, Serialize};

use super::capability;
use super::cgroup::View;
use super::request::{Populate, Rootfs, RunRequest};
use super::spec::{SpecError, check_sysctl};
use crate::sys::mount as attribute;

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
    /// The network namespace is fresh: its loopback interface is down.
    pub(crate) fresh_network: bool,
}

impl Namespaces {
    /// `CLONE_NEW*` of all that differ from the host's: what exec enters.
    pub(crate) fn all(&self, given_network: bool) -> i32 {
        let joined = self.join.iter().fold(0, |all, (kind, _)| all | kind);
        let network = if given_network { libc::CLONE_NEWNET } else { 0 };
        let cgroup = if self.cgroup { libc::CLONE_NEWCGROUP } else { 0 };
        self.clone | joined | network | cgroup
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountStep {
    /// Absolute path in the container, without `.` and `..`.
    pub(crate) target: PathBuf,
    pub(crate) source: MountSource,
    pub(crate) attributes: MountAttributes,
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
    },
    /// A file system.
    FileSystem {
        kind: String,
        source: String,
        options: Vec<(String, Option<String>)>,
    },
    /// The container's view of the cgroup hierarchies.
    Cgroup,
}

/// Attributes as mount_setattr(2) takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountAttributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// The same for everything mounted below it.
    pub(crate) set_below: u64,
    pub(crate) clear_below: u64,
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
pub struct ProcessPlan {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: PathBuf,
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
        refuse_unsupported(spec)?;
        let linux = spec.linux().as_ref().ok_or(SpecError::Missing("linux"))?;
        let namespaces = namespaces(linux, given_network)?;
        let mut process = process_plan(spec.process().as_ref().ok_or(SpecError::Missing("process"))?)?;
        process.user.clone_from(&request.user);
        process.group_add.clone_from(&request.group_add);
        let private_network = namespaces.all(given_network) & libc::CLONE_NEWNET != 0;
        let mut sysctls = Vec::new();
        for (name, value) in linux.sysctl().iter().flatten() {
            check_sysctl(name, private_network)?;
            sysctls.push((name.clone(), value.clone()));
        }
        sysctls.sort();
        let mounts: Result<Vec<MountStep>, SpecError> = spec
            .mounts()
            .iter()
            .flatten()
            .map(|mount| mount_step(mount, request))
            .collect();
        for populate in &request.populate {
            clean(&populate.destination)?;
        }
        Ok(Self {
            rootfs: request.rootfs.clone(),
            populate: request.populate.clone(),
            hostname: spec.hostname().clone(),
            domainname: spec.domainname().clone(),
            mounts: mounts?,
            cgroups: View::default(),
            devices: devices(linux)?,
            masked: linux.masked_paths().clone().unwrap_or_default(),
            readonly: linux.readonly_paths().clone().unwrap_or_default(),
            sysctls,
            process,
            init: request.init,
            namespaces,
        })
    }
}

/// What the spec can say and we do not do is refused, not ignored.
fn refuse_unsupported(spec: &Spec) -> Result<(), SpecError> {
    let refuse = |is: bool, name: &str| {
        if is {
            Err(SpecError::Unsupported(name.into()))
        } else {
            Ok(())
        }
    };
    refuse(spec.hooks().is_some(), "hooks")?;
    if let Some(process) = spec.process() {
        let named = |label: &Option<String>| {
            label
                .as_deref()
                .is_some_and(|label| !matches!(label, "" | "unconfined"))
        };
        refuse(named(process.apparmor_profile()), "process.apparmorProfile")?;
        refuse(named(process.selinux_label()), "process.selinuxLabel")?;
        refuse(process.io_priority().is_some(), "process.ioPriority")?;
        refuse(process.scheduler().is_some(), "process.scheduler")?;
        refuse(process.exec_cpu_affinity().is_some(), "process.execCPUAffinity")?;
    }
    let Some(linux) = spec.linux() else { return Ok(()) };
    let some = |list: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        list.as_ref().is_some_and(|list| !list.is_empty())
    };
    refuse(
        some(linux.uid_mappings()) || some(linux.gid_mappings()),
        "linux.uidMappings",
    )?;
    refuse(
        linux
            .net_devices()
            .as_ref()
            .is_some_and(|devices| !devices.is_empty()),
        "linux.netDevices",
    )?;
    refuse(linux.intel_rdt().is_some(), "linux.intelRdt")?;
    refuse(linux.memory_policy().is_some(), "linux.memoryPolicy")?;
    refuse(linux.personality().is_some(), "linux.personality")?;
    refuse(
        linux
            .time_offsets()
            .as_ref()
            .is_some_and(|offsets| !offsets.is_empty()),
        "linux.timeOffsets",
    )?;
    refuse(
        linux
            .mount_label()
            .as_ref()
            .is_some_and(|label| !label.is_empty()),
        "linux.mountLabel",
    )?;
    let propagation = linux.rootfs_propagation().as_deref().unwrap_or_default();
    refuse(
        !matches!(propagation, "" | "private" | "rprivate"),
        "linux.rootfsPropagation",
    )?;
    match linux.resources() {
        Some(resources) => refuse_unsupported_limits(resources),
        None => Ok(()),
    }
}

/// As above, for limits (an update in place has only those).
pub(crate) fn refuse_unsupported_limits(resources: &LinuxResources) -> Result<(), SpecError> {
    let refuse = |is: bool, name: &str| {
        if is {
            Err(SpecError::Unsupported(name.into()))
        } else {
            Ok(())
        }
    };
    refuse(resources.block_io().is_some(), "linux.resources.blockIO")?;
    let pages = resources
        .hugepage_limits()
        .as_ref()
        .is_some_and(|limits| !limits.is_empty());
    refuse(pages, "linux.resources.hugepageLimits")?;
    refuse(resources.network().is_some(), "linux.resources.network")?;
    refuse(
        resources.rdma().as_ref().is_some_and(|limits| !limits.is_empty()),
        "linux.resources.rdma",
    )?;
    if let Some(cpu) = resources.cpu() {
        refuse(cpu.idle().is_some(), "linux.resources.cpu.idle")?;
        refuse(cpu.burst().is_some(), "linux.resources.cpu.burst")?;
        refuse(
            cpu.realtime_runtime().is_some(),
            "linux.resources.cpu.realtimeRuntime",
        )?;
        refuse(
            cpu.realtime_period().is_some(),
            "linux.resources.cpu.realtimePeriod",
        )?;
    }
    if let Some(memory) = resources.memory() {
        refuse(
            memory.kernel().is_some_and(|limit| limit > 0),
            "linux.resources.memory.kernel",
        )?;
        refuse(
            memory.kernel_tcp().is_some_and(|limit| limit > 0),
            "linux.resources.memory.kernelTCP",
        )?;
    }
    Ok(())
}

fn namespaces(linux: &Linux, given_network: bool) -> Result<Namespaces, SpecError> {
    let mut found = Namespaces::default();
    let unsupported = |what: &str| Err(SpecError::Unsupported(what.into()));
    for namespace in linux.namespaces().iter().flatten() {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::User => return unsupported("a user namespace"),
            LinuxNamespaceType::Time => return unsupported("a time namespace"),
        };
        match namespace.path() {
            Some(path) if matches!(kind, libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET) => {
                found.join.push((kind, path.clone()));
            }
            Some(_) => return unsupported("a mount, pid or cgroup namespace by path"),
            None if kind == libc::CLONE_NEWCGROUP => found.cgroup = true,
            None if kind == libc::CLONE_NEWNET && given_network => {}
            None => found.clone |= kind,
        }
    }
    if found.clone & libc::CLONE_NEWNS == 0 {
        return unsupported("the mount namespace of the host");
    }
    let joins_network = found.join.iter().any(|(kind, _)| *kind == libc::CLONE_NEWNET);
    if joins_network && given_network {
        return unsupported("a network namespace by path and by descriptor");
    }
    found.fresh_network = found.clone & libc::CLONE_NEWNET != 0;
    Ok(found)
}

fn process_plan(process: &Process) -> Result<ProcessPlan, SpecError> {
    let args = process
        .args()
        .clone()
        .filter(|args| !args.is_empty())
        .ok_or(SpecError::Missing("command"))?;
    let env = process.env().clone().unwrap_or_default();
    for text in args.iter().chain(&env) {
        if text.contains('\0') {
            return Err(SpecError::Nul(format!("{text:?}")));
        }
    }
    if !process.cwd().is_absolute() {
        return Err(SpecError::Unsupported(format!(
            "a relative working directory ({})",
            process.cwd().display()
        )));
    }
    let set =
        |pick: fn(&oci_spec::runtime::LinuxCapabilities) -> &Option<oci_spec::runtime::Capabilities>| {
            capability::from_spec(
                process
                    .capabilities()
                    .as_ref()
                    .and_then(|sets| pick(sets).as_ref()),
            )
        };
    let permitted = set(|sets| sets.permitted());
    let inheritable = set(|sets| sets.inheritable());
    let user = process.user();
    let limit = |limit: &oci_spec::runtime::PosixRlimit| {
        let (name, number) = resource(limit.typ());
        ResourceLimit {
            name: name.into(),
            number,
            soft: limit.soft(),
            hard: limit.hard(),
        }
    };
    Ok(ProcessPlan {
        args,
        env,
        cwd: process.cwd().clone(),
        user: None,
        group_add: Vec::new(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone(),
        umask: user.umask(),
        capabilities: CapabilityPlan {
            bounding: set(|sets| sets.bounding()),
            effective: set(|sets| sets.effective()) & permitted,
            permitted,
            inheritable,
            ambient: set(|sets| sets.ambient()) & permitted & inheritable,
        },
        no_new_privileges: process.no_new_privileges() == Some(true),
        limits: process.rlimits().iter().flatten().map(limit).collect(),
        oom_score_adj: process.oom_score_adj(),
        terminal: process.terminal() == Some(true),
        size: process.console_size().as_ref().and_then(|size| {
            Some((
                u16::try_from(size.height()).ok()?,
                u16::try_from(size.width()).ok()?,
            ))
        }),
    })
}

fn resource(kind: PosixRlimitType) -> (&'static str, u32) {
    let (name, number) = match kind {
        PosixRlimitType::RlimitCpu => ("cpu", libc::RLIMIT_CPU),
        PosixRlimitType::RlimitFsize => ("fsize", libc::RLIMIT_FSIZE),
        PosixRlimitType::RlimitData => ("data", libc::RLIMIT_DATA),
        PosixRlimitType::RlimitStack => ("stack", libc::RLIMIT_STACK),
        PosixRlimitType::RlimitCore => ("core", libc::RLIMIT_CORE),
        PosixRlimitType::RlimitRss => ("rss", libc::RLIMIT_RSS),
        PosixRlimitType::RlimitNproc => ("nproc", libc::RLIMIT_NPROC),
        PosixRlimitType::RlimitNofile => ("nofile", libc::RLIMIT_NOFILE),
        PosixRlimitType::RlimitMemlock => ("memlock", libc::RLIMIT_MEMLOCK),
        PosixRlimitType::RlimitAs => ("as", libc::RLIMIT_AS),
        PosixRlimitType::RlimitLocks => ("locks", libc::RLIMIT_LOCKS),
        PosixRlimitType::RlimitSigpending => ("sigpending", libc::RLIMIT_SIGPENDING),
        PosixRlimitType::RlimitMsgqueue => ("msgqueue", libc::RLIMIT_MSGQUEUE),
        PosixRlimitType::RlimitNice => ("nice", libc::RLIMIT_NICE),
        PosixRlimitType::RlimitRtprio => ("rtprio", libc::RLIMIT_RTPRIO),
        PosixRlimitType::RlimitRttime => ("rttime", libc::RLIMIT_RTTIME),
    };
    (name, number)
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

/// What may be mounted over inside `/proc`: files that tell a container about
/// its own limits (as lxcfs makes them). Anything else there would let a mount
/// stand between a runtime and the kernel.
const PROC_FILES: [&str; 7] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
];

fn mount_step(mount: &Mount, request: &RunRequest) -> Result<MountStep, SpecError> {
    let target = clean(mount.destination())?;
    let wrong = |reason: String| SpecError::Mount {
        target: target.clone(),
        reason,
    };
    let mapped = |list: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        list.as_ref().is_some_and(|list| !list.is_empty())
    };
    if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
        return Err(wrong("id mappings are not supported".into()));
    }
    if target == Path::new("/") {
        return Err(wrong("the root cannot be mounted over".into()));
    }
    let mut attributes = MountAttributes::default();
    let mut bind = None;
    let mut options = Vec::new();
    for option in mount.options().iter().flatten() {
        match option.as_str() {
            "bind" => bind = bind.or(Some(false)),
            "rbind" => bind = Some(true),
            "defaults" | "nofail" => {}
            name if attributes.take(name) => {}
            "remount" | "idmap" | "ridmap" | "tmpcopyup" => {
                return Err(wrong(format!("option {option} is not supported")));
            }
            _ => options.push(match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option.clone(), None),
            }),
        }
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    let source = match (bind, kind) {
        (Some(_), _) | (None, "bind") => {
            if let Some((name, _)) = options.first() {
                return Err(wrong(format!("option {name} makes no sense for a bind mount")));
            }
            let path = mount.source().clone().ok_or_else(|| wrong("no source".into()))?;
            let confined = request.confined.get(mount.destination()).cloned();
            if confined.is_none() && !path.is_absolute() {
                return Err(wrong(format!(
                    "source {} is not an absolute path",
                    path.display()
                )));
            }
            MountSource::Bind {
                path,
                recursive: bind != Some(false),
                confined,
            }
        }
        (None, "cgroup" | "cgroup2") => MountSource::Cgroup,
        (None, "" | "none") => return Err(wrong("no type".into())),
        (None, kind) => MountSource::FileSystem {
            kind: kind.into(),
            source: mount
                .source()
                .as_ref()
                .map_or_else(|| kind.into(), |path| path.to_string_lossy().into_owned()),
            options,
        },
    };
    if let Ok(below) = target.strip_prefix("/proc") {
        let proc = matches!(&source, MountSource::FileSystem { kind, .. } if kind == "proc");
        let file = PROC_FILES.iter().any(|name| below == Path::new(name));
        if !(proc && below.as_os_str().is_empty() || file) {
            return Err(wrong("nothing can be mounted inside /proc".into()));
        }
    }
    Ok(MountStep {
        target,
        source,
        attributes,
    })
}

impl MountAttributes {
    /// Takes an option that is an attribute of mounts; whether it was one.
    fn take(&mut self, option: &str) -> bool {
        use attribute::{
            ATIME, NOATIME, NODEV, NODIRATIME, NOEXEC, NOSUID, NOSYMFOLLOW, RDONLY, STRICTATIME,
        };
        const RECURSIVE: u64 = libc::MS_REC;
        let (set, clear) = match option
            .strip_prefix('r')
            .filter(|name| is_attribute(name))
            .unwrap_or(option)
        {
            "ro" => (RDONLY, 0),
            "rw" => (0, RDONLY),
            "nosuid" => (NOSUID, 0),
            "suid" => (0, NOSUID),
            "nodev" => (NODEV, 0),
            "dev" => (0, NODEV),
            "noexec" => (NOEXEC, 0),
            "exec" => (0, NOEXEC),
            "nodiratime" => (NODIRATIME, 0),
            "diratime" => (0, NODIRATIME),
            "nosymfollow" => (NOSYMFOLLOW, 0),
            "symfollow" => (0, NOSYMFOLLOW),
            // The access time mode is a number, not bits: the old one is cleared.
            "noatime" => (NOATIME, ATIME),
            "strictatime" => (STRICTATIME, ATIME),
            "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, ATIME),
            _ => {
                let propagation = match option {
                    "private" => libc::MS_PRIVATE,
                    "rprivate" => libc::MS_PRIVATE | RECURSIVE,
                    "slave" => libc::MS_SLAVE,
                    "rslave" => libc::MS_SLAVE | RECURSIVE,
                    "shared" => libc::MS_SHARED,
                    "rshared" => libc::MS_SHARED | RECURSIVE,
                    "unbindable" => libc::MS_UNBINDABLE,
                    "runbindable" => libc::MS_UNBINDABLE | RECURSIVE,
                    _ => return false,
                };
                self.propagation = propagation & !RECURSIVE;
                self.propagation_below = propagation & RECURSIVE != 0;
                return true;
            }
        };
        let recursive = option.strip_prefix('r').is_some_and(is_attribute);
        let (sets, clears) = if recursive {
            (&mut self.set_below, &mut self.clear_below)
        } else {
            (&mut self.set, &mut self.clear)
        };
        *sets = *sets & !clear | set;
        *clears = *clears & !set | clear;
        true
    }
}

/// Whether `r` before this name makes the attribute recursive.
fn is_attribute(name: &str) -> bool {
    matches!(
        name,
        "ro" | "rw"
            | "nosuid"
            | "suid"
            | "nodev"
            | "dev"
            | "noexec"
            | "exec"
            | "nodiratime"
            | "diratime"
            | "nosymfollow"
            | "symfollow"
            | "noatime"
            | "strictatime"
            | "relatime"
            | "atime"
            | "norelatime"
            | "nostrictatime"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(options: &[&str]) -> MountAttributes {
        let mut attributes = MountAttributes::default();
        for option in options {
            assert!(attributes.take(option), "{option}");
        }
        attributes
    }

    #[test]
    fn mount_options_become_attributes_and_the_last_wins() {
        let found = attributes(&["nosuid", "noexec", "ro", "exec", "rw"]);
        assert_eq!(
            (found.set, found.clear),
            (attribute::NOSUID, attribute::NOEXEC | attribute::RDONLY)
        );
        let found = attributes(&["noatime", "strictatime"]);
        assert_eq!(found.set, attribute::STRICTATIME);
        assert_eq!(found.clear, attribute::ATIME);
        let found = attributes(&["rro", "rslave"]);
        assert_eq!((found.set, found.set_below), (0, attribute::RDONLY));
        assert_eq!(
            (found.propagation, found.propagation_below),
            (libc::MS_SLAVE, true)
        );
        // `relatime` begins with an r of its own.
        assert_eq!(attributes(&["relatime"]).set_below, 0);
        assert!(!MountAttributes::default().take("size=5"));
    }

    #[test]
    fn paths_are_cleaned_without_the_file_system() {
        assert_eq!(clean(Path::new("/a//b/./c/../d/")).unwrap(), Path::new("/a/b/d"));
        assert_eq!(clean(Path::new("/../../x")).unwrap(), Path::new("/x"));
        assert!(clean(Path::new("x")).is_err());
    }
}
