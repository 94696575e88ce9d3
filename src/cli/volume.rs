//! `volume …`: volumes of all stacks, and of none, by name as docker has them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::container;
use super::context::Context;
use super::failure::{Failure, Outcome};
use super::image::{agreed, has_label, not_dry, print_inspected, rfc3339, size, tree_size};
use super::network::pairs;
use super::template;
use crate::host::inventory::{all_volumes, create_volume, remove_volume};

/// `volume …`.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List volumes
    #[command(alias = "list")]
    Ls(Ls),
    /// Print all that is known of volumes
    Inspect(super::image::arguments::Inspect),
    /// Make a volume that stacks name as 'external'
    Create(Create),
    /// Remove volumes that no container has, with their data
    #[command(alias = "remove")]
    Rm(Rm),
    /// Remove volumes that no container has and that have no name, with their data
    Prune(Prune),
}

/// `volume ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// name=TEXT, label=NAME[=VALUE], driver=local, dangling=BOOL; repeat it for several
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    /// Print names only
    #[arg(short, long)]
    quiet: bool,
}

/// `volume create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Name [default: a random one]
    name: Option<String>,
    /// Driver: 'local' is the one there is
    #[arg(short, long, default_value = "local", value_name = "DRIVER")]
    driver: String,
    /// Label: NAME=VALUE, or NAME; repeat it for several
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// What is mounted for it: type=KIND, device=WHAT, o=OPTIONS; repeat it for each
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
}

/// `volume rm`.
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
    /// Those that are not there are fine
    #[arg(short, long)]
    force: bool,
}

/// `volume prune`.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Those with a name too
    #[arg(short, long)]
    all: bool,
    /// label=NAME[=VALUE], label!=NAME[=VALUE]; repeat it for several
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// A volume, and whether a container has it.
#[derive(Debug)]
pub(super) struct Seen {
    name: String,
    labels: std::collections::BTreeMap<String, String>,
    options: std::collections::BTreeMap<String, String>,
    anonymous: bool,
    created: u64,
    place: PathBuf,
    /// The containers that have it, running or not.
    users: BTreeSet<String>,
}

