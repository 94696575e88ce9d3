//! Documents against the field table.
//!
//! Each file is checked alone ([`check`]): unknown keys, types, bounds. What
//! an override file may leave to the file below it (required fields, values
//! that are nothing, items that repeat) is checked once on the merged document
//! ([`check_merged`]). An invalid value is taken out of the tree after it was
//! reported, and its service is marked, so that the rest can be checked too
//! without consequential errors.

use std::collections::HashMap;

use super::diagnostic::{Code, Diagnostic};
use super::form::{Field, Form, Format, Identity, Kind, Shape};
use super::source::{Place, Report};
use super::tree::{Mapping, Node, Tag, Trail, Value};

/// Checks one file's document.
pub(super) fn check(node: &mut Node, form: &'static Form, trail: &Trail<'_>, report: &mut Report) -> bool {
    if node.tag == Tag::Reset || node.is_null() {
        return true;
    }
    if node.as_text().is_some_and(|text| report.keeps(text)) {
        return true;
    }
    if !check_kind(node, form, trail, report) {
        return false;
    }
    if form.items.is_none() && form.values.is_none() && form.shape.is_none() {
        return true;
    }
    match &mut node.value {
        Value::List(list) => {
            if let Some(items) = form.items {
                let mut index = 0;
                list.retain_mut(|item| {
                    let valid = check(item, items, &trail.index(index), report);
                    index += 1;
                    valid
                });
            }
        }
        Value::Map(map) => {
            map.retain(|key, entry| {
                let below = trail.key(key);
                if let Some(field) = form.field(key) {
                    if let Value::List(list) = &entry.node.value
                        && repeats_are_wrong(field)
                    {
                        check_unique(list, &below, report);
                    }
                    return check(&mut entry.node, field.form, &below, report);
                }
                if key.starts_with("x-") && !form.names {
                    return true;
                }
                if let Some(shape) = form.shape {
                    unknown_key(key, entry.key, &entry.node, shape, trail, report);
                    return false;
                }
                if form.names && !is_name(key) {
                    additional(
                        key,
                        entry.key,
                        trail,
                        report,
                        Some("names consist of letters, digits, `.`, `_` and `-`".to_owned()),
                    );
                    return false;
                }
                match form.values {
                    Some(values) if !check(&mut entry.node, values, &below, report) => {
                        // The name stays known, so that what refers to it is not reported too.
                        entry.node = Node::null(entry.node.place);
                        form.names
                    }
                    _ => true,
                }
            });
        }
        _ => {}
    }
    true
}

/// Whether items of one file's list must not repeat. Where items take each
/// other's place they may, but for hosts.
fn repeats_are_wrong(field: &Field) -> bool {
    match field.form.format {
        Format::Assignments | Format::Labels => false,
        Format::Hosts => field.form.unique,
        _ => field.form.unique && field.identity == Identity::None,
    }
}

/// Checks the merged document for what single files need not have.
pub(super) fn check_merged(node: &Node, form: &'static Form, trail: &Trail<'_>, report: &mut Report) {
    match &node.value {
        Value::Null => {
            let poisoned = trail.service().is_some_and(|service| report.is_poisoned(service));
            if !form.allows(Kind::Null) && !poisoned && !matches!(trail, Trail::Root) {
                check_kind(node, form, trail, report);
            }
        }
        Value::List(list) => {
            if form.unique {
                check_unique(list, trail, report);
            }
            if let Some(items) = form.items {
                for (index, item) in list.iter().enumerate() {
                    check_merged(item, items, &trail.index(index), report);
                }
            }
        }
        Value::Map(map) => {
            if let Some(shape) = form.shape {
                check_required(map, shape, node.place, trail, report);
            }
            for (key, entry) in map {
                if let Some(below) = form.below(key) {
                    check_merged(&entry.node, below, &trail.key(key), report);
                }
            }
        }
        _ => {}
    }
}

fn check_required(map: &Mapping, shape: &Shape, place: Place, trail: &Trail<'_>, report: &mut Report) {
    for field in shape.fields.iter().filter(|field| field.required) {
        let excused = |service: &str| report.is_poisoned(service) || report.is_incomplete(service);
        if map.contains_key(field.name) || trail.service().is_some_and(excused) {
            continue;
        }
        fail(
            place,
            format!("{trail} missing property '{}'", field.name),
            None,
            trail,
            report,
        );
    }
}

fn check_unique(list: &[Node], trail: &Trail<'_>, report: &mut Report) {
    let mut texts = list.iter().enumerate();
    let short = list.len() <= 16;
    let repeats = |(at, item): (usize, &Node)| {
        let earlier = list.get(..at).unwrap_or_default();
        earlier.iter().any(|earlier| earlier.value == item.value)
    };
    if list.len() < 2 || short && !texts.any(repeats) {
        return;
    }
    let mut seen = HashMap::new();
    for (index, item) in list.iter().enumerate() {
        let Some(text) = item.scalar() else {
            continue;
        };
        let kind = std::mem::discriminant(&item.value);
        if let Some(earlier) = seen.insert((kind, text), index) {
            fail(
                item.place,
                format!("{trail} items at {earlier} and {index} are equal"),
                None,
                trail,
                report,
            );
        }
    }
}

fn fail(place: Place, message: String, hint: Option<String>, trail: &Trail<'_>, report: &mut Report) {
    if let Some(service) = trail.service() {
        report.poison(service);
    }
    let mut diagnostic = Diagnostic::error(Code::Schema, message);
    diagnostic.hint = hint;
    report.push_at(place, diagnostic);
}

