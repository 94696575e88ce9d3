//! Limits of memory, processor, disks and processes.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType,
};

use super::SpecError;

/// Limits; `None` is unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory in bytes.
    pub memory: Option<i64>,
    /// Soft limit of memory in bytes.
    pub memory_reservation: Option<i64>,
    /// Memory plus swap in bytes, -1 being unlimited; twice the memory when
    /// only that is limited.
    pub memory_swap: Option<i64>,
    /// Processors, in thousandths of one.
    pub cpus_milli: Option<u64>,
    /// Relative weight, 1024 is one share.
    pub cpu_shares: Option<u64>,
    /// Processors, `0-2,4`.
    pub cpuset: Option<String>,
    /// Most processes and threads; -1 is unlimited.
    pub pids: Option<i64>,
    /// Processor time a period in microseconds, -1 being unlimited. Counts only
    /// without `cpus_milli`.
    pub cpu_quota: Option<i64>,
    /// The period of `cpu_quota` in microseconds.
    pub cpu_period: Option<u64>,
    /// Time of real-time processes a period in microseconds, -1 being unlimited.
    pub cpu_rt_runtime: Option<i64>,
    /// The period of `cpu_rt_runtime` in microseconds.
    pub cpu_rt_period: Option<u64>,
    /// How readily memory is swapped, 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// The kernel's memory killer spares the container.
    pub oom_kill_disable: bool,
    /// Weights and bounds of block devices.
    pub block_io: Option<LinuxBlockIo>,
}

impl Limits {
    /// As the OCI spec has it, without device rules.
    pub fn to_spec(&self) -> LinuxResources {
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        if self.memory.is_some()
            || self.memory_reservation.is_some()
            || self.memory_swap.is_some()
            || self.memory_swappiness.is_some()
            || self.oom_kill_disable
        {
            let mut memory = LinuxMemory::default();
            memory.set_swappiness(self.memory_swappiness);
            memory.set_disable_oom_killer(self.oom_kill_disable.then_some(true));
            memory.set_limit(self.memory);
            memory.set_reservation(self.memory_reservation);
            memory.set_swap(
                self.memory_swap
                    .or_else(|| self.memory.map(|limit| limit.saturating_mul(2))),
            );
            resources.set_memory(Some(memory));
        }
        if self.cpus_milli.is_some()
            || self.cpu_shares.is_some()
            || self.cpuset.is_some()
            || self.cpu_quota.is_some()
            || self.cpu_period.is_some()
            || self.cpu_rt_runtime.is_some()
            || self.cpu_rt_period.is_some()
        {
            let mut cpu = LinuxCpu::default();
            cpu.set_period(self.cpu_period);
            cpu.set_realtime_runtime(self.cpu_rt_runtime);
            cpu.set_realtime_period(self.cpu_rt_period);
            cpu.set_quota(self.cpu_quota);
            if let Some(milli) = self.cpus_milli {
                // A period of 100 ms; a thousandth of a processor is 100 µs of it,
                // and the kernel takes no quota below 1 ms.
                cpu.set_period(Some(100_000));
                cpu.set_quota(Some(
                    i64::try_from(milli.saturating_mul(100))
                        .unwrap_or(i64::MAX)
                        .max(1000),
                ));
            }
            cpu.set_shares(self.cpu_shares);
            cpu.set_cpus(self.cpuset.clone());
            resources.set_cpu(Some(cpu));
        }
        if let Some(limit) = self.pids {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        resources.set_block_io(self.block_io.clone());
        resources
    }
}

pub(crate) fn resource_limits(limits: &BTreeMap<String, (i64, i64)>) -> Result<Vec<PosixRlimit>, SpecError> {
    let limit = |(name, (soft, hard)): (&String, &(i64, i64))| {
        let kind = match name.as_str() {
            "as" => PosixRlimitType::RlimitAs,
            "core" => PosixRlimitType::RlimitCore,
            "cpu" => PosixRlimitType::RlimitCpu,
            "data" => PosixRlimitType::RlimitData,
            "fsize" => PosixRlimitType::RlimitFsize,
            "locks" => PosixRlimitType::RlimitLocks,
            "memlock" => PosixRlimitType::RlimitMemlock,
            "msgqueue" => PosixRlimitType::RlimitMsgqueue,
            "nice" => PosixRlimitType::RlimitNice,
            "nofile" => PosixRlimitType::RlimitNofile,
            "nproc" => PosixRlimitType::RlimitNproc,
            "rss" => PosixRlimitType::RlimitRss,
            "rtprio" => PosixRlimitType::RlimitRtprio,
            "rttime" => PosixRlimitType::RlimitRttime,
            "sigpending" => PosixRlimitType::RlimitSigpending,
            "stack" => PosixRlimitType::RlimitStack,
            _ => return Err(SpecError::ResourceLimit(name.clone(), "there is no such limit")),
        };
        // -1 as a signed number is RLIM_INFINITY as an unsigned one.
        let (soft, hard) = (soft.cast_unsigned(), hard.cast_unsigned());
        if soft > hard {
            return Err(SpecError::ResourceLimit(
                name.clone(),
                "the soft limit is above the hard limit",
            ));
        }
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard)
            .build()
            .map_err(|_| SpecError::ResourceLimit(name.clone(), "it cannot be expressed"))
    };
    limits.iter().map(limit).collect()
}
