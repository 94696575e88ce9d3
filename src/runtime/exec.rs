//! A further process in a running container.
//!
//! The caller starts an exec stage of our own executable. It enters all of the
//! container's namespaces at once by the descriptor of its process 1, makes a
//! child inside the cgroup, and stands for it: signals go in, the status comes
//! out. The child takes the same last steps as the container's first process.
//! Between entering and executing, nothing of ours can be looked at from
//! inside: the stage is not dumpable and holds no descriptor of the host but
//! close-on-exec ones.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::State;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::DumpableBehavior;
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};

use super::blueprint::{CapabilityPlan, ProcessPlan};
use super::capability;
use super::cgroup::Cgroup;
use super::error::{Failure, RuntimeError, Step};
use super::executable;
use super::init::report::{Beginning, Report, Reporter};
use super::init::{self};
use super::order;
use super::process::Process;
use super::record::{Fixed, RunningRecord};
use super::recover::{Liveness, probe};
use super::seccomp::SeccompPolicy;
use super::start::filter;
use crate::sys::seccomp::Instruction;
use crate::sys::spawn::{Program, spawn};
use crate::sys::{clone, fd, process, signal};

/// The first argument that chooses this role.
pub const ROLE: &str = "__exec";

/// What is to be run in a container.
#[derive(Clone, Debug, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, over the container's environment.
    pub env: Vec<String>,
    /// Working directory; the container's unless set.
    pub cwd: Option<String>,
    /// `user[:group]`; the container's unless set.
    pub user: Option<String>,
    /// With a terminal of its own; then the three descriptors are not used.
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub size: Option<(u16, u16)>,
    /// With all capabilities and without the system call filter.
    pub privileged: bool,
}

/// Standard descriptors; what is not given is `/dev/null`. They reach the
/// program as they are: a terminal of the host should not be among them when
/// the container is not trusted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecStdio<'a> {
    /// Standard input.
    pub stdin: Option<BorrowedFd<'a>>,
    /// Standard output.
    pub stdout: Option<BorrowedFd<'a>>,
    /// Standard error.
    pub stderr: Option<BorrowedFd<'a>>,
}

/// A process in a container.
#[derive(Debug)]
pub struct Exec {
    /// The exec stage, a child of ours: signals sent to it reach the program
    /// (SIGKILL kills both), and its status is the program's.
    pub process: Process,
    /// The side of the terminal to read from and write to.
    pub terminal: Option<OwnedFd>,
    /// The process has the terminal and is not of its session, so the kernel does
    /// not tell it of a new size: whoever sets one sends SIGWINCH.
    pub hears_of_size: bool,
    /// Wishes that could not be fulfilled.
    pub warnings: Vec<String>,
}

/// What the exec stage does.
#[derive(Debug, Serialize, Deserialize)]
struct ExecOrder {
    /// `CLONE_NEW*` to enter.
    namespaces: i32,
    /// Version 1 files to join by.
    tasks: Vec<PathBuf>,
    /// Version 2 folder to be made in.
    unified: Option<PathBuf>,
    process: ProcessPlan,
    /// The program becomes a child of whoever started the stage, which ends.
    direct: bool,
    /// The first descriptors from 3 on are the program's.
    preserved: u32,
    /// The state of the container, for notification listeners.
    state: State,
    /// The container's root is to be entered by way of this process, its first:
    /// no namespace leads there.
    root_of: Option<u32>,
}

/// Numbers of the exec stage's descriptors.
const ORDER: usize = 3;
const REPORT: usize = 4;
const TARGET: usize = 5;
const EXECUTABLE: usize = 6;
const FILTER: usize = 7;

