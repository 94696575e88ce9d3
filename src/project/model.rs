//! The types of a loaded project.
//!
//! Names follow the Compose Specification. Every type serialises: the
//! serialised service is what is hashed, stored beside a container and compared
//! field by field to tell why a container must be replaced.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::stack::Origin;

/// A whole stack: what `rcompose config` prints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Project name: `^[a-z0-9][a-z0-9_-]*$`.
    pub name: String,
    /// The folder that relative paths are resolved against, absolute.
    pub working_dir: PathBuf,
    /// The stack files in merge order, absolute; empty for standard input.
    pub config_files: Vec<PathBuf>,
    /// Every file that decides what this project is (stack files, env files,
    /// included files), sorted: what live reload watches. Files that would
    /// count if they were there (`.env`, an override file, an optional env
    /// file) are among them.
    pub inputs: Vec<PathBuf>,
    /// Enabled services by key.
    pub services: BTreeMap<String, Service>,
    /// Services left out because none of their profiles is active: key to profiles.
    pub disabled_services: BTreeMap<String, Vec<String>>,
    /// Networks in use by key.
    pub networks: BTreeMap<String, Network>,
    /// Named volumes by key.
    pub volumes: BTreeMap<String, Volume>,
    /// Where values stand, by dotted path (`services.web.image`,
    /// `services.web.ports`). Not every path is there: ask [`Project::origin`].
    #[serde(skip)]
    pub origins: BTreeMap<String, Origin>,
}

impl Project {
    /// Where the value at a dotted path is written; when that path has no
    /// place of its own, its nearest ancestor's.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        let mut at = path;
        loop {
            if let Some(origin) = self.origins.get(at) {
                return Some(origin);
            }
            at = &at[..at.rfind('.')?];
        }
    }
}

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
    pub extra_hosts: BTreeMap<String, Vec<String>>,
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
}

/// How a container is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// Attached to the service's `networks`.
    #[default]
    Networks,
    /// Only a loopback interface.
    None,
    /// The host's network namespace.
    Host,
    /// The network namespace of another service's first container.
    Service(String),
}

/// One attachment of a service to a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Further names on this network, beside the service's and the container's.
    pub aliases: Vec<String>,
    /// A fixed IPv4 address.
    pub ipv4_address: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6_address: Option<Ipv6Addr>,
    /// A fixed MAC address.
    pub mac_address: Option<String>,
    /// Attachment order: the highest comes first (`eth0`).
    pub priority: i64,
    /// The highest provides the default route.
    pub gw_priority: i64,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The port inside the container.
    pub target: u16,
    /// Host port or inclusive range (`(8000, 8010)`: the first free one);
    /// `None` is any free port.
    pub published: Option<(u16, u16)>,
    /// The host address listened on; `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// Transport.
    pub protocol: Protocol,
}

/// Transport protocols of published ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
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

/// Limits. `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Memory reservation (soft limit) in bytes.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap in bytes; -1 is unlimited swap.
    pub memory_swap: Option<i64>,
    /// Processors, in thousandths of one (`1500` is one and a half).
    pub cpus_milli: Option<u64>,
    /// Relative weight, 1024 is one share.
    pub cpu_shares: Option<u64>,
    /// Processors the container may use, `0-2,4`.
    pub cpuset: Option<String>,
    /// Most processes and threads; -1 is unlimited.
    pub pids: Option<i64>,
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The soft limit; -1 is unlimited.
    pub soft: i64,
    /// The hard limit; -1 is unlimited.
    pub hard: i64,
}

/// One mount of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the container, cleaned.
    pub target: String,
    /// What is mounted there.
    pub source: MountSource,
    /// Mounted read-only.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// Make a missing folder (the short form does).
        create_host_path: bool,
        /// `rprivate` (default), `rshared`, `rslave`, `private`, `shared`, `slave`.
        propagation: Option<String>,
    },
    /// A named volume of the project, by key.
    Volume {
        /// Key under `volumes`.
        volume: String,
        /// Do not copy the image's content into a fresh volume.
        nocopy: bool,
        /// A folder inside the volume.
        subpath: Option<String>,
    },
    /// A volume without a name, one a container, inherited at recreation.
    Anonymous,
    /// A tmpfs.
    Tmpfs {
        /// Size limit in bytes.
        size: Option<u64>,
        /// Mode of its root, octal (`0o1777` by default).
        mode: Option<u32>,
        /// Further mount options as written in the short form (`uid=`, `gid=`, `noexec`).
        options: Vec<String>,
    },
}

/// A network of the project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// The name on the host: `<project>_<key>` unless the file says otherwise.
    pub name: String,
    /// Not made or removed by us; must be there.
    pub external: bool,
    /// No way out, and no way in from the host's other networks.
    pub internal: bool,
    /// IPv6 as well.
    pub enable_ipv6: bool,
    /// Address pools; empty picks a free one.
    pub ipam: Vec<IpamPool>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// One address pool, in CIDR form (`172.28.0.0/16`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IpamPool {
    /// The subnet.
    pub subnet: Option<String>,
    /// The part of it that containers get addresses from.
    pub ip_range: Option<String>,
    /// The bridge's own address.
    pub gateway: Option<IpAddr>,
}

/// A named volume of the project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// The name on the host: `<project>_<key>` unless the file says otherwise.
    pub name: String,
    /// Not made or removed by us; must be there.
    pub external: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
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
}

/// Durations as whole nanoseconds.
mod nanoseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the signature serde asks for")]
    pub(super) fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => to.serialize_some(&u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_nanos))
    }
}
