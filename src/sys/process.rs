//! Attributes of this process.
#![allow(unsafe_code)]

use std::io;

/// Keeps memory that is freed instead of giving it back to the kernel bit by
/// bit, and asks for it in large pieces: for a process that ends soon. It takes
/// a quarter off the loading of a stack of ten thousand services (mallopt(3)).
pub fn hold_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_TRIM_THRESHOLD, 1 << 30),
        (libc::M_MMAP_THRESHOLD, 1 << 30),
        (libc::M_TOP_PAD, 16 << 20),
    ] {
        // SAFETY: integers only; what the allocator does not know it leaves alone.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Keeps what this process has of memory small: for one that lives long and
/// does little. All threads share one arena, and larger pieces are given back as
/// they are freed (mallopt(3)).
pub fn spare_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TRIM_THRESHOLD, 64 << 10),
        (libc::M_MMAP_THRESHOLD, 64 << 10),
        (libc::M_TOP_PAD, 16 << 10),
    ] {
        // SAFETY: integers only; what the allocator does not know it leaves alone.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives freed memory back to the kernel, also from between pieces in use
/// (malloc_trim(3)).
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: an integer only; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives this process a session keyring of its own, so that it shares no keys
/// with its caller: keyctl(2). Fine on a kernel without keyrings.
///
/// # Errors
/// What the call returns.
pub fn join_new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a NULL name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    if result >= 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Ok(()),
        _ => Err(error),
    }
}

/// Makes this process adopt the orphans among its descendants.
///
/// # Errors
/// What prctl(2) returns.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Ends this process at once, without exit handlers: _exit(2).
pub fn exit_now(status: i32) -> ! {
    // SAFETY: integers only.
    unsafe { libc::_exit(status) }
}

/// Makes the kernel send us SIGKILL when our parent dies.
///
/// # Errors
/// What prctl(2) returns.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a resource limit by its `RLIMIT_*` number.
///
/// # Errors
/// What setrlimit(2) returns.
pub fn set_resource_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: a pointer to a live structure that is only read.
    if unsafe { libc::setrlimit(resource as _, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a resource limit of another process by its `RLIMIT_*` number.
///
/// # Errors
/// What prlimit(2) returns; `ESRCH` when there is no such process.
pub fn set_resource_limit_of(pid: u32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: a pointer to a live structure that is only read, and none to write to.
    if unsafe { libc::prlimit(pid, resource as _, &raw const limit, std::ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The soft and hard value of a resource limit by its `RLIMIT_*` number.
///
/// # Errors
/// What getrlimit(2) returns.
pub fn resource_limit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a pointer to a live structure that the call fills.
    if unsafe { libc::getrlimit(resource as _, &raw mut limit) } == 0 {
        Ok((limit.rlim_cur, limit.rlim_max))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Brings the loopback interface of this network namespace up.
///
/// # Errors
/// What socket(2) and netdevice(7) return.
pub fn bring_loopback_up() -> io::Result<()> {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
    // SAFETY: integers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    #[expect(clippy::cast_possible_truncation, reason = "both flags are small")]
    {
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    }
    // SAFETY: SIOCSIFFLAGS reads the structure.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
