//! A container that another OCI runtime makes, by its command line.
//!
//! Everything around it stays ours: the cgroup, the root file system, volumes,
//! network, monitor, log, records. The monitor takes the place that a shim has
//! elsewhere. In a mount namespace of its own, which it leaves when the container
//! has one, it mounts the root file system, fills fresh volumes and looks the user
//! up; it writes the bundle's configuration, calls `create` and `start`, and is
//! the parent of what that leaves behind (as a subreaper). Signals, further processes and the end
//! are calls too: `kill`, `exec`, `delete`. Freezing and limits are the cgroup's.
//!
//! ```text
//! <run>/oci/
//!   runtime.json   which runtime; written first, removed last
//!   config.json    the bundle
//!   state/         its own, by --root
//!   log.json       what went wrong in its last call
//!   calls.lock     shared by all calls, as long as they last
//! ```
//!
//! Whoever finds the folder after a kill can end what is in it
//! ([`Foreign::sweep`]): `runtime.json` says how, and the lock when: a call
//! outlives a caller that is killed, and may make something yet.
//!
//! Weak: what only our own runtime does is refused before (`host`): an init
//! process, mounts of images and parts of volumes, a shared `/dev/shm`. A runtime
//! that does not make processes of this machine (a virtual machine) has no
//! cgroup that freezes it, and its files cannot be copied.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{BoxBuilder, LinuxNamespaceType, RootBuilder, Spec, User};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use serde::{Deserialize, Serialize};

use super::blueprint::{Blueprint, ProcessPlan};
use super::capability;
use super::cgroup::Cgroup;
use super::error::{Failure, RuntimeError, Step};
use super::exec::{Exec, ExecStdio};
use super::init;
use super::process::Process;
use super::request::{Rootfs, RunRequest};
use super::seccomp::{self, SeccompPolicy};
use crate::store::{self, Lock};
use crate::sys::clone::Child;
use crate::sys::fd;
use crate::sys::spawn::{Program, spawn};
use crate::sys::terminal::open_other_side;

/// Between two looks at a call that may have come to something.
const PAUSE: Duration = Duration::from_millis(2);

/// In the folder of a container: held by every call.
const CALLS: &str = "calls.lock";

/// Another OCI runtime, and where its things for one container are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// The program, absolute.
    pub program: PathBuf,
    /// What it is given before everything else.
    pub arguments: Vec<String>,
    /// The folder for this container; made when it is missing.
    pub folder: PathBuf,
}

/// A container that `create` has made.
#[derive(Debug)]
pub(crate) struct Made {
    /// Its process 1, a child of ours.
    pub(crate) child: Child,
    /// The side of its terminal to read from and write to.
    pub(crate) terminal: Option<OwnedFd>,
}

impl Foreign {
    /// Where a run with this running record has its folder.
    pub fn folder(running_record: &Path) -> PathBuf {
        running_record.with_file_name("oci")
    }

    /// Writes what has to be known before anything is made: which runtime it is,
    /// and the bundle as far as the request says it.
    pub(super) fn prepare(
        &self,
        request: &RunRequest,
        cgroup: &Cgroup,
        capabilities: u64,
    ) -> Result<(), RuntimeError> {
        fs::create_dir_all(&self.folder)
            .map_err(RuntimeError::io("make", self.folder.display().to_string()))?;
        store::write_record(&self.folder.join("runtime.json"), self)?;
        let mut spec = request.spec.clone();
        // What conforming runtimes of today know.
        spec.set_version("1.0.2".to_owned());
        if let Rootfs::Overlay {
            mountpoint, readonly, ..
        } = &request.rootfs
        {
            let root = RootBuilder::default().path(mountpoint).readonly(*readonly);
            spec.set_root(root.build().ok());
        }
        if let Some(mut linux) = spec.linux().clone() {
            linux.set_cgroups_path(cgroup_path(cgroup));
            linux.set_seccomp(match request.seccomp {
                SeccompPolicy::Default => Some(seccomp::default_profile(capabilities)),
                SeccompPolicy::Unconfined => None,
                SeccompPolicy::Spec => linux.seccomp().clone(),
            });
            spec.set_linux(Some(linux));
        }
        Ok(store::write_record(&self.folder.join("config.json"), &spec)?)
    }

