//! Paths in the container. They are looked up after the root has been changed,
//! so that no link, whoever changes it when, leads to the host.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// What a mount needs to stand on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
}

impl Kind {
    /// The kind of what is behind a descriptor.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(if folder { Self::Folder } else { Self::File })
    }
}

/// How many links one path may go through.
const MOST_LINKS: usize = 40;

/// Opens a path below `root` as if that were the root directory, links
/// included; `links` is false where no link may be on the way at all.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, links: bool) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if !links {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    let open = || rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    loop {
        match open() {
            // Something on the way was renamed while the kernel looked.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens (`O_PATH`) what something is to be mounted on, making it, and the
/// folders above it, where it is missing.
pub(super) fn make(root: BorrowedFd<'_>, path: &Path, kind: Kind, links: bool) -> io::Result<OwnedFd> {
    let found = match open(root, path, OFlags::PATH, links) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => walk(root, path, kind, links)?,
        other => other?,
    };
    match (kind, Kind::of(found.as_fd())?) {
        (Kind::Folder, Kind::File) => Err(io::ErrorKind::NotADirectory.into()),
        (Kind::File, Kind::Folder) => Err(io::ErrorKind::IsADirectory.into()),
        _ => Ok(found),
    }
}

/// As [`make`], for what is at the end of the path itself, be it a link.
pub(super) fn make_itself(root: BorrowedFd<'_>, path: &Path, kind: Kind, links: bool) -> io::Result<OwnedFd> {
    let (folder, name) = make_above(root, path, links)?;
    enter(folder.as_fd(), name, kind)
}

/// Makes a symbolic link; one that is there already must be the same.
pub(super) fn make_link(root: BorrowedFd<'_>, path: &Path, text: &Path, links: bool) -> io::Result<()> {
    let (folder, name) = make_above(root, path, links)?;
    match rustix::fs::symlinkat(text, &folder, name) {
        Err(rustix::io::Errno::EXIST) => match rustix::fs::readlinkat(&folder, name, Vec::new()) {
            Ok(known) if known.as_bytes() == text.as_os_str().as_bytes() => Ok(()),
            _ => Err(rustix::io::Errno::EXIST.into()),
        },
        other => Ok(other?),
    }
}

/// The folder above the end of a path, made where it is missing, and that end.
fn make_above<'a>(root: BorrowedFd<'_>, path: &'a Path, links: bool) -> io::Result<(OwnedFd, &'a OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => Ok((make(root, above, Kind::Folder, links)?, name)),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Follows a path step by step, making what is missing. A step only ever opens
/// an entry of a folder we hold, and never through a link: links are read and
/// their steps put in front of the others.
fn walk(root: BorrowedFd<'_>, path: &Path, kind: Kind, links: bool) -> io::Result<OwnedFd> {
    let mut steps = VecDeque::new();
    prepend(&mut steps, path);
    let mut trail: Vec<OwnedFd> = Vec::new();
    let mut followed = 0;
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            trail.pop();
            continue;
        }
        let last = steps.is_empty();
        let here = trail.last().map_or(root, |fd| fd.as_fd());
        let next = enter(here, &step, if last { kind } else { Kind::Folder })?;
        let stat = rustix::fs::fstat(&next)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                followed += 1;
                // Links of procfs say where descriptors lead, ours included.
                if !links || followed > MOST_LINKS || in_procfs(next.as_fd()) {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&next, "", Vec::new())?.into_bytes();
                let target = OsString::from_vec(target);
                if Path::new(&target).is_absolute() {
                    trail.clear();
                }
                prepend(&mut steps, Path::new(&target));
            }
            FileType::Directory => trail.push(next),
            _ if last => return Ok(next),
            _ => return Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    match trail.pop() {
        Some(found) => Ok(found),
        None => Ok(rustix::io::fcntl_dupfd_cloexec(root, 3)?),
    }
}

