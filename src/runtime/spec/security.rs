//! What a container may do: security options, capabilities, kernel parameters,
//! and what of the kernel's file systems is hidden from it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::OnceLock;

use super::{Settings, Share, SpecError};
use crate::runtime::capability;

#[derive(Default)]
pub(super) struct SecurityOptions {
    pub(super) no_new_privileges: bool,
    pub(super) unconfined: bool,
    pub(super) system_paths: bool,
    pub(super) apparmor: Option<String>,
}

/// The file of a system call profile among security options.
pub fn seccomp_file(options: &[String]) -> Option<&str> {
    options.iter().rev().find_map(|option| {
        let (name, value) = option.split_once(['=', ':'])?;
        let file = name == "seccomp" && !matches!(value, "" | "unconfined" | "builtin");
        file.then_some(value)
    })
}

/// Whether this machine confines programs by AppArmor.
pub(super) fn has_apparmor() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

pub(super) fn security_options(options: &[String]) -> Result<SecurityOptions, SpecError> {
    let mut found = SecurityOptions::default();
    for option in options {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => found.no_new_privileges = true,
            // `apparmor` and `label` ask for what is so anyway.
            ("no-new-privileges", "false")
            | ("seccomp", "builtin")
            | ("apparmor", "unconfined")
            | ("label", "disable") => {}
            ("seccomp", "unconfined") => found.unconfined = true,
            ("systempaths", "unconfined") => found.system_paths = true,
            // Read by the caller, who knows what the path is relative to.
            ("seccomp", file) if !file.is_empty() => {}
            ("apparmor", profile) if !profile.is_empty() => {
                if !has_apparmor() {
                    return Err(SpecError::Unsupported(format!(
                        "security option {option}: AppArmor is not enabled on this machine, so it"
                    )));
                }
                found.apparmor = Some(profile.to_owned());
            }
            _ => return Err(SpecError::SecurityOption(option.clone())),
        }
    }
    Ok(found)
}

/// The capabilities of a container, as Docker counts them.
pub(super) fn capabilities(settings: &Settings) -> Result<u64, SpecError> {
    let set = |names: &[String]| {
        names
            .iter()
            .try_fold(0, |all, name| match name.to_ascii_uppercase().as_str() {
                "ALL" | "CAP_ALL" => Ok(capability::ALL),
                _ => capability::bit(name)
                    .map(|bit| all | bit)
                    .ok_or_else(|| SpecError::Capability(name.clone())),
            })
    };
    let (add, drop) = (set(&settings.cap_add)?, set(&settings.cap_drop)?);
    Ok(
        match (
            settings.privileged,
            add == capability::ALL,
            drop == capability::ALL,
        ) {
            (true, _, _) => capability::ALL,
            (_, true, true) => 0,
            (_, true, false) => capability::ALL & !drop,
            (_, false, true) => add,
            (_, false, false) => capability::DEFAULT & !drop | add,
        },
    )
}

/// The capabilities that a container with these settings can have at most, as bits.
///
/// # Errors
/// [`SpecError::Capability`] for one there is not.
pub fn bounding_set(settings: &Settings) -> Result<u64, SpecError> {
    capabilities(settings)
}

pub(super) fn sysctls(settings: &Settings) -> Result<BTreeMap<String, String>, SpecError> {
    let mut all = BTreeMap::new();
    if !settings.host_network {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        all.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    for (name, value) in &settings.sysctls {
        let own = |is: bool, kind: i32| if is { kind } else { 0 };
        check_sysctl(
            name,
            own(!settings.host_network, libc::CLONE_NEWNET)
                | own(settings.ipc == Share::Own, libc::CLONE_NEWIPC),
        )?;
        all.insert(name.clone(), value.clone());
    }
    Ok(all)
}

/// Whether a kernel parameter is one of the container's own namespaces
/// (`CLONE_NEW*`).
///
/// # Errors
/// [`SpecError::Sysctl`] when setting it would change the host.
pub(in crate::runtime) fn check_sysctl(name: &str, namespaces: i32) -> Result<(), SpecError> {
    let wrong = |reason| Err(SpecError::Sysctl(name.to_owned(), reason));
    let plain = |name: &str| {
        name.chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "_-./".contains(letter))
    };
    if !plain(name) || name.split(['.', '/']).any(str::is_empty) {
        return wrong("not a name of a kernel parameter");
    }
    let needs = |kind: i32, reason| {
        if namespaces & kind != 0 {
            Ok(())
        } else {
            wrong(reason)
        }
    };
    if is_ipc_sysctl(name) {
        return needs(
            libc::CLONE_NEWIPC,
            "not allowed in an IPC namespace that is not the container's own",
        );
    }
    if name.starts_with("net.") || name.starts_with("net/") {
        return needs(
            libc::CLONE_NEWNET,
            "not allowed in the network namespace of the host",
        );
    }
    if matches!(name, "kernel.domainname" | "kernel/domainname") {
        return needs(libc::CLONE_NEWUTS, "not allowed in the uts namespace of the host");
    }
    wrong("not in a namespace of the container, so it would change the host")
}

/// Whether a kernel parameter is one of an IPC namespace.
fn is_ipc_sysctl(name: &str) -> bool {
    const IPC: [&str; 11] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg_next_id",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
    ];
    IPC.contains(&name) || name.starts_with("fs.mqueue.")
}

pub(super) fn masked_paths() -> Vec<String> {
    static PATHS: OnceLock<Vec<String>> = OnceLock::new();
    PATHS
        .get_or_init(|| {
            let mut paths: Vec<String> = [
                "/proc/acpi",
                "/proc/asound",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys/devices/virtual/powercap",
                "/sys/firmware",
            ]
            .map(str::to_owned)
            .to_vec();
            // Side channels of other tenants' load, one folder a processor.
            for entry in fs::read_dir("/sys/devices/system/cpu")
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path().join("thermal_throttle");
                if path.exists() {
                    paths.extend(path.to_str().map(str::to_owned));
                }
            }
            paths
        })
        .clone()
}

pub(super) fn readonly_paths() -> Vec<String> {
    [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]
    .map(str::to_owned)
    .to_vec()
}
