//! Which files make a stack, where its paths are relative to, and which
//! variables it sees.
//!
//! Variables come from the caller, then from `--env-file` (or
//! `COMPOSE_ENV_FILES`), or else from `.env` in the working directory, then
//! from `.env` in the project directory; what comes first wins. Files are
//! those of `-f`, or of `COMPOSE_FILE`, or the first of the usual names in the
//! directory or a parent of it, with its override file.

use std::path::{Path, PathBuf};

use super::diagnostic::{Code, Diagnostic};
use super::interpolate::Environment;
use super::paths::absolute;
use super::read::{ParsedFile, parse_file, read_environment, read_file};
use super::source::{FileKind, Files, Report};

/// Names of stack files, the preferred ones first.
const FILE_NAMES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];

/// Names of override files, the preferred ones first.
const OVERRIDE_NAMES: [&str; 4] = [
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The working directory, absolute.
    pub cwd: &'a Path,
    /// Files by name; `-` is standard input.
    pub files: &'a [PathBuf],
    /// The text of standard input.
    pub stdin: Option<&'a str>,
    /// `--project-directory`.
    pub project_directory: Option<&'a Path>,
    /// `--env-file`.
    pub env_files: &'a [PathBuf],
    /// The caller's variables.
    pub environment: &'a Environment,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The stack files in merge order, parsed.
    pub files: Vec<ParsedFile>,
    /// What paths are relative to, absolute.
    pub working_dir: PathBuf,
    /// The variables.
    pub environment: Environment,
}

/// Finds and parses the files of a stack. `None` when there are none, or one
/// of them cannot be read; the report has the reasons.
pub fn discover(wanted: &Wanted<'_>, files: &dyn Files, report: &mut Report) -> Option<Found> {
    let mut environment = wanted.environment.clone();
    if let Some(trace) = report.trace() {
        trace.add_caller(&environment);
    }
    let at = |path: &Path| at_path(path, wanted.cwd);
    let mut disabled = flag(&environment, "COMPOSE_DISABLE_ENV_FILE", report)?;
    let mut env_files: Vec<PathBuf> = wanted.env_files.iter().map(|path| at(path)).collect();
    if env_files.is_empty()
        && let Some(list) = environment.get("COMPOSE_ENV_FILES")
    {
        env_files = list
            .split(',')
            .map(str::trim)
            .filter(|path| !path.is_empty())
            .map(|path| at(Path::new(path)))
            .collect();
    }
    let explicit = !env_files.is_empty();
    if explicit {
        add_variables(&env_files, &mut environment, wanted.cwd, files, report)?;
    }
    let default_env_file = |folder: &Path, environment: &mut Environment, report: &mut Report| {
        if explicit {
            return Some(());
        }
        let path = folder.join(".env");
        report.add_input(&path);
        if files.kind(&path) == Some(FileKind::File) {
            add_variables(&[path], environment, wanted.cwd, files, report)?;
        }
        Some(())
    };
    let project_directory = wanted.project_directory.map(at);
    let start = match (&project_directory, first_folder(wanted.files, wanted.cwd)) {
        (Some(folder), _) => folder.clone(),
        (None, Some(folder)) => folder,
        (None, None) => wanted.cwd.to_owned(),
    };
    if !disabled {
        default_env_file(&start, &mut environment, report)?;
        // The file may say so of itself: then only what concerns loading counts.
        disabled = !explicit && flag(&environment, "COMPOSE_DISABLE_ENV_FILE", report)?;
        if disabled {
            environment
                .retain(|name, _| name.starts_with("COMPOSE_") || wanted.environment.contains_key(name));
        }
    }

    let paths = if wanted.files.is_empty() {
        match environment.get("COMPOSE_FILE") {
            Some(list) if !list.is_empty() => {
                let separator = environment
                    .get("COMPOSE_PATH_SEPARATOR")
                    .filter(|separator| !separator.is_empty())
                    .map_or(":", String::as_str);
                list.split(separator).map(PathBuf::from).collect()
            }
            _ => search(&start, files, report)?,
        }
    } else {
        wanted.files.to_vec()
    };
    let working_dir = project_directory
        .or_else(|| first_folder(&paths, wanted.cwd))
        .unwrap_or_else(|| wanted.cwd.to_owned());
    if working_dir != start && !disabled {
        default_env_file(&working_dir, &mut environment, report)?;
    }

    let mut parsed = Vec::new();
    let mut complete = true;
    for path in &paths {
        let file = if path.as_os_str() == "-" {
            parse_file(
                Path::new("-"),
                wanted.cwd,
                wanted.stdin.unwrap_or_default(),
                report,
            )
        } else {
            read_file(&at(path), wanted.cwd, files, report)
        };
        match file {
            Some(file) => parsed.push(file),
            None => complete = false,
        }
    }
    if !complete {
        return None;
    }
    if parsed.iter().all(|file| file.documents.is_empty()) {
        let names: Vec<_> = parsed
            .iter()
            .map(|file| file.path.display().to_string())
            .collect();
        report.push(
            Diagnostic::error(Code::Schema, format!("empty compose file: {}", names.join(", ")))
                .hint("a stack has `services:`, each with an `image:`"),
        );
        return None;
    }
    Some(Found {
        files: parsed,
        working_dir,
        environment,
    })
}

