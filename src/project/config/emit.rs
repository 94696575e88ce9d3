//! A printed model as YAML text, as serde_yaml writes it, but without a value
//! of the whole: a stack of ten thousand services is written service by service.

use std::fmt::Write as _;

use super::Printed;
use crate::stack;

/// Bytes of a key that needs no mark; YAML allows 1024 characters.
const LONGEST_KEY: usize = 512;

/// Writes the entry of a mapping whose keys stand at an indentation.
pub(super) fn entry(
    key: &str,
    value: &Printed<'_>,
    indentation: usize,
    out: &mut String,
) -> Result<(), serde_yaml::Error> {
    pad(indentation, out);
    self::key(key, indentation, out)?;
    below_key(value, indentation, out)
}

fn pad(indentation: usize, out: &mut String) {
    const SPACES: &str = "                                ";
    let mut left = indentation;
    while left > 0 {
        let now = left.min(SPACES.len());
        out.push_str(&SPACES[..now]);
        left -= now;
    }
}

/// A key and its colon.
fn key(key: &str, indentation: usize, out: &mut String) -> Result<(), serde_yaml::Error> {
    // A key is on one line with its colon, and not long, or else says so (`?`).
    if key.len() > LONGEST_KEY || key.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
        out.push_str("? ");
        // JSON text is YAML text.
        out.push_str(&serde_json::Value::from(key).to_string());
        out.push('\n');
        pad(indentation, out);
    } else {
        text(key, indentation, out)?;
    }
    out.push(':');
    Ok(())
}

/// What follows `key:`.
fn below_key(value: &Printed<'_>, indentation: usize, out: &mut String) -> Result<(), serde_yaml::Error> {
    match value {
        Printed::Map(map) if !map.is_empty() => {
            out.push('\n');
            for (key, value) in map {
                entry(key, value, indentation + 2, out)?;
            }
        }
        Printed::List(list) if !list.is_empty() => {
            out.push('\n');
            items(list, indentation + 2, out)?;
        }
        scalar => {
            out.push(' ');
            self::scalar(scalar, indentation, out)?;
            out.push('\n');
        }
    }
    Ok(())
}

fn items(list: &[Printed<'_>], indentation: usize, out: &mut String) -> Result<(), serde_yaml::Error> {
    for item in list {
        pad(indentation, out);
        self::item(item, indentation, out)?;
    }
    Ok(())
}

/// An item of a list, after its indentation.
fn item(value: &Printed<'_>, indentation: usize, out: &mut String) -> Result<(), serde_yaml::Error> {
    out.push_str("- ");
    match value {
        Printed::Map(map) if !map.is_empty() => {
            let mut first = true;
            for (key, value) in map {
                if !std::mem::take(&mut first) {
                    pad(indentation + 2, out);
                }
                self::key(key, indentation + 2, out)?;
                below_key(value, indentation + 2, out)?;
            }
        }
        Printed::List(list) if !list.is_empty() => {
            let mut first = true;
            for value in list {
                if !std::mem::take(&mut first) {
                    pad(indentation + 2, out);
                }
                item(value, indentation + 2, out)?;
            }
        }
        scalar => {
            self::scalar(scalar, indentation, out)?;
            out.push('\n');
        }
    }
    Ok(())
}

fn scalar(value: &Printed<'_>, indentation: usize, out: &mut String) -> Result<(), serde_yaml::Error> {
    match value {
        Printed::Text(value) => return text(value, indentation, out),
        Printed::Null => out.push_str("null"),
        Printed::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Printed::List(_) => out.push_str("[]"),
        Printed::Map(_) => out.push_str("{}"),
        Printed::Int(number) => {
            let _ = write!(out, "{number}");
        }
        Printed::Float(number) => out.push_str(&float(*number)),
    }
    Ok(())
}

/// A number as Go writes it, the shortest that is read as the same again.
fn float(number: f64) -> String {
    if number.is_nan() {
        return ".nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => match exponent.parse::<i32>() {
            Ok(exponent) if !(-4..21).contains(&exponent) => {
                let sign = if exponent < 0 { '-' } else { '+' };
                format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
            }
            _ => number.to_string(),
        },
        None => text,
    }
}

/// Text that is plain and is no other value for whoever reads it.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let starts = match bytes.first() {
        Some(b'a'..=b'z' | b'A'..=b'Z' | b'/' | b'$') => true,
        // With one of these letters it is neither a number nor a date.
        Some(b'0'..=b'9') => bytes.iter().any(|byte| b"ghjklmpqrsuvwy".contains(byte)),
        _ => false,
    };
    let safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./-$:@=+,".contains(byte);
    // A colon at the end would make a key of it.
    starts && bytes.iter().all(safe) && bytes.last() != Some(&b':') && !is_word(text)
}

/// The words that YAML 1.1 takes for other values; all are short.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 9] = ["y", "n", "on", "no", "off", "yes", "null", "true", "false"];
    text.len() <= 5 && WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Text without anything to escape that somebody would read as another value:
/// a number, a date, a time, a word. It is quoted as docker compose does.
fn is_ambiguous(text: &str) -> bool {
    let numeric = |byte: u8| byte.is_ascii_hexdigit() || b"xXoO_+-.:".contains(&byte);
    let first = text.bytes().next().unwrap_or_default();
    let like_a_number = (first.is_ascii_digit() || matches!(first, b'+' | b'-' | b'.'))
        && text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().all(numeric)
        && (is_number(text) || !stack::is_plain_text(text) || is_sixties(text));
    text.is_empty() || is_word(text) || like_a_number
}

