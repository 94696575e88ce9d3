//! The init stage: the new process that becomes process 1 of a container.
//!
//! The monitor makes it inside the new namespaces and the cgroup; here it
//! enters the network namespace, opens everything of the host that will be
//! mounted, makes the root file system and changes into it, and only then
//! touches paths that an image or a volume has a say in. Then come the host
//! name, kernel parameters, masks, the terminal, and the steps that exec shares
//! ([`apply`]). What goes wrong is sent to the monitor as one [`report`].
//!
//! Our executable is not to be written by the container (CVE-2019-5736). Where
//! anything of the container could come near the stage, it is executed from a
//! read-only mount that nobody else has ([`main`]). Where it is alone in its pid
//! namespace until the program runs, it is just cloned ([`go_on`]), which saves
//! an execution of our file, and becomes the program by way of a
//! [`Stub`](crate::sys::stub::Stub): `/proc/self/exe` is that stub, then. In both
//! it is not dumpable, and every descriptor is close-on-exec.
//!
//! Needs Linux 5.12 (mount_setattr).

mod apply;
pub(super) mod devices;
mod identity;
pub(super) mod mounts;
mod notify;
mod offline;
mod place;
mod populate;
mod reaper;
pub(crate) mod report;
mod rootfs;

pub(super) use self::apply::set_oom_score;
pub(crate) use self::identity::Identity;
pub(super) use self::identity::check_user;
pub(super) use self::notify::Notifier;
pub use self::offline::{OfflineMount, mount_offline};
pub(super) use self::reaper::stand_for;
use self::rootfs::HostMounts;
pub(super) use self::rootfs::enter_tree;

use std::cell::Cell;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{ContainerState, State};
use rustix::process::DumpableBehavior;

use self::apply::Entry;
use self::devices::Terminal;
use self::report::{Report, Reporter};
use super::blueprint::{Blueprint, MountSource, Namespaces, ProcessPlan};
use super::error::{Failure, Step};
use super::order;
use super::request::{Populate, Rootfs};
use super::{executable, hooks, launch};
use crate::sys::seccomp::Instruction;
use crate::sys::stub::Stub;
use crate::sys::{clone, fd, mount, process, signal};

/// The first argument that chooses this role.
pub const ROLE: &str = "__init";

/// What the stage was given, as numbers of descriptors.
#[derive(Debug)]
pub(super) struct Given {
    /// The blueprint, where it comes in a file.
    pub(super) blueprint: Option<usize>,
    /// The report socket.
    pub(super) report: usize,
    /// The system call filter.
    pub(super) filter: Option<usize>,
    /// The network namespace.
    pub(super) network: Option<usize>,
    /// How many from 3 on are the program's.
    pub(super) preserved: u32,
    /// The highest of all.
    pub(super) last: usize,
    /// `CLONE_NEW*` of the namespaces by path that were entered for it.
    pub(super) entered: i32,
}

impl Given {
    /// The arguments of the role.
    pub(super) fn arguments(&self) -> Vec<CString> {
        let optional =
            |number: Option<usize>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let numbers = [
            optional(self.blueprint),
            self.report.to_string(),
            optional(self.filter),
            optional(self.network),
            self.preserved.to_string(),
            self.last.to_string(),
            self.entered.to_string(),
        ];
        executable::arguments(ROLE, &numbers)
    }
}

/// The role. Arguments: the numbers of the descriptors it was given (blueprint,
/// report socket, and `-` or the system call filter and the network namespace),
/// how many from 3 on are the program's, the highest of all, and the namespaces
/// that were entered. Must be called before any thread exists. Returns only on failure.
pub fn main(arguments: &[String]) -> i32 {
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<usize>().ok());
    let Some(report) = number(1) else { return 125 };
    let given = Given {
        blueprint: number(0),
        report,
        filter: number(2),
        network: number(3),
        preserved: number(4).and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        last: number(5).unwrap_or(0),
        entered: number(6).and_then(|kinds| i32::try_from(kinds).ok()).unwrap_or(0),
    };
    match fd::Inherited::claim_above(given.preserved, given.last + 1) {
        Ok(fds) => begin(&given, fds, None),
        Err(_) => 125,
    }
}

/// What the stage has in a process that was cloned and executes nothing.
pub(super) struct Cloned<'a> {
    /// The blueprint, where it is in no file.
    pub(super) blueprint: Option<&'a Blueprint>,
    /// The number of the stub.
    pub(super) stub: usize,
    /// Further descriptors that the blueprint names.
    pub(super) passed: &'a [usize],
    /// Joins the cgroups, where that is still to be done when we have been told
    /// our number. Then a network namespace is to be made, too.
    pub(super) join: Option<Join<'a>>,
}

