//! The runtime and the monitor on the real kernel: containers of a busybox
//! image, each with a network namespace and a cgroup of its own.
//!
//! Needs root and a static busybox (installed from Debian's `busybox-static`
//! when it is missing); without, every test says why it is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

#[path = "runtime/attack.rs"]
mod attack;
#[path = "runtime/cgroup.rs"]
mod cgroup;
#[path = "runtime/defaults.rs"]
mod defaults;
#[path = "runtime/exec.rs"]
mod exec;
#[path = "runtime/life.rs"]
mod life;
#[path = "runtime/limit.rs"]
mod limit;
#[path = "runtime/output.rs"]
mod output;
#[path = "runtime/process.rs"]
mod process;
#[path = "runtime/root.rs"]
mod root;
#[path = "runtime/speed.rs"]
mod speed;
#[path = "runtime/support.rs"]
mod support;
#[path = "vm/mod.rs"]
mod vm;
