//! `explain`: a value of the stack, where it is written, and what overrode what.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::arguments::{Explain, ExplainFormat};
use super::context::Context;
use super::failure::{Failure, Outcome};
use super::terminal::Style;
use crate::project::provenance::{self, PathError, Provenance};
use crate::project::{Rules, load_model};
use crate::stack::DiskFiles;

/// Values inside of a collection that are listed before it is said that there are more.
const MOST: usize = 200;

pub(super) fn explain(context: &Context, typed: &Explain) -> Outcome {
    let request = context.request(&[])?;
    let rules = Rules {
        trace: true,
        all_resources: true,
        ..Rules::default()
    };
    let (model, _) =
        load_model(&request, rules, &DiskFiles).map_err(|failure| context.refused(failure.diagnostics))?;
    let (value, inside) = provenance::find(&model, &typed.path).map_err(|error| not_there(&error))?;
    let text = match typed.format {
        ExplainFormat::Text => describe(&value, &inside, context.terminal.color_out)?,
        ExplainFormat::Json => {
            let all: Vec<&Provenance> = std::iter::once(&value).chain(&inside).collect();
            serde_json::to_string_pretty(&all).map_err(Failure::new)? + "\n"
        }
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

fn not_there(error: &PathError) -> Failure {
    let failure = Failure::new(error);
    match error {
        PathError::Unknown { near: Some(near), .. } => failure.hint(format!("did you mean '{near}'?")),
        PathError::Unknown { known, .. } if !known.is_empty() => {
            failure.hint(format!("there are: {}", known.join(", ")))
        }
        PathError::Unknown { .. } => failure,
        PathError::NotSet { about, .. } => failure.hint(format!("it would be: {about}")),
    }
}

fn describe(value: &Provenance, inside: &[Provenance], coloured: bool) -> Result<String, Failure> {
    let yaml = serde_yaml::to_string(&value.value).map_err(Failure::new)?;
    let mut out = String::new();
    let head = Style::Bold.paint(&value.path, coloured);
    if yaml.lines().count() > 1 {
        let _ = writeln!(out, "{head}:");
        for line in yaml.lines() {
            let _ = writeln!(out, "  {line}");
        }
    } else {
        let _ = writeln!(out, "{head}: {}", yaml.trim_end());
    }
    if let Some(origin) = &value.origin {
        let number = origin.line.to_string();
        let margin = " ".repeat(number.len() + 1);
        let arrow = Style::Blue.paint("-->", coloured);
        let bar = Style::Blue.paint("|", coloured);
        let _ = writeln!(out, "{margin}{arrow} {origin}");
        if let Some(line) = &value.source_line {
            let line: String = line
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            let _ = writeln!(out, "{margin} {bar}\n {number} {bar} {line}\n{margin} {bar}");
        }
    } else if value.path.is_empty() {
        // The whole stack.
    } else {
        let _ = writeln!(out, "  written nowhere: a default, or implied");
    }
    for step in &value.way {
        let _ = writeln!(out, "  {step}");
    }
    for variable in &value.variables {
        let _ = writeln!(out, "  variable {}", provenance::describe_variable(variable));
    }
    for replaced in &value.replaced {
        let origin = replaced.origin.as_ref().map(|origin| format!(" of {origin}"));
        let _ = writeln!(
            out,
            "  replaces {:?}{}",
            replaced.value,
            origin.unwrap_or_default()
        );
    }
    if !inside.is_empty() {
        let _ = writeln!(out, "  its values:");
        let width = inside
            .iter()
            .take(MOST)
            .map(|leaf| leaf.path.len())
            .max()
            .unwrap_or(0);
        for leaf in inside.iter().take(MOST) {
            let _ = writeln!(out, "    {:width$}  {}", leaf.path, leaf.describe());
        }
        if inside.len() > MOST {
            let _ = writeln!(
                out,
                "    and {} more: name one, or use --format json",
                inside.len() - MOST
            );
        }
    }
    Ok(out)
}
