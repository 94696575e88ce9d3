//! `config`: the stack file as it is understood. It prints everything that the
//! Compose Specification knows, whether or not it can be run here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::ExitCode;

use super::arguments::{Config, ConfigFormat};
use super::block_on;
use super::context::Context;
use super::failure::{Failure, Outcome};
use crate::image::{ImageError, ImageStore};
use crate::project::{
    LoadRequest, Model, Project, Rules, config as render, hash, load_any, load_model, provenance,
};
use crate::stack::{DiskFiles, Node, Place, Value, Variable, variables};

pub(super) fn config(context: &Context, typed: &Config) -> Outcome {
    let request = context.request(&typed.select)?;
    let text = text(context, typed, &request)?;
    if typed.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    match &typed.output {
        Some(path) => std::fs::write(path, text)
            .map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?,
        None => context.terminal.out(&text),
    }
    Ok(ExitCode::SUCCESS)
}

/// How the model is loaded for what is asked.
fn rules(context: &Context, typed: &Config) -> Rules {
    let templates = typed.no_interpolate || typed.variables;
    Rules {
        // Names made of variables that were not replaced refer to nothing.
        consistency: !typed.no_consistency && !templates,
        all_resources: context.global.all_resources,
        interpolate: !templates,
        normalize: !typed.no_normalize,
        resolve_paths: !typed.no_path_resolution,
        resolve_environment: !typed.no_env_resolution,
        trace: typed.provenance || typed.environment,
    }
}

fn text(context: &Context, typed: &Config, request: &LoadRequest) -> Result<String, Failure> {
    if let Some(service) = &typed.hash {
        let loaded = load_any(request, &DiskFiles).map_err(|failure| context.refused(failure.diagnostics))?;
        context.warn(&loaded.warnings);
        return hashes(&loaded.project, service);
    }
    let rules = rules(context, typed);
    let (mut model, warnings) =
        load_model(request, rules, &DiskFiles).map_err(|failure| context.refused(failure.diagnostics))?;
    context.warn(&warnings);
    if typed.quiet {
        std::mem::forget(model);
        return Ok(String::new());
    }
    if typed.variables {
        return variable_table(&model, typed.format);
    }
    // Lists are of the whole stack, whatever services are named.
    let lists = typed.services || typed.volumes || typed.networks || typed.profiles || typed.models;
    if !typed.select.is_empty() && !lists && rules.interpolate {
        select(&mut model, &typed.select, rules.all_resources);
    }
    if typed.environment {
        return Ok(environment(&model));
    }
    if typed.resolve_image_digests || typed.lock_image_digests {
        resolve_digests(context, &mut model)?;
    }
    if typed.lock_image_digests {
        lock(&mut model);
    }
    let text = if typed.services {
        lines(model.services())
    } else if typed.volumes {
        lines(model.volumes())
    } else if typed.networks {
        lines(model.networks())
    } else if typed.images {
        lines(images(&model))
    } else if typed.profiles {
        lines(&model.profiles)
    } else if typed.models {
        lines(model.models())
    } else if typed.provenance {
        origins(&model, typed.format)?
    } else {
        match typed.format {
            Some(ConfigFormat::Json) => {
                render::json_as(&model, rules.interpolate).map_err(Failure::new)? + "\n"
            }
            None | Some(ConfigFormat::Yaml) => {
                render::yaml_as(&model, rules.interpolate).map_err(Failure::new)?
            }
        }
    };
    // The process ends here: giving a large stack back piece by piece takes a
    // tenth of the time.
    std::mem::forget(model);
    Ok(text)
}

/// Leaves only these services and what they depend on, and of everything else
/// only what those use, or all of it.
fn select(model: &mut Model, names: &[String], all_resources: bool) {
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut left: Vec<String> = names.to_vec();
    while let Some(name) = left.pop() {
        let Some(service) = model
            .document
            .get("services")
            .and_then(|services| services.get(&name))
        else {
            continue;
        };
        if wanted.insert(name) {
            let named = service.get("depends_on").into_iter();
            left.extend(named.flat_map(Node::entries).map(|(name, _)| name.to_owned()));
        }
    }
    keep(&mut model.document, "services", &wanted);
    if all_resources {
        return;
    }
    for section in ["networks", "volumes", "configs", "secrets", "models"] {
        let services = model.document.get("services").into_iter();
        let used: BTreeSet<String> = services
            .flat_map(|services| services.entries())
            .flat_map(|(_, service)| uses(service, section))
            .collect();
        keep(&mut model.document, section, &used);
    }
}

/// Removes the entries of a section that are not wanted, and the section when
/// nothing is left of it.
fn keep(document: &mut Node, section: &str, wanted: &BTreeSet<String>) {
    let Some(node) = document.get_mut(section) else {
        return;
    };
    if let Some(map) = node.as_map_mut() {
        map.retain(|key, _| wanted.contains(key.as_str()));
    }
    if node.entries().next().is_none() {
        document.take(section);
    }
}

/// The entries of a section that a service names. A normalised service has its
/// networks and models as mappings, and everything else as a list of mappings.
fn uses(service: &Node, section: &str) -> Vec<String> {
    let build = service.get("build").and_then(|build| build.get(section));
    let mut used = Vec::new();
    for node in service.get(section).into_iter().chain(build) {
        used.extend(node.entries().map(|(key, _)| key.to_owned()));
        used.extend(
            node.items()
                .filter_map(|item| item.text_of("source"))
                .map(str::to_owned),
        );
    }
    used
}

