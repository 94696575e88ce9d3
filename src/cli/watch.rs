//! `watch`: brings changed sources to running containers, and says so.

use std::process::ExitCode;

use clap::Args;

use super::context::{Context, Loaded, known_services};
use super::failure::{Failure, Outcome};
use super::progress::Progress;
use super::request::{need_privilege, show};
use super::terminal::{Style, Terminal};
use crate::plan::{self, Intent};
use crate::supervisor::client::Client;
use crate::supervisor::protocol::{Apply, Reply, Request, Watching};
use crate::supervisor::sources;

/// `watch`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(super) struct Watch {
    /// Services whose sources are followed, with what they depend on [default: all]
    services: Vec<String>,
    /// Do not bring the services up first
    #[arg(long)]
    no_up: bool,
    /// Remove images that a rebuild has left without a name (no rule can rebuild yet)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set, hide_default_value = true)]
    prune: bool,
    /// Print only what goes wrong
    #[arg(long)]
    quiet: bool,
    /// Say of every file which rule took it, or why none did
    #[arg(long, conflicts_with = "quiet")]
    explain: bool,
}

pub(super) fn watch(context: &Context, typed: &Watch) -> Outcome {
    let loaded = context.load(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let followed = followed(context, &loaded, &typed.services)?;
    if context.global.dry_run {
        for line in followed {
            context.terminal.out(&format!("{line}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    need_privilege()?;
    let mut client = Client::connect(&context.world, &loaded.project.name)?;
    if !typed.no_up {
        let intent = Intent::Up(plan::Up {
            services: typed.services.clone(),
            ..plan::Up::default()
        });
        client.ask(&Request::Apply(Apply {
            watch: Some(Watching::Session),
            session: true,
            ..Apply::new(loaded.request.clone(), intent)
        }))?;
    }
    let follow = Request::Follow {
        load: loaded.request,
        services: typed.services.clone(),
        always: false,
        explain: typed.explain,
    };
    let mut progress = Progress::new(&context.terminal);
    let mut up = typed.no_up;
    if up {
        client.ask(&follow)?;
    }
    loop {
        let Some(reply) = client.next()? else {
            return Err(Failure::new("the supervisor ended; the containers go on")
                .hint("run 'rcompose watch' again to go on where it stopped"));
        };
        if let Reply::NotFollowing { reason } = &reply {
            return Err(Failure::new(format!("sources cannot be followed: {reason}")));
        }
        match say(&reply, typed.quiet, context.terminal.color_err) {
            Some(text) => progress.above(|terminal| terminal.err(&text)),
            None => {
                if let Some(end) = show(&mut progress, &reply) {
                    end?;
                    progress.settle();
                    if !up {
                        up = true;
                        client.ask(&follow)?;
                    }
                }
                if let Reply::Reloaded { errors, diagnostics } = &reply {
                    progress.settle();
                    reloaded(&context.terminal, errors, diagnostics);
                }
            }
        }
    }
}

fn reloaded(terminal: &Terminal, errors: &[String], diagnostics: &[crate::stack::Diagnostic]) {
    for diagnostic in diagnostics {
        terminal.err(&diagnostic.render(terminal.color_err));
    }
    for error in errors {
        terminal.error(error, &[]);
    }
}

/// What is followed, one line a rule.
///
/// # Errors
/// When no chosen service has a rule.
pub(super) fn followed(
    context: &Context,
    loaded: &Loaded,
    services: &[String],
) -> Result<Vec<String>, Failure> {
    let (lines, warnings) = sources::outline(&loaded.project, services);
    for warning in &warnings {
        context.terminal.warning(warning);
    }
    if lines.is_empty() && warnings.is_empty() {
        return Err(Failure::new(
            "none of the selected services is configured for watch, consider setting a 'develop' section",
        ));
    }
    Ok(lines)
}

/// What to print of a reply about sources; `None` when it is about something
/// else. With `quiet`, only what goes wrong.
pub(super) fn say(reply: &Reply, quiet: bool, color: bool) -> Option<String> {
    let mark = Style::Blue.paint("⦿", color);
    let wrong = |errors: &[String]| -> String {
        let label = Style::Red.paint("error:", color);
        errors.iter().map(|error| format!("{label} {error}\n")).collect()
    };
    let mut text = String::new();
    match reply {
        Reply::Following {
            services,
            warnings: _,
        } => {
            if !quiet {
                text = format!("{mark} Watch enabled for {}\n", services.join(", "));
            }
        }
        Reply::NotFollowing { reason } => {
            text = wrong(&[format!("sources are not followed: {reason}")]);
        }
        Reply::Synced {
            service,
            rule,
            action,
            containers: _,
            copied,
            removed,
            files,
            errors,
        } => {
            if !quiet && copied + removed > 0 {
                text = format!(
                    "{mark} {service}: {action} (rule {rule}): {}\n",
                    amount(*copied, *removed, action)
                );
                for (here, there) in files {
                    text += &match there {
                        Some(there) => format!("    {} -> {}\n", here.display(), there.display()),
                        None => format!("    {}\n", here.display()),
                    };
                }
                let more = (copied + removed).saturating_sub(files.len());
                if more > 0 {
                    text += &format!("    and {more} more\n");
                }
            }
            text += &wrong(errors);
        }
        Reply::SyncEnded {
            services,
            action,
            errors,
        } => {
            if !quiet && errors.is_empty() {
                let done = if action == "restart" {
                    "restarted"
                } else {
                    "command run"
                };
                text = format!("{mark} {}: {done}\n", services.join(", "));
            }
            text += &wrong(errors);
        }
        Reply::Passed {
            path,
            service,
            rule,
            reason,
        } => {
            if !quiet {
                text = format!(
                    "{mark} {service}: rule {rule} does not take {} ({reason})\n",
                    path.display()
                );
            }
        }
        _ => return None,
    }
    Some(text)
}

fn amount(copied: usize, removed: usize, action: &str) -> String {
    let verb = if action == "restart" { "changed" } else { "copied" };
    match (copied, removed) {
        (copied, 0) => format!("{copied} {verb}"),
        (0, removed) => format!("{removed} removed"),
        (copied, removed) => format!("{copied} {verb}, {removed} removed"),
    }
}
