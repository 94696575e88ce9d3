//! Which system calls a container may make.
//!
//! A policy becomes rules (from [`table`]'s column, or from the profile in the
//! OCI spec), rules become a program ([`compile`]). Programs are made by the
//! process that asks for a container, once for each set of capabilities, and
//! handed to the init stage as bytes.

mod compile;
mod profile;
mod table;

use std::collections::BTreeMap;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall};
use serde::{Deserialize, Serialize};

pub use self::profile::read_profile;

use self::compile::{Architecture, Comparison, Condition, Rule, Rules};
use self::table::{Row, SYS_ADMIN, TABLE, When};
use crate::sys::seccomp::{Instruction, MOST};

/// Which filter a container gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompPolicy {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The profile in `linux.seccomp` of the spec; none when there is none.
    Spec,
}

/// Whether a policy surely lets these calls through, whatever their arguments.
pub(crate) fn allows(policy: SeccompPolicy, profile: Option<&LinuxSeccomp>, calls: &[&str]) -> bool {
    let Some(profile) = profile.filter(|_| policy == SeccompPolicy::Spec) else {
        // Docker's does: `exec`, `fcntl` and writing are what programs live on.
        return true;
    };
    let passes = |action| {
        matches!(
            action,
            LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog
        )
    };
    calls.iter().all(|call| {
        let rules = profile.syscalls().iter().flatten();
        let mut named = rules
            .filter(|rule| rule.names().iter().any(|name| name == call))
            .peekable();
        if named.peek().is_none() {
            return passes(profile.default_action());
        }
        named.all(|rule| passes(rule.action()) && rule.args().as_ref().is_none_or(Vec::is_empty))
    })
}

/// Leaves out of a profile the bans that go by names which are not in our table,
/// as the runtimes before us pass over them: a profile names calls of kernels to
/// come, and those that went. Their names.
pub(crate) fn leave_out_unknown(profile: &mut LinuxSeccomp) -> Vec<String> {
    let mut unknown = Vec::new();
    // Where calls are banned anyway, so are these.
    let lenient = is_lenient(profile);
    let mut rules = profile.syscalls().clone().unwrap_or_default();
    for rule in &mut rules {
        let (known, others): (Vec<String>, Vec<String>) = rule
            .names()
            .iter()
            .cloned()
            .partition(|name| TABLE.binary_search_by_key(&name.as_str(), |row| row.0).is_ok());
        if lenient && rule.action() != LinuxSeccompAction::ScmpActAllow {
            unknown.extend(others);
        }
        rule.set_names(known);
    }
    rules.retain(|rule| !rule.names().is_empty());
    profile.set_syscalls(Some(rules));
    unknown
}

/// Whether a profile lets through what it does not name.
fn is_lenient(profile: &LinuxSeccomp) -> bool {
    matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog
    )
}

/// What is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// A profile that is not one.
    #[error("seccomp profile: {0}")]
    Malformed(String),
    /// Something we do not do.
    #[error("seccomp profile: {0} is not supported")]
    Unsupported(String),
    /// The program would be longer than the kernel takes.
    #[error("seccomp profile: {0} instructions, the kernel takes 4096")]
    TooLong(usize),
}

/// The program of a policy for a container with these capabilities; `None`
/// when there is nothing to filter.
///
/// # Errors
/// [`SeccompError`] for profiles of the spec.
pub fn program(
    policy: SeccompPolicy,
    profile: Option<&LinuxSeccomp>,
    capabilities: u64,
) -> Result<Option<Vec<Instruction>>, SeccompError> {
    let rules = match (policy, profile) {
        (SeccompPolicy::Unconfined, _) | (SeccompPolicy::Spec, None) => return Ok(None),
        (SeccompPolicy::Default, _) => native()
            .iter()
            .map(|each| (*each, default_rules(*each, capabilities)))
            .collect(),
        (SeccompPolicy::Spec, Some(profile)) => profile_rules(profile)?,
    };
    let program = compile::compile(&rules);
    if program.len() > MOST {
        return Err(SeccompError::TooLong(program.len()));
    }
    Ok(Some(program))
}

/// The architectures this machine can execute, the main one first.
fn native() -> &'static [Architecture] {
    if cfg!(target_arch = "aarch64") {
        &[Architecture::Aarch64, Architecture::Arm]
    } else {
        &[Architecture::X86_64, Architecture::I386, Architecture::X32]
    }
}

