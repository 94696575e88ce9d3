//! Writing records: what is read from the container in one go is appended in
//! one write.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::{LONGEST_PIECE, Stream, TIME_LENGTH, end_of_line, rotate, write_time};
use crate::monitor::forward::Forward;
use crate::runtime::{LogFormat, LogPlan};

/// How long the end of an unfinished line is waited for.
const HOLD: Duration = Duration::from_millis(50);

/// When so much is waiting it is written.
const BATCH: usize = 128 << 10;

/// Appends to a log. Nothing it does fails for its caller: a full disk must not
/// stop the container. Lines that could not be written are counted, and noted
/// in the log as soon as there is room.
#[derive(Debug)]
pub(in crate::monitor) struct Writer {
    path: PathBuf,
    plan: LogPlan,
    file: OwnedFd,
    /// Length of the file: up to the end of the last whole record.
    length: u64,
    waiting: Vec<u8>,
    /// The beginnings of unfinished lines, and until when their ends are waited for.
    tails: [(Vec<u8>, Option<Instant>); 2],
    lost: u64,
    reason: Option<io::Error>,
    /// What ends a record in JSON before its time: the attributes.
    attributes: Vec<u8>,
    forward: Option<Forward>,
}

impl Writer {
    /// Opens a log, making it when it is missing.
    ///
    /// # Errors
    /// What open(2) returns, `ELOOP` for a link; or what connecting to whoever
    /// else is told returns.
    pub(in crate::monitor) fn open(path: &Path, mut plan: LogPlan) -> io::Result<Self> {
        rotate::finish(path, plan.max_files)?;
        let (file, length) = open_file(path)?;
        let forward = plan.forward.take().map(Forward::open).transpose()?;
        Ok(Self {
            attributes: attributes(&plan)?,
            forward,
            path: path.to_owned(),
            plan,
            file,
            length,
            waiting: Vec::new(),
            tails: Default::default(),
            lost: 0,
            reason: None,
        })
    }

    /// Goes on by another plan, in the same files.
    ///
    /// # Errors
    /// What connecting to whoever else is told returns; then nothing has changed.
    pub(in crate::monitor) fn change(&mut self, mut plan: LogPlan) -> io::Result<()> {
        let forward = plan.forward.take().map(Forward::open).transpose()?;
        let attributes = attributes(&plan)?;
        // What waits is in the old form.
        self.flush();
        (self.plan, self.forward, self.attributes) = (plan, forward, attributes);
        Ok(())
    }

    /// Takes what was read from a stream at `time`.
    pub(in crate::monitor) fn feed(&mut self, stream: Stream, mut bytes: &[u8], time: u64) {
        let mut written = [0; TIME_LENGTH];
        write_time(time, &mut written);
        let mut tail = std::mem::take(&mut self.tail(stream).0);
        while !bytes.is_empty() {
            let room = LONGEST_PIECE - tail.len();
            let near = bytes.get(..room).unwrap_or(bytes);
            match end_of_line(near) {
                Some(end) => {
                    let (line, rest) = bytes.split_at(end);
                    self.record(&written, stream, b'F', &[&tail, line]);
                    tail.clear();
                    bytes = rest.get(1..).unwrap_or_default();
                }
                // One byte beyond the piece tells whether the line goes on.
                None if bytes.len() > room => {
                    let (mut piece, mut rest) = bytes.split_at(room);
                    let torn = self.torn(piece);
                    if torn < piece.len() {
                        (piece, rest) = bytes.split_at(room - torn);
                    }
                    let ends = rest.first() == Some(&b'\n');
                    self.record(&written, stream, if ends { b'F' } else { b'P' }, &[&tail, piece]);
                    tail.clear();
                    bytes = if ends {
                        rest.get(1..).unwrap_or_default()
                    } else {
                        rest
                    };
                }
                None => {
                    tail.extend_from_slice(bytes);
                    break;
                }
            }
        }
        let until = (!tail.is_empty()).then(|| Instant::now() + HOLD);
        *self.tail(stream) = (tail, until);
    }

    /// Until when the end of an unfinished line is waited for.
    pub(in crate::monitor) fn held_until(&self) -> Option<Instant> {
        self.tails.iter().filter_map(|(_, until)| *until).min()
    }

