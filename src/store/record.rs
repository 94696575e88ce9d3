//! Records: small JSON files that are whole or not there, and locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What can go wrong with a record or a lock.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
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
    /// A record is not what it should be.
    #[error("read record {}: {source}", path.display())]
    Malformed {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl StoreError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

/// Replaces the record at `path`, making its folder when it is missing. Readers
/// see the old one or the new one, never a part.
///
/// # Errors
/// [`StoreError::Io`] when the folder or the file cannot be written.
pub fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(record).map_err(|source| StoreError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let open = || {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
    };
    let mut file = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
            open()
        }
        other => other,
    }
    .map_err(StoreError::io("create", &fresh))?;
    file.write_all(&bytes).map_err(StoreError::io("write", &fresh))?;
    fs::rename(&fresh, path).map_err(StoreError::io("replace", path))
}

/// Reads the record at `path`; `None` when there is none.
///
/// # Errors
/// [`StoreError::Io`] when it cannot be read, [`StoreError::Malformed`] when it
/// is not such a record.
pub fn read_record<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StoreError::Malformed {
                path: path.to_owned(),
                source,
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// Removes the record at `path`; fine when there is none.
///
/// # Errors
/// [`StoreError::Io`] when it is there and cannot be removed.
pub fn remove_record(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// An exclusive lock on a file (flock(2)); released when dropped, or when the
/// process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at `path`, waiting for whoever holds it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be made or locked.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        let file = Self::open(path)?;
        file.lock().map_err(StoreError::io("lock", path))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock at `path` if nobody holds it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be made or locked.
    pub fn try_take(path: &Path) -> Result<Option<Self>, StoreError> {
        let file = Self::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
        }
    }

    fn open(path: &Path) -> Result<File, StoreError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
        }
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(StoreError::io("open", path))
    }
}