/// The architectures filters can be made for here, as the OCI spec names them.
pub fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]
    }
}

/// The number of a system call on an architecture.
fn number(row: &Row, architecture: Architecture) -> Option<u32> {
    let number = match architecture {
        Architecture::X86_64 => row.2,
        Architecture::I386 => row.3,
        Architecture::X32 => row.4,
        Architecture::Aarch64 => row.5,
        Architecture::Arm => row.6,
    };
    u32::try_from(number).ok()
}

fn always(verdict: u32) -> Vec<Rule> {
    vec![Rule {
        conditions: Vec::new(),
        verdict,
    }]
}

/// Lets through when the lower half of the first argument is such.
fn when_first(comparisons: &[Comparison]) -> Vec<Rule> {
    let rule = |comparison: &Comparison| Rule {
        conditions: vec![Condition {
            argument: 0,
            narrow: true,
            comparison: *comparison,
        }],
        verdict: compile::ALLOW,
    };
    comparisons.iter().map(rule).collect()
}

/// There is no such call.
const ENOSYS: u32 = compile::ERRNO | 38;

/// Docker's default profile.
fn default_rules(architecture: Architecture, capabilities: u64) -> Rules {
    let mut rules = Rules {
        otherwise: compile::ERRNO | 1,
        beyond_verdict: ENOSYS,
        ..Rules::default()
    };
    for row in TABLE {
        let Some(number) = number(row, architecture) else {
            continue;
        };
        if row.1 != When::Never && number < ARM_PRIVATE {
            rules.beyond = rules.beyond.max(number);
        }
        let admin = capabilities & SYS_ADMIN != 0;
        let calls = match row.1 {
            When::Never => continue,
            When::With(any) if capabilities & any == 0 => continue,
            When::Always | When::With(_) => always(compile::ALLOW),
            When::Clone | When::Clone3 if admin => always(compile::ALLOW),
            When::Clone => when_first(&[Comparison::Masked {
                mask: NAMESPACES,
                value: 0,
            }]),
            When::Clone3 => always(ENOSYS),
            When::Socket => when_first(&[
                Comparison::Less(AF_ALG),
                Comparison::Equal(AF_ALG + 1),
                Comparison::Greater(AF_VSOCK),
            ]),
            When::Personality => {
                when_first(&[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff].map(Comparison::Equal))
            }
        };
        rules.calls.insert(number, calls);
    }
    rules
}

/// Docker's default profile as the OCI spec writes it, for a container with these
/// capabilities: for runtimes that make their own filter.
pub(super) fn default_profile(capabilities: u64) -> LinuxSeccomp {
    let admin = capabilities & SYS_ADMIN != 0;
    let mut allowed: Vec<String> = Vec::new();
    let mut calls: Vec<serde_json::Value> = Vec::new();
    let mut when = |name: &str, op: &str, value: u64, two: u64| {
        calls.push(serde_json::json!({
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "valueTwo": two, "op": op}],
        }));
    };
    let mut missing: Vec<&str> = Vec::new();
    for row in TABLE {
        let name = row.0;
        match row.1 {
            When::Never => {}
            When::With(any) if capabilities & any == 0 => {}
            When::Always | When::With(_) => allowed.push(name.to_owned()),
            When::Clone | When::Clone3 if admin => allowed.push(name.to_owned()),
            When::Clone => when(name, "SCMP_CMP_MASKED_EQ", NAMESPACES, 0),
            When::Clone3 => missing.push(name),
            When::Socket => {
                when(name, "SCMP_CMP_LT", AF_ALG, 0);
                when(name, "SCMP_CMP_EQ", AF_ALG + 1, 0);
                when(name, "SCMP_CMP_GT", AF_VSOCK, 0);
            }
            When::Personality => {
                for value in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
                    when(name, "SCMP_CMP_EQ", value, 0);
                }
            }
        }
    }
    calls.push(serde_json::json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}));
    if !missing.is_empty() {
        calls.push(
            serde_json::json!({"names": missing, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}),
        );
    }
    let profile = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": architectures(),
        "syscalls": calls,
    });
    // Of our own making: it is what the type reads.
    serde_json::from_value(profile).unwrap_or_default()
}

