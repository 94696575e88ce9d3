//! Making the process that becomes process 1 of a container.
//!
//! Usually one clone3(2) with all new namespaces, straight into the version 2
//! cgroup. Namespaces that a process cannot enter by itself are dealt with
//! around that: a pid namespace by path and a fresh time namespace are what the
//! *children* of whoever enters them are in, so the launcher enters them for the
//! moment of the clone and goes back; a user namespace by path is entered by a
//! process in between, which makes the child as its own sibling, so that it is
//! the launcher's all the same and owns the namespaces made with it.
//!
//! In a fresh user namespace the child waits until its ids are mapped, becomes
//! its root, and only then executes: otherwise it would lose its capabilities.
//!
//! What is cloned either executes our file as the init stage or, where the
//! blueprint allows it, is that stage at once ([`Stage`]): executing a program
//! that is linked to glibc costs 0.6 to 0.7 ms in a virtual machine.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{Gid, LinkNameSpaceType, Uid};

use super::blueprint::{Blueprint, Mappings, Namespaces};
use super::cgroup::Cgroup;
use super::error::{Failure, Step};
use super::init;
use super::init::report::Report;
use crate::sys::clone::{self, Child, NEWTIME};
use crate::sys::stub::Stub;
use crate::sys::{fd, pidfd, process};

/// What the init stage is made of.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) stage: Stage<'a>,
    /// The child's end of the report socket.
    pub(crate) report: BorrowedFd<'a>,
    /// Our end, on which the child waits for us.
    pub(crate) control: BorrowedFd<'a>,
    pub(crate) filter: Option<BorrowedFd<'a>>,
    pub(crate) network: Option<BorrowedFd<'a>>,
    /// Standard descriptors.
    pub(crate) standard: [BorrowedFd<'a>; 3],
    /// Others that the blueprint names by number.
    pub(crate) passed: Vec<BorrowedFd<'a>>,
    /// The first descriptors from 3 on are the program's.
    pub(crate) preserved: u32,
    /// It outlives us.
    pub(crate) outlives: bool,
}

/// How the init stage comes to be.
#[derive(Debug)]
pub(crate) enum Stage<'a> {
    /// The process executes our file, and reads the sealed [`Blueprint`].
    Executed {
        executable: BorrowedFd<'a>,
        blueprint: BorrowedFd<'a>,
    },
    /// The process goes on as it is; only for a blueprint that
    /// [is alone](Blueprint::is_alone).
    Cloned {
        stub: Stub,
        blueprint: Handed<'a>,
        /// The process is made before its version 1 cgroups are: it joins them,
        /// and makes its network namespace, by itself, once it has been told its
        /// number. So the two go on beside each other.
        early: bool,
    },
}

