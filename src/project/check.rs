//! Whether a normalised document holds together: names that must be defined,
//! values that exclude each other. These are the rules of docker compose's
//! consistency check; what this program asks for beyond them is in `decode`.

use std::collections::HashMap;

use crate::stack::{Code, Diagnostic, Node, Place, Report, Value};

/// What the checks of one service need to know of the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// The document with the enabled services.
    pub(super) document: &'a Node,
    /// Services that are switched off by their profiles.
    pub(super) disabled: &'a std::collections::BTreeMap<String, Vec<String>>,
}

/// Checks that resources, and the long forms of services, are well formed on
/// their own.
pub(super) fn resources(document: &Node, report: &mut Report) {
    for (name, service) in section(document, "services") {
        if !report.is_poisoned(name) {
            long_forms(name, service, report);
        }
    }
    for (key, volume) in section(document, "volumes") {
        if volume.get("external").and_then(Node::as_bool) != Some(true) {
            continue;
        }
        for (field, node) in volume.entries() {
            if !matches!(field, "name" | "external") && !field.starts_with("x-") {
                report.error(
                    node.place,
                    Code::Conflict,
                    format!("volumes.{key}: conflicting parameters \"external\" and {field:?} specified"),
                );
            }
        }
    }
    for (section_name, sources) in [
        ("configs", &["file", "environment", "content"][..]),
        ("secrets", &["file", "environment"][..]),
    ] {
        for (key, node) in section(document, section_name) {
            let given = sources.iter().filter(|source| node.get(source).is_some()).count();
            let path = format!("{section_name}.{key}");
            let list = sources.join("|");
            if given > 1 {
                report.error(
                    node.place,
                    Code::Conflict,
                    format!("{path}: {list} attributes are mutually exclusive"),
                );
            } else if given == 0 && node.get("driver").is_none() && node.get("external").is_none() {
                report.error(
                    node.place,
                    Code::Schema,
                    format!("{path}: one of {list} must be set"),
                );
            }
        }
    }
}

/// Checks that what is written in long form says where it leads to.
fn long_forms(name: &str, service: &Node, report: &mut Report) {
    for (list, what, target) in [
        ("ports", "port", "target port"),
        ("volumes", "volume", "mount target"),
        ("devices", "device", "mount target"),
    ] {
        let items = service.get(list).into_iter().flat_map(Node::items).enumerate();
        for (index, item) in items.filter(|(_, item)| item.as_map().is_some()) {
            let negative = |node: &Node| node.as_int().is_some_and(|number| number < 0);
            let target_node = item.get("target").filter(|node| !node.is_null());
            let message = match target_node {
                None => format!("service {what} services.{name}.{list}.[{index}] is missing a {target}"),
                Some(node) if negative(node) => {
                    format!("services.{name}.{list}.{index}.target must be greater than or equal to 0")
                }
                Some(_) => continue,
            };
            report.poison(name);
            report.error(item.place, Code::Schema, message);
        }
    }
}

/// The entries of a top-level section.
pub(super) fn section<'d>(document: &'d Node, name: &str) -> impl Iterator<Item = (&'d str, &'d Node)> {
    document.get(name).into_iter().flat_map(Node::entries)
}

/// What was wrong with a service: a place, and what to say.
type Problem = (Place, Diagnostic);

/// Checks one service; marks it when something is wrong.
pub(super) fn service(name: &str, key: Place, node: &Node, context: Context<'_>, report: &mut Report) {
    let mut problems = Vec::new();
    sources(name, key, node, report.is_incomplete(name), &mut problems);
    references(name, node, context, &mut problems);
    dependencies(name, node, context, &mut problems);
    amounts(name, node, &mut problems);
    targets(name, node, &mut problems);
    if let Some(develop) = node.get("develop").and_then(|develop| develop.get("watch")) {
        for rule in develop.items() {
            let action = rule.text_of("action").unwrap_or_default();
            if rule.text_of("path") == Some("") {
                problems.push(error(
                    rule.place,
                    Code::Schema,
                    format!("services.{name}.develop.watch: path value can't be blank"),
                ));
            }
            let command = rule.get("exec").and_then(|exec| given(exec, "command"));
            if action == "sync+exec" && command.is_none() {
                problems.push(error(
                    rule.place,
                    Code::Schema,
                    format!("services.{name}.develop.watch: can't watch with action \"sync+exec\" without a command"),
                ));
            }
            if rule.text_of("target").is_none_or(str::is_empty) && !matches!(action, "rebuild" | "restart") {
                problems.push(error(
                    rule.place,
                    Code::Schema,
                    format!("services.{name}.develop.watch: target is required for non-rebuild actions"),
                ));
            }
        }
    }
    if !problems.is_empty() {
        report.poison(name);
    }
    for (place, diagnostic) in problems {
        report.push_at(place, diagnostic);
    }
}

