//! Processes: who they are, what they may do, how the kernel treats them.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxIOPriority, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, MemoryPolicyFlagType,
    MemoryPolicyModeType, PosixRlimitType, Process, Scheduler,
};

use super::{CapabilityPlan, Listener, ProcessPlan, ResourceLimit, SchedulePlan};
use crate::runtime::capability;
use crate::runtime::spec::SpecError;
use crate::sys::seccomp;

/// What the spec says of a process.
pub(crate) fn plan(process: &Process) -> Result<ProcessPlan, SpecError> {
    let args = process
        .args()
        .clone()
        .filter(|args| !args.is_empty())
        .ok_or(SpecError::Missing("command"))?;
    let env = process.env().clone().unwrap_or_default();
    for text in args.iter().chain(&env) {
        if text.contains('\0') {
            return Err(SpecError::Nul(format!("{text:?}")));
        }
    }
    if !process.cwd().is_absolute() {
        return Err(SpecError::Unsupported(format!(
            "a relative working directory ({})",
            process.cwd().display()
        )));
    }
    let set =
        |pick: fn(&oci_spec::runtime::LinuxCapabilities) -> &Option<oci_spec::runtime::Capabilities>| {
            capability::from_spec(
                process
                    .capabilities()
                    .as_ref()
                    .and_then(|sets| pick(sets).as_ref()),
            )
        };
    let permitted = set(|sets| sets.permitted());
    let inheritable = set(|sets| sets.inheritable());
    let user = process.user();
    Ok(ProcessPlan {
        args,
        env,
        cwd: process.cwd().clone(),
        cwd_exists: false,
        user: None,
        group_add: Vec::new(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone(),
        umask: user.umask(),
        capabilities: CapabilityPlan {
            bounding: set(|sets| sets.bounding()),
            effective: set(|sets| sets.effective()) & permitted,
            permitted,
            inheritable,
            ambient: set(|sets| sets.ambient()) & permitted & inheritable,
        },
        no_new_privileges: process.no_new_privileges() == Some(true),
        limits: process.rlimits().iter().flatten().map(resource_limit).collect(),
        oom_score_adj: process.oom_score_adj(),
        terminal: process.terminal() == Some(true),
        size: process.console_size().as_ref().and_then(|size| {
            Some((
                u16::try_from(size.height()).ok()?,
                u16::try_from(size.width()).ok()?,
            ))
        }),
        exact: false,
        filter_flags: seccomp::SPEC_ALLOW,
        listener: None,
        schedule: process.scheduler().as_ref().map(schedule).transpose()?,
        io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
        personality: None,
        memory_policy: None,
        affinity: match process.exec_cpu_affinity() {
            Some(affinity) => (
                processors(affinity.initial().as_deref().unwrap_or_default())?,
                processors(affinity.cpu_affinity_final().as_deref().unwrap_or_default())?,
            ),
            None => Default::default(),
        },
        apparmor: label(
            process.apparmor_profile().as_deref(),
            "process.apparmorProfile",
            "apparmor",
        )?,
        selinux: label(
            process.selinux_label().as_deref(),
            "process.selinuxLabel",
            "selinux",
        )?,
        keep_keyring: false,
        keep_groups: false,
        lines_as_written: false,
    })
}

/// A resource limit by its number.
pub(crate) fn resource_limit(limit: &oci_spec::runtime::PosixRlimit) -> ResourceLimit {
    let (name, number) = resource(limit.typ());
    ResourceLimit {
        name: name.into(),
        number,
        soft: limit.soft(),
        hard: limit.hard(),
    }
}

/// A label of a security module, which must be there to be of any effect.
fn label(label: Option<&str>, field: &str, module: &str) -> Result<Option<String>, SpecError> {
    let Some(label) = label.filter(|label| !matches!(*label, "" | "unconfined")) else {
        return Ok(None);
    };
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if modules.trim().split(',').any(|name| name == module) {
        Ok(Some(label.to_owned()))
    } else {
        Err(SpecError::Unsupported(format!(
            "{field} {label} (the kernel runs no {module})"
        )))
    }
}

fn schedule(scheduler: &Scheduler) -> Result<SchedulePlan, SpecError> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(SpecError::Unsupported(format!("process.scheduler.nice {nice}")));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if scheduler.policy() == &LinuxSchedulerPolicy::SchedDeadline {
        check_deadline(scheduler)?;
    }
    Ok(SchedulePlan {
        policy,
        flags: scheduler
            .flags()
            .iter()
            .flatten()
            .map(flag)
            .fold(0, |all, one| all | one),
        nice,
        priority: u32::try_from(priority)
            .map_err(|_| SpecError::Unsupported(format!("process.scheduler.priority {priority}")))?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}

/// The times of a deadline, of which the kernel says no more than that they are
/// wrong (sched(7)).
fn check_deadline(scheduler: &Scheduler) -> Result<(), SpecError> {
    let time =
        |value: Option<u64>, name| value.ok_or_else(|| SpecError::Deadline(format!("requires `{name}`")));
    let runtime = time(*scheduler.runtime(), "runtime")?;
    let deadline = time(*scheduler.deadline(), "deadline")?;
    // Zero stands for the deadline's.
    let period = scheduler
        .period()
        .filter(|period| *period > 0)
        .unwrap_or(deadline);
    if runtime == 0 {
        return Err(SpecError::Deadline("runtime must be greater than 0".into()));
    }
    if !TIMES.contains(&runtime) {
        let (least, most) = (TIMES.start(), TIMES.end());
        return Err(SpecError::Deadline(format!(
            "runtime {runtime} must be between {least} and {most}"
        )));
    }
    if runtime > deadline {
        return Err(SpecError::Deadline(format!(
            "runtime {runtime} must be <= deadline {deadline}"
        )));
    }
    if deadline > period {
        return Err(SpecError::Deadline(format!(
            "deadline {deadline} must be <= period {period}"
        )));
    }
    Ok(())
}

/// The times that the kernel takes, in nanoseconds.
const TIMES: std::ops::RangeInclusive<u64> = 1024..=i64::MAX.cast_unsigned();

fn io_priority(wish: &LinuxIOPriority) -> Result<(u32, u32), SpecError> {
    let class = match wish.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(wish.priority()) {
        Ok(priority @ 0..=7) => Ok((class, priority)),
        _ => Err(SpecError::Unsupported(format!(
            "process.ioPriority.priority {}",
            wish.priority()
        ))),
    }
}

/// A list of numbers with ranges, `0-2,4`, as the kernel writes processors and
/// memory nodes. Empty text is no number.
///
/// # Errors
/// [`SpecError::Unsupported`] for anything else, and for numbers above 8191.
pub(crate) fn processors(list: &str) -> Result<Vec<u32>, SpecError> {
    let wrong = || SpecError::Unsupported(format!("the list of numbers {list:?}"));
    let number = |text: &str| {
        text.trim()
            .parse::<u32>()
            .ok()
            .filter(|number| *number < 8192)
            .ok_or_else(wrong)
    };
    let mut found = Vec::new();
    for part in list.split(',').filter(|_| !list.trim().is_empty()) {
        let (from, to) = match part.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(part)?, number(part)?),
        };
        if from > to {
            return Err(wrong());
        }
        found.extend(from..=to);
    }
    Ok(found)
}