    /// Makes the container, up to where `start` lets its program run. Called by
    /// the monitor, which has no threads: it is in a mount namespace of its own
    /// until the container has one, and in the host's again afterwards, so that a
    /// supervisor that it brings back is there too.
    pub(crate) fn create(
        &self,
        id: &str,
        blueprint: &Blueprint,
        network: Option<BorrowedFd<'_>>,
        standard: [BorrowedFd<'_>; 3],
    ) -> Result<Made, Failure> {
        let failed = |error: rustix::io::Errno| Failure::new(Step::Namespace, "mount", &error.into());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let host = rustix::fs::open("/proc/self/ns/mnt", flags, Mode::empty()).map_err(failed)?;
        let made = self.create_in_own_namespace(id, blueprint, network, standard);
        let kind = Some(rustix::thread::LinkNameSpaceType::Mount);
        rustix::thread::move_into_link_name_space(host.as_fd(), kind).map_err(failed)?;
        made
    }

    fn create_in_own_namespace(
        &self,
        id: &str,
        blueprint: &Blueprint,
        network: Option<BorrowedFd<'_>>,
        standard: [BorrowedFd<'_>; 3],
    ) -> Result<Made, Failure> {
        let identity = init::prepare_root(&blueprint.rootfs, &blueprint.populate, &blueprint.process)?;
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: io::Error| Failure::new(Step::Foreign, what, &error)
        };
        let config = self.folder.join("config.json");
        let mut spec: Spec = store::read_record(&config)
            .map_err(|error| Failure::because(Step::Foreign, "bundle", error.to_string()))?
            .unwrap_or_default();
        if let Some(mut process) = spec.process().clone() {
            set_user(&mut process, &identity);
            spec.set_process(Some(process));
        }
        if let (Some(network), Some(mut linux)) = (network, spec.linux().clone()) {
            let path = format!("/proc/{}/fd/{}", std::process::id(), network.as_raw_fd());
            let mut namespaces = linux.namespaces().clone().unwrap_or_default();
            for namespace in &mut namespaces {
                if namespace.typ() == LinuxNamespaceType::Network {
                    namespace.set_path(Some(PathBuf::from(&path)));
                }
            }
            linux.set_namespaces(Some(namespaces));
            spec.set_linux(Some(linux));
        }
        store::write_record(&config, &spec)
            .map_err(|error| Failure::because(Step::Foreign, "bundle", error.to_string()))?;
        let pid_file = self.folder.join("pid");
        let console = if blueprint.process.terminal {
            Some(Console::listen(&self.folder).map_err(failed("console"))?)
        } else {
            None
        };
        let mut words = vec![
            "create".to_owned(),
            "--bundle".to_owned(),
            path_word(&self.folder),
        ];
        words.extend(["--pid-file".to_owned(), path_word(&pid_file)]);
        if let Some(console) = &console {
            words.extend(["--console-socket".to_owned(), console.path.clone()]);
        }
        words.push(id.to_owned());
        let call = self.begin(&words, &standard)?;
        let mut terminal = None;
        while !call.ends_within(Some(PAUSE)) {
            if terminal.is_none()
                && let Some(console) = &console
            {
                terminal = console.accept();
            }
        }
        self.conclude(&call, "create")?;
        if terminal.is_none() {
            terminal = console.as_ref().and_then(Console::accept);
        }
        if console.is_some() && terminal.is_none() {
            return Err(Failure::because(Step::Foreign, "create", "it gave no terminal"));
        }
        let pid = fs::read_to_string(&pid_file).map_err(failed("create"))?;
        let pid: u32 = pid
            .trim()
            .parse()
            .map_err(|_| Failure::because(Step::Foreign, "create", "it wrote no process number"))?;
        let process = Process::own(pid).map_err(failed("create"))?;
        Ok(Made {
            child: Child {
                pid,
                pidfd: process.into_descriptor(),
            },
            terminal,
        })
    }

    /// Lets the program of a container run.
    pub(crate) fn start(&self, id: &str) -> Result<(), Failure> {
        self.call(&["start", id])
    }

    /// Sends a signal, by number, to process 1 of a container.
    pub(super) fn kill(&self, id: &str, signal: i32) -> Result<(), Failure> {
        self.call(&["kill", id, &signal.to_string()])
    }

    /// Removes all that the runtime has of a container, killing it. That there
    /// is nothing, or that it has been removed meanwhile, is fine.
    pub(crate) fn delete(&self, id: &str) {
        let _ = self.call(&["delete", "--force", id]);
    }

    /// Removes what a run has left in its folder, whatever that is.
    ///
    /// # Errors
    /// [`RuntimeError`] when the folder cannot be read or removed.
    pub(super) fn sweep(running_record: &Path) -> Result<(), RuntimeError> {
        let folder = Self::folder(running_record);
        let Some(foreign) = store::read_record::<Self>(&folder.join("runtime.json"))? else {
            return Ok(());
        };
        let calls = folder.join(CALLS);
        let deadline = Instant::now() + super::recover::PATIENCE;
        loop {
            // Before the look: what a call makes before its end is seen then.
            let alone = Lock::try_take(&calls)?.is_some() || Instant::now() > deadline;
            let ids = fs::read_dir(folder.join("state")).into_iter().flatten().flatten();
            for id in ids.filter_map(|entry| entry.file_name().into_string().ok()) {
                foreign.delete(&id);
            }
            if alone {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let spec: Option<Spec> = store::read_record(&folder.join("config.json")).unwrap_or_default();
        if let Some(path) = spec.and_then(|spec| spec.linux().as_ref()?.cgroups_path().clone()) {
            remove_cgroups(&path);
        }
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RuntimeError::io("remove", folder.display().to_string())(error))
            }
            _ => Ok(()),
        }
    }

