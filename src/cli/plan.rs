//! `plan`: what `up` would do, and why. Exit status 0 when there is nothing to
//! do, 2 when there is, 1 on failure.

use std::process::ExitCode;

use super::arguments::{Plan as Typed, PlanFormat};
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::terminal::Style;
use crate::plan::render::{Kind, overview};
use crate::plan::{Intent, Plan, Up};

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
    let plan = super::request::plan(context, &loaded, &intent)?;
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
