//! Services, and what stands alone in them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Attachment, BlkioConfig, Build, CgroupMode, CredentialSpec, Deploy, Develop, Device, DeviceRequest,
    DeviceRule, Extensions, ExternalLink, Grant, Hook, HostAddress, IpcMode, Link, Mount, NetworkMode,
    PidMode, Platform, Port, PreStartHook, Resources, Ulimit, UsernsMode, UtsMode, VolumesFrom, nanoseconds,
    unset,
};

/// One service. Numbers are in base units (bytes, nanoseconds of CPU a second).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// The key under `services`.
    pub name: String,
    /// Image reference as written: `nginx:1.27`, `oci:PATH[:TAG]`,
    /// `oci-archive:PATH`, `docker-archive:PATH`, `rootfs:PATH` (paths absolute).
    pub image: String,
    /// A fixed container name; excludes more than one replica.
    pub container_name: Option<String>,
    /// Arguments; `None` is the image's, an empty list clears it.
    pub command: Option<Vec<String>>,
    /// Program; `None` is the image's, an empty list clears it. When set, the
    /// image's command is not used.
    pub entrypoint: Option<Vec<String>>,
    /// Environment with every value resolved.
    pub environment: BTreeMap<String, String>,
    /// Working directory inside the container.
    pub working_dir: Option<String>,
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// Host name inside the container; default: the short container id.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// User labels.
    pub labels: BTreeMap<String, String>,
    /// Everything mounted: binds, named and anonymous volumes, tmpfs.
    pub volumes: Vec<Mount>,
    /// How the container is connected.
    pub network_mode: NetworkMode,
    /// Attachments by network key; empty unless `network_mode` is [`NetworkMode::Networks`].
    pub networks: BTreeMap<String, Attachment>,
    /// Published ports, one a target port (ranges expanded).
    pub ports: Vec<Port>,
    /// Ports documented as listened on, `80` or `80/udp`; no effect on reachability.
    pub expose: Vec<String>,
    /// Static names for `/etc/hosts`.
    pub extra_hosts: BTreeMap<String, Vec<HostAddress>>,
    /// Services that come first, by key.
    pub depends_on: BTreeMap<String, Dependency>,
    /// Health check; `None` is the image's.
    pub healthcheck: Option<Healthcheck>,
    /// What happens when the container ends.
    pub restart: Restart,
    /// How many containers: `scale` or `deploy.replicas`.
    pub replicas: u32,
    /// Limits of memory, processor and processes.
    pub resources: Resources,
    /// Root file system read-only.
    pub read_only: bool,
    /// Capabilities added (`NET_ADMIN`, `ALL`), upper case without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities dropped, as above.
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, no seccomp, nothing masked.
    pub privileged: bool,
    /// An init process as process 1 that forwards signals and reaps.
    pub init: bool,
    /// A pseudo-terminal as standard input, output and error.
    pub tty: bool,
    /// Standard input kept open.
    pub stdin_open: bool,
    /// Additional groups, names or numbers.
    pub group_add: Vec<String>,
    /// Kernel parameters of the container's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits by name (`nofile`).
    pub ulimits: BTreeMap<String, Ulimit>,
    /// `no-new-privileges:true`, `seccomp=unconfined`, … as written.
    pub security_opt: Vec<String>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// The first signal of a stop; default: the image's, or SIGTERM.
    pub stop_signal: Option<String>,
    /// Time between the first signal and SIGKILL; default 10 s.
    #[serde(with = "nanoseconds")]
    pub stop_grace_period: Option<Duration>,
    /// When the image is fetched.
    pub pull_policy: PullPolicy,
    /// Profiles that enable the service; empty is always on.
    pub profiles: Vec<String>,
    /// How the image is built, when it is.
    #[serde(skip_serializing_if = "unset")]
    pub build: Option<Build>,
    /// The program that provides the service in place of containers.
    #[serde(skip_serializing_if = "unset")]
    pub provider: Option<Provider>,
    /// Rules for watching sources.
    #[serde(skip_serializing_if = "unset")]
    pub develop: Option<Develop>,
    /// What `deploy` says beyond replicas, limits and memory, which are above.
    #[serde(skip_serializing_if = "unset")]
    pub deploy: Option<Deploy>,
    /// Operating system and processor asked for; `None` is this machine's.
    #[serde(skip_serializing_if = "unset")]
    pub platform: Option<Platform>,
    /// Age after which `pull_policy: refresh` fetches again.
    #[serde(skip_serializing_if = "unset", with = "nanoseconds")]
    pub pull_refresh_after: Option<Duration>,
    /// Whether `up` shows its output; `None` is yes.
    #[serde(skip_serializing_if = "unset")]
    pub attach: Option<bool>,
    /// Annotations of the container.
    #[serde(skip_serializing_if = "unset")]
    pub annotations: BTreeMap<String, String>,
    /// Configs mounted.
    #[serde(skip_serializing_if = "unset")]
    pub configs: Vec<Grant>,
    /// Secrets mounted.
    #[serde(skip_serializing_if = "unset")]
    pub secrets: Vec<Grant>,
    /// Models used, by key under `models`.
    #[serde(skip_serializing_if = "unset")]
    pub models: BTreeMap<String, ModelUse>,
    /// Devices of the host.
    #[serde(skip_serializing_if = "unset")]
    pub devices: Vec<Device>,
    /// Devices allowed or made known to the device controller.
    #[serde(skip_serializing_if = "unset")]
    pub device_cgroup_rules: Vec<DeviceRule>,
    /// GPUs asked for.
    #[serde(skip_serializing_if = "unset")]
    pub gpus: Vec<DeviceRequest>,
    /// Name servers in place of the built-in one's upstreams.
    #[serde(skip_serializing_if = "unset")]
    pub dns: Vec<IpAddr>,
    /// Search domains of the resolver; a lone `.` is none.
    #[serde(skip_serializing_if = "unset")]
    pub dns_search: Vec<String>,
    /// Options of the resolver (`ndots:2`), resolv.conf(5).
    #[serde(skip_serializing_if = "unset")]
    pub dns_opt: Vec<String>,
    /// Links to other services.
    #[serde(skip_serializing_if = "unset")]
    pub links: Vec<Link>,
    /// Links to containers outside of the stack.
    #[serde(skip_serializing_if = "unset")]
    pub external_links: Vec<ExternalLink>,
    /// MAC address on the first network, in lower case with colons.
    #[serde(skip_serializing_if = "unset")]
    pub mac_address: Option<String>,
    /// Whose mounts are taken over.
    #[serde(skip_serializing_if = "unset")]
    pub volumes_from: Vec<VolumesFrom>,
    /// Where output goes; `None` is the built-in log.
    #[serde(skip_serializing_if = "unset")]
    pub logging: Option<Logging>,
    /// Run in containers of their own before the first start.
    #[serde(skip_serializing_if = "unset")]
    pub pre_start: Vec<PreStartHook>,
    /// Run in the container after its start.
    #[serde(skip_serializing_if = "unset")]
    pub post_start: Vec<Hook>,
    /// Run in the container before its stop.
    #[serde(skip_serializing_if = "unset")]
    pub pre_stop: Vec<Hook>,
    /// IPC namespace; `None` is a private one.
    #[serde(skip_serializing_if = "unset")]
    pub ipc: Option<IpcMode>,
    /// PID namespace; `None` is a private one.
    #[serde(skip_serializing_if = "unset")]
    pub pid: Option<PidMode>,
    /// UTS namespace; `None` is a private one.
    #[serde(skip_serializing_if = "unset")]
    pub uts: Option<UtsMode>,
    /// Cgroup namespace; `None` is a private one.
    #[serde(skip_serializing_if = "unset")]
    pub cgroup: Option<CgroupMode>,
    /// User namespace; `None` is the host's.
    #[serde(skip_serializing_if = "unset")]
    pub userns_mode: Option<UsernsMode>,
    /// The cgroup that the container's is put below.
    #[serde(skip_serializing_if = "unset")]
    pub cgroup_parent: Option<String>,
    /// Isolation technology: `default`, or one of Windows.
    #[serde(skip_serializing_if = "unset")]
    pub isolation: Option<String>,
    /// Weights and bounds of block devices.
    #[serde(skip_serializing_if = "unset")]
    pub blkio_config: Option<BlkioConfig>,
    /// Preference of the kernel's memory killer, -1000 to 1000.
    #[serde(skip_serializing_if = "unset")]
    pub oom_score_adj: Option<i32>,
    /// OCI runtime asked for; `None` is the built-in one.
    #[serde(skip_serializing_if = "unset")]
    pub runtime: Option<String>,
    /// Options of the writable layer (`size`).
    #[serde(skip_serializing_if = "unset")]
    pub storage_opt: BTreeMap<String, String>,
    /// The engine's API socket inside the container.
    #[serde(skip_serializing_if = "unset")]
    pub use_api_socket: bool,
    /// Windows credentials.
    #[serde(skip_serializing_if = "unset")]
    pub credential_spec: Option<CredentialSpec>,
    /// Extensions (`x-…`); they decide nothing and are not stored.
    #[serde(skip)]
    pub extensions: Extensions,
}