    /// Runs a program in a container; returns when it runs. What stands for it is
    /// the call, which passes signals on and ends with its status.
    pub(super) fn exec(
        &self,
        id: &str,
        init: u32,
        plan: &ProcessPlan,
        stdio: ExecStdio<'_>,
    ) -> Result<Exec, RuntimeError> {
        let failed = |operation| RuntimeError::io(operation, self.program.display().to_string());
        let spec: Option<Spec> = store::read_record(&self.folder.join("config.json"))?;
        let Some(mut process) = spec.and_then(|spec| spec.process().clone()) else {
            return Err(RuntimeError::NotRunning(id.to_owned()));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{init}/root"), flags, Mode::empty())
            .map_err(|error| failed("open root for")(error.into()))?;
        process.set_args(Some(plan.args.clone()));
        process.set_env(Some(plan.env.clone()));
        process.set_cwd(plan.cwd.clone());
        process.set_terminal(Some(plan.terminal));
        process.set_console_size(plan.size.and_then(|(rows, columns)| {
            let size = BoxBuilder::default()
                .height(u64::from(rows))
                .width(u64::from(columns));
            size.build().ok()
        }));
        process.set_no_new_privileges(Some(plan.no_new_privileges));
        if plan.capabilities.bounding == capability::ALL {
            process.set_capabilities(process.capabilities().clone().map(|mut all| {
                let every = capability::to_spec(capability::ALL);
                all.set_bounding(Some(every.clone()));
                all.set_effective(Some(every.clone()));
                all.set_permitted(Some(every));
                all
            }));
        }
        set_user(&mut process, &init::identity_of(root.as_fd(), plan)?);
        // A name of its own: several may be on their way.
        let name = store_name();
        let order = self.folder.join(format!("{name}.process"));
        let pid_file = self.folder.join(format!("{name}.pid"));
        store::write_record(&order, &process)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open /dev/null for")(error.into()))?;
        let terminal = plan
            .terminal
            .then(|| pseudo_terminal(plan.size))
            .transpose()
            .map_err(failed("make terminal for"))?;
        let given = |fd: Option<BorrowedFd<'_>>| match &terminal {
            Some((_, slave)) => slave.try_clone(),
            None => fd.map_or_else(|| null.try_clone(), |fd| fd.try_clone_to_owned()),
        };
        let standard: Vec<OwnedFd> = [stdio.stdin, stdio.stdout, stdio.stderr]
            .into_iter()
            .map(given)
            .collect::<io::Result<_>>()
            .map_err(failed("copy descriptor for"))?;
        let borrowed: Vec<BorrowedFd<'_>> = standard.iter().map(|fd| fd.as_fd()).collect();
        let log = self.folder.join(format!("{name}.log"));
        let words = [
            "exec".to_owned(),
            "--process".to_owned(),
            path_word(&order),
            "--pid-file".to_owned(),
            path_word(&pid_file),
            id.to_owned(),
        ];
        let call = self.begin_with(&words, &borrowed, &log)?;
        drop(borrowed);
        drop(standard);
        let began = loop {
            let ended = call.ends_within(Some(PAUSE));
            // It is written when the program runs.
            if pid_file.exists() {
                break true;
            }
            if ended {
                break false;
            }
        };
        let reason = said(&log);
        for file in [&order, &pid_file, &log] {
            let _ = fs::remove_file(file);
        }
        if began {
            return Ok(Exec {
                process: call,
                terminal: terminal.map(|(master, _)| master),
                hears_of_size: true,
                warnings: vec![],
            });
        }
        let _ = call.wait();
        Err(explained(reason, "exec").into())
    }

