//! Variables in values: `$V`, `${V}` and `${V:-d}` with its relatives.
//!
//! The grammar: `$$` is a dollar sign. `$NAME` and `${NAME}` are the value of a
//! variable, or nothing with a warning. `${NAME:-d}` and `${NAME-d}` fall back
//! to `d`, `${NAME:?m}` and `${NAME?m}` fail with `m`, `${NAME:+a}` and
//! `${NAME+a}` are `a` when there is a value; with a colon, an empty value is
//! as good as none. `d`, `m` and `a` may hold variables themselves, and only the
//! branch taken is looked at. Any other `${` is an error; any other `$` is a
//! dollar sign.

use std::borrow::Cow;
use std::collections::BTreeMap;

use smol_str::SmolStr;

use super::diagnostic::{Code, Diagnostic};
use super::form::{Cast, Form};
use super::source::{Place, Report};
use super::tree::{Node, Trail, Value};

/// Substitutions may be nested so deep.
const DEEPEST: usize = 40;

/// Why a text cannot be interpolated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterpolationError {
    /// `${` without a name, or without an end.
    #[error("Invalid template: {0:?}")]
    Invalid(String),
    /// `${NAME:?…}` without a value.
    #[error("required variable {variable} is missing a value{}", reason(.message))]
    Missing {
        /// The variable.
        variable: String,
        /// What the author says about it.
        message: String,
    },
}

fn reason(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// The variables of a project.
pub type Environment = BTreeMap<String, String>;

/// Replaces the variables in a text. `unset` hears of each variable that has
/// no value and no fallback.
///
/// # Errors
/// [`InterpolationError`], as said there.
pub fn substitute<'t, 'v>(
    text: &'t str,
    lookup: &dyn Fn(&str) -> Option<Cow<'v, str>>,
    unset: &mut dyn FnMut(&str),
) -> Result<Cow<'t, str>, InterpolationError> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    expand(text, lookup, unset, 0, &mut out)?;
    Ok(Cow::Owned(out))
}

fn expand<'v>(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<Cow<'v, str>>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
    out: &mut String,
) -> Result<(), InterpolationError> {
    let invalid = || InterpolationError::Invalid(text.to_owned());
    if depth > DEEPEST {
        return Err(invalid());
    }
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let end = closing_brace(inside).ok_or_else(invalid)?;
            let body = &inside[..end];
            rest = &inside[end + 1..];
            let name = &body[..name_length(body)];
            if name.is_empty() {
                return Err(invalid());
            }
            let operation = &body[name.len()..];
            if operation.is_empty() {
                push_variable(name, lookup, unset, out);
                continue;
            }
            let (colon, operation) = operation
                .strip_prefix(':')
                .map_or((false, operation), |rest| (true, rest));
            let value = lookup(name).filter(|value| !(colon && value.is_empty()));
            match operation.as_bytes().first() {
                Some(b'-') => match value {
                    Some(value) => out.push_str(&value),
                    None => expand(&operation[1..], lookup, unset, depth + 1, out)?,
                },
                Some(b'+') => {
                    if value.is_some() {
                        expand(&operation[1..], lookup, unset, depth + 1, out)?;
                    }
                }
                Some(b'?') => match value {
                    Some(value) => out.push_str(&value),
                    None => {
                        let mut message = String::new();
                        expand(&operation[1..], lookup, unset, depth + 1, &mut message)?;
                        return Err(InterpolationError::Missing {
                            variable: name.to_owned(),
                            message,
                        });
                    }
                },
                _ => return Err(invalid()),
            }
        } else {
            let name = &rest[..name_length(rest)];
            if name.is_empty() {
                out.push('$');
            } else {
                push_variable(name, lookup, unset, out);
                rest = &rest[name.len()..];
            }
        }
    }
    out.push_str(rest);
    Ok(())
}

fn push_variable<'v>(
    name: &str,
    lookup: &dyn Fn(&str) -> Option<Cow<'v, str>>,
    unset: &mut dyn FnMut(&str),
    out: &mut String,
) {
    match lookup(name) {
        Some(value) => out.push_str(&value),
        None => unset(name),
    }
}

/// Length of the variable name a text begins with.
fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(b'_' | b'a'..=b'z' | b'A'..=b'Z') => bytes
            .iter()
            .position(|byte| !(*byte == b'_' || byte.is_ascii_alphanumeric()))
            .unwrap_or(bytes.len()),
        _ => 0,
    }
}

/// Where the brace is that closes a `${` before this text: the balanced one,
/// else the last.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 1;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    text.rfind('}')
}

