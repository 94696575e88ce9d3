//! `pre_start` hooks: each is run to its end in a container of its own before
//! the service is started.
//!
//! Such a container is the service's, with what the hook says in place: on its
//! networks, with its mounts, its environment. It has a record as any other, so
//! that whatever is cut off can be found; it is removed when it has ended, with
//! its anonymous volumes. What has succeeded is noted in the stack's folder
//! ([`Observed::prepared`](crate::plan::Observed::prepared)) and is not run again
//! until the hooks, or their images, are others.
//!
//! Weak: what a hook prints is seen when it fails, not while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::hook::last_lines;
use super::machine::{Live, Machine, blocking};
use super::record::containers;
use super::{HostError, create, start};
use crate::monitor::log::{From, Reader};
use crate::plan::{OneOff, Target, preparation, prepared};
use crate::project::{HealthTest, Healthcheck, PreStartHook, Project, Restart, Service};
use crate::store::{World, read_record, write_record};

/// Of which hooks it is noted that they have succeeded.
fn path(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("prepared.json")
}

/// The hooks that have succeeded.
///
/// # Errors
/// [`HostError::Store`] when the note cannot be read.
pub(super) fn noted(world: &World, project: &str) -> Result<BTreeMap<String, String>, HostError> {
    Ok(read_record(&path(world, project))?.unwrap_or_default())
}

/// Runs the hooks of a service one after the other, up to the first that fails.
///
/// # Errors
/// [`HostError::Hook`] with the end of what it printed when one ends with another
/// status than 0, [`HostError`] when one cannot be run.
pub(super) async fn run(
    machine: &Arc<Machine>,
    project: &Project,
    name: &str,
    number: Option<u32>,
) -> Result<Vec<String>, HostError> {
    let service = project
        .services
        .get(name)
        .ok_or_else(|| HostError::NotInProject {
            what: format!("service {name}"),
        })?;
    let mut images = BTreeMap::new();
    let mut warnings = Vec::new();
    let hooks = service
        .pre_start
        .iter()
        .filter(|hook| hook.per_replica == number.is_some());
    for hook in hooks {
        let image = hook.image.as_ref().unwrap_or(&service.image);
        if let Some(found) = machine.images.resolve(image)? {
            images.insert(image.clone(), found.id);
        }
        warnings.extend(run_one(machine, project, service, hook).await?);
    }
    if let Some(what) = prepared(service, number.is_some(), &images) {
        // One at a time: several services may be at it.
        let _guard = machine.lock("prepared").await;
        let mut noted = noted(&machine.world, &machine.project)?;
        noted.insert(preparation(name, number), what);
        write_record(&path(&machine.world, &machine.project), &noted)?;
    }
    Ok(warnings)
}

