//! What changed between the definition a container or network was made from
//! and the present one, field by field, down to map keys and list elements.
//!
//! Compared are the serialised forms. Left out are the fields that say how the
//! project is run rather than what a container is, so that changing them
//! replaces nothing.

use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde::de::value::MapDeserializer;
use serde_json::{Map, Value};

use super::Change;
use super::recorded::{Differing, Recorded, differing, json, pick};
use crate::project::{Network, Origin, Project, Service};

/// Fields of a service that no container is made from.
const NOT_COMPARED: [&str; 8] = [
    "attach",
    "build",
    "depends_on",
    "develop",
    "profiles",
    "pull_policy",
    "pull_refresh_after",
    "replicas",
];

/// Fields that are read from the record when they are needed, or whose changes
/// a run that goes on takes whatever they are: the supervisor reads `restart`,
/// `deploy.restart_policy`, `healthcheck`, `links` and the name servers, a stop
/// reads the two of `stop` and `pre_stop`, listings read `labels` and `expose`,
/// `/etc/hosts` and `/etc/resolv.conf` are files of ours, a monitor goes on with
/// another `logging`.
const IN_PLACE: [&str; 14] = [
    "deploy",
    "dns",
    "dns_opt",
    "dns_search",
    "expose",
    "extra_hosts",
    "healthcheck",
    "labels",
    "links",
    "logging",
    "pre_stop",
    "restart",
    "stop_grace_period",
    "stop_signal",
];

/// Lists whose order means nothing (mounts are made in the order of their targets).
const SETS: [&str; 8] = [
    "aliases",
    "cap_add",
    "cap_drop",
    "expose",
    "group_add",
    "ports",
    "security_opt",
    "volumes",
];

/// Fields that are one value although it serialises as a map of one entry.
const VARIANTS: [&str; 4] = ["network_mode", "restart", "source", "test"];

/// Fields that are text, lists of it, or maps to it: a record of any version of
/// this program has them as today's.
const PLAIN: [&str; 15] = [
    "annotations",
    "cap_add",
    "cap_drop",
    "command",
    "entrypoint",
    "environment",
    "expose",
    "group_add",
    "hostname",
    "image",
    "labels",
    "security_opt",
    "sysctls",
    "user",
    "working_dir",
];

/// Limits that the kernel changes under a running container. Taking one away
/// is something else: what was there without it is not known.
const LIMITS: [&str; 13] = [
    "resources.cpu_period",
    "resources.cpu_quota",
    "resources.cpu_rt_period",
    "resources.cpu_rt_runtime",
    "resources.cpu_shares",
    "resources.cpus_milli",
    "resources.cpuset",
    "resources.memory",
    "resources.memory_reservation",
    "resources.memory_swap",
    "resources.memory_swappiness",
    "resources.oom_kill_disable",
    "resources.pids",
];

/// Which changes can be applied to a container as it is that cannot be told by
/// their field alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movable {
    /// Those of published ports.
    pub ports: bool,
    /// Those of networks.
    pub networks: bool,
    /// Those of disk limits.
    pub disks: bool,
    /// Those of limits of processes, and of what the memory killer prefers.
    pub processes: bool,
}

/// Whether a change of a service can be applied to a container as it is; all
/// others need a new one.
pub fn in_place(change: &Change, movable: Movable) -> bool {
    let field = change.field.as_str();
    let top = field.split(['.', '[']).next().unwrap_or(field);
    match top {
        "ports" => movable.ports,
        "networks" => movable.networks,
        "blkio_config" => movable.disks,
        "ulimits" | "oom_score_adj" => movable.processes,
        _ => IN_PLACE.contains(&top) || LIMITS.contains(&field) && change.new.is_some(),
    }
}

/// How a change of content is shown: what it is may be secret.
pub(super) fn content(digest: &str) -> String {
    format!("sha256:{}", digest.get(..12).unwrap_or(digest))
}

/// The changes of a service since `recorded`, the definition a container was
/// made from, sorted by field. A record of another version of this program is
/// read with today's defaults for the fields that it lacks.
pub fn service_changes(project: &Project, service: &Service, recorded: &Recorded) -> Vec<Change> {
    let prefix = format!("services.{}", service.name);
    let mut changes = structure_changes(project, &prefix, service, recorded);
    // The rest of it says how the service is updated.
    changes.retain(|change| {
        let field = change.field.as_str();
        !field.starts_with("deploy") || field.starts_with("deploy.restart_policy")
    });
    changes
}