/// Where the blueprint is.
#[derive(Debug)]
pub(crate) enum Handed<'a> {
    /// In a sealed file.
    Sealed(BorrowedFd<'a>),
    /// Here.
    Known(&'a Blueprint),
}

/// Sent by the launcher when the ids are mapped.
const MAPPED: &[u8] = b"mapped";

impl Launch<'_> {
    /// Makes the process; it runs the init stage. The caller must have no
    /// threads.
    ///
    /// # Errors
    /// A [`Failure`]; then there is no process.
    pub(crate) fn make(&self) -> Result<Child, Failure> {
        let cloning = |error: io::Error| Failure::new(Step::Clone, "", &error);
        let entered_user = self
            .namespaces
            .join_first
            .iter()
            .find(|(kind, _)| *kind == libc::CLONE_NEWUSER);
        let guard = self.enter_for_children()?;
        let child = match entered_user {
            Some((_, path)) => self.make_inside(path),
            None => {
                let folder = self.unified()?;
                clone::clone_process(
                    self.namespaces.clone & !self.later(),
                    folder.as_ref().map(|fd| fd.as_fd()),
                    || self.become_init(true, 0),
                )
                .map_err(cloning)
            }
        };
        guard.leave()?;
        let child = child?;
        if let Some(mappings) = &self.namespaces.mappings {
            let map = || -> io::Result<()> {
                map(child.pid, mappings)?;
                fd::send(self.control, MAPPED, None)
            };
            if let Err(error) = map() {
                let _ = pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
                let _ = rustix::process::waitid(
                    rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
                    rustix::process::WaitIdOptions::EXITED,
                );
                return Err(Failure::new(Step::Namespace, "user: map ids", &error));
            }
        }
        Ok(child)
    }

    fn unified(&self) -> Result<Option<OwnedFd>, Failure> {
        self.cgroup
            .unified()
            .map(|path| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
                    Failure::new(Step::JoinCgroup, path.display().to_string(), &error.into())
                })
            })
            .transpose()
    }

    /// The blueprint, where it is in a file.
    fn sealed(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Executed { blueprint, .. }
            | Stage::Cloned {
                blueprint: Handed::Sealed(blueprint),
                ..
            } => Some(*blueprint),
            Stage::Cloned { .. } => None,
        }
    }

    /// The namespaces that the process makes by itself.
    fn later(&self) -> i32 {
        match self.stage {
            Stage::Cloned { early: true, .. } => libc::CLONE_NEWNET,
            _ => 0,
        }
    }

    /// What the stage gets, by number.
    fn given(&self, entered: i32) -> init::Given {
        let number = |fd: BorrowedFd<'_>| usize::try_from(fd.as_raw_fd()).unwrap_or(usize::MAX);
        let stub = match &self.stage {
            Stage::Cloned { stub, .. } => usize::try_from(stub.as_raw_fd()).ok(),
            Stage::Executed { .. } => None,
        };
        init::Given {
            blueprint: self.sealed().map(number),
            report: number(self.report),
            filter: self.filter.map(number),
            network: self.network.map(number),
            preserved: self.preserved,
            last: self.passed().map(number).chain(stub).max().unwrap_or_default(),
            entered,
        }
    }

    fn passed(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [self.sealed(), Some(self.report), self.filter, self.network]
            .into_iter()
            .flatten()
            .chain(self.passed.iter().copied())
    }

    /// Sends a failure of the new process home; its status.
    fn tell(&self, failure: Failure) -> i32 {
        if let Ok(bytes) = serde_json::to_vec(&Report::Failed(failure)) {
            let _ = fd::send(self.report, &bytes, None);
        }
        125
    }

    /// Enters what only children will be in.
    fn enter_for_children(&self) -> Result<Guard, Failure> {
        let mut guard = Guard::default();
        for (kind, path) in &self.namespaces.join_first {
            if *kind == libc::CLONE_NEWPID {
                guard.keep(libc::CLONE_NEWPID, "pid")?;
                enter(*kind, path)?;
            }
        }
        // Namespaces that a fresh user namespace cannot own must be entered by
        // us, who may.
        if self.namespaces.mappings.is_some() {
            for (kind, path) in &self.namespaces.join {
                if let Some(name) = early(*kind) {
                    guard.keep(*kind, name)?;
                    enter(*kind, path)?;
                }
            }
            if let Some(network) = self.network {
                guard.keep(libc::CLONE_NEWNET, "net")?;
                rustix::thread::move_into_link_name_space(network, Some(LinkNameSpaceType::Network))
                    .map_err(|error| Failure::new(Step::Namespace, "network", &error.into()))?;
            }
        }
        if self.namespaces.time.is_some() && !self.enters_user() {
            guard.keep(NEWTIME, "time")?;
            self.make_time()?;
        }
        Ok(guard)
    }

    fn enters_user(&self) -> bool {
        self.namespaces
            .join_first
            .iter()
            .any(|(kind, _)| *kind == libc::CLONE_NEWUSER)
    }

    fn make_time(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Step::Namespace, "time", &error);
        clone::unshare_namespaces(NEWTIME).map_err(failed)?;
        for (clock, seconds, nanoseconds) in self.namespaces.time.iter().flatten() {
            fs::write(
                "/proc/self/timens_offsets",
                format!("{clock} {seconds} {nanoseconds}\n"),
            )
            .map_err(failed)?;
        }
        Ok(())
    }

    /// Makes the child in a user namespace that exists already.
    fn make_inside(&self, path: &std::path::Path) -> Result<Child, Failure> {
        let cloning = |error: io::Error| Failure::new(Step::Clone, "", &error);
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|error| cloning(error.into()))?;
        let between = clone::clone_process(0, None, || {
            let make = || -> Result<(), Failure> {
                process::die_with_parent().map_err(cloning)?;
                self.join_cgroup(true)?;
                let not_mounts = |(kind, _): &&(i32, PathBuf)| *kind != libc::CLONE_NEWNS;
                let mut entered = 0;
                for (kind, path) in self.namespaces.join.iter().filter(not_mounts) {
                    // Whoever owns them, the host's root may enter them; what is refused
                    // here is tried again by who is inside.
                    match enter(*kind, path) {
                        Ok(()) => entered |= *kind,
                        Err(failure) if failure.errno == Some(libc::EPERM) => {}
                        Err(failure) => return Err(failure),
                    }
                }
                enter(libc::CLONE_NEWUSER, path)?;
                become_root().map_err(|error| Failure::new(Step::Credentials, "", &error))?;
                if self.namespaces.time.is_some() {
                    self.make_time()?;
                }
                let child =
                    clone::clone_sibling(self.namespaces.clone, None, || self.become_init(false, entered))
                        .map_err(cloning)?;
                fd::send(
                    theirs.as_fd(),
                    child.pid.to_string().as_bytes(),
                    Some(child.pidfd.as_fd()),
                )
                .map_err(cloning)
            };
            match make() {
                Ok(()) => 0,
                Err(failure) => {
                    let bytes = serde_json::to_vec(&failure).unwrap_or_default();
                    let _ = fd::send(theirs.as_fd(), &bytes, None);
                    1
                }
            }
        })
        .map_err(cloning)?;
        drop(theirs);
        let mut buffer = [0; 4096];
        let received = fd::receive(ours.as_fd(), &mut buffer);
        let _ = rustix::process::waitid(
            rustix::process::WaitId::PidFd(between.pidfd.as_fd()),
            rustix::process::WaitIdOptions::EXITED,
        );
        let (length, pidfd) = received.map_err(cloning)?;
        let bytes = buffer.get(..length).unwrap_or_default();
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        match (text.parse::<u32>(), pidfd) {
            (Ok(_), Some(pidfd)) => {
                // The number it was told was that of another pid namespace, if the
                // process in between was in one.
                let pid = pidfd::number(pidfd.as_fd()).map_err(cloning)?;
                Ok(Child { pid, pidfd })
            }
            _ => Err(serde_json::from_slice(bytes)
                .unwrap_or_else(|_| Failure::because(Step::Clone, "", "the process in between was killed"))),
        }
    }

    /// Joins the cgroup by hand where clone3(2) did not.
    fn join_cgroup(&self, unified: bool) -> Result<(), Failure> {
        let mut files: Vec<PathBuf> = self.cgroup.tasks().collect();
        if unified {
            files.extend(self.cgroup.unified().map(|folder| folder.join("cgroup.procs")));
        }
        for path in files {
            use std::io::Write as _;
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| file.write_all(b"0"))
                .map_err(|error| Failure::new(Step::JoinCgroup, path.display().to_string(), &error))?;
        }
        Ok(())
    }

    /// In the new process: joins the cgroup and becomes the init stage, for which the
    /// namespaces `entered` (`CLONE_NEW*`) were entered. Its status, when that fails.
    fn become_init(&self, join: bool, entered: i32) -> i32 {
        let later = self.later() != 0;
        if let Err(failure) = self.prepare(join && !later) {
            return self.tell(failure);
        }
        match &self.stage {
            Stage::Cloned { stub, blueprint, .. } => {
                let known = match blueprint {
                    Handed::Known(blueprint) => Some(*blueprint),
                    Handed::Sealed(_) => None,
                };
                let numbers = |fd: i32| usize::try_from(fd).unwrap_or(usize::MAX);
                let passed: Vec<usize> = self.passed.iter().map(|fd| numbers(fd.as_raw_fd())).collect();
                let join = || self.join_cgroup(false);
                let cloned = init::Cloned {
                    blueprint: known,
                    stub: numbers(stub.as_raw_fd()),
                    passed: &passed,
                    join: later.then_some(&join),
                };
                init::go_on(&self.given(entered), &cloned)
            }
            Stage::Executed { executable, .. } => {
                let cloning = |error: io::Error| Failure::new(Step::Clone, "", &error);
                for fd in self.passed() {
                    if let Err(error) = rustix::io::fcntl_setfd(fd, FdFlags::empty()) {
                        return self.tell(cloning(error.into()));
                    }
                }
                let argv = self.given(entered).arguments();
                self.tell(cloning(clone::execute_fd(*executable, &argv, &[])))
            }
        }
    }

    /// What is done in the new process in any case.
    fn prepare(&self, join: bool) -> Result<(), Failure> {
        let cloning = |error: io::Error| Failure::new(Step::Clone, "", &error);
        if !self.outlives {
            process::die_with_parent().map_err(cloning)?;
        }
        if join {
            self.join_cgroup(false)?;
        }
        if self.namespaces.mappings.is_some() {
            let mut buffer = [0; 16];
            let (length, _) = fd::receive(self.report, &mut buffer).map_err(cloning)?;
            if buffer.get(..length) != Some(MAPPED) {
                return Err(Failure::because(Step::Clone, "", "the launcher is gone"));
            }
            become_root().map_err(|error| Failure::new(Step::Credentials, "", &error))?;
            if !self.outlives {
                // Becoming somebody else clears it.
                process::die_with_parent().map_err(cloning)?;
            }
        }
        for (number, stream) in (0..).zip(self.standard) {
            fd::set_standard(stream, number).map_err(cloning)?;
        }
        Ok(())
    }
}