fn at_path(path: &Path, cwd: &Path) -> PathBuf {
    match path.to_str() {
        Some(text) => absolute(text, cwd, None),
        None => cwd.join(path),
    }
}

/// The folder of the first file that has one.
fn first_folder(paths: &[PathBuf], cwd: &Path) -> Option<PathBuf> {
    let path = paths.iter().find(|path| path.as_os_str() != "-")?;
    Some(at_path(path, cwd).parent()?.to_owned())
}

fn flag(environment: &Environment, name: &str, report: &mut Report) -> Option<bool> {
    match environment.get(name).map(String::as_str) {
        None | Some("" | "0" | "f" | "F" | "false" | "FALSE" | "False") => Some(false),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(true),
        Some(other) => {
            report.push(
                Diagnostic::error(Code::Schema, format!("{name}: invalid boolean: {other}"))
                    .hint("write `true` or `false`"),
            );
            None
        }
    }
}

fn add_variables(
    env_files: &[PathBuf],
    environment: &mut Environment,
    cwd: &Path,
    files: &dyn Files,
    report: &mut Report,
) -> Option<()> {
    for (name, value) in read_environment(env_files, environment, cwd, files, report)? {
        environment.entry(name).or_insert(value);
    }
    Some(())
}

/// The first folder upward with a stack file: that file and its override.
fn search(start: &Path, files: &dyn Files, report: &mut Report) -> Option<Vec<PathBuf>> {
    let present = |folder: &Path, names: &[&str]| -> Vec<PathBuf> {
        names
            .iter()
            .map(|name| folder.join(name))
            .filter(|path| files.kind(path) == Some(FileKind::File))
            .collect()
    };
    for folder in start.ancestors() {
        let found = present(folder, &FILE_NAMES);
        let Some(chosen) = choose(&found, report) else {
            continue;
        };
        let overrides = present(folder, &OVERRIDE_NAMES);
        // An override file that appears later changes the stack.
        for name in OVERRIDE_NAMES {
            report.add_input(&folder.join(name));
        }
        let over = choose(&overrides, report);
        return Some([chosen].into_iter().chain(over).collect());
    }
    for name in FILE_NAMES {
        report.add_input(&start.join(name));
    }
    report.push(
        Diagnostic::error(
            Code::File,
            format!(
                "no configuration file provided: not found (looked for {} in {} and the folders above)",
                FILE_NAMES.join(", "),
                start.display()
            ),
        )
        .hint("name a file with -f"),
    );
    None
}

fn choose(found: &[PathBuf], report: &mut Report) -> Option<PathBuf> {
    let (chosen, rest) = found.split_first()?;
    if !rest.is_empty() {
        let names: Vec<_> = found.iter().map(|path| path.display().to_string()).collect();
        report.push(Diagnostic::warning(format!(
            "Found multiple config files with supported names: {}",
            names.join(", ")
        )));
        report.push(Diagnostic::warning(format!("Using {}", chosen.display())));
    }
    Some(chosen.clone())
}
