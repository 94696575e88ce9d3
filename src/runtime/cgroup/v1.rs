//! Version 1 hierarchies.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxMemory, LinuxResources};

use super::{CgroupError, Folder, Wishes, devices, pids_limit, write};
use crate::sys::kernel_file;

/// Makes a fresh folder usable: a cpuset starts without processors and memory
/// nodes, and takes no process until it has both.
pub(super) fn prepare(base: &Path, folder: &Folder) -> Result<(), CgroupError> {
    if !folder.controllers.iter().any(|name| name == "cpuset") {
        return Ok(());
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut here = base.to_owned();
        let mut above: Option<String> = None;
        for part in folder.path.strip_prefix(base).unwrap_or(Path::new("")) {
            let upper = here.join(file);
            here.push(part);
            let own = kernel_file::read(here.join(file)).unwrap_or_default();
            let own = own.trim();
            above = Some(if own.is_empty() {
                let value = match above {
                    Some(value) => value,
                    None => kernel_file::read(&upper).map_err(CgroupError::io("read", &upper))?,
                };
                write(&here, file, value.trim())?;
                value
            } else {
                own.to_owned()
            });
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
    if let Some(limits) = resources.memory()
        && has("memory")
    {
        memory(path, limits, wishes)?;
    }
    if let Some(cpu) = resources.cpu() {
        if has("cpu") {
            let period = cpu.period().filter(|period| *period > 0);
            let mut late = None;
            if let Some(period) = period {
                match write(path, "cpu.cfs_period_us", &period.to_string()) {
                    // With the old quota it would be more than the parent has.
                    Err(CgroupError::Io { source, .. })
                        if source.kind() == io::ErrorKind::InvalidInput && cpu.quota().is_some() =>
                    {
                        late = Some(period);
                    }
                    other => other?,
                }
            }
            if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
                write(path, "cpu.cfs_quota_us", &quota.to_string())?;
                wishes.fulfilled("cpu limit");
            }
            if let Some(period) = late {
                write(path, "cpu.cfs_period_us", &period.to_string())?;
            }
            if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
                write(path, "cpu.shares", &shares.to_string())?;
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
    if let Some(rules) = resources.devices()
        && has("devices")
        && !rules.is_empty()
    {
        if fresh {
            write_rules(path, rules)?;
        }
        wishes.fulfilled("device rules");
    }
    Ok(())
}

/// Device rules, in order, each in a write of its own.
fn write_rules(path: &Path, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
    let file = |name: &str| {
        let path = path.join(name);
        let opened = fs::OpenOptions::new().write(true).open(&path);
        opened
            .map(|file| (file, path.clone()))
            .map_err(CgroupError::io("open", &path))
    };
    let (allow, deny) = (file("devices.allow")?, file("devices.deny")?);
    for rule in rules {
        let (file, path) = if rule.allow() { &allow } else { &deny };
        let Some(line) = devices::line(rule) else { continue };
        rustix::io::write(file, line.as_bytes())
            .map_err(|error| CgroupError::io("write to", path)(error.into()))?;
    }
    Ok(())
}

/// Memory limits. Memory plus swap may never be below memory, so the order of
/// the writes depends on whether the limits rise or fall.
fn memory(path: &Path, limits: &LinuxMemory, wishes: &mut Wishes) -> Result<(), CgroupError> {
    const LIMIT: &str = "memory.limit_in_bytes";
    const TOTAL: &str = "memory.memsw.limit_in_bytes";
    let limit = limits.limit().filter(|limit| *limit != 0);
    let total = limits.swap().filter(|total| *total != 0);
    // No limit of memory is none of both, which could not be below it.
    let total = total.or_else(|| limit.filter(|limit| *limit == -1 && path.join(TOTAL).exists()));
    if total.is_some() && !path.join(TOTAL).exists() {
        wishes.refused("memory and swap limit", "the kernel does not account swap".into());
        if let Some(limit) = limit {
            write(path, LIMIT, &limit.to_string())?;
        }
    } else {
        match (limit, total) {
            (Some(limit), Some(total)) => match write(path, LIMIT, &limit.to_string()) {
                Ok(()) => write(path, TOTAL, &total.to_string())?,
                Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                    write(path, TOTAL, &total.to_string())?;
                    write(path, LIMIT, &limit.to_string())?;
                }
                Err(error) => return Err(error),
            },
            (Some(limit), None) => write(path, LIMIT, &limit.to_string())?,
            (None, Some(total)) => write(path, TOTAL, &total.to_string())?,
            (None, None) => {}
        }
        wishes.fulfilled("memory and swap limit");
    }
    wishes.fulfilled("memory limit");
    if let Some(reservation) = limits.reservation().filter(|limit| *limit != 0) {
        write(path, "memory.soft_limit_in_bytes", &reservation.to_string())?;
        wishes.fulfilled("memory reservation");
    }
    if let Some(swappiness) = limits.swappiness() {
        write(path, "memory.swappiness", &swappiness.to_string())?;
        wishes.fulfilled("memory swappiness");
    }
    if limits.disable_oom_killer() == Some(true) {
        write(path, "memory.oom_control", "1")?;
        wishes.fulfilled("oom_kill_disable");
    }
    Ok(())
}
