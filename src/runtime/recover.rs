//! Looking at runs from their records, ending them, and clearing up after
//! whatever was killed.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::mount::UnmountFlags;

use super::cgroup::{Cgroup, CgroupError, Warning};
use super::error::RuntimeError;
use super::foreign::Foreign;
use super::process::{Process, ProcessId};
use super::record::{ExitRecord, ExitStatus, RunningRecord, boot, now};
use super::start::layout;
use crate::store;

/// How long SIGKILL may take to end a process before it is called stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What is left of a run.
#[derive(Debug)]
pub enum Liveness {
    /// It runs, and is watched.
    Running {
        /// The monitor.
        monitor: Process,
        /// Process 1 of the container; `None` in the moment between its end
        /// and the monitor's.
        init: Option<Process>,
    },
    /// The monitor was killed: call [`reap_lost`].
    MonitorLost {
        /// Process 1 of the container, if it still is there.
        init: Option<Process>,
    },
    /// Both are gone, and the monitor may have written how it ended.
    Ended,
}

/// Looks at a run: by process numbers, start times and the boot they belong to.
///
/// # Errors
/// [`RuntimeError::Io`] when processes cannot be opened.
pub fn probe(running: &RunningRecord) -> Result<Liveness, RuntimeError> {
    Ok(
        match (alive(running, running.monitor)?, alive(running, running.init)?) {
            (Some(monitor), init) => Liveness::Running { monitor, init },
            (None, Some(init)) => Liveness::MonitorLost { init: Some(init) },
            (None, None) => Liveness::Ended,
        },
    )
}

/// Whether a run goes on: what [`probe`] calls running, for half the work.
///
/// # Errors
/// As [`probe`].
pub fn is_running(running: &RunningRecord) -> Result<bool, RuntimeError> {
    Ok(alive(running, running.monitor)?.is_some())
}

/// One of the processes of a run, if it is there.
fn alive(running: &RunningRecord, id: ProcessId) -> Result<Option<Process>, RuntimeError> {
    if running.fixed.boot != boot() {
        return Ok(None);
    }
    let process = id
        .open()
        .map_err(RuntimeError::io("open", format!("process {}", id.pid)))?;
    Ok(process.filter(|process| !process.has_ended()))
}

/// Sends a signal, by number, to process 1 of a running container.
///
/// # Errors
/// [`RuntimeError::NotRunning`] when it has ended, [`RuntimeError::Io`].
pub fn signal(running: &RunningRecord, signal: i32) -> Result<(), RuntimeError> {
    let not_running = || RuntimeError::NotRunning(running.fixed.id.clone());
    let init = match probe(running)? {
        Liveness::Running { init: Some(init), .. } | Liveness::MonitorLost { init: Some(init) } => init,
        _ => return Err(not_running()),
    };
    if let Some(foreign) = &running.fixed.foreign {
        return match foreign.kill(&running.fixed.id, signal) {
            Err(_) if init.has_ended() => Err(not_running()),
            other => Ok(other?),
        };
    }
    match init.signal(signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
        other => other.map_err(RuntimeError::io("signal", running.fixed.id.clone())),
    }
}

/// Kills every process of a container, those made by exec included, and waits
/// until they are gone. The monitor goes on: it records the end.
///
/// # Errors
/// [`RuntimeError::Stuck`] when some do not end within ten seconds.
pub fn kill_all(running: &RunningRecord) -> Result<(), RuntimeError> {
    let init = match probe(running)? {
        Liveness::Running { init, .. } | Liveness::MonitorLost { init } => init,
        Liveness::Ended => None,
    };
    if let (Some(foreign), Some(_)) = (&running.fixed.foreign, &init) {
        // What is no process of this machine ends only so.
        let _ = foreign.kill(&running.fixed.id, libc::SIGKILL);
    }
    // With process 1 its whole pid namespace ends, whatever it forks.
    if let Some(init) = &init {
        let _ = init.signal(libc::SIGKILL);
    }
    let stuck = || RuntimeError::Stuck(running.fixed.id.clone());
    if running.fixed.boot == boot() {
        running.fixed.cgroup.kill(PATIENCE).map_err(|_| stuck())?;
    }
    match init {
        Some(init) if !init.ends_within(Some(PATIENCE)) => Err(stuck()),
        _ => Ok(()),
    }
}

