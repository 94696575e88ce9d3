//! A model to a [`Project`]: types, the checks that running asks for, and the
//! refusal of what cannot be run yet.
//!
//! The document has been checked against the field table, so kinds are known
//! here; what is checked is what values mean. Each function reads one field or
//! one group of fields through a [`Reader`], which knows their path.

mod connections;
mod known;
mod limits;
mod mounts;
mod reader;
mod resource;
mod service;

use std::collections::BTreeMap;

use connections::fixed_addresses;
use reader::Reader;
use resource::{network, volume};
use service::service;

use super::check;
use super::load::{Model, origins};
use super::model::Project;
use crate::stack::{Code, Diagnostic, Entry, Form, Node, Print, Report, STACK_FORM, Trail, Value};

/// Makes the project; what cannot be run is in the report.
pub(super) fn project(model: &Model, report: &mut Report) -> Project {
    let document = &model.document;
    let mut origins = origins(document, report);
    refuse(document, &STACK_FORM, &Trail::Root, report);
    let mut services = BTreeMap::new();
    for (name, entry) in document
        .get("services")
        .and_then(Node::as_map)
        .into_iter()
        .flatten()
    {
        if report.is_poisoned(name) || entry.node.as_map().is_none() {
            continue;
        }
        let mut reader = Reader::new(format!("services.{name}"), &entry.node, report);
        let service = service(name, entry, &mut reader, document);
        let aliases = std::mem::take(&mut reader.aliases);
        for (path, place) in aliases {
            if let Some(origin) = report.origin(place) {
                origins.insert(format!("services.{name}.{path}"), origin);
            }
        }
        services.insert(name.clone(), service);
    }
    let mut networks = BTreeMap::new();
    for (key, node) in check::section(document, "networks") {
        let mut reader = Reader::new(format!("networks.{key}"), node, report);
        networks.insert(key.to_owned(), network(&mut reader));
    }
    let mut volumes = BTreeMap::new();
    for (key, node) in check::section(document, "volumes") {
        let mut reader = Reader::new(format!("volumes.{key}"), node, report);
        volumes.insert(key.to_owned(), volume(&mut reader));
    }
    fixed_addresses(document, &services, &networks, report);
    Project {
        name: model.name.clone(),
        working_dir: model.working_dir.clone(),
        config_files: model.config_files.clone(),
        inputs: model.inputs.clone(),
        services,
        disabled_services: model.disabled.clone(),
        networks,
        volumes,
        origins,
    }
}

/// Reports every value that is there and cannot be run.
fn refuse(node: &Node, form: &'static Form, trail: &Trail<'_>, report: &mut Report) {
    match &node.value {
        Value::List(list) => {
            for (index, item) in list.iter().enumerate() {
                if let Some(items) = form.items {
                    refuse(item, items, &trail.index(index), report);
                }
            }
        }
        Value::Map(map) => {
            for (key, entry) in map {
                let below = trail.key(key);
                let field = form.field(key);
                if let Some(reason) = field.and_then(|field| field.refused) {
                    if says_something(key, &entry.node, field.map(|field| field.print)) {
                        refuse_field(key, entry, reason, &below, report);
                    }
                    continue;
                }
                if let Some(form) = form.below(key) {
                    refuse(&entry.node, form, &below, report);
                }
            }
        }
        _ => {}
    }
}

/// Whether a value differs from leaving it out.
fn says_something(key: &str, node: &Node, print: Option<Print>) -> bool {
    match (&node.value, key) {
        (Value::Null, _) | (Value::Bool(true), "attach") => false,
        (Value::Bool(value), _) => *value || print == Some(Print::Present),
        (Value::Text(text), "cgroup" | "ipc") => text != "private" && !text.is_empty(),
        (Value::Text(text), "isolation") => text != "default" && !text.is_empty(),
        (Value::Text(text), _) => !text.is_empty(),
        (Value::List(list), _) => !list.is_empty(),
        (Value::Map(map), _) => !map.is_empty(),
        _ => true,
    }
}

fn refuse_field(key: &str, entry: &Entry, reason: &str, trail: &Trail<'_>, report: &mut Report) {
    // Rules for development say nothing about how a service runs, and labels
    // nothing where SELinux is not enforced.
    if matches!(key, "develop" | "selinux") {
        report.warning(entry.key, format!("{trail} has no effect: {reason}"));
        return;
    }
    if let Some(service) = trail.service() {
        report.mark_incomplete(service);
    }
    let message = if reason.contains("not supported") {
        format!("{trail}: {reason}")
    } else {
        format!("{trail} is not supported: {reason}")
    };
    report.push_at(entry.key, Diagnostic::error(Code::Unsupported, message));
}
