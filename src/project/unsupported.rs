//! What this host cannot run yet, in one table.
//!
//! A value that is there and cannot be honoured must never be accepted and
//! ignored: [`check`] refuses it with its place and the reason. `config` and
//! `explain` never ask; what runs a stack, or plans to, always does. Whoever
//! implements a field takes its line out of [`TABLE`], and nothing else needs to
//! change: the typed project has the value already.

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
    /// Texts that end so.
    Ends(&'static str),
    /// Texts for which this holds.
    Text(fn(&str) -> bool),
    /// Values for which this holds; the second node is the mapping they are in.
    Within(fn(&Node, &Node) -> bool),
}

use When::{Ends, False, Is, Mentioned, Not, Said, Text, Within};

const fn no(path: &'static str, when: When, reason: &'static str) -> Unsupported {
    Unsupported { path, when, reason }
}

const NO_SWARM: &str = "there is one machine and no scheduler to honour it";
const NO_WINDOWS: &str = "it is for Windows containers";
const NO_NAMESPACE: &str = "this namespace cannot be shared yet";
const NO_HOOKS: &str =
    "commands before the start are not implemented yet; use a service and `service_completed_successfully`";
const NO_NAME_SERVICE: &str = "the name service cannot be replaced yet";
const NO_ROLLOUT: &str = "rolling updates are not implemented";
const NO_DEVICES: &str = "device requests are not implemented yet";
const NO_OTHERS_FILES: &str = "there is no store of them outside of stacks; use file, environment or content";
const NO_REAL_TIME: &str = "real-time scheduling of groups is not implemented";

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
    no("services.*.devices", Said, "devices are not implemented yet"),
    no(
        "services.*.device_cgroup_rules",
        Said,
        "device rules are not implemented yet",
    ),
    no("services.*.gpus", Said, NO_DEVICES),
    no(
        "services.*.deploy.resources.reservations.devices",
        Said,
        NO_DEVICES,
    ),
    no("services.*.use_api_socket", Said, "there is no engine socket"),
    no(
        "services.*.volumes.*.type",
        Not(&["bind", "volume", "tmpfs"]),
        "use bind, volume or tmpfs",
    ),
    no(
        "services.*.volumes.*.bind.recursive",
        Not(&["enabled"]),
        "mounts below a bind mount always come along",
    ),
    no(
        "services.*.volumes.*.bind.selinux",
        Mentioned,
        "SELinux labels are not changed",
    ),
    no(
        "services.*.volumes.*.volume.labels",
        Said,
        "anonymous volumes have no labels",
    ),
    no(
        "services.*.volumes.*.volume",
        Within(anonymous_nocopy),
        "nocopy needs a named volume",
    ),
    no(
        "services.*.volumes_from",
        Said,
        "name the volumes in both services",
    ),
    no(
        "services.*.storage_opt",
        Said,
        "the writable layer has no options",
    ),
    no("services.*.annotations", Said, "annotations are not kept"),
    no("services.*.logging", Said, "log drivers are not implemented yet"),
    no(
        "services.*.devices.*.permissions",
        Text(no_permissions),
        "write a combination of r, w and m",
    ),
    // How they are connected.
    no("services.*.dns", Said, NO_NAME_SERVICE),
    no("services.*.dns_opt", Said, NO_NAME_SERVICE),
    no("services.*.dns_search", Said, NO_NAME_SERVICE),
    no("services.*.links", Said, "use a network and `aliases`"),
    no(
        "services.*.external_links",
        Said,
        "containers of other stacks are out of reach; share a network",
    ),
    no(
        "services.*.extra_hosts.*",
        Ends("=host-gateway"),
        "write the host's address",
    ),
    no("services.*.mac_address", Said, "use `mac_address` of a network"),
    no(
        "services.*.network_mode",
        Text(foreign_network),
        "use `none`, `host`, `service:NAME`, or `networks`",
    ),
    no(
        "services.*.ports.*.protocol",
        Is(&["sctp", "SCTP"]),
        "use tcp or udp",
    ),
    no(
        "services.*.networks.*.driver_opts",
        Said,
        "networks have no driver options",
    ),
    no(
        "services.*.networks.*.interface_name",
        Said,
        "interfaces are named eth0, eth1, … in the order of their priority",
    ),
    no(
        "services.*.networks.*.link_local_ips",
        Said,
        "link-local addresses cannot be given",
    ),
    no(
        "networks.*.driver",
        Not(&["bridge", "default"]),
        "use bridge, or leave it out",
    ),
    no("networks.*.driver_opts", Said, "networks have no driver options"),
    no(
        "networks.*.attachable",
        Said,
        "containers of other stacks cannot be attached",
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
        "networks.*.ipam.config.*.aux_addresses",
        Said,
        "addresses cannot be set aside yet; use `ip_range`",
    ),
    no(
        "volumes.*.driver",
        Not(&["local", "default"]),
        "use local, or leave it out",
    ),
    no(
        "volumes.*.driver_opts",
        Said,
        "volumes have no driver options yet",
    ),
    no("secrets.*.external", Said, NO_OTHERS_FILES),
    no("configs.*.external", Said, NO_OTHERS_FILES),
    no("secrets.*.driver", Said, "there are no drivers of secrets"),
    no("secrets.*.driver_opts", Said, "there are no drivers of secrets"),
    no("secrets.*.template_driver", Said, "templates are not expanded"),
    no("configs.*.template_driver", Said, "templates are not expanded"),
    // How they run.
    no("services.*.pre_start", Said, NO_HOOKS),
    no("services.*.ipc", Not(&["private"]), NO_NAMESPACE),
    no("services.*.pid", Not(&["private"]), NO_NAMESPACE),
    no("services.*.uts", Not(&["private"]), NO_NAMESPACE),
    no("services.*.cgroup", Not(&["private"]), NO_NAMESPACE),
    no(
        "services.*.userns_mode",
        Said,
        "user namespaces are not implemented yet",
    ),
    no(
        "services.*.cgroup_parent",
        Said,
        "the place of a container's cgroup is fixed",
    ),
    no("services.*.isolation", Not(&["default"]), NO_WINDOWS),
    no("services.*.credential_spec", Said, NO_WINDOWS),
    no(
        "services.*.runtime",
        Said,
        "containers run on the built-in runtime",
    ),
    no(
        "services.*.security_opt.*",
        Text(foreign_security),
        "no-new-privileges, seccomp=unconfined, apparmor=unconfined, systempaths=unconfined and label=disable are",
    ),
    no(
        "services.*.blkio_config",
        Said,
        "block device limits are not implemented yet",
    ),
    no("services.*.cpu_count", Said, NO_WINDOWS),
    no("services.*.cpu_percent", Said, NO_WINDOWS),
    no(
        "services.*.cpu_period",
        Said,
        "use `cpus`, `cpu_shares` or `cpuset`",
    ),
    no(
        "services.*.cpu_quota",
        Said,
        "use `cpus`, `cpu_shares` or `cpuset`",
    ),
    no("services.*.cpu_rt_period", Said, NO_REAL_TIME),
    no("services.*.cpu_rt_runtime", Said, NO_REAL_TIME),
    no(
        "services.*.mem_swappiness",
        Said,
        "swappiness is not implemented yet",
    ),
    no(
        "services.*.oom_kill_disable",
        Said,
        "the kernel's memory killer cannot be kept away",
    ),
    no(
        "services.*.oom_score_adj",
        Said,
        "the score is not implemented yet",
    ),
    // How many there are, and how they change.
    no(
        "services.*.deploy.mode",
        Not(&["replicated"]),
        "only `replicated` is",
    ),
    no(
        "services.*.deploy.labels",
        Said,
        "labels of the service as a whole are not kept",
    ),
    no("services.*.deploy.update_config", Said, NO_ROLLOUT),
    no("services.*.deploy.rollback_config", Said, NO_ROLLOUT),
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
        "services.*.deploy.restart_policy.delay",
        Said,
        "the time between restarts is not configurable",
    ),
    no(
        "services.*.deploy.restart_policy.window",
        Said,
        "the window of a restart is not configurable",
    ),
    no(
        "services.*.deploy.restart_policy.max_attempts",
        Within(restarts_always),
        "use it with condition `on-failure`",
    ),
    no("services.*.deploy.placement.constraints", Said, NO_SWARM),
    no("services.*.deploy.placement.preferences", Said, NO_SWARM),
    no(
        "services.*.deploy.placement.max_replicas_per_node",
        Said,
        NO_SWARM,
    ),
    no("services.*.deploy.endpoint_mode", Said, NO_SWARM),
];

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

/// Whether a network mode is of containers or networks that are not the stack's.
fn foreign_network(text: &str) -> bool {
    !matches!(text, "none" | "host") && !text.starts_with("service:")
}

fn foreign_security(text: &str) -> bool {
    let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
    !matches!(
        (name, value),
        ("no-new-privileges", "" | "true" | "false")
            | ("seccomp" | "apparmor" | "systempaths", "unconfined")
            | ("label", "disable")
    )
}

fn anonymous_nocopy(options: &Node, mount: &Node) -> bool {
    mount.text_of("source").is_none_or(str::is_empty)
        && options.get("nocopy").and_then(Node::as_bool) == Some(true)
}

fn restarts_always(_: &Node, policy: &Node) -> bool {
    matches!(policy.text_of("condition"), None | Some("" | "any"))
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
        Ends(end) => text.ends_with(end),
        Text(holds) => !text.is_empty() && holds(text),
        Within(holds) => !node.is_null() && holds(node, parent),
    }
}

fn refuse(entry: &Unsupported, node: &Node, place: Place, trail: &Trail<'_>, report: &mut Report) {
    let reason = entry.reason;
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