impl Service {
    /// The keys of its networks in the order of a container's interfaces: by
    /// priority, then by name. The first is the main one.
    pub fn networks_in_order(&self) -> Vec<&str> {
        let mut keys: Vec<(&str, i64)> = self
            .networks
            .iter()
            .map(|(key, attachment)| (key.as_str(), attachment.priority))
            .collect();
        keys.sort_by_key(|(key, priority)| (std::cmp::Reverse(*priority), *key));
        keys.into_iter().map(|(key, _)| key).collect()
    }

    /// The MAC address that a container is to have on a network: the one of the
    /// attachment, or the service's own on its main network.
    pub fn mac_on(&self, network: &str) -> Option<&str> {
        let own = self.networks.get(network)?.mac_address.as_deref();
        let main = || self.networks_in_order().first() == Some(&network);
        own.or_else(|| self.mac_address.as_deref().filter(|_| main()))
    }
}

/// One `depends_on` entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// What must hold before the dependent starts.
    pub condition: Condition,
    /// Restart the dependent when this dependency is restarted or replaced by a command.
    pub restart: bool,
    /// `false`: only a warning when the dependency is missing or fails.
    pub required: bool,
}

/// The condition of a dependency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Its containers have been started.
    #[default]
    ServiceStarted,
    /// Its containers are healthy.
    ServiceHealthy,
    /// Its containers ended with status 0.
    ServiceCompletedSuccessfully,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ServiceStarted => "service_started",
            Self::ServiceHealthy => "service_healthy",
            Self::ServiceCompletedSuccessfully => "service_completed_successfully",
        })
    }
}

