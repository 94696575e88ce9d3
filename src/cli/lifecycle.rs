//! `down`, `stop`, `start`, `restart`, `create`, `kill`, `pause`, `unpause`,
//! `rm`, `scale`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use super::arguments::{Create, Down, Kill, Pause, Restart, Rm, Rmi, Scale, Start, Stop};
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::request::{apply, need_privilege};
use crate::image::ImageError;
use crate::plan::{self, Intent, Operation};
use crate::project::Project;
use crate::supervisor::protocol::Watching;
use crate::sys::signal;

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
        let plan = super::request::plan(context, &loaded.project, &intent)?;
        if plan.is_empty() {
            context.terminal.warning(&format!(
                "no resource found to remove for project \"{}\"",
                loaded.project.name
            ));
        }
    }
    let watch = typed.services.is_empty().then_some(Watching::Off);
    let project = loaded.project.clone();
    apply(context, loaded, intent, watch)?;
    // Of images that were built without a name there are none.
    if typed.rmi == Some(Rmi::All) && !context.global.dry_run {
        remove_images(context, &project, &typed.services)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes the images that services use; one that something else uses stays.
fn remove_images(context: &Context, project: &Project, services: &[String]) -> Result<(), Failure> {
    let store = super::image::store(context);
    let asked = |name: &String| services.is_empty() || services.contains(name);
    let images: BTreeSet<&String> = project
        .services
        .iter()
        .filter(|(name, _)| asked(name))
        .map(|(_, service)| &service.image)
        .collect();
    for image in images {
        match store.remove_image(image, false, &super::image::used(context)?) {
            Ok(_) => context.terminal.err(&format!(" Image {image}  Removed\n")),
            Err(ImageError::InUse { .. }) => {
                context
                    .terminal
                    .warning(&format!("image {image} is still in use"));
            }
            Err(ImageError::Absent { .. }) => {
                context
                    .terminal
                    .warning(&format!("no resource found to remove for image \"{image}\""));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn stop(context: &Context, typed: &Stop) -> Outcome {
    let intent = Intent::Stop {
        services: typed.services.clone(),
        timeout: seconds(typed.timeout),
    };
    run(context, &typed.services, intent)
}

pub(super) fn start(context: &Context, typed: &Start) -> Outcome {
    if let Some(limit) = typed.wait_timeout {
        super::up::alarm(context, limit);
    }
    run(
        context,
        &typed.services,
        Intent::Start {
            services: typed.services.clone(),
            wait: typed.wait,
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

pub(super) fn create(context: &Context, typed: &Create) -> Outcome {
    let intent = Intent::Up(plan::Up {
        services: typed.services.clone(),
        no_start: true,
        force_recreate: typed.force_recreate,
        no_recreate: typed.no_recreate,
        remove_orphans: typed.remove_orphans,
        scale: typed.scale.iter().cloned().collect(),
        pull: typed.pull.map(Into::into),
        ..plan::Up::default()
    });
    let context = &context.quiet_pull(typed.quiet_pull);
    bring_up(context, &typed.services, intent)
}

pub(super) fn scale(context: &Context, typed: &Scale) -> Outcome {
    let services: Vec<String> = typed.scale.iter().map(|(service, _)| service.clone()).collect();
    let intent = Intent::Up(plan::Up {
        services: services.clone(),
        no_deps: typed.no_deps,
        scale: typed.scale.iter().cloned().collect(),
        ..plan::Up::default()
    });
    bring_up(context, &services, intent)
}

/// For what needs the stack file.
fn bring_up(context: &Context, services: &[String], intent: Intent) -> Outcome {
    let loaded = context.load(services)?;
    known_services(&loaded.project, services)?;
    apply(context, loaded, intent, None)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn kill(context: &Context, typed: &Kill) -> Outcome {
    if signal::number(&typed.signal).is_none() {
        return Err(Failure::new(format!("no signal is called {:?}", typed.signal))
            .hint("give a name as signal(7) has it, SIGHUP or HUP, or a number"));
    }
    let intent = Intent::Kill {
        services: typed.services.clone(),
        signal: typed.signal.clone(),
        remove_orphans: typed.remove_orphans,
    };
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    if !context.global.dry_run && super::request::plan(context, &loaded.project, &intent)?.is_empty() {
        // As docker compose has it: it is said, and is no failure.
        context.terminal.err("no container to kill\n");
        return Ok(ExitCode::SUCCESS);
    }
    apply(context, loaded, intent, None)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pause(context: &Context, typed: &Pause) -> Outcome {
    let services = typed.services.clone();
    run(context, &typed.services, Intent::Pause { services })
}

pub(super) fn unpause(context: &Context, typed: &Pause) -> Outcome {
    let services = typed.services.clone();
    run(context, &typed.services, Intent::Unpause { services })
}

pub(super) fn rm(context: &Context, typed: &Rm) -> Outcome {
    let intent = Intent::Remove {
        services: typed.services.clone(),
        stop: typed.stop,
        volumes: typed.volumes,
    };
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let plan = super::request::plan(context, &loaded.project, &intent)?;
    let names: Vec<&str> = plan
        .actions
        .iter()
        .filter_map(|action| match &action.operation {
            Operation::RemoveContainer { container, .. } => Some(container.name.as_str()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        context.terminal.err("No stopped containers\n");
        return Ok(ExitCode::SUCCESS);
    }
    let question = format!("Going to remove {}", names.join(", "));
    if typed.force {
        context.terminal.out(&format!("{question}\n"));
    } else if !context.global.dry_run && !context.terminal.confirm(&question)? {
        return Ok(ExitCode::SUCCESS);
    }
    apply(context, loaded, intent, None)?;
    Ok(ExitCode::SUCCESS)
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
