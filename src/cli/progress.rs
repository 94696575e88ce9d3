//! Progress of a walk, on standard error.
//!
//! On a terminal a list that is redrawn in place, one line a resource; elsewhere
//! docker compose's lines (` Container p-web-1  Started`), or JSON objects.

use std::time::Instant;

use super::arguments::Progress as How;
use super::terminal::{Style, Terminal};
use crate::reconcile::{Event, Phase};

/// Shows the events of one walk.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    terminal: &'a Terminal,
    items: Vec<Item>,
    drawn: usize,
}

#[derive(Debug)]
struct Item {
    resource: String,
    verb: String,
    phase: Phase,
    since: Instant,
    took: Option<f32>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(terminal: &'a Terminal) -> Self {
        Self {
            terminal,
            items: vec![],
            drawn: 0,
        }
    }

    /// Shows one event.
    pub(super) fn show(&mut self, event: &Event) {
        if self.terminal.quiet_pull
            && matches!(event, Event::Action { resource, .. } if resource.starts_with("Image "))
        {
            return;
        }
        match self.terminal.progress {
            How::Quiet => {
                if let Event::Warning { text } = event {
                    self.terminal.warning(text);
                }
            }
            How::Json => {
                if let Ok(line) = serde_json::to_string(event) {
                    self.terminal.err(&format!("{line}\n"));
                }
            }
            How::Tty => self.redraw(event),
            How::Auto | How::Plain => match event {
                // Why something failed is said at the end, once.
                Event::Action { resource, verb, .. } => {
                    self.terminal.err(&format!(" {resource}  {verb}\n"));
                }
                Event::Warning { text } => self.terminal.warning(text),
            },
        }
    }

    /// Starts a new list below what has been drawn.
    pub(super) fn settle(&mut self) {
        self.items.clear();
        self.drawn = 0;
    }

    /// Prints what a list may be drawn below of: it is taken away first, and
    /// drawn again after.
    pub(super) fn above(&mut self, print: impl FnOnce(&Terminal)) {
        self.lift();
        print(self.terminal);
        if !self.items.is_empty() {
            self.draw();
        }
    }

    /// Takes the list off the screen.
    fn lift(&mut self) {
        if self.drawn > 0 {
            self.terminal.err(&format!("\x1b[{}A\r\x1b[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn redraw(&mut self, event: &Event) {
        match event {
            Event::Warning { text } => self.above(|terminal| terminal.warning(text)),
            Event::Action {
                resource,
                verb,
                phase,
            } => {
                self.note(resource, verb, phase);
                self.draw();
            }
        }
    }

    fn note(&mut self, resource: &str, verb: &str, phase: &Phase) {
        let now = Instant::now();
        let settled = *phase != Phase::Begun;
        match self.items.iter_mut().find(|item| item.resource == resource) {
            Some(item) => {
                if !settled {
                    item.since = now;
                }
                verb.clone_into(&mut item.verb);
                item.phase = phase.clone();
                item.took = settled.then(|| (now - item.since).as_secs_f32());
            }
            None => self.items.push(Item {
                resource: resource.to_owned(),
                verb: verb.to_owned(),
                phase: phase.clone(),
                since: now,
                took: None,
            }),
        }
    }

    /// Draws the list over the one that is there, in one write.
    fn draw(&mut self) {
        let (rows, columns) = self.terminal.size();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\r\x1b[J", self.drawn));
        }
        let done = self.items.iter().filter(|item| item.phase == Phase::Done).count();
        text.push_str(&format!("[+] {done}/{}\n", self.items.len()));
        // What is above the first row of the screen cannot be drawn again.
        let shown = chosen(&self.items, rows.saturating_sub(3).max(1));
        let names: Vec<String> = shown
            .iter()
            .map(|item| clip(&item.resource, columns.saturating_sub(BESIDE).max(8)))
            .collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let color = self.terminal.color_err;
        for (item, name) in shown.iter().zip(&names) {
            let (mark, style) = match &item.phase {
                Phase::Begun => ("⠿", Style::Blue),
                Phase::Done => ("✔", Style::Green),
                Phase::Failed { .. } => ("✘", Style::Red),
                Phase::Cancelled => ("-", Style::Yellow),
            };
            let (mark, verb) = (style.paint(mark, color), style.paint(&item.verb, color));
            let took = item.took.map_or(String::new(), |took| format!("  {took:.1}s"));
            text.push_str(&format!(" {mark} {name:width$}  {verb}{took}\n"));
        }
        self.drawn = shown.len() + 1;
        if shown.len() < self.items.len() {
            text.push_str(&format!("   and {} more\n", self.items.len() - shown.len()));
            self.drawn += 1;
        }
        self.terminal.err(&text);
    }
}

/// Columns of a line beside the name: the mark, the verb, the time.
const BESIDE: usize = 26;

/// The items there is room for, in order: those that are not done first, then
/// those that came last.
fn chosen(items: &[Item], room: usize) -> Vec<&Item> {
    if items.len() <= room {
        return items.iter().collect();
    }
    let (mut open, done): (Vec<_>, Vec<_>) = items
        .iter()
        .enumerate()
        .partition(|(_, item)| item.phase != Phase::Done);
    open.truncate(room);
    let rest = room - open.len();
    open.extend(done.iter().rev().take(rest));
    open.sort_by_key(|(index, _)| *index);
    open.into_iter().map(|(_, item)| item).collect()
}

/// A name that takes at most so many columns.
fn clip(name: &str, columns: usize) -> String {
    if name.chars().count() <= columns {
        return name.to_owned();
    }
    name.chars()
        .take(columns.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(phases: &[Phase]) -> Vec<Item> {
        let item = |(index, phase): (usize, &Phase)| Item {
            resource: format!("Container {index}"),
            verb: String::new(),
            phase: phase.clone(),
            since: Instant::now(),
            took: None,
        };
        phases.iter().enumerate().map(item).collect()
    }

    #[test]
    fn what_is_not_done_is_shown_first_when_room_is_short() {
        let items = items(&[Phase::Done, Phase::Begun, Phase::Done, Phase::Done, Phase::Begun]);
        let names = |room| -> Vec<&str> {
            let shown = chosen(&items, room).into_iter();
            shown.map(|item| item.resource.as_str()).collect()
        };
        assert_eq!(names(1), ["Container 1"]);
        assert_eq!(names(3), ["Container 1", "Container 3", "Container 4"]);
        assert_eq!(names(5).len(), 5);
    }

    #[test]
    fn names_are_clipped_to_the_screen() {
        assert_eq!(clip("Container é", 11), "Container é");
        assert_eq!(clip("Container web", 8), "Contain…");
    }
}
