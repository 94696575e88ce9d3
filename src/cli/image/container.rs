//! Containers by name: `container ls`, `inspect`, `export`, `commit`, and
//! compose's `export` and `commit`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::super::block_on;
use super::super::context::{Context, known_services};
use super::super::failure::{Failure, Outcome};
use super::super::ps;
use super::super::template;
use super::arguments::{self, Commit, Container, ContainerLs, Export, Inspect};
use super::filter::has_label;
use super::words::{self, familiar};
use super::{list, manage, not_dry, store};
use crate::host::{View, views};
use crate::image::{Authored, ImageStore};
use crate::lifecycle::Health;
use crate::plan::ContainerState;

/// `container …`.
pub(in crate::cli) fn container(context: &Context, typed: &Container) -> Outcome {
    match typed {
        Container::Ls(typed) => ls(context, typed),
        Container::Inspect(typed) => inspect(context, typed),
        Container::Export { name, output } => {
            let view = named(context, name)?;
            export_view(context, &view, output.as_deref())
        }
        Container::Commit {
            name,
            reference,
            authored,
        } => {
            let view = named(context, name)?;
            commit_view(context, &view, reference.as_deref(), authored)
        }
    }
}

/// Every container of every stack.
pub(super) fn all(context: &Context) -> Result<Vec<View>, Failure> {
    let entries = std::fs::read_dir(context.world.stacks())
        .into_iter()
        .flatten()
        .flatten();
    let mut projects: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    projects.sort();
    let mut list = Vec::new();
    for project in projects {
        list.extend(views(&context.world, &project)?);
    }
    Ok(list)
}

/// The container of a name, an id, or the first digits of one.
fn named(context: &Context, name: &str) -> Result<View, Failure> {
    let list = all(context)?;
    if let Some(view) = list
        .iter()
        .find(|view| view.record.name == name || view.record.id == name)
    {
        return Ok(view.clone());
    }
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut found = list
        .iter()
        .filter(|view| digits && view.record.id.starts_with(name));
    match (found.next(), found.next()) {
        (Some(view), None) => Ok(view.clone()),
        (Some(_), Some(_)) => Err(Failure::new(format!(
            "several containers have an id that starts with {name}"
        ))),
        (None, _) => Err(Failure::new(format!("no such container: {name}"))),
    }
}

