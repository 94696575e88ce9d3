//! Everything mounted in the root file system.
//!
//! Sources are looked up while the host can be seen, targets when it no longer
//! can: between the two the root is changed. What is mounted is copied when it is
//! its turn, since Linux lists mounts in the order in which they are made (from 6.8
//! on), and attached to a descriptor of its target, not to a path.

use std::borrow::Cow;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::place::{self, Kind};
use super::populate;
use super::report::{Report, Reporter};
use super::rootfs::{self, file_system};
use crate::runtime::blueprint::{Blueprint, Mappings, MountAttributes, MountSource, MountStep};
use crate::runtime::cgroup::View;
use crate::runtime::error::{Failure, Step};
use crate::runtime::launch;
use crate::runtime::request::Rootfs;
use crate::sys::fd;
use crate::sys::mount::{Attributes, IDMAP, NODEV, NOEXEC, NOSUID, RDONLY, set_attributes};

/// What is to be mounted, as it is held until its turn.
#[derive(Debug)]
enum Source {
    /// A detached mount.
    Tree(OwnedFd),
    /// A place of the host to be copied, and whether with what is mounted below it.
    Place(OwnedFd, bool),
    /// A configured file system without a mount: fsopen(2).
    Context(OwnedFd),
}

impl Source {
    /// The detached mount.
    fn into_tree(self, attributes: MountAttributes) -> io::Result<OwnedFd> {
        match self {
            Self::Tree(tree) => Ok(tree),
            Self::Place(place, recursive) => copy(place.as_fd(), recursive),
            Self::Context(context) => rootfs::mount_context(context.as_fd(), writable(attributes)),
        }
    }
}

/// What a mount is made with; read-only comes when all is done.
fn writable(attributes: MountAttributes) -> u64 {
    (attributes.set | attributes.set_below) & !RDONLY
}

/// The sources of mounts, opened.
#[derive(Debug)]
pub(super) struct Sources {
    /// One a step; `None` where nothing of the host is needed.
    trees: Vec<Option<Source>>,
    /// The host's `/dev/null`, to hide files with.
    null: OwnedFd,
    /// The cgroup folders that a container without a cgroup namespace sees, not copied yet.
    cgroups: Vec<(String, OwnedFd)>,
}

impl Sources {
    /// Opens the source of every mount, where the launcher has not. The mount
    /// namespace still has the host's propagation: what is to hear of the host's
    /// mounts is copied now.
    pub(super) fn open(blueprint: &Blueprint, fds: &mut fd::Inherited) -> Result<Self, Failure> {
        let null = open_tree(CWD, "/dev/null", clone(false))
            .map_err(io::Error::from)
            .and_then(|fd| {
                if place::is_null_device(fd.as_fd()) {
                    Ok(fd)
                } else {
                    Err(io::ErrorKind::InvalidData.into())
                }
            })
            .map_err(|error| Failure::new(Step::Mask, "/dev/null", &error))?;
        let opened: &[(usize, i32)] = blueprint.bundle.as_ref().map_or(&[], |bundle| &bundle.trees);
        let mut trees = Vec::with_capacity(blueprint.mounts.len());
        for (number, step) in blueprint.mounts.iter().enumerate() {
            let tree = match opened.iter().find(|(known, _)| *known == number) {
                Some((_, descriptor)) => usize::try_from(*descriptor)
                    .map_err(|_| io::ErrorKind::InvalidInput.into())
                    .and_then(|descriptor| fds.take(descriptor))
                    .map(|tree| Some(Source::Tree(tree))),
                None => match &blueprint.shm_of {
                    Some(namespace) if step.target == Path::new(SHM) => {
                        open_shm(namespace).map(|tree| Some(Source::Tree(tree)))
                    }
                    _ => open_step(step, &blueprint.rootfs),
                },
            };
            trees.push(tree.map_err(|error| wrong_source(step, &error))?);
        }
        let mut cgroups = Vec::new();
        for (name, folder) in &blueprint.cgroups.folders {
            let place = open_tree(CWD, folder, OpenTreeFlags::OPEN_TREE_CLOEXEC)
                .map_err(|error| Failure::new(Step::Mount, folder.display().to_string(), &error.into()))?;
            cgroups.push((name.clone(), place));
        }
        Ok(Self { trees, null, cgroups })
    }
}

