//! `ps`: the containers of the stack, read from records and kernel; no
//! supervisor is needed.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::template::list;
use crate::host::{Published, View, is_restarting, views};
use crate::lifecycle::Health;
use crate::plan::ContainerState;
use crate::project::{MountSource, Project};
use crate::store::World;

/// Columns of a command that are shown unless `--no-trunc`.
const COMMAND_WIDTH: usize = 20;
/// Columns of a mount that are shown unless `--no-trunc`.
const MOUNT_WIDTH: usize = 15;

/// `ps`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent flag")]
pub(super) struct Ps {
    /// Services to list [default: all]
    services: Vec<String>,
    /// Those that ended too
    #[arg(short, long)]
    all: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Print the names of services only
    #[arg(long = "services")]
    services_only: bool,
    /// 'table', 'json' (one object a line), or a Go template
    #[arg(long, default_value = "table", value_name = "FORMAT")]
    format: String,
    /// Only containers in this state; repeat it for several
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<Status>,
    /// Only containers that match: status=STATUS; repeat it for several
    #[arg(long, value_name = "status=STATUS", value_parser = filter)]
    filter: Vec<Status>,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Whether containers of services that the stack file does not have are listed
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true,
          action = clap::ArgAction::Set, value_parser = clap::builder::BoolishValueParser::new(), value_name = "BOOL")]
    orphans: bool,
}

/// The states `ps --status` knows: docker's. A container here is never
/// `removing` or `dead`: it is there, or it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Status {
    /// Made, never started
    Created,
    /// Running
    Running,
    /// Running, and frozen
    Paused,
    /// Ended, and about to be started again
    Restarting,
    /// Ended
    Exited,
    /// Being removed
    Removing,
    /// Could not be removed
    Dead,
}

fn filter(text: &str) -> Result<Status, String> {
    match text.split_once('=') {
        Some(("status", status)) => Status::from_str(status, false).map_err(|_| {
            format!(
                "no status is called {status}: use created, running, paused, restarting, exited, removing or dead"
            )
        }),
        _ => Err("the only filter is status=STATUS".to_owned()),
    }
}

/// A container and its state in docker's words.
pub(super) struct Shown {
    pub(super) view: View,
    pub(super) status: Status,
}

impl Shown {
    pub(super) fn of(world: &World, view: View) -> Self {
        let status = match &view.state {
            ContainerState::Created => Status::Created,
            ContainerState::Running { paused: true, .. } => Status::Paused,
            ContainerState::Running { .. } => Status::Running,
            ContainerState::Exited { .. } if is_restarting(world, &view) => Status::Restarting,
            ContainerState::Exited { .. } => Status::Exited,
        };
        Self { view, status }
    }

    /// The state as docker spells it.
    pub(super) fn state(&self) -> &'static str {
        match self.status {
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
            Status::Removing => "removing",
            Status::Dead => "dead",
        }
    }

    /// Whether it counts as up: it runs, or is about to again.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused | Status::Restarting)
    }
}

