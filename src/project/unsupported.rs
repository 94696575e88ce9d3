//! What this host cannot run yet, in one table.
//!
//! A value that is there and cannot be honoured must never be accepted and
//! ignored: [`check`] refuses it with its place and the reason. `config` and
//! `explain` never ask; what runs a stack, or plans to, always does. Whoever
//! implements a field takes its line out of [`TABLE`], and nothing else needs to
//! change: the typed project has the value already.

use std::collections::BTreeMap;

use super::WrongOption;
use crate::stack::{Code, Diagnostic, Entry, Node, Place, Report, Trail, Value};

/// A value that cannot be run.
#[derive(Clone, Copy, Debug)]
pub struct Unsupported {
    /// Where: dotted, `*` is any key or index.
    pub path: &'static str,
    /// Which values.
    pub when: When,
    /// Why, or what to do instead.
    pub reason: &'static str,
}

/// Which values of a field cannot be run.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// All that differ from leaving the field out.
    Said,
    /// As [`When::Said`], but the field has no bearing on how a service runs, so
    /// that a warning is enough.
    Mentioned,
    /// `false`.
    False,
    /// All texts but these, and but an empty one.
    Not(&'static [&'static str]),
    /// These texts.
    Is(&'static [&'static str]),
    /// Texts for which this holds.
    Text(fn(&str) -> bool),
    /// Values for which this holds; the second node is the mapping they are in.
    Within(fn(&Node, &Node) -> bool),
    /// Options of a driver of which one is wrong; what is wrong is said in place
    /// of the reason.
    Options(fn(&BTreeMap<String, String>) -> Option<WrongOption>),
}

use When::{False, Is, Mentioned, Not, Options, Said, Text, Within};

const fn no(path: &'static str, when: When, reason: &'static str) -> Unsupported {
    Unsupported { path, when, reason }
}

const NO_SWARM: &str = "there is one machine and no scheduler to honour it";
const NO_WINDOWS: &str = "it is for Windows containers";
const NOT_ITS_NETWORK: &str = "the resolver belongs to the network it shares; say it there";
const NO_OTHERS_FILES: &str = "there is no store of them outside of stacks; use file, environment or content";
const WRONG_LOG_OPTIONS: &str = "json-file and local have max-size (a size like 10m), max-file (a number from 1 on), \
    compress=false and mode=blocking; json-file, syslog and journald tag (with fields like {{.Name}}), labels, env, and \
    patterns of them in labels-regex and env-regex; syslog syslog-address (udp://HOST:PORT, tcp://HOST:PORT, \
    unix://PATH; for TLS, a relay on this machine), syslog-facility and syslog-format; syslog and journald \
    cache-disabled, cache-max-size and cache-max-file; none has none";

const BUILT_IN: &str =
    "only the built-in runtime does it (init, ipc of others, mounts of images and parts of volumes)";

