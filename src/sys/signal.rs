//! Signals of this process.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::str::FromStr as _;

/// The highest signal number.
const LAST: i32 = 64;

/// The number of a signal by its name (`SIGTERM`, `term`, `RTMIN+1`) or its
/// number in decimal digits; `None` when there is none of that name.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.trim().to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=LAST).contains(&number).then_some(number);
    }
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) => digits.parse::<i32>().ok(),
        None => rest.is_empty().then_some(0),
    };
    let number = if let Some(rest) = plain.strip_prefix("RTMIN") {
        libc::SIGRTMIN() + offset(rest, '+')?
    } else if let Some(rest) = plain.strip_prefix("RTMAX") {
        libc::SIGRTMAX() - offset(rest, '-')?
    } else {
        // Second names of the same numbers (signal(7)).
        let name = match plain {
            "POLL" => "IO",
            "IOT" => "ABRT",
            "CLD" => "CHLD",
            other => other,
        };
        return nix::sys::signal::Signal::from_str(&format!("SIG{name}"))
            .ok()
            .map(|signal| signal as i32);
    };
    (libc::SIGRTMIN()..=libc::SIGRTMAX())
        .contains(&number)
        .then_some(number)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_in_every_usual_way() {
        for (text, expected) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGPOLL", Some(29)),
            ("iot", Some(6)),
            ("CLD", Some(17)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+99", None),
            ("RTMINx", None),
            ("RTMAX+1", None),
            ("99999999999", None),
            ("NOSUCH", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("SIG", None),
            ("", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
