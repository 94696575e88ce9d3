//! Who brings a supervisor back while no container of its stack runs.
//!
//! When a container has ended its monitor stays behind as this, a fork of it
//! with nothing but the link, until the supervisor says goodbye: nobody depends
//! on it, or the next run has begun. When none stayed behind (the monitor was
//! killed, say) a supervisor that waits for a restart starts one ([`start`]). A
//! link that closes without a goodbye means what it means to any monitor.
//!
//! The supervisor that it starts is given a new link at once, and says goodbye
//! when it needs nobody, or when another supervisor is at work.
//!
//! Weak: when both are killed in the same instant, the next command brings the
//! supervisor back.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::RecvFlags;
use rustix::process::WaitOptions;

use crate::runtime::Revive;
use crate::store::Lock;
use crate::sys::spawn::{Program, spawn};
use crate::sys::{fd, memory, signal};

/// The hidden first argument that makes a process a stand-in; the lock and the
/// supervisor's command line follow.
pub const ROLE: &str = "__standin";

/// What a supervisor has as its last argument whose descriptor [`LINK`] is the
/// link to who has started it.
pub const RELIEF: &str = "relief";

/// The number of the link in a process that is given one.
pub const LINK: usize = 3;

/// After so much time without anything to do, memory is given back.
const REST: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// Pause before a supervisor is started once more; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The role. Must be called before any thread exists.
pub fn main(arguments: &[String]) -> i32 {
    let Some((lock, command)) = arguments.split_first() else {
        return 125;
    };
    let Ok(link) = fd::Inherited::claim(LINK + 1).and_then(|mut fds| fds.take(LINK)) else {
        return 125;
    };
    let _ = rustix::thread::set_name(c"rcompose");
    signal::ignore(&[
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGPIPE,
    ]);
    let revive = Revive {
        command: command.to_vec(),
        lock: PathBuf::from(lock),
    };
    stand_in(&revive, Some(link));
    0
}

/// Starts one, and gives the supervisor's end of its link.
///
/// # Errors
/// What socketpair(2), open(2) and posix_spawn(3) return.
pub fn start(revive: &Revive) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut argv = vec!["rcompose".to_owned(), ROLE.to_owned()];
    argv.push(revive.lock.display().to_string());
    argv.extend(revive.command.iter().cloned());
    run(c"/proc/self/exe", &argv, Some(theirs.as_fd()))?;
    Ok(ours)
}

/// Starts a program with a link.
fn run(path: &std::ffi::CStr, argv: &[String], link: Option<BorrowedFd<'_>>) -> io::Result<u32> {
    let argv: Vec<CString> = argv
        .iter()
        .filter_map(|text| CString::new(text.as_str()).ok())
        .collect();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let fds: Vec<BorrowedFd<'_>> = [null.as_fd(); 3].into_iter().chain(link).collect();
    spawn(&Program {
        path,
        argv: &argv,
        fds: &fds,
        new_session: true,
    })
}

/// Starts a supervisor, with a link if it is to have one; its process id.
///
/// # Errors
/// As [`start`].
pub(super) fn start_supervisor(revive: &Revive, link: Option<BorrowedFd<'_>>) -> io::Result<u32> {
    let mut argv = revive.command.clone();
    if link.is_some() {
        argv.push(RELIEF.to_owned());
    }
    let path = argv.first().and_then(|path| CString::new(path.as_str()).ok());
    let path = path.ok_or(io::ErrorKind::InvalidInput)?;
    // The file may have been removed or is being replaced; we are a copy of it.
    run(&path, &argv, link).or_else(|_| run(c"/proc/self/exe", &argv, link))
}

/// Whether whoever is at the other end of a link has let go of it, without a word.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] while neither has happened.
pub fn is_closed(link: BorrowedFd<'_>) -> io::Result<bool> {
    let mut byte = [0; 1];
    let heard = rustix::io::retry_on_intr(|| rustix::net::recv(link, &mut byte, RecvFlags::DONTWAIT));
    match heard {
        Ok((_, length)) => Ok(length == 0),
        Err(rustix::io::Errno::AGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        // The other end was closed with something unread in it.
        Err(_) => Ok(true),
    }
}

/// Waits until the supervisor needs nobody; brings it back as often as it is
/// killed.
pub(super) fn stand_in(revive: &Revive, mut link: Option<OwnedFd>) {
    // Held until the supervisor that it is for is no concern of ours: no other
    // monitor starts one meanwhile.
    let mut lock = None;
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(held) = link.take() {
            if !waits(held.as_fd()) {
                return;
            }
            drop(lock.take());
        } else {
            drop(lock.take());
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
        // Those that have ended.
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
        lock = Lock::try_take(&revive.lock).ok().flatten();
        if lock.is_none() {
            // A monitor is at it.
            continue;
        }
        if let Ok((ours, theirs)) = UnixStream::pair()
            && start_supervisor(revive, Some(theirs.as_fd())).is_ok()
        {
            link = Some(ours.into());
        }
    }
}

/// Waits for a word; whether the link was closed without one.
fn waits(link: BorrowedFd<'_>) -> bool {
    let mut rested = false;
    loop {
        let mut fds = [PollFd::from_borrowed_fd(link, PollFlags::IN)];
        match rustix::event::poll(&mut fds, (!rested).then_some(&REST)) {
            Ok(0) => {
                memory::rest();
                rested = true;
            }
            Ok(_) => match is_closed(link) {
                Ok(closed) => return closed,
                Err(_) => continue,
            },
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_word_is_a_goodbye_and_silence_is_not() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        assert!(is_closed(theirs.as_fd()).is_err());
        ours.write_all(b"\n").unwrap();
        assert!(!waits(theirs.as_fd()));
        drop(ours);
        assert!(waits(theirs.as_fd()));
    }

    #[test]
    fn who_has_heard_a_goodbye_starts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("made");
        let revive = Revive {
            command: vec!["/bin/touch".to_owned(), made.display().to_string()],
            lock: folder.path().join("lock"),
        };
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(b"\n").unwrap();
        stand_in(&revive, Some(theirs.into()));
        assert!(!made.exists());
    }
}
