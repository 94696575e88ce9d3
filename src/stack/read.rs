//! Texts of stack files and environment files.

use std::io;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::diagnostic::{Code, Diagnostic};
use super::dotenv;
use super::interpolate::Environment;
use super::parse::parse;
use super::source::{FileKind, Files, Place, Report};
use super::tree::Node;

/// A stack file that was read and parsed, before anything else.
#[derive(Clone, Debug)]
pub struct ParsedFile {
    /// The file, absolute; `-` for standard input.
    pub path: PathBuf,
    /// Its documents.
    pub documents: Vec<Node>,
}

/// What a file is called in messages: as seen from the working directory.
pub(super) fn display_name<'p>(path: &'p Path, cwd: &Path) -> &'p Path {
    match path.strip_prefix(cwd) {
        Ok(relative) if !relative.as_os_str().is_empty() => relative,
        _ => path,
    }
}

/// A system's reason without its number, in lower case.
pub(super) fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text
        .split_once(" (os error")
        .map_or(text.as_str(), |(text, _)| text);
    let mut characters = text.chars();
    characters
        .next()
        .map(|first| first.to_lowercase().chain(characters).collect())
        .unwrap_or_default()
}

/// Reads the text of a file; says why when it cannot.
pub(super) fn read_text(path: &Path, cwd: &Path, files: &dyn Files, report: &mut Report) -> Option<String> {
    report.add_input(path);
    let bytes = match files.read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let reason = if files.kind(path) == Some(FileKind::Folder) {
                "is a directory".to_owned()
            } else {
                io_reason(&error)
            };
            report.push(Diagnostic::error(
                Code::File,
                format!("open {}: {reason}", path.display()),
            ));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let before = error
                .as_bytes()
                .get(..error.utf8_error().valid_up_to())
                .unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            report.push(Diagnostic::error(
                Code::Syntax,
                format!(
                    "failed to parse {}: line {line}: not UTF-8 text",
                    display_name(path, cwd).display()
                ),
            ));
            None
        }
    }
}

/// Parses the text of a stack file.
pub fn parse_file(path: &Path, cwd: &Path, text: &str, report: &mut Report) -> Option<ParsedFile> {
    let source = report.add_source(display_name(path, cwd), text);
    Some(ParsedFile {
        path: path.to_owned(),
        documents: parse(text, source, report)?,
    })
}

/// Reads and parses a stack file.
pub fn read_file(path: &Path, cwd: &Path, files: &dyn Files, report: &mut Report) -> Option<ParsedFile> {
    let text = read_text(path, cwd, files, report)?;
    parse_file(path, cwd, &text, report)
}

/// The variables of environment files, later files over earlier ones; names
/// without a value and variables in values look into `environment` first.
/// `None` when one of them cannot be read; the report has the reason.
pub(super) fn read_environment(
    env_files: &[PathBuf],
    environment: &Environment,
    cwd: &Path,
    files: &dyn Files,
    report: &mut Report,
) -> Option<Environment> {
    let mut found = Environment::new();
    for path in env_files {
        report.add_input(path);
        match files.kind(path) {
            None => {
                report.push(Diagnostic::error(
                    Code::File,
                    format!("couldn't find env file: {}", path.display()),
                ));
                return None;
            }
            Some(FileKind::Folder) => {
                report.push(Diagnostic::error(
                    Code::File,
                    format!("{} is a directory", path.display()),
                ));
                return None;
            }
            Some(FileKind::File) => {}
        }
        let text = read_text(path, cwd, files, report)?;
        let lookup = |name: &str| environment.get(name).or_else(|| found.get(name)).cloned();
        let mut variables = parse_dotenv(path, &text, &lookup, &|_| None, cwd, report)?;
        variables.retain(|name, _| !name.starts_with(|first: char| first.is_ascii_digit()));
        if let Some(trace) = report.trace() {
            for name in variables.keys().filter(|name| !environment.contains_key(*name)) {
                trace.add_variable(name, display_name(path, cwd), &text);
            }
        }
        found.extend(variables);
    }
    Some(found)
}

/// The variables of a service's environment or label file, in order. `place` is where
/// the file is named. `lookup` comes before the file's own variables, `earlier`
/// after them. `None` when it cannot be read; the report has the reason.
/// A file that is not `required` may be missing.
pub fn read_env_file(
    request: &EnvFileRequest<'_>,
    lookup: &dyn Fn(&str) -> Option<String>,
    earlier: &dyn Fn(&str) -> Option<String>,
    files: &dyn Files,
    report: &mut Report,
) -> Option<IndexMap<String, String>> {
    let path = request.path;
    if files.kind(path).is_none() {
        report.add_input(path);
        if !request.required {
            return Some(IndexMap::new());
        }
        let message = format!(
            "{} file {1} not found: stat {1}: no such file or directory",
            request.what,
            path.display()
        );
        report.error(request.place, Code::File, message);
        return None;
    }
    let text = read_text(path, request.cwd, files, report)?;
    match request.format {
        None | Some("") => parse_dotenv(path, &text, lookup, earlier, request.cwd, report),
        Some("raw") => {
            let variables = dotenv::parse_raw(&text, &|name| lookup(name).or_else(|| earlier(name)));
            dotenv_result(variables, path, &text, request.cwd, report)
        }
        Some(other) => {
            report.error(
                request.place,
                Code::Schema,
                format!("unsupported env_file format {other:?}: only raw is known"),
            );
            None
        }
    }
}

/// A service's environment or label file.
#[derive(Clone, Copy, Debug)]
pub struct EnvFileRequest<'a> {
    /// What it holds: `env` or `label`.
    pub what: &'a str,
    /// The file, absolute.
    pub path: &'a Path,
    /// `raw`, or none.
    pub format: Option<&'a str>,
    /// It must be there.
    pub required: bool,
    /// Where it is named.
    pub place: Place,
    /// The working directory, for messages.
    pub cwd: &'a Path,
}

/// Parses an environment file; says what is wrong with it, and which variables
/// it uses are not set.
pub(super) fn parse_dotenv(
    path: &Path,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    earlier: &dyn Fn(&str) -> Option<String>,
    cwd: &Path,
    report: &mut Report,
) -> Option<IndexMap<String, String>> {
    let mut unset = Vec::new();
    let result = dotenv::parse_after(text, lookup, earlier, &mut |variable| {
        unset.push(variable.to_owned());
    });
    if !unset.is_empty() {
        let source = report.add_source(display_name(path, cwd), text);
        for variable in unset {
            report.warn_unset(Place::new(source, 1, 1), &variable);
        }
    }
    dotenv_result(result, path, text, cwd, report)
}

/// The variables, or what is wrong with the file said.
fn dotenv_result(
    result: Result<IndexMap<String, String>, dotenv::DotenvError>,
    path: &Path,
    text: &str,
    cwd: &Path,
    report: &mut Report,
) -> Option<IndexMap<String, String>> {
    match result {
        Ok(variables) => Some(variables),
        Err(error) => {
            let name = display_name(path, cwd);
            let source = report.add_source(name, text);
            report.error(
                Place::new(source, error.line(), 1),
                Code::Syntax,
                format!("failed to read {}: {error}", name.display()),
            );
            None
        }
    }
}
