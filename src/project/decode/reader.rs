//! Fields of one mapping, read by what they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::known::nearest;
use crate::project::model::Extensions;
use crate::stack::{Code, Diagnostic, Node, Place, Report, Value, parse_duration};

/// Reads the fields of one mapping whose kinds have been checked.
pub(super) struct Reader<'a> {
    path: String,
    /// The service that this is (a part of).
    service: Option<String>,
    pub(super) node: &'a Node,
    report: &'a mut Report,
    /// Paths of the project whose values are written elsewhere in the file.
    pub(super) aliases: Vec<(&'static str, Place)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: String, node: &'a Node, report: &'a mut Report) -> Self {
        Self {
            service: path.strip_prefix("services.").map(str::to_owned),
            path,
            node,
            report,
            aliases: Vec::new(),
        }
    }

    /// A reader of a mapping inside of this one.
    pub(super) fn below<'b>(&'b mut self, field: &str, node: &'b Node) -> Reader<'b> {
        Reader {
            path: format!("{}.{field}", self.path),
            service: self.service.clone(),
            node,
            report: &mut *self.report,
            aliases: Vec::new(),
        }
    }

    /// The value of a field, unless it is nothing.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        self.node.get(key).filter(|node| !node.is_null())
    }

    /// Whether a key was taken out of a service, and reported.
    pub(super) fn is_incomplete(&self, service: &str) -> bool {
        self.report.is_incomplete(service)
    }

    /// The value at a path of fields, unless it is nothing.
    pub(super) fn at(&self, path: &[&str]) -> Option<&'a Node> {
        path.iter()
            .try_fold(self.node, |node, key| node.get(key))
            .filter(|node| !node.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        Some(self.get(key)?.as_text()?.to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Node::as_bool) == Some(true)
    }

    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        let items = self.get(key).into_iter().flat_map(Node::items);
        items.filter_map(Node::scalar_text).collect()
    }

    pub(super) fn table(&self, key: &str) -> BTreeMap<String, String> {
        let entries = self.get(key).into_iter().flat_map(Node::entries);
        entries
            .filter(|(_, node)| !node.is_null())
            .filter_map(|(key, node)| Some((key.to_owned(), node.scalar_text()?)))
            .collect()
    }

    pub(super) fn words(&self, key: &str) -> Option<Vec<String>> {
        let items = self.get(key)?.items();
        Some(items.filter_map(Node::scalar_text).collect())
    }

    /// Variables, of which some have no value.
    pub(super) fn variables(&self, key: &str) -> BTreeMap<String, Option<String>> {
        let entries = self.get(key).into_iter().flat_map(Node::entries);
        entries
            .map(|(key, node)| {
                let value = if node.is_null() { None } else { node.scalar_text() };
                (key.to_owned(), value)
            })
            .collect()
    }

    /// A whole number of a field of this mapping.
    pub(super) fn number<T: TryFrom<i64>>(&mut self, field: &str) -> Option<T> {
        self.whole(self.get(field), field)
    }

    /// A number of a field of this mapping.
    pub(super) fn float(&self, field: &str) -> Option<f64> {
        match &self.get(field)?.value {
            #[expect(clippy::cast_precision_loss, reason = "such numbers are small")]
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A length of time of a field of this mapping.
    pub(super) fn time(&self, field: &str) -> Option<Duration> {
        self.duration(self.get(field))
    }

    /// A path of a field of this mapping.
    pub(super) fn path(&self, field: &str) -> Option<PathBuf> {
        self.text(field).map(PathBuf::from)
    }

    /// The extensions of this mapping.
    pub(super) fn extensions(&self) -> Extensions {
        let entries = self.node.entries().filter(|(key, _)| key.starts_with("x-"));
        entries.map(|(key, node)| (key.to_owned(), plain(node))).collect()
    }

    /// One of several texts of a field of this mapping.
    pub(super) fn choice<T: Copy>(&mut self, field: &str, known: &[(&'static str, T)]) -> Option<T> {
        let node = self.get(field)?;
        let text = node.scalar_text().filter(|text| !text.is_empty())?;
        let found = known
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&'static str> = known.iter().map(|(name, _)| *name).collect();
            let message = format!("{text:?} is none of {}", names.join(", "));
            let hint = nearest(&text, &names).map(|near| format!("did you mean `{near}`?"));
            self.fail(node.place, Code::Schema, field, &message, hint.as_deref());
        }
        found
    }

    /// What a text of a field of this mapping stands for.
    pub(super) fn parse<T>(&mut self, field: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let node = self.get(field)?;
        let text = node.scalar_text().filter(|text| !text.is_empty())?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(node.place, Code::Schema, field, &error.to_string(), None);
                None
            }
        }
    }

    pub(super) fn duration(&self, node: Option<&Node>) -> Option<Duration> {
        parse_duration(node?.as_text()?).ok()
    }

    /// An error about a value of a field.
    pub(super) fn fail(&mut self, place: Place, code: Code, field: &str, message: &str, hint: Option<&str>) {
        if let Some(service) = &self.service {
            self.report.poison(service);
        }
        let mut diagnostic = Diagnostic::error(code, format!("{}.{field}: {message}", self.path));
        diagnostic.hint = hint.map(str::to_owned);
        self.report.push_at(place, diagnostic);
    }

    /// A whole number of some field that fits a type.
    pub(super) fn whole<T: TryFrom<i64>>(&mut self, node: Option<&Node>, field: &str) -> Option<T> {
        let node = node?;
        let number = match &node.value {
            Value::Int(number) => Some(*number),
            #[expect(clippy::cast_possible_truncation, reason = "whole and small, as just checked")]
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Some(*number as i64),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        let converted = number.and_then(|number| T::try_from(number).ok());
        if converted.is_none() {
            let written = node.scalar_text().unwrap_or_default();
            self.fail(
                node.place,
                Code::Schema,
                field,
                &format!("invalid number {written}"),
                None,
            );
        }
        converted
    }

    /// The first of several fields that is there, noted as the origin of a path.
    pub(super) fn either(&mut self, paths: &[&[&str]], alias: &'static str) -> Option<&'a Node> {
        let node = paths.iter().find_map(|path| self.at(path))?;
        self.aliases.push((alias, node.place));
        Some(node)
    }
}

/// A value of an extension, without its places.
pub(in crate::project) fn plain(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Text(text) => Json::String(text.to_string()),
        Value::List(list) => list.iter().map(plain).collect(),
        Value::Map(map) => map
            .iter()
            .map(|(key, entry)| (key.clone(), plain(&entry.node)))
            .collect(),
    }
}
