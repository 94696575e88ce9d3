//! Trees of files from one place to another, by descriptors.
//!
//! A path in a container is looked up within the container's root
//! (`RESOLVE_IN_ROOT`), links included, whoever changes them when. Below that,
//! only entries of folders that are held open are touched, and never through a
//! link: what is swapped while it is copied leads to an error, not elsewhere.
//!
//! Weak: names of one file (hard links) become files of their own, and extended
//! attributes are not copied.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

/// How many links one path may go through.
const MOST_LINKS: usize = 40;
/// Folders inside folders.
const DEEPEST: usize = 1000;
/// Descriptors that a tree of that depth needs, and some.
pub(super) const DESCRIPTORS: usize = 2 * DEEPEST + 64;

/// Where paths are looked up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tree<'a> {
    /// This machine's files.
    Local,
    /// A container's, by its root.
    Container(BorrowedFd<'a>),
}

/// A name in a folder, and what is there now.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    /// `.` for the folder itself.
    pub(super) name: OsString,
    /// `None`: nothing has that name.
    pub(super) stat: Option<Stat>,
}

impl Place {
    pub(super) fn is_folder(&self) -> bool {
        self.stat
            .as_ref()
            .is_some_and(|stat| kind(stat) == FileType::Directory)
    }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// An error that says on what.
fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

fn refuse(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("{}: {why}", path.display()))
}

impl Tree<'_> {
    fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        match self {
            Self::Local => Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?),
            Self::Container(root) => loop {
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                    // Something on the way was renamed while the kernel looked.
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    other => return Ok(other?),
                }
            },
        }
    }

    /// Looks a path up; with `follow`, through a link that it ends with.
    ///
    /// # Errors
    /// When the folder it is in does not exist or cannot be entered.
    pub(super) fn locate(&self, path: &Path, follow: bool) -> io::Result<Place> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let (parent, name) = match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => (parent.to_owned(), name.to_owned()),
                _ => (path.clone(), OsString::from(".")),
            };
            let parent = if parent.as_os_str().is_empty() {
                PathBuf::from(".")
            } else {
                parent
            };
            let folder = self
                .open(&parent, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(at(&parent))?;
            let stat = match rustix::fs::statat(&folder, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some(stat),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(at(&path)(error.into())),
            };
            if follow && stat.as_ref().is_some_and(|stat| kind(stat) == FileType::Symlink) {
                let target = rustix::fs::readlinkat(&folder, name.as_os_str(), Vec::new())?;
                path = parent.join(OsString::from_vec(target.into_bytes()));
                continue;
            }
            return Ok(Place { folder, name, stat });
        }
        Err(at(&path)(Errno::LOOP.into()))
    }

    /// Opens the folder at `below` a folder of this tree, making what is missing.
    fn make_folders(&self, base: &Path, below: &Path) -> io::Result<OwnedFd> {
        let mut path = base.to_owned();
        let mut folder = self.open(&path, OFlags::PATH | OFlags::DIRECTORY)?;
        for part in below.components() {
            let Component::Normal(name) = part else { continue };
            path.push(name);
            folder = match self.open(&path, OFlags::PATH | OFlags::DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(at(&path)(error.into())),
                    }
                    self.open(&path, OFlags::PATH | OFlags::DIRECTORY)
                }
                other => other,
            }
            .map_err(at(&path))?;
        }
        Ok(folder)
    }
}

/// Whose the copies are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// As of the original.
    Kept,
    /// This user and group.
    Given(u32, u32),
}

/// What is set on a copy.
#[derive(Clone, Copy, Debug)]
struct Attributes {
    owner: (u32, u32),
    mode: u32,
    modified: Timespec,
}

impl Owner {
    fn of(self, stat: &Stat) -> Attributes {
        Attributes {
            owner: match self {
                Self::Kept => (stat.st_uid, stat.st_gid),
                Self::Given(user, group) => (user, group),
            },
            mode: stat.st_mode & 0o7777,
            modified: Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
        }
    }
}

