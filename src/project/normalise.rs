//! What a stack file leaves unsaid, said: names, the default network, implied
//! dependencies, variables taken from outside. Works on the merged document, so
//! that `config` can print it.

use std::path::Path;

use crate::stack::{
    Entry, EnvFileRequest, Environment, Files, Mapping, Node, Place, Report, Value, clean_path, is_clean,
    read_env_file,
};

/// Fills in what the document leaves unsaid. Environment files are not read yet.
/// Variables without a value get the one of `environment`, when there is one.
pub(super) fn normalise(document: &mut Node, name: &str, environment: Option<&Environment>, report: &Report) {
    let place = document.place;
    document.set("name", Node::text(name, place));
    if let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) {
        for entry in services.values_mut() {
            service(&mut entry.node, environment);
        }
    }
    default_network(document, report);
    for section in ["networks", "volumes", "configs", "secrets"] {
        let Some(resources) = document.get_mut(section).and_then(Node::as_map_mut) else {
            continue;
        };
        for (key, entry) in resources {
            if entry.node.is_null() {
                entry.node.value = Value::Map(Mapping::default());
            }
            if entry.node.get("name").is_none_or(Node::is_null) {
                let external = entry.node.get("external").and_then(Node::as_bool) == Some(true);
                let full = if external {
                    key.to_string()
                } else {
                    format!("{name}_{key}")
                };
                entry.node.set("name", Node::text(full, entry.key));
            }
        }
    }
}

/// Puts services that name no network on the default network.
fn default_network(document: &mut Node, report: &Report) {
    let mut used = false;
    if let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) {
        for (name, entry) in services {
            let service = &mut entry.node;
            if service.as_map().is_none() || report.is_poisoned(name) {
                continue;
            }
            let given = |key: &str| service.get(key).is_some_and(|node| !node.is_null());
            if given("provider") || given("network_mode") {
                continue;
            }
            let named = service.get("networks").and_then(Node::as_map);
            if named.is_none_or(Mapping::is_empty) {
                let place = entry.key;
                let mut networks = Node::map_for(1, place);
                networks.set("default", Node::null(place));
                service.set("networks", networks);
                used = true;
            } else if named.is_some_and(|named| named.contains_key("default")) {
                used = true;
            }
        }
    }
    if !used {
        return;
    }
    if document.get("networks").is_none_or(Node::is_null) {
        document.set("networks", Node::map(Place::NOWHERE));
    }
    if let Some(networks) = document.get_mut("networks")
        && networks.get("default").is_none()
    {
        networks.set("default", Node::null(Place::NOWHERE));
    }
}

fn service(service: &mut Node, environment: Option<&Environment>) {
    if service.as_map().is_none() {
        return;
    }
    if service.text_of("pull_policy") == Some("if_not_present")
        && let Some(policy) = service.get_mut("pull_policy")
    {
        policy.value = Value::Text("missing".into());
    }
    if let Some(build) = service.get_mut("build")
        && build.as_map().is_some()
    {
        let place = build.place;
        if build.get("dockerfile").is_none() && build.get("dockerfile_inline").is_none() {
            build.set("dockerfile", Node::word("Dockerfile", place));
        }
        if let (Some(args), Some(environment)) = (build.get_mut("args"), environment) {
            from_outside(args, environment);
            if let Some(args) = args.as_map_mut() {
                args.retain(|_, entry| !entry.node.is_null());
            }
        }
    }
    if let (Some(variables), Some(environment)) = (service.get_mut("environment"), environment) {
        from_outside(variables, environment);
    }
    if let Some(mounts) = service.get_mut("volumes")
        && let Value::List(mounts) = &mut mounts.value
    {
        for mount in mounts {
            if let Some(Value::Text(target)) = mount.get_mut("target").map(|node| &mut node.value)
                && !target.is_empty()
                && !is_clean(target)
            {
                *target = clean_path(target).into();
            }
        }
    }
    if let Some(secrets) = service.get_mut("secrets")
        && let Value::List(secrets) = &mut secrets.value
    {
        for secret in secrets {
            if secret.get("target").is_none()
                && let Some(source) = secret.text_of("source").map(str::to_owned)
            {
                secret.set(
                    "target",
                    Node::text(format!("/run/secrets/{source}"), secret.place),
                );
            }
        }
    }
    if let Some(ports) = service.get_mut("ports")
        && let Value::List(ports) = &mut ports.value
    {
        for port in ports {
            let place = port.place;
            for (key, default) in [("mode", "ingress"), ("protocol", "tcp")] {
                if port.as_map().is_some() && port.get(key).is_none() {
                    port.set(key, Node::word(default, place));
                }
            }
        }
    }
    dependencies(service);
}

/// Gives variables without a value the one they have outside, if any.
fn from_outside(variables: &mut Node, environment: &Environment) {
    for (name, entry) in variables.as_map_mut().into_iter().flatten() {
        if entry.node.is_null()
            && let Some(value) = environment.get(name.as_str())
        {
            entry.node.value = Value::Text(value.into());
        }
    }
}