/// The `CLONE_NEW*` bits but for time namespaces (whose bit is a signal's in clone(2)).
const NAMESPACES: u64 = 0x7e02_0000;
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// The first of the private system calls of 32-bit ARM, far above the others.
const ARM_PRIVATE: u32 = 0xf_0000;

/// The rules of a profile in an OCI spec.
fn profile_rules(profile: &LinuxSeccomp) -> Result<BTreeMap<Architecture, Rules>, SeccompError> {
    let otherwise = verdict(profile.default_action(), profile.default_errno_ret())?;
    let mut architectures: Vec<Architecture> = native().iter().take(1).copied().collect();
    for named in profile.architectures().iter().flatten() {
        let architecture = match named {
            Arch::ScmpArchX86_64 => Architecture::X86_64,
            Arch::ScmpArchX86 => Architecture::I386,
            Arch::ScmpArchX32 => Architecture::X32,
            Arch::ScmpArchAarch64 => Architecture::Aarch64,
            Arch::ScmpArchArm => Architecture::Arm,
            // Cannot be executed here, so there is nothing to filter.
            _ => continue,
        };
        if native().contains(&architecture) && !architectures.contains(&architecture) {
            architectures.push(architecture);
        }
    }
    let mut all = BTreeMap::new();
    for architecture in architectures {
        let mut rules = Rules {
            otherwise,
            beyond: u32::MAX,
            beyond_verdict: otherwise,
            ..Rules::default()
        };
        for call in profile.syscalls().iter().flatten() {
            let action = verdict(call.action(), call.errno_ret())?;
            for name in call.names() {
                let row = TABLE
                    .binary_search_by_key(&name.as_str(), |row| row.0)
                    .ok()
                    .and_then(|at| TABLE.get(at));
                if row.is_none() && action != compile::ALLOW && is_lenient(profile) {
                    // Leaving out a permission is safe, and a ban where calls
                    // are banned anyway (profiles name those of every
                    // architecture); any other ban is not.
                    return Err(SeccompError::Unsupported(format!("system call {name}")));
                }
                let Some(number) = row.and_then(|row| number(row, architecture)) else {
                    continue;
                };
                let list = rules.calls.entry(number).or_default();
                for conditions in conditions(call)? {
                    list.push(Rule {
                        conditions,
                        verdict: action,
                    });
                }
            }
        }
        if !is_lenient(profile) {
            // Newer than all that the profile knows: programs have another way where
            // there is no such call, and none where it is forbidden.
            rules.beyond = rules
                .calls
                .keys()
                .copied()
                .filter(|number| *number < ARM_PRIVATE)
                .max()
                .unwrap_or(u32::MAX);
            rules.beyond_verdict = ENOSYS;
        }
        for list in rules.calls.values_mut() {
            // As libseccomp has it: a rule without conditions outranks those with.
            list.sort_by_key(|rule| !rule.conditions.is_empty());
        }
        all.insert(architecture, rules);
    }
    Ok(all)
}

/// The alternatives under which a rule of the spec holds: all its conditions,
/// or any of them when several look at one argument (as runc reads it).
fn conditions(call: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let mut list = Vec::new();
    for arg in call.args().iter().flatten() {
        let value = arg.value();
        let argument = u8::try_from(arg.index())
            .ok()
            .filter(|index| *index < 6)
            .ok_or_else(|| SeccompError::Unsupported(format!("argument {}", arg.index())))?;
        let comparison = match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual(value),
            LinuxSeccompOperator::ScmpCmpLt => Comparison::Less(value),
            LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual(value),
            LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal(value),
            LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual(value),
            LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater(value),
            LinuxSeccompOperator::ScmpCmpMaskedEq => Comparison::Masked {
                mask: value,
                value: arg.value_two().unwrap_or(0),
            },
        };
        list.push(Condition {
            argument,
            narrow: false,
            comparison,
        });
    }
    let repeated = list
        .iter()
        .enumerate()
        .any(|(at, one)| list.iter().take(at).any(|other| other.argument == one.argument));
    Ok(if repeated {
        list.into_iter().map(|one| vec![one]).collect()
    } else {
        vec![list]
    })
}

/// `SECCOMP_RET_*` of an action.
fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    let errno = errno.unwrap_or(1) & 0xffff;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => compile::KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActErrno => compile::ERRNO | errno,
        LinuxSeccompAction::ScmpActTrace => 0x7ff0_0000 | errno,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => compile::ALLOW,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
    })
}