fn wrong_source(step: &MountStep, error: &io::Error) -> Failure {
    let words = match &step.source {
        MountSource::Bind { path, .. } | MountSource::Inside { path, .. } => {
            format!("{} on {}", path.display(), step.target.display())
        }
        _ => step.target.display().to_string(),
    };
    Failure::new(Step::Mount, words, error)
}

/// Where shared memory is.
const SHM: &str = "/dev/shm";

/// The `/dev/shm` of another mount namespace as a detached copy. A copy can only
/// be made by who is inside, so we go there and come back; links there lead
/// nowhere else.
fn open_shm(namespace: &Path) -> io::Result<OwnedFd> {
    let open = |path: &Path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let enter = |namespace: &OwnedFd| {
        rustix::thread::move_into_link_name_space(
            namespace.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::Mount),
        )
    };
    let own = open(Path::new("/proc/self/ns/mnt"))?;
    enter(&open(namespace)?)?;
    let tree = open_tree(CWD, SHM, clone(true));
    enter(&own)?;
    Ok(tree?)
}

/// File systems that are made of nothing, wherever they are mounted.
const KERNEL: [&str; 8] = [
    "proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2",
];

/// Folders together as a detached mount, or a part of it.
fn open_layers(layers: &[PathBuf], inside: &Path) -> io::Result<OwnedFd> {
    let tree = rootfs::layers(layers)?;
    if inside.as_os_str().is_empty() {
        return Ok(tree);
    }
    let part = place::open(tree.as_fd(), inside, OFlags::PATH, true)?;
    open_tree(&part, "", clone(false) | OpenTreeFlags::AT_EMPTY_PATH).map_err(|error| {
        if error == rustix::io::Errno::INVAL {
            // A part of what is mounted nowhere yet.
            return io::Error::other("a part of an image needs Linux 6.15 or newer");
        }
        error.into()
    })
}

/// What is needed of the host for a mount.
fn open_step(step: &MountStep, rootfs: &Rootfs) -> io::Result<Option<Source>> {
    let (path, recursive, confined, itself) = match &step.source {
        MountSource::Bind {
            path,
            recursive,
            confined,
            itself,
        } => (path, *recursive, confined, *itself),
        MountSource::Layers { layers, inside } => {
            return open_layers(layers, inside).map(|tree| Some(Source::Tree(tree)));
        }
        // Of a device or folders of the host, which are in sight now only.
        MountSource::FileSystem {
            kind,
            source,
            options,
        } if !KERNEL.contains(&kind.as_str()) => {
            let options: Vec<_> = options
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref()))
                .collect();
            return rootfs::context(kind, source, &options).map(|context| Some(Source::Context(context)));
        }
        _ => return Ok(None),
    };
    let place = open_source(path, confined.as_deref(), itself)?;
    only_procfs_on_proc(step, place.as_fd())?;
    let hears = [libc::MS_SLAVE, libc::MS_SHARED].contains(&step.attributes.propagation);
    // Copied later, it would hold the container's own root.
    let around = recursive && rootfs.place().starts_with(path);
    Ok(Some(if hears || around {
        Source::Tree(copy(place.as_fd(), recursive)?)
    } else {
        Source::Place(place, recursive)
    }))
}

fn only_procfs_on_proc(step: &MountStep, source: BorrowedFd<'_>) -> io::Result<()> {
    if step.target == Path::new("/proc") && !place::in_procfs(source) {
        return Err(io::Error::other("only procfs can be mounted on /proc"));
    }
    Ok(())
}

/// A detached copy of what is mounted at a place.
fn copy(place: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    Ok(open_tree(
        place,
        "",
        clone(recursive) | OpenTreeFlags::AT_EMPTY_PATH,
    )?)
}

