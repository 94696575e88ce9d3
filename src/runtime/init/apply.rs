//! The last steps of every process in a container: who it is, what it may do,
//! and the program itself. Shared by the init stage and the exec stage.

use std::cell::Cell;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use oci_spec::runtime::{ContainerState, State};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::net::SocketFlags;
use rustix::thread::CapabilitySet;

use super::devices::Terminal;
use super::identity::{Identity, identify};
use super::notify::Notifier;
use super::place;
use super::report::{Report, Reporter, unfinished};
use crate::runtime::blueprint::{BundlePlan, ProcessPlan};
use crate::runtime::capability;
use crate::runtime::error::{Failure, Step};
use crate::runtime::hooks;
use crate::runtime::spec::DEFAULT_PATH;
use crate::sys::seccomp::Instruction;
use crate::sys::stub::{Attempts, Stub};
use crate::sys::{clone, fd, process, schedule, seccomp, signal};

/// A process that is about to become its program.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) plan: &'a ProcessPlan,
    pub(super) filter: Option<Vec<Instruction>>,
    pub(super) terminal: Option<Terminal>,
    pub(super) reporter: &'a Reporter,
    /// Of the OCI command line.
    pub(super) bundle: Option<&'a BundlePlan>,
    /// The container's state, for hooks and listeners.
    pub(super) state: State,
    /// Where `start` is waited for.
    pub(super) wait: Option<OwnedFd>,
    pub(super) listener: Option<Notifier>,
    /// The first descriptors from 3 on are the program's.
    pub(super) preserved: u32,
    /// It outlives its parent.
    pub(super) outlives: bool,
    /// The capabilities we had to give.
    pub(super) own: Cell<u64>,
    /// What the program is executed by when we run the file of whoever cloned us.
    pub(super) stub: Option<Stub>,
}

/// The score that decides who is killed for want of memory; while the host's
/// own `/proc` can be seen.
pub(in crate::runtime) fn set_oom_score(plan: &ProcessPlan, reporter: &Reporter) -> Result<(), Failure> {
    let Some(score) = plan.oom_score_adj else {
        return Ok(());
    };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            reporter.warn(format!(
                "oom_score_adj {score} has no effect: no right to lower it"
            ));
            Ok(())
        }
        Err(error) => Err(Failure::new(Step::OomScore, score.to_string(), &error)),
    }
}

