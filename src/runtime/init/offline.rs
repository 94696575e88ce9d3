//! The root file system of a container that does not run, for who copies files.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::place::{self, Kind};
use super::rootfs::{make_readonly, mount_root};
use super::set_propagation;
use crate::runtime::error::{Failure, RuntimeError, Step};
use crate::runtime::request::Rootfs;
use crate::sys::clone::unshare_namespaces;

/// What is mounted in a root file system from outside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineMount {
    /// The path of the host; below `confined` when that is given.
    pub source: PathBuf,
    /// A folder that the source must not leave.
    pub confined: Option<PathBuf>,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// Nothing is to be written there.
    pub readonly: bool,
}

/// Mounts the root file system of a container that does not run, with what is
/// mounted in it, where nobody but this thread sees it; a descriptor of its
/// root. It ends with this process. The caller sees to it that the container is
/// not started meanwhile.
///
/// # Errors
/// [`RuntimeError::Failed`] for what cannot be mounted, [`RuntimeError::Io`]
/// without the right to.
pub fn mount_offline(rootfs: &Rootfs, mounts: &[OfflineMount]) -> Result<OwnedFd, RuntimeError> {
    unshare_namespaces(libc::CLONE_NEWNS).map_err(RuntimeError::io("make", "mount namespace"))?;
    set_propagation(libc::MS_PRIVATE, true)?;
    let root = mount_root(rootfs)?;
    for one in mounts {
        mount(&root, one)
            .map_err(|error| Failure::new(Step::Mount, one.target.display().to_string(), &error))?;
    }
    if rootfs.is_readonly() {
        make_readonly(root.as_fd()).map_err(|error| Failure::new(Step::Rootfs, "/", &error))?;
    }
    Ok(root)
}

fn mount(root: &OwnedFd, one: &OfflineMount) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = match &one.confined {
        None => open_tree(CWD, &one.source, flags)?,
        Some(folder) => {
            let folder = rustix::fs::open(
                folder,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let source = place::open(folder.as_fd(), &one.source, OFlags::PATH, true)?;
            open_tree(&source, Path::new(""), flags | OpenTreeFlags::AT_EMPTY_PATH)?
        }
    };
    if one.readonly {
        make_readonly(tree.as_fd())?;
    }
    let target = place::make(root.as_fd(), &one.target, Kind::of(tree.as_fd())?, true)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&tree, "", &target, "", flags)?)
}
