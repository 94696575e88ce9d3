//! A container with Docker's defaults as an OCI runtime spec.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{
    Linux, LinuxBlockIo, LinuxCapabilities, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType,
    LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp, Mount,
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Spec, User,
};

use super::capability;
use super::seccomp::{SeccompError, SeccompPolicy};

/// Where programs are looked for unless the environment says otherwise.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Size of `/dev/shm` unless said otherwise, in bytes.
pub const DEFAULT_SHM_SIZE: u64 = 64 << 20;

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// There is no such capability.
    #[error("unknown capability {0}")]
    Capability(String),
    /// There is no such resource limit, or its values make no sense.
    #[error("ulimit {0}: {1}")]
    ResourceLimit(String, &'static str),
    /// A security option that we do not do.
    #[error("security option {0} is not supported")]
    SecurityOption(String),
    /// A kernel parameter that is not the container's own.
    #[error("sysctl {0}: {1}")]
    Sysctl(String, &'static str),
    /// A mount that is not understood.
    #[error("mount {}: {reason}", target.display())]
    Mount {
        /// Its destination.
        target: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A device that is not there or not one.
    #[error("device {}: {reason}", path.display())]
    Device {
        /// Its path on the host.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something must be given.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something that we do not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A text that the kernel cannot take.
    #[error("{0} contains a NUL byte")]
    Nul(String),
    /// The system call profile is not understood.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// What a container is, where it differs from the defaults.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`; `PATH`, `HOSTNAME`, `HOME` and, with a terminal, `TERM`
    /// are added when they are missing.
    pub env: Vec<String>,
    /// Working directory; `/` when empty.
    pub cwd: String,
    /// Host name.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// Capabilities added, any case, with or without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Capabilities dropped, as above.
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// A pseudo-terminal as standard input, output and error.
    pub tty: bool,
    /// Resource limits: name as in `ulimit` files (`nofile`) to soft and hard
    /// value, -1 being unlimited.
    pub ulimits: BTreeMap<String, (i64, i64)>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Limits of memory, processor and processes.
    pub resources: Limits,
    /// `no-new-privileges[:true]`, `seccomp=unconfined`, `systempaths=unconfined`,
    /// `apparmor=unconfined`, `apparmor=PROFILE` where the machine has AppArmor,
    /// `label=disable` (`:` may stand for `=`); `seccomp=FILE` goes with
    /// [`Settings::seccomp`].
    pub security_opt: Vec<String>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Further device nodes, whose use [`Settings::device_rules`] allow.
    pub nodes: Vec<LinuxDevice>,
    /// Further mounts; those with shorter destinations are mounted first.
    pub mounts: Vec<Mount>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// The network namespace is the host's.
    pub host_network: bool,
    /// The PID namespace.
    pub pid: Share,
    /// The IPC namespace. Whose it is, `/dev/shm` is; of a joined one only with
    /// [`RunRequest::shm_of`](super::RunRequest::shm_of).
    pub ipc: Share,
    /// There is no `/dev/shm`.
    pub no_shm: bool,
    /// The UTS namespace is the host's: host name and domain name must be `None`.
    pub host_uts: bool,
    /// The cgroup namespace is the host's.
    pub host_cgroup: bool,
    /// Rules for the device controller, after those of `devices`.
    pub device_rules: Vec<LinuxDeviceCgroup>,
    /// The system call profile that `seccomp=FILE` stands for.
    pub seccomp: Option<LinuxSeccomp>,
    /// Annotations of the spec.
    pub annotations: BTreeMap<String, String>,
    /// Added to the out-of-memory score, -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

/// Which namespace of a kind a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// One of its own.
    #[default]
    Own,
    /// The host's.
    Host,
    /// The one that this file stands for, such as `/proc/PID/ns/ipc`.
    Joined(PathBuf),
}

/// Limits; `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Soft limit of memory in bytes.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap in bytes, -1 being unlimited; twice the memory when
    /// only that is limited.
    pub memory_swap: Option<i64>,
    /// Processors, in thousandths of one.
    pub cpus_milli: Option<u64>,
    /// Relative weight, 1024 is one share.
    pub cpu_shares: Option<u64>,
    /// Processors, `0-2,4`.
    pub cpuset: Option<String>,
    /// Most processes and threads; -1 is unlimited.
    pub pids: Option<i64>,
    /// Processor time a period in microseconds, -1 being unlimited. Counts only
    /// without `cpus_milli`.
    pub cpu_quota: Option<i64>,
    /// The period of `cpu_quota` in microseconds.
    pub cpu_period: Option<u64>,
    /// Time of real-time processes a period in microseconds, -1 being unlimited.
    pub cpu_rt_runtime: Option<i64>,
    /// The period of `cpu_rt_runtime` in microseconds.
    pub cpu_rt_period: Option<u64>,
    /// How readily memory is swapped, 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// The kernel's memory killer spares the container.
    pub oom_kill_disable: bool,
    /// Weights and bounds of block devices.
    pub block_io: Option<LinuxBlockIo>,
}

impl Limits {
    /// As the OCI spec has it, without device rules.
    pub fn to_spec(&self) -> LinuxResources {
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        if self.memory.is_some()
            || self.memory_reservation.is_some()
            || self.memory_swap.is_some()
            || self.memory_swappiness.is_some()
            || self.oom_kill_disable
        {
            let mut memory = LinuxMemory::default();
            memory.set_swappiness(self.memory_swappiness);
            memory.set_disable_oom_killer(self.oom_kill_disable.then_some(true));
            memory.set_limit(self.memory);
            memory.set_reservation(self.memory_reservation);
            memory.set_swap(
                self.memory_swap
                    .or_else(|| self.memory.map(|limit| limit.saturating_mul(2))),
            );
            resources.set_memory(Some(memory));
        }
        if self.cpus_milli.is_some()
            || self.cpu_shares.is_some()
            || self.cpuset.is_some()
            || self.cpu_quota.is_some()
            || self.cpu_period.is_some()
            || self.cpu_rt_runtime.is_some()
            || self.cpu_rt_period.is_some()
        {
            let mut cpu = LinuxCpu::default();
            cpu.set_period(self.cpu_period);
            cpu.set_realtime_runtime(self.cpu_rt_runtime);
            cpu.set_realtime_period(self.cpu_rt_period);
            cpu.set_quota(self.cpu_quota);
            if let Some(milli) = self.cpus_milli {
                // A period of 100 ms; a thousandth of a processor is 100 µs of it,
                // and the kernel takes no quota below 1 ms.
                cpu.set_period(Some(100_000));
                cpu.set_quota(Some(
                    i64::try_from(milli.saturating_mul(100))
                        .unwrap_or(i64::MAX)
                        .max(1000),
                ));
            }
            cpu.set_shares(self.cpu_shares);
            cpu.set_cpus(self.cpuset.clone());
            resources.set_cpu(Some(cpu));
        }
        if let Some(limit) = self.pids {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        resources.set_block_io(self.block_io.clone());
        resources
    }
}

/// A device of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Path on the host: a device, or a folder, which stands for all devices
    /// below it.
    pub host: PathBuf,
    /// Path in the container.
    pub container: PathBuf,
    /// `r`, `w`, `m` in any combination.
    pub access: String,
}

/// The spec of a container with Docker's defaults, and its system call policy.
///
/// # Errors
/// [`SpecError`] for settings that are wrong or not done.
pub fn default_spec(settings: &Settings) -> Result<(Spec, SeccompPolicy), SpecError> {
    let options = security_options(&settings.security_opt)?;
    let bare = settings.privileged || options.system_paths;
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces(settings)));
    linux.set_masked_paths((!bare).then(masked_paths));
    linux.set_readonly_paths((!bare).then(readonly_paths));
    linux.set_sysctl(Some(sysctls(settings)?.into_iter().collect()));
    linux.set_cgroups_path(None);
    let (nodes, mut rules) = devices(settings)?;
    linux.set_devices(Some(nodes));
    let mut resources = settings.resources.to_spec();
    rules.shrink_to_fit();
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    linux.set_seccomp(settings.seccomp.clone());

    let mut spec = Spec::default();
    spec.set_root(None);
    spec.set_version("1.2.0".into());
    spec.set_hostname(settings.hostname.clone());
    spec.set_domainname(settings.domainname.clone());
    spec.set_process(Some(process(settings, &options)?));
    spec.set_mounts(Some(mounts(settings)));
    spec.set_linux(Some(linux));
    if !settings.annotations.is_empty() {
        spec.set_annotations(Some(settings.annotations.clone().into_iter().collect()));
    }
    let unconfined = settings.privileged || options.unconfined;
    Ok((
        spec,
        if unconfined {
            SeccompPolicy::Unconfined
        } else if settings.seccomp.is_some() {
            SeccompPolicy::Spec
        } else {
            SeccompPolicy::Default
        },
    ))
}

