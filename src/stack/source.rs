//! Where text comes from, and the messages about it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::{Code, Diagnostic, Origin, Severity};
use super::trace::{Trace, Via};

/// No stack file or environment file is longer than this many bytes.
pub const LONGEST_FILE: u64 = 32 << 20;

/// At most so many diagnostics are kept; the rest is counted.
const MOST_DIAGNOSTICS: usize = 100;

/// A source line longer than this many bytes is not quoted.
const LONGEST_QUOTE: usize = 400;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Something that can be read.
    File,
    /// A folder.
    Folder,
}

/// The files that loading reads: its one door to the outside.
pub trait Files {
    /// The content of a file, at most [`LONGEST_FILE`] bytes.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::FileTooLarge`] for more bytes.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What stands at `path`, symbolic links followed; `None` when nothing
    /// does, or nothing that may be looked at.
    fn kind(&self, path: &Path) -> Option<FileKind>;
}

/// The files of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        std::fs::File::open(path)?
            .take(LONGEST_FILE + 1)
            .read_to_end(&mut content)?;
        if content.len() as u64 > LONGEST_FILE {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("longer than {} MiB", LONGEST_FILE >> 20),
            ));
        }
        Ok(content)
    }

    fn kind(&self, path: &Path) -> Option<FileKind> {
        let is_folder = std::fs::metadata(path).ok()?.is_dir();
        Some(if is_folder {
            FileKind::Folder
        } else {
            FileKind::File
        })
    }
}

/// A position in one of the sources of a [`Report`]; lines and columns from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    source: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// Of what is written nowhere: defaults, implied values.
    pub const NOWHERE: Self = Self {
        source: u32::MAX,
        line: 0,
        column: 0,
    };

    /// A position in the source that [`Report::add_source`] gave the number of.
    pub(crate) fn new(source: u32, line: usize, column: usize) -> Self {
        Self {
            source,
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        }
    }
}

#[derive(Clone, Debug)]
struct Source {
    name: PathBuf,
    text: Arc<str>,
    via: Via,
    /// What it is a copy of, when its text came through an alias.
    copy_of: Option<u32>,
}

/// How a stack is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Variables in values are replaced. When not, values with a `$` are left
    /// as they are written, whatever is asked of them otherwise.
    pub interpolate: bool,
    /// Relative paths are made absolute.
    pub resolve_paths: bool,
    /// What [`Trace`] tells is noted. It costs time and memory.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interpolate: true,
            resolve_paths: true,
            trace: false,
        }
    }
}

/// Everything that is said about a stack while it is loaded, the texts it is
/// said about, and the files that were looked at.
#[derive(Clone, Debug, Default)]
pub struct Report {
    sources: Vec<Source>,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    dropped: usize,
    inputs: BTreeSet<PathBuf>,
    poisoned: BTreeSet<String>,
    incomplete: BTreeSet<String>,
    unset: BTreeSet<String>,
    /// A value is marked with `!reset` or `!override`.
    marked: bool,
    options: Options,
    via: Via,
    trace: Trace,
}

impl Report {
    /// An empty report of a stack that is loaded so.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// How the stack is loaded.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Whether a text is to be left as it is written.
    pub(crate) fn keeps(&self, text: &str) -> bool {
        !self.options.interpolate && text.contains('$')
    }

    /// Notes that a value is marked with `!reset` or `!override`.
    pub(super) fn note_mark(&mut self) {
        self.marked = true;
    }

    /// Whether a value of any text was marked so.
    pub(super) fn has_marks(&self) -> bool {
        self.marked
    }

    /// Sets how the next sources come; returns how the last ones came.
    pub(crate) fn come_by(&mut self, via: Via) -> Via {
        std::mem::replace(&mut self.via, via)
    }

    /// Gives a copy of an anchored value places that tell of the alias it came
    /// through.
    pub(crate) fn through_alias(&mut self, node: &mut super::tree::Node, alias: Place) {
        let mut copies = BTreeMap::new();
        self.copy_places(node, alias, &mut copies);
    }

