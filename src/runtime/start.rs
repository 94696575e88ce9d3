//! Starting a container.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::{fs, io};

use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::blueprint::{Blueprint, stack_state};
use super::cgroup::{Cgroup, Layout, Warning};
use super::error::RuntimeError;
use super::executable;
use super::foreign::Foreign;
use super::order::{self, Answer, MonitorOrder};
use super::process::Process;
use super::record::{Fixed, RunningRecord, boot};
use super::recover::earlier;
use super::request::RunRequest;
use super::seccomp::{self, SeccompPolicy};
use super::spec::SpecError;
use crate::store;
use crate::sys::spawn::{Program, spawn};
use crate::sys::{fd, pidfd, stub};

/// The first argument that chooses the monitor's role.
pub const MONITOR_ROLE: &str = "__monitor";

/// The name under which the monitor keeps the way in for new supervisors.
pub(super) const DOOR: &str = "door";

/// The name among what a monitor keeps of a packet socket whose other end is a
/// client from before the container begins: nothing of what it prints is lost to
/// it, and the container waits for it when it is slow.
pub const FIRST_CLIENT: &str = "client";

/// The name among what a monitor is given of the packet socket into which it puts
/// what it leaves when it is killed (`monitor::Estate`).
pub const ESTATE: &str = "estate-in";

/// What a client sends through the door with its socket; a supervisor sends
/// something else.
pub(crate) const CLIENT: &[u8] = b"attach";

/// A running container.
#[derive(Debug)]
pub struct Started {
    /// Its monitor, a child of ours: to be [reaped](Process::reap) when it ends.
    pub monitor: Process,
    /// Its process 1.
    pub init: Process,
    /// When it was made, in nanoseconds since 1970.
    pub started_at: u64,
    /// Wishes that could not be fulfilled.
    pub warnings: Vec<String>,
}

/// Makes the cgroup and starts a monitor that starts the container; returns
/// when the program runs.
///
/// The container gets `network` as its network namespace (else one of its own,
/// if the spec has one, with nothing but loopback). The monitor inherits
/// `kept`, for [`retrieve_kept`] only ([`FIRST_CLIENT`] and [`ESTATE`] apart), and `supervisor`: when the other end of
/// that stream socket closes before a byte was written to it while the
/// container runs, the monitor does what [`RunRequest::revive`] says.
///
/// Blocks for some milliseconds. May be called by several threads.
///
/// # Errors
/// [`RuntimeError`]. Then no process is left, and the cgroup is removed; a
/// caller that is killed meanwhile leaves what [`cleanup`](super::cleanup)
/// removes.
pub fn start(
    request: &RunRequest,
    network: Option<BorrowedFd<'_>>,
    kept: &[(String, BorrowedFd<'_>)],
    supervisor: Option<BorrowedFd<'_>>,
) -> Result<Started, RuntimeError> {
    let layout = layout()?;
    let place = Cgroup::locate(layout, &request.cgroup.path)?;
    // Finds everything that can be wrong with the request, before anything is made.
    let blueprint = Blueprint::new(request, network.is_some())?;
    set_aside(&request.exit_record)?;
    for file in [&request.log, &request.exit_record, &request.running_record] {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(RuntimeError::io("make", folder.display().to_string()))?;
        }
    }
    let resources = request
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.resources().as_ref());
    let started = Cgroup::create(layout, &request.cgroup.path, resources, request.cgroup.strict)
        .map_err(RuntimeError::from)
        .and_then(|(cgroup, warnings)| {
            let blueprint = Blueprint {
                cgroups: if blueprint.namespaces.cgroup {
                    cgroup.view()
                } else {
                    cgroup.view_of_host()
                },
                ..blueprint
            };
            let warnings = warnings.iter().map(Warning::to_string).collect();
            let connections = Connections {
                network,
                kept,
                supervisor,
            };
            start_in(request, &blueprint, &connections, cgroup, warnings)
        });
    if started.is_err() {
        let _ = place.kill(super::recover::PATIENCE);
        let _ = place.remove();
        let _ = Foreign::sweep(&request.running_record);
        let _ = store::remove_record(&request.running_record);
    }
    started
}

/// What the monitor inherits.
struct Connections<'a> {
    network: Option<BorrowedFd<'a>>,
    kept: &'a [(String, BorrowedFd<'a>)],
    supervisor: Option<BorrowedFd<'a>>,
}

