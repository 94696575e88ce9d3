//! Puts entries into a folder, never outside it.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::tar::{Entry, Kind, Reader, Time};
use super::{Limits, UnpackError, Unpacked};

/// Marks a folder that hides what lower layers have in it.
pub(super) const OPAQUE: &str = "trusted.overlay.opaque";
/// overlayfs's own attributes, and how it escapes them (Linux 6.7,
/// Documentation/filesystems/overlayfs.rst, "Nesting overlayfs mounts").
const OVERLAY: &[u8] = b"trusted.overlay.";
/// Longest path below the layer; the kernel's own limit.
const PATH_LIMIT: usize = 4095;
/// Longest part of a path (NAME_MAX).
const NAME_LIMIT: usize = 255;
/// Folders inside folders; each level costs a descriptor when they are removed.
const DEPTH_LIMIT: usize = 256;

/// Resolves below the layer only, through no link of any kind.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Owner, mode and time of a folder, set when the layer is complete.
#[derive(Clone, Copy, Debug)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Time,
}

/// The layer while it grows.
pub(super) struct Tree<'a> {
    root: &'a OwnedFd,
    limits: Limits,
    done: Unpacked,
    /// The parent of the last entry: archives hold the content of a folder in a row.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Every folder of this layer; `None` when no entry describes it.
    folders: BTreeMap<Vec<u8>, Option<Attributes>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a OwnedFd, limits: Limits) -> Self {
        Self {
            root,
            limits,
            done: Unpacked::default(),
            parent: None,
            folders: BTreeMap::new(),
        }
    }

    /// Puts one entry into the layer.
    pub(super) fn add<R: Read>(
        &mut self,
        mut entry: Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        self.done.entries += 1;
        if self.done.entries > self.limits.entries {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        entry.path = normalise(&entry.path)?;
        if entry.path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(UnpackError::path(b"/", "is the layer itself and not a folder"));
            }
            self.set_attributes_of_folder(self.root.as_fd(), &entry)?;
            self.folders.insert(Vec::new(), Some(attributes(&entry)));
            return Ok(());
        }
        let (parent_path, name) = split(&entry.path);
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            return self.add_whiteout(&entry.path, parent_path, hidden);
        }
        let parent = self.open_parent(parent_path)?;
        match entry.kind {
            Kind::Directory => self.add_folder(&parent, name, &entry),
            Kind::File => self.add_file(&parent, name, &entry, reader),
            Kind::HardLink => self.add_hard_link(&parent, name, &entry),
            Kind::Symlink | Kind::CharacterDevice | Kind::BlockDevice | Kind::Fifo => {
                self.add_special(&parent, name, &entry)
            }
        }
    }

    /// Sets what had to wait until nothing changes any more.
    pub(super) fn finish(mut self) -> Result<Unpacked, UnpackError> {
        for (path, attributes) in &self.folders {
            let folder = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let set_mode = |mode| {
                rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode))
                    .map_err(UnpackError::io("set the mode of", path))
            };
            let Some(attributes) = attributes else {
                // Whatever the umask has made of it.
                set_mode(0o755)?;
                continue;
            };
            let owner = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            rustix::fs::fchown(&folder, Some(owner.0), Some(owner.1))
                .map_err(UnpackError::io("set the owner of", path))?;
            set_mode(attributes.mode)?;
            rustix::fs::futimens(&folder, &times(attributes.modified))
                .map_err(UnpackError::io("set the time of", path))?;
        }
        let unlisted = self
            .folders
            .into_iter()
            .filter(|(_, attributes)| attributes.is_none());
        self.done.unlisted = unlisted.map(|(path, _)| path).collect();
        Ok(self.done)
    }

    /// Opens something of this layer by its whole path.
    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, UnpackError> {
        let name = if path.is_empty() { b"." } else { path };
        rustix::fs::openat2(
            self.root,
            name,
            flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::empty(),
            BENEATH,
        )
        .map_err(UnpackError::io("open", path))
    }

    /// Opens the folder that an entry goes into, making it when no entry has.
    fn open_parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some((known, folder)) = &self.parent
            && known == path
        {
            return Ok(Rc::clone(folder));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let name = if path.is_empty() { b"." } else { path };
        let folder = match rustix::fs::openat2(self.root, name, flags, Mode::empty(), BENEATH) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(path)?,
            Err(Errno::LOOP) => {
                return Err(UnpackError::path(
                    path,
                    "goes through a symbolic link of this layer",
                ));
            }
            Err(error) => return Err(UnpackError::io("open", path)(error)),
        };
        let folder = Rc::new(folder);
        self.parent = Some((path.to_vec(), Rc::clone(&folder)));
        Ok(folder)
    }

    /// Makes folders that the archive does not list, one by one.
    fn make_parents(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut folder = self.open(b"", OFlags::PATH | OFlags::DIRECTORY)?;
        let mut end = 0;
        for name in path.split(|&byte| byte == b'/') {
            end += name.len() + usize::from(end > 0);
            let so_far = path.get(..end).unwrap_or(path);
            match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => self.made_folder(so_far)?,
                Err(Errno::EXIST) => {
                    let found = Found::at(&folder, name, so_far)?;
                    match found {
                        Found::Folder => {}
                        Found::Whiteout => self.whiteout_to_folder(&folder, name, so_far)?,
                        Found::Other => {
                            return Err(UnpackError::path(
                                path,
                                "goes through something that is not a folder",
                            ));
                        }
                    }
                }
                Err(error) => return Err(UnpackError::io("create folder", so_far)(error)),
            }
            folder = rustix::fs::openat(&folder, name, flags, Mode::empty())
                .map_err(UnpackError::io("open", so_far))?;
        }
        Ok(folder)
    }

    /// Notes a folder that is new.
    fn made_folder(&mut self, path: &[u8]) -> Result<(), UnpackError> {
        // An archive of deep paths makes more folders than it has entries.
        if self.folders.len() as u64 >= self.limits.entries {
            return Err(UnpackError::Limit {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        self.folders.insert(path.to_vec(), None);
        Ok(())
    }

    /// `.wh.x` and then `x/…`: nothing of the lower `x` may show through.
    fn whiteout_to_folder(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(UnpackError::io("remove", path))?;
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
            .map_err(UnpackError::io("create folder", path))?;
        self.made_folder(path)?;
        self.make_opaque(path)
    }

    fn make_opaque(&self, path: &[u8]) -> Result<(), UnpackError> {
        let folder = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty())
            .map_err(UnpackError::io("set trusted.overlay.opaque on", path))
    }

    fn add_whiteout(&mut self, path: &[u8], parent: &[u8], hidden: &[u8]) -> Result<(), UnpackError> {
        if hidden == b".wh..opq" {
            self.open_parent(parent)?;
            return self.make_opaque(parent);
        }
        if hidden.starts_with(b".wh.") {
            // Bookkeeping of AUFS (`.wh..wh.plnk`, `.wh..wh.aufs`): means nothing.
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(UnpackError::path(path, "is a whiteout of no name"));
        }
        let folder = self.open_parent(parent)?;
        let created = rustix::fs::mknodat(
            &*folder,
            hidden,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        );
        match created {
            Err(Errno::EXIST) => match Found::at(&folder, hidden, path)? {
                // This layer's own folder stays; what lies below does not show.
                Found::Folder => self.make_opaque(&join(parent, hidden)),
                Found::Whiteout | Found::Other => Ok(()),
            },
            other => other.map_err(UnpackError::io("create whiteout", path)),
        }
    }

    fn add_folder(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let path = &entry.path;
        let make = |parent: &OwnedFd| rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755));
        match make(parent) {
            Ok(()) => self.made_folder(path)?,
            Err(Errno::EXIST) => match Found::at(parent, name, path)? {
                Found::Folder => {}
                Found::Whiteout => self.whiteout_to_folder(parent, name, path)?,
                Found::Other => {
                    self.remove(parent, name, path)?;
                    make(parent).map_err(UnpackError::io("create folder", path))?;
                    self.made_folder(path)?;
                }
            },
            Err(error) => return Err(UnpackError::io("create folder", path)(error)),
        }
        if !entry.attributes.is_empty() {
            let folder = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.set_attributes_of_folder(folder.as_fd(), entry)?;
        }
        self.folders.insert(path.clone(), Some(attributes(entry)));
        Ok(())
    }

    fn set_attributes_of_folder(
        &self,
        folder: std::os::fd::BorrowedFd<'_>,
        entry: &Entry,
    ) -> Result<(), UnpackError> {
        for (name, value) in &entry.attributes {
            let result = rustix::fs::fsetxattr(folder, escape(name), value, XattrFlags::empty());
            check_attribute(result, name, &entry.path)?;
        }
        Ok(())
    }

    fn add_file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        let path = &entry.path;
        let open = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
        };
        let file = match open() {
            Err(Errno::EXIST) => {
                self.remove(parent, name, path)?;
                open()
            }
            other => other,
        }
        .map_err(UnpackError::io("create", path))?;
        if reader.remaining() > self.limits.bytes.saturating_sub(self.done.bytes) {
            return Err(UnpackError::Limit {
                what: "bytes",
                limit: self.limits.bytes,
            });
        }
        self.done.bytes += reader.remaining();
        let write = |reader: &mut Reader<R>, mut offset: u64, mut length: u64| {
            while length > 0 {
                let data = reader.data(length)?;
                if data.is_empty() {
                    return Err(UnpackError::Truncated);
                }
                let mut rest = data;
                while !rest.is_empty() {
                    let count = match rustix::io::pwrite(&file, rest, offset) {
                        Err(Errno::INTR) => continue,
                        other => other.map_err(UnpackError::io("write", path))?,
                    };
                    rest = rest.get(count..).unwrap_or_default();
                    offset += count as u64;
                    length -= count as u64;
                }
            }
            Ok(())
        };
        if let Some(sparse) = &entry.sparse {
            for &(offset, length) in &sparse.segments {
                write(reader, offset, length)?;
            }
            rustix::fs::ftruncate(&file, sparse.length)
                .map_err(UnpackError::io("set the length of", path))?;
        } else {
            write(reader, 0, reader.remaining())?;
        }
        rustix::fs::fchown(
            &file,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(UnpackError::io("set the owner of", path))?;
        // After the owner: chown(2) clears set-user-ID and capabilities.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
            .map_err(UnpackError::io("set the mode of", path))?;
        for (name, value) in &entry.attributes {
            let result = rustix::fs::fsetxattr(&file, escape(name), value, XattrFlags::empty());
            check_attribute(result, name, path)?;
        }
        rustix::fs::futimens(&file, &times(entry.modified)).map_err(UnpackError::io("set the time of", path))
    }

    fn add_hard_link(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let path = &entry.path;
        let target = normalise(&entry.link)?;
        let missing = || UnpackError::Link {
            path: String::from_utf8_lossy(path).into_owned(),
            target: String::from_utf8_lossy(&target).into_owned(),
        };
        let (target_parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(missing());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let from = match self.open(target_parent, flags) {
            Ok(folder) => folder,
            Err(UnpackError::Io { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
                ) =>
            {
                return Err(missing());
            }
            Err(error) => return Err(error),
        };
        match Found::at(&from, target_name, &target) {
            Ok(Found::Other) => {}
            Ok(Found::Folder | Found::Whiteout) => return Err(missing()),
            Err(UnpackError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(missing());
            }
            Err(error) => return Err(error),
        }
        if target == *path {
            return Ok(());
        }
        let link = || rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {
                if target.starts_with(path) && target.get(path.len()) == Some(&b'/') {
                    return Err(UnpackError::path(
                        path,
                        "would replace the folder of its own target",
                    ));
                }
                self.remove(parent, name, path)?;
                link()
            }
            other => other,
        }
        .map_err(UnpackError::io("link", path))
    }

    /// Symbolic links, devices and pipes: no data, and not to be opened.
    fn add_special(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let path = &entry.path;
        let make = || match entry.kind {
            Kind::Symlink => rustix::fs::symlinkat(entry.link.as_slice(), parent, name),
            kind => {
                let (kind, device) = match kind {
                    Kind::CharacterDevice => (FileType::CharacterDevice, entry.device),
                    Kind::BlockDevice => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                let device = rustix::fs::makedev(device.0, device.1);
                rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)
            }
        };
        if entry.kind == Kind::Symlink && entry.link.is_empty() {
            return Err(UnpackError::path(path, "is a symbolic link to nothing"));
        }
        match make() {
            Err(Errno::EXIST) => {
                self.remove(parent, name, path)?;
                make()
            }
            other => other,
        }
        .map_err(UnpackError::io("create", path))?;
        let owner = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        rustix::fs::chownat(
            parent,
            name,
            Some(owner.0),
            Some(owner.1),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(UnpackError::io("set the owner of", path))?;
        if entry.kind != Kind::Symlink {
            // Just made and not a symbolic link: nothing is followed.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(UnpackError::io("set the mode of", path))?;
        }
        if !entry.attributes.is_empty() {
            // There is no call by descriptor for these; the name is the last
            // part, which lsetxattr(2) does not follow.
            let mut full = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
            full.extend_from_slice(name);
            for (name, value) in &entry.attributes {
                let result = rustix::fs::lsetxattr(full.as_slice(), escape(name), value, XattrFlags::empty());
                check_attribute(result, name, path)?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("set the time of", path))
    }

    /// Removes what an earlier entry made.
    fn remove(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR) => {
                self.parent = None;
                // By range: an archive may do this for each of a million folders.
                let below = join(path, b"");
                let gone = self.folders.range(below.clone()..);
                let gone = gone
                    .map(|(known, _)| known)
                    .take_while(|known| known.starts_with(&below));
                for known in gone.cloned().collect::<Vec<_>>() {
                    self.folders.remove(&known);
                }
                self.folders.remove(path);
                remove_folder(parent, name).map_err(UnpackError::io("remove", path))
            }
            Err(error) => Err(UnpackError::io("remove", path)(error)),
        }
    }
}

