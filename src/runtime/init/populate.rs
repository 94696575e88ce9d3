//! Filling a fresh volume with what the image has where it is mounted.
//!
//! A copy goes into a folder beside the volume first (`<marker>.part`), which
//! is renamed when it is complete (`<marker>.ready`); then its entries are moved
//! into the volume one by one, and the marker is written. Whenever this is
//! killed, the next start goes on from the last of these states, and a volume
//! that already holds something is left alone. A lock on the marker's folder
//! keeps two containers with one volume apart.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::place;

/// The folders of a volume, opened while the host's paths can still be seen.
#[derive(Debug)]
pub(super) struct Volume {
    data: OwnedFd,
    /// The folder of the marker.
    beside: OwnedFd,
    marker: CString,
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Volume {
    /// Opens a volume that may have to be filled, and locks it; `None` when it
    /// has been.
    pub(super) fn open(source: &Path, marker: &Path) -> io::Result<Option<Self>> {
        let name = marker
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let marker_name = CString::new(name.as_encoded_bytes())?;
        if marker.symlink_metadata().is_ok() {
            return Ok(None);
        }
        let folder = marker.parent().unwrap_or(Path::new("/"));
        let beside = rustix::fs::open(folder, FOLDER, Mode::empty())?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&beside, FlockOperation::LockExclusive))?;
        if marker.symlink_metadata().is_ok() {
            return Ok(None);
        }
        let data = rustix::fs::open(source, FOLDER, Mode::empty())?;
        Ok(Some(Self {
            data,
            beside,
            marker: marker_name,
        }))
    }

    /// Fills it with what is at `destination` below `root`. The lock goes with `self`.
    pub(super) fn fill(self, root: BorrowedFd<'_>, destination: &Path) -> io::Result<()> {
        let suffixed = |suffix: &str| {
            let mut name = self.marker.as_bytes().to_vec();
            name.extend(suffix.as_bytes());
            CString::new(name)
        };
        let (part, ready) = (suffixed(".part")?, suffixed(".ready")?);
        let beside = self.beside.as_fd();
        let complete = rustix::fs::statat(beside, &ready, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if !complete && is_empty(self.data.as_fd())? {
            remove_tree(beside, &part)?;
            let source = match place::open(root, destination, OFlags::RDONLY | OFlags::DIRECTORY, true) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    None
                }
                other => Some(other?),
            };
            if let Some(source) = source {
                rustix::fs::mkdirat(beside, &part, Mode::from_raw_mode(0o700))?;
                let copy = rustix::fs::openat(beside, &part, FOLDER, Mode::empty())?;
                let mut links = Links {
                    seen: HashMap::new(),
                    top: copy.as_fd(),
                };
                let mut path = Vec::new();
                copy_folder(source.as_fd(), copy.as_fd(), &mut links, &mut path)?;
                // A volume outlives a power failure: so does what it begins with.
                rustix::fs::syncfs(&copy)?;
                rustix::fs::renameat(beside, &part, beside, &ready)?;
            }
        }
        match rustix::fs::openat(beside, &ready, FOLDER, Mode::empty()) {
            Ok(copy) => {
                for name in names(copy.as_fd())? {
                    match rustix::fs::renameat(&copy, &name, &self.data, &name) {
                        Ok(()) => {}
                        // Something is mounted for the volume.
                        Err(Errno::XDEV) => move_across(copy.as_fd(), self.data.as_fd(), &name)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                copy_attributes(copy.as_fd(), self.data.as_fd(), &rustix::fs::fstat(&copy)?)?;
                rustix::fs::fsync(&self.data)?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(beside, &self.marker, flags, Mode::from_raw_mode(0o600))?;
        remove_tree(beside, &ready)
    }
}

/// Moves an entry to another file system. Nobody else has seen what is there in
/// its place already: an earlier attempt was cut short. Files with several names
/// that are not all in this entry become several files.
fn move_across(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    remove_tree(to, name)?;
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut links = Links {
        seen: HashMap::new(),
        top: to,
    };
    copy_entry(from, to, name, &stat, &mut links, &mut name.to_bytes().to_vec())?;
    remove_tree(from, name)
}

/// Copies what is in one folder into another, with its attributes when
/// `attributes` is set.
pub(super) fn copy_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>, attributes: bool) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, ".", flags, Mode::empty())?;
    let to = rustix::fs::openat(to, ".", flags, Mode::empty())?;
    let before = rustix::fs::fstat(&to)?;
    let mut links = Links {
        seen: HashMap::new(),
        top: to.as_fd(),
    };
    copy_folder(from.as_fd(), to.as_fd(), &mut links, &mut Vec::new())?;
    if !attributes {
        rustix::fs::fchmod(&to, Mode::from_raw_mode(before.st_mode & 0o7777))?;
        let (owner, group) = (before.st_uid, before.st_gid);
        let (owner, group) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(group));
        rustix::fs::fchown(&to, Some(owner), Some(group))?;
    }
    Ok(())
}