/// Root of the user namespace we are in, with all its capabilities.
fn become_root() -> io::Result<()> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
    Ok(())
}

/// Those that are entered before a fresh user namespace is made, and the names
/// of their files.
fn early(kind: i32) -> Option<&'static str> {
    match kind {
        libc::CLONE_NEWNET => Some("net"),
        libc::CLONE_NEWIPC => Some("ipc"),
        libc::CLONE_NEWUTS => Some("uts"),
        NEWTIME => Some("time"),
        _ => None,
    }
}

/// Enters a namespace by path, which must be of that kind. One that we are in needs
/// no right to enter it.
pub(crate) fn enter(kind: i32, path: &std::path::Path) -> Result<(), Failure> {
    let own = early(kind).or((kind == libc::CLONE_NEWCGROUP).then_some("cgroup"));
    let enter = || -> io::Result<()> {
        let file = fs::File::open(path)?;
        if let Some(own) = own {
            let (own, found) = (fs::metadata(format!("/proc/self/ns/{own}"))?, file.metadata()?);
            if (own.dev(), own.ino()) == (found.dev(), found.ino()) {
                return Ok(());
            }
        }
        nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::from_bits_retain(kind))?;
        Ok(())
    };
    enter().map_err(|error| Failure::new(Step::Namespace, path.display().to_string(), &error))
}

