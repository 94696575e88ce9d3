//! Signals of this process.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

/// The highest signal number.
const LAST: i32 = 64;

/// Gives every signal its default disposition and blocks none: what a program
/// expects to be started with.
pub fn reset_all() {
    for signal in 1..=LAST {
        // SAFETY: SIG_DFL installs no handler. The call fails for SIGKILL,
        // SIGSTOP and the numbers libc keeps for itself, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; sigprocmask reads it.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Ignores these signals.
pub fn ignore(signals: &[i32]) {
    for signal in signals {
        // SAFETY: SIG_IGN installs no handler.
        unsafe { libc::signal(*signal, libc::SIG_IGN) };
    }
}

/// Blocks every signal that can be blocked, to be taken by [`wait`].
pub fn block_all() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set; sigprocmask reads it.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// Waits for the next signal; they must be blocked.
///
/// # Errors
/// What sigwaitinfo(2) returns, but not `EINTR`.
pub fn wait() -> io::Result<i32> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    loop {
        // SAFETY: sigfillset initialises the set; sigwaitinfo reads it, and
        // accepts no place for the details.
        let signal = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigwaitinfo(all.as_ptr(), std::ptr::null_mut())
        };
        if signal > 0 {
            return Ok(signal);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends a signal to a process by number; for our own unreaped children only,
/// whose number cannot have been given to another process.
///
/// # Errors
/// What kill(2) returns.
pub fn send_to_child(child: u32, signal: i32) -> io::Result<()> {
    let child = i32::try_from(child).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // SAFETY: integers only.
    if unsafe { libc::kill(child, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
