//! What containers print, merged as it comes.
//!
//! One inotify watch a log; when a log has grown, its new whole lines are read
//! and printed in one write. A line that is still being written waits.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::arguments::Lines;
use super::terminal::{Style, Terminal};
use crate::monitor::log::{Entry, From, Reader, format_time};
use crate::project::Project;
use crate::sys::readiness::watch;

/// Bytes that are gathered before they are printed.
const BATCH: usize = 256 * 1024;

/// The colours of prefixes, in docker compose's order.
const COLORS: [Style; 5] = [
    Style::Cyan,
    Style::Yellow,
    Style::Green,
    Style::Magenta,
    Style::Blue,
];

/// How lines are shown.
#[derive(Debug)]
pub(super) struct Painter {
    colored: bool,
    prefixed: bool,
    timestamps: bool,
    width: usize,
    given: BTreeMap<String, Style>,
    /// The prefix that was used last, and whose it is: most lines have it.
    last: (String, String),
}

impl Painter {
    pub(super) fn new(terminal: &Terminal, lines: &Lines, timestamps: bool, project: &Project) -> Self {
        // As wide as the widest name that is to be expected, so that columns
        // stay where they are when a service starts late.
        let width = project
            .services
            .values()
            .map(|service| match &service.container_name {
                Some(name) => name.len(),
                None => service.name.len() + 1 + service.replicas.max(1).to_string().len(),
            })
            .max()
            .unwrap_or(0);
        Self {
            colored: terminal.color_out && !lines.no_color,
            prefixed: !lines.no_log_prefix,
            timestamps,
            width,
            given: BTreeMap::new(),
            last: Default::default(),
        }
    }

    /// Nothing but the lines, and their times.
    pub(super) fn plain(timestamps: bool) -> Self {
        Self {
            colored: false,
            prefixed: false,
            timestamps,
            width: 0,
            given: BTreeMap::new(),
            last: Default::default(),
        }
    }

    /// The prefix of a container's lines.
    fn prefix(&mut self, label: &str) -> &str {
        if self.prefixed && (self.last.0 != label || self.last.1.is_empty()) {
            self.last = (label.to_owned(), self.new_prefix(label));
        }
        &self.last.1
    }

    fn new_prefix(&mut self, label: &str) -> String {
        self.width = self.width.max(label.len());
        let next = COLORS
            .get(self.given.len() % COLORS.len())
            .copied()
            .unwrap_or(Style::Plain);
        let style = *self.given.entry(label.to_owned()).or_insert(next);
        let width = self.width;
        style.paint(&format!("{label:width$}  | "), self.colored)
    }

    /// One entry of a log as it is printed; a partial line continues the last one.
    pub(super) fn paint(&mut self, label: &str, entry: &Entry, fresh: bool, to: &mut String) {
        if fresh {
            to.push_str(self.prefix(label));
            if self.timestamps {
                to.push_str(&format_time(entry.time));
                to.push(' ');
            }
        }
        to.push_str(&String::from_utf8_lossy(&entry.text));
        if !entry.partial {
            to.push('\n');
        }
    }
}

/// One followed log.
#[derive(Debug)]
struct Source {
    label: String,
    log: PathBuf,
    reader: Reader,
    /// The next entry begins a line.
    fresh: bool,
}

impl Source {
    /// Reads the next record that lies in the span; whether there is one before
    /// the present end.
    fn next(&mut self, span: Span, entry: &mut Entry) -> bool {
        // A log that cannot be read has nothing to say.
        while let Ok(true) = self.reader.read(entry) {
            if span.until.is_some_and(|until| entry.time > until) {
                return false;
            }
            if span.since.is_none_or(|since| entry.time >= since) {
                return true;
            }
        }
        false
    }
}

/// Which records are shown, by time in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// None before this.
    pub(super) since: Option<u64>,
    /// None after this.
    pub(super) until: Option<u64>,
}

/// What tells that a log has grown, or that a new file takes its place.
fn changes() -> inotify::WatchFlags {
    inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVE_SELF | inotify::WatchFlags::ATTRIB
}

/// Waits for a log's present file too; whether that could be done.
fn watch_log(inotify: &AsyncFd<OwnedFd>, log: &Path) -> bool {
    inotify::add_watch(inotify, log, changes()).is_ok()
}

