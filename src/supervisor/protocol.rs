//! What a client and the supervisor say to each other: one JSON object a line
//! over a UNIX stream socket in a folder of mode 0700.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::plan::{Expected, Intent, Plan};
use crate::project::LoadRequest;
use crate::reconcile::Event;
use crate::stack::Diagnostic;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Bring the stack to what an intent says. One at a time; later ones wait.
    Apply(Apply),
    /// Stop what this client's [`Request::Apply`] is doing.
    Cancel,
    /// Follow the sources of `develop.watch` from now on, and tell of it.
    Follow {
        /// How to load the project, when the supervisor knows of none yet.
        load: Option<Box<LoadRequest>>,
        /// Of these services and what they depend on; none is all.
        services: Vec<String>,
        /// Go on when this client is gone, until the stack goes down.
        always: bool,
        /// Tell of every file, also of those that no rule takes.
        explain: bool,
    },
    /// Follow no sources for this client any more.
    Unfollow,
}

/// What is to be brought about, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Apply {
    /// How to load the project; `None` takes what the records say (a command
    /// with `-p` and no stack file).
    pub load: Option<Box<LoadRequest>>,
    /// Take the project from this generation; of `load` only the environment
    /// counts then.
    pub generation: Option<u64>,
    /// What to bring about.
    pub intent: Intent,
    /// Do nothing if another plan than this comes of it.
    pub expected: Option<Box<Expected>>,
    /// When it fails, bring the stack back to what it was brought to before.
    pub atomic: bool,
    /// Whether the stack file is watched from now on; `None` leaves that as it is.
    pub watch: Option<Watching>,
    /// Go on telling what happens to the stack after the reply [`Reply::Done`].
    pub session: bool,
}

impl Apply {
    /// An intent for the project that is loaded so.
    pub fn new(load: Option<Box<LoadRequest>>, intent: Intent) -> Self {
        Self {
            load,
            generation: None,
            intent,
            expected: None,
            atomic: false,
            watch: None,
            session: false,
        }
    }
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

/// A restart to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// How often it was started again before this time.
    pub restarts: u32,
    /// After so long.
    pub after: std::time::Duration,
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
        /// `run` made it.
        one_off: bool,
        /// Its log.
        log: PathBuf,
        /// Where in the log this run begins, in bytes.
        offset: u64,
    },
    /// A hook has printed a line (sessions only).
    Said {
        /// Name of the container; of the service, with the project's name before
        /// it, for hooks before the start.
        name: String,
        /// The line.
        line: String,
    },
    /// A container has ended (sessions only).
    Exited {
        /// Container id.
        id: String,
        /// Container name.
        name: String,
        /// `run` made it.
        one_off: bool,
        /// Exit status.
        code: i32,
        /// It will be started again, and how.
        again: Option<Again>,
    },
    /// A container's health changed (sessions only).
    Health {
        /// Container name.
        name: String,
        /// The verdict.
        health: crate::lifecycle::Health,
    },
    /// Nothing of the services that the session named, of all when it named
    /// none, runs any more, nor will (sessions only).
    Idle,
    /// The stack file changed and is being applied (sessions only).
    Reloading {
        /// What is about to be done; empty when the change changes nothing.
        plan: Box<Plan>,
    },
    /// Sources are followed (who asked for it only).
    Following {
        /// The services.
        services: Vec<String>,
        /// What the user should know.
        warnings: Vec<String>,
    },
    /// Sources cannot be followed (sessions and who follows).
    NotFollowing {
        /// Why.
        reason: String,
    },
    /// Sources have changed and been brought to containers (sessions and who follows).
    Synced {
        /// Service key.
        service: String,
        /// The rule's number in the stack file, from 1.
        rule: usize,
        /// Its action.
        action: String,
        /// How many containers were changed.
        containers: usize,
        /// How many files were copied, or have changed when nothing is copied.
        copied: usize,
        /// How many files were removed.
        removed: usize,
        /// Some of them (all, when they are to be explained): the path here and
        /// the one in the container; `None` when nothing is copied.
        files: Vec<(PathBuf, Option<PathBuf>)>,
        /// What could not be done.
        errors: Vec<String>,
    },
    /// What followed a copy is done: a restart or a command (sessions and who follows).
    SyncEnded {
        /// Services.
        services: Vec<String>,
        /// `restart` or `exec`.
        action: String,
        /// What went wrong.
        errors: Vec<String>,
    },
    /// A file has changed that a rule does not take (who wants it explained).
    Passed {
        /// The file.
        path: PathBuf,
        /// Service key.
        service: String,
        /// The rule's number in the stack file, from 1.
        rule: usize,
        /// Why.
        reason: String,
    },
    /// A reload came to its end (sessions only).
    Reloaded {
        /// Why it failed; empty when all is as the file says.
        errors: Vec<String>,
        /// Problems in the file: the running stack is left as it was.
        diagnostics: Vec<Diagnostic>,
    },
}