/// Everything that cannot be run yet. One line a field.
pub static TABLE: &[Unsupported] = &[
    // Images and builds.
    no(
        "services.*.build",
        Said,
        "building images is not supported yet; give an image",
    ),
    no(
        "services.*.platform",
        Text(foreign_platform),
        "containers run as this machine's platform",
    ),
    no(
        "services.*.pull_policy",
        Text(built),
        "building images is not supported yet; use another policy",
    ),
    no(
        "services.*.provider",
        Said,
        "providers are other programs; none is run",
    ),
    no("services.*.models", Said, "models are not implemented"),
    no(
        "services.*.develop.watch.*.action",
        Is(&["rebuild"]),
        "building images is not implemented yet; use sync, sync+restart, sync+exec or restart",
    ),
    // What containers are given.
    no(
        "services.*.device_cgroup_rules.*",
        Text(all_with_numbers),
        "kind `a` stands for every device; write `a *:*`, or `b` or `c` with numbers",
    ),
    no("services.*.use_api_socket", Said, "there is no engine socket"),
    no(
        "services.*.volumes.*.type",
        Not(&["bind", "volume", "tmpfs", "image"]),
        "use bind, volume, tmpfs or image",
    ),
    no(
        "services.*.volumes.*.volume",
        Within(named_with_labels),
        "a named volume has its labels below `volumes`",
    ),
    no(
        "services.*.storage_opt",
        Said,
        "the writable layer has no options",
    ),
    no(
        "services.*.logging.driver",
        Not(&super::LOG_DRIVERS),
        "the log drivers are json-file, local, none, syslog and journald",
    ),
    no(
        "services.*.logging.options",
        Within(wrong_log_options),
        WRONG_LOG_OPTIONS,
    ),
    no(
        "services.*.devices.*.permissions",
        Text(no_permissions),
        "write a combination of r, w and m",
    ),
    // How they are connected.
    no("services.*.dns", Within(shares_network), NOT_ITS_NETWORK),
    no("services.*.dns_opt", Within(shares_network), NOT_ITS_NETWORK),
    no("services.*.dns_search", Within(shares_network), NOT_ITS_NETWORK),
    no(
        "services.*.links",
        Within(no_networks),
        "links need a network that both services are on",
    ),
    no(
        "services.*.external_links",
        Within(no_networks),
        "links need a network that both containers are on",
    ),
    no(
        "services.*.mac_address",
        Within(no_networks),
        "conflicting options: mac-address and the network mode",
    ),
    no(
        "services.*.mac_address",
        Within(differs_on_main_network),
        "the address of its main network, the one with the highest priority, should have the same value",
    ),
    no(
        "services.*.network_mode",
        Text(foreign_network),
        "use `bridge`, `none`, `host`, `service:NAME`, `container:NAME`, or `networks`",
    ),
    no(
        "services.*.ports.*.protocol",
        Is(&["sctp", "SCTP"]),
        "use tcp or udp",
    ),
    no(
        "services.*.networks.*.driver_opts",
        Options(super::driver::wrong_endpoint_option),
        "there are com.docker.network.endpoint.sysctls and com.docker.network.endpoint.ifname",
    ),
    no(
        "networks.*.driver",
        Not(&["bridge", "default"]),
        "use bridge, or leave it out; those called host and none are `external: true` with that name",
    ),
    no(
        "networks.*.driver_opts",
        Within(isolated_with_a_way_out),
        "gateway mode isolated is for networks that are internal",
    ),
    no(
        "networks.*.driver_opts",
        Options(super::driver::wrong_network_option),
        "docs/compose.md lists the options of a bridge",
    ),
    no(
        "networks.*.enable_ipv4",
        False,
        "a network without IPv4 is not supported",
    ),
    no(
        "networks.*.ipam.driver",
        Not(&["default"]),
        "use default, or leave it out",
    ),
    no(
        "networks.*.ipam.options",
        Said,
        "address pools have no driver options",
    ),
    no(
        "volumes.*.driver",
        Not(&["local", "default"]),
        "use local, or leave it out",
    ),
    no(
        "volumes.*.driver_opts",
        Options(super::wrong_volume_option),
        "docker's local driver has type, device and o",
    ),
    no("secrets.*.external", Said, NO_OTHERS_FILES),
    no("configs.*.external", Said, NO_OTHERS_FILES),
    no("secrets.*.driver", Said, "there are no drivers of secrets"),
    no("secrets.*.driver_opts", Said, "there are no drivers of secrets"),
    no("secrets.*.template_driver", Said, "templates are not expanded"),
    no("configs.*.template_driver", Said, "templates are not expanded"),
    // How they run.
    no(
        "services.*.uts",
        Within(names_a_host),
        "the host's name is the host's; take hostname and domainname out",
    ),
    no(
        "services.*.userns_mode",
        Not(&["host"]),
        "containers are in the host's user namespace: use `host`, or leave it out",
    ),
    no(
        "services.*.cgroup_parent",
        Text(no_cgroup),
        "write a path of names, without `.` and `..`",
    ),
    no("services.*.isolation", Not(&["default"]), NO_WINDOWS),
    no("services.*.credential_spec", Said, NO_WINDOWS),
    no("services.*.init", Within(elsewhere), BUILT_IN),
    no("services.*.ipc", Within(shares_memory_elsewhere), BUILT_IN),
    no("services.*.volumes", Within(mounts_parts_elsewhere), BUILT_IN),
    no(
        "services.*.security_opt.*",
        Text(foreign_security),
        "no-new-privileges, seccomp=unconfined, seccomp=FILE, apparmor=PROFILE, systempaths=unconfined and label=disable are",
    ),
    no("services.*.cpu_count", Said, NO_WINDOWS),
    no("services.*.cpu_percent", Said, NO_WINDOWS),
    no(
        "services.*.cpu_period",
        Within(says_cpus),
        "`cpus` says the same; write one of them",
    ),
    no(
        "services.*.cpu_quota",
        Within(says_cpus),
        "`cpus` says the same; write one of them",
    ),
    // How many there are, and how they change.
    no(
        "services.*.deploy.mode",
        Not(&["replicated"]),
        "only `replicated` is",
    ),
    no(
        "services.*.deploy.labels",
        Mentioned,
        "only containers have labels here, as with docker compose: write them in `labels`",
    ),
    no(
        "services.*.deploy.resources.reservations.cpus",
        Said,
        "processors cannot be set aside for a container",
    ),
    no(
        "services.*.deploy.resources.reservations.generic_resources",
        Said,
        NO_SWARM,
    ),
    no(
        "services.*.deploy.placement.constraints.*",
        Text(wrong_place),
        "this machine is a manager that runs linux; conditions on node.role, node.platform and node.hostname are known",
    ),
    no(
        "services.*.deploy.placement",
        Within(too_many_for_one),
        "there is one machine, and max_replicas_per_node is less than there are containers",
    ),
    no(
        "services.*.deploy.endpoint_mode",
        Not(&["dnsrr"]),
        "the name of a service stands for the addresses of all its containers, which is dnsrr",
    ),
];

