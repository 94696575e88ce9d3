//! `container ls` and `container inspect`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::super::context::Context;
use super::super::failure::{Failure, Outcome};
use super::super::image::arguments::InspectContainers;
use super::super::image::{
    familiar, has_label, now, print_inspected, rfc3339, short_id, size, store, tree_size,
};
use super::super::ps::{self, Shown};
use super::super::template;
use super::arguments::Ls;
use super::{all, make, of};
use crate::host::inventory::{Network, networks};
use crate::host::{HealthRecord, Probed, View, health, last_exit, running};
use crate::image::{ImageStore, Summary};
use crate::plan::ContainerState;
use crate::project::{MountSource, NetworkMode, Protocol, Restart};

/// What `--filter` takes.
const KEYS: [&str; 14] = [
    "name", "id", "status", "health", "exited", "label", "ancestor", "volume", "network", "publish",
    "expose", "before", "since", "project",
];

/// What rows are made of besides their containers.
struct Around {
    networks: Vec<Network>,
    images: Vec<Summary>,
}

pub(super) fn ls(context: &Context, typed: &Ls) -> Outcome {
    let mut views = all(context)?;
    // Names in filters are looked up among all.
    let everything = views.clone();
    views.sort_by_key(|view| std::cmp::Reverse(view.record.created));
    let around = Around {
        networks: networks(&context.world)?,
        images: if typed.size {
            store(context).summaries()?
        } else {
            Vec::new()
        },
    };
    let filters = filters(&everything, &typed.filter)?;
    let mut list: Vec<Shown> = views
        .into_iter()
        .map(|view| Shown::of(&context.world, view))
        .collect();
    let keys: BTreeSet<&str> = filters.iter().map(|filter| filter.key.as_str()).collect();
    // Of one key any value will do, but labels, which all are to be there.
    list.retain(|shown| {
        keys.iter().all(|key| {
            let mut own = filters.iter().filter(|filter| filter.key == *key);
            match *key {
                "label" => own.all(|filter| filter.takes(shown, &around)),
                _ => own.any(|filter| filter.takes(shown, &around)),
            }
        })
    });
    let last = if typed.latest { Some(1) } else { typed.last };
    let every = typed.all || last.is_some() || keys.contains("status") || keys.contains("exited");
    list.retain(|shown| every || shown.is_up());
    list.truncate(last.unwrap_or(usize::MAX));
    if typed.quiet {
        let id = |shown: &Shown| short_id(&shown.view.record.id, typed.no_trunc) + "\n";
        context.terminal.out(&list.iter().map(id).collect::<String>());
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Value> = list
        .iter()
        .map(|shown| row(context, shown, &around, typed))
        .collect();
    let mut columns = vec![
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Ports", "PORTS"),
        ("Names", "NAMES"),
    ];
    if typed.size {
        columns.push(("Size", "SIZE"));
    }
    let text = template::list(&typed.format, &columns, &rows).map_err(Failure::new)?;
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

/// One `--filter`.
struct Filter {
    key: String,
    value: String,
    /// Of `before` and `since`: when the container that it names was made.
    moment: u64,
}

fn filters(list: &[View], texts: &[String]) -> Result<Vec<Filter>, Failure> {
    let mut filters = Vec::new();
    for text in texts {
        let wrong = |reason: &str| Failure::new(format!("filter {text:?}: {reason}"));
        let (key, value) = text.split_once('=').ok_or_else(|| wrong("it is not KEY=VALUE"))?;
        if !KEYS.contains(&key) {
            return Err(wrong(&format!("the keys are {}", KEYS.join(", "))));
        }
        let moment = match key {
            "before" | "since" => of(list, value).map_err(|error| wrong(&error))?.record.created,
            _ => 0,
        };
        let known: &[&str] = match key {
            "status" => &[
                "created",
                "running",
                "paused",
                "restarting",
                "exited",
                "removing",
                "dead",
            ],
            "health" => &["none", "starting", "healthy", "unhealthy"],
            _ => &[value],
        };
        if !known.contains(&value) {
            return Err(wrong(&format!("it is one of {}", known.join(", "))));
        }
        if key == "exited" && value.parse::<i32>().is_err() {
            return Err(wrong("it is an exit status"));
        }
        if matches!(key, "publish" | "expose") && port(value).is_none() {
            return Err(wrong("it is PORT[-PORT][/PROTOCOL]"));
        }
        filters.push(Filter {
            key: key.to_owned(),
            value: value.to_owned(),
            moment,
        });
    }
    Ok(filters)
}

/// `80`, `8000-8080/udp`.
fn port(text: &str) -> Option<(u16, u16, Protocol)> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    Some((first.parse().ok()?, last.parse().ok()?, protocol))
}

impl Filter {
    fn takes(&self, shown: &Shown, around: &Around) -> bool {
        let (view, value) = (&shown.view, self.value.as_str());
        let record = &view.record;
        match self.key.as_str() {
            "name" => record.name.contains(value.trim_start_matches('/')),
            "id" => record.id.starts_with(value),
            "status" => shown.state() == value,
            "health" => match ps::health(view.health) {
                "" => value == "none",
                verdict => verdict == value,
            },
            "exited" => match view.state {
                ContainerState::Exited { code, .. } => value == code.to_string(),
                _ => false,
            },
            "label" => has_label(&record.labels, value),
            "project" => record.project == value,
            "volume" => {
                record
                    .volumes
                    .values()
                    .chain(record.anonymous.values())
                    .any(|name| name == value)
                    || record.config.volumes.iter().any(|mount| mount.target == value)
            }
            "network" => around.networks.iter().any(|network| {
                (network.name == value || network.id.starts_with(value))
                    && record.networks.values().any(|id| *id == network.id)
            }),
            "publish" => port(value).is_some_and(|(first, last, protocol)| {
                let on = |port: &crate::host::Published| {
                    port.protocol == protocol && (first..=last).contains(&port.published)
                };
                view.ports.iter().any(on)
            }),
            "expose" => port(value).is_some_and(|(first, last, protocol)| {
                let published = view
                    .ports
                    .iter()
                    .map(|port| (port.target, port.target, port.protocol));
                let exposed = record.config.expose.iter().filter_map(|text| port(text));
                published
                    .chain(exposed)
                    .any(|(from, to, of)| of == protocol && from <= last && first <= to)
            }),
            "before" => record.created < self.moment,
            "since" => record.created > self.moment,
            _ => {
                familiar(&record.config.image) == familiar(value)
                    || record
                        .image
                        .trim_start_matches("sha256:")
                        .starts_with(value.trim_start_matches("sha256:"))
            }
        }
    }
}

fn row(context: &Context, shown: &Shown, around: &Around, typed: &Ls) -> Value {
    let view = &shown.view;
    let record = &view.record;
    let labels = record
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let mounts = record.volumes.values().chain(record.anonymous.values());
    let networks = around
        .networks
        .iter()
        .filter(|network| record.networks.values().any(|id| *id == network.id))
        .map(|network| network.name.clone());
    let size = if typed.size {
        let own = tree_size(&make::upper(context, view));
        let image = around.images.iter().find(|image| image.id == record.image);
        let whole = own + image.map_or(0, |image| image.bytes);
        format!("{} (virtual {})", size(own), size(whole))
    } else {
        "0B".to_owned()
    };
    json!({
        "Command": ps::command(&record.command, typed.no_trunc),
        "CreatedAt": ps::timestamp(record.created),
        "ID": short_id(&record.id, typed.no_trunc),
        "Image": familiar(&record.config.image),
        "Labels": labels.collect::<Vec<_>>().join(","),
        "LocalVolumes": (record.volumes.len() + record.anonymous.len()).to_string(),
        "Mounts": mounts.cloned().collect::<Vec<_>>().join(","),
        "Names": record.name,
        "Networks": networks.collect::<Vec<_>>().join(","),
        "Ports": ps::ports(&view.ports, &record.config.expose),
        "RunningFor": format!("{} ago", ps::ago(now(), record.created)),
        "Size": size,
        "State": shown.state(),
        "Status": ps::describe_all(shown),
    })
}

pub(super) fn inspect(context: &Context, typed: &InspectContainers) -> Outcome {
    let list = all(context)?;
    let networks = networks(&context.world)?;
    let store = store(context);
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    for name in &typed.which.names {
        match of(&list, name) {
            Ok(view) => {
                let shown = Shown::of(&context.world, view.clone());
                values.push(inspected(context, &shown, &networks, &store, typed.size)?);
            }
            Err(error) => errors.push(error),
        }
    }
    print_inspected(context, &values, typed.which.format.as_deref())?;
    if errors.is_empty() {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure::list(&errors))
    }
}

