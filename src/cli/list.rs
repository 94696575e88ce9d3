//! Lists of things, in the formats that every list command has.

use serde_json::Value;

use super::failure::Failure;
use super::terminal::table;

/// A list in the format asked for. `columns` are the fields and headings of the
/// table.
///
/// # Errors
/// When there is no such format.
pub(super) fn list(format: &str, columns: &[(&str, &str)], rows: &[Value]) -> Result<String, Failure> {
    match format {
        "json" => rows
            .iter()
            .map(|row| Ok(format!("{}\n", serde_json::to_string(row).map_err(Failure::new)?)))
            .collect(),
        "table" | "" => {
            let headings: Vec<&str> = columns.iter().map(|(_, heading)| *heading).collect();
            let cells = |row: &Value| {
                columns
                    .iter()
                    .map(|(field, _)| match row.get(*field) {
                        Some(Value::String(text)) => text.clone(),
                        Some(other) => other.to_string(),
                        None => String::new(),
                    })
                    .collect()
            };
            let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
            Ok(table(&headings, &rows))
        }
        other => Err(Failure::new(format!(
            "format \"{other}\" is not supported: use 'table' or 'json'"
        ))),
    }
}