pub(super) fn ps(context: &Context, typed: &Ps) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    let project = &loaded.project;
    known_services(project, &typed.services)?;
    let filters: Vec<Status> = typed.status.iter().chain(&typed.filter).copied().collect();
    let mut shown: Vec<Shown> = views(&context.world, &project.name)?
        .into_iter()
        .filter(|view| typed.all || view.record.one_off.is_none())
        .filter(|view| {
            let service = &view.record.config.name;
            if typed.services.is_empty() {
                typed.orphans || project.services.contains_key(service)
            } else {
                typed.services.contains(service)
            }
        })
        .map(|view| Shown::of(&context.world, view))
        .collect();
    shown.retain(|shown| {
        if filters.is_empty() {
            typed.all || shown.is_up()
        } else {
            filters.contains(&shown.status)
        }
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = if typed.quiet {
        shown
            .iter()
            .map(|shown| format!("{}\n", shown.view.record.id))
            .collect()
    } else if typed.services_only {
        let mut names: Vec<&str> = shown
            .iter()
            .map(|shown| shown.view.record.config.name.as_str())
            .collect();
        names.dedup();
        names.iter().map(|name| format!("{name}\n")).collect()
    } else {
        let rows: Vec<Value> = shown
            .iter()
            .map(|shown| row(shown, project, now, typed.no_trunc))
            .collect();
        list(&typed.format, &COLUMNS, &rows).map_err(Failure::new)?
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

const COLUMNS: [(&str, &str); 7] = [
    ("Name", "NAME"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("Service", "SERVICE"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
];

/// One container with the fields that docker compose has.
fn row(shown: &Shown, project: &Project, now: Duration, whole: bool) -> Value {
    let view = &shown.view;
    let record = &view.record;
    let code = match &view.state {
        ContainerState::Exited { code, .. } => *code,
        _ => 0,
    };
    let labels: Vec<String> = record
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let network = |key: &String| match project.networks.get(key) {
        Some(network) => network.name.clone(),
        None => format!("{}_{key}", record.project),
    };
    let networks: Vec<String> = record.networks.keys().map(network).collect();
    let volumes = record.volumes.values().chain(record.anonymous.values()).cloned();
    let binds = record
        .config
        .volumes
        .iter()
        .filter_map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => Some(path.display().to_string()),
            _ => None,
        });
    let mounts: Vec<String> = volumes
        .chain(binds)
        .map(|mount| {
            if whole {
                mount
            } else {
                shorten(&mount, MOUNT_WIDTH)
            }
        })
        .collect();
    serde_json::json!({
        "Command": command(&record.command, whole),
        "CreatedAt": timestamp(record.created),
        "ExitCode": code,
        "Health": health(view.health),
        "ID": if whole { record.id.as_str() } else { record.short_id() },
        "Image": record.config.image,
        "Labels": labels.join(","),
        "LocalVolumes": (record.volumes.len() + record.anonymous.len()).to_string(),
        "Mounts": mounts.join(","),
        "Name": record.name,
        "Names": record.name,
        "Networks": networks.join(","),
        "Ports": ports(&view.ports, &record.config.expose),
        "Project": record.project,
        "Publishers": publishers(&view.ports, &record.config.expose),
        "RunningFor": format!("{} ago", ago(now, record.created)),
        "Service": record.config.name,
        "Size": "0B",
        "State": shown.state(),
        "Status": described(view, shown.status == Status::Restarting, now),
    })
}

/// An object for each address that a port is published at, and for each port
/// that is only exposed.
fn publishers(ports: &[Published], expose: &[String]) -> Vec<Value> {
    let mut list = Vec::new();
    for port in ports {
        let addresses = match port.host_ip {
            None => vec!["0.0.0.0".to_owned(), "::".to_owned()],
            Some(ip) => vec![ip.to_string()],
        };
        for address in addresses {
            list.push(serde_json::json!({
                "URL": address,
                "TargetPort": port.target,
                "PublishedPort": port.published,
                "Protocol": port.protocol.to_string(),
            }));
        }
    }
    for (target, protocol) in exposed(ports, expose) {
        list.push(serde_json::json!({
            "URL": "",
            "TargetPort": target,
            "PublishedPort": 0,
            "Protocol": protocol,
        }));
    }
    list
}

/// The ports that are exposed and not published.
fn exposed(ports: &[Published], expose: &[String]) -> Vec<(u16, String)> {
    let mut list: Vec<(u16, String)> = expose
        .iter()
        .flat_map(|text| {
            let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let bounds = (first.parse::<u16>(), last.parse::<u16>());
            let range = match bounds {
                (Ok(first), Ok(last)) => first..=last,
                _ => return vec![],
            };
            range.map(|port| (port, protocol.to_owned())).collect()
        })
        .collect();
    list.retain(|(target, protocol)| {
        !ports
            .iter()
            .any(|port| port.target == *target && port.protocol.to_string() == *protocol)
    });
    list.sort();
    list.dedup();
    list
}

/// `Up 2 minutes (healthy)`, `Exited (1) 3 seconds ago`, `Created`: the state of
/// a container in docker's words, as of now.
pub(super) fn describe_all(shown: &Shown) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    described(&shown.view, shown.status == Status::Restarting, now)
}

/// [`describe_all`]; `restarting`: it waits for its restart policy.
fn described(view: &View, restarting: bool, now: Duration) -> String {
    match &view.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running { started, .. } => {
            let up = format!("Up {}", ago(now, *started));
            match view.health {
                _ if view.state.is_paused() => format!("{up} (Paused)"),
                None => up,
                Some(Health::Starting) => format!("{up} (health: starting)"),
                Some(_) => format!("{up} ({})", health(view.health)),
            }
        }
        ContainerState::Exited { code, finished, .. } => {
            let word = if restarting { "Restarting" } else { "Exited" };
            format!("{word} ({code}) {} ago", ago(now, *finished))
        }
    }
}

pub(super) fn health(health: Option<Health>) -> &'static str {
    match health {
        None => "",
        Some(Health::Starting) => "starting",
        Some(Health::Healthy) => "healthy",
        Some(Health::Unhealthy) => "unhealthy",
    }
}