impl Entry<'_> {
    /// Takes all steps but the program itself: its environment.
    pub(super) fn prepare(&self) -> Result<Vec<CString>, Failure> {
        let plan = self.plan;
        let identity = identify(self.root, plan)?;
        let credentials = |error: io::Error| Failure::new(Step::Credentials, "", &error);
        signal::reset_all();
        // A session of its own: nobody's terminal can be reached from it.
        let _ = rustix::process::setsid();
        if !plan.keep_keyring {
            process::join_new_session_keyring().map_err(credentials)?;
        }
        match &self.terminal {
            Some(terminal) => self.use_terminal(terminal, &identity)?,
            None => give_pipes(&identity).map_err(credentials)?,
        }
        self.limit_resources()?;
        self.set_scheduling()?;
        self.set_labels()?;
        rustix::process::umask(Mode::from_raw_mode(plan.umask.unwrap_or(0o022)));
        // As root first: the folder may be closed to the user (/root).
        let entered = self.enter_working_directory();
        self.become_user(&identity)?;
        match entered {
            Err(failure) if failure.errno == Some(libc::EACCES) => self.enter_working_directory()?,
            other => other?,
        }
        if plan.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(|error| credentials(error.into()))?;
        }
        if !self.outlives {
            // Dropping rights may have cleared it.
            process::die_with_parent().map_err(credentials)?;
        }
        let first = i32::try_from(self.preserved).unwrap_or(0).saturating_add(3);
        fd::mark_close_on_exec(first).map_err(credentials)?;
        let environment = environment(plan, &identity);
        if self.outlives {
            // What cannot be run is an error of `create`, not of `start`.
            self.look_for_program(&environment)?;
        }
        Ok(environment)
    }

    /// Waits for `start`; signals that would end a program end this process,
    /// which the kernel does not see to for a process 1.
    fn wait_for_start(&self) -> Result<(), Failure> {
        let Some(listener) = &self.wait else {
            return Ok(());
        };
        let failed = |error: io::Error| Failure::new(Step::Request, "start", &error);
        signal::block_all();
        let all = nix::sys::signal::SigSet::all();
        let signals = nix::sys::signalfd::SignalFd::with_flags(
            &all,
            nix::sys::signalfd::SfdFlags::SFD_CLOEXEC | nix::sys::signalfd::SfdFlags::SFD_NONBLOCK,
        )
        .map_err(|error| failed(error.into()))?;
        self.reporter.send(&Report::Created, None);
        self.reporter.close();
        loop {
            let mut fds = [
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(&signals, PollFlags::IN),
            ];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None))
                .map_err(|error| failed(error.into()))?;
            while let Ok(Some(signal)) = signals.read_signal() {
                let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
                let harmless = [
                    libc::SIGCHLD,
                    libc::SIGCONT,
                    libc::SIGURG,
                    libc::SIGWINCH,
                    libc::SIGTSTP,
                    libc::SIGTTIN,
                    libc::SIGTTOU,
                ];
                if !harmless.contains(&number) {
                    process::exit_now(128 + number);
                }
            }
            if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
                // A connection whose other end is gone again is no start.
                if let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
                    self.reporter.replace(socket);
                    if self.reporter.wait().is_ok_and(|word| word == "start") {
                        break;
                    }
                    self.reporter.close();
                }
            }
        }
        signal::reset_all();
        Ok(())
    }

    /// The last steps that take rights away, so that a filter has to let as few
    /// calls through as possible: capset(2) and execve(2).
    pub(super) fn confine(&self) -> Result<(), Failure> {
        let failed =
            |error: rustix::io::Errno| Failure::new(Step::Credentials, "capabilities", &error.into());
        if let Some(program) = &self.filter {
            let load = || seccomp::install(program, self.plan.filter_flags);
            match &self.listener {
                Some(notifier) => notifier.hand_over(&self.state, load)?,
                None => {
                    load().map_err(|error| Failure::new(Step::Seccomp, "", &error))?;
                }
            }
            if self.holds_filter_right() {
                // What we have is at most what the plan has, and the one right more.
                let own = CapabilitySet::from_bits_retain(self.own.get());
                rustix::thread::set_capabilities(None, self.final_capabilities(own)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Whether CAP_SYS_ADMIN is kept, against the plan, until the filter is loaded.
    fn holds_filter_right(&self) -> bool {
        self.filter.is_some() && !self.plan.no_new_privileges
    }

    fn final_capabilities(&self, own: CapabilitySet) -> rustix::thread::CapabilitySets {
        let sets = self.plan.capabilities;
        // What we do not have ourselves cannot be given.
        let set = |bits: u64| CapabilitySet::from_bits_retain(bits) & own;
        rustix::thread::CapabilitySets {
            effective: set(sets.effective),
            permitted: set(sets.permitted),
            inheritable: set(sets.inheritable),
        }
    }

    /// Scheduler, disk priority, memory policy, execution domain.
    fn set_scheduling(&self) -> Result<(), Failure> {
        let plan = self.plan;
        let failed = |what: &'static str| move |error: io::Error| Failure::new(Step::Schedule, what, &error);
        if plan.affinity.0.is_empty() && plan.affinity.1.is_empty() {
            // Whatever processors our caller was bound to.
            schedule::set_any_affinity().map_err(failed("affinity"))?;
        }
        if let Some(wish) = plan.schedule {
            schedule::set_schedule(schedule::Schedule {
                policy: wish.policy,
                flags: wish.flags,
                nice: wish.nice,
                priority: wish.priority,
                runtime: wish.runtime,
                deadline: wish.deadline,
                period: wish.period,
                ..schedule::Schedule::default()
            })
            .map_err(failed("process.scheduler"))?;
        }
        if let Some((class, priority)) = plan.io_priority {
            schedule::set_io_priority(class, priority).map_err(failed("process.ioPriority"))?;
        }
        if let Some((mode, nodes)) = &plan.memory_policy {
            schedule::set_memory_policy(*mode, nodes).map_err(failed("linux.memoryPolicy"))?;
        }
        if let Some(persona) = plan.personality {
            schedule::set_personality(persona).map_err(failed("linux.personality"))?;
        }
        Ok(())
    }

    /// Labels of security modules, in effect from execve(2) on; by a procfs of
    /// our own that nothing can be mounted over.
    fn set_labels(&self) -> Result<(), Failure> {
        let plan = self.plan;
        if plan.apparmor.is_none() && plan.selinux.is_none() {
            return Ok(());
        }
        let set = |file: &str, value: &str| -> io::Result<()> {
            let proc = super::rootfs::file_system("proc", "proc", &[], 0)?;
            let file = place::open(proc.as_fd(), Path::new(file), OFlags::WRONLY, false)?;
            rustix::io::write(&file, value.as_bytes())?;
            Ok(())
        };
        let own = std::process::id();
        if let Some(profile) = &plan.apparmor {
            set(&format!("{own}/attr/apparmor/exec"), &format!("exec {profile}")).map_err(|error| {
                Failure::new(Step::Credentials, format!("apparmor profile {profile}"), &error)
            })?;
        }
        if let Some(label) = &plan.selinux {
            set(&format!("{own}/attr/exec"), label)
                .map_err(|error| Failure::new(Step::Credentials, format!("selinux label {label}"), &error))?;
        }
        Ok(())
    }

    /// Looks whether there is a program that can be executed.
    fn look_for_program(&self, environment: &[CString]) -> Result<(), Failure> {
        let Some(program) = self.plan.args.first() else {
            return Err(Failure::because(Step::Exec, "", "no program"));
        };
        let check = |path: &Path| -> io::Result<()> {
            let stat = rustix::fs::stat(path)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Err(io::Error::from_raw_os_error(libc::EACCES));
            }
            Ok(rustix::fs::accessat(
                rustix::fs::CWD,
                path,
                rustix::fs::Access::EXEC_OK,
                rustix::fs::AtFlags::EACCESS,
            )?)
        };
        if program.contains('/') {
            return check(Path::new(program)).map_err(|error| Failure::new(Step::Exec, program, &error));
        }
        let mut denied = None;
        for folder in search_path(environment) {
            match check(&folder.join(program)) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => denied = Some(error),
                Err(_) => {}
            }
        }
        Err(match denied {
            Some(error) => Failure::new(Step::Exec, program, &error),
            None => not_found(program),
        })
    }

    /// Runs the `startContainer` hooks.
    fn run_hooks(&self, bundle: &BundlePlan, environment: &[CString]) -> Result<(), Failure> {
        let mut state = self.state.clone();
        state.set_status(ContainerState::Created);
        let mut list = bundle.start_container.clone();
        for hook in list.iter_mut().filter(|hook| hook.env().is_none()) {
            // As the runtimes before us have it: it runs beside the program.
            let env = environment.iter().map(|entry| entry.to_string_lossy().into());
            hook.set_env(Some(env.collect()));
        }
        hooks::run("startContainer", &list, &state, Path::new("/"))
    }

    /// Becomes the program. Returns only when that fails.
    pub(super) fn execute(&self, environment: &[CString]) -> Failure {
        // A listener hears of the container while that is made: who made it may
        // want to hear of that before it starts it.
        let early = self.wait.is_some() && self.listener.is_some();
        if early && let Err(failure) = self.confine() {
            return failure;
        }
        if let Err(failure) = self.wait_for_start() {
            return failure;
        }
        let executing = || match self.reporter.send(&Report::Executing, None) {
            true => Ok(()),
            // Whoever would watch the program was killed.
            false => Err(Failure::because(Step::Exec, "", "nobody waits for it")),
        };
        let hooks = self.bundle.filter(|bundle| !bundle.start_container.is_empty());
        if let Some(bundle) = hooks {
            // What they execute is in the container's files, so that they are filtered as
            // the program is; the filter may forbid to send.
            let confined = executing().and_then(|()| if early { Ok(()) } else { self.confine() });
            if let Err(failure) = confined.and_then(|()| self.run_hooks(bundle, environment)) {
                return failure;
            }
        } else if let Err(failure) = executing() {
            return failure;
        }
        let texts: Result<Vec<CString>, _> = self
            .plan
            .args
            .iter()
            .map(|arg| CString::new(arg.as_str()))
            .collect();
        let (Ok(argv), Some(program)) = (texts, self.plan.args.first()) else {
            return Failure::because(Step::Exec, "", "no program");
        };
        let paths = paths(program, environment);
        if let Some(stub) = &self.stub {
            return self.execute_by(stub, program, &paths, &argv, environment);
        }
        if !early
            && hooks.is_none()
            && let Err(failure) = self.confine()
        {
            return failure;
        }
        let mut failure = not_found(program);
        for path in &paths {
            let error = clone::execute(path, &argv, environment);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) if !program.contains('/') => {}
                Some(libc::EACCES) => failure = Failure::new(Step::Exec, program, &error),
                _ => return Failure::new(Step::Exec, program, &error),
            }
        }
        failure
    }

    /// As the end of [`Self::execute`], by way of a stub.
    fn execute_by(
        &self,
        stub: &Stub,
        program: &str,
        paths: &[CString],
        arguments: &[CString],
        environment: &[CString],
    ) -> Failure {
        let wrong = |error: io::Error| Failure::new(Step::Exec, program, &error);
        let Some(report) = self.reporter.take() else {
            return wrong(io::ErrorKind::NotConnected.into());
        };
        let failed = Failure::because(Step::Exec, program, "");
        let missing = if program.contains('/') {
            failed.clone()
        } else {
            not_found(program)
        };
        // All memory and files before the filter is loaded.
        let written = stub.write(&Attempts {
            paths,
            arguments,
            environment,
            report: report.as_fd(),
            failed: &unfinished(failed),
            missing: &unfinished(missing),
        });
        let failure = match written {
            Err(error) => wrong(error),
            Ok(()) => match self.confine() {
                Err(failure) => failure,
                Ok(()) => wrong(stub.execute()),
            },
        };
        self.reporter.replace(report);
        failure
    }

    fn use_terminal(&self, terminal: &Terminal, identity: &Identity) -> Result<(), Failure> {
        let take = || -> io::Result<()> {
            let slave = terminal.slave.as_fd();
            rustix::fs::fchown(slave, Some(Uid::from_raw(identity.uid)), None)?;
            fd::set_controlling_terminal(slave)?;
            for number in 0..3 {
                fd::set_standard(slave, number)?;
            }
            Ok(())
        };
        take().map_err(|error| Failure::new(Step::Terminal, "", &error))?;
        // Theirs alone: what waits for `start` keeps no way to its own terminal.
        if let Some(master) = terminal.master.take() {
            self.reporter.send(&Report::Terminal, Some(master.as_fd()));
        }
        Ok(())
    }

    fn limit_resources(&self) -> Result<(), Failure> {
        for limit in &self.plan.limits {
            let failed = |error: io::Error| Failure::new(Step::ResourceLimit, &limit.name, &error);
            let set = |soft, hard| process::set_resource_limit(limit.number, soft, hard);
            match set(limit.soft, limit.hard) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let (_, most) = process::resource_limit(limit.number).map_err(failed)?;
                    let (soft, hard) = (limit.soft.min(most), limit.hard.min(most));
                    set(soft, hard).map_err(failed)?;
                    self.reporter.warn(format!(
                        "ulimit {} is {hard}: no right to raise it further",
                        limit.name
                    ));
                }
                other => other.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Enters the working directory. As Docker does, one that the container
    /// names is made when it is missing, one that an exec names is not.
    fn enter_working_directory(&self) -> Result<(), Failure> {
        let path = &self.plan.cwd;
        let enter = || -> io::Result<()> {
            // Not through `/proc/self/fd`: what we hold there is not for the
            // program.
            let folder = match place::open(self.root, path, OFlags::PATH | OFlags::DIRECTORY, true) {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound && !self.plan.cwd_exists => {
                    place::make(self.root, path, place::Kind::Folder, true).map_err(|error| {
                        // That it cannot be made is not what is wrong with it.
                        match error.kind() {
                            io::ErrorKind::ReadOnlyFilesystem => missing,
                            _ => error,
                        }
                    })?
                }
                other => other?,
            };
            rustix::process::fchdir(&folder)?;
            // "(unreachable)": a folder that is not below the root.
            let here = rustix::process::getcwd(Vec::new())?;
            if here.as_bytes().first() != Some(&b'/') {
                return Err(io::Error::other("it is outside of the container"));
            }
            Ok(())
        };
        enter().map_err(|error| Failure::new(Step::WorkingDirectory, path.display().to_string(), &error))
    }

    fn become_user(&self, identity: &Identity) -> Result<(), Failure> {
        let sets = self.plan.capabilities;
        let failed = |what: &'static str| {
            move |error: rustix::io::Errno| Failure::new(Step::Credentials, what, &error.into())
        };
        let own = rustix::thread::capabilities(None).map_err(failed("capabilities"))?;
        self.own.set(own.permitted.bits());
        for name in capability::names(capability::ALL & !sets.bounding) {
            let Some(bit) = capability::bit(name) else {
                continue;
            };
            let single = CapabilitySet::from_bits_retain(bit);
            // One that this kernel does not know cannot be had either.
            if matches!(rustix::thread::capability_is_in_bounding_set(single), Ok(true)) {
                rustix::thread::remove_capability_from_bounding_set(single)
                    .map_err(failed("bounding set"))?;
            }
        }
        rustix::thread::set_keep_capabilities(true).map_err(failed("capabilities"))?;
        let groups: Vec<Gid> = identity
            .groups
            .iter()
            .map(|group| Gid::from_raw(*group))
            .collect();
        if !self.plan.keep_groups {
            rustix::thread::set_thread_groups(&groups).map_err(failed("groups"))?;
        }
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("group"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("user"))?;
        let mut given = self.final_capabilities(own.permitted);
        let (permitted, inheritable) = (given.permitted, given.inheritable);
        if self.holds_filter_right() {
            let right = CapabilitySet::SYS_ADMIN & own.permitted;
            given.permitted |= right;
            given.effective |= right;
        }
        rustix::thread::set_capabilities(None, given).map_err(failed("capabilities"))?;
        rustix::thread::clear_ambient_capability_set().map_err(failed("ambient capabilities"))?;
        for name in capability::names(sets.ambient & permitted.bits() & inheritable.bits()) {
            if let Some(bit) = capability::bit(name) {
                rustix::thread::configure_capability_in_ambient_set(
                    CapabilitySet::from_bits_retain(bit),
                    true,
                )
                .map_err(failed("ambient capabilities"))?;
            }
        }
        Ok(())
    }
}

