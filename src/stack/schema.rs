//! The JSON schema of a stack file, from the field table.

use serde_json::{Map, Value as Json, json};

use super::fields::STACK_FORM;
use super::form::{Form, Kind, Shape};

/// The JSON schema (draft 2020-12) of a stack file. Fields that cannot be run
/// yet are marked `deprecated` and say why, so that editors strike them out.
pub fn json_schema() -> Json {
    let mut definitions = Map::new();
    let root = match STACK_FORM.shape {
        Some(shape) => object(shape, &mut definitions),
        None => json!({}),
    };
    let mut schema = Map::new();
    schema.insert(
        "$schema".into(),
        json!("https://json-schema.org/draft/2020-12/schema"),
    );
    schema.insert("title".into(), json!("rcompose stack file"));
    if let Json::Object(root) = root {
        schema.extend(root);
    }
    schema.insert("$defs".into(), Json::Object(definitions));
    Json::Object(schema)
}

fn object(shape: &'static Shape, definitions: &mut Map<String, Json>) -> Json {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in shape.fields.iter().chain(shape.extensions) {
        let mut value = of(field.form, definitions);
        if let Json::Object(map) = &mut value {
            map.insert("description".into(), json!(field.about));
        }
        properties.insert(field.name.into(), value);
        if field.required {
            required.push(field.name);
        }
    }
    let mut map = Map::new();
    map.insert("type".into(), json!("object"));
    map.insert("properties".into(), Json::Object(properties));
    map.insert("patternProperties".into(), json!({"^x-": {}}));
    map.insert("additionalProperties".into(), json!(false));
    if !required.is_empty() {
        map.insert("required".into(), json!(required));
    }
    Json::Object(map)
}

/// The schema of a form. Named shapes become definitions, each written once.
fn of(form: &'static Form, definitions: &mut Map<String, Json>) -> Json {
    let mut alternatives = Vec::new();
    let scalars: Vec<_> = form
        .kinds
        .iter()
        .filter_map(|kind| match kind {
            Kind::Null => Some("null"),
            Kind::Bool => Some("boolean"),
            Kind::Int => Some("integer"),
            Kind::Number => Some("number"),
            Kind::Text => Some("string"),
            Kind::List | Kind::Map => None,
        })
        .collect();
    if !scalars.is_empty() {
        let mut map = Map::new();
        map.insert(
            "type".into(),
            match scalars.as_slice() {
                [one] => json!(one),
                several => json!(several),
            },
        );
        if !form.one_of.is_empty() {
            map.insert("enum".into(), json!(form.one_of));
        }
        if let Some(pattern) = form.pattern {
            map.insert("pattern".into(), json!(pattern.text));
        }
        if let Some(least) = form.least {
            map.insert("minimum".into(), json!(least));
        }
        if let Some(most) = form.most {
            map.insert("maximum".into(), json!(most));
        }
        alternatives.push(Json::Object(map));
    }
    if form.allows(Kind::List) {
        let mut map = Map::new();
        map.insert("type".into(), json!("array"));
        if let Some(items) = form.items {
            map.insert("items".into(), of(items, definitions));
        }
        if form.unique {
            map.insert("uniqueItems".into(), json!(true));
        }
        alternatives.push(Json::Object(map));
    }
    if form.allows(Kind::Map) {
        alternatives.push(match (form.shape, form.values) {
            (Some(shape), _) => {
                if !definitions.contains_key(shape.name) {
                    definitions.insert(shape.name.into(), Json::Null);
                    let definition = object(shape, definitions);
                    definitions.insert(shape.name.into(), definition);
                }
                json!({"$ref": format!("#/$defs/{}", shape.name)})
            }
            (None, Some(values)) => {
                let values = of(values, definitions);
                if form.names {
                    json!({
                        "type": "object",
                        "patternProperties": {"^[a-zA-Z0-9._-]+$": values},
                        "additionalProperties": false,
                    })
                } else {
                    json!({"type": "object", "additionalProperties": values})
                }
            }
            (None, None) => json!({"type": "object"}),
        });
    }
    match alternatives.len() {
        1 => alternatives.swap_remove(0),
        _ => json!({"anyOf": alternatives}),
    }
}
