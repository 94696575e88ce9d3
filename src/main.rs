//! The `rcompose` binary: chooses a role before any thread exists.
//!
//! The long-lived small processes are this same file: it is linked at a fixed
//! address, so it has no relocations to apply and each process shares all of
//! its pages but a few (see `.cargo/config.toml`, and `monitor` for numbers).

use std::process::ExitCode;

use rcompose::sys::fd::Inherited;
use rcompose::{cli, monitor, oci, runtime, supervisor};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let name = arguments.next().unwrap_or_default();
    if oci::is_name(&name) {
        return exit(oci::main(&arguments.collect::<Vec<_>>()));
    }
    let role = arguments.next();
    let status = match role.as_deref() {
        // Whoever resolves a link of that name before calling us is meant, too.
        Some(option) if oci::is_option(option) => {
            oci::main(&role.into_iter().chain(arguments).collect::<Vec<_>>())
        }
        Some("oci") => oci::main(&arguments.collect::<Vec<_>>()),
        Some(runtime::MONITOR_ROLE) => monitor::main(&arguments.collect::<Vec<_>>()),
        Some(monitor::standin::ROLE) => monitor::standin::main(&arguments.collect::<Vec<_>>()),
        Some(runtime::init::ROLE) => runtime::init::main(&arguments.collect::<Vec<_>>()),
        Some(runtime::exec::ROLE) => runtime::exec::main(&arguments.collect::<Vec<_>>()),
        Some(supervisor::ROLE) => return supervise(&arguments.collect::<Vec<_>>()),
        _ => return cli::main(),
    };
    exit(status)
}

fn exit(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status & 0xff).unwrap_or(u8::MAX))
}

/// The supervisor of one stack; its standard error is the stack's
/// `supervisor.log`.
fn supervise(arguments: &[String]) -> ExitCode {
    let (project, state, link) = match arguments {
        [project, state] => (project, state, None),
        [project, state, last] if last == monitor::standin::RELIEF => {
            let number = monitor::standin::LINK;
            let link = Inherited::claim(number + 1).and_then(|mut fds| fds.take(number));
            (project, state, link.ok())
        }
        _ => return ExitCode::from(2),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("RCOMPOSE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match supervisor::main(project, state.as_ref(), link.map(Into::into)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the supervisor cannot work");
            ExitCode::FAILURE
        }
    }
}
