//! `kill`, `delete`, `pause` and `resume`.

use std::time::Duration;

use super::arguments::Invocation;
use super::container::{Container, Folder, Record, Status, all, root};
use super::error::OciError;
use super::log::Log;
use crate::runtime::bundle;
use crate::runtime::cgroup::systemd;
use crate::sys::signal;

/// How long processes may take to die of SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// `kill`: a signal to the container's process 1, or to all its processes.
pub(super) fn kill(invocation: &Invocation) -> Result<i32, OciError> {
    let name = invocation.positional.get(1).map_or("SIGTERM", String::as_str);
    let container = Container::named(invocation)?;
    // Zero asks whether there is somebody (kill(2)).
    let known = if name == "0" {
        Some(0)
    } else {
        signal::number(name)
    };
    let signal = known.ok_or_else(|| OciError::Usage(format!("unknown signal {name:?}")))?;
    // Without a pid namespace of its own its other processes do not end with
    // its first.
    let all = invocation.has("all") || (signal == libc::SIGKILL && !container.record.own_pids);
    let others = all && !container.cgroup.processes().is_empty();
    if all {
        container.cgroup.signal(signal)?;
    }
    match &container.process {
        Some(process) if !all => match process.signal(signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(OciError::NotRunning),
            other => other.map_err(OciError::io("signal", &container.folder.id))?,
        },
        Some(_) => {}
        None if invocation.has("all") || others => {}
        None => return Err(OciError::NotRunning),
    }
    if container.status == Status::Paused && signal == libc::SIGKILL {
        // Frozen processes of version 1 do not die.
        container.cgroup.freeze(false)?;
    }
    Ok(0)
}

/// `delete`: everything a stopped container has; as with the runtimes before us,
/// one that was never started counts as such. With `--regex`, of all whose id has a
/// match in it.
pub(super) fn delete(invocation: &Invocation, log: &Log) -> Result<i32, OciError> {
    let force = invocation.has("force");
    if !invocation.has("regex") {
        return delete_one(Folder::named(invocation)?, force, log);
    }
    let pattern = invocation.id()?;
    let pattern = regex::Regex::new(pattern)
        .map_err(|error| OciError::Usage(format!("option --regex: {pattern:?}: {error}")))?;
    // One that cannot be deleted does not keep the others.
    let mut first = Ok(0);
    for container in all(&root(invocation)) {
        if pattern.is_match(&container.folder.id) {
            first = first.and(delete_one(container.folder, force, log));
        }
    }
    first
}

fn delete_one(folder: Folder, force: bool, log: &Log) -> Result<i32, OciError> {
    let held = match folder.lock() {
        Err(OciError::Missing(_)) if force => return Ok(0),
        other => other?,
    };
    let id = folder.id.clone();
    let path = folder.path.clone();
    let container = match folder.load() {
        // A `create` was killed before it wrote anything down.
        Err(OciError::Missing(_)) => {
            Folder { id: id.clone(), path }.remove()?;
            return if force { Ok(0) } else { Err(OciError::Missing(id)) };
        }
        other => other?,
    };
    let begun = !matches!(container.status, Status::Created | Status::Stopped);
    if container.process.is_some() && begun && !force {
        return Err(container.wrong_status("delete"));
    }
    end(&container, log)?;
    drop(held);
    Ok(0)
}

/// Ends a container and removes it, without being asked twice.
pub(super) fn destroy(folder: Folder, log: &Log) -> Result<(), OciError> {
    let held = folder.lock()?;
    let container = folder.load()?;
    end(&container, log)?;
    drop(held);
    Ok(())
}

/// Removes a container whose process 1 has ended and was waited for, by the
/// command that has made it.
pub(super) fn remove_ended(folder: Folder, record: Record, log: &Log) -> Result<(), OciError> {
    let held = folder.lock()?;
    let cgroup = record.fixed.cgroup.clone();
    let container = Container {
        folder,
        record,
        process: None,
        cgroup,
        status: Status::Stopped,
    };
    end(&container, log)?;
    drop(held);
    Ok(())
}

/// Kills what is left, removes cgroup and folder, runs the `poststop` hooks.
fn end(container: &Container, log: &Log) -> Result<(), OciError> {
    if let Some(process) = &container.process {
        let _ = process.signal(libc::SIGKILL);
    }
    if container.status == Status::Paused {
        container.cgroup.freeze(false)?;
    }
    if container.record.fixed.is_of_this_boot() {
        let idle = container.process.is_none() && container.cgroup.remove_idle();
        if !idle {
            container.cgroup.kill(PATIENCE)?;
        }
        if let Some(process) = &container.process {
            process.ends_within(Some(PATIENCE));
            // Ours to reap when we have made it.
            process.reap();
        }
        if let Some(unit) = &container.record.fixed.unit {
            systemd::stop(unit)?;
        }
        if !idle {
            container.cgroup.remove_own()?;
        }
    }
    container.record.unmount_root()?;
    container.folder.remove()?;
    let mut state = container.state();
    state.set_status(oci_spec::runtime::ContainerState::Stopped);
    state.set_pid(None);
    if let Err(error) = bundle::run_poststop(&container.record.poststop, &state) {
        log.warn_aloud(&error.to_string());
    }
    Ok(())
}

/// `pause`.
pub(super) fn pause(invocation: &Invocation) -> Result<i32, OciError> {
    let container = Container::named(invocation)?;
    match container.status {
        Status::Running | Status::Created => container.cgroup.freeze(true)?,
        Status::Stopped => return Err(OciError::NotRunning),
        _ => return Err(container.wrong_status("pause")),
    }
    Ok(0)
}

/// `resume`.
pub(super) fn resume(invocation: &Invocation) -> Result<i32, OciError> {
    let container = Container::named(invocation)?;
    if !container.cgroup.is_frozen() || container.process.is_none() {
        return Err(container.wrong_status("resume"));
    }
    container.cgroup.freeze(false)?;
    Ok(0)
}