/// Files with several names: inode to the first name it was copied to, below `top`.
struct Links<'a> {
    seen: HashMap<(u64, u64), Vec<u8>>,
    top: BorrowedFd<'a>,
}

/// The entries of a folder, without `.` and `..`.
fn names(folder: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut list = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            list.push(name.to_owned());
        }
    }
    Ok(list)
}

/// Whether a folder has no entries; what `mkfs` leaves does not count.
fn is_empty(folder: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(names(folder)?.iter().all(|name| name.as_c_str() == c"lost+found"))
}

fn copy_folder(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    links: &mut Links<'_>,
    path: &mut Vec<u8>,
) -> io::Result<()> {
    for name in names(from)? {
        let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend(name.as_bytes());
        copy_entry(from, to, &name, &stat, links, path)?;
        path.truncate(length);
    }
    copy_attributes(from, to, &rustix::fs::fstat(from)?)
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    links: &mut Links<'_>,
    path: &mut Vec<u8>,
) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Directory && stat.st_nlink > 1 {
        if let Some(first) = links.seen.get(&(stat.st_dev, stat.st_ino)) {
            rustix::fs::linkat(links.top, first.as_slice(), to, name, AtFlags::empty())?;
            return Ok(());
        }
        links.seen.insert((stat.st_dev, stat.st_ino), path.clone());
    }
    match kind {
        FileType::Directory => {
            let source = rustix::fs::openat(from, name, FOLDER, Mode::empty())?;
            rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let copy = rustix::fs::openat(to, name, FOLDER, Mode::empty())?;
            return copy_folder(source.as_fd(), copy.as_fd(), links, path);
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
            let (mut reader, mut writer) = (std::fs::File::from(source), std::fs::File::from(copy));
            io::copy(&mut reader, &mut writer)?;
            return copy_attributes(reader.as_fd(), writer.as_fd(), stat);
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, name)?;
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
        }
        // A socket is the trace of a process that no longer runs.
        FileType::Socket | FileType::Unknown => return Ok(()),
    }
    let owner = rustix::fs::Uid::from_raw(stat.st_uid);
    let group = rustix::fs::Gid::from_raw(stat.st_gid);
    rustix::fs::chownat(to, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        rustix::fs::chmodat(
            to,
            name,
            Mode::from_raw_mode(stat.st_mode & 0o7777),
            AtFlags::empty(),
        )?;
    }
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Owner, mode, extended attributes and times of a file or folder.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let owner = rustix::fs::Uid::from_raw(stat.st_uid);
    let group = rustix::fs::Gid::from_raw(stat.st_gid);
    // Changing the owner clears the set-user-id bit and file capabilities: they come after.
    rustix::fs::fchown(to, Some(owner), Some(group))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(from, list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    list.truncate(length);
    for name in list.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        value.truncate(length);
        match rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty()) {
            // The volume's file system has no such thing.
            Err(Errno::OPNOTSUPP) => {}
            other => other?,
        }
    }
    rustix::fs::futimens(to, &times(stat))?;
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    #[expect(
        clippy::cast_possible_wrap,
        reason = "nanoseconds are below a thousand million"
    )]
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Removes a folder with all that is in it; fine when it is not there.
fn remove_tree(folder: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let inner = match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?),
        other => other?,
    };
    for entry in names(inner.as_fd())? {
        remove_tree(inner.as_fd(), &entry)?;
    }
    Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let world = Self {
                folder: tempfile::tempdir().unwrap(),
            };
            let image = world.path("root/srv/data");
            fs::create_dir_all(&image).unwrap();
            fs::create_dir_all(world.path("volume/data")).unwrap();
            fs::create_dir(image.join("sub")).unwrap();
            fs::write(image.join("sub/file"), "content").unwrap();
            fs::hard_link(image.join("sub/file"), image.join("link")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", image.join("symlink")).unwrap();
            fs::set_permissions(&image, fs::Permissions::from_mode(0o1750)).unwrap();
            fs::set_permissions(image.join("sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
            world
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.folder.path().join(path)
        }

        fn fill(&self) {
            if let Some(volume) =
                Volume::open(&self.path("volume/data"), &self.path("volume/filled")).unwrap()
            {
                let root =
                    rustix::fs::open(self.path("root"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
                        .unwrap();
                volume.fill(root.as_fd(), Path::new("/srv/data")).unwrap();
            }
        }

        fn check(&self) {
            let data = self.path("volume/data");
            assert_eq!(fs::read_to_string(data.join("sub/file")).unwrap(), "content");
            assert_eq!(
                fs::metadata(data.join("sub/file")).unwrap().mode() & 0o7777,
                0o4711
            );
            assert_eq!(
                fs::metadata(data.join("link")).unwrap().ino(),
                fs::metadata(data.join("sub/file")).unwrap().ino()
            );
            assert_eq!(
                fs::read_link(data.join("symlink")).unwrap(),
                Path::new("/etc/passwd")
            );
            assert_eq!(fs::metadata(&data).unwrap().mode() & 0o7777, 0o1750);
            let mut beside: Vec<_> = fs::read_dir(self.path("volume"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            beside.sort();
            assert_eq!(beside, ["data", "filled"]);
        }
    }

    #[test]
    fn a_fresh_volume_gets_the_content_of_the_image_once() {
        let world = World::new();
        world.fill();
        world.check();
        fs::remove_file(world.path("volume/data/link")).unwrap();
        world.fill();
        assert!(!world.path("volume/data/link").exists());
    }

    #[test]
    fn a_killed_copy_is_done_again_or_finished() {
        let world = World::new();
        fs::create_dir(world.path("volume/filled.part")).unwrap();
        fs::write(world.path("volume/filled.part/half"), "").unwrap();
        world.fill();
        world.check();
        assert!(!world.path("volume/data/half").exists());
        // Killed while entries were being moved.
        fs::remove_file(world.path("volume/filled")).unwrap();
        fs::create_dir(world.path("volume/filled.ready")).unwrap();
        fs::set_permissions(
            world.path("volume/filled.ready"),
            fs::Permissions::from_mode(0o1750),
        )
        .unwrap();
        fs::rename(
            world.path("volume/data/symlink"),
            world.path("volume/filled.ready/symlink"),
        )
        .unwrap();
        world.fill();
        world.check();
    }

    #[test]
    fn a_volume_with_something_in_it_is_left_alone() {
        let world = World::new();
        fs::write(world.path("volume/data/mine"), "").unwrap();
        world.fill();
        assert_eq!(fs::read_dir(world.path("volume/data")).unwrap().count(), 1);
        assert!(world.path("volume/filled").exists());
    }

    #[test]
    fn nothing_to_copy_is_fine() {
        let world = World::new();
        fs::remove_dir_all(world.path("root/srv")).unwrap();
        world.fill();
        assert_eq!(fs::read_dir(world.path("volume/data")).unwrap().count(), 0);
    }
}
