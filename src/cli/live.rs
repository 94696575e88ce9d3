//! The live list of a walk: what there is to do, what each thing is at, and
//! what it waits for.
//!
//! One line a resource, in the order of the plan; the replicas of a service
//! stand below it. The plan says what a line that has not begun waits for
//! ([`List::plan`]), events move lines on ([`List::event`]), and
//! [`List::lines`] lays them out for a screen. Nothing here prints.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::terminal::Style;
use crate::plan::{Action, Operation, Plan, WAIT};
use crate::project::Condition;
use crate::reconcile::{Phase, resource};

/// The frames of what is at work.
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// How long one of them is shown.
pub(super) const FRAME: Duration = Duration::from_millis(100);

/// Columns that are kept for what is said beside a line.
const REMARK: usize = 34;

/// What a line is at.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Nothing has begun.
    Ahead,
    /// Something is in progress.
    Begun,
    /// All that has begun is done.
    Done,
    Failed,
    Cancelled,
}

#[derive(Clone, Debug)]
struct Item {
    resource: String,
    /// Its service, for a container.
    service: Option<String>,
    verb: String,
    state: State,
    /// Actions of the plan that have not come to their end.
    left: usize,
    began: Option<Instant>,
    took: Option<Duration>,
    /// The last verdict of its health check.
    health: Option<String>,
    /// The services that its start waits for.
    needs: BTreeSet<(String, Option<Condition>)>,
}

impl Item {
    fn new(resource: &str, service: Option<&str>) -> Self {
        Self {
            resource: resource.to_owned(),
            service: service.map(str::to_owned),
            verb: String::new(),
            state: State::Ahead,
            left: 0,
            began: None,
            took: None,
            health: None,
            needs: BTreeSet::new(),
        }
    }

    fn is_settled(&self) -> bool {
        self.left == 0 && self.state == State::Done
    }
}

/// The containers of a service that somebody waits for.
#[derive(Clone, Debug, Default)]
struct Wait {
    containers: Vec<String>,
    condition: Condition,
    /// Services that wait; the user is none.
    by: BTreeSet<String>,
    /// Waits in progress.
    open: usize,
    /// One has come to its end well.
    met: bool,
}

/// A line of the screen, laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Columns it takes.
    pub(super) width: usize,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct List {
    items: Vec<Item>,
    waits: BTreeMap<String, Wait>,
    began: Instant,
}