/// A variable that templates name.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What stands for it when it has no value (`${NAME:-…}`).
    pub default_value: String,
    /// What stands for it when it has one (`${NAME:+…}`).
    pub presence_value: String,
    /// Without a value, loading fails (`${NAME:?…}`).
    pub required: bool,
}

/// The variables that a text names, also those inside of fallbacks.
pub fn variables(text: &str) -> Vec<Variable> {
    let mut found = Vec::new();
    find_variables(text, 0, &mut found);
    found
}

/// The names of the variables that a text names.
pub(super) fn names_in(text: &str) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let inside = rest.strip_prefix('{').unwrap_or(rest);
        let name = &inside[..name_length(inside)];
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn find_variables(text: &str, depth: usize, found: &mut Vec<Variable>) {
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let Some(inside) = rest.strip_prefix('{') else {
            let name = &rest[..name_length(rest)];
            if !name.is_empty() {
                found.push(Variable {
                    name: name.to_owned(),
                    ..Variable::default()
                });
            }
            continue;
        };
        let Some(end) = closing_brace(inside) else {
            return;
        };
        let body = &inside[..end];
        rest = &inside[end + 1..];
        let name = &body[..name_length(body)];
        if name.is_empty() {
            continue;
        }
        let operation = &body[name.len()..];
        let operation = operation.strip_prefix(':').unwrap_or(operation);
        let mut variable = Variable {
            name: name.to_owned(),
            ..Variable::default()
        };
        let argument = operation.get(1..).unwrap_or_default();
        match operation.as_bytes().first() {
            Some(b'-') => argument.clone_into(&mut variable.default_value),
            Some(b'+') => argument.clone_into(&mut variable.presence_value),
            Some(b'?') => variable.required = true,
            _ => {}
        }
        found.push(variable);
        if depth < DEEPEST {
            find_variables(argument, depth + 1, found);
        }
    }
}

/// Interpolates every text of a document and casts it to what its form asks for.
pub(super) fn interpolate(
    node: &mut Node,
    form: Option<&'static Form>,
    trail: &Trail<'_>,
    environment: &Environment,
    report: &mut Report,
) {
    match &mut node.value {
        Value::Text(text) => {
            let place = node.place;
            let cast = form.map_or(Cast::None, |form| form.cast);
            if !text.contains('$') {
                if cast != Cast::None {
                    node.value = cast_text(cast, text.clone(), trail, place, report);
                }
                return;
            }
            if let Some(trace) = report.trace() {
                trace.add_text(place, text, environment);
            }
            let lookup = |name: &str| environment.get(name).map(|value| Cow::Borrowed(value.as_str()));
            let substituted = substitute(text, &lookup, &mut |name| report.warn_unset(place, name));
            let text = match substituted {
                Ok(text) => SmolStr::from(text),
                Err(error) => {
                    interpolation_error(&error, trail, place, report);
                    return;
                }
            };
            node.value = cast_text(cast, text, trail, place, report);
        }
        Value::List(list) => {
            let items = form.and_then(|form| form.items);
            for (index, item) in list.iter_mut().enumerate() {
                interpolate(item, items, &trail.index(index), environment, report);
            }
        }
        Value::Map(map) => {
            for (key, entry) in map.iter_mut() {
                let below = form.and_then(|form| form.below(key));
                interpolate(&mut entry.node, below, &trail.key(key), environment, report);
            }
        }
        _ => {}
    }
}

fn interpolation_error(error: &InterpolationError, trail: &Trail<'_>, place: Place, report: &mut Report) {
    if let Some(service) = trail.service() {
        report.poison(service);
    }
    match error {
        InterpolationError::Invalid(template) => report.error_hint(
            place,
            Code::Interpolation,
            format!("invalid interpolation format for {trail}.\nYou may need to escape any $ with another $.\n{template}"),
            "write `$$` for a dollar sign",
        ),
        InterpolationError::Missing { variable, .. } => report.push_at(
            place,
            Diagnostic::error(
                Code::Interpolation,
                format!("error while interpolating {trail}: {error}"),
            )
            .hint(format!("set {variable} in the environment or in the project's .env file")),
        ),
    }
}