/// As the init stage opens sources, for those only the launcher can open: in
/// the user namespace of the host, where ids can be mapped and every file be
/// reached. `own` are the container's ids.
pub(in crate::runtime) fn open_for(
    step: &MountStep,
    rootfs: &Rootfs,
    own: Option<&Mappings>,
) -> Result<Option<OwnedFd>, Failure> {
    let open = || -> io::Result<Option<OwnedFd>> {
        let Some(source) = open_step(step, rootfs)? else {
            return Ok(None);
        };
        let tree = source.into_tree(step.attributes)?;
        map(step, tree.as_fd(), own)?;
        Ok(Some(tree))
    };
    open().map_err(|error| wrong_source(step, &error))
}

/// Maps the ids of a copy that the init stage has made.
pub(in crate::runtime) fn map_for(
    step: &MountStep,
    tree: BorrowedFd<'_>,
    own: Option<&Mappings>,
) -> Result<(), Failure> {
    map(step, tree, own).map_err(|error| wrong_source(step, &error))
}

/// Maps the ids of a detached mount as the step has it.
fn map(step: &MountStep, tree: BorrowedFd<'_>, own: Option<&Mappings>) -> io::Result<()> {
    let Some((mappings, below)) = &step.mapped else {
        return Ok(());
    };
    let mappings = mappings.as_ref().or(own).ok_or(io::ErrorKind::InvalidInput)?;
    let users = launch::user_namespace(mappings)?;
    let attributes = Attributes {
        set: IDMAP,
        user_namespace: u64::try_from(users.as_raw_fd()).unwrap_or_default(),
        ..Attributes::default()
    };
    set_attributes(tree, c"", attributes, *below)
}

fn clone(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags | OpenTreeFlags::AT_RECURSIVE
    } else {
        flags
    }
}

fn open_source(path: &Path, confined: Option<&Path>, itself: bool) -> io::Result<OwnedFd> {
    let Some(folder) = confined else {
        // Not openat(2): what is mounted when it is first looked at is to be there.
        let mut flags = OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if itself {
            flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        }
        return Ok(open_tree(CWD, path, flags)?);
    };
    let folder = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    place::open(folder.as_fd(), path, OFlags::PATH, true)
}

/// Makes all mounts in order; `root` is the container's root. What is mounted upon
/// that takes its place: what is the root then.
pub(super) fn mount_all(
    mut root: OwnedFd,
    steps: &[MountStep],
    sources: &mut Sources,
    cgroups: &View,
    reporter: &Reporter,
) -> Result<OwnedFd, Failure> {
    for (number, (step, source)) in steps.iter().zip(&mut sources.trees).enumerate() {
        let mut step = Cow::Borrowed(step);
        if closes_late(&step) {
            step.to_mut().attributes.set &= !RDONLY;
        }
        let mut made = match &step.source {
            MountSource::Inside { path, recursive } => {
                let tree = copy_inside(root.as_fd(), &step, path, *recursive)
                    .and_then(|tree| has_mapped(number, &step, tree, reporter))
                    .map_err(|error| wrong_source(&step, &error))?;
                Some(Source::Tree(tree))
            }
            _ => source.take(),
        };
        let failed = |what: Option<String>, error: io::Error| {
            let target = step.target.display();
            match what {
                Some(what) => Failure::new(Step::Mount, format!("{what} on {target}"), &error),
                None => Failure::new(Step::Mount, target.to_string(), &error),
            }
        };
        let mut top = None;
        if step.target == Path::new("/")
            && let Some(source) = made.take()
        {
            let take = || -> io::Result<(OwnedFd, OwnedFd)> {
                let tree = source.into_tree(step.attributes)?;
                Ok((rustix::io::fcntl_dupfd_cloexec(&tree, 3)?, tree))
            };
            let (again, tree) = take().map_err(|error| failed(None, error))?;
            (top, made) = (Some(again), Some(Source::Tree(tree)));
        }
        mount(root.as_fd(), &step, made, (cgroups, &mut sources.cgroups))
            .map_err(|(what, error)| failed(what, error))?;
        root = top.unwrap_or(root);
    }
    Ok(root)
}

