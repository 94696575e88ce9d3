//! Asks the supervisor for something and shows what happens, to the end.

use super::context::{Context, Loaded};
use super::failure::Failure;
use super::progress::Progress;
use crate::host::observe;
use crate::plan::{self, Intent, Plan};
use crate::project::Project;
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Apply, Reply, Request, Watching};

/// Applies an intent and waits for the end. With `--dry-run`, prints what
/// would be done and does nothing.
pub(super) fn apply(
    context: &Context,
    loaded: Loaded,
    intent: Intent,
    watch: Option<Watching>,
) -> Result<(), Failure> {
    let wanted = Apply {
        watch,
        ..Apply::new(loaded.request, intent)
    };
    apply_as(context, &loaded.project, wanted)
}

/// Applies what is wanted of the stack of a project and waits for the end. With
/// `--dry-run`, prints what would be done and does nothing.
pub(super) fn apply_as(context: &Context, project: &Project, wanted: Apply) -> Result<(), Failure> {
    if context.global.dry_run {
        let plan = plan(context, project, &wanted.intent)?;
        context
            .terminal
            .out(&super::plan::text(&plan, context.terminal.color_out));
        return Ok(());
    }
    need_privilege()?;
    let mut client = Client::connect(&context.world, &project.name)?;
    if let (Some(Watching::Always), Intent::Up(up)) = (wanted.watch, &wanted.intent) {
        client.ask(&Request::Follow {
            load: None,
            services: up.services.clone(),
            always: true,
            explain: false,
        })?;
    }
    client.ask(&Request::Apply(wanted))?;
    let mut progress = Progress::new(&context.terminal);
    loop {
        let Some(reply) = client.next()? else {
            return Err(Failure::new("the supervisor ended before the command did")
                .hint("run the command again: it goes on from what is there"));
        };
        if let Some(end) = show(&mut progress, &reply) {
            return end;
        }
    }
}

/// Shows one reply of a walk; what it came to, when it was the last one.
pub(super) fn show(progress: &mut Progress<'_>, reply: &Reply) -> Option<Result<(), Failure>> {
    match reply {
        Reply::Queued => {
            progress.above(|terminal| {
                terminal.warning("another command is at work on this stack: waiting for it");
            });
        }
        Reply::Planned { plan } => {
            for warning in &plan.warnings {
                progress.above(|terminal| terminal.warning(warning));
            }
            progress.plan(plan);
        }
        Reply::Health { name, health } => progress.health(name, super::ps::health(Some(*health))),
        Reply::Progress { event } => progress.show(event),
        Reply::Done {
            errors,
            diagnostics,
            cancelled,
        } => {
            return Some(end(errors, diagnostics, *cancelled));
        }
        _ => {}
    }
    None
}

fn end(errors: &[String], diagnostics: &[crate::stack::Diagnostic], cancelled: bool) -> Result<(), Failure> {
    if !diagnostics.is_empty() {
        return Err(Failure::diagnostics(diagnostics.to_vec()));
    }
    match errors {
        [] if cancelled => Err(Failure::new("cancelled").code(130)),
        [] => Ok(()),
        several => Err(Failure::list(several)),
    }
}

/// What an intent would do, without a supervisor and without effect.
pub(super) fn plan(context: &Context, project: &Project, intent: &Intent) -> Result<Plan, Failure> {
    let observed = observe(&context.world, project)?;
    plan::plan(project, &observed, intent).map_err(Failure::new)
}

/// Refuses early, and clearly, what would fail halfway without privilege.
pub(super) fn need_privilege() -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(
        Failure::new("containers need root: this process has no permission to make namespaces and networks")
            .hint("run it with sudo; 'config', 'plan' and '--help' need no privilege"),
    )
}
