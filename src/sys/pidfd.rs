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
