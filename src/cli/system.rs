//! `system …`: what takes room on the disk, and making some.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::container::{self, prunable, remove_stopped, said};
use super::context::Context;
use super::failure::{Failure, Outcome};
use super::image::arguments::Prune as ImagePrune;
use super::image::{agreed, familiar, not_dry, pruned, short_id, size, store, told, tree_size};
use super::template;
use super::{network, volume};

/// `system …`.
#[derive(Debug, Subcommand)]
pub(super) enum System {
    /// Show what takes how much of the disk
    Df(Df),
    /// Remove containers that do not run, networks and images that nobody uses, and what killed processes left
    Prune(Prune),
    /// Have the stacks come back when the machine does: writes and enables a systemd unit
    Install(super::boot::Install),
    /// Take that back
    Uninstall(super::boot::Uninstall),
    /// Start what the restart policies want after a boot
    #[command(hide = true)]
    Resume,
}

/// `system df`.
#[derive(Debug, Args)]
pub(super) struct Df {
    /// 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    /// Each image and container
    #[arg(short, long)]
    verbose: bool,
}

/// `system prune`.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Every image that no container is made from, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// until=DURATION|TIME, label=NAME[=VALUE], label!=NAME[=VALUE]; repeat it for several
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Volumes without a name that no container has too
    #[arg(long)]
    volumes: bool,
}

/// `system …`.
pub(super) fn system(context: &Context, typed: &System) -> Outcome {
    match typed {
        System::Install(typed) => super::boot::install(context, typed),
        System::Uninstall(typed) => super::boot::uninstall(context, typed),
        System::Resume => super::boot::resume(context),
        System::Df(typed) => df(context, typed),
        System::Prune(typed) => prune(context, typed),
    }
}

/// As docker: containers first, so that what only they used goes too.
fn prune(context: &Context, typed: &Prune) -> Outcome {
    not_dry(context, "system prune")?;
    let until = typed.filter.iter().any(|text| text.starts_with("until="));
    if until && typed.volumes {
        return Err(Failure::new(
            "the filter until does not go with --volumes: it would not be heeded",
        ));
    }
    let labels: Vec<String> = typed
        .filter
        .iter()
        .filter(|text| text.starts_with("label"))
        .cloned()
        .collect();
    // What is wrong with a filter is told before anything is asked.
    prunable(context, &typed.filter)?;
    let mut what = vec!["all containers that do not run"];
    // When a network was made is not kept.
    what.extend((!until).then_some("all networks that nobody is on"));
    what.extend(
        typed
            .volumes
            .then_some("all volumes without a name that no container has"),
    );
    what.push(if typed.all {
        "all images that no container is made from"
    } else {
        "all images that have no name and that no container is made from"
    });
    what.push("what killed processes left of downloads");
    let question = format!("This removes:\n  - {}", what.join("\n  - "));
    if !agreed(context, typed.force, &question)? {
        return Ok(ExitCode::SUCCESS);
    }
    let (containers, mut bytes) = remove_stopped(context, &prunable(context, &typed.filter)?)?;
    context.terminal.out(&said("Deleted Containers:", &containers));
    if !until {
        let list = network::prunable(context, &labels)?;
        let networks = network::remove_unused(context, &list)?;
        context.terminal.out(&said("Deleted Networks:", &networks));
    }
    if typed.volumes {
        let list = volume::prunable(context, &labels, false)?;
        let (volumes, freed) = volume::remove_unused(context, &list)?;
        bytes += freed;
        context.terminal.out(&said("Deleted Volumes:", &volumes));
    }
    let images = pruned(
        context,
        &ImagePrune {
            all: typed.all,
            filter: typed.filter.clone(),
            force: true,
        },
    )?;
    context.terminal.out(&told(&images, bytes));
    Ok(ExitCode::SUCCESS)
}