/// Whether a runtime is the built-in one, which stands for `runc`.
pub fn runs_here(name: &str) -> bool {
    matches!(name, "" | "runc" | "io.containerd.runc.v2")
}

/// Whether something is said of a service that another runtime runs.
fn elsewhere(node: &Node, service: &Node) -> bool {
    says_something(node) && service.text_of("runtime").is_some_and(|name| !runs_here(name))
}

fn shares_memory_elsewhere(ipc: &Node, service: &Node) -> bool {
    let text = ipc.as_text().unwrap_or_default();
    text.contains(':') && elsewhere(ipc, service)
}

fn mounts_parts_elsewhere(mounts: &Node, service: &Node) -> bool {
    let partial = |mount: &Node| {
        let part = mount.get("volume").and_then(|options| options.text_of("subpath"));
        mount.text_of("type") == Some("image") || part.is_some_and(|part| !part.is_empty())
    };
    mounts.items().any(partial) && elsewhere(mounts, service)
}

fn named_with_labels(options: &Node, mount: &Node) -> bool {
    let named = mount.text_of("source").is_some_and(|source| !source.is_empty());
    named && options.get("labels").is_some_and(says_something)
}

fn wrong_place(text: &str) -> bool {
    super::placement::condition(text) == super::placement::Condition::Fails
}

/// Whether more containers are wanted than may be on one machine.
fn too_many_for_one(placement: &Node, deploy: &Node) -> bool {
    let number = |node: Option<&Node>| match &node?.value {
        Value::Int(number) => Some(*number),
        _ => node?.as_text()?.parse().ok(),
    };
    let most = number(placement.get("max_replicas_per_node")).filter(|most| *most > 0);
    most.is_some_and(|most| number(deploy.get("replicas")).unwrap_or(1) > most)
}

fn no_permissions(text: &str) -> bool {
    !super::decode::is_device_permissions(text)
}

/// Whether a pull policy wants the image built.
fn built(text: &str) -> bool {
    text == "build"
}

/// Whether a platform is not this machine's.
fn foreign_platform(text: &str) -> bool {
    !super::decode::is_this_platform(text)
}

/// Whether a network mode is of networks of an engine, but for its bridge.
fn foreign_network(text: &str) -> bool {
    let known = matches!(text, "none" | "host") || super::decode::is_bridge(text);
    !known && !text.starts_with("service:") && !text.starts_with("container:")
}

