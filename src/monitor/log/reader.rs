//! Reading records, forwards, from the beginning or from the last lines on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::{Stream, TIME_LENGTH, end_of_line, parse_time, rotate};

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was read from the container, in nanoseconds since 1970.
    pub time: u64,
    /// Where it was written to.
    pub stream: Stream,
    /// The line goes on in the next record of this stream, or its end was not
    /// written yet.
    pub partial: bool,
    /// The text, without the end of line; any bytes.
    pub text: Vec<u8>,
}

impl Entry {
    /// Nothing yet.
    pub fn empty() -> Self {
        Self {
            time: 0,
            stream: Stream::Stdout,
            partial: false,
            text: Vec::new(),
        }
    }

    /// A record without its end of line; `None` when it is none.
    fn parse(record: &[u8]) -> Option<Self> {
        let mut entry = Self::empty();
        entry.take(record, &mut Stamp::default()).map(|()| entry)
    }

    /// As [`Self::parse`], into what is there.
    fn take(&mut self, record: &[u8], stamp: &mut Stamp) -> Option<()> {
        if record.first() == Some(&b'{') {
            return match plain_json(record) {
                Some((text, stream, time)) => {
                    self.time = stamp.read(time)?;
                    self.stream = stream;
                    let whole = text.strip_suffix(b"\\n");
                    self.partial = whole.is_none();
                    self.replace(whole.unwrap_or(text));
                    Some(())
                }
                None => self.take_json(record),
            };
        }
        let (time, rest) = record.split_at_checked(TIME_LENGTH)?;
        let rest = rest.strip_prefix(b" ")?;
        let (stream, rest) = match rest.strip_prefix(b"stdout ") {
            Some(rest) => (Stream::Stdout, rest),
            None => (Stream::Stderr, rest.strip_prefix(b"stderr ")?),
        };
        let (partial, text) = match rest.strip_prefix(b"P ") {
            Some(text) => (true, text),
            None => (false, rest.strip_prefix(b"F ")?),
        };
        self.time = stamp.read(time)?;
        self.stream = stream;
        self.partial = partial;
        self.replace(text);
        Some(())
    }

    fn take_json(&mut self, record: &[u8]) -> Option<()> {
        let record: JsonRecord = serde_json::from_slice(record).ok()?;
        let mut text = record.log.into_bytes();
        self.partial = text.pop_if(|last| *last == b'\n').is_none();
        self.time = parse_time(record.time.as_bytes())?;
        self.stream = match record.stream.as_str() {
            "stdout" => Stream::Stdout,
            "stderr" => Stream::Stderr,
            _ => return None,
        };
        self.text = text;
        Some(())
    }

    fn replace(&mut self, text: &[u8]) {
        self.text.clear();
        self.text.extend_from_slice(text);
    }
}

/// Text, stream and time of a record in JSON as we write most of them: without
/// attributes, and with no escape but that of its end of line.
fn plain_json(record: &[u8]) -> Option<(&[u8], Stream, &[u8])> {
    let rest = record.strip_prefix(b"{\"log\":\"")?.strip_suffix(b"\"}")?;
    let (rest, time) = rest.split_at_checked(rest.len().checked_sub(TIME_LENGTH)?)?;
    let rest = rest.strip_suffix(b"\",\"time\":\"")?;
    let (text, stream) = match rest.strip_suffix(b"\",\"stream\":\"stdout") {
        Some(text) => (text, Stream::Stdout),
        None => (rest.strip_suffix(b"\",\"stream\":\"stderr")?, Stream::Stderr),
    };
    let body = text.strip_suffix(b"\\n").unwrap_or(text);
    let plain = body.iter().fold(true, |plain, byte| {
        plain & (*byte >= 0x20) & (*byte != b'"') & (*byte != b'\\') & byte.is_ascii()
    });
    plain.then_some((text, stream, time))
}

/// The last time that was read: most records have that of the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    text: [u8; TIME_LENGTH],
    time: u64,
}

impl Stamp {
    fn read(&mut self, text: &[u8]) -> Option<u64> {
        if self.text != text {
            self.time = parse_time(text)?;
            self.text = text.try_into().ok()?;
        }
        Some(self.time)
    }
}

