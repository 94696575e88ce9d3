//! `container …`: containers of all stacks by name, as docker has them.
//!
//! A container belongs to its stack: what changes one (`start`, `stop`, `rm`, …)
//! is asked of the stack's supervisor, one request for all that are named of a
//! stack ([`act`]), and so comes in its turn among the stack's other commands.
//! The rest reads records and talks to the container's own processes. What
//! would make a container something else than its stack file says (`create`,
//! `run`, `rename`, `update`) is refused, and what serves instead is named.
//!
//! Known to be weak: containers of several stacks are acted on stack after
//! stack. `start` has no `--interactive`, `exec --tty` wants a terminal on both
//! sides, `top` takes no options of ps. A freshly started container shows
//! `/etc/hosts` and the like, where its own are mounted, in `diff`. When the
//! process that commits and the one that guards its pause are both killed, the
//! container stays frozen until `unpause`.

mod act;
pub(in crate::cli) mod arguments;
mod diff;
mod list;
mod look;
mod make;
mod prune;

use std::process::ExitCode;

pub(super) use arguments::Container;
pub(super) use make::{commit, export};
pub(super) use prune::{prunable, remove_stopped, said};

use super::context::Context;
use super::failure::{Failure, Outcome};
use crate::host::{View, views};
use crate::plan::Verb;

/// `container …`.
pub(super) fn container(context: &Context, typed: &Container) -> Outcome {
    match typed {
        Container::Ls(typed) => list::ls(context, typed),
        Container::Inspect(typed) => list::inspect(context, typed),
        Container::Start(typed) => act::start(context, typed),
        Container::Stop(typed) => act::stop(context, typed, false),
        Container::Restart(typed) => act::stop(context, typed, true),
        Container::Kill(typed) => act::kill(context, typed),
        Container::Pause(typed) => act::pause(context, &typed.names, &Verb::Pause),
        Container::Unpause(typed) if typed.when_input_ends => {
            make::unpause_when_input_ends(context, &typed.names.names)
        }
        Container::Unpause(typed) => act::pause(context, &typed.names.names, &Verb::Unpause),
        Container::Rm(typed) => act::rm(context, typed),
        Container::Prune(typed) => prune::prune(context, typed),
        Container::Wait(typed) => look::wait(context, typed),
        Container::Logs(typed) => look::logs(context, typed),
        Container::Attach(typed) => {
            let view = named(context, &typed.name)?;
            super::attach::attach_to(context, &view, &typed.how)
        }
        Container::Exec(typed) => look::exec(context, typed),
        Container::Top(typed) => look::top(context, typed),
        Container::Stats(typed) => look::stats(context, typed),
        Container::Port(typed) => look::port(context, typed),
        Container::Cp(typed) => super::cp::cp_named(
            context,
            (&typed.source, &typed.destination),
            &typed.how,
            typed.quiet,
            |name| named(context, name),
        ),
        Container::Diff { name } => {
            let view = named(context, name)?;
            context.terminal.out(&diff::diff(context, &view)?);
            Ok(ExitCode::SUCCESS)
        }
        Container::Export { name, output } => {
            let view = named(context, name)?;
            make::export_view(context, &view, output.as_deref())
        }
        Container::Commit {
            name,
            reference,
            authored,
        } => {
            let view = named(context, name)?;
            make::commit_view(context, &view, reference.as_deref(), authored)
        }
        Container::Create(_) => Err(refused("create", "a container is made by its stack").hint(
            "write a stack file, then 'rcompose create' makes its containers and 'rcompose up' starts them",
        )),
        Container::Run(_) => Err(refused("run", "a container is made by its stack").hint(
            "write a stack file: 'rcompose run SERVICE COMMAND' runs something in a container of its own",
        )),
        Container::Rename(_) => Err(
            refused("rename", "a container has the name that its stack gives it")
                .hint("set 'container_name' in the stack file, then 'rcompose up'"),
        ),
        Container::Update(_) => Err(
            refused("update", "a container has the limits that its stack gives it")
                .hint("change them in the stack file, then 'rcompose up'"),
        ),
    }
}

fn refused(verb: &str, reason: &str) -> Failure {
    Failure::new(format!("container {verb} is not supported: {reason}"))
}

/// Every container of every stack.
pub(super) fn all(context: &Context) -> Result<Vec<View>, Failure> {
    let entries = std::fs::read_dir(context.world.stacks())
        .into_iter()
        .flatten()
        .flatten();
    let mut projects: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    projects.sort();
    let mut list = Vec::new();
    for project in projects {
        list.extend(views(&context.world, &project)?);
    }
    Ok(list)
}

/// The container of a name, an id, or the first digits of one.
pub(super) fn named(context: &Context, name: &str) -> Result<View, Failure> {
    of(&all(context)?, name).cloned().map_err(Failure::new)
}

/// The same of several, in their order.
fn all_named(context: &Context, names: &[String]) -> Result<Vec<View>, Failure> {
    let list = all(context)?;
    let found = names.iter().map(|name| of(&list, name).cloned());
    found.collect::<Result<_, _>>().map_err(Failure::new)
}

/// The container that a name means, of these.
fn of<'a>(list: &'a [View], name: &str) -> Result<&'a View, String> {
    // As docker prints names in places.
    let plain = name.strip_prefix('/').unwrap_or(name);
    if let Some(view) = list
        .iter()
        .find(|view| view.record.name == plain || view.record.id == name)
    {
        return Ok(view);
    }
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut found = list
        .iter()
        .filter(|view| digits && view.record.id.starts_with(name));
    match (found.next(), found.next()) {
        (Some(view), None) => Ok(view),
        (Some(_), Some(_)) => Err(format!("several containers have an id that starts with {name}")),
        (None, _) => Err(format!("no such container: {name}")),
    }
}