fn start_in(
    request: &RunRequest,
    blueprint: &Blueprint,
    connections: &Connections<'_>,
    cgroup: Cgroup,
    mut warnings: Vec<String>,
) -> Result<Started, RuntimeError> {
    let failed = |operation| RuntimeError::io(operation, "monitor");
    let profile = request
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let filter = filter(request.seccomp, profile, blueprint.process.capabilities.bounding)?;
    let flags = SocketFlags::CLOEXEC;
    let pair = || rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    let (answer, monitor_answer) = pair().map_err(|error| failed("make socket for")(error.into()))?;
    let (door, door_outside) = pair().map_err(|error| failed("make socket for")(error.into()))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| RuntimeError::io("open", "/dev/null")(error.into()))?;
    let executable = executable::open().map_err(RuntimeError::io("open", "own executable"))?;
    let blueprint_file = order::write(blueprint).map_err(failed("write order of"))?;

    // In the order of the constants in `order`, then those the order names.
    let mut further: Vec<BorrowedFd<'_>> = Vec::new();
    let filter_number = place(&mut further, filter.as_ref().map(|file| file.as_fd()));
    let network_number = place(&mut further, connections.network);
    let link_number = place(&mut further, connections.supervisor);
    let mut numbers = BTreeMap::new();
    let (mut client, mut estate) = (None, None);
    for (name, fd) in connections.kept {
        let number = place(&mut further, Some(*fd));
        if name == FIRST_CLIENT {
            client = number;
        } else if name == ESTATE {
            estate = number;
        } else if let Some(number) = number {
            numbers.insert(name.clone(), i32::try_from(number).unwrap_or(i32::MAX));
        }
    }
    numbers.insert(
        DOOR.to_owned(),
        i32::try_from(order::DOOR_OUTSIDE).unwrap_or(i32::MAX),
    );
    if let Some(foreign) = &request.foreign {
        foreign.prepare(request, &cgroup, blueprint.process.capabilities.bounding)?;
    }
    let fixed = Fixed {
        id: request.id.clone(),
        boot: boot().to_owned(),
        cgroup: cgroup.clone(),
        unit: None,
        kept: numbers,
        takes_orders: true,
        namespaces: blueprint.namespaces.all(connections.network.is_some()),
        process: blueprint.process.clone(),
        seccomp: request.seccomp,
        foreign: request.foreign.clone(),
        profile: if request.seccomp == SeccompPolicy::Spec {
            profile.cloned()
        } else {
            None
        },
    };
    let fixed =
        serde_json::value::to_raw_value(&fixed).map_err(|error| failed("write order of")(error.into()))?;
    let order = MonitorOrder {
        id: request.id.clone(),
        namespaces: blueprint.namespaces.clone(),
        cgroup,
        terminal: blueprint.process.terminal,
        stdin_open: request.stdin_open,
        log: request.log.clone(),
        log_plan: request.log_plan.clone(),
        exit_record: request.exit_record.clone(),
        running_record: request.running_record.clone(),
        revive: request.revive.clone(),
        alone: blueprint.is_alone(seccomp::allows(request.seccomp, profile, &stub::CALLS)),
        filter: filter_number,
        network: network_number,
        link: link_number,
        foreign: request.foreign.clone(),
        // Another runtime runs them itself.
        hooks: request
            .spec
            .hooks()
            .as_ref()
            .filter(|_| request.foreign.is_none())
            .map(|hooks| {
                Box::new(order::HookOrder {
                    state: stack_state(request),
                    hooks: hooks.clone(),
                })
            }),
        client,
        estate,
        fixed,
    };
    let order_file = order::write(&order).map_err(failed("write order of"))?;
    let mut fds = vec![
        null.as_fd(),
        null.as_fd(),
        null.as_fd(),
        order_file.as_fd(),
        blueprint_file.as_fd(),
        monitor_answer.as_fd(),
        executable,
        door.as_fd(),
        door_outside.as_fd(),
    ];
    fds.extend(further);
    let argv = executable::arguments(MONITOR_ROLE, &[fds.len().to_string()]);
    let path = std::ffi::CString::new(format!("/proc/self/fd/{}", order::EXECUTABLE)).unwrap_or_default();
    let pid = spawn(&Program {
        path: &path,
        argv: &argv,
        fds: &fds,
        new_session: true,
    })
    .map_err(failed("start"))?;
    let monitor = Process::own(pid).map_err(failed("open"))?;
    drop(monitor_answer);
    match listen(answer.as_fd()) {
        Ok((
            Answer::Started {
                init,
                started_at,
                warnings: later,
                ..
            },
            Some(fd),
        )) => {
            warnings.extend(later);
            Ok(Started {
                monitor,
                init: Process::given(init, fd),
                started_at,
                warnings,
            })
        }
        Ok((Answer::Failed(failure), _)) => {
            let _ = monitor.wait();
            Err(failure.into())
        }
        other => {
            let _ = monitor.signal(libc::SIGKILL);
            let _ = monitor.wait();
            other.and(Err(RuntimeError::Silent("monitor")))
        }
    }
}

