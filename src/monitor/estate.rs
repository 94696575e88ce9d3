//! What a monitor leaves to whoever looks after its container, for the case that
//! it is killed: the container's output that is not in the log yet, and how its
//! process 1 ends.
//!
//! Before it makes the container it puts descriptors into a socket whose other
//! end the supervisor has: the memory of what was read ([`Writer`]), the pipes,
//! and a pidfd. There they stay, one descriptor for the supervisor, and keep the
//! pipes and what is in them alive.
//!
//! Weak: when the supervisor is killed too, before another one has taken over,
//! what the monitor had not written is lost, and so is an exit status that it
//! had not recorded. What a terminal holds goes with the monitor. Who attached
//! does not see what is written afterwards, and a line that goes to syslog or
//! the journal may go there twice. Output that fills all files that a log may
//! have in one read may be there twice. The status is known from Linux 6.15 on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::log::{LONGEST_READ, Stream, Writer};
use crate::runtime::{ExitStatus, RunningRecord, RuntimeError, now, retrieve_kept};
use crate::sys::{fd, pidfd};

/// The name under which a monitor keeps a copy of the supervisor's end.
pub const KEPT: &str = "estate";

/// What is in there, by name: the read ends of the container's pipes.
pub(super) const STDOUT: &[u8] = b"stdout";
pub(super) const STDERR: &[u8] = b"stderr";
/// The read end of the pipe that they are emptied through.
pub(super) const STAGE: &[u8] = b"stage";
/// The log's memory.
pub(super) const MEMORY: &[u8] = b"memory";
/// Process 1.
pub(super) const INIT: &[u8] = b"init";

/// How long a process that was killed may take to be reaped, by whoever inherits it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at that.
const PAUSE: Duration = Duration::from_millis(1);

/// What the monitor of one run leaves.
#[derive(Debug)]
pub struct Estate(OwnedFd);

impl Estate {
    /// An empty one, and the end that the monitor is given as
    /// [`ESTATE`](crate::runtime::ESTATE).
    ///
    /// # Errors
    /// What socketpair(2) returns.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(ours), theirs))
    }

    /// That of a container that runs.
    ///
    /// # Errors
    /// As [`retrieve_kept`].
    pub fn of(running: &RunningRecord) -> Result<Self, RuntimeError> {
        retrieve_kept(running, KEPT).map(Self)
    }

    /// For the monitor to keep, for supervisors to come.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Writes to the log what the monitor could not, and tells how process 1 has
    /// ended, if that can be known. The monitor and every process of the container
    /// must have ended. Blocks.
    pub fn settle(self) -> Option<ExitStatus> {
        let mut left = self.open();
        let init = left.init.take();
        left.write();
        init.and_then(|init| status(&init))
    }

    /// The first half of [`Self::settle`], for a container that did not come to be.
    pub fn write(self) {
        self.open().write();
    }

    fn open(self) -> Left {
        let mut left = Left::default();
        let mut name = [0; 16];
        while let Ok((length @ 1.., Some(one))) = fd::receive(self.0.as_fd(), &mut name) {
            left.put(name.get(..length).unwrap_or_default(), one);
        }
        left
    }
}

#[derive(Debug, Default)]
struct Left {
    pipes: Vec<(Stream, OwnedFd)>,
    stage: Option<OwnedFd>,
    memory: Option<OwnedFd>,
    init: Option<OwnedFd>,
}

impl Left {
    fn put(&mut self, name: &[u8], one: OwnedFd) {
        match name {
            STDOUT => self.pipes.push((Stream::Stdout, one)),
            STDERR => self.pipes.push((Stream::Stderr, one)),
            STAGE => self.stage = Some(one),
            MEMORY => self.memory = Some(one),
            INIT => self.init = Some(one),
            _ => {}
        }
    }

    fn write(self) {
        if let Err(error) = self.try_to_write() {
            tracing::error!(%error, "what a monitor had not written to its log is lost");
        }
    }

    fn try_to_write(self) -> io::Result<()> {
        let Some(memory) = self.memory else { return Ok(()) };
        let mut log = Writer::take_over(memory)?;
        if let Some(stage) = &self.stage {
            log.take_staged(stage.as_fd(), now())?;
        }
        for (stream, pipe) in self.pipes {
            let mut pipe = File::from(pipe);
            // They do not block: our end is the monitor's.
            loop {
                match log.take(stream, LONGEST_READ, now(), |room| {
                    io::Read::read(&mut pipe, room)
                }) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        log.release_tails(None, now());
        Ok(())
    }
}

/// How a process has ended, once it is reaped.
fn status(init: &OwnedFd) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match pidfd::exit_status(init.as_fd()) {
            Ok(Some(status)) => return Some(ExitStatus::of_wait(status)),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Puts something into a monitor's estate. What does not go in is lost only when
/// the monitor is killed.
pub(super) fn leave(to: BorrowedFd<'_>, name: &[u8], one: BorrowedFd<'_>) {
    let _ = fd::send(to, name, Some(one));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::log::{From, Reader, Stage};
    use crate::runtime::LogPlan;

    #[test]
    fn what_is_left_is_written_and_the_status_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (estate, monitors) = Estate::new().unwrap();
        let mut log = Writer::open(&path, LogPlan::default()).unwrap();
        let (stdout, printer) = rustix::pipe::pipe().unwrap();
        let (stderr, other) = rustix::pipe::pipe().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::ioctl_fionbio(&stderr, true).unwrap();
        let stage = Stage { read, write };
        leave(monitors.as_fd(), MEMORY, log.memory());
        leave(monitors.as_fd(), STDOUT, stdout.as_fd());
        leave(monitors.as_fd(), STDERR, stderr.as_fd());
        leave(monitors.as_fd(), STAGE, stage.read.as_fd());
        let mut child = std::process::Command::new("sh")
            .args(["-c", "exit 7"])
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let init = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        leave(monitors.as_fd(), INIT, init.as_fd());
        rustix::io::write(&printer, b"one\ntw").unwrap();
        log.take_from(Stream::Stdout, 100, 1, stdout.as_fd(), &stage)
            .unwrap();
        rustix::io::write(&stage.write, b"o\n").unwrap();
        rustix::io::write(&printer, b"three\nno end").unwrap();
        rustix::io::write(&other, b"error\n").unwrap();
        drop((log, stdout, stderr, stage, monitors, printer));
        child.wait().unwrap();
        let known = pidfd::exit_status(init.as_fd()).is_ok();
        let seven = ExitStatus {
            code: 7,
            signal: None,
        };
        assert_eq!(estate.settle(), known.then_some(seven));
        let mut reader = Reader::open(&path, From::Start).unwrap().unwrap();
        let mut lines = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            lines.push(String::from_utf8(entry.text).unwrap());
        }
        lines.sort();
        assert_eq!(lines, ["error", "no end", "one", "three", "two"]);
    }

    #[test]
    fn nothing_is_left_by_a_monitor_that_had_not_begun() {
        let (estate, monitors) = Estate::new().unwrap();
        drop(monitors);
        assert_eq!(estate.settle(), None);
    }
}