#[derive(Default)]
struct SecurityOptions {
    no_new_privileges: bool,
    unconfined: bool,
    system_paths: bool,
    apparmor: Option<String>,
}

/// The file of a system call profile among security options.
pub fn seccomp_file(options: &[String]) -> Option<&str> {
    options.iter().rev().find_map(|option| {
        let (name, value) = option.split_once(['=', ':'])?;
        let file = name == "seccomp" && !matches!(value, "" | "unconfined" | "builtin");
        file.then_some(value)
    })
}

/// Whether this machine confines programs by AppArmor.
fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

fn security_options(options: &[String]) -> Result<SecurityOptions, SpecError> {
    let mut found = SecurityOptions::default();
    for option in options {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => found.no_new_privileges = true,
            // `apparmor` and `label` ask for what is so anyway.
            ("no-new-privileges", "false")
            | ("seccomp", "builtin")
            | ("apparmor", "unconfined")
            | ("label", "disable") => {}
            ("seccomp", "unconfined") => found.unconfined = true,
            ("systempaths", "unconfined") => found.system_paths = true,
            // Read by the caller, who knows what the path is relative to.
            ("seccomp", file) if !file.is_empty() => {}
            ("apparmor", profile) if !profile.is_empty() => {
                if !has_apparmor() {
                    return Err(SpecError::Unsupported(format!(
                        "security option {option}: AppArmor is not enabled on this machine, so it"
                    )));
                }
                found.apparmor = Some(profile.to_owned());
            }
            _ => return Err(SpecError::SecurityOption(option.clone())),
        }
    }
    Ok(found)
}