    /// Calls the runtime and waits for its end.
    fn call(&self, words: &[&str]) -> Result<(), Failure> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Failure::new(Step::Foreign, "/dev/null", &error.into()))?;
        let null = null.as_fd();
        let owned: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let call = self.begin(&owned, &[null, null, null])?;
        self.conclude(&call, words.first().unwrap_or(&""))
    }

    fn begin(&self, words: &[String], fds: &[BorrowedFd<'_>]) -> Result<Process, Failure> {
        self.begin_with(words, fds, &self.folder.join("log.json"))
    }

    fn begin_with(&self, words: &[String], fds: &[BorrowedFd<'_>], log: &Path) -> Result<Process, Failure> {
        let failed =
            |error: io::Error| Failure::new(Step::Foreign, self.program.display().to_string(), &error);
        let _ = fs::remove_file(log);
        let mut all = vec![path_word(&self.program)];
        all.extend(self.arguments.iter().cloned());
        all.extend(["--root".to_owned(), path_word(&self.folder.join("state"))]);
        all.extend(["--log".to_owned(), path_word(log)]);
        all.extend(["--log-format".to_owned(), "json".to_owned()]);
        all.extend(words.iter().cloned());
        let text = |word: &str| CString::new(word).map_err(|error| failed(error.into()));
        let argv: Vec<CString> = all.iter().map(|word| text(word)).collect::<Result<_, _>>()?;
        let path = CString::new(self.program.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
        let calls = Lock::share(&self.folder.join(CALLS))
            .map_err(|error| Failure::because(Step::Foreign, "lock", error.to_string()))?;
        // Behind the standard ones: runtimes pass nothing of that on.
        let mut all = fds.to_vec();
        all.push(calls.as_fd());
        let pid = spawn(&Program {
            path: &path,
            argv: &argv,
            fds: &all,
            new_session: true,
        })
        .map_err(failed)?;
        Process::own(pid).map_err(failed)
    }

    fn conclude(&self, call: &Process, what: &str) -> Result<(), Failure> {
        match call.wait() {
            Ok(0) => Ok(()),
            Ok(_) => Err(explained(said(&self.folder.join("log.json")), what)),
            Err(error) => Err(Failure::new(Step::Foreign, what, &error)),
        }
    }
}

/// What a runtime said last in its log.
fn said(log: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Line {
        level: String,
        msg: String,
    }
    let text = fs::read_to_string(log).ok()?;
    let lines = text
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok());
    let mut errors = lines.filter(|line| matches!(line.level.as_str(), "error" | "fatal"));
    errors.next().map(|line| line.msg)
}

/// The failure of a call. What callers of OCI runtimes look for in the text tells
/// a program that is not there, or cannot be executed, from all else.
fn explained(reason: Option<String>, what: &str) -> Failure {
    let reason = reason.unwrap_or_else(|| "it failed without a word".to_owned());
    let exec = |errno| Failure {
        step: Step::Exec,
        subject: String::new(),
        reason: reason.clone(),
        errno: Some(errno),
    };
    if reason.contains("executable file not found") || reason.contains("no such file or directory") {
        exec(libc::ENOENT)
    } else if reason.contains("permission denied") && reason.contains("exec") {
        exec(libc::EACCES)
    } else {
        Failure::because(Step::Foreign, what, reason)
    }
}

fn path_word(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A name that no other call of this machine has at the same time.
fn store_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("exec-{}-{count}", std::process::id())
}

/// A cgroup as `cgroupsPath` says it: below the root of each hierarchy.
fn cgroup_path(cgroup: &Cgroup) -> Option<PathBuf> {
    let folder = cgroup.folders.first()?;
    let inside = folder.path.strip_prefix("/sys/fs/cgroup").ok()?;
    let mut parts = inside.components();
    // Each hierarchy has a folder there, unless version 2 is all there is.
    if cgroup.folders.len() > 1 {
        parts.next();
    }
    Some(Path::new("/").join(parts.as_path()))
}

/// Removes what a runtime may have left of a cgroup in hierarchies that ours does
/// not use (that of systemd, say): empty folders, the container's and ours above it.
fn remove_cgroups(path: &Path) {
    let inside = path.strip_prefix("/").unwrap_or(path);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let own = hierarchy.path().join(inside);
        // What still has processes stays: these fail then, as they should.
        let _ = fs::remove_dir(&own);
        if let Some(parent) = own.parent().filter(|parent| *parent != hierarchy.path()) {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// A socket on which a runtime hands out the terminal of a container.
#[derive(Debug)]
struct Console {
    listener: UnixListener,
    /// Short, as the paths of sockets have to be.
    path: String,
    _folder: OwnedFd,
}

impl Console {
    fn listen(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::open(folder, flags, Mode::empty())?;
        let path = format!("/proc/{}/fd/{}/console", std::process::id(), held.as_raw_fd());
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path,
            _folder: held,
        })
    }

    /// The terminal, if it has come.
    fn accept(&self) -> Option<OwnedFd> {
        let (connection, _) = self.listener.accept().ok()?;
        connection.set_nonblocking(false).ok()?;
        let mut name = [0; 4096];
        fd::receive(connection.as_fd(), &mut name).ok()?.1
    }
}

/// A pseudo-terminal: the side to read from and write to, and the other one. It is
/// nobody's controlling terminal: when the leader of a session ends, the kernel
/// drops what was not yet read from its terminal.
fn pseudo_terminal(size: Option<(u16, u16)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let slave = open_other_side(&master, size)?;
    Ok((master, slave))
}

/// Sets user and groups of a process, and `HOME` where there is none.
fn set_user(process: &mut oci_spec::runtime::Process, identity: &init::Identity) {
    let mut user = User::default();
    user.set_uid(identity.uid);
    user.set_gid(identity.gid);
    user.set_additional_gids(Some(identity.groups.clone()));
    process.set_user(user);
    let mut env = process.env().clone().unwrap_or_default();
    if !identity.home.is_empty() && !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
        process.set_env(Some(env));
    }
}