/// What joins the cgroups.
type Join<'a> = &'a dyn Fn() -> Result<(), Failure>;

/// The stage in a process that was cloned and goes on without executing our
/// file. Nothing of its parent's may be dropped in it. Returns only on failure.
pub(super) fn go_on(given: &Given, cloned: &Cloned<'_>) -> i32 {
    // Every other descriptor is the parent's: its end of the report socket must
    // not be held here, or nobody would hear that it is gone.
    let Ok(mut fds) = fd::Inherited::claim_above(given.preserved, given.last + 1) else {
        return 125;
    };
    let own = [
        Some(given.report),
        given.blueprint,
        given.filter,
        given.network,
        Some(cloned.stub),
    ];
    let own = own.into_iter().flatten().chain(cloned.passed.iter().copied());
    fds.keep_only(&own.collect::<Vec<_>>());
    begin(given, fds, Some(cloned))
}

fn begin(given: &Given, mut fds: fd::Inherited, cloned: Option<&Cloned<'_>>) -> i32 {
    let Ok(socket) = fds.take(given.report) else {
        return 125;
    };
    let reporter = Reporter::new(socket);
    let failure = (|| {
        let wrong = |error: io::Error| Failure::new(Step::Request, "", &error);
        let read: Option<Blueprint> = given
            .blueprint
            .map(|number| order::read(fds.take(number)?.as_fd()))
            .transpose()
            .map_err(wrong)?;
        let blueprint = cloned
            .and_then(|cloned| cloned.blueprint)
            .or(read.as_ref())
            .ok_or_else(|| wrong(io::ErrorKind::NotFound.into()))?;
        let filter = given
            .filter
            .map(|number| order::read_filter(fds.take(number)?.as_fd()))
            .transpose()
            .map_err(wrong)?;
        let network = given
            .network
            .map(|number| fds.take(number))
            .transpose()
            .map_err(wrong)?;
        let stub = cloned
            .map(|cloned| fds.take(cloned.stub).map(Stub::of))
            .transpose()
            .map_err(wrong)?;
        let join = cloned.and_then(|cloned| cloned.join);
        let namespaces = (network, given.entered);
        run(blueprint, fds, filter, namespaces, (stub, join), &reporter)
    })();
    match failure {
        Ok(code) => code,
        Err(failure) => {
            let code = failure.kind().exit_code();
            reporter.send(&Report::Failed(failure), None);
            code
        }
    }
}

