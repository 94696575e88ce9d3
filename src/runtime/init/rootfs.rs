//! The root file system: layers under a writable one, and becoming the root.
//!
//! Layers are given to overlayfs one by one (`lowerdir+`, Linux 6.8); older
//! kernels take them in one option, as short paths through `/proc/self/fd`.
//!
//! A layer may hold the writable layer somewhere inside it: `rootfs:/` runs a
//! service on the host's own files, and the state root is among them. overlayfs
//! refuses that. So such a layer is seen through a read-only overlay of its own,
//! whose upper half is a small tmpfs that hides the folder of the writable
//! layer (and with it the state of all containers). What is mounted below such
//! a layer on the host is not seen in the container.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::runtime::error::{Failure, Step};
use crate::runtime::request::Rootfs;
use crate::sys::mount::{Attributes, RDONLY, set_attributes};

/// What mount(2) takes of options: the smallest page there is.
const LONGEST_OPTIONS: usize = 4096;
/// The longest string fsconfig(2) takes, its end included.
const LONGEST_OPTION: usize = 256;

/// Makes and attaches the root file system at its mount point; a descriptor of
/// its root. The mount namespace must be private already.
pub(super) fn mount_root(rootfs: &Rootfs) -> Result<OwnedFd, Failure> {
    let (layers, upper, work, mountpoint) = match rootfs {
        Rootfs::Overlay {
            layers,
            upper,
            work,
            mountpoint,
            ..
        } => (layers, upper, work, mountpoint),
        Rootfs::Directory { path, .. } => {
            return mount_upon_itself(path)
                .map_err(|error| Failure::new(Step::Rootfs, path.display().to_string(), &error));
        }
    };
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| Failure::new(Step::Rootfs, path, &error)
    };
    for folder in [upper, work, mountpoint] {
        fs::create_dir_all(folder).map_err(failed(folder))?;
    }
    let Some(top) = layers.first() else {
        // An empty image is its writable layer.
        let tree = bind(upper).map_err(failed(upper))?;
        return attach(tree, mountpoint).map_err(failed(mountpoint));
    };
    inherit_attributes(top, upper).map_err(failed(upper))?;
    let real = fs::canonicalize(upper).map_err(failed(upper))?;
    let mut seen = Vec::with_capacity(layers.len());
    for (number, layer) in layers.iter().enumerate() {
        let path = fs::canonicalize(layer).map_err(failed(layer))?;
        // On another file system it is no part of the layer.
        let inside = real.starts_with(&path) && device(&real).ok() == device(&path).ok();
        seen.push(if inside {
            see_through(&path, &real, mountpoint, number)?
        } else {
            path
        });
    }
    let lower: Vec<&Path> = seen.iter().map(PathBuf::as_path).collect();
    overlay(&lower, Some((upper, work)), mountpoint).map_err(failed(mountpoint))
}

/// Makes a folder a mount, which is what can become a root, with everything
/// mounted in it.
fn mount_upon_itself(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, path, flags)?;
    attach(tree, path)
}

fn device(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.dev())
}

/// The merged root shows the attributes of the writable layer's root: they are
/// those of the image's.
fn inherit_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let (image, own) = (fs::metadata(from)?, fs::metadata(to)?);
    if (image.uid(), image.gid()) != (own.uid(), own.gid()) {
        std::os::unix::fs::chown(to, Some(image.uid()), Some(image.gid()))?;
    }
    if image.mode() & 0o7777 != own.mode() & 0o7777 {
        fs::set_permissions(to, fs::Permissions::from_mode(image.mode() & 0o7777))?;
    }
    Ok(())
}

