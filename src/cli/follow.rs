//! What containers print, merged as it comes.
//!
//! One inotify watch a log; when a log has grown, its new whole lines are read
//! and printed in one write. A line that is still being written waits.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::arguments::Lines;
use super::terminal::{Style, Terminal};
use crate::monitor::log::Entry;
use crate::project::Project;

/// Bytes of a log that are read at once.
const CHUNK: usize = 256 * 1024;

/// The colours of prefixes, in docker compose's order.
const COLORS: [Style; 5] = [Style::Cyan, Style::Yellow, Style::Green, Style::Magenta, Style::Blue];

/// How lines are shown.
#[derive(Debug)]
pub(super) struct Painter {
    colored: bool,
    prefixed: bool,
    timestamps: bool,
    width: usize,
    given: BTreeMap<String, Style>,
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
        }
    }

    /// The prefix of a container's lines.
    fn prefix(&mut self, label: &str) -> String {
        if !self.prefixed {
            return String::new();
        }
        self.width = self.width.max(label.len());
        let next = COLORS.get(self.given.len() % COLORS.len()).copied().unwrap_or(Style::Plain);
        let style = *self.given.entry(label.to_owned()).or_insert(next);
        let width = self.width;
        style.paint(&format!("{label:width$}  | "), self.colored)
    }

    /// One entry of a log as it is printed; a partial line continues the last one.
    pub(super) fn paint(&mut self, label: &str, entry: &Entry<'_>, fresh: bool, to: &mut String) {
        if fresh {
            to.push_str(&self.prefix(label));
            if self.timestamps {
                to.push_str(entry.time);
                to.push(' ');
            }
        }
        to.push_str(&String::from_utf8_lossy(entry.text));
        if !entry.partial {
            to.push('\n');
        }
    }
}

/// One followed log.
#[derive(Debug)]
struct Source {
    label: String,
    file: File,
    /// Bytes after the last whole line.
    rest: Vec<u8>,
    /// The next entry begins a line.
    fresh: bool,
}

/// Follows logs and prints what they gain.
#[derive(Debug)]
pub(super) struct Follow {
    painter: Painter,
    inotify: AsyncFd<OwnedFd>,
    sources: BTreeMap<String, Source>,
}

impl Follow {
    pub(super) fn new(painter: Painter) -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let inotify = AsyncFd::with_interest(inotify, Interest::READABLE)?;
        Ok(Self { painter, inotify, sources: BTreeMap::new() })
    }

    /// Follows a log from `offset`. A log that is followed already goes on
    /// from where it is.
    pub(super) fn add(&mut self, id: &str, label: &str, log: &Path, offset: u64) -> io::Result<()> {
        if self.sources.contains_key(id) {
            return Ok(());
        }
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(offset))?;
        inotify::add_watch(&self.inotify, log, inotify::WatchFlags::MODIFY)?;
        let source = Source { label: label.to_owned(), file, rest: vec![], fresh: true };
        self.sources.insert(id.to_owned(), source);
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

    /// Prints everything that the logs have gained.
    pub(super) fn drain(&mut self, terminal: &Terminal) {
        let mut text = String::new();
        for source in self.sources.values_mut() {
            while source.read() > 0 {
                source.paint(&mut self.painter, &mut text);
                terminal.out(&text);
                text.clear();
            }
        }
    }

    /// Prints a line of our own among the containers'.
    pub(super) fn say(&self, terminal: &Terminal, text: &str) {
        terminal.out(&format!("{}\n", Style::Dim.paint(text, self.painter.colored)));
    }
}

impl Source {
    /// Reads some more; how many bytes.
    fn read(&mut self) -> usize {
        let before = self.rest.len();
        self.rest.resize(before + CHUNK, 0);
        let space = self.rest.get_mut(before..).unwrap_or_default();
        let count = self.file.read(space).unwrap_or(0);
        self.rest.truncate(before + count);
        count
    }

    /// Prints the whole lines that have been read.
    fn paint(&mut self, painter: &mut Painter, text: &mut String) {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        for line in self.rest.get(..end).unwrap_or_default().split(|byte| *byte == b'\n') {
            if let Some(entry) = Entry::parse(line) {
                painter.paint(&self.label, &entry, self.fresh, text);
                self.fresh = !entry.partial;
            }
        }
        self.rest.drain(..=end);
    }
}
