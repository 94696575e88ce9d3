//! Environment files: `NAME=value`, one a line.
//!
//! `export ` before a name and `:` in place of `=` are fine. An unquoted value
//! ends at ` #` or at the end of the line; a double-quoted one knows escapes;
//! both are interpolated. A single-quoted one is literal. Quoted values may
//! span lines. A name alone takes the value it has where the project is loaded.

use std::borrow::Cow;

use indexmap::IndexMap;

use super::interpolate::{InterpolationError, substitute};

/// Why a text is not an environment file. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DotenvError {
    /// A name with a space in it.
    #[error("line {line}: key cannot contain a space")]
    SpaceInKey {
        /// The line.
        line: usize,
    },
    /// A value without a name.
    #[error("line {line}: no variable name")]
    Nameless {
        /// The line.
        line: usize,
    },
    /// A name with another strange character in it.
    #[error("line {line}: unexpected character {character:?} in variable name {text:?}")]
    StrangeKey {
        /// The line.
        line: usize,
        /// The character.
        character: String,
        /// The line's text.
        text: String,
    },
    /// A quote without its end.
    #[error("line {line}: unterminated quoted value {text}")]
    Unterminated {
        /// The line the quote begins on.
        line: usize,
        /// The value as far as that line goes.
        text: String,
    },
    /// A variable inside a value.
    #[error("line {line}: {source}")]
    Interpolation {
        /// The line.
        line: usize,
        /// What is wrong with it.
        source: InterpolationError,
    },
}

impl DotenvError {
    /// The line it is about, from 1.
    pub fn line(&self) -> usize {
        match self {
            Self::SpaceInKey { line }
            | Self::Nameless { line }
            | Self::StrangeKey { line, .. }
            | Self::Unterminated { line, .. }
            | Self::Interpolation { line, .. } => *line,
        }
    }
}

/// The variables of an environment file, in order, the last of equal names.
/// `lookup` answers for variables used in values and for names without a
/// value; it comes before the file's own. `unset` hears of variables without a
/// value.
///
/// # Errors
/// [`DotenvError`], as said there.
pub fn parse(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
) -> Result<IndexMap<String, String>, DotenvError> {
    parse_after(text, lookup, &|_| None, unset)
}

/// As [`parse`]; `earlier` answers for variables that neither `lookup` nor the
/// file itself has: those of the files before it.
///
/// # Errors
/// [`DotenvError`], as said there.
pub(super) fn parse_after(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    earlier: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
) -> Result<IndexMap<String, String>, DotenvError> {
    let mut parser = Parser {
        rest: text.strip_prefix('\u{feff}').unwrap_or(text),
        line: 1,
        found: IndexMap::new(),
        lookup,
        earlier,
        unset,
    };
    while parser.find_statement() {
        parser.statement()?;
    }
    Ok(parser.found)
}

/// The variables of a file in `format: raw`: everything after the first `=` is
/// the value, nothing is unquoted or interpolated.
///
/// # Errors
/// [`DotenvError::SpaceInKey`] and [`DotenvError::Nameless`].
pub fn parse_raw(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<IndexMap<String, String>, DotenvError> {
    let mut found = IndexMap::new();
    let lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
    for (number, line) in lines.enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() {
            return Err(DotenvError::Nameless { line: number + 1 });
        }
        if name.contains(char::is_whitespace) {
            return Err(DotenvError::SpaceInKey { line: number + 1 });
        }
        match line.split_once('=') {
            Some((name, value)) => {
                found.insert(name.to_owned(), value.to_owned());
            }
            None => {
                if let Some(value) = lookup(line) {
                    found.insert(line.to_owned(), value);
                }
            }
        }
    }
    Ok(found)
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    found: IndexMap<String, String>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
    earlier: &'a dyn Fn(&str) -> Option<String>,
    unset: &'a mut dyn FnMut(&str),
}

/// Space within a line.
fn is_blank(c: char) -> bool {
    c != '\n' && c.is_whitespace()
}

