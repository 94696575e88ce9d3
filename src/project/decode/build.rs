//! Building, development, hooks, providers and models of a service.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::connections::hosts;
use super::limits::ulimits;
use super::reader::Reader;
use crate::project::model::{
    Build, BuildSecret, Develop, Hook, Logging, ModelUse, Platform, PreStartHook, Provider, WatchAction,
    WatchRule,
};
use crate::stack::{Code, Node};

pub(super) fn build(reader: &mut Reader<'_>) -> Option<Build> {
    let node = reader.get("build")?;
    let mut reader = reader.below("build", node);
    let reader = &mut reader;
    Some(Build {
        context: reader.text("context"),
        dockerfile: reader.text("dockerfile"),
        dockerfile_inline: reader.text("dockerfile_inline"),
        target: reader.text("target"),
        args: reader.table("args"),
        additional_contexts: reader.table("additional_contexts"),
        labels: reader.table("labels"),
        tags: reader.texts("tags"),
        no_cache: reader.flag("no_cache"),
        no_cache_filter: reader.texts("no_cache_filter"),
        cache_from: reader.texts("cache_from"),
        cache_to: reader.texts("cache_to"),
        pull: reader.flag("pull"),
        extra_hosts: hosts(reader),
        network: reader.text("network"),
        shm_size: size(reader, "shm_size"),
        ulimits: ulimits(reader),
        secrets: build_secrets(reader),
        ssh: reader.variables("ssh"),
        platforms: platforms(reader),
        isolation: reader.text("isolation"),
        entitlements: reader.texts("entitlements"),
        privileged: reader.flag("privileged"),
        provenance: reader.text("provenance"),
        sbom: reader.text("sbom"),
    })
}

/// An amount of bytes of which zero is none.
pub(super) fn size(reader: &mut Reader<'_>, field: &str) -> Option<u64> {
    reader.number(field).filter(|size| *size > 0)
}

fn platforms(reader: &mut Reader<'_>) -> Vec<Platform> {
    let mut platforms = Vec::new();
    for item in reader.get("platforms").into_iter().flat_map(Node::items) {
        match item.as_text().unwrap_or_default().parse() {
            Ok(platform) => platforms.push(platform),
            Err(error) => {
                let message = format!("{error}");
                reader.fail(item.place, Code::Schema, "platforms", &message, None);
            }
        }
    }
    platforms
}

fn build_secrets(reader: &mut Reader<'_>) -> Vec<BuildSecret> {
    let mut secrets = Vec::new();
    for (index, node) in reader
        .get("secrets")
        .into_iter()
        .flat_map(Node::items)
        .enumerate()
    {
        let mut reader = reader.below(&format!("secrets.{index}"), node);
        let source = reader.text("source").unwrap_or_default();
        secrets.push(BuildSecret {
            id: reader.text("target").unwrap_or_else(|| source.clone()),
            uid: owner(&mut reader, "uid"),
            gid: owner(&mut reader, "gid"),
            mode: mode(&mut reader),
            source,
        });
    }
    secrets
}

/// A number of a user or group.
pub(super) fn owner(reader: &mut Reader<'_>, field: &str) -> Option<u32> {
    let node = reader.get(field)?;
    let text = node.scalar_text().filter(|text| !text.is_empty())?;
    let number = text.parse().ok();
    if number.is_none() {
        let message = format!("{text:?} is not the number of a user or group");
        reader.fail(node.place, Code::Schema, field, &message, Some("such as \"103\""));
    }
    number
}

/// A file mode; its notation has been checked.
pub(super) fn mode(reader: &mut Reader<'_>) -> Option<u32> {
    u32::from_str_radix(reader.text("mode")?.as_str(), 8).ok()
}

fn hook(node: &Node, path: &str, reader: &mut Reader<'_>) -> Hook {
    let mut reader = reader.below(path, node);
    let command = reader.words("command").unwrap_or_default();
    if command.is_empty() {
        reader.fail(node.place, Code::Schema, "command", "a command is needed", None);
    }
    Hook {
        command,
        user: reader.text("user"),
        privileged: reader.flag("privileged"),
        working_dir: reader.text("working_dir"),
        environment: reader.variables("environment"),
    }
}

