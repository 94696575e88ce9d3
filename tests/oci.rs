//! The OCI command line, section by section of the runtime spec, on the real
//! kernel. The table of sections and tests is in `docs/runtime.md`.
//!
//! Needs root and a static busybox; without, every test says why it is skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]

#[path = "oci/attack.rs"]
mod attack;
#[path = "oci/callers.rs"]
mod callers;
#[path = "oci/compatible.rs"]
mod compatible;
#[path = "oci/config.rs"]
mod config;
#[path = "oci/hooks.rs"]
mod hooks;
#[path = "oci/lifecycle.rs"]
mod lifecycle;
#[path = "oci/limits.rs"]
mod limits;
#[path = "oci/support.rs"]
mod support;
#[path = "oci/systemd.rs"]
mod systemd;
#[path = "oci/users.rs"]
mod users;
#[path = "vm/mod.rs"]
mod vm;
