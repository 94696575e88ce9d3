//! Cgroups that systemd makes: a transient scope for each container.
//!
//! systemd is asked for the scope over its private socket, before the container
//! is made: a scope must have a process when it begins, so one of ours waits in
//! it until the container's own first process is there ([`Scope`]). The scope is
//! delegated: from then on its folder is ours, with limits written to its files
//! as everywhere. The same limits are told to systemd as properties, since it
//! writes what it knows again whenever it reads its units anew.
//!
//! A scope whose last process has ended is gone by itself, so nothing stays when
//! we are killed.
//!
//! Weak: version 2 (alone or in a hybrid layout), and systemd's system instance,
//! which is root's. Device rules are not told to systemd (it has no program of
//! its own on a scope without them).
//!
//! Sources: systemd.resource-control(5), org.freedesktop.systemd1(5).

mod bus;

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use self::bus::{Body, CallError, Connection, Value};
use super::{CgroupError, v2};
use crate::sys::clone::{self, Child};
use crate::sys::{pidfd, process};

/// The socket of the system instance, for root alone.
const SOCKET: &str = "/run/systemd/private";
/// There when systemd is process 1: sd_booted(3).
const BOOTED: &str = "/run/systemd/system";

/// A scope: its name, and the slice it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    name: String,
    slice: String,
}

impl Unit {
    /// The scope of a path for systemd, `SLICE:PREFIX:NAME`; without a path one of
    /// our own name in `system.slice`.
    ///
    /// # Errors
    /// What is wrong with the path.
    pub fn of_path(path: Option<&Path>, id: &str) -> Result<Self, String> {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
            return Ok(Self {
                name: format!("rcompose-oci-{id}.scope"),
                slice: "system.slice".into(),
            });
        };
        let text = path.to_string_lossy();
        let parts: Vec<&str> = text.split(':').collect();
        let [slice, prefix, name] = parts.as_slice() else {
            return Err(format!(
                "linux.cgroupsPath {text:?} is not of the form slice:prefix:name, which systemd cgroups need"
            ));
        };
        let plain = |text: &str| {
            text.chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "_-.@\\".contains(letter))
        };
        if name.is_empty() || !plain(prefix) || !plain(name) {
            return Err(format!("linux.cgroupsPath {text:?} names no unit"));
        }
        if Path::new(name).extension().is_some_and(|kind| kind == "slice") {
            return Err(format!("linux.cgroupsPath {text:?} names a slice, not a scope"));
        }
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        expand(slice).ok_or_else(|| format!("linux.cgroupsPath {text:?}: {slice:?} is no slice"))?;
        let dash = if prefix.is_empty() { "" } else { "-" };
        Ok(Self {
            name: format!("{prefix}{dash}{name}.scope"),
            slice: slice.to_owned(),
        })
    }

    /// Its cgroup, below the root of the hierarchy.
    pub fn path(&self) -> PathBuf {
        expand(&self.slice).unwrap_or_default().join(&self.name)
    }
}

/// The folder of a slice: `a-b.slice` is in `a.slice`; `-.slice` is the root.
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let mut path = PathBuf::new();
    let mut whole = String::new();
    for part in name.split('-') {
        if part.is_empty() || part.contains('/') {
            return None;
        }
        if !whole.is_empty() {
            whole.push('-');
        }
        whole.push_str(part);
        path.push(format!("{whole}.slice"));
    }
    Some(path)
}

/// A scope that begins: the process that waits in it ends with this.
#[derive(Debug)]
pub struct Scope {
    waiting: Child,
}

impl Scope {
    /// The process that waits in it.
    pub fn process(&self) -> u32 {
        self.waiting.pid
    }