/// A text that takes at most so many columns.
fn shorten(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A command as docker shows it: arguments with spaces between single quotes,
/// all of it quoted, and cut unless the `whole` is wanted.
pub(super) fn command(arguments: &[String], whole: bool) -> String {
    let mut words = arguments.iter();
    let mut text = words.next().cloned().unwrap_or_default();
    for word in words {
        let quote = if word.contains(' ') { "'" } else { "" };
        text.extend([" ", quote, word, quote]);
    }
    let shown = if whole {
        text
    } else {
        shorten(&text, COMMAND_WIDTH)
    };
    // As Go's %q has it: nothing in it breaks the line, or drives the terminal.
    let mut quoted = String::from("\"");
    for character in shown.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => quoted.extend(c.escape_default()),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp`; what is only exposed is `80/tcp`.
pub(super) fn ports(ports: &[Published], expose: &[String]) -> String {
    let mut text: Vec<String> = ports.iter().map(Published::to_string).collect();
    let only = exposed(ports, expose);
    text.extend(only.iter().map(|(port, protocol)| format!("{port}/{protocol}")));
    text.join(", ")
}

/// Nanoseconds since the epoch as docker prints times.
pub(super) fn timestamp(nanoseconds: u64) -> String {
    i64::try_from(nanoseconds / 1_000_000_000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map(|time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string())
        .unwrap_or_default()
}

/// Time that has passed, in docker's words.
pub(super) fn ago(now: Duration, then: u64) -> String {
    let seconds = now.saturating_sub(Duration::from_nanos(then)).as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 0 | 1) => "About an hour".to_owned(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_in_docker_words() {
        let after = |seconds: u64| ago(Duration::from_secs(seconds), 0);
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (1_209_600, "2 weeks"),
        ];
        for (seconds, text) in table {
            assert_eq!(after(seconds), text, "{seconds} s");
        }
    }

    #[test]
    fn publishers_are_those_of_docker_compose() {
        let port = |host_ip, published, target| Published {
            host_ip,
            published,
            target,
            protocol: crate::project::Protocol::Tcp,
        };
        let list = [
            port(None, 8080, 80),
            port(Some("127.0.0.1".parse().unwrap()), 8443, 443),
        ];
        let expose = ["80".to_owned(), "9000-9001".to_owned(), "53/udp".to_owned()];
        let text = serde_json::to_string(&publishers(&list, &expose)).unwrap();
        assert!(text.starts_with(
            r#"[{"URL":"0.0.0.0","TargetPort":80,"PublishedPort":8080,"Protocol":"tcp"},{"URL":"::","TargetPort":80,"#
        ));
        assert!(text.contains(r#"{"URL":"","TargetPort":53,"PublishedPort":0,"Protocol":"udp"}"#));
        assert_eq!(
            ports(&list, &expose),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 127.0.0.1:8443->443/tcp, 53/udp, 9000/tcp, 9001/tcp"
        );
        assert_eq!(ports(&[], &["x".to_owned()]), "");
    }

    #[test]
    fn long_commands_are_cut_at_a_character() {
        assert_eq!(command(&["nginx".into()], false), "\"nginx\"");
        let long = ["/docker-entrypoint.sh".to_owned(), "nginx".into(), "-g".into()];
        assert_eq!(command(&long, false), "\"/docker-entrypoint.…\"");
        assert_eq!(
            command(&["say".into(), "\"a\nb\"".into()], true),
            r#""say \"a\nb\"""#
        );
        assert_eq!(command(&long, true), "\"/docker-entrypoint.sh nginx -g\"");
        let shell = ["sh", "-c", "id; umask"].map(str::to_owned);
        assert_eq!(command(&shell, true), "\"sh -c 'id; umask'\"");
    }
}
