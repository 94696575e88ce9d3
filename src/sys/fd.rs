//! Descriptors: inherited ones, close-on-exec, passing them over sockets.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// The descriptors a role was started with, by number. Each can be taken once.
#[derive(Debug)]
pub struct Inherited {
    fds: Vec<Option<OwnedFd>>,
}

impl Inherited {
    /// Takes over the descriptors 3 to `count - 1`, marks them close-on-exec
    /// and closes every other one above 2 (a caller may have leaked some).
    /// Numbers that are not open are left out.
    ///
    /// # Errors
    /// What close_range(2) returns.
    ///
    /// # Panics
    /// Never. Call it once, first thing in a role's `main` or in a process that
    /// was cloned, when nothing else in this process will use a descriptor it
    /// owns, or drop it.
    pub fn claim(count: usize) -> io::Result<Self> {
        Self::claim_above(0, count)
    }

    /// As [`Self::claim`], leaving the first `kept` descriptors from 3 on alone:
    /// they are for the program, and are neither taken nor marked.
    ///
    /// # Errors
    /// What close_range(2) returns.
    pub fn claim_above(kept: u32, count: usize) -> io::Result<Self> {
        let first = RawFd::try_from(kept)
            .ok()
            .and_then(|kept| kept.checked_add(3))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let last = RawFd::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        close_range(last.max(first), 0)?;
        mark_close_on_exec(first)?;
        let fds = (0..last)
            .map(|number| {
                // SAFETY: a borrow for the duration of the check.
                let open = number >= first
                    && rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok();
                // SAFETY: open, and by the contract above nobody owns it.
                open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
            })
            .collect();
        Ok(Self { fds })
    }

    /// Closes those that have not been taken and whose number is none of these.
    pub fn keep_only(&mut self, numbers: &[usize]) {
        for (number, fd) in self.fds.iter_mut().enumerate() {
            if !numbers.contains(&number) {
                *fd = None;
            }
        }
    }

    /// Takes the descriptor of that number.
    ///
    /// # Errors
    /// `EBADF` when it was not given or is taken.
    pub fn take(&mut self, number: usize) -> io::Result<OwnedFd> {
        self.fds
            .get_mut(number)
            .and_then(Option::take)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

/// A copy of a descriptor that is known by number only, in a process that
/// shares it with the one that owns it.
///
/// # Errors
/// `EBADF` when there is none of that number.
pub fn borrow_of(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: only for the duration of the copy, which fails if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}

/// Closes all descriptors from `first` on, or marks them.
fn close_range(first: RawFd, flags: libc::c_uint) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: plain integers; the callers say what may be closed.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Marks every open descriptor from `first` on close-on-exec.
///
/// # Errors
/// What close_range(2) returns.
pub fn mark_close_on_exec(first: RawFd) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

/// Makes room for `count` descriptors at once (or for as many as the limit
/// allows), while the process has one thread.
///
/// The kernel doubles the table when a number does not fit, and in a process
/// with threads it waits for an RCU grace period each time (`expand_fdtable` in
/// fs/file.c): 10 to 30 ms, in the middle of a start.
pub fn reserve(count: usize) {
    let Ok(null) = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let wanted = limit.map_or(count, |limit| count.min(usize::try_from(limit).unwrap_or(count)));
    if let Some(last) = wanted.checked_sub(1).and_then(|last| RawFd::try_from(last).ok()) {
        // Only the room is wanted: the copy is closed at once.
        let _ = rustix::io::fcntl_dupfd_cloexec(&null, last);
    }
}

/// Makes `fd` the standard descriptor `number` (0, 1 or 2), open across exec.
///
/// # Errors
/// What dup2(2) returns.
pub fn set_standard(fd: BorrowedFd<'_>, number: u8) -> io::Result<()> {
    match number {
        0 => rustix::stdio::dup2_stdin(fd)?,
        1 => rustix::stdio::dup2_stdout(fd)?,
        2 => rustix::stdio::dup2_stderr(fd)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(())
}

/// Makes a copy of `fd` under a number, open across exec; what had that number
/// is closed. For a process that is about to execute another program: whatever
/// owned the number must not be used any more.
///
/// # Errors
/// What dup2(2) returns.
pub fn place_at(fd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    let number = RawFd::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: integers only; by the contract above nobody relies on the number.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends one message with at most one descriptor over a packet socket.
///
/// # Errors
/// What sendmsg(2) returns; `EPIPE` without a signal.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds;
    if let Some(fd) = fd {
        fds = [fd];
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives one message into `buffer`; its length (0 at the end) and the
/// descriptor that came with it, which is close-on-exec.
///
/// # Errors
/// What recvmsg(2) returns.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fd = None;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            for right in rights {
                fd = Some(right);
            }
        }
    }
    Ok((message.bytes, fd))
}

/// Makes `fd` the controlling terminal of this session.
///
/// # Errors
/// What ioctl_tty(2) returns.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(fd.as_fd())?)
}
