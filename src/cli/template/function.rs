//! The functions of templates, and how values are printed and compared.

use serde_json::Value;

use super::{Result, TemplateError, wrong};

/// A value as it is printed.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<_> = list.iter().map(text).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut items: Vec<_> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", text(value)))
                .collect();
            items.sort();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let count = arguments.len();
    let one = || match arguments.as_slice() {
        [one] => Ok(one),
        _ => wrong(format!("{name} wants one argument, not {count}")),
    };
    let two = || match arguments.as_slice() {
        [one, two] => Ok((one, two)),
        _ => wrong(format!("{name} wants two arguments, not {count}")),
    };
    let number = |value: &Value| match value.as_u64().and_then(|number| usize::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => wrong(format!("{name}: {} is no number", text(value))),
    };
    Ok(match name {
        "json" => serde_json::to_string(one()?).unwrap_or_default().into(),
        "upper" => text(one()?).to_uppercase().into(),
        "lower" => text(one()?).to_lowercase().into(),
        "title" => {
            let text = text(one()?);
            let mut characters = text.chars();
            let first = characters.next().map(|c| c.to_uppercase().collect::<String>());
            format!("{}{}", first.unwrap_or_default(), characters.as_str()).into()
        }
        "join" => match two()? {
            (Value::Array(list), separator) => {
                let items: Vec<_> = list.iter().map(text).collect();
                items.join(&text(separator)).into()
            }
            (Value::Null, _) => "".into(),
            _ => return wrong("join wants a list"),
        },
        "split" => {
            let (whole, separator) = two()?;
            let (whole, separator) = (text(whole), text(separator));
            whole
                .split(&separator)
                .map(Value::from)
                .collect::<Vec<_>>()
                .into()
        }
        "pad" => match arguments.as_slice() {
            [value, before, after] => {
                let (before, after) = (number(before)?.min(1000), number(after)?.min(1000));
                format!("{}{}{}", " ".repeat(before), text(value), " ".repeat(after)).into()
            }
            _ => return wrong("pad wants three arguments"),
        },
        "truncate" => {
            let (value, length) = two()?;
            text(value)
                .chars()
                .take(number(length)?)
                .collect::<String>()
                .into()
        }
        "print" => arguments.iter().map(text).collect::<Vec<_>>().join(" ").into(),
        "println" => (arguments.iter().map(text).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => match arguments.split_first() {
            Some((form, values)) => printf(&text(form), values)?.into(),
            None => return wrong("printf wants a format"),
        },
        "len" => match one()? {
            Value::String(text) => text.len(),
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            Value::Null => 0,
            _ => return wrong("len of something that has no length"),
        }
        .into(),
        "index" => {
            let mut arguments = arguments.into_iter();
            let Some(mut value) = arguments.next() else {
                return wrong("index wants a value");
            };
            for key in arguments {
                let found = match (&value, &key) {
                    (Value::Array(list), Value::Number(_)) => {
                        let found = list.get(number(&key)?).cloned();
                        found.ok_or_else(|| TemplateError(format!("index {key} is out of range")))?
                    }
                    (Value::Object(map), Value::String(name)) => map.get(name).cloned().unwrap_or_default(),
                    (Value::Null, _) => Value::Null,
                    _ => return wrong(format!("index: {} does not fit", text(&key))),
                };
                value = found;
            }
            value
        }
        "slice" => {
            let from = arguments.get(1).map_or(Ok(0), number)?;
            let to = arguments.get(2).map(number).transpose()?;
            let range = |length: usize| from..to.unwrap_or(length);
            let outside = || TemplateError("slice is out of range".to_owned());
            match arguments.first() {
                Some(Value::String(text)) => text.get(range(text.len())).ok_or_else(outside)?.into(),
                Some(Value::Array(list)) => list.get(range(list.len())).ok_or_else(outside)?.into(),
                _ => return wrong("slice wants a string or a list"),
            }
        }
        "eq" => match arguments.split_first() {
            Some((first, rest)) if !rest.is_empty() => rest.iter().any(|one| same(first, one)).into(),
            _ => return wrong("eq wants two arguments"),
        },
        "ne" => two().map(|(a, b)| !same(a, b))?.into(),
        "lt" => two().and_then(|(a, b)| order(a, b))?.is_lt().into(),
        "le" => two().and_then(|(a, b)| order(a, b))?.is_le().into(),
        "gt" => two().and_then(|(a, b)| order(a, b))?.is_gt().into(),
        "ge" => two().and_then(|(a, b)| order(a, b))?.is_ge().into(),
        "not" => (!truth(one()?)).into(),
        "and" | "or" => {
            let wanted = name == "or";
            let found = arguments.iter().find(|value| truth(value) == wanted);
            match found.or(arguments.last()) {
                Some(value) => value.clone(),
                None => return wrong(format!("{name} wants an argument")),
            }
        }
        _ => return wrong(format!("there is no function {name}")),
    })
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn order(a: &Value, b: &Value) -> Result<std::cmp::Ordering> {
    let found = match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    found.ok_or_else(|| TemplateError("values of different kinds cannot be compared".to_owned()))
}

/// `%s %v %d %q %t %x %%`, with `-`, `0` and a width.
fn printf(form: &str, values: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = form;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_alphabetic() || c == '%')
            .unwrap_or(after.len());
        let (flags, tail) = after.split_at(end);
        let Some(verb) = tail.chars().next() else {
            return wrong("printf: the format ends in the middle");
        };
        rest = tail.get(verb.len_utf8()..).unwrap_or_default();
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = values.next() else {
            return wrong("printf: a value is missing");
        };
        let shown = match verb {
            's' | 'v' | 'd' | 't' | 'f' | 'g' => text(value),
            'q' => serde_json::to_string(&text(value)).unwrap_or_default(),
            'x' => match value.as_u64() {
                Some(number) => format!("{number:x}"),
                None => text(value).bytes().map(|byte| format!("{byte:02x}")).collect(),
            },
            other => return wrong(format!("printf: %{other} is not known")),
        };
        let (flags, precision) = flags.split_once('.').unwrap_or((flags, ""));
        let shown: String = match precision.parse::<usize>() {
            Ok(limit) => shown.chars().take(limit).collect(),
            Err(_) => shown,
        };
        let width = flags
            .trim_start_matches(['-', '0', '+', ' '])
            .parse::<usize>()
            .unwrap_or(0)
            .min(1000);
        let fill = width.saturating_sub(shown.chars().count());
        if flags.starts_with('-') {
            out.push_str(&shown);
            out.push_str(&" ".repeat(fill));
        } else {
            out.push_str(&if flags.starts_with('0') { "0" } else { " " }.repeat(fill));
            out.push_str(&shown);
        }
    }
    out.push_str(rest);
    Ok(out)
}
