//! A container's folder below `--root`.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ContainerState, Hook, State};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::arguments::Invocation;
use super::error::OciError;
use crate::runtime::cgroup::Cgroup;
use crate::runtime::{Fixed, Process, ProcessId, bundle};

/// What is known before anything is made.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// The state but for status and pid.
    pub(super) state: State,
    pub(super) rootfs: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) owner: u32,
    pub(super) poststart: Vec<Hook>,
    pub(super) poststop: Vec<Hook>,
    /// The container's process 1 is the first of a pid namespace.
    pub(super) own_pids: bool,
    /// The number of the mount that `rootfs` is in, for a container in the host's
    /// mount namespace: its root is mounted upon that.
    #[serde(default)]
    pub(super) root_is_in: Option<u64>,
    /// What `exec` without a process of its own starts from.
    pub(super) process: oci_spec::runtime::Process,
    pub(super) fixed: Fixed,
}

impl Record {
    /// Takes the root away from the mounts of the host, if it is among them.
    pub(super) fn unmount_root(&self) -> Result<(), OciError> {
        // Whoever knows the runtimes before us may have done so.
        if self.root_is_in.is_none() || self.root_is_in == mount_of(&self.rootfs) {
            return Ok(());
        }
        match rustix::mount::unmount(&self.rootfs, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(error) => {
                let subject = self.rootfs.display().to_string();
                Err(OciError::io("unmount", subject)(error.into()))
            }
        }
    }
}

/// The number of the mount that a path leads into (statx(2), Linux 5.8).
pub(super) fn mount_of(path: &Path) -> Option<u64> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    Some(found.stx_mnt_id)
}

/// A container's status, as the runtimes before us name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// `create` is at work.
    Creating,
    /// It waits for `start`.
    Created,
    /// Its program runs.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its process 1 has ended.
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container's folder, found or made.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) id: String,
    pub(super) path: PathBuf,
}

/// A lock on a container's folder; given up when dropped.
#[derive(Debug)]
pub(super) struct Held {
    _lock: OwnedFd,
}

/// Where containers are: `--root`, or a folder that is gone after a reboot.
pub(super) fn root(invocation: &Invocation) -> PathBuf {
    if let Some(root) = invocation.value("root") {
        return root.into();
    }
    if rustix::process::geteuid().is_root() {
        return "/run/rcompose-oci".into();
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join("rcompose-oci")
}

/// Whether a text can name a container.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= 1024 && !id.starts_with('.') && id.chars().all(is_of_id)
}

fn is_of_id(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_+-.".contains(letter)
}

impl Folder {
    /// The folder of the container that is named in the arguments.
    pub(super) fn named(invocation: &Invocation) -> Result<Self, OciError> {
        let id = invocation.id()?;
        if let Some(odd) = id.chars().find(|letter| !is_of_id(*letter)) {
            return Err(OciError::Usage(format!(
                "invalid character {odd:?} in the container ID {id:?}"
            )));
        }
        if !is_id(id) {
            return Err(OciError::Usage(format!("invalid container ID {id:?}")));
        }
        Ok(Self {
            id: id.to_owned(),
            path: root(invocation).join(id),
        })
    }

