//! `plan`: what `up` would do, and why. Exit status 0 when there is nothing to
//! do, 2 when there is, 1 on failure. `apply` runs a plan that it saved.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::arguments::{Apply, Plan as Typed, PlanFormat};
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::request::apply_as;
use super::terminal::Style;
use crate::plan::render::{Kind, overview};
use crate::plan::{Expected, Intent, Plan, Up};
use crate::project::{LoadRequest, Project};
use crate::supervisor::{digest, protocol};

pub(super) fn plan(context: &Context, typed: &Typed) -> Outcome {
    let loaded = context.load(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let intent = Intent::Up(Up {
        services: typed.services.clone(),
        remove_orphans: typed.remove_orphans,
        force_recreate: typed.force_recreate,
        scale: typed.scale.iter().cloned().collect(),
        ..Up::default()
    });
    let plan = super::request::plan(context, &loaded.project, &intent)?;
    if let Some(path) = &typed.out {
        let saved = Saved {
            version: VERSION,
            project: loaded.project.name.clone(),
            load: loaded.request.clone(),
            intent,
            expected: Expected {
                plan: plan.clone(),
                model: digest(&loaded.project),
            },
        };
        save(path, &saved).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?;
    }
    context.terminal.out(&match typed.format {
        PlanFormat::Text => text(&plan, context.terminal.color_out),
        PlanFormat::Json => serde_json::to_string_pretty(&plan).map_err(Failure::new)? + "\n",
    });
    Ok(if plan.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(2)
    })
}

/// Raised when the shape of [`Saved`] changes.
const VERSION: u32 = 1;

/// A plan in a file, with all that is needed to make it again and to run it.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    version: u32,
    project: String,
    load: Option<Box<LoadRequest>>,
    intent: Intent,
    expected: Expected,
}

/// Readable by its owner only: values of the environment are in it.
fn save(path: &Path, saved: &Saved) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    serde_json::to_writer(&mut file, saved)?;
    file.write_all(b"\n")
}

/// `apply`: runs a saved plan as it is, or not at all.
pub(super) fn apply(context: &Context, typed: &Apply) -> Outcome {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", typed.plan.display()));
    let text = std::fs::read(&typed.plan).map_err(|error| failed(&error))?;
    let saved: Saved = serde_json::from_slice(&text)
        .map_err(|error| failed(&error).hint("'rcompose plan --out FILE' writes such a file"))?;
    if saved.version != VERSION {
        return Err(failed(&"it was saved by another version of rcompose"));
    }
    let wanted = protocol::Apply {
        expected: Some(Box::new(saved.expected)),
        ..protocol::Apply::new(saved.load, saved.intent)
    };
    let project = Project {
        name: saved.project,
        ..Project::default()
    };
    if context.global.dry_run {
        let plan = wanted.expected.map(|expected| expected.plan).unwrap_or_default();
        context
            .terminal
            .out(&self::text(&plan, context.terminal.color_out));
        return Ok(ExitCode::SUCCESS);
    }
    apply_as(context, &project, wanted).map_err(|failure| {
        failure.hint("'rcompose plan --out FILE' makes another one of what is there now")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What a plan changes, for people: what is left alone is left out.
pub(super) fn changes(plan: &Plan, colored: bool) -> String {
    render(plan, colored, |kind| !matches!(kind, Kind::Hold | Kind::Summary))
}

/// A plan for people.
pub(super) fn text(plan: &Plan, colored: bool) -> String {
    render(plan, colored, |_| true)
}

fn render(plan: &Plan, colored: bool, shown: impl Fn(Kind) -> bool) -> String {
    let mut text = String::new();
    for line in overview(plan).into_iter().filter(|line| shown(line.kind)) {
        let style = match line.kind {
            Kind::Pull | Kind::Create | Kind::Start => Style::Green,
            Kind::Remove | Kind::Stop => Style::Red,
            Kind::Replace | Kind::Restart | Kind::Update | Kind::Warning => Style::Yellow,
            Kind::Hold | Kind::Wait => Style::Dim,
            Kind::Summary => Style::Bold,
        };
        text.push_str(&style.paint(&line.to_string(), colored));
        text.push('\n');
    }
    text
}
