//! `config`: the stack file as it is understood.

use std::process::ExitCode;

use super::arguments::{Config, ConfigFormat};
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use crate::graph::Graph;
use crate::project::{Project, config as render, hash};

pub(super) fn config(context: &Context, typed: &Config) -> Outcome {
    let loaded = context.load(&typed.select)?;
    known_services(&loaded.project, &typed.select)?;
    let project = select(&loaded.project, &typed.select)?;
    if typed.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let text = if typed.services {
        lines(project.services.keys())
    } else if typed.volumes {
        lines(project.volumes.keys())
    } else if typed.networks {
        lines(project.networks.keys())
    } else if typed.images {
        lines(project.services.values().map(|service| &service.image))
    } else if typed.profiles {
        lines(profiles(&project).iter())
    } else if let Some(service) = &typed.hash {
        hashes(&project, service)?
    } else {
        match typed.format {
            ConfigFormat::Yaml => render::yaml(&project),
            ConfigFormat::Json => render::json(&project),
        }
        .map_err(Failure::new)?
    };
    match &typed.output {
        Some(path) => std::fs::write(path, text)
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?,
        None => context.terminal.out(&text),
    }
    Ok(ExitCode::SUCCESS)
}

/// The project with only these services and what they depend on.
fn select(project: &Project, names: &[String]) -> Result<Project, Failure> {
    let mut project = project.clone();
    if !names.is_empty() {
        let graph = Graph::new(&project).map_err(Failure::new)?;
        let wanted = graph.closure(names).map_err(Failure::new)?;
        project.services.retain(|name, _| wanted.contains(name));
    }
    Ok(project)
}

fn lines<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(|name| format!("{name}\n")).collect()
}

fn profiles(project: &Project) -> std::collections::BTreeSet<String> {
    let enabled = project.services.values().flat_map(|service| &service.profiles);
    enabled.chain(project.disabled_services.values().flatten()).cloned().collect()
}

fn hashes(project: &Project, wanted: &str) -> Result<String, Failure> {
    let mut text = String::new();
    for name in wanted.split(',') {
        if wanted != "*" {
            known_services(project, &[name.to_owned()])?;
        }
        for service in project.services.values().filter(|service| wanted == "*" || service.name == name) {
            text.push_str(&format!("{} {}\n", service.name, hash(service)));
        }
    }
    Ok(text)
}
