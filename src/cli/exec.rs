//! `exec`: a command in a running container, straight from here: no supervisor
//! takes part.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Exec as Typed;
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::relay::relay;
use crate::host::views;
use crate::runtime::{self, Exec, ExecRequest, ExecStdio, FailureKind, RunningRecord, RuntimeError};
use crate::store::read_record;
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
    let running = container(context, &loaded.project.name, typed)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let tty = !typed.no_tty && !typed.detach && stdin.is_terminal() && stdout.is_terminal();
    let request = ExecRequest {
        args: typed.command.clone(),
        env: typed.env.iter().filter_map(|entry| variable(entry)).collect(),
        cwd: typed.workdir.clone(),
        user: typed.user.clone(),
        tty,
        size: None,
        privileged: typed.privileged,
    };
    let stdio = if tty || typed.detach {
        ExecStdio::default()
    } else {
        ExecStdio {
            stdin: Some(stdin.as_fd()),
            stdout: Some(stdout.as_fd()),
            stderr: Some(stderr.as_fd()),
        }
    };
    let exec = runtime::exec(&running, &request, stdio).map_err(|error| failure(&error))?;
    for warning in &exec.warnings {
        context.terminal.warning(warning);
    }
    if typed.detach {
        return Ok(ExitCode::SUCCESS);
    }
    super::block_on(wait(exec))
}

/// The container to run in: with `--index`, that one; otherwise the first.
fn container(context: &Context, project: &str, typed: &Typed) -> Result<RunningRecord, Failure> {
    let service = &typed.service;
    let view = views(&context.world, project)?.into_iter().find(|view| {
        view.record.config.name == *service
            && view.state.is_running()
            && (typed.index == 0 || view.record.number == typed.index)
    });
    let missing = || {
        let failure = Failure::new(format!("service \"{service}\" is not running"));
        if typed.index == 0 {
            failure.hint(format!("'rcompose up -d {service}' starts it"))
        } else {
            Failure::new(format!(
                "service \"{service}\" has no running container #{}",
                typed.index
            ))
        }
    };
    let record = view.ok_or_else(missing)?.record;
    let paths = context.world.container(project, &record.id);
    read_record(&paths.running())?.ok_or_else(missing)
}

/// `NAME=value` as it is; `NAME` with the caller's value.
fn variable(entry: &str) -> Option<String> {
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

async fn wait(exec: Exec) -> Outcome {
    let Exec {
        process, terminal, ..
    } = exec;
    let io =
        |operation: &'static str| move |error: std::io::Error| Failure::new(format!("{operation}: {error}"));
    match terminal {
        Some(master) => relay(master).await.map_err(io("relay the terminal"))?,
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
    let code = process.wait().map_err(io("wait for the command"))?;
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}