pub(super) fn hooks(field: &str, reader: &mut Reader<'_>) -> Vec<Hook> {
    let items = reader.get(field).into_iter().flat_map(Node::items).enumerate();
    let items: Vec<(usize, &Node)> = items.collect();
    items
        .into_iter()
        .map(|(index, node)| hook(node, &format!("{field}.{index}"), reader))
        .collect()
}

pub(super) fn pre_start(reader: &mut Reader<'_>) -> Vec<PreStartHook> {
    let mut hooks = Vec::new();
    for (index, node) in reader
        .get("pre_start")
        .into_iter()
        .flat_map(Node::items)
        .enumerate()
    {
        let reader = reader.below(&format!("pre_start.{index}"), node);
        hooks.push(PreStartHook {
            command: reader.words("command"),
            image: reader.text("image"),
            user: reader.text("user"),
            privileged: reader.flag("privileged"),
            working_dir: reader.text("working_dir"),
            environment: reader.variables("environment"),
            per_replica: reader.flag("per_replica"),
        });
    }
    hooks
}

pub(super) fn develop(reader: &mut Reader<'_>) -> Option<Develop> {
    let node = reader.get("develop")?;
    let mut watch = Vec::new();
    for (index, node) in node.get("watch").into_iter().flat_map(Node::items).enumerate() {
        let mut reader = reader.below(&format!("develop.watch.{index}"), node);
        let actions = [
            ("rebuild", WatchAction::Rebuild),
            ("sync", WatchAction::Sync),
            ("restart", WatchAction::Restart),
            ("sync+restart", WatchAction::SyncRestart),
            ("sync+exec", WatchAction::SyncExec),
        ];
        let Some(action) = reader.choice("action", &actions) else {
            continue;
        };
        let exec = reader
            .get("exec")
            .filter(|exec| exec.as_map().is_some_and(|map| !map.is_empty()));
        let exec = exec.map(|exec| hook(exec, "exec", &mut reader));
        watch.push(WatchRule {
            path: reader.text("path").map(PathBuf::from).unwrap_or_default(),
            action,
            target: reader.text("target"),
            include: reader.texts("include"),
            ignore: reader.texts("ignore"),
            initial_sync: reader.flag("initial_sync"),
            exec,
        });
    }
    Some(Develop { watch })
}

pub(super) fn provider(reader: &mut Reader<'_>) -> Option<Provider> {
    let node = reader.get("provider")?;
    let options = node.get("options").into_iter().flat_map(Node::entries);
    let options: BTreeMap<String, Vec<String>> = options
        .map(|(key, node)| {
            let values = match node.as_list() {
                Some(list) => list.iter().filter_map(Node::scalar_text).collect(),
                None => node.scalar_text().into_iter().collect(),
            };
            (key.to_owned(), values)
        })
        .collect();
    Some(Provider {
        kind: node.text_of("type").unwrap_or_default().to_owned(),
        options,
    })
}

/// The models that a service uses, with the names of their variables.
pub(super) fn models(reader: &mut Reader<'_>) -> BTreeMap<String, ModelUse> {
    let entries = reader.get("models").into_iter().flat_map(Node::entries);
    entries
        .map(|(key, node)| {
            let name = key.to_uppercase().replace(['-', '.'], "_");
            let given = |field: &str| {
                node.text_of(field)
                    .filter(|text| !text.is_empty())
                    .map(str::to_owned)
            };
            let used = ModelUse {
                endpoint_var: given("endpoint_var").unwrap_or_else(|| format!("{name}_URL")),
                model_var: given("model_var").unwrap_or(name),
            };
            (key.to_owned(), used)
        })
        .collect()
}

pub(super) fn logging(reader: &mut Reader<'_>) -> Option<Logging> {
    let node = reader.get("logging")?;
    let reader = reader.below("logging", node);
    let logging = Logging {
        driver: reader.text("driver"),
        options: reader.table("options"),
    };
    (logging != Logging::default()).then_some(logging)
}

/// The platform of a service.
pub(super) fn platform(reader: &mut Reader<'_>) -> Option<Platform> {
    reader.parse("platform")
}
