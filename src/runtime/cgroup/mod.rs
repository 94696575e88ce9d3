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
//! own cgroup is the base.
//!
//! Joining is the caller's: on version 1 a single-threaded process writes `0`
//! to `tasks` itself, which costs microseconds, where writing another's pid to
//! `cgroup.procs` waits for a grace period of RCU (7 to 14 ms measured); on
//! version 2 clone3(2) makes the process inside (`CLONE_INTO_CGROUP`).
//!
//! Weak: on version 2 device rules cannot be changed later.

mod devices;
mod limits;
mod stats;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::error::describe;
use crate::sys::pidfd;

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
    /// Somebody else's processes are in it.
    #[error("container's cgroup is not empty: processes are in {}", .0.display())]
    NotEmpty(PathBuf),
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

/// A wish that this machine cannot fulfil.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The wish, as the OCI spec or Compose names it.
    pub wish: String,
    /// Why not.
    pub reason: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} has no effect: {}", self.wish, self.reason)
    }
}

/// The version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// Version 1.
    V1,
    /// Version 2.
    V2,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its version.
    pub version: Version,
    /// Version 1: the controllers. Version 2: those it offers at the base.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The folder that containers' cgroups are made below.
    pub base: PathBuf,
}

/// The hierarchies of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// All with a controller, and the version 2 one in any case.
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the layout of this machine.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when `/proc` cannot be read, [`CgroupError::None`]
    /// without any hierarchy.
    pub fn detect() -> Result<Self, CgroupError> {
        let read =
            |path: &'static str| fs::read_to_string(path).map_err(CgroupError::io("read", Path::new(path)));
        let mut layout = Self::parse(
            &read("/proc/self/mountinfo")?,
            &read("/proc/self/cgroup")?,
            &|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok(),
        );
        for hierarchy in &mut layout.hierarchies {
            if hierarchy.version == Version::V2 {
                let controllers =
                    fs::read_to_string(hierarchy.base.join("cgroup.controllers")).unwrap_or_default();
                hierarchy.controllers = controllers.split_whitespace().map(str::to_owned).collect();
            }
        }
        if layout.hierarchies.is_empty() {
            return Err(CgroupError::None);
        }
        Ok(layout)
    }

    /// The layout in `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn parse(mountinfo: &str, own: &str, writable: &dyn Fn(&Path) -> bool) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((place, kind)) = line.split_once(" - ") else {
                continue;
            };
            let (mut place, mut kind) = (place.split(' '), kind.split(' '));
            let (Some(root), Some(mountpoint)) = (place.nth(3), place.next()) else {
                continue;
            };
            let version = match kind.next() {
                Some("cgroup") => Version::V1,
                Some("cgroup2") => Version::V2,
                _ => continue,
            };
            let options = kind.nth(1).unwrap_or_default();
            let controllers: Vec<String> = match version {
                // The rest are mount flags, and `name=` of hierarchies without controllers.
                Version::V1 => options
                    .split(',')
                    .filter(|option| CONTROLLERS.contains(option))
                    .map(str::to_owned)
                    .collect(),
                Version::V2 => Vec::new(),
            };
            let seen = |known: &Hierarchy| known.version == version && known.controllers == controllers;
            if (version == Version::V1 && controllers.is_empty()) || hierarchies.iter().any(seen) {
                continue;
            }
            let mountpoint = PathBuf::from(unescape(mountpoint));
            let base = if writable(&mountpoint) {
                mountpoint.clone()
            } else {
                let own = own_path(own, &controllers);
                let below = own
                    .strip_prefix(&unescape(root))
                    .unwrap_or(&own)
                    .trim_start_matches('/')
                    .to_owned();
                mountpoint.join(below)
            };
            if writable(&base) {
                hierarchies.push(Hierarchy {
                    version,
                    controllers,
                    mountpoint,
                    base,
                });
            }
        }
        Self { hierarchies }
    }
}

/// The controllers of version 1 that we know.
const CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
];

/// Our own cgroup in the hierarchy of these controllers (none: version 2).
fn own_path(own: &str, controllers: &[String]) -> String {
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(named), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let same = match controllers.first() {
            Some(first) => named.split(',').any(|name| name == first),
            None => named.is_empty(),
        };
        if same {
            return path.to_owned();
        }
    }
    "/".into()
}