    /// Writes unfinished lines as pieces: those whose time has come by `when`,
    /// or all.
    pub(in crate::monitor) fn release_tails(&mut self, when: Option<Instant>, time: u64) {
        let mut written = [0; TIME_LENGTH];
        write_time(time, &mut written);
        for stream in [Stream::Stdout, Stream::Stderr] {
            let (mut tail, until) = std::mem::take(self.tail(stream));
            let due = when.is_none_or(|when| until.is_some_and(|until| until <= when));
            if due && !tail.is_empty() {
                // The rest of a letter is waited for, unless nothing follows.
                let whole = tail.len() - when.map_or(0, |_| self.torn(&tail));
                let rest = tail.split_off(whole);
                if !tail.is_empty() {
                    self.record(&written, stream, b'P', &[&tail]);
                }
                *self.tail(stream) = (rest, None);
            } else {
                *self.tail(stream) = (tail, until);
            }
        }
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

    fn tail(&mut self, stream: Stream) -> &mut (Vec<u8>, Option<Instant>) {
        let [stdout, stderr] = &mut self.tails;
        match stream {
            Stream::Stdout => stdout,
            Stream::Stderr => stderr,
        }
    }

    fn record_json(&mut self, time: &[u8; TIME_LENGTH], stream: Stream, tag: u8, pieces: &[&[u8]]) {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.waiting.len() + TIME_LENGTH + 48 + length > BATCH {
            self.flush();
        }
        self.waiting.extend_from_slice(b"{\"log\":");
        // Most lines are what they are in JSON, too.
        if pieces.iter().all(|piece| is_plain(piece)) {
            self.waiting.push(b'"');
            for piece in pieces {
                self.waiting.extend_from_slice(piece);
            }
            let end: &[u8] = if tag == b'F' { b"\\n\"" } else { b"\"" };
            self.waiting.extend_from_slice(end);
        } else {
            let mut text = pieces.concat();
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

    fn record(&mut self, time: &[u8; TIME_LENGTH], stream: Stream, tag: u8, pieces: &[&[u8]]) {
        if let Some(forward) = &mut self.forward {
            forward.send(stream, tag == b'P', &pieces.concat());
        }
        match self.plan.format {
            LogFormat::Text => {}
            LogFormat::Json => return self.record_json(time, stream, tag, pieces),
            LogFormat::Nothing => return,
        }
        let text: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.waiting.len() + TIME_LENGTH + 11 + text > BATCH {
            self.flush();
        }
        // In one go: a line is short, and this is done for each.
        let mut head = *b"000000000000000000000000000000 stdout F ";
        head[..TIME_LENGTH].copy_from_slice(time);
        head[TIME_LENGTH + 1..TIME_LENGTH + 7].copy_from_slice(stream.name().as_bytes());
        head[TIME_LENGTH + 8] = tag;
        self.waiting.reserve(head.len() + text + 1);
        self.waiting.extend_from_slice(&head);
        for piece in pieces {
            self.waiting.extend_from_slice(piece);
        }
        self.waiting.push(b'\n');
    }

    /// Gives the memory back that a flood of output has taken.
    pub(in crate::monitor) fn rest(&mut self) {
        self.flush();
        self.waiting = Vec::new();
        for (tail, _) in &mut self.tails {
            tail.shrink_to_fit();
        }
    }

    /// Writes what waits.
    pub(in crate::monitor) fn flush(&mut self) {
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
            self.record(&time, Stream::Stderr, b'F', &[text.as_bytes()]);
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
        (self.file, self.length) = open_file(&self.path)?;
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

/// A file to append to, and its length.
fn open_file(path: &Path) -> io::Result<(OwnedFd, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    let length = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
    Ok((file, length))
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
        writer.flush();
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
        let mut writer = Writer {
            path: PathBuf::new(),
            plan: LogPlan::default(),
            file: pipe.into(),
            length: 0,
            waiting: Vec::new(),
            tails: Default::default(),
            lost: 0,
            reason: None,
            attributes: Vec::new(),
            forward: None,
        };
        for number in 0..200 {
            writer.feed(Stream::Stdout, format!("{number}\n").as_bytes(), 0);
            writer.flush();
        }
        assert!(writer.lost > 0);
        let lost = writer.lost;
        let mut room = vec![0; 4096];
        let taken = reader.read(&mut room).unwrap();
        let before = lines(&room[..taken]);
        assert_eq!(before + lost, 200);
        writer.feed(Stream::Stdout, b"after\n", 0);
        writer.flush();
        drop(writer);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        let noted = format!("stderr F rcompose: {lost} log lines lost: ");
        assert!(rest.contains(&noted), "{rest}");
        assert!(rest.ends_with("stdout F after\n"), "{rest}");
    }
}
