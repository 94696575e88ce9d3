//! A process that waits for another and passes signals on: process 1 of a
//! container with `init`, and the outer half of exec.

use std::io;

use rustix::process::{WaitOptions, WaitStatus};

use crate::sys::signal;

/// Waits for `child`, reaping everything else that is ours to reap and passing
/// signals on to it; its status as a shell counts. Signals must be blocked.
pub(in crate::runtime) fn stand_for(child: u32) -> i32 {
    loop {
        // Before the wait too: the child may have ended before signals were blocked.
        if let Some(status) = reap(child) {
            return status;
        }
        match signal::wait() {
            Ok(libc::SIGCHLD) => {}
            // Job control of our own terminal is not the child's business.
            Ok(libc::SIGTTIN | libc::SIGTTOU | libc::SIGTSTP) => {}
            Ok(other) => {
                let _ = signal::send_to_child(child, other);
            }
            Err(_) => return 128,
        }
    }
}

fn reap(child: u32) -> Option<i32> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(child) => {
                return Some(code(status));
            }
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(error) if error == rustix::io::Errno::INTR => {}
            // No child at all: it was reaped by somebody else, which nobody does.
            Err(_) => return Some(128),
        }
    }
}

fn code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 128,
    }
}

/// Makes us the foreground of our terminal, in a process group of our own.
pub(super) fn take_terminal() {
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::termios::tcsetpgrp(io::stdin(), rustix::process::getpid());
}
