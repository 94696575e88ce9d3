//! `config`: the stack file as it is understood. It prints everything that the
//! Compose Specification knows, whether or not it can be run here.

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::arguments::{Config, ConfigFormat};
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use crate::graph::Graph;
use crate::project::{Model, Project, Rules, config as render, hash, load_model};
use crate::stack::{Code, DiskFiles, Node};
use crate::supervisor::load;

pub(super) fn config(context: &Context, typed: &Config) -> Outcome {
    if let Some(service) = &typed.hash {
        let project = context.load(&typed.select)?.project;
        context.terminal.out(&hashes(&project, service)?);
        return Ok(ExitCode::SUCCESS);
    }
    let request = context.request(&typed.select)?;
    let (mut model, warnings) = load_model(&request, Rules::default(), &DiskFiles)
        .map_err(|failure| Failure::diagnostics(failure.diagnostics))?;
    for warning in &warnings {
        context.terminal.err(&warning.render(context.terminal.color_err));
    }
    // What can never be run is no valid file, whoever will run it.
    if let Err(failure) = load(&request) {
        let mut invalid = failure.diagnostics;
        invalid.retain(|diagnostic| diagnostic.code == Code::Conflict);
        if !invalid.is_empty() {
            return Err(Failure::diagnostics(invalid));
        }
    }
    if !typed.select.is_empty() {
        select(context, &mut model, &typed.select)?;
    }
    if typed.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let text = if typed.services {
        lines(keys(&model, "services"))
    } else if typed.volumes {
        lines(keys(&model, "volumes"))
    } else if typed.networks {
        lines(keys(&model, "networks"))
    } else if typed.images {
        lines(images(&model))
    } else if typed.profiles {
        lines(model.profiles.iter().map(String::as_str))
    } else {
        match typed.format {
            ConfigFormat::Yaml => render::yaml(&model).map_err(Failure::new)?,
            ConfigFormat::Json => render::json(&model).map_err(Failure::new)? + "\n",
        }
    };
    match &typed.output {
        Some(path) => std::fs::write(path, text)
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?,
        None => context.terminal.out(&text),
    }
    Ok(ExitCode::SUCCESS)
}

/// Leaves only these services and what they depend on, and of everything else
/// only what those use.
fn select(context: &Context, model: &mut Model, names: &[String]) -> Result<(), Failure> {
    let project = context.load(names)?.project;
    known_services(&project, names)?;
    let graph = Graph::new(&project).map_err(Failure::new)?;
    let wanted: BTreeSet<String> = graph.closure(names).map_err(Failure::new)?;
    keep(&mut model.document, "services", &wanted);
    for section in ["networks", "volumes", "configs", "secrets"] {
        let services = model.document.get("services").into_iter();
        let used: BTreeSet<String> = services
            .flat_map(|services| services.entries())
            .flat_map(|(_, service)| uses(service, section))
            .collect();
        keep(&mut model.document, section, &used);
    }
    Ok(())
}

/// Removes the entries of a section that are not wanted, and the section when
/// nothing is left of it.
fn keep(document: &mut Node, section: &str, wanted: &BTreeSet<String>) {
    let Some(node) = document.get_mut(section) else {
        return;
    };
    let others: Vec<String> = node
        .entries()
        .map(|(key, _)| key.to_owned())
        .filter(|key| !wanted.contains(key))
        .collect();
    for key in others {
        node.take(&key);
    }
    if node.entries().next().is_none() {
        document.take(section);
    }
}

/// The entries of a section that a service names. A normalised service has its
/// networks as a mapping, and everything else as a list of mappings.
fn uses(service: &Node, section: &str) -> Vec<String> {
    let Some(node) = service.get(section) else {
        return vec![];
    };
    let keys = node.entries().map(|(key, _)| key.to_owned());
    let sources = node.items().filter_map(|item| item.text_of("source"));
    keys.chain(sources.map(str::to_owned)).collect()
}

fn keys<'a>(model: &'a Model, section: &str) -> impl Iterator<Item = &'a str> {
    let mut keys: Vec<&str> = model
        .document
        .get(section)
        .into_iter()
        .flat_map(|node| node.entries())
        .map(|(key, _)| key)
        .collect();
    keys.sort_unstable();
    keys.into_iter()
}

/// The image of each service; that of a service which is built has the name
/// that docker compose gives it.
fn images(model: &Model) -> impl Iterator<Item = String> {
    let services = model
        .document
        .get("services")
        .into_iter()
        .flat_map(|node| node.entries());
    services.map(|(name, service)| match service.text_of("image") {
        Some(image) => image.to_owned(),
        None => format!("{}-{name}", model.name),
    })
}

fn lines(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    names.map(|name| format!("{}\n", name.as_ref())).collect()
}

fn hashes(project: &Project, wanted: &str) -> Result<String, Failure> {
    let all = wanted == "*";
    let names: Vec<String> = wanted.split(',').map(str::to_owned).collect();
    if !all {
        known_services(project, &names)?;
    }
    let services = project
        .services
        .values()
        .filter(|service| all || names.contains(&service.name));
    Ok(services
        .map(|service| format!("{} {}\n", service.name, hash(service)))
        .collect())
}