    /// Makes the folder, locked. One that a killed `create` has left is taken over.
    pub(super) fn make(&self) -> Result<Held, OciError> {
        let failed = || OciError::io("make", self.path.display().to_string());
        if let Some(above) = self.path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(above)
                .map_err(failed())?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => self.lock(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let exists = || OciError::Exists(self.id.clone());
                let held = self.try_lock()?.ok_or_else(exists)?;
                if self.path.join("record.json").exists() {
                    return Err(exists());
                }
                Ok(held)
            }
            Err(error) => Err(failed()(error)),
        }
    }

    fn open(&self) -> Result<OwnedFd, OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::NOENT => OciError::Missing(self.id.clone()),
            other => OciError::io("open", self.path.display().to_string())(other.into()),
        })
    }

    /// Waits for the lock.
    pub(super) fn lock(&self) -> Result<Held, OciError> {
        let lock = self.open()?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
            .map_err(|error| OciError::io("lock", self.path.display().to_string())(error.into()))?;
        // Removed while we waited.
        if !self.path.exists() {
            return Err(OciError::Missing(self.id.clone()));
        }
        Ok(Held { _lock: lock })
    }

    /// Fails while a command makes the container: its process is there then, and
    /// has not come into its own root yet.
    pub(super) fn is_made(&self) -> Result<(), OciError> {
        let lock = self.open()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            // `start` and `delete` hold it, too.
            Err(rustix::io::Errno::WOULDBLOCK) if !bundle::waits(&self.path) => Err(OciError::Status {
                command: "exec in",
                id: self.id.clone(),
                status: Status::Creating.name(),
            }),
            _ => Ok(()),
        }
    }

    fn try_lock(&self) -> Result<Option<Held>, OciError> {
        let lock = self.open()?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Held { _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(OciError::io("lock", self.path.display().to_string())(
                error.into(),
            )),
        }
    }

    /// Writes a file whole, or not at all. Not synced: it describes processes,
    /// which do not outlive the machine either.
    pub(super) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), OciError> {
        let path = self.path.join(name);
        let part = self.path.join(format!(".{name}"));
        let write = || -> io::Result<()> {
            fs::write(&part, serde_json::to_vec(value)?)?;
            fs::rename(&part, &path)
        };
        write().map_err(OciError::io("write", path.display().to_string()))
    }

    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, OciError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OciError::io("read", path.display().to_string())(error)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| OciError::Config {
                    subject: path.display().to_string(),
                    reason: error.to_string(),
                }),
        }
    }

    /// Removes the folder.
    pub(super) fn remove(&self) -> Result<(), OciError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(OciError::io("remove", self.path.display().to_string())(error))
            }
            _ => Ok(()),
        }
    }

    /// Looks at the container.
    pub(super) fn load(self) -> Result<Container, OciError> {
        let record: Record = self
            .read("record.json")?
            .ok_or_else(|| OciError::Missing(self.id.clone()))?;
        let init: Option<ProcessId> = self.read("init.json")?;
        let busy = init.is_none() && self.try_lock()?.is_none();
        let process = match init.filter(|_| record.fixed.is_of_this_boot()) {
            Some(id) => id
                .open()
                .map_err(OciError::io("open", format!("process {}", id.pid)))?
                .filter(|process| !process.has_ended()),
            None => None,
        };
        let mut cgroup = record.fixed.cgroup.clone();
        cgroup.refresh();
        let status = match &process {
            None if busy => Status::Creating,
            None => Status::Stopped,
            Some(_) if cgroup.is_frozen() => Status::Paused,
            Some(_) if bundle::waits(&self.path) => Status::Created,
            Some(_) => Status::Running,
        };
        Ok(Container {
            folder: self,
            record,
            process,
            cgroup,
            status,
        })
    }
}

/// A container as it is now.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) folder: Folder,
    pub(super) record: Record,
    /// Its process 1, while that lives.
    pub(super) process: Option<Process>,
    pub(super) cgroup: Cgroup,
    pub(super) status: Status,
}

impl Container {
    /// The container named in the arguments.
    pub(super) fn named(invocation: &Invocation) -> Result<Self, OciError> {
        Folder::named(invocation)?.load()
    }

    /// The process number of its process 1; 0 when it has ended.
    pub(super) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, |process| process.id().pid)
    }

    /// Its state, as hooks are told.
    pub(super) fn state(&self) -> State {
        let mut state = self.record.state.clone();
        state.set_status(match self.status {
            Status::Creating => ContainerState::Creating,
            Status::Created => ContainerState::Created,
            Status::Running | Status::Paused => ContainerState::Running,
            Status::Stopped => ContainerState::Stopped,
        });
        state.set_pid(i32::try_from(self.pid()).ok().filter(|pid| *pid > 0));
        state
    }

    /// The error of a command that its status does not allow.
    pub(super) fn wrong_status(&self, command: &'static str) -> OciError {
        OciError::Status {
            command,
            id: self.folder.id.clone(),
            status: self.status.name(),
        }
    }
}

/// All containers below a root, sorted by id; what is no container is left out.
pub(super) fn all(root: &Path) -> Vec<Container> {
    let mut names: Vec<String> = fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_id(name))
        .collect();
    names.sort();
    names
        .into_iter()
        .filter_map(|id| {
            let path = root.join(&id);
            Folder { id, path }.load().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_single_plain_names() {
        for good in ["a", "A-1_b.c+d", "a..."] {
            assert!(is_id(good), "{good}");
        }
        for wrong in ["", ".", "..", ".a", "a/b", "a b", "ä", "a\0"] {
            assert!(!is_id(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_folder_that_a_killed_create_left_is_taken_over() {
        let root = tempfile::tempdir().unwrap();
        let folder = || Folder {
            id: "c".into(),
            path: root.path().join("c"),
        };
        let held = folder().make().unwrap();
        assert!(matches!(folder().make(), Err(OciError::Exists(_))));
        drop(held);
        let _held = folder().make().unwrap();
        assert!(matches!(folder().load(), Err(OciError::Missing(_))));
    }
}
