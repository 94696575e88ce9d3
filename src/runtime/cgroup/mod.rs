//! Control groups: limits, membership, and the end of every process.
//!
//! A machine has version 1 hierarchies (one or more controllers each), the
//! version 2 hierarchy, or both ("hybrid"): [`Layout`] reads which from
//! `/proc/self/mountinfo`. A container gets a folder of the same relative path
//! in each hierarchy it needs; each controller is used where it lives. In a
//! hybrid layout the version 2 tree is joined too, whatever controllers it has:
//! it kills a whole cgroup at once (`cgroup.kill`).
//!
//! The folder is made below the root of what is mounted, not below our own
//! cgroup: the limits of the session that happened to start us are not the
//! container's. Where that root is not ours to write (a delegated subtree), our
//! own cgroup is the base. Processes that live in a base keep version 2 from
//! switching controllers on below it: they are moved to a folder `init`.
//!
//! Joining is the caller's: on version 1 a single-threaded process writes `0`
//! to `tasks` itself, which costs microseconds, where writing another's pid to
//! `cgroup.procs` waits for a grace period of RCU (7 to 14 ms measured); on
//! version 2 clone3(2) makes the process inside (`CLONE_INTO_CGROUP`).
//!
//! On request systemd makes the folder: [`systemd`].
//!
//! Weak: on version 2 device rules cannot be changed later.

mod devices;
mod layout;
mod limits;
mod processes;
mod stats;
pub mod systemd;
mod v1;
mod v2;
mod wishes;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxPids, LinuxResources};
use serde::{Deserialize, Serialize};

pub use self::layout::{Hierarchy, Layout, Version};
pub use self::wishes::Warning;
use self::wishes::Wishes;
use super::error::describe;
use crate::sys::kernel_file;

/// What can go wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A file operation failed.
    #[error("cgroup: {operation} {}: {}", path.display(), describe(source))]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The machine has no cgroup hierarchy that we can use.
    #[error(
        "no cgroup hierarchy is mounted that can be written to: 'mount -t cgroup2 none /sys/fs/cgroup' \
         mounts one ('ip netns exec' hides those there are; 'nsenter --net' does not)"
    )]
    None,
    /// A path that would leave its place.
    #[error("cgroup: {} is not a relative path without `..`", .0.display())]
    Path(PathBuf),
    /// Something of version 2 that a cgroup has no file for.
    #[error(
        "invalid configuration: resources.unified: no file {0:?} in the cgroup, or its controller \
         is not used in version 2"
    )]
    NoFile(String),
    /// Huge pages of a size without a name.
    #[error("invalid configuration: resources.hugepageLimits: page size {0:?}")]
    PageSize(String),
    /// Somebody else's processes are in it.
    #[error("container's cgroup is not empty: processes are in {}", .0.display())]
    NotEmpty(PathBuf),
    /// Whoever joins it stops, and cannot even be killed in version 1.
    #[error("container's cgroup unexpectedly frozen: {}", .0.display())]
    Frozen(PathBuf),
    /// What systemd did not do.
    #[error("systemd: {0}")]
    Systemd(String),
    /// Something was asked of a controller that no hierarchy has.
    #[error("cgroup: unknown controller {0}: no hierarchy has it")]
    NoController(String),
    /// A limit that this machine cannot enforce, asked for strictly.
    #[error("cgroup: {0}")]
    Unenforced(Warning),
}

impl CgroupError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

/// A container's folder in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// The hierarchy's version.
    pub version: Version,
    /// The controllers in effect in it.
    pub controllers: Vec<String>,
    /// The folder.
    pub path: PathBuf,
}

impl Folder {
    /// Whether a controller is in effect in it.
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// What a file of it says; `None` when there is no such file.
    pub(super) fn text(&self, file: &str) -> Option<String> {
        kernel_file::read(self.path.join(file)).ok()
    }