impl Parser<'_> {
    /// Goes over empty lines and comments; whether a statement follows.
    fn find_statement(&mut self) -> bool {
        loop {
            let start = self.rest.trim_start();
            self.line += newlines(&self.rest[..self.rest.len() - start.len()]);
            self.rest = start;
            if !start.starts_with('#') {
                return !start.is_empty();
            }
            self.rest = start.find('\n').map_or("", |end| &start[end..]);
        }
    }

    fn statement(&mut self) -> Result<(), DotenvError> {
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with(is_blank)
        {
            self.rest = after.trim_start_matches(is_blank);
        }
        let text = self.rest;
        let line = text.lines().next().unwrap_or_default();
        let mut end = text.len();
        for (at, c) in text.char_indices() {
            if matches!(c, '=' | ':' | '\n') {
                end = at;
                break;
            }
            if !(is_blank(c) || c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']')) {
                return Err(DotenvError::StrangeKey {
                    line: self.line,
                    character: c.to_string(),
                    text: line.to_owned(),
                });
            }
        }
        let name = text[..end].trim_end();
        if name.contains(char::is_whitespace) {
            return Err(DotenvError::SpaceInKey { line: self.line });
        }
        let after = &text[end..];
        if !after.starts_with(['=', ':']) {
            if let Some(value) = (self.lookup)(name).or_else(|| (self.earlier)(name)) {
                self.found.insert(name.to_owned(), value);
            }
            self.rest = after;
            return Ok(());
        }
        self.rest = after[1..].trim_start_matches(is_blank);
        let value = self.value()?;
        self.found.insert(name.to_owned(), value);
        Ok(())
    }

    fn value(&mut self) -> Result<String, DotenvError> {
        let line = self.line;
        let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let (value, _) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = &self.rest[value.len()..];
            let value = value.split_once(" #").map_or(value, |(value, _)| value);
            return self.expand(value.trim_end(), line);
        };
        let mut value = String::new();
        let mut escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            if c == quote && !escaped {
                let consumed = &self.rest[..at];
                self.line += newlines(consumed);
                self.rest = &self.rest[at + 1..];
                return if quote == '"' {
                    self.expand(&unescape(&value), line)
                } else {
                    Ok(value)
                };
            }
            if c == '\\' && !escaped {
                escaped = true;
                continue;
            }
            if escaped && c != quote {
                value.push('\\');
            }
            escaped = false;
            value.push(c);
        }
        Err(DotenvError::Unterminated {
            line,
            text: self.rest.lines().next().unwrap_or_default().to_owned(),
        })
    }

    fn expand(&mut self, text: &str, line: usize) -> Result<String, DotenvError> {
        let (found, lookup, earlier) = (&self.found, self.lookup, self.earlier);
        substitute(
            text,
            &|name| {
                lookup(name)
                    .map(Cow::Owned)
                    .or_else(|| found.get(name).map(|value| Cow::Borrowed(value.as_str())))
                    .or_else(|| earlier(name).map(Cow::Owned))
            },
            self.unset,
        )
        .map(Cow::into_owned)
        .map_err(|source| DotenvError::Interpolation { line, source })
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

/// The escapes of a double-quoted value; others stay as they are. `\$` becomes
/// `$$`, which interpolation turns into a dollar sign.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(next) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        let plain = match next {
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{b}'),
            '\\' | '"' => Some(next),
            _ => None,
        };
        if let Some(plain) = plain {
            out.push(plain);
            rest = &rest[1..];
        } else if next == '$' {
            out.push_str("$$");
            rest = &rest[1..];
        } else if next == '0' {
            let digits = rest[1..]
                .bytes()
                .take(3)
                .take_while(|byte| (b'0'..=b'7').contains(byte))
                .count();
            match u32::from_str_radix(&rest[1..=digits], 8)
                .ok()
                .and_then(char::from_u32)
            {
                Some(c) if digits == 3 && c <= '\u{ff}' => out.push(c),
                _ => {
                    out.push('\\');
                    out.push_str(&rest[..=digits]);
                }
            }
            rest = &rest[1 + digits..];
        } else {
            out.push('\\');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(text: &str) -> Result<Vec<(String, String)>, DotenvError> {
        let lookup = |name: &str| (name == "OUTSIDE").then(|| "o".to_owned());
        Ok(parse(text, &lookup, &mut |_| {})?.into_iter().collect())
    }

    fn one(text: &str) -> String {
        let found = run(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(found.len(), 1, "{text:?}: {found:?}");
        found[0].1.clone()
    }

    #[test]
    fn values() {
        for (text, value) in [
            ("A=b", "b"),
            ("A = b", "b"),
            ("export A=b", "b"),
            ("export\tA=b", "b"),
            ("A: b", "b"),
            ("A=", ""),
            ("A=b # c", "b"),
            ("A=b#c", "b#c"),
            ("A=#c", "#c"),
            ("A='b # c'", "b # c"),
            ("A='$B \\n'", "$B \\n"),
            ("A='it\\'s'", "it's"),
            (r#"A="b\nc""#, "b\nc"),
            (r#"A="b \"c\"""#, "b \"c\""),
            (r#"A="\$B""#, "$B"),
            (r#"A="\0101""#, "A"),
            (r#"A="\x""#, "\\x"),
            ("A=\"b\nc\" # d", "b\nc"),
            ("A=$OUTSIDE", "o"),
            ("A=${NO:-x y}", "x y"),
            ("\u{feff}A=b\r\n", "b"),
            ("# c\n\n  A.b-c[0]=d\n# e", "d"),
            ("A=b\nA=c", "c"),
        ] {
            assert_eq!(one(text), value, "{text:?}");
        }
    }

    #[test]
    fn names() {
        let pairs = run("B=1\nA=$B$OUTSIDE\nOUTSIDE\nGONE\n1X=y\n").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("B", "1"), ("A", "1o"), ("OUTSIDE", "o"), ("1X", "y")]);
    }

    #[test]
    fn errors_have_their_line() {
        for (text, message) in [
            ("\nA B=c", "line 2: key cannot contain a space"),
            (
                "A=1\n\nB%=c",
                "line 3: unexpected character \"%\" in variable name \"B%=c\"",
            ),
            ("A='x\ny'\nB=\"q\nz", "line 3: unterminated quoted value \"q"),
            ("A=${", "line 1: Invalid template: \"${\""),
        ] {
            assert_eq!(run(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn raw_values_are_left_alone() {
        let found = parse_raw("A='$B' # c\n#d\nOUTSIDE\nNO\n", &|name| {
            (name == "OUTSIDE").then(|| "o".to_owned())
        })
        .unwrap();
        let found: Vec<_> = found.into_iter().collect();
        assert_eq!(
            found,
            [
                ("A".to_owned(), "'$B' # c".to_owned()),
                ("OUTSIDE".to_owned(), "o".to_owned())
            ]
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = run(&text);
        }

        #[test]
        fn quotes_and_escapes_do_not_panic(text in "[A-B=:'\"\\\\$#{} \n0-8é]{0,60}") {
            let _ = run(&text);
        }

        #[test]
        fn a_single_quoted_value_is_itself(value in "[^'\\\\]*") {
            prop_assert_eq!(one(&format!("A='{value}'")), value);
        }
    }
}
