//! What one run needs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use super::foreign::Foreign;
use super::seccomp::SeccompPolicy;

/// One run of one container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// Container id, for messages and records.
    pub id: String,
    /// The container as an OCI runtime spec. Its `root` is not used:
    /// [`RunRequest::rootfs`] is. `linux.seccomp` counts only under
    /// [`SeccompPolicy::Spec`].
    pub spec: Spec,
    /// The root file system.
    pub rootfs: Rootfs,
    /// Fresh volumes that get the image's content first.
    pub populate: Vec<Populate>,
    /// Bind mounts whose source is inside a volume: destination to the folder
    /// that the source must not leave. The mount's `source` is then a path
    /// below that folder, resolved as if the folder were the root.
    pub confined: BTreeMap<PathBuf, PathBuf>,
    /// Bind mounts of images: destination to the layers, topmost first. What is
    /// mounted is the layers together, read-only; the mount's `source` is a path
    /// inside of them, `/` for all.
    #[serde(default)]
    pub layered: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// A mount namespace (`/proc/PID/ns/mnt`) whose `/dev/shm` the container
    /// gets, in place of the source of its bind mount there.
    #[serde(default)]
    pub shm_of: Option<PathBuf>,
    /// `user[:group]`, names or numbers, looked up in the container's
    /// `/etc/passwd` and `/etc/group`; overrides `process.user` of the spec.
    /// `HOME` is set from it unless the environment has one.
    pub user: Option<String>,
    /// Additional groups, names or numbers.
    pub group_add: Vec<String>,
    /// Which system calls are let through.
    pub seccomp: SeccompPolicy,
    /// The cgroup. Limits come from `linux.resources` of the spec.
    pub cgroup: CgroupRequest,
    /// An init process as process 1 that forwards signals and reaps.
    pub init: bool,
    /// Standard input stays open (and silent) instead of being `/dev/null`.
    pub stdin_open: bool,
    /// Where the output goes (`monitor::log` has the format).
    pub log: PathBuf,
    /// How it is kept there.
    #[serde(default)]
    pub log_plan: LogPlan,
    /// Where an [`ExitRecord`](super::ExitRecord) goes when it has ended.
    pub exit_record: PathBuf,
    /// Where a [`RunningRecord`](super::RunningRecord) goes while it runs.
    pub running_record: PathBuf,
    /// Another runtime that makes the container, in place of ours.
    #[serde(default)]
    pub foreign: Option<Foreign>,
    /// What the monitor does when the supervisor vanishes.
    pub revive: Option<Revive>,
}

/// A root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rootfs {
    /// Layers under a private writable one.
    Overlay {
        /// The read-only folders, topmost first. None at all is an empty image.
        layers: Vec<PathBuf>,
        /// The writable layer; made when it is missing.
        upper: PathBuf,
        /// Scratch space of overlayfs, on the same file system; made when it is missing.
        work: PathBuf,
        /// Where it is mounted, in the container's own mount namespace; made when it is missing.
        mountpoint: PathBuf,
        /// Mounted read-only when everything is in place.
        readonly: bool,
    },
    /// A folder as it is.
    Directory {
        /// The folder.
        path: PathBuf,
        /// Mounted read-only when everything is in place.
        readonly: bool,
    },
}

impl Rootfs {
    /// Whether it is read-only in the end.
    pub(crate) fn is_readonly(&self) -> bool {
        match self {
            Self::Overlay { readonly, .. } | Self::Directory { readonly, .. } => *readonly,
        }
    }

    /// Where it is on the host.
    pub(crate) fn place(&self) -> &Path {
        let (Self::Directory { path, .. } | Self::Overlay { mountpoint: path, .. }) = self;
        path
    }
}

/// How a container's output is kept, and who else is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPlan {
    /// As what.
    pub format: LogFormat,
    /// Bytes after which a new file is begun; `None` is never.
    pub max_size: Option<u64>,
    /// Most files, the present one included; 0 counts as 1.
    pub max_files: u32,
    /// What each object of [`LogFormat::Json`] has as its `attrs`, sorted; none
    /// at all when it is empty.
    pub attributes: BTreeMap<String, String>,
    /// Who gets each line, too.
    pub forward: Option<LogForward>,
}

/// Who gets each line of a container's output as it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogForward {
    /// A syslog server.
    Syslog {
        /// Where it is.
        address: SyslogAddress,
        /// Facility code, 0 to 23 (RFC 5424, 6.2.1).
        facility: u8,
        /// How a message is written.
        format: SyslogFormat,
        /// What names the container.
        tag: String,
    },
    /// The journal of systemd, by its native protocol.
    Journal {
        /// Its socket.
        socket: PathBuf,
        /// Fields of every entry.
        fields: Vec<(String, String)>,
    },
}

/// Where a syslog server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogAddress {
    /// Datagrams to an address.
    Udp(SocketAddr),
    /// A connection to an address.
    Tcp(SocketAddr),
    /// A socket of this machine: of datagrams, or else of a stream.
    Unix(PathBuf),
}

/// How a message is written for a syslog server, by Docker's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyslogFormat {
    /// As programs write to the machine's own syslog: no host name.
    #[default]
    Unix,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424, times in seconds.
    Rfc5424,
    /// RFC 5424, times in microseconds.
    Rfc5424Micro,
}

/// What a record of a log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line of the Container Runtime Interface.
    #[default]
    Text,
    /// An object of Docker's `json-file` driver.
    Json,
    /// Nothing is kept.
    Nothing,
}

/// A fresh volume that gets what the image has at the place it is mounted at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Populate {
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// The volume's folder of data.
    pub source: PathBuf,
    /// A file that says it has been done, in a folder of the same file system
    /// outside of `source`. While it is missing the volume counts as fresh.
    pub marker: PathBuf,
}

/// Which cgroup, and how exact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupRequest {
    /// Path below each hierarchy's base, `rcompose-<world>/<id>`.
    pub path: PathBuf,
    /// A limit that this machine cannot enforce is an error, not a warning.
    pub strict: bool,
}

/// How a supervisor is brought back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revive {
    /// Program (absolute) and arguments.
    pub command: Vec<String>,
    /// A lock file that lets one of the stack's monitors do it.
    pub lock: PathBuf,
}