/// Runs a program in a running container; returns when it runs. Blocks for
/// some milliseconds. May be called by several threads.
///
/// # Errors
/// [`RuntimeError::NotRunning`]; [`RuntimeError::Paused`], since a process made
/// in a frozen cgroup would hang; [`RuntimeError::Failed`], whose
/// [kind](RuntimeError::kind) tells a missing program from one that cannot be
/// executed.
pub fn exec(
    running: &RunningRecord,
    request: &ExecRequest,
    stdio: ExecStdio<'_>,
) -> Result<Exec, RuntimeError> {
    let failed = |operation| RuntimeError::io(operation, "exec stage");
    let Liveness::Running {
        init: Some(target), ..
    } = probe(running)?
    else {
        return Err(RuntimeError::NotRunning(running.fixed.id.clone()));
    };
    if running.fixed.cgroup.is_frozen() {
        return Err(RuntimeError::Paused(running.fixed.id.clone()));
    }
    let plan = process_plan(running, request);
    if plan.args.is_empty() {
        return Err(super::SpecError::Missing("command").into());
    }
    if let Some(text) = plan.args.iter().chain(&plan.env).find(|text| text.contains('\0')) {
        return Err(super::SpecError::Nul(format!("{text:?}")).into());
    }
    if let Some(foreign) = &running.fixed.foreign {
        return foreign.exec(&running.fixed.id, running.init.pid, &plan, stdio);
    }
    let policy = if request.privileged {
        SeccompPolicy::Unconfined
    } else {
        running.fixed.seccomp
    };
    let filter = filter(policy, running.fixed.profile.as_ref(), plan.capabilities.bounding)?;
    let order = ExecOrder {
        namespaces: running.fixed.namespaces,
        tasks: running.fixed.cgroup.tasks().collect(),
        unified: running.fixed.cgroup.unified().map(ToOwned::to_owned),
        process: plan,
        direct: false,
        preserved: 0,
        state: State::default(),
        root_of: None,
    };
    let order = order::write(&order).map_err(failed("write order of"))?;
    let (report, stage_report) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed("make socket for")(error.into()))?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| RuntimeError::io("open", "/dev/null")(error.into()))?;
    let executable = executable::open().map_err(RuntimeError::io("open", "own executable"))?;
    let given = |fd: Option<BorrowedFd<'_>>| {
        fd.filter(|_| !request.tty)
            .map(|fd| fd.try_clone_to_owned())
            .transpose()
    };
    let mut standard = Vec::new();
    for stream in [stdio.stdin, stdio.stdout, stdio.stderr] {
        standard.push(given(stream).map_err(failed("copy descriptor for"))?);
    }
    let mut fds: Vec<BorrowedFd<'_>> = standard
        .iter()
        .map(|stream| stream.as_ref().map_or(null.as_fd(), |fd| fd.as_fd()))
        .collect();
    fds.extend([order.as_fd(), stage_report.as_fd(), target.as_fd(), executable]);
    fds.extend(filter.as_ref().map(|file| file.as_fd()));
    let argv = executable::arguments(ROLE, &[fds.len().to_string()]);
    let path = std::ffi::CString::new(format!("/proc/self/fd/{EXECUTABLE}")).unwrap_or_default();
    let pid = spawn(&Program {
        path: &path,
        argv: &argv,
        fds: &fds,
        new_session: true,
    })
    .map_err(failed("start"))?;
    drop(fds);
    drop(stage_report);
    let process = Process::own(pid).map_err(failed("open"))?;
    let beginning = Beginning::listen(report.as_fd()).map_err(failed("listen to"));
    match beginning {
        Ok(Beginning {
            failure: None,
            executing: true,
            terminal,
            warnings,
            ..
        }) => Ok(Exec {
            process,
            terminal,
            hears_of_size: false,
            warnings,
        }),
        other => {
            let _ = process.signal(libc::SIGKILL);
            let _ = process.wait();
            match other?.failure {
                Some(failure) => Err(failure.into()),
                None => Err(RuntimeError::Silent("exec stage")),
            }
        }
    }
}

/// The container's own process with what the request changes.
fn process_plan(running: &RunningRecord, request: &ExecRequest) -> ProcessPlan {
    let mut plan = running.fixed.process.clone();
    plan.args.clone_from(&request.args);
    plan.terminal = request.tty;
    plan.size = request.size;
    let name = |entry: &str| entry.split_once('=').map(|(name, _)| name.to_owned());
    for entry in &request.env {
        plan.env.retain(|known| name(known) != name(entry));
        plan.env.push(entry.clone());
    }
    if request.tty && !plan.env.iter().any(|entry| entry.starts_with("TERM=")) {
        plan.env.push("TERM=xterm".into());
    }
    if let Some(cwd) = &request.cwd {
        plan.cwd = cwd.into();
        plan.cwd_exists = true;
    }
    if let Some(user) = &request.user {
        // Another user's home is not the container user's.
        plan.user = Some(user.clone());
    }
    if request.privileged {
        let all = capability::ALL;
        plan.capabilities = CapabilityPlan {
            bounding: all,
            effective: all,
            permitted: all,
            inheritable: 0,
            ambient: 0,
        };
        plan.no_new_privileges = false;
    }
    plan
}