fn namespaces(settings: &Settings) -> Vec<LinuxNamespace> {
    let host = |host| if host { Share::Host } else { Share::Own };
    [
        (LinuxNamespaceType::Mount, Share::Own),
        (LinuxNamespaceType::Pid, settings.pid.clone()),
        (LinuxNamespaceType::Uts, host(settings.host_uts)),
        (LinuxNamespaceType::Ipc, settings.ipc.clone()),
        (LinuxNamespaceType::Cgroup, host(settings.host_cgroup)),
        (LinuxNamespaceType::Network, host(settings.host_network)),
    ]
    .into_iter()
    .filter_map(|(kind, share)| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind);
        match share {
            Share::Own => {}
            Share::Joined(path) => {
                namespace.set_path(Some(path));
            }
            Share::Host => return None,
        }
        Some(namespace)
    })
    .collect()
}

fn process(settings: &Settings, options: &SecurityOptions) -> Result<Process, SpecError> {
    let mut env = settings.env.clone();
    let mut add = |name: &str, value: &str| {
        let set = |entry: &String| entry.split_once('=').is_some_and(|(known, _)| known == name);
        if !env.iter().any(set) {
            env.push(format!("{name}={value}"));
        }
    };
    add("PATH", DEFAULT_PATH);
    if let Some(hostname) = &settings.hostname {
        add("HOSTNAME", hostname);
    }
    if settings.tty {
        add("TERM", "xterm");
    }
    let set = capability::to_spec(capabilities(settings)?);
    let mut capabilities = LinuxCapabilities::default();
    capabilities.set_bounding(Some(set.clone()));
    capabilities.set_effective(Some(set.clone()));
    capabilities.set_permitted(Some(set));
    capabilities.set_inheritable(None);
    capabilities.set_ambient(None);
    let mut process = Process::default();
    process.set_terminal(Some(settings.tty));
    process.set_user(User::default());
    process.set_args(Some(settings.args.clone()));
    process.set_env(Some(env));
    process.set_cwd(if settings.cwd.is_empty() {
        "/".into()
    } else {
        settings.cwd.clone().into()
    });
    process.set_capabilities(Some(capabilities));
    process.set_rlimits(Some(resource_limits(&settings.ulimits)?));
    process.set_no_new_privileges(Some(options.no_new_privileges));
    process.set_apparmor_profile(options.apparmor.clone());
    process.set_oom_score_adj(settings.oom_score_adj);
    Ok(process)
}

