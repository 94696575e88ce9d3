//! `image ls`, `image inspect`, `image history`, and compose's `images`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::super::context::{Context, known_services};
use super::super::failure::{Failure, Outcome};
use super::super::template::{self, Template};
use super::arguments::{History, ImageLs, Images, InspectImages};
use super::filter;
use super::store;
use super::words::{self, NONE, familiar, nanoseconds, of_time, repository_and_tag, size};
use crate::host::{View, replicas};
use crate::image::reference::Reference;
use crate::image::{Details, Summary};

/// Columns of a command that are shown unless `--no-trunc`.
const COMMAND_WIDTH: usize = 45;

/// `image ls`.
pub(super) fn ls(context: &Context, typed: &ImageLs) -> Outcome {
    let store = store(context);
    if typed.tree {
        return Err(Failure::new(
            "image ls --tree is not supported: of an image for several platforms one is kept",
        ));
    }
    let keys = ["dangling", "label", "reference", "before", "since", "until"];
    let filters = filter::read(&store, &typed.filter, &keys)?;
    let mut images = store.summaries()?;
    images.retain(|image| filters.iter().all(|filter| filter.takes(image)));
    let patterns: Vec<&str> = typed
        .filter
        .iter()
        .filter_map(|text| text.strip_prefix("reference="))
        .chain(typed.repository.as_deref())
        .collect();
    let mut rows = Vec::new();
    for image in &images {
        let sources = image.references.iter();
        let sources: Vec<&String> = sources
            .filter(|source| patterns.iter().all(|pattern| filter::is_like(source, pattern)))
            .collect();
        if sources.is_empty() && patterns.is_empty() {
            rows.push(row(image, None, typed));
        }
        rows.extend(sources.into_iter().map(|source| row(image, Some(source), typed)));
    }
    if typed.quiet {
        let mut ids: Vec<_> = rows.iter().filter_map(|row| row.get("ID")?.as_str()).collect();
        ids.dedup();
        let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
        context.terminal.out(&text);
        return Ok(ExitCode::SUCCESS);
    }
    let mut columns = vec![
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
    ];
    if typed.digests {
        columns.insert(2, ("Digest", "DIGEST"));
    }
    let text = template::list(&typed.format, &columns, &rows).map_err(Failure::new)?;
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

fn row(image: &Summary, source: Option<&str>, typed: &ImageLs) -> Value {
    let (repository, tag) = source.map_or((NONE.to_owned(), NONE.to_owned()), repository_and_tag);
    let digest = image
        .digests
        .iter()
        .filter_map(|digest| digest.split_once('@'))
        .find(|(name, _)| familiar(name).rsplit_once(':').map(|(name, _)| name) == Some(repository.as_str()))
        .map_or(NONE, |(_, digest)| digest);
    let created = nanoseconds(&image.created);
    json!({
        "Containers": "N/A",
        "CreatedAt": if created == 0 { "N/A".to_owned() } else { super::super::ps::timestamp(created) },
        "CreatedSince": words::since(created),
        "Digest": digest,
        "ID": words::id(&image.id, typed.no_trunc),
        "Repository": repository,
        "SharedSize": size(image.shared),
        "Size": size(image.bytes),
        "Tag": tag,
        "UniqueSize": size(image.bytes - image.shared),
    })
}

/// `image inspect`.
pub(super) fn inspect(context: &Context, typed: &InspectImages) -> Outcome {
    let store = store(context);
    let mut values = Vec::new();
    let mut errors = Vec::new();
    for name in &typed.which.names {
        let details = store.require_platform(name, typed.platform.as_deref());
        match details.and_then(|()| store.details(name)) {
            Ok(details) => values.push(inspected(&details)),
            Err(error) => errors.push(error.to_string()),
        }
    }
    print_inspected(context, &values, typed.which.format.as_deref())?;
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

/// Prints values as docker's `inspect` does: one list, or a template for each.
pub(in crate::cli) fn print_inspected(
    context: &Context,
    values: &[Value],
    format: Option<&str>,
) -> Result<(), Failure> {
    let text = match format {
        None => serde_json::to_string_pretty(values).map_err(Failure::new)? + "\n",
        Some("json") => serde_json::to_string(values).map_err(Failure::new)? + "\n",
        Some(format) => {
            let template = Template::parse(format).map_err(Failure::new)?;
            let mut text = String::new();
            for value in values {
                text += &template.render(value).map_err(Failure::new)?;
                text.push('\n');
            }
            text
        }
    };
    context.terminal.out(&text);
    Ok(())
}

/// An image in the shape of docker's engine API.
fn inspected(details: &Details) -> Value {
    let summary = &details.summary;
    let field = |name: &str| details.config.get(name).cloned().unwrap_or_else(|| "".into());
    let history = details.config.get("history").and_then(Value::as_array);
    let comment = history
        .and_then(|history| history.last()?.get("comment").cloned())
        .unwrap_or_else(|| "".into());
    let tags: Vec<_> = summary
        .references
        .iter()
        .filter(|source| Reference::parse(source).is_ok_and(|reference| reference.tag().is_some()))
        .map(|source| familiar(source).split('@').next().unwrap_or_default().to_owned())
        .collect();
    let digests: Vec<_> = summary
        .digests
        .iter()
        .filter_map(|digest| {
            let (_, digits) = digest.split_once('@')?;
            let reference = Reference::parse(digest).ok()?;
            Some(format!("{}@{digits}", words::repository(&reference)))
        })
        .collect();
    let layers: Vec<_> = details.layers.iter().map(|layer| layer.diff.clone()).collect();
    let folders: Vec<_> = details
        .layers
        .iter()
        .rev()
        .map(|layer| layer.folder.display().to_string())
        .collect();
    let mut value = json!({
        "Id": summary.id,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Comment": comment,
        "Created": summary.created,
        "Author": field("author"),
        "Config": details.config.get("config").cloned().unwrap_or_else(|| json!({})),
        "Architecture": field("architecture"),
        "Os": field("os"),
        "Size": summary.bytes,
        "GraphDriver": {"Name": "overlayfs", "Data": {"LowerDir": folders.join(":")}},
        "RootFS": {"Type": "layers", "Layers": layers},
        "Metadata": {"LastTagTime": words::rfc3339(of_time(summary.arrived))},
        "Manifest": details.manifest,
    });
    if let (Some(object), Value::String(variant)) = (value.as_object_mut(), field("variant"))
        && !variant.is_empty()
    {
        object.insert("Variant".to_owned(), variant.into());
    }
    value
}

/// `image history`.
pub(super) fn history(context: &Context, typed: &History) -> Outcome {
    let store = store(context);
    store.require_platform(&typed.name, typed.platform.as_deref())?;
    let details = store.details(&typed.name)?;
    let mut layers = details.layers.iter();
    let none = Vec::new();
    let entries = details
        .config
        .get("history")
        .and_then(Value::as_array)
        .unwrap_or(&none);
    let mut rows = Vec::new();
    let shown = |bytes: u64| {
        if typed.human {
            size(bytes)
        } else {
            bytes.to_string()
        }
    };
    for entry in entries {
        let text = |name: &str| {
            entry
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let empty = entry.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
        let bytes = if empty {
            0
        } else {
            layers.next().map_or(0, |layer| layer.bytes)
        };
        let created = nanoseconds(&text("created"));
        let command = text("created_by").replace('\t', " ");
        let command = if typed.no_trunc || command.chars().count() <= COMMAND_WIDTH {
            command
        } else {
            command.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect()
        };
        rows.push(json!({
            "ID": "<missing>",
            "CreatedAt": words::rfc3339(created),
            "CreatedSince": if typed.human { words::since(created) } else { words::rfc3339(created) },
            "CreatedBy": command,
            "Size": shown(bytes),
            "Comment": text("comment"),
        }));
    }
    // Layers that the history does not tell of.
    for layer in layers {
        rows.push(json!({
            "ID": "<missing>", "CreatedAt": "", "CreatedSince": "N/A", "CreatedBy": "",
            "Size": shown(layer.bytes), "Comment": "",
        }));
    }
    rows.reverse();
    if let Some(id) = rows.first_mut().and_then(|row| row.get_mut("ID")) {
        *id = words::id(&details.summary.id, typed.no_trunc).into();
    }
    let text = if typed.quiet {
        let ids = rows.iter().filter_map(|row| row.get("ID")?.as_str());
        ids.map(|id| format!("{id}\n")).collect()
    } else {
        let columns = [
            ("ID", "IMAGE"),
            ("CreatedSince", "CREATED"),
            ("CreatedBy", "CREATED BY"),
            ("Size", "SIZE"),
            ("Comment", "COMMENT"),
        ];
        template::list(&typed.format, &columns, &rows).map_err(Failure::new)?
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

/// compose's `images`: those that the containers of the stack are made from.
pub(in crate::cli) fn images(context: &Context, typed: &Images) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let mut list = replicas(&context.world, &loaded.project.name)?;
    list.retain(|view| typed.services.is_empty() || typed.services.contains(&view.record.config.name));
    list.sort_by(|a, b| a.record.name.cmp(&b.record.name));
    let known = store(context).summaries()?;
    if typed.quiet {
        let mut ids: Vec<_> = list.iter().map(|view| view.record.image.clone()).collect();
        ids.sort();
        ids.dedup();
        let text = ids
            .iter()
            .map(|id| format!("{}\n", id.trim_start_matches("sha256:")));
        context.terminal.out(&text.collect::<String>());
        return Ok(ExitCode::SUCCESS);
    }
    let json_format = typed.format == "json";
    let rows: Vec<Value> = list
        .iter()
        .map(|view| {
            let image = known.iter().find(|image| image.id == view.record.image);
            compose_row(view, image, json_format)
        })
        .collect();
    let text = if json_format {
        serde_json::to_string(&rows).map_err(Failure::new)? + "\n"
    } else {
        let columns = [
            ("ContainerName", "CONTAINER"),
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("Platform", "PLATFORM"),
            ("ID", "IMAGE ID"),
            ("Size", "SIZE"),
            ("Created", "CREATED"),
        ];
        template::list(&typed.format, &columns, &rows).map_err(Failure::new)?
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

fn compose_row(view: &View, image: Option<&Summary>, whole: bool) -> Value {
    let (repository, tag) = repository_and_tag(&view.record.config.image);
    let created = image.map_or(0, |image| nanoseconds(&image.created));
    let bytes = image.map_or(0, |image| image.bytes);
    let platform = image.map_or("", |image| image.platform.as_str());
    if whole {
        return json!({
            "ID": view.record.image,
            "ContainerName": view.record.name,
            "Repository": repository,
            "Tag": tag,
            "Platform": platform,
            "Size": bytes,
            "Created": words::rfc3339(created),
            "LastTagTime": words::rfc3339(image.map_or(0, |image| of_time(image.arrived))),
        });
    }
    json!({
        "ID": words::id(&view.record.image, false),
        "ContainerName": view.record.name,
        "Repository": repository,
        "Tag": tag,
        "Platform": platform,
        "Size": size(bytes),
        "Created": words::since(created),
    })
}

/// The images that containers are made from.
pub(in crate::cli) fn used(context: &Context) -> Result<Vec<crate::image::ImageUser>, Failure> {
    let mut users = Vec::new();
    for view in super::super::container::all(context)? {
        users.extend(view.record.images_used().map(|image| crate::image::ImageUser {
            image: image.clone(),
            container: view.record.name.clone(),
            running: view.state.is_running(),
        }));
    }
    Ok(users)
}