/// The role. Arguments: the number of its descriptors; for one whose program is
/// a child of its caller, how many descriptors from 3 on are the program's
/// (those of the stage come after them). Must be called before any thread
/// exists. Returns the status of the process.
pub fn main(arguments: &[String]) -> i32 {
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<usize>().ok());
    let preserved = number(1).unwrap_or(0);
    let kept = u32::try_from(preserved).unwrap_or(0);
    let Ok(mut fds) = fd::Inherited::claim_above(kept, number(0).unwrap_or(0)) else {
        return 125;
    };
    // Executed by way of a descriptor, its name would be a number.
    let _ = rustix::thread::set_name(c"rcompose");
    let Ok(socket) = fds.take(preserved + REPORT) else {
        return 125;
    };
    let reporter = Reporter::new(socket);
    match run(&mut fds, preserved, &reporter) {
        Ok(status) => status,
        Err(failure) => {
            let code = failure.kind().exit_code();
            reporter.send(&Report::Failed(failure), None);
            code
        }
    }
}

/// A further process of a container of the OCI command line.
#[derive(Debug)]
pub(crate) struct DirectExec<'a> {
    /// The container's process 1.
    pub(crate) target: &'a Process,
    /// What was known when the container was made.
    pub(crate) fixed: &'a Fixed,
    pub(crate) process: ProcessPlan,
    /// The container's cgroup, or one below it.
    pub(crate) cgroup: Cgroup,
    pub(crate) preserved: u32,
    pub(crate) state: State,
}

/// Makes the process a child of ours, with our standard descriptors; what it
/// reported. The caller must have no threads.
pub(crate) fn exec_directly(request: DirectExec<'_>) -> Result<(Process, Beginning), RuntimeError> {
    let failed = |operation| RuntimeError::io(operation, "exec stage");
    let fixed = request.fixed;
    let program = filter(
        fixed.seccomp,
        fixed.profile.as_ref(),
        request.process.capabilities.bounding,
    )?;
    let order = ExecOrder {
        namespaces: fixed.namespaces,
        tasks: request.cgroup.tasks().collect(),
        unified: request.cgroup.unified().map(ToOwned::to_owned),
        process: request.process,
        direct: true,
        preserved: request.preserved,
        state: request.state,
        root_of: (fixed.namespaces & libc::CLONE_NEWNS == 0).then_some(request.target.id().pid),
    };
    let order = order::write(&order).map_err(failed("write order of"))?;
    let (report, stage_report) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed("make socket for")(error.into()))?;
    let executable = executable::open().map_err(RuntimeError::io("open", "own executable"))?;
    let mut given = vec![
        order.as_fd(),
        stage_report.as_fd(),
        request.target.as_fd(),
        executable,
    ];
    given.extend(program.as_ref().map(|file| file.as_fd()));
    let first = request.preserved + 3;
    let count = usize::try_from(first).unwrap_or(usize::MAX) + given.len();
    let argv = executable::arguments(ROLE, &[count.to_string(), request.preserved.to_string()]);
    let stage = clone::clone_process(0, None, || {
        // Parked above all targets, so that none is overwritten.
        let moved = || -> io::Result<()> {
            let floor = i32::try_from(count).map_err(|_| io::ErrorKind::InvalidInput)?;
            let parked: Vec<OwnedFd> = given
                .iter()
                .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, floor))
                .collect::<Result<_, _>>()?;
            for (number, fd) in (first..).zip(&parked) {
                fd::place_at(fd.as_fd(), number)?;
            }
            let error = clone::execute_fd(
                parked
                    .get(EXECUTABLE - ORDER)
                    .ok_or(io::ErrorKind::NotFound)?
                    .as_fd(),
                &argv,
                &[],
            );
            Err(error)
        };
        let error = moved().err().unwrap_or_else(|| io::ErrorKind::Other.into());
        let failure = Failure::new(Step::Clone, "exec stage", &error);
        if let Ok(bytes) = serde_json::to_vec(&Report::Failed(failure)) {
            let _ = fd::send(stage_report.as_fd(), &bytes, None);
        }
        125
    })
    .map_err(failed("start"))?;
    drop(given);
    drop(stage_report);
    let mut beginning = Beginning::listen(report.as_fd()).map_err(failed("listen to"))?;
    // The stage has ended, or is about to.
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(stage.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    let child = beginning.child.take();
    if let Some(failure) = beginning.failure.take() {
        if let Some(child) = child.and_then(|pid| Process::own(pid).ok()) {
            let _ = child.wait();
        }
        return Err(failure.into());
    }
    match child {
        Some(pid) if beginning.executing => {
            Ok((Process::own(pid).map_err(failed("open process of"))?, beginning))
        }
        _ => Err(RuntimeError::Silent("exec stage")),
    }
}

