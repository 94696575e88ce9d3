//! Limits, devices and namespaces.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::unset;

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
    /// Processor time a period, in microseconds; -1 is unlimited.
    #[serde(skip_serializing_if = "unset")]
    pub cpu_quota: Option<i64>,
    /// The period of `cpu_quota`, in microseconds.
    #[serde(skip_serializing_if = "unset")]
    pub cpu_period: Option<u64>,
    /// Real-time processor time a period, in microseconds.
    #[serde(skip_serializing_if = "unset")]
    pub cpu_rt_runtime: Option<i64>,
    /// The period of `cpu_rt_runtime`, in microseconds.
    #[serde(skip_serializing_if = "unset")]
    pub cpu_rt_period: Option<u64>,
    /// Number of processors (Windows).
    #[serde(skip_serializing_if = "unset")]
    pub cpu_count: Option<u64>,
    /// Share of the processors in percent (Windows).
    #[serde(skip_serializing_if = "unset")]
    pub cpu_percent: Option<f64>,
    /// How readily memory is swapped, 0 to 100.
    #[serde(skip_serializing_if = "unset")]
    pub memory_swappiness: Option<u64>,
    /// The kernel's memory killer spares the container.
    #[serde(skip_serializing_if = "unset")]
    pub oom_kill_disable: bool,
}

/// A resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The soft limit; -1 is unlimited.
    pub soft: i64,
    /// The hard limit; -1 is unlimited.
    pub hard: i64,
}

/// Weights and bounds of block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioConfig {
    /// Relative weight, 10 to 1000.
    pub weight: Option<u16>,
    /// Relative weight on one device.
    pub weight_device: Vec<DeviceWeight>,
    /// Bytes read a second.
    pub device_read_bps: Vec<DeviceRate>,
    /// Reads a second.
    pub device_read_iops: Vec<DeviceRate>,
    /// Bytes written a second.
    pub device_write_bps: Vec<DeviceRate>,
    /// Writes a second.
    pub device_write_iops: Vec<DeviceRate>,
}

/// A weight on one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceWeight {
    /// The device file of the host.
    pub path: PathBuf,
    /// Relative weight, 10 to 1000.
    pub weight: u16,
}

/// A bound on one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRate {
    /// The device file of the host.
    pub path: PathBuf,
    /// Bytes or operations a second.
    pub rate: u64,
}

/// A device that a container gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A device file of the host, or a folder of them.
    File {
        /// Path on the host.
        source: PathBuf,
        /// Path inside the container.
        target: PathBuf,
        /// What the container may do with it: letters of `rwm`.
        permissions: String,
    },
    /// A device of the Container Device Interface, `vendor.com/class=name`.
    Cdi(String),
}

/// A rule of the device controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Which kind of device.
    pub kind: DeviceKind,
    /// Major number; `None` is any.
    pub major: Option<u32>,
    /// Minor number; `None` is any.
    pub minor: Option<u32>,
    /// What is allowed: letters of `rwm`.
    pub permissions: String,
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Both.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// Devices asked for by what they can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// What the devices can do: all of them.
    pub capabilities: Vec<String>,
    /// Device driver.
    pub driver: Option<String>,
    /// How many.
    pub count: Option<DeviceCount>,
    /// Which.
    pub device_ids: Vec<String>,
    /// Options for the driver.
    pub options: BTreeMap<String, String>,
}

/// A number of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceCount {
    /// All there are.
    All,
    /// So many.
    Number(u64),
}

/// The IPC namespace of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpcMode {
    /// Its own, without `/dev/shm`.
    None,
    /// Its own.
    Private,
    /// Its own, which others may join.
    Shareable,
    /// The host's.
    Host,
    /// That of another service's first container.
    Service(String),
    /// That of a container outside of the stack.
    Container(String),
}

/// The PID namespace of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// The host's.
    Host,
    /// That of another service's first container.
    Service(String),
    /// That of a container outside of the stack.
    Container(String),
}

/// The UTS namespace of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UtsMode {
    /// The host's.
    Host,
}

/// The cgroup namespace of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// The host's.
    Host,
    /// Its own.
    Private,
}

/// The user namespace of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsernsMode {
    /// The host's.
    Host,
    /// Another way that an engine knows, as written.
    Other(String),
}

/// Credentials of Windows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialSpec {
    /// Key of a config.
    pub config: Option<String>,
    /// A file.
    pub file: Option<String>,
    /// A key of the registry.
    pub registry: Option<String>,
}