/// A copy of a place in the container, with what was mounted there before. Links
/// are those of the container: none leads to the host.
fn copy_inside(root: BorrowedFd<'_>, step: &MountStep, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let place = place::open(root, path, OFlags::PATH, true)?;
    only_procfs_on_proc(step, place.as_fd())?;
    copy(place.as_fd(), recursive)
}

/// Has the launcher map the ids of a copy, which it may and we may not.
fn has_mapped(number: usize, step: &MountStep, tree: OwnedFd, reporter: &Reporter) -> io::Result<OwnedFd> {
    if step.mapped.is_some() {
        if !reporter.send(&Report::Map(number), Some(tree.as_fd())) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        reporter.wait()?;
    }
    Ok(tree)
}

/// Whether a mount becomes read-only when all is done: devices, and places of
/// further mounts, are yet to be made in a fresh `/dev`.
fn closes_late(step: &MountStep) -> bool {
    step.target == Path::new("/dev")
        && step.attributes.set & RDONLY != 0
        && matches!(&step.source, MountSource::FileSystem { kind, .. } if kind == "tmpfs")
}

/// Makes read-only what was left writable for that long.
pub(super) fn close_late(root: BorrowedFd<'_>, steps: &[MountStep]) -> Result<(), Failure> {
    for step in steps.iter().filter(|step| closes_late(step)) {
        let close = || -> io::Result<()> {
            let place = place::open(root, &step.target, OFlags::PATH, false)?;
            let attributes = Attributes {
                set: RDONLY,
                ..Attributes::default()
            };
            set_attributes(place.as_fd(), c"", attributes, false)
        };
        let target = step.target.display().to_string();
        close().map_err(|error| Failure::new(Step::ReadOnly, target, &error))?;
    }
    Ok(())
}

/// Where nothing may be a link: what the kernel and the runtime put there is
/// what programs trust.
fn plain(target: &Path) -> bool {
    ["/proc", "/sys", "/dev"]
        .iter()
        .any(|place| target.starts_with(place))
}

