//! How values came to be where they are: what `explain` and
//! `config --provenance` tell beyond the place a value is written at.
//!
//! A loader that traces notes, while it works, what later cannot be seen in the
//! document: which variables a text was made of and where these were set, what
//! a value replaced, which values a service has from one it extends, and which
//! file came by which `include`. What comes through an alias gets places in a
//! source of its own, a copy of the anchor's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::diagnostic::Origin;
use super::interpolate::{Environment, names_in};
use super::source::Place;
use super::tree::{Node, Value};

/// How a file became part of a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// It was named (`-f`, `COMPOSE_FILE`), or found.
    #[default]
    Named,
    /// By an `include` at this place.
    Include(Place),
    /// By an `extends` at this place.
    Extends(Place),
    /// Through an alias at this place. The source is the anchor's once more, so
    /// that each copy of a value has places of its own.
    Alias(Place),
}

/// Where a variable was set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VariableSource {
    /// In the environment of the caller.
    Environment,
    /// In an environment file.
    File {
        /// The file.
        file: PathBuf,
        /// Line, from 1; 0 when it is not known.
        line: usize,
    },
    /// By the loader: the name of the project.
    Project,
    /// Nowhere.
    Unset,
}

/// A variable that a text was made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsedVariable {
    /// Its name.
    pub name: String,
    /// Its value, when it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where it was set.
    pub source: VariableSource,
}

/// A value that another one took the place of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// The value as short text.
    pub value: String,
    /// Where it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What was noted while a stack was loaded.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Texts with variables, by their place.
    used: HashMap<Place, Vec<UsedVariable>>,
    /// Values that were replaced, by path, the earliest first.
    replaced: BTreeMap<String, Vec<(String, Place)>>,
    /// Values that a service has from another one: the place of `extends`.
    extended: HashMap<String, HashMap<Place, Place>>,
    /// Where the variables of environment files are set.
    variables: HashMap<String, (PathBuf, usize)>,
    /// Variables that services have from environment files.
    env_files: HashMap<(String, String), (PathBuf, usize)>,
    /// The caller's variables.
    caller: HashSet<String>,
}

/// The line of an environment file that sets a variable last; 0 when none is seen to.
pub(crate) fn line_of(text: &str, name: &str) -> usize {
    let sets = |line: &str| {
        let line = line.trim_start().trim_start_matches('\u{feff}');
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        line.strip_prefix(name)
            .is_some_and(|rest| rest.trim_start().starts_with(['=', ':']) || rest.trim().is_empty())
    };
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| sets(line))
        .map(|(index, _)| index + 1)
        .last()
        .unwrap_or(0)
}

/// A value as short text.
pub(super) fn brief(node: &Node) -> String {
    const LONGEST: usize = 60;
    let text = match &node.value {
        Value::List(list) => {
            let items: Vec<String> = list.iter().take(8).map(brief).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let entries: Vec<String> = map
                .iter()
                .take(8)
                .map(|(key, entry)| format!("{key}: {}", brief(&entry.node)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Null => "null".to_owned(),
        _ => node.scalar_text().unwrap_or_default(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

impl Trace {
    pub(super) fn add_caller(&mut self, environment: &Environment) {
        self.caller.extend(environment.keys().cloned());
    }

    pub(super) fn add_variable(&mut self, name: &str, file: &Path, text: &str) {
        let line = line_of(text, name);
        self.variables.insert(name.to_owned(), (file.to_owned(), line));
    }

    pub(super) fn add_text(&mut self, place: Place, text: &str, environment: &Environment) {
        let names = names_in(text);
        let used = names.into_iter().map(|name| UsedVariable {
            value: environment.get(name).cloned(),
            source: self.source_of(name, environment),
            name: name.to_owned(),
        });
        let used: Vec<UsedVariable> = used.collect();
        if !used.is_empty() {
            self.used.insert(place, used);
        }
    }

    pub(super) fn add_replaced(&mut self, path: String, node: &Node) {
        self.replaced
            .entry(path)
            .or_default()
            .push((brief(node), node.place));
    }

    pub(super) fn add_extended(&mut self, service: &str, extends: Place, base: &Node) {
        fn all(node: &Node, add: &mut dyn FnMut(Place)) {
            add(node.place);
            for entry in node.as_map().into_iter().flat_map(|map| map.values()) {
                add(entry.key);
                all(&entry.node, add);
            }
            node.items().for_each(|item| all(item, add));
        }
        let places = self.extended.entry(service.to_owned()).or_default();
        all(base, &mut |place| {
            places.entry(place).or_insert(extends);
        });
    }

    pub(crate) fn add_env_file(&mut self, service: &str, variable: &str, file: &Path, line: usize) {
        let key = (service.to_owned(), variable.to_owned());
        self.env_files.insert(key, (file.to_owned(), line));
    }

    /// Where a variable was set.
    pub fn source_of(&self, name: &str, environment: &Environment) -> VariableSource {
        if !environment.contains_key(name) {
            VariableSource::Unset
        } else if name == "COMPOSE_PROJECT_NAME" {
            VariableSource::Project
        } else if self.caller.contains(name) {
            VariableSource::Environment
        } else if let Some((file, line)) = self.variables.get(name) {
            VariableSource::File {
                file: file.clone(),
                line: *line,
            }
        } else {
            VariableSource::Environment
        }
    }

    /// The variables that the text at a place was made of.
    pub fn variables_at(&self, place: Place) -> &[UsedVariable] {
        self.used.get(&place).map_or(&[], Vec::as_slice)
    }

    /// What the value at a path replaced, the earliest first.
    pub fn replaced_at(&self, path: &str) -> &[(String, Place)] {
        self.replaced.get(path).map_or(&[], Vec::as_slice)
    }

    /// The `extends` that a service has a value from.
    pub fn extends_of(&self, service: &str, place: Place) -> Option<Place> {
        self.extended.get(service)?.get(&place).copied()
    }

    /// The environment file that a service has a variable from, and its line.
    pub fn env_file_of(&self, service: &str, variable: &str) -> Option<(&Path, usize)> {
        let found = self.env_files.get(&(service.to_owned(), variable.to_owned()));
        found.map(|(file, line)| (file.as_path(), *line))
    }
}
