//! Terminals: handed to a caller's socket, or joined with our own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::termios::{
    OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::error::OciError;
use crate::sys::fd;

/// Sends a descriptor to whoever listens on a socket.
pub(super) fn send_over(path: &Path, descriptor: BorrowedFd<'_>) -> Result<(), OciError> {
    let send = || -> io::Result<()> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        fd::send(socket.as_fd(), b"/dev/ptmx", Some(descriptor))
    };
    send().map_err(OciError::io("send descriptor to", path.display().to_string()))
}

/// Sends the master side of a terminal to a console socket.
pub(super) fn send(socket: &Path, master: BorrowedFd<'_>) -> Result<(), OciError> {
    send_over(socket, master)
}

/// Our terminal in raw mode, and as it was when dropped.
#[derive(Debug)]
pub(super) struct Relay {
    master: OwnedFd,
    before: Option<Termios>,
    /// Standard input has not ended.
    pub(super) typing: bool,
}

impl Relay {
    /// Joins our standard input and output with a terminal.
    pub(super) fn new(master: OwnedFd) -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            // Lines end here as they do on any terminal: the other one passes
            // them on as they are.
            raw.output_modes |= OutputModes::OPOST;
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
        }
        let relay = Self {
            master,
            before,
            typing: true,
        };
        relay.fit();
        relay
    }

    /// Gives it the size of ours.
    pub(super) fn fit(&self) {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Passes on what was typed.
    pub(super) fn typed(&mut self) {
        let mut buffer = [0; 4096];
        match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(0) | Err(_) => self.typing = false,
            Ok(count) => write_all(self.master.as_fd(), buffer.get(..count).unwrap_or_default()),
        }
    }

    /// Passes on what is shown; false at the end.
    pub(super) fn shown(&self) -> bool {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                write_all(io::stdout().as_fd(), buffer.get(..count).unwrap_or_default());
                true
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => true,
            // A hung up pseudo-terminal says EIO.
            Err(_) => false,
        }
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
