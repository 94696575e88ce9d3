//! `history`, `diff`, `rollback`: what the stack has been brought to.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::context::{Context, Loaded};
use super::failure::{Failure, Outcome};
use super::moment;
use super::ps::ago;
use super::request::apply_as;
use super::terminal::{Style, table};
use crate::host::given;
use crate::plan::diff::{content_changes, project_changes};
use crate::plan::{Change, Intent, Up};
use crate::project::Project;
use crate::supervisor::generations::{self, Generation};
use crate::supervisor::protocol::Apply;

/// `history`.
#[derive(Debug, Args)]
pub(super) struct History {
    /// Print numbers only
    #[arg(short, long)]
    quiet: bool,
    /// 'table' or 'json'
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

/// `diff`.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// A generation [default: the newest]
    from: Option<u64>,
    /// Another one [default: the newest; with no generation at all, the stack file]
    to: Option<u64>,
    /// 'table' or 'json'
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

/// `rollback`.
#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The generation to go back to [default: the one before the newest]
    generation: Option<u64>,
    /// Seconds that containers get to stop before they are killed
    #[arg(short, long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Wait until services are running or healthy
    #[arg(long)]
    wait: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// The project's generations, oldest first.
fn list(context: &Context, project: &Project) -> Result<Vec<Generation>, Failure> {
    generations::list(&context.world, &project.name).map_err(Failure::new)
}

pub(super) fn history(context: &Context, typed: &History) -> Outcome {
    let loaded = context.load_or_recall(&[])?;
    let list = list(context, &loaded.project)?;
    if typed.quiet {
        let numbers: String = list
            .iter()
            .map(|one| format!("{}\n", one.summary.number))
            .collect();
        context.terminal.out(&numbers);
        return Ok(ExitCode::SUCCESS);
    }
    if typed.format == Format::Json {
        for one in &list {
            let line = serde_json::to_string(&one.summary).map_err(Failure::new)?;
            context.terminal.out(&format!("{line}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let nothing = Generation::default();
    let now = Duration::from_nanos(moment::now());
    let rows: Vec<Vec<String>> = list
        .iter()
        .enumerate()
        .map(|(at, one)| {
            let before = at.checked_sub(1).and_then(|at| list.get(at));
            vec![
                one.summary.number.to_string(),
                format!("{} ago", ago(now, one.summary.applied)),
                one.summary.by.clone(),
                summary(before.unwrap_or(&nothing), one),
            ]
        })
        .rev()
        .collect();
    let text = table(&["GENERATION", "APPLIED", "BY", "CHANGES"], &rows);
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

/// `+db, web: image, environment.PORT, -cache`: services that came, changed and went.
fn summary(from: &Generation, to: &Generation) -> String {
    let (old, new) = (&from.project, &to.project);
    let mut parts: Vec<String> = Vec::new();
    for name in new
        .services
        .keys()
        .filter(|name| !old.services.contains_key(*name))
    {
        parts.push(format!("+{name}"));
    }
    let mut changed: Vec<(String, Vec<String>)> = Vec::new();
    for change in changes(from, to) {
        let Some((section, rest)) = change.field.split_once('.') else {
            continue;
        };
        let (name, field) = rest.split_once('.').unwrap_or((rest, ""));
        if field.is_empty() {
            continue;
        }
        let subject = if section == "services" {
            name.to_owned()
        } else {
            format!("{section}.{name}")
        };
        match changed.last_mut().filter(|(last, _)| *last == subject) {
            Some((_, fields)) => fields.push(field.to_owned()),
            None => changed.push((subject, vec![field.to_owned()])),
        }
    }
    for (subject, fields) in changed {
        const SHOWN: usize = 3;
        let mut shown = fields.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        if fields.len() > SHOWN {
            shown.push_str(&format!(" and {} more", fields.len() - SHOWN));
        }
        parts.push(format!("{subject}: {shown}"));
    }
    for name in old
        .services
        .keys()
        .filter(|name| !new.services.contains_key(*name))
    {
        parts.push(format!("-{name}"));
    }
    parts.join("; ")
}

/// What changed from one generation to another, sorted by field.
fn changes(from: &Generation, to: &Generation) -> Vec<Change> {
    let mut found = project_changes(&from.project, &to.project);
    found.extend(content_changes(&from.contents, &to.contents, &to.project));
    found.sort_by(|a, b| a.field.cmp(&b.field));
    found
}

/// The generation of that number.
fn generation(context: &Context, project: &Project, number: u64) -> Result<Generation, Failure> {
    generations::read(&context.world, &project.name, number)
        .map_err(Failure::new)?
        .ok_or_else(|| {
            Failure::new(format!("there is no generation {number}")).hint("'rcompose history' lists them")
        })
}

fn newest(context: &Context, project: &Project) -> Result<u64, Failure> {
    generations::newest(&context.world, &project.name).ok_or_else(|| {
        Failure::new(format!("project \"{}\" has no history", project.name))
            .hint("it begins with the first 'rcompose up'")
    })
}

/// Exit status 0 when there is no difference, 2 when there is one, 1 on failure.
pub(super) fn diff(context: &Context, typed: &Diff) -> Outcome {
    let found = match typed.from {
        None => {
            let loaded = context.load(&[])?;
            let number = newest(context, &loaded.project)?;
            let old = generation(context, &loaded.project, number)?;
            let new = Generation {
                contents: given::digests(&loaded.project),
                project: (*loaded.project).clone(),
                ..Generation::default()
            };
            changes(&old, &new)
        }
        Some(from) => {
            let loaded = context.load_or_recall(&[])?;
            let to = match typed.to {
                Some(to) => to,
                None => newest(context, &loaded.project)?,
            };
            let old = generation(context, &loaded.project, from)?;
            let new = generation(context, &loaded.project, to)?;
            changes(&old, &new)
        }
    };
    let text = match typed.format {
        Format::Json => serde_json::to_string_pretty(&found).map_err(Failure::new)? + "\n",
        Format::Table => found
            .iter()
            .map(|change| line(change, context.terminal.color_out))
            .collect(),
    };
    context.terminal.out(&text);
    Ok(ExitCode::from(if found.is_empty() { 0 } else { 2 }))
}

/// `~ services.web.environment.PORT: "80" -> "81"  (compose.yaml:7:13)`.
fn line(change: &Change, colored: bool) -> String {
    let (sign, style, what) = match (change.old.as_deref(), change.new.as_deref()) {
        (None, Some(new)) => ('+', Style::Green, new.to_owned()),
        (Some(old), None) => ('-', Style::Red, old.to_owned()),
        (old, new) => {
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            ('~', Style::Yellow, format!("{old} -> {new}"))
        }
    };
    let place = change
        .origin
        .as_ref()
        .map_or_else(String::new, |origin| format!("  ({origin})"));
    let text = style.paint(&format!("{sign} {}: {what}", change.field), colored);
    format!("{text}{place}\n")
}

pub(super) fn rollback(context: &Context, typed: &Rollback) -> Outcome {
    let Loaded { project, request } = context.load_or_recall(&[])?;
    let newest = newest(context, &project)?;
    let number = match typed.generation {
        Some(number) => number,
        None => newest
            .checked_sub(1)
            .filter(|number| *number > 0)
            .ok_or_else(|| Failure::new("there is only one generation: nothing to go back to"))?,
    };
    let generation = generation(context, &project, number)?;
    let wanted = Apply {
        generation: Some(number),
        ..Apply::new(
            request,
            Intent::Up(Up {
                remove_orphans: true,
                timeout: super::lifecycle::seconds(typed.timeout),
                wait: typed.wait,
                ..Up::default()
            }),
        )
    };
    apply_as(context, &generation.project, wanted)?;
    Ok(ExitCode::SUCCESS)
}