impl Attributes {
    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: self.modified,
        }
    }

    fn set(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let (user, group) = self.owner;
        rustix::fs::fchown(fd, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        // After the owner, whose change takes set-user-ID away.
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))?;
        Ok(rustix::fs::futimens(fd, &self.times())?)
    }

    /// On what cannot be opened: a link, a device.
    fn set_at(&self, folder: BorrowedFd<'_>, name: &OsStr, link: bool) -> io::Result<()> {
        let (user, group) = self.owner;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(
            folder,
            name,
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
            flags,
        )?;
        if !link {
            rustix::fs::chmodat(folder, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(folder, name, &self.times(), flags)?)
    }
}

/// Opens an entry that must be a folder itself.
fn open_folder(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// Opens an entry that must be a regular file itself, to read it.
fn open_file(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if kind(&stat) != FileType::RegularFile {
        return Err(io::Error::other("is no longer a regular file"));
    }
    Ok((fd.into(), stat))
}

/// The names in a folder, sorted.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

/// Makes room for a new entry: what has the name goes, but a folder.
/// `false` when it must be written in place (something is mounted on it).
fn clear(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(Errno::ISDIR) => Err(io::Error::other(
            "cannot overwrite a directory with a non-directory",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Makes a regular file with this content.
fn make_file(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    content: &mut dyn Read,
    attributes: &Attributes,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = if clear(folder, name)? {
        flags | OFlags::CREATE | OFlags::EXCL
    } else {
        flags | OFlags::TRUNC
    };
    let mut file = File::from(rustix::fs::openat(
        folder,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?);
    io::copy(content, &mut file)?;
    attributes.set(file.as_fd())
}

fn make_link(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    target: &OsStr,
    attributes: &Attributes,
) -> io::Result<()> {
    clear(folder, name)?;
    rustix::fs::symlinkat(target, folder, name)?;
    attributes.set_at(folder, name, true)
}

fn make_special(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileType,
    device: u64,
    attributes: &Attributes,
) -> io::Result<()> {
    clear(folder, name)?;
    rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(0o600), device)?;
    attributes.set_at(folder, name, false)
}

/// Makes a folder unless there is one; whether it was made.
fn make_folder(folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<(OwnedFd, bool)> {
    let made = match rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    match open_folder(folder, name) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => Err(io::Error::other(
            "cannot overwrite a non-directory with a directory",
        )),
        other => Ok((other?, made)),
    }
}

/// A copy that is being made.
#[derive(Debug)]
pub(super) struct Copy {
    owner: Owner,
    /// The folder that is copied into, by device and inode: it may lie in what
    /// is copied.
    avoid: Option<(u64, u64)>,
    /// What could not be copied, and does not matter.
    pub(super) warnings: Vec<String>,
}

impl Copy {
    pub(super) fn new(owner: Owner) -> Self {
        Self {
            owner,
            avoid: None,
            warnings: Vec::new(),
        }
    }

    /// Copies an entry to a name in another folder.
    ///
    /// # Errors
    /// When something cannot be read or written; it names what.
    pub(super) fn entry(&mut self, from: &Place, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let shown = PathBuf::from(if from.name == "." { name } else { &from.name });
        self.copy((from.folder.as_fd(), &from.name), (to, name), &shown, 0)
    }

    /// Copies what is in a folder into another one.
    ///
    /// # Errors
    /// As [`Self::entry`].
    pub(super) fn contents(&mut self, from: &Place, to: &OwnedFd) -> io::Result<()> {
        let source = open_folder(from.folder.as_fd(), &from.name)?;
        self.shun(to)?;
        self.within(&source, to, Path::new(""), 0)
    }

    /// Leaves out the folder that everything goes into.
    fn shun(&mut self, folder: &OwnedFd) -> io::Result<()> {
        if self.avoid.is_none() {
            let stat = rustix::fs::fstat(folder)?;
            self.avoid = Some((stat.st_dev, stat.st_ino));
        }
        Ok(())
    }

    fn within(&mut self, from: &OwnedFd, to: &OwnedFd, shown: &Path, depth: usize) -> io::Result<()> {
        if depth > DEEPEST {
            return Err(refuse(shown, "too many folders inside folders"));
        }
        for name in names(from)? {
            let below = shown.join(&name);
            self.copy((from.as_fd(), &name), (to.as_fd(), &name), &below, depth)?;
        }
        Ok(())
    }

    fn copy(
        &mut self,
        (from, name): (BorrowedFd<'_>, &OsStr),
        (to, new): (BorrowedFd<'_>, &OsStr),
        shown: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| at(shown)(error.into()))?;
        if self.avoid == Some((stat.st_dev, stat.st_ino)) {
            self.warnings
                .push(format!("{} is copied into: it is left out", shown.display()));
            return Ok(());
        }
        let attributes = self.owner.of(&stat);
        match kind(&stat) {
            FileType::Directory => {
                let source = open_folder(from, name).map_err(at(shown))?;
                let (target, made) = make_folder(to, new).map_err(at(shown))?;
                self.shun(&target)?;
                self.within(&source, &target, shown, depth + 1)?;
                if made {
                    attributes.set(target.as_fd()).map_err(at(shown))?;
                }
                Ok(())
            }
            FileType::RegularFile => open_file(from, name)
                .and_then(|(mut file, stat)| make_file(to, new, &mut file, &self.owner.of(&stat)))
                .map_err(at(shown)),
            FileType::Symlink => rustix::fs::readlinkat(from, name, Vec::new())
                .map_err(io::Error::from)
                .and_then(|target| make_link(to, new, OsStr::from_bytes(target.to_bytes()), &attributes))
                .map_err(at(shown)),
            kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
                make_special(to, new, kind, stat.st_rdev, &attributes).map_err(at(shown))
            }
            _ => {
                self.warnings
                    .push(format!("{} is a socket: it is left out", shown.display()));
                Ok(())
            }
        }
    }
}

/// Writes an entry, with what is below it, as a tar archive; its names begin
/// with `name`.
///
/// # Errors
/// When something cannot be read or written; it names what.
pub(super) fn pack(from: &Place, name: &Path, out: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(256 << 10, out));
    add(&mut archive, from.folder.as_fd(), &from.name, name, 0)?;
    archive.into_inner()?.flush()
}

fn add<W: Write>(
    archive: &mut tar::Builder<W>,
    folder: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    depth: usize,
) -> io::Result<()> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| at(path)(error.into()))?;
    if depth > DEEPEST {
        return Err(refuse(path, "too many folders inside folders"));
    }
    let mut header = header(&stat);
    let special = |kind| (kind, io::empty());
    let (kind, nothing) = match kind(&stat) {
        FileType::RegularFile => {
            let (file, stat) = open_file(folder, name).map_err(at(path))?;
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            header.set_size(size);
            header.set_entry_type(tar::EntryType::Regular);
            // As long as the header says, whatever is done to it meanwhile.
            let content = file.take(size).chain(io::repeat(0)).take(size);
            return archive.append_data(&mut header, path, content).map_err(at(path));
        }
        FileType::Directory => {
            let inside = open_folder(folder, name).map_err(at(path))?;
            header.set_entry_type(tar::EntryType::Directory);
            archive
                .append_data(&mut header, path.join(""), io::empty())
                .map_err(at(path))?;
            for name in names(&inside)? {
                add(archive, inside.as_fd(), &name, &path.join(&name), depth + 1)?;
            }
            return Ok(());
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            header.set_entry_type(tar::EntryType::Symlink);
            let target = OsString::from_vec(target.into_bytes());
            return archive
                .append_link(&mut header, path, Path::new(&target))
                .map_err(at(path));
        }
        FileType::Fifo => special(tar::EntryType::Fifo),
        FileType::CharacterDevice => special(tar::EntryType::Char),
        FileType::BlockDevice => special(tar::EntryType::Block),
        // Tar has no word for sockets.
        _ => return Ok(()),
    };
    header.set_entry_type(kind);
    header.set_device_major(rustix::fs::major(stat.st_rdev))?;
    header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
    archive.append_data(&mut header, path, nothing).map_err(at(path))
}

fn header(stat: &Stat) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

/// Unpacks a tar archive into a folder of a tree. Links of the tree are
/// followed within it, as the container itself would.
///
/// # Errors
/// When something cannot be read or written, or a name leads out of the folder.
pub(super) fn unpack(archive: impl Read, tree: Tree<'_>, base: &Path, owner: Owner) -> io::Result<()> {
    let mut archive = tar::Archive::new(archive);
    // What is put into a folder changes its time: last.
    let mut folders: Vec<(OwnedFd, Attributes)> = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = plain(&entry.path()?)?;
        let header = entry.header().clone();
        let attributes = Attributes {
            owner: match owner {
                Owner::Kept => (
                    u32::try_from(header.uid()?).unwrap_or(0),
                    u32::try_from(header.gid()?).unwrap_or(0),
                ),
                Owner::Given(user, group) => (user, group),
            },
            mode: header.mode()? & 0o7777,
            modified: Timespec {
                tv_sec: i64::try_from(header.mtime()?).unwrap_or(0),
                tv_nsec: 0,
            },
        };
        let kind = header.entry_type();
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            // The folder itself: it is as it is.
            continue;
        };
        let folder = tree.make_folders(base, parent)?;
        let folder = folder.as_fd();
        match kind {
            tar::EntryType::Directory => {
                let (fd, made) = make_folder(folder, name).map_err(at(&path))?;
                if made && folders.len() < DEEPEST {
                    folders.push((fd, attributes));
                } else if made {
                    attributes.set(fd.as_fd()).map_err(at(&path))?;
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                make_file(folder, name, &mut entry, &attributes).map_err(at(&path))?;
            }
            tar::EntryType::Symlink => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| refuse(&path, "a link to nothing"))?;
                make_link(folder, name, target.as_os_str(), &attributes).map_err(at(&path))?;
            }
            tar::EntryType::Link => {
                let target = entry
                    .link_name()?
                    .ok_or_else(|| refuse(&path, "a link to nothing"))?;
                let original = tree.locate(&base.join(plain(&target)?), false)?;
                clear(folder, name).map_err(at(&path))?;
                rustix::fs::linkat(
                    &original.folder,
                    original.name.as_os_str(),
                    folder,
                    name,
                    AtFlags::empty(),
                )
                .map_err(|error| at(&path)(error.into()))?;
            }
            tar::EntryType::Fifo | tar::EntryType::Char | tar::EntryType::Block => {
                let device = rustix::fs::makedev(
                    header.device_major()?.unwrap_or(0),
                    header.device_minor()?.unwrap_or(0),
                );
                let kind = match kind {
                    tar::EntryType::Char => FileType::CharacterDevice,
                    tar::EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                make_special(folder, name, kind, device, &attributes).map_err(at(&path))?;
            }
            // Headers of the archive itself.
            tar::EntryType::XGlobalHeader => {}
            _ => return Err(refuse(&path, "an entry of an unknown kind")),
        }
    }
    for (folder, attributes) in folders.iter().rev() {
        attributes.set(folder.as_fd())?;
    }
    Ok(())
}