fn time(nanoseconds: u64) -> String {
    match nanoseconds {
        0 => "0001-01-01T00:00:00Z".to_owned(),
        other => rfc3339(other),
    }
}

/// A container in the shape of docker's engine API, as far as there is something
/// to say.
fn inspected(
    context: &Context,
    shown: &Shown,
    networks: &[Network],
    store: &ImageStore,
    sizes: bool,
) -> Result<Value, Failure> {
    let view = &shown.view;
    let record = &view.record;
    let service = &record.config;
    let (path, arguments) = match record.command.split_first() {
        Some((path, arguments)) => (path.clone(), arguments.to_vec()),
        None => (String::new(), Vec::new()),
    };
    let image = store
        .get(&record.image)?
        .map(|image| image.config)
        .unwrap_or_default();
    // What the container runs with: the image's, and the service's in its place.
    let mut environment = image.env;
    for (name, value) in &service.environment {
        let prefix = format!("{name}=");
        environment.retain(|line| !line.starts_with(&prefix));
        environment.push(format!("{prefix}{value}"));
    }
    let mut value = json!({
        "Id": record.id,
        "Created": time(record.created),
        "Path": path,
        "Args": arguments,
        "State": state(context, shown)?,
        "Image": record.image,
        "LogPath": view.log,
        "Name": format!("/{}", record.name),
        "Platform": "linux",
        "Mounts": mounts(context, view),
        "Config": {
            "Hostname": service.hostname.as_deref().unwrap_or(record.short_id()),
            "Domainname": service.domainname.as_deref().unwrap_or(""),
            "User": service.user.as_deref().unwrap_or(&image.user),
            "Tty": service.tty,
            "OpenStdin": service.stdin_open,
            "Env": environment,
            "Cmd": service.command,
            "Entrypoint": service.entrypoint,
            "Image": service.image,
            "WorkingDir": service.working_dir.as_deref().unwrap_or(&image.working_dir),
            "Labels": record.labels,
            "StopSignal": record.stop_signal,
        },
        "HostConfig": host_config(view),
        "NetworkSettings": network_settings(view, networks),
        // As the stack file has it, every default taken in.
        "Service": service,
    });
    if let (true, Some(object)) = (sizes, value.as_object_mut()) {
        let own = tree_size(&make::upper(context, view));
        let below = store.find(&record.image).map_or(0, |image| image.bytes);
        object.insert("SizeRw".to_owned(), own.into());
        object.insert("SizeRootFs".to_owned(), (own + below).into());
    }
    Ok(value)
}

