//! `why`: what a service does, and the chain of causes.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;

use super::context::{Context, known_services};
use super::failure::{Failure, Outcome};
use super::graph::{Mood, condition, summary};
use super::moment;
use super::ps::{Shown, Status, describe_all};
use super::terminal::Style;
use crate::graph::{Graph, Link};
use crate::host::{HealthRecord, health, last_exit, replicas};
use crate::lifecycle::Health;
use crate::monitor::log::{From, Reader};
use crate::plan::ContainerState;
use crate::project::{Condition, Restart};
use crate::supervisor::journal::{Event, Follower};

/// How many of a container's last lines are shown.
const LINES: usize = 5;
/// Ends within this time (nanoseconds) count as a crash loop from [`MANY`] on.
const RECENT: u64 = 600 * 1_000_000_000;
/// How many.
const MANY: usize = 3;

/// `why`.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// Service
    service: String,
}

struct Asked<'a> {
    context: &'a Context,
    graph: Graph,
    shown: Vec<Shown>,
    events: Vec<Event>,
    now: u64,
    said: BTreeSet<String>,
    text: String,
}

pub(super) fn why(context: &Context, typed: &Why) -> Outcome {
    let services = std::slice::from_ref(&typed.service);
    // Naming it would switch it on, whatever its profiles are.
    let loaded = context.load_or_recall(&[])?;
    known_services(&loaded.project, services)?;
    let project = &loaded.project;
    let graph = Graph::new(project).map_err(Failure::new)?;
    let shown = replicas(&context.world, &project.name)?
        .into_iter()
        .map(|view| Shown::of(&context.world, view))
        .collect();
    let (_, events) = Follower::from_start(&context.world, &project.name);
    let mut asked = Asked {
        context,
        graph,
        shown,
        events,
        now: moment::now(),
        said: BTreeSet::new(),
        text: String::new(),
    };
    if let Some(profiles) = project.disabled_services.get(&typed.service) {
        asked.line(0, &format!("{}: switched off", typed.service));
        asked.line(
            1,
            &format!(
                "it has the profiles {}, and none of them is enabled",
                profiles.join(", ")
            ),
        );
    } else {
        asked.service(&typed.service, None, 0)?;
    }
    context.terminal.out(&asked.text);
    Ok(ExitCode::SUCCESS)
}