/// A health check. Unset values take Docker's defaults (`lifecycle::health`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// The probe; `None` keeps the image's.
    pub test: Option<HealthTest>,
    /// Time between probes; default 30 s.
    #[serde(with = "nanoseconds")]
    pub interval: Option<Duration>,
    /// Time after which a probe counts as failed; default 30 s.
    #[serde(with = "nanoseconds")]
    pub timeout: Option<Duration>,
    /// Consecutive failures before *unhealthy*; default 3.
    pub retries: Option<u32>,
    /// Failures do not count for this long after the start; default 0.
    #[serde(with = "nanoseconds")]
    pub start_period: Option<Duration>,
    /// Time between probes in the start period; default 5 s.
    #[serde(with = "nanoseconds")]
    pub start_interval: Option<Duration>,
    /// A probe of ours in place of a command (`x-probe`).
    #[serde(skip_serializing_if = "unset")]
    pub probe: Option<Probe>,
    /// An unhealthy container is ended, for its restart policy to go on
    /// (`x-restart`).
    #[serde(skip_serializing_if = "unset")]
    pub restart: bool,
}

/// A health probe that needs no tool in the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Probe {
    /// Somebody accepts connections at this address inside the container.
    Tcp(SocketAddr),
    /// An HTTP server answers with a status from 200 to 399.
    Http {
        /// Where inside the container.
        address: SocketAddr,
        /// What is asked for: a path with its query.
        path: String,
    },
    /// Somebody accepts connections at this UNIX socket, an absolute path
    /// inside the container.
    Unix(String),
    /// The file is there, an absolute path inside the container.
    File(String),
    /// The container has printed a line with this text since it was started.
    Log(String),
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Http { address, path } => write!(f, "http://{address}{path}"),
            Self::Unix(path) => write!(f, "unix {path}"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Log(text) => write!(f, "log {text:?}"),
        }
    }
}

/// What a health check runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// Nothing: the image's check is switched off.
    None,
    /// A program with its arguments.
    Cmd(Vec<String>),
    /// A command line for the container's shell.
    CmdShell(String),
}

/// `restart`, with `deploy.restart_policy` folded in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Whatever the exit status, until stopped by a command.
    Always,
    /// As `always`, but a stop is remembered across a reboot.
    UnlessStopped,
    /// On a status other than 0, at most so many times.
    OnFailure {
        /// Give up after so many restarts; `None` never gives up.
        max_retries: Option<u32>,
    },
}

/// When an image is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// When it is not there (`if_not_present` is the same).
    #[default]
    Missing,
    /// At every `up`.
    Always,
    /// Never: it must be there.
    Never,
    /// It is built, never fetched.
    Build,
    /// When what is here was fetched longer ago than this: `daily`, `weekly`,
    /// `every_<duration>`, or `refresh` with `pull_refresh_after` (`None`: at
    /// every `up`).
    Refresh {
        /// The age, in nanoseconds when serialised.
        #[serde(with = "nanoseconds")]
        after: Option<Duration>,
    },
}

/// Where the output of a container goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// Log driver: `json-file`, `local`, `none`, `journald`, …; `None` is the built-in one.
    pub driver: Option<String>,
    /// Its options (`max-size`, `max-file`, …).
    pub options: BTreeMap<String, String>,
}

/// A program outside of this one that provides a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provider {
    /// Which: `docker-<type>` or `<type>` in the search path.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its options; one that repeats has several values.
    pub options: BTreeMap<String, Vec<String>>,
}

/// How a service uses a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelUse {
    /// The variable that gets its address.
    pub endpoint_var: String,
    /// The variable that gets its name.
    pub model_var: String,
}
