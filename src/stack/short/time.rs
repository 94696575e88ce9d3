//! Lengths of time: `1m30s`, `500ms`, `1.5h`, `2d`.

use std::fmt::Write as _;
use std::time::Duration;

/// A text that is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {0:?}")]
pub struct TimeError(pub String);

const SECOND: u64 = 1_000_000_000;

/// A length of time: amounts, each with its unit (`ns`, `us`, `ms`, `s`, `m`,
/// `h`, `d`, `w`), one after the other; or `0`.
///
/// # Errors
/// [`TimeError`] for anything else, and for more than 2^64 ns (584 years).
pub fn parse_duration(text: &str) -> Result<Duration, TimeError> {
    let error = || TimeError(text.to_owned());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(error());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(error)?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        rest = after;
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            "d" => 24 * 3600 * SECOND,
            "w" => 7 * 24 * 3600 * SECOND,
            _ => return Err(error()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(error());
        }
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| error())?
        };
        let mut nanoseconds = whole.checked_mul(unit).ok_or_else(error)?;
        let mut place = unit;
        for digit in fraction.bytes() {
            place /= 10;
            nanoseconds = nanoseconds
                .checked_add(place * u64::from(digit - b'0'))
                .ok_or_else(error)?;
        }
        total = total.checked_add(nanoseconds).ok_or_else(error)?;
    }
    Ok(Duration::from_nanos(total))
}

/// A length of time as Go prints it: `1h0m0s`, `1m30s`, `1.5s`, `500ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let second = u128::from(SECOND);
    let fraction = |value: u128, unit: u128| {
        let mut text = (value / unit).to_string();
        let rest = value % unit;
        if rest > 0 {
            let width = unit.ilog10() as usize;
            let digits = format!("{rest:0width$}");
            text.push('.');
            text.push_str(digits.trim_end_matches('0'));
        }
        text
    };
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    if nanoseconds < 1_000 {
        return format!("{nanoseconds}ns");
    }
    if nanoseconds < 1_000_000 {
        return format!("{}µs", fraction(nanoseconds, 1_000));
    }
    if nanoseconds < second {
        return format!("{}ms", fraction(nanoseconds, 1_000_000));
    }
    let (hours, minutes) = (nanoseconds / (3600 * second), nanoseconds / (60 * second) % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(text, "{minutes}m");
    }
    let _ = write!(text, "{}s", fraction(nanoseconds % (60 * second), second));
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times() {
        for (text, printed) in [
            ("0", "0s"),
            ("0s", "0s"),
            ("20s", "20s"),
            ("120s", "2m0s"),
            ("1m30s", "1m30s"),
            ("1h", "1h0m0s"),
            ("1.5h", "1h30m0s"),
            ("1.5s", "1.5s"),
            ("500ms", "500ms"),
            ("1500us", "1.5ms"),
            ("10ns", "10ns"),
            ("1500ns", "1.5µs"),
            ("1d", "24h0m0s"),
            ("1w1d", "192h0m0s"),
            (".5s", "500ms"),
        ] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), printed, "{text}");
        }
        for text in [
            "",
            "1",
            "s",
            "1x",
            "-1s",
            "1.5.5s",
            "1s2",
            ".s",
            "99999999999w",
            "1 s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse_duration(&text);
        }

        #[test]
        fn what_is_printed_is_read_back(nanoseconds in any::<u64>()) {
            let duration = Duration::from_nanos(nanoseconds);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
    }
}
