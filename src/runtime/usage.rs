//! What a container uses, as its cgroup and its network namespace say.
//!
//! Reads only. A number that the machine does not keep (no such controller) is
//! zero, as `docker stats` prints it.

use std::fs;
use std::time::Duration;

use super::cgroup::{Cgroup, Folder, Version};
use super::record::RunningRecord;

/// Limits from here on are "none" on version 1: the largest number of whole
/// pages, less whatever the page size is.
const NO_LIMIT: u64 = 1 << 60;

/// What a container uses at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since the container began, of all its processors together.
    pub cpu: Duration,
    /// Memory in bytes, without file pages that are not in active use.
    pub memory: u64,
    /// The memory limit in bytes; `None` when there is none.
    pub memory_limit: Option<u64>,
    /// Bytes read from block devices.
    pub read: u64,
    /// Bytes written to block devices.
    pub written: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Bytes received on its interfaces but the loopback one.
    pub received: u64,
    /// Bytes sent on them.
    pub sent: u64,
}

impl Usage {
    /// Reads what a running container uses. `network`: it has interfaces of its
    /// own; the host's traffic is not the container's.
    pub fn read(running: &RunningRecord, network: bool) -> Self {
        let mut usage = Self::of_cgroup(&running.fixed.cgroup);
        if network {
            let path = format!("/proc/{}/net/dev", running.init.pid);
            let text = fs::read_to_string(path).unwrap_or_default();
            (usage.received, usage.sent) = traffic(&text);
        }
        usage
    }

    fn of_cgroup(cgroup: &Cgroup) -> Self {
        let mut usage = Self::default();
        let folder = |name: &str| cgroup.folders.iter().find(|folder| folder.has(name));
        if let Some(folder) = folder("memory") {
            usage.read_memory(folder);
        }
        if let Some(folder) = folder("cpuacct") {
            usage.cpu = Duration::from_nanos(folder.number("cpuacct.usage").unwrap_or(0));
        } else if let Some(folder) = cgroup.folders.iter().find(|one| one.version == Version::V2) {
            // There without any controller.
            let used = folder.table("cpu.stat").get("usage_usec").copied();
            usage.cpu = Duration::from_micros(used.unwrap_or(0));
        }
        usage.processes = folder("pids")
            .and_then(|folder| folder.number("pids.current"))
            .unwrap_or_else(|| u64::try_from(cgroup.processes().len()).unwrap_or(u64::MAX));
        if let Some(folder) = folder("blkio") {
            let text = folder
                .text("blkio.throttle.io_service_bytes_recursive")
                .unwrap_or_default();
            (usage.read, usage.written) = operations(&text);
        } else if let Some(folder) = folder("io") {
            (usage.read, usage.written) = rates(&folder.text("io.stat").unwrap_or_default());
        }
        usage
    }

    fn read_memory(&mut self, folder: &Folder) {
        let (used, limit, cache) = match folder.version {
            Version::V1 => (
                "memory.usage_in_bytes",
                "memory.limit_in_bytes",
                "total_inactive_file",
            ),
            Version::V2 => ("memory.current", "memory.max", "inactive_file"),
        };
        let idle = folder.table("memory.stat").get(cache).copied().unwrap_or(0);
        self.memory = folder.number(used).unwrap_or(0).saturating_sub(idle);
        // "max" on version 2 is no number.
        self.memory_limit = folder.number(limit).filter(|limit| *limit < NO_LIMIT);
    }
}

/// `8:0 Read 4096` lines: bytes read and written.
fn operations(text: &str) -> (u64, u64) {
    let sum = |kind: &str| {
        text.lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace().skip(1);
                (words.next() == Some(kind)).then_some(())?;
                words.next()?.parse::<u64>().ok()
            })
            .sum()
    };
    (sum("Read"), sum("Write"))
}

/// `8:0 rbytes=4096 wbytes=0 …` lines: bytes read and written.
fn rates(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        text.split_whitespace()
            .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
            .sum()
    };
    (sum("rbytes="), sum("wbytes="))
}

/// Bytes received and sent in a text of `/proc/PID/net/dev`, without loopback.
fn traffic(text: &str) -> (u64, u64) {
    let mut sums = (0_u64, 0_u64);
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let mut numbers = numbers.split_whitespace().map(|word| word.parse().unwrap_or(0));
        sums.0 += numbers.next().unwrap_or(0);
        sums.1 += numbers.nth(7).unwrap_or(0);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_both_versions_are_understood() {
        let v1 = "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 1\n8:16 Read 4\n8:16 Write 0\nTotal 4612\n";
        assert_eq!(operations(v1), (4100, 512));
        assert_eq!(operations(""), (0, 0));
        let v2 = "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=1 wbytes=2 rios=0 wios=0\n";
        assert_eq!(rates(v2), (11, 22));
    }

    #[test]
    fn traffic_is_counted_without_loopback() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n    \
                    lo: 100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n  \
                    eth0: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n\
                    eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(traffic(text), (8, 11));
    }
}
