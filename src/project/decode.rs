//! A model to a [`Project`]: types, the checks that running asks for, and the
//! refusal of what cannot be run yet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::decode_mounts::mounts;
use super::load::{Model, origins};
use super::model::{
    Attachment, Condition, Dependency, HealthTest, Healthcheck, IpamPool, Network, NetworkMode, Port,
    Project, Protocol, PullPolicy, Resources, Restart, Service, Ulimit, Volume,
};
use super::{check, known};
use crate::stack::{
    Code, Diagnostic, Entry, Form, Node, Place, Print, Report, STACK_FORM, Trail, Value, parse_duration,
    parse_port_range,
};

/// Makes the project; what cannot be run is in the report.
pub(super) fn project(model: &Model, report: &mut Report) -> Project {
    let document = &model.document;
    let mut origins = origins(document, report);
    refuse(document, &STACK_FORM, &Trail::Root, report);
    let mut services = BTreeMap::new();
    for (name, entry) in document
        .get("services")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
    {
        if report.is_poisoned(name) || entry.node.as_map().is_none() {
            continue;
        }
        let mut reader = Reader::new(format!("services.{name}"), &entry.node, report);
        let service = service(name, entry, &mut reader, document);
        let aliases = std::mem::take(&mut reader.aliases);
        for (path, place) in aliases {
            if let Some(origin) = report.origin(place) {
                origins.insert(format!("services.{name}.{path}"), origin);
            }
        }
        services.insert(name.clone(), service);
    }
    let mut networks = BTreeMap::new();
    for (key, node) in check::section(document, "networks") {
        let mut reader = Reader::new(format!("networks.{key}"), node, report);
        networks.insert(key.to_owned(), network(&mut reader));
    }
    let mut volumes = BTreeMap::new();
    for (key, node) in check::section(document, "volumes") {
        let mut reader = Reader::new(format!("volumes.{key}"), node, report);
        volumes.insert(key.to_owned(), volume(&mut reader));
    }
    fixed_addresses(document, &services, &networks, report);
    Project {
        name: model.name.clone(),
        working_dir: model.working_dir.clone(),
        config_files: model.config_files.clone(),
        inputs: model.inputs.clone(),
        services,
        disabled_services: model.disabled.clone(),
        networks,
        volumes,
        origins,
    }
}

/// Reports every value that is there and cannot be run.
fn refuse(node: &Node, form: &'static Form, trail: &Trail<'_>, report: &mut Report) {
    match &node.value {
        Value::List(list) => {
            for (index, item) in list.iter().enumerate() {
                if let Some(items) = form.items {
                    refuse(item, items, &trail.index(index), report);
                }
            }
        }
        Value::Map(map) => {
            for (key, entry) in map {
                let below = trail.key(key);
                let field = form.field(key);
                if let Some(reason) = field.and_then(|field| field.refused) {
                    if says_something(key, &entry.node, field.map(|field| field.print)) {
                        refuse_field(key, entry, reason, &below, report);
                    }
                    continue;
                }
                if let Some(form) = form.below(key) {
                    refuse(&entry.node, form, &below, report);
                }
            }
        }
        _ => {}
    }
}

/// Whether a value differs from leaving it out.
fn says_something(key: &str, node: &Node, print: Option<Print>) -> bool {
    match (&node.value, key) {
        (Value::Null, _) | (Value::Bool(true), "attach") => false,
        (Value::Bool(value), _) => *value || print == Some(Print::Present),
        (Value::Text(text), "cgroup" | "ipc") => text != "private" && !text.is_empty(),
        (Value::Text(text), "isolation") => text != "default" && !text.is_empty(),
        (Value::Text(text), _) => !text.is_empty(),
        (Value::List(list), _) => !list.is_empty(),
        (Value::Map(map), _) => !map.is_empty(),
        _ => true,
    }
}

fn refuse_field(key: &str, entry: &Entry, reason: &str, trail: &Trail<'_>, report: &mut Report) {
    // Rules for development say nothing about how a service runs, and labels
    // nothing where SELinux is not enforced.
    if matches!(key, "develop" | "selinux") {
        report.warning(entry.key, format!("{trail} has no effect: {reason}"));
        return;
    }
    if let Some(service) = trail.service() {
        report.poison(service);
    }
    report.push_at(
        entry.key,
        Diagnostic::error(Code::Unsupported, format!("{trail} is not supported: {reason}")),
    );
}

