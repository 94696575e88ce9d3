//! What can go wrong when the host is observed or changed.

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The walk was cancelled while this waited.
    #[error("cancelled")]
    Cancelled,
    /// An action came to no end of its own.
    #[error("interrupted: {reason}")]
    Interrupted {
        /// What stopped it.
        reason: String,
    },
    /// A dependency's condition will not hold.
    #[error("{reason}")]
    Dependency {
        /// In docker compose's words: `dependency failed to start: container x is unhealthy`.
        reason: String,
    },
    /// A container that an action is about is not there.
    #[error("no such container: {name}")]
    NoContainer {
        /// Its name.
        name: String,
    },
    /// Something that the project names is not in the project.
    #[error("{what} is not in the project")]
    NotInProject {
        /// What: `service web`.
        what: String,
    },
    /// A record could not be read or written.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}