    /// A file with one number; `max` is none.
    pub(super) fn number(&self, file: &str) -> Option<u64> {
        self.text(file)?.trim().parse().ok()
    }

    /// A file with a name and a number in each line; other lines are left out.
    pub(super) fn table(&self, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(file).unwrap_or_default();
        let line = |line: &str| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }
}

/// A container's cgroup: a folder in each hierarchy it uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// The folders.
    pub folders: Vec<Folder>,
}

/// A folder below a container's, for some controllers or, when none is named,
/// for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// The controllers.
    pub controllers: Vec<String>,
    /// Relative and plain.
    pub path: PathBuf,
}

/// The hierarchies that a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct View {
    /// The controllers of each version 1 hierarchy.
    pub(super) v1: Vec<Vec<String>>,
    /// Whether there is version 2.
    pub(super) v2: bool,
    /// Without a cgroup namespace: its folders, by the names they get. One
    /// without a name is everything.
    pub(super) folders: Vec<(String, PathBuf)>,
}

/// How often a folder is made anew whose parent others remove meanwhile.
const TRIES: u32 = 100;

/// The controllers every container gets on version 1: those that account and
/// control. `cpuset` is only used on request (its folders start unusable).
const ALWAYS: [&str; 7] = ["cpu", "cpuacct", "memory", "devices", "freezer", "blkio", "pids"];

impl Cgroup {
    /// Where a container's folders are on this machine, whether they exist or
    /// not: enough to [kill](Self::kill) and [remove](Self::remove).
    ///
    /// # Errors
    /// [`CgroupError::Path`] for a path that is not plain and relative.
    pub fn locate(layout: &Layout, path: &Path) -> Result<Self, CgroupError> {
        let plain = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() {
            return Err(CgroupError::Path(path.to_owned()));
        }
        let folders = layout.hierarchies.iter().map(|hierarchy| Folder {
            version: hierarchy.version,
            controllers: hierarchy.controllers.clone(),
            path: hierarchy.base.join(path),
        });
        Ok(Self {
            folders: folders.collect(),
        })
    }

    /// Makes the folders and sets the limits. Folders left by a run that was
    /// killed are made anew; they must be empty of processes. With `strict`, a
    /// limit that cannot be enforced is an error; what was made then stays for
    /// [`Self::remove`].
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn create(
        layout: &Layout,
        path: &Path,
        resources: Option<&LinuxResources>,
        strict: bool,
    ) -> Result<(Self, Vec<Warning>), CgroupError> {
        let mut cgroup = Self::locate(layout, path)?;
        cgroup.retain_wanted(resources);
        for folder in &cgroup.folders {
            make_folder(&folder.path)?;
        }
        let mut warnings = cgroup.set_up(layout, resources)?;
        if strict && !warnings.is_empty() {
            return Err(CgroupError::Unenforced(warnings.swap_remove(0)));
        }
        Ok((cgroup, warnings))
    }

    /// As [`Self::create`], in every hierarchy, for a path that somebody else
    /// has chosen: a folder that exists is used when no process is in it but
    /// `known`, and what is above it is not ours to remove. A limit that the machine cannot
    /// enforce for want of a controller is an error.
    ///
    /// Where there are version 1 hierarchies, `begun` is called as soon as a
    /// process can be made in the folder of version 2 ([`Self::unified`]), if
    /// there is one; it must not join the others before this returns.
    ///
    /// # Errors
    /// [`CgroupError`], [`CgroupError::NotEmpty`] among them.
    pub fn create_at(
        layout: &Layout,
        path: &Path,
        resources: Option<&LinuxResources>,
        known: Option<u32>,
        begun: impl FnOnce(&Self),
    ) -> Result<(Self, Vec<Warning>), CgroupError> {
        let mut cgroup = Self::locate(layout, path)?;
        let of = |version| {
            cgroup
                .folders
                .iter()
                .filter(move |folder| folder.version == version)
        };
        // Before anybody can be made in it.
        if let Some(folder) = cgroup.folders.iter().find(|folder| folder.would_freeze()) {
            return Err(CgroupError::Frozen(folder.path.clone()));
        }
        let claim = |folder| claim_folder(folder, known);
        of(Version::V2).try_for_each(claim)?;
        if cgroup.tasks().next().is_some() {
            begun(&cgroup);
        }
        of(Version::V1).try_for_each(claim)?;
        let mut warnings = cgroup.set_up(layout, resources)?;
        let missing =
            |warning: &Warning| warning.reason.starts_with("no ") && !warning.reason.contains("version 1");
        if let Some(at) = warnings.iter().position(missing) {
            return Err(CgroupError::Unenforced(warnings.swap_remove(at)));
        }
        Ok((cgroup, warnings))
    }

