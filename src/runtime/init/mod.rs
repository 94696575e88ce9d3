//! The init stage: the freshly executed process that becomes process 1 of a
//! container.
//!
//! The monitor makes it inside the new namespaces and the cgroup; here it
//! enters the network namespace, opens everything of the host that will be
//! mounted, makes the root file system and changes into it, and only then
//! touches paths that an image or a volume has a say in. Then come the host
//! name, kernel parameters, masks, the terminal, and the steps that exec shares
//! ([`apply`]). What goes wrong is sent to the monitor as one [`report`].
//!
//! Our executable is not to be written by the container (CVE-2019-5736): the
//! stage is executed from a read-only mount that nobody else has, is not
//! dumpable, and every descriptor is close-on-exec.
//!
//! Needs Linux 5.12 (mount_setattr). Weak: id-mapped mounts and user namespaces
//! are not done yet.

mod apply;
mod devices;
mod identity;
mod mounts;
mod place;
mod populate;
mod reaper;
pub(crate) mod report;
mod rootfs;

pub(super) use self::apply::set_oom_score;
pub(super) use self::reaper::stand_for;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::DumpableBehavior;

use self::apply::Entry;
use self::devices::Terminal;
use self::report::{Report, Reporter};
use super::blueprint::{Blueprint, MountSource, Namespaces, ProcessPlan};
use super::error::{Failure, Step};
use super::order;
use super::request::Rootfs;
use crate::sys::seccomp::Instruction;
use crate::sys::{clone, fd, mount, process, signal};

/// The first argument that chooses this role.
pub const ROLE: &str = "__init";

/// The role. Arguments: the numbers of the descriptors it was given (blueprint,
/// report socket, and `-` or the system call filter and the network namespace).
/// Must be called before any thread exists. Returns only on failure.
pub fn main(arguments: &[String]) -> i32 {
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<usize>().ok());
    let numbers: [Option<usize>; 4] = [number(0), number(1), number(2), number(3)];
    let last = numbers.iter().flatten().max().copied().unwrap_or(0);
    let (Ok(mut fds), [Some(blueprint), Some(report), filter, network]) =
        (fd::Inherited::claim(last + 1), numbers)
    else {
        return 125;
    };
    let Ok(socket) = fds.take(report) else { return 125 };
    let reporter = Reporter::new(socket);
    let failure = (|| {
        let given = |error: io::Error| Failure::new(Step::Request, "", &error);
        let blueprint: Blueprint = order::read(fds.take(blueprint).map_err(given)?.as_fd()).map_err(given)?;
        let filter = filter
            .map(|number| order::read_filter(fds.take(number)?.as_fd()))
            .transpose()
            .map_err(given)?;
        let network = network
            .map(|number| fds.take(number))
            .transpose()
            .map_err(given)?;
        run(&blueprint, filter, network, &reporter)
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
    filter: Option<Vec<Instruction>>,
    network: Option<OwnedFd>,
    reporter: &Reporter,
) -> Result<i32, Failure> {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    rustix::process::umask(rustix::fs::Mode::empty());
    enter_namespaces(&blueprint.namespaces, network.as_ref().map(|fd| fd.as_fd()))?;
    set_oom_score(&blueprint.process, reporter)?;

    // The host can be seen.
    let mut sources = mounts::Sources::open(&blueprint.mounts)?;
    let volumes = open_volumes(blueprint)?;
    make_private()?;
    let root = rootfs::mount_root(&blueprint.rootfs)?;
    rootfs::enter(root.as_fd()).map_err(|error| Failure::new(Step::Rootfs, "/", &error))?;
    // It no longer can.

    let root = apply::open_root().map_err(|error| Failure::new(Step::Rootfs, "/", &error))?;
    let root = root.as_fd();
    for (destination, volume) in volumes {
        volume
            .fill(root, destination)
            .map_err(|error| Failure::new(Step::Populate, destination.display().to_string(), &error))?;
    }
    mounts::mount_all(root, &blueprint.mounts, &mut sources, &blueprint.cgroups)?;
    if has_own_dev(blueprint) {
        devices::make_usual(root)?;
    }
    for device in &blueprint.devices {
        devices::make(root, device)?;
    }
    set_names(blueprint)?;
    mounts::set_sysctls(&blueprint.sysctls)?;
    let terminal = blueprint
        .process
        .terminal
        .then(|| Terminal::make(root, blueprint.process.size))
        .transpose()?;
    mounts::mask_all(root, &blueprint.masked, sources)?;
    mounts::make_readonly(root, &blueprint.readonly)?;
    if let Some(terminal) = &terminal {
        terminal.mount_console(root)?;
    }
    let Rootfs::Overlay { readonly, .. } = &blueprint.rootfs;
    let entry = Entry {
        root,
        plan: &blueprint.process,
        filter,
        terminal,
        reporter,
    };
    // The working directory may have to be made.
    if *readonly {
        make_working_directory(root, &blueprint.process)?;
        rootfs::make_readonly(root).map_err(|error| Failure::new(Step::ReadOnly, "/", &error))?;
    }
    let environment = entry.prepare()?;
    if blueprint.init {
        return stand_as_init(entry, &environment);
    }
    Err(entry.execute(&environment))
}

fn enter_namespaces(namespaces: &Namespaces, network: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| Failure::new(Step::Namespace, what, &error)
    };
    if namespaces.cgroup {
        // After the cgroup was joined: its root is where we are now.
        clone::unshare_namespaces(libc::CLONE_NEWCGROUP).map_err(failed("cgroup"))?;
    }
    if let Some(fd) = network {
        rustix::thread::move_into_link_name_space(fd, Some(rustix::thread::LinkNameSpaceType::Network))
            .map_err(|error| failed("network")(error.into()))?;
    }
    for (_, path) in &namespaces.join {
        let name = path.display().to_string();
        let enter = || -> io::Result<()> {
            let file = std::fs::File::open(path)?;
            Ok(rustix::thread::move_into_link_name_space(file.as_fd(), None)?)
        };
        enter().map_err(failed(&name))?;
    }
    if namespaces.fresh_network {
        process::bring_loopback_up().map_err(failed("network"))?;
    }
    Ok(())
}

