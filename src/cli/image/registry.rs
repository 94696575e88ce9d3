//! `pull` and `push`, of stacks and of images by name.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::block_on;
use super::super::context::{Context, known_services};
use super::super::failure::{Failure, Outcome};
use super::arguments::{ImagePull, ImagePush, Policy, Pull, Push};
use super::progress::Transfers;
use super::words::familiar;
use super::{not_dry, store};
use crate::graph::Graph;
use crate::image::{ImageStore, Progress, PullOptions};
use crate::project::{Project, PullPolicy};

/// Images that are pulled or pushed side by side; `COMPOSE_PARALLEL_LIMIT` changes it.
const SIDE_BY_SIDE: usize = 6;

/// `pull`: the images of a stack.
pub(in crate::cli) fn pull(context: &Context, typed: &Pull) -> Outcome {
    let loaded = context.load(&typed.services)?;
    let project = &loaded.project;
    let store = store(context);
    let mut wanted = BTreeSet::new();
    let transfers = Transfers::new(&context.terminal, typed.quiet);
    for name in selection(project, &typed.services, typed.include_deps)? {
        let Some(service) = project.services.get(&name) else {
            continue;
        };
        if service.image.starts_with("rootfs:") {
            // It is where it is.
            continue;
        }
        if matches!(service.pull_policy, PullPolicy::Never | PullPolicy::Build) {
            transfers.done(
                &service.image,
                "Skipped - its pull policy does not let it be pulled",
            );
            continue;
        }
        if typed.policy == Some(Policy::Missing) && store.resolve(&service.image)?.is_some() {
            transfers.done(&service.image, "Skipped - it is here");
            continue;
        }
        wanted.insert(service.image.clone());
    }
    if context.global.dry_run {
        for image in &wanted {
            context.terminal.out(&format!("pull {image}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let limit = if typed.no_parallel { 1 } else { parallel()? };
    let work = |store: ImageStore, image: String, events| async move {
        let result = store
            .pull_with(&image, &PullOptions::default(), report(&image, events))
            .await;
        result.map(|_| ()).map_err(|error| error.to_string())
    };
    let errors = block_on(side_by_side(&store, wanted, limit, &transfers, "Pulled", work))?;
    finish(context, errors, typed.ignore_pull_failures)
}

/// `push`: the images of a stack that were made here.
pub(in crate::cli) fn push(context: &Context, typed: &Push) -> Outcome {
    let loaded = context.load(&typed.services)?;
    let project = &loaded.project;
    let store = store(context);
    let mut wanted = BTreeSet::new();
    let transfers = Transfers::new(&context.terminal, typed.quiet);
    for name in selection(project, &typed.services, typed.include_deps)? {
        let Some(service) = project.services.get(&name) else {
            continue;
        };
        let image = &service.image;
        let Some(here) = store.resolve(image)? else {
            transfers.done(image, "Skipped - it is not here");
            continue;
        };
        let summary = store.find(&here.id)?;
        let own = familiar(image);
        let repository = own
            .rsplit_once(':')
            .map_or(own.as_str(), |(repository, _)| repository);
        let pulled = summary
            .digests
            .iter()
            .any(|digest| familiar(digest).starts_with(&format!("{repository}@")));
        if pulled {
            transfers.done(image, "Skipped - it came from there");
            continue;
        }
        wanted.insert(image.clone());
    }
    if context.global.dry_run {
        for image in &wanted {
            context.terminal.out(&format!("push {image}\n"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let work = |store: ImageStore, image: String, events| async move {
        let result = store.push(&image, false, report(&image, events)).await;
        result.map(|_| ()).map_err(|error| error.to_string())
    };
    let errors = block_on(side_by_side(
        &store,
        wanted,
        parallel()?,
        &transfers,
        "Pushed",
        work,
    ))?;
    finish(context, errors, typed.ignore_push_failures)
}

/// The services that are meant.
fn selection(
    project: &Project,
    services: &[String],
    dependencies: bool,
) -> Result<BTreeSet<String>, Failure> {
    known_services(project, services)?;
    if services.is_empty() {
        return Ok(project.services.keys().cloned().collect());
    }
    if !dependencies {
        return Ok(services.iter().cloned().collect());
    }
    let graph = Graph::new(project).map_err(Failure::new)?;
    graph.closure(services).map_err(Failure::new)
}

fn finish(context: &Context, errors: Vec<String>, ignore: bool) -> Outcome {
    if errors.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if ignore {
        for error in &errors {
            context.terminal.warning(error);
        }
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::list(&errors))
}

fn parallel() -> Result<usize, Failure> {
    let Some(text) = std::env::var("COMPOSE_PARALLEL_LIMIT")
        .ok()
        .filter(|text| !text.is_empty())
    else {
        return Ok(SIDE_BY_SIDE);
    };
    match text.parse::<i64>() {
        Ok(-1) => Ok(usize::MAX >> 4),
        Ok(number) if number > 0 => Ok(usize::try_from(number).unwrap_or(SIDE_BY_SIDE)),
        _ => Err(Failure::new(format!(
            "COMPOSE_PARALLEL_LIMIT is {text:?}, and not a number greater than 0, or -1 for no limit"
        ))),
    }
}

/// What tasks send home.
type Events = mpsc::UnboundedSender<(String, Progress)>;

fn report(image: &str, events: Events) -> impl Fn(Progress) + Send + Sync + use<> {
    let image = image.to_owned();
    move |event| {
        // Nobody listening is a command that is over.
        let _ = events.send((image.clone(), event));
    }
}

/// Does something to several images; what went wrong.
async fn side_by_side<F>(
    store: &ImageStore,
    images: BTreeSet<String>,
    limit: usize,
    transfers: &Transfers<'_>,
    done: &str,
    work: impl Fn(ImageStore, String, Events) -> F,
) -> Result<Vec<String>, Failure>
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let places = Arc::new(tokio::sync::Semaphore::new(limit));
    let mut tasks = JoinSet::new();
    for image in images {
        let task = work(store.clone(), image.clone(), sender.clone());
        let places = Arc::clone(&places);
        tasks.spawn(async move {
            let _place = places.acquire().await;
            (image, task.await)
        });
    }
    drop(sender);
    let mut errors = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some((image, event)) = receiver.recv() => transfers.show(&image, &event),
            ended = tasks.join_next() => match ended {
                None => break,
                Some(Ok((image, Ok(())))) => {
                    while let Ok((image, event)) = receiver.try_recv() {
                        transfers.show(&image, &event);
                    }
                    transfers.done(&image, done);
                }
                Some(Ok((image, Err(error)))) => {
                    transfers.done(&image, "Error");
                    errors.push(error);
                }
                Some(Err(error)) => errors.push(error.to_string()),
            },
        }
    }
    Ok(errors)
}

/// `image pull`.
pub(super) fn image_pull(context: &Context, typed: &ImagePull) -> Outcome {
    not_dry(context, "image pull")?;
    let store = store(context);
    let transfers = Transfers::new(&context.terminal, typed.quiet);
    let options = PullOptions {
        platform: typed.platform.clone(),
    };
    let mut names = Vec::new();
    for name in &typed.names {
        if typed.all_tags {
            names.extend(block_on(store.tags(name))?);
        } else {
            names.push(name.clone());
        }
    }
    for name in &names {
        let before = store.resolve(name)?.map(|image| image.id);
        let shown = familiar(name);
        let pull = store.pull_with(name, &options, |event| transfers.show(&shown, &event));
        let image = block_on(pull)?;
        let words = if before.as_ref() == Some(&image.id) {
            "Up to date"
        } else {
            "Pulled"
        };
        transfers.done(&shown, words);
        context.terminal.out(&format!("{}\n", image.reference));
    }
    Ok(ExitCode::SUCCESS)
}

/// `image push`.
pub(super) fn image_push(context: &Context, typed: &ImagePush) -> Outcome {
    not_dry(context, "image push")?;
    let store = store(context);
    let transfers = Transfers::new(&context.terminal, typed.quiet);
    for name in &typed.names {
        let shown = familiar(name);
        store.require_platform(name, typed.platform.as_deref())?;
        let push = store.push(name, typed.all_tags, |event| transfers.show(&shown, &event));
        let pushed = block_on(push)?;
        transfers.done(&shown, "Pushed");
        for one in pushed {
            let line = if typed.quiet {
                format!("{}\n", one.reference)
            } else {
                format!(
                    "{}: digest: {} size: {}\n",
                    familiar(&one.reference),
                    one.digest,
                    one.size
                )
            };
            context.terminal.out(&line);
        }
    }
    Ok(ExitCode::SUCCESS)
}