    /// Leaves out the version 1 hierarchies that nothing is asked of.
    fn retain_wanted(&mut self, resources: Option<&LinuxResources>) {
        let asked = |name: &str| {
            let Some(all) = resources else { return false };
            match name {
                "cpuset" => all
                    .cpu()
                    .as_ref()
                    .is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some()),
                "hugetlb" => all.hugepage_limits().is_some(),
                "net_cls" | "net_prio" => all.network().is_some(),
                "rdma" => all.rdma().is_some(),
                _ => false,
            }
        };
        self.folders.retain(|folder| {
            folder.version == Version::V2
                || folder
                    .controllers
                    .iter()
                    .any(|name| ALWAYS.contains(&name.as_str()) || asked(name))
        });
    }

    /// Makes fresh folders usable and sets the limits.
    fn set_up(
        &mut self,
        layout: &Layout,
        resources: Option<&LinuxResources>,
    ) -> Result<Vec<Warning>, CgroupError> {
        for (folder, hierarchy) in self.folders.iter_mut().filter_map(|folder| {
            let of = |hierarchy: &&Hierarchy| folder.path.starts_with(&hierarchy.base);
            let hierarchy = layout.hierarchies.iter().find(of)?;
            Some((folder, hierarchy))
        }) {
            match folder.version {
                Version::V1 => v1::prepare(&hierarchy.base, folder)?,
                Version::V2 => v2::prepare(&hierarchy.base, folder, resources),
            }
        }
        self.update(resources, true)
    }

    /// Sets limits, in place. With `fresh`, device rules too. Wishes that the
    /// machine cannot fulfil are returned.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when the kernel refuses a value.
    pub fn update(
        &self,
        resources: Option<&LinuxResources>,
        fresh: bool,
    ) -> Result<Vec<Warning>, CgroupError> {
        let Some(resources) = resources else {
            return Ok(Vec::new());
        };
        let mut wishes = Wishes::of(resources);
        for folder in &self.folders {
            match folder.version {
                Version::V1 => v1::apply(folder, resources, &mut wishes, fresh)?,
                Version::V2 => v2::apply(folder, resources, &mut wishes, fresh)?,
            }
            limits::apply(folder, resources, &mut wishes)?;
        }
        Ok(wishes.left())
    }

    /// The same with folders that somebody made below. One that is named for all
    /// controllers is taken in the hierarchies where it is.
    ///
    /// # Errors
    /// [`CgroupError::NoController`]; [`CgroupError::Io`] for a folder that is in
    /// no hierarchy.
    pub fn below(&self, places: &[Below]) -> Result<Self, CgroupError> {
        let mut moved = self.clone();
        for place in places {
            let mut found = false;
            for folder in &mut moved.folders {
                let path = folder.path.join(&place.path);
                let meant = match place.controllers.as_slice() {
                    [] => path.is_dir(),
                    some => some.iter().any(|name| folder.has(name)),
                };
                if meant {
                    folder.path = path;
                    found = true;
                }
            }
            match (found, self.folders.first()) {
                (true, _) => {}
                (false, Some(folder)) if place.controllers.is_empty() => {
                    let path = folder.path.join(&place.path);
                    return Err(CgroupError::io("find", &path)(io::Error::from_raw_os_error(
                        libc::ENOENT,
                    )));
                }
                (false, _) => return Err(CgroupError::NoController(place.controllers.join(","))),
            }
        }
        Ok(moved)
    }

    /// The `tasks` files that a process joins by writing `0` to each.
    pub fn tasks(&self) -> impl Iterator<Item = PathBuf> {
        self.folders
            .iter()
            .filter(|folder| folder.version == Version::V1)
            .map(|folder| folder.path.join("tasks"))
    }

    /// The folder in the version 2 hierarchy.
    pub fn unified(&self) -> Option<&Path> {
        self.folders
            .iter()
            .find(|folder| folder.version == Version::V2)
            .map(|folder| folder.path.as_path())
    }

    /// What the container sees below `/sys/fs/cgroup`.
    pub(super) fn view(&self) -> View {
        let of = |version| {
            self.folders
                .iter()
                .filter(move |folder| folder.version == version)
        };
        View {
            v1: of(Version::V1).map(|folder| folder.controllers.clone()).collect(),
            v2: of(Version::V2).count() > 0,
            folders: Vec::new(),
        }
    }

    /// As [`Self::view`], for a container without a cgroup namespace.
    pub(super) fn view_of_host(&self) -> View {
        let mut view = self.view();
        view.folders = self
            .folders
            .iter()
            .map(|folder| {
                let name = match folder.version {
                    Version::V1 => folder.controllers.join(","),
                    Version::V2 if view.v1.is_empty() => String::new(),
                    Version::V2 => "unified".into(),
                };
                (name, folder.path.clone())
            })
            .collect();
        view
    }

    /// How often the kernel killed for want of memory in it; 0 where that
    /// cannot be known.
    pub fn oom_kills(&self) -> u64 {
        let count = |folder: &Folder| {
            let file = match folder.version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            let text = folder.text(file)?;
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse::<u64>().ok()
        };
        self.folders
            .iter()
            .filter(|folder| folder.controllers.iter().any(|name| name == "memory"))
            .find_map(count)
            .unwrap_or(0)
    }

    /// Removes the folders, with those that the container made inside, and the
    /// folders above them that are empty then. Fine when they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`] for a folder that still has processes.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.remove_own()?;
        self.remove_above();
        Ok(())
    }

    /// Removes the folders above that are empty.
    pub fn remove_above(&self) {
        for parent in self.folders.iter().filter_map(|folder| folder.path.parent()) {
            // Fails, as it should, while others are in it, and at the base.
            let _ = fs::remove_dir(parent);
        }
    }

    /// Looks again at what the kernel offers in a folder whose description was
    /// written down before it was made.
    pub fn refresh(&mut self) {
        for folder in &mut self.folders {
            if folder.version == Version::V2
                && let Some(has) = folder.text("cgroup.controllers")
            {
                folder.controllers = has.split_whitespace().map(str::to_owned).collect();
            }
        }
    }

    /// Removes the folders when nothing is in them any more; whether all are
    /// gone. Cheaper than looking first: the kernel says no when something is.
    pub fn remove_idle(&self) -> bool {
        self.folders.iter().all(|folder| {
            fs::remove_dir(&folder.path)
                .or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })
                .is_ok()
        })
    }

    /// As [`Self::remove`], without the folders above.
    ///
    /// # Errors
    /// As there.
    pub fn remove_own(&self) -> Result<(), CgroupError> {
        self.folders
            .iter()
            .try_for_each(|folder| remove_tree(&folder.path))
    }
}