fn state(context: &Context, shown: &Shown) -> Result<Value, Failure> {
    let view = &shown.view;
    let record = running(&context.world, &view.record)?;
    let exit = last_exit(&context.world, &view.record)?;
    let (code, finished) = match &view.state {
        ContainerState::Exited { code, finished, .. } => (*code, *finished),
        _ => (0, exit.as_ref().map_or(0, |exit| exit.finished_at)),
    };
    let pid = record.as_ref().filter(|_| view.state.is_running());
    let mut state = json!({
        "Status": shown.state(),
        "Running": view.state.is_running(),
        "Paused": view.state.is_paused(),
        "Restarting": shown.state() == "restarting",
        "Dead": false,
        "Pid": pid.map_or(0, |record| record.init.pid),
        "ExitCode": code,
        "Error": "",
        "StartedAt": time(record.as_ref().map_or(0, |record| record.started_at)),
        "FinishedAt": time(finished),
    });
    if let (Some(_), Some(object)) = (view.health, state.as_object_mut()) {
        let known = health(&context.world, &view.record)?.unwrap_or_else(HealthRecord::starting);
        let log: Vec<Value> = known.probes.iter().map(probe).collect();
        let health = json!({
            "Status": ps::health(view.health), "FailingStreak": known.failures, "Log": log,
        });
        object.insert("Health".to_owned(), health);
    }
    Ok(state)
}

/// One probe of a container's health.
fn probe(probed: &Probed) -> Value {
    json!({
        "Start": time(probed.begun), "End": time(probed.ended),
        "ExitCode": probed.code, "Output": probed.output,
    })
}