/// A record of the driver `json-file`.
#[derive(Debug, serde::Deserialize)]
struct JsonRecord {
    log: String,
    stream: String,
    time: String,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first record.
    Start,
    /// With the last so many lines (a line may have several records).
    Last(usize),
    /// With the record at this byte, such as the length the log had before.
    Offset(u64),
    /// Near the first record of this time (nanoseconds since 1970) or later,
    /// not after it.
    Since(u64),
}

/// How much is read at once.
const BLOCK: usize = 128 << 10;

/// Reads a log while it may be written. At its end, [`Reader::next`] says
/// `None` and can be asked again later: whoever follows waits for the file to
/// change. Records that are not whole yet are waited for; what is no record (a
/// tear left by a power failure) is left out.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    /// Another file has been gone on to, since last asked.
    moved: bool,
    /// Where the next block is read.
    position: u64,
    block: Vec<u8>,
    /// How much of the block has been handed out.
    used: usize,
    stamp: Stamp,
}

impl Reader {
    /// Opens a log; `None` when there is none (yet).
    ///
    /// # Errors
    /// What open(2) and read(2) return.
    pub fn open(path: &Path, from: From) -> io::Result<Option<Self>> {
        let open = |path: &Path| match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        };
        let Some(mut file) = open(path)? else {
            return Ok(None);
        };
        let older = rotate::files(path);
        let mut older = older.iter().skip(1);
        let mut position = match from {
            From::Start => 0,
            From::Last(lines) => {
                let (mut position, mut found) = last_lines(&file, lines)?;
                // Not all are in the newest file.
                while found < lines
                    && let Some(before) = older.next()
                {
                    if let Some(opened) = open(before)? {
                        let (place, more) = last_lines(&opened, lines - found)?;
                        (file, position, found) = (opened, place, found + more);
                    }
                }
                position
            }
            From::Offset(offset) => {
                // A new file has been begun since.
                if file.metadata()?.len() < offset
                    && let Some(before) = older.next()
                    && let Some(opened) = open(before)?
                    && opened.metadata()?.len() >= offset
                {
                    file = opened;
                    offset
                } else {
                    offset.min(file.metadata()?.len())
                }
            }
            From::Since(time) => {
                while !begins_before(&file, time)?
                    && let Some(before) = older.next()
                {
                    file = open(before)?.unwrap_or(file);
                }
                first_since(&file, time)?
            }
        };
        if from == From::Start
            && let Some(oldest) = older.next_back()
            && let Some(opened) = open(oldest)?
        {
            (file, position) = (opened, 0);
        }
        Ok(Some(Self {
            path: path.to_owned(),
            file,
            moved: false,
            position,
            block: Vec::new(),
            used: 0,
            stamp: Stamp::default(),
        }))
    }

    /// The next record, or `None` at the present end.
    ///
    /// # Errors
    /// What read(2) returns.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that has ended cannot go on"
    )]
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut entry = Entry::empty();
        Ok(self.read(&mut entry)?.then_some(entry))
    }

    /// As [`Self::next`], into an entry that is there already; whether there was
    /// a record. Without, the entry may have been changed.
    ///
    /// # Errors
    /// What read(2) returns.
    pub fn read(&mut self, entry: &mut Entry) -> io::Result<bool> {
        loop {
            let rest = self.block.get(self.used..).unwrap_or_default();
            if let Some(end) = end_of_line(rest) {
                let record = rest.get(..end).unwrap_or_default();
                let taken = entry.take(record, &mut self.stamp);
                self.used += end + 1;
                if taken.is_some() {
                    return Ok(true);
                }
                continue;
            }
            if !self.fill()? && !self.go_on()? {
                return Ok(false);
            }
        }
    }

    /// Whether another file of the log has been gone on to since this was last
    /// asked: who waits for a file to change must wait for the new one.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Goes on with the next file, when this one is not written any more;
    /// whether there is more to read.
    fn go_on(&mut self) -> io::Result<bool> {
        let Some(next) = rotate::after(&self.path, &self.file)? else {
            return Ok(false);
        };
        // What was written between our last look and the change.
        if self.fill()? {
            return Ok(true);
        }
        self.file = next;
        self.position = 0;
        self.block.clear();
        self.used = 0;
        self.moved = true;
        Ok(true)
    }

    /// Reads one more block behind what is left of the last one.
    fn fill(&mut self) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.position {
            // Cut off (it is being written anew): what we had is of the past.
            self.position = 0;
            self.block.clear();
            self.used = 0;
        }
        self.block.drain(..self.used);
        self.used = 0;
        let left = self.block.len();
        self.block.resize(left + BLOCK, 0);
        let read = self
            .file
            .read_at(self.block.get_mut(left..).unwrap_or_default(), self.position);
        self.block.truncate(left + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.position += u64::try_from(read).unwrap_or(0);
        Ok(read > 0)
    }
}

