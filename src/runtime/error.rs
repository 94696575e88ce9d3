//! What can go wrong.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use super::cgroup::CgroupError;
use super::spec::SpecError;

/// What can go wrong with a container.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The request asks for something that is wrong or that we do not do.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The cgroup could not be made, changed or removed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A step inside the new process failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// A record could not be written, read or removed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A system call on this side failed.
    #[error("{operation} {subject}: {}", describe(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The container has no process (any more).
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The container is frozen: nothing can be run in it.
    #[error("container {0} is paused, unpause it first")]
    Paused(String),
    /// The monitor or the exec stage ended without an answer (it was killed).
    #[error("{0} ended before it answered")]
    Silent(&'static str),
    /// The monitor keeps no descriptor of this name.
    #[error("monitor keeps no descriptor {0}")]
    NotKept(String),
    /// Processes outlive SIGKILL (they hang in the kernel).
    #[error("processes of {0} do not end")]
    Stuck(String),
}

impl RuntimeError {
    /// For `map_err`: a failed system call of ours.
    pub(crate) fn io(operation: &'static str, subject: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let subject = subject.into();
        move |source| Self::Io {
            operation,
            subject,
            source,
        }
    }

    /// What the error means for the status of a command.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Failed(failure) => failure.kind(),
            _ => FailureKind::Other,
        }
    }
}

/// What a failure means for the status of a command, as Docker counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The program was not found, or the folder to run it in.
    NotFound,
    /// The program is there and cannot be executed.
    PermissionDenied,
    /// Anything else.
    Other,
}

impl FailureKind {
    /// 127, 126 or 128.
    pub fn exit_code(self) -> i32 {
        match self {
            Self::NotFound => 127,
            Self::PermissionDenied => 126,
            Self::Other => 128,
        }
    }
}

/// A failed step of the monitor, the init stage or the exec stage, as it
/// travels back to the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// On what.
    pub subject: String,
    /// Why, in words.
    pub reason: String,
    /// Why, as the kernel said it.
    pub errno: Option<i32>,
}

impl Failure {
    /// A failed system call.
    pub fn new(step: Step, subject: impl Into<String>, error: &io::Error) -> Self {
        Self {
            step,
            subject: subject.into(),
            reason: describe(error),
            errno: error.raw_os_error(),
        }
    }

    /// A failure with a reason of our own.
    pub fn because(step: Step, subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            step,
            subject: subject.into(),
            reason: reason.into(),
            errno: None,
        }
    }

    /// What it means for the status of a command.
    pub fn kind(&self) -> FailureKind {
        match (self.step, self.errno) {
            (Step::Exec | Step::WorkingDirectory, Some(libc::ENOENT)) => FailureKind::NotFound,
            (Step::Exec, _) => FailureKind::PermissionDenied,
            _ => FailureKind::Other,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step.words())?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for Failure {}

/// The steps that can fail inside a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Reading what is to be done.
    Request,
    /// Making the process.
    Clone,
    /// Joining the cgroup.
    JoinCgroup,
    /// Entering a namespace.
    Namespace,
    /// Mounting the root file system.
    Rootfs,
    /// Filling a fresh volume.
    Populate,
    /// Mounting something.
    Mount,
    /// Making a device.
    Device,
    /// Hiding a path.
    Mask,
    /// Making a path read-only.
    ReadOnly,
    /// Setting a kernel parameter.
    Sysctl,
    /// Setting the host or domain name.
    Hostname,
    /// Making the terminal.
    Terminal,
    /// Finding the user or a group.
    User,
    /// Setting a resource limit.
    ResourceLimit,
    /// Setting the out-of-memory score.
    OomScore,
    /// Becoming the user, setting capabilities.
    Credentials,
    /// Loading the system call filter.
    Seccomp,
    /// Entering the working directory.
    WorkingDirectory,
    /// Executing the program.
    Exec,
    /// Writing a record.
    Record,
    /// Opening the log.
    Log,
    /// Running a hook.
    Hook,
    /// Calling another runtime.
    Foreign,
    /// Setting scheduler, disk priority, memory policy or personality.
    Schedule,
}

impl Step {
    fn words(self) -> &'static str {
        match self {
            Self::Foreign => "call runtime to",
            Self::Request => "read request",
            Self::Clone => "make process",
            Self::JoinCgroup => "join cgroup",
            Self::Namespace => "enter namespace",
            Self::Rootfs => "mount root file system",
            Self::Populate => "fill volume",
            Self::Mount => "mount",
            Self::Device => "make device",
            Self::Mask => "mask",
            Self::ReadOnly => "make read-only",
            Self::Sysctl => "set sysctl",
            Self::Hostname => "set host name",
            Self::Terminal => "make terminal",
            Self::User => "find user",
            Self::ResourceLimit => "set resource limit",
            Self::OomScore => "set oom_score_adj",
            Self::Credentials => "set credentials",
            Self::Seccomp => "load seccomp filter",
            Self::WorkingDirectory => "chdir to",
            Self::Exec => "exec",
            Self::Record => "write record",
            Self::Log => "open log",
            Self::Hook => "error running",
            Self::Schedule => "set scheduling",
        }
    }
}

/// An error in lower case, without its number.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match text.find(" (os error ") {
        Some(end) => text.get(..end).unwrap_or(&text),
        None => &text,
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_exec_reads_like_a_shell_says_it() {
        let failure = Failure::new(
            Step::Exec,
            "/bin/nosuch",
            &io::Error::from_raw_os_error(libc::ENOENT),
        );
        assert_eq!(failure.to_string(), "exec /bin/nosuch: no such file or directory");
        assert_eq!(failure.kind(), FailureKind::NotFound);
        let failure = Failure::new(Step::Exec, "/etc", &io::Error::from_raw_os_error(libc::EACCES));
        assert_eq!(failure.kind().exit_code(), 126);
        let failure = Failure::new(Step::Mount, "/x", &io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(failure.kind().exit_code(), 128);
    }
}