/// A read-only view of `layer` that hides the folder which holds `upper`.
fn see_through(layer: &Path, upper: &Path, mountpoint: &Path, number: usize) -> Result<PathBuf, Failure> {
    let make = || -> io::Result<PathBuf> {
        // Attached one upon the other at the mount point, out of sight of
        // everybody; overlayfs takes no detached layers before Linux 6.15.
        let tmpfs = file_system("tmpfs", "tmpfs", &[("mode", Some("755"))], 0)?;
        attach(tmpfs, mountpoint)?;
        let name = format!("layer{number}");
        let (mask, view) = (mountpoint.join("mask"), mountpoint.join(&name));
        fs::create_dir(&mask)?;
        fs::create_dir(&view)?;
        hide(layer, upper, &mask)?;
        // The next layers are mounted over the tmpfs; this view stays
        // reachable by descriptor only.
        let fd = overlay(&[&mask, layer], None, &view)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // Closed by exec; the path is used until then.
        std::mem::forget(fd);
        Ok(path)
    };
    make().map_err(|error| Failure::new(Step::Rootfs, layer.display().to_string(), &error))
}

/// Makes the folders of `layer` on the way to `upper` again in `mask`, down to
/// the last one that is private to its owner, and hides that one.
fn hide(layer: &Path, upper: &Path, mask: &Path) -> io::Result<()> {
    let mut copy = mask.to_owned();
    let mut original = layer.to_owned();
    inherit_attributes(&original, &copy)?;
    let parts: Vec<&OsStr> = upper
        .strip_prefix(layer)
        .map(|below| below.iter().collect())
        .unwrap_or_default();
    for (number, part) in parts.iter().enumerate() {
        original.push(part);
        copy.push(part);
        // The state root is the outermost folder that others cannot look into.
        let private = fs::metadata(&original)?.mode() & 0o077 == 0;
        if private || number + 1 == parts.len() {
            rustix::fs::mknodat(CWD, &copy, FileType::CharacterDevice, Mode::empty(), 0)?;
            return Ok(());
        }
        fs::create_dir(&copy)?;
        inherit_attributes(&original, &copy)?;
    }
    Ok(())
}

/// Folders together as a detached mount, topmost first, for reading.
///
/// # Errors
/// `Unsupported` for several on a kernel before 6.8, which has no detached ones.
pub(super) fn layers(folders: &[PathBuf]) -> io::Result<OwnedFd> {
    match folders {
        [] => file_system("tmpfs", "tmpfs", &[("mode", Some("755"))], 0),
        [one] => bind(one),
        several => {
            let paths: Vec<&Path> = several.iter().map(PathBuf::as_path).collect();
            let release = rustix::system::uname();
            if !takes_layers_one_by_one(release.release().to_str().unwrap_or_default()) {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "mounting an image needs Linux 6.8 or newer",
                ));
            }
            overlay_one_by_one(&paths, None)
        }
    }
}

/// Mounts an overlay at `place`; `lower` topmost first. A descriptor of its root.
fn overlay(lower: &[&Path], writable: Option<(&Path, &Path)>, place: &Path) -> io::Result<OwnedFd> {
    // Asking the kernel by trying would leave a line in its log at every start.
    if takes_layers_one_by_one(rustix::system::uname().release().to_str().unwrap_or_default()) {
        attach(overlay_one_by_one(lower, writable)?, place)
    } else {
        overlay_in_one(lower, writable, place)
    }
}

/// Whether a kernel of that release is 6.8 or newer.
fn takes_layers_one_by_one(release: &str) -> bool {
    let mut numbers = release
        .split(['.', '-', '+'])
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 8)
}

/// A detached overlay, its layers given one by one.
fn overlay_one_by_one(lower: &[&Path], writable: Option<(&Path, &Path)>) -> io::Result<OwnedFd> {
    let mut held = Vec::new();
    let mut option = |path: &Path| -> io::Result<CString> {
        if path.as_os_str().len() < LONGEST_OPTION {
            Ok(CString::new(path.as_os_str().as_bytes())?)
        } else {
            Ok(CString::new(short(path, &mut held)?)?)
        }
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "overlay")?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", option(layer)?)?;
    }
    if let Some((upper, work)) = writable {
        fsconfig_set_string(&context, "upperdir", option(upper)?)?;
        fsconfig_set_string(&context, "workdir", option(work)?)?;
    }
    fsconfig_create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?)
}