/// The capabilities of a container, as Docker counts them.
fn capabilities(settings: &Settings) -> Result<u64, SpecError> {
    let set = |names: &[String]| {
        names
            .iter()
            .try_fold(0, |all, name| match name.to_ascii_uppercase().as_str() {
                "ALL" | "CAP_ALL" => Ok(capability::ALL),
                _ => capability::bit(name)
                    .map(|bit| all | bit)
                    .ok_or_else(|| SpecError::Capability(name.clone())),
            })
    };
    let (add, drop) = (set(&settings.cap_add)?, set(&settings.cap_drop)?);
    Ok(
        match (
            settings.privileged,
            add == capability::ALL,
            drop == capability::ALL,
        ) {
            (true, _, _) => capability::ALL,
            (_, true, true) => 0,
            (_, true, false) => capability::ALL & !drop,
            (_, false, true) => add,
            (_, false, false) => capability::DEFAULT & !drop | add,
        },
    )
}

/// The capabilities that a container with these settings can have at most, as bits.
///
/// # Errors
/// [`SpecError::Capability`] for one there is not.
pub fn bounding_set(settings: &Settings) -> Result<u64, SpecError> {
    capabilities(settings)
}

fn resource_limits(limits: &BTreeMap<String, (i64, i64)>) -> Result<Vec<PosixRlimit>, SpecError> {
    let limit = |(name, (soft, hard)): (&String, &(i64, i64))| {
        let kind = match name.as_str() {
            "as" => PosixRlimitType::RlimitAs,
            "core" => PosixRlimitType::RlimitCore,
            "cpu" => PosixRlimitType::RlimitCpu,
            "data" => PosixRlimitType::RlimitData,
            "fsize" => PosixRlimitType::RlimitFsize,
            "locks" => PosixRlimitType::RlimitLocks,
            "memlock" => PosixRlimitType::RlimitMemlock,
            "msgqueue" => PosixRlimitType::RlimitMsgqueue,
            "nice" => PosixRlimitType::RlimitNice,
            "nofile" => PosixRlimitType::RlimitNofile,
            "nproc" => PosixRlimitType::RlimitNproc,
            "rss" => PosixRlimitType::RlimitRss,
            "rtprio" => PosixRlimitType::RlimitRtprio,
            "rttime" => PosixRlimitType::RlimitRttime,
            "sigpending" => PosixRlimitType::RlimitSigpending,
            "stack" => PosixRlimitType::RlimitStack,
            _ => return Err(SpecError::ResourceLimit(name.clone(), "there is no such limit")),
        };
        // -1 as a signed number is RLIM_INFINITY as an unsigned one.
        let (soft, hard) = (soft.cast_unsigned(), hard.cast_unsigned());
        if soft > hard {
            return Err(SpecError::ResourceLimit(
                name.clone(),
                "the soft limit is above the hard limit",
            ));
        }
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard)
            .build()
            .map_err(|_| SpecError::ResourceLimit(name.clone(), "it cannot be expressed"))
    };
    limits.iter().map(limit).collect()
}