impl List {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            items: vec![],
            waits: BTreeMap::new(),
            began: now,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn find(&mut self, resource: &str) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.resource == resource)
    }

    fn item(&mut self, resource: &str, service: Option<&str>) -> Option<&mut Item> {
        let at = self.items.iter().position(|item| item.resource == resource);
        let at = at.unwrap_or_else(|| {
            self.items.push(Item::new(resource, service));
            self.items.len() - 1
        });
        self.items.get_mut(at)
    }

    /// Takes in what is about to be done; fetches of images only with `pulls`.
    pub(super) fn plan(&mut self, plan: &Plan, pulls: bool) {
        // A walk may plan again; what was done stays done.
        for item in &mut self.items {
            item.left = 0;
            item.needs.clear();
        }
        for action in &plan.actions {
            if let Operation::Await {
                service,
                containers,
                condition,
                by,
                ..
            } = &action.operation
            {
                let wait = self.waits.entry(service.clone()).or_default();
                wait.containers = containers.iter().map(|one| one.name.clone()).collect();
                wait.condition = *condition;
                if by != WAIT {
                    wait.by.insert(by.clone());
                }
                continue;
            }
            if !pulls && matches!(action.operation, Operation::PullImage { .. }) {
                continue;
            }
            let needs = needs(plan, action);
            let Some(item) = self.item(&resource(&action.operation), service(&action.operation)) else {
                continue;
            };
            item.left += 1;
            item.needs.extend(needs);
        }
    }

    /// Takes in that an action entered a phase.
    pub(super) fn event(&mut self, resource: &str, verb: &str, phase: &Phase, now: Instant) {
        let waited = resource
            .strip_prefix("Service ")
            .filter(|service| self.is_wait(service, verb, phase));
        if let Some(service) = waited.map(str::to_owned) {
            return self.waited(&service, verb, phase, now);
        }
        let Some(item) = self.item(resource, None) else {
            return;
        };
        verb.clone_into(&mut item.verb);
        item.began.get_or_insert(now);
        if *phase != Phase::Begun {
            item.left = item.left.saturating_sub(1);
            item.took = item.began.map(|began| now.saturating_duration_since(began));
        }
        item.state = match phase {
            Phase::Begun => State::Begun,
            Phase::Done => State::Done,
            Phase::Failed { .. } => State::Failed,
            Phase::Cancelled => State::Cancelled,
        };
    }

    /// Whether an event about a service is about waiting for it.
    fn is_wait(&self, service: &str, verb: &str, phase: &Phase) -> bool {
        let Some(wait) = self.waits.get(service) else {
            return false;
        };
        match phase {
            Phase::Begun => verb == "Waiting",
            Phase::Done => matches!(verb, "Started" | "Healthy" | "Exited"),
            Phase::Failed { .. } | Phase::Cancelled => wait.open > 0,
        }
    }

    fn waited(&mut self, service: &str, verb: &str, phase: &Phase, now: Instant) {
        let Some(wait) = self.waits.get_mut(service) else {
            return;
        };
        match phase {
            Phase::Begun => wait.open += 1,
            _ => wait.open = wait.open.saturating_sub(1),
        }
        wait.met |= *phase == Phase::Done;
        let wait = wait.clone();
        for name in wait.containers {
            // It may have run before this command.
            let Some(item) = self.item(&format!("Container {name}"), Some(service)) else {
                continue;
            };
            item.began.get_or_insert(now);
            match phase {
                Phase::Begun => {
                    if item.state == State::Ahead {
                        "Running".clone_into(&mut item.verb);
                    }
                    item.state = State::Begun;
                }
                Phase::Done => {
                    verb.clone_into(&mut item.verb);
                    item.state = State::Done;
                }
                Phase::Failed { .. } => {
                    verb.clone_into(&mut item.verb);
                    item.state = State::Failed;
                }
                Phase::Cancelled if item.state == State::Begun => item.state = State::Cancelled,
                Phase::Cancelled => {}
            }
            if *phase != Phase::Begun {
                item.took = item.began.map(|began| now.saturating_duration_since(began));
            }
        }
    }

    /// Takes in a verdict about a container's health.
    pub(super) fn health(&mut self, container: &str, verdict: &str) {
        if let Some(item) = self.find(&format!("Container {container}")) {
            item.health = Some(verdict.to_owned());
        }
    }

    /// What a line waits for: the services, or the condition they are to meet.
    fn waits_for(&self, item: &Item) -> String {
        let unmet = item.needs.iter().filter(|(service, condition)| match condition {
            Some(_) => self.waits.get(service).is_none_or(|wait| !wait.met),
            None => self
                .items
                .iter()
                .any(|item| item.service.as_ref() == Some(service) && !item.is_settled()),
        });
        let names: Vec<String> = unmet
            .map(|(service, condition)| match condition {
                Some(condition) => format!("{service} ({})", wanted(*condition)),
                None => service.clone(),
            })
            .collect();
        if names.is_empty() {
            return String::new();
        }
        format!("waits for {}", names.join(", "))
    }

    /// What is said of a line beside its verb.
    fn remark(&self, item: &Item) -> String {
        let wait = item.service.as_ref().and_then(|service| self.waits.get(service));
        match (&item.state, wait) {
            (State::Begun, Some(wait)) if wait.open > 0 && item.left == 0 => {
                let mut text = match (&item.health, wait.condition) {
                    (Some(health), Condition::ServiceHealthy) => format!("health: {health}"),
                    _ => format!("until it is {}", wanted(wait.condition)),
                };
                if !wait.by.is_empty() {
                    let by: Vec<&str> = wait.by.iter().map(String::as_str).collect();
                    text.push_str(&format!(", for {}", by.join(", ")));
                }
                text
            }
            (State::Ahead, _) => self.waits_for(item),
            (State::Done, _) if item.left > 0 => self.waits_for(item),
            (State::Done, _) if item.verb != "Healthy" => item.health.clone().unwrap_or_default(),
            _ => String::new(),
        }
    }

    /// How much is done of how much.
    fn count(&self) -> (usize, usize) {
        let done = self.items.iter().filter(|item| item.is_settled()).count();
        (done, self.items.len())
    }

    /// Lays out the list: the head, and at most `rows` lines below it, none
    /// wider than `columns`. `running` is whether anything may still happen.
    pub(super) fn lines(
        &self,
        rows: usize,
        columns: usize,
        colored: bool,
        running: bool,
        now: Instant,
    ) -> Vec<Line> {
        let passed = now.saturating_duration_since(self.began);
        let frame = passed.as_millis() / FRAME.as_millis();
        let spinner = usize::try_from(frame).map_or(0, |frame| frame % SPINNER.len());
        let spinner = SPINNER.get(spinner).copied().unwrap_or("⠿");
        let (done, all) = self.count();
        let head = format!("[+] {done}/{all}  {:.1}s", passed.as_secs_f32());
        let mut lines = vec![Row::plain(head)];
        let shown = self.chosen(rows);
        let hidden = all.saturating_sub(shown.len());
        let mut open: Option<&str> = None;
        for &at in &shown {
            let Some(item) = self.items.get(at) else { continue };
            let group = item.service.as_deref().filter(|service| self.has_many(service));
            if let Some(service) = group.filter(|service| open != Some(service) && rows >= all) {
                lines.push(Row::plain(format!("   {service}")));
            }
            open = group;
            lines.push(self.row(item, group.is_some() && rows >= all, spinner, running, now));
        }
        if hidden > 0 {
            lines.push(Row::plain(format!("   and {hidden} more")));
        }
        let names = lines
            .iter()
            .filter(|row| !row.verb.is_empty() || !row.remark.is_empty());
        let longest = names.map(|row| row.name.width()).max().unwrap_or(0);
        let verbs = lines.iter().map(|row| row.verb.width()).max().unwrap_or(0);
        let remarks = lines.iter().map(|row| row.remark.width()).max().unwrap_or(0);
        // The mark, the verb and the time; of what is said beside them, enough to
        // know what it is about. Names give way.
        let beside = 3 + 2 + verbs + 2 + 6 + if remarks > 0 { 2 + remarks.min(REMARK) } else { 0 };
        let width = longest.min(columns.saturating_sub(1 + beside).max(12));
        let lines = lines.into_iter();
        lines.map(|row| row.fit(width, verbs, columns, colored)).collect()
    }

    fn row(&self, item: &Item, below: bool, spinner: &'static str, running: bool, now: Instant) -> Row {
        let waits = item.left > 0 && item.state == State::Done;
        let (mark, style) = match item.state {
            State::Begun if running => (spinner, Style::Blue),
            State::Begun => ("⠿", Style::Blue),
            State::Done if waits => ("·", Style::Dim),
            State::Done => ("✔", Style::Green),
            State::Failed => ("✘", Style::Red),
            State::Cancelled => ("-", Style::Yellow),
            State::Ahead => ("·", Style::Dim),
        };
        let took = match item.state {
            State::Begun => item.began.map(|began| now.saturating_duration_since(began)),
            State::Ahead => None,
            _ => item.took,
        };
        Row {
            mark,
            style,
            name: format!("{}{}", if below { "  " } else { "" }, item.resource),
            verb: item.verb.clone(),
            took: took.map_or_else(String::new, |took| format!("{:.1}s", took.as_secs_f32())),
            remark: self.remark(item),
        }
    }

    /// Whether a service has several lines.
    fn has_many(&self, service: &str) -> bool {
        let mut of = self.items.iter();
        let is = |item: &Item| item.service.as_deref() == Some(service);
        of.by_ref().any(is) && of.any(is)
    }

    /// The lines there is room for, in order: what is at work or went wrong
    /// first, then what was done last, then what is ahead.
    fn chosen(&self, room: usize) -> Vec<usize> {
        let all = self.items.len();
        if all <= room {
            return (0..all).collect();
        }
        let urgency = |item: &Item| match item.state {
            State::Failed | State::Cancelled => 0,
            State::Begun => 1,
            State::Done if item.left > 0 => 2,
            State::Ahead => 3,
            State::Done => 4,
        };
        let mut order: Vec<(usize, usize)> = self
            .items
            .iter()
            .enumerate()
            .map(|(at, item)| match urgency(item) {
                // Of those that are done, the last.
                4 => (4, all - at),
                other => (other, at),
            })
            .collect();
        order.sort_unstable();
        let mut chosen: Vec<usize> = order
            .into_iter()
            .take(room)
            .map(|(urgency, at)| if urgency == 4 { all - at } else { at })
            .collect();
        chosen.sort_unstable();
        chosen
    }
}

