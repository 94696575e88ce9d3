//! `version`.

use std::process::ExitCode;

use super::arguments::{Version, VersionFormat};
use super::context::Context;
use super::failure::Outcome;

pub(super) fn version(context: &Context, typed: &Version) -> Outcome {
    let number = env!("CARGO_PKG_VERSION");
    context.terminal.out(&match (typed.short, typed.format) {
        (true, _) => format!("{number}\n"),
        (false, VersionFormat::Pretty) => format!("rcompose version v{number}\n"),
        (false, VersionFormat::Json) => format!("{{\"version\":\"v{number}\"}}\n"),
    });
    Ok(ExitCode::SUCCESS)
}