fn sysctls(settings: &Settings) -> Result<BTreeMap<String, String>, SpecError> {
    let mut all = BTreeMap::new();
    if !settings.host_network {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    for (name, value) in &settings.sysctls {
        check_sysctl(name, !settings.host_network)?;
        if is_ipc_sysctl(name) && settings.ipc != Share::Own {
            return Err(SpecError::Sysctl(
                name.clone(),
                "not allowed in an IPC namespace that is not the container's own",
            ));
        }
        all.insert(name.clone(), value.clone());
    }
    Ok(all)
}

/// Whether a kernel parameter is one of the container's own namespaces.
///
/// # Errors
/// [`SpecError::Sysctl`] when setting it would change the host.
pub(super) fn check_sysctl(name: &str, private_network: bool) -> Result<(), SpecError> {
    let wrong = |reason| Err(SpecError::Sysctl(name.to_owned(), reason));
    let plain = |name: &str| {
        name.chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_-./".contains(letter))
    };
    if !plain(name) || name.split(['.', '/']).any(str::is_empty) {
        return wrong("not a name of a kernel parameter");
    }
    if is_ipc_sysctl(name) {
        return Ok(());
    }
    if name.starts_with("net.") || name.starts_with("net/") {
        return if private_network {
            Ok(())
        } else {
            wrong("not allowed in the network namespace of the host")
        };
    }
    wrong("not in a namespace of the container, so it would change the host")
}

/// Whether a kernel parameter is one of an IPC namespace.
fn is_ipc_sysctl(name: &str) -> bool {
    const IPC: [&str; 11] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
    ];
    IPC.contains(&name) || name.starts_with("fs.mqueue.")
}

/// The device nodes beside the usual ones, and the rules of the device controller.
fn devices(settings: &Settings) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), SpecError> {
    let rule = |allow, kind, major: Option<i64>, minor: Option<i64>, access: &str| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow);
        rule.set_typ(Some(kind));
        rule.set_major(major);
        rule.set_minor(minor);
        rule.set_access(Some(access.to_owned()));
        rule
    };
    let mut nodes = Vec::new();
    if settings.privileged {
        host_devices(Path::new("/dev"), &mut nodes);
        for device in &settings.devices {
            nodes.extend(nodes_of(device)?);
        }
        nodes.retain(|known: &LinuxDevice| settings.nodes.iter().all(|own| own.path() != known.path()));
        nodes.extend(settings.nodes.iter().cloned());
        return Ok((nodes, vec![rule(true, LinuxDeviceType::A, None, None, "rwm")]));
    }
    let c = LinuxDeviceType::C;
    let mut rules = vec![
        rule(false, LinuxDeviceType::A, None, None, "rwm"),
        rule(true, c, None, None, "m"),
        rule(true, LinuxDeviceType::B, None, None, "m"),
    ];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, c, Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, c, Some(136), None, "rwm"));
    for device in &settings.devices {
        if device.access.is_empty() || device.access.chars().any(|letter| !"rwm".contains(letter)) {
            let reason = format!("access {:?} is not made of r, w and m", device.access);
            return Err(SpecError::Device {
                path: device.host.clone(),
                reason,
            });
        }
        for made in nodes_of(device)? {
            rules.push(rule(
                true,
                made.typ(),
                Some(made.major()),
                Some(made.minor()),
                &device.access,
            ));
            nodes.push(made);
        }
    }
    rules.extend(settings.device_rules.iter().cloned());
    nodes.extend(settings.nodes.iter().cloned());
    Ok((nodes, rules))
}

/// A device, or all below a folder.
fn nodes_of(device: &Device) -> Result<Vec<LinuxDevice>, SpecError> {
    let wrong = |reason: String| SpecError::Device {
        path: device.host.clone(),
        reason,
    };
    let metadata = fs::metadata(&device.host).map_err(|error| wrong(super::error::describe(&error)))?;
    if metadata.is_dir() {
        let mut found = Vec::new();
        host_devices(&device.host, &mut found);
        for node in &mut found {
            let below = node.path().strip_prefix(&device.host).map(Path::to_owned);
            if let Ok(below) = below {
                node.set_path(device.container.join(below));
            }
        }
        return if found.is_empty() {
            Err(wrong("there is no device below it".into()))
        } else {
            Ok(found)
        };
    }
    match describe_node(&device.container, &metadata) {
        Some(node) => Ok(vec![node]),
        None => Err(wrong("not a device".into())),
    }
}