fn error(place: Place, code: Code, message: String) -> Problem {
    (place, Diagnostic::error(code, message))
}

fn given<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    node.get(key).filter(|node| !node.is_null())
}

fn sources(name: &str, key: Place, node: &Node, incomplete: bool, problems: &mut Vec<Problem>) {
    let build = given(node, "build");
    let image = node.text_of("image").filter(|image| !image.is_empty());
    if !incomplete && build.is_none() && image.is_none() && given(node, "provider").is_none() {
        problems.push((
            key,
            Diagnostic::error(
                Code::Schema,
                format!(
                    "service {name:?} has neither an image nor a build context specified: invalid compose project"
                ),
            )
            .hint("give it an `image`"),
        ));
    }
    let Some(build) = build else {
        return;
    };
    if given(build, "dockerfile").is_some()
        && let Some(inline) = given(build, "dockerfile_inline")
    {
        problems.push(error(
            inline.place,
            Code::Conflict,
            format!(
                "service {name:?} declares mutualy exclusive dockerfile and dockerfile_inline: invalid compose project"
            ),
        ));
    }
    if let (Some(platforms), Some(platform)) = (build.get("platforms"), node.text_of("platform"))
        && platforms.items().next().is_some()
        && !platforms.items().any(|item| item.as_text() == Some(platform))
    {
        problems.push(error(
            platforms.place,
            Code::Conflict,
            format!(
                "service.build.platforms MUST include service.platform {platform:?}: invalid compose project"
            ),
        ));
    }
}

/// A suggestion among the names of a section.
fn suggestion(context: Context<'_>, section_name: &str, wanted: &str) -> Option<String> {
    let near = section(context.document, section_name)
        .map(|(key, _)| {
            let distance = strsim::damerau_levenshtein(wanted, key);
            // Of two that are as near, first letters are rarely wrong.
            (distance, wanted.chars().next() != key.chars().next(), key)
        })
        .filter(|(distance, _, key)| *distance <= 2 && *distance < key.chars().count())
        .min()?;
    Some(format!("did you mean `{}`?", near.2))
}

fn references(name: &str, node: &Node, context: Context<'_>, problems: &mut Vec<Problem>) {
    let mut undefined = |kind: &str, section_name: &str, wanted: &str, place: Place| {
        if context
            .document
            .get(section_name)
            .and_then(|section| section.get(wanted))
            .is_some()
        {
            return;
        }
        let mut diagnostic = Diagnostic::error(
            Code::Reference,
            format!("service {name:?} refers to undefined {kind} {wanted}: invalid compose project"),
        );
        diagnostic.hint = suggestion(context, section_name, wanted)
            .or_else(|| Some(format!("define it under the top-level `{section_name}`")));
        problems.push((place, diagnostic));
    };
    // With a network mode, having networks at all is what is wrong.
    if let Some(networks) = node.get("networks").and_then(Node::as_map)
        && given(node, "network_mode").is_none()
    {
        for (network, entry) in networks {
            undefined("network", "networks", network, entry.key);
        }
    }
    for mount in node.get("volumes").into_iter().flat_map(Node::items) {
        if mount.text_of("type") == Some("volume")
            && let Some(source) = mount.text_of("source").filter(|source| !source.is_empty())
        {
            undefined("volume", "volumes", source, mount.place);
        }
    }
    for (section_name, kind) in [("configs", "config"), ("secrets", "secret")] {
        for grant in node.get(section_name).into_iter().flat_map(Node::items) {
            undefined(
                kind,
                section_name,
                grant.text_of("source").unwrap_or_default(),
                grant.place,
            );
        }
    }
    if let Some(secrets) = node.get("build").and_then(|build| build.get("secrets")) {
        for grant in secrets.items() {
            if let Some(source) = grant.text_of("source") {
                undefined("build secret", "secrets", source, grant.place);
            }
        }
    }
    for (model, value) in node.get("models").into_iter().flat_map(Node::entries) {
        undefined("model", "models", model, value.place);
    }
}

