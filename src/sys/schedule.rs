//! How the kernel treats this process: processor, disk and memory.
#![allow(unsafe_code)]

use std::io;

/// The argument of sched_setattr(2), as in `linux/sched/types.h` (size 56).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// Set by [`set_schedule`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub runtime: u64,
    /// As above.
    pub deadline: u64,
    /// As above.
    pub period: u64,
    /// With `SCHED_FLAG_UTIL_CLAMP_MIN`.
    pub util_min: u32,
    /// With `SCHED_FLAG_UTIL_CLAMP_MAX`.
    pub util_max: u32,
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the scheduling policy of this thread: sched_setattr(2).
///
/// # Errors
/// What the call returns.
pub fn set_schedule(schedule: Schedule) -> io::Result<()> {
    let schedule = Schedule { size: 56, ..schedule };
    // SAFETY: a pointer to a live structure of the size it names.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const schedule, 0) })
}

/// Sets the disk priority of this thread: ioprio_set(2); `class` 1 (real time),
/// 2 (best effort) or 3 (idle), `priority` 0 to 7.
///
/// # Errors
/// What the call returns.
pub fn set_io_priority(class: u32, priority: u32) -> io::Result<()> {
    const PROCESS: libc::c_int = 1;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, class << 13 | priority & 0x1fff) })
}

/// Sets the execution domain: personality(2).
///
/// # Errors
/// What the call returns.
pub fn set_personality(persona: u32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_personality, libc::c_ulong::from(persona)) })
}

/// Sets on which memory nodes this thread allocates: set_mempolicy(2). `mode`
/// is `MPOL_*` with its flags; `nodes` lists node numbers below 1024.
///
/// # Errors
/// What the call returns; [`io::ErrorKind::InvalidInput`] for a higher node.
pub fn set_memory_policy(mode: i32, nodes: &[u32]) -> io::Result<()> {
    const BITS: u32 = libc::c_ulong::BITS;
    let mut mask: [libc::c_ulong; 1024 / BITS as usize] = [0; 1024 / BITS as usize];
    for node in nodes {
        let word = mask
            .get_mut((node / BITS) as usize)
            .ok_or(io::ErrorKind::InvalidInput)?;
        *word |= 1 << (node % BITS);
    }
    let (pointer, most) = if nodes.is_empty() {
        (std::ptr::null(), 0)
    } else {
        (mask.as_ptr(), 1025_u64)
    };
    // SAFETY: the mask is live and has the number of bits said (the kernel
    // looks at one less).
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, most) })
}

/// Lets this thread run on every processor that its cgroup has.
///
/// # Errors
/// What sched_setaffinity(2) returns.
pub fn set_any_affinity() -> io::Result<()> {
    let mask = [u8::MAX; 1024];
    // SAFETY: the mask is live and as long as said.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, mask.len(), mask.as_ptr()) })
}

/// Binds this thread to processors: sched_setaffinity(2).
///
/// # Errors
/// What the call returns; [`io::ErrorKind::InvalidInput`] for a number above 8191.
pub fn set_affinity(processors: &[u32]) -> io::Result<()> {
    let mut mask = [0_u8; 1024];
    for processor in processors {
        let byte = mask
            .get_mut((processor / 8) as usize)
            .ok_or(io::ErrorKind::InvalidInput)?;
        *byte |= 1 << (processor % 8);
    }
    // SAFETY: the mask is live and as long as said; the byte order of its words
    // is that of bytes on little-endian machines, the only ones we run on.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, mask.len(), mask.as_ptr()) })
}
