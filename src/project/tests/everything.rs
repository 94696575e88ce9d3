//! Every attribute of the specification has a place in the typed project.

use super::*;
use crate::stack::{Form, STACK_FORM};

/// A stack that says something in every field.
const STACK: &str = include_str!("everything.yaml");

fn everything() -> Loaded {
    let files = files(&[
        ("compose.yaml", STACK),
        ("ours.env", "FROM_FILE=1\n"),
        ("ours.labels", "from=file\n"),
    ]);
    load_any(
        &request(&[("HOME", "/home/u"), ("TOKEN", "t"), ("PASSWORD", "s3cret")]),
        &files,
    )
    .unwrap_or_else(|f| panic!("{f}"))
}

#[test]
fn every_attribute_arrives_typed() {
    let project = everything().project;
    let text = serde_json::to_string_pretty(&project).unwrap();
    insta::assert_snapshot!(text);
    // What it prints it can read again: records are read that way.
    let again: Project = serde_json::from_str(&text).unwrap();
    for (name, service) in &project.services {
        let mut service = service.clone();
        service.extensions.clear();
        assert_eq!(again.services[name], service);
    }
    assert!(!text.contains("s3cret"), "a secret's value must not be stored");
    let FileSource::Environment { value, .. } = &project.secrets["token"].source else {
        panic!("{:?}", project.secrets);
    };
    assert_eq!(value.as_deref(), Some("s3cret"));
    assert_eq!(project.services["all"].extensions["x-mine"]["deep"][0], 1);
}

/// The keys of a form, dotted, with `*` for keys that are free.
fn paths(form: &'static Form, prefix: &str, found: &mut Vec<String>) {
    if let Some(shape) = form.shape {
        for field in shape.fields {
            let path = format!("{prefix}.{}", field.name);
            found.push(path.clone());
            paths(field.form, &path, found);
        }
    }
    if let Some(form) = form.values {
        paths(form, &format!("{prefix}.*"), found);
    }
    if let Some(form) = form.items {
        paths(form, &format!("{prefix}.*"), found);
    }
}

/// Whether a document says something at a path.
fn says(node: &crate::stack::Node, path: &[&str]) -> bool {
    match path {
        [] => true,
        ["*", rest @ ..] => {
            node.items().any(|item| says(item, rest)) || node.entries().any(|(_, node)| says(node, rest))
        }
        [key, rest @ ..] => node.get(key).is_some_and(|node| says(node, rest)),
    }
}

#[test]
fn the_stack_says_something_in_every_field() {
    let mut known = Vec::new();
    paths(&STACK_FORM, "", &mut known);
    assert!(known.len() > 340, "{}", known.len());
    let written = everything().model.document;
    // These are gone once a stack is loaded.
    let spent = ["version", "include", "extends", "env_file", "label_file"];
    let missing: Vec<&String> = known
        .iter()
        .filter(|path| {
            let steps: Vec<&str> = path.trim_start_matches('.').split('.').collect();
            !spent.iter().any(|spent| steps.contains(spent))
                && !path.ends_with("external.name")
                && !says(&written, &steps)
        })
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
