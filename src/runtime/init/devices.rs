//! Device nodes, the links that go with them, and the terminal.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::place::{self, Kind};
use crate::runtime::blueprint::{DeviceNode, ProcessPlan};
use crate::runtime::error::{Failure, Step};
use crate::sys::mount::{Attributes, NODEV, NOEXEC, NOSUID, set_attributes};
use crate::sys::terminal::{keep_line_ends, open_other_side};

/// What every container has.
const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// The usual nodes and links in a fresh `/dev`. What a mount has put there stays.
/// Without `nodes` only the links.
pub(super) fn make_usual(root: BorrowedFd<'_>, nodes: bool) -> Result<(), Failure> {
    let failed = |name: &str| {
        let path = format!("/dev/{name}");
        move |error: io::Error| Failure::new(Step::Device, path, &error)
    };
    let open = || place::open(root, Path::new("/dev"), OFlags::RDONLY | OFlags::DIRECTORY, false);
    let dev = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            place::make(root, Path::new("/dev"), Kind::Folder, false).and_then(|_| open())
        }
        other => other,
    }
    .map_err(failed(""))?;
    for (name, major, minor) in NODES.into_iter().filter(|_| nodes) {
        let number = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(
            &dev,
            name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            number,
        ) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(name)(error.into())),
        }
    }
    for (name, target) in LINKS {
        // As the runtimes before us: only on kernels that have it.
        let core = || place::open(root, Path::new(target), OFlags::PATH, false).is_ok();
        if name == "core" && !core() {
            continue;
        }
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(name)(error.into())),
        }
    }
    Ok(())
}

/// The nodes every container has, by name in `/dev`.
pub(in crate::runtime) fn usual() -> impl Iterator<Item = &'static str> {
    NODES.iter().map(|(name, _, _)| *name)
}

/// A node for a container that cannot make one, as a mount of its own: made at
/// `path`, where it must stay until the mount is attached. Who may not make nodes
/// either gets the host's, if that is the same device.
pub(in crate::runtime) fn make_elsewhere(path: &Path, device: &DeviceNode) -> io::Result<OwnedFd> {
    let number = rustix::fs::makedev(device.major, device.minor);
    let kind = FileType::from_raw_mode(device.kind);
    let mode = Mode::from_raw_mode(device.mode);
    // One that is there is of a command that was killed.
    let _ = std::fs::remove_file(path);
    match rustix::fs::mknodat(CWD, path, kind, mode, number) {
        Ok(()) => {}
        Err(Errno::PERM) => {
            let stat = rustix::fs::stat(&device.path)?;
            if (stat.st_rdev, FileType::from_raw_mode(stat.st_mode)) != (number, kind) {
                return Err(Errno::PERM.into());
            }
            return open_node(&device.path, 0);
        }
        Err(error) => return Err(error.into()),
    }
    // Past our file mode creation mask.
    rustix::fs::chmod(path, mode)?;
    std::os::unix::fs::lchown(path, Some(device.uid), Some(device.gid))?;
    open_node(path, NODEV)
}

/// A node as a mount of its own, which can do nothing but be a device.
pub(in crate::runtime) fn open_node(path: &Path, clear: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    let attributes = Attributes {
        set: NOSUID | NOEXEC,
        clear,
        ..Attributes::default()
    };
    set_attributes(tree.as_fd(), c"", attributes, false)?;
    Ok(tree)
}

/// Puts a device, opened as a mount, where no node can be made.
pub(super) fn mount(root: BorrowedFd<'_>, path: &Path, tree: BorrowedFd<'_>) -> Result<(), Failure> {
    let mount = || -> io::Result<()> {
        let target = place::make(root, path, Kind::File, !path.starts_with("/dev"))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        Ok(move_mount(tree, "", &target, "", flags)?)
    };
    mount().map_err(|error| Failure::new(Step::Device, path.display().to_string(), &error))
}

/// One more node.
pub(super) fn make(root: BorrowedFd<'_>, device: &DeviceNode) -> Result<(), Failure> {
    let make = || -> io::Result<()> {
        let (folder, name) = split(&device.path)?;
        let links = !folder.starts_with("/dev");
        let folder = place::make(root, &folder, Kind::Folder, links)?;
        let number = rustix::fs::makedev(device.major, device.minor);
        let kind = FileType::from_raw_mode(device.kind);
        let mode = Mode::from_raw_mode(device.mode);
        match rustix::fs::mknodat(&folder, &name, kind, mode, number) {
            Ok(()) => {}
            // What the image or a mount has at that place gives way, unless
            // something is mounted on it.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, &name, AtFlags::empty())?;
                rustix::fs::mknodat(&folder, &name, kind, mode, number)?;
            }
            Err(error) => return Err(error.into()),
        }
        let owner = (
            rustix::fs::Uid::from_raw(device.uid),
            rustix::fs::Gid::from_raw(device.gid),
        );
        rustix::fs::chownat(
            &folder,
            &name,
            Some(owner.0),
            Some(owner.1),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    };
    make().map_err(|error| Failure::new(Step::Device, device.path.display().to_string(), &error))
}

fn split(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok((folder.to_owned(), name.into())),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// A new pseudo-terminal of the container's own devpts.
#[derive(Debug)]
pub(super) struct Terminal {
    /// The side of whoever watches, until it is given away.
    pub(super) master: RefCell<Option<OwnedFd>>,
    /// The side of the program.
    pub(super) slave: OwnedFd,
}

impl Terminal {
    /// Makes one, as a process wants it.
    pub(super) fn make(root: BorrowedFd<'_>, plan: &ProcessPlan) -> Result<Self, Failure> {
        let make = || -> io::Result<Self> {
            let flags = OFlags::RDWR | OFlags::NOCTTY;
            let master = place::open(root, Path::new("/dev/pts/ptmx"), flags, false)?;
            // A container may have put something else there.
            let kind = rustix::fs::fstatfs(&master)?.f_type;
            if kind != DEVPTS_SUPER_MAGIC {
                return Err(io::Error::other("not on devpts"));
            }
            let slave = open_other_side(&master, plan.size)?;
            if plan.lines_as_written {
                keep_line_ends(&master)?;
            }
            let master = RefCell::new(Some(master));
            Ok(Self { master, slave })
        };
        make().map_err(|error| Failure::new(Step::Terminal, "/dev/pts/ptmx", &error))
    }

    /// Makes the program's side `/dev/console`.
    pub(super) fn mount_console(&self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        let mount = || -> io::Result<()> {
            let target = place::make(root, Path::new("/dev/console"), Kind::File, false)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let tree = open_tree(self.slave.as_fd(), "", flags)?;
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            Ok(move_mount(&tree, "", &target, "", flags)?)
        };
        mount().map_err(|error| Failure::new(Step::Terminal, "/dev/console", &error))
    }
}

/// As in `linux/magic.h`.
const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;