fn open_volumes(blueprint: &Blueprint) -> Result<Vec<(&Path, populate::Volume)>, Failure> {
    let mut volumes = Vec::new();
    // One order for all containers, since each volume is locked.
    let mut wanted: Vec<_> = blueprint.populate.iter().collect();
    wanted.sort_by(|one, other| one.marker.cmp(&other.marker));
    wanted.dedup_by(|one, other| one.marker == other.marker);
    for populate in wanted {
        let volume = populate::Volume::open(&populate.source, &populate.marker)
            .map_err(|error| Failure::new(Step::Populate, populate.source.display().to_string(), &error))?;
        volumes.extend(volume.map(|volume| (populate.destination.as_path(), volume)));
    }
    Ok(volumes)
}

/// Nothing we mount from here on is seen by the host.
fn make_private() -> Result<(), Failure> {
    let attributes = mount::Attributes {
        propagation: libc::MS_PRIVATE,
        ..mount::Attributes::default()
    };
    rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())
        .map_err(io::Error::from)
        .and_then(|root| mount::set_attributes(root.as_fd(), c"", attributes, true))
        .map_err(|error| Failure::new(Step::Namespace, "mount", &error))
}

/// Whether `/dev` is a fresh file system of the container's own.
fn has_own_dev(blueprint: &Blueprint) -> bool {
    let last = blueprint
        .mounts
        .iter()
        .rfind(|step| step.target == Path::new("/dev"));
    last.is_some_and(|step| matches!(&step.source, MountSource::FileSystem { kind, .. } if kind == "tmpfs"))
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
    let child = clone::clone_process(0, None, || {
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
    // The monitor takes the end of the socket for the start of the program, and
    // the terminal belongs to it alone.
    entry.reporter.close();
    drop(entry);
    Ok(reaper::stand_for(child.pid))
}

/// The steps of a further process, in the container's namespaces and cgroup
/// already. Returns only when it fails.
pub(super) fn run_in_container(
    plan: &ProcessPlan,
    filter: Option<Vec<Instruction>>,
    reporter: &Reporter,
) -> Failure {
    let enter = || -> Result<Failure, Failure> {
        let root = apply::open_root().map_err(|error| Failure::new(Step::Rootfs, "/", &error))?;
        let terminal = plan
            .terminal
            .then(|| Terminal::make(root.as_fd(), plan.size))
            .transpose()?;
        let entry = Entry {
            root: root.as_fd(),
            plan,
            filter,
            terminal,
            reporter,
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