fn foreign_security(text: &str) -> bool {
    let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    let file = matches!(name, "seccomp" | "apparmor") && !value.is_empty();
    let known = matches!(
        (name, value),
        ("no-new-privileges", "" | "true" | "false") | ("systempaths", "unconfined") | ("label", "disable")
    );
    !file && !known
}

fn wrong_log_options(options: &Node, logging: &Node) -> bool {
    let Value::Map(map) = &options.value else {
        return false;
    };
    let text = |node: &Node| match &node.value {
        Value::Int(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => node.as_text().unwrap_or_default().to_owned(),
    };
    let table = map
        .iter()
        .map(|(key, entry)| (key.to_string(), text(&entry.node)));
    super::Logging::of(logging.text_of("driver"), table.collect())
        .bounds()
        .is_err()
}

fn all_with_numbers(text: &str) -> bool {
    let mut words = text.split_ascii_whitespace();
    words.next() == Some("a") && words.next() != Some("*:*")
}

fn no_cgroup(text: &str) -> bool {
    let path = text.trim_matches('/');
    path.is_empty() || path.split('/').any(|name| matches!(name, "" | "." | ".."))
}

fn shares_network(node: &Node, service: &Node) -> bool {
    let mode = service.text_of("network_mode").unwrap_or_default();
    says_something(node) && (mode.starts_with("service:") || mode.starts_with("container:"))
}

fn no_networks(node: &Node, service: &Node) -> bool {
    let mode = service.text_of("network_mode").unwrap_or_default();
    says_something(node) && !mode.is_empty()
}

fn isolated_with_a_way_out(driver_opts: &Node, network: &Node) -> bool {
    let isolated = super::BridgeOptions::of(&options(driver_opts))
        .is_ok_and(|options| options.gateway.contains(&super::GatewayMode::Isolated));
    isolated && network.get("internal").and_then(Node::as_bool) != Some(true)
}

fn differs_on_main_network(mac: &Node, service: &Node) -> bool {
    let networks = service.get("networks").into_iter().flat_map(Node::entries);
    let priority = |node: &Node| match node.get("priority").map(|node| &node.value) {
        Some(Value::Int(number)) => *number,
        _ => 0,
    };
    let main = networks.min_by_key(|(key, node)| (std::cmp::Reverse(priority(node)), *key));
    let address = |node: &Node| super::decode::mac_address(node.as_text()?);
    let own = main.and_then(|(_, node)| address(node.get("mac_address")?));
    own.is_some() && own != address(mac)
}

fn names_a_host(node: &Node, service: &Node) -> bool {
    let said = |key| service.get(key).is_some_and(says_something);
    node.as_text() == Some("host") && (said("hostname") || said("domainname"))
}

fn says_cpus(node: &Node, service: &Node) -> bool {
    let deploy = ["deploy", "resources", "limits", "cpus"]
        .iter()
        .try_fold(service, |node, key| node.get(key));
    let said = |cpus: Option<&Node>| cpus.is_some_and(says_something);
    says_something(node) && (said(service.get("cpus")) || said(deploy))
}

/// Reports every value of a normalised document that cannot be run.
pub(super) fn check(document: &Node, report: &mut Report) {
    let rules: Vec<Rule<'_>> = TABLE
        .iter()
        .map(|entry| Rule {
            entry,
            left: entry.path,
        })
        .collect();
    walk(document, &rules, &Trail::Root, report);
}

/// An entry, and what is left of its path.
#[derive(Clone, Copy)]
struct Rule<'t> {
    entry: &'t Unsupported,
    left: &'t str,
}

/// The rules that a key leads to: those that end here, and those that go on.
fn step<'t>(rules: &[Rule<'t>], key: Option<&str>) -> (Vec<&'t Unsupported>, Vec<Rule<'t>>) {
    let (mut here, mut below) = (Vec::new(), Vec::new());
    for rule in rules {
        let (head, rest) = match rule.left.split_once('.') {
            Some((head, rest)) => (head, Some(rest)),
            None => (rule.left, None),
        };
        if head != "*" && Some(head) != key {
            continue;
        }
        match rest {
            Some(left) => below.push(Rule {
                entry: rule.entry,
                left,
            }),
            None => here.push(rule.entry),
        }
    }
    (here, below)
}

