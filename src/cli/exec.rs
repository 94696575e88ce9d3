//! `exec`: a command in a running container, straight from here: no supervisor
//! takes part.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Exec as Typed;
use super::choose::container;
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::moment;
use super::relay::relay;
use crate::host::{View, running};
use crate::runtime::{self, Exec, ExecRequest, ExecStdio, FailureKind, RuntimeError};
use crate::supervisor::journal::note;
use crate::sys::readiness::watch;

/// Signals that are passed on to the command when there is no terminal.
const PASSED: [i32; 5] = [
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

pub(super) fn exec(context: &Context, typed: &Typed) -> Outcome {
    let loaded = context.load_or_recall(std::slice::from_ref(&typed.service))?;
    known_services(&loaded.project, std::slice::from_ref(&typed.service))?;
    let view = container(context, &loaded.project.name, &typed.service, typed.index, true)?;
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let tty = !typed.no_tty && !typed.detach && stdin.is_terminal() && stdout.is_terminal();
    let request = ExecRequest {
        args: typed.command.clone(),
        env: typed.env.iter().filter_map(|entry| variable(entry)).collect(),
        cwd: typed.workdir.clone(),
        user: typed.user.clone(),
        tty,
        size: tty
            .then(|| rustix::termios::tcgetwinsize(std::io::stdin()).ok())
            .flatten()
            .map(|size| (size.ws_row, size.ws_col)),
        privileged: typed.privileged,
    };
    exec_in(context, &view, &request, !typed.detach, typed.detach)
}

/// Runs a command in a container, with standard input when `input`, and ends
/// with its status.
pub(super) fn exec_in(
    context: &Context,
    view: &View,
    request: &ExecRequest,
    input: bool,
    detach: bool,
) -> Outcome {
    let gone = || Failure::new(format!("container {} has just ended", view.record.name));
    let running = running(&context.world, &view.record)?.ok_or_else(gone)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let stdio = if request.tty || detach {
        ExecStdio::default()
    } else {
        ExecStdio {
            stdin: input.then(|| stdin.as_fd()),
            stdout: Some(stdout.as_fd()),
            stderr: Some(stderr.as_fd()),
        }
    };
    let exec = runtime::exec(&running, request, stdio).map_err(|error| failure(&error))?;
    for warning in &exec.warnings {
        context.terminal.warning(warning);
    }
    let id = [("execID", format!("{:x}", moment::now()))];
    for action in ["exec_create", "exec_start"] {
        let action = format!("{action}: {}", request.args.join(" "));
        note(&context.world, &view.record, &action, &id);
    }
    if detach {
        return Ok(ExitCode::SUCCESS);
    }
    let code = super::block_on(wait(exec))?;
    let [id] = id;
    let more = [id, ("exitCode", code.to_string())];
    note(&context.world, &view.record, "exec_die", &more);
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

/// `NAME=value` as it is; `NAME` with the caller's value.
pub(super) fn variable(entry: &str) -> Option<String> {
    if entry.contains('=') {
        return Some(entry.to_owned());
    }
    std::env::var(entry).ok().map(|value| format!("{entry}={value}"))
}

/// Docker's statuses: 127 when the program is missing, 126 when it cannot be run.
fn failure(error: &RuntimeError) -> Failure {
    let code = match error.kind() {
        FailureKind::NotFound => 127,
        FailureKind::PermissionDenied => 126,
        FailureKind::Other => 1,
    };
    Failure::new(error).code(code)
}

async fn wait(exec: Exec) -> Result<i32, Failure> {
    let Exec {
        process,
        terminal,
        hears_of_size,
        ..
    } = exec;
    let io =
        |operation: &'static str| move |error: std::io::Error| Failure::new(format!("{operation}: {error}"));
    match terminal {
        Some(master) => {
            let resized = || {
                if hears_of_size {
                    let _ = process.signal(libc::SIGWINCH);
                }
            };
            let relayed = relay(master, resized).await;
            relayed.map_err(io("relay the terminal"))?;
        }
        None => {
            let pidfd = process
                .as_fd()
                .try_clone_to_owned()
                .map_err(io("watch the command"))?;
            let ended = watch(pidfd, Interest::READABLE).map_err(io("watch the command"))?;
            let (sender, mut signals) = tokio::sync::mpsc::channel(8);
            for number in PASSED {
                let mut stream = signal(SignalKind::from_raw(number)).map_err(io("listen for signals"))?;
                let sender = sender.clone();
                tokio::spawn(async move {
                    while stream.recv().await.is_some() && sender.send(number).await.is_ok() {}
                });
            }
            loop {
                tokio::select! {
                    _ = ended.readable() => break,
                    Some(number) = signals.recv() => { let _ = process.signal(number); }
                }
            }
        }
    }
    process.wait().map_err(io("wait for the command"))
}