/// One line before it is cut to the screen.
struct Row {
    mark: &'static str,
    style: Style,
    name: String,
    verb: String,
    took: String,
    remark: String,
}

impl Row {
    fn plain(text: String) -> Self {
        Self {
            mark: "",
            style: Style::Plain,
            name: text,
            verb: String::new(),
            took: String::new(),
            remark: String::new(),
        }
    }

    /// The line in so many columns: the name is cut first, then what stands last.
    fn fit(self, names: usize, verbs: usize, columns: usize, colored: bool) -> Line {
        // The last column is left free: some terminals go on to the next line
        // when it is filled.
        let mut line = Cut::new(columns.saturating_sub(1), colored);
        if self.mark.is_empty() {
            line.add(&self.name, Style::Plain);
            return line.done();
        }
        line.add(" ", Style::Plain);
        line.add(self.mark, self.style);
        line.add(" ", Style::Plain);
        let name = clip(&self.name, names);
        line.add(&name, Style::Plain);
        let pad = |to: &mut Cut, has: usize, wanted: usize| {
            to.add(&" ".repeat(wanted.saturating_sub(has) + 2), Style::Plain);
        };
        if !(self.verb.is_empty() && self.took.is_empty() && self.remark.is_empty()) {
            pad(&mut line, name.width(), names);
            line.add(&self.verb, self.style);
            pad(&mut line, self.verb.width(), verbs);
            line.add(&format!("{:>6}", self.took), Style::Plain);
            if !self.remark.is_empty() {
                line.add(&format!("  {}", self.remark), Style::Dim);
            }
        }
        line.done()
    }
}

