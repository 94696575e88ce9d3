//! Where the values of a model came from.
//!
//! [`leaves`] lists every value that stands alone with its origin, for
//! `config --provenance`; [`find`] finds the value that a path names, for
//! `explain`. Both need a model that was loaded with [`Rules::trace`].
//!
//! [`Rules::trace`]: super::Rules

use std::fmt;

use serde::Serialize;

use super::load::Model;
use crate::stack::{
    Form, Node, Origin, Place, Replaced, STACK_FORM, UsedVariable, Value, VariableSource, Via,
};

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Provenance {
    /// Dotted path, items of lists by their index: `services.web.ports.0.target`.
    pub path: String,
    /// The value.
    pub value: serde_json::Value,
    /// Where it is written; `None` for what is written nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The line it is written on.
    #[serde(skip)]
    pub source_line: Option<String>,
    /// How it came from there, the nearest step first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub way: Vec<Step>,
    /// The variables in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<UsedVariable>,
    /// What it took the place of, the latest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
}

/// A step on the way of a value to its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Through an alias (`*name`) at this place.
    Alias(Origin),
    /// From a service that is extended, at this place.
    Extends(Origin),
    /// From a file that is included, at this place.
    Include(Origin),
    /// From an environment file of the service.
    EnvFile {
        /// The file.
        file: String,
        /// Line, from 1; 0 when it is not known.
        line: usize,
    },
    /// It is a default, or implied by what stands at its origin.
    Implied,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alias(origin) => write!(f, "through the alias at {origin}"),
            Self::Extends(origin) => write!(f, "by `extends` at {origin}"),
            Self::Include(origin) => write!(f, "by `include` at {origin}"),
            Self::EnvFile { file, line: 0 } => write!(f, "from {file}"),
            Self::EnvFile { file, line } => write!(f, "from {file}:{line}"),
            Self::Implied => f.write_str("implied"),
        }
    }
}

/// A variable as people read it.
pub fn describe_variable(variable: &UsedVariable) -> String {
    let name = &variable.name;
    match (&variable.source, &variable.value) {
        (VariableSource::Environment, Some(value)) => format!("{name}={value:?} from the environment"),
        (VariableSource::File { file, line: 0 }, Some(value)) => {
            format!("{name}={value:?} from {}", file.display())
        }
        (VariableSource::File { file, line }, Some(value)) => {
            format!("{name}={value:?} from {}:{line}", file.display())
        }
        (VariableSource::Project, Some(value)) => format!("{name}={value:?}, the project's name"),
        _ => format!("{name} is not set"),
    }
}

impl Provenance {
    /// One line: the place, and how the value came from there.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(origin) = &self.origin {
            parts.push(origin.to_string());
        }
        parts.extend(self.way.iter().map(Step::to_string));
        parts.extend(self.variables.iter().map(describe_variable));
        parts.extend(self.replaced.iter().map(|replaced| match &replaced.origin {
            Some(origin) => format!("replaces {:?} of {origin}", replaced.value),
            None => format!("replaces {:?}", replaced.value),
        }));
        if parts.is_empty() {
            parts.push("a default".to_owned());
        }
        parts.join(", ")
    }
}

/// A value on the way down the document.
#[derive(Clone, Copy)]
struct At<'m> {
    node: &'m Node,
    /// Of its key; that of the mapping above for items of lists.
    key: Place,
    /// Of the key of the collection it is in.
    above: Place,
}

/// Every scalar of the model and every empty collection, sorted by path.
pub fn leaves(model: &Model) -> Vec<Provenance> {
    let mut found = Vec::new();
    let at = At {
        node: &model.document,
        key: Place::NOWHERE,
        above: Place::NOWHERE,
    };
    walk(model, at, "", &mut found);
    found
}

fn join(path: &str, step: &str) -> String {
    if path.is_empty() {
        step.to_owned()
    } else {
        format!("{path}.{step}")
    }
}