/// The image of each service; that of a service which is built has the name
/// that docker compose gives it.
fn images(model: &Model) -> Vec<String> {
    let services = model.document.get("services").into_iter().flat_map(Node::entries);
    services
        .map(|(name, service)| match service.text_of("image") {
            Some(image) => image.to_owned(),
            None => format!("{}-{name}", model.name),
        })
        .collect()
}

fn lines<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().fold(String::new(), |mut out, name| {
        let _ = writeln!(out, "{}", name.as_ref());
        out
    })
}

fn hashes(project: &Project, wanted: &str) -> Result<String, Failure> {
    let all = wanted == "*";
    let names: Vec<String> = wanted.split(',').map(str::to_owned).collect();
    if !all {
        super::context::known_services(project, &names)?;
    }
    let services = project
        .services
        .values()
        .filter(|service| all || names.contains(&service.name));
    Ok(lines(
        services.map(|service| format!("{} {}", service.name, hash(service))),
    ))
}

/// The variables that the files name.
fn variable_table(model: &Model, format: Option<ConfigFormat>) -> Result<String, Failure> {
    fn collect(node: &Node, found: &mut BTreeMap<String, Variable>) {
        match &node.value {
            Value::Text(text) if text.contains('$') => {
                for variable in variables(text) {
                    let known = found.entry(variable.name.clone()).or_default();
                    // One use may say what another one does not.
                    known.required |= variable.required;
                    for (known, said) in [
                        (&mut known.default_value, variable.default_value),
                        (&mut known.presence_value, variable.presence_value),
                    ] {
                        if known.is_empty() {
                            *known = said;
                        }
                    }
                    known.name = variable.name;
                }
            }
            _ => {
                node.entries().for_each(|(_, node)| collect(node, found));
                node.items().for_each(|node| collect(node, found));
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(&model.document, &mut found);
    match format {
        Some(ConfigFormat::Json) => Ok(serde_json::to_string(&found).map_err(Failure::new)? + "\n"),
        Some(ConfigFormat::Yaml) => serde_yaml::to_string(&found).map_err(Failure::new),
        None => {
            let head = ["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"].map(str::to_owned);
            let rows = found.into_values().map(|variable| {
                [
                    variable.name,
                    variable.required.to_string(),
                    variable.default_value,
                    variable.presence_value,
                ]
            });
            let rows: Vec<[String; 4]> = std::iter::once(head).chain(rows).collect();
            Ok(table(&rows))
        }
    }
}

/// Rows as aligned columns, three spaces apart and twenty wide.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [17; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}   ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// `NAME=value`, sorted.
fn environment(model: &Model) -> String {
    lines(
        model
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    )
}

/// Every value with its origin.
fn origins(model: &Model, format: Option<ConfigFormat>) -> Result<String, Failure> {
    let leaves = provenance::leaves(model);
    if format == Some(ConfigFormat::Json) {
        return Ok(serde_json::to_string_pretty(&leaves).map_err(Failure::new)? + "\n");
    }
    Ok(lines(leaves.iter().map(|leaf| {
        let value = serde_json::to_string(&leaf.value).unwrap_or_default();
        format!("{}: {value}  # {}", leaf.path, leaf.describe())
    })))
}

/// Puts the digests of images into the services' image references.
fn resolve_digests(context: &Context, model: &mut Model) -> Result<(), Failure> {
    let store = ImageStore::open(context.world.images());
    let services = model.document.get("services").into_iter().flat_map(Node::entries);
    let images: BTreeSet<String> = services
        .filter_map(|(_, service)| service.text_of("image"))
        .map(str::to_owned)
        .collect();
    let resolved = block_on(async {
        let mut asked = tokio::task::JoinSet::new();
        for image in images {
            let store = store.clone();
            asked.spawn(async move {
                let pinned = store.pin(&image).await;
                (image, pinned)
            });
        }
        let mut found = BTreeMap::new();
        while let Some(answer) = asked.join_next().await {
            let (image, pinned) = answer.map_err(Failure::new)?;
            found.insert(image, pinned.map_err(|error: ImageError| Failure::new(error))?);
        }
        Ok::<_, Failure>(found)
    })?;
    let services = model.document.get_mut("services").and_then(Node::as_map_mut);
    for entry in services.into_iter().flat_map(|services| services.values_mut()) {
        if let Some(Value::Text(image)) = entry.node.get_mut("image").map(|image| &mut image.value)
            && let Some(pinned) = resolved.get(image.as_str())
        {
            *image = pinned.as_str().into();
        }
    }
    Ok(())
}

/// Leaves the images of the services, and nothing else.
fn lock(model: &mut Model) {
    let mut services = Node::map(Place::NOWHERE);
    for (name, service) in model.document.get("services").into_iter().flat_map(Node::entries) {
        if let Some(image) = service.get("image") {
            let mut locked = Node::map(Place::NOWHERE);
            locked.set("image", image.clone());
            services.set(name, locked);
        }
    }
    let mut document = Node::map(Place::NOWHERE);
    document.set("services", services);
    model.document = document;
}
