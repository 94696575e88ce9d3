//! Records: small JSON files that are whole or not there, and locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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
/// The new one is written beside it under a name that begins with a dot, and
/// locked meanwhile; what a killed process leaves of that is not locked, which
/// is how [`sweep_records`] knows it.
///
/// # Errors
/// [`StoreError::Io`] when the folder or the file cannot be written.
pub fn write_record<T: Serialize>(path: &Path, record: &T) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(record).map_err(|source| StoreError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    write_bytes(path, &bytes)
}

/// As [`write_record`], for a file that is something else than JSON. Both are
/// readable for their owner alone.
///
/// # Errors
/// As [`write_record`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let fresh = path.with_file_name(format!(".{name}.{}.{number}{UNFINISHED}", std::process::id()));
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
        file.lock().map_err(StoreError::io("lock", &fresh))?;
        let written = file.write_all(bytes).map_err(StoreError::io("write", &fresh));
        let replaced = match written {
            Ok(()) => fs::rename(&fresh, path),
            Err(error) => {
                let _ = fs::remove_file(&fresh);
                return Err(error);
            }
        };
        match replaced {
            // Swept away in the moment between making and locking it.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::exists) => {}
            Err(error) => {
                let _ = fs::remove_file(&fresh);
                return Err(StoreError::io("replace", path)(error));
            }
            Ok(()) => return Ok(()),
        }
    }
}

/// Ends the name of a record that is being written.
const UNFINISHED: &str = ".new";

/// Removes from a folder what killed processes left of records they were
/// writing. Quiet about what cannot be removed: it harms nobody.
pub fn sweep_records(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') || !name.ends_with(UNFINISHED) {
            continue;
        }
        let path = entry.path();
        // Whoever writes it has locked it, or is just about to and then writes it anew.
        if let Ok(file) = File::open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
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
/// process dies, unless another one has inherited the descriptor. The file may be removed by who holds it ([`Lock::remove`]);
/// whoever waited for it then takes a new one.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl std::os::fd::AsFd for Lock {
    /// Whoever inherits the descriptor holds the lock too, until it ends.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
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

    /// Takes the lock at `path` together with others who share it, waiting for
    /// whoever holds it alone.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be made or locked.
    pub fn share(path: &Path) -> Result<Self, StoreError> {
        loop {
            let file = Self::open(path)?;
            file.lock_shared().map_err(StoreError::io("lock", path))?;
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
    fn what_a_killed_writer_left_is_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write_record(&at("a.json"), &1).unwrap();
        for name in [
            ".a.json.1.1.new",
            ".b.json.2.7.new",
            ".exit.json.reserve",
            ".lock",
        ] {
            fs::write(at(name), "").unwrap();
        }
        let writing = File::open(at(".b.json.2.7.new")).unwrap();
        writing.lock().unwrap();
        sweep_records(folder.path());
        let left = |name: &str| at(name).exists();
        assert!(!left(".a.json.1.1.new"));
        assert!(left(".b.json.2.7.new") && left("a.json") && left(".exit.json.reserve") && left(".lock"));
        drop(writing);
        sweep_records(folder.path());
        assert!(!left(".b.json.2.7.new"));
        sweep_records(&at("nothing"));
    }

    #[test]
    fn threads_may_write_one_record_while_it_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        std::thread::scope(|scope| {
            for thread in 0..3_u32 {
                let path = &path;
                scope.spawn(move || (0..200).for_each(|_| write_record(path, &thread).unwrap()));
            }
            scope.spawn(|| (0..200).for_each(|_| sweep_records(folder.path())));
        });
        assert!(read_record::<u32>(&path).unwrap().unwrap() < 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
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
