//! `logs`: what containers printed, merged by time; read from the store.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::arguments::Lines;
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::follow::{Follow, Painter, Span};
use super::moment;
use crate::host::{View, replicas};
use crate::monitor::log::From;

/// How often `logs -f` looks for containers that are new. What they print is
/// not polled for.
const LOOK: Duration = Duration::from_millis(500);

/// `logs`.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Services to show [default: all]
    services: Vec<String>,
    /// Go on as more is printed
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only the last lines of each container: a number, or 'all'
    #[arg(short = 'n', long, default_value = "all", value_name = "LINES")]
    tail: String,
    /// Only what was printed since: 10m, 2026-11-20T15:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// Only what was printed before: 10m, 2026-11-20T15:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Show when each line was printed
    #[arg(short, long)]
    timestamps: bool,
    /// Only the container with this number
    #[arg(long, value_name = "NUMBER")]
    index: Option<u32>,
    #[command(flatten)]
    lines: Lines,
}

pub(super) fn logs(context: &Context, typed: &Logs) -> Outcome {
    let now = moment::now();
    let time = |text: &Option<String>| {
        text.as_ref()
            .map(|text| moment::parse(text, now).map_err(Failure::new))
            .transpose()
    };
    let span = Span {
        since: time(&typed.since)?,
        until: time(&typed.until)?,
    };
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    if let (Some(index), [service]) = (typed.index.filter(|index| *index > 0), &typed.services[..])
        && !replicas(&context.world, &loaded.project.name)?
            .iter()
            .any(|view| wanted(typed, view))
    {
        return Err(Failure::new(format!(
            "service \"{service}\" has no container #{index}"
        )));
    }
    let from = match typed.tail.as_str() {
        "all" | "-1" => span.since.map_or(From::Start, From::Since),
        number => number.parse().map(From::Last).map_err(|_| {
            Failure::new(format!(
                "invalid --tail \"{number}\": use a number of lines, or 'all'"
            ))
        })?,
    };
    let painter = Painter::new(&context.terminal, &typed.lines, typed.timestamps, &loaded.project);
    super::block_on(show(context, typed, &loaded.project.name, (from, span), painter))
}

async fn show(
    context: &Context,
    typed: &Logs,
    project: &str,
    (from, span): (From, Span),
    painter: Painter,
) -> Outcome {
    let failed = |error| Failure::new(format!("read logs: {error}"));
    let mut follow = Follow::new(painter).map_err(failed)?;
    follow.limit(span);
    attach(context, typed, project, &mut follow, from)?;
    tell_unkept(context, typed, project)?;
    follow.drain_by_time(&context.terminal);
    if !typed.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        tokio::select! {
            ready = follow.ready() => {
                ready.map_err(failed)?;
                follow.drain(|text| context.terminal.out(text));
            }
            () = tokio::time::sleep(LOOK) => {
                let running = attach(context, typed, project, &mut follow, From::Start)?;
                follow.drain(|text| context.terminal.out(text));
                // Nothing runs, or the time is over: nothing more will come.
                if running == 0 || span.until.is_some_and(|until| until < moment::now()) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}

/// Whether a container's lines are shown.
fn wanted(typed: &Logs, view: &View) -> bool {
    (typed.services.is_empty() || typed.services.contains(&view.record.config.name))
        && typed
            .index
            .is_none_or(|index| index == 0 || view.record.number == index)
}

/// Says of which containers nothing is kept.
fn tell_unkept(context: &Context, typed: &Logs, project: &str) -> Result<(), Failure> {
    for view in replicas(&context.world, project)? {
        let logging = view.record.config.logging.as_ref();
        if wanted(typed, &view) && logging.is_some_and(|logging| logging.driver.as_deref() == Some("none")) {
            let name = &view.record.name;
            context.terminal.err(&format!(
                "container {name}: nothing it prints is kept (logging driver none)\n"
            ));
        }
    }
    Ok(())
}

/// Adds the containers that are wanted and there; how many of them run.
fn attach(
    context: &Context,
    typed: &Logs,
    project: &str,
    follow: &mut Follow,
    from: From,
) -> Result<usize, Failure> {
    let mut running = 0;
    for view in replicas(&context.world, project)? {
        if !wanted(typed, &view) {
            continue;
        }
        running += usize::from(view.state.is_running());
        let label = view
            .record
            .name
            .strip_prefix(&format!("{project}-"))
            .unwrap_or(&view.record.name);
        match follow.add(&view.record.id, label, &view.log, from) {
            // It has never run.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(|error| Failure::new(format!("read {}: {error}", view.log.display())))?,
        }
    }
    Ok(running)
}
