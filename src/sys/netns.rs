//! Network namespaces (network_namespaces(7)) without leaving one's own.
//!
//! A namespace belongs to a thread. Everything that has to happen in another
//! one happens on a thread of its own that ends afterwards, so no thread that
//! goes on working is ever found in the wrong place.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use nix::sched::CloneFlags;

/// Stack of a thread that only makes a few system calls; untouched pages cost nothing.
const STACK: usize = 512 * 1024;

/// The network namespace of the calling thread.
///
/// # Errors
/// What open(2) says of `/proc/thread-self/ns/net`.
pub fn current() -> io::Result<OwnedFd> {
    File::open("/proc/thread-self/ns/net").map(Into::into)
}

/// The network namespace of a process.
///
/// # Errors
/// What open(2) says: `ENOENT` when there is no such process.
pub fn of_process(pid: u32) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/net")).map(Into::into)
}

/// Makes a network namespace and calls `work` inside it. The namespace lives
/// as long as something of it is open: the descriptor, a socket, a process.
///
/// # Errors
/// What clone(2) says of the thread or unshare(2) of the namespace (`EPERM`
/// without `CAP_SYS_ADMIN`, `ENOSPC` beyond `max_net_namespaces`).
pub fn create<T: Send>(work: impl FnOnce(BorrowedFd<'_>) -> T + Send) -> io::Result<(OwnedFd, T)> {
    on_a_thread(|| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
        let netns = current()?;
        let result = work(netns.as_fd());
        Ok((netns, result))
    })
}

/// Calls `work` inside a namespace.
///
/// # Errors
/// What clone(2) says of the thread or setns(2) of the namespace.
pub fn within<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_a_thread(|| {
        nix::sched::setns(netns, CloneFlags::CLONE_NEWNET)?;
        Ok(work())
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread in a network namespace panicked")))
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn the_caller_stays_where_it_is() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return;
        }
        let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        let before = identity(current().unwrap().as_fd());
        let (netns, inside) = create(identity).unwrap();
        assert_ne!(before, inside);
        assert_eq!(identity(current().unwrap().as_fd()), before);
        let seen = within(netns.as_fd(), || identity(current().unwrap().as_fd())).unwrap();
        assert_eq!(seen, inside);
        assert_eq!(identity(current().unwrap().as_fd()), before);
    }
}
