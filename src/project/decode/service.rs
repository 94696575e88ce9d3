//! Fields of a service that stand alone.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::connections::{
    attachments, dns, expose, external_links, hosts, links, mac_address, network_mode, ports,
};
use super::deploy::deploy;
use super::limits::{resources, ulimits};
use super::mounts::{grants, mounts, volumes_from};
use super::reader::Reader;
use super::{build, devices, known};
use crate::project::model::{
    Condition, Dependency, HealthTest, Healthcheck, Probe, PullPolicy, Restart, Service,
};
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
    let network_mode = network_mode(reader);
    let ports = ports(reader, replicas, &network_mode);
    let own = ["build", "provider"]
        .iter()
        .any(|field| reader.get(field).is_some());
    if image.is_empty() && !own && !reader.is_incomplete(name) {
        reader.fail(entry.key, Code::Schema, "image", "an image is needed", None);
    }
    if let Some((_, nameless)) = reader
        .get("environment")
        .and_then(|node| node.entries().find(|(key, _)| key.is_empty()))
    {
        let place = nameless.place;
        reader.fail(
            place,
            Code::Schema,
            "environment",
            "a variable needs a name",
            None,
        );
    }
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
        mac_address: mac_address(reader, replicas),
        networks: attachments(reader, &network_mode, replicas),
        network_mode,
        ports,
        expose: expose(reader),
        extra_hosts: hosts(reader),
        depends_on: depends_on(reader, document),
        restart: restart(reader),
        healthcheck: healthcheck(reader),
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
        security_opt: reader.texts("security_opt"),
        shm_size: reader
            .get("shm_size")
            .and_then(|node| reader.whole(Some(node), "shm_size"))
            .filter(|size| *size > 0),
        stop_signal: stop_signal(reader),
        stop_grace_period: reader.duration(reader.get("stop_grace_period")),
        pull_policy: pull_policy(reader),
        profiles: reader.texts("profiles"),
        build: build::build(reader),
        provider: build::provider(reader),
        develop: build::develop(reader),
        deploy: deploy(reader),
        platform: build::platform(reader),
        pull_refresh_after: refresh_after(reader),
        attach: reader.get("attach").and_then(Node::as_bool),
        annotations: reader.table("annotations"),
        configs: grants("configs", "/", reader),
        secrets: grants("secrets", "/run/secrets/", reader),
        models: build::models(reader),
        devices: devices::devices(reader),
        device_cgroup_rules: devices::device_rules(reader),
        gpus: devices::device_requests("gpus", reader),
        dns: dns(reader),
        dns_search: reader.texts("dns_search"),
        dns_opt: reader.texts("dns_opt"),
        links: links(reader),
        external_links: external_links(reader),
        volumes_from: volumes_from(reader),
        logging: build::logging(reader),
        pre_start: build::pre_start(reader),
        post_start: build::hooks("post_start", reader),
        pre_stop: build::hooks("pre_stop", reader),
        ipc: devices::ipc(reader),
        pid: devices::pid(reader),
        uts: devices::uts(reader),
        cgroup: devices::cgroup(reader),
        userns_mode: devices::userns(reader),
        cgroup_parent: reader.text("cgroup_parent"),
        isolation: reader.text("isolation"),
        blkio_config: devices::blkio_config(reader),
        oom_score_adj: reader.number("oom_score_adj"),
        runtime: reader.text("runtime"),
        storage_opt: reader.table("storage_opt"),
        use_api_socket: reader.flag("use_api_socket"),
        credential_spec: devices::credential_spec(reader),
        extensions: reader.extensions(),
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
    let restarts = at("x-restart").filter(|node| node.as_bool() == Some(true));
    if let Some(node) = restarts
        && restart(reader) == Restart::No
    {
        let message = "an unhealthy container is ended, and nothing would start it again";
        let hint = "write `restart: unless-stopped`, or take x-restart out";
        reader.fail(
            node.place,
            Code::Conflict,
            "healthcheck.x-restart",
            message,
            Some(hint),
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
        probe: at("x-probe").and_then(|node| probe(node, reader)),
        restart: restarts.is_some(),
    };
    (check != Healthcheck::default()).then_some(check)
}

