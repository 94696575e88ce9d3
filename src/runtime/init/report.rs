//! What a new process tells the one that started it, over a packet socket that
//! closes when the program is executed.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::runtime::error::{Failure, describe};
use crate::sys::fd;
use crate::sys::stub::NUMBER;

/// One message. After [`Report::Executing`] comes either the end (the program
/// runs) or [`Report::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    /// A wish that could not be fulfilled.
    Warning(String),
    /// The master side of the terminal comes with this message.
    Terminal,
    /// The root file system is ready and not entered; whoever has hooks runs
    /// them and answers.
    Mounted,
    /// The detached copy of what is mounted in the step of that number comes with this
    /// message; whoever receives it maps its ids and answers.
    Map(usize),
    /// The process that becomes the program, a child of the receiver.
    Child(u32),
    /// All is in place; what follows waits for `start`.
    Created,
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

    /// Reports over another socket from now on.
    pub(crate) fn replace(&self, socket: OwnedFd) {
        *self.0.borrow_mut() = Some(socket);
    }

    /// Waits for a message of the other side; its text.
    pub(crate) fn wait(&self) -> io::Result<String> {
        let socket = self.0.borrow();
        let socket = socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let mut buffer = [0; 64];
        let (length, _) = fd::receive(socket.as_fd(), &mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    }

    /// Gives the socket away; what is sent after that is lost.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        self.0.take()
    }

    /// Closes our copy of the socket; what is sent after that is lost.
    pub(crate) fn close(&self) {
        drop(self.take());
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

/// A failure whose reason is not known yet, to be sent by a
/// [`Stub`](crate::sys::stub::Stub) with the error number behind it.
pub(crate) fn unfinished(failure: Failure) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&Report::Failed(failure)).unwrap_or_default();
    bytes.truncate(LONGEST - NUMBER - 1);
    // No message has this byte otherwise.
    bytes.push(0);
    bytes
}

/// A message as it comes.
fn read(bytes: &[u8]) -> serde_json::Result<Report> {
    let Some(text) = bytes
        .len()
        .checked_sub(NUMBER)
        .and_then(|end| bytes.get(..end))
        .and_then(|text| text.strip_suffix(&[0]))
    else {
        return serde_json::from_slice(bytes);
    };
    let mut report = serde_json::from_slice(text)?;
    if let Report::Failed(failure) = &mut report
        && failure.reason.is_empty()
        && let Some(number) = bytes.last_chunk::<NUMBER>()
        && let Ok(number) = i32::try_from(-i64::from_le_bytes(*number))
    {
        failure.errno = Some(number);
        failure.reason = describe(&io::Error::from_raw_os_error(number));
    }
    Ok(report)
}

/// What a new process needs done before it goes on.
#[derive(Debug)]
pub(crate) enum Errand {
    /// The hooks that run before the root is changed.
    Hooks,
    /// The mapping of ids of a detached mount, that of the step of this number.
    Map(usize, OwnedFd),
}

/// How a new process came to run its program, or did not.
#[derive(Debug, Default)]
pub(crate) struct Beginning {
    pub(crate) warnings: Vec<String>,
    /// Master side of the terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// It came as far as execve(2).
    pub(crate) executing: bool,
    /// The process that becomes the program.
    pub(crate) child: Option<u32>,
    /// It came as far as waiting for `start`.
    pub(crate) created: bool,
    pub(crate) failure: Option<Failure>,
}

impl Beginning {
    /// Listens until the program runs or the process is gone.
    pub(crate) fn listen(socket: BorrowedFd<'_>) -> io::Result<Self> {
        Self::listen_and(socket, |_| Ok(()))
    }

    /// As [`Self::listen`]; `run` does what the process needs, which goes on when
    /// that succeeds. Ends when the process waits for `start`.
    pub(crate) fn listen_and(
        socket: BorrowedFd<'_>,
        mut run: impl FnMut(Errand) -> Result<(), Failure>,
    ) -> io::Result<Self> {
        let mut beginning = Self::default();
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, fd) = fd::receive(socket, &mut buffer)?;
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Ok(beginning);
            };
            let errand = match read(bytes)? {
                Report::Mounted => Errand::Hooks,
                Report::Map(number) => Errand::Map(number, fd.ok_or(io::ErrorKind::InvalidData)?),
                report => {
                    if beginning.hear(report, fd) {
                        return Ok(beginning);
                    }
                    continue;
                }
            };
            match run(errand) {
                Ok(()) => fd::send(socket, b"go", None)?,
                Err(failure) => {
                    beginning.failure = Some(failure);
                    return Ok(beginning);
                }
            }
        }
    }

    /// Notes what asks for nothing; whether it was the last for now.
    fn hear(&mut self, report: Report, fd: Option<OwnedFd>) -> bool {
        match report {
            Report::Warning(text) => self.warnings.push(text),
            Report::Terminal => self.terminal = fd,
            Report::Child(pid) => self.child = Some(pid),
            Report::Created => self.created = true,
            Report::Executing => self.executing = true,
            Report::Failed(failure) => self.failure = Some(failure),
            Report::Mounted | Report::Map(_) => {}
        }
        self.created
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::error::Step;

    #[test]
    fn a_failure_is_finished_by_its_number() {
        let failure = |reason: &str, errno| Failure {
            step: Step::Exec,
            subject: "program".into(),
            reason: reason.into(),
            errno,
        };
        let number = (-i64::from(libc::EACCES)).to_le_bytes();
        let sent = [unfinished(failure("", None)), number.to_vec()].concat();
        let expected = Failure::new(Step::Exec, "program", &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(read(&sent).unwrap(), Report::Failed(expected));
        // One that has its reason keeps it.
        let known = failure("not in $PATH", Some(libc::ENOENT));
        let sent = [unfinished(known.clone()), number.to_vec()].concat();
        assert_eq!(read(&sent).unwrap(), Report::Failed(known));
        let plain = serde_json::to_vec(&Report::Executing).unwrap();
        assert_eq!(read(&plain).unwrap(), Report::Executing);
    }
}