#[cfg(test)]
mod tests {
    use super::compile::machine::run;
    use super::*;
    use crate::runtime::capability;

    fn allowed(program: &[Instruction], architecture: Architecture, name: &str, args: [u64; 6]) -> bool {
        let row = TABLE.iter().find(|row| row.0 == name).unwrap();
        let bit = if architecture == Architecture::X32 {
            0x4000_0000
        } else {
            0
        };
        run(
            program,
            architecture,
            number(row, architecture).unwrap() | bit,
            args,
        ) == compile::ALLOW
    }

    #[test]
    fn the_table_is_sorted_and_agrees_with_libc() {
        assert!(TABLE.is_sorted_by_key(|row| row.0));
        for (name, expected) in [
            ("read", libc::SYS_read),
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("rt_sigaction", libc::SYS_rt_sigaction),
            ("keyctl", libc::SYS_keyctl),
            ("mseal", libc::SYS_mseal),
        ] {
            let row = TABLE.iter().find(|row| row.0 == name).unwrap();
            assert_eq!(number(row, native()[0]).map(i64::from), Some(expected), "{name}");
        }
    }

    #[test]
    fn the_default_profile_judges_like_docker() {
        for architecture in [
            Architecture::X86_64,
            Architecture::I386,
            Architecture::X32,
            Architecture::Aarch64,
            Architecture::Arm,
        ] {
            let program = compile::compile(&BTreeMap::from([(
                architecture,
                default_rules(architecture, capability::DEFAULT),
            )]));
            assert!(program.len() < MOST);
            let first = |value| [value, 0, 0, 0, 0, 0];
            for name in [
                "read",
                "execve",
                "openat",
                "setresuid",
                "capset",
                "prctl",
                "chroot",
                "io_setup",
                "ptrace",
                "mseal",
            ] {
                assert!(
                    allowed(&program, architecture, name, [0; 6]),
                    "{name} on {architecture:?}"
                );
            }
            for name in [
                "mount",
                "unshare",
                "setns",
                "bpf",
                "keyctl",
                "add_key",
                "reboot",
                "io_uring_setup",
                "userfaultfd",
                "open_by_handle_at",
                "clone3",
                "pivot_root",
                "fsopen",
                "kexec_load",
                "perf_event_open",
                "quotactl",
                "swapon",
            ] {
                assert!(
                    !allowed(&program, architecture, name, [0; 6]),
                    "{name} on {architecture:?}"
                );
            }
            for (family, expected) in [
                (1, true),
                (16, true),
                (38, false),
                (39, true),
                (40, false),
                (41, true),
                (1 << 32 | 40, false),
                (1 << 32 | 2, true),
            ] {
                assert_eq!(
                    allowed(&program, architecture, "socket", first(family)),
                    expected,
                    "socket {family}"
                );
            }
            for (flags, expected) in [
                (0x11, true),
                (0x1000_0000, false),
                (0x2_0000, false),
                (0x200_0000, false),
                (0x0100_0000, true),
            ] {
                assert_eq!(
                    allowed(&program, architecture, "clone", first(flags)),
                    expected,
                    "clone {flags:#x}"
                );
            }
            assert!(allowed(&program, architecture, "personality", first(0xffff_ffff)));
            assert!(!allowed(&program, architecture, "personality", first(0x4_0000)));
        }
    }

    #[test]
    fn capabilities_open_what_they_are_for() {
        let architecture = native()[0];
        let program = program(SeccompPolicy::Default, None, capability::DEFAULT | SYS_ADMIN)
            .unwrap()
            .unwrap();
        for name in ["mount", "unshare", "setns", "clone3", "bpf", "syslog"] {
            assert!(allowed(&program, architecture, name, [0; 6]), "{name}");
        }
        assert!(allowed(
            &program,
            architecture,
            "clone",
            [0x2_0000, 0, 0, 0, 0, 0]
        ));
        assert!(!allowed(&program, architecture, "reboot", [0; 6]));
    }

    #[test]
    fn an_unknown_newer_call_does_not_exist() {
        let program = program(SeccompPolicy::Default, None, 0).unwrap().unwrap();
        for number in [470, 471, 600, 0x3fff_ffff, 0x4000_0fff, u32::MAX] {
            let architecture = native()[0];
            assert_eq!(
                run(&program, architecture, number, [0; 6]),
                compile::ERRNO | 38,
                "{number:#x}"
            );
        }
        let clone3 = run(&program, native()[0], 435, [0; 6]);
        assert_eq!(clone3, compile::ERRNO | 38);
    }

