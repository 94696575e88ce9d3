//! Files into the root of a container, by descriptors.
//!
//! A path is looked up within the root (`RESOLVE_IN_ROOT`), links included,
//! whoever changes them when. A file appears under its name whole: it is
//! written beside it and renamed; what a killed process leaves of that is
//! overwritten by the next one, which has the same file to write.
//!
//! A file that is there keeps its owner; a new one gets that of the folder it
//! is put in, so that the container's own user can go on with it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::scan::{Kind, Stamp};

/// The name of what is being written. One at a time in each container.
const FRESH: &str = ".rcompose-sync";

/// A file up to this size is read into memory: one read and one write, and
/// nothing else to ask the kernel for. Sources are many, and nearly all small.
const SMALL: u64 = 128 << 10;

/// The root of a container that is written to.
#[derive(Debug)]
pub struct Root<'fd> {
    root: BorrowedFd<'fd>,
    /// The folder that was used last: neighbours come one after the other.
    last: Option<Folder>,
    /// Content of the file at hand.
    buffer: Vec<u8>,
}

/// A folder of a container.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    fd: OwnedFd,
    /// Whose it is: so are new entries.
    stat: Stat,
}

fn at<'p>(path: &'p Path) -> impl Fn(io::Error) -> io::Error + use<'p> {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl<'fd> Root<'fd> {
    /// Writes below this folder.
    pub fn new(root: BorrowedFd<'fd>) -> Self {
        Self {
            root,
            last: None,
            buffer: Vec::new(),
        }
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() {
            Path::new("/")
        } else {
            path
        };
        loop {
            match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
                // Something on the way was renamed while the kernel looked.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The folder at a path; with `make`, what is missing of it is made.
    fn folder(&mut self, path: &Path, make: bool) -> io::Result<&Folder> {
        if self.last.as_ref().is_none_or(|known| known.path != path) {
            let fd = match self.open(path) {
                Err(Errno::NOENT) if make => self.make_folders(path)?,
                other => other.map_err(|error| at(path)(error.into()))?,
            };
            let stat = rustix::fs::fstat(&fd)?;
            let path = path.to_owned();
            self.last = Some(Folder { path, fd, stat });
        }
        self.last.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn make_folders(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut so_far = PathBuf::from("/");
        let mut folder = self.open(&so_far)?;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            so_far.push(name);
            folder = match self.open(&so_far) {
                Err(Errno::NOENT) => {
                    let owner = rustix::fs::fstat(&folder)?;
                    match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => own(&folder, name, &owner)?,
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(at(&so_far)(error.into())),
                    }
                    self.open(&so_far)
                }
                other => other,
            }
            .map_err(|error| at(&so_far)(error.into()))?;
        }
        Ok(folder)
    }

    /// Puts what is at `source` on this machine, and has this stamp, at
    /// `target`; whether that changed anything. With `compare`, a file that is
    /// there already with the same content is left alone. A source that is no
    /// longer there changes nothing: there will be news of it.
    ///
    /// # Errors
    /// When it cannot be read or written; it names what.
    pub fn put(&mut self, source: &Path, stamp: &Stamp, target: &Path, compare: bool) -> io::Result<bool> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            // The root itself is there.
            return Ok(false);
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        let folder = self.folder(parent, true)?;
        let there = match rustix::fs::statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(at(target)(error.into())),
        };
        let entry = Entry {
            folder,
            name,
            there,
            compare,
        };
        let changed = match stamp.kind {
            Kind::Folder => entry.put_folder(stamp),
            Kind::File => entry.put_file(source, &mut buffer),
            Kind::Link => entry.put_link(source),
        };
        self.buffer = buffer;
        match changed {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Stamp::at(source).is_none() => Ok(false),
            other => other.map_err(at(target)),
        }
    }

    /// Removes what is at `target`, when it is of this kind; whether it was
    /// there. A folder with something in it stays: that is not from here.
    ///
    /// # Errors
    /// When it cannot be removed; it names what.
    pub fn remove(&mut self, target: &Path, kind: Kind) -> io::Result<bool> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Ok(false);
        };
        let folder = match self.folder(parent, false) {
            Ok(folder) => folder,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let flags = match kind {
            Kind::Folder => AtFlags::REMOVEDIR,
            Kind::File | Kind::Link => AtFlags::empty(),
        };
        let removed = rustix::fs::unlinkat(&folder.fd, name, flags);
        if kind == Kind::Folder {
            // It may be the one at hand, or above it.
            self.last = None;
        }
        match removed {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
            // Something is mounted there: it is emptied instead.
            Err(Errno::BUSY) if kind == Kind::File => {
                let folder = self.folder(parent, false)?;
                let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&folder.fd, name, flags, Mode::empty())
                    .map_err(|error| at(target)(error.into()))?;
                Ok(true)
            }
            Err(Errno::BUSY) => Ok(false),
            Err(error) => Err(at(target)(error.into())),
        }
    }
}

