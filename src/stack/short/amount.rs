//! Amounts of bytes: `64m`, `1.5 GiB`, `1024`, `-1`.

/// A text that is no amount of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid size: '{0}'")]
pub struct AmountError(pub String);

/// Bytes. Units are powers of 1024, in either case, with or without `b` or `ib`.
///
/// # Errors
/// [`AmountError`] for anything else, and for amounts beyond 63 bits.
pub fn parse_amount(text: &str) -> Result<i64, AmountError> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let error = || AmountError(text.to_owned());
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(error());
    }
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let power = match unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" if unit.starts_with('i') => return Err(error()),
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(error()),
    };
    let factor = 1_i64 << (10 * power);
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(factor).ok_or_else(error);
    }
    let number: f64 = number.parse().map_err(|_| error())?;
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let bytes = number * factor as f64;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "fractions of a byte are dropped; checked below 2^63"
    )]
    if bytes.is_finite() && bytes < 9.2e18 {
        Ok(bytes as i64)
    } else {
        Err(error())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts() {
        for (text, bytes) in [
            ("0", 0),
            ("-1", -1),
            ("1024", 1024),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("64MiB", 64 << 20),
            ("64 mb", 64 << 20),
            ("640kb", 640 << 10),
            ("1.5g", 3 << 29),
            ("2b", 2),
            ("1T", 1 << 40),
            ("1p", 1 << 50),
        ] {
            assert_eq!(parse_amount(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "m", "-1m", "1x", "1ib", "1..5m", "1  m", "9999999p", "1e3", "5 5", ".5g", "1kk",
        ] {
            assert!(parse_amount(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = parse_amount(&text);
        }

        #[test]
        fn whole_kibibytes(n in 0_i64..1 << 40) {
            prop_assert_eq!(parse_amount(&format!("{n}k")), Ok(n * 1024));
        }
    }
}
