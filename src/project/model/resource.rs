//! Networks, volumes, configs, secrets and models of a project.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Extensions, unset};

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
    /// Driver: `bridge` (default), `host`, `none`, `macvlan`, `ipvlan`, `overlay`.
    #[serde(skip_serializing_if = "unset")]
    pub driver: Option<String>,
    /// Options for the driver.
    #[serde(skip_serializing_if = "unset")]
    pub driver_opts: BTreeMap<String, String>,
    /// Containers outside of the stack may be attached.
    #[serde(skip_serializing_if = "unset")]
    pub attachable: bool,
    /// IPv4; `None` is yes.
    #[serde(skip_serializing_if = "unset")]
    pub enable_ipv4: Option<bool>,
    /// Address management driver; `None` is `default`.
    #[serde(skip_serializing_if = "unset")]
    pub ipam_driver: Option<String>,
    /// Options for the address management driver.
    #[serde(skip_serializing_if = "unset")]
    pub ipam_options: BTreeMap<String, String>,
    /// Extensions (`x-…`); they decide nothing and are not stored.
    #[serde(skip)]
    pub extensions: Extensions,
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
    /// Addresses that are taken by others, by name.
    #[serde(skip_serializing_if = "unset")]
    pub aux_addresses: BTreeMap<String, IpAddr>,
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
    /// Driver; `None` is `local`.
    #[serde(skip_serializing_if = "unset")]
    pub driver: Option<String>,
    /// Options for the driver: for `local` those of mount(8), `type`, `o`, `device`.
    #[serde(skip_serializing_if = "unset")]
    pub driver_opts: BTreeMap<String, String>,
    /// Extensions (`x-…`); they decide nothing and are not stored.
    #[serde(skip)]
    pub extensions: Extensions,
}

/// A config of the project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The name on the host: `<project>_<key>` unless the file says otherwise.
    pub name: String,
    /// Where its content comes from.
    pub source: FileSource,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Template driver (`golang`).
    pub template_driver: Option<String>,
    /// Extensions (`x-…`); they decide nothing and are not stored.
    #[serde(skip)]
    pub extensions: Extensions,
}

/// A secret of the project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secret {
    /// The name on the host: `<project>_<key>` unless the file says otherwise.
    pub name: String,
    /// Where its content comes from; never [`FileSource::Content`].
    pub source: FileSource,
    /// A driver that keeps it.
    #[serde(skip_serializing_if = "unset")]
    pub driver: Option<String>,
    /// Options for the driver.
    #[serde(skip_serializing_if = "unset")]
    pub driver_opts: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Template driver (`golang`).
    pub template_driver: Option<String>,
    /// Extensions (`x-…`); they decide nothing and are not stored.
    #[serde(skip)]
    pub extensions: Extensions,
}

/// Where the content of a config or secret comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSource {
    /// Made by someone else; must be there.
    #[default]
    External,
    /// A file of the host, absolute.
    File(PathBuf),
    /// A variable of the environment that the project was loaded in.
    Environment {
        /// Its name.
        variable: String,
        /// Its value; `None` when it is not set. Never stored.
        #[serde(skip)]
        value: Option<String>,
    },
    /// The text itself.
    Content(String),
}

/// A model of the project: an artifact that is served to services by a runner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServedModel {
    /// The name; default: the key.
    pub name: String,
    /// Reference of the artifact.
    pub model: String,
    /// Tokens of context; `None` is the runner's default.
    pub context_size: Option<i64>,
    /// Flags of the runner.
    pub runtime_flags: Vec<String>,
    /// Extensions (`x-…`); they decide nothing and are not stored.
    #[serde(skip)]
    pub extensions: Extensions,
}