/// Reads the fields of one mapping whose kinds have been checked.
pub(super) struct Reader<'a> {
    path: String,
    pub(super) node: &'a Node,
    report: &'a mut Report,
    /// Paths of the project whose values are written elsewhere in the file.
    aliases: Vec<(&'static str, Place)>,
}

impl<'a> Reader<'a> {
    fn new(path: String, node: &'a Node, report: &'a mut Report) -> Self {
        Self {
            path,
            node,
            report,
            aliases: Vec::new(),
        }
    }

    /// The value of a field, unless it is nothing.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        self.node.get(key).filter(|node| !node.is_null())
    }

    /// The value at a path of fields, unless it is nothing.
    fn at(&self, path: &[&str]) -> Option<&'a Node> {
        path.iter()
            .try_fold(self.node, |node, key| node.get(key))
            .filter(|node| !node.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        Some(self.get(key)?.as_text()?.to_owned()).filter(|text| !text.is_empty())
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Node::as_bool) == Some(true)
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let items = self.get(key).into_iter().flat_map(Node::items);
        items.filter_map(Node::scalar_text).collect()
    }

    fn table(&self, key: &str) -> BTreeMap<String, String> {
        let entries = self.get(key).into_iter().flat_map(Node::entries);
        entries
            .filter(|(_, node)| !node.is_null())
            .filter_map(|(key, node)| Some((key.to_owned(), node.scalar_text()?)))
            .collect()
    }

    fn words(&self, key: &str) -> Option<Vec<String>> {
        let items = self.get(key)?.items();
        Some(items.filter_map(Node::scalar_text).collect())
    }

    fn duration(&self, node: Option<&Node>) -> Option<Duration> {
        parse_duration(node?.as_text()?).ok()
    }

    /// An error about a value of a field.
    pub(super) fn fail(&mut self, place: Place, code: Code, field: &str, message: &str, hint: Option<&str>) {
        if let Some(service) = self.path.strip_prefix("services.") {
            self.report.poison(service);
        }
        let mut diagnostic = Diagnostic::error(code, format!("{}.{field}: {message}", self.path));
        diagnostic.hint = hint.map(str::to_owned);
        self.report.push_at(place, diagnostic);
    }

    /// A whole number of some field that fits a type.
    fn whole<T: TryFrom<i64>>(&mut self, node: Option<&Node>, field: &str) -> Option<T> {
        let node = node?;
        let number = match &node.value {
            Value::Int(number) => Some(*number),
            #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        let converted = number.and_then(|number| T::try_from(number).ok());
        if converted.is_none() {
            let written = node.scalar_text().unwrap_or_default();
            self.fail(
                node.place,
                Code::Schema,
                field,
                &format!("invalid number {written}"),
                None,
            );
        }
        converted
    }

    /// The first of several fields that is there, noted as the origin of a path.
    fn either(&mut self, paths: &[&[&str]], alias: &'static str) -> Option<&'a Node> {
        let node = paths.iter().find_map(|path| self.at(path))?;
        self.aliases.push((alias, node.place));
        Some(node)
    }
}

fn service(name: &str, entry: &Entry, reader: &mut Reader<'_>, document: &Node) -> Service {
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
        if self.image.is_empty() {
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

fn network_mode(name: &str, reader: &mut Reader<'_>) -> NetworkMode {
    let Some(node) = reader.get("network_mode") else {
        return NetworkMode::Networks;
    };
    match node.as_text().unwrap_or_default() {
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        mode => {
            if let Some(other) = mode.strip_prefix("service:") {
                if other == name {
                    let message = "a service cannot share its own network namespace";
                    reader.fail(node.place, Code::Reference, "network_mode", message, None);
                }
                return NetworkMode::Service(other.to_owned());
            }
            reader.fail(
                node.place,
                Code::Unsupported,
                "network_mode",
                &format!("{mode:?} is not supported"),
                Some("use `none`, `host`, `service:NAME`, or `networks`"),
            );
            NetworkMode::None
        }
    }
}

fn attachments(reader: &mut Reader<'_>, mode: &NetworkMode, replicas: u32) -> BTreeMap<String, Attachment> {
    let mut attachments = BTreeMap::new();
    if *mode != NetworkMode::Networks {
        return attachments;
    }
    for (key, node) in reader.get("networks").into_iter().flat_map(Node::entries) {
        let at = |field: &str| node.get(field).filter(|node| !node.is_null());
        let mut attachment = Attachment {
            aliases: at("aliases")
                .into_iter()
                .flat_map(Node::items)
                .filter_map(Node::scalar_text)
                .collect(),
            ..Attachment::default()
        };
        let prefix = format!("networks.{key}");
        for (field, priority) in [
            ("priority", &mut attachment.priority),
            ("gw_priority", &mut attachment.gw_priority),
        ] {
            if let Some(number) = reader.whole(at(field), &format!("{prefix}.{field}")) {
                *priority = number;
            }
        }
        for field in ["ipv4_address", "ipv6_address", "mac_address"] {
            let Some(node) = at(field) else {
                continue;
            };
            let text = node.as_text().unwrap_or_default();
            let path = format!("{prefix}.{field}");
            let valid = match field {
                "ipv4_address" => {
                    attachment.ipv4_address = text.parse().ok();
                    attachment.ipv4_address.is_some()
                }
                "ipv6_address" => {
                    attachment.ipv6_address = text.parse().ok();
                    attachment.ipv6_address.is_some()
                }
                _ => {
                    attachment.mac_address = known::mac_address(text);
                    attachment.mac_address.is_some()
                }
            };
            if !valid {
                reader.fail(
                    node.place,
                    Code::Schema,
                    &path,
                    &format!("invalid address: {text}"),
                    None,
                );
            } else if replicas > 1 {
                reader.fail(
                    node.place,
                    Code::Conflict,
                    &path,
                    &format!("{replicas} containers cannot share one address"),
                    None,
                );
            }
        }
        attachments.insert(key.to_owned(), attachment);
    }
    attachments
}

/// Fixed addresses must be inside a subnet that the network is given.
fn fixed_addresses(
    document: &Node,
    services: &BTreeMap<String, Service>,
    networks: &BTreeMap<String, Network>,
    report: &mut Report,
) {
    let mut taken: BTreeMap<(&str, IpAddr), &str> = BTreeMap::new();
    for (name, service) in services {
        for (key, attachment) in &service.networks {
            let Some(network) = networks.get(key).filter(|network| !network.external) else {
                continue;
            };
            let addresses = [
                ("ipv4_address", attachment.ipv4_address.map(IpAddr::V4)),
                ("ipv6_address", attachment.ipv6_address.map(IpAddr::V6)),
            ];
            for (field, address) in addresses {
                let Some(address) = address else {
                    continue;
                };
                let path = format!("services.{name}.networks.{key}.{field}");
                let message = if let Some(other) = taken.insert((key.as_str(), address), name.as_str()) {
                    format!("{path}: {address} is the address of service {other} already")
                } else if network.ipam.iter().any(|pool| {
                    pool.subnet
                        .as_deref()
                        .and_then(known::subnet)
                        .is_some_and(|subnet| known::contains(subnet, address))
                }) {
                    continue;
                } else {
                    format!("{path}: {address} is in no subnet of network {key}")
                };
                let place = document
                    .get("services")
                    .and_then(|node| node.get(name)?.get("networks")?.get(key)?.get(field))
                    .map_or(Place::NOWHERE, |node| node.place);
                let hint = format!("give the network a subnet under `networks.{key}.ipam.config`");
                report.error_hint(place, Code::Conflict, message, hint);
            }
        }
    }
}

fn ports(reader: &mut Reader<'_>, replicas: u32, mode: &NetworkMode) -> Vec<Port> {
    let mut ports = Vec::new();
    let items = reader.get("ports").map(|node| node.items().collect::<Vec<_>>());
    for (index, item) in items.into_iter().flatten().enumerate() {
        let path = format!("ports.{index}");
        if *mode != NetworkMode::Networks {
            let mode = reader.text("network_mode").unwrap_or_default();
            reader.fail(
                item.place,
                Code::Conflict,
                &path,
                &format!("ports cannot be published with network_mode {mode:?}"),
                Some("take `ports` out, or put the service on a network"),
            );
            return ports;
        }
        let Some(target) = reader
            .whole::<u16>(item.get("target"), &path)
            .filter(|port| *port > 0)
        else {
            reader.fail(
                item.place,
                Code::Schema,
                &path,
                "a target port from 1 to 65535 is needed",
                None,
            );
            continue;
        };
        let protocol = match item
            .text_of("protocol")
            .unwrap_or("tcp")
            .to_ascii_lowercase()
            .as_str()
        {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                reader.fail(
                    item.place,
                    Code::Unsupported,
                    &path,
                    &format!("protocol {other:?} is not supported"),
                    Some("use tcp or udp"),
                );
                continue;
            }
        };
        if !matches!(item.text_of("mode"), None | Some("" | "ingress" | "host")) {
            reader.fail(
                item.place,
                Code::Schema,
                &path,
                "mode must be `ingress` or `host`",
                None,
            );
        }
        let published = match item.text_of("published").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => {
                let Some(range) = parse_port_range(text) else {
                    reader.fail(
                        item.place,
                        Code::Schema,
                        &path,
                        &format!("invalid hostPort: {text}"),
                        None,
                    );
                    continue;
                };
                // Port 0 is any free one.
                (range != (0, 0)).then_some(range)
            }
        };
        if let Some((first, last)) = published
            && u32::from(last - first) + 1 < replicas
        {
            reader.fail(
                item.place,
                Code::Conflict,
                &path,
                &format!("{replicas} containers cannot share the published port {first}"),
                Some("publish a range, such as \"8000-8010:80\", or no host port"),
            );
        }
        ports.push(Port {
            target,
            published,
            // A malformed address has been reported with the document.
            host_ip: item.text_of("host_ip").and_then(|text| text.parse().ok()),
            protocol,
        });
    }
    ports
}

fn expose(reader: &mut Reader<'_>) -> Vec<String> {
    let Some(node) = reader.get("expose") else {
        return Vec::new();
    };
    for item in node.items() {
        let text = item.scalar_text().unwrap_or_default();
        let (numbers, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        if parse_port_range(numbers).is_none() || !matches!(protocol, "tcp" | "udp" | "sctp") {
            reader.fail(
                item.place,
                Code::Schema,
                "expose",
                &format!("invalid port {text:?}"),
                Some("ports are written PORT[/PROTOCOL]"),
            );
        }
    }
    reader.texts("expose")
}

fn extra_hosts(reader: &mut Reader<'_>) -> BTreeMap<String, Vec<String>> {
    let mut hosts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(node) = reader.get("extra_hosts") else {
        return hosts;
    };
    for item in node.items() {
        let Some((host, address)) = item.as_text().and_then(|text| text.split_once('=')) else {
            continue;
        };
        if address == "host-gateway" {
            let message = "`host-gateway` is not supported: write the host's address";
            reader.fail(item.place, Code::Unsupported, "extra_hosts", message, None);
        } else if address.parse::<IpAddr>().is_err() {
            let message = format!("invalid ip address: {address}");
            reader.fail(item.place, Code::Schema, "extra_hosts", &message, None);
        } else {
            hosts.entry(host.to_owned()).or_default().push(address.to_owned());
        }
    }
    hosts
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

fn resources(reader: &mut Reader<'_>) -> Resources {
    let memory = reader.either(
        &[&["mem_limit"], &["deploy", "resources", "limits", "memory"]],
        "resources.memory",
    );
    let reservation = reader.either(
        &[
            &["mem_reservation"],
            &["deploy", "resources", "reservations", "memory"],
        ],
        "resources.memory_reservation",
    );
    let swap = reader.either(&[&["memswap_limit"]], "resources.memory_swap");
    let cpus = reader.either(
        &[&["cpus"], &["deploy", "resources", "limits", "cpus"]],
        "resources.cpus_milli",
    );
    let shares = reader.either(&[&["cpu_shares"]], "resources.cpu_shares");
    let cpuset = reader.either(&[&["cpuset"]], "resources.cpuset");
    let pids = reader.either(
        &[&["pids_limit"], &["deploy", "resources", "limits", "pids"]],
        "resources.pids",
    );
    let mut amount = |node: Option<&Node>, field: &str, least: i64| {
        let number: i64 = reader.whole(node, field)?;
        if number < least
            && let Some(node) = node
        {
            let message = format!("must be greater than or equal to {least}");
            reader.fail(node.place, Code::Schema, field, &message, None);
        }
        // Zero is no limit.
        (number != 0).then_some(number)
    };
    let resources = Resources {
        memory: amount(memory, "mem_limit", 0),
        memory_reservation: amount(reservation, "mem_reservation", 0),
        memory_swap: amount(swap, "memswap_limit", -1),
        cpus_milli: None,
        cpu_shares: amount(shares, "cpu_shares", 0).and_then(|shares| u64::try_from(shares).ok()),
        cpuset: cpuset
            .and_then(Node::as_text)
            .filter(|text| !text.is_empty())
            .map(str::to_owned),
        pids: amount(pids, "pids_limit", -1),
    };
    if let (Some(text), Some(node)) = (&resources.cpuset, cpuset)
        && !known::is_cpu_list(text)
    {
        let message = format!("invalid list of processors {text:?}");
        reader.fail(
            node.place,
            Code::Schema,
            "cpuset",
            &message,
            Some("write it as 0-2,4"),
        );
    }
    if let Some(node) = swap {
        match (resources.memory, resources.memory_swap) {
            (None, Some(limit)) if limit > 0 => {
                let message = "needs mem_limit: it is memory and swap together";
                reader.fail(node.place, Code::Conflict, "memswap_limit", message, None);
            }
            (Some(memory), Some(limit)) if limit > 0 && limit < memory => {
                let message = "must not be less than mem_limit: it is memory and swap together";
                reader.fail(node.place, Code::Conflict, "memswap_limit", message, None);
            }
            _ => {}
        }
    }
    if let (Some(reservation), Some(memory)) = (resources.memory_reservation, resources.memory)
        && reservation > memory
    {
        let place = reader.either(
            &[
                &["mem_reservation"],
                &["deploy", "resources", "reservations", "memory"],
            ],
            "resources.memory_reservation",
        );
        let place = place.map_or(Place::NOWHERE, |node| node.place);
        let message = "must not be more than the memory limit";
        reader.fail(place, Code::Conflict, "mem_reservation", message, None);
    }
    Resources {
        cpus_milli: cpus.and_then(|node| milli(node, reader)),
        ..resources
    }
}

/// Processors as thousandths.
fn milli(node: &Node, reader: &mut Reader<'_>) -> Option<u64> {
    #[expect(clippy::cast_precision_loss, reason = "processors are few")]
    let number = match &node.value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        _ => return None,
    };
    if number == 0.0 {
        return None;
    }
    let milli = (number * 1000.0).round();
    if !(1.0..=1e9).contains(&milli) {
        let message = "must be at least 0.001";
        reader.fail(node.place, Code::Schema, "cpus", message, None);
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range, as just checked"
    )]
    Some(milli as u64)
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

fn ulimits(reader: &mut Reader<'_>) -> BTreeMap<String, Ulimit> {
    let mut ulimits = BTreeMap::new();
    for (name, node) in reader.get("ulimits").into_iter().flat_map(Node::entries) {
        let path = format!("ulimits.{name}");
        if !known::ULIMITS.contains(&name) {
            let hint = known::nearest(name, &known::ULIMITS).map(|near| format!("did you mean `{near}`?"));
            reader.fail(node.place, Code::Schema, &path, "unknown limit", hint.as_deref());
            continue;
        }
        let (soft, hard) = match node.as_map() {
            Some(_) => (
                reader.whole(node.get("soft"), &path),
                reader.whole(node.get("hard"), &path),
            ),
            None => {
                let both = reader.whole(Some(node), &path);
                (both, both)
            }
        };
        let (Some(soft), Some(hard)) = (soft, hard) else {
            continue;
        };
        // -1 is unlimited: more than any number.
        let rank = |limit: i64| if limit == -1 { i64::MAX } else { limit };
        if soft < -1 || hard < -1 || rank(soft) > rank(hard) {
            let message = "the soft limit must not be more than the hard one; -1 is unlimited";
            reader.fail(node.place, Code::Schema, &path, message, None);
            continue;
        }
        ulimits.insert(name.to_owned(), Ulimit { soft, hard });
    }
    ulimits
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

/// The name of a resource on the host: it becomes part of file names.
fn resource_name(reader: &mut Reader<'_>) -> String {
    let name = reader.text("name").unwrap_or_default();
    if !known::is_resource_name(&name) {
        let place = reader.get("name").map_or(reader.node.place, |node| node.place);
        let message = format!("invalid name {name:?}");
        let hint = "names match [a-zA-Z0-9][a-zA-Z0-9_.-]*";
        reader.fail(place, Code::Schema, "name", &message, Some(hint));
    }
    name
}

fn external(reader: &mut Reader<'_>, others: &[&str]) -> bool {
    let external = reader.flag("external");
    for other in others {
        if external && let Some(node) = reader.get(other) {
            let message = format!("conflicting parameters \"external\" and {other:?} specified");
            reader.fail(node.place, Code::Conflict, other, &message, None);
        }
    }
    external
}

fn driver(reader: &mut Reader<'_>, path: &[&str], known: &[&str], field: &str) {
    if let Some(node) = reader.at(path)
        && let Some(driver) = node.as_text()
        && !driver.is_empty()
        && !known.contains(&driver)
    {
        let message = format!("{driver:?} is not supported");
        let hint = format!("use {} or leave it out", known.join(" or "));
        reader.fail(node.place, Code::Unsupported, field, &message, Some(&hint));
    }
}

fn network(reader: &mut Reader<'_>) -> Network {
    let name = resource_name(reader);
    let others = ["driver", "ipam", "internal", "labels", "enable_ipv6"];
    let external = external(reader, &others);
    driver(reader, &["driver"], &["bridge", "default"], "driver");
    driver(reader, &["ipam", "driver"], &["default"], "ipam.driver");
    if let Some(node) = reader.get("enable_ipv4")
        && node.as_bool() == Some(false)
    {
        let message = "a network without IPv4 is not supported";
        reader.fail(node.place, Code::Unsupported, "enable_ipv4", message, None);
    }
    let pools = reader.at(&["ipam", "config"]).into_iter().flat_map(Node::items);
    let ipam = pools.filter_map(|node| pool(node, reader)).collect();
    Network {
        name,
        external,
        internal: reader.flag("internal"),
        enable_ipv6: reader.flag("enable_ipv6"),
        ipam,
        labels: reader.table("labels"),
    }
}

fn pool(node: &Node, reader: &mut Reader<'_>) -> Option<IpamPool> {
    let text = |field: &str| node.text_of(field).filter(|text| !text.is_empty());
    let field = "ipam.config";
    let subnet = text("subnet").map(known::subnet);
    let range = text("ip_range").map(known::subnet);
    let gateway: Option<Option<IpAddr>> = text("gateway").map(|gateway| gateway.parse().ok());
    for (name, malformed) in [
        ("subnet", subnet == Some(None)),
        ("ip_range", range == Some(None)),
        ("gateway", gateway == Some(None)),
    ] {
        if malformed {
            let message = format!("invalid {name} {:?}", text(name).unwrap_or_default());
            let hint = "a subnet is written 172.28.0.0/16, a gateway 172.28.0.1";
            reader.fail(node.place, Code::Schema, field, &message, Some(hint));
            return None;
        }
    }
    let (subnet, range, gateway) = (subnet.flatten(), range.flatten(), gateway.flatten());
    if subnet.is_none() && (range.is_some() || gateway.is_some()) {
        let message = "a gateway or ip_range needs a subnet";
        reader.fail(node.place, Code::Schema, field, message, None);
    }
    if let Some(subnet) = subnet {
        let outside = range.is_some_and(|range| range.1 < subnet.1 || !known::contains(subnet, range.0))
            || gateway.is_some_and(|gateway| !known::contains(subnet, gateway));
        if outside {
            let message = "the gateway and the ip_range must be inside the subnet";
            reader.fail(node.place, Code::Conflict, field, message, None);
        }
    }
    Some(IpamPool {
        subnet: text("subnet").map(str::to_owned),
        ip_range: text("ip_range").map(str::to_owned),
        gateway,
    })
}

fn volume(reader: &mut Reader<'_>) -> Volume {
    driver(reader, &["driver"], &["local", "default"], "driver");
    Volume {
        name: resource_name(reader),
        external: external(reader, &["labels"]),
        labels: reader.table("labels"),
    }
}
