//! Lists in docker's formats.

use serde_json::Value;

use super::super::terminal;
use super::function::text;
use super::{Result, Template};

/// A list in one of docker's formats. `columns` are the fields and headings of
/// the plain table; `headings` are those of fields that are not among them.
pub(in crate::cli) fn list(format: &str, columns: &[(&str, &str)], rows: &[Value]) -> Result<String> {
    let cell = |row: &Value, field: &str| row.get(field).map(text).unwrap_or_default();
    let format = format.trim_start();
    match format {
        "" | "table" => {
            let headings: Vec<_> = columns.iter().map(|(_, heading)| *heading).collect();
            let cells: Vec<Vec<String>> = rows
                .iter()
                .map(|row| columns.iter().map(|(field, _)| cell(row, field)).collect())
                .collect();
            Ok(terminal::table(&headings, &cells))
        }
        "json" => Ok(rows.iter().map(|row| format!("{row}\n")).collect()),
        _ => {
            let (template, heading) = match format.strip_prefix("table") {
                Some(rest) if rest.starts_with([' ', '\t']) => (rest.trim_start(), true),
                _ => (format, false),
            };
            // What a shell passes as backslash and letter.
            let template = Template::parse(&template.replace("\\t", "\t").replace("\\n", "\n"))?;
            let mut lines = Vec::new();
            if heading {
                let words = rows.first().and_then(Value::as_object).into_iter().flatten();
                let mut names: serde_json::Map<String, Value> = words
                    .map(|(field, _)| (field.clone(), heading_of(field).into()))
                    .collect();
                names.extend(
                    columns
                        .iter()
                        .map(|(field, heading)| ((*field).to_owned(), (*heading).into())),
                );
                // Without rows nobody can say which fields there are.
                match template.render(&Value::Object(names)) {
                    Ok(line) => lines.push(line),
                    Err(error) if !rows.is_empty() => return Err(error),
                    Err(_) => {}
                }
            }
            for row in rows {
                lines.push(template.render(row)?);
            }
            if !heading {
                return Ok(lines.into_iter().map(|line| line + "\n").collect());
            }
            let cells: Vec<Vec<String>> = lines
                .iter()
                .map(|line| line.split('\t').map(str::to_owned).collect())
                .collect();
            let width = cells.iter().map(Vec::len).max().unwrap_or(0);
            let mut cells = cells.into_iter().map(|mut row: Vec<String>| {
                row.resize(width, String::new());
                row
            });
            let Some(first) = cells.next() else {
                return Ok(String::new());
            };
            let first: Vec<&str> = first.iter().map(String::as_str).collect();
            Ok(terminal::table(&first, &cells.collect::<Vec<_>>()))
        }
    }
}

/// `CreatedSince` is `CREATED SINCE`.
fn heading_of(field: &str) -> String {
    let mut out = String::new();
    let mut before = true;
    for character in field.chars() {
        if character.is_uppercase() && !before {
            out.push(' ');
        }
        before = character.is_uppercase();
        out.extend(character.to_uppercase());
    }
    out
}
