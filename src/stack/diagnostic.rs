//! What is wrong with a stack, where, and what to do about it.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a value is written. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The `include` or `extends` that brought the file in, where that was asked
    /// for ([`Report::origin_with_way`](super::Report::origin_with_way)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Box<Origin>>,
}

impl Origin {
    /// The place and the places of what brought its file in.
    pub fn describe(&self) -> String {
        match &self.by {
            Some(by) => format!("{self}, brought in at {}", by.describe()),
            None => self.to_string(),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The stack cannot be loaded.
    Error,
    /// It can, but not as the author may think.
    Warning,
}

/// What sort of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A file cannot be read or found.
    File,
    /// Not YAML, or not an environment file.
    Syntax,
    /// A variable is missing or a `${…}` is malformed.
    Interpolation,
    /// An unknown key, a wrong type, a value out of bounds, a malformed value.
    Schema,
    /// A name that nothing defines.
    Reference,
    /// Two values that exclude each other.
    Conflict,
    /// The Compose Specification has it and this program does not, yet.
    Unsupported,
    /// Nothing wrong; worth knowing.
    Note,
}

/// One message about a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What sort of thing it is.
    pub code: Code,
    /// What is wrong: lowercase, without a period, naming its subject.
    pub message: String,
    /// Where it is written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<Origin>,
    /// The line of the file it is written on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_line: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            origin: None,
            source_line: None,
            hint: None,
        }
    }

    /// A warning without a place.
    pub fn warning(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(Code::Note, message)
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message as a person reads it, several lines, the last one ended:
    ///
    /// ```text
    /// error: services.web additional properties 'imagee' not allowed
    ///   --> compose.yaml:3:5
    ///    |
    ///  3 |     imagee: nginx
    ///    |     ^
    ///    = help: did you mean `image`?
    /// ```
    ///
    /// `coloured` adds ANSI colours. Control characters of the file are made
    /// visible, so that a file cannot drive the terminal.
    pub fn render(&self, coloured: bool) -> String {
        let paint = |code: &str, text: &str| {
            if coloured {
                format!("\x1b[{code}m{text}\x1b[0m")
            } else {
                text.to_owned()
            }
        };
        let label = match self.severity {
            Severity::Error => paint("1;31", "error"),
            Severity::Warning => paint("1;33", "warning"),
        };
        let mut lines = self.message.lines();
        let mut out = format!("{label}: {}\n", visible(lines.next().unwrap_or_default()));
        for line in lines {
            let _ = writeln!(out, "       {}", visible(line));
        }
        let mut margin = String::new();
        if let Some(origin) = &self.origin {
            let number = origin.line.to_string();
            margin = " ".repeat(number.len() + 1);
            let bar = paint("1;34", "|");
            let _ = writeln!(out, "{margin}{} {origin}", paint("1;34", "-->"));
            if let Some(line) = &self.source_line {
                let before = origin.column.saturating_sub(1) as usize;
                let before: String = line.chars().take(before).collect();
                let caret = unicode_width::UnicodeWidthStr::width(visible(&before).as_str());
                let _ = writeln!(out, "{margin} {bar}");
                let _ = writeln!(out, " {} {bar} {}", paint("1;34", &number), visible(line));
                let _ = writeln!(out, "{margin} {bar} {}{}", " ".repeat(caret), paint("1;31", "^"));
            }
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(
                out,
                "{margin} {} {}",
                paint("1;34", "="),
                visible(&format!("help: {hint}"))
            );
        }
        out
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

/// A line with tabs as one space each and other control characters as their escapes.
fn visible(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for character in line.chars() {
        match character {
            '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostic {
        Diagnostic {
            origin: Some(Origin {
                file: "compose.yaml".into(),
                line: 12,
                column: 5,
                by: None,
            }),
            source_line: Some("\tüü imagee: nginx\u{1b}[2J".to_owned()),
            ..Diagnostic::error(
                Code::Schema,
                "services.web additional properties 'imagee' not allowed",
            )
            .hint("did you mean `image`?")
        }
    }

    #[test]
    fn the_caret_stands_under_the_column_and_control_characters_are_shown() {
        assert_eq!(
            sample().render(false),
            "error: services.web additional properties 'imagee' not allowed\n\
             \x20  --> compose.yaml:12:5\n\
             \x20   |\n\
             \x2012 |  üü imagee: nginx\\u{1b}[2J\n\
             \x20   |     ^\n\
             \x20   = help: did you mean `image`?\n"
        );
    }

    #[test]
    fn json_has_what_there_is_and_comes_back() {
        let json = serde_json::to_string(&sample()).unwrap();
        assert!(json.contains(r#""code":"schema""#));
        assert_eq!(serde_json::from_str::<Diagnostic>(&json).unwrap(), sample());
        let bare = serde_json::to_string(&Diagnostic::warning("x")).unwrap();
        assert_eq!(bare, r#"{"severity":"warning","code":"note","message":"x"}"#);
    }
}
