//! What reads of containers, or talks to their own processes: `wait`, `logs`,
//! `exec`, `top`, `stats`, `port`.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::context::Context;
use super::super::failure::{Failure, Outcome};
use super::super::follow::{Follow, Painter, Span};
use super::super::terminal::aligned;
use super::super::{
    block_on, exec as compose_exec, moment, stats as compose_stats, top as compose_top, wait as compose_wait,
};
use super::arguments::{Exec, Logs, Names, Port, Stats, Top};
use super::{all, all_named, named};
use crate::host::{View, running, views};
use crate::monitor::log::{Entry, From, Stream};
use crate::project::Protocol;
use crate::runtime::{ExecRequest, Liveness, probe};
use crate::sys::readiness::watch;

/// Statuses in the order of the names, each when its container has ended.
pub(super) fn wait(context: &Context, typed: &Names) -> Outcome {
    let list = all_named(context, &typed.names)?;
    for view in list {
        block_on(compose_wait::ends(context, vec![view], |_, code| {
            context.terminal.out(&format!("{code}\n"));
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn logs(context: &Context, typed: &Logs) -> Outcome {
    let view = named(context, &typed.name)?;
    let now = moment::now();
    let time = |text: &Option<String>| {
        let text = text.as_ref();
        text.map(|text| moment::parse(text, now).map_err(Failure::new))
            .transpose()
    };
    let span = Span {
        since: time(&typed.since)?,
        until: time(&typed.until)?,
    };
    let from = match typed.tail.as_str() {
        "all" | "-1" => span.since.map_or(From::Start, From::Since),
        number => number.parse().map(From::Last).map_err(|_| {
            Failure::new(format!(
                "invalid --tail \"{number}\": use a number of lines, or 'all'"
            ))
        })?,
    };
    let driver = view.record.config.logging.as_ref();
    if driver.is_some_and(|logging| logging.driver.as_deref() == Some("none")) {
        return Err(Failure::new(format!(
            "container {}: nothing it prints is kept (logging driver none)",
            view.record.name
        )));
    }
    block_on(show(context, &view, (from, span), typed.timestamps, typed.follow))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows what a container prints in its present run, until it ends, and ends
/// with its status.
pub(super) fn until_end(context: &Context, view: &View) -> Outcome {
    let list = views(&context.world, &view.record.project)?;
    let now = list.into_iter().find(|other| other.record.id == view.record.id);
    let Some(view) = now else {
        return Err(Failure::new(format!("container {} is gone", view.record.name)));
    };
    let started = running(&context.world, &view.record)?.map(|record| record.started_at);
    let span = Span {
        since: started,
        until: None,
    };
    block_on(show(
        context,
        &view,
        (started.map_or(From::Start, From::Since), span),
        false,
        true,
    ))?;
    let code = block_on(compose_wait::ends(context, vec![view], |_, _| {}))?;
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)))
}

/// Prints a log, each of its streams to our own; with `follow` until the
/// container ends.
async fn show(
    context: &Context,
    view: &View,
    (from, span): (From, Span),
    timestamps: bool,
    follow: bool,
) -> Result<(), Failure> {
    let failed = |error| Failure::new(format!("read {}: {error}", view.log.display()));
    let mut reader = Follow::new(Painter::plain(timestamps)).map_err(failed)?;
    reader.limit(span);
    match reader.add(&view.record.id, "", &view.log, from) {
        // It has never run.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    }
    // Found before the log is read to its present end: what is printed until
    // the container ends is not missed.
    let alive = if follow { alive(context, view)? } else { None };
    let out = Out { timestamps };
    reader.entries(|entry, fresh| out.print(entry, fresh));
    let Some(alive) = alive else { return Ok(()) };
    loop {
        let ended = tokio::select! {
            ready = reader.ready() => {
                ready.map_err(failed)?;
                false
            }
            _ = alive.readable() => true,
        };
        reader.entries(|entry, fresh| out.print(entry, fresh));
        if ended || span.until.is_some_and(|until| until < moment::now()) {
            return Ok(());
        }
    }
}

/// The monitor of the present run: readable when it has ended, and with it all
/// that it writes.
fn alive(context: &Context, view: &View) -> Result<Option<AsyncFd<OwnedFd>>, Failure> {
    let world_failed = |error: io::Error| Failure::new(format!("watch {}: {error}", view.record.name));
    let Some(record) = running(&context.world, &view.record)? else {
        return Ok(None);
    };
    match probe(&record).map_err(Failure::new)? {
        Liveness::Running { monitor, .. } => {
            let fd = monitor.as_fd().try_clone_to_owned().map_err(world_failed)?;
            Ok(Some(watch(fd, Interest::READABLE).map_err(world_failed)?))
        }
        _ => Ok(None),
    }
}

/// Prints entries of a log to the streams that they came from.
struct Out {
    timestamps: bool,
}

impl Out {
    fn print(&self, entry: &Entry, fresh: bool) {
        let mut line = Vec::with_capacity(entry.text.len() + 40);
        if fresh && self.timestamps {
            line.extend_from_slice(crate::monitor::log::format_time(entry.time).as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(&entry.text);
        if !entry.partial {
            line.push(b'\n');
        }
        // Nobody reads it any more: there is nothing else to do with it.
        let _ = match entry.stream {
            Stream::Stdout => io::stdout().write_all(&line),
            Stream::Stderr => io::stderr().write_all(&line),
        };
    }
}

pub(super) fn exec(context: &Context, typed: &Exec) -> Outcome {
    let view = named(context, &typed.name)?;
    if !view.state.is_running() {
        return Err(Failure::new(format!(
            "container {} is not running",
            view.record.name
        )));
    }
    let tty = typed.tty && !typed.detach;
    if tty && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(Failure::new("the input device is not a terminal").hint("leave out --tty"));
    }
    let mut env = Vec::new();
    for file in &typed.env_file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(format!("read {}: {error}", file.display())))?;
        // As docker: taken as it is, without quotes or interpolation.
        let lines = text.lines().map(str::trim_start);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        env.extend(lines.filter_map(compose_exec::variable));
    }
    env.extend(typed.env.iter().filter_map(|entry| compose_exec::variable(entry)));
    let request = ExecRequest {
        args: typed.command.clone(),
        env,
        cwd: typed.workdir.clone(),
        user: typed.user.clone(),
        tty,
        size: None,
        privileged: typed.privileged,
    };
    compose_exec::exec_in(context, &view, &request, typed.interactive, typed.detach)
}

pub(super) fn top(context: &Context, typed: &Top) -> Outcome {
    if !matches!(
        typed
            .options
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice(),
        [] | ["-ef"]
    ) {
        return Err(Failure::new(
            "container top takes no other options of ps than -ef: it reads the kernel, and runs no ps",
        )
        .hint(format!(
            "'rcompose container exec {} ps …' runs the container's own",
            typed.name
        )));
    }
    let view = named(context, &typed.name)?;
    let not_running = || Failure::new(format!("container {} is not running", view.record.name));
    let record = running(&context.world, &view.record)?.filter(|_| view.state.is_running());
    let record = record.ok_or_else(not_running)?;
    let host = compose_top::Host::read();
    let rows = record.fixed.cgroup.processes().into_iter();
    let rows: Vec<Vec<String>> = rows.filter_map(|pid| Some(host.process(pid)?.to_vec())).collect();
    let heading = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    context.terminal.out(&aligned(&heading, &rows, 2));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn stats(context: &Context, typed: &Stats) -> Outcome {
    // A name that nothing has is an error now, not an empty table for ever.
    all_named(context, &typed.names)?;
    compose_stats::stream(context, &typed.how, || {
        if typed.names.is_empty() {
            return all(context);
        }
        let list = all(context)?;
        let found = typed.names.iter().filter_map(|name| super::of(&list, name).ok());
        Ok(found.cloned().collect())
    })
}

pub(super) fn port(context: &Context, typed: &Port) -> Outcome {
    let view = named(context, &typed.name)?;
    let wanted = match &typed.port {
        None => None,
        Some(text) => Some(private(text)?),
    };
    let mut lines = Vec::new();
    for port in &view.ports {
        if wanted.is_some_and(|(target, protocol)| port.target != target || port.protocol != protocol) {
            continue;
        }
        let addresses = match port.host_ip {
            None => vec!["0.0.0.0".to_owned(), "[::]".to_owned()],
            Some(std::net::IpAddr::V4(ip)) => vec![ip.to_string()],
            Some(std::net::IpAddr::V6(ip)) => vec![format!("[{ip}]")],
        };
        for address in addresses {
            lines.push(match wanted {
                Some(_) => format!("{address}:{}\n", port.published),
                None => format!(
                    "{}/{} -> {address}:{}\n",
                    port.target, port.protocol, port.published
                ),
            });
        }
    }
    if let (Some((target, protocol)), true) = (wanted, lines.is_empty()) {
        return Err(Failure::new(format!(
            "no public port '{target}/{protocol}' published for {}",
            view.record.name
        )));
    }
    context.terminal.out(&lines.concat());
    Ok(ExitCode::SUCCESS)
}

/// `80`, `53/udp`.
fn private(text: &str) -> Result<(u16, Protocol), Failure> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    };
    match (port.parse(), protocol) {
        (Ok(port), Some(protocol)) => Ok((port, protocol)),
        _ => Err(Failure::new(format!(
            "{text:?} is no port: use PORT or PORT/PROTOCOL"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_does() {
        assert_eq!(private("80").unwrap(), (80, Protocol::Tcp));
        assert_eq!(private("53/UDP").unwrap(), (53, Protocol::Udp));
        for wrong in ["", "x", "80/x", "70000", "80/"] {
            assert!(private(wrong).is_err(), "{wrong}");
        }
    }
}
