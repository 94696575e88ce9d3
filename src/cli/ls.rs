//! `ls`: the projects of this world, from their containers' records.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::context::Context;
use super::failure::{Failure, Outcome};
use super::ps::Shown;
use super::terminal::table;
use crate::host::projects;

/// `ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Those of which nothing runs too
    #[arg(short, long)]
    all: bool,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// 'table' or 'json'
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: Format,
    /// Only projects that match: name=EXPRESSION; repeat it for several
    #[arg(long, value_name = "name=EXPRESSION", value_parser = filter)]
    filter: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns with a heading
    Table,
    /// One JSON array
    Json,
}

/// `name=EXPRESSION`, with the part of regular expressions that we match.
fn filter(text: &str) -> Result<String, String> {
    let Some(("name", expression)) = text.split_once('=') else {
        return Err("the only filter is name=EXPRESSION".to_owned());
    };
    match expression.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.*^$".contains(c)) {
        None => Ok(expression.to_owned()),
        Some(at) => Err(format!(
            "'{}' is not supported in a name filter: use letters, digits, '-', '_', '.', '*', '^' and '$'",
            expression
                .get(at..)
                .and_then(|rest| rest.chars().next())
                .unwrap_or('?')
        )),
    }
}

pub(super) fn ls(context: &Context, typed: &Ls) -> Outcome {
    let mut rows = Vec::new();
    for (name, views) in projects(&context.world)? {
        let wanted = typed.filter.is_empty()
            || typed
                .filter
                .iter()
                .any(|expression| matches(expression.as_bytes(), name.as_bytes()));
        let shown: Vec<Shown> = views
            .into_iter()
            .map(|view| Shown::of(&context.world, view))
            .collect();
        let status = status(&shown, typed.all);
        if !wanted || status.is_empty() {
            continue;
        }
        let files = shown.iter().find_map(|shown| {
            shown
                .view
                .record
                .labels
                .get("com.docker.compose.project.config_files")
                .filter(|files| !files.is_empty())
        });
        let files = files.map_or("N/A", String::as_str).to_owned();
        rows.push(vec![name, status, files]);
    }
    if typed.quiet {
        let names: String = rows
            .iter()
            .filter_map(|row| row.first())
            .map(|name| format!("{name}\n"))
            .collect();
        context.terminal.out(&names);
        return Ok(ExitCode::SUCCESS);
    }
    let text = match typed.format {
        Format::Table => table(&["NAME", "STATUS", "CONFIG FILES"], &rows),
        Format::Json => {
            let fields = ["Name", "Status", "ConfigFiles"];
            let objects: Vec<BTreeMap<&str, &String>> = rows
                .iter()
                .map(|row| fields.into_iter().zip(row).collect())
                .collect();
            format!("{}\n", serde_json::to_string(&objects).map_err(Failure::new)?)
        }
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

/// `exited(1), running(2)`; without `all`, empty when nothing runs.
fn status(shown: &[Shown], all: bool) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for one in shown.iter().filter(|shown| all || shown.is_up()) {
        *counts.entry(one.state()).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(state, count)| format!("{state}({count})"))
        .collect();
    parts.join(", ")
}

/// Whether an expression of plain characters, `.`, `*`, `^` and `$` is found in a text.
fn matches(expression: &[u8], text: &[u8]) -> bool {
    if let [b'^', rest @ ..] = expression {
        return here(rest, text);
    }
    (0..=text.len()).any(|start| here(expression, text.get(start..).unwrap_or_default()))
}

fn here(expression: &[u8], text: &[u8]) -> bool {
    let one = |wanted: u8| matches!(text, [first, ..] if wanted == b'.' || wanted == *first);
    match expression {
        [] => true,
        [b'$'] => text.is_empty(),
        [wanted, b'*', rest @ ..] => {
            here(rest, text) || (one(*wanted) && here(expression, text.get(1..).unwrap_or_default()))
        }
        [wanted, rest @ ..] => one(*wanted) && here(rest, text.get(1..).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_matched_as_docker_does() {
        let found = |expression: &str, text: &str| matches(expression.as_bytes(), text.as_bytes());
        for (expression, text, expected) in [
            ("shop", "my-shop-1", true),
            ("^shop", "my-shop-1", false),
            ("^my", "my-shop-1", true),
            ("1$", "my-shop-1", true),
            ("shop$", "my-shop-1", false),
            ("^my.*1$", "my-shop-1", true),
            ("", "x", true),
            ("x*y", "y", true),
            ("a.c", "abc", true),
            ("a.c", "ac", false),
        ] {
            assert_eq!(found(expression, text), expected, "{expression} in {text}");
        }
        assert!(filter("name=a+").is_err());
        assert!(filter("label=a").is_err());
        assert_eq!(filter("name=^a.*$"), Ok("^a.*$".to_owned()));
    }
}
