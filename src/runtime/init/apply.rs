//! The last steps of every process in a container: who it is, what it may do,
//! and the program itself. Shared by the init stage and the exec stage.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::thread::CapabilitySet;

use super::devices::Terminal;
use super::identity::{Identity, identify};
use super::place;
use super::report::{Report, Reporter};
use crate::runtime::blueprint::ProcessPlan;
use crate::runtime::capability;
use crate::runtime::error::{Failure, Step};
use crate::runtime::spec::DEFAULT_PATH;
use crate::sys::seccomp::Instruction;
use crate::sys::{clone, fd, process, seccomp, signal};

/// A process that is about to become its program.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) plan: &'a ProcessPlan,
    pub(super) filter: Option<Vec<Instruction>>,
    pub(super) terminal: Option<Terminal>,
    pub(super) reporter: &'a Reporter,
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
        process::join_new_session_keyring().map_err(credentials)?;
        match &self.terminal {
            Some(terminal) => self.use_terminal(terminal, &identity)?,
            None => give_pipes(&identity).map_err(credentials)?,
        }
        self.limit_resources()?;
        rustix::process::umask(Mode::from_raw_mode(plan.umask.unwrap_or(0o022)));
        // As root first: the folder may be closed to the user (/root).
        let entered = self.enter_working_directory();
        if !plan.no_new_privileges {
            self.load_filter()?;
        }
        self.become_user(&identity)?;
        match entered {
            Err(failure) if failure.errno == Some(libc::EACCES) => self.enter_working_directory()?,
            other => other?,
        }
        if plan.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(|error| credentials(error.into()))?;
            self.load_filter()?;
        }
        // Dropping rights may have cleared it.
        process::die_with_parent().map_err(credentials)?;
        fd::mark_close_on_exec(3).map_err(credentials)?;
        Ok(environment(plan, &identity))
    }

    /// Becomes the program. Returns only when that fails.
    pub(super) fn execute(&self, environment: &[CString]) -> Failure {
        if !self.reporter.send(&Report::Executing, None) {
            // Whoever would watch the program was killed.
            return Failure::because(Step::Exec, "", "nobody waits for it");
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
        let failed = |error: &io::Error| Failure::new(Step::Exec, program, error);
        if program.contains('/') {
            return match argv.first() {
                Some(path) => failed(&clone::execute(path, &argv, environment)),
                None => Failure::because(Step::Exec, "", "no program"),
            };
        }
        let path = environment
            .iter()
            .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
        let path = path.unwrap_or(DEFAULT_PATH.as_bytes());
        let mut denied = None;
        for folder in path.split(|byte| *byte == b':') {
            // An empty entry is the working directory, as execvp(3) has it.
            let folder = if folder.is_empty() { b"." } else { folder };
            let file = Path::new(OsStr::from_bytes(folder)).join(program);
            let Ok(file) = CString::new(file.as_os_str().as_bytes()) else {
                continue;
            };
            let error = clone::execute(&file, &argv, environment);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => denied = Some(error),
                _ => return failed(&error),
            }
        }
        match denied {
            Some(error) => failed(&error),
            None => Failure {
                step: Step::Exec,
                subject: program.clone(),
                reason: "executable file not found in $PATH".into(),
                errno: Some(libc::ENOENT),
            },
        }
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
        self.reporter
            .send(&Report::Terminal, Some(terminal.master.as_fd()));
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

    fn load_filter(&self) -> Result<(), Failure> {
        match &self.filter {
            Some(program) => {
                seccomp::install(program).map_err(|error| Failure::new(Step::Seccomp, "", &error))
            }
            None => Ok(()),
        }
    }

    /// Enters the working directory, making it when it is missing, as Docker does.
    fn enter_working_directory(&self) -> Result<(), Failure> {
        let path = &self.plan.cwd;
        let enter = || -> io::Result<()> {
            match rustix::process::chdir(path) {
                Err(rustix::io::Errno::NOENT) => {
                    let folder = place::make(self.root, path, place::Kind::Folder, true)?;
                    rustix::process::fchdir(&folder)?;
                }
                other => other?,
            }
            // "(unreachable)": a folder that is not below the root, by way of
            // a descriptor somebody left open.
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
        rustix::thread::set_thread_groups(&groups).map_err(failed("groups"))?;
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("group"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("user"))?;
        // What we do not have ourselves cannot be given.
        let set = |bits: u64| CapabilitySet::from_bits_retain(bits) & own.permitted;
        let inheritable = set(sets.inheritable);
        let permitted = set(sets.permitted);
        let given = rustix::thread::CapabilitySets {
            effective: set(sets.effective),
            permitted,
            inheritable,
        };
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
            rustix::fs::fchown(standard, Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

fn environment(plan: &ProcessPlan, identity: &Identity) -> Vec<CString> {
    let home = plan.env.iter().any(|entry| entry.starts_with("HOME="));
    let added = (!home).then(|| format!("HOME={}", identity.home));
    plan.env
        .iter()
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