fn attributes(entry: &Entry) -> Attributes {
    Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        modified: entry.modified,
    }
}

fn times(modified: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.into(),
        },
    }
}

/// What is already at a name.
enum Found {
    Folder,
    /// The character device 0:0.
    Whiteout,
    Other,
}

impl Found {
    fn at(parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<Self, UnpackError> {
        let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(UnpackError::io("look at", path))?;
        Ok(match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => Self::Folder,
            FileType::CharacterDevice if found.st_rdev == 0 => Self::Whiteout,
            _ => Self::Other,
        })
    }
}

/// Removes a folder and all that is in it. Its depth is bounded by
/// [`DEPTH_LIMIT`].
fn remove_folder(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let names: Vec<_> = rustix::fs::Dir::read_from(&folder)?
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<Result<_, _>>()?;
    for name in names {
        let name = name.as_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_folder(&folder, name)?,
            other => other?,
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// A path below the layer: no leading, doubled or trailing slashes, no `.`.
/// A leading slash means the layer itself.
pub(super) fn normalise(path: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let wrong = |reason| Err(UnpackError::path(path.get(..200).unwrap_or(path), reason));
    let mut clean = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return wrong("has .. in its path"),
            _ if part.contains(&0) => return wrong("has a NUL byte in its path"),
            _ if part.len() > NAME_LIMIT => return wrong("has a name longer than 255 bytes"),
            _ => {}
        }
        depth += 1;
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
    }
    if clean.len() > PATH_LIMIT {
        return wrong("has a path longer than 4095 bytes");
    }
    if depth > DEPTH_LIMIT {
        return wrong("is more than 256 folders deep");
    }
    Ok(clean)
}

/// Parent and name of a normalised path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (b"", path),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}

/// The name that an attribute has on the disk so that it has its own in the
/// overlay.
fn escape(name: &[u8]) -> Vec<u8> {
    match name.strip_prefix(OVERLAY) {
        Some(rest) => [OVERLAY, b"overlay.", rest].concat(),
        None => name.to_vec(),
    }
}

/// An attribute that this file system cannot hold is left out with a warning,
/// as Docker does; a capability is not: the program would not work.
fn check_attribute(result: rustix::io::Result<()>, name: &[u8], path: &[u8]) -> Result<(), UnpackError> {
    match result {
        Err(error @ (Errno::OPNOTSUPP | Errno::PERM)) if name != b"security.capability" => {
            tracing::warn!(
                path = %String::from_utf8_lossy(path),
                attribute = %String::from_utf8_lossy(name),
                %error,
                "extended attribute left out"
            );
            Ok(())
        }
        other => other.map_err(UnpackError::io("set an extended attribute of", path)),
    }
}