/// Ends what a killed monitor has left of its run, and writes the exit record it
/// could not write: with the status that `settle` finds out when all of it has
/// ended, or 137 and the reason. Does nothing to a run that has its record.
/// `cgroup` is the path given in the run's [`CgroupRequest`](super::CgroupRequest);
/// `running` may never have been written.
///
/// # Errors
/// [`RuntimeError`].
pub fn reap_lost(
    running: Option<&RunningRecord>,
    cgroup: &Path,
    exit_record: &Path,
    settle: impl FnOnce() -> Option<ExitStatus>,
) -> Result<ExitRecord, RuntimeError> {
    if let Some(running) = running {
        kill_all(running)?;
    }
    let place = Cgroup::locate(layout()?, cgroup)?;
    place
        .kill(PATIENCE)
        .map_err(|_| RuntimeError::Stuck(cgroup.display().to_string()))?;
    if let Some(record) = store::read_record::<ExitRecord>(exit_record)? {
        return Ok(record);
    }
    let lost = ExitStatus {
        code: 137,
        signal: Some(libc::SIGKILL),
    };
    let status = settle().unwrap_or(lost);
    let record = ExitRecord {
        code: status.code,
        signal: status.signal,
        oom_killed: place.oom_kills() > 0,
        started_at: running.map_or(0, |running| running.started_at),
        finished_at: now(),
        // Which may be why; else it had ended by itself.
        error: (status == lost).then(|| "the monitor was killed".into()),
    };
    store::write_record(exit_record, &record)?;
    Ok(record)
}

/// Removes what a run has made beside its records of the past: the cgroup
/// folders, the running record, the mount point, and what a killed monitor left
/// half written. Kills what still runs. May be repeated, and works when nothing
/// but the request's paths is known.
///
/// # Errors
/// [`RuntimeError`]; what could be removed is removed.
pub fn cleanup(
    cgroup: &Path,
    running_record: &Path,
    exit_record: &Path,
    mountpoint: &Path,
) -> Result<(), RuntimeError> {
    Foreign::sweep(running_record)?;
    let removed = match layout() {
        // Without one nothing can have been started here: what never ran can
        // be removed all the same.
        Err(RuntimeError::Cgroup(CgroupError::None)) if !running_record.exists() => Ok(()),
        Err(error) => return Err(error),
        Ok(layout) => {
            let place = Cgroup::locate(layout, cgroup)?;
            if place.remove_idle() {
                place.remove_above();
                Ok(())
            } else {
                place
                    .kill(PATIENCE)
                    .map_err(|_| RuntimeError::Stuck(cgroup.display().to_string()))?;
                place.remove()
            }
        }
    };
    store::remove_record(running_record)?;
    store::remove_record(&reserve(exit_record))?;
    remove_mountpoint(mountpoint)
        .map_err(|error| RuntimeError::io("remove", mountpoint.display().to_string())(error))?;
    Ok(removed?)
}

/// Removes the folder that a root file system was mounted on, in a namespace
/// which has ended, or is about to. Some kernels say `EBUSY` for moments, as
/// if it were mounted here; if it is, it ends here too.
fn remove_mountpoint(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut wait = Duration::from_micros(100);
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                // Not mounted here: EINVAL.
                if rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_err() {
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(Duration::from_millis(10));
                }
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(()),
        }
    }
}

/// Where the monitor keeps room for the exit record while the container runs.
pub(crate) fn reserve(exit_record: &Path) -> std::path::PathBuf {
    let name = exit_record.file_name().unwrap_or_default().to_string_lossy();
    exit_record.with_file_name(format!(".{name}.reserve"))
}

/// Where the exit record of the run before is, once a container is started
/// again: all that is known of it until the new run has a record of its own.
pub fn earlier(exit_record: &Path) -> std::path::PathBuf {
    let name = exit_record.file_name().unwrap_or_default().to_string_lossy();
    exit_record.with_file_name(format!(".{name}.earlier"))
}

/// Changes limits of a running container in place; wishes that the machine
/// cannot fulfil are returned.
///
/// # Errors
/// [`RuntimeError::Cgroup`].
pub fn update(running: &RunningRecord, resources: &LinuxResources) -> Result<Vec<Warning>, RuntimeError> {
    Ok(running.fixed.cgroup.update(Some(resources), false)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_goes_with_what_is_mounted_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root");
        remove_mountpoint(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let here = path.clone();
        // In a mount namespace of its own.
        std::thread::spawn(move || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
                return;
            }
            let private =
                rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            for _ in 0..2 {
                rustix::mount::mount("tmpfs", &here, "tmpfs", rustix::mount::MountFlags::empty(), None)
                    .unwrap();
            }
            fs::write(here.join("file"), "").unwrap();
            remove_mountpoint(&here).unwrap();
        })
        .join()
        .unwrap();
        remove_mountpoint(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "").unwrap();
        assert_eq!(
            remove_mountpoint(&path).unwrap_err().kind(),
            io::ErrorKind::DirectoryNotEmpty
        );
    }
}