/// Whether a file has a record from before a time at its beginning.
fn begins_before(file: &File, time: u64) -> io::Result<bool> {
    let mut block = vec![0; 8 * super::LONGEST_PIECE];
    let read = file.read_at(&mut block, 0)?;
    let bytes = block.get(..read).unwrap_or_default();
    let first = bytes.split(|byte| *byte == b'\n').find_map(Entry::parse);
    Ok(first.is_some_and(|entry| entry.time < time.saturating_sub(1_000_000_000)))
}

/// The beginning of a record before the first one of that time or later, and not
/// far before it. Bisects: records are in the order of their times, but for
/// those of the other stream within a moment, and for a clock that was set back.
fn first_since(file: &File, time: u64) -> io::Result<u64> {
    // What is held back of an unfinished line comes a moment late.
    let time = time.saturating_sub(1_000_000_000);
    let (mut low, mut high) = (0, file.metadata()?.len());
    let mut block = vec![0; 2 * super::LONGEST_PIECE];
    while high - low > 4 * u64::try_from(block.len()).unwrap_or(u64::MAX) {
        let middle = low + (high - low) / 2;
        let read = file.read_at(&mut block, middle)?;
        let bytes = block.get(..read).unwrap_or_default();
        // The first whole record from here on.
        let mut at = 0;
        let mut found = None;
        while let Some(end) = bytes
            .get(at..)
            .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let begin = at + end + 1;
            let rest = bytes.get(begin..).unwrap_or_default();
            let line = rest.iter().position(|byte| *byte == b'\n');
            if let Some(entry) = line.and_then(|line| Entry::parse(rest.get(..line)?)) {
                found = Some((middle + u64::try_from(begin).unwrap_or(0), entry.time));
                break;
            }
            at = begin;
        }
        match found {
            Some((place, first)) if first < time => low = place,
            // As late, or nothing to tell by: it is before.
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Where the last so many lines begin, and how many there are. Reads backwards, a block at a time.
fn last_lines(file: &File, lines: usize) -> io::Result<(u64, usize)> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok((end, 0));
    }
    let mut start = end;
    // The records between `start` and the earliest one seen so far, which may
    // begin before `start`.
    let mut pending: Vec<u8> = Vec::new();
    let mut found = 0;
    // The record that follows the one looked at.
    let mut next = end;
    let mut newest = true;
    while start > 0 {
        let size = u64::try_from(BLOCK).unwrap_or(u64::MAX).min(start);
        start -= size;
        let mut block = vec![0; usize::try_from(size).unwrap_or(BLOCK)];
        file.read_exact_at(&mut block, start)?;
        block.append(&mut pending);
        pending = block;
        // Whole records from the last to the first, whose beginning is known
        // only when another record ends before it or the file begins.
        while let Some(body) = pending
            .strip_suffix(b"\n")
            .or_else(|| (newest && !pending.is_empty()).then_some(&pending))
        {
            let begin = match body.iter().rposition(|byte| *byte == b'\n') {
                Some(before) => before + 1,
                None if start == 0 => 0,
                None => break,
            };
            let whole = pending.last() == Some(&b'\n');
            let tag = Entry::parse(body.get(begin..).unwrap_or_default()).filter(|_| whole);
            // A line ends with this record; so does, at the very end, one whose
            // last piece this is.
            if let Some(entry) = &tag
                && (!entry.partial || newest)
            {
                if found == lines {
                    return Ok((next, found));
                }
                found += 1;
            }
            newest = newest && tag.is_none();
            next = start + u64::try_from(begin).unwrap_or(0);
            pending.truncate(begin);
        }
    }
    Ok((0, found))
}

#[cfg(test)]
mod tests {
    use super::super::{LONGEST_PIECE, Writer};
    use super::*;
    use crate::runtime::{LogFormat, LogPlan};
    use std::io::Write as _;