fn own(folder: &OwnedFd, name: &OsStr, as_of: &Stat) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(as_of.st_uid), Gid::from_raw(as_of.st_gid));
    Ok(rustix::fs::chownat(
        folder,
        name,
        Some(user),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// One entry of a folder, about to be put there.
struct Entry<'f> {
    folder: &'f Folder,
    name: &'f OsStr,
    /// What has the name now.
    there: Option<Stat>,
    /// What is there with the same content is left alone.
    compare: bool,
}

impl Entry<'_> {
    /// Whose it will be.
    fn owner(&self) -> &Stat {
        self.there.as_ref().unwrap_or(&self.folder.stat)
    }

    fn put_folder(&self, stamp: &Stamp) -> io::Result<bool> {
        let (folder, mode) = (&self.folder.fd, Mode::from_raw_mode(stamp.mode));
        match &self.there {
            Some(there) if kind(there) == FileType::Directory => {
                if self.compare || there.st_mode & 0o7777 == stamp.mode {
                    return Ok(false);
                }
            }
            // A link to a folder is one, as far as its files are concerned.
            Some(there) if kind(there) == FileType::Symlink => return Ok(false),
            Some(_) => {
                return Err(io::Error::other("cannot replace what is not a directory by one"));
            }
            None => {
                rustix::fs::mkdirat(folder, self.name, Mode::from_raw_mode(0o700))?;
                own(folder, self.name, self.owner())?;
            }
        }
        rustix::fs::chmodat(folder, self.name, mode, AtFlags::empty())?;
        Ok(true)
    }

    fn put_file(&self, source: &Path, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let content = File::from(rustix::fs::open(source, flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&content)?;
        if kind(&stat) != FileType::RegularFile {
            // It has just been replaced: there will be news of it.
            return Ok(false);
        }
        let mut content = Content::read(content, &stat, buffer)?;
        if let Some(there) = &self.there {
            if kind(there) == FileType::Directory {
                return Err(io::Error::other("cannot replace a directory by a file"));
            }
            let alike = kind(there) == FileType::RegularFile
                && there.st_size == stat.st_size
                && there.st_mode & 0o7777 == stat.st_mode & 0o7777;
            if self.compare && alike && self.has(&mut content)? {
                return Ok(false);
            }
        }
        let written = self.write(&mut content, &stat);
        if written.is_err() {
            let _ = clear(&self.folder.fd);
        }
        written.map(|()| true)
    }

    fn write(&self, content: &mut Content<'_>, stat: &Stat) -> io::Result<()> {
        let (folder, owner) = (&self.folder.fd, self.owner());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(folder, FRESH, flags, Mode::from_raw_mode(0o600));
        let mut fresh = File::from(match open() {
            // A killed process has left it.
            Err(Errno::EXIST) => {
                clear(folder)?;
                open()?
            }
            other => other?,
        });
        content.write(&mut fresh)?;
        let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
        rustix::fs::fchown(&fresh, Some(user), Some(group))?;
        // After the owner, whose change takes set-user-ID away.
        rustix::fs::fchmod(&fresh, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        rustix::fs::futimens(&fresh, &times(stat))?;
        match rustix::fs::renameat(folder, FRESH, folder, self.name) {
            Ok(()) => Ok(()),
            // A file is mounted there: it is written in place.
            Err(Errno::BUSY) => {
                let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut there = File::from(rustix::fs::openat(folder, self.name, flags, Mode::empty())?);
                content.write(&mut there)?;
                clear(folder)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the file that is there has this content.
    fn has(&self, content: &mut Content<'_>) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut there = File::from(rustix::fs::openat(
            self.folder.fd.as_fd(),
            self.name,
            flags,
            Mode::empty(),
        )?);
        let mut small: &[u8];
        let content: &mut dyn io::Read = match content {
            Content::Small(bytes) => {
                small = bytes;
                &mut small
            }
            Content::Large(file) => file,
        };
        let mut buffers = ([0_u8; 16 << 10], [0_u8; 16 << 10]);
        loop {
            let length = content.read(&mut buffers.0)?;
            let expected = buffers.0.get(..length).unwrap_or_default();
            let found = buffers.1.get_mut(..length).unwrap_or_default();
            match there.read_exact(found) {
                Ok(()) if found == expected => {}
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
            if length == 0 {
                return Ok(true);
            }
        }
    }

    fn put_link(&self, source: &Path) -> io::Result<bool> {
        let folder = &self.folder.fd;
        let leads = rustix::fs::readlink(source, Vec::new())?;
        if let Some(there) = &self.there {
            if kind(there) == FileType::Directory {
                return Err(io::Error::other("cannot replace a directory by a link"));
            }
            if self.compare
                && kind(there) == FileType::Symlink
                && rustix::fs::readlinkat(folder, self.name, Vec::new())? == leads
            {
                return Ok(false);
            }
        }
        clear(folder)?;
        rustix::fs::symlinkat(&leads, folder, FRESH)?;
        let placed = own(folder, OsStr::new(FRESH), self.owner())
            .and_then(|()| Ok(rustix::fs::renameat(folder, FRESH, folder, self.name)?));
        if placed.is_err() {
            let _ = clear(folder);
        }
        placed.map(|()| true)
    }
}

/// What a file is to have in it.
enum Content<'b> {
    Small(&'b [u8]),
    Large(File),
}

impl<'b> Content<'b> {
    fn read(mut file: File, stat: &Stat, buffer: &'b mut Vec<u8>) -> io::Result<Self> {
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if size > SMALL {
            return Ok(Self::Large(file));
        }
        buffer.clear();
        // Room for one more byte: the read that ends it has somewhere to go.
        buffer.reserve(usize::try_from(size).unwrap_or_default() + 1);
        file.read_to_end(buffer)?;
        Ok(Self::Small(buffer))
    }

    /// Writes all of it.
    fn write(&mut self, to: &mut File) -> io::Result<()> {
        match self {
            Self::Small(bytes) => to.write_all(bytes),
            Self::Large(file) => {
                file.rewind()?;
                io::copy(file, to).map(|_| ())
            }
        }
    }
}

fn clear(folder: &OwnedFd) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, FRESH, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    #[test]
    fn entries_are_put_replaced_and_removed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = fs::File::open(to.path()).unwrap();
        let mut root = Root::new(root.as_fd());
        let source = from.path().join("f");
        fs::write(&source, "one").unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o751)).unwrap();
        let mut put = |source: &Path, target: &str, compare| {
            let stamp = Stamp::at(source).unwrap();
            root.put(source, &stamp, Path::new(target), compare)
        };
        assert!(put(&source, "/app/deep/f", true).unwrap());
        let target = to.path().join("app/deep/f");
        assert_eq!(fs::read(&target).unwrap(), b"one");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o751);
        assert!(!put(&source, "/app/deep/f", true).unwrap(), "it is the same");
        fs::write(&source, "two").unwrap();
        assert!(
            put(&source, "/app/deep/f", true).unwrap(),
            "of the same size, and other"
        );
        assert_eq!(fs::read(&target).unwrap(), b"two");
        symlink("f", from.path().join("l")).unwrap();
        assert!(put(&from.path().join("l"), "/app/deep/l", true).unwrap());
        assert!(!put(&from.path().join("l"), "/app/deep/l", true).unwrap());
        assert_eq!(
            fs::read_link(to.path().join("app/deep/l")).unwrap(),
            Path::new("f")
        );
        fs::create_dir(to.path().join("app/d")).unwrap();
        assert!(
            put(&source, "/app/d", true)
                .unwrap_err()
                .to_string()
                .contains("/app/d")
        );
        assert!(!root.remove(Path::new("/app/deep"), Kind::Folder).unwrap());
        assert!(root.remove(Path::new("/app/deep/f"), Kind::File).unwrap());
        assert!(root.remove(Path::new("/app/deep/l"), Kind::Link).unwrap());
        assert!(root.remove(Path::new("/app/deep"), Kind::Folder).unwrap());
        assert!(!root.remove(Path::new("/app/deep/f"), Kind::File).unwrap());
        let left = fs::read_dir(to.path().join("app")).unwrap().count();
        assert_eq!(left, 1, "nothing of what was being written is left");
    }

    #[test]
    fn links_of_the_container_lead_nowhere_but_inside() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = tempfile::tempdir().unwrap();
        fs::write(from.path().join("f"), "x").unwrap();
        symlink(outside.path(), to.path().join("app")).unwrap();
        fs::create_dir(to.path().join("real")).unwrap();
        symlink("/real", to.path().join("inside")).unwrap();
        symlink(outside.path().join("victim"), to.path().join("real/g")).unwrap();
        let root = fs::File::open(to.path()).unwrap();
        let mut root = Root::new(root.as_fd());
        let source = from.path().join("f");
        let stamp = Stamp::at(&source).unwrap();
        // Resolved within the root, where nothing is: made there or refused.
        let _ = root.put(&source, &stamp, Path::new("/app/f"), true);
        assert!(root.put(&source, &stamp, Path::new("/inside/g"), true).unwrap());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(fs::symlink_metadata(to.path().join("real/g")).unwrap().is_file());
    }
}
