//! Writing records: what is read from the container in one go is appended in
//! one write.
//!
//! What is read waits in memory that outlives the monitor ([`Pending`]) until it
//! is in the log. A pipe is emptied through a second one, held by whoever looks
//! after the container too: splice(2) moves what there is without a copy and
//! whatever happens to us, and since nobody else fills that one, how much of it
//! has been read can be told afterwards.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::SpliceFlags;
use serde::{Deserialize, Serialize};

use super::pending::{self, Pending, Step};
use super::{LONGEST_PIECE, Stream, TIME_LENGTH, end_of_line, rotate, write_time};
use crate::monitor::forward::Forward;
use crate::runtime::{LogFormat, LogPlan};

/// How long the end of an unfinished line is waited for.
const HOLD: Duration = Duration::from_millis(50);

/// When so much is waiting it is written.
const BATCH: usize = 128 << 10;

/// What a log is, for who goes on with it.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    path: PathBuf,
    plan: LogPlan,
}

/// A log, and what was read and is not in it yet.
#[derive(Debug)]
pub(in crate::monitor) struct Writer {
    records: Records,
    pending: Pending,
    /// Until when the ends of unfinished lines are waited for.
    until: [Option<Instant>; 2],
    /// How much of what waits has no end of a line.
    endless: [usize; 2],
}

impl Writer {
    /// Opens a log, making it when it is missing.
    ///
    /// # Errors
    /// What open(2) returns, `ELOOP` for a link; what connecting to whoever else
    /// is told returns; what memfd_create(2) and mmap(2) return.
    pub(in crate::monitor) fn open(path: &Path, plan: LogPlan) -> io::Result<Self> {
        let mut writer = Self {
            pending: Pending::new()?,
            records: Records::open(path, plan.clone())?,
            until: [None; 2],
            endless: [0; 2],
        };
        writer.describe(plan)?;
        Ok(writer)
    }

    /// Goes on with the log of a monitor that was killed, from the memory that it
    /// left: what it was writing is in the log afterwards, once.
    ///
    /// # Errors
    /// As [`Self::open`], and `EINVAL` for what is no such memory.
    pub(in crate::monitor) fn take_over(memory: OwnedFd) -> io::Result<Self> {
        let pending = Pending::of(memory)?;
        let Description { path, plan } = serde_json::from_slice(pending.description())?;
        let state = pending.state().clone();
        let written = match state.step {
            Step::None => None,
            _ => written_since(&path, state.log)?,
        };
        // Whoever else is told may be gone, and the log is not to suffer.
        let records = Records::open(&path, plan.clone()).or_else(|_| {
            let forward = None;
            Records::open(&path, LogPlan { forward, ..plan })
        })?;
        let mut writer = Self {
            pending,
            records,
            until: [None; 2],
            endless: [0; 2],
        };
        if state.step != Step::None {
            // The same again, all in one piece.
            writer.records.batch = usize::MAX;
            let used = writer.make(state.step, state.stream, state.time);
            writer.records.batch = BATCH;
            writer.records.skip(written.as_deref());
            writer.finish(state.stream, used);
        }
        Ok(writer)
    }

