//! What can go wrong with images.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::reference::ReferenceError;
use super::unpack::UnpackError;
use crate::store::StoreError;

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference does not follow the grammar.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A record of the store cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An operation of the file system failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The place that a local source names is not what it should be.
    #[error("image {image}: {} {reason}", path.display())]
    Place {
        /// The image as asked for.
        image: String,
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry does not have the image.
    #[error("image {image} not found in registry {registry}")]
    NotFound {
        /// The image as asked for.
        image: String,
        /// The registry.
        registry: String,
    },
    /// The registry wants to know who asks, or does not let them.
    #[error("image {image}: registry {registry} denies access: {reason}")]
    Denied {
        /// The image as asked for.
        image: String,
        /// The registry.
        registry: String,
        /// What it says, and what may help.
        reason: String,
    },
    /// The registry cannot be reached.
    #[error("image {image}: connect to {host}: {reason}")]
    Connect {
        /// The image as asked for.
        image: String,
        /// Who was called.
        host: String,
        /// Why it failed.
        reason: String,
    },
    /// The registry answers with an error, after all attempts.
    #[error("image {image}: {host} answers {status} to {request}{detail}")]
    Status {
        /// The image as asked for.
        image: String,
        /// Who answered.
        host: String,
        /// HTTP status.
        status: u16,
        /// What was asked.
        request: String,
        /// What it says, with `: ` before it, or nothing.
        detail: String,
    },
    /// The connection broke too often.
    #[error("image {image}: {request} from {host}: {reason}")]
    Transfer {
        /// The image as asked for.
        image: String,
        /// Who answered.
        host: String,
        /// What was asked.
        request: String,
        /// How the last attempt ended.
        reason: String,
    },
    /// Content does not have the digest it was asked for by.
    #[error("image {image}: {what} has digest {actual} instead of {expected}")]
    WrongDigest {
        /// The image as asked for.
        image: String,
        /// Manifest, configuration, or which layer.
        what: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Content does not have the size that is announced.
    #[error("image {image}: {what} has {actual} bytes instead of {expected}")]
    WrongSize {
        /// The image as asked for.
        image: String,
        /// Manifest, configuration, or which layer.
        what: String,
        /// What was announced.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The image is not for this machine.
    #[error("image {image} is not available for {wanted}, only for {available}")]
    Platform {
        /// The image as asked for.
        image: String,
        /// This machine.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// A manifest or configuration is not what it should be.
    #[error("image {image}: {what} {reason}")]
    Document {
        /// The image as asked for.
        image: String,
        /// Manifest, index or configuration.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer cannot be unpacked.
    #[error("image {image}: unpack layer {layer}: {source}")]
    Unpack {
        /// The image as asked for.
        image: String,
        /// The first digits of the layer's digest.
        layer: String,
        /// Why.
        source: UnpackError,
    },
    /// The settings of this machine, or what was asked for, do not allow it.
    #[error("image {image}: {reason}")]
    Settings {
        /// The image as asked for.
        image: String,
        /// Which setting, and what is wrong.
        reason: String,
    },
    /// A login or logout failed.
    #[error("log in to {registry}: {reason}")]
    Login {
        /// The registry.
        registry: String,
        /// What it says.
        reason: String,
    },
    /// There is no such image here.
    #[error("no such image: {name}")]
    Absent {
        /// What was asked for.
        name: String,
    },
    /// The image cannot be removed, or not under this name.
    #[error("image {image} is not removed: {reason}")]
    InUse {
        /// What was asked for.
        image: String,
        /// By whom it is used.
        reason: String,
    },
    /// A task ended without a result: the pull was cancelled, or there is a defect.
    #[error("image {image}: the work was cut short")]
    Cancelled {
        /// The image as asked for.
        image: String,
    },
}

impl ImageError {
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

/// An error with all its sources, joined by colons.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        // Some errors print their source themselves.
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}
