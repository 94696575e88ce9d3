//! Processes that cannot be mistaken for others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::sys::{kernel_file, pidfd};

/// A process by number and start time: a number alone is given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id in our pid namespace.
    pub pid: u32,
    /// When it was started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub start_time: u64,
}

impl ProcessId {
    /// Reads the start time of a process that is known to be the right one.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = kernel_file::read(format!("/proc/{pid}/stat"))?;
        // The name, in parentheses, may hold anything; fields are counted from its end.
        let start_time = stat
            .rsplit_once(") ")
            .and_then(|(_, fields)| fields.split(' ').nth(19))
            .and_then(|field| field.parse().ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Self { pid, start_time })
    }

    /// The process, if it (and not another of its number) still exists.
    ///
    /// # Errors
    /// What pidfd_open(2) returns, but not `ESRCH`.
    pub fn open(self) -> io::Result<Option<Process>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at with the descriptor open: if the number was given again, it
        // was before, and the start times differ.
        match Self::of(self.pid) {
            Ok(now) if now == self => Ok(Some(Process { id: self, fd })),
            _ => Ok(None),
        }
    }
}

/// A process by descriptor.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    fd: OwnedFd,
}

impl Process {
    /// A process of ours that has not been reaped, so that its number is its own.
    pub(super) fn own(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::NotFound)?;
        let fd = rustix::process::pidfd_open(raw, PidfdFlags::empty())?;
        Ok(Self {
            id: ProcessId::of(pid)?,
            fd,
        })
    }

    /// A process with the descriptor its parent has of it.
    pub(super) fn given(id: ProcessId, fd: OwnedFd) -> Self {
        Self { id, fd }
    }

    /// Its descriptor alone.
    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.fd
    }

    /// Number and start time.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Sends a signal by number.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) returns; `ESRCH` when it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        pidfd::send_signal(self.fd.as_fd(), signal)
    }

    /// Whether it has ended (reaped or not).
    pub fn has_ended(&self) -> bool {
        self.ends_within(Some(std::time::Duration::ZERO))
    }

    /// Waits until it has ended, at most so long; whether it has.
    pub fn ends_within(&self, timeout: Option<std::time::Duration>) -> bool {
        let timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs().cast_signed(),
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref()))
            .is_ok_and(|ready| ready > 0)
    }

    /// Reaps a child of ours: its status as a shell counts (128 and the number
    /// of the signal that killed it), after waiting for its end.
    ///
    /// # Errors
    /// `ECHILD` when it is not our child or was reaped.
    pub fn wait(&self) -> io::Result<i32> {
        let wait = || rustix::process::waitid(WaitId::PidFd(self.fd.as_fd()), WaitIdOptions::EXITED);
        match rustix::io::retry_on_intr(wait)? {
            Some(status) => Ok(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                (None, None) => 128,
            }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Reaps a child of ours if it has ended; quiet about anything else.
    pub fn reap(&self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = rustix::process::waitid(WaitId::PidFd(self.fd.as_fd()), options);
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_another_start_time_is_another_process() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.open().unwrap().is_some());
        let other = ProcessId {
            start_time: own.start_time + 1,
            ..own
        };
        assert!(other.open().unwrap().is_none());
        assert!(
            ProcessId {
                pid: 0,
                start_time: 0
            }
            .open()
            .unwrap()
            .is_none()
        );
    }

    #[test]
    fn a_child_is_waited_for_and_reaped() {
        let mut child = std::process::Command::new("false").spawn().unwrap();
        let process = Process::own(child.id()).unwrap();
        assert!(process.ends_within(Some(std::time::Duration::from_secs(10))));
        assert_eq!(process.wait().unwrap(), 1);
        assert!(process.wait().is_err());
        assert!(child.wait().is_err());
        assert!(process.id().open().unwrap().is_none());
    }
}