/// Undoes the octal escapes of mountinfo (`\040` is a space).
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        match after
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
        {
            Some(byte) => {
                text.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                text.push('\\');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
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

/// A container's cgroup: a folder in each hierarchy it uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// The folders.
    pub folders: Vec<Folder>,
}

/// The hierarchies that a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct View {
    /// The controllers of each version 1 hierarchy.
    pub(super) v1: Vec<Vec<String>>,
    /// Whether there is version 2.
    pub(super) v2: bool,
    /// Without a cgroup namespace: its folders, by the names they get. One
    /// without a name is everything.
    pub(super) folders: Vec<(String, PathBuf)>,
}

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
    /// has chosen: a folder that exists is used when no process is in it, and
    /// what is above it is not ours to remove. A limit that the machine cannot
    /// enforce for want of a controller is an error.
    ///
    /// # Errors
    /// [`CgroupError`], [`CgroupError::NotEmpty`] among them.
    pub fn create_at(
        layout: &Layout,
        path: &Path,
        resources: Option<&LinuxResources>,
    ) -> Result<(Self, Vec<Warning>), CgroupError> {
        let cgroup = Self::locate(layout, path)?;
        for folder in &cgroup.folders {
            fs::create_dir_all(&folder.path).map_err(CgroupError::io("make", &folder.path))?;
            let inside = fs::read_to_string(folder.path.join("cgroup.procs")).unwrap_or_default();
            if !inside.trim().is_empty() {
                return Err(CgroupError::NotEmpty(folder.path.clone()));
            }
        }
        let mut cgroup = cgroup;
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
            let text = fs::read_to_string(folder.path.join(file)).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse::<u64>().ok()
        };
        self.folders
            .iter()
            .filter(|folder| folder.controllers.iter().any(|name| name == "memory"))
            .find_map(count)
            .unwrap_or(0)
    }

    /// The processes in it and below it.
    pub fn processes(&self) -> Vec<u32> {
        let mut list = Vec::new();
        for folder in &self.folders {
            collect(&folder.path, &mut list);
        }
        list.sort_unstable();
        list.dedup();
        list
    }

    /// Kills every process in it and waits until they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when some outlive `patience` (they hang in the kernel).
    pub fn kill(&self, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(folder) = self.unified() {
                // Everything at once where the kernel can (5.14), even what
                // forks faster than we look.
                let _ = fs::write(folder.join("cgroup.kill"), "1");
            }
            let processes = self.processes();
            if processes.is_empty() {
                return Ok(());
            }
            let open = |number: u32| {
                let pid = Pid::from_raw(i32::try_from(number).ok()?)?;
                Some((
                    number,
                    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?,
                ))
            };
            let mut ends: Vec<_> = processes.into_iter().filter_map(open).collect();
            // A number may have passed to another process between the list and
            // the descriptor: what is killed must be in a second list too.
            let members = self.processes();
            ends.retain(|(number, _)| members.binary_search(number).is_ok());
            for (_, end) in &ends {
                let _ = pidfd::send_signal(end.as_fd(), libc::SIGKILL);
            }
            for (_, end) in &ends {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = Timespec {
                    tv_sec: left.as_secs().cast_signed(),
                    tv_nsec: left.subsec_nanos().into(),
                };
                let mut fds = [PollFd::new(end, PollFlags::IN)];
                let _ = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&timeout)));
            }
            if Instant::now() >= deadline {
                let path = self
                    .folders
                    .first()
                    .map(|folder| folder.path.clone())
                    .unwrap_or_default();
                return Err(CgroupError::io("empty", &path)(io::ErrorKind::TimedOut.into()));
            }
            if ends.is_empty() {
                // Ended between the two looks, or leaving right now.
                pause(Duration::from_micros(200));
            }
        }
    }

    /// Removes the folders, with those that the container made inside, and the
    /// folders above them that are empty then. Fine when they are gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`] for a folder that still has processes.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.remove_own()?;
        for folder in &self.folders {
            if let Some(parent) = folder.path.parent() {
                // Fails, as it should, while others are in it, and at the base.
                let _ = fs::remove_dir(parent);
            }
        }
        Ok(())
    }
}

impl Cgroup {
    /// Looks again at what the kernel offers in a folder whose description was
    /// written down before it was made.
    pub fn refresh(&mut self) {
        for folder in &mut self.folders {
            if folder.version == Version::V2
                && let Ok(has) = fs::read_to_string(folder.path.join("cgroup.controllers"))
            {
                folder.controllers = has.split_whitespace().map(str::to_owned).collect();
            }
        }
    }

