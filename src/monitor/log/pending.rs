//! What was read from a container and is not in its log yet, in memory that
//! outlives the monitor.
//!
//! Each stream has a buffer. What is read is put behind what waits there; what
//! became records in the log is taken from the front. How far all that has come
//! is a [`State`], written next to the one before it and made the present one by
//! a single store: killed at any instruction, one of the two is there, whole.
//!
//! Before records are written the state says which ([`Step`], of which stream,
//! at which time) and how long the log is. The same records can be made again
//! from that, so whoever goes on sees how many of their bytes are in the log.

use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use super::{LONGEST_PIECE, Stream};
use crate::sys::shared::SharedBytes;

/// The most that is read at once.
pub(in crate::monitor) const LONGEST_READ: usize = 128 << 10;

/// Room for the unfinished line, twice since it is moved, and for a read.
const ROOM: usize = 2 * LONGEST_PIECE + LONGEST_READ;

/// Room for the description of the log.
const DESCRIPTION: usize = 256 << 10;

/// What is being done with the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    #[default]
    None,
    /// Whole lines are written.
    Lines,
    /// The beginning of a line is written as a piece.
    Piece,
    /// And so is a letter's beginning: nothing follows.
    LastPiece,
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) step: Step,
    /// Of which stream.
    pub(super) stream: usize,
    /// Which time the records have.
    pub(super) time: u64,
    /// The log, and how long it is without that step.
    pub(super) log: (u64, u64),
    /// What waits, in each buffer.
    pub(super) waiting: [Range<usize>; 2],
    /// What was taken from a pipe goes behind that: of which stream, and how much;
    /// 0 while that is not known.
    pub(super) staged: (usize, usize),
    /// Which of the two descriptions is valid, and its length.
    pub(super) description: (usize, usize),
}

/// The place of the number that says which state is the present one.
const PRESENT: usize = 0;
/// Where the two states are.
const STATES: [usize; 2] = [8, 32];

#[derive(Debug)]
pub(super) struct Pending {
    memory: SharedBytes,
    /// The present one, as it is there.
    state: State,
    /// Where the bytes are that were added last.
    latest: Range<usize>,
}

pub(super) fn number(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

pub(super) fn stream(number: usize) -> Stream {
    if number == 0 {
        Stream::Stdout
    } else {
        Stream::Stderr
    }
}

fn wide(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

impl Pending {
    /// Fresh memory.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            memory: SharedBytes::new(2 * ROOM + 2 * DESCRIPTION)?,
            state: State::default(),
            latest: 0..0,
        })
    }

    /// What a monitor that has ended left.
    ///
    /// # Errors
    /// `EINVAL` for what no monitor has made.
    pub(super) fn of(file: OwnedFd) -> io::Result<Self> {
        let memory = SharedBytes::of(file)?;
        let state = read(&memory);
        let bounded = |range: &Range<usize>| range.start <= range.end && range.end <= ROOM;
        let (stream, staged) = state.staged;
        let (place, length) = state.description;
        let sound = memory.bytes().len() == 2 * ROOM + 2 * DESCRIPTION
            && state.waiting.iter().all(bounded)
            && state.stream < 2
            && stream < 2
            && staged <= LONGEST_READ
            && place < 2
            && length <= DESCRIPTION;
        if !sound {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self {
            memory,
            state,
            latest: 0..0,
        })
    }

    /// For who is to have it when this process is killed.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.memory.file()
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Goes over to another state, at once.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
        let state = &self.state;
        let other = 1 - self.present();
        let [first, second] = &state.waiting;
        let step = match state.step {
            Step::None => 0,
            Step::Lines => 1,
            Step::Piece => 2,
            Step::LastPiece => 3,
        };
        let words = [
            step,
            wide(state.stream),
            state.time,
            state.log.0,
            state.log.1,
            wide(first.start),
            wide(first.end),
            wide(second.start),
            wide(second.end),
            wide(state.staged.0),
            wide(state.staged.1),
            wide(state.description.0),
            wide(state.description.1),
        ];
        for (place, word) in words.into_iter().enumerate() {
            self.memory
                .word(STATES[other] + place)
                .store(word, Ordering::Relaxed);
        }
        // What was written before is there before this is.
        self.memory.word(PRESENT).store(wide(other), Ordering::Release);
    }

    fn present(&self) -> usize {
        usize::from(self.memory.word(PRESENT).load(Ordering::Acquire) != 0)
    }

    /// What waits of a stream.
    pub(super) fn waiting(&self, stream: usize) -> &[u8] {
        let range = self.state.waiting.get(stream).cloned().unwrap_or_default();
        let at = stream * ROOM;
        self.memory
            .bytes()
            .get(at + range.start..at + range.end)
            .unwrap_or_default()
    }

    /// Room for so many bytes, [`LONGEST_READ`] at most, behind what waits.
    pub(super) fn room(&mut self, stream: usize, length: usize) -> &mut [u8] {
        let range = self.state.waiting.get(stream).cloned().unwrap_or_default();
        if range.is_empty() && range.start > 0 {
            self.change(|state| state.waiting[stream] = 0..0);
        } else if range.end + length > ROOM {
            // It is copied before it counts, and not over itself: it is no longer
            // than a piece, and so much room is left in front of it.
            let at = stream * ROOM;
            self.memory
                .bytes_mut()
                .copy_within(at + range.start..at + range.end, at);
            self.change(|state| state.waiting[stream] = 0..range.len());
        }
        let end = stream * ROOM + self.state.waiting[stream].end;
        let limit = (stream + 1) * ROOM;
        let bytes = self.memory.bytes_mut();
        bytes.get_mut(end..(end + length).min(limit)).unwrap_or_default()
    }

    /// The first so many bytes of the room have been filled; what else changes with
    /// that.
    pub(super) fn add(&mut self, stream: usize, length: usize, change: impl FnOnce(&mut State)) {
        let end = self.state.waiting[stream].end;
        let added = (end + length).min(ROOM);
        self.latest = stream * ROOM + end..stream * ROOM + added;
        self.change(|state| {
            state.waiting[stream].end = added;
            change(state);
        });
    }

    /// What was added last, until room is asked for again.
    pub(super) fn latest(&self) -> &[u8] {
        self.memory.bytes().get(self.latest.clone()).unwrap_or_default()
    }

    /// What the log is.
    pub(super) fn description(&self) -> &[u8] {
        let (place, length) = self.state.description;
        let at = 2 * ROOM + place * DESCRIPTION;
        self.memory.bytes().get(at..at + length).unwrap_or_default()
    }

    /// Notes what the log is.
    ///
    /// # Errors
    /// When that is too long.
    pub(super) fn describe(&mut self, text: &[u8]) -> io::Result<()> {
        let place = 1 - self.state.description.0;
        let at = 2 * ROOM + place * DESCRIPTION;
        let room = self.memory.bytes_mut().get_mut(at..at + DESCRIPTION);
        room.and_then(|room| room.get_mut(..text.len()))
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(text);
        self.change(|state| state.description = (place, text.len()));
        Ok(())
    }

    /// Gives back the memory that output has taken.
    pub(super) fn rest(&mut self) {
        let state = &self.state;
        if state.waiting.iter().all(Range::is_empty) && state.staged.1 == 0 {
            self.latest = 0..0;
            self.memory.give_back(2 * ROOM);
        } else {
            self.memory.give_back(0);
        }
    }
}

