//! A model as `config` prints it: the keys, the order and the omissions of
//! docker compose.

mod emit;

use serde_json::{Map, Number, Value as Json, json};

use super::load::Model;
use crate::stack::{Form, Format, Node, Print, STACK_FORM, Value};

/// How it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
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
    /// `$` is doubled.
    escaped: bool,
}

/// The model as a value; `$` is doubled, so that what is printed can be loaded
/// again.
pub fn render(model: &Model, style: Style) -> Json {
    render_as(model, style, true)
}

fn render_as(model: &Model, style: Style, escaped: bool) -> Json {
    let printing = Printing { style, escaped };
    let mut document = Map::new();
    for (name, node, form) in sections(model, style) {
        let value = node.map_or_else(|| json!({}), |node| value(node, form, printing));
        if name == "services" || !is_empty(&value) || name.starts_with("x-") {
            document.insert(name.to_owned(), value);
        }
    }
    Json::Object(document)
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
    for (name, node, form) in sections(model, Style::Yaml) {
        let entries = node.filter(|_| form.is_some_and(|form| form.names));
        let Some(map) = entries.and_then(Node::as_map).filter(|map| !map.is_empty()) else {
            let value = node.map_or_else(|| json!({}), |node| value(node, form, style));
            if name == "services" || !is_empty(&value) || name.starts_with("x-") {
                emit::entry(name, &value, 0, &mut out)?;
            }
            continue;
        };
        // One after the other: they need not be in memory together.
        out.push_str(name);
        out.push_str(":\n");
        let mut keys: Vec<_> = map.iter().collect();
        keys.sort_by_key(|(key, _)| *key);
        for (key, entry) in keys {
            let below = form.and_then(|form| form.values);
            emit::entry(key, &value(&entry.node, below, style), 2, &mut out)?;
        }
    }
    Ok(out)
}

/// The sections of a model in the order in which they are printed, then its
/// extensions.
fn sections(model: &Model, style: Style) -> Vec<(&str, Option<&Node>, Option<&'static Form>)> {
    let root = &model.document;
    let fields = STACK_FORM.shape.into_iter().flat_map(|shape| shape.fields);
    let mut sections: Vec<_> = fields
        .filter(|field| !matches!(field.name, "version" | "include"))
        .filter(|field| field.name != "models" || style != Style::Json)
        .map(|field| (field.name, root.get(field.name), Some(field.form)))
        .filter(|(name, node, _)| node.is_some() || *name == "services")
        .collect();
    if style == Style::Json {
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
    serde_json::to_string_pretty(&render_as(model, Style::Json, escaped))
}

fn escape(text: &str) -> String {
    if text.contains('$') {
        text.replace('$', "$$")
    } else {
        text.to_owned()
    }
}

fn is_empty(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Bool(value) => !value,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(list) => list.is_empty(),
        Json::Object(map) => map.is_empty(),
    }
}

fn value(node: &Node, form: Option<&'static Form>, style: Printing) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => Json::Number((*number).into()),
        Value::Float(number) => float(*number),
        Value::Text(text) => Json::String(if style.escaped { escape(text) } else { text.clone() }),
        Value::List(list) => {
            let items = form.and_then(|form| form.items);
            let mut values: Vec<_> = list.iter().map(|item| value(item, items, style)).collect();
            if form.is_some_and(|form| form.format == Format::Hosts) {
                values.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
            }
            Json::Array(values)
        }
        Value::Map(map) => match form.and_then(|form| form.shape) {
            Some(_) => shaped(node, form, style),
            None => {
                let mut keys: Vec<_> = map.iter().collect();
                keys.sort_by_key(|(key, _)| *key);
                let below = form.and_then(|form| form.values);
                Json::Object(
                    keys.into_iter()
                        .map(|(key, entry)| (key.clone(), value(&entry.node, below, style)))
                        .collect(),
                )
            }
        },
    }
}

/// A mapping with known keys, in the order of its table.
fn shaped(node: &Node, form: Option<&'static Form>, style: Printing) -> Json {
    let mut map = Map::new();
    let Some(shape) = form.and_then(|form| form.shape) else {
        return Json::Object(map);
    };
    // Most fields of a mapping are not there: only those that are, and those
    // that are printed all the same, are looked at.
    let there = node
        .entries()
        .filter_map(|(key, node)| Some((shape.position(key)?, Some(node))));
    let mut found: Vec<(usize, Option<&Node>)> = there.collect();
    for (position, field) in shape.fields.iter().enumerate() {
        let always = match field.print {
            Print::OrNull | Print::OrEmpty => style.style == Style::Json,
            _ => false,
        };
        if always && !found.iter().any(|(there, _)| *there == position) {
            found.push((position, None));
        }
    }
    found.sort_unstable_by_key(|(position, _)| *position);
    for (position, there) in found {
        let Some(field) = shape.fields.get(position) else {
            continue;
        };
        let there = there.map(|node| value(node, Some(field.form), style));
        let printed = match (field.print, there) {
            (Print::OrNull, there) => Some(there.unwrap_or(Json::Null)),
            (Print::OrEmpty, Some(Json::Object(map))) => Some(Json::Object(map)),
            (Print::OrEmpty, _) if style.style == Style::Json => Some(empty(field.form, style)),
            (Print::OrEmpty, _) => None,
            (Print::Present, there) => there.filter(|value| !value.is_null()),
            (Print::Filled, there) => there.filter(|value| {
                let no_bytes = field.form.format == Format::Bytes && value.as_str() == Some("0");
                !is_empty(value) && !no_bytes
            }),
        };
        if let Some(printed) = printed {
            map.insert(field.name.to_owned(), printed);
        }
    }
    if style.style == Style::Yaml {
        for (key, extension) in node.entries().filter(|(key, _)| key.starts_with("x-")) {
            map.insert(key.to_owned(), value(extension, None, style));
        }
    }
    Json::Object(map)
}

/// What stands for a mapping that is missing and is printed all the same.
fn empty(form: &'static Form, style: Printing) -> Json {
    shaped(&Node::map(crate::stack::Place::NOWHERE), Some(form), style)
}

/// A number as docker compose keeps it (32 bits), shortest.
fn float(number: f64) -> Json {
    #[expect(clippy::cast_possible_truncation, reason = "that is the precision meant")]
    let narrow = number as f32;
    let number = narrow.to_string().parse::<f64>().unwrap_or(number);
    if number.fract() == 0.0 && number.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
        return Json::Number((number as i64).into());
    }
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}