/// The changes from one model of a stack to another, sorted by field; those of
/// a service that comes or goes are one. Left out is what is only about how the
/// project was loaded.
pub fn project_changes(old: &Project, new: &Project) -> Vec<Change> {
    const LEFT_OUT: [&str; 5] = [
        "config_files",
        "inputs",
        "name",
        "working_dir",
        "disabled_services",
    ];
    let value = |project: &Project| serde_json::to_value(project).unwrap_or_default();
    let mut found = changes(new, "", &value(old), &value(new), &LEFT_OUT);
    for change in &mut found {
        // What a default is, is said by its absence.
        if change.new.is_some() {
            let path = change.field.replace('[', ".").replace(']', "");
            change.origin = new.origin(&path).cloned();
        }
    }
    found
}

/// Configs and secrets of both models whose content is another one in the new one,
/// by their digests.
pub fn content_changes(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    project: &Project,
) -> Vec<Change> {
    let changed = old.iter().filter_map(|(from, digest)| {
        let now = new.get(from).filter(|now| *now != digest)?;
        Some(Change {
            field: format!("{from}.content"),
            old: Some(content(digest)),
            new: Some(content(now)),
            origin: project.origin(from).cloned(),
        })
    });
    changed.collect()
}

/// The changes of a network since `recorded` that need another bridge, sorted
/// by field. Labels do not: they change when the network is next made.
pub fn network_changes(project: &Project, key: &str, network: &Network, recorded: &Recorded) -> Vec<Change> {
    if recorded.is(network) {
        return Vec::new();
    }
    let Ok(wanted) = serde_json::to_value(network) else {
        return Vec::new();
    };
    let old = recorded.read::<Network>().and_then(serde_json::to_value);
    let old = old.unwrap_or_else(|_| recorded.json());
    changes(project, &format!("networks.{key}"), &old, &wanted, &["labels"])
}

/// The changes of a service since `recorded`. Only what differs is read and
/// written at all: with many services most of the time would go there.
fn structure_changes(project: &Project, prefix: &str, service: &Service, recorded: &Recorded) -> Vec<Change> {
    if recorded.is(service) {
        return Vec::new();
    }
    let fields = recorded.fields();
    let Some(fields) = fields.and_then(|fields| differing(service, fields, &NOT_COMPARED)) else {
        let wanted = serde_json::to_value(service).ok();
        return vec![change(String::new(), Some(&recorded.json()), wanted.as_ref())];
    };
    let mut old = as_today(&fields);
    let mut found = Vec::new();
    for field in &fields {
        let old = match field.old {
            Some(plain) if PLAIN.contains(&field.name) => Some(json(plain)),
            _ => old.remove(field.name),
        };
        compare(field.name, old.as_ref(), field.new.as_ref(), &mut found);
    }
    placed(project, prefix, found)
}

/// Those of the fields of a recorded service that a record may have otherwise, as
/// this version writes them; as they are when it cannot read them.
fn as_today(fields: &[Differing<'_>]) -> Map<String, Value> {
    let fields = fields
        .iter()
        .filter(|field| field.old.is_none() || !PLAIN.contains(&field.name));
    let names: Vec<&str> = fields.clone().map(|field| field.name).collect();
    if names.is_empty() {
        return Map::new();
    }
    let there = fields.filter_map(|field| Some((field.name, field.old?)));
    let read: Result<Service, serde_json::Error> = Service::deserialize(MapDeserializer::new(there.clone()));
    read.ok().and_then(|read| pick(&read, &names)).unwrap_or_else(|| {
        let raw = there.map(|(field, value)| (field.to_owned(), json(value)));
        raw.collect()
    })
}

fn changes(project: &Project, prefix: &str, old: &Value, new: &Value, left_out: &[&str]) -> Vec<Change> {
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        return vec![change(String::new(), Some(old), Some(new))];
    };
    let mut found = Vec::new();
    for (key, old, new) in pairs(before, after) {
        if !left_out.contains(&key.as_str()) {
            compare(key, old, new, &mut found);
        }
    }
    placed(project, prefix, found)
}

