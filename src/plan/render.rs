//! A plan as text.
//!
//! Two views of the same plan:
//!
//! * [`overview`]: what changes, one line a resource, with the reason and the
//!   place of the change; then what is left alone; then a sum. For people:
//!   `rcompose plan`.
//! * [`steps`]: one line an action, numbered, with what it comes after. For
//!   `--dry-run` and for tests.
//!
//! Both give structured [`Line`]s without colour, so that the command line can
//! colour by [`Kind`]; a line displays as plain text. The text is stable: the
//! same plan always gives the same lines.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::{Action, Cause, Change, Operation, Plan, Target, WAIT};
use crate::project::{Attachment, Condition};

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An image is fetched.
    Pull,
    /// Something is made.
    Create,
    /// A container or network is removed and made anew.
    Replace,
    /// A container is changed in place.
    Update,
    /// A container is started.
    Start,
    /// A container is stopped and started.
    Restart,
    /// A container is stopped.
    Stop,
    /// Something is removed.
    Remove,
    /// Somebody waits.
    Wait,
    /// Something is left alone.
    Hold,
    /// The user should know.
    Warning,
    /// The sum.
    Summary,
}

impl Kind {
    /// The sign at the beginning of a line.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Pull => "<",
            Self::Create => "+",
            Self::Replace => "-/+",
            Self::Update => "~",
            Self::Start => ">",
            Self::Restart => "./>",
            Self::Stop => ".",
            Self::Remove => "-",
            Self::Wait => "?",
            Self::Hold => "=",
            Self::Warning => "!",
            Self::Summary => "",
        }
    }
}

/// One line of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it tells of.
    pub kind: Kind,
    /// Whether it goes on with the line before: then it has no symbol.
    pub continued: bool,
    /// The text after the symbol, in columns.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Summary => f.write_str(&self.text),
            _ if self.continued => write!(f, "     {}", self.text),
            kind => write!(f, "{:>3}  {}", kind.symbol(), self.text),
        }
    }
}

/// What becomes of one resource.
struct Entry {
    kind: Kind,
    resource: &'static str,
    name: String,
    reasons: Vec<String>,
}

/// What changes, why, and what is left alone: one line a resource.
pub fn overview(plan: &Plan) -> Vec<Line> {
    let entries = entries(plan);
    let mut lines = Vec::new();
    let width = |of: fn(&Entry) -> usize| entries.iter().map(of).max().unwrap_or_default();
    let resources = width(|entry| entry.resource.len());
    let names = width(|entry| entry.name.chars().count()).min(40);
    for entry in &entries {
        let mut reasons = entry.reasons.iter();
        let first = reasons.next().map_or("", String::as_str);
        let text = format!("{:resources$}  {:names$}  {first}", entry.resource, entry.name);
        lines.push(Line {
            kind: entry.kind,
            continued: false,
            text: text.trim_end().to_owned(),
        });
        let indent = resources + 2 + entry.name.chars().count().max(names) + 2;
        for reason in reasons {
            let text = format!("{:indent$}{reason}", "");
            lines.push(Line {
                kind: entry.kind,
                continued: true,
                text,
            });
        }
    }
    lines.extend(holds(plan));
    lines.extend(warnings(plan));
    lines.push(Line {
        kind: Kind::Summary,
        continued: false,
        text: summary(plan, &entries),
    });
    lines
}

/// The actions one by one, with what each comes after.
pub fn steps(plan: &Plan) -> Vec<Line> {
    let width = plan.actions.len().to_string().len();
    let mut lines = Vec::new();
    let mut told: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
    for (at, action) in plan.actions.iter().enumerate() {
        let mut text = format!("{:>width$}  {}", at + 1, operation(&action.operation));
        // What was said of a container is not said again.
        let told = told.entry(resource(&action.operation)).or_default();
        let reasons: Vec<String> = reasons(action)
            .into_iter()
            .filter(|reason| !told.contains(reason))
            .collect();
        told.extend(reasons.iter().cloned());
        if !reasons.is_empty() {
            text.push_str(": ");
            text.push_str(&reasons.join(", "));
        }
        if !action.after.is_empty() {
            let after: Vec<String> = action.after.iter().map(|at| (at + 1).to_string()).collect();
            text.push_str(&format!("  [after {}]", after.join(", ")));
        }
        lines.push(Line {
            kind: kind(&action.operation),
            continued: false,
            text,
        });
    }
    lines.extend(holds(plan));
    lines.extend(warnings(plan));
    lines.push(Line {
        kind: Kind::Summary,
        continued: false,
        text: summary(plan, &entries(plan)),
    });
    lines
}

