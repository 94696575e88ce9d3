//! What a client and the supervisor say to each other: one JSON object a line
//! over a UNIX stream socket in a folder of mode 0700.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::{Intent, Plan};
use crate::project::LoadRequest;
use crate::reconcile::Event;
use crate::stack::Diagnostic;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Bring the stack to what an intent says. One at a time; later ones wait.
    Apply {
        /// How to load the project; `None` takes what the records say (a
        /// command with `-p` and no stack file).
        load: Option<Box<LoadRequest>>,
        /// What to bring about.
        intent: Intent,
        /// Whether the stack file is watched from now on; `None` leaves that
        /// as it is.
        watch: Option<Watching>,
        /// Go on telling what happens to the stack after the reply [`Reply::Done`].
        session: bool,
    },
    /// Stop what this client's [`Request::Apply`] is doing.
    Cancel,
}

/// How long the stack file is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watching {
    /// No longer.
    Off,
    /// While a client has a session.
    Session,
    /// Until the stack goes down.
    Always,
}

/// What the supervisor tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is ready; always the first line.
    Hello {
        /// The supervisor's version: a client of another one says so.
        version: String,
    },
    /// Another command is at work on this stack; this one comes after it.
    Queued,
    /// What is about to be done.
    Planned {
        /// The plan.
        plan: Box<Plan>,
    },
    /// Something happened while doing it.
    Progress {
        /// What.
        event: Event,
    },
    /// The request has come to its end.
    Done {
        /// Why it failed; empty when all is as asked.
        errors: Vec<String>,
        /// Problems in the stack file, when that is why.
        diagnostics: Vec<Diagnostic>,
        /// It was cancelled.
        cancelled: bool,
    },
    /// A container has been started (sessions only).
    Started {
        /// Container id.
        id: String,
        /// Container name.
        name: String,
        /// Its log.
        log: PathBuf,
        /// Where in the log this run begins, in bytes.
        offset: u64,
    },
    /// A container has ended (sessions only).
    Exited {
        /// Container id.
        id: String,
        /// Container name.
        name: String,
        /// Exit status.
        code: i32,
        /// It will be started again.
        restarting: bool,
    },
    /// A container's health changed (sessions only).
    Health {
        /// Container name.
        name: String,
        /// The verdict.
        health: crate::lifecycle::Health,
    },
    /// Nothing runs any more, nor will (sessions only).
    Idle,
    /// The stack file changed and is being applied (sessions only).
    Reloading {
        /// What is about to be done; empty when the change changes nothing.
        plan: Box<Plan>,
    },
    /// A reload came to its end (sessions only).
    Reloaded {
        /// Why it failed; empty when all is as the file says.
        errors: Vec<String>,
        /// Problems in the file: the running stack is left as it was.
        diagnostics: Vec<Diagnostic>,
    },
}
