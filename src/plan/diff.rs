//! What changed between the definition a container or network was made from
//! and the present one, field by field, down to map keys and list elements.
//!
//! Compared are the serialised forms. Left out are the fields that say how the
//! project is run rather than what a container is, so that changing them
//! replaces nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize as _;
use serde::de::value::MapDeserializer;
use serde_json::Value;
use serde_json::value::RawValue;
use smol_str::{SmolStr, format_smolstr};

use super::Change;
use super::recorded::{Differing, Field, Recorded, differing, elements, fields, pick};
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
pub(super) fn content(digest: &str) -> SmolStr {
    format_smolstr!("sha256:{}", digest.get(..12).unwrap_or(digest))
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
    let mut found = changes(new, "", &Recorded::of(old), &Recorded::of(new), &LEFT_OUT);
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
            field: format_smolstr!("{from}.content"),
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
    let old = recorded.read().map(|old: Network| Recorded::of(&old));
    let old = old.as_ref().unwrap_or(recorded);
    let prefix = format!("networks.{key}");
    changes(project, &prefix, old, &Recorded::of(network), &["labels"])
}

/// The changes of a service since `recorded`. Only what differs is read and
/// written at all: with many services most of the time would go there.
fn structure_changes(project: &Project, prefix: &str, service: &Service, recorded: &Recorded) -> Vec<Change> {
    if recorded.is(service) {
        return Vec::new();
    }
    let fields = recorded.fields();
    let Some(fields) = fields.and_then(|fields| differing(service, fields, &NOT_COMPARED)) else {
        let wanted = Recorded::of(service);
        return vec![change(
            SmolStr::default(),
            Some(recorded.json()),
            Some(wanted.json()),
        )];
    };
    let today = as_today(&fields);
    let mut found = Vec::new();
    for field in &fields {
        let old = match field.old {
            Some(plain) if PLAIN.contains(&&*field.name) => Some(plain),
            _ => today.get(&*field.name).map(|old| &**old),
        };
        compare(&field.name, old, field.new.as_deref(), &mut found);
    }
    placed(project, prefix, found)
}