fn run(
    blueprint: &Blueprint,
    mut fds: fd::Inherited,
    filter: Option<Vec<Instruction>>,
    (network, entered): (Option<OwnedFd>, i32),
    (stub, join): (Option<Stub>, Option<Join<'_>>),
    reporter: &Reporter,
) -> Result<i32, Failure> {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    rustix::process::umask(rustix::fs::Mode::empty());
    let bundle = blueprint.bundle.as_ref();
    let given = |error: io::Error| Failure::new(Step::Request, "", &error);
    let mut state = bundle.map(|bundle| bundle.state.clone()).unwrap_or_default();
    if join.is_some() {
        make_network(&blueprint.namespaces)?;
    }
    if bundle.is_some() {
        let pid = reporter.wait().map_err(given)?;
        state.set_pid(pid.parse().ok());
    }
    if let Some(join) = join {
        join()?;
    }
    let network = network.as_ref().map(|fd| fd.as_fd());
    enter_namespaces(&blueprint.namespaces, network, join.is_some(), entered)?;
    let host_mounts = blueprint
        .namespaces
        .host_mounts
        .then(|| leave_host_mounts(&blueprint.rootfs))
        .transpose()?;
    set_oom_score(&blueprint.process, reporter)?;
    let listener = blueprint
        .process
        .listener
        .as_ref()
        .map(Notifier::connect)
        .transpose()?;

    // The host can be seen.
    let mut sources = mounts::Sources::open(blueprint, &mut fds)?;
    let volumes = open_volumes(&blueprint.populate)?;
    set_propagation(
        blueprint
            .propagation
            .map_or(libc::MS_PRIVATE, |(kind, _)| match kind {
                // Private, it would hear nothing of the host.
                libc::MS_SLAVE | libc::MS_SHARED => libc::MS_SLAVE,
                _ => libc::MS_PRIVATE,
            }),
        true,
    )?;
    let root = rootfs::mount_root(&blueprint.rootfs)?;
    // Paths that an image has a say in are touched when the host can no longer be
    // seen; its mounts are there as long as copies of them are made.
    let root = rootfs::while_inside(root, |root| {
        for (destination, volume) in volumes {
            volume
                .fill(root.as_fd(), destination)
                .map_err(|error| Failure::new(Step::Populate, destination.display().to_string(), &error))?;
        }
        // What is mounted upon the root takes its place.
        mounts::mount_all(
            root,
            &blueprint.mounts,
            &mut sources,
            &blueprint.cgroups,
            reporter,
        )
    })?;
    // Hooks need both, and in a user namespace a procfs can only be mounted while the
    // host's is there.
    let late = blueprint.namespaces.has_user()
        || host_mounts.is_some()
        || bundle.is_some_and(|bundle| bundle.runtime_hooks || !bundle.create_container.is_empty());
    let no_pivot = bundle.is_some_and(|bundle| bundle.no_pivot);
    let root = if late {
        root
    } else {
        change_root(root, no_pivot, None)?
    };
    let fd = root.as_fd();
    make_devices(blueprint, fd, &mut fds)?;
    set_names(blueprint)?;
    mounts::set_sysctls(&blueprint.sysctls)?;
    let terminal = blueprint
        .process
        .terminal
        .then(|| Terminal::make(fd, &blueprint.process))
        .transpose()?;
    mounts::mask_all(fd, &blueprint.masked, sources)?;
    mounts::make_readonly(fd, &blueprint.readonly)?;
    if let Some(terminal) = &terminal {
        terminal.mount_console(fd)?;
    }
    mounts::close_late(fd, &blueprint.mounts)?;
    if let Some(bundle) = bundle {
        if bundle.runtime_hooks {
            reporter.send(&Report::Mounted, None);
            reporter.wait().map_err(given)?;
        }
        // What hooks are told; a listener hears of a container that is being made.
        let status = *state.status();
        state.set_status(ContainerState::Created);
        hooks::run(
            "createContainer",
            &bundle.create_container,
            &state,
            // Where they are as with the runtimes before us: most change the root.
            Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())),
        )?;
        state.set_status(status);
    }
    let root = if late {
        change_root(root, no_pivot, host_mounts)?
    } else {
        root
    };
    let root = root.as_fd();
    if let Some((kind, below)) = blueprint.propagation {
        // Private or a slave it was from the beginning; mounts that were asked to
        // be something else stay that. On the host it is attached to what may be shared.
        let early = matches!(kind, libc::MS_PRIVATE | libc::MS_SLAVE);
        if !early || blueprint.namespaces.host_mounts {
            set_propagation(kind, below)?;
        }
    }
    let wait = bundle.and_then(|bundle| bundle.wait);
    let wait = wait
        .and_then(|number| usize::try_from(number).ok())
        .map(|number| fds.take(number))
        .transpose()
        .map_err(given)?;
    drop(fds);
    let entry = Entry {
        root,
        plan: &blueprint.process,
        filter,
        terminal,
        reporter,
        bundle,
        state,
        wait,
        listener,
        outlives: bundle.is_some_and(|bundle| !bundle.monitored),
        preserved: bundle.map_or(0, |bundle| bundle.preserved),
        own: Cell::new(0),
        stub,
    };
    // The working directory may have to be made.
    if blueprint.rootfs.is_readonly() {
        make_working_directory(root, &blueprint.process)?;
        rootfs::make_readonly(root).map_err(|error| Failure::new(Step::ReadOnly, "/", &error))?;
    }
    let environment = entry.prepare()?;
    if blueprint.init {
        return stand_as_init(entry, &environment);
    }
    Err(entry.execute(&environment))
}

/// For a container in the mount namespace of the host: its root is made in a
/// namespace that nobody else sees, so that no part of it stays mounted on the
/// host when we are killed. The host's, to go back to.
fn leave_host_mounts(rootfs: &Rootfs) -> Result<HostMounts, Failure> {
    let failed = |error: io::Error| Failure::new(Step::Namespace, "mount", &error);
    let host = HostMounts::open(rootfs).map_err(failed)?;
    clone::unshare_namespaces(libc::CLONE_NEWNS).map_err(failed)?;
    Ok(host)
}

/// Becomes the root of the container; a descriptor of it.
fn change_root(root: OwnedFd, no_pivot: bool, host_mounts: Option<HostMounts>) -> Result<OwnedFd, Failure> {
    let failed = |error: io::Error| Failure::new(Step::Rootfs, "/", &error);
    if let Some(host) = host_mounts {
        return rootfs::enter_on_host(root.as_fd(), &host).map_err(failed);
    }
    if no_pivot {
        rootfs::enter_by_moving(root.as_fd()).map_err(failed)?;
    } else {
        rootfs::enter(root.as_fd()).map_err(failed)?;
    }
    apply::open_root().map_err(failed)
}

