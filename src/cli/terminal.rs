//! The only place that prints.
//!
//! Data goes to standard output, everything else to standard error. Output
//! that nobody reads any more (`rcompose logs | head`) ends the process
//! quietly, as SIGPIPE would.

use std::io::{IsTerminal as _, Write};

use super::arguments::{Global, Progress, When};
use super::failure::Failure;

/// How to print, decided once from arguments, environment and terminal.
#[derive(Clone, Debug)]
pub(super) struct Terminal {
    /// Standard output is coloured.
    pub(super) color_out: bool,
    /// Standard error is coloured.
    pub(super) color_err: bool,
    /// How progress is shown; never [`Progress::Auto`].
    pub(super) progress: Progress,
    /// That images are fetched is not shown.
    pub(super) quiet_pull: bool,
}

/// ANSI styles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Red => "\x1b[31m",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Blue => "\x1b[34m",
            Self::Magenta => "\x1b[35m",
            Self::Cyan => "\x1b[36m",
        }
    }

    /// `text` in this style when `colored`.
    pub(super) fn paint(self, text: &str, colored: bool) -> String {
        if colored && self != Self::Plain {
            format!("{}{text}\x1b[0m", self.code())
        } else {
            text.to_owned()
        }
    }
}

/// Refuses what contradicts itself, as docker compose does.
///
/// # Errors
/// When a list that needs escape sequences is asked for without them, or plain
/// lines with them.
pub(super) fn check(global: &Global) -> Result<(), Failure> {
    match (global.progress, global.ansi) {
        (Progress::Tty, When::Never) => Err(Failure::new(
            "can't use --progress tty while ANSI support is disabled (--ansi never)",
        )),
        (Progress::Plain, When::Always) => Err(Failure::new(
            "can't use --progress plain while ANSI support is forced (--ansi always)",
        )),
        _ => Ok(()),
    }
}

impl Terminal {
    pub(super) fn new(global: &Global) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let capable = !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colored = |terminal: bool| match global.ansi {
            When::Always => true,
            When::Never => false,
            When::Auto => set("CLICOLOR_FORCE") || (terminal && capable),
        };
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let progress = match global.progress {
            Progress::Auto if err && capable && global.ansi != When::Never => Progress::Tty,
            Progress::Auto => Progress::Plain,
            other => other,
        };
        Self {
            color_out: colored(out),
            color_err: colored(err),
            progress,
            quiet_pull: false,
        }
    }

    /// Whether what is in progress is drawn in place, on a terminal.
    pub(super) fn is_live(&self) -> bool {
        self.progress == Progress::Tty
    }

    /// Rows and columns of the terminal that standard error is; 24 and 80 when
    /// it does not say.
    pub(super) fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
            _ => (24, 80),
        }
    }

    /// Writes data to standard output.
    pub(super) fn out(&self, text: &str) {
        write(&mut std::io::stdout().lock(), text);
    }

    /// Writes a message to standard error.
    pub(super) fn err(&self, text: &str) {
        write(&mut std::io::stderr().lock(), text);
    }

    /// Asks, and reads a line from standard input: whether it says yes. The end
    /// of the input is a no, as in docker compose.
    ///
    /// # Errors
    /// When standard input cannot be read.
    pub(super) fn confirm(&self, question: &str) -> Result<bool, Failure> {
        self.err(&format!("? {question} (y/N) "));
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Failure::new(format!("read the answer: {error}")))?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// An error, with hints.
    pub(super) fn error(&self, message: &str, hints: &[String]) {
        let label = Style::Red.paint("error:", self.color_err);
        self.err(&format!("{label} {message}\n"));
        self.hints(hints);
    }

    /// What may help.
    pub(super) fn hints(&self, hints: &[String]) {
        let label = Style::Cyan.paint("hint:", self.color_err);
        for hint in hints {
            self.err(&format!("  {label} {hint}\n"));
        }
    }

    /// A warning.
    pub(super) fn warning(&self, message: &str) {
        let label = Style::Yellow.paint("warning:", self.color_err);
        self.err(&format!("{label} {message}\n"));
    }
}

#[expect(
    clippy::exit,
    reason = "a closed pipe is how a reader says that it has seen enough"
)]
fn write(to: &mut impl Write, text: &str) {
    if let Err(error) = to.write_all(text.as_bytes()).and_then(|()| to.flush())
        && error.kind() == std::io::ErrorKind::BrokenPipe
    {
        std::process::exit(141);
    }
}

/// Columns with a heading, aligned, three or more spaces apart.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    aligned(heading, rows, 3)
}

/// Columns with a heading, aligned, at least `gap` spaces apart.
pub(super) fn aligned(heading: &[&str], rows: &[Vec<String>], gap: usize) -> String {
    use unicode_width::UnicodeWidthStr as _;
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.width()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width - cell.width() + gap));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    };
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(&heading)
        .chain(rows)
        .map(|row| line(row))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_width() {
        let rows = [
            vec!["é".to_owned(), "x".to_owned()],
            vec!["long name".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["NAME", "STATE"], &rows),
            "NAME        STATE\né           x\nlong name\n"
        );
    }
}
