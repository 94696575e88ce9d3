//! Why a command failed, for the person who typed it.

use std::process::ExitCode;

use super::terminal::Terminal;
use crate::stack::Diagnostic;

/// A failed command: what to print, and the exit status.
#[derive(Debug)]
pub(super) struct Failure {
    message: Message,
    hints: Vec<String>,
    code: u8,
}

#[derive(Debug)]
enum Message {
    Text(String),
    /// Several, each a message of its own.
    List(Vec<String>),
    Diagnostics(Vec<Diagnostic>),
    /// The same as JSON, one a line.
    Json(Vec<Diagnostic>),
}

/// A diagnostic as a line of JSON.
pub(super) fn json_line(diagnostic: &Diagnostic) -> String {
    serde_json::to_string(diagnostic)
        .map(|line| line + "\n")
        .unwrap_or_default()
}

/// What every command comes to.
pub(super) type Outcome = Result<ExitCode, Failure>;

impl Failure {
    /// Exit status 1 with a message.
    pub(super) fn new(message: impl std::fmt::Display) -> Self {
        Self {
            message: Message::Text(message.to_string()),
            hints: vec![],
            code: 1,
        }
    }

    /// Exit status 1 with several messages; what is said twice is printed once.
    pub(super) fn list(messages: &[String]) -> Self {
        let mut seen = std::collections::HashSet::new();
        let mut messages = messages.to_vec();
        messages.retain(|message| seen.insert(message.clone()));
        Self {
            message: Message::List(messages),
            hints: vec![],
            code: 1,
        }
    }

    /// Problems in the stack file.
    pub(super) fn diagnostics(diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            message: Message::Diagnostics(diagnostics),
            hints: vec![],
            code: 1,
        }
    }

    /// Problems in the stack file, for programs.
    pub(super) fn json(diagnostics: Vec<Diagnostic>) -> Self {
        Self {
            message: Message::Json(diagnostics),
            ..Self::diagnostics(Vec::new())
        }
    }

    /// The same failure, said of something.
    pub(super) fn of(self, what: &str) -> Self {
        let of = |text: String| format!("{what}: {text}");
        let message = match self.message {
            Message::Text(text) => Message::Text(of(text)),
            Message::List(list) => Message::List(list.into_iter().map(of).collect()),
            other => other,
        };
        Self { message, ..self }
    }

    /// Whether something that is written in the stack file is wrong.
    pub(super) fn is_in_file(&self) -> bool {
        matches!(&self.message, Message::Diagnostics(list) | Message::Json(list)
            if list.iter().any(|diagnostic| diagnostic.origin.is_some()))
    }

    /// With what may help.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// With another exit status.
    pub(super) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints it, and gives the exit status.
    pub(super) fn report(&self, terminal: &Terminal) -> ExitCode {
        match &self.message {
            Message::Text(text) => terminal.error(text, &self.hints),
            Message::List(list) => {
                for text in list {
                    terminal.error(text, &[]);
                }
                terminal.hints(&self.hints);
            }
            Message::Json(list) => {
                for diagnostic in list {
                    terminal.err(&json_line(diagnostic));
                }
            }
            Message::Diagnostics(list) => {
                for diagnostic in list {
                    terminal.err(&diagnostic.render(terminal.color_err));
                }
                terminal.hints(&self.hints);
            }
        }
        ExitCode::from(self.code)
    }
}

macro_rules! from {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error)
            }
        })+
    };
}

from!(
    crate::host::HostError,
    crate::image::ImageError,
    crate::store::StoreError,
    crate::supervisor::client::ClientError,
    crate::supervisor::SupervisorError,
);
