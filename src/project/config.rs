//! A model as `config` prints it: the keys, the order and the omissions of
//! docker compose.

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
    let style = Printing { style, escaped };
    let mut document = Map::new();
    let shape = STACK_FORM.shape;
    let sections = shape.into_iter().flat_map(|shape| shape.fields);
    let mut names: Vec<&str> = sections.map(|field| field.name).collect();
    if style.style == Style::Json {
        names.sort_unstable();
    }
    let root = &model.document;
    for name in names {
        if matches!(name, "version" | "include") || (name == "models" && style.style == Style::Json) {
            continue;
        }
        let Some(field) = STACK_FORM.field(name) else {
            continue;
        };
        let value = match root.get(name) {
            Some(node) => value(node, Some(field.form), style),
            None if name == "services" => json!({}),
            None => continue,
        };
        if name == "services" || !is_empty(&value) {
            document.insert(name.to_owned(), value);
        }
    }
    let mut extensions: Vec<_> = root.entries().filter(|(key, _)| key.starts_with("x-")).collect();
    extensions.sort_by_key(|(key, _)| *key);
    for (key, node) in extensions {
        document.insert(key.to_owned(), value(node, None, style));
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
    serde_yaml::to_string(&render_as(model, Style::Yaml, escaped))
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
    for field in shape.fields {
        let there = node
            .get(field.name)
            .map(|node| value(node, Some(field.form), style));
        let printed = match (field.print, there) {
            (Print::Never, _) => None,
            (Print::OrNull, there) => match there {
                Some(value) => Some(value),
                None => (style.style == Style::Json).then_some(Json::Null),
            },
            (Print::OrEmpty, Some(Json::Object(map))) => Some(Json::Object(map)),
            (Print::OrEmpty, _) => match style.style {
                Style::Json => Some(empty(field.form, style)),
                Style::Yaml => None,
            },
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