    fn all(reader: &mut Reader) -> Vec<String> {
        let mut list = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let mark = if entry.partial { "+" } else { "" };
            list.push(format!("{}{mark}", String::from_utf8_lossy(&entry.text)));
        }
        list
    }

    fn log(feed: impl FnOnce(&mut Writer)) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = Writer::open(&path, LogPlan::default()).unwrap();
        feed(&mut writer);

        (folder, path)
    }

    fn last(path: &Path, lines: usize) -> Vec<String> {
        all(&mut Reader::open(path, From::Last(lines)).unwrap().unwrap())
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, path) = log(|writer| {
            writer.feed(Stream::Stdout, b"a\n\xff\nlong", 1);
            writer.release_tails(None, 2);
            writer.feed(Stream::Stderr, b"e\n", 3);
        });
        let mut reader = Reader::open(&path, From::Start).unwrap().unwrap();
        let first = reader.next().unwrap().unwrap();
        assert_eq!(
            first,
            Entry {
                time: 1,
                stream: Stream::Stdout,
                partial: false,
                text: b"a".to_vec()
            }
        );
        assert_eq!(reader.next().unwrap().unwrap().text, b"\xff");
        assert_eq!(all(&mut reader), ["long+", "e"]);
        assert!(
            Reader::open(&path.with_file_name("none"), From::Start)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_record_being_written_is_waited_for_and_tears_are_left_out() {
        let (_folder, path) = log(|writer| writer.feed(Stream::Stdout, b"one\n", 0));
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let mut reader = Reader::open(&path, From::Start).unwrap().unwrap();
        file.write_all(b"torn\n1970-01-01T00:00:00.00000").unwrap();
        assert_eq!(all(&mut reader), ["one"]);
        file.write_all(b"0000Z stdout F two\n").unwrap();
        assert_eq!(all(&mut reader), ["two"]);
        file.set_len(0).unwrap();
        file.write_all(b"1970-01-01T00:00:00.000000000Z stdout F x\n")
            .unwrap();
        assert_eq!(all(&mut reader), ["x"]);
    }

    #[test]
    fn no_line_is_lost_over_rotations() {
        for (format, max_files) in [(LogFormat::Text, 4), (LogFormat::Json, 4), (LogFormat::Text, 1)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let plan = LogPlan {
                format,
                max_size: Some(1000),
                max_files,
                ..LogPlan::default()
            };
            let mut writer = Writer::open(&path, plan.clone()).unwrap();
            let mut follower = Reader::open(&path, From::Start).unwrap().unwrap();
            let mut seen = Vec::new();
            for number in 0..2000 {
                writer.feed(Stream::Stdout, format!("line {number}\n").as_bytes(), number);

                if number % 7 == 0 {
                    seen.extend(all(&mut follower));
                }
            }
            seen.extend(all(&mut follower));
            let expected: Vec<String> = (0..2000).map(|number| format!("line {number}")).collect();
            assert_eq!(seen, expected, "{plan:?}");
            assert!(follower.take_moved());
            let files = rotate::files(&path);
            assert_eq!(files.len(), max_files as usize);
            for file in &files {
                let length = std::fs::metadata(file).unwrap().len();
                assert!(length <= 1000, "{length}");
            }
            // Whoever begins now sees the end, over the files there are.
            let kept = all(&mut Reader::open(&path, From::Start).unwrap().unwrap());
            assert_eq!(kept, &expected[2000 - kept.len()..]);
            assert!(
                kept.len() > 10 * max_files as usize || max_files == 1,
                "{}",
                kept.len()
            );
            let few = kept.len().min(20);
            assert_eq!(last(&path, few), &expected[2000 - few..]);
            drop(writer);
            let mut writer = Writer::open(&path, plan.clone()).unwrap();
            writer.feed(Stream::Stdout, b"again\n", 1);

            assert_eq!(all(&mut follower), ["again"]);
        }
    }

    #[test]
    fn a_rotation_that_was_cut_off_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let plan = LogPlan {
            max_size: Some(10_000),
            max_files: 3,
            ..LogPlan::default()
        };
        let put = |name: &str, text: &str| {
            let record = format!("1970-01-01T00:00:00.000000000Z stdout F {text}\n");
            std::fs::write(folder.path().join(name), record).unwrap();
        };
        put("log.1", "oldest");
        put("log.next", "older");
        put("log", "new");
        let read = || all(&mut Reader::open(&path, From::Start).unwrap().unwrap());
        assert_eq!(read(), ["oldest", "older", "new"]);
        drop(Writer::open(&path, plan.clone()).unwrap());
        assert_eq!(read(), ["oldest", "older", "new"]);
        assert!(!folder.path().join("log.next").exists());
        // Killed before the exchange: nothing was in it.
        std::fs::write(folder.path().join("log.next"), "").unwrap();
        drop(Writer::open(&path, plan.clone()).unwrap());
        assert_eq!(read(), ["oldest", "older", "new"]);
    }

    #[test]
    fn json_records_are_dockers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let plan = LogPlan {
            format: LogFormat::Json,
            ..LogPlan::default()
        };
        let mut writer = Writer::open(&path, plan.clone()).unwrap();
        writer.feed(Stream::Stderr, "a \"quoted\" ü\n".as_bytes(), 5);
        // A letter that reads and pieces cut in two stays whole.
        let long = "ü".repeat(LONGEST_PIECE);
        for chunk in format!("x{long}\n").as_bytes().chunks(1001) {
            writer.feed(Stream::Stdout, chunk, 6);
        }
        writer.feed(Stream::Stdout, b"\xff\n", 7);

        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"log":"a \"quoted\" ü\n","stream":"stderr","time":"1970-01-01T00:00:00.000000005Z"}"#
        );
        let found = all(&mut Reader::open(&path, From::Start).unwrap().unwrap());
        let middle: String = found[1..found.len() - 1]
            .iter()
            .map(|one| one.trim_end_matches('+'))
            .collect();
        assert_eq!(middle, format!("x{long}"));
        assert_eq!(found.last().unwrap(), "\u{fffd}");
    }

    #[test]
    fn the_last_lines_are_found_from_the_end() {
        let (_folder, path) = log(|writer| {
            for number in 0..5000 {
                writer.feed(Stream::Stdout, format!("line {number}\n").as_bytes(), number);
            }
        });
        for lines in [0, 1, 2, 1000, 4999, 5000, 6000] {
            let found = last(&path, lines);
            assert_eq!(found.len(), lines.min(5000));
            assert_eq!(
                found.first().cloned(),
                (lines > 0).then(|| format!("line {}", 5000 - lines.min(5000)))
            );
        }
        // A torn end is not counted.
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"1970-01-01T00:00").unwrap();
        assert_eq!(last(&path, 2), ["line 4998", "line 4999"]);
    }

    #[test]
    fn a_time_is_found_without_reading_everything() {
        const SECOND: u64 = 1_000_000_000;
        let (_folder, path) = log(|writer| {
            for number in 0..40_000 {
                writer.feed(
                    Stream::Stdout,
                    format!("line {number}\n").as_bytes(),
                    number * SECOND,
                );
            }
        });
        let size = std::fs::metadata(&path).unwrap().len();
        for time in [0, 1, 17, 20_000, 39_999, 50_000] {
            let file = File::open(&path).unwrap();
            let place = first_since(&file, time * SECOND).unwrap();
            let mut reader = Reader::open(&path, From::Since(time * SECOND)).unwrap().unwrap();
            let first = reader.next().unwrap().unwrap();
            assert!(first.time <= time * SECOND, "{time}: {}", first.time);
            if time > 10_000 {
                assert!(place > size / 5, "{time}: at {place} of {size}");
            }
        }
    }

    #[test]
    fn a_line_of_several_records_is_one() {
        let (_folder, path) = log(|writer| {
            writer.feed(Stream::Stdout, b"before\n", 0);
            writer.feed(Stream::Stdout, &vec![b'x'; 5 * LONGEST_PIECE + 7], 0);
            writer.feed(Stream::Stdout, b"\nafter\nunfinished", 0);
            writer.release_tails(None, 0);
        });
        assert_eq!(last(&path, 1), ["unfinished+"]);
        assert_eq!(last(&path, 2), ["after", "unfinished+"]);
        assert_eq!(last(&path, 3).len(), 8);
        assert_eq!(last(&path, 4).len(), 9);
        assert_eq!(last(&path, 4)[0], "before");
    }
}
