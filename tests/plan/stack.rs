//! A small subset of the stack file, enough to tell stories with. It is not
//! the loader: short forms only, no interpolation, no validation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rcompose::project::{
    Attachment, Condition, Dependency, Deploy, FailureAction, HealthTest, Healthcheck, IpamPool, Logging,
    Mount, MountSource, Network, NetworkMode, Origin, Port, Project, Protocol, PullPolicy, Restart, Service,
    Ulimit, UpdateConfig, UpdateOrder, Volume,
};
use serde_yaml::{Mapping, Value};

/// Reads a stack. Its name is `shop`.
pub(crate) fn read(text: &str) -> Project {
    let document: Value = serde_yaml::from_str(text).expect("stack is YAML");
    let mut project = Project {
        name: "shop".into(),
        origins: origins(text),
        ..Project::default()
    };
    for (key, value) in entries(document.get("networks")) {
        project.networks.insert(key.clone(), network(&key, &value));
    }
    for (key, value) in entries(document.get("volumes")) {
        let volume = Volume {
            name: string(&value, "name").unwrap_or_else(|| format!("shop_{key}")),
            external: flag(&value, "external"),
            labels: BTreeMap::new(),
            ..Volume::default()
        };
        project.volumes.insert(key, volume);
    }
    for (key, value) in entries(document.get("services")) {
        let service = service(&key, &value);
        if value.get("profiles").is_some() {
            project.disabled_services.insert(key, service.profiles);
            continue;
        }
        for network in service.networks.keys() {
            project
                .networks
                .entry(network.clone())
                .or_insert_with(|| self::network(network, &Value::Null));
        }
        for mount in &service.volumes {
            if let MountSource::Volume { volume, .. } = &mount.source {
                project.volumes.entry(volume.clone()).or_insert_with(|| Volume {
                    name: format!("shop_{volume}"),
                    ..Volume::default()
                });
            }
        }
        project.services.insert(key, service);
    }
    project
}

fn network(key: &str, value: &Value) -> Network {
    Network {
        name: string(value, "name").unwrap_or_else(|| format!("shop_{key}")),
        external: flag(value, "external"),
        internal: flag(value, "internal"),
        ipam: string(value, "subnet")
            .into_iter()
            .map(|subnet| IpamPool {
                subnet: Some(subnet),
                ..IpamPool::default()
            })
            .collect(),
        ..Network::default()
    }
}

fn service(name: &str, value: &Value) -> Service {
    const KNOWN: [&str; 22] = [
        "address",
        "anonymous",
        "command",
        "container_name",
        "depends_on",
        "dns",
        "environment",
        "healthcheck",
        "image",
        "labels",
        "logging",
        "network_mode",
        "networks",
        "oom_score_adj",
        "ports",
        "profiles",
        "pull_policy",
        "replicas",
        "restart",
        "ulimits",
        "update",
        "volumes",
    ];
    for (key, _) in entries(Some(value)) {
        assert!(
            KNOWN.contains(&key.as_str()),
            "stories do not know the field {key}"
        );
    }
    let network_mode = match string(value, "network_mode").as_deref() {
        None => NetworkMode::Networks,
        Some("host") => NetworkMode::Host,
        Some("none") => NetworkMode::None,
        Some(other) => NetworkMode::Service(other.strip_prefix("service:").expect("a service").into()),
    };
    let mut networks: BTreeMap<String, Attachment> = strings(value.get("networks"))
        .into_iter()
        .map(|key| (key, Attachment::default()))
        .collect();
    if networks.is_empty() && network_mode == NetworkMode::Networks {
        networks.insert("default".into(), Attachment::default());
    }
    if let Some(address) = string(value, "address") {
        let address = address.parse().expect("an address");
        networks
            .values_mut()
            .for_each(|attachment| attachment.ipv4_address = Some(address));
    }
    let mut volumes: Vec<Mount> = strings(value.get("volumes"))
        .iter()
        .map(|text| {
            let (volume, target) = text.split_once(':').expect("volume:/target");
            let source = MountSource::Volume {
                volume: volume.into(),
                nocopy: false,
                subpath: None,
            };
            Mount {
                target: target.into(),
                source,
                read_only: false,
                ..Mount::default()
            }
        })
        .collect();
    volumes.extend(strings(value.get("anonymous")).into_iter().map(|target| Mount {
        target,
        source: MountSource::Anonymous,
        read_only: false,
        ..Mount::default()
    }));
    Service {
        name: name.into(),
        image: string(value, "image").unwrap_or_else(|| name.to_owned()),
        container_name: string(value, "container_name"),
        command: value.get("command").map(|command| strings(Some(command))),
        environment: map(value.get("environment")),
        labels: map(value.get("labels")),
        volumes,
        network_mode,
        networks,
        ports: strings(value.get("ports"))
            .iter()
            .map(|text| port(text))
            .collect(),
        depends_on: depends_on(value.get("depends_on")),
        healthcheck: string(value, "healthcheck").map(|command| Healthcheck {
            test: Some(HealthTest::CmdShell(command)),
            interval: Some(Duration::from_secs(1)),
            ..Healthcheck::default()
        }),
        restart: match string(value, "restart").as_deref() {
            None | Some("no") => Restart::No,
            Some("always") => Restart::Always,
            Some("unless-stopped") => Restart::UnlessStopped,
            Some("on-failure") => Restart::OnFailure { max_retries: None },
            Some(other) => panic!("restart {other}"),
        },
        replicas: value
            .get("replicas")
            .and_then(Value::as_u64)
            .map_or(1, |n| n.try_into().expect("few")),
        pull_policy: match string(value, "pull_policy").as_deref() {
            None => PullPolicy::Missing,
            Some("always") => PullPolicy::Always,
            Some("never") => PullPolicy::Never,
            Some(other) => panic!("pull_policy {other}"),
        },
        profiles: strings(value.get("profiles")),
        dns: strings(value.get("dns"))
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect(),
        logging: string(value, "logging").map(|driver| Logging {
            driver: Some(driver),
            ..Logging::default()
        }),
        oom_score_adj: value
            .get("oom_score_adj")
            .and_then(Value::as_i64)
            .map(|score| score.try_into().expect("a score")),
        ulimits: entries(value.get("ulimits"))
            .into_iter()
            .map(|(name, limit)| {
                let limit = limit.as_i64().expect("a number");
                let (soft, hard) = (limit, limit);
                (name, Ulimit { soft, hard })
            })
            .collect(),
        deploy: string(value, "update").map(|words| Deploy {
            update_config: Some(update_config(&words)),
            ..Deploy::default()
        }),
        ..Service::default()
    }
}