fn check_kind(node: &Node, form: &Form, trail: &Trail<'_>, report: &mut Report) -> bool {
    let fits = match &node.value {
        Value::Null => form.allows(Kind::Null),
        Value::Bool(_) => form.allows(Kind::Bool),
        Value::Int(_) => form.allows(Kind::Int) || form.allows(Kind::Number),
        Value::Float(value) => form.allows(Kind::Number) || (form.allows(Kind::Int) && value.fract() == 0.0),
        Value::Text(_) => form.allows(Kind::Text),
        Value::List(_) => form.allows(Kind::List),
        Value::Map(_) => form.allows(Kind::Map),
    };
    if !fits {
        let hint = match &node.value {
            Value::Int(number) if form.format == Format::Duration => {
                Some(format!("write a time with its unit, such as {number}s"))
            }
            Value::Bool(_) | Value::Int(_) | Value::Float(_) if form.allows(Kind::Text) => {
                Some("put the value in quotes".to_owned())
            }
            Value::Null => Some("give it a value or leave the key out".to_owned()),
            _ => None,
        };
        let message = if matches!(trail, Trail::Root) {
            "top-level object must be a mapping".to_owned()
        } else if matches!(trail, Trail::Key(Trail::Root, "include")) {
            "`include` must be a list".to_owned()
        } else {
            format!("{trail} must be a {}", expected(form))
        };
        fail(node.place, message, hint, trail, report);
        return false;
    }
    if let Value::Text(text) = &node.value
        && !form.one_of.is_empty()
        && !form.one_of.contains(&text.as_str())
    {
        let known: Vec<_> = form.one_of.iter().map(|known| format!("'{known}'")).collect();
        let hint = nearest(text, form.one_of.iter().copied())
            // `healthy` for `service_healthy`.
            .or_else(|| {
                let mut known = form.one_of.iter();
                known
                    .find(|known| text.len() > 3 && known.contains(text.as_str()))
                    .copied()
            })
            .map(|near| format!("did you mean `{near}`?"));
        fail(
            node.place,
            format!("{trail} value must be one of {}", known.join(", ")),
            hint,
            trail,
            report,
        );
        return false;
    }
    if let (Value::Text(text), Some(pattern)) = (&node.value, form.pattern)
        && !(pattern.fits)(text)
    {
        let message = format!("{trail} '{text}' does not match pattern '{}'", pattern.text);
        fail(node.place, message, None, trail, report);
        return false;
    }
    #[expect(clippy::cast_precision_loss, reason = "bounds are small")]
    let number = match node.value {
        Value::Int(value) => Some(value as f64),
        Value::Float(value) => Some(value),
        _ => None,
    };
    if let Some(number) = number {
        #[expect(clippy::cast_precision_loss, reason = "bounds are small")]
        let (least, most) = (
            form.least.filter(|least| number < *least as f64),
            form.most.filter(|most| number > *most as f64),
        );
        if let Some(least) = least {
            let message = format!("{trail} must be greater than or equal to {least}");
            fail(node.place, message, None, trail, report);
            return false;
        }
        if let Some(most) = most {
            let message = format!("{trail} must be less than or equal to {most}");
            fail(node.place, message, None, trail, report);
            return false;
        }
    }
    true
}

/// The kinds of a form as a message names them.
fn expected(form: &Form) -> String {
    let name = |kind: &Kind| match kind {
        Kind::Null => "null",
        Kind::Bool => "boolean",
        Kind::Int => "integer",
        Kind::Number => "number",
        Kind::Text => "string",
        Kind::List => "array",
        Kind::Map => "mapping",
    };
    let mut names: Vec<_> = form.kinds.iter().map(name).collect();
    // A collection comes first as it is written in the table; scalars by name.
    if !form
        .kinds
        .iter()
        .any(|kind| matches!(kind, Kind::List | Kind::Map))
    {
        names.sort_unstable();
    }
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => (*last).to_owned(),
        None => String::new(),
    }
}

/// Whether a text names a service, network, volume, config or secret.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn additional(key: &str, place: Place, trail: &Trail<'_>, report: &mut Report, hint: Option<String>) {
    let message = if matches!(trail, Trail::Root) {
        format!("additional properties '{key}' not allowed")
    } else {
        format!("{trail} additional properties '{key}' not allowed")
    };
    if let Some(service) = trail.service() {
        report.mark_incomplete(service);
    }
    let mut diagnostic = Diagnostic::error(Code::Schema, message);
    diagnostic.hint = hint;
    report.push_at(place, diagnostic);
}

fn unknown_key(
    key: &str,
    place: Place,
    value: &Node,
    shape: &'static Shape,
    trail: &Trail<'_>,
    report: &mut Report,
) {
    let near = nearest(key, shape.fields.iter().map(|field| field.name));
    let hint = if let Some(near) = near {
        format!("did you mean `{near}`?")
    } else if let Some(outer) = shape.fields.iter().find(|field| field.form.field(key).is_some()) {
        format!("did you mean `{}.{key}`?", outer.name)
    } else if matches!(trail, Trail::Root) && (value.get("image").is_some() || value.get("build").is_some()) {
        "services go under `services`".to_owned()
    } else {
        "keys of your own begin with `x-`".to_owned()
    };
    additional(key, place, trail, report, Some(hint));
}

/// The known word that a word was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let folded = word.to_ascii_lowercase().replace('-', "_");
    let allowed = match folded.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    };
    known
        .map(|candidate| (strsim::damerau_levenshtein(&folded, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}
