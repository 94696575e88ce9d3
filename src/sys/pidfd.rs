//! Processes by descriptor.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

/// Sends a signal by number, real-time ones included: pidfd_send_signal(2).
///
/// # Errors
/// What the call returns; `ESRCH` when the process is gone.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The number of a process in the pid namespace that `/proc` is of.
///
/// # Errors
/// Of kind `NotFound` when it is gone, or not in that namespace.
pub fn number(process: BorrowedFd<'_>) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .filter(|number| *number != 0)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A copy of the descriptor `number` of another process: pidfd_getfd(2).
///
/// # Errors
/// What the call returns; `EBADF` when the process has no such descriptor,
/// `EPERM` without the right to trace it.
pub fn get_fd(process: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    match RawFd::try_from(fd) {
        // SAFETY: a fresh descriptor, close-on-exec, that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// PIDFD_GET_INFO of `linux/pidfd.h`, Linux 6.13: reads a [`PidfdInfo`].
const GET_INFO: libc::c_ulong = 0xc040_ff0b;
/// PIDFD_INFO_EXIT, Linux 6.15.
const INFO_EXIT: u64 = 1 << 3;

/// `struct pidfd_info` as it was first.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    users: [u32; 8],
    exit_code: i32,
}

/// How a process ended that its parent has reaped, as wait(2) has it: the
/// descriptor must have been there before that. `None` while it has not been
/// reaped.
///
/// # Errors
/// What ioctl_pidfd(2) returns; `ENOTTY` or `EINVAL` before Linux 6.15.
pub fn exit_status(process: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = PidfdInfo {
        mask: INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request says how long the structure is, and it is so long.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), GET_INFO as _, &raw mut info) };
    if result == 0 {
        Ok((info.mask & INFO_EXIT != 0).then_some(info.exit_code))
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn the_status_of_a_reaped_process_is_known() {
        let child = |script: &str| {
            let child = std::process::Command::new("sh")
                .args(["-c", script])
                .spawn()
                .unwrap();
            let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
            (child, pidfd)
        };
        let (mut first, pidfd) = child("exit 7");
        let before = exit_status(pidfd.as_fd());
        first.wait().unwrap();
        match exit_status(pidfd.as_fd()) {
            Ok(status) => {
                assert_eq!(before.unwrap(), None, "it is a zombie at most");
                assert_eq!(status, Some(7 << 8));
            }
            // An older kernel.
            Err(error) => return assert!(matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL))),
        }
        let (mut second, pidfd) = child("kill -9 $$");
        second.wait().unwrap();
        assert_eq!(exit_status(pidfd.as_fd()).unwrap(), Some(libc::SIGKILL));
    }
}