    /// Sends a signal to every process in it, once.
    ///
    /// # Errors
    /// [`CgroupError::Io`] when one cannot be signalled.
    pub fn signal(&self, signal: i32) -> Result<(), CgroupError> {
        let folder = self
            .folders
            .first()
            .map(|folder| folder.path.clone())
            .unwrap_or_default();
        for number in self.processes() {
            let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else {
                continue;
            };
            let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Its number may have passed to another process before it was opened.
            if self.processes().binary_search(&number).is_err() {
                continue;
            }
            match pidfd::send_signal(process.as_fd(), signal) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                    return Err(CgroupError::io("signal processes of", &folder)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The folder that freezes: version 2 where there is one, also without
    /// controllers.
    fn freezer(&self) -> Option<&Folder> {
        let v2 =
            |folder: &&Folder| folder.version == Version::V2 && folder.path.join("cgroup.freeze").exists();
        let v1 = |folder: &&Folder| {
            folder.version == Version::V1 && folder.controllers.iter().any(|name| name == "freezer")
        };
        let mut folders = self.folders.iter();
        folders.clone().find(v2).or_else(|| folders.find(v1))
    }

    /// Whether all its processes are frozen.
    pub fn is_frozen(&self) -> bool {
        let Some(folder) = self.freezer() else {
            return false;
        };
        match folder.version {
            Version::V2 => fs::read_to_string(folder.path.join("cgroup.events"))
                .is_ok_and(|text| text.lines().any(|line| line == "frozen 1")),
            Version::V1 => fs::read_to_string(folder.path.join("freezer.state"))
                .is_ok_and(|text| text.trim() == "FROZEN"),
        }
    }

    /// Freezes or thaws all its processes, and waits until they are.
    ///
    /// # Errors
    /// [`CgroupError::Io`]; of kind `TimedOut` when a process does not freeze
    /// within ten seconds (then all are thawed again).
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(folder) = self.freezer() else {
            return Err(CgroupError::Unenforced(Warning {
                wish: "freezing".into(),
                reason: "no freezer controller".into(),
            }));
        };
        let (file, value) = match (folder.version, frozen) {
            (Version::V2, true) => ("cgroup.freeze", "1"),
            (Version::V2, false) => ("cgroup.freeze", "0"),
            (Version::V1, true) => ("freezer.state", "FROZEN"),
            (Version::V1, false) => ("freezer.state", "THAWED"),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut wait = Duration::from_micros(100);
        loop {
            // Version 1 may need to be asked again while processes fork.
            write(&folder.path, file, value)?;
            if self.is_frozen() == frozen {
                return Ok(());
            }
            if Instant::now() >= deadline {
                if frozen {
                    let _ = self.freeze(false);
                }
                return Err(CgroupError::io("freeze", &folder.path)(
                    io::ErrorKind::TimedOut.into(),
                ));
            }
            pause(wait);
            wait = (wait * 2).min(Duration::from_millis(10));
        }
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

/// The wishes in a request that have not been fulfilled yet, with the reason.
struct Wishes(Vec<(&'static str, String)>);

impl Wishes {
    fn of(resources: &LinuxResources) -> Self {
        let mut list = Vec::new();
        let mut wish = |is: bool, name: &'static str, controller: &str| {
            if is {
                list.push((name, format!("no {controller} controller")));
            }
        };
        if let Some(memory) = resources.memory() {
            wish(
                memory.limit().is_some_and(|limit| limit > 0),
                "memory limit",
                "memory",
            );
            // Twice the limit is what everyone gets who asks for none: nobody
            // is told that a wish he did not have is not fulfilled.
            let asked = |total| {
                total != 0
                    && memory
                        .limit()
                        .is_none_or(|limit| total != limit.saturating_mul(2))
            };
            wish(
                memory.swap().is_some_and(asked),
                "memory and swap limit",
                "memory swap",
            );
            wish(
                memory.reservation().is_some_and(|limit| limit > 0),
                "memory reservation",
                "memory",
            );
            wish(
                memory.swappiness().is_some(),
                "memory swappiness",
                "version 1 memory",
            );
            wish(
                memory.disable_oom_killer() == Some(true),
                "oom_kill_disable",
                "version 1 memory",
            );
        }
        if let Some(cpu) = resources.cpu() {
            wish(cpu.quota().is_some_and(|quota| quota > 0), "cpu limit", "cpu");
            wish(cpu.shares().is_some_and(|shares| shares > 0), "cpu shares", "cpu");
            wish(cpu.cpus().is_some(), "cpuset", "cpuset");
            wish(cpu.mems().is_some(), "cpuset memory nodes", "cpuset");
        }
        wish(
            resources.pids().as_ref().is_some_and(|pids| pids.limit() > 0),
            "pids limit",
            "pids",
        );
        wish(
            resources
                .devices()
                .as_ref()
                .is_some_and(|rules| !rules.is_empty()),
            "device rules",
            "devices",
        );
        if let Some(unified) = resources.unified() {
            wish(!unified.is_empty(), "unified", "version 2");
        }
        for (name, controller, is) in limits::wishes(resources) {
            wish(is, name, controller);
        }
        Self(list)
    }

    fn fulfilled(&mut self, name: &str) {
        self.0.retain(|(wish, _)| *wish != name);
    }

    fn refused(&mut self, name: &str, reason: String) {
        for (wish, why) in &mut self.0 {
            if *wish == name {
                *why = reason.clone();
            }
        }
    }

    fn left(self) -> Vec<Warning> {
        self.0
            .into_iter()
            .map(|(wish, reason)| Warning {
                wish: wish.into(),
                reason,
            })
            .collect()
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

/// Makes a fresh folder, and those above it. One above may be removed at any
/// moment by the end of another container.
fn make_folder(path: &Path) -> Result<(), CgroupError> {
    let mut tries = 0;
    loop {
        let error = match fs::create_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        tries += 1;
        match (error.kind(), path.parent()) {
            (io::ErrorKind::AlreadyExists, _) if tries < 100 => remove_tree(path)?,
            (io::ErrorKind::NotFound, Some(parent)) if tries < 100 => {
                let _ = fs::create_dir_all(parent);
            }
            _ => return Err(CgroupError::io("make", path)(error)),
        }
    }
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

fn collect(folder: &Path, list: &mut Vec<u32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    list.extend(
        text.lines()
            .filter_map(|line| line.parse::<u32>().ok())
            .filter(|pid| *pid != 0),
    );
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), list);
        }
    }
}

/// For the few states of the kernel that no descriptor announces.
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /with\\040space rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /elsewhere rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_layout_is_read() {
        let layout = Layout::parse(HYBRID, "4:memory:/a\n1:cpu,cpuacct:/\n0::/\n", &|_| true);
        let found: Vec<_> = layout
            .hierarchies
            .iter()
            .map(|each| {
                (
                    each.version,
                    each.controllers.join(","),
                    each.base.to_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                (Version::V1, "cpu,cpuacct".into(), "/sys/fs/cgroup/cpu,cpuacct"),
                (Version::V1, "memory".into(), "/sys/fs/cgroup/memory"),
                (Version::V1, "devices".into(), "/with space"),
                (Version::V2, String::new(), "/sys/fs/cgroup/unified"),
            ]
        );
    }

    #[test]
    fn a_delegated_subtree_is_the_base_when_the_root_is_not_ours() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n";
        let own = "0::/user.slice/user-1000.slice\n";
        let layout = Layout::parse(mountinfo, own, &|path| path.ends_with("user-1000.slice"));
        assert_eq!(
            layout.hierarchies[0].base,
            Path::new("/sys/fs/cgroup/user.slice/user-1000.slice")
        );
    }

    #[test]
    fn a_subtree_mounted_into_a_container_is_stripped_from_our_path() {
        let mountinfo = "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let layout = Layout::parse(mountinfo, "0::/docker/abc/me\n", &|path| path.ends_with("me"));
        assert_eq!(layout.hierarchies[0].base, Path::new("/sys/fs/cgroup/me"));
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

    #[test]
    fn wishes_without_a_controller_become_warnings() {
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "memory": {"limit": 1000}, "cpu": {"shares": 2}, "pids": {"limit": 0}
        }))
        .unwrap();
        let left = Cgroup::default().update(Some(&resources), true).unwrap();
        let texts: Vec<String> = left.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "memory limit has no effect: no memory controller",
                "cpu shares has no effect: no cpu controller"
            ]
        );
    }
}
