//! The types of a loaded project.
//!
//! Names follow the Compose Specification. Every type serialises: the
//! serialised service is what is hashed, stored beside a container and compared
//! field by field to tell why a container must be replaced. Fields that came
//! later are left out of it while they have their default value, so that adding
//! one changes no hash.

mod build;
mod connection;
mod deploy;
mod limit;
mod mount;
mod resource;
mod service;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use build::{
    Build, BuildSecret, Develop, Hook, Platform, PlatformError, PreStartHook, WatchAction, WatchRule,
};
pub use connection::{Attachment, ExternalLink, HostAddress, Link, NetworkMode, Port, PortMode, Protocol};
pub use deploy::{
    Deploy, DeployMode, EndpointMode, FailureAction, GenericResource, Placement, Reservations,
    RestartCondition, RestartPolicy, UpdateConfig, UpdateOrder,
};
pub use limit::{
    BlkioConfig, CgroupMode, CredentialSpec, Device, DeviceCount, DeviceKind, DeviceRate, DeviceRequest,
    DeviceRule, DeviceWeight, IpcMode, PidMode, Resources, Ulimit, UsernsMode, UtsMode,
};
pub use mount::{
    BindRecursive, Consistency, Grant, Mount, MountSource, Propagation, Selinux, VolumesFrom, VolumesOf,
};
pub use resource::{Config, FileSource, IpamPool, Network, Secret, ServedModel, Volume};
pub use service::{
    Condition, Dependency, HealthTest, Healthcheck, Logging, ModelUse, Probe, Provider, PullPolicy, Restart,
    Service,
};

pub use crate::stack::Origin;

/// Extensions by key, `x-` included.
pub type Extensions = BTreeMap<String, serde_json::Value>;

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
    /// Configs in use by key.
    #[serde(default)]
    pub configs: BTreeMap<String, Config>,
    /// Secrets in use by key.
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    /// Models in use by key.
    #[serde(default)]
    pub models: BTreeMap<String, ServedModel>,
    /// Extensions (`x-…`) of the whole stack.
    #[serde(skip)]
    pub extensions: Extensions,
    /// Where values stand, by dotted path (`services.web.image`,
    /// `services.web.ports`). Not every path is there: ask [`Project::origin`].
    #[serde(skip)]
    pub origins: BTreeMap<String, Origin>,
}

impl Project {
    /// Gives configs and secrets that come from the environment the values that
    /// they have there; they are never stored with the project.
    pub fn take_values(&mut self, environment: &BTreeMap<String, String>) {
        let secrets = self.secrets.values_mut().map(|secret| &mut secret.source);
        let configs = self.configs.values_mut().map(|config| &mut config.source);
        for source in secrets.chain(configs) {
            if let FileSource::Environment { variable, value } = source {
                *value = environment.get(variable).cloned();
            }
        }
    }

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

/// Whether a field has its default value and need not be serialised.
fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Serialises a type as the text that it prints and reads.
macro_rules! as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
use as_text;

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