fn walk(node: &Node, rules: &[Rule<'_>], trail: &Trail<'_>, report: &mut Report) {
    let mut visit = |key: Option<&str>, place: Place, value: &Node, trail: &Trail<'_>| {
        let (here, below) = step(rules, key);
        for entry in here {
            // What is wrong with a service comes first: its values may be none.
            let whole = matches!(entry.when, Said | Mentioned);
            let known = whole || trail.service().is_none_or(|service| !report.is_poisoned(service));
            if known && applies(entry.when, value, node) {
                refuse(entry, value, place, trail, report);
            }
        }
        if !below.is_empty() {
            walk(value, &below, trail, report);
        }
    };
    match &node.value {
        Value::List(list) => {
            for (index, item) in list.iter().enumerate() {
                visit(None, item.place, item, &trail.index(index));
            }
        }
        Value::Map(map) => {
            for (key, Entry { key: place, node }) in map {
                visit(Some(key), *place, node, &trail.key(key));
            }
        }
        _ => {}
    }
}

/// Whether a value differs from leaving it out.
fn says_something(node: &Node) -> bool {
    match &node.value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Text(text) => !text.is_empty() && text != "0",
        Value::List(list) => !list.is_empty(),
        Value::Map(map) => !map.is_empty(),
    }
}

fn applies(when: When, node: &Node, parent: &Node) -> bool {
    let text = node.as_text().unwrap_or_default();
    match when {
        Said | Mentioned => says_something(node),
        False => node.as_bool() == Some(false),
        Not(known) => !text.is_empty() && !known.contains(&text),
        Is(known) => known.contains(&text),
        Text(holds) => !text.is_empty() && holds(text),
        Within(holds) => !node.is_null() && holds(node, parent),
        Options(wrong) => wrong(&options(node)).is_some(),
    }
}

/// The texts of a mapping.
fn options(node: &Node) -> BTreeMap<String, String> {
    node.entries()
        .filter_map(|(key, node)| Some((key.to_owned(), node.scalar_text()?)))
        .collect()
}

fn refuse(entry: &Unsupported, node: &Node, place: Place, trail: &Trail<'_>, report: &mut Report) {
    let reason = entry.reason;
    if let Options(wrong) = entry.when {
        if let Some(wrong) = wrong(&options(node)) {
            let place = node.get(&wrong.key).map_or(place, |node| node.place);
            let message = format!("{trail}: {}", wrong.message);
            let mut diagnostic = Diagnostic::error(Code::Unsupported, message);
            diagnostic.hint = Some(wrong.hint.unwrap_or_else(|| reason.to_owned()));
            report.push_at(place, diagnostic);
        }
        return;
    }
    if matches!(entry.when, Mentioned) {
        report.warning(place, format!("{trail} has no effect: {reason}"));
        return;
    }
    let message = if reason.contains("not supported") {
        format!("{trail}: {reason}")
    } else {
        match (entry.when, node.as_text()) {
            (Said | False | Within(_), _) | (_, None) => format!("{trail} is not supported: {reason}"),
            (_, Some(text)) => format!("{trail}: {text:?} is not supported: {reason}"),
        }
    };
    report.push_at(place, Diagnostic::error(Code::Unsupported, message));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::{Form, STACK_FORM};

    /// The form of what a path leads to.
    fn form(path: &str) -> Option<&'static Form> {
        path.split('.')
            .try_fold(&STACK_FORM, |form: &'static Form, step| match step {
                "*" => form.items.filter(|_| form.values.is_none()).or(form.values),
                key => form.below(key),
            })
    }

    #[test]
    fn every_line_is_about_a_field_that_there_is() {
        for entry in TABLE {
            // Items of `extra_hosts` are text once they are in the long form.
            let there = form(entry.path).is_some();
            assert!(there, "{}", entry.path);
            assert!(
                !entry.reason.is_empty() && !entry.reason.ends_with('.'),
                "{}",
                entry.path
            );
        }
    }
}
