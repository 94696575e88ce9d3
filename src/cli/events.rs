//! `events`: what happens to the stack, from its journal; no supervisor is needed.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::fs::inotify;
use tokio::io::Interest;

use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::moment;
use crate::monitor::log::format_time;
use crate::supervisor::journal::{Event, Follower};
use crate::sys::readiness::watch;

/// How often is looked whether another journal has taken the place of the one
/// that is read. What is added to that is not polled for.
const LOOK: Duration = Duration::from_millis(250);

/// `events`.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Services whose events are shown [default: all, networks and volumes too]
    services: Vec<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Past ones too, since: 10m, 2026-11-20T15:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,
    /// End at: 10m (ago), 2026-11-20T15:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
}

pub(super) fn events(context: &Context, typed: &Events) -> Outcome {
    let now = moment::now();
    let time = |text: &Option<String>| {
        text.as_ref()
            .map(|text| moment::parse(text, now).map_err(Failure::new))
            .transpose()
    };
    let (since, until) = (time(&typed.since)?, time(&typed.until)?);
    let loaded = context.load_or_recall(&typed.services)?;
    known_services(&loaded.project, &typed.services)?;
    super::block_on(show(
        context,
        typed,
        &loaded.project.name,
        since.or(until.map(|_| 0)),
        until,
    ))
}

async fn show(
    context: &Context,
    typed: &Events,
    project: &str,
    since: Option<u64>,
    until: Option<u64>,
) -> Outcome {
    let failed = |error: std::io::Error| Failure::new(format!("watch events: {error}"));
    let (mut follower, past) = match since {
        Some(_) => Follower::from_start(&context.world, project),
        None => (Follower::from_end(&context.world, project), vec![]),
    };
    let print = |events: &[Event]| {
        let text: String = events
            .iter()
            .filter(|event| typed.services.is_empty() || typed.services.contains(&event.service))
            .filter(|event| since.is_none_or(|since| event.time >= since))
            .filter(|event| until.is_none_or(|until| event.time <= until))
            .map(|event| if typed.json { json(event) } else { text(event) })
            .collect();
        if !text.is_empty() {
            context.terminal.out(&text);
        }
    };
    print(&past);
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let inotify = inotify::init(flags).map_err(|error| failed(error.into()))?;
    let inotify = watch(inotify, Interest::READABLE).map_err(failed)?;
    loop {
        if let Some(file) = follower.file() {
            use std::os::fd::AsRawFd as _;
            // By descriptor: under its name there may be another one already.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let _ = inotify::add_watch(&inotify, path, inotify::WatchFlags::MODIFY);
        }
        print(&follower.next());
        let now = moment::now();
        let left = match until {
            Some(until) if until <= now => return Ok(ExitCode::SUCCESS),
            Some(until) => Duration::from_nanos(until - now),
            None => LOOK,
        };
        tokio::select! {
            ready = inotify.readable() => {
                let mut events = [0_u8; 4096];
                let read = ready.map_err(failed)?.try_io(|fd| {
                    rustix::io::read(fd, &mut events).map_err(std::io::Error::from)
                });
                match read {
                    Ok(Err(error)) if error.kind() != std::io::ErrorKind::Interrupted => {
                        return Err(failed(error));
                    }
                    _ => {}
                }
            }
            () = tokio::time::sleep(left.min(LOOK)) => {}
        }
    }
}

/// `2026-11-20 15:00:00.000000 container start <id> (image=…, name=…)`
fn text(event: &Event) -> String {
    let attributes: Vec<String> = event
        .attributes
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let time = moment::local(event.time, "%Y-%m-%d %H:%M:%S%.6f");
    let line = format!(
        "{time} {} {} {} ({})",
        event.kind,
        event.action,
        event.id,
        attributes.join(", ")
    );
    // A label may hold anything.
    let plain = line.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.chain(['\n']).collect()
}

fn json(event: &Event) -> String {
    let object = serde_json::json!({
        "action": event.action,
        "attributes": event.attributes,
        "id": event.id,
        "service": event.service,
        "time": format_time(event.time),
        "type": event.kind,
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_printed_as_docker_compose_does() {
        let event = Event {
            time: 1_700_000_000_123_456_789,
            kind: "container".into(),
            action: "die".into(),
            service: "web".into(),
            id: "0123".into(),
            attributes: [("exitCode", "1"), ("image", "i"), ("x", "a\nb")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let line = text(&event);
        assert!(
            line.ends_with(".123456 container die 0123 (exitCode=1, image=i, x=a b)\n"),
            "{line}"
        );
        assert_eq!(
            json(&event),
            "{\"action\":\"die\",\"attributes\":{\"exitCode\":\"1\",\"image\":\"i\",\"x\":\"a\\nb\"},\"id\":\"0123\",\
             \"service\":\"web\",\"time\":\"2023-11-14T22:13:20.123456789Z\",\"type\":\"container\"}\n"
        );
    }
}