    fn copy_places(&mut self, node: &mut super::tree::Node, alias: Place, copies: &mut BTreeMap<u32, u32>) {
        use super::tree::Value;
        self.copy_place(&mut node.place, alias, copies);
        match &mut node.value {
            Value::List(list) => {
                for item in list {
                    self.copy_places(item, alias, copies);
                }
            }
            Value::Map(map) => {
                for entry in map.values_mut() {
                    self.copy_place(&mut entry.key, alias, copies);
                    self.copy_places(&mut entry.node, alias, copies);
                }
            }
            _ => {}
        }
    }

    fn copy_place(&mut self, place: &mut Place, alias: Place, copies: &mut BTreeMap<u32, u32>) {
        let Some(source) = self.sources.get(place.source as usize) else {
            return;
        };
        if let Some(copy) = copies.get(&place.source) {
            place.source = *copy;
            return;
        }
        let copy = Source {
            name: source.name.clone(),
            text: Arc::clone(&source.text),
            via: Via::Alias(alias),
            copy_of: Some(place.source),
        };
        self.sources.push(copy);
        let number = u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX);
        copies.insert(place.source, number);
        place.source = number;
    }

    /// What is noted beside places, when that is asked for.
    pub(crate) fn trace(&mut self) -> Option<&mut Trace> {
        self.options.trace.then_some(&mut self.trace)
    }

    /// Notes which lines of a file set a service's variables.
    pub(crate) fn note_env_file<'v>(
        &mut self,
        service: &str,
        path: &Path,
        cwd: &Path,
        variables: impl Iterator<Item = &'v String>,
        files: &dyn Files,
    ) {
        if !self.options.trace {
            return;
        }
        let text = files.read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for variable in variables {
            let line = super::trace::line_of(&text, variable);
            let shown = path.strip_prefix(cwd).unwrap_or(path);
            self.trace.add_env_file(service, variable, shown, line);
        }
    }

    /// The history of the stack: what to ask where a value came from.
    pub fn history(&self) -> History {
        History {
            sources: self.sources.clone(),
            trace: self.trace.clone(),
        }
    }

    /// Takes in a text; its number is for [`Place`]s.
    pub fn add_source(&mut self, name: &Path, text: &str) -> u32 {
        self.sources.push(Source {
            name: name.to_owned(),
            text: text.into(),
            via: self.via,
            copy_of: None,
        });
        u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
    }

    /// Notes a file that decides how the stack is loaded, whether it exists or not.
    pub fn add_input(&mut self, path: &Path) {
        self.inputs.insert(path.to_owned());
    }

    /// The files noted, sorted.
    pub fn inputs(&self) -> Vec<PathBuf> {
        self.inputs.iter().cloned().collect()
    }

    /// Where a place is, for people; `None` for [`Place::NOWHERE`].
    pub fn origin(&self, place: Place) -> Option<Origin> {
        let source = self.sources.get(place.source as usize)?;
        Some(Origin {
            file: source.name.clone(),
            line: place.line,
            column: place.column,
            by: None,
        })
    }

    /// Where a place is, with the `include` and `extends` that led to its file.
    pub fn origin_with_way(&self, place: Place) -> Option<Origin> {
        let mut origin = self.origin(place)?;
        // Sources come after those they come from: this ends.
        if let Some(Via::Include(by) | Via::Extends(by)) =
            self.sources.get(place.source as usize).map(|source| source.via)
            && by.source < place.source
        {
            origin.by = self.origin_with_way(by).map(Box::new);
        }
        Some(origin)
    }

    /// The name of the source a place is in.
    pub fn source_name(&self, place: Place) -> Option<&Path> {
        Some(&self.sources.get(place.source as usize)?.name)
    }

    fn source_line(&self, place: Place) -> Option<String> {
        let source = self.sources.get(place.source as usize)?;
        let line = source.text.lines().nth((place.line as usize).checked_sub(1)?)?;
        (line.len() <= LONGEST_QUOTE).then(|| line.to_owned())
    }

    /// Takes a diagnostic as it is.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if diagnostic.severity == Severity::Error {
            self.errors += 1;
        }
        if self.diagnostics.len() >= MOST_DIAGNOSTICS {
            self.dropped += 1;
        } else if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }

    /// Takes a diagnostic about the value at a place.
    pub fn push_at(&mut self, place: Place, mut diagnostic: Diagnostic) {
        if self.diagnostics.len() < MOST_DIAGNOSTICS {
            diagnostic.origin = self.origin(place);
            diagnostic.source_line = self.source_line(place);
        }
        self.push(diagnostic);
    }

    /// An error about the value at a place.
    pub fn error(&mut self, place: Place, code: Code, message: impl Into<String>) {
        self.push_at(place, Diagnostic::error(code, message));
    }

    /// An error about the value at a place, with what to do about it.
    pub fn error_hint(
        &mut self,
        place: Place,
        code: Code,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push_at(place, Diagnostic::error(code, message).hint(hint));
    }

    /// A warning about the value at a place.
    pub fn warning(&mut self, place: Place, message: impl Into<String>) {
        self.push_at(place, Diagnostic::warning(message));
    }

    /// Says once that a variable is not set.
    pub fn warn_unset(&mut self, place: Place, variable: &str) {
        if self.unset.insert(variable.to_owned()) {
            self.warning(
                place,
                format!("The {variable:?} variable is not set. Defaulting to a blank string."),
            );
        }
    }

    /// Marks a service as one that an error was found in: checks that would
    /// only find that error's consequences leave it alone.
    pub fn poison(&mut self, service: &str) {
        self.poisoned.insert(service.to_owned());
    }

    /// Marks a service as one that a key was taken out of: nothing is said of
    /// what it lacks, its other fields are checked as ever.
    pub fn mark_incomplete(&mut self, service: &str) {
        self.incomplete.insert(service.to_owned());
    }

    /// Whether a key was taken out of a service.
    pub fn is_incomplete(&self, service: &str) -> bool {
        self.incomplete.contains(service)
    }

    /// Whether an error was found in a service.
    pub fn is_poisoned(&self, service: &str) -> bool {
        self.poisoned.contains(service)
    }

    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Number of errors so far.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// All diagnostics, errors first, each kind in the order of files and lines.
    pub fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        let rank = |d: &Diagnostic| {
            let source = d.origin.as_ref().map_or(usize::MAX, |origin| {
                self.sources
                    .iter()
                    .position(|source| source.name == origin.file)
                    .unwrap_or(usize::MAX)
            });
            let place = d.origin.as_ref().map(|o| (o.line, o.column));
            (d.severity, source, place)
        };
        self.diagnostics.sort_by_cached_key(rank);
        if self.dropped > 0 {
            self.diagnostics.push(Diagnostic::warning(format!(
                "{} more messages are not shown",
                self.dropped
            )));
        }
        self.diagnostics
    }
}