fn ls(context: &Context, typed: &ContainerLs) -> Outcome {
    let mut list = all(context)?;
    list.sort_by_key(|view| std::cmp::Reverse(view.record.created));
    let mut by_status = false;
    for text in &typed.filter {
        let wrong = || {
            Failure::new(format!(
                "filter {text:?}: the keys are name, id, status, label, ancestor"
            ))
        };
        let (key, value) = text.split_once('=').ok_or_else(wrong)?;
        if !matches!(key, "name" | "id" | "status" | "label" | "ancestor") {
            return Err(wrong());
        }
        by_status |= key == "status";
        let wanted = familiar(value);
        list.retain(|view| match key {
            "name" => view.record.name.contains(value),
            "id" => view.record.id.starts_with(value),
            "status" => status(&view.state) == value,
            "label" => has_label(&view.record.labels, value),
            _ => {
                familiar(&view.record.config.image) == wanted
                    || view
                        .record
                        .image
                        .trim_start_matches("sha256:")
                        .starts_with(value.trim_start_matches("sha256:"))
            }
        });
    }
    list.retain(|view| typed.all || by_status || view.state.is_running());
    if typed.quiet {
        let id = |view: &View| words::id(&view.record.id, typed.no_trunc) + "\n";
        context.terminal.out(&list.iter().map(id).collect::<String>());
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = list.iter().map(|view| row(view, typed.no_trunc)).collect();
    let columns = [
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
    ];
    let text = template::list(&typed.format, &columns, &rows).map_err(Failure::new)?;
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

fn row(view: &View, whole: bool) -> Value {
    let record = &view.record;
    let labels = record
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let mounts = record.volumes.values().chain(record.anonymous.values());
    json!({
        "Command": ps::command(&record.command, whole),
        "CreatedAt": ps::timestamp(record.created),
        "ID": words::id(&record.id, whole),
        "Image": familiar(&record.config.image),
        "Labels": labels.collect::<Vec<_>>().join(","),
        "LocalVolumes": (record.volumes.len() + record.anonymous.len()).to_string(),
        "Mounts": mounts.cloned().collect::<Vec<_>>().join(","),
        "Names": record.name,
        "Networks": record.networks.keys().cloned().collect::<Vec<_>>().join(","),
        "Ports": ps::ports(&view.ports, &view.record.config.expose),
        "RunningFor": format!("{} ago", ps::ago(words::now(), record.created)),
        "State": status(&view.state),
        "Status": ps::describe(view, words::now()),
    })
}

fn status(state: &ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running { .. } => "running",
        ContainerState::Exited { .. } => "exited",
    }
}

fn inspect(context: &Context, typed: &Inspect) -> Outcome {
    let views = typed.names.iter().map(|name| named(context, name));
    let views = views.collect::<Result<Vec<_>, _>>()?;
    let values: Vec<Value> = views.iter().map(inspected).collect();
    list::print_inspected(context, &values, typed.format.as_deref())?;
    Ok(ExitCode::SUCCESS)
}

/// A container in the shape of docker's engine API, as far as there is something
/// to say.
fn inspected(view: &View) -> Value {
    let record = &view.record;
    let (code, started, finished) = match &view.state {
        ContainerState::Created => (0, 0, 0),
        ContainerState::Running { started, .. } => (0, *started, 0),
        ContainerState::Exited { code, finished, .. } => (*code, 0, *finished),
    };
    let time = |nanoseconds: u64| match nanoseconds {
        0 => "0001-01-01T00:00:00Z".to_owned(),
        other => words::rfc3339(other),
    };
    let mut state = json!({
        "Status": status(&view.state),
        "Running": view.state.is_running(),
        "ExitCode": code,
        "StartedAt": time(started),
        "FinishedAt": time(finished),
    });
    if let (Some(health), Some(object)) = (view.health, state.as_object_mut()) {
        let health = match health {
            Health::Starting => "starting",
            Health::Healthy => "healthy",
            Health::Unhealthy => "unhealthy",
        };
        object.insert("Health".to_owned(), json!({"Status": health}));
    }
    let mut ports = Map::new();
    for port in &view.ports {
        let entry = ports
            .entry(format!("{}/{}", port.target, port.protocol))
            .or_insert_with(|| json!([]));
        if let Some(list) = entry.as_array_mut() {
            list.push(json!({
                "HostIp": port.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
                "HostPort": port.published.to_string(),
            }));
        }
    }
    let (path, arguments) = match record.command.split_first() {
        Some((path, arguments)) => (path.clone(), arguments.to_vec()),
        None => (String::new(), Vec::new()),
    };
    let networks: Map<String, Value> = record
        .networks
        .iter()
        .map(|(name, id)| (name.clone(), json!({"NetworkID": id})))
        .collect();
    json!({
        "Id": record.id,
        "Created": time(record.created),
        "Path": path,
        "Args": arguments,
        "State": state,
        "Image": record.image,
        "LogPath": view.log,
        "Name": format!("/{}", record.name),
        "Config": {
            "Image": record.config.image,
            "Cmd": record.command,
            "Labels": record.labels,
            "StopSignal": record.stop_signal,
        },
        "NetworkSettings": {"Ports": ports, "Networks": networks},
        "Service": record.config,
    })
}

/// The container of a service: the first, or that with a number.
fn of_service(context: &Context, service: &str, index: u32) -> Result<View, Failure> {
    let names = [service.to_owned()];
    let loaded = context.load_or_recall(&names)?;
    known_services(&loaded.project, &names)?;
    let list = views(&context.world, &loaded.project.name)?;
    let mut own = list
        .into_iter()
        .filter(|view| view.record.config.name == service && (index == 0 || view.record.number == index));
    own.next().ok_or_else(|| match index {
        0 => Failure::new(format!("service {service} has no container")),
        _ => Failure::new(format!("service {service} has no container {index}")),
    })
}

/// compose's `export`.
pub(in crate::cli) fn export(context: &Context, typed: &Export) -> Outcome {
    let view = of_service(context, &typed.service, typed.index)?;
    export_view(context, &view, typed.output.as_deref())
}

fn export_view(context: &Context, view: &View, output: Option<&Path>) -> Outcome {
    not_dry(context, "export")?;
    let upper = upper(context, view);
    let mut layers: Vec<PathBuf> = upper.is_dir().then_some(upper).into_iter().collect();
    let store = store(context);
    let image = match store.get(&view.record.image)? {
        Some(image) => Some(image),
        None => store.resolve(&view.record.config.image)?,
    };
    let image =
        image.ok_or_else(|| Failure::new(format!("the image of container {} is gone", view.record.name)))?;
    layers.extend(image.layers);
    manage::to_output(output, |file| Ok(ImageStore::export(&layers, file)?))
}

/// compose's `commit`.
pub(in crate::cli) fn commit(context: &Context, typed: &Commit) -> Outcome {
    let view = of_service(context, &typed.service, typed.index)?;
    commit_view(context, &view, typed.reference.as_deref(), &typed.authored)
}

fn commit_view(
    context: &Context,
    view: &View,
    reference: Option<&str>,
    typed: &arguments::Authored,
) -> Outcome {
    not_dry(context, "commit")?;
    let record = &view.record;
    let store = store(context);
    let image = store.get(&record.image)?.ok_or_else(|| {
        Failure::new(format!(
            "container {} is made from {}, which is no image of the store",
            record.name, record.config.image
        ))
        .hint("use export and image import")
    })?;
    // What the container was told in place of what its image says.
    let service = &record.config;
    let mut overrides = Map::new();
    overrides.insert("Labels".to_owned(), json!(record.labels));
    if let Some(user) = &service.user {
        overrides.insert("User".to_owned(), json!(user));
    }
    if let Some(folder) = &service.working_dir {
        overrides.insert("WorkingDir".to_owned(), json!(folder));
    }
    if let Some(entrypoint) = &service.entrypoint {
        overrides.insert("Entrypoint".to_owned(), json!(entrypoint));
        // The image's arguments do not fit another program.
        overrides.insert("Cmd".to_owned(), json!(service.command));
    } else if let Some(command) = &service.command {
        overrides.insert("Cmd".to_owned(), json!(command));
    }
    let mut environment = image.config.env;
    for (name, value) in &service.environment {
        let prefix = format!("{name}=");
        environment.retain(|line| !line.starts_with(&prefix));
        environment.push(format!("{prefix}{value}"));
    }
    overrides.insert("Env".to_owned(), json!(environment));
    let upper = upper(context, view);
    if !upper.is_dir() {
        return Err(Failure::new(format!(
            "container {} has never run: it has changed nothing",
            record.name
        )));
    }
    let authored = Authored {
        reference: reference.map(str::to_owned),
        author: typed.author.clone(),
        message: typed.message.clone(),
        changes: typed.change.clone(),
        platform: None,
    };
    let image = block_on(store.commit_container(&record.image, &upper, &overrides, &authored, |_| {}))?;
    context.terminal.out(&format!("{}\n", image.id));
    Ok(ExitCode::SUCCESS)
}

/// Where a container keeps what it changes.
fn upper(context: &Context, view: &View) -> PathBuf {
    let paths = context.world.container(&view.record.project, &view.record.id);
    paths.state.join("upper")
}
