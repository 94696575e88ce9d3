//! Standing beside a process in the foreground: signals go in, the terminal is
//! relayed, the status comes out.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::WaitOptions;

use super::error::OciError;
use super::notify::Ready;
use super::terminal::Relay;
use crate::runtime::Process;

/// Waits until a child of ours has ended; its status as a shell counts. A program
/// that says it is ready makes us, who stay, the service that is.
pub(super) fn until_end(
    process: &Process,
    terminal: Option<OwnedFd>,
    mut ready: Option<&Ready>,
) -> Result<i32, OciError> {
    let failed = || OciError::io("wait for", "process");
    let all = SigSet::all();
    all.thread_block().map_err(|error| failed()(error.into()))?;
    let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| failed()(error.into()))?;
    let mut relay = terminal.map(Relay::new);
    let stdin = io::stdin();
    loop {
        let mut fds = vec![
            PollFd::new(&signals, PollFlags::IN),
            PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN),
        ];
        if let Some(relay) = &relay {
            fds.push(PollFd::from_borrowed_fd(relay.as_fd(), PollFlags::IN));
            if relay.typing {
                fds.push(PollFd::new(&stdin, PollFlags::IN));
            }
        }
        fds.extend(ready.map(|ready| PollFd::new(ready, PollFlags::IN)));
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))
            .map_err(|error| failed()(error.into()))?;
        let awake: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is = |at: usize| awake.get(at).copied().unwrap_or(false);
        drop(fds);
        if let Some(socket) = ready.filter(|_| awake.last() == Some(&true))
            && !matches!(socket.pass_on(std::process::id()), Ok(false))
        {
            // Said, or nobody hears it.
            ready = None;
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            match i32::try_from(signal.ssi_signo).unwrap_or(0) {
                libc::SIGWINCH => {
                    if let Some(relay) = &relay {
                        relay.fit();
                    }
                }
                // Job control of our own terminal is not the program's business;
                // SIGPIPE is about our own output.
                libc::SIGCHLD | libc::SIGTTIN | libc::SIGTTOU | libc::SIGPIPE | libc::SIGURG => {}
                other => {
                    let _ = process.signal(other);
                }
            }
        }
        if let Some(joined) = &mut relay {
            if joined.typing && is(3) {
                joined.typed();
            }
            if is(2) && !joined.shown() {
                relay = None;
            }
        }
        if is(1) {
            let status = process.wait().map_err(failed())?;
            // The kernel keeps what was written last.
            while let Some(joined) = &relay {
                let mut fds = [PollFd::from_borrowed_fd(joined.as_fd(), PollFlags::IN)];
                let now = rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                let more = rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0);
                if !more || !joined.shown() {
                    relay = None;
                }
            }
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
            return Ok(status);
        }
    }
}