/// Those of the fields of a recorded service that a record may have otherwise, as
/// this version writes them; as they are when it cannot read them.
fn as_today(fields: &[Differing<'_>]) -> BTreeMap<String, Box<RawValue>> {
    let fields = fields
        .iter()
        .filter(|field| field.old.is_none() || !PLAIN.contains(&&*field.name));
    let names: Vec<&str> = fields.clone().map(|field| &*field.name).collect();
    if names.is_empty() {
        return BTreeMap::new();
    }
    let there = fields.filter_map(|field| Some((&*field.name, field.old?)));
    let read: Result<Service, serde_json::Error> = Service::deserialize(MapDeserializer::new(there.clone()));
    read.ok().and_then(|read| pick(&read, &names)).unwrap_or_else(|| {
        let raw = there.map(|(field, value)| (field.to_owned(), value.to_owned()));
        raw.collect()
    })
}

fn changes(
    project: &Project,
    prefix: &str,
    old: &Recorded,
    new: &Recorded,
    left_out: &[&str],
) -> Vec<Change> {
    let mut found = Vec::new();
    match (old.fields(), new.fields()) {
        (Some(before), Some(after)) => {
            for (key, old, new) in pairs(before, after) {
                if !left_out.contains(&&*key) {
                    compare(&key, old, new, &mut found);
                }
            }
        }
        _ => found.push(change(SmolStr::default(), Some(old.json()), Some(new.json()))),
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
    before: Vec<Field<'a>>,
    after: Vec<Field<'a>>,
) -> Vec<(Cow<'a, str>, Option<&'a RawValue>, Option<&'a RawValue>)> {
    let mut after: Vec<Option<Field<'a>>> = after.into_iter().map(Some).collect();
    // Where the next one of both is, as a rule.
    let mut next = 0;
    let mut pairs = Vec::with_capacity(before.len());
    for (key, old) in before {
        let is = |field: &Option<Field<'_>>| field.as_ref().is_some_and(|(other, _)| *other == key);
        let at = match after.get(next) {
            Some(field) if is(field) => Some(next),
            _ => after.iter().position(is),
        };
        next = at.map_or(next, |at| at + 1);
        let new = at.and_then(|at| after.get_mut(at)?.take());
        pairs.push((key, Some(old), new.map(|(_, new)| new)));
    }
    pairs.extend(
        after
            .into_iter()
            .flatten()
            .map(|(key, new)| (key, None, Some(new))),
    );
    pairs
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

fn compare(path: &str, old: Option<&RawValue>, new: Option<&RawValue>, found: &mut Vec<Change>) {
    let is_there = |value: &&RawValue| value.get() != "null";
    let old = old.filter(is_there);
    let new = new.filter(is_there);
    if old.map(RawValue::get) == new.map(RawValue::get) {
        return;
    }
    let last = path.rsplit('.').next().unwrap_or(path);
    if let (Some(old), Some(new)) = (old, new) {
        if !VARIANTS.contains(&last)
            && let (Some(before), Some(after)) = (fields(old), fields(new))
        {
            for (key, old, new) in pairs(before, after) {
                if old.map(RawValue::get) != new.map(RawValue::get) {
                    compare(&format_smolstr!("{path}.{key}"), old, new, found);
                }
            }
            return;
        }
        if let (Some(before), Some(after)) = (elements(old), elements(new)) {
            let (gone, come) = if SETS.contains(&last) {
                differing_members(&before, &after)
            } else {
                differing_middles(&before, &after)
            };
            compare_elements(path, &gone, &come, found);
            return;
        }
    }
    found.push(change(path.into(), old, new));
}

/// Elements with their index.
type Elements<'a> = Vec<(usize, &'a RawValue)>;

/// What only one of two lists has, whatever the order.
fn differing_members<'a>(old: &[&'a RawValue], new: &[&'a RawValue]) -> (Elements<'a>, Elements<'a>) {
    let mut come: Elements<'a> = new.iter().copied().enumerate().collect();
    let mut gone = Elements::new();
    for (index, value) in old.iter().copied().enumerate() {
        match come.iter().position(|(_, other)| other.get() == value.get()) {
            Some(at) => {
                come.remove(at);
            }
            None => gone.push((index, value)),
        }
    }
    (gone, come)
}

/// What is left of two lists without their common beginning and end.
fn differing_middles<'a>(old: &[&'a RawValue], new: &[&'a RawValue]) -> (Elements<'a>, Elements<'a>) {
    let same = |(a, b): &(&&RawValue, &&RawValue)| a.get() == b.get();
    let head = old.iter().zip(new).take_while(same).count();
    let tail = old
        .iter()
        .skip(head)
        .rev()
        .zip(new.iter().skip(head).rev())
        .take_while(same)
        .count();
    let middle = |list: &[&'a RawValue]| {
        let length = list.len().saturating_sub(head + tail);
        list.iter().copied().enumerate().skip(head).take(length).collect()
    };
    (middle(old), middle(new))
}

fn compare_elements(path: &str, gone: &Elements<'_>, come: &Elements<'_>, found: &mut Vec<Change>) {
    if gone.len() == come.len() {
        for ((_, old), (index, new)) in gone.iter().zip(come) {
            compare(&format_smolstr!("{path}[{index}]"), Some(old), Some(new), found);
        }
        return;
    }
    for (index, old) in gone {
        found.push(change(format_smolstr!("{path}[{index}]"), Some(old), None));
    }
    for (index, new) in come {
        found.push(change(format_smolstr!("{path}[{index}]"), None, Some(new)));
    }
}

fn change(field: SmolStr, old: Option<&RawValue>, new: Option<&RawValue>) -> Change {
    Change {
        field,
        old: old.map(compact),
        new: new.map(compact),
        origin: None,
    }
}

/// Compact JSON without what is not set.
fn compact(value: &RawValue) -> SmolStr {
    fn prune(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|_, value| !value.is_null());
                map.values_mut().for_each(prune);
            }
            Value::Array(list) => list.iter_mut().for_each(prune),
            _ => {}
        }
    }
    let text = value.get();
    if !text.starts_with(['{', '[']) || !text.contains("null") {
        return text.into();
    }
    let mut value: Value = serde_json::from_str(text).unwrap_or_default();
    prune(&mut value);
    format_smolstr!("{value}")
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
                let text = |value: Option<SmolStr>| value.unwrap_or_else(|| "-".into());
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
        let mut recorded = serde_json::to_value(web()).unwrap();
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
            field: field.into(),
            old: Some("0".into()),
            new: new.map(SmolStr::from),
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