/// Makes room for the exit record of a new run; that of the run before stays
/// known until the new one has begun.
fn set_aside(exit_record: &Path) -> Result<(), RuntimeError> {
    match fs::rename(exit_record, earlier(exit_record)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RuntimeError::io(
            "set aside",
            exit_record.display().to_string(),
        )(error)),
        _ => Ok(()),
    }
}

/// The number that a further descriptor gets.
fn place<'a>(further: &mut Vec<BorrowedFd<'a>>, fd: Option<BorrowedFd<'a>>) -> Option<usize> {
    further.push(fd?);
    Some(order::FURTHER + further.len() - 1)
}

fn listen(socket: BorrowedFd<'_>) -> Result<(Answer, Option<OwnedFd>), RuntimeError> {
    let failed = || RuntimeError::io("listen to", "monitor");
    let mut buffer = vec![0; order::LONGEST_ANSWER];
    let (length, fd) = fd::receive(socket, &mut buffer).map_err(failed())?;
    match buffer.get(..length).filter(|bytes| !bytes.is_empty()) {
        Some(bytes) => Ok((
            serde_json::from_slice(bytes).map_err(|error| failed()(error.into()))?,
            fd,
        )),
        None => Err(RuntimeError::Silent("monitor")),
    }
}

/// The hierarchies of this machine, looked at once.
///
/// # Errors
/// As [`Layout::detect`].
pub(super) fn layout() -> Result<&'static Layout, RuntimeError> {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    if let Some(layout) = LAYOUT.get() {
        return Ok(layout);
    }
    let detected = Layout::detect()?;
    Ok(LAYOUT.get_or_init(|| detected))
}

/// Whether containers can be run on this machine at all, before any is made.
///
/// # Errors
/// As [`Layout::detect`]: there is no cgroup hierarchy to put them into.
pub fn check_machine() -> Result<(), RuntimeError> {
    layout().map(|_| ())
}

/// The filter of a policy as a memory file; that of the default policy is made
/// once for each set of capabilities.
pub(super) fn filter(
    policy: SeccompPolicy,
    profile: Option<&LinuxSeccomp>,
    capabilities: u64,
) -> Result<Option<Arc<OwnedFd>>, RuntimeError> {
    static MADE: Mutex<BTreeMap<u64, Arc<OwnedFd>>> = Mutex::new(BTreeMap::new());
    let cached = policy == SeccompPolicy::Default;
    if cached
        && let Some(made) = MADE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&capabilities)
    {
        return Ok(Some(Arc::clone(made)));
    }
    let Some(program) = seccomp::program(policy, profile, capabilities).map_err(SpecError::from)? else {
        return Ok(None);
    };
    let file = order::write_filter(&program).map_err(RuntimeError::io("write", "system call filter"))?;
    let file = Arc::new(file);
    if cached {
        MADE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(capabilities, Arc::clone(&file));
    }
    Ok(Some(file))
}

/// A copy of a descriptor that the monitor of a running container keeps.
///
/// # Errors
/// [`RuntimeError::NotRunning`] without a monitor, [`RuntimeError::NotKept`]
/// for an unknown name, [`RuntimeError::Io`] when it cannot be taken.
pub fn retrieve_kept(running: &RunningRecord, name: &str) -> Result<OwnedFd, RuntimeError> {
    let not_running = || RuntimeError::NotRunning(running.fixed.id.clone());
    let number = running
        .fixed
        .kept
        .get(name)
        .ok_or_else(|| RuntimeError::NotKept(name.to_owned()))?;
    if running.fixed.boot != boot() {
        return Err(not_running());
    }
    let monitor = running
        .monitor
        .open()
        .map_err(RuntimeError::io("open", "monitor"))?
        .ok_or_else(not_running)?;
    pidfd::get_fd(monitor.as_fd(), *number).map_err(RuntimeError::io("take", format!("{name} from monitor")))
}

/// Links a running container's monitor to a new supervisor, in place of the one
/// that is gone; `supervisor` is one end of a stream socket, as in [`start`].
///
/// # Errors
/// As [`retrieve_kept`].
pub fn link(running: &RunningRecord, supervisor: BorrowedFd<'_>) -> Result<(), RuntimeError> {
    let door = retrieve_kept(running, DOOR)?;
    fd::send(door.as_fd(), b"link", Some(supervisor)).map_err(RuntimeError::io("link to", "monitor"))
}

/// Attaches a client to a running container: its monitor sends what the
/// container prints from now on to the other end of `client`, a packet socket
/// (`monitor::attach` has the packets).
///
/// # Errors
/// As [`retrieve_kept`].
pub fn attach(running: &RunningRecord, client: BorrowedFd<'_>) -> Result<(), RuntimeError> {
    let door = retrieve_kept(running, DOOR)?;
    fd::send(door.as_fd(), CLIENT, Some(client)).map_err(RuntimeError::io("attach to", "monitor"))
}
