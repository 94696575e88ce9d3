//! The version 2 hierarchy.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::{CgroupError, Folder, Wishes, devices, pids_limit, write};
use crate::sys::kernel_file;

/// The controllers that are always switched on.
const USED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Switches the controllers on down to the folder, and notes which it has.
/// Failures show as limits that cannot be enforced.
pub(super) fn prepare(base: &Path, folder: &mut Folder, resources: Option<&LinuxResources>) {
    let asked = |name: &str| match name {
        "hugetlb" => resources.is_some_and(|all| all.hugepage_limits().is_some()),
        "rdma" => resources.is_some_and(|all| all.rdma().is_some()),
        _ => USED.contains(&name),
    };
    let mut above = base.to_owned();
    let below = folder.path.strip_prefix(base).unwrap_or(Path::new("")).to_owned();
    for part in &below {
        let offered = kernel_file::read(above.join("cgroup.controllers")).unwrap_or_default();
        let on = kernel_file::read(above.join("cgroup.subtree_control")).unwrap_or_default();
        let on: Vec<&str> = on.split_whitespace().collect();
        let mut wanted = offered
            .split_whitespace()
            .filter(|controller| asked(controller) && !on.contains(controller))
            .peekable();
        if wanted.peek().is_some() && above == base {
            let _ = make_way(base);
        }
        for controller in wanted {
            let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        above.push(part);
    }
    let has = kernel_file::read(folder.path.join("cgroup.controllers")).unwrap_or_default();
    folder.controllers = has.split_whitespace().map(str::to_owned).collect();
}

/// How often processes are looked for that were born while others were moved.
const TRIES: u32 = 20;

/// Where the processes of a delegated subtree go.
const PLACE_OF_OTHERS: &str = "init";

/// Moves the processes of a base into a folder below it. A folder with processes
/// cannot have controllers on for those below it, but for the root of all
/// (which has no type): where we live in somebody's delegated subtree, perhaps
/// in a container, those processes may be ourselves and who has started us. That
/// is what managers of delegated subtrees do (systemd's CGROUP_DELEGATION.md,
/// "inner nodes have no processes"). First of all: controllers of threads (cpu,
/// pids) can be switched on in spite of processes, and then nothing can be moved
/// any more.
fn make_way(base: &Path) -> io::Result<()> {
    if !base.join("cgroup.type").exists() {
        return Ok(());
    }
    let place = base.join(PLACE_OF_OTHERS);
    for _ in 0..TRIES {
        let processes = fs::read_to_string(base.join("cgroup.procs"))?;
        if processes.is_empty() {
            break;
        }
        match fs::create_dir(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for pid in processes.lines() {
            match fs::write(place.join("cgroup.procs"), pid) {
                // It has ended.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Sets the limits of the folder's controllers.
pub(super) fn apply(
    folder: &Folder,
    resources: &LinuxResources,
    wishes: &mut Wishes,
    fresh: bool,
) -> Result<(), CgroupError> {
    let path = &folder.path;
    let has = |name: &str| folder.controllers.iter().any(|controller| controller == name);
    if let Some(memory) = resources.memory()
        && has("memory")
    {
        let limit = memory.limit().filter(|limit| *limit != 0);
        if let Some(limit) = limit {
            write(path, "memory.max", &bytes(limit))?;
        }
        wishes.fulfilled("memory limit");
        // No limit of memory is none of swap either, as with the runtimes before us.
        let unlimited = memory
            .limit()
            .filter(|limit| *limit == -1 && path.join("memory.swap.max").exists());
        if let Some(total) = memory.swap().filter(|total| *total != 0).or(unlimited) {
            // The kernel limits swap alone here; the spec's number has both.
            let swap = if total < 0 {
                -1
            } else {
                (total - limit.unwrap_or(0).max(0)).max(0)
            };
            if path.join("memory.swap.max").exists() {
                write(path, "memory.swap.max", &bytes(swap))?;
                wishes.fulfilled("memory and swap limit");
            } else {
                wishes.refused("memory and swap limit", "the kernel does not account swap".into());
            }
        }
        if let Some(reservation) = memory.reservation().filter(|limit| *limit != 0) {
            write(path, "memory.low", &bytes(reservation))?;
            wishes.fulfilled("memory reservation");
        }
    }
    if let Some(cpu) = resources.cpu() {
        if has("cpu") {
            if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
                let quota = if quota > 0 {
                    quota.to_string()
                } else {
                    "max".into()
                };
                let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
                write(path, "cpu.max", &format!("{quota} {period}"))?;
                wishes.fulfilled("cpu limit");
            }
            if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
                write(path, "cpu.weight", &weight(shares).to_string())?;
                wishes.fulfilled("cpu shares");
            }
        }
        if has("cpuset") {
            if let Some(cpus) = cpu.cpus() {
                write(path, "cpuset.cpus", cpus)?;
                wishes.fulfilled("cpuset");
            }
            if let Some(mems) = cpu.mems() {
                write(path, "cpuset.mems", mems)?;
                wishes.fulfilled("cpuset memory nodes");
            }
        }
    }
    if let Some(pids) = resources.pids()
        && has("pids")
    {
        write(path, "pids.max", &pids_limit(pids))?;
        wishes.fulfilled("pids limit");
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(CgroupError::io("write to", &path.join(file))(
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        if !path.join(file).exists() {
            return Err(CgroupError::NoFile(file.clone()));
        }
        write(path, file, value)?;
        wishes.fulfilled("unified");
    }
    // With a version 1 devices controller (it came first) this is done.
    if let Some(rules) = resources.devices()
        && !rules.is_empty()
        && wishes.0.iter().any(|(wish, _)| *wish == "device rules")
    {
        if !fresh {
            wishes.fulfilled("device rules");
        } else if let Err(error) = restrict_devices(path, rules) {
            let reason = format!("device program: {}", crate::runtime::error::describe(&error));
            wishes.refused("device rules", reason);
        } else {
            wishes.fulfilled("device rules");
        }
    }
    Ok(())
}

fn restrict_devices(path: &Path, rules: &[oci_spec::runtime::LinuxDeviceCgroup]) -> io::Result<()> {
    let folder = fs::File::open(path)?;
    crate::sys::bpf::attach_device_program(&devices::program(rules), folder.as_fd())
}

fn bytes(limit: i64) -> String {
    if limit < 0 {
        "max".into()
    } else {
        limit.to_string()
    }
}

/// Shares of version 1 (2 to 262144, 1024 by default) as a weight (1 to 10000,
/// 100 by default), by the formula runtimes and Kubernetes use.
pub(super) fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!(
            [1, 2, 1024, 262_144, 1 << 40].map(weight),
            [1, 1, 39, 10_000, 10_000]
        );
    }
}
