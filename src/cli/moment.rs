//! Moments as they are typed (`--since 10m`) and as they are printed.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const SECOND: i128 = 1_000_000_000;

/// A moment as docker takes it, in nanoseconds since 1970: how long ago (`1h30m`,
/// `10s`), RFC 3339 (`2026-11-20T15:00:00Z`), the same without a zone or only its
/// beginning (local time), or seconds since 1970 with a fraction.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub(super) fn parse(text: &str, now: u64) -> Result<u64, String> {
    let wrong = || {
        format!(
            "invalid time \"{text}\": use a duration (10m, 1h30m), a date (2026-11-20T15:00:00Z), or seconds since 1970"
        )
    };
    if let Some(passed) = duration(text) {
        return Ok(clamp(i128::from(now) - passed));
    }
    if let Some(seconds) = seconds(text) {
        return Ok(clamp(seconds));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(clamp(time.as_nanosecond()));
    }
    let day = text.parse::<jiff::civil::DateTime>().or_else(|error| {
        // Hours alone are no time to everybody, but docker takes them.
        let hours = text.len() == "2026-11-20T15".len();
        if hours {
            format!("{text}:00").parse()
        } else {
            Err(error)
        }
    });
    day.ok()
        .and_then(|day| day.to_zoned(TimeZone::system()).ok())
        .map(|zoned| clamp(zoned.timestamp().as_nanosecond()))
        .ok_or_else(wrong)
}

/// A Go duration, in nanoseconds.
fn duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let units = [
            ("ns", 1),
            ("us", 1000),
            ("µs", 1000),
            ("ms", 1_000_000),
            ("s", SECOND),
            ("m", 60 * SECOND),
            ("h", 3600 * SECOND),
        ];
        let (unit, size) = units
            .into_iter()
            .filter(|(unit, _)| after.starts_with(unit))
            .max_by_key(|(unit, _)| unit.len())?;
        total = total.checked_add(scaled(number, size)?)?;
        rest = after.get(unit.len()..)?;
    }
    Some(if negative { -total } else { total })
}

/// Seconds since 1970, with up to nine digits of a fraction.
fn seconds(text: &str) -> Option<i128> {
    text.starts_with(|c: char| c.is_ascii_digit())
        .then(|| scaled(text, SECOND))
        .flatten()
}

/// A decimal number times `size`.
fn scaled(number: &str, size: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut value = whole.checked_mul(size)?;
    let mut place = size;
    for digit in fraction.bytes() {
        place /= 10;
        value = value.checked_add(place * i128::from(digit - b'0'))?;
    }
    Some(value)
}

fn clamp(nanoseconds: i128) -> u64 {
    u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970 in this machine's time zone, printed by a `strftime` pattern.
pub(super) fn local(nanoseconds: u64, pattern: &str) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map(|time| time.to_zoned(TimeZone::system()).strftime(pattern).to_string())
        .unwrap_or_default()
}

/// The present, in nanoseconds since 1970.
pub(super) fn now() -> u64 {
    clamp(Timestamp::now().as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000_000_000;

    #[test]
    fn moments_are_read_in_every_form() {
        let at = |text: &str| parse(text, NOW);
        assert_eq!(at("10s"), Ok(NOW - 10_000_000_000));
        assert_eq!(at("1h30m"), Ok(NOW - 5400 * 1_000_000_000));
        assert_eq!(at("1.5s"), Ok(NOW - 1_500_000_000));
        assert_eq!(at("250ms"), Ok(NOW - 250_000_000));
        assert_eq!(at("-10s"), Ok(NOW + 10_000_000_000));
        assert_eq!(at("1700000000"), Ok(NOW));
        assert_eq!(at("1700000000.5"), Ok(NOW + 500_000_000));
        assert_eq!(at("2023-11-14T22:13:20Z"), Ok(NOW));
        assert_eq!(at("2023-11-14T23:13:20+01:00"), Ok(NOW));
        assert_eq!(at("2023-11-14T22:13:20.000000001Z"), Ok(NOW + 1));
        for text in ["", "x", "10x", "1.2.3s", "yesterday", "s", "-", "2023-13-40"] {
            assert!(at(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_local() {
        let whole = parse("2023-11-14T22:13:20", NOW).unwrap();
        assert_eq!(local(whole, "%Y-%m-%dT%H:%M:%S"), "2023-11-14T22:13:20");
        let day = parse("2023-11-14", NOW).unwrap();
        assert_eq!(local(day, "%Y-%m-%d %H:%M"), "2023-11-14 00:00");
        let hour = parse("2023-11-14T22", NOW).unwrap();
        assert_eq!(local(hour, "%Y-%m-%d %H:%M"), "2023-11-14 22:00");
    }
}
