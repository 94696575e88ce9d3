//! What an unquoted scalar is: YAML 1.2 as Go's yaml packages read it, since
//! that is what compose files are written for. `010` is eight, `1_000` is a
//! thousand, `yes` and `22:22` are text. Dates stay text.

use super::tree::Value;

/// The value of a plain (unquoted) scalar.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    let first = text.as_bytes().first().copied().unwrap_or_default();
    if first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.') {
        if let Some(number) = decimal(text) {
            return Value::Int(number);
        }
        // Every byte of a number; most texts that begin like one have another.
        let numeric = |byte: u8| byte.is_ascii_hexdigit() || b"xXoO_+-.".contains(&byte);
        if !text.bytes().all(numeric) {
            return Value::Text(text.into());
        }
        let plain = text.replace('_', "");
        if let Some(number) = integer(&plain) {
            return Value::Int(number);
        }
        if is_float(&plain)
            && let Ok(number) = plain.parse::<f64>()
            && number.is_finite()
        {
            // A number that neither kind can hold is text where text is asked
            // for, digit by digit.
            return match plain.parse::<u64>() {
                Ok(whole) if i64::try_from(whole).is_err() => Value::Text(text.into()),
                _ => Value::Float(number),
            };
        }
    }
    Value::Text(text.into())
}

/// Whether an unquoted text is text to every reader of YAML: no other value,
/// and no date.
pub fn is_plain_text(text: &str) -> bool {
    let date = text.get(..5).is_some_and(|start| {
        let (year, dash) = start.split_at_checked(4).unwrap_or(("", ""));
        dash == "-" && year.bytes().all(|byte| byte.is_ascii_digit())
    });
    !date && matches!(resolve(text), Value::Text(_))
}

/// The text that a `!!binary` scalar stands for: base64, white space aside.
/// `None` when it is no such thing, or not UTF-8: values are text.
pub(super) fn binary(text: &str) -> Option<String> {
    let bare: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let padding = bare.iter().rev().take_while(|byte| **byte == b'=').count();
    if !bare.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(bare.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for byte in bare.iter().take(bare.len() - padding) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    String::from_utf8(bytes).ok()
}

/// A short decimal number as nearly all are written.
fn decimal(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let leading_zero = bytes.len() > 1 && bytes.first() == Some(&b'0');
    if bytes.len() > 18 || leading_zero {
        return None;
    }
    bytes.iter().try_fold(0, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        Some(number * 10 + digit)
    })
}

/// A whole number: decimal, `0x`, `0o`, `0b`, or octal by a leading zero.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    mantissa_fits && exponent_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_scalars() {
        for (text, value) in [
            ("", Some("")),
            ("aGk=", Some("hi")),
            ("aGkh", Some("hi!")),
            ("aA==", Some("h")),
            ("w6\n  kh", Some("é!")),
            ("aGk", None),
            ("a===", None),
            ("%%%%", None),
            ("/w==", None),
        ] {
            assert_eq!(binary(text).as_deref(), value, "{text:?}");
        }
    }

    #[test]
    fn plain_scalars() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("True", Value::Bool(true)),
            ("yes", Value::Text("yes".into())),
            ("12", Value::Int(12)),
            ("-12", Value::Int(-12)),
            ("+12", Value::Int(12)),
            ("010", Value::Int(8)),
            ("0o17", Value::Int(15)),
            ("0x1F", Value::Int(31)),
            ("0b11", Value::Int(3)),
            ("1_000", Value::Int(1000)),
            ("08", Value::Float(8.0)),
            ("1.5", Value::Float(1.5)),
            ("1.", Value::Float(1.0)),
            (".5", Value::Float(0.5)),
            ("1e3", Value::Float(1000.0)),
            ("9223372036854775807", Value::Int(i64::MAX)),
            ("9223372036854775808", Value::Text("9223372036854775808".into())),
            ("1e400", Value::Text("1e400".into())),
            ("98765432109876543210", Value::Float(98_765_432_109_876_543_210.0)),
            ("22:22", Value::Text("22:22".into())),
            ("1.2.3", Value::Text("1.2.3".into())),
            ("-", Value::Text("-".into())),
            ("0x", Value::Text("0x".into())),
            ("--1", Value::Text("--1".into())),
            ("1e", Value::Text("1e".into())),
            ("2024-01-01", Value::Text("2024-01-01".into())),
            ("5m", Value::Text("5m".into())),
        ] {
            assert_eq!(resolve(text), value, "{text:?}");
        }
    }
}
