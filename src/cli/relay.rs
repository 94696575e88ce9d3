//! The caller's terminal and a container's, joined.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use crate::sys::readiness::watch;

/// Puts the terminal into raw mode; back into what it was when dropped.
pub(super) struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    pub(super) fn new(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Relays between standard input and output, which are a terminal, and the
/// master side of a pseudo-terminal, until that one hangs up. Keystrokes go
/// through as they are, Ctrl-C included; the window's size follows, of which
/// `resized` is told.
///
/// # Errors
/// When the terminal cannot be put into raw mode, or writing to it fails.
pub(super) async fn relay(master: OwnedFd, resized: impl Fn()) -> io::Result<()> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let fit = || match tcgetwinsize(stdout.as_fd()) {
        Ok(size) => tcsetwinsize(&master, size).map(|()| resized()),
        Err(error) => Err(error),
    };
    let mut changed = signal(SignalKind::window_change())?;
    let _ = fit();
    let _raw = Raw::new(stdin.as_fd())?;
    rustix::io::ioctl_fionbio(&master, true)?;
    let far = watch(master.try_clone()?, Interest::READABLE | Interest::WRITABLE)?;
    let near = watch(stdin.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    let (mut typed, mut shown) = ([0_u8; 4096], [0_u8; 16384]);
    let mut typing = true;
    loop {
        tokio::select! {
            ready = near.readable(), if typing => {
                let mut ready = ready?;
                // Reading what is ready never blocks a terminal.
                let count = rustix::io::read(stdin.as_fd(), &mut typed)?;
                ready.clear_ready();
                match typed.get(..count) {
                    Some([]) | None => typing = false,
                    Some(bytes) => write_all(&far, bytes).await?,
                }
            }
            ready = far.readable() => {
                let mut ready = ready?;
                match ready.try_io(|far| rustix::io::read(far, &mut shown).map_err(io::Error::from)) {
                    // A hung up pseudo-terminal says EIO.
                    Ok(Ok(0)) => return Ok(()),
                    Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                    Ok(Ok(count)) => print(stdout.as_fd(), shown.get(..count).unwrap_or_default())?,
                    Err(_would_block) => {}
                }
            }
            _ = changed.recv() => { let _ = fit(); }
        }
    }
}

async fn write_all(far: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = far.writable().await?;
        if let Ok(written) = ready.try_io(|far| rustix::io::write(far, bytes).map_err(io::Error::from)) {
            bytes = bytes.get(written?..).unwrap_or_default();
        }
    }
    Ok(())
}

pub(super) fn print(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