fn dependencies(name: &str, node: &Node, context: Context<'_>, problems: &mut Vec<Problem>) {
    let exists = |service: &str| {
        context
            .document
            .get("services")
            .and_then(|services| services.get(service))
            .is_some()
    };
    if let Some(mode) = given(node, "network_mode") {
        if given(node, "networks")
            .is_some_and(|networks| networks.as_map().is_some_and(|map| !map.is_empty()))
        {
            problems.push(error(
                mode.place,
                Code::Conflict,
                format!(
                    "service {name} declares mutually exclusive `network_mode` and `networks`: invalid compose project"
                ),
            ));
        }
        if let Some(other) = mode.as_text().and_then(|mode| mode.strip_prefix("service:"))
            && !exists(other)
            && given(node, "depends_on").is_none_or(|named| named.get(other).is_none())
        {
            problems.push(error(
                mode.place,
                Code::Reference,
                format!("service {other:?} not found for network_mode 'service:{other}'"),
            ));
        }
    }
    let Some(named) = node.get("depends_on").and_then(Node::as_map) else {
        return;
    };
    for (wanted, entry) in named {
        if exists(wanted) {
            continue;
        }
        let required = entry.node.get("required").and_then(Node::as_bool) != Some(false);
        match context.disabled.get(wanted.as_str()) {
            Some(_) if !required => {}
            Some(profiles) => problems.push((
                entry.key,
                Diagnostic::error(
                    Code::Reference,
                    format!(
                        "service {wanted} is required by {name} but is disabled. Can be enabled by profiles [{}]",
                        profiles.join(" ")
                    ),
                )
                .hint(format!("switch it on with --profile {}", profiles.join(" or --profile "))),
            )),
            None => {
                let mut diagnostic = Diagnostic::error(
                    Code::Reference,
                    format!("service {name:?} depends on undefined service {wanted:?}: invalid compose project"),
                );
                diagnostic.hint = suggestion(context, "services", wanted);
                problems.push((entry.key, diagnostic));
            }
        }
    }
}

/// A number of the document, whatever kind it is written as.
fn number(node: Option<&Node>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "compared with its like only")]
    match &node?.value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn amounts(name: &str, node: &Node, problems: &mut Vec<Problem>) {
    let deploy = node.get("deploy");
    let at = |keys: &[&str]| {
        keys.iter()
            .try_fold(deploy?, |node, key| node.get(key))
            .filter(|node| !node.is_null())
    };
    let scale = given(node, "scale");
    let replicas = at(&["replicas"]);
    let pairs = [
        ("cpus", "limits", "cpus"),
        ("mem_limit", "limits", "memory"),
        ("mem_reservation", "reservations", "memory"),
        ("pids_limit", "limits", "pids"),
    ];
    if let (Some(one), Some(other)) = (scale, replicas)
        && number(Some(one)) != number(Some(other))
    {
        problems.push(error(
            one.place,
            Code::Conflict,
            format!(
                "services.{name}: can't set distinct values on 'scale' and 'deploy.replicas': invalid compose project"
            ),
        ));
    }
    for (field, group, key) in pairs {
        let Some(value) = given(node, field) else {
            continue;
        };
        // An empty group of limits says nothing; another value in it does.
        let other = at(&["resources", group, key]);
        if other.is_some() && number(Some(value)) != number(other) {
            problems.push(error(
                value.place,
                Code::Conflict,
                format!(
                    "services.{name}: can't set distinct values on '{field}' and 'deploy.resources.{group}.{key}': \
                     invalid compose project"
                ),
            ));
        }
    }
    for (path, value) in [("scale", scale), ("deploy.replicas", replicas)] {
        if let Some(value) = value
            && number(Some(value)).is_some_and(|number| number < 0.0)
        {
            problems.push(error(
                value.place,
                Code::Schema,
                format!("services.{name}.{path}: must be greater than or equal to 0"),
            ));
        }
    }
    let (attribute, count) = match scale {
        Some(scale) => ("scale", Some(scale)),
        None => ("deploy.replicas", replicas),
    };
    if let Some(container_name) = given(node, "container_name")
        && number(count).is_some_and(|count| count > 1.0)
    {
        problems.push(error(
            container_name.place,
            Code::Conflict,
            format!(
                "services.{name}: can't set container_name and {attribute} as container name must be unique: \
                 invalid compose project"
            ),
        ));
    }
    if let Some(retries) = node.get("healthcheck").and_then(|check| check.get("retries"))
        && number(Some(retries)).is_some_and(|number| number < 0.0)
    {
        problems.push(error(
            retries.place,
            Code::Schema,
            format!("services.{name}.healthcheck.retries: must be greater than or equal to 0"),
        ));
    }
    if let Some(check) = node.get("healthcheck").and_then(|check| check.get("test"))
        && let Some(first) = check.items().next()
        && !matches!(first.as_text(), Some("CMD" | "CMD-SHELL" | "NONE"))
    {
        problems.push(error(
            first.place,
            Code::Schema,
            format!(
                "services.{name}: healthcheck.test must start either by \"CMD\", \"CMD-SHELL\" or \"NONE\""
            ),
        ));
    }
    for request in node.get("gpus").into_iter().flat_map(Node::items).chain(
        at(&["resources", "reservations", "devices"])
            .into_iter()
            .flat_map(Node::items),
    ) {
        if request.get("count").is_some() && request.get("device_ids").is_some() {
            problems.push(error(
                request.place,
                Code::Conflict,
                format!("services.{name}: devices: \"count\" and \"device_ids\" attributes are exclusive"),
            ));
        }
    }
}

