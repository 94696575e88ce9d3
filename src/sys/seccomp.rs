//! Loading a system call filter.
#![allow(unsafe_code)]

use std::io;

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

/// Puts this process, and all it starts, under a filter, without the store
/// bypass mitigation that filters once switched on (as Docker does). Needs
/// CAP_SYS_ADMIN or no_new_privs.
///
/// # Errors
/// What seccomp(2) returns.
pub fn install(program: &[Instruction]) -> io::Result<()> {
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
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const description,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
