//! The `rcompose` binary: chooses a role before any thread exists.

use rcompose::{monitor, runtime};

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    let role = arguments.next();
    let arguments: Vec<String> = arguments.collect();
    let status = match role.as_deref() {
        Some(runtime::MONITOR_ROLE) => monitor::main(&arguments),
        Some(runtime::init::ROLE) => runtime::init::main(&arguments),
        Some(runtime::exec::ROLE) => runtime::exec::main(&arguments),
        _ => 2,
    };
    std::process::ExitCode::from(u8::try_from(status & 0xff).unwrap_or(u8::MAX))
}
