//! What a container becomes: `export` and `commit`, of containers by name, and
//! of services as compose has them.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use serde_json::{Map, json};

use super::super::block_on;
use super::super::context::{Context, known_services};
use super::super::failure::{Failure, Outcome};
use super::super::image::arguments::{self, Commit as TypedCommit, Export};
use super::super::image::{not_dry, store, to_output};
use super::act;
use crate::host::{View, views};
use crate::image::{Authored, ImageStore};
use crate::plan::Verb;

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

pub(super) fn export_view(context: &Context, view: &View, output: Option<&Path>) -> Outcome {
    not_dry(context, "export")?;
    let upper = upper(context, view);
    let mut all: Vec<PathBuf> = upper.is_dir().then_some(upper).into_iter().collect();
    all.extend(layers(context, view)?);
    to_output(output, |file| Ok(ImageStore::export(&all, file)?))
}

/// compose's `commit`.
pub(in crate::cli) fn commit(context: &Context, typed: &TypedCommit) -> Outcome {
    let view = of_service(context, &typed.service, typed.index)?;
    commit_view(context, &view, typed.reference.as_deref(), &typed.authored)
}

pub(super) fn commit_view(
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
    let frozen = match typed.pause && view.state.is_running() && !view.state.is_paused() {
        true => Some(Frozen::new(context, view)?),
        false => None,
    };
    let committed = block_on(store.commit_container(&record.image, &upper, &overrides, &authored, |_| {}));
    if let Some(frozen) = frozen {
        frozen.end(context)?;
    }
    context.terminal.out(&format!("{}\n", committed?.id));
    Ok(ExitCode::SUCCESS)
}

/// A container that is frozen while it is read. Should this process be killed,
/// another one, which waits for that, lets it go on.
struct Frozen<'a> {
    view: &'a View,
    guard: Child,
}

impl<'a> Frozen<'a> {
    fn new(context: &Context, view: &'a View) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::new(format!("start what ends the pause: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        if let Some(root) = &context.global.state_root {
            let root = std::path::absolute(root).map_err(failed)?;
            command.arg("--state-root").arg(root);
        }
        command
            .args(["container", "unpause", "--when-input-ends", &view.record.id])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C is for us.
            .process_group(0);
        let guard = command.spawn().map_err(failed)?;
        let frozen = Self { view, guard };
        let errors = act::each_quietly(context, std::slice::from_ref(view), &Verb::Pause)?;
        match errors.into_iter().next() {
            Some(error) => Err(Failure::new(error)),
            None => Ok(frozen),
        }
    }

    fn end(mut self, context: &Context) -> Result<(), Failure> {
        let errors = act::each_quietly(context, std::slice::from_ref(self.view), &Verb::Unpause)?;
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        match errors.into_iter().next() {
            Some(error) => Err(Failure::new(error)),
            None => Ok(()),
        }
    }
}

/// The other process: waits for the end of its input, and lets the container go
/// on if it is frozen.
pub(super) fn unpause_when_input_ends(context: &Context, names: &[String]) -> Outcome {
    let mut nothing = Vec::new();
    let _ = std::io::stdin().lock().read_to_end(&mut nothing);
    let list = names.iter().map(|name| super::named(context, name));
    let list = list.collect::<Result<Vec<_>, _>>()?;
    act::each_quietly(context, &list, &Verb::Unpause)?;
    Ok(ExitCode::SUCCESS)
}

/// Where a container keeps what it changes.
pub(super) fn upper(context: &Context, view: &View) -> PathBuf {
    let paths = context.world.container(&view.record.project, &view.record.id);
    paths.state.join("upper")
}

/// The folders of the layers that a container's image has, top first.
pub(super) fn layers(context: &Context, view: &View) -> Result<Vec<PathBuf>, Failure> {
    let store = store(context);
    let image = match store.get(&view.record.image)? {
        Some(image) => Some(image),
        None => store.resolve(&view.record.config.image)?,
    };
    let gone = || Failure::new(format!("the image of container {} is gone", view.record.name));
    Ok(image.ok_or_else(gone)?.layers)
}
