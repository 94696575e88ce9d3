//! How images are built, and what happens around the life of a container.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{HostAddress, Ulimit, as_text};

/// How an image is built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    /// What is built: an absolute path, or an address (`https://…`, `git@…`,
    /// `ssh://…`); `None` is the project folder.
    pub context: Option<String>,
    /// The Dockerfile: relative to the context, or absolute.
    pub dockerfile: Option<String>,
    /// The Dockerfile itself, in place of a file.
    pub dockerfile_inline: Option<String>,
    /// The stage that is built; `None` is the last.
    pub target: Option<String>,
    /// Build arguments with values resolved.
    pub args: BTreeMap<String, String>,
    /// Further contexts by name: a path, an address, `docker-image://…`,
    /// `oci-layout://…`, `service:NAME`.
    pub additional_contexts: BTreeMap<String, String>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Further names of the image.
    pub tags: Vec<String>,
    /// Build without a cache.
    pub no_cache: bool,
    /// Stages built without a cache.
    pub no_cache_filter: Vec<String>,
    /// Caches read (`type=local,src=…` or an image).
    pub cache_from: Vec<String>,
    /// Caches written.
    pub cache_to: Vec<String>,
    /// Fetch base images even when they are there.
    pub pull: bool,
    /// Static names for `/etc/hosts` of `RUN`.
    pub extra_hosts: BTreeMap<String, Vec<HostAddress>>,
    /// Network of `RUN`: `none`, `host`, or a network of the project.
    pub network: Option<String>,
    /// Size of `/dev/shm` of `RUN`, in bytes.
    pub shm_size: Option<u64>,
    /// Resource limits of `RUN`.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Secrets of `RUN --mount=type=secret`.
    pub secrets: Vec<BuildSecret>,
    /// SSH agents of `RUN --mount=type=ssh`: id to socket or key, `None` is the
    /// agent of the environment.
    pub ssh: BTreeMap<String, Option<String>>,
    /// Platforms the image is built for.
    pub platforms: Vec<Platform>,
    /// Isolation technology: `default`, or one of Windows.
    pub isolation: Option<String>,
    /// Elevated privileges that the build may ask for.
    pub entitlements: Vec<String>,
    /// All privileges for `RUN`.
    pub privileged: bool,
    /// Provenance attestation: `true`, `false` or its options.
    pub provenance: Option<String>,
    /// Bill of materials: `true`, `false` or its options.
    pub sbom: Option<String>,
}

/// A secret of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BuildSecret {
    /// Key under `secrets`.
    pub source: String,
    /// The id that the Dockerfile asks for; by default the key.
    pub id: String,
    /// Owner of the file; `None` is 0.
    pub uid: Option<u32>,
    /// Group of the file; `None` is 0.
    pub gid: Option<u32>,
    /// Mode of the file; `None` is 0400.
    pub mode: Option<u32>,
}

/// An operating system and processor, `linux/amd64`, `linux/arm/v7`. What is
/// not said is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// Operating system; empty is this machine's.
    pub os: String,
    /// Processor, as Go calls it; empty is this machine's.
    pub architecture: String,
    /// Variant of the processor (`v7`).
    pub variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.os, &self.architecture, &self.variant];
        let said: Vec<&str> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        f.write_str(&said.join("/"))
    }
}

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: it is written OS/PROCESSOR[/VARIANT]")]
pub struct PlatformError(pub String);

impl FromStr for Platform {
    type Err = PlatformError;

    /// Reads `linux`, `arm64`, `linux/arm64`, `linux/arm/v7`; `x86_64` and
    /// `aarch64` are `amd64` and `arm64`, and `arm64/v8` is `arm64`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || PlatformError(text.to_owned());
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        if !parts.iter().all(word) {
            return Err(wrong());
        }
        let (os, architecture, variant) = match parts.as_slice() {
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => (*os, "", ""),
            [architecture] => ("", *architecture, ""),
            [os, architecture] => (*os, *architecture, ""),
            [os, architecture, variant] => (*os, *architecture, *variant),
            _ => return Err(wrong()),
        };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "v8" | "8" | "") => ("arm64", ""),
            ("armhf", "") => ("arm", "v7"),
            ("armel", "") => ("arm", "v6"),
            ("i386" | "i686", variant) => ("386", variant),
            other => other,
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        })
    }
}

as_text!(Platform);

/// A command in the life of a container, run inside of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    /// What is run.
    pub command: Vec<String>,
    /// Its user; `None` is the container's.
    pub user: Option<String>,
    /// With all privileges.
    pub privileged: bool,
    /// Its working directory; `None` is the container's.
    pub working_dir: Option<String>,
    /// Variables beside the container's; `None` has no value and is left out.
    pub environment: BTreeMap<String, Option<String>>,
}

/// A command run in a container of its own before a service is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreStartHook {
    /// What is run; `None` is what the image runs.
    pub command: Option<Vec<String>>,
    /// Its image; `None` is the service's.
    pub image: Option<String>,
    /// Its user; `None` is the service's.
    pub user: Option<String>,
    /// With all privileges.
    pub privileged: bool,
    /// Its working directory; `None` is the service's.
    pub working_dir: Option<String>,
    /// Variables beside the service's; `None` has no value and is left out.
    pub environment: BTreeMap<String, Option<String>>,
    /// Once a replica instead of once a service.
    pub per_replica: bool,
}

/// Rules for development.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Develop {
    /// What is watched.
    pub watch: Vec<WatchRule>,
}

/// What a change of sources does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRule {
    /// File or folder that is watched, absolute.
    pub path: PathBuf,
    /// What a change does.
    pub action: WatchAction,
    /// Where in the container files are copied to; needed by the `sync` actions.
    pub target: Option<String>,
    /// Patterns of files that count, relative to `path`; empty is all.
    pub include: Vec<String>,
    /// Patterns of files that do not count, relative to `path`.
    pub ignore: Vec<String>,
    /// Copy all files once at the start.
    pub initial_sync: bool,
    /// Run after a copy, for [`WatchAction::SyncExec`].
    pub exec: Option<Hook>,
}

/// What a change of sources does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchAction {
    /// Builds the image anew and replaces the containers.
    #[serde(rename = "rebuild")]
    Rebuild,
    /// Copies the files.
    #[serde(rename = "sync")]
    Sync,
    /// Restarts the containers.
    #[serde(rename = "restart")]
    Restart,
    /// Copies the files and restarts the containers.
    #[serde(rename = "sync+restart")]
    SyncRestart,
    /// Copies the files and runs a command.
    #[serde(rename = "sync+exec")]
    SyncExec,
}