fn mount(
    root: BorrowedFd<'_>,
    step: &MountStep,
    source: Option<Source>,
    (cgroups, folders): (&View, &mut Vec<(String, OwnedFd)>),
) -> Result<(), (Option<String>, io::Error)> {
    let target = |kind| -> io::Result<OwnedFd> {
        let links = !plain(&step.target);
        let made = match step.on_link {
            true => place::make_itself(root, &step.target, kind, links),
            false => place::make(root, &step.target, kind, links),
        };
        let fd = made.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) if !links => {
                io::Error::other("must be mounted on ordinary directory, not on a symbolic link")
            }
            _ => error,
        })?;
        if links && place::in_procfs(fd.as_fd()) {
            return Err(io::Error::other("it is a link into /proc"));
        }
        Ok(fd)
    };
    let attributes = step.attributes;
    match &step.source {
        MountSource::Bind { .. } | MountSource::Inside { .. } | MountSource::Layers { .. } => {
            let tree = source
                .ok_or_else(|| io::ErrorKind::NotFound.into())
                .and_then(|source| source.into_tree(attributes))
                .map_err(|error| (None, error))?;
            let kind = Kind::of(tree.as_fd()).map_err(|error| (None, error))?;
            let target = target(kind).map_err(|error| (None, error))?;
            apply(tree.as_fd(), attributes).map_err(|error| (None, error))?;
            attach(tree.as_fd(), target.as_fd()).map_err(|error| (None, error))
        }
        MountSource::FileSystem {
            kind,
            source: name,
            options,
        } => {
            let named = |error| (Some(kind.clone()), error);
            let given = options.iter().any(|(name, _)| name == "mode");
            // A folder that is there says who may enter what is mounted on it.
            let mode = match kind == "tmpfs" && !given && !step.copy_up && source.is_none() {
                true => mode_of(root, &step.target, !plain(&step.target)),
                false => None,
            };
            let target = target(Kind::Folder).map_err(named)?;
            let options: Vec<_> = options
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_deref()))
                .collect();
            let set = attributes.set | attributes.set_below;
            // As mount(2) has it: read-only is the file system of a fresh /sys, too.
            let mut options = options;
            if mode.is_some() {
                options.push(("mode", mode.as_deref()));
            }
            if kind == "sysfs" && set & RDONLY != 0 {
                options.push(("ro", None));
            }
            let tree = match source {
                Some(source) => source.into_tree(attributes),
                None => file_system(kind, name, &options, writable(attributes)),
            }
            .map_err(named)?;
            if step.copy_up {
                let plain = !options.iter().any(|(name, _)| *name == "mode");
                populate::copy_content(target.as_fd(), tree.as_fd(), plain).map_err(named)?;
            }
            apply(
                tree.as_fd(),
                MountAttributes {
                    set: set & RDONLY,
                    propagation: attributes.propagation,
                    ..MountAttributes::default()
                },
            )
            .map_err(named)?;
            attach(tree.as_fd(), target.as_fd()).map_err(named)
        }
        MountSource::Link(text) => {
            place::make_link(root, &step.target, text, !plain(&step.target)).map_err(|error| (None, error))
        }
        MountSource::Cgroup => {
            let named = |error| (Some("cgroup".to_owned()), error);
            let target = target(Kind::Folder).map_err(named)?;
            let folders = std::mem::take(folders);
            mount_cgroups(
                target.as_fd(),
                root,
                &step.target,
                attributes.set,
                cgroups,
                folders,
            )
            .map_err(named)
        }
        MountSource::Remount => {
            let change = || -> io::Result<()> {
                let place = place::open(root, &step.target, OFlags::PATH, !plain(&step.target))?;
                let own = |set, clear| Attributes {
                    set,
                    clear,
                    ..Attributes::default()
                };
                if attributes.set_below != 0 || attributes.clear_below != 0 {
                    let below = own(attributes.set_below, attributes.clear_below);
                    set_attributes(place.as_fd(), c"", below, true)?;
                }
                set_attributes(place.as_fd(), c"", own(attributes.set, attributes.clear), false)
            };
            change().map_err(|error| (Some("remount".to_owned()), error))
        }
    }
}

/// The mode of a folder of the container, if it is there, as tmpfs takes it.
fn mode_of(root: BorrowedFd<'_>, path: &Path, links: bool) -> Option<String> {
    let folder = place::open(root, path, OFlags::PATH | OFlags::DIRECTORY, links).ok()?;
    let stat = rustix::fs::fstat(&folder).ok()?;
    Some(format!("{:o}", stat.st_mode & 0o7777))
}

