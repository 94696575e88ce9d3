//! What a new process tells the one that started it, over a packet socket that
//! closes when the program is executed.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::runtime::error::Failure;
use crate::sys::fd;

/// One message. After [`Report::Executing`] comes either the end (the program
/// runs) or [`Report::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    /// A wish that could not be fulfilled.
    Warning(String),
    /// The master side of the terminal comes with this message.
    Terminal,
    /// All is in place; execve(2) is next.
    Executing,
    /// A step failed; the process ends.
    Failed(Failure),
}

/// The longest message.
const LONGEST: usize = 16 << 10;

/// The sender's side.
#[derive(Debug)]
pub(crate) struct Reporter(RefCell<Option<OwnedFd>>);

impl Reporter {
    /// Reports over a packet socket.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(RefCell::new(Some(socket)))
    }

    /// Closes our copy of the socket; what is sent after that is lost.
    pub(crate) fn close(&self) {
        drop(self.0.take());
    }

    /// Sends a message; whether somebody listens.
    pub(crate) fn send(&self, report: &Report, fd: Option<BorrowedFd<'_>>) -> bool {
        match (serde_json::to_vec(report), self.0.borrow().as_ref()) {
            (Ok(bytes), Some(socket)) => {
                fd::send(socket.as_fd(), bytes.get(..LONGEST).unwrap_or(&bytes), fd).is_ok()
            }
            _ => false,
        }
    }

    /// Sends a warning.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.send(&Report::Warning(text.into()), None);
    }
}

/// How a new process came to run its program, or did not.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    pub(crate) warnings: Vec<String>,
    /// Master side of the terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// It came as far as execve(2).
    pub(crate) executing: bool,
    pub(crate) failure: Option<Failure>,
}

impl Beginning {
    /// Listens until the program runs or the process is gone.
    pub(crate) fn listen(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut beginning = Self::default();
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, fd) = fd::receive(socket, &mut buffer)?;
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Ok(beginning);
            };
            match serde_json::from_slice(bytes)? {
                Report::Warning(text) => beginning.warnings.push(text),
                Report::Terminal => beginning.terminal = fd,
                Report::Executing => beginning.executing = true,
                Report::Failed(failure) => beginning.failure = Some(failure),
            }
        }
    }
}
