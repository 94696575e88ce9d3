//! Fields of a service that stand alone.

use std::collections::BTreeMap;

use super::connections::{attachments, expose, extra_hosts, network_mode, ports};
use super::known;
use super::limits::{resources, ulimits};
use super::mounts::mounts;
use super::reader::Reader;
use crate::project::model::{Condition, Dependency, HealthTest, Healthcheck, PullPolicy, Restart, Service};
use crate::stack::{Code, Entry, Node, parse_duration};

pub(super) fn service(name: &str, entry: &Entry, reader: &mut Reader<'_>, document: &Node) -> Service {
    let image = reader.text("image").unwrap_or_default();
    image_form(&image, reader);
    for (field, pattern) in [("container_name", known::is_resource_name as fn(&str) -> bool)] {
        if let Some(node) = reader.get(field)
            && !node.as_text().is_some_and(pattern)
        {
            reader.fail(
                node.place,
                Code::Schema,
                field,
                "must match [a-zA-Z0-9][a-zA-Z0-9_.-]+",
                None,
            );
        }
    }
    for field in ["hostname", "domainname"] {
        if let Some(node) = reader.get(field)
            && node.as_text().is_some_and(|text| text.len() > 64)
        {
            reader.fail(node.place, Code::Schema, field, "longer than 64 bytes", None);
        }
    }
    for label in reader.get("labels").into_iter().flat_map(Node::entries) {
        if label.0.starts_with("com.docker.compose.") {
            reader.fail(
                label.1.place,
                Code::Conflict,
                "labels",
                &format!("the label {:?} is reserved", label.0),
                None,
            );
        }
    }
    let replicas = replicas(reader);
    let network_mode = network_mode(name, reader);
    let ports = ports(reader, replicas, &network_mode);
    Service {
        name: name.to_owned(),
        image,
        container_name: reader.text("container_name"),
        command: reader.words("command"),
        entrypoint: reader.words("entrypoint"),
        environment: reader.table("environment"),
        working_dir: reader.text("working_dir"),
        user: reader.text("user"),
        hostname: reader.text("hostname"),
        domainname: reader.text("domainname"),
        labels: reader.table("labels"),
        volumes: mounts(reader),
        networks: attachments(reader, &network_mode, replicas),
        network_mode,
        ports,
        expose: expose(reader),
        extra_hosts: extra_hosts(reader),
        depends_on: depends_on(reader, document),
        healthcheck: healthcheck(reader),
        restart: restart(reader),
        replicas,
        resources: resources(reader),
        read_only: reader.flag("read_only"),
        cap_add: capabilities("cap_add", reader),
        cap_drop: capabilities("cap_drop", reader),
        privileged: reader.flag("privileged"),
        init: reader.flag("init"),
        tty: reader.flag("tty"),
        stdin_open: reader.flag("stdin_open"),
        group_add: reader.texts("group_add"),
        sysctls: reader.table("sysctls"),
        ulimits: ulimits(reader),
        security_opt: security_options(reader),
        shm_size: reader
            .get("shm_size")
            .and_then(|node| reader.whole(Some(node), "shm_size"))
            .filter(|size| *size > 0),
        stop_signal: stop_signal(reader),
        stop_grace_period: reader.duration(reader.get("stop_grace_period")),
        pull_policy: pull_policy(reader),
        profiles: reader.texts("profiles"),
    }
    .checked(reader, entry)
}

impl Service {
    /// What is decided by several fields together.
    fn checked(self, reader: &mut Reader<'_>, entry: &Entry) -> Self {
        if let Some(platform) = reader.get("platform")
            && !platform.as_text().is_some_and(known::is_this_platform)
        {
            reader.fail(
                platform.place,
                Code::Unsupported,
                "platform",
                &format!(
                    "is not supported: containers run as this machine's {}",
                    known::this_platform()
                ),
                None,
            );
        }
        if let Some(mode) = reader.at(&["deploy", "mode"])
            && !matches!(mode.as_text(), Some("" | "replicated"))
        {
            reader.fail(
                mode.place,
                Code::Unsupported,
                "deploy.mode",
                "is not supported: only `replicated` is",
                None,
            );
        }
        if self.image.is_empty() && !reader.is_incomplete(&self.name) {
            reader.fail(entry.key, Code::Schema, "image", "an image is needed", None);
        }
        self
    }
}

