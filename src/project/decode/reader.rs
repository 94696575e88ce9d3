//! Fields of one mapping, read by what they are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::stack::{Code, Diagnostic, Node, Place, Report, Value, parse_duration};

/// Reads the fields of one mapping whose kinds have been checked.
pub(super) struct Reader<'a> {
    path: String,
    pub(super) node: &'a Node,
    report: &'a mut Report,
    /// Paths of the project whose values are written elsewhere in the file.
    pub(super) aliases: Vec<(&'static str, Place)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: String, node: &'a Node, report: &'a mut Report) -> Self {
        Self {
            path,
            node,
            report,
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

    pub(super) fn duration(&self, node: Option<&Node>) -> Option<Duration> {
        parse_duration(node?.as_text()?).ok()
    }

    /// An error about a value of a field.
    pub(super) fn fail(&mut self, place: Place, code: Code, field: &str, message: &str, hint: Option<&str>) {
        if let Some(service) = self.path.strip_prefix("services.") {
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