/// Completes `depends_on` and adds what other fields imply.
fn dependencies(service: &mut Node) {
    if let Some(named) = service.get_mut("depends_on").and_then(Node::as_map_mut) {
        for entry in named.values_mut() {
            let place = entry.key;
            if entry.node.as_map().is_some() && entry.node.get("required").is_none() {
                entry.node.set("required", Node::new(Value::Bool(true), place));
            }
        }
    }
    let mut implied: Vec<(String, bool, Place)> = Vec::new();
    if let Some(links) = service.get("links") {
        for link in links.items() {
            if let Some(text) = link.as_text() {
                // `SERVICE:ALIAS`; anything longer is one name.
                let name = match text.split_once(':') {
                    Some((name, alias)) if !alias.contains(':') => name,
                    _ => text,
                };
                implied.push((name.to_owned(), true, link.place));
            }
        }
    }
    for namespace in ["network_mode", "ipc", "pid", "uts", "cgroup"] {
        if let Some(node) = service.get(namespace)
            && let Some(name) = node.as_text().and_then(|text| text.strip_prefix("service:"))
        {
            implied.push((name.to_owned(), true, node.place));
        }
    }
    if let Some(sources) = service.get("volumes_from") {
        for source in sources.items() {
            if let Some(text) = source.as_text().filter(|text| !text.starts_with("container:")) {
                let name = text.split_once(':').map_or(text, |(name, _)| name);
                implied.push((name.to_owned(), false, source.place));
            }
        }
    }
    for (name, restart, place) in implied {
        if service.get("depends_on").is_none_or(Node::is_null) {
            service.set("depends_on", Node::map(place));
        }
        let Some(named) = service.get_mut("depends_on") else {
            continue;
        };
        if named.get(&name).is_none() {
            let mut dependency = Node::map_for(3, place);
            dependency.set("condition", Node::word("service_started", place));
            if restart {
                dependency.set("restart", Node::new(Value::Bool(true), place));
            }
            dependency.set("required", Node::new(Value::Bool(true), place));
            named.set(&name, dependency);
        }
    }
}

/// What file names are relative to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folders<'a> {
    /// The working directory, for messages.
    pub(super) cwd: &'a Path,
    /// The project's, for names that were left relative.
    pub(super) project: &'a Path,
}

/// Reads the environment files of a service into its environment; what the
/// environment says itself wins.
pub(super) fn read_env_files(
    name: &str,
    service: &mut Node,
    environment: &Environment,
    folders: Folders<'_>,
    files: &dyn Files,
    report: &mut Report,
) {
    let Some(named) = service.take("env_file") else {
        return;
    };
    let own = service.get("environment").cloned();
    let mut variables = Mapping::default();
    for file in named.items() {
        let Some(path) = file.text_of("path") else {
            continue;
        };
        let request = EnvFileRequest {
            what: "env",
            path: &folders.project.join(path),
            format: file.text_of("format"),
            required: file.get("required").and_then(Node::as_bool) != Some(false),
            place: file.place,
            cwd: folders.cwd,
        };
        let found = read_env_file(
            &request,
            &|variable| {
                let own = || own.as_ref()?.text_of(variable);
                let outside = environment.get(variable).map(String::as_str);
                outside.or_else(own).map(str::to_owned)
            },
            &|variable| {
                let earlier = variables.get(variable)?;
                earlier.node.as_text().map(str::to_owned)
            },
            files,
            report,
        );
        let Some(found) = found else {
            report.poison(name);
            continue;
        };
        report.note_env_file(name, request.path, folders.cwd, found.keys(), files);
        for (variable, value) in found {
            let node = Node::text(value, file.place);
            variables.insert(
                variable.into(),
                Entry {
                    key: file.place,
                    node,
                },
            );
        }
    }
    if let Some(Value::Map(own)) = own.map(|own| own.value) {
        variables.extend(own);
    }
    if !variables.is_empty() {
        service.set("environment", Node::new(Value::Map(variables), named.place));
    }
}

/// Reads the label files of a service into its labels; what the labels say
/// themselves wins.
pub(super) fn read_label_files(
    name: &str,
    service: &mut Node,
    folders: Folders<'_>,
    files: &dyn Files,
    report: &mut Report,
) {
    let Some(named) = service.take("label_file") else {
        return;
    };
    let mut labels = Mapping::default();
    for file in named.items() {
        let Some(path) = file.as_text() else {
            continue;
        };
        let request = EnvFileRequest {
            what: "label",
            path: &folders.project.join(path),
            format: None,
            required: true,
            place: file.place,
            cwd: folders.cwd,
        };
        let earlier = |label: &str| labels.get(label).and_then(|entry| entry.node.as_text());
        let found = read_env_file(
            &request,
            &|_| None,
            &|label| earlier(label).map(str::to_owned),
            files,
            report,
        );
        let Some(found) = found else {
            report.poison(name);
            continue;
        };
        for (label, value) in found {
            let node = Node::text(value, file.place);
            labels.insert(
                label.into(),
                Entry {
                    key: file.place,
                    node,
                },
            );
        }
    }
    if let Some(Value::Map(own)) = service.take("labels").map(|own| own.value) {
        labels.extend(own);
    }
    if !labels.is_empty() {
        service.set("labels", Node::new(Value::Map(labels), named.place));
    }
}
