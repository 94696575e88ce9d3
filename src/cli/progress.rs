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
                Event::Action {
                    resource,
                    verb,
                    phase,
                } => {
                    let detail = match phase {
                        Phase::Failed { error } => format!(" {error}"),
                        _ => String::new(),
                    };
                    self.terminal.err(&format!(" {resource}  {verb}{detail}\n"));
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

    fn redraw(&mut self, event: &Event) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\r", self.drawn));
        }
        match event {
            Event::Warning { text: warning } => {
                text.push_str("\x1b[J");
                let label = Style::Yellow.paint("warning:", self.terminal.color_err);
                text.push_str(&format!("{label} {warning}\n"));
            }
            Event::Action {
                resource,
                verb,
                phase,
            } => {
                let now = Instant::now();
                let settled = *phase != Phase::Begun;
                match self.items.iter_mut().find(|item| item.resource == *resource) {
                    Some(item) => {
                        if !settled {
                            item.since = now;
                        }
                        item.verb.clone_from(verb);
                        item.phase = phase.clone();
                        item.took = settled.then(|| (now - item.since).as_secs_f32());
                    }
                    None => self.items.push(Item {
                        resource: resource.clone(),
                        verb: verb.clone(),
                        phase: phase.clone(),
                        since: now,
                        took: None,
                    }),
                }
            }
        }
        let done = self.items.iter().filter(|item| item.phase == Phase::Done).count();
        text.push_str(&format!("\x1b[K[+] {done}/{}\n", self.items.len()));
        let width = self
            .items
            .iter()
            .map(|item| item.resource.len())
            .max()
            .unwrap_or(0);
        for item in &self.items {
            let color = self.terminal.color_err;
            let (mark, verb) = match &item.phase {
                Phase::Begun => (
                    Style::Blue.paint("⠿", color),
                    Style::Blue.paint(&item.verb, color),
                ),
                Phase::Done => (
                    Style::Green.paint("✔", color),
                    Style::Green.paint(&item.verb, color),
                ),
                Phase::Failed { .. } => (Style::Red.paint("✘", color), Style::Red.paint(&item.verb, color)),
                Phase::Cancelled => (
                    Style::Yellow.paint("-", color),
                    Style::Yellow.paint(&item.verb, color),
                ),
            };
            let took = item.took.map_or(String::new(), |took| format!("  {took:.1}s"));
            let resource = &item.resource;
            text.push_str(&format!("\x1b[K {mark} {resource:width$}  {verb}{took}\n"));
        }
        self.drawn = self.items.len() + 1;
        self.terminal.err(&text);
    }
}
