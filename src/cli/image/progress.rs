//! Progress of transfers: a list of layers on a terminal, lines or JSON elsewhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::arguments::Progress as How;
use super::super::terminal::{Style, Terminal};
use super::words::size;
use crate::image::Progress;

/// How often the list is drawn again.
const REDRAW: Duration = Duration::from_millis(80);
/// Columns of a bar.
const BAR: u64 = 24;

/// Shows the transfers of one command.
pub(super) struct Transfers<'a> {
    terminal: &'a Terminal,
    how: How,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By image and layer, in the order they came in.
    lines: Vec<(String, String, Line)>,
    /// Last words about each image.
    images: BTreeMap<String, String>,
    drawn: usize,
    last: Option<Instant>,
}

enum Line {
    Moving(u64, u64),
    Done(&'static str),
}

impl<'a> Transfers<'a> {
    pub(super) fn new(terminal: &'a Terminal, quiet: bool) -> Self {
        Self {
            terminal,
            how: if quiet { How::Quiet } else { terminal.progress },
            state: Mutex::default(),
        }
    }

    /// Shows one event of an image.
    pub(super) fn show(&self, image: &str, event: &Progress) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Progress::Warning { text } = event
            && self.how != How::Json
        {
            self.lift(&mut state);
            self.terminal.warning(text);
            return;
        }
        match self.how {
            How::Quiet => {}
            How::Json => {
                let mut value = serde_json::to_value(event).unwrap_or_default();
                if let Some(object) = value.as_object_mut() {
                    object.insert("image".to_owned(), image.into());
                }
                self.terminal.err(&format!("{value}\n"));
            }
            How::Tty => {
                state.note(image, event);
                let due = state.last.is_none_or(|last| last.elapsed() >= REDRAW);
                if due || !matches!(event, Progress::Downloaded { .. } | Progress::Uploaded { .. }) {
                    self.draw(&mut state);
                }
            }
            How::Auto | How::Plain => {
                if let Some(line) = plain(event) {
                    self.terminal.err(&format!(" {image}  {line}\n"));
                }
            }
        }
    }

    /// Says how an image ended.
    pub(super) fn done(&self, image: &str, words: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.how {
            How::Quiet => {}
            How::Json => {
                let line = serde_json::json!({"event": "done", "image": image, "text": words});
                self.terminal.err(&format!("{line}\n"));
            }
            How::Tty => {
                state.images.insert(image.to_owned(), words.to_owned());
                state.lines.retain(|(of, ..)| of != image);
                self.draw(&mut state);
            }
            How::Auto | How::Plain => self.terminal.err(&format!(" {image}  {words}\n")),
        }
    }

    fn lift(&self, state: &mut State) {
        if state.drawn > 0 {
            self.terminal.err(&format!("\x1b[{}A\r\x1b[J", state.drawn));
            state.drawn = 0;
        }
    }

    fn draw(&self, state: &mut State) {
        let (rows, columns) = self.terminal.size();
        let mut text = String::new();
        if state.drawn > 0 {
            text.push_str(&format!("\x1b[{}A\r\x1b[J", state.drawn));
        }
        let color = self.terminal.color_err;
        let mut lines: Vec<String> = Vec::new();
        for (image, words) in &state.images {
            let shown: String = image
                .chars()
                .take(columns.saturating_sub(words.len() + 6))
                .collect();
            lines.push(format!(" {shown}  {}", Style::Green.paint(words, color)));
            for (of, layer, line) in &state.lines {
                if of != image {
                    continue;
                }
                lines.push(match line {
                    Line::Done(words) => format!("   {layer}  {}", Style::Dim.paint(words, color)),
                    Line::Moving(done, total) => {
                        let filled = (done * BAR).checked_div(*total).unwrap_or(0).min(BAR);
                        let bar: String = (0..BAR).map(|at| if at < filled { '█' } else { '░' }).collect();
                        format!("   {layer}  {bar} {}/{}", size(*done), size(*total))
                    }
                });
            }
        }
        // What is above the first row of the screen cannot be drawn again.
        let room = rows.saturating_sub(2).max(1);
        let hidden = lines.len().saturating_sub(room);
        lines.truncate(room);
        if hidden > 0 {
            lines.push(format!("   and {hidden} more"));
        }
        state.drawn = lines.len();
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
        state.last = Some(Instant::now());
        self.terminal.err(&text);
    }
}

impl State {
    fn note(&mut self, image: &str, event: &Progress) {
        let words = self
            .images
            .entry(image.to_owned())
            .or_insert_with(|| "…".to_owned());
        let (layer, line) = match event {
            Progress::Layers {
                total,
                missing,
                bytes,
            } => {
                *words = format!("{missing} of {total} layers, {}", size(*bytes));
                return;
            }
            Progress::Waiting => {
                *words = "another process has the rest: waiting for it".to_owned();
                return;
            }
            Progress::Retrying { reason, .. } => {
                *words = format!("trying again: {reason}").chars().take(60).collect();
                return;
            }
            Progress::UpToDate => {
                *words = "up to date".to_owned();
                return;
            }
            Progress::Downloaded { layer, bytes, total } | Progress::Uploaded { layer, bytes, total } => {
                (layer, Line::Moving(*bytes, *total))
            }
            Progress::Unpacked { layer } => (layer, Line::Done("done")),
            Progress::Pushed { layer, state } => (layer, Line::Done(state)),
            Progress::Warning { .. } => return,
        };
        let known = self
            .lines
            .iter_mut()
            .find(|(of, known, _)| of == image && known == layer);
        match known {
            // A layer that is there does not move any more.
            Some((.., Line::Done(_))) if matches!(line, Line::Moving(..)) => {}
            Some((.., place)) => *place = line,
            None => self.lines.push((image.to_owned(), layer.clone(), line)),
        }
    }
}

/// A line for those who read no bars.
fn plain(event: &Progress) -> Option<String> {
    Some(match event {
        Progress::Layers { missing: 0, .. } => return None,
        Progress::Layers {
            total,
            missing,
            bytes,
        } => format!("{missing} of {total} layers, {}", size(*bytes)),
        Progress::Unpacked { layer } => format!("{layer}: done"),
        Progress::Pushed { layer, state } => format!("{layer}: {state}"),
        Progress::Waiting => "another process has the rest: waiting for it".to_owned(),
        Progress::Retrying { request, reason } => format!("{request}: trying again: {reason}"),
        Progress::Downloaded { .. }
        | Progress::Uploaded { .. }
        | Progress::UpToDate
        | Progress::Warning { .. } => return None,
    })
}