    /// For who is to [take over](Self::take_over) when this process is killed.
    pub(in crate::monitor) fn memory(&self) -> BorrowedFd<'_> {
        self.pending.file()
    }

    fn describe(&mut self, plan: LogPlan) -> io::Result<()> {
        let path = self.records.path.clone();
        self.pending
            .describe(&serde_json::to_vec(&Description { path, plan })?)
    }

    /// Goes on by another plan, in the same files.
    ///
    /// # Errors
    /// What connecting to whoever else is told returns; then nothing has changed.
    pub(in crate::monitor) fn change(&mut self, plan: LogPlan) -> io::Result<()> {
        self.records.change(plan.clone())?;
        self.describe(plan)
    }

    /// Takes what `read` puts at the beginning of the room that it is given, `most`
    /// bytes at most, as read at `time`; how much that was.
    ///
    /// # Errors
    /// What `read` returns.
    pub(in crate::monitor) fn take(
        &mut self,
        stream: Stream,
        most: usize,
        time: u64,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let number = pending::number(stream);
        let count = read(self.pending.room(number, most))?;
        if count > 0 {
            let log = self.records.place();
            self.pending.add(number, count, |state| {
                state.staged.1 = 0;
                (state.step, state.stream, state.time, state.log) = (Step::Lines, number, time, log);
            });
            let used = self.make(Step::Lines, number, time);
            self.finish(number, used);
        }
        Ok(count)
    }

    /// Takes what was read from a stream at `time`.
    pub(in crate::monitor) fn feed(&mut self, stream: Stream, bytes: &[u8], time: u64) {
        for part in bytes.chunks(pending::LONGEST_READ) {
            // There is room for that.
            let _ = self.take(stream, part.len(), time, |room| {
                let room = room.get_mut(..part.len()).ok_or(io::ErrorKind::StorageFull)?;
                room.copy_from_slice(part);
                Ok(part.len())
            });
        }
    }

    /// Takes what is in a pipe, `most` bytes at most, by way of another one that
    /// nobody else uses; 0 at its end.
    ///
    /// # Errors
    /// What splice(2) and read(2) return; `EAGAIN` when there is nothing now.
    pub(in crate::monitor) fn take_from(
        &mut self,
        stream: Stream,
        most: usize,
        time: u64,
        pipe: BorrowedFd<'_>,
        stage: &Stage,
    ) -> io::Result<usize> {
        let number = pending::number(stream);
        if self.pending.state().staged != (number, 0) {
            self.pending.change(|state| state.staged = (number, 0));
        }
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let count =
            rustix::io::retry_on_intr(|| rustix::pipe::splice(pipe, None, &stage.write, None, most, flags))?;
        if count > 0 {
            // First room, which may move what waits.
            self.pending.room(number, count);
            self.pending.change(|state| state.staged = (number, count));
            self.take(stream, count, time, |room| read_all(stage.read.as_fd(), room, 0))?;
        }
        Ok(count)
    }

    /// Takes what a monitor that was killed had taken from a pipe, and may not have
    /// read.
    ///
    /// # Errors
    /// What read(2) returns.
    pub(in crate::monitor) fn take_staged(&mut self, stage: BorrowedFd<'_>, time: u64) -> io::Result<()> {
        let (number, noted) = self.pending.state().staged;
        let left = rustix::io::ioctl_fionread(stage)?;
        let left = usize::try_from(left).unwrap_or(0).min(pending::LONGEST_READ);
        let count = noted.max(left);
        // What is not in the pipe any more is where it was read to.
        let read = count - left;
        self.take(pending::stream(number), count, time, |room| {
            read_all(stage, room, read)
        })?;
        Ok(())
    }

    /// What was taken last.
    pub(in crate::monitor) fn latest(&self) -> &[u8] {
        self.pending.latest()
    }

    /// Makes the records of a step; how much of what waits they use up.
    fn make(&mut self, step: Step, number: usize, time: u64) -> usize {
        let mut written = [0; TIME_LENGTH];
        write_time(time, &mut written);
        let (stream, waiting) = (pending::stream(number), self.pending.waiting(number));
        let endless = self.endless.get(number).copied().unwrap_or_default();
        match step {
            Step::None => 0,
            Step::Lines => self.records.lines(&written, stream, waiting, endless),
            Step::Piece => self.records.piece(&written, stream, waiting, false),
            Step::LastPiece => self.records.piece(&written, stream, waiting, true),
        }
    }

    /// Writes the records that were made, and forgets what they are made of.
    fn finish(&mut self, number: usize, used: usize) {
        self.records.flush();
        let log = self.records.place();
        self.pending.change(|state| {
            if let Some(waiting) = state.waiting.get_mut(number) {
                waiting.start += used;
            }
            (state.step, state.log) = (Step::None, log);
        });
        let left = self.pending.waiting(number).len();
        if let (Some(until), Some(endless)) = (self.until.get_mut(number), self.endless.get_mut(number)) {
            *until = (left > 0).then(|| Instant::now() + HOLD);
            *endless = left;
        }
    }

    /// Until when the end of an unfinished line is waited for.
    pub(in crate::monitor) fn held_until(&self) -> Option<Instant> {
        self.until.iter().flatten().min().copied()
    }

    /// Writes unfinished lines as pieces: those whose time has come by `when`,
    /// or all.
    pub(in crate::monitor) fn release_tails(&mut self, when: Option<Instant>, time: u64) {
        for number in 0..2 {
            let until = self.until.get(number).copied().flatten();
            let due = when.is_none_or(|when| until.is_some_and(|until| until <= when));
            if !due || self.pending.waiting(number).is_empty() {
                continue;
            }
            // The rest of a letter is waited for, unless nothing follows.
            let step = when.map_or(Step::LastPiece, |_| Step::Piece);
            let log = self.records.place();
            self.pending.change(|state| {
                (state.step, state.stream, state.time, state.log) = (step, number, time, log);
            });
            let used = self.make(step, number, time);
            self.finish(number, used);
            if let Some(until) = self.until.get_mut(number) {
                *until = None;
            }
        }
    }

    /// Gives the memory back that a flood of output has taken.
    pub(in crate::monitor) fn rest(&mut self) {
        self.records.waiting = Vec::new();
        self.pending.rest();
    }
}