fn image_form(image: &str, reader: &mut Reader<'_>) {
    let Some(node) = reader.get("image") else {
        return;
    };
    for scheme in ["oci:", "oci-archive:", "docker-archive:", "rootfs:"] {
        if image == scheme {
            reader.fail(
                node.place,
                Code::Schema,
                "image",
                &format!("a path must follow {scheme}"),
                None,
            );
        }
    }
    if image.contains(char::is_whitespace) && !image.contains(":/") {
        reader.fail(
            node.place,
            Code::Schema,
            "image",
            "invalid reference format: a reference has no spaces",
            None,
        );
    }
}

fn replicas(reader: &mut Reader<'_>) -> u32 {
    let node = reader.either(&[&["scale"], &["deploy", "replicas"]], "replicas");
    match node {
        Some(node) => reader.whole(Some(node), "scale").unwrap_or(1),
        None => 1,
    }
}

fn depends_on(reader: &mut Reader<'_>, document: &Node) -> BTreeMap<String, Dependency> {
    let entries = reader.get("depends_on").into_iter().flat_map(Node::entries);
    let enabled = |name: &str| {
        document
            .get("services")
            .and_then(|services| services.get(name))
            .is_some()
    };
    entries
        .filter(|(name, _)| enabled(name))
        .map(|(name, node)| {
            let condition = match node.text_of("condition") {
                Some("service_healthy") => Condition::ServiceHealthy,
                Some("service_completed_successfully") => Condition::ServiceCompletedSuccessfully,
                _ => Condition::ServiceStarted,
            };
            let dependency = Dependency {
                condition,
                restart: node.get("restart").and_then(Node::as_bool) == Some(true),
                required: node.get("required").and_then(Node::as_bool) != Some(false),
            };
            (name.to_owned(), dependency)
        })
        .collect()
}

fn healthcheck(reader: &mut Reader<'_>) -> Option<Healthcheck> {
    let node = reader.get("healthcheck")?;
    let at = |field: &str| node.get(field).filter(|node| !node.is_null());
    if at("disable").and_then(Node::as_bool) == Some(true) {
        return Some(Healthcheck {
            test: Some(HealthTest::None),
            ..Healthcheck::default()
        });
    }
    let test = at("test").and_then(|test| {
        let words: Vec<String> = test.items().filter_map(Node::scalar_text).collect();
        let (first, rest) = words.split_first()?;
        match (first.as_str(), rest) {
            ("NONE", _) => Some(HealthTest::None),
            ("CMD", []) | ("CMD-SHELL", [] | [_, _, ..]) => {
                let message = match first.as_str() {
                    "CMD" => "a program must follow CMD",
                    _ => "one command line must follow CMD-SHELL",
                };
                reader.fail(test.place, Code::Schema, "healthcheck.test", message, None);
                None
            }
            ("CMD-SHELL", [line]) => Some(HealthTest::CmdShell(line.clone())),
            _ => Some(HealthTest::Cmd(rest.to_vec())),
        }
    });
    // Zero is "as the image says", as for the engine.
    let time = |field: &str| {
        at(field)
            .and_then(Node::as_text)
            .and_then(|text| parse_duration(text).ok())
            .filter(|time| !time.is_zero())
    };
    let start_interval = time("start_interval");
    let start_period = time("start_period");
    if start_interval.is_some() && start_period.is_none() {
        reader.fail(
            node.place,
            Code::Conflict,
            "healthcheck",
            "healthcheck.start_interval requires healthcheck.start_period to be set",
            None,
        );
    }
    let check = Healthcheck {
        test,
        interval: time("interval"),
        timeout: time("timeout"),
        retries: reader
            .whole(at("retries"), "healthcheck.retries")
            .filter(|retries| *retries > 0),
        start_period,
        start_interval,
    };
    (check != Healthcheck::default()).then_some(check)
}