fn targets(name: &str, node: &Node, problems: &mut Vec<Problem>) {
    let tmpfs = node.get("tmpfs").into_iter().flat_map(Node::items).enumerate();
    let tmpfs = tmpfs.filter_map(|(index, item)| {
        let text = item.as_text()?;
        let target = text.split_once(':').map_or(text, |(target, _)| target);
        Some(("tmpfs", index, target, item))
    });
    let mounts = node.get("volumes").into_iter().flat_map(Node::items).enumerate();
    let mounts = mounts.filter_map(|(index, item)| Some(("volumes", index, item.text_of("target")?, item)));
    let mut taken: HashMap<&str, (&str, usize), foldhash::fast::RandomState> = HashMap::default();
    for (list, index, target, item) in tmpfs.chain(mounts) {
        if let Some((earlier, at)) = taken.get(target) {
            problems.push(error(
                item.place,
                Code::Conflict,
                format!(
                    "services.{name}.{list}[{index}]: target {target} already mounted as \
                     services.{name}.{earlier}[{at}]"
                ),
            ));
        } else {
            taken.insert(target, (list, index));
        }
    }
    for (index, mount) in node.get("volumes").into_iter().flat_map(Node::items).enumerate() {
        if mount.text_of("type") == Some("bind") && mount.text_of("source").is_none_or(str::is_empty) {
            problems.push(error(
                mount.place,
                Code::Schema,
                format!(
                    "services.{name}.volumes[{index}]: invalid mount config for type \"bind\": \
                     field Source must not be empty"
                ),
            ));
        }
    }
    for (index, port) in node.get("ports").into_iter().flat_map(Node::items).enumerate() {
        if let Some(address) = port.get("host_ip")
            && let Some(text) = address.as_text()
            && text.parse::<std::net::IpAddr>().is_err()
        {
            problems.push(error(
                address.place,
                Code::Schema,
                format!("services.{name}.ports.{index}: invalid ip address: {text}"),
            ));
        }
    }
}

/// Secrets that nothing fills. Only asked once services are known to be sound,
/// as docker compose does.
pub(super) fn secrets(document: &Node, report: &mut Report) {
    for (key, secret) in section(document, "secrets") {
        let named = |source: &str| secret.text_of(source).is_some_and(|text| !text.is_empty());
        let filled = named("file")
            || named("environment")
            || secret.get("external").and_then(Node::as_bool) == Some(true);
        // With none of these it has been reported as a resource already.
        let seen = ["file", "environment", "external", "driver"];
        if !filled && seen.iter().any(|key| secret.get(key).is_some()) {
            report.error(
                secret.place,
                Code::Schema,
                format!(
                    "secret {key:?} must declare either `file` or `environment`: invalid compose project"
                ),
            );
        }
    }
}

/// Container names that two services share.
pub(super) fn container_names(document: &Node, report: &mut Report) {
    let mut taken: HashMap<&str, &str> = HashMap::new();
    for (name, service) in section(document, "services") {
        let Some(container_name) = given(service, "container_name") else {
            continue;
        };
        let Some(text) = container_name.as_text() else {
            continue;
        };
        if let Some(other) = taken.insert(text, name) {
            report.error(
                container_name.place,
                Code::Conflict,
                format!("services.{name}: container name {text:?} is already in use by service {other}"),
            );
        }
    }
}