/// A pipe that is between those of the container and us.
#[derive(Debug)]
pub(in crate::monitor) struct Stage {
    pub(in crate::monitor) read: OwnedFd,
    pub(in crate::monitor) write: OwnedFd,
}

/// Fills what is behind the first `done` bytes; the whole length, or how far it came.
fn read_all(from: BorrowedFd<'_>, to: &mut [u8], mut done: usize) -> io::Result<usize> {
    while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::retry_on_intr(|| rustix::io::read(from, &mut *rest))? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// What was written behind a place in a log, over all files that were begun
/// since; `None` when that file is there no more.
fn written_since(path: &Path, (inode, length): (u64, u64)) -> io::Result<Option<Vec<u8>>> {
    let mut newer = Vec::new();
    for file in rotate::files(path) {
        let mut file = match File::open(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let found = file.metadata()?.ino() == inode;
        let mut content = Vec::new();
        if found {
            file.seek(SeekFrom::Start(length))?;
        }
        file.read_to_end(&mut content)?;
        newer.push(content);
        if found {
            newer.reverse();
            return Ok(Some(newer.concat()));
        }
    }
    Ok(None)
}

/// Appends to a log. Nothing it does fails for its caller: a full disk must not
/// stop the container. Lines that could not be written are counted, and noted
/// in the log as soon as there is room.
#[derive(Debug)]
struct Records {
    path: PathBuf,
    plan: LogPlan,
    file: OwnedFd,
    /// Which file it is.
    inode: u64,
    /// Length of the file: up to the end of the last whole record.
    length: u64,
    waiting: Vec<u8>,
    /// When so much is waiting it is written.
    batch: usize,
    lost: u64,
    reason: Option<io::Error>,
    /// What ends a record in JSON before its time: the attributes.
    attributes: Vec<u8>,
    forward: Option<Forward>,
}

impl Records {
    fn open(path: &Path, mut plan: LogPlan) -> io::Result<Self> {
        rotate::finish(path, plan.max_files)?;
        let (file, inode, length) = open_file(path)?;
        let forward = plan.forward.take().map(Forward::open).transpose()?;
        Ok(Self {
            attributes: attributes(&plan)?,
            forward,
            path: path.to_owned(),
            plan,
            file,
            inode,
            length,
            waiting: Vec::new(),
            batch: BATCH,
            lost: 0,
            reason: None,
        })
    }

    fn change(&mut self, mut plan: LogPlan) -> io::Result<()> {
        let forward = plan.forward.take().map(Forward::open).transpose()?;
        let attributes = attributes(&plan)?;
        (self.plan, self.forward, self.attributes) = (plan, forward, attributes);
        Ok(())
    }

    /// Where the next record comes.
    fn place(&self) -> (u64, u64) {
        (self.inode, self.length)
    }

    /// Of what waits, leaves out what is in the log already.
    fn skip(&mut self, written: Option<&[u8]>) {
        let Some(written) = written else { return };
        if self.waiting.starts_with(written) {
            self.waiting.drain(..written.len());
        } else if !written.is_empty() && !written.ends_with(b"\n") {
            // Something else was written, and not to its end: readers leave that out.
            self.waiting.insert(0, b'\n');
        }
    }

    /// Makes records of the whole lines among these bytes, of which the first so
    /// many have no end of a line; how much of them that is.
    fn lines(&mut self, time: &[u8; TIME_LENGTH], stream: Stream, all: &[u8], mut endless: usize) -> usize {
        let mut bytes = all;
        while !bytes.is_empty() {
            let near = bytes.get(..LONGEST_PIECE).unwrap_or(bytes);
            let end = end_of_line(near.get(endless..).unwrap_or_default()).map(|end| end + endless);
            endless = 0;
            match end {
                Some(end) => {
                    let (line, rest) = bytes.split_at(end);
                    self.record(time, stream, b'F', line);
                    bytes = rest.get(1..).unwrap_or_default();
                }
                // One byte beyond the piece tells whether the line goes on.
                None if bytes.len() > LONGEST_PIECE => {
                    let torn = self.torn(near);
                    let (piece, rest) = bytes.split_at(LONGEST_PIECE - torn);
                    let ends = rest.first() == Some(&b'\n');
                    self.record(time, stream, if ends { b'F' } else { b'P' }, piece);
                    bytes = if ends {
                        rest.get(1..).unwrap_or_default()
                    } else {
                        rest
                    };
                }
                None => break,
            }
        }
        all.len() - bytes.len()
    }

    /// Makes a piece of an unfinished line; how much of it that is.
    fn piece(&mut self, time: &[u8; TIME_LENGTH], stream: Stream, bytes: &[u8], last: bool) -> usize {
        let whole = bytes.len() - if last { 0 } else { self.torn(bytes) };
        let piece = bytes.get(..whole).unwrap_or_default();
        if !piece.is_empty() {
            self.record(time, stream, b'P', piece);
        }
        whole
    }

    /// How many bytes at the end of a piece begin a letter that it does not
    /// finish, where that matters: records in JSON are text.
    fn torn(&self, piece: &[u8]) -> usize {
        if self.plan.format != LogFormat::Json {
            return 0;
        }
        let end = piece.get(piece.len().saturating_sub(3)..).unwrap_or_default();
        for (back, byte) in end.iter().rev().enumerate() {
            let length = match byte {
                0xc2..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf4 => 4,
                0x80..=0xbf => continue,
                _ => return 0,
            };
            return if length > back + 1 { back + 1 } else { 0 };
        }
        0
    }

    fn record_json(&mut self, time: &[u8; TIME_LENGTH], stream: Stream, tag: u8, text: &[u8]) {
        if self.waiting.len() + TIME_LENGTH + 48 + text.len() > self.batch {
            self.flush();
        }
        self.waiting.extend_from_slice(b"{\"log\":");
        // Most lines are what they are in JSON, too.
        if is_plain(text) {
            self.waiting.push(b'"');
            self.waiting.extend_from_slice(text);
            let end: &[u8] = if tag == b'F' { b"\\n\"" } else { b"\"" };
            self.waiting.extend_from_slice(end);
        } else {
            let mut text = text.to_vec();
            if tag == b'F' {
                text.push(b'\n');
            }
            // A text is always written, and a buffer always takes it.
            let _ = serde_json::to_writer(&mut self.waiting, &String::from_utf8_lossy(&text));
        }
        self.waiting.extend_from_slice(b",\"stream\":\"");
        self.waiting.extend_from_slice(stream.name().as_bytes());
        self.waiting.push(b'"');
        self.waiting.extend_from_slice(&self.attributes);
        self.waiting.extend_from_slice(b",\"time\":\"");
        self.waiting.extend_from_slice(time);
        self.waiting.extend_from_slice(b"\"}\n");
    }

    fn record(&mut self, time: &[u8; TIME_LENGTH], stream: Stream, tag: u8, text: &[u8]) {
        if let Some(forward) = &mut self.forward {
            forward.send(stream, tag == b'P', text);
        }
        match self.plan.format {
            LogFormat::Text => {}
            LogFormat::Json => return self.record_json(time, stream, tag, text),
            LogFormat::Nothing => return,
        }
        if self.waiting.len() + TIME_LENGTH + 11 + text.len() > self.batch {
            self.flush();
        }
        // In one go: a line is short, and this is done for each.
        let mut head = *b"000000000000000000000000000000 stdout F ";
        head[..TIME_LENGTH].copy_from_slice(time);
        head[TIME_LENGTH + 1..TIME_LENGTH + 7].copy_from_slice(stream.name().as_bytes());
        head[TIME_LENGTH + 8] = tag;
        self.waiting.reserve(head.len() + text.len() + 1);
        self.waiting.extend_from_slice(&head);
        self.waiting.extend_from_slice(text);
        self.waiting.push(b'\n');
    }

    /// Writes what waits.
    fn flush(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if self.lost > 0 {
            let reason = self
                .reason
                .as_ref()
                .map_or_else(String::new, |error| format!(": {error}"));
            let mut time = [0; TIME_LENGTH];
            write_time(crate::runtime::now(), &mut time);
            let text = format!("rcompose: {} log lines lost{reason}", self.lost);
            // Through the buffer, which has the format.
            let waiting = std::mem::take(&mut self.waiting);
            self.record(&time, Stream::Stderr, b'F', text.as_bytes());
            let note = std::mem::replace(&mut self.waiting, waiting);
            if self.append(&note).is_err() {
                self.lost += lines(&self.waiting);
                self.waiting.clear();
                return;
            }
            (self.lost, self.reason) = (0, None);
        }
        let waiting = std::mem::take(&mut self.waiting);
        if let Err((lost, error)) = self.append(&waiting) {
            self.lost += lost;
            self.reason = Some(error);
        }
        self.waiting = waiting;
        self.waiting.clear();
    }

    /// Appends whole records, to a new file when the present one is full.
    fn append(&mut self, mut records: &[u8]) -> Result<(), (u64, io::Error)> {
        while let Some(max) = self.plan.max_size
            && !records.is_empty()
        {
            let room = usize::try_from(max.saturating_sub(self.length)).unwrap_or(usize::MAX);
            let near = records.get(..room).unwrap_or(records);
            let end = near.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
            let end = match end {
                Some(end) => end,
                None if self.length > 0 => {
                    // When that is impossible, the file grows: no line is lost for it.
                    if self.begin_file().is_err() {
                        return self.append_here(records);
                    }
                    continue;
                }
                // One that is larger than a file may be.
                None => records
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(records.len(), |end| end + 1),
            };
            let (now, later) = records.split_at(end);
            self.append_here(now)
                .map_err(|(lost, error)| (lost + lines(later), error))?;
            records = later;
        }
        self.append_here(records)
    }

    fn begin_file(&mut self) -> io::Result<()> {
        rotate::rotate(&self.path, self.plan.max_files)?;
        (self.file, self.inode, self.length) = open_file(&self.path)?;
        Ok(())
    }

    /// Appends whole records to the present file. When that fails, those that were written whole
    /// stay, and the rest is counted.
    fn append_here(&mut self, records: &[u8]) -> Result<(), (u64, io::Error)> {
        let mut done = 0;
        while let Some(rest) = records.get(done..).filter(|rest| !rest.is_empty()) {
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.file, rest)) {
                Ok(written) if written > 0 => done += written,
                other => {
                    let error = other.err().unwrap_or(rustix::io::Errno::NOSPC);
                    let torn = records.get(..done).unwrap_or_default();
                    let whole = torn
                        .iter()
                        .rposition(|byte| *byte == b'\n')
                        .map_or(0, |end| end + 1);
                    self.length += u64::try_from(whole).unwrap_or(0);
                    if whole < done {
                        // Half a record would run into the next one.
                        let _ = rustix::fs::ftruncate(self.file.as_fd(), self.length);
                    }
                    return Err((lines(records.get(whole..).unwrap_or_default()), error.into()));
                }
            }
        }
        self.length += u64::try_from(done).unwrap_or(0);
        Ok(())
    }
}