    /// Has systemd make the scope; returns when it is there.
    ///
    /// # Errors
    /// [`CgroupError::Systemd`].
    pub fn start(unit: &Unit, resources: Option<&LinuxResources>) -> Result<Self, CgroupError> {
        let mut systemd = open()?;
        let waiting = clone::clone_process(0, None, || {
            let _ = process::die_with_parent();
            loop {
                // Until it is killed.
                let _ = rustix::event::poll(&mut [], None);
            }
        })
        .map_err(|error| failed("make a process for", unit, &error))?;
        let scope = Self { waiting };
        let mut list = vec![
            ("Description", Value::Text(format!("container {}", unit.name))),
            ("Slice", Value::Text(unit.slice.clone())),
            ("Delegate", Value::Flag(true)),
            ("PIDs", Value::Numbers(vec![scope.waiting.pid])),
            ("MemoryAccounting", Value::Flag(true)),
            ("CPUAccounting", Value::Flag(true)),
            ("IOAccounting", Value::Flag(true)),
            ("TasksAccounting", Value::Flag(true)),
            ("DefaultDependencies", Value::Flag(false)),
        ];
        list.extend(resources.map(properties).transpose()?.unwrap_or_default());
        let mut body = Body::default();
        body.text(&unit.name).text("fail").properties(&list).nothing();
        let mut start = || systemd.call("StartTransientUnit", "ssa(sv)a(sa(sv))", &body);
        let answer = match start() {
            // One of this name has failed, and is kept to tell.
            Err(CallError::Refused(name, _)) if name.ends_with(".UnitExists") => {
                let mut body = Body::default();
                body.text(&unit.name);
                let reset = open()?.call("ResetFailedUnit", "s", &body);
                reset.map_err(|error| refused("reset", unit, error))?;
                start()
            }
            other => other,
        }
        .map_err(|error| refused("start", unit, error))?;
        match systemd.wait_for_job(&answer) {
            Ok(result) if result == "done" => Ok(scope),
            Ok(result) => Err(CgroupError::Systemd(format!("start {}: {result}", unit.name))),
            Err(error) => Err(failed("wait for", unit, &error)),
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        use std::os::fd::AsFd as _;
        let _ = pidfd::send_signal(self.waiting.pidfd.as_fd(), libc::SIGKILL);
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(self.waiting.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
    }
}

/// Tells systemd of limits that were changed.
///
/// # Errors
/// [`CgroupError::Systemd`].
pub fn update(unit: &Unit, resources: &LinuxResources) -> Result<(), CgroupError> {
    let list = properties(resources)?;
    if list.is_empty() {
        return Ok(());
    }
    let mut body = Body::default();
    // Until the next boot.
    body.text(&unit.name).flag(true).properties(&list);
    open()?
        .call("SetUnitProperties", "sba(sv)", &body)
        .map_err(|error| refused("change", unit, error))?;
    Ok(())
}

/// Has systemd stop the scope and forget it; fine when it is gone.
///
/// # Errors
/// [`CgroupError::Systemd`].
pub fn stop(unit: &Unit) -> Result<(), CgroupError> {
    let mut systemd = open()?;
    let mut body = Body::default();
    body.text(&unit.name).text("replace");
    match systemd.call("StopUnit", "ss", &body) {
        Ok(answer) => {
            systemd
                .wait_for_job(&answer)
                .map_err(|error| failed("wait for", unit, &error))?;
        }
        Err(CallError::Refused(name, _)) if name.ends_with(".NoSuchUnit") => {}
        Err(error) => return Err(refused("stop", unit, error)),
    }
    let mut body = Body::default();
    body.text(&unit.name);
    // One that has not failed is none to forget.
    let _ = systemd.call("ResetFailedUnit", "s", &body);
    Ok(())
}

fn open() -> Result<Connection, CgroupError> {
    if !Path::new(BOOTED).is_dir() {
        return Err(CgroupError::Systemd(
            "systemd does not run on this host, so it can make no cgroups".into(),
        ));
    }
    Connection::open(Path::new(SOCKET))
        .map_err(|error| CgroupError::Systemd(format!("connect to {SOCKET}: {}", super::describe(&error))))
}

fn failed(operation: &str, unit: &Unit, error: &std::io::Error) -> CgroupError {
    CgroupError::Systemd(format!("{operation} {}: {}", unit.name, super::describe(error)))
}

fn refused(operation: &str, unit: &Unit, error: CallError) -> CgroupError {
    match error {
        CallError::Io(error) => failed(operation, unit, &error),
        CallError::Refused(name, words) => {
            CgroupError::Systemd(format!("{operation} {}: {words} ({name})", unit.name))
        }
    }
}

/// Limits as properties of a unit. The names are those of version 2, which
/// systemd translates where it has to.
fn properties(resources: &LinuxResources) -> Result<Vec<(&'static str, Value)>, CgroupError> {
    let mut list = Vec::new();
    let infinite = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    if let Some(memory) = resources.memory() {
        if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
            list.push(("MemoryMax", Value::Number(infinite(limit))));
        }
        if let Some(limit) = memory.reservation().filter(|limit| *limit != 0) {
            list.push(("MemoryLow", Value::Number(infinite(limit))));
        }
        match (memory.swap().filter(|swap| *swap != 0), memory.limit()) {
            (Some(-1), _) => list.push(("MemorySwapMax", Value::Number(u64::MAX))),
            // Both together, which systemd has each for itself.
            (Some(both), Some(limit)) if both >= limit && limit > 0 => {
                list.push(("MemorySwapMax", Value::Number(infinite(both - limit))));
            }
            _ => {}
        }
    }
    if let Some(cpu) = resources.cpu() {
        if cpu.idle() == Some(1) {
            list.push(("CPUWeight", Value::Number(0)));
        } else if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            list.push(("CPUWeight", Value::Number(v2::weight(shares))));
        }
        let period = cpu.period().filter(|period| *period > 0);
        if let Some(period) = period {
            list.push(("CPUQuotaPeriodUSec", Value::Number(period)));
        }
        if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
            let second = u64::try_from(quota).map_or(u64::MAX, |quota| {
                // systemd counts in hundredths: never less than was asked for.
                let exact = quota.saturating_mul(1_000_000) / period.unwrap_or(100_000);
                exact.next_multiple_of(10_000)
            });
            list.push(("CPUQuotaPerSecUSec", Value::Number(second)));
        }
        for (name, set) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
            if let Some(set) = set.as_ref().filter(|set| !set.trim().is_empty()) {
                list.push((name, Value::Bytes(bits(set)?)));
            }
        }
    }
    if let Some(pids) = resources.pids() {
        // It takes no 0.
        let most = match pids.limit() {
            0 => 1,
            limit => infinite(limit),
        };
        list.push(("TasksMax", Value::Number(most)));
    }
    Ok(list)
}

