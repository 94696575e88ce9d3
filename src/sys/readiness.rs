//! Waiting for descriptors inside the event loop.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that the event loop of the current thread waits for.
///
/// # Errors
/// What epoll_ctl(2) returns (`EPERM` for a regular file); outside of an event
/// loop it panics.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, for as long as the
    // value that holds it; nothing can replace it inside the AsyncFd.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(io::Error::from)
}