fn df(context: &Context, typed: &Df) -> Outcome {
    let store = store(context);
    let images = store.summaries()?;
    let usage = store.usage()?;
    let containers = container::all(context)?;
    let used = |image: &crate::image::Summary| {
        let mut of_containers = containers.iter().flat_map(|view| view.record.images_used());
        of_containers.any(|id| *id == image.id)
    };
    let active = images.iter().filter(|image| used(image)).count();
    // What stays when all images go that are not used: layers are shared.
    let mut kept = std::collections::BTreeMap::new();
    let mut kept_packed = 0;
    for image in images.iter().filter(|image| used(image)) {
        kept_packed += image.packed;
        let layers = store.details(&image.id)?.layers;
        kept.extend(layers.into_iter().map(|layer| (layer.folder, layer.bytes)));
    }
    let unused = (usage.layers + usage.packed).saturating_sub(kept.values().sum::<u64>() + kept_packed);
    let writable = |view: &crate::host::View| {
        let paths = context.world.container(&view.record.project, &view.record.id);
        tree_size(&paths.state)
    };
    let running = containers.iter().filter(|view| view.state.is_running()).count();
    let sizes: Vec<u64> = containers.iter().map(writable).collect();
    let stopped: u64 = containers
        .iter()
        .zip(&sizes)
        .filter(|(view, _)| !view.state.is_running())
        .map(|(_, size)| size)
        .sum();
    let volumes = volumes(&context.world.volumes());
    let mounted: BTreeSet<&String> = containers
        .iter()
        .flat_map(|view| view.record.volumes.values().chain(view.record.anonymous.values()))
        .collect();
    let idle: u64 = volumes
        .iter()
        .filter(|(name, _)| !mounted.contains(name))
        .map(|(_, size)| size)
        .sum();
    let row = |kind: &str, total: usize, active: usize, bytes: u64, free: u64| {
        let percent = (free.min(bytes) * 100).checked_div(bytes).unwrap_or(0);
        json!({
            "Type": kind,
            "TotalCount": total.to_string(),
            "Active": active.to_string(),
            "Size": size(bytes),
            "Reclaimable": format!("{} ({percent}%)", size(free.min(bytes))),
        })
    };
    let rows = [
        row(
            "Images",
            images.len(),
            active,
            usage.layers + usage.packed,
            unused + usage.leftovers,
        ),
        row(
            "Containers",
            containers.len(),
            running,
            sizes.iter().sum(),
            stopped,
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(|(name, _)| mounted.contains(name)).count(),
            volumes.iter().map(|(_, size)| size).sum(),
            idle,
        ),
    ];
    let columns = [
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ];
    if !typed.verbose {
        let text = template::list(&typed.format, &columns, &rows).map_err(Failure::new)?;
        context.terminal.out(&text);
        return Ok(ExitCode::SUCCESS);
    }
    let own: Vec<Value> = images
        .iter()
        .map(|image| {
            let name = image
                .references
                .first()
                .map_or("<none>".to_owned(), |name| familiar(name));
            let count = containers
                .iter()
                .filter(|view| view.record.images_used().any(|id| *id == image.id))
                .count();
            json!({
                "Image": name, "ID": short_id(&image.id, false), "Size": size(image.bytes),
                "SharedSize": size(image.shared), "UniqueSize": size(image.bytes - image.shared),
                "Packed": size(image.packed), "Containers": count,
            })
        })
        .collect();
    let columns = [
        ("Image", "IMAGE"),
        ("ID", "IMAGE ID"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Packed", "PACKED"),
        ("Containers", "CONTAINERS"),
    ];
    let mut text = "Images space usage:\n\n".to_owned();
    text += &template::list("table", &columns, &own).map_err(Failure::new)?;
    let own: Vec<Value> = containers
        .iter()
        .zip(&sizes)
        .map(|(view, bytes)| json!({"Names": view.record.name, "Image": view.record.config.image, "Size": size(*bytes)}))
        .collect();
    let columns = [("Names", "NAMES"), ("Image", "IMAGE"), ("Size", "SIZE")];
    text += "\nContainers space usage:\n\n";
    text += &template::list("table", &columns, &own).map_err(Failure::new)?;
    let own: Vec<Value> = volumes
        .iter()
        .map(|(name, bytes)| json!({"Name": name, "Size": size(*bytes)}))
        .collect();
    text += "\nLocal Volumes space usage:\n\n";
    text +=
        &template::list("table", &[("Name", "VOLUME NAME"), ("Size", "SIZE")], &own).map_err(Failure::new)?;
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

/// Volumes by name with what their data takes.
fn volumes(folder: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut list: Vec<_> = folders
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                tree_size(&entry.path()),
            )
        })
        .collect();
    list.sort();
    list
}