/// A list of numbers with ranges as a set of bits, the lowest first.
fn bits(list: &str) -> Result<Vec<u8>, CgroupError> {
    let wrong = || CgroupError::Systemd(format!("{list:?} is no list of numbers"));
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < 8192);
    let mut bytes = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
        for bit in from..=to {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0_u8);
            }
            if let Some(byte) = bytes.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_for_systemd_name_a_scope_in_a_slice() {
        let unit = |path: &str| Unit::of_path(Some(Path::new(path)), "id");
        for (path, expected) in [
            ("system.slice:runc:c1", "system.slice/runc-c1.scope"),
            (":libpod:c1", "system.slice/libpod-c1.scope"),
            (
                "machine-a-b.slice:libpod:c1",
                "machine.slice/machine-a.slice/machine-a-b.slice/libpod-c1.scope",
            ),
            ("-.slice::c1", "c1.scope"),
        ] {
            assert_eq!(unit(path).unwrap().path(), Path::new(expected), "{path}");
        }
        for wrong in [
            "/a/b",
            "a:b",
            "a:b:c:d",
            "system:x:y",
            "a--b.slice:x:y",
            "system.slice:x:",
            "system.slice:x:y.slice",
            "system.slice:x/..:y",
            "a/b.slice:x:y",
        ] {
            assert!(unit(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            Unit::of_path(None, "id").unwrap().path(),
            Path::new("system.slice/rcompose-oci-id.scope")
        );
    }

    #[test]
    fn limits_become_properties() {
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "memory": {"limit": 1000, "swap": 1500, "reservation": 10},
            "cpu": {"shares": 1024, "quota": 12_345, "period": 50_000, "cpus": "0-1,9", "mems": "0"},
            "pids": {"limit": -1},
        }))
        .unwrap();
        assert_eq!(
            properties(&resources).unwrap(),
            [
                ("MemoryMax", Value::Number(1000)),
                ("MemoryLow", Value::Number(10)),
                ("MemorySwapMax", Value::Number(500)),
                ("CPUWeight", Value::Number(v2::weight(1024))),
                ("CPUQuotaPeriodUSec", Value::Number(50_000)),
                ("CPUQuotaPerSecUSec", Value::Number(250_000)),
                ("AllowedCPUs", Value::Bytes(vec![3, 2])),
                ("AllowedMemoryNodes", Value::Bytes(vec![1])),
                ("TasksMax", Value::Number(u64::MAX)),
            ]
        );
        assert!(bits("0-x").is_err() && bits("9999").is_err());
    }
}
