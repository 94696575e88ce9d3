//! A model as `config` prints it: the keys, the order and the omissions of
//! docker compose.

mod emit;

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use smol_str::SmolStr;

use super::load::Model;
use crate::stack::{Entry, Form, Format, Mapping, Node, Print, STACK_FORM, Shape, Value};

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// As `config` does: extensions (`x-…`) everywhere, nothing that is `null`.
    Yaml,
    /// As `config --format json` does: extensions at the top level only,
    /// `command` and `entrypoint` always.
    Json,
}

/// How values are printed.
#[derive(Clone, Copy)]
struct Printing {
    style: Style,
    /// `$` is doubled. When it is not, values are templates, which docker
    /// compose prints as they are, keys in the order of the alphabet.
    escaped: bool,
}

/// What is printed for a value: it borrows from the model.
#[derive(Debug, PartialEq)]
enum Printed<'n> {
    Null,
    Bool(bool),
    Int(i64),
    /// A finite number.
    Float(f64),
    Text(Cow<'n, str>),
    List(Vec<Printed<'n>>),
    Map(Vec<(Cow<'n, str>, Printed<'n>)>),
}

impl Printed<'_> {
    fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(value) => !value,
            Self::Int(number) => *number == 0,
            Self::Float(number) => *number == 0.0,
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
        }
    }
}

impl Serialize for Printed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// The model as YAML text.
///
/// # Errors
/// What the serialiser says; there is no value it cannot write.
pub fn yaml(model: &Model) -> Result<String, serde_yaml::Error> {
    yaml_as(model, true)
}

/// As [`yaml`]; `escaped`: whether `$` is doubled. Values whose variables were
/// not replaced are printed as they are.
///
/// # Errors
/// As [`yaml`].
pub fn yaml_as(model: &Model, escaped: bool) -> Result<String, serde_yaml::Error> {
    let style = Printing {
        style: Style::Yaml,
        escaped,
    };
    let mut out = String::new();
    for (name, node, form) in sections(model, style) {
        let entries = node.filter(|_| form.is_some_and(|form| form.names));
        let Some(map) = entries.and_then(Node::as_map).filter(|map| !map.is_empty()) else {
            let value = node.map_or(Printed::Map(Vec::new()), |node| value(node, form, style));
            if name == "services" || !value.is_empty() || name.starts_with("x-") {
                emit::entry(name, &value, 0, &mut out)?;
            }
            continue;
        };
        out.push_str(name);
        out.push_str(":\n");
        let mut keys: Vec<_> = map.iter().collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        entries_yaml(&keys, form.and_then(|form| form.values), style, &mut out)?;
    }
    Ok(out)
}

/// Entries that are fewer than this are not worth a thread.
const MANY: usize = 500;

