//! The command line of OCI runtimes, over our own.
//!
//! `rcompose oci …`, or the binary under a name that ends in `-oci` (a link): what
//! podman, containerd's shim and conformance suites call, with the options they
//! use, before or after the container's id. Every command drives the code that
//! runs stacks ([`crate::runtime`]); nothing here knows a namespace or a mount.
//!
//! ```text
//! arguments ─▶ Invocation ─▶ create/exec (make processes)   ─┐
//!                        ├─▶ lifecycle (kill, delete, pause) ─┼─▶ runtime
//!                        └─▶ report, resources (show, limit) ─┘
//! ```
//!
//! A container is a folder below `--root`, named by its id: `record.json` (what
//! is known before anything is made), `init.json` (its process 1), `start.sock`
//! while it waits between `create` and `start`. A command that changes a
//! container holds a lock on the folder. Status is never written: it is read off
//! the kernel (does the process live, is its cgroup frozen) and that socket.
//! Nothing stays behind a command: who called `create` is the container's
//! parent and waits for it.
//!
//! Success says nothing. An error is one line on standard error and, with
//! `--log`, one in that file. The texts contain the words callers look for:
//! "does not exist", "container not running", "executable file not found in
//! $PATH", "permission denied", "no such file or directory".
//!
//! Which test shows which section of the OCI runtime spec, and which attack is a
//! test, is in `docs/runtime.md`.
//!
//! Weak: checkpoints and `linux.intelRdt` are refused. `--systemd-cgroup` is
//! root's, and wants version 2. A terminal in the foreground is relayed by
//! polling, good enough for people; callers pass `--console-socket`. The state a
//! notification listener gets for a process made by `exec` names the
//! container's process 1. With a listener, what the init stage does between
//! `create` and `start` is under the filter.

mod arguments;
mod container;
mod create;
mod error;
mod exec;
mod lifecycle;
mod log;
mod notify;
mod report;
mod resources;
mod terminal;
mod wait;

use std::io::Write as _;

use self::arguments::Invocation;
use self::error::OciError;

/// Whether the program was called by the name of this role: a link to it.
pub fn is_name(name: &str) -> bool {
    std::path::Path::new(name)
        .file_name()
        .is_some_and(|name| name.to_string_lossy().ends_with("-oci"))
}

/// Whether an option, written before any command, is one of OCI runtimes that
/// [`cli`](crate::cli) has not.
pub fn is_option(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or(option);
    [
        "--root",
        "--log",
        "--log-format",
        "--systemd-cgroup",
        "--cgroup-manager",
    ]
    .contains(&name)
}

/// The role. Must be called before any thread exists. Returns the exit status:
/// 0, that of the program where one is waited for, 1 for errors, 255 for those
/// of `exec`.
pub fn main(arguments: &[String]) -> i32 {
    let invocation = match Invocation::parse(arguments) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Log options count for what is wrong with the arguments, too; those of
            // a program are not ours.
            let before = Invocation::parse(arguments::before_command(arguments));
            let log = before.and_then(|before| log::Log::of(&before));
            log.unwrap_or_default().error(&error);
            return 1;
        }
    };
    let log = match log::Log::of(&invocation) {
        Ok(log) => log,
        Err(error) => {
            log::Log::default().error(&error);
            return 1;
        }
    };
    match run(&invocation, &log) {
        Ok(status) => status,
        Err(error) => {
            log.error(&error);
            if invocation.command == "exec" { 255 } else { 1 }
        }
    }
}

fn run(invocation: &Invocation, log: &log::Log) -> Result<i32, OciError> {
    if invocation.has("help") {
        print(&arguments::help(&invocation.command))?;
        return Ok(0);
    }
    match invocation.command.as_str() {
        "create" => create::create(invocation, log),
        "run" => create::run(invocation, log),
        "start" => create::start(invocation, log),
        "exec" => exec::exec(invocation, log),
        "state" => report::state(invocation),
        "list" => report::list(invocation),
        "ps" => report::ps(invocation),
        "features" => report::features(),
        "spec" => report::spec(invocation),
        "version" => report::version(),
        "kill" => lifecycle::kill(invocation),
        "delete" => lifecycle::delete(invocation, log),
        "pause" => lifecycle::pause(invocation),
        "resume" => lifecycle::resume(invocation),
        "update" => resources::update(invocation, log),
        "events" => resources::events(invocation),
        "help" => {
            print(&arguments::help(""))?;
            Ok(0)
        }
        other => Err(OciError::Usage(format!("the command {other} is not supported"))),
    }
}

/// Prints to standard output; a reader that is gone is no error.
fn print(text: &str) -> Result<(), OciError> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(OciError::io("write to", "standard output")(error))
        }
        _ => Ok(()),
    }
}