/// `2 start-first continue`.
fn update_config(words: &str) -> UpdateConfig {
    let mut config = UpdateConfig::default();
    for word in words.split_whitespace() {
        match word {
            "start-first" => config.order = Some(UpdateOrder::StartFirst),
            "stop-first" => config.order = Some(UpdateOrder::StopFirst),
            "continue" => config.failure_action = Some(FailureAction::Continue),
            number => config.parallelism = Some(number.parse().expect("a number")),
        }
    }
    config
}

fn port(text: &str) -> Port {
    let (published, target) = text.split_once(':').expect("published:target");
    let published: u16 = published.parse().expect("a port");
    Port {
        target: target.parse().expect("a port"),
        published: Some((published, published)),
        host_ip: None,
        protocol: Protocol::Tcp,
        ..Port::default()
    }
}

/// `[db]`, or `{db: healthy optional restart}`.
fn depends_on(value: Option<&Value>) -> BTreeMap<String, Dependency> {
    let words = match value {
        Some(Value::Mapping(map)) => map
            .iter()
            .map(|(key, value)| (text(key), value.as_str().expect("words").to_owned()))
            .collect(),
        other => strings(other)
            .into_iter()
            .map(|name| (name, String::new()))
            .collect::<Vec<_>>(),
    };
    words
        .into_iter()
        .map(|(name, words)| {
            let mut dependency = Dependency {
                condition: Condition::ServiceStarted,
                restart: false,
                required: true,
            };
            for word in words.split_whitespace() {
                match word {
                    "started" => {}
                    "healthy" => dependency.condition = Condition::ServiceHealthy,
                    "completed" => dependency.condition = Condition::ServiceCompletedSuccessfully,
                    "restart" => dependency.restart = true,
                    "optional" => dependency.required = false,
                    other => panic!("depends_on {other}"),
                }
            }
            (name, dependency)
        })
        .collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        other => panic!("not a text: {other:?}"),
    }
}

fn string(value: &Value, key: &str) -> Option<String> {
    value.get(key).map(text)
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn strings(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_sequence)
        .into_iter()
        .flatten()
        .map(text)
        .collect()
}

fn entries(value: Option<&Value>) -> Vec<(String, Value)> {
    let mapping: Option<&Mapping> = value.and_then(Value::as_mapping);
    mapping
        .into_iter()
        .flatten()
        .map(|(key, value)| (text(key), value.clone()))
        .collect()
}

fn map(value: Option<&Value>) -> BTreeMap<String, String> {
    entries(value)
        .into_iter()
        .map(|(key, value)| (key, text(&value)))
        .collect()
}

/// Where keys stand, for keys on lines of their own.
fn origins(text: &str) -> BTreeMap<String, Origin> {
    let mut origins = BTreeMap::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let column = line.len() - line.trim_start().len();
        let Some((key, _)) = line.trim_start().split_once(':') else {
            continue;
        };
        path.retain(|(outer, _)| *outer < column);
        path.push((column, key.to_owned()));
        let dotted: Vec<&str> = path.iter().map(|(_, key)| key.as_str()).collect();
        let origin = Origin {
            file: PathBuf::from("compose.yaml"),
            line: u32::try_from(index + 1).unwrap(),
            column: u32::try_from(column + 1).unwrap(),
            by: None,
        };
        origins.insert(dotted.join("."), origin);
    }
    origins
}
