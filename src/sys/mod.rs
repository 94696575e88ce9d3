//! System calls: the only place where unsafe code may stand.
//!
//! Each file wraps what `rustix` and `nix` lack, or what they can only offer as
//! unsafe functions, and gives safe functions out: descriptors enter as
//! [`BorrowedFd`](std::os::fd::BorrowedFd) and leave as
//! [`OwnedFd`](std::os::fd::OwnedFd). What those crates do safely is called
//! where it is needed.
//!
//! Weak: the wrappers of fork-like calls ([`clone`]) trust their callers to be
//! single-threaded processes; only the roles that are chosen before any thread
//! exists call them.

pub mod bpf;
pub mod clone;
pub mod fd;
pub mod kernel_file;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod pidfd;
pub mod process;
pub mod readiness;
pub mod schedule;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod spawn;
pub mod stub;
pub mod terminal;