    #[test]
    fn a_call_newer_than_all_of_a_profile_does_not_exist() {
        let profile = |default: &str| -> LinuxSeccomp {
            let rules = serde_json::json!([{"names": ["read", "clone3"], "action": "SCMP_ACT_ALLOW"}]);
            serde_json::from_value(serde_json::json!({"defaultAction": default, "syscalls": rules})).unwrap()
        };
        let newest = number(TABLE.iter().find(|row| row.0 == "clone3").unwrap(), native()[0]).unwrap();
        for (default, expected) in [
            ("SCMP_ACT_ERRNO", compile::ERRNO | 38),
            ("SCMP_ACT_ALLOW", compile::ALLOW),
        ] {
            let profile = profile(default);
            let program = program(SeccompPolicy::Spec, Some(&profile), 0).unwrap().unwrap();
            assert_eq!(run(&program, native()[0], newest + 1, [0; 6]), expected);
            assert_eq!(run(&program, native()[0], newest, [0; 6]), compile::ALLOW);
        }
        let banned = profile("SCMP_ACT_ERRNO");
        let program = program(SeccompPolicy::Spec, Some(&banned), 0).unwrap().unwrap();
        assert_eq!(run(&program, native()[0], newest - 1, [0; 6]), compile::ERRNO | 1);
    }

    #[test]
    fn a_profile_of_the_spec_is_followed() {
        let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["mkdir", "arm_fadvise64_64"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
                {"names": ["nosuch"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["kill"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
                    {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]},
            ]
        }))
        .unwrap();
        let program = program(SeccompPolicy::Spec, Some(&profile), 0).unwrap().unwrap();
        let run = |name: &str, args| {
            let row = TABLE.iter().find(|row| row.0 == name).unwrap();
            run(&program, native()[0], number(row, native()[0]).unwrap(), args)
        };
        if cfg!(target_arch = "x86_64") {
            assert_eq!(run("mkdir", [0; 6]), compile::ERRNO | 13);
        }
        assert_eq!(run("kill", [1, 9, 0, 0, 0, 0]), compile::KILL_PROCESS);
        assert_eq!(run("kill", [1, 15, 0, 0, 0, 0]), compile::KILL_PROCESS);
        assert_eq!(run("kill", [1, 1, 0, 0, 0, 0]), compile::ALLOW);
    }

    #[test]
    fn what_a_profile_surely_allows_is_known() {
        let profile = |default: &str, rules: serde_json::Value| -> LinuxSeccomp {
            serde_json::from_value(serde_json::json!({"defaultAction": default, "syscalls": rules})).unwrap()
        };
        let allow = serde_json::json!({"names": ["fcntl", "execveat"], "action": "SCMP_ACT_ALLOW"});
        let some = serde_json::json!({
            "names": ["execveat"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]
        });
        let deny = serde_json::json!({"names": ["fcntl"], "action": "SCMP_ACT_ERRNO"});
        for (default, rules, expected) in [
            ("SCMP_ACT_ERRNO", vec![&allow], true),
            ("SCMP_ACT_ERRNO", vec![], false),
            ("SCMP_ACT_ALLOW", vec![], true),
            ("SCMP_ACT_ALLOW", vec![&deny], false),
            ("SCMP_ACT_ERRNO", vec![&allow, &some], false),
        ] {
            let profile = profile(default, serde_json::json!(rules));
            let found = allows(SeccompPolicy::Spec, Some(&profile), &["execveat", "fcntl"]);
            assert_eq!(found, expected, "{default} {rules:?}");
        }
        assert!(allows(SeccompPolicy::Default, None, &crate::sys::stub::CALLS));
    }

    #[test]
    fn a_ban_that_we_do_not_know_is_not_ignored() {
        let profile: LinuxSeccomp = serde_json::from_value(serde_json::json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["nosuch"], "action": "SCMP_ACT_ERRNO"}]
        }))
        .unwrap();
        let error = program(SeccompPolicy::Spec, Some(&profile), 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "seccomp profile: system call nosuch is not supported"
        );
    }
}