/// Whether a text is the same in JSON. Looks at all of it: without a way out
/// the compiler makes it sixteen bytes at a time.
fn is_plain(text: &[u8]) -> bool {
    text.iter().fold(true, |plain, byte| {
        plain & (0x20..=0x7e).contains(byte) & (*byte != b'"') & (*byte != b'\\')
    })
}

/// What ends a record in JSON before its time.
fn attributes(plan: &LogPlan) -> io::Result<Vec<u8>> {
    let mut attributes = Vec::new();
    if !plan.attributes.is_empty() {
        attributes.extend_from_slice(b",\"attrs\":");
        serde_json::to_writer(&mut attributes, &plan.attributes)?;
    }
    Ok(attributes)
}

/// A file to append to, which it is, and its length.
fn open_file(path: &Path) -> io::Result<(OwnedFd, u64, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    let found = rustix::fs::fstat(&file)?;
    Ok((file, found.st_ino, u64::try_from(found.st_size).unwrap_or(0)))
}

fn lines(records: &[u8]) -> u64 {
    u64::try_from(records.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(feed: impl FnOnce(&mut Writer)) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = Writer::open(&path, LogPlan::default()).unwrap();
        feed(&mut writer);
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines()
            .map(|line| line.get(TIME_LENGTH + 1..).unwrap().to_owned())
            .collect()
    }

    #[test]
    fn lines_are_records_and_tails_wait() {
        let lines = written(|writer| {
            writer.feed(Stream::Stdout, b"one\ntw", 5);
            writer.feed(Stream::Stderr, b"err\n\n", 5);
            let until = writer.held_until().unwrap();
            writer.feed(Stream::Stdout, b"o\nthree", 6);
            // Its time has not come: it began after that.
            writer.release_tails(Some(until), 7);
            let until = writer.held_until().unwrap();
            writer.release_tails(Some(until), 7);
            assert!(writer.held_until().is_none());
            writer.feed(Stream::Stdout, b"\n", 8);
        });
        assert_eq!(
            lines,
            [
                "stdout F one",
                "stderr F err",
                "stderr F ",
                "stdout F two",
                "stdout P three",
                "stdout F "
            ]
        );
    }

    #[test]
    fn long_lines_are_cut_wherever_reads_end() {
        for length in [
            LONGEST_PIECE - 1,
            LONGEST_PIECE,
            LONGEST_PIECE + 1,
            3 * LONGEST_PIECE,
            3 * LONGEST_PIECE + 5,
        ] {
            let text = vec![b'x'; length];
            for step in [1000, 4096, LONGEST_PIECE, 5 * LONGEST_PIECE] {
                let lines = written(|writer| {
                    for chunk in text.chunks(step) {
                        writer.feed(Stream::Stdout, chunk, 0);
                    }
                    writer.feed(Stream::Stdout, b"\nnext\n", 0);
                });
                let (last, pieces) = lines.split_last().unwrap();
                assert_eq!(last, "stdout F next");
                let joined: usize = pieces.iter().map(|line| line.len() - "stdout F ".len()).sum();
                assert_eq!(joined, length, "in steps of {step}");
                assert!(
                    pieces
                        .iter()
                        .all(|line| line.len() - "stdout F ".len() <= LONGEST_PIECE)
                );
                let (end, before) = pieces.split_last().unwrap();
                assert!(end.starts_with("stdout F "));
                assert!(before.iter().all(|line| line.starts_with("stdout P ")));
            }
        }
    }

    #[test]
    fn a_full_disk_loses_lines_but_no_record_is_torn_and_it_is_noted() {
        use std::io::Read as _;
        // A file size limit would kill us; a tiny tmpfs needs root. A pipe that
        // is not read does as well: it takes so much and then refuses.
        let (mut reader, pipe) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        rustix::pipe::fcntl_setpipe_size(&pipe, 4096).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(&folder.path().join("log"), LogPlan::default()).unwrap();
        writer.records.file = pipe.into();
        for number in 0..200 {
            writer.feed(Stream::Stdout, format!("{number}\n").as_bytes(), 0);
        }
        assert!(writer.records.lost > 0);
        let lost = writer.records.lost;
        let mut room = vec![0; 4096];
        let taken = reader.read(&mut room).unwrap();
        let before = lines(&room[..taken]);
        assert_eq!(before + lost, 200);
        writer.feed(Stream::Stdout, b"after\n", 0);
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let noted = format!("stderr F rcompose: {lost} log lines lost: ");
        assert!(rest.contains(&noted), "{rest}");
        assert!(rest.ends_with("stdout F after\n"), "{rest}");
    }

    /// What a monitor had at hand when it was killed.
    struct Killed {
        folder: tempfile::TempDir,
        writer: Writer,
        stage: Stage,
        pipe: (OwnedFd, OwnedFd),
    }

    fn begun(plan: LogPlan) -> Killed {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(&folder.path().join("log"), plan).unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stage = Stage { read, write };
        let pipe = rustix::pipe::pipe().unwrap();
        rustix::io::write(&pipe.1, b"one\ntwo\nthr").unwrap();
        let taken = writer.take_from(Stream::Stdout, 100, 1, pipe.0.as_fd(), &stage);
        assert_eq!(taken.unwrap(), 11);
        assert_eq!(writer.latest(), b"one\ntwo\nthr");
        Killed {
            folder,
            writer,
            stage,
            pipe,
        }
    }

    impl Killed {
        /// The records after somebody else has gone on and "end" was printed.
        fn gone_on(self) -> Vec<String> {
            let memory = self.writer.memory().try_clone_to_owned().unwrap();
            drop(self.writer);
            let mut writer = Writer::take_over(memory).unwrap();
            writer.take_staged(self.stage.read.as_fd(), 9).unwrap();
            writer.feed(Stream::Stdout, b"end\n", 9);
            drop(writer);
            let mut reader = crate::monitor::log::Reader::open(
                &self.folder.path().join("log"),
                crate::monitor::log::From::Start,
            );
            let reader = reader.as_mut().unwrap().as_mut().unwrap();
            let mut records = Vec::new();
            while let Some(entry) = reader.next().unwrap() {
                let mark = if entry.partial { "+" } else { "" };
                records.push(format!("{}{mark}", String::from_utf8_lossy(&entry.text)));
            }
            records
        }
    }

    /// Everything up to the moment in which records are about to be written.
    fn about_to_write(killed: &mut Killed, text: &[u8]) {
        let log = killed.writer.records.place();
        let room = killed.writer.pending.room(0, text.len());
        room.copy_from_slice(text);
        killed.writer.pending.add(0, text.len(), |state| {
            (state.step, state.stream, state.time, state.log) = (Step::Lines, 0, 2, log);
        });
    }

    #[test]
    fn an_unfinished_line_is_there_for_who_goes_on() {
        assert_eq!(begun(LogPlan::default()).gone_on(), ["one", "two", "thrend"]);
        let mut killed = begun(LogPlan::default());
        killed.writer.release_tails(None, 3);
        assert_eq!(killed.gone_on(), ["one", "two", "thr+", "end"]);
    }

    #[test]
    fn what_was_taken_from_a_pipe_is_there_wherever_it_is() {
        let expected = ["one", "two", "three", "four", "end"];
        // Moved, and nothing noted of it.
        let killed = begun(LogPlan::default());
        rustix::io::write(&killed.stage.write, b"ee\nfour\n").unwrap();
        assert_eq!(killed.gone_on(), expected);
        // Noted, and not read.
        let mut killed = begun(LogPlan::default());
        rustix::io::write(&killed.stage.write, b"ee\nfour\n").unwrap();
        killed.writer.pending.change(|state| state.staged = (0, 8));
        assert_eq!(killed.gone_on(), expected);
        // Read, and in part only.
        for read in [3, 8] {
            let mut killed = begun(LogPlan::default());
            killed.writer.pending.change(|state| state.staged = (0, 8));
            let text = b"ee\nfour\n";
            killed.writer.pending.room(0, 8)[..read].copy_from_slice(&text[..read]);
            rustix::io::write(&killed.stage.write, &text[read..]).unwrap();
            assert_eq!(killed.gone_on(), expected, "{read}");
        }
        // And what is still in the container's pipe is taken as ever.
        let mut killed = begun(LogPlan::default());
        rustix::io::write(&killed.pipe.1, b"ee\nfour\n").unwrap();
        let (writer, stage) = (&mut killed.writer, &killed.stage);
        let taken = writer.take_from(Stream::Stdout, 100, 1, killed.pipe.0.as_fd(), stage);
        assert_eq!(taken.unwrap(), 8);
        assert_eq!(killed.gone_on(), expected);
    }

    #[test]
    fn records_that_were_half_written_are_there_once() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let plan = || LogPlan {
                format,
                ..LogPlan::default()
            };
            let mut whole = None;
            // So many bytes of them were written.
            for written in 0.. {
                let mut killed = begun(plan());
                let path = killed.folder.path().join("log");
                let before = std::fs::metadata(&path).unwrap().len();
                about_to_write(&mut killed, b"ee\nfour\n");
                killed.writer.make(Step::Lines, 0, 2);
                let records = std::mem::take(&mut killed.writer.records.waiting);
                if written > records.len() {
                    break;
                }
                killed.writer.records.append_here(&records[..written]).unwrap();
                assert_eq!(std::fs::metadata(&path).unwrap().len(), before + written as u64);
                assert_eq!(
                    killed.gone_on(),
                    ["one", "two", "three", "four", "end"],
                    "{written}"
                );
                whole = Some(records.len());
            }
            assert!(whole.is_some_and(|whole| whole > 80));
        }
    }

    #[test]
    fn records_that_were_half_written_over_a_rotation_are_there_once() {
        for written in 0..100 {
            let mut killed = begun(LogPlan {
                max_size: Some(100),
                max_files: 5,
                ..LogPlan::default()
            });
            about_to_write(&mut killed, b"ee\nfour\n");
            killed.writer.make(Step::Lines, 0, 2);
            let records = std::mem::take(&mut killed.writer.records.waiting);
            let Some(part) = records.get(..written) else { break };
            killed.writer.records.append(part).unwrap();
            assert_eq!(
                killed.gone_on(),
                ["one", "two", "three", "four", "end"],
                "{written}"
            );
        }
    }

    #[test]
    fn what_something_else_was_written_behind_is_not_lost() {
        let mut killed = begun(LogPlan::default());
        about_to_write(&mut killed, b"ee\n");
        let path = killed.folder.path().join("log");
        let mut log = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        std::io::Write::write_all(&mut log, b"torn").unwrap();
        assert_eq!(killed.gone_on(), ["one", "two", "three", "end"]);
    }
}