/// What the spec says of the container that each of its processes is.
pub(super) fn of_container(process: &mut ProcessPlan, linux: &Linux) -> Result<(), SpecError> {
    if let Some(personality) = linux.personality() {
        if let Some(flag) = personality.flags().iter().flatten().next() {
            return Err(SpecError::Unsupported(format!("linux.personality.flags {flag}")));
        }
        process.personality = Some(match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        });
    }
    if let Some(policy) = linux.memory_policy() {
        let mode = match policy.mode() {
            MemoryPolicyModeType::MpolDefault => 0,
            MemoryPolicyModeType::MpolPreferred => 1,
            MemoryPolicyModeType::MpolBind => 2,
            MemoryPolicyModeType::MpolInterleave => 3,
            MemoryPolicyModeType::MpolLocal => 4,
            MemoryPolicyModeType::MpolPreferredMany => 5,
            MemoryPolicyModeType::MpolWeightedInterleave => 6,
        };
        let flag = |flag: &MemoryPolicyFlagType| match flag {
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
        };
        let flags = policy
            .flags()
            .iter()
            .flatten()
            .map(flag)
            .fold(0, |all, one| all | one);
        let list = policy.nodes().as_deref().unwrap_or_default();
        let wrong = |reason: String| SpecError::Wrong("linux.memoryPolicy", reason);
        let nodes = processors(list).map_err(|_| wrong(format!("invalid memory policy nodes {list:?}")))?;
        match mode {
            0 | 4 if !nodes.is_empty() => {
                let count = nodes.len();
                return Err(wrong(format!(
                    "memory policy mode requires 0 nodes but got {count}"
                )));
            }
            2 | 3 | 5 | 6 if nodes.is_empty() => {
                return Err(wrong(
                    "memory policy mode requires at least one node but got 0".into(),
                ));
            }
            _ => {}
        }
        process.memory_policy = Some((mode | flags, nodes));
    }
    Ok(())
}