/// The device that a path of the host is, as the OCI spec describes it; `None`
/// when it is none.
pub fn describe_device(path: &Path) -> Option<LinuxDevice> {
    describe_node(path, &fs::metadata(path).ok()?)
}

fn describe_node(path: &Path, metadata: &fs::Metadata) -> Option<LinuxDevice> {
    let kind = if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else {
        return None;
    };
    let number = metadata.rdev();
    let mut device = LinuxDevice::default();
    device.set_path(path.to_owned());
    device.set_typ(kind);
    device.set_major(rustix::fs::major(number).into());
    device.set_minor(rustix::fs::minor(number).into());
    device.set_file_mode(Some(metadata.mode() & 0o7777));
    device.set_uid(Some(metadata.uid()));
    device.set_gid(Some(metadata.gid()));
    Some(device)
}

/// The device nodes of the host but for those a container has of its own.
fn host_devices(folder: &Path, nodes: &mut Vec<LinuxDevice>) {
    const OWN: [&str; 12] = [
        "pts", "shm", "mqueue", "fd", "console", "ptmx", "null", "zero", "full", "random", "urandom", "tty",
    ];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = folder == Path::new("/dev") && OWN.iter().any(|name| entry.file_name() == *name);
        let Ok(metadata) = entry.metadata() else { continue };
        if own {
            continue;
        }
        if metadata.is_dir() {
            host_devices(&entry.path(), nodes);
        } else {
            nodes.extend(describe_node(&entry.path(), &metadata));
        }
    }
}

fn masked_paths() -> Vec<String> {
    static PATHS: OnceLock<Vec<String>> = OnceLock::new();
    PATHS
        .get_or_init(|| {
            let mut paths: Vec<String> = [
                "/proc/acpi",
                "/proc/asound",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ]
            .map(str::to_owned)
            .to_vec();
            // Side channels of other tenants' load, one folder a processor.
            for entry in fs::read_dir("/sys/devices/system/cpu")
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path().join("thermal_throttle");
                if path.exists() {
                    paths.extend(path.to_str().map(str::to_owned));
                }
            }
            paths
        })
        .clone()
}

fn readonly_paths() -> Vec<String> {
    [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn mounts(settings: &Settings) -> Vec<Mount> {
    let ro = if settings.privileged { "rw" } else { "ro" };
    let shm_size = format!("size={}", settings.shm_size.unwrap_or(DEFAULT_SHM_SIZE));
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", ro]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", ro],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        ),
    ];
    if settings.ipc != Share::Own || settings.no_shm {
        list.retain(|own| own.destination() != Path::new("/dev/shm"));
        if !settings.no_shm {
            let shm = Path::new("/dev/shm");
            list.push(bind_mount(
                shm,
                "/dev/shm",
                &["rprivate", "nosuid", "noexec", "nodev"],
            ));
        }
    }
    let mut further: Vec<&Mount> = settings.mounts.iter().collect();
    further.sort_by_key(|mount| mount.destination().components().count());
    for mount in further {
        // A mount of one's own takes the place of ours.
        list.retain(|own| own.destination() != mount.destination());
        list.push(mount.clone());
    }
    list
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination.into());
    mount.set_typ(Some(kind.into()));
    mount.set_source(Some(source.into()));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

/// A bind mount of `source` at `destination` with `options` beside `rbind`
/// (`ro`, `rro`, `rslave`, …).
pub fn bind_mount(source: &Path, destination: &str, options: &[&str]) -> Mount {
    let mut all = vec!["rbind"];
    all.extend(options);
    let mut bind = mount(destination, "bind", "", &all);
    bind.set_source(Some(source.to_owned()));
    bind
}