/// Binds, volumes and tmpfs, each with where it is on this machine.
fn mounts(context: &Context, view: &View) -> Vec<Value> {
    let record = &view.record;
    let volume = |name: &String, target: &str, read_only: bool| {
        json!({
            "Type": "volume", "Name": name, "Source": context.world.volumes().join(name).join("data"),
            "Destination": target, "Driver": "local", "Mode": if read_only { "ro" } else { "rw" },
            "RW": !read_only, "Propagation": "",
        })
    };
    let mut list = Vec::new();
    for mount in &record.config.volumes {
        let (target, read_only) = (mount.target.as_str(), mount.read_only);
        match &mount.source {
            MountSource::Bind { path, .. } => list.push(json!({
                "Type": "bind", "Source": path, "Destination": target,
                "Mode": if read_only { "ro" } else { "rw" }, "RW": !read_only, "Propagation": "rprivate",
            })),
            MountSource::Volume { volume: key, .. } => {
                list.extend(
                    record
                        .volumes
                        .get(key)
                        .map(|name| volume(name, target, read_only)),
                );
            }
            MountSource::Tmpfs { .. } => list.push(json!({
                "Type": "tmpfs", "Source": "", "Destination": target, "Mode": "", "RW": !read_only,
                "Propagation": "",
            })),
            _ => {}
        }
    }
    list.extend(
        record
            .anonymous
            .iter()
            .map(|(target, name)| volume(name, target, false)),
    );
    list
}

fn ports(view: &View) -> Map<String, Value> {
    let mut ports = Map::new();
    for port in &view.ports {
        let entry = ports
            .entry(format!("{}/{}", port.target, port.protocol))
            .or_insert_with(|| json!([]));
        if let Some(list) = entry.as_array_mut() {
            list.push(json!({
                "HostIp": port.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string()),
                "HostPort": port.published.to_string(),
            }));
        }
    }
    ports
}

fn host_config(view: &View) -> Value {
    let service = &view.record.config;
    let (restart, most) = match &service.restart {
        Restart::No => ("no", 0),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
        Restart::OnFailure { max_retries } => ("on-failure", max_retries.unwrap_or(0)),
    };
    let mode = match &service.network_mode {
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Service(name) => format!("service:{name}"),
        _ => view.record.networks.keys().next().cloned().unwrap_or_default(),
    };
    let binds: Vec<String> = service
        .volumes
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => Some(format!(
                "{}:{}:{}",
                path.display(),
                mount.target,
                if mount.read_only { "ro" } else { "rw" }
            )),
            _ => None,
        })
        .collect();
    json!({
        "Binds": binds,
        "NetworkMode": mode,
        "PortBindings": ports(view),
        "RestartPolicy": {"Name": restart, "MaximumRetryCount": most},
        "AutoRemove": false,
        "CapAdd": service.cap_add,
        "CapDrop": service.cap_drop,
        "Privileged": service.privileged,
        "ReadonlyRootfs": service.read_only,
        "SecurityOpt": service.security_opt,
        "Sysctls": service.sysctls,
        "Init": service.init,
        "LogConfig": {
            "Type": service.logging.as_ref().and_then(|logging| logging.driver.as_deref()).unwrap_or("json-file"),
        },
    })
}

fn network_settings(view: &View, networks: &[Network]) -> Value {
    let record = &view.record;
    let mut found = Map::new();
    for id in record.networks.values() {
        let Some(network) = networks.iter().find(|network| network.id == *id) else {
            continue;
        };
        let addresses = network.addresses(record);
        let of = |v6: bool| {
            let own = addresses.iter().find(|(address, _)| address.is_ipv6() == v6);
            own.map_or((String::new(), 0), |(address, prefix)| {
                (address.to_string(), *prefix)
            })
        };
        let gateway = |v6: bool| {
            let pool = network.pools.iter().find(|pool| pool.gateway.is_ipv6() == v6);
            pool.filter(|_| !network.internal)
                .map(|pool| pool.gateway.to_string())
                .unwrap_or_default()
        };
        let ((address, prefix), (address6, prefix6)) = (of(false), of(true));
        found.insert(
            network.name.clone(),
            json!({
                "NetworkID": network.id,
                "IPAddress": address,
                "IPPrefixLen": prefix,
                "Gateway": gateway(false),
                "GlobalIPv6Address": address6,
                "GlobalIPv6PrefixLen": prefix6,
                "IPv6Gateway": gateway(true),
                "Aliases": [record.config.name, record.name],
            }),
        );
    }
    json!({"Ports": ports(view), "Networks": found})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_filters_are_ranges() {
        assert_eq!(port("80"), Some((80, 80, Protocol::Tcp)));
        assert_eq!(port("8000-8080/udp"), Some((8000, 8080, Protocol::Udp)));
        for wrong in ["", "x", "80/icmp", "1-x"] {
            assert_eq!(port(wrong), None, "{wrong}");
        }
    }
}
