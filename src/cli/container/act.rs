//! What changes containers: `start`, `stop`, `restart`, `kill`, `pause`,
//! `unpause`, `rm`.
//!
//! As docker: each container stands for itself. Those that cannot be acted on
//! are told, with exit status 1, and the others are acted on all the same; the
//! name of each, as typed, is printed when it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Duration;

use super::super::context::Context;
use super::super::failure::{Failure, Outcome};
use super::super::request::{need_privilege, plan};
use super::arguments::{Kill, Rm, Start, Stop};
use super::{all, look, of};
use crate::host::{View, recall};
use crate::plan::{Intent, Verb};
use crate::reconcile::{Event, Phase};
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Apply, Reply, Request};
use crate::sys::signal;

/// As long as it takes: longer than any machine runs.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

pub(super) fn start(context: &Context, typed: &Start) -> Outcome {
    if !typed.attach {
        return each(context, &typed.names.names, &Verb::Start, |_| Ok(()));
    }
    let [name] = typed.names.names.as_slice() else {
        return Err(Failure::new("only one container can be attached to at once"));
    };
    let view = super::named(context, name)?;
    let code = each_quietly(context, std::slice::from_ref(&view), &Verb::Start)?;
    if let Some(error) = code.into_iter().next() {
        return Err(Failure::new(error));
    }
    look::until_end(context, &view)
}

pub(super) fn stop(context: &Context, typed: &Stop, again: bool) -> Outcome {
    let timeout = match typed.timeout {
        None => None,
        Some(-1) => Some(FOREVER),
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                return Err(Failure::new(format!(
                    "timeout {seconds}: it is a number of seconds, or -1 for as long as it takes"
                )));
            }
        },
    };
    if let Some(name) = &typed.signal {
        known_signal(name)?;
    }
    let signal = typed.signal.clone();
    let verb = if again {
        Verb::Restart { timeout, signal }
    } else {
        Verb::Stop { timeout, signal }
    };
    each(context, &typed.names.names, &verb, |_| Ok(()))
}

pub(super) fn kill(context: &Context, typed: &Kill) -> Outcome {
    known_signal(&typed.signal)?;
    let verb = Verb::Kill {
        signal: typed.signal.clone(),
    };
    each(context, &typed.names.names, &verb, runs)
}

fn known_signal(name: &str) -> Result<(), Failure> {
    if signal::number(name).is_none() {
        return Err(Failure::new(format!("no signal is called {name:?}"))
            .hint("give a name as signal(7) has it, SIGHUP or HUP, or a number"));
    }
    Ok(())
}

fn runs(view: &View) -> Result<(), String> {
    if view.state.is_running() {
        return Ok(());
    }
    Err(format!("container {} is not running", view.record.name))
}

pub(super) fn pause(context: &Context, names: &[String], verb: &Verb) -> Outcome {
    each(context, names, verb, |view| {
        runs(view)?;
        match (verb, view.state.is_paused()) {
            (Verb::Pause, true) => Err(format!("container {} is paused already", view.record.name)),
            (Verb::Unpause, false) => Err(format!("container {} is not paused", view.record.name)),
            _ => Ok(()),
        }
    })
}

pub(super) fn rm(context: &Context, typed: &Rm) -> Outcome {
    let verb = Verb::Remove {
        force: typed.force,
        volumes: typed.volumes,
    };
    each(context, &typed.names.names, &verb, |view| {
        if !typed.force && view.state.is_running() {
            return Err(format!(
                "cannot remove container {}: it is running: stop it before, or use --force",
                view.record.name
            ));
        }
        Ok(())
    })
}