/// A number of base sixty, as YAML 1.1 has them: `80:22`.
fn is_sixties(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    let small = |part: &str| {
        let (whole, fraction) = part.split_once('.').unwrap_or((part, "0"));
        digits(whole)
            && whole.len() <= 2
            && whole.parse::<u8>().is_ok_and(|number| number < 60)
            && digits(fraction)
    };
    let mut rest = 0;
    digits(first) && parts.inspect(|_| rest += 1).all(small) && rest > 0
}

/// Text that reads as a short whole number.
fn is_number(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=18).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit)
}

/// A text, quoted where it has to be.
pub(super) fn text(value: &str, indentation: usize, out: &mut String) -> Result<(), serde_yaml::Error> {
    if is_plain(value) {
        out.push_str(value);
        return Ok(());
    }
    if is_ambiguous(value) {
        out.push('"');
        out.push_str(value);
        out.push('"');
        return Ok(());
    }
    foreign(value, indentation, out)
}

/// A scalar in serde_yaml's words.
fn foreign<T: serde::Serialize + ?Sized>(
    value: &T,
    indentation: usize,
    out: &mut String,
) -> Result<(), serde_yaml::Error> {
    let written = serde_yaml::to_string(value)?;
    let written = written.strip_suffix('\n').unwrap_or(&written);
    let mut lines = written.split('\n');
    out.push_str(lines.next().unwrap_or_default());
    for line in lines {
        out.push('\n');
        if !line.is_empty() {
            pad(indentation, out);
            out.push_str(line);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    fn printed(value: &Json) -> Printed<'_> {
        match value {
            Json::Null => Printed::Null,
            Json::Bool(value) => Printed::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Printed::Int(number),
                None => Printed::Float(number.as_f64().unwrap()),
            },
            Json::String(text) => Printed::Text(text.into()),
            Json::Array(list) => Printed::List(list.iter().map(printed).collect()),
            Json::Object(map) => Printed::Map(
                map.iter()
                    .map(|(key, value)| (key.as_str().into(), printed(value)))
                    .collect(),
            ),
        }
    }

    fn ours(value: &Json) -> String {
        let mut out = String::new();
        for (key, value) in value.as_object().unwrap() {
            entry(key, &printed(value), 0, &mut out).unwrap();
        }
        out
    }

    #[test]
    fn it_reads_as_what_serde_yaml_writes() {
        let value = json!({
            "services": {"a": {"image": "nginx:1", "list": ["a", ["b", ["c"]], {"k": {"l": [1, {"m": "n\no"}]}}, {}, []]}},
            "texts": ["true", "null", "~", "", " ", "a\nb", "a\nb\n", "\na", "  x\ny", "é", "a: b", "a #b", "- x", "0x1f", "1e3",
                "no", "y", "2001-01-01", "5s", "1m30s", "10.0.0.1", "80:80", "1k:2", "0b1", "1.5g", "1:", "12:30:45s", "key: |", "\t", "\u{1b}", "'", "\"", "x".repeat(200), "a\n\n\nb", "trail \n x"],
            "numbers": [1, -1, 1.5, 0, 1e300],
            "block": {"command": "one\ntwo\n", "nested": {"deep": "x\n  y\n"}},
            "odd key: x": {"# y": 1}, "empty": {}, "none": null, "flag": false,
        });
        let ours = ours(&value);
        assert_eq!(serde_yaml::from_str::<Json>(&ours).unwrap(), value, "{ours}");
    }

    #[test]
    fn it_is_what_docker_compose_writes() {
        let value = json!({
            "a": {"restart": "no", "ports": ["80:80", "80:22", {"target": 80, "published": "80"}], "Y": "y", "list": [["b"]]},
            "b": ["1.5", "5s", "2001-01-01", "1e3", "0x1f", "", "it's: x", "true", "~", "one\ntwo\n", "1.2.3", "127.0.0.1"],
        });
        insta::assert_snapshot!(ours(&value), @r#"
        a:
          restart: "no"
          ports:
            - 80:80
            - "80:22"
            - target: 80
              published: "80"
          "Y": "y"
          list:
            - - b
        b:
          - "1.5"
          - 5s
          - "2001-01-01"
          - "1e3"
          - "0x1f"
          - ""
          - 'it''s: x'
          - "true"
          - '~'
          - |
            one
            two
          - 1.2.3
          - 127.0.0.1
        "#);
    }

    #[test]
    fn numbers() {
        for (number, text) in [
            (1.5, "1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (-1.25e-7, "-1.25e-07"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (f64::NAN, ".nan"),
            (f64::NEG_INFINITY, "-.inf"),
        ] {
            assert_eq!(float(number), text);
        }
    }

    #[test]
    fn keys_may_be_anything() {
        let value =
            json!({"multi\nline": {"x".repeat(2000): [{"a\nb": 1, "c\nd": {"e": 2}}]}, "\u{2028}": 1});
        assert_eq!(serde_yaml::from_str::<Json>(&ours(&value)).unwrap(), value);
    }

    proptest! {
        #[test]
        fn any_text_is_read_again(text in "[ -~\\n\\té]{0,20}", key in "[a-z:# ]{1,8}") {
            let value = json!({key.clone(): {"list": [text.clone(), {"k": text.clone()}], "v": text}});
            prop_assert_eq!(serde_yaml::from_str::<Json>(&ours(&value)).unwrap(), value);
        }
    }
}
