//! The JSON schema against the one of the Compose Specification: ours accepts
//! all that theirs does.
// Clippy takes only functions marked as tests for tests.
#![allow(clippy::panic, clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;

fn resolve<'s>(root: &'s Value, mut schema: &'s Value) -> &'s Value {
    while let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        schema = root
            .pointer(reference.trim_start_matches('#'))
            .unwrap_or_else(|| panic!("{reference}"));
    }
    schema
}

/// The alternatives of a schema, references followed.
fn alternatives<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let schema = resolve(root, schema);
    for key in ["oneOf", "anyOf"] {
        if let Some(list) = schema.get(key).and_then(Value::as_array)
            && list.iter().all(|one| !is_only_required(one))
        {
            return list.iter().flat_map(|one| alternatives(root, one)).collect();
        }
    }
    vec![schema]
}

/// `anyOf: [{required: […]}]` asks for one of several keys.
fn is_only_required(schema: &Value) -> bool {
    schema
        .as_object()
        .is_some_and(|map| map.keys().all(|key| key == "required"))
}

fn types(schema: &Value) -> Vec<String> {
    let mut types = match schema.get("type") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(list)) => list.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
        _ if schema.get("properties").is_some() => vec!["object".into()],
        _ if schema.get("enum").is_some() || schema.get("const").is_some() => vec!["string".into()],
        _ => vec![],
    };
    if types.contains(&"number".into()) {
        types.push("integer".into());
    }
    types
}

/// Whether a schema accepts anything, as far as this test looks.
fn accepts_anything(schema: &Value) -> bool {
    schema == &Value::Bool(true)
        || schema
            .as_object()
            .is_some_and(|map| map.keys().all(|key| key == "description"))
}

fn compare(
    path: &str,
    theirs: (&Value, &Value),
    ours: (&Value, &Value),
    wrong: &mut Vec<String>,
    depth: usize,
) {
    assert!(depth < 40, "{path}");
    let mine = alternatives(ours.0, ours.1);
    if mine.iter().any(|schema| accepts_anything(schema)) {
        return;
    }
    for schema in alternatives(theirs.0, theirs.1) {
        for kind in types(schema) {
            let fitting: Vec<&&Value> = mine.iter().filter(|one| types(one).contains(&kind)).collect();
            if fitting.is_empty() {
                wrong.push(format!("{path}: {kind} is not accepted"));
                continue;
            }
            // What one of ours asks for must be no more than theirs.
            let enough = fitting.iter().any(|one| {
                let allowed = |text: &Value| {
                    one.get("enum")
                        .is_none_or(|list| list.as_array().unwrap().contains(text))
                };
                let texts = schema.get("enum").and_then(Value::as_array);
                let same_texts = texts.map_or(kind != "string" || one.get("enum").is_none(), |list| {
                    list.iter().all(allowed)
                });
                let pattern = one.get("pattern").is_none() || one.get("pattern") == schema.get("pattern");
                let number = |schema: &Value, key: &str| schema.get(key).and_then(Value::as_f64);
                let least = number(one, "minimum")
                    .is_none_or(|least| number(schema, "minimum").is_some_and(|theirs| theirs >= least));
                let most = number(one, "maximum")
                    .is_none_or(|most| number(schema, "maximum").is_some_and(|theirs| theirs <= most));
                let bounded = matches!(kind.as_str(), "integer" | "number");
                same_texts && (kind != "string" || pattern) && (!bounded || (least && most))
            });
            if !enough {
                wrong.push(format!("{path}: ours asks for more of a {kind}"));
            }
            match kind.as_str() {
                "array" => {
                    let items = schema.get("items").unwrap_or(&Value::Bool(true));
                    let ours_items = fitting
                        .iter()
                        .find_map(|one| one.get("items"))
                        .unwrap_or(&Value::Bool(true));
                    if items != &Value::Bool(true) {
                        compare(
                            &format!("{path}[]"),
                            (theirs.0, items),
                            (ours.0, ours_items),
                            wrong,
                            depth + 1,
                        );
                    }
                }
                "object" => objects(path, (theirs.0, schema), (ours.0, &fitting), wrong, depth),
                _ => {}
            }
        }
    }
}

fn objects(
    path: &str,
    theirs: (&Value, &Value),
    ours: (&Value, &[&&Value]),
    wrong: &mut Vec<String>,
    depth: usize,
) {
    let property = |name: &str| {
        ours.1.iter().find_map(|one| {
            one.get("properties").and_then(|list| list.get(name)).or_else(|| {
                let free = one.get("patternProperties").and_then(Value::as_object);
                let any = free.and_then(|free| {
                    free.iter()
                        .find(|(pattern, _)| *pattern != "^x-")
                        .map(|(_, schema)| schema)
                });
                any.or_else(|| {
                    one.get("additionalProperties")
                        .filter(|more| **more != Value::Bool(false))
                })
            })
        })
    };
    let required = |schema: &Value| -> Vec<String> {
        let list = schema.get("required").and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect()
    };
    let asked = required(theirs.1);
    if !ours
        .1
        .iter()
        .any(|one| required(one).iter().all(|name| asked.contains(name)))
    {
        wrong.push(format!("{path}: ours requires more"));
    }
    for (name, schema) in theirs
        .1
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let below = format!("{path}.{name}");
        match property(name) {
            None => wrong.push(format!("{below} is unknown")),
            Some(own) => compare(&below, (theirs.0, schema), (ours.0, own), wrong, depth + 1),
        }
    }
    let free = theirs.1.get("patternProperties").and_then(Value::as_object);
    for (pattern, schema) in free
        .into_iter()
        .flatten()
        .filter(|(pattern, _)| *pattern != "^x-")
    {
        let below = format!("{path}.<name>");
        match property("any") {
            None => wrong.push(format!("{below} ({pattern}) is unknown")),
            Some(own) => compare(&below, (theirs.0, schema), (ours.0, own), wrong, depth + 1),
        }
    }
}

#[test]
fn our_schema_accepts_all_that_the_specification_does() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &Path| -> Option<Value> { serde_json::from_slice(&std::fs::read(path).ok()?).ok() };
    let Some(theirs) = read(&root.join("../shared/conformance/compose-schema/compose-spec.json")) else {
        println!("skipped: the specification's schema is not there");
        return;
    };
    let ours = read(&root.join("schemas/compose.schema.json")).expect("our schema");
    let mut wrong = Vec::new();
    compare("", (&theirs, &theirs), (&ours, &ours), &mut wrong, 0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
