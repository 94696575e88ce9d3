//! Records: small JSON files that are whole or not there, and locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
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
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
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
/// process dies. The file may be removed by who holds it ([`Lock::remove`]);
/// whoever waited for it then takes a new one.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`, waiting for whoever holds it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be made or locked.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        loop {
            let file = Self::open(path)?;
            file.lock().map_err(StoreError::io("lock", path))?;
            if is_at(&file, path) {
                return Ok(Self {
                    file,
                    path: path.to_owned(),
                });
            }
        }
    }

    /// Takes the lock at `path` if nobody holds it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be made or locked.
    pub fn try_take(path: &Path) -> Result<Option<Self>, StoreError> {
        loop {
            let file = Self::open(path)?;
            match file.try_lock() {
                Ok(()) if is_at(&file, path) => {
                    return Ok(Some(Self {
                        file,
                        path: path.to_owned(),
                    }));
                }
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
            }
        }
    }

    /// Removes the file, then releases the lock.
    pub fn remove(self) {
        // Left where it is, it locks as well as before.
        let _ = fs::remove_file(&self.path);
        drop(self.file);
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

/// Whether an open file is still the one at `path`: its holder may have removed
/// it while we waited.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole_and_makes_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/record.json");
        assert_eq!(read_record::<u32>(&path).unwrap(), None);
        write_record(&path, &1).unwrap();
        write_record(&path, &2).unwrap();
        assert_eq!(read_record::<u32>(&path).unwrap(), Some(2));
        let files: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(files.len(), 1, "{files:?}");
        fs::write(&path, "nonsense").unwrap();
        let error = read_record::<u32>(&path).unwrap_err().to_string();
        assert!(error.contains("record.json"), "{error}");
        remove_record(&path).unwrap();
        remove_record(&path).unwrap();
    }

    #[test]
    fn one_at_a_time_holds_a_lock_even_when_its_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path).unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || Lock::take(&path).unwrap())
        };
        first.remove();
        let second = waiter.join().unwrap();
        assert!(path.exists(), "whoever waited has made a new one");
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(second);
        assert!(Lock::try_take(&path).unwrap().is_some());
    }
}
