//! Who else gets what a container prints: a syslog server or the journal. The
//! container's log is kept all the same (unless that is asked for), so that
//! `logs` and `up` have it.
//!
//! A line is sent as it is recorded. A receiver that is slow slows the container
//! down, as Docker's do, but never for longer than [`PATIENCE`]: one that does
//! not take a line by then counts as gone. It is looked for again after a pause;
//! until then lines are counted, and the first that gets through says how many
//! were lost.

mod journal;
mod syslog;

use std::io;
use std::time::{Duration, Instant};

use super::log::Stream;
use crate::runtime::LogForward;

/// How long a receiver may take for one line.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long one that is gone is not looked for again; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Somebody who is told each line.
#[derive(Debug)]
pub(super) struct Forward {
    kind: Kind,
    /// Lines that were not taken.
    lost: u64,
    /// When it is looked for again, and the pause after that.
    later: Option<(Instant, Duration)>,
}

#[derive(Debug)]
enum Kind {
    Syslog(syslog::Syslog),
    Journal(journal::Journal),
}

impl Kind {
    fn send(&mut self, stream: Stream, partial: bool, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Syslog(syslog) => syslog.send(stream, text),
            Self::Journal(journal) => journal.send(stream, partial, text),
        }
    }

    fn connect(&mut self) -> io::Result<()> {
        match self {
            Self::Syslog(syslog) => syslog.connect(),
            Self::Journal(journal) => journal.connect(),
        }
    }
}

impl Forward {
    /// Connects to whoever is to be told.
    ///
    /// # Errors
    /// What connect(2) returns.
    pub(super) fn open(plan: LogForward) -> io::Result<Self> {
        let kind = match plan {
            LogForward::Syslog {
                address,
                facility,
                format,
                tag,
            } => Kind::Syslog(syslog::Syslog::open(address, facility, format, tag)?),
            LogForward::Journal { socket, fields } => Kind::Journal(journal::Journal::open(socket, fields)?),
        };
        Ok(Self {
            kind,
            lost: 0,
            later: None,
        })
    }

    /// Sends a line, or a piece of one (`partial`).
    pub(super) fn send(&mut self, stream: Stream, partial: bool, text: &[u8]) {
        if let Some((at, pause)) = self.later {
            if Instant::now() < at {
                self.lost += 1;
                return;
            }
            if self.kind.connect().is_err() {
                self.is_gone(pause.saturating_mul(2));
                return;
            }
            self.later = None;
        }
        if self.lost > 0 {
            let note = format!("rcompose: {} log lines lost", self.lost);
            if self.kind.send(Stream::Stderr, false, note.as_bytes()).is_err() {
                self.is_gone(PAUSE);
                return;
            }
            self.lost = 0;
        }
        if self.kind.send(stream, partial, text).is_ok() {
            return;
        }
        // A server that was started anew: a connection of the old one is dead.
        let again = self
            .kind
            .connect()
            .and_then(|()| self.kind.send(stream, partial, text));
        if again.is_err() {
            self.is_gone(PAUSE);
        }
    }

    fn is_gone(&mut self, pause: Duration) {
        self.lost += 1;
        let pause = pause.min(LONGEST_PAUSE);
        self.later = Some((Instant::now() + pause, pause));
    }
}