/// A name of an archive as a path below a folder.
fn plain(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refuse(path, "the name leads out of the folder"));
            }
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn root(folder: &Path) -> OwnedFd {
        rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn own() -> Owner {
        Owner::Given(
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )
    }

    #[test]
    fn links_lead_nowhere_but_inside() {
        let (container, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path().join("secret"), container.path().join("link")).unwrap();
        symlink("../../../../../etc", container.path().join("up")).unwrap();
        symlink("loop", container.path().join("loop")).unwrap();
        let fd = root(container.path());
        let tree = Tree::Container(fd.as_fd());
        assert!(
            tree.locate(Path::new("/link"), true).is_err(),
            "its folder is not inside"
        );
        assert!(tree.locate(Path::new("/up"), true).unwrap().stat.is_none());
        assert!(tree.locate(Path::new("/loop"), true).is_err());
        let link = tree.locate(Path::new("/link"), false).unwrap();
        assert_eq!(kind(link.stat.as_ref().unwrap()), FileType::Symlink);
        assert!(tree.locate(Path::new("/"), true).unwrap().is_folder());
        // A link where a file is written is replaced, not followed.
        let source = Tree::Local.locate(&outside.path().join("secret"), false).unwrap();
        Copy::new(own())
            .entry(&source, fd.as_fd(), OsStr::new("up"))
            .unwrap();
        assert!(
            fs::symlink_metadata(container.path().join("up"))
                .unwrap()
                .is_file()
        );
    }

    #[test]
    fn trees_are_copied_with_what_they_are() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| from.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("a/b/run"), "#!").unwrap();
        fs::set_permissions(path("a/b/run"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::set_permissions(path("a/b"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("b/run", path("a/link")).unwrap();
        let fd = root(to.path());
        let source = Tree::Local.locate(&path("a"), false).unwrap();
        let mut copy = Copy::new(own());
        copy.entry(&source, fd.as_fd(), OsStr::new("copy")).unwrap();
        let mode = |name: &str| fs::symlink_metadata(to.path().join(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode("copy/b/run"), 0o4755);
        assert_eq!(mode("copy/b"), 0o750);
        assert_eq!(
            fs::read_link(to.path().join("copy/link")).unwrap(),
            Path::new("b/run")
        );
        let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(path("a/b/run")), time(to.path().join("copy/b/run")));
        // Into itself.
        let source = Tree::Local.locate(&path("a"), false).unwrap();
        let inside = root(&path("a/b"));
        let mut copy = Copy::new(own());
        copy.contents(&source, &inside).unwrap();
        assert_eq!(copy.warnings.len(), 1, "{:?}", copy.warnings);
        // A folder is not replaced by a file.
        let file = Tree::Local.locate(&path("a/b/run"), false).unwrap();
        let error = Copy::new(own())
            .entry(&file, fd.as_fd(), OsStr::new("copy"))
            .unwrap_err();
        assert!(error.to_string().contains("cannot overwrite"), "{error}");
    }

    #[test]
    fn archives_go_out_and_come_in() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(from.path().join("a/b")).unwrap();
        fs::write(from.path().join("a/b/file"), "content").unwrap();
        symlink("b/file", from.path().join("a/link")).unwrap();
        let mut bytes = Vec::new();
        let source = Tree::Local.locate(&from.path().join("a"), false).unwrap();
        pack(&source, Path::new("a"), &mut bytes).unwrap();
        let fd = root(to.path());
        let tree = Tree::Container(fd.as_fd());
        fs::create_dir(to.path().join("here")).unwrap();
        unpack(bytes.as_slice(), tree, Path::new("/here"), own()).unwrap();
        assert_eq!(fs::read(to.path().join("here/a/link")).unwrap(), b"content");

        let archive = |name: &str, link: Option<&str>| {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o644);
            if let Some(link) = link {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, "way", link).unwrap();
                header.set_entry_type(tar::EntryType::Regular);
            }
            let bytes = header.as_old_mut();
            bytes.name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
            builder.into_inner().unwrap()
        };
        let up = unpack(
            archive("../out", None).as_slice(),
            tree,
            Path::new("/here"),
            own(),
        );
        assert!(up.unwrap_err().to_string().contains("leads out"));
        let outside = tempfile::tempdir().unwrap();
        let link = outside.path().to_str().unwrap();
        let through = unpack(
            archive("way/in", Some(link)).as_slice(),
            tree,
            Path::new("/here"),
            own(),
        );
        assert!(through.is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
