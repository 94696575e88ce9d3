//! `ps`: the containers of the stack, read from records and kernel; no
//! supervisor is needed.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::arguments::{Ps, Status, TableFormat};
use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::terminal::table;
use crate::host::{Published, View, views};
use crate::lifecycle::Health;
use crate::plan::ContainerState;
use crate::project::Project;

/// Columns of a command that are shown unless `--no-trunc`.
const COMMAND_WIDTH: usize = 20;

pub(super) fn ps(context: &Context, typed: &Ps) -> Outcome {
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    let filters: Vec<Status> = typed.status.iter().chain(&typed.filter).copied().collect();
    let wanted = |view: &View| {
        let status = status(&view.state);
        (typed.services.is_empty() || typed.services.contains(&view.record.config.name))
            && if filters.is_empty() {
                typed.all || view.state.is_running()
            } else {
                filters.contains(&status)
            }
    };
    let mut list = views(&context.world, &loaded.project.name)?;
    list.retain(wanted);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = if typed.quiet {
        list.iter().map(|view| format!("{}\n", view.record.id)).collect()
    } else if typed.services_only {
        let mut names: Vec<&str> = list.iter().map(|view| view.record.config.name.as_str()).collect();
        names.dedup();
        names.iter().map(|name| format!("{name}\n")).collect()
    } else {
        match typed.format {
            TableFormat::Json => json(&list, &loaded.project, now)?,
            TableFormat::Table => columns(&list, now, typed.no_trunc),
        }
    };
    context.terminal.out(&text);
    Ok(ExitCode::SUCCESS)
}

fn status(state: &ContainerState) -> Status {
    match state {
        ContainerState::Created => Status::Created,
        ContainerState::Running { .. } => Status::Running,
        ContainerState::Exited { .. } => Status::Exited,
    }
}

fn columns(list: &[View], now: Duration, whole: bool) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|view| {
            vec![
                view.record.name.clone(),
                view.record.config.image.clone(),
                command(&view.record.command, whole),
                view.record.config.name.clone(),
                format!("{} ago", ago(now, view.record.created)),
                describe(view, now),
                ports(&view.ports),
            ]
        })
        .collect();
    table(
        &[
            "NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS",
        ],
        &rows,
    )
}

fn json(list: &[View], project: &Project, now: Duration) -> Result<String, Failure> {
    let mut text = String::new();
    for view in list {
        let record = &view.record;
        let (state, code) = match &view.state {
            ContainerState::Created => ("created", 0),
            ContainerState::Running { .. } => ("running", 0),
            ContainerState::Exited { code, .. } => ("exited", *code),
        };
        let publishers: Vec<serde_json::Value> = view
            .ports
            .iter()
            .map(|port| {
                serde_json::json!({
                    "URL": port.host_ip.map_or(String::new(), |ip| ip.to_string()),
                    "TargetPort": port.target,
                    "PublishedPort": port.published,
                    "Protocol": port.protocol.to_string(),
                })
            })
            .collect();
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
        let object = serde_json::json!({
            "Command": command(&record.command, true),
            "CreatedAt": timestamp(record.created),
            "ExitCode": code,
            "Health": health(view.health),
            "ID": record.short_id(),
            "Image": record.config.image,
            "Labels": labels.join(","),
            "LocalVolumes": (record.volumes.len() + record.anonymous.len()).to_string(),
            "Mounts": record.volumes.values().cloned().collect::<Vec<_>>().join(","),
            "Name": record.name,
            "Names": record.name,
            "Networks": networks.join(","),
            "Ports": ports(&view.ports),
            "Project": record.project,
            "Publishers": publishers,
            "RunningFor": format!("{} ago", ago(now, record.created)),
            "Service": record.config.name,
            "State": state,
            "Status": describe(view, now),
        });
        text.push_str(&serde_json::to_string(&object).map_err(Failure::new)?);
        text.push('\n');
    }
    Ok(text)
}

/// `Up 2 minutes (healthy)`, `Exited (1) 3 seconds ago`, `Created`.
pub(super) fn describe(view: &View, now: Duration) -> String {
    match &view.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running {
            started,
            paused: true,
        } => format!("Up {} (Paused)", ago(now, *started)),
        ContainerState::Running { started, .. } => match view.health {
            None => format!("Up {}", ago(now, *started)),
            Some(Health::Starting) => format!("Up {} (health: starting)", ago(now, *started)),
            Some(_) => format!("Up {} ({})", ago(now, *started), health(view.health)),
        },
        ContainerState::Exited { code, finished, .. } => {
            format!("Exited ({code}) {} ago", ago(now, *finished))
        }
    }
}

fn health(health: Option<Health>) -> &'static str {
    match health {
        None => "",
        Some(Health::Starting) => "starting",
        Some(Health::Healthy) => "healthy",
        Some(Health::Unhealthy) => "unhealthy",
    }
}

pub(super) fn command(arguments: &[String], whole: bool) -> String {
    let text = arguments.join(" ");
    let shown = if whole || text.chars().count() <= COMMAND_WIDTH {
        text
    } else {
        text.chars().take(COMMAND_WIDTH - 1).chain(['…']).collect()
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
pub(super) fn ports(ports: &[Published]) -> String {
    let text: Vec<String> = ports.iter().map(Published::to_string).collect();
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
    fn long_commands_are_cut_at_a_character() {
        assert_eq!(command(&["nginx".into()], false), "\"nginx\"");
        let long = ["/docker-entrypoint.sh".to_owned(), "nginx".into(), "-g".into()];
        assert_eq!(command(&long, false), "\"/docker-entrypoint.…\"");
        assert_eq!(
            command(&["say".into(), "\"a\nb\"".into()], true),
            r#""say \"a\nb\"""#
        );
        assert_eq!(command(&long, true), "\"/docker-entrypoint.sh nginx -g\"");
    }
}
