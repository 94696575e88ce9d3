//! Errors and warnings for whoever called: standard error, and the file of
//! `--log` as text or as JSON lines (`level`, `msg`, `time`), of which callers
//! show the last.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use super::arguments::Invocation;
use super::error::OciError;

/// Where messages go.
#[derive(Debug, Default)]
pub(super) struct Log {
    file: Option<PathBuf>,
    json: bool,
    debug: bool,
}

impl Log {
    /// As the options of a command say.
    ///
    /// # Errors
    /// An unknown format, a file that cannot be written: who called would wait
    /// for messages in vain.
    pub(super) fn of(invocation: &Invocation) -> Result<Self, OciError> {
        let json = match invocation.value("log-format") {
            None | Some("" | "text") => false,
            Some("json") => true,
            Some(other) => return Err(OciError::Usage(format!("invalid log format {other:?}"))),
        };
        let file = invocation.value("log").filter(|path| !path.is_empty());
        let file = file.map(PathBuf::from);
        if let Some(path) = &file {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(OciError::io("open log file", path.display().to_string()))?;
        }
        let debug = invocation.has("debug") || invocation.value("log-level") == Some("debug");
        Ok(Self { file, json, debug })
    }

    /// An error that ends the command.
    pub(super) fn error(&self, error: &dyn std::fmt::Display) {
        self.write("error", &error.to_string());
        // Who has no log to read looks for the word.
        let _ = writeln!(std::io::stderr(), "rcompose-oci: error: {error}");
    }

    /// Something that did not work and is no error; only for the log, since
    /// callers take any word on standard error for one.
    pub(super) fn warn(&self, text: &str) {
        self.write("warning", text);
    }

    /// A failure that the spec wants a warning for: on standard error when there
    /// is no log.
    pub(super) fn warn_aloud(&self, text: &str) {
        self.tell("warning", text);
    }

    /// What only somebody who looks for a mistake wants to know (`--debug`).
    pub(super) fn debug(&self, text: &str) {
        if self.debug {
            self.tell("debug", text);
        }
    }

    fn tell(&self, level: &str, text: &str) {
        match self.file {
            Some(_) => self.write(level, text),
            // As in a log: it is read by those who have read logs before.
            None if level == "debug" => {
                let _ = writeln!(std::io::stderr(), "{}", self.line(level, text));
            }
            None => {
                let _ = writeln!(std::io::stderr(), "rcompose-oci: {level}: {text}");
            }
        }
    }

    fn line(&self, level: &str, text: &str) -> String {
        let time = jiff::Timestamp::now().to_string();
        if self.json {
            serde_json::json!({"level": level, "msg": text, "time": time}).to_string()
        } else {
            format!("time={time:?} level={level} msg={text:?}")
        }
    }

    fn write(&self, level: &str, text: &str) {
        let Some(path) = &self.file else { return };
        let line = self.line(level, text);
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
            let _ = writeln!(file, "{line}");
        }
    }
}