/// Writes the entries of a section. One after the other, they need not be in
/// memory together; many are written by all processors, each a part.
fn entries_yaml(
    entries: &[(&SmolStr, &Entry)],
    form: Option<&'static Form>,
    style: Printing,
    out: &mut String,
) -> Result<(), serde_yaml::Error> {
    let write = |part: &[(&SmolStr, &Entry)], out: &mut String| {
        part.iter()
            .try_for_each(|(key, entry)| emit::entry(key, &value(&entry.node, form, style), 2, out))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min(entries.len() / MANY);
    if threads < 2 {
        return write(entries, out);
    }
    let mut parts = entries.chunks(entries.len().div_ceil(threads));
    let first = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts
            .map(|part| {
                scope.spawn(move || {
                    let mut text = String::new();
                    write(part, &mut text).map(|()| text)
                })
            })
            .collect();
        write(first, out)?;
        for other in others {
            match other.join() {
                Ok(text) => out.push_str(&text?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

/// The sections of a model in the order in which they are printed, then its
/// extensions.
fn sections(model: &Model, printing: Printing) -> Vec<(&str, Option<&Node>, Option<&'static Form>)> {
    let root = &model.document;
    let style = if printing.escaped {
        printing.style
    } else {
        Style::Yaml
    };
    let fields = STACK_FORM.shape.into_iter().flat_map(|shape| shape.fields);
    let mut sections: Vec<_> = fields
        .filter(|field| !matches!(field.name, "version" | "include"))
        .filter(|field| field.name != "models" || style != Style::Json)
        .map(|field| (field.name, root.get(field.name), Some(field.form)))
        .filter(|(name, node, _)| node.is_some() || *name == "services")
        .collect();
    if style == Style::Json || !printing.escaped {
        sections.sort_unstable_by_key(|(name, ..)| *name);
    }
    let mut extensions: Vec<_> = root
        .entries()
        .filter(|(key, _)| key.starts_with("x-"))
        .map(|(key, node)| (key, Some(node), None))
        .collect();
    extensions.sort_unstable_by_key(|(key, ..)| *key);
    sections.append(&mut extensions);
    sections
}

/// The model as indented JSON text, without a line end at its end.
///
/// # Errors
/// What the serialiser says; there is no value it cannot write.
pub fn json(model: &Model) -> Result<String, serde_json::Error> {
    json_as(model, true)
}

/// As [`json`]; `escaped`: whether `$` is doubled.
///
/// # Errors
/// As [`json`].
pub fn json_as(model: &Model, escaped: bool) -> Result<String, serde_json::Error> {
    let style = Style::Json;
    let printing = Printing { style, escaped };
    let mut document = Vec::new();
    for (name, node, form) in sections(model, printing) {
        let value = node.map_or(Printed::Map(Vec::new()), |node| value(node, form, printing));
        if name == "services" || !value.is_empty() || name.starts_with("x-") {
            document.push((Cow::Borrowed(name), value));
        }
    }
    serde_json::to_string_pretty(&Printed::Map(document))
}

fn text(text: &str, style: Printing) -> Cow<'_, str> {
    if style.escaped && text.contains('$') {
        Cow::Owned(text.replace('$', "$$"))
    } else {
        Cow::Borrowed(text)
    }
}

fn value<'n>(node: &'n Node, form: Option<&'static Form>, style: Printing) -> Printed<'n> {
    let form = form.filter(|_| style.escaped);
    match &node.value {
        Value::Null => Printed::Null,
        Value::Bool(value) => Printed::Bool(*value),
        Value::Int(number) => Printed::Int(*number),
        Value::Float(number) => float(*number, form.is_some()),
        Value::Text(content) => Printed::Text(text(content, style)),
        Value::List(list) => {
            let items = form.and_then(|form| form.items);
            let mut values: Vec<_> = list.iter().map(|item| value(item, items, style)).collect();
            if form.is_some_and(|form| form.format == Format::Hosts) {
                values.sort_by(|one, other| one.as_text().cmp(&other.as_text()));
            }
            Printed::List(values)
        }
        Value::Map(map) => match form.and_then(|form| form.shape) {
            Some(shape) => shaped(map, shape, style),
            None if form.is_some_and(|form| form.format == Format::Ssh) && all_null(map) => {
                let mut agents: Vec<&str> = map.keys().map(|key| key.as_str()).collect();
                agents.sort_unstable();
                Printed::List(
                    agents
                        .into_iter()
                        .map(|agent| Printed::Text(agent.into()))
                        .collect(),
                )
            }
            None => {
                let below = form.and_then(|form| form.values);
                let entries = map.iter();
                let mut entries: Vec<_> = entries
                    .map(|(key, entry)| (text(key, style), value(&entry.node, below, style)))
                    .collect();
                entries.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                Printed::Map(entries)
            }
        },
    }
}

/// Whether no key has a value, and there is one.
fn all_null(map: &Mapping) -> bool {
    !map.is_empty() && map.values().all(|entry| entry.node.is_null())
}

/// A mapping with known keys, in the order of its table.
fn shaped<'n>(map: &'n Mapping, shape: &'static Shape, style: Printing) -> Printed<'n> {
    // Most fields of a mapping are not there: only those that are, and those
    // that are printed all the same, are looked at.
    let mut found: Vec<(usize, Option<&Node>)> = Vec::with_capacity(map.len() + 2);
    found.extend(
        map.iter()
            .filter_map(|(key, entry)| Some((shape.position(key)?, Some(&entry.node)))),
    );
    if style.style == Style::Json {
        for (position, field) in shape.fields.iter().enumerate() {
            let always = matches!(field.print, Print::OrNull | Print::OrEmpty);
            if always && !map.contains_key(field.name) {
                found.push((position, None));
            }
        }
    }
    found.sort_unstable_by_key(|(position, _)| *position);
    let mut printed = Vec::with_capacity(found.len());
    for (position, there) in found {
        let Some(field) = shape.fields.get(position) else {
            continue;
        };
        let there = there.map(|node| value(node, Some(field.form), style));
        let shown = match (field.print, there) {
            (Print::OrNull, there) => Some(there.unwrap_or(Printed::Null)),
            (Print::OrEmpty, Some(Printed::Map(map))) => Some(Printed::Map(map)),
            (Print::OrEmpty, _) if style.style == Style::Json => Some(empty(field.form, style)),
            (Print::OrEmpty, _) => None,
            (Print::Present, there) => there.filter(|value| !matches!(value, Printed::Null)),
            (Print::Filled, there) => there.filter(|value| {
                let no_bytes = field.form.format == Format::Bytes && value.as_text() == Some("0");
                !value.is_empty() && !no_bytes
            }),
        };
        if let Some(shown) = shown {
            let name = match style.style {
                Style::Json => field.json_name(),
                Style::Yaml => field.name,
            };
            printed.push((Cow::Borrowed(name), shown));
        }
    }
    if style.style == Style::Yaml {
        for (key, entry) in map.iter().filter(|(key, _)| key.starts_with("x-")) {
            printed.push((text(key, style), value(&entry.node, None, style)));
        }
    }
    Printed::Map(printed)
}

/// What stands for a mapping that is missing and is printed all the same.
fn empty(form: &'static Form, style: Printing) -> Printed<'static> {
    static NOTHING: LazyLock<Mapping> = LazyLock::new(Mapping::default);
    match form.shape {
        Some(shape) => shaped(&NOTHING, shape, style),
        None => Printed::Map(Vec::new()),
    }
}

/// A number, shortest. Those of fields docker compose keeps in 32 bits.
fn float(number: f64, of_a_field: bool) -> Printed<'static> {
    let number = if of_a_field {
        #[expect(clippy::cast_possible_truncation, reason = "that is the precision meant")]
        let narrow = number as f32;
        narrow.to_string().parse::<f64>().unwrap_or(number)
    } else {
        number
    };
    if number.fract() == 0.0 && number.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
        return Printed::Int(number as i64);
    }
    if number.is_finite() {
        Printed::Float(number)
    } else {
        Printed::Null
    }
}
