//! Other OCI runtimes that a service may ask for: by path, or by a name that
//! Docker's settings or the machine's usual places know.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::HostError;
use crate::project::{Service, runs_here};

/// Docker's settings.
const DAEMON: &str = "/etc/docker/daemon.json";
/// Where programs of administrators are (hier(7)).
const PLACES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The part of Docker's settings that says which runtimes there are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Daemon {
    runtimes: BTreeMap<String, Runtime>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Runtime {
    path: String,
    #[serde(rename = "runtimeArgs")]
    arguments: Vec<String>,
}

/// The program of the runtime that a service asks for and what it is always
/// given; `None` for the built-in one.
///
/// # Errors
/// [`HostError::Plan`] when there is none of that name.
pub(super) fn of(service: &Service) -> Result<Option<(PathBuf, Vec<String>)>, HostError> {
    let Some(name) = service.runtime.as_deref().filter(|name| !runs_here(name)) else {
        return Ok(None);
    };
    find(name, Path::new(DAEMON))
        .map(Some)
        .map_err(|reason| HostError::Plan {
            reason: format!("runtime {name}: {reason}"),
        })
}

fn find(name: &str, settings: &Path) -> Result<(PathBuf, Vec<String>), String> {
    if name.starts_with('/') {
        return executable(Path::new(name)).map(|path| (path, vec![]));
    }
    if name.contains('/') {
        return Err("it is neither an absolute path nor a name".to_owned());
    }
    let mut known = BTreeMap::new();
    if let Ok(text) = std::fs::read_to_string(settings) {
        let daemon: Daemon =
            serde_json::from_str(&text).map_err(|error| format!("read {}: {error}", settings.display()))?;
        known = daemon.runtimes;
    }
    let (program, arguments) = match known.remove(name) {
        Some(Runtime { path, arguments }) if !path.is_empty() => (path, arguments),
        Some(_) => return Err(format!("{} gives it no path", settings.display())),
        None => (name.to_owned(), vec![]),
    };
    if program.starts_with('/') {
        return executable(Path::new(&program)).map(|path| (path, arguments));
    }
    let candidates = PLACES.iter().map(|place| Path::new(place).join(&program));
    let found = candidates.filter_map(|path| executable(&path).ok()).next();
    found.map(|path| (path, arguments)).ok_or_else(|| {
        format!(
            "it is neither in {} nor a program in {}",
            settings.display(),
            PLACES.join(", ")
        )
    })
}

fn executable(path: &Path) -> Result<PathBuf, String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => Ok(path.to_owned()),
        Ok(_) => Err(format!("{} is no program", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_found_by_path_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("daemon.json");
        assert_eq!(find("/bin/sh", &settings), Ok(("/bin/sh".into(), vec![])));
        assert_eq!(find("sh", &settings).unwrap().0, Path::new("/usr/bin/sh"));
        assert!(
            find("no-such-runtime", &settings)
                .unwrap_err()
                .contains("neither in")
        );
        assert!(
            find("/etc/passwd", &settings)
                .unwrap_err()
                .contains("is no program")
        );
        assert!(
            find("./sh", &settings)
                .unwrap_err()
                .contains("neither an absolute path")
        );
        let text = r#"{"runtimes": {"mine": {"path": "sh", "runtimeArgs": ["--debug"]}}, "other": 1}"#;
        std::fs::write(&settings, text).unwrap();
        assert_eq!(
            find("mine", &settings),
            Ok(("/usr/bin/sh".into(), vec!["--debug".to_owned()]))
        );
    }
}
