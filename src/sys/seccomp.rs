//! Loading a system call filter.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// One instruction of a classic BPF program, as in `linux/filter.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions skipped when a test holds.
    pub jt: u8,
    /// Instructions skipped when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// The most instructions a program may have (`BPF_MAXINSNS`).
pub const MOST: usize = 4096;

/// `SECCOMP_FILTER_FLAG_LOG`: verdicts but "allow" are written to the audit log.
pub const LOG: u64 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`: without the store bypass mitigation that
/// filters once switched on.
pub const SPEC_ALLOW: u64 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`: the call returns a descriptor that
/// notifications are read from.
pub const NEW_LISTENER: u64 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`: a notified call waits for its
/// answer through signals (Linux 5.19).
pub const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// Puts this process, and all it starts, under a filter, with the flags above.
/// Needs CAP_SYS_ADMIN or no_new_privs. With [`NEW_LISTENER`] gives the listener.
///
/// # Errors
/// What seccomp(2) returns.
pub fn install(program: &[Instruction], flags: u64) -> io::Result<Option<OwnedFd>> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let description = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `Instruction` has the layout of `sock_filter`; the description
    // and the program live through the call, which copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const description,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: with this flag the result is a fresh descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}