/// As [`overlay`], with all layers in one option of mount(2), in one page.
fn overlay_in_one(lower: &[&Path], writable: Option<(&Path, &Path)>, place: &Path) -> io::Result<OwnedFd> {
    let mut held = Vec::new();
    let layers: Vec<String> = lower
        .iter()
        .map(|path| short(path, &mut held))
        .collect::<Result<_, _>>()?;
    let mut options = format!("lowerdir={}", layers.join(":"));
    if let Some((upper, work)) = writable {
        options.push_str(&format!(
            ",upperdir={},workdir={}",
            short(upper, &mut held)?,
            short(work, &mut held)?
        ));
    }
    if options.len() >= LONGEST_OPTIONS {
        return Err(io::Error::other(format!(
            "{} layers are too many for this kernel, which takes their names in one page: Linux 6.8 takes 500",
            lower.len()
        )));
    }
    let options = CString::new(options)?;
    rustix::mount::mount(
        "overlay",
        place,
        "overlay",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )?;
    Ok(rustix::fs::open(
        place,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// A short path to the same place, good while what is put into `held` is open.
fn short(path: &Path, held: &mut Vec<OwnedFd>) -> io::Result<String> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    held.push(fd);
    Ok(name)
}

/// A detached file system of that type.
pub(super) fn file_system(
    kind: &str,
    source: &str,
    options: &[(&str, Option<&str>)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    mount_context(context(kind, source, options)?.as_fd(), attributes)
}

/// A file system of that type which has no mount yet.
pub(super) fn context(kind: &str, source: &str, options: &[(&str, Option<&str>)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, *name, *value)?,
            None => fsconfig_set_flag(&context, *name)?,
        }
    }
    fsconfig_create(&context)?;
    Ok(context)
}

/// The detached mount of such a file system.
pub(super) fn mount_context(context: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or_default());
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached copy of the mount at a path, without what is mounted below.
fn bind(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// Attaches a detached mount at a path and gives it back.
fn attach(tree: OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(tree)
}

/// Makes `root` the root directory and lets go of the old one, with everything
/// of the host that was mounted in it.
pub(super) fn enter(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // Both on one place: the old root ends up above the new one.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// As [`enter`], where pivot_root(2) cannot be used (a root in the initial
/// ramfs): the new root is moved over the old one. The old one stays mounted
/// below it, out of reach of path names.
pub(super) fn enter_by_moving(root: BorrowedFd<'_>) -> io::Result<()> {
    hide_kernel_file_systems(root)?;
    rustix::process::fchdir(root)?;
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Takes away the host's `/proc` and `/sys`, which stay in the namespace when the
/// root is moved: as long as one is there whole, the kernel lets whoever has a
/// user namespace mount another, past all that is masked.
fn hide_kernel_file_systems(root: BorrowedFd<'_>) -> io::Result<()> {
    let own = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    // Those that are mounted last cover the others.
    for line in table.lines().rev() {
        let mut fields = line.split(' ').skip(3);
        let (Some(part), Some(place)) = (fields.next(), fields.next()) else {
            continue;
        };
        let kind = line
            .split_once(" - ")
            .and_then(|(_, rest)| rest.split(' ').next());
        let place = unescape(place);
        if part != "/" || !matches!(kind, Some("proc" | "sysfs")) || place.starts_with(&own) {
            continue;
        }
        // Not the host's business: the namespace is private.
        match rustix::mount::unmount(&place, UnmountFlags::DETACH) {
            Ok(()) => {}
            // Locked, of a user namespace above ours: an empty folder over it.
            Err(Errno::INVAL | Errno::PERM) => {
                let empty = file_system("tmpfs", "tmpfs", &[("size", Some("0"))], RDONLY)?;
                attach(empty, &place)?;
            }
            // Below one that went.
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A path of `/proc/self/mountinfo`: spaces and their like are in octal.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let number = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match number {
            Some(number) => {
                bytes.push(number);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The mount namespace of the host, and where the root of a container is there.
#[derive(Debug)]
pub(super) struct HostMounts {
    namespace: OwnedFd,
    root: OwnedFd,
}

impl HostMounts {
    /// Those of this process.
    pub(super) fn open(rootfs: &Rootfs) -> io::Result<Self> {
        let path = rootfs.place();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            namespace: fs::File::open("/proc/self/ns/mnt")?.into(),
            root: rustix::fs::open(path, flags, Mode::empty())?,
        })
    }
}

/// As [`enter`], in the mount namespace of the host: the root, with all that is
/// mounted in it, appears there in its place, in one step. A descriptor of it.
pub(super) fn enter_on_host(root: BorrowedFd<'_>, host: &HostMounts) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(root, ".", flags)?;
    let namespace = Some(rustix::thread::LinkNameSpaceType::Mount);
    rustix::thread::move_into_link_name_space(host.namespace.as_fd(), namespace)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &host.root, "", both)?;
    enter_tree(tree.as_fd())?;
    Ok(tree)
}

/// Does something with `root` as the root directory: no path that is looked up
/// leads out of it. The mounts of the host stay, for who has a descriptor.
pub(super) fn while_inside<T>(
    root: OwnedFd,
    does: impl FnOnce(OwnedFd) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let failed = |error: io::Error| Failure::new(Step::Rootfs, "/", &error);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let host = rustix::fs::open("/", flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    enter_tree(root.as_fd()).map_err(failed)?;
    let done = does(root)?;
    enter_tree(host.as_fd()).map_err(failed)?;
    Ok(done)
}

/// Changes the root to a folder and nothing else: chroot(2).
pub(in crate::runtime) fn enter_tree(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Makes the root mount read-only; what is mounted in it keeps its own ways.
pub(super) fn make_readonly(root: BorrowedFd<'_>) -> io::Result<()> {
    set_attributes(
        root.as_fd(),
        c"",
        Attributes {
            set: RDONLY,
            ..Attributes::default()
        },
        false,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What kernels before 6.8 get, and where it ends.
    #[test]
    fn paths_of_mounts_are_read() {
        assert_eq!(unescape("/proc"), Path::new("/proc"));
        assert_eq!(unescape("/a\\040b\\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape("/a\\9"), Path::new("/a\\9"));
    }

    #[test]
    fn layers_in_one_option() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let layers: Vec<std::path::PathBuf> = (0..300)
            .map(|number| folder.path().join(format!("layer{number}")))
            .collect();
        for (number, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join(format!("file{number}")), "x").unwrap();
        }
        let place = folder.path().join("place");
        fs::create_dir(&place).unwrap();
        // On a thread of its own, whose mounts end with it.
        let seen = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let paths: Vec<&Path> = layers.iter().map(std::path::PathBuf::as_path).collect();
            overlay_in_one(&paths[..120], None, &place).unwrap();
            let count = fs::read_dir(&place).unwrap().count();
            (
                count,
                overlay_in_one(&paths, None, &place).unwrap_err().to_string(),
            )
        });
        let (count, error) = seen.join().unwrap();
        assert_eq!(count, 120);
        assert!(
            error.contains("300 layers are too many for this kernel"),
            "{error}"
        );
    }

    #[test]
    fn releases_are_compared_as_numbers() {
        for (release, expected) in [
            ("6.18.44-fc-v669", true),
            ("6.8.0-31-generic", true),
            ("6.8", true),
            ("6.1.0-48-cloud-amd64", false),
            ("5.15.0", false),
            ("10.0", true),
            ("", false),
        ] {
            assert_eq!(takes_layers_one_by_one(release), expected, "{release}");
        }
    }
}