/// Does something to each container that `allowed` lets pass.
fn each(
    context: &Context,
    names: &[String],
    verb: &Verb,
    allowed: impl Fn(&View) -> Result<(), String>,
) -> Outcome {
    let list = all(context)?;
    let mut errors = Vec::new();
    let mut absent = Vec::new();
    // By container: how it was named.
    let mut wanted: Vec<(&View, &String)> = Vec::new();
    for name in names {
        match of(&list, name) {
            Ok(view) => match allowed(view) {
                Ok(()) => wanted.push((view, name)),
                Err(error) => errors.push(error),
            },
            // What is to be gone and is not there is as asked.
            Err(error) if matches!(verb, Verb::Remove { force: true, .. }) => absent.push(error),
            Err(error) => errors.push(error),
        }
    }
    for error in absent {
        context.terminal.warning(&error);
    }
    let views: Vec<View> = wanted.iter().map(|(view, _)| (*view).clone()).collect();
    let (failed, more) = act(context, &views, verb)?;
    if !context.global.dry_run {
        let done = wanted
            .iter()
            .filter(|(view, _)| !failed.contains(&view.record.name));
        let text: String = done.map(|(_, name)| format!("{name}\n")).collect();
        context.terminal.out(&text);
    }
    errors.extend(more);
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

/// Does something to containers, and prints nothing of it; what went wrong.
pub(super) fn each_quietly(context: &Context, views: &[View], verb: &Verb) -> Result<Vec<String>, Failure> {
    Ok(act(context, views, verb)?.1)
}

/// Asks the supervisors of the stacks that these containers are of, one after
/// the other; the names of those that failed, and why.
fn act(context: &Context, views: &[View], verb: &Verb) -> Result<(BTreeSet<String>, Vec<String>), Failure> {
    let mut by_project: BTreeMap<&str, Vec<&View>> = BTreeMap::new();
    for view in views {
        by_project.entry(&view.record.project).or_default().push(view);
    }
    let (mut failed, mut errors) = (BTreeSet::new(), Vec::new());
    for (project, views) in by_project {
        let intent = Intent::Containers {
            ids: views.iter().map(|view| view.record.id.clone()).collect(),
            verb: verb.clone(),
        };
        if context.global.dry_run {
            let recalled = recall(&context.world, project)?;
            let plan = plan(context, &recalled, &intent)?;
            context
                .terminal
                .out(&super::super::plan::text(&plan, context.terminal.color_out));
            continue;
        }
        need_privilege()?;
        let names: BTreeSet<&str> = views.iter().map(|view| view.record.name.as_str()).collect();
        if let Err(more) = ask(context, project, intent, &mut failed) {
            // Without an action that failed, none was begun.
            if !names.iter().any(|name| failed.contains(*name)) {
                failed.extend(names.into_iter().map(str::to_owned));
            }
            errors.extend(more);
        }
    }
    Ok((failed, errors))
}

/// One request to its end.
fn ask(
    context: &Context,
    project: &str,
    intent: Intent,
    failed: &mut BTreeSet<String>,
) -> Result<(), Vec<String>> {
    let gone = |error: crate::supervisor::client::ClientError| vec![error.to_string()];
    let mut client = Client::connect(&context.world, project).map_err(gone)?;
    let request = Request::Apply(Apply::new(None, intent));
    client.ask(&request).map_err(gone)?;
    loop {
        match client.next().map_err(gone)? {
            None => {
                return Err(vec![format!(
                    "the supervisor of {project} ended before the command did"
                )]);
            }
            Some(Reply::Planned { plan }) => {
                for warning in &plan.warnings {
                    context.terminal.warning(warning);
                }
            }
            Some(Reply::Progress {
                event:
                    Event::Action {
                        resource,
                        phase: Phase::Failed { .. } | Phase::Cancelled,
                        ..
                    },
            }) => {
                let name = resource.strip_prefix("Container ").unwrap_or(&resource);
                failed.insert(name.to_owned());
            }
            Some(Reply::Progress {
                event: Event::Warning { text },
            }) => context.terminal.warning(&text),
            Some(Reply::Done {
                errors, cancelled, ..
            }) => {
                return match errors.is_empty() {
                    true if cancelled => Err(vec!["cancelled".to_owned()]),
                    true => Ok(()),
                    false => Err(errors),
                };
            }
            Some(_) => {}
        }
    }
}
