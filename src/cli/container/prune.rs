//! `container prune`, and its part of `system prune`.

use std::process::ExitCode;

use super::super::context::Context;
use super::super::failure::{Failure, Outcome};
use super::super::image::{agreed, has_label, not_dry, size, tree_size, until};
use super::arguments::Prune;
use super::{act, all, make};
use crate::host::{View, is_restarting};
use crate::plan::Verb;

pub(super) fn prune(context: &Context, typed: &Prune) -> Outcome {
    not_dry(context, "container prune")?;
    let list = prunable(context, &typed.filter)?;
    if !agreed(
        context,
        typed.force,
        "This removes all containers that do not run.",
    )? {
        return Ok(ExitCode::SUCCESS);
    }
    let (removed, bytes) = remove_stopped(context, &list)?;
    let text = said("Deleted Containers:", &removed);
    context
        .terminal
        .out(&format!("{text}Total reclaimed space: {}\n", size(bytes)));
    Ok(ExitCode::SUCCESS)
}

/// A heading and a line for each; nothing for none.
pub(in crate::cli) fn said(heading: &str, list: &[String]) -> String {
    if list.is_empty() {
        return String::new();
    }
    format!("{heading}\n{}\n\n", list.join("\n"))
}

/// Containers that do not run and that the filters take: `until`, `label`,
/// `label!`. One that waits for its restart policy counts as one that runs.
pub(in crate::cli) fn prunable(context: &Context, filters: &[String]) -> Result<Vec<View>, Failure> {
    let mut list = all(context)?;
    list.retain(|view| !view.state.is_running() && !is_restarting(&context.world, view));
    for text in filters {
        let wrong = |reason: &str| Failure::new(format!("filter {text:?}: {reason}"));
        match text.split_once('=') {
            Some(("label", label)) => list.retain(|view| has_label(&view.record.labels, label)),
            Some(("label!", label)) => list.retain(|view| !has_label(&view.record.labels, label)),
            Some(("until", value)) => {
                let until = until(value).ok_or_else(|| wrong("it is neither a duration nor a time"))?;
                list.retain(|view| view.record.created < until);
            }
            _ => return Err(wrong("the keys are until, label, label!")),
        }
    }
    Ok(list)
}

/// Removes containers; the ids of those that went, and the bytes that they had.
pub(in crate::cli) fn remove_stopped(
    context: &Context,
    list: &[View],
) -> Result<(Vec<String>, u64), Failure> {
    let sizes: Vec<u64> = list
        .iter()
        .map(|view| tree_size(&make::upper(context, view)))
        .collect();
    let verb = Verb::Remove {
        force: false,
        volumes: false,
    };
    let errors = act::each_quietly(context, list, &verb)?;
    for error in &errors {
        context.terminal.warning(error);
    }
    let left = all(context)?;
    let mut bytes = 0;
    let mut removed = Vec::new();
    for (view, size) in list.iter().zip(sizes) {
        if !left.iter().any(|other| other.record.id == view.record.id) {
            bytes += size;
            removed.push(view.record.id.clone());
        }
    }
    Ok((removed, bytes))
}
