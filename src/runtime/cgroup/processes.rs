//! The processes of a cgroup: listed, signalled, frozen and killed together.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use super::{Cgroup, CgroupError, Folder, Version, Warning, pause, write};
use crate::sys::{kernel_file, pidfd};

impl Cgroup {
    /// The processes in it and below it.
    pub fn processes(&self) -> Vec<u32> {
        let mut list = Vec::new();
        for folder in &self.folders {
            collect(&folder.path, &mut list);
        }
        list.sort_unstable();
        list.dedup();
        list
    }

    /// Kills every process in it and waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when some outlive `patience` (they hang in the kernel).
    pub fn kill(&self, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(folder) = self.unified() {
                // Everything at once where the kernel can (5.14), even what
                // forks faster than we look.
                let _ = fs::write(folder.join("cgroup.kill"), "1");
            }
            let processes = self.processes();
            if processes.is_empty() {
                return Ok(());
            }
            let open = |number: u32| {
                let pid = Pid::from_raw(i32::try_from(number).ok()?)?;
                Some((
                    number,
                    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?,
                ))
            };
            let mut ends: Vec<_> = processes.into_iter().filter_map(open).collect();
            // A number may have passed to another process between the list and
            // the descriptor: what is killed must be in a second list too.
            let members = self.processes();
            ends.retain(|(number, _)| members.binary_search(number).is_ok());
            for (_, end) in &ends {
                let _ = pidfd::send_signal(end.as_fd(), libc::SIGKILL);
            }
            // What the freezer of version 1 holds does not even die; and somebody
            // may have moved a process to a frozen folder outside of ours.
            if let Some(folder) = self.v1_freezer() {
                let _ = write(&folder.path, "freezer.state", "THAWED");
                let mut here = Vec::new();
                collect(&folder.path, &mut here);
                for (number, _) in ends.iter().filter(|(number, _)| !here.contains(number)) {
                    let _ = write(&folder.path, "cgroup.procs", &number.to_string());
                }
            }
            for (_, end) in &ends {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = Timespec {
                    tv_sec: left.as_secs().cast_signed(),
                    tv_nsec: left.subsec_nanos().into(),
                };
                let mut fds = [PollFd::new(end, PollFlags::IN)];
                let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&timeout)));
            }
            if Instant::now() >= deadline {
                let path = self
                    .folders
                    .first()
                    .map(|folder| folder.path.clone())
                    .unwrap_or_default();
                return Err(CgroupError::io("empty", &path)(io::ErrorKind::TimedOut.into()));
            }
            if ends.is_empty() {
                // Ended between the two looks, or leaving right now.
                pause(Duration::from_micros(200));
            }
        }
    }

    /// Sends a signal to every process in it, once.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when one cannot be signalled.
    pub fn signal(&self, signal: i32) -> Result<(), CgroupError> {
        let folder = self
            .folders
            .first()
            .map(|folder| folder.path.clone())
            .unwrap_or_default();
        for number in self.processes() {
            let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else {
                continue;
            };
            let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Its number may have passed to another process before it was opened.
            if self.processes().binary_search(&number).is_err() {
                continue;
            }
            match pidfd::send_signal(process.as_fd(), signal) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(CgroupError::io("signal processes of", &folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The folder that freezes: version 2 where there is one, also without
    /// controllers.
    fn freezer(&self) -> Option<&Folder> {
        let v2 =
            |folder: &&Folder| folder.version == Version::V2 && folder.path.join("cgroup.freeze").exists();
        self.folders.iter().find(v2).or_else(|| self.v1_freezer())
    }

    fn v1_freezer(&self) -> Option<&Folder> {
        let v1 = |folder: &&Folder| folder.version == Version::V1 && folder.has("freezer");
        self.folders.iter().find(v1)
    }

    /// Whether all its processes are frozen.
    pub fn is_frozen(&self) -> bool {
        let Some(folder) = self.freezer() else {
            return false;
        };
        match folder.version {
            Version::V2 => fs::read_to_string(folder.path.join("cgroup.events"))
                .is_ok_and(|text| text.lines().any(|line| line == "frozen 1")),
            Version::V1 => fs::read_to_string(folder.path.join("freezer.state"))
                .is_ok_and(|text| text.trim() == "FROZEN"),
        }
    }

    /// Freezes or thaws all its processes, and waits until they are.
    ///
    /// # Errors
    /// [`CgroupError::Io`]; of kind `TimedOut` when a process does not freeze
    /// within ten seconds (then all are thawed again).
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(folder) = self.freezer() else {
            return Err(CgroupError::Unenforced(Warning {
                wish: "freezing".into(),
                reason: "no freezer controller".into(),
            }));
        };
        let (file, value) = match (folder.version, frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut wait = Duration::from_micros(100);
        loop {
            // Version 1 may need to be asked again while processes fork.
            write(&folder.path, file, value)?;
            if self.is_frozen() == frozen {
                return Ok(());
            }
            if Instant::now() >= deadline {
                if frozen {
                    let _ = self.freeze(false);
                }
                return Err(CgroupError::io("freeze", &folder.path)(
                    io::ErrorKind::TimedOut.into(),
                ));
            }
            pause(wait);
            wait = (wait * 2).min(Duration::from_millis(10));
        }
    }
}

impl Folder {
    /// Whether a process that joins it is frozen at once: it is there and frozen,
    /// or will be made below one that is.
    pub(super) fn would_freeze(&self) -> bool {
        let Some(nearest) = self.path.ancestors().find(|path| path.is_dir()) else {
            return false;
        };
        let says = |file: &str, texts: &[&str]| {
            fs::read_to_string(nearest.join(file))
                .is_ok_and(|found| found.lines().any(|line| texts.contains(&line.trim())))
        };
        match self.version {
            Version::V2 => says("cgroup.events", &["frozen 1"]) || says("cgroup.freeze", &["1"]),
            Version::V1 => self.has("freezer") && says("freezer.state", &["FROZEN", "FREEZING"]),
        }
    }
}

fn collect(folder: &Path, list: &mut Vec<u32>) {
    let text = kernel_file::read(folder.join("cgroup.procs")).unwrap_or_default();
    list.extend(
        text.lines()
            .filter_map(|line| line.parse::<u32>().ok())
            .filter(|pid| *pid != 0),
    );
    // The kernel counts the folders in a folder as links to it: mostly there is
    // none, and nothing to look through.
    if rustix::fs::stat(folder).is_ok_and(|stat| stat.st_nlink == 2) {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), list);
        }
    }
}