fn apply(tree: BorrowedFd<'_>, attributes: MountAttributes) -> io::Result<()> {
    if attributes.set_below != 0 || attributes.clear_below != 0 {
        let all = Attributes {
            set: attributes.set_below,
            clear: attributes.clear_below,
            ..Attributes::default()
        };
        set_attributes(tree, c"", all, true)?;
    }
    if attributes.set != 0 || attributes.clear != 0 {
        let clear = |clear| {
            let own = Attributes {
                set: attributes.set,
                clear,
                ..Attributes::default()
            };
            set_attributes(tree, c"", own, false)
        };
        match clear(attributes.clear | attributes.implied) {
            // Locked, of a user namespace above ours: nobody has asked for it in words.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && attributes.implied != 0 => {
                clear(attributes.clear)?;
            }
            other => other?,
        }
    }
    // A copy belongs to its source's peers until told otherwise; Docker's
    // default is that nothing passes either way.
    let (propagation, below) = match attributes.propagation {
        0 => (libc::MS_PRIVATE, true),
        other => (other, attributes.propagation_below),
    };
    set_attributes(
        tree,
        c"",
        Attributes {
            propagation,
            ..Attributes::default()
        },
        below,
    )
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// The container's own view of the hierarchies. Read-only is an attribute of
/// these mounts: the file systems are the host's.
fn mount_cgroups(
    target: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    path: &Path,
    attributes: u64,
    view: &View,
    folders: Vec<(String, OwnedFd)>,
) -> io::Result<()> {
    // Without a namespace of its own the file systems would show the host's
    // cgroups: the container sees its own folders.
    if let [(name, place)] = folders.as_slice()
        && name.is_empty()
    {
        let folder = copy(place.as_fd(), true)?;
        let own = Attributes {
            set: attributes,
            ..Attributes::default()
        };
        set_attributes(folder.as_fd(), c"", own, false)?;
        return attach(folder.as_fd(), target);
    }
    if view.v1.is_empty() {
        if !view.v2 {
            return Ok(());
        }
        let tree = file_system("cgroup2", "cgroup", &[], attributes)?;
        return attach(tree.as_fd(), target);
    }
    let folder = file_system(
        "tmpfs",
        "tmpfs",
        &[("mode", Some("755"))],
        NOSUID | NODEV | NOEXEC,
    )?;
    attach(folder.as_fd(), target)?;
    let mount_in = |name: &str, kind: &str, options: &[(&str, Option<&str>)]| -> io::Result<()> {
        let tree = file_system(kind, "cgroup", options, attributes)?;
        rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))?;
        let place = place::open(root, &path.join(name), OFlags::PATH, false)?;
        attach(tree.as_fd(), place.as_fd())
    };
    for (name, place) in &folders {
        let tree = copy(place.as_fd(), true)?;
        let own = Attributes {
            set: attributes,
            ..Attributes::default()
        };
        set_attributes(tree.as_fd(), c"", own, false)?;
        rustix::fs::mkdirat(&folder, name.as_str(), Mode::from_raw_mode(0o755))?;
        let place = place::open(root, &path.join(name), OFlags::PATH, false)?;
        attach(tree.as_fd(), place.as_fd())?;
    }
    let own = folders.is_empty();
    for controllers in view.v1.iter().filter(|_| own) {
        let options: Vec<_> = controllers.iter().map(|name| (name.as_str(), None)).collect();
        mount_in(&controllers.join(","), "cgroup", &options)?;
    }
    if view.v2 && own {
        mount_in("unified", "cgroup2", &[])?;
    }
    for controllers in view.v1.iter().filter(|controllers| controllers.len() > 1) {
        for name in controllers {
            rustix::fs::symlinkat(controllers.join(","), &folder, name.as_str())?;
        }
    }
    if attributes & RDONLY != 0 {
        set_attributes(
            folder.as_fd(),
            c"",
            Attributes {
                set: RDONLY,
                ..Attributes::default()
            },
            false,
        )?;
    }
    Ok(())
}

/// Hides paths: files behind `/dev/null`, folders behind one empty read-only
/// tmpfs. What is not there needs no hiding.
pub(super) fn mask_all(root: BorrowedFd<'_>, paths: &[String], sources: Sources) -> Result<(), Failure> {
    let mut null = Cover::Fresh(sources.null);
    let mut empty: Option<Cover> = None;
    for path in paths {
        let mut hide = || -> io::Result<()> {
            let target = match place::open(root, Path::new(path), OFlags::PATH, false) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(());
                }
                other => other?,
            };
            match Kind::of(target.as_fd())? {
                Kind::File => null.put(target.as_fd()),
                Kind::Folder => {
                    let cover = match &mut empty {
                        Some(cover) => cover,
                        None => empty.insert(Cover::Fresh(file_system(
                            "tmpfs",
                            "tmpfs",
                            &[
                                ("size", Some("0")),
                                ("nr_inodes", Some("2")),
                                ("mode", Some("755")),
                            ],
                            RDONLY | NOSUID | NODEV | NOEXEC,
                        )?)),
                    };
                    cover.put(target.as_fd())
                }
            }
        };
        hide().map_err(|error| Failure::new(Step::Mask, path, &error))?;
    }
    Ok(())
}