/// `volume …`.
pub(super) fn volume(context: &Context, verb: &Verb) -> Outcome {
    match verb {
        Verb::Ls(typed) => ls(context, typed),
        Verb::Inspect(typed) => inspect(context, typed),
        Verb::Create(typed) => create(context, typed),
        Verb::Rm(typed) => rm(context, typed),
        Verb::Prune(typed) => {
            not_dry(context, "volume prune")?;
            let list = prunable(context, &typed.filter, typed.all)?;
            let what = if typed.all {
                "This removes all volumes that no container has, with their data."
            } else {
                "This removes all volumes without a name that no container has, with their data."
            };
            if !agreed(context, typed.force, what)? {
                return Ok(ExitCode::SUCCESS);
            }
            let (removed, bytes) = remove_unused(context, &list)?;
            let text = container::said("Deleted Volumes:", &removed);
            context
                .terminal
                .out(&format!("{text}Total reclaimed space: {}\n", size(bytes)));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Every volume.
pub(super) fn seen(context: &Context) -> Result<Vec<Seen>, Failure> {
    let containers = container::all(context)?;
    let volumes = all_volumes(&context.world)?;
    let seen = volumes.into_iter().map(|(volume, place)| {
        let has = |view: &&crate::host::View| {
            let record = &view.record;
            let mut own = record.volumes.values().chain(record.anonymous.values());
            own.any(|name| *name == volume.name)
        };
        let users = containers.iter().filter(has).map(|view| view.record.name.clone());
        Seen {
            users: users.collect(),
            name: volume.name,
            labels: volume.labels,
            options: volume.options,
            anonymous: volume.anonymous,
            created: volume.created,
            place,
        }
    });
    Ok(seen.collect())
}

fn ls(context: &Context, typed: &Ls) -> Outcome {
    let mut list = seen(context)?;
    for text in &typed.filter {
        let wrong = |reason: &str| Failure::new(format!("filter {text:?}: {reason}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("it is not KEY=VALUE"))?;
        match key {
            "name" => list.retain(|volume| volume.name.contains(value)),
            "label" => list.retain(|volume| has_label(&volume.labels, value)),
            "driver" => list.retain(|_| value == "local"),
            "dangling" => match value {
                "true" | "1" => list.retain(|volume| volume.users.is_empty()),
                "false" | "0" => list.retain(|volume| !volume.users.is_empty()),
                _ => return Err(wrong("it is true or false")),
            },
            _ => return Err(wrong("the keys are name, label, driver, dangling")),
        }
    }
    if typed.quiet {
        let names: String = list.iter().map(|volume| format!("{}\n", volume.name)).collect();
        context.terminal.out(&names);
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = list
        .iter()
        .map(|volume| {
            let labels = volume
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            json!({
                "Availability": "N/A",
                "Driver": "local",
                "Group": "N/A",
                "Labels": labels.collect::<Vec<_>>().join(","),
                "Links": "N/A",
                "Mountpoint": volume.place.display().to_string(),
                "Name": volume.name,
                "Scope": "local",
                "Size": "N/A",
                "Status": "N/A",
            })
        })
        .collect();
    let columns = [("Driver", "DRIVER"), ("Name", "VOLUME NAME")];
    let text = template::list(&typed.format, &columns, &rows).map_err(Failure::new)?;
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

fn inspect(context: &Context, typed: &super::image::arguments::Inspect) -> Outcome {
    let list = seen(context)?;
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for name in &typed.names {
        let Some(volume) = list.iter().find(|volume| volume.name == *name) else {
            errors.push(format!("no such volume: {name}"));
            continue;
        };
        values.push(json!({
            "CreatedAt": rfc3339(volume.created),
            "Driver": "local",
            "Labels": volume.labels,
            "Mountpoint": volume.place,
            "Name": volume.name,
            "Options": (!volume.options.is_empty()).then_some(&volume.options),
            "Scope": "local",
        }));
    }
    print_inspected(context, &values, typed.format.as_deref())?;
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

fn create(context: &Context, typed: &Create) -> Outcome {
    not_dry(context, "volume create")?;
    if typed.driver != "local" {
        return Err(Failure::new(format!(
            "volume driver {} is not supported: there is local",
            typed.driver
        )));
    }
    let name = create_volume(
        &context.world,
        typed.name.as_deref(),
        pairs(&typed.label),
        pairs(&typed.opt),
    )?;
    context.terminal.out(&format!("{name}\n"));
    Ok(ExitCode::SUCCESS)
}

fn rm(context: &Context, typed: &Rm) -> Outcome {
    not_dry(context, "volume rm")?;
    let list = seen(context)?;
    let mut errors = Vec::new();
    for name in &typed.names {
        match list.iter().find(|volume| volume.name == *name) {
            Some(volume) if !volume.users.is_empty() => {
                let users: Vec<&str> = volume.users.iter().map(String::as_str).collect();
                errors.push(format!(
                    "remove volume {name}: it is in use by {}",
                    users.join(", ")
                ));
            }
            Some(_) => match remove_volume(&context.world, name) {
                Ok(_) => context.terminal.out(&format!("{name}\n")),
                Err(error) => errors.push(error.to_string()),
            },
            None if typed.force => context.terminal.out(&format!("{name}\n")),
            None => errors.push(format!("no such volume: {name}")),
        }
    }
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

/// Volumes that no container has and that the filters take: `label`, `label!`;
/// with `all` also those that have a name.
pub(super) fn prunable(context: &Context, filters: &[String], all: bool) -> Result<Vec<Seen>, Failure> {
    let mut list = seen(context)?;
    list.retain(|volume| volume.users.is_empty() && (all || volume.anonymous));
    for text in filters {
        match text.split_once('=') {
            Some(("label", label)) => list.retain(|volume| has_label(&volume.labels, label)),
            Some(("label!", label)) => list.retain(|volume| !has_label(&volume.labels, label)),
            _ => {
                return Err(Failure::new(format!(
                    "filter {text:?}: of volumes the keys are label, label!"
                )));
            }
        }
    }
    Ok(list)
}

/// Removes volumes; the names of those that went, and the bytes that they had.
pub(super) fn remove_unused(context: &Context, list: &[Seen]) -> Result<(Vec<String>, u64), Failure> {
    let (mut removed, mut bytes) = (Vec::new(), 0);
    for volume in list {
        let size = tree_size(&volume.place);
        match remove_volume(&context.world, &volume.name) {
            Ok(true) => {
                bytes += size;
                removed.push(volume.name.clone());
            }
            Ok(false) => {}
            Err(error) => context.terminal.warning(&error.to_string()),
        }
    }
    Ok((removed, bytes))
}
