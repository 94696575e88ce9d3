//! Changes of a run that goes on: what its processes may use, where its output
//! goes, and which sockets its monitor keeps.
//!
//! A monitor that takes orders is sent a packet socket through its door, by
//! [`ORDERS`]; each [`Wish`] on it is one packet and answered by one. Nothing of
//! it is kept anywhere else: whoever asks writes it down afterwards, and asks
//! again when it was cut off in between.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::RuntimeError;
use super::blueprint::ResourceLimit;
use super::cgroup::Cgroup;
use super::order;
use super::record::RunningRecord;
use super::request::LogPlan;
use super::spec::resource_limits;
use super::start::{DOOR, retrieve_kept};
use crate::sys::{fd, process};

/// What a supervisor sends through the door with its end of a connection for
/// orders.
pub(crate) const ORDERS: &[u8] = b"orders";

/// How long an answer may take: a monitor may have to connect to a log server.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a monitor is asked for while its container runs.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wish {
    /// Output goes there from now on.
    Log(LogPlan),
    /// The descriptor that comes with it is kept; its number is the answer.
    Keep,
    /// Of what is kept, only that of these numbers is.
    Only(Vec<i32>),
}

/// What a monitor answers: a number where one was asked for, or why not.
pub(crate) type Reply = Result<Option<i32>, String>;

/// A connection to the monitor of a container that runs.
#[derive(Debug)]
pub struct Orders {
    socket: OwnedFd,
}

impl Orders {
    /// Connects.
    ///
    /// # Errors
    /// As [`retrieve_kept`].
    pub fn open(running: &RunningRecord) -> Result<Self, RuntimeError> {
        let door = retrieve_kept(running, DOOR)?;
        let failed = |error: rustix::io::Errno| RuntimeError::io("connect to", "monitor")(error.into());
        let (socket, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).map_err(failed)?;
        fd::send(door.as_fd(), ORDERS, Some(theirs.as_fd()))
            .map_err(RuntimeError::io("connect to", "monitor"))?;
        Ok(Self { socket })
    }

    /// Sends the output somewhere else from now on.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] with what the monitor says (a log server that is not
    /// there, say): then nothing has changed.
    pub fn log(&self, plan: &LogPlan) -> Result<(), RuntimeError> {
        self.ask(&Wish::Log(plan.clone()), None).map(drop)
    }

    /// Has the monitor keep a copy of a descriptor; the number that it has there.
    ///
    /// # Errors
    /// [`RuntimeError::Io`], [`RuntimeError::Silent`].
    pub fn keep(&self, kept: BorrowedFd<'_>) -> Result<i32, RuntimeError> {
        self.ask(&Wish::Keep, Some(kept))?
            .ok_or(RuntimeError::Silent("monitor"))
    }

    /// Has the monitor let go of what it keeps under other numbers than these.
    ///
    /// # Errors
    /// As [`Self::keep`].
    pub fn keep_only(&self, numbers: Vec<i32>) -> Result<(), RuntimeError> {
        self.ask(&Wish::Only(numbers), None).map(drop)
    }

    fn ask(&self, wish: &Wish, with: Option<BorrowedFd<'_>>) -> Result<Option<i32>, RuntimeError> {
        let failed = || RuntimeError::io("ask", "monitor");
        let text = serde_json::to_vec(wish).map_err(|error| failed()(error.into()))?;
        fd::send(self.socket.as_fd(), &text, with).map_err(failed())?;
        let mut buffer = vec![0; order::LONGEST_ANSWER];
        let (length, _) = fd::receive(self.socket.as_fd(), &mut buffer).map_err(failed())?;
        let answer = buffer.get(..length).filter(|bytes| !bytes.is_empty());
        let answer = answer.ok_or(RuntimeError::Silent("monitor"))?;
        let reply: Reply = serde_json::from_slice(answer).map_err(|error| failed()(error.into()))?;
        reply.map_err(|reason| failed()(std::io::Error::other(reason)))
    }
}

/// Sets resource limits (soft and hard, -1 being unlimited) of every process of
/// a running container, and of those that are put into it later; the caller
/// writes the record.
///
/// # Errors
/// [`RuntimeError::Spec`] for a limit that is none, [`RuntimeError::Io`] when the
/// kernel refuses a value (`nofile` above `fs.nr_open`).
pub fn limit_processes(
    running: &mut RunningRecord,
    ulimits: &BTreeMap<String, (i64, i64)>,
) -> Result<(), RuntimeError> {
    let limits: Vec<ResourceLimit> = resource_limits(ulimits)?
        .iter()
        .map(super::blueprint::resource_limit)
        .collect();
    each_process(&running.fixed.cgroup, |pid| {
        for limit in &limits {
            process::set_resource_limit_of(pid, limit.number, limit.soft, limit.hard)
                .map_err(|error| (format!("limit {} of process {pid}", limit.name), error))?;
        }
        Ok(())
    })?;
    running.fixed.process.limits = limits;
    Ok(())
}

/// Whether this process may raise limits of others: what a container lost or
/// never had cannot be given otherwise.
pub fn raises_limits() -> bool {
    let own = rustix::thread::capabilities(None);
    own.is_ok_and(|own| own.effective.contains(CapabilitySet::SYS_RESOURCE))
}

/// Sets how readily the kernel kills a container's processes for want of memory:
/// of those that have not chosen that themselves, which is to say that are as
/// process 1 is; the caller writes the record.
///
/// # Errors
/// [`RuntimeError::Io`].
pub fn adjust_oom_score(running: &mut RunningRecord, score: i32) -> Result<(), RuntimeError> {
    let path = |pid: u32| format!("/proc/{pid}/oom_score_adj");
    let read = |pid: u32| std::fs::read_to_string(path(pid));
    let before = read(running.init.pid).map_err(RuntimeError::io("read", path(running.init.pid)))?;
    let wanted = score.to_string();
    each_process(&running.fixed.cgroup, |pid| {
        let failed = |error| (path(pid), error);
        if read(pid).map_err(failed)? == before {
            std::fs::write(path(pid), &wanted).map_err(failed)?;
        }
        Ok(())
    })?;
    running.fixed.process.oom_score_adj = Some(score);
    Ok(())
}

/// Does something to every process of a cgroup, also to those that are forked
/// meanwhile by one that it was not done to yet.
fn each_process(
    cgroup: &Cgroup,
    mut change: impl FnMut(u32) -> Result<(), (String, std::io::Error)>,
) -> Result<(), RuntimeError> {
    let mut done: Vec<u32> = Vec::new();
    loop {
        let fresh: Vec<u32> = cgroup
            .processes()
            .into_iter()
            .filter(|pid| !done.contains(pid))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for pid in fresh {
            done.push(pid);
            // Its number may have passed to another process since.
            if cgroup.processes().binary_search(&pid).is_err() {
                continue;
            }
            match change(pid) {
                // It has ended meanwhile.
                Err((_, error)) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {}
                Err((subject, error)) => return Err(RuntimeError::io("change", subject)(error)),
                Ok(()) => {}
            }
        }
    }
}
