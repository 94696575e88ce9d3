//! What is mounted into containers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::unset;

/// One mount of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Absolute path inside the container, cleaned.
    pub target: String,
    /// What is mounted there.
    pub source: MountSource,
    /// Mounted read-only.
    pub read_only: bool,
    /// How far the host's and the container's view may differ; of no effect on Linux.
    #[serde(skip_serializing_if = "unset")]
    pub consistency: Option<Consistency>,
    /// Labels of the anonymous volume.
    #[serde(skip_serializing_if = "unset")]
    pub volume_labels: BTreeMap<String, String>,
    /// The anonymous volume stays empty, whatever the image has there.
    #[serde(skip_serializing_if = "unset")]
    pub volume_nocopy: bool,
}

/// How far the host's and the container's view of a mount may differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Not at all.
    #[default]
    Consistent,
    /// The host's view decides.
    Cached,
    /// The container's view decides.
    Delegated,
}

/// What a mount shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute path.
        path: PathBuf,
        /// Make a missing folder (the short form does).
        create_host_path: bool,
        /// Mount propagation; `None` is `rprivate`.
        propagation: Option<Propagation>,
        /// What becomes of mounts below the path.
        #[serde(default, skip_serializing_if = "unset")]
        recursive: BindRecursive,
        /// SELinux label: shared (`z`) or private (`Z`).
        #[serde(default, skip_serializing_if = "unset")]
        selinux: Option<Selinux>,
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
    #[default]
    Anonymous,
    /// The files of an image, read-only unless written to a layer of its own.
    Image {
        /// Its reference.
        image: String,
        /// A folder inside the image.
        subpath: Option<String>,
    },
    /// A named pipe of Windows.
    #[serde(rename = "npipe")]
    NamedPipe {
        /// Its path.
        path: String,
    },
    /// A volume of a cluster.
    Cluster {
        /// Its name.
        volume: String,
    },
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

/// Mount propagation, mount_namespaces(7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// Nothing passes, here and below.
    #[default]
    Rprivate,
    /// Nothing passes.
    Private,
    /// Mounts pass both ways, here and below.
    Rshared,
    /// Mounts pass both ways.
    Shared,
    /// Mounts pass from the host, here and below.
    Rslave,
    /// Mounts pass from the host.
    Slave,
}

impl Propagation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Rprivate,
        Self::Private,
        Self::Rshared,
        Self::Shared,
        Self::Rslave,
        Self::Slave,
    ];

    /// As mount(8) calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rprivate => "rprivate",
            Self::Private => "private",
            Self::Rshared => "rshared",
            Self::Shared => "shared",
            Self::Rslave => "rslave",
            Self::Slave => "slave",
        }
    }
}

/// What becomes of mounts below a bind mount's source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindRecursive {
    /// They come along; read-only too when the mount is, where the kernel can.
    #[default]
    Enabled,
    /// They do not come along.
    Disabled,
    /// They come along and stay writable.
    Writable,
    /// They come along and must be read-only.
    Readonly,
}

/// Whether an SELinux label is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selinux {
    /// By several containers.
    #[serde(rename = "z")]
    Shared,
    /// By no other container.
    #[serde(rename = "Z")]
    Private,
}

/// A config or secret that a service is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Grant {
    /// Key under `configs` or `secrets`.
    pub source: String,
    /// Absolute path inside the container: by default `/<key>` for a config,
    /// `/run/secrets/<key>` for a secret, and relative paths are below these folders.
    pub target: String,
    /// Owner; `None` is 0.
    pub uid: Option<u32>,
    /// Group; `None` is 0.
    pub gid: Option<u32>,
    /// File mode; `None` is 0444.
    pub mode: Option<u32>,
}

/// Whose mounts a service takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    /// Whose.
    pub source: VolumesOf,
    /// Mounted read-only.
    pub read_only: bool,
}

/// The owner of mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumesOf {
    /// Another service, by key.
    Service(String),
    /// A container outside of the stack, by name.
    Container(String),
}