/// Whether the init stage enters a namespace that is given by path: those the
/// launcher has not entered for it.
pub(crate) fn is_late(namespaces: &Namespaces, kind: i32) -> bool {
    namespaces.mappings.is_none() || early(kind).is_none()
}

/// Our own namespaces, to go back to.
#[derive(Debug, Default)]
struct Guard(Vec<(i32, OwnedFd)>);

impl Guard {
    fn keep(&mut self, kind: i32, name: &str) -> Result<(), Failure> {
        let path = format!("/proc/self/ns/{name}");
        let file = fs::File::open(&path).map_err(|error| Failure::new(Step::Namespace, &path, &error))?;
        self.0.push((kind, file.into()));
        Ok(())
    }

    fn leave(self) -> Result<(), Failure> {
        for (kind, file) in self.0 {
            nix::sched::setns(file, nix::sched::CloneFlags::from_bits_retain(kind))
                .map_err(|error| Failure::new(Step::Namespace, "of ours", &error.into()))?;
        }
        Ok(())
    }
}

/// Maps the ids of a fresh user namespace: user_namespaces(7).
pub(crate) fn map(pid: u32, mappings: &Mappings) -> io::Result<()> {
    let lines = |list: &[(u32, u32, u32)]| {
        list.iter()
            .map(|(inside, outside, size)| format!("{inside} {outside} {size}\n"))
            .collect::<String>()
    };
    fs::write(format!("/proc/{pid}/gid_map"), lines(&mappings.gid))?;
    fs::write(format!("/proc/{pid}/uid_map"), lines(&mappings.uid))
}

/// A user namespace with these ids and no process in it, for idmapped mounts.
///
/// # Errors
/// What clone3(2) returns and what mapping and opening say.
pub(crate) fn user_namespace(mappings: &Mappings) -> io::Result<OwnedFd> {
    let (release, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = clone::clone_process(libc::CLONE_NEWUSER, None, || {
        // Until the other end is closed, which we share: its own copy first.
        let _ = process::die_with_parent();
        let _ = rustix::io::read(&release, &mut [0_u8; 1]);
        0
    })?;
    let open = || -> io::Result<OwnedFd> {
        map(child.pid, mappings)?;
        Ok(fs::File::open(format!("/proc/{}/ns/user", child.pid))?.into())
    };
    let opened = open();
    drop(held);
    let _ = pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    let _ = rustix::process::waitid(
        rustix::process::WaitId::PidFd(child.pidfd.as_fd()),
        rustix::process::WaitIdOptions::EXITED,
    );
    opened
}