impl ProcessPlan {
    /// Whether its environment says where its home is; an empty one does not.
    pub(crate) fn has_home(&self) -> bool {
        let last = self
            .env
            .iter()
            .rev()
            .find_map(|entry| entry.strip_prefix("HOME="));
        last.is_some_and(|home| !home.is_empty())
    }

    /// Takes over flags and listener of a system call profile.
    pub(crate) fn filter_by(&mut self, profile: Option<&LinuxSeccomp>) -> Result<(), SpecError> {
        let Some(profile) = profile else {
            return Ok(());
        };
        self.filter_flags = seccomp_flags(profile);
        let path = profile
            .listener_path()
            .clone()
            .filter(|path| !path.as_os_str().is_empty());
        let Some(path) = path else {
            return match notifies(profile) {
                true => Err(SpecError::Missing("linux.seccomp.listenerPath")),
                false => Ok(()),
            };
        };
        self.filter_flags |= seccomp::NEW_LISTENER;
        self.listener = Some(Listener {
            path,
            metadata: profile.listener_metadata().clone().unwrap_or_default(),
        });
        Ok(())
    }
}

fn notifies(profile: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    profile.default_action() == notify
        || profile
            .syscalls()
            .iter()
            .flatten()
            .any(|call| call.action() == notify)
}

/// Without a word of it a filter goes without the store bypass mitigation, as
/// with other runtimes.
fn seccomp_flags(profile: &LinuxSeccomp) -> u64 {
    match profile.flags() {
        None => seccomp::SPEC_ALLOW,
        Some(flags) => flags.iter().fold(0, |all, flag| {
            all | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => seccomp::LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => seccomp::SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => seccomp::WAIT_KILLABLE_RECV,
                // One thread at that point.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            }
        }),
    }
}

fn resource(kind: PosixRlimitType) -> (&'static str, u32) {
    let (name, number) = match kind {
        PosixRlimitType::RlimitCpu => ("cpu", libc::RLIMIT_CPU),
        PosixRlimitType::RlimitFsize => ("fsize", libc::RLIMIT_FSIZE),
        PosixRlimitType::RlimitData => ("data", libc::RLIMIT_DATA),
        PosixRlimitType::RlimitStack => ("stack", libc::RLIMIT_STACK),
        PosixRlimitType::RlimitCore => ("core", libc::RLIMIT_CORE),
        PosixRlimitType::RlimitRss => ("rss", libc::RLIMIT_RSS),
        PosixRlimitType::RlimitNproc => ("nproc", libc::RLIMIT_NPROC),
        PosixRlimitType::RlimitNofile => ("nofile", libc::RLIMIT_NOFILE),
        PosixRlimitType::RlimitMemlock => ("memlock", libc::RLIMIT_MEMLOCK),
        PosixRlimitType::RlimitAs => ("as", libc::RLIMIT_AS),
        PosixRlimitType::RlimitLocks => ("locks", libc::RLIMIT_LOCKS),
        PosixRlimitType::RlimitSigpending => ("sigpending", libc::RLIMIT_SIGPENDING),
        PosixRlimitType::RlimitMsgqueue => ("msgqueue", libc::RLIMIT_MSGQUEUE),
        PosixRlimitType::RlimitNice => ("nice", libc::RLIMIT_NICE),
        PosixRlimitType::RlimitRtprio => ("rtprio", libc::RLIMIT_RTPRIO),
        PosixRlimitType::RlimitRttime => ("rttime", libc::RLIMIT_RTTIME),
    };
    (name, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read_strictly() {
        assert_eq!(processors("0-2,4").unwrap(), [0, 1, 2, 4]);
        assert!(processors("").unwrap().is_empty());
        for wrong in ["x", "2-1", "1,,2", "-1", "1-", "9999999999", "8192"] {
            assert!(processors(wrong).is_err(), "{wrong}");
        }
    }
}
