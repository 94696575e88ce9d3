//! Progress of a walk, on standard error.
//!
//! On a terminal a list that is redrawn in place ([`super::live`]), which
//! settles into plain lines when the walk is over; elsewhere docker compose's
//! lines (` Container p-web-1  Started`), or JSON objects.
//!
//! A thread of its own keeps the list moving (spinners, times). It and everybody
//! who prints take turns: whoever has something to print while a list may be on
//! the screen does so by [`Progress::above`], which takes the list away, prints,
//! and draws it again below. A line at the foot of the screen ([`Progress::foot`])
//! stays there between walks too.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::arguments::Progress as How;
use super::live::{FRAME, Line, List};
use super::terminal::Terminal;
use crate::plan::Plan;
use crate::reconcile::Event;

/// Shows the events of one walk.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    terminal: &'a Terminal,
    screen: Arc<Shared>,
    /// The thread that keeps the list moving has been started.
    moving: bool,
}

#[derive(Debug)]
struct Shared {
    screen: Mutex<Screen>,
    /// A walk is over.
    over: Condvar,
}

/// What is on the screen.
#[derive(Debug)]
struct Screen {
    terminal: Terminal,
    list: List,
    /// Counts the walks: the list is that of this one.
    walk: usize,
    /// What stands below the list.
    foot: Option<Line>,
    /// Columns of each line that is drawn.
    drawn: Vec<usize>,
    /// What was printed last has not come to the end of its line.
    torn: bool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(terminal: &'a Terminal) -> Self {
        Self {
            terminal,
            screen: Arc::new(Shared {
                screen: Mutex::new(Screen {
                    terminal: terminal.clone(),
                    list: List::new(Instant::now()),
                    walk: 0,
                    foot: None,
                    drawn: vec![],
                    torn: false,
                }),
                over: Condvar::new(),
            }),
            moving: false,
        }
    }

    /// Shows what is about to be done.
    pub(super) fn plan(&mut self, plan: &Plan) {
        if self.terminal.is_live() && !plan.is_empty() {
            let pulls = !self.terminal.quiet_pull;
            self.change(|list| list.plan(plan, pulls));
        }
    }

    /// Shows one event.
    pub(super) fn show(&mut self, event: &Event) {
        if self.terminal.quiet_pull
            && matches!(event, Event::Action { resource, .. } if resource.starts_with("Image "))
        {
            return;
        }
        match (self.terminal.progress, event) {
            (How::Json, event) => {
                if let Ok(line) = serde_json::to_string(event) {
                    self.terminal.err(&format!("{line}\n"));
                }
            }
            (_, Event::Warning { text }) => self.above(|terminal| terminal.warning(text)),
            (How::Quiet, _) => {}
            (
                How::Tty,
                Event::Action {
                    resource,
                    verb,
                    phase,
                },
            ) => self.change(|list| list.event(resource, verb, phase, Instant::now())),
            // Why something failed is said at the end, once.
            (How::Auto | How::Plain, Event::Action { resource, verb, .. }) => {
                self.terminal.err(&format!(" {resource}  {verb}\n"));
            }
        }
    }

    /// Shows a verdict about the health of a container.
    pub(super) fn health(&mut self, container: &str, verdict: &str) {
        if self.terminal.is_live() && !self.screen.lock().list.is_empty() {
            self.change(|list| list.health(container, verdict));
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut List)) {
        let walk = {
            let mut screen = self.screen.lock();
            change(&mut screen.list);
            screen.draw();
            screen.walk
        };
        if !self.moving {
            self.moving = true;
            let shared = self.screen.clone();
            // Without it the list moves with events only.
            let _ = std::thread::Builder::new()
                .name("progress".to_owned())
                .spawn(move || shared.keep_moving(walk));
        }
    }

    /// The walk is over: what it came to stays, as lines like any others.
    pub(super) fn settle(&mut self) {
        self.screen.lock().settle();
        self.screen.over.notify_all();
        self.moving = false;
    }

    /// Prints what a list may be drawn below of: it is taken away first, and
    /// drawn again after.
    pub(super) fn above(&mut self, print: impl FnOnce(&Terminal)) {
        let mut screen = self.screen.lock();
        screen.lift();
        print(self.terminal);
        screen.torn = false;
        screen.draw();
    }

    /// Prints what containers have printed, as [`Self::above`]; while it has not
    /// come to the end of a line, nothing is drawn below it.
    pub(super) fn output(&mut self, text: &str) {
        let mut screen = self.screen.lock();
        screen.lift();
        self.terminal.out(text);
        screen.torn = !text.ends_with('\n');
        screen.draw();
    }

    /// Has a line stand at the foot of the screen from now on, or none.
    pub(super) fn foot(&mut self, line: Option<Line>) {
        let mut screen = self.screen.lock();
        screen.lift();
        screen.foot = line;
        screen.draw();
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        let mut screen = self.screen.lock();
        screen.foot = None;
        screen.settle();
        drop(screen);
        self.screen.over.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws the list again and again until the walk is over.
    fn keep_moving(&self, walk: usize) {
        let mut screen = self.lock();
        while screen.walk == walk {
            let waited = self.over.wait_timeout(screen, FRAME);
            screen = waited.unwrap_or_else(PoisonError::into_inner).0;
            if screen.walk == walk {
                screen.draw();
            }
        }
    }
}

impl Screen {
    /// How to take the list off the screen. The window may have become narrower
    /// since it was drawn, which broke its lines.
    fn lifted(&mut self) -> String {
        let (rows, columns) = self.terminal.size();
        let taken: usize = self
            .drawn
            .drain(..)
            .map(|width| width.div_ceil(columns.max(1)).max(1))
            .sum();
        match taken.min(rows.saturating_sub(1)) {
            0 => String::new(),
            taken => format!("\x1b[{taken}A\r\x1b[J"),
        }
    }

    fn lift(&mut self) {
        let text = self.lifted();
        if !text.is_empty() {
            self.terminal.err(&text);
        }
    }

    fn lines(&self, rows: usize, columns: usize, running: bool) -> Vec<Line> {
        if self.list.is_empty() {
            return vec![];
        }
        let colored = self.terminal.color_err;
        self.list.lines(rows, columns, colored, running, Instant::now())
    }

    /// Draws the list and the foot over those that are there, in one write.
    fn draw(&mut self) {
        if self.torn {
            return;
        }
        let (rows, columns) = self.terminal.size();
        // What is above the first row of the screen cannot be drawn again: there
        // is room for the head, for what says that there is more, and the cursor.
        let foot = self.foot.clone().filter(|line| line.width <= columns);
        let below = usize::from(foot.is_some());
        let mut lines = self.lines(rows.saturating_sub(3 + below), columns, true);
        lines.truncate(rows.saturating_sub(1 + below).max(1));
        lines.extend(foot);
        let mut text = self.lifted();
        for line in &lines {
            text.push_str(&line.text);
            text.push('\n');
        }
        self.drawn = lines.iter().map(|line| line.width).collect();
        if !text.is_empty() {
            self.terminal.err(&text);
        }
    }

    /// Leaves the list where it is, and begins another one.
    fn settle(&mut self) {
        let (_, columns) = self.terminal.size();
        let mut text = self.lifted();
        for line in self.lines(usize::MAX, columns, false) {
            text.push_str(&line.text);
            text.push('\n');
        }
        if !text.is_empty() {
            self.terminal.err(&text);
        }
        self.list = List::new(Instant::now());
        self.walk += 1;
        self.draw();
    }
}
