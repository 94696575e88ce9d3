//! What a container printed, as a file.
//!
//! One record a line, the format of the Container Runtime Interface:
//!
//! ```text
//! 2026-11-20T15:58:04.000000001Z stdout F the text of a line
//! 2026-11-20T15:58:04.000000002Z stderr P a piece that has not ended its line
//! ```
//!
//! A piece (`P`) is followed, in the same stream, by the rest of its line. Lines
//! are cut into pieces of 16 KiB; output that does not end its line is written
//! as a piece after a short silence, at the latest when the stream ends. A
//! terminal is one stream, `stdout`.
//!
//! With the driver `json-file`, a record is an object as Docker writes it, and a
//! piece one whose `log` does not end the line:
//!
//! ```text
//! {"log":"the text of a line\n","stream":"stdout","time":"2026-11-20T15:58:04.000000001Z"}
//! ```
//!
//! A reader understands both, record by record.
//!
//! A log may have several files: `log` is the present one, `log.1` the one
//! before it, and so on. Between records the writer puts an empty file in the
//! present one's place (`log.next`, exchanged, so that `log` is always there)
//! and moves that behind the others. A reader keeps the file it is in open and
//! goes on with the one that follows it, wherever both are by then. A writer
//! that finds a `log.next` with something in it was killed between the two
//! steps, and does the second.
//!
//! Weak: a reader that is slower than `max-file` files of output misses what
//! has been removed meanwhile, and goes on with the oldest there is; a place in
//! bytes ([`From::Offset`]) counts in the present file or the one before it.
//! What driver `none` throws away, attached clients see and `up` does not.

#[doc(hidden)]
pub mod fuzz;
mod pending;
mod reader;
mod rotate;
mod writer;

use std::io::BufRead as _;

pub(super) use self::pending::LONGEST_READ;
pub use self::reader::{Entry, From, Reader};
pub(super) use self::writer::{Stage, Writer};

/// The longest piece of a line in one record, in bytes.
pub const LONGEST_PIECE: usize = 16 << 10;

/// Which descriptor something was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Where a line ends. The standard library's search goes by words, not bytes,
/// and is reached by its buffered reading only.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let skipped = rest.skip_until(b'\n').ok()?;
    let end = skipped.checked_sub(1)?;
    (bytes.get(end) == Some(&b'\n')).then_some(end)
}

/// The length of a time as it is written.
const TIME_LENGTH: usize = 30;

const NANOSECONDS: u64 = 1_000_000_000;

/// Writes a time (nanoseconds since 1970) as RFC 3339 in UTC with nine digits
/// of a second; years after 9999 come out as 9999.
fn write_time(time: u64, to: &mut [u8; TIME_LENGTH]) {
    let (seconds, nanoseconds) = (time / NANOSECONDS, time % NANOSECONDS);
    let (year, month, day) = date(seconds / 86400);
    let second = seconds % 86400;
    to.copy_from_slice(b"0000-00-00T00:00:00.000000000Z");
    let mut put = |start: usize, digits: usize, mut value: u64| {
        for place in to.iter_mut().skip(start).take(digits).rev() {
            // A single digit.
            *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    };
    put(0, 4, year.min(9999));
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, second / 3600);
    put(14, 2, second / 60 % 60);
    put(17, 2, second % 60);
    put(20, 9, nanoseconds);
}

/// A time (nanoseconds since 1970) as RFC 3339 in UTC with nine digits of a second.
pub fn format_time(time: u64) -> String {
    let mut text = [0; TIME_LENGTH];
    write_time(time, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The reverse of [`write_time`]; `None` for anything else.
fn parse_time(text: &[u8]) -> Option<u64> {
    const SHAPE: &[u8; TIME_LENGTH] = b"0000-00-00T00:00:00.000000000Z";
    let right = |(letter, shape): (&u8, &u8)| {
        if *shape == b'0' {
            letter.is_ascii_digit()
        } else {
            letter == shape
        }
    };
    if text.len() != TIME_LENGTH || !text.iter().zip(SHAPE).all(right) {
        return None;
    }
    let get = |start: usize, digits: usize| {
        text.iter()
            .skip(start)
            .take(digits)
            .fold(0, |value, letter| value * 10 + u64::from(letter - b'0'))
    };
    let days = days(get(0, 4), get(5, 2), get(8, 2))?;
    let seconds = days * 86400 + get(11, 2) * 3600 + get(14, 2) * 60 + get(17, 2);
    seconds.checked_mul(NANOSECONDS)?.checked_add(get(20, 9))
}

/// The date of a day counted from 1970-01-01, by eras of 400 years that begin
/// in March.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + carry, month, day)
}

/// The reverse of [`date`]; `None` before 1970.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, year) = (year / 400, year % 400);
    let month = if month > 2 { month - 3 } else { month + 9 };
    let day = (153 * month + 2) / 5 + day - 1;
    (era * 146_097 + 365 * year + year / 4 - year / 100 + day).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        assert_eq!(format_time(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            format_time(951_782_399_999_999_999),
            "2000-02-28T23:59:59.999999999Z"
        );
        assert_eq!(
            format_time(951_782_400_000_000_000),
            "2000-02-29T00:00:00.000000000Z"
        );
        assert_eq!(
            format_time(1_795_190_284_000_000_001),
            "2026-11-20T15:58:04.000000001Z"
        );
        let mut time = 0;
        while time < 4_000_000_000 * NANOSECONDS {
            assert_eq!(parse_time(format_time(time).as_bytes()), Some(time));
            time += 86_400 * NANOSECONDS * 13 + 12_345_678_901;
        }
        for wrong in [
            "",
            "2026-11-20T15:58:04Z",
            "2026-13-20T15:58:04.000000001Z",
            "2026-11-20 15:58:04.000000001Z",
        ] {
            assert_eq!(parse_time(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
