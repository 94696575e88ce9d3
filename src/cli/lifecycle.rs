//! `down`, `stop`, `start`, `restart`.

use std::process::ExitCode;
use std::time::Duration;

use super::arguments::{Down, Restart, Start, Stop};
use super::context::{Context, known_services};
use super::failure::Outcome;
use super::request::{apply, need_privilege};
use crate::plan::{self, Intent};
use crate::supervisor::protocol::Watching;

pub(super) fn down(context: &Context, typed: &Down) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let intent = Intent::Down(plan::Down {
        services: typed.services.clone(),
        volumes: typed.volumes,
        remove_orphans: typed.remove_orphans,
        timeout: seconds(typed.timeout),
    });
    if !context.global.dry_run {
        need_privilege()?;
        let plan = super::request::plan(context, &loaded, &intent)?;
        if plan.is_empty() {
            context.terminal.warning(&format!(
                "no resource found to remove for project \"{}\"",
                loaded.project.name
            ));
        }
    }
    let watch = typed.services.is_empty().then_some(Watching::Off);
    apply(context, loaded, intent, watch)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn stop(context: &Context, typed: &Stop) -> Outcome {
    let intent = Intent::Stop {
        services: typed.services.clone(),
        timeout: seconds(typed.timeout),
    };
    run(context, &typed.services, intent)
}

pub(super) fn start(context: &Context, typed: &Start) -> Outcome {
    run(
        context,
        &typed.services,
        Intent::Start {
            services: typed.services.clone(),
        },
    )
}

pub(super) fn restart(context: &Context, typed: &Restart) -> Outcome {
    let intent = Intent::Restart {
        services: typed.services.clone(),
        timeout: seconds(typed.timeout),
        no_deps: typed.no_deps,
    };
    run(context, &typed.services, intent)
}

fn run(context: &Context, services: &[String], intent: Intent) -> Outcome {
    let loaded = context.load_or_recall(services)?;
    known_services(&loaded.project, services)?;
    apply(context, loaded, intent, None)?;
    Ok(ExitCode::SUCCESS)
}

/// A `--timeout` as typed.
pub(super) fn seconds(typed: Option<u64>) -> Option<Duration> {
    typed.map(Duration::from_secs)
}