/// `x-probe`: one of `tcp`, `http`, `unix`, `file`, `log`.
fn probe(node: &Node, reader: &mut Reader<'_>) -> Option<Probe> {
    const KINDS: &str = "write one of tcp: PORT, http: PORT/PATH, unix: PATH, file: PATH, log: TEXT";
    const AT: &str = "healthcheck.x-probe";
    let mut entries = node.entries();
    let (Some((kind, value)), None) = (entries.next(), entries.next()) else {
        reader.fail(
            node.place,
            Code::Schema,
            AT,
            "a probe is one of five kinds",
            Some(KINDS),
        );
        return None;
    };
    let text = value.scalar_text().unwrap_or_default();
    let found = match kind {
        "tcp" => address(&text).map(Probe::Tcp),
        "http" => {
            let text = text.strip_prefix("http://").unwrap_or(&text);
            let (place, path) = text.split_once('/').unwrap_or((text, ""));
            let plain = !path.contains(|c: char| c.is_whitespace() || c.is_control());
            address(place).filter(|_| plain).map(|address| Probe::Http {
                address,
                path: format!("/{path}"),
            })
        }
        "unix" | "file" if text.starts_with('/') && !text.ends_with('/') => Some(if kind == "unix" {
            Probe::Unix(text)
        } else {
            Probe::File(text)
        }),
        "log" if !text.is_empty() => Some(Probe::Log(text)),
        _ => None,
    };
    if found.is_none() {
        let message = format!(
            "no probe is described by {kind}: {}",
            value.scalar_text().unwrap_or_default()
        );
        reader.fail(value.place, Code::Schema, AT, &message, Some(KINDS));
    }
    found
}

/// `80`, `:80`, `localhost:80`, `10.0.0.1:80`, `[::1]:80`; without an address,
/// the container's loopback.
fn address(text: &str) -> Option<SocketAddr> {
    let local = |port: &str| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.parse().ok()?)));
    let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix(':'));
    let found: SocketAddr = match port {
        Some(port) => local(port)?,
        None => local(text).or_else(|| text.parse().ok())?,
    };
    (found.port() != 0).then_some(found)
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
            "any" | "" => Restart::UnlessStopped,
            // Reported with `deploy.restart_policy`.
            _ => Restart::No,
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

/// The age of `pull_policy: refresh`; its notation has not been checked.
fn refresh_after(reader: &mut Reader<'_>) -> Option<Duration> {
    let node = reader.get("pull_refresh_after")?;
    let text = node.as_text().filter(|text| !text.is_empty())?;
    match parse_duration(text) {
        Ok(age) => Some(age),
        Err(error) => {
            let hint = Some("write it as 12h or 1d");
            reader.fail(
                node.place,
                Code::Schema,
                "pull_refresh_after",
                &error.to_string(),
                hint,
            );
            None
        }
    }
}

fn pull_policy(reader: &mut Reader<'_>) -> PullPolicy {
    let Some(node) = reader.get("pull_policy") else {
        return PullPolicy::Missing;
    };
    let day = Duration::from_secs(24 * 60 * 60);
    match node.as_text().unwrap_or_default() {
        "" | "missing" | "if_not_present" => PullPolicy::Missing,
        "always" => PullPolicy::Always,
        "never" => PullPolicy::Never,
        "build" => PullPolicy::Build,
        "refresh" => PullPolicy::Refresh {
            after: reader.time("pull_refresh_after"),
        },
        "daily" => PullPolicy::Refresh { after: Some(day) },
        "weekly" => PullPolicy::Refresh { after: Some(day * 7) },
        other => {
            let after = other
                .strip_prefix("every_")
                .and_then(|time| parse_duration(time).ok());
            if after.is_some() {
                return PullPolicy::Refresh { after };
            }
            let message = format!("unknown pull policy {other:?}");
            let hint = "use missing, always, never, build, daily, weekly, every_DURATION or refresh";
            reader.fail(node.place, Code::Schema, "pull_policy", &message, Some(hint));
            PullPolicy::Missing
        }
    }
}