fn cast_text(cast: Cast, text: SmolStr, trail: &Trail<'_>, place: Place, report: &mut Report) -> Value {
    let mut failed = |what: &str| {
        if let Some(service) = trail.service() {
            report.poison(service);
        }
        report.error(
            place,
            Code::Interpolation,
            format!(
                "error while interpolating {trail}: failed to cast to expected type: invalid {what}: {text}"
            ),
        );
    };
    match cast {
        Cast::None => {}
        Cast::Int => match text.parse() {
            Ok(number) => return Value::Int(number),
            Err(_) => failed("integer"),
        },
        Cast::Float => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => return Value::Float(number),
            _ => failed("number"),
        },
        Cast::Bool => {
            let lower = text.to_ascii_lowercase();
            let value = match lower.as_str() {
                "true" => return Value::Bool(true),
                "false" => return Value::Bool(false),
                "y" | "yes" | "on" => true,
                "n" | "no" | "off" => false,
                _ => {
                    failed("boolean");
                    return Value::Text(text);
                }
            };
            report.warning(
                place,
                format!("{text:?} for boolean is not supported by YAML 1.2, please use `{value}`"),
            );
            return Value::Bool(value);
        }
    }
    Value::Text(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(text: &str) -> (Result<String, InterpolationError>, Vec<String>) {
        let mut unset = Vec::new();
        let lookup = |name: &str| match name {
            "FOO" => Some(Cow::Borrowed("first")),
            "BAR" => Some(Cow::Borrowed("")),
            "json" => Some(Cow::Borrowed("{}")),
            _ => None,
        };
        let result = substitute(text, &lookup, &mut |name| unset.push(name.to_owned())).map(Cow::into_owned);
        (result, unset)
    }

    fn good(text: &str) -> String {
        run(text).0.unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn every_form() {
        for (text, expected) in [
            ("ok $FOO", "ok first"),
            ("ok ${FOO}", "ok first"),
            ("${FOO}${FOO}", "firstfirst"),
            ("$$FOO $${FOO}", "$FOO ${FOO}"),
            ("$FOO.$BAR-", "first.-"),
            ("${NO:-d}", "d"),
            ("${BAR:-d}", "d"),
            ("${BAR-d}", ""),
            ("${NO-d}", "d"),
            ("${FOO:-d}", "first"),
            ("${FOO:+a}", "a"),
            ("${BAR:+a}", ""),
            ("${BAR+a}", "a"),
            ("${NO+a}", ""),
            ("${FOO?m}", "first"),
            ("${BAR?m}", ""),
            ("${FOO:?m}", "first"),
            ("${NO:-${FOO}}", "first"),
            ("${NO:-a${NO:-b${FOO:+c}}d}", "abcd"),
            ("${NO:-${BAR:-x}} y", "x y"),
            (r#"${NO:-{"a": {}}}"#, r#"{"a": {}}"#),
            ("${NO:-}", ""),
            ("${NO-:-x}", ":-x"),
            ("${NO:-a-b?c}", "a-b?c"),
            ("${NO:-http://x:80}", "http://x:80"),
            ("$", "$"),
            ("a $ b", "a $ b"),
            ("$}", "$}"),
            ("^RE$", "^RE$"),
            ("$1", "$1"),
            ("$json", "{}"),
            ("${NO:-$$}", "$"),
        ] {
            assert_eq!(good(text), expected, "{text}");
        }
    }

    #[test]
    fn malformed_forms_are_refused() {
        for text in [
            "${", "${}", "${ }", "${ FOO}", "${FOO }", "${FOO!}", "${FOO:}", "x ${1}", "${FOO",
        ] {
            assert!(
                matches!(run(text).0, Err(InterpolationError::Invalid(_))),
                "{text}"
            );
        }
        let deep = "${NO:-".repeat(100_000);
        assert!(run(&deep).0.is_err());
        let deep = format!("{}{}", "${NO:-".repeat(1000), "}".repeat(1000));
        assert!(run(&deep).0.is_err());
    }

    #[test]
    fn required_variables_say_why() {
        assert_eq!(
            run("${NO:?not ${FOO}}").0.unwrap_err().to_string(),
            "required variable NO is missing a value: not first"
        );
        assert_eq!(
            run("${BAR:?}").0.unwrap_err().to_string(),
            "required variable BAR is missing a value"
        );
    }

    #[test]
    fn only_the_branch_taken_is_looked_at() {
        assert_eq!(run("${FOO:-$NO} ${NO:+$NO}").1, Vec::<String>::new());
        assert_eq!(run("$NO ${NO2} ${NO:-$NO3}").1, ["NO", "NO2", "NO3"]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = run(&text);
        }

        #[test]
        fn dollar_braces_do_not_panic(text in "[${}:?+a-zN -]{0,40}") {
            let _ = run(&text);
        }

        #[test]
        fn text_without_a_dollar_is_itself(text in "[^$]*") {
            prop_assert_eq!(good(&text), text);
        }

        #[test]
        fn escaping_every_dollar_gives_the_text_back(text in any::<String>()) {
            prop_assert_eq!(good(&text.replace('$', "$$")), text);
        }

        #[test]
        fn a_fallback_without_variables_is_itself(text in "[^${}]*") {
            let template = format!("${{NO:-{}}}", text);
            prop_assert_eq!(good(&template), text);
        }
    }
}