fn holds(plan: &Plan) -> impl Iterator<Item = Line> {
    let width = plan
        .holds
        .iter()
        .map(|hold| hold.resource.chars().count())
        .max()
        .unwrap_or_default();
    plan.holds.iter().map(move |hold| Line {
        kind: Kind::Hold,
        continued: false,
        text: format!("{:width$}  {}", hold.resource, hold.reason),
    })
}

fn warnings(plan: &Plan) -> impl Iterator<Item = Line> {
    let line = |warning: &String| Line {
        kind: Kind::Warning,
        continued: false,
        text: warning.clone(),
    };
    plan.warnings.iter().map(line)
}

fn kind(operation: &Operation) -> Kind {
    match operation {
        Operation::PullImage { .. } => Kind::Pull,
        Operation::CreateNetwork { .. }
        | Operation::CreateVolume { .. }
        | Operation::CreateContainer { .. } => Kind::Create,
        Operation::RemoveNetwork { .. }
        | Operation::RemoveVolume { .. }
        | Operation::RemoveContainer { .. } => Kind::Remove,
        Operation::UpdateContainer { .. }
        | Operation::SignalContainer { .. }
        | Operation::PauseContainer { .. }
        | Operation::UnpauseContainer { .. } => Kind::Update,
        Operation::StartContainer { .. } | Operation::Prepare { .. } => Kind::Start,
        Operation::StopContainer { .. } => Kind::Stop,
        Operation::Await { .. } | Operation::Settle { .. } => Kind::Wait,
    }
}

/// One operation in words: `start container shop-web-1`.
pub fn operation(operation: &Operation) -> String {
    match operation {
        Operation::PullImage { image, .. } => format!("pull image {image}"),
        Operation::CreateNetwork { name, .. } => format!("create network {name}"),
        Operation::RemoveNetwork { name, .. } => format!("remove network {name}"),
        Operation::CreateVolume { name, .. } => format!("create volume {name}"),
        Operation::RemoveVolume { name } => format!("remove volume {name}"),
        Operation::CreateContainer { name, .. } => format!("create container {name}"),
        Operation::UpdateContainer { container, .. } => {
            format!("update container {} in place", container.name)
        }
        Operation::Prepare {
            service,
            number: None,
        } => format!("run pre_start hooks of {service}"),
        Operation::Prepare {
            service,
            number: Some(number),
        } => format!("run pre_start hooks of {service} for its container #{number}"),
        Operation::StartContainer { container } => format!("start container {}", container.name),
        Operation::StopContainer { container, .. } => format!("stop container {}", container.name),
        Operation::SignalContainer { container, signal } => {
            format!("send {signal} to container {}", container.name)
        }
        Operation::PauseContainer { container } => format!("pause container {}", container.name),
        Operation::UnpauseContainer { container } => format!("unpause container {}", container.name),
        Operation::RemoveContainer {
            container,
            volumes: false,
            ..
        } => {
            format!("remove container {}", container.name)
        }
        Operation::RemoveContainer {
            container,
            volumes: true,
            ..
        } => {
            format!("remove container {} with its anonymous volumes", container.name)
        }
        Operation::Await {
            service,
            condition,
            by,
            ..
        } => wait(service, *condition, by),
        Operation::Settle {
            service, containers, ..
        } => format!(
            "wait until {} updated containers of {service} have settled",
            containers.len()
        ),
    }
}

fn wait(service: &str, condition: Condition, by: &str) -> String {
    let until = until(condition);
    if by == WAIT {
        format!("wait until {service} {until}")
    } else {
        format!("{by} waits until {service} {until}")
    }
}