fn read(memory: &SharedBytes) -> State {
    let present = usize::from(memory.word(PRESENT).load(Ordering::Acquire) != 0);
    let word = |place: usize| memory.word(STATES[present] + place).load(Ordering::Relaxed);
    let size = |place: usize| usize::try_from(word(place)).unwrap_or(usize::MAX);
    State {
        step: match word(0) {
            1 => Step::Lines,
            2 => Step::Piece,
            3 => Step::LastPiece,
            _ => Step::None,
        },
        stream: size(1),
        time: word(2),
        log: (word(3), word(4)),
        waiting: [size(5)..size(6), size(7)..size(8)],
        staged: (size(9), size(10)),
        description: (size(11), size(12)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(pending: &mut Pending, stream: usize, text: &[u8]) {
        pending.room(stream, text.len()).copy_from_slice(text);
        pending.add(stream, text.len(), |_| {});
        assert_eq!(pending.latest(), text);
    }

    #[test]
    fn the_next_finds_what_was_there() {
        let mut pending = Pending::new().unwrap();
        pending.describe(b"a log").unwrap();
        put(&mut pending, 0, b"out");
        put(&mut pending, 1, b"errors");
        pending.change(|state| {
            state.waiting[1].start += 3;
            (state.step, state.stream, state.time, state.log) = (Step::Piece, 1, 5, (6, 7));
            state.staged = (1, 8);
        });
        let state = pending.state().clone();
        let next = Pending::of(pending.file().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(*next.state(), state);
        assert_eq!((next.waiting(0), next.waiting(1)), (&b"out"[..], &b"ors"[..]));
        assert_eq!(next.description(), b"a log");
    }

    #[test]
    fn there_is_always_room_behind_a_piece() {
        let mut pending = Pending::new().unwrap();
        let piece = vec![b'x'; LONGEST_PIECE];
        put(&mut pending, 0, &piece);
        for length in [1, 1000, LONGEST_READ, LONGEST_READ - 7, LONGEST_PIECE] {
            put(&mut pending, 0, &vec![b'y'; length]);
            pending.change(|state| state.waiting[0].start += length);
            assert_eq!(pending.waiting(0).len(), LONGEST_PIECE);
        }
        pending.change(|state| state.waiting[0].start = state.waiting[0].end);
        put(&mut pending, 0, b"z");
        assert_eq!(pending.waiting(0), b"z");
        pending.rest();
        assert_eq!(pending.waiting(0), b"z");
    }

    #[test]
    fn other_files_are_refused() {
        let memory = SharedBytes::new(2 * ROOM + 2 * DESCRIPTION).unwrap();
        memory.word(STATES[0] + 6).store(u64::MAX, Ordering::Relaxed);
        let file = memory.file().try_clone_to_owned().unwrap();
        assert!(Pending::of(file).is_err());
        let memory = SharedBytes::new(1).unwrap();
        assert!(Pending::of(memory.file().try_clone_to_owned().unwrap()).is_err());
    }
}