/// Services that one depends on, by index, and where it says so.
type Edges = Vec<(usize, Place)>;

/// A circle of more services is not written out.
const LONGEST_CIRCLE: usize = 20;

/// Services that wait for each other.
pub(super) fn cycles(document: &Node, report: &mut Report) {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Now,
        Done,
    }
    // What is wrong with a service may be why it is in a circle.
    let services: Vec<(&str, &Node)> = section(document, "services")
        .filter(|(name, _)| !report.is_poisoned(name))
        .collect();
    let index: HashMap<&str, usize> = services
        .iter()
        .enumerate()
        .map(|(at, (name, _))| (*name, at))
        .collect();
    let below = |at: usize| -> Vec<(usize, Place)> {
        let named = services
            .get(at)
            .and_then(|(_, service)| service.get("depends_on"));
        let named = named.and_then(Node::as_map).into_iter().flatten();
        named
            .filter_map(|(name, entry)| Some((*index.get(name.as_str())?, entry.key)))
            .collect()
    };
    let mut seen: Vec<Option<Seen>> = vec![None; services.len()];
    for start in 0..services.len() {
        if seen.get(start) != Some(&None) {
            continue;
        }
        // A stack of our own: a chain may be as long as the stack has services.
        let mut way: Vec<(usize, Place, Edges)> = vec![(start, Place::NOWHERE, below(start))];
        if let Some(seen) = seen.get_mut(start) {
            *seen = Some(Seen::Now);
        }
        while let Some((at, _, left)) = way.last_mut() {
            let at = *at;
            let Some((next, place)) = left.pop() else {
                if let Some(seen) = seen.get_mut(at) {
                    *seen = Some(Seen::Done);
                }
                way.pop();
                continue;
            };
            match seen.get(next).copied().flatten() {
                Some(Seen::Done) => {}
                Some(Seen::Now) => {
                    let from = way.iter().position(|(at, ..)| *at == next).unwrap_or(0);
                    let circle: Vec<(usize, Place)> = way
                        .iter()
                        .skip(from)
                        .map(|(at, place, _)| (*at, *place))
                        .collect();
                    circular(&services, &circle, place, report);
                    return;
                }
                None => {
                    if let Some(seen) = seen.get_mut(next) {
                        *seen = Some(Seen::Now);
                    }
                    way.push((next, place, below(next)));
                }
            }
        }
    }
}

/// Reports one circle of services; it begins with the first one by name.
fn circular(services: &[(&str, &Node)], circle: &[(usize, Place)], last: Place, report: &mut Report) {
    let name = |at: usize| services.get(at).map_or("", |(name, _)| *name);
    // Each with the place at which it depends on the next one.
    let mut steps: Vec<(&str, Place)> = Vec::new();
    for (position, (at, _)) in circle.iter().enumerate() {
        let place = circle.get(position + 1).map_or(last, |(_, place)| *place);
        steps.push((name(*at), place));
    }
    let least = (0..steps.len())
        .min_by_key(|at| steps.get(*at).map(|step| step.0))
        .unwrap_or(0);
    steps.rotate_left(least);
    let names: Vec<&str> = steps
        .iter()
        .map(|(name, _)| *name)
        .chain(steps.first().map(|(name, _)| *name))
        .collect();
    let pairs = names.windows(2).zip(&steps);
    let shown: Vec<String> = pairs
        .map(|(pair, (_, place))| match report.origin(*place) {
            Some(origin) => format!("{} ({origin})", pair.join(" -> ")),
            None => pair.join(" -> "),
        })
        .collect();
    let place = steps.first().map_or(last, |(_, place)| *place);
    let mut names: Vec<&str> = names;
    let mut shown = shown;
    if names.len() > LONGEST_CIRCLE {
        let tail = names.split_off(names.len() - 3);
        names.truncate(LONGEST_CIRCLE - 3);
        names.push("…");
        names.extend(tail);
    }
    if shown.len() > LONGEST_CIRCLE {
        shown.truncate(LONGEST_CIRCLE);
        shown.push("…".to_owned());
    }
    report.error_hint(
        place,
        Code::Conflict,
        format!("dependency cycle detected: {}", names.join(" -> ")),
        format!("take one of these away: {}", shown.join(", ")),
    );
}