/// A limit of tasks as the kernel takes it. 0 is none: callers whose specification
/// had the field required write it for that, though to version 1.3 of it ("SHOULD")
/// it is a limit, under which no process at all can be made.
fn pids_limit(pids: &LinuxPids) -> String {
    match pids.limit() {
        ..=0 => "max".into(),
        limit => limit.to_string(),
    }
}

/// Writes a value to a file of a cgroup.
fn write(folder: &Path, file: &str, value: &str) -> Result<(), CgroupError> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|source| CgroupError::Io {
        operation: "write to",
        path,
        source,
    })
}

/// Makes a folder, and those above it, or takes one in which nobody is but
/// `known`.
fn claim_folder(folder: &Folder, known: Option<u32>) -> Result<(), CgroupError> {
    match make_below(&folder.path) {
        // Nobody can be in a fresh one.
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(CgroupError::io("make", &folder.path)(error)),
    }
    let inside = kernel_file::read(folder.path.join("cgroup.procs")).unwrap_or_default();
    let known = known.map(|pid| pid.to_string()).unwrap_or_default();
    if inside.lines().all(|pid| pid == known) {
        Ok(())
    } else {
        Err(CgroupError::NotEmpty(folder.path.clone()))
    }
}

/// Makes a fresh folder, and those above it.
fn make_folder(path: &Path) -> Result<(), CgroupError> {
    for _ in 0..TRIES {
        match make_below(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove_tree(path)?,
            Err(error) => return Err(CgroupError::io("make", path)(error)),
        }
    }
    Err(CgroupError::io("make", path)(io::ErrorKind::AlreadyExists.into()))
}