fn restart(reader: &mut Reader<'_>) -> Restart {
    if let Some(policy) = reader.at(&["deploy", "restart_policy"]) {
        reader.aliases.push(("restart", policy.place));
        let attempts = policy.get("max_attempts").filter(|node| !node.is_null());
        let max_retries = reader.whole(attempts, "deploy.restart_policy.max_attempts");
        let condition = policy.text_of("condition").unwrap_or("any");
        return match condition {
            "none" => Restart::No,
            "on-failure" => Restart::OnFailure { max_retries },
            "any" | "" if attempts.is_none() => Restart::UnlessStopped,
            "any" | "" => {
                let place = attempts.map_or(policy.place, |node| node.place);
                reader.fail(
                    place,
                    Code::Unsupported,
                    "deploy.restart_policy.max_attempts",
                    "is not supported with condition `any`",
                    Some("use condition `on-failure`"),
                );
                Restart::No
            }
            other => {
                let message = format!("{other:?} is none of none, on-failure, any");
                let field = "deploy.restart_policy.condition";
                reader.fail(policy.place, Code::Schema, field, &message, None);
                Restart::No
            }
        };
    }
    let Some(node) = reader.get("restart") else {
        return Restart::No;
    };
    let text = node.as_text().unwrap_or_default();
    match text {
        "" | "no" => Restart::No,
        "always" => Restart::Always,
        "unless-stopped" => Restart::UnlessStopped,
        "on-failure" => Restart::OnFailure { max_retries: None },
        other => {
            let count = other
                .strip_prefix("on-failure:")
                .and_then(|count| count.parse().ok());
            if count.is_none() {
                let message = format!("invalid restart policy {other:?}");
                let hint = "use no, always, on-failure[:N] or unless-stopped";
                reader.fail(node.place, Code::Schema, "restart", &message, Some(hint));
            }
            Restart::OnFailure { max_retries: count }
        }
    }
}

fn capabilities(field: &str, reader: &mut Reader<'_>) -> Vec<String> {
    let mut capabilities = Vec::new();
    for item in reader.get(field).into_iter().flat_map(Node::items) {
        let text = item.as_text().unwrap_or_default().to_ascii_uppercase();
        let bare = text.strip_prefix("CAP_").unwrap_or(&text);
        if known::CAPABILITIES.contains(&bare) || bare == "ALL" {
            capabilities.push(bare.to_owned());
        } else {
            let near = known::nearest(bare, &known::CAPABILITIES);
            let hint = near.map(|near| format!("did you mean {near}?"));
            let message = format!("unknown capability {text:?}");
            reader.fail(item.place, Code::Schema, field, &message, hint.as_deref());
        }
    }
    capabilities
}

fn security_options(reader: &mut Reader<'_>) -> Vec<String> {
    let mut options = Vec::new();
    for item in reader.get("security_opt").into_iter().flat_map(Node::items) {
        let text = item.as_text().unwrap_or_default();
        let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true" | "false")
            | ("seccomp" | "apparmor" | "systempaths", "unconfined")
            | ("label", "disable") => options.push(text.to_owned()),
            _ => {
                let message = format!("{text:?} is not supported");
                let hint = "no-new-privileges, seccomp=unconfined, apparmor=unconfined, systempaths=unconfined \
                            and label=disable are";
                reader.fail(
                    item.place,
                    Code::Unsupported,
                    "security_opt",
                    &message,
                    Some(hint),
                );
            }
        }
    }
    options
}

fn stop_signal(reader: &mut Reader<'_>) -> Option<String> {
    let node = reader.get("stop_signal")?;
    let text = node.as_text().filter(|text| !text.is_empty())?;
    if !known::is_signal(text) {
        let message = format!("unknown signal {text:?}");
        reader.fail(
            node.place,
            Code::Schema,
            "stop_signal",
            &message,
            Some("such as SIGTERM or SIGQUIT"),
        );
    }
    Some(text.to_owned())
}

fn pull_policy(reader: &mut Reader<'_>) -> PullPolicy {
    let Some(node) = reader.get("pull_policy") else {
        return PullPolicy::Missing;
    };
    match node.as_text().unwrap_or_default() {
        "" | "missing" | "if_not_present" => PullPolicy::Missing,
        "always" => PullPolicy::Always,
        "never" => PullPolicy::Never,
        other => {
            let known =
                matches!(other, "build" | "refresh" | "daily" | "weekly") || other.starts_with("every_");
            let (code, message) = if known {
                (Code::Unsupported, format!("{other:?} is not supported"))
            } else {
                (Code::Schema, format!("unknown pull policy {other:?}"))
            };
            let hint = "use missing, always or never";
            reader.fail(node.place, code, "pull_policy", &message, Some(hint));
            PullPolicy::Missing
        }
    }
}