fn run(fds: &mut fd::Inherited, preserved: usize, reporter: &Reporter) -> Result<i32, Failure> {
    let given = |error: io::Error| Failure::new(Step::Request, "", &error);
    let order: ExecOrder = order::read(fds.take(preserved + ORDER).map_err(given)?.as_fd()).map_err(given)?;
    let target = fds.take(preserved + TARGET).map_err(given)?;
    let filter: Option<Vec<Instruction>> = fds
        .take(preserved + FILTER)
        .ok()
        .map(|file| order::read_filter(file.as_fd()))
        .transpose()
        .map_err(given)?;
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    init::set_oom_score(&order.process, reporter)?;
    let listener = order
        .process
        .listener
        .as_ref()
        .map(init::Notifier::connect)
        .transpose()?;
    let affinity = |processors: &[u32]| match processors {
        [] => Ok(()),
        some => crate::sys::schedule::set_affinity(some)
            .map_err(|error| Failure::new(Step::Schedule, "process.execCPUAffinity", &error)),
    };
    affinity(&order.process.affinity.0)?;
    let join =
        |path: &PathBuf, error: io::Error| Failure::new(Step::JoinCgroup, path.display().to_string(), &error);
    // Opened while the host's paths can be seen, used by the child.
    let mut tasks = Vec::new();
    for path in &order.tasks {
        tasks.push(
            std::fs::OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(|error| join(path, error))?,
        );
    }
    let unified = match &order.unified {
        Some(path) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Some(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| join(path, error.into()))?)
        }
        None => None,
    };
    let root = order
        .root_of
        .map(|pid| open_root_of(pid, target.as_fd()))
        .transpose()?;
    let kinds = ThreadNameSpaceType::from_bits_retain(order.namespaces.cast_unsigned());
    if !kinds.is_empty() {
        rustix::thread::move_into_thread_name_spaces(target.as_fd(), kinds)
            .map_err(|error| Failure::new(Step::Namespace, "of the container", &error.into()))?;
    }
    drop(target);
    if let Some(root) = root {
        init::enter_tree(root.as_fd()).map_err(|error| Failure::new(Step::Rootfs, "/", &error))?;
    }
    let become_it = || {
        let failure = become_program(&order, tasks, filter, listener, reporter);
        let code = failure.kind().exit_code();
        reporter.send(&Report::Failed(failure), None);
        code
    };
    let folder = unified.as_ref().map(|fd| fd.as_fd());
    let cloning = |error: io::Error| Failure::new(Step::Clone, "", &error);
    if order.direct {
        let child = clone::clone_sibling(0, folder, become_it).map_err(cloning)?;
        reporter.send(&Report::Child(child.pid), None);
        return Ok(0);
    }
    signal::block_all();
    let child = clone::clone_process(0, folder, become_it).map_err(cloning)?;
    reporter.close();
    // The program's descriptors are its alone: who reads its output sees the
    // end when the program closes it.
    init::close_standard();
    Ok(init::stand_for(child.pid))
}

/// The root of a process, which must be the one that `target` is.
fn open_root_of(pid: u32, target: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let open = || -> io::Result<OwnedFd> {
        let path = format!("/proc/{pid}/root");
        let root = rustix::fs::open(
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        // Its number was not another's, since it is still alive.
        crate::sys::pidfd::send_signal(target, 0)?;
        Ok(root)
    };
    open().map_err(|error| Failure::new(Step::Rootfs, "/", &error))
}

fn become_program(
    order: &ExecOrder,
    tasks: Vec<std::fs::File>,
    filter: Option<Vec<Instruction>>,
    listener: Option<init::Notifier>,
    reporter: &Reporter,
) -> Failure {
    use std::io::Write as _;
    if !order.direct
        && let Err(error) = process::die_with_parent()
    {
        return Failure::new(Step::Clone, "", &error);
    }
    for (mut file, path) in tasks.into_iter().zip(&order.tasks) {
        if let Err(error) = file.write_all(b"0") {
            return Failure::new(Step::JoinCgroup, path.display().to_string(), &error);
        }
    }
    if let [_, ..] = order.process.affinity.1.as_slice()
        && let Err(error) = crate::sys::schedule::set_affinity(&order.process.affinity.1)
    {
        return Failure::new(Step::Schedule, "process.execCPUAffinity", &error);
    }
    let further = init::Further {
        listener,
        preserved: order.preserved,
        outlives: order.direct,
        state: order.state.clone(),
    };
    init::run_in_container(&order.process, filter, further, reporter)
}