/// Text that stops where the screen ends.
struct Cut {
    text: String,
    width: usize,
    room: usize,
    colored: bool,
}

impl Cut {
    fn new(room: usize, colored: bool) -> Self {
        Self {
            text: String::new(),
            width: 0,
            room,
            colored,
        }
    }

    fn add(&mut self, text: &str, style: Style) {
        let text = clip(text, self.room.saturating_sub(self.width));
        self.width += text.width();
        if text.trim().is_empty() {
            self.text.push_str(&text);
        } else {
            self.text.push_str(&style.paint(&text, self.colored));
        }
    }

    fn done(mut self) -> Line {
        if !self.colored {
            self.text.truncate(self.text.trim_end().len());
            self.width = self.text.width();
        }
        Line {
            text: self.text,
            width: self.width,
        }
    }
}

/// Text that takes at most so many columns.
fn clip(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut width = 0;
    for letter in text.chars() {
        width += letter.width().unwrap_or(0);
        if width >= columns {
            break;
        }
        cut.push(letter);
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// What a condition asks for, in a word.
fn wanted(condition: Condition) -> &'static str {
    match condition {
        Condition::ServiceStarted => "started",
        Condition::ServiceHealthy => "healthy",
        Condition::ServiceCompletedSuccessfully => "completed",
    }
}

/// The service whose container an operation is about.
fn service(operation: &Operation) -> Option<&str> {
    match operation {
        Operation::CreateContainer { service, .. } => Some(service),
        Operation::StartContainer { container }
        | Operation::StopContainer { container, .. }
        | Operation::RemoveContainer { container, .. }
        | Operation::UpdateContainer { container, .. }
        | Operation::SignalContainer { container, .. }
        | Operation::PauseContainer { container }
        | Operation::UnpauseContainer { container } => Some(&container.service),
        _ => None,
    }
}

/// The services that a start waits for; with the condition, unless their start
/// is enough.
fn needs(plan: &Plan, action: &Action) -> BTreeSet<(String, Option<Condition>)> {
    let Operation::StartContainer { container } = &action.operation else {
        return BTreeSet::new();
    };
    let before = action.after.iter().filter_map(|&index| plan.actions.get(index));
    before
        .filter_map(|before| match &before.operation {
            Operation::Await {
                service, condition, ..
            } => Some((service.clone(), Some(*condition))),
            Operation::StartContainer { container: other } if other.service != container.service => {
                Some((other.service.clone(), None))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Cause, Target};

    fn target(service: &str, number: u32) -> Target {
        Target {
            id: None,
            service: service.into(),
            number,
            name: format!("p-{service}-{number}"),
        }
    }

    fn action(operation: Operation, after: &[usize]) -> Action {
        Action {
            operation,
            cause: Cause::Missing,
            after: after.into(),
        }
    }

    fn start(service: &str, number: u32, after: &[usize]) -> Action {
        let container = target(service, number);
        action(Operation::StartContainer { container }, after)
    }

    /// `db`, for whose health the two of `web` wait.
    fn plan() -> Plan {
        let wait = Operation::Await {
            service: "db".into(),
            containers: vec![target("db", 1)],
            condition: Condition::ServiceHealthy,
            required: true,
            by: "web".into(),
        };
        Plan {
            actions: vec![
                start("db", 1, &[]),
                action(wait, &[0]),
                start("web", 1, &[1]),
                start("web", 2, &[1]),
            ],
            ..Plan::default()
        }
    }

    fn text(list: &List, rows: usize, columns: usize, now: Instant) -> Vec<String> {
        let lines = list.lines(rows, columns, false, true, now);
        for line in &lines {
            assert!(line.width < columns, "{line:?}");
            assert_eq!(line.width, line.text.width());
        }
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn a_line_says_what_it_waits_for_until_that_is_there() {
        let now = Instant::now();
        let mut list = List::new(now);
        list.plan(&plan(), true);
        list.event("Container p-db-1", "Starting", &Phase::Begun, now);
        list.event("Container p-db-1", "Started", &Phase::Done, now);
        list.event("Service db", "Waiting", &Phase::Begun, now);
        list.health("p-db-1", "starting");
        assert_eq!(
            text(&list, 20, 80, now),
            [
                "[+] 0/3  0.0s",
                " ⠋ Container p-db-1     Started    0.0s  health: starting, for web",
                "   web",
                " ·   Container p-web-1                   waits for db (healthy)",
                " ·   Container p-web-2                   waits for db (healthy)",
            ]
        );
        let later = now + Duration::from_millis(1300);
        list.event("Service db", "Healthy", &Phase::Done, later);
        list.event("Container p-web-1", "Starting", &Phase::Begun, later);
        list.event(
            "Container p-web-2",
            "Error",
            &Phase::Failed { error: "no".into() },
            later,
        );
        assert_eq!(
            text(&list, 20, 80, later),
            [
                "[+] 1/3  1.3s",
                " ✔ Container p-db-1     Healthy     1.3s",
                "   web",
                " ⠸   Container p-web-1  Starting    0.0s",
                " ✘   Container p-web-2  Error       0.0s",
            ]
        );
    }

    #[test]
    fn a_small_screen_shows_what_matters_and_no_line_is_wider() {
        let now = Instant::now();
        let mut list = List::new(now);
        list.plan(&plan(), true);
        list.event("Container p-db-1", "Started", &Phase::Done, now);
        list.event("Container p-web-2", "Starting", &Phase::Begun, now);
        assert_eq!(
            text(&list, 1, 80, now)[1..],
            [" ⠋ Container p-web-2  Starting    0.0s", "   and 2 more"]
        );
        for columns in [1, 2, 5, 10, 20, 40] {
            text(&list, 20, columns, now);
        }
    }

    #[test]
    fn what_is_done_of_a_plan_that_was_made_again_stays_done() {
        let now = Instant::now();
        let mut list = List::new(now);
        list.plan(&plan(), true);
        list.event("Image x", "Pulling", &Phase::Begun, now);
        list.event("Image x", "Pulled", &Phase::Done, now);
        list.plan(&plan(), true);
        assert_eq!(list.count(), (1, 4));
    }

    #[test]
    fn letters_are_cut_by_their_width() {
        assert_eq!(clip("Container é", 11), "Container é");
        assert_eq!(clip("Container web", 8), "Contain…");
        assert_eq!(clip("日本語", 4), "日…");
        assert_eq!(clip("x", 0), "");
    }
}