impl Asked<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// A service, and what it waits for or fails by.
    fn service(&mut self, service: &str, link: Option<&Link>, depth: usize) -> Result<(), Failure> {
        let colored = self.context.terminal.color_out;
        let own = |shown: &&Shown| shown.view.record.config.name == service;
        let containers: Vec<&Shown> = self.shown.iter().filter(own).collect();
        let state = summary(&containers);
        let painted = state.mood.style().paint(&state.text, colored);
        let wanted = link.map_or(String::new(), |link| format!(" (must be {})", condition(link)));
        let head = Style::Bold.paint(service, colored);
        let mut lines = Vec::new();
        for shown in &containers {
            lines.extend(self.container(shown)?);
        }
        self.line(depth, &format!("{head}: {painted}{wanted}"));
        if !self.said.insert(service.to_owned()) {
            return Ok(());
        }
        for line in lines {
            self.line(depth + 1, &line);
        }
        let open: Vec<(String, Link)> = self
            .graph
            .dependencies(service)
            .into_iter()
            .filter(|(name, link)| !self.holds(name, link))
            .map(|(name, link)| (name.to_owned(), link.clone()))
            .collect();
        let idle = containers_idle(&self.shown, service);
        if idle && open.is_empty() && state.mood == Mood::Absent && state.text == "no container" {
            self.line(
                depth + 1,
                &format!("nothing has made it yet: 'rcompose up -d {service}' does"),
            );
        }
        if !open.is_empty() {
            let words = if idle {
                "it waits for:"
            } else {
                "what it depends on is not as it should be:"
            };
            self.line(depth + 1, words);
        }
        for (name, link) in open {
            self.service(&name, Some(&link), depth + 2)?;
        }
        Ok(())
    }

    /// Whether a dependency is as its dependent wants it.
    fn holds(&self, service: &str, link: &Link) -> bool {
        let mut containers = self
            .shown
            .iter()
            .filter(|shown| shown.view.record.config.name == service)
            .peekable();
        if containers.peek().is_none() {
            return false;
        }
        containers.all(|shown| match link.condition {
            Condition::ServiceStarted => shown.status == Status::Running,
            Condition::ServiceHealthy => shown.view.health == Some(Health::Healthy),
            Condition::ServiceCompletedSuccessfully => {
                matches!(shown.view.state, ContainerState::Exited { code: 0, .. })
            }
        })
    }

    /// What there is to say of a container.
    fn container(&self, shown: &Shown) -> Result<Vec<String>, Failure> {
        let record = &shown.view.record;
        let mut lines = vec![format!("{}: {}", record.name, describe_all(shown))];
        lines.extend(self.health(shown)?);
        let exit = last_exit(&self.context.world, record)?;
        let ended = matches!(shown.view.state, ContainerState::Exited { .. });
        if let Some(exit) = exit.filter(|_| ended) {
            if exit.oom_killed {
                lines.push("  the kernel killed processes of it for want of memory".to_owned());
            }
            if let Some(signal) = exit.signal {
                let name = nix::sys::signal::Signal::try_from(signal).map_or("?", |signal| signal.as_str());
                lines.push(format!("  killed by signal {signal} ({name})"));
            } else if let Some(meaning) = meaning(exit.code) {
                lines.push(format!("  status {}: {meaning}", exit.code));
            }
            lines.extend(exit.error.map(|error| format!("  {error}")));
        }
        if let ContainerState::Exited { code, stopped, .. } = shown.view.state {
            lines.push(format!(
                "  {}",
                policy(shown.status, record.config.restart, code, stopped)
            ));
        }
        let ends = self
            .events
            .iter()
            .filter(|event| event.id == record.id && event.action == "die")
            .filter(|event| event.time + RECENT > self.now)
            .count();
        if ends >= MANY {
            lines.push(format!(
                "  it has ended {ends} times in the last 10 minutes: a crash loop"
            ));
        }
        let bad = ended || shown.view.health == Some(Health::Unhealthy);
        if bad && let Ok(Some(mut reader)) = Reader::open(&shown.view.log, From::Last(LINES)) {
            let mut last = Vec::new();
            while let Ok(Some(entry)) = reader.next() {
                let text = String::from_utf8_lossy(&entry.text).into_owned();
                let plain: String = text
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
                last.push(format!("    | {}", plain.trim_end()));
            }
            if last.is_empty() {
                lines.push("  it has printed nothing".to_owned());
            } else {
                lines.push("  the last it has printed:".to_owned());
                lines.extend(last);
            }
        }
        Ok(lines)
    }

    /// What there is to say of a container's health while it is not healthy.
    fn health(&self, shown: &Shown) -> Result<Vec<String>, Failure> {
        let record = &shown.view.record;
        let (Some(check), Some(verdict)) = (&record.check, shown.view.health) else {
            return Ok(vec![]);
        };
        let known = health(&self.context.world, record)?.unwrap_or_else(HealthRecord::starting);
        let last = known.probes.back().filter(|probed| !probed.passed());
        let what = match (verdict, last) {
            (Health::Unhealthy, _) => "its health check fails",
            (Health::Starting, Some(_)) => "its health check has not passed so far",
            _ => return Ok(vec![]),
        };
        let test = match &check.built_in {
            Some(probe) => probe.to_string(),
            None => check.test.join(" "),
        };
        let mut lines = vec![format!("  {what}: {test}")];
        if let Some(last) = last {
            lines.push(format!("    the last time: {}", last.summary()));
        }
        Ok(lines)
    }
}

/// Whether no container of a service runs.
fn containers_idle(shown: &[Shown], service: &str) -> bool {
    !shown
        .iter()
        .any(|shown| shown.view.record.config.name == service && shown.is_up())
}

/// What a status means by convention.
fn meaning(code: i32) -> Option<&'static str> {
    match code {
        126 => Some("the program cannot be executed"),
        127 => Some("the program was not found"),
        _ => None,
    }
}

/// Why it is started again, or is not.
fn policy(status: Status, restart: Restart, code: i32, stopped: bool) -> String {
    let name = match restart {
        Restart::No => "no".to_owned(),
        Restart::Always => "always".to_owned(),
        Restart::UnlessStopped => "unless-stopped".to_owned(),
        Restart::OnFailure { max_retries: None } => "on-failure".to_owned(),
        Restart::OnFailure {
            max_retries: Some(most),
        } => format!("on-failure:{most}"),
    };
    if stopped {
        "a command stopped it: it stays so until a command starts it".to_owned()
    } else if status == Status::Restarting {
        format!("it is about to be started again: restart is {name}")
    } else {
        match restart {
            Restart::No => "it is not started again: restart is no".to_owned(),
            Restart::OnFailure { .. } if code == 0 => {
                format!("it is not started again: restart is {name}, and it ended well")
            }
            Restart::OnFailure { max_retries: Some(_) } => {
                format!("it is not started again: restart is {name}, and so often it was")
            }
            _ => format!(
                "restart is {name}, and nobody looks after the stack: any command that changes it does"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_restart_policy_is_explained() {
        let say = |status, restart, code, stopped| policy(status, restart, code, stopped);
        let most = Restart::OnFailure { max_retries: Some(3) };
        for (text, part) in [
            (say(Status::Exited, Restart::No, 1, false), "restart is no"),
            (
                say(Status::Exited, Restart::Always, 1, true),
                "a command stopped it",
            ),
            (
                say(Status::Restarting, Restart::Always, 1, false),
                "about to be started",
            ),
            (say(Status::Exited, most, 0, false), "ended well"),
            (say(Status::Exited, most, 1, false), "on-failure:3, and so often"),
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