fn until(condition: Condition) -> &'static str {
    match condition {
        Condition::ServiceStarted => "has started",
        Condition::ServiceHealthy => "is healthy",
        Condition::ServiceCompletedSuccessfully => "has completed",
    }
}

/// Why an action is done, in words; one element a change, none when it is
/// simply what the command asks for.
pub fn reasons(action: &Action) -> Vec<String> {
    let reason = match (&action.cause, &action.operation) {
        (Cause::Changed { changes }, _) => return changes.iter().map(change).collect(),
        (Cause::Requested, _) | (_, Operation::Await { .. } | Operation::Settle { .. }) => return Vec::new(),
        (Cause::Missing, Operation::PullImage { .. }) => "not on this machine".to_owned(),
        (Cause::Missing, _) => "not there".to_owned(),
        (Cause::ImageChanged { old, new }, _) => {
            format!("image is another one now, {} -> {}", short(old), short(new))
        }
        (Cause::Replaced { what }, _) if what.starts_with("service ") => format!("goes with {what}"),
        (Cause::Replaced { what }, _) => format!("{what} is made anew"),
        (Cause::NotRunning, _) => "not running".to_owned(),
        (Cause::Ending, _) => "was being stopped".to_owned(),
        (Cause::NeededBy { who }, _) => format!("needed by {who}"),
        (Cause::Surplus, _) => "not wanted any more".to_owned(),
        (Cause::Repair, Operation::CreateNetwork { .. }) => "its bridge is gone".to_owned(),
        (Cause::Repair, _) => "left over by a command that was cut off".to_owned(),
    };
    vec![reason]
}

