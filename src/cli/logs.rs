//! `logs`: what containers printed, merged by time; read from the store.

use std::process::ExitCode;
use std::time::Duration;

use super::arguments::Logs;
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::follow::{Follow, Painter};
use crate::host::{View, views};
use crate::monitor::log::From;

/// How often `logs -f` looks for containers that are new. What they print is
/// not polled for.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn logs(context: &Context, typed: &Logs) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let from = match typed.tail.as_str() {
        "all" | "-1" => From::Start,
        number => number.parse().map(From::Last).map_err(|_| {
            Failure::new(format!(
                "invalid --tail \"{number}\": use a number of lines, or 'all'"
            ))
        })?,
    };
    let painter = Painter::new(&context.terminal, &typed.lines, typed.timestamps, &loaded.project);
    super::block_on(show(context, typed, &loaded.project.name, from, painter))
}

async fn show(context: &Context, typed: &Logs, project: &str, from: From, painter: Painter) -> Outcome {
    let failed = |error| Failure::new(format!("read logs: {error}"));
    let mut follow = Follow::new(painter).map_err(failed)?;
    attach(context, typed, project, &mut follow, from)?;
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
                if attach(context, typed, project, &mut follow, From::Start)? == 0 {
                    // Nothing runs: nothing more will come.
                    follow.drain(|text| context.terminal.out(text));
                    return Ok(ExitCode::SUCCESS);
                }
                follow.drain(|text| context.terminal.out(text));
            }
        }
    }
}

/// Adds the containers that are wanted and there; how many of them run.
fn attach(
    context: &Context,
    typed: &Logs,
    project: &str,
    follow: &mut Follow,
    from: From,
) -> Result<usize, Failure> {
    let wanted = |view: &View| {
        (typed.services.is_empty() || typed.services.contains(&view.record.config.name))
            && typed.index.is_none_or(|index| view.record.number == index)
    };
    let mut running = 0;
    for view in views(&context.world, project)?.into_iter().filter(wanted) {
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