fn walk(model: &Model, at: At<'_>, path: &str, found: &mut Vec<Provenance>) {
    match &at.node.value {
        Value::Map(map) if !map.is_empty() => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            for (key, entry) in keys {
                let below = At {
                    node: &entry.node,
                    key: entry.key,
                    above: at.key,
                };
                walk(model, below, &join(path, key), found);
            }
        }
        Value::List(list) if !list.is_empty() => {
            for (index, node) in list.iter().enumerate() {
                let below = At {
                    node,
                    key: at.key,
                    above: at.above,
                };
                walk(model, below, &join(path, &index.to_string()), found);
            }
        }
        _ => found.push(of(model, at, path)),
    }
}

fn of(model: &Model, at: At<'_>, path: &str) -> Provenance {
    let history = &model.history;
    let trace = history.trace();
    let place = match at.node.value {
        Value::Map(_) | Value::List(_) if at.key != Place::NOWHERE => at.key,
        _ => at.node.place,
    };
    let mut steps = path.split('.');
    let service = match (steps.next(), steps.next()) {
        (Some("services"), Some(name)) => Some(name),
        _ => None,
    };
    let mut way = Vec::new();
    let origin = history.origin(place);
    let variable = service.and_then(|service| {
        let variable = path.strip_prefix("services.")?.strip_prefix(service)?;
        Some((service, variable.strip_prefix(".environment.")?))
    });
    if let Some((service, variable)) = variable
        && let Some((file, line)) = trace.env_file_of(service, variable)
        && at.key == at.node.place
    {
        way.push(Step::EnvFile {
            file: file.display().to_string(),
            line,
        });
    } else if !matches!(at.node.value, Value::Map(_) | Value::List(_))
        && (place == at.above || (place == at.key && !path.contains('.')))
    {
        way.push(Step::Implied);
    }
    let extends = service.and_then(|service| trace.extends_of(service, place));
    let mut extended = false;
    for via in history.way(place) {
        let (by, step): (Place, fn(Origin) -> Step) = match via {
            Via::Named => break,
            Via::Alias(by) => (by, Step::Alias),
            Via::Include(by) => (by, Step::Include),
            Via::Extends(by) => {
                extended = true;
                (by, Step::Extends)
            }
        };
        way.extend(history.origin(by).map(step));
    }
    if !extended && let Some(extends) = extends.and_then(|extends| history.origin(extends)) {
        way.push(Step::Extends(extends));
    }
    let replaced = trace.replaced_at(path).iter().rev();
    Provenance {
        path: path.to_owned(),
        value: super::decode::plain(at.node),
        source_line: history.line(place),
        origin,
        way,
        variables: trace.variables_at(at.node.place).to_vec(),
        replaced: replaced
            .map(|(value, place)| Replaced {
                value: value.clone(),
                origin: history.origin(*place),
            })
            .collect(),
    }
}

/// Why a path leads to no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A key or index that is not there, and that nothing like it could be.
    #[error("nothing is at {path}")]
    Unknown {
        /// The path as far as the first step that fails.
        path: String,
        /// What was probably meant.
        near: Option<String>,
        /// What there is in its place.
        known: Vec<String>,
    },
    /// A field that there is, and that the stack does not set.
    #[error("{path} is not set")]
    NotSet {
        /// The path.
        path: String,
        /// What the field is.
        about: String,
    },
}

/// The steps of a path: `services.web.ports[0]`, `services.web.ports.0`,
/// `services["a.b"]`.
fn steps(path: &str) -> Vec<String> {
    let mut steps = Vec::new();
    let mut step = String::new();
    let mut quoted = None;
    for character in path.chars() {
        match (character, quoted) {
            (quote, Some(open)) if quote == open => quoted = None,
            ('"' | '\'', None) => quoted = Some(character),
            ('.' | '[' | ']', None) => {
                if !step.is_empty() {
                    steps.push(std::mem::take(&mut step));
                }
            }
            (other, _) => step.push(other),
        }
    }
    if !step.is_empty() {
        steps.push(step);
    }
    steps
}