/// Follows logs and prints what they gain.
#[derive(Debug)]
pub(super) struct Follow {
    painter: Painter,
    inotify: AsyncFd<OwnedFd>,
    sources: BTreeMap<String, Source>,
    span: Span,
}

impl Follow {
    pub(super) fn new(painter: Painter) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let inotify = watch(inotify, Interest::READABLE)?;
        Ok(Self {
            painter,
            inotify,
            sources: BTreeMap::new(),
            span: Span::default(),
        })
    }

    /// Shows only what was printed in a span of time.
    pub(super) fn limit(&mut self, span: Span) {
        self.span = span;
    }

    /// Follows a log. One that is followed already goes on from where it is.
    pub(super) fn add(&mut self, id: &str, label: &str, log: &Path, from: From) -> io::Result<()> {
        if self.sources.contains_key(id) {
            return Ok(());
        }
        // Watched first: what is written between the two is not missed.
        inotify::add_watch(&self.inotify, log, changes())?;
        let Some(reader) = Reader::open(log, from)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        self.sources.insert(
            id.to_owned(),
            Source {
                label: label.to_owned(),
                log: log.to_owned(),
                reader,
                fresh: true,
            },
        );
        Ok(())
    }

    /// Resolves when some log has grown.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.inotify.readable().await?;
            let mut events = [0_u8; 4096];
            match guard.try_io(|inotify| rustix::io::read(inotify, &mut events).map_err(io::Error::from)) {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// Hands everything that the logs have gained to `print`, in pieces.
    pub(super) fn drain(&mut self, mut print: impl FnMut(&str)) {
        let mut text = String::new();
        let mut entry = Entry::empty();
        for source in self.sources.values_mut() {
            loop {
                while source.next(self.span, &mut entry) {
                    self.painter.paint(&source.label, &entry, source.fresh, &mut text);
                    source.fresh = !entry.partial;
                    if text.len() >= BATCH {
                        print(&text);
                        text.clear();
                    }
                }
                // A new file is to be waited for; what came before we do is read.
                if !source.reader.take_moved() || !watch_log(&self.inotify, &source.log) {
                    break;
                }
            }
        }
        if !text.is_empty() {
            print(&text);
        }
    }

    /// Hands every entry that the logs have gained to `take`, log by log.
    pub(super) fn entries(&mut self, mut take: impl FnMut(&Entry, bool)) {
        let mut entry = Entry::empty();
        for source in self.sources.values_mut() {
            loop {
                while source.next(self.span, &mut entry) {
                    take(&entry, source.fresh);
                    source.fresh = !entry.partial;
                }
                if !source.reader.take_moved() || !watch_log(&self.inotify, &source.log) {
                    break;
                }
            }
        }
    }

    /// Prints everything that the logs have, in the order it was printed in.
    pub(super) fn drain_by_time(&mut self, terminal: &Terminal) {
        let mut heads: BTreeMap<(u64, String), Entry> = BTreeMap::new();
        for (id, source) in &mut self.sources {
            let mut entry = Entry::empty();
            if source.next(self.span, &mut entry) {
                heads.insert((entry.time, id.clone()), entry);
            }
        }
        let mut text = String::new();
        while let Some(((_, id), mut entry)) = heads.pop_first() {
            let Some(source) = self.sources.get_mut(&id) else {
                continue;
            };
            loop {
                self.painter.paint(&source.label, &entry, source.fresh, &mut text);
                source.fresh = !entry.partial;
                if text.len() >= BATCH {
                    terminal.out(&text);
                    text.clear();
                }
                let partial = entry.partial;
                if !source.next(self.span, &mut entry) {
                    break;
                }
                // A line in pieces stays together.
                if !partial && heads.keys().next().is_some_and(|(time, _)| entry.time > *time) {
                    heads.insert((entry.time, id), entry);
                    break;
                }
            }
        }
        if !text.is_empty() {
            terminal.out(&text);
        }
        for source in self.sources.values_mut() {
            if source.reader.take_moved() {
                watch_log(&self.inotify, &source.log);
            }
        }
        // What came in while there was nothing to wait with.
        self.drain(|text| terminal.out(text));
    }

    /// A line of our own among the containers'.
    pub(super) fn remark(&self, text: &str) -> String {
        format!("{}\n", Style::Dim.paint(text, self.painter.colored))
    }
}