/// A mount that is put over several places: itself first, then copies of it.
#[derive(Debug)]
enum Cover {
    /// Detached.
    Fresh(OwnedFd),
    /// Attached; copies can be made of it.
    Used(OwnedFd),
}

impl Cover {
    fn put(&mut self, target: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::Fresh(tree) => {
                set_attributes(
                    tree.as_fd(),
                    c"",
                    Attributes {
                        propagation: libc::MS_PRIVATE,
                        ..Attributes::default()
                    },
                    false,
                )?;
                attach(tree.as_fd(), target)?;
                *self = Self::Used(rustix::io::fcntl_dupfd_cloexec(tree.as_fd(), 3)?);
                Ok(())
            }
            Self::Used(tree) => {
                let copy = open_tree(tree.as_fd(), "", clone(false) | OpenTreeFlags::AT_EMPTY_PATH)?;
                attach(copy.as_fd(), target)
            }
        }
    }
}

/// Makes paths read-only by mounting each upon itself.
pub(super) fn make_readonly(root: BorrowedFd<'_>, paths: &[String]) -> Result<(), Failure> {
    for path in paths {
        let cover = || -> io::Result<()> {
            let target = match place::open(root, Path::new(path), OFlags::PATH, false) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                    ) =>
                {
                    return Ok(());
                }
                other => other?,
            };
            let copy = open_tree(&target, "", clone(true) | OpenTreeFlags::AT_EMPTY_PATH)?;
            set_attributes(
                copy.as_fd(),
                c"",
                Attributes {
                    set: RDONLY,
                    ..Attributes::default()
                },
                true,
            )?;
            attach(copy.as_fd(), target.as_fd())
        };
        cover().map_err(|error| Failure::new(Step::ReadOnly, path, &error))?;
    }
    Ok(())
}

/// Sets kernel parameters through a procfs of our own that nothing can be
/// mounted over.
pub(super) fn set_sysctls(sysctls: &[(String, String)]) -> Result<(), Failure> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = file_system("proc", "proc", &[], NOSUID | NODEV | NOEXEC)
        .map_err(|error| Failure::new(Step::Sysctl, "", &error))?;
    for (name, value) in sysctls {
        let set = || -> io::Result<()> {
            let path = parameter(name);
            let file = place::open(proc.as_fd(), &path, OFlags::WRONLY | OFlags::TRUNC, false)?;
            let value = CString::new(value.as_str())?;
            rustix::io::write(&file, value.as_bytes())?;
            Ok(())
        };
        set().map_err(|error| Failure::new(Step::Sysctl, name, &error))?;
    }
    Ok(())
}

/// The file of a parameter. In the usual form dots separate and a slash stands
/// for a dot in a name (`net.ipv4.conf.eth0/1.forwarding`); when the first
/// separator is a slash it is the other way round (sysctl(8)).
fn parameter(name: &str) -> PathBuf {
    let slashes = name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes().get(at) == Some(&b'/'));
    let path: Vec<u8> = name
        .bytes()
        .map(|byte| match byte {
            b'.' if !slashes => b'/',
            b'/' if !slashes => b'.',
            other => other,
        })
        .collect();
    Path::new("sys").join(std::ffi::OsStr::from_bytes(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_in_both_forms() {
        assert_eq!(
            parameter("net.core.somaxconn"),
            Path::new("sys/net/core/somaxconn")
        );
        assert_eq!(
            parameter("net.ipv4.conf.eth0/1.forwarding"),
            Path::new("sys/net/ipv4/conf/eth0.1/forwarding")
        );
        assert_eq!(
            parameter("net/ipv4/conf/eth0.1/forwarding"),
            Path::new("sys/net/ipv4/conf/eth0.1/forwarding")
        );
    }
}