/// A tmpfs at `destination` with Docker's options and `options` after them
/// (`size=1000`, `mode=700`, `uid=5`, `exec`, …).
pub fn tmpfs_mount(destination: &str, options: &[&str]) -> Mount {
    let mut all = vec!["nosuid", "nodev", "noexec"];
    all.extend(options);
    mount(destination, "tmpfs", "tmpfs", &all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capabilities_of(add: &[&str], drop: &[&str]) -> Result<u64, SpecError> {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        capabilities(&Settings {
            cap_add: text(add),
            cap_drop: text(drop),
            ..Settings::default()
        })
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        assert_eq!(capabilities_of(&[], &[]).unwrap(), capability::DEFAULT);
        assert_eq!(
            capabilities_of(&["sys_admin"], &["CAP_CHOWN"]).unwrap(),
            capability::DEFAULT & !1 | 1 << 21
        );
        assert_eq!(capabilities_of(&["NET_ADMIN"], &["ALL"]).unwrap(), 1 << 12);
        assert_eq!(
            capabilities_of(&["ALL"], &["CHOWN"]).unwrap(),
            capability::ALL & !1
        );
        assert_eq!(
            capabilities_of(&["NOSUCH"], &[]).unwrap_err().to_string(),
            "unknown capability NOSUCH"
        );
    }

    #[test]
    fn only_parameters_of_own_namespaces_are_taken() {
        assert!(check_sysctl("net.core.somaxconn", true).is_ok());
        assert!(check_sysctl("net.core.somaxconn", false).is_err());
        assert!(check_sysctl("kernel.shmmax", false).is_ok());
        assert!(check_sysctl("kernel.core_pattern", true).is_err());
        assert!(check_sysctl("vm.swappiness", true).is_err());
        assert!(check_sysctl("net..x", true).is_err());
        assert!(check_sysctl("net.ipv4.conf.eth0/1.forwarding", true).is_ok());
    }

    #[test]
    fn security_options_are_understood_or_refused() {
        let options =
            |list: &[&str]| security_options(&list.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        assert!(options(&["no-new-privileges:true"]).unwrap().no_new_privileges);
        assert!(options(&["seccomp:unconfined"]).unwrap().unconfined);
        assert!(options(&["apparmor=unconfined"]).is_ok());
        assert_eq!(options(&["apparmor=mine"]).is_ok(), has_apparmor());
        assert!(options(&["seccomp=/x.json"]).is_ok());
        assert!(options(&["seccomp="]).is_err());
        assert!(options(&["label=type:x"]).is_err());
        let file = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|one| (*one).to_owned()).collect();
            seccomp_file(&list).map(str::to_owned)
        };
        assert_eq!(
            file(&["seccomp:/x.json", "label=disable"]).as_deref(),
            Some("/x.json")
        );
        assert_eq!(file(&["seccomp=unconfined"]), None);
    }

    #[test]
    fn limits_become_resources() {
        let resources = Limits {
            memory: Some(1 << 20),
            cpus_milli: Some(1500),
            pids: Some(-1),
            ..Limits::default()
        }
        .to_spec();
        assert_eq!(resources.memory().unwrap().swap(), Some(2 << 20));
        assert_eq!(resources.cpu().as_ref().unwrap().quota(), Some(150_000));
        assert_eq!(resources.pids().unwrap().limit(), -1);
        let limits = BTreeMap::from([("nofile".to_owned(), (10, -1))]);
        assert_eq!(resource_limits(&limits).unwrap()[0].hard(), u64::MAX);
        assert!(resource_limits(&BTreeMap::from([("nofile".to_owned(), (10, 5))])).is_err());
        assert!(resource_limits(&BTreeMap::from([("files".to_owned(), (1, 5))])).is_err());
    }

    #[test]
    fn own_mounts_replace_the_defaults_and_parents_come_first() {
        let settings = Settings {
            mounts: vec![
                bind_mount(Path::new("/b"), "/data/deep", &[]),
                bind_mount(Path::new("/a"), "/data", &["ro"]),
                tmpfs_mount("/dev/shm", &[]),
            ],
            ..Settings::default()
        };
        let targets: Vec<_> = mounts(&settings)
            .iter()
            .map(|mount| mount.destination().clone())
            .collect();
        assert_eq!(
            targets
                .iter()
                .filter(|target| *target == Path::new("/dev/shm"))
                .count(),
            1
        );
        let place = |path: &str| {
            targets
                .iter()
                .position(|target| target == Path::new(path))
                .unwrap()
        };
        assert!(place("/data") < place("/data/deep"));
        assert!(place("/dev") < place("/dev/shm"));
    }
}