/// The value at a path and the values inside of it: the first one is the value
/// itself, when it is one.
///
/// # Errors
/// [`PathError`] when nothing is there.
pub fn find(model: &Model, path: &str) -> Result<(Provenance, Vec<Provenance>), PathError> {
    let mut at = At {
        node: &model.document,
        key: Place::NOWHERE,
        above: Place::NOWHERE,
    };
    let mut form: Option<&'static Form> = Some(&STACK_FORM);
    let mut so_far = String::new();
    let steps = steps(path);
    let mut rest = steps.as_slice();
    while let Some((step, after)) = rest.split_first() {
        let below = form.and_then(|form| match at.node.value {
            Value::List(_) => form.items,
            _ => form.below(step),
        });
        // Keys may have dots in them: the longest one that is there counts.
        let (found, after) = match &at.node.value {
            Value::Map(map) => {
                let longest = (1..=rest.len()).rev().find_map(|length| {
                    let key = rest.get(..length)?.join(".");
                    let entry = map.get(&key)?;
                    Some((
                        (key, &entry.node, entry.key),
                        rest.get(length..).unwrap_or_default(),
                    ))
                });
                match longest {
                    Some((found, after)) => (Some(found), after),
                    None => (None, after),
                }
            }
            Value::List(list) => {
                let index: Option<usize> = step.parse().ok();
                let by_index = index
                    .and_then(|index| list.get(index))
                    .map(|node| (step.clone(), node));
                // Items that have a name can be called by it.
                let by_name = || {
                    let mut items = list.iter().enumerate();
                    items
                        .find(|(_, node)| {
                            ["target", "source", "name", "path"].iter().any(|field| {
                                node.get(field).and_then(Node::scalar_text).as_ref() == Some(step)
                            })
                        })
                        .map(|(index, node)| (index.to_string(), node))
                };
                let found = by_index.or_else(by_name);
                (found.map(|(step, node)| (step, node, at.key)), after)
            }
            _ => (None, after),
        };
        let Some((step, node, key)) = found else {
            return Err(missing(&at, &so_far, step, after, below, form));
        };
        at = At {
            node,
            key,
            above: at.key,
        };
        so_far = join(&so_far, &step);
        form = below;
        rest = after;
    }
    let mut inside = Vec::new();
    walk(model, at, &so_far, &mut inside);
    let itself = of(model, at, &so_far);
    inside.retain(|leaf| leaf.path != itself.path);
    Ok((itself, inside))
}

fn missing(
    at: &At<'_>,
    so_far: &str,
    step: &str,
    after: &[String],
    below: Option<&'static Form>,
    form: Option<&'static Form>,
) -> PathError {
    let field = form.and_then(|form| form.field(step));
    if let (Some(field), true) = (field, after.is_empty() || below.is_some()) {
        let path = after
            .iter()
            .fold(join(so_far, step), |path, step| join(&path, step));
        return PathError::NotSet {
            path,
            about: field.about.to_owned(),
        };
    }
    let mut known: Vec<String> = match &at.node.value {
        Value::Map(map) => map.keys().map(ToString::to_string).collect(),
        Value::List(list) => (0..list.len()).map(|index| index.to_string()).collect(),
        _ => Vec::new(),
    };
    let shape = form.and_then(|form| form.shape).into_iter();
    let fields: Vec<String> = shape
        .flat_map(|shape| shape.fields)
        .map(|field| field.name.to_owned())
        .filter(|name| !known.contains(name))
        .collect();
    let near = known
        .iter()
        .chain(&fields)
        .map(|name| (strsim::damerau_levenshtein(name, step), name))
        .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
        .min()
        .map(|(_, name)| name.clone());
    known.sort();
    PathError::Unknown {
        path: join(so_far, step),
        near,
        known,
    }
}