/// The changes with where their new values are written, sorted by field.
fn placed(project: &Project, prefix: &str, mut found: Vec<Change>) -> Vec<Change> {
    for change in &mut found {
        if change.new.is_some() {
            change.origin = origin(project, prefix, &change.field);
        }
    }
    found.sort_by(|a, b| a.field.cmp(&b.field));
    found
}

/// The keys of either, with both values.
fn pairs<'a>(
    before: &'a Map<String, Value>,
    after: &'a Map<String, Value>,
) -> impl Iterator<Item = (&'a String, Option<&'a Value>, Option<&'a Value>)> {
    // Looked up only where the two have another order.
    let mut beside = after.iter();
    let both = before.iter().map(move |(key, old)| {
        let new = beside.next().filter(|(other, _)| *other == key);
        (
            key,
            Some(old),
            new.map_or_else(|| after.get(key), |(_, new)| Some(new)),
        )
    });
    let alike = if before.keys().eq(after.keys()) {
        after.len()
    } else {
        0
    };
    let more = after
        .iter()
        .skip(alike)
        .filter(|(key, _)| !before.contains_key(*key));
    both.chain(more.map(|(key, new)| (key, None, Some(new))))
}

/// Where a field is written.
fn origin(project: &Project, prefix: &str, field: &str) -> Option<Origin> {
    if project.origins.is_empty() {
        return None;
    }
    let mut path = String::with_capacity(prefix.len() + field.len() + 1);
    path.push_str(prefix);
    path.push('.');
    for letter in field.chars() {
        match letter {
            '[' => path.push('.'),
            ']' => {}
            other => path.push(other),
        }
    }
    project.origin(&path).cloned()
}

fn compare(path: &str, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Change>) {
    let old = old.filter(|value| !value.is_null());
    let new = new.filter(|value| !value.is_null());
    if old == new {
        return;
    }
    let last = path.rsplit('.').next().unwrap_or(path);
    match (old, new) {
        (Some(Value::Object(before)), Some(Value::Object(after))) if !VARIANTS.contains(&last) => {
            for (key, old, new) in pairs(before, after) {
                if old != new {
                    compare(&[path, ".", key].concat(), old, new, found);
                }
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            let (gone, come) = if SETS.contains(&last) {
                differing_members(before, after)
            } else {
                differing_middles(before, after)
            };
            compare_elements(path, &gone, &come, found);
        }
        _ => found.push(change(path.to_owned(), old, new)),
    }
}

/// Elements with their index.
type Elements<'a> = Vec<(usize, &'a Value)>;

/// What only one of two lists has, whatever the order.
fn differing_members<'a>(old: &'a [Value], new: &'a [Value]) -> (Elements<'a>, Elements<'a>) {
    let mut come: Elements<'a> = new.iter().enumerate().collect();
    let mut gone = Elements::new();
    for (index, value) in old.iter().enumerate() {
        match come.iter().position(|(_, other)| *other == value) {
            Some(at) => {
                come.remove(at);
            }
            None => gone.push((index, value)),
        }
    }
    (gone, come)
}

/// What is left of two lists without their common beginning and end.
fn differing_middles<'a>(old: &'a [Value], new: &'a [Value]) -> (Elements<'a>, Elements<'a>) {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old
        .iter()
        .skip(head)
        .rev()
        .zip(new.iter().skip(head).rev())
        .take_while(|(a, b)| a == b)
        .count();
    let middle = |list: &'a [Value]| {
        let length = list.len().saturating_sub(head + tail);
        list.iter().enumerate().skip(head).take(length).collect()
    };
    (middle(old), middle(new))
}

fn compare_elements(path: &str, gone: &[(usize, &Value)], come: &[(usize, &Value)], found: &mut Vec<Change>) {
    if gone.len() == come.len() {
        for ((_, old), (index, new)) in gone.iter().zip(come) {
            compare(&format!("{path}[{index}]"), Some(old), Some(new), found);
        }
        return;
    }
    for (index, old) in gone {
        found.push(change(format!("{path}[{index}]"), Some(old), None));
    }
    for (index, new) in come {
        found.push(change(format!("{path}[{index}]"), None, Some(new)));
    }
}

fn change(field: String, old: Option<&Value>, new: Option<&Value>) -> Change {
    Change {
        field,
        old: old.map(compact),
        new: new.map(compact),
        origin: None,
    }
}

