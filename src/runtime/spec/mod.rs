//! A container with Docker's defaults as an OCI runtime spec.

mod devices;
mod limits;
mod mounts;
mod security;

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType,
    LinuxSeccomp, Mount, Process, Spec, User,
};

use self::devices::devices;
pub use self::devices::{Device, describe_device};
pub use self::limits::Limits;
pub(super) use self::limits::resource_limits;
use self::mounts::mounts;
pub use self::mounts::{bind_mount, tmpfs_mount};
pub(in crate::runtime) use self::security::check_sysctl;
use self::security::{
    SecurityOptions, capabilities, masked_paths, readonly_paths, security_options, sysctls,
};
pub use self::security::{bounding_set, seccomp_file};
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
    /// A field that contradicts itself.
    #[error("{0}: {1}")]
    Wrong(&'static str, String),
    /// A deadline that the kernel would not take.
    #[error("sched_setattr: `SCHED_DEADLINE` {0}")]
    Deadline(String),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::security::has_apparmor;
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
        let (net, ipc, uts) = (libc::CLONE_NEWNET, libc::CLONE_NEWIPC, libc::CLONE_NEWUTS);
        assert!(check_sysctl("net.core.somaxconn", net).is_ok());
        assert!(check_sysctl("net.core.somaxconn", ipc | uts).is_err());
        assert!(check_sysctl("kernel.shmmax", ipc).is_ok());
        assert!(check_sysctl("kernel.shmmax", net).is_err());
        assert!(check_sysctl("fs.mqueue.queues_max", net | uts).is_err());
        assert!(check_sysctl("kernel.domainname", uts).is_ok());
        assert!(check_sysctl("kernel.domainname", net | ipc).is_err());
        assert!(check_sysctl("kernel.hostname", uts).is_err());
        assert!(check_sysctl("kernel.core_pattern", net | ipc | uts).is_err());
        assert!(check_sysctl("vm.swappiness", net).is_err());
        assert!(check_sysctl("net..x", net).is_err());
        assert!(check_sysctl("net.ipv4.conf.eth0/1.forwarding", net).is_ok());
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