fn make_devices(blueprint: &Blueprint, root: BorrowedFd<'_>, fds: &mut fd::Inherited) -> Result<(), Failure> {
    if has_own_dev(blueprint) {
        let nodes = !blueprint.namespaces.has_user();
        devices::make_usual(root, nodes)?;
    }
    for (path, number) in blueprint.bundle.iter().flat_map(|bundle| &bundle.device_trees) {
        let tree = usize::try_from(*number)
            .map_err(|_| io::ErrorKind::InvalidInput.into())
            .and_then(|number| fds.take(number))
            .map_err(|error| Failure::new(Step::Device, path.display().to_string(), &error))?;
        devices::mount(root, path, tree.as_fd())?;
    }
    if !blueprint.namespaces.has_user() {
        for device in &blueprint.devices {
            devices::make(root, device)?;
        }
    }
    Ok(())
}

fn enter_namespaces(
    namespaces: &Namespaces,
    network: Option<BorrowedFd<'_>>,
    made_network: bool,
    entered: i32,
) -> Result<(), Failure> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Failure::new(Step::Namespace, what, &error)
    };
    if namespaces.cgroup {
        // After the cgroup was joined: its root is where we are now.
        clone::unshare_namespaces(libc::CLONE_NEWCGROUP).map_err(failed("cgroup"))?;
    }
    // The launcher has entered it for us when our user namespace cannot own it.
    if let Some(fd) = network.filter(|_| namespaces.mappings.is_none()) {
        rustix::thread::move_into_link_name_space(fd, Some(rustix::thread::LinkNameSpaceType::Network))
            .map_err(|error| failed("network")(error.into()))?;
    }
    // The mount namespace last: the others' paths are the host's.
    let (mounts, others): (Vec<_>, Vec<_>) = namespaces
        .join
        .iter()
        .partition(|(kind, _)| *kind == libc::CLONE_NEWNS);
    for (kind, path) in others.into_iter().chain(mounts) {
        if launch::is_late(namespaces, *kind) && entered & *kind == 0 {
            launch::enter(*kind, path)?;
        }
    }
    if namespaces.fresh_network && !made_network {
        process::bring_loopback_up().map_err(failed("network"))?;
    }
    Ok(())
}

/// A network namespace of our own, with its loopback interface, where one is
/// wanted.
fn make_network(namespaces: &Namespaces) -> Result<(), Failure> {
    if !namespaces.fresh_network {
        return Ok(());
    }
    clone::unshare_namespaces(libc::CLONE_NEWNET)
        .and_then(|()| process::bring_loopback_up())
        .map_err(|error| Failure::new(Step::Namespace, "network", &error))
}

/// Mounts the root file system of a container that another runtime makes, fills
/// its fresh volumes, and looks up who its process is. In a mount namespace of
/// the calling process alone, which must have no threads; what the host mounts
/// is still seen there.
pub(crate) fn prepare_root(
    rootfs: &Rootfs,
    volumes: &[Populate],
    process: &ProcessPlan,
) -> Result<Identity, Failure> {
    clone::unshare_namespaces(libc::CLONE_NEWNS)
        .map_err(|error| Failure::new(Step::Namespace, "mount", &error))?;
    set_propagation(libc::MS_SLAVE, true)?;
    let volumes = open_volumes(volumes)?;
    let root = rootfs::mount_root(rootfs)?;
    for (destination, volume) in volumes {
        volume
            .fill(root.as_fd(), destination)
            .map_err(|error| Failure::new(Step::Populate, destination.display().to_string(), &error))?;
    }
    identity::identify(root.as_fd(), process)
}

/// Who a further process is, by the files of a container whose root is given.
pub(crate) fn identity_of(root: BorrowedFd<'_>, process: &ProcessPlan) -> Result<Identity, Failure> {
    identity::identify(root, process)
}

fn open_volumes(populate: &[Populate]) -> Result<Vec<(&Path, populate::Volume)>, Failure> {
    let mut volumes = Vec::new();
    // One order for all containers, since each volume is locked.
    let mut wanted: Vec<_> = populate.iter().collect();
    wanted.sort_by(|one, other| one.marker.cmp(&other.marker));
    wanted.dedup_by(|one, other| one.marker == other.marker);
    for populate in wanted {
        let volume = populate::Volume::open(&populate.source, &populate.marker)
            .map_err(|error| Failure::new(Step::Populate, populate.source.display().to_string(), &error))?;
        volumes.extend(volume.map(|volume| (populate.destination.as_path(), volume)));
    }
    Ok(volumes)
}