/// Compact JSON without what is not set.
fn compact(value: &Value) -> String {
    if !value.is_object() && !value.is_array() {
        return value.to_string();
    }
    fn prune(value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), prune(value)))
                .collect(),
            Value::Array(list) => list.iter().map(prune).collect(),
            other => other.clone(),
        }
    }
    prune(value).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::project::{Attachment, Dependency, Mount, MountSource, NetworkMode, Port, Protocol, Restart};

    fn web() -> Service {
        Service {
            name: "web".into(),
            image: "nginx".into(),
            replicas: 1,
            command: Some(vec!["serve".into(), "--port".into(), "80".into()]),
            environment: BTreeMap::from([("PORT".into(), "80".into()), ("MODE".into(), "fast".into())]),
            networks: BTreeMap::from([("front".into(), Attachment::default())]),
            ..Service::default()
        }
    }

    fn lines(change: impl FnOnce(&mut Service)) -> Vec<String> {
        let recorded = Recorded::of(&web());
        let mut service = web();
        change(&mut service);
        service_changes(&Project::default(), &service, &recorded)
            .into_iter()
            .map(|change| {
                let text = |value: Option<String>| value.unwrap_or_else(|| "-".into());
                format!("{} {} {}", change.field, text(change.old), text(change.new))
            })
            .collect()
    }

    fn port(target: u16) -> Port {
        Port {
            target,
            published: Some((target, target)),
            host_ip: None,
            protocol: Protocol::Tcp,
            ..Port::default()
        }
    }

    #[test]
    fn map_keys_are_compared_one_by_one() {
        assert_eq!(
            lines(|web| {
                web.environment.insert("PORT".into(), "81".into());
                web.environment.insert("NEW".into(), "1".into());
                web.environment.remove("MODE");
            }),
            [
                "environment.MODE \"fast\" -",
                "environment.NEW - \"1\"",
                "environment.PORT \"80\" \"81\""
            ]
        );
    }

    #[test]
    fn list_elements_are_compared_one_by_one() {
        let set = |web: &mut Service, words: &[&str]| {
            web.command = Some(words.iter().map(|w| (*w).into()).collect())
        };
        assert_eq!(
            lines(|web| set(web, &["serve", "--port", "81"])),
            ["command[2] \"80\" \"81\""]
        );
        assert_eq!(
            lines(|web| set(web, &["serve", "-v", "--port", "80"])),
            ["command[1] - \"-v\""]
        );
        assert_eq!(
            lines(|web| set(web, &["serve"])),
            ["command[1] \"--port\" -", "command[2] \"80\" -"]
        );
        assert_eq!(
            lines(|web| web.command = None),
            ["command [\"serve\",\"--port\",\"80\"] -"]
        );
    }

    #[test]
    fn how_the_project_is_run_is_not_compared() {
        let unchanged = lines(|web| {
            let dependency = Dependency {
                condition: Default::default(),
                restart: false,
                required: true,
            };
            web.depends_on.insert("db".into(), dependency);
            web.replicas = 7;
            web.profiles.push("dev".into());
            web.pull_policy = crate::project::PullPolicy::Always;
        });
        assert_eq!(unchanged, [] as [&str; 0]);
    }

    #[test]
    fn the_order_of_a_set_means_nothing() {
        let mut before = web();
        before.ports = vec![port(80), port(443)];
        let recorded = Recorded::of(&before);
        let mut after = before.clone();
        after.ports.reverse();
        assert_eq!(service_changes(&Project::default(), &after, &recorded), []);
        after.ports.push(port(22));
        let changes = service_changes(&Project::default(), &after, &recorded);
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].field.as_str(), &changes[0].old), ("ports[2]", &None));
    }

    #[test]
    fn another_kind_of_value_is_one_change() {
        assert_eq!(
            lines(|web| web.network_mode = NetworkMode::Service("db".into())),
            ["network_mode \"networks\" {\"service\":\"db\"}"]
        );
        assert_eq!(
            lines(|web| web.restart = Restart::OnFailure { max_retries: None }),
            ["restart \"no\" {\"on-failure\":{}}"]
        );
    }

    #[test]
    fn a_mount_that_shows_something_else_is_one_change() {
        let mount = |source: MountSource| Mount {
            target: "/data".into(),
            source,
            read_only: false,
            ..Mount::default()
        };
        let mut before = web();
        before.volumes = vec![mount(MountSource::Anonymous)];
        let recorded = Recorded::of(&before);
        let mut after = before.clone();
        let bind = MountSource::Bind {
            path: PathBuf::from("/srv"),
            create_host_path: true,
            propagation: None,
            recursive: crate::project::BindRecursive::default(),
            selinux: None,
        };
        after.volumes = vec![mount(bind)];
        let changes = service_changes(&Project::default(), &after, &recorded);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].field, "volumes[0].source");
        assert_eq!(changes[0].old.as_deref(), Some("\"anonymous\""));
    }

    #[test]
    fn a_change_points_at_its_place() {
        let mut project = Project::default();
        let at = |line| Origin {
            file: PathBuf::from("compose.yaml"),
            line,
            column: 5,
            by: None,
        };
        project.origins.insert("services.web.environment".into(), at(5));
        project
            .origins
            .insert("services.web.environment.PORT".into(), at(6));
        project.origins.insert("services.web.command".into(), at(9));
        let recorded = Recorded::of(&web());
        let mut service = web();
        service.environment.insert("PORT".into(), "81".into());
        service.environment.insert("NEW".into(), "1".into());
        service.environment.remove("MODE");
        service.command = Some(vec!["serve".into(), "--port".into(), "81".into()]);
        let origins: Vec<_> = service_changes(&project, &service, &recorded)
            .into_iter()
            .map(|change| change.origin.map(|origin| origin.line))
            .collect();
        assert_eq!(
            origins,
            [Some(9), None, Some(5), Some(6)],
            "command[2], MODE (gone), NEW, PORT"
        );
    }

    #[test]
    fn a_record_without_newer_fields_is_read_with_defaults() {
        let mut recorded = Recorded::of(&web()).json();
        recorded.as_object_mut().unwrap().remove("tty");
        let recorded = Recorded::of(&recorded);
        assert_eq!(service_changes(&Project::default(), &web(), &recorded), []);
    }

    #[test]
    fn a_record_that_is_no_service_still_compares() {
        let changes = service_changes(
            &Project::default(),
            &web(),
            &Recorded::of(&serde_json::json!({"image": 7})),
        );
        assert!(
            changes
                .iter()
                .any(|change| change.field == "image" && change.old.as_deref() == Some("7"))
        );
        assert!(!service_changes(&Project::default(), &web(), &Recorded::default()).is_empty());
    }

    #[test]
    fn fields_are_sorted_into_two_kinds() {
        let to = |field: &str, new: Option<&str>| Change {
            field: field.to_owned(),
            old: Some("0".to_owned()),
            new: new.map(str::to_owned),
            origin: None,
        };
        let no = Movable::default();
        for field in [
            "restart",
            "labels.a.b",
            "healthcheck.interval",
            "stop_signal",
            "expose[0]",
            "resources.memory",
            "extra_hosts.db[0]",
            "logging.options.max-size",
            "dns[0]",
        ] {
            assert!(in_place(&to(field, Some("1")), no), "{field}");
        }
        for field in ["image", "environment.labels", "ports[0].target", "", "restarts"] {
            assert!(!in_place(&to(field, Some("1")), no), "{field}");
        }
        assert!(!in_place(&to("resources.memory", None), no), "a limit taken away");
        let all = Movable {
            ports: true,
            networks: true,
            disks: true,
            processes: true,
        };
        for field in [
            "ports[1]",
            "networks.front",
            "networks.front.aliases[0]",
            "blkio_config.weight",
            "ulimits.nofile.soft",
            "oom_score_adj",
        ] {
            let change = to(field, Some("1"));
            assert!(in_place(&change, all) && !in_place(&change, no), "{field}");
        }
    }

    #[test]
    fn labels_of_a_network_do_not_need_another_bridge() {
        let network = Network {
            name: "shop_front".into(),
            ..Network::default()
        };
        let recorded = Recorded::of(&network);
        let labelled = Network {
            labels: BTreeMap::from([("a".into(), "b".into())]),
            internal: true,
            ..network
        };
        let changes = network_changes(&Project::default(), "front", &labelled, &recorded);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].field, "internal");
    }
}