async fn run_one(
    machine: &Arc<Machine>,
    project: &Project,
    service: &Service,
    hook: &PreStartHook,
) -> Result<Vec<String>, HostError> {
    let id = create::random_id()?;
    let short = id.get(..12).unwrap_or(&id).to_owned();
    let name = format!("{}-{}-pre-start-{short}", project.name, service.name);
    let mut altered = project.clone();
    altered
        .services
        .insert(service.name.clone(), definition(service, hook));
    let begun = begin(machine, altered, &service.name, &id, &name).await;
    if begun.is_ok() {
        let live = machine.live().get(&id).map(Live::clone_of);
        if let Some((_, mut ended)) = live {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }
    let record = machine.record_by_id(&id);
    let code = record
        .as_ref()
        .and_then(|record| machine.exit_of(record))
        .map(|exit| exit.code);
    let printed = printed(machine, &id).await;
    let say = machine.teller(&format!("{}-{}", project.name, service.name));
    String::from_utf8_lossy(&printed)
        .lines()
        .for_each(|line| say(line.to_owned()));
    if record.is_some() {
        let target = Target {
            id: Some(id),
            service: service.name.clone(),
            number: 1,
            name: name.clone(),
        };
        machine.remove(&target, true).await?;
    }
    let warnings = begun?;
    match code {
        Some(0) => Ok(warnings),
        other => Err(HostError::Hook {
            container: name,
            kind: "pre_start",
            command: hook.command.clone().unwrap_or_default().join(" "),
            reason: format!(
                "exited with status {}{}",
                other.unwrap_or(137),
                last_lines(&printed)
            ),
        }),
    }
}

/// Makes the container of a hook and starts it, to its end even when nobody waits
/// any more: [`clear`] waits for it, and removes what is whole.
async fn begin(
    machine: &Arc<Machine>,
    project: Project,
    service: &str,
    id: &str,
    name: &str,
) -> Result<Vec<String>, HostError> {
    let beginning = machine.preparing.clone().read_owned().await;
    let (machine, service) = (machine.clone(), service.to_owned());
    let (id, name) = (id.to_owned(), name.to_owned());
    let task = tokio::spawn(async move {
        let _beginning = beginning;
        let one_off = OneOff {
            id: id.clone(),
            hook: true,
            ..OneOff::default()
        };
        let wanted = create::Wanted {
            number: 1,
            name: &name,
            inherit: None,
            one_off: Some(&one_off),
        };
        let mut warnings = create::container(&machine, &project, &service, &wanted).await?;
        warnings.extend(start::start(&machine, &id, false).await?);
        Ok(warnings)
    });
    task.await.unwrap_or_else(|error| {
        Err(HostError::Interrupted {
            reason: error.to_string(),
        })
    })
}

/// How many of the last lines of a hook before the start are told when it has
/// ended.
const SHOWN: usize = 1000;

/// The end of what a container has printed.
async fn printed(machine: &Machine, id: &str) -> Vec<u8> {
    let log = machine.world.container(&machine.project, id).log();
    let read = blocking(move || {
        let mut text = Vec::new();
        if let Ok(Some(mut reader)) = Reader::open(&log, From::Last(SHOWN)) {
            while let Ok(Some(entry)) = reader.next() {
                text.extend_from_slice(&entry.text);
                if !entry.partial {
                    text.push(b'\n');
                }
            }
        }
        Ok(text)
    });
    read.await.unwrap_or_default()
}

/// A service as the container of a hook has it.
fn definition(service: &Service, hook: &PreStartHook) -> Service {
    let mut environment = service.environment.clone();
    for (name, value) in &hook.environment {
        match value {
            Some(value) => environment.insert(name.clone(), value.clone()),
            None => environment.remove(name),
        };
    }
    // The image's own entry point, unless it is the service's image.
    let other = hook.image.as_ref().is_some_and(|image| *image != service.image);
    Service {
        image: hook.image.clone().unwrap_or_else(|| service.image.clone()),
        entrypoint: service
            .entrypoint
            .clone()
            .filter(|_| !other && hook.command.is_none()),
        command: hook.command.clone(),
        user: hook.user.clone().or_else(|| service.user.clone()),
        privileged: hook.privileged,
        working_dir: hook.working_dir.clone().or_else(|| service.working_dir.clone()),
        environment,
        container_name: None,
        ports: vec![],
        restart: Restart::No,
        healthcheck: Some(Healthcheck {
            test: Some(HealthTest::None),
            ..Healthcheck::default()
        }),
        depends_on: BTreeMap::new(),
        deploy: None,
        pre_start: vec![],
        post_start: vec![],
        pre_stop: vec![],
        tty: false,
        stdin_open: false,
        ..service.clone()
    }
}

/// Removes the containers of hooks that nobody waits for any more, those too that
/// are just being made.
///
/// # Errors
/// [`HostError`] when records cannot be read or one cannot be removed.
pub(super) async fn clear(machine: &Arc<Machine>) -> Result<(), HostError> {
    let _none_begins = machine.preparing.write().await;
    for record in containers(&machine.world, &machine.project)? {
        if record.one_off.as_ref().is_some_and(|one_off| one_off.hook) {
            let target = Target {
                id: Some(record.id),
                service: record.config.name,
                number: record.number,
                name: record.name,
            };
            machine.remove(&target, true).await?;
        }
    }
    Ok(())
}