/// Where the values of a loaded stack came from.
#[derive(Clone, Debug, Default)]
pub struct History {
    sources: Vec<Source>,
    trace: Trace,
}

impl History {
    /// What was noted beside places.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Where a place is, for people; `None` for [`Place::NOWHERE`].
    pub fn origin(&self, place: Place) -> Option<Origin> {
        let source = self.sources.get(place.source as usize)?;
        Some(Origin {
            file: source.name.clone(),
            line: place.line,
            column: place.column,
            by: None,
        })
    }

    /// How the text that a place is in became part of the stack: the nearest
    /// step first, without [`Via::Named`].
    pub fn way(&self, place: Place) -> Vec<Via> {
        let mut way = Vec::new();
        let mut at = self.sources.get(place.source as usize);
        // Chains are short: sources come after those they come from.
        while let Some(source) = at {
            let next = match (source.via, source.copy_of) {
                (Via::Named, _) => break,
                (_, Some(original)) => Some(original),
                (Via::Include(by) | Via::Extends(by) | Via::Alias(by), None) => Some(by.source),
            };
            way.push(source.via);
            at = next.and_then(|next| self.sources.get(next as usize));
        }
        way
    }

    /// The line that a place is on.
    pub fn line(&self, place: Place) -> Option<String> {
        let source = self.sources.get(place.source as usize)?;
        let line = source.text.lines().nth((place.line as usize).checked_sub(1)?)?;
        (line.len() <= LONGEST_QUOTE).then(|| line.to_owned())
    }
}