/// The first twelve digits of an id, without the name of its algorithm.
fn short(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

fn change(change: &Change) -> String {
    let value = |value: Option<&str>| match value {
        Some(value) => cut(&readable(&change.field, value)),
        None => "(none)".into(),
    };
    let place = change
        .origin
        .as_ref()
        .map_or_else(String::new, |origin| format!("  ({})", origin.describe()));
    format!(
        "{} {} -> {}{place}",
        change.field,
        value(change.old.as_deref()),
        value(change.new.as_deref())
    )
}

/// Durations are stored as nanoseconds; of an attachment without any option
/// there is nothing to show but that it is there.
fn readable(field: &str, value: &str) -> String {
    let last = field.rsplit('.').next().unwrap_or(field);
    if field
        .strip_prefix("networks.")
        .is_some_and(|key| !key.contains('.'))
    {
        let attachment: Option<Attachment> = serde_json::from_str(value).ok();
        if attachment.is_some_and(|attachment| attachment == Attachment::default()) {
            return "attached".to_owned();
        }
    }
    let is_duration = [
        "interval",
        "timeout",
        "start_period",
        "start_interval",
        "stop_grace_period",
    ]
    .contains(&last);
    match value.parse() {
        Ok(nanoseconds) if is_duration => format!("{:?}", Duration::from_nanos(nanoseconds)),
        _ => value.to_owned(),
    }
}

/// Long values lose their end.
fn cut(value: &str) -> String {
    const LONGEST: usize = 60;
    if value.chars().count() <= LONGEST {
        return value.to_owned();
    }
    let head: String = value.chars().take(LONGEST - 1).collect();
    format!("{head}…")
}

/// The actions on one resource become one entry, where the first of them
/// stands.
fn entries(plan: &Plan) -> Vec<Entry> {
    let mut grouped: BTreeMap<(&'static str, String), Vec<&Action>> = BTreeMap::new();
    let mut order = Vec::new();
    for action in &plan.actions {
        let key = resource(&action.operation);
        let actions = grouped.entry(key.clone()).or_default();
        if actions.is_empty() {
            order.push(key);
        }
        actions.push(action);
    }
    let rank = |resource: &str| {
        ["image", "network", "volume", "container", "wait"]
            .iter()
            .position(|other| *other == resource)
    };
    order.sort_by_key(|(resource, _)| rank(resource));
    order
        .into_iter()
        .map(|key| {
            let actions = grouped.remove(&key).unwrap_or_default();
            let kinds: Vec<Kind> = actions.iter().map(|action| kind(&action.operation)).collect();
            let kind = combined(&kinds);
            let mut reasons: Vec<String> = Vec::new();
            for reason in actions.iter().flat_map(|action| self::reasons(action)) {
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
            let goes_on = |action: &&&Action| matches!(action.operation, Operation::UpdateContainer { .. });
            if reasons.is_empty() {
                reasons.push(word(kind).to_owned());
            } else if actions.iter().any(|action| goes_on(&action)) {
                reasons.insert(0, "in place:".to_owned());
            }
            Entry {
                kind,
                resource: key.0,
                name: key.1,
                reasons,
            }
        })
        .collect()
}

fn resource(operation: &Operation) -> (&'static str, String) {
    let container = |target: &Target| ("container", target.name.clone());
    match operation {
        Operation::PullImage { image, .. } => ("image", image.clone()),
        Operation::CreateNetwork { name, .. } | Operation::RemoveNetwork { name, .. } => {
            ("network", name.clone())
        }
        Operation::CreateVolume { name, .. } | Operation::RemoveVolume { name } => ("volume", name.clone()),
        Operation::CreateContainer { name, .. } => ("container", name.clone()),
        Operation::Prepare {
            service,
            number: None,
        } => ("hooks", format!("{service} pre_start")),
        Operation::Prepare {
            service,
            number: Some(number),
        } => ("hooks", format!("{service} pre_start #{number}")),
        Operation::UpdateContainer {
            container: target, ..
        }
        | Operation::StartContainer { container: target }
        | Operation::StopContainer {
            container: target, ..
        }
        | Operation::SignalContainer {
            container: target, ..
        }
        | Operation::PauseContainer { container: target }
        | Operation::UnpauseContainer { container: target }
        | Operation::RemoveContainer {
            container: target, ..
        } => container(target),
        Operation::Await {
            service,
            condition,
            by,
            ..
        } => {
            let until = until(*condition);
            let who = if by == WAIT {
                String::new()
            } else {
                format!("{by}: ")
            };
            ("wait", format!("{who}until {service} {until}"))
        }
        Operation::Settle {
            service, containers, ..
        } => (
            "wait",
            format!(
                "until {} updated containers of {service} have settled",
                containers.len()
            ),
        ),
    }
}

fn combined(kinds: &[Kind]) -> Kind {
    let has = |kind| kinds.contains(&kind);
    if has(Kind::Remove) && has(Kind::Create) {
        Kind::Replace
    } else if has(Kind::Stop) && has(Kind::Start) {
        Kind::Restart
    } else if has(Kind::Remove) {
        Kind::Remove
    } else if has(Kind::Create) {
        Kind::Create
    } else if has(Kind::Start) {
        Kind::Start
    } else {
        kinds.first().copied().unwrap_or(Kind::Hold)
    }
}

/// What happens, when there is no better reason than that it was asked for.
fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Pull => "fetched",
        Kind::Create => "made",
        Kind::Replace => "replaced",
        Kind::Update => "changed in place",
        Kind::Start => "started",
        Kind::Restart => "restarted",
        Kind::Stop => "stopped",
        Kind::Remove => "removed",
        Kind::Wait | Kind::Hold | Kind::Warning | Kind::Summary => "",
    }
}

/// `Plan: 2 to create, 1 to replace, 0 to remove, 5 unchanged`, with further
/// kinds where there are any.
fn summary(plan: &Plan, entries: &[Entry]) -> String {
    let unchanged = plan.holds.len();
    if plan.is_empty() {
        return format!("Plan: nothing to do, {unchanged} unchanged");
    }
    let count = |kind| entries.iter().filter(|entry| entry.kind == kind).count();
    let mut parts = Vec::new();
    for (kind, verb, always) in [
        (Kind::Pull, "pull", false),
        (Kind::Create, "create", true),
        (Kind::Replace, "replace", true),
        (Kind::Update, "update", false),
        (Kind::Start, "start", false),
        (Kind::Restart, "restart", false),
        (Kind::Stop, "stop", false),
        (Kind::Remove, "remove", true),
    ] {
        let count = count(kind);
        if always || count > 0 {
            parts.push(format!("{count} to {verb}"));
        }
    }
    format!("Plan: {}, {unchanged} unchanged", parts.join(", "))
}