/// Makes a folder that is not there yet, and those above it: one above may be
/// removed at any moment by the end of another container.
///
/// # Errors
/// Those of mkdir(2), of the folder itself or of one above.
fn make_below(path: &Path) -> io::Result<()> {
    for _ in 0..TRIES {
        match (fs::create_dir(path), path.parent()) {
            (Err(error), Some(above)) if error.kind() == io::ErrorKind::NotFound => make_below(above)
                .or_else(|error| {
                    // Another container's start was first.
                    (error.kind() == io::ErrorKind::AlreadyExists)
                        .then_some(())
                        .ok_or(error)
                })?,
            (made, _) => return made,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Removes a cgroup and those below it, deepest first.
fn remove_tree(path: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut wait = Duration::from_micros(100);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Cgroups below it; or a process that has died and not left yet.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        remove_tree(&entry.path())?;
                    }
                }
                match fs::remove_dir(path) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => pause(wait),
                    _ => continue,
                }
                wait = (wait * 2).min(Duration::from_millis(10));
            }
            Err(error) => return Err(CgroupError::io("remove", path)(error)),
        }
    }
}

/// For the few states of the kernel that no descriptor announces.
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_folder_is_made_while_those_above_it_are_removed() {
        let base = tempfile::tempdir().expect("a folder");
        let above = base.path().join("above");
        let own = Folder {
            version: Version::V2,
            controllers: Vec::new(),
            path: above.join("own"),
        };
        // As many containers end while one is made.
        let ends = AtomicU32::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if ends.load(Ordering::Relaxed) > 0 && fs::remove_dir(&above).is_ok() {
                        ends.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            });
            let made: Result<(), CgroupError> = (0..2000).try_for_each(|turn| {
                ends.store(TRIES / 4, Ordering::Relaxed);
                match turn % 2 {
                    0 => claim_folder(&own, None)?,
                    _ => make_folder(&own.path)?,
                }
                remove_tree(&own.path)
            });
            done.store(true, Ordering::Relaxed);
            made.expect("each was made");
        });
    }

    #[test]
    fn a_path_that_leaves_its_place_is_refused() {
        for path in ["", "/abs", "a/../b", ".."] {
            assert!(
                Cgroup::locate(&Layout::default(), Path::new(path)).is_err(),
                "{path}"
            );
        }
        assert!(Cgroup::locate(&Layout::default(), Path::new("rcompose-0/abc")).is_ok());
    }
}
