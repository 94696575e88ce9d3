//! What is written about a run.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

use super::blueprint::ProcessPlan;
use super::cgroup::Cgroup;
use super::cgroup::systemd::Unit;
use super::foreign::Foreign;
use super::process::ProcessId;
use super::seccomp::SeccompPolicy;
use crate::sys::kernel_file;

/// A run while it goes on. Written by the monitor before the program runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningRecord {
    /// The monitor.
    pub monitor: ProcessId,
    /// The container's process 1.
    pub init: ProcessId,
    /// When it was made, in nanoseconds since 1970 (UTC).
    pub started_at: u64,
    /// What was known before.
    pub fixed: Fixed,
}

/// The part of a [`RunningRecord`] that is known before the process is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    /// Container id.
    pub id: String,
    /// The boot that process numbers and start times belong to.
    pub boot: String,
    /// The cgroup.
    pub cgroup: Cgroup,
    /// The scope whose cgroup it is, when systemd has made it.
    #[serde(default)]
    pub unit: Option<Unit>,
    /// Descriptors the monitor keeps for supervisors: name to number.
    pub kept: BTreeMap<String, i32>,
    /// Whether the monitor takes [`Orders`](super::Orders).
    #[serde(default)]
    pub takes_orders: bool,
    /// `CLONE_NEW*` of the namespaces that are not the host's.
    pub(crate) namespaces: i32,
    /// What processes made later take over.
    pub(crate) process: ProcessPlan,
    /// System call policy.
    pub(crate) seccomp: SeccompPolicy,
    /// The profile of [`SeccompPolicy::Spec`].
    pub(crate) profile: Option<LinuxSeccomp>,
    /// The runtime that made it, when it is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) foreign: Option<Foreign>,
}

impl Fixed {
    /// Whether its processes and cgroup can still be there.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot == boot()
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit status as a shell counts: 128 and the number of the signal that
    /// killed it.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The kernel killed processes of it for want of memory.
    pub oom_killed: bool,
    /// When it was made, in nanoseconds since 1970 (UTC); 0 when unknown.
    pub started_at: u64,
    /// When it ended, as above.
    pub finished_at: u64,
    /// What went wrong beside the program itself.
    pub error: Option<String>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitStatus {
    /// As a shell counts: 128 and the number of the signal that killed it.
    pub code: i32,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl ExitStatus {
    /// From a status as wait(2) has it.
    pub fn of_wait(status: i32) -> Self {
        match status & 0x7f {
            0 => Self {
                code: (status >> 8) & 0xff,
                signal: None,
            },
            signal => Self {
                code: 128 + signal,
                signal: Some(signal),
            },
        }
    }
}

/// The present boot (proc_sys_kernel(5), `random/boot_id`).
pub(crate) fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| {
        let text = kernel_file::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
