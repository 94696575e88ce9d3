//! The `rcompose` binary: chooses a role before any thread exists.
//!
//! The long-lived small processes are this same file: it is linked at a fixed
//! address, so it has no relocations to apply and each process shares all of
//! its pages but a few (see `.cargo/config.toml`, and `monitor` for numbers).

use std::ffi::OsString;
use std::process::ExitCode;

use rcompose::{cli, supervisor};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let role = arguments.next();
    match role.as_deref().and_then(|role| role.to_str()) {
        Some(supervisor::ROLE) => supervise(arguments.collect()),
        _ => cli::main(),
    }
}

/// The supervisor of one stack; its standard error is the stack's
/// `supervisor.log`.
fn supervise(arguments: Vec<OsString>) -> ExitCode {
    let [project, state] = arguments.as_slice() else { return ExitCode::from(2) };
    let filter = tracing_subscriber::EnvFilter::try_from_env("RCOMPOSE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    match supervisor::main(&project.to_string_lossy(), state.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the supervisor cannot work");
            ExitCode::FAILURE
        }
    }
}
