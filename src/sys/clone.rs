//! New processes of single-threaded ones, and what becomes of this one.
//!
//! Nothing here may be called by a process that has threads: the child would
//! inherit locks that nobody releases.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use super::spawn::pointers;

/// The arguments of clone3(2), as in `linux/sched.h` (size 88, Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_INTO_CGROUP`: it does not fit in the 32 bits of clone(2).
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// `CLONE_NEWTIME`, which libc has for few targets.
pub const NEWTIME: i32 = 0x80;

/// A child of this process.
#[derive(Debug)]
pub struct Child {
    /// Its process id, in our pid namespace.
    pub pid: u32,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
}

/// Makes a child that runs `child` and exits with what it returns. `flags` are
/// the `CLONE_NEW*` bits of clone(2); with `cgroup` (a folder of a version 2
/// hierarchy) the child starts in that cgroup. The caller must have no threads.
///
/// # Errors
/// What clone3(2) returns.
pub fn clone_process(
    flags: i32,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    clone_with(flags, libc::SIGCHLD as u64, cgroup, child)
}

/// As [`clone_process`], but the child is a child of our parent: a sibling.
///
/// # Errors
/// What clone3(2) returns.
pub fn clone_sibling(
    flags: i32,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    // The signal of its end is that of ours.
    clone_with(flags | libc::CLONE_PARENT, 0, cgroup, child)
}

/// As [`clone_process`], but both share one table of descriptors.
///
/// # Errors
/// What clone3(2) returns.
pub fn clone_sharing_descriptors(child: impl FnOnce() -> i32) -> io::Result<Child> {
    clone_with(libc::CLONE_FILES, libc::SIGCHLD as u64, None, child)
}

fn clone_with(
    flags: i32,
    exit_signal: u64,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> i32,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArgs {
        flags: u64::from(flags.cast_unsigned()) | u64::from(libc::CLONE_PIDFD.cast_unsigned()),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal,
        ..CloneArgs::default()
    };
    if let Some(folder) = cgroup {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = u64::from(folder.as_raw_fd().cast_unsigned());
    }
    // SAFETY: the structure is valid and of the size given; without CLONE_VM
    // the child has a copy of our memory and goes on from here on its own
    // stack, like after fork(2).
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArgs>()) };
    match pid {
        0 => {
            let code = child();
            // SAFETY: ends the process without running exit handlers, which
            // belong to the parent.
            unsafe { libc::_exit(code) }
        }
        pid if pid > 0 => Ok(Child {
            pid: u32::try_from(pid).unwrap_or(0),
            // SAFETY: CLONE_PIDFD stored a descriptor that nobody else owns.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a plain child that runs `child` and exits with what it returns; its
/// process id. Works under filters that have no clone3(2). The caller must have
/// no threads.
///
/// # Errors
/// What fork(2) returns.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<u32> {
    // SAFETY: the caller has one thread, so the child's copy of memory holds
    // no lock of another.
    match unsafe { libc::fork() } {
        0 => {
            let code = child();
            // SAFETY: ends the process without running exit handlers, which
            // belong to the parent.
            unsafe { libc::_exit(code) }
        }
        pid => u32::try_from(pid).map_err(|_| io::Error::last_os_error()),
    }
}

/// Leaves the namespaces named by the `CLONE_NEW*` bits for fresh ones.
///
/// # Errors
/// What unshare(2) returns; [`io::ErrorKind::InvalidInput`] for other bits.
pub fn unshare_namespaces(flags: i32) -> io::Result<()> {
    const NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWCGROUP
        | NEWTIME;
    if flags & !NAMESPACES != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only namespaces are left; memory and descriptors stay shared.
    if unsafe { libc::unshare(flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Becomes another program: execve(2). Returns only when that fails.
pub fn execute(path: &CStr, argv: &[CString], environment: &[CString]) -> io::Error {
    let argv = pointers(argv);
    let envp = pointers(environment);
    // SAFETY: NULL-terminated arrays of pointers to live strings.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr().cast(), envp.as_ptr().cast()) };
    io::Error::last_os_error()
}

/// Becomes the program that `file` is a descriptor of (execveat(2) with an
/// empty path). Returns only when that fails.
pub fn execute_fd(file: BorrowedFd<'_>, argv: &[CString], environment: &[CString]) -> io::Error {
    let argv = pointers(argv);
    let envp = pointers(environment);
    // SAFETY: NULL-terminated arrays of pointers to live strings.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}