/// Lets the user open `/dev/stdout` and its like again: pipes belong to whoever
/// made them.
fn give_pipes(identity: &Identity) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for standard in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let Ok(stat) = rustix::fs::fstat(standard) else {
            continue;
        };
        let pipe = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo;
        if pipe && (stat.st_uid, stat.st_gid) != (identity.uid, identity.gid) {
            match rustix::fs::fchown(standard, Some(uid), Some(gid)) {
                // In a user namespace, what belongs to an id outside of it.
                Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn not_found(program: &str) -> Failure {
    Failure {
        step: Step::Exec,
        subject: program.to_owned(),
        reason: "executable file not found in $PATH".into(),
        errno: Some(libc::ENOENT),
    }
}

/// The files that may be the program, in order.
fn paths(program: &str, environment: &[CString]) -> Vec<CString> {
    let named = |path: &Path| CString::new(path.as_os_str().as_bytes()).ok();
    if program.contains('/') {
        return named(Path::new(program)).into_iter().collect();
    }
    search_path(environment)
        .filter_map(|folder| named(&folder.join(program)))
        .collect()
}

/// The folders programs are looked for in. An empty entry is the working
/// directory, as execvp(3) has it.
fn search_path(environment: &[CString]) -> impl Iterator<Item = &Path> {
    let path = environment
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    path.unwrap_or(DEFAULT_PATH.as_bytes())
        .split(|byte| *byte == b':')
        .map(|folder| if folder.is_empty() { b"." } else { folder })
        .map(|folder| Path::new(OsStr::from_bytes(folder)))
}

fn environment(plan: &ProcessPlan, identity: &Identity) -> Vec<CString> {
    let added = (!plan.has_home()).then(|| format!("HOME={}", identity.home));
    plan.env
        .iter()
        .filter(|entry| added.is_none() || !entry.starts_with("HOME="))
        .chain(&added)
        .filter_map(|entry| CString::new(entry.as_str()).ok())
        .collect()
}

/// The container's root, which is ours.
pub(super) fn open_root() -> io::Result<std::os::fd::OwnedFd> {
    Ok(rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