fn prepend(steps: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => steps.push_front(name.to_owned()),
            Component::ParentDir => steps.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// Opens one entry of a folder, making it when it is missing.
fn enter(folder: BorrowedFd<'_>, name: &OsStr, kind: Kind) -> io::Result<OwnedFd> {
    let name = Path::new(OsStr::from_bytes(name.as_bytes()));
    loop {
        match rustix::fs::openat(
            folder,
            name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(rustix::io::Errno::NOENT) => {}
            other => return Ok(other?),
        }
        let made = match kind {
            Kind::Folder => rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)),
            Kind::File => rustix::fs::openat(
                folder,
                name,
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o644),
            )
            .map(drop),
        };
        match made {
            // Made by somebody else in between: look again.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads a regular file of the container that may be anything: at most `most`
/// bytes, without waiting for a FIFO. `None` when there is no such file.
pub(super) fn read(root: BorrowedFd<'_>, path: &Path, most: usize) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read as _;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match open(root, path, flags, true) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::from(file).take(limit).read_to_end(&mut content)?;
    if content.len() > most {
        return Err(io::Error::other("too large"));
    }
    Ok(Some(content))
}

/// Whether a descriptor is inside procfs.
pub(super) fn in_procfs(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// The type and number of what is behind a descriptor, without opening it.
pub(super) fn is_null_device(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == (1, 3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(folder.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        (folder, fd)
    }

    #[test]
    fn targets_are_made_inside_whatever_links_say() {
        let outside = tempfile::tempdir().unwrap();
        let (folder, root) = root();
        let path = |name: &str| folder.path().join(name);
        symlink(outside.path(), path("absolute")).unwrap();
        symlink("../../../../../..", path("up")).unwrap();
        symlink("run/deep", path("var")).unwrap();
        make(root.as_fd(), Path::new("/absolute/a"), Kind::Folder, true).unwrap();
        make(root.as_fd(), Path::new("/up/b/file"), Kind::File, true).unwrap();
        make(root.as_fd(), Path::new("/var/c"), Kind::Folder, true).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let inside = outside.path().strip_prefix("/").unwrap();
        assert!(path(inside.to_str().unwrap()).join("a").is_dir());
        assert!(path("b/file").is_file());
        assert!(path("run/deep/c").is_dir());
    }

    #[test]
    fn a_link_at_the_end_is_itself_where_that_is_asked_for() {
        let (folder, root) = root();
        let path = |name: &str| folder.path().join(name);
        symlink("/nowhere", path("link")).unwrap();
        let found = make_itself(root.as_fd(), Path::new("/link"), Kind::File, true).unwrap();
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&found).unwrap().st_mode);
        assert_eq!(kind, FileType::Symlink);
        make_itself(root.as_fd(), Path::new("/deep/file"), Kind::File, true).unwrap();
        assert!(path("deep/file").is_file());
        let link = |name: &str, text: &str| make_link(root.as_fd(), Path::new(name), Path::new(text), true);
        link("/new/link", "../x").unwrap();
        link("/new/link", "../x").unwrap();
        assert_eq!(std::fs::read_link(path("new/link")).unwrap(), Path::new("../x"));
        assert!(link("/new/link", "y").is_err() && link("/deep/file", "y").is_err());
        // What is above it leads nowhere else.
        symlink("../../..", path("up")).unwrap();
        link("/up/mine", "z").unwrap();
        assert!(path("mine").is_symlink());
    }

    #[test]
    fn where_no_link_may_be_one_is_an_error() {
        let (folder, root) = root();
        std::fs::create_dir(folder.path().join("elsewhere")).unwrap();
        symlink("elsewhere", folder.path().join("dev")).unwrap();
        let error = make(root.as_fd(), Path::new("/dev/shm"), Kind::Folder, false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        assert!(make(root.as_fd(), Path::new("/dev/shm"), Kind::Folder, true).is_ok());
    }

    #[test]
    fn loops_of_links_and_wrong_kinds_end() {
        let (folder, root) = root();
        symlink("b", folder.path().join("a")).unwrap();
        symlink("a", folder.path().join("b")).unwrap();
        let error = make(root.as_fd(), Path::new("/a/x"), Kind::Folder, true).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(make(root.as_fd(), Path::new("/file/x"), Kind::Folder, true).is_err());
        assert!(make(root.as_fd(), Path::new("/file"), Kind::Folder, true).is_err());
    }

    #[test]
    fn reading_does_not_wait_for_a_fifo_and_has_an_end() {
        let (folder, root) = root();
        rustix::fs::mkfifoat(&root, "fifo", Mode::from_raw_mode(0o600)).unwrap();
        assert!(read(root.as_fd(), Path::new("/fifo"), 10).is_err());
        std::fs::write(folder.path().join("long"), [0; 11]).unwrap();
        assert!(read(root.as_fd(), Path::new("/long"), 10).is_err());
        assert_eq!(
            read(root.as_fd(), Path::new("/long"), 11).unwrap().unwrap().len(),
            11
        );
        assert!(read(root.as_fd(), Path::new("/none"), 10).unwrap().is_none());
    }
}
