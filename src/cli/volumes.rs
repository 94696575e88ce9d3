//! `volumes`: the volumes of the project.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;

use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::template::list;
use crate::host::{self, views};

/// `volumes`.
#[derive(Debug, Args)]
pub(super) struct Volumes {
    /// Only volumes that these services' containers have [default: all]
    services: Vec<String>,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
    /// 'table', 'json' (one object a line), or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
}

pub(super) fn volumes(context: &Context, typed: &Volumes) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let mut found = host::volumes(&context.world, &loaded.project.name)?;
    if !typed.services.is_empty() {
        let mut used = BTreeSet::new();
        for view in views(&context.world, &loaded.project.name)? {
            if typed.services.contains(&view.record.config.name) {
                used.extend(view.record.volumes.into_values());
                used.extend(view.record.anonymous.into_values());
            }
        }
        found.retain(|(volume, _)| used.contains(&volume.name));
    }
    if typed.quiet {
        let names: String = found
            .iter()
            .map(|(volume, _)| format!("{}\n", volume.name))
            .collect();
        context.terminal.out(&names);
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<serde_json::Value> = found
        .iter()
        .map(|(volume, place)| {
            let labels: Vec<String> = volume
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            serde_json::json!({
                "Availability": "N/A",
                "Driver": "local",
                "Group": "N/A",
                "Labels": labels.join(","),
                "Links": "N/A",
                "Mountpoint": place.display().to_string(),
                "Name": volume.name,
                "Scope": "local",
                "Size": "N/A",
                "Status": "N/A",
            })
        })
        .collect();
    let columns = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")];
    context
        .terminal
        .out(&list(&typed.format, &columns, &rows).map_err(Failure::new)?);
    Ok(ExitCode::SUCCESS)
}
