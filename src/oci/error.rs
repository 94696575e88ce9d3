//! What can go wrong.

use std::io;

use crate::runtime::RuntimeError;
use crate::runtime::cgroup::CgroupError;

/// What can go wrong with a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum OciError {
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no such container.
    #[error("container {0:?} does not exist")]
    Missing(String),
    /// The id is taken.
    #[error("container with id exists: {0:?} is in use")]
    Exists(String),
    /// The container is in the wrong state for the command.
    #[error("cannot {command} container {id:?} that is {status}")]
    Status {
        /// What was asked for.
        command: &'static str,
        /// Of whom.
        id: String,
        /// What it is.
        status: &'static str,
    },
    /// The words callers of `kill` look for.
    #[error("container not running")]
    NotRunning,
    /// A file of the bundle is not understood.
    #[error("{subject}: {reason}")]
    Config {
        /// The file.
        subject: String,
        /// What is wrong, and where.
        reason: String,
    },
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A system call.
    #[error("{operation} {subject}: {}", crate::runtime::describe(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl OciError {
    /// For `map_err`.
    pub(super) fn io(operation: &'static str, subject: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let subject = subject.into();
        move |source| Self::Io {
            operation,
            subject,
            source,
        }
    }
}