/// Sets the propagation of our root and, with `below`, of all mounts in it:
/// nothing we mount from here on is to be seen by the host.
fn set_propagation(propagation: u64, below: bool) -> Result<(), Failure> {
    let attributes = mount::Attributes {
        propagation,
        ..mount::Attributes::default()
    };
    rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())
        .map_err(io::Error::from)
        .and_then(|root| mount::set_attributes(root.as_fd(), c"", attributes, below))
        .map_err(|error| Failure::new(Step::Namespace, "mount", &error))
}

/// Whether `/dev` is the container's own: for a stack a fresh file system, for a
/// bundle anything but a bind mount.
fn has_own_dev(blueprint: &Blueprint) -> bool {
    let last = blueprint
        .mounts
        .iter()
        .rfind(|step| step.target == Path::new("/dev"));
    match last.map(|step| &step.source) {
        Some(MountSource::FileSystem { kind, .. }) => kind == "tmpfs" || blueprint.bundle.is_some(),
        Some(_) => false,
        None => blueprint.bundle.is_some(),
    }
}

fn set_names(blueprint: &Blueprint) -> Result<(), Failure> {
    if let Some(name) = &blueprint.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|error| Failure::new(Step::Hostname, name, &error.into()))?;
    }
    if let Some(name) = &blueprint.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|error| Failure::new(Step::Hostname, name, &error.into()))?;
    }
    Ok(())
}

fn make_working_directory(root: BorrowedFd<'_>, plan: &ProcessPlan) -> Result<(), Failure> {
    match place::open(root, &plan.cwd, rustix::fs::OFlags::PATH, true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            place::make(root, &plan.cwd, place::Kind::Folder, true)
                .map(drop)
                .map_err(|error| Failure::new(Step::WorkingDirectory, plan.cwd.display().to_string(), &error))
        }
        // Entering it says what is wrong with it.
        _ => Ok(()),
    }
}

/// Runs the program as a child and stays as process 1.
fn stand_as_init(entry: Entry<'_>, environment: &[CString]) -> Result<i32, Failure> {
    signal::block_all();
    let child = clone::fork(|| {
        if entry.terminal.is_some() {
            // Signals are blocked: taking the terminal from the background is not stopped.
            reaper::take_terminal();
        }
        signal::reset_all();
        let failure = entry.execute(environment);
        let code = failure.kind().exit_code();
        entry.reporter.send(&Report::Failed(failure), None);
        code
    })
    .map_err(|error| Failure::new(Step::Clone, "", &error))?;
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if entry.listener.is_none() {
        entry.confine()?;
    }
    // The monitor takes the end of the socket for the start of the program, and
    // the terminal belongs to it alone.
    entry.reporter.close();
    drop(entry);
    Ok(reaper::stand_for(child))
}

/// What a further process needs beside its plan.
#[derive(Debug, Default)]
pub(super) struct Further {
    pub(super) listener: Option<Notifier>,
    /// The first descriptors from 3 on are the program's.
    pub(super) preserved: u32,
    /// It outlives its parent.
    pub(super) outlives: bool,
    pub(super) state: State,
}

/// The steps of a further process, in the container's namespaces and cgroup
/// already. Returns only when it fails.
pub(super) fn run_in_container(
    plan: &ProcessPlan,
    filter: Option<Vec<Instruction>>,
    further: Further,
    reporter: &Reporter,
) -> Failure {
    let enter = move || -> Result<Failure, Failure> {
        let root = apply::open_root().map_err(|error| Failure::new(Step::Rootfs, "/", &error))?;
        let terminal = plan
            .terminal
            .then(|| Terminal::make(root.as_fd(), plan))
            .transpose()?;
        let entry = Entry {
            root: root.as_fd(),
            plan,
            filter,
            terminal,
            reporter,
            bundle: None,
            state: further.state,
            wait: None,
            listener: further.listener,
            preserved: further.preserved,
            outlives: further.outlives,
            own: Cell::new(0),
            stub: None,
        };
        let environment = entry.prepare()?;
        Ok(entry.execute(&environment))
    };
    match enter() {
        Ok(failure) | Err(failure) => failure,
    }
}

/// Lets go of the standard descriptors.
pub(super) fn close_standard() {
    // A path descriptor can be neither read nor written; opening the
    // container's /dev/null would open what the container put there.
    let place = rustix::fs::open(
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    if let Ok(place) = place {
        for number in 0..3 {
            let _ = fd::set_standard(place.as_fd(), number);
        }
    }
}
