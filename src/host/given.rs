//! Configs and secrets: the files that a container is given.
//!
//! Each grant of a service becomes a file of its own in the container's run
//! folder (in memory, on the usual place), with the owner and mode it asks for,
//! and is mounted read-only on its target. A container keeps seeing that one
//! file, so new content is written into it: programs that look again see it
//! without a new container. A source that is a folder is mounted as it is.
//!
//! Written from the project when a command makes or starts a container, and
//! from the record when a restart policy does. The value of a variable is in no
//! record: after a reboot a command has to bring it again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::HostError;
use crate::project::{FileSource, Grant, Project, Service};
use crate::store::ContainerPaths;

/// The mode of a file whose grant asks for none (Compose Specification).
const MODE: u32 = 0o444;

/// A file that a container is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// Where it comes from in the project: `secrets.password`, `configs.app`.
    pub from: String,
    /// Where the content comes from.
    pub source: FileSource,
    /// Absolute path inside the container.
    pub target: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Mode.
    pub mode: u32,
    /// The content it was last given, as [`digest`] has it.
    pub digest: String,
}

/// What a config or secret is made of.
enum Content {
    Bytes(Vec<u8>),
    Folder(PathBuf),
}

/// What a service is given, its contents as they are now.
pub(super) fn of(project: &Project, service: &Service) -> Result<Vec<Given>, HostError> {
    grants(service)
        .map(|(section, grant)| {
            let from = format!("{section}.{}", grant.source);
            let source = source(project, section, &grant.source).ok_or_else(|| HostError::NotInProject {
                what: format!("{} {}", section.trim_end_matches('s'), grant.source),
            })?;
            Ok(Given {
                digest: digest(&content(&from, source)?),
                source: source.clone(),
                target: grant.target.clone(),
                uid: grant.uid.unwrap_or(0),
                gid: grant.gid.unwrap_or(0),
                mode: grant.mode.unwrap_or(MODE),
                from,
            })
        })
        .collect()
}

fn grants(service: &Service) -> impl Iterator<Item = (&'static str, &Grant)> {
    let configs = service.configs.iter().map(|grant| ("configs", grant));
    configs.chain(service.secrets.iter().map(|grant| ("secrets", grant)))
}

fn source<'p>(project: &'p Project, section: &str, key: &str) -> Option<&'p FileSource> {
    match section {
        "configs" => project.configs.get(key).map(|config| &config.source),
        _ => project.secrets.get(key).map(|secret| &secret.source),
    }
}

/// Digests of the configs and secrets that the services of a project use, as
/// they are now. Those that cannot be read are left out: whoever needs them is
/// told by [`missing`].
pub fn digests(project: &Project) -> BTreeMap<String, String> {
    let mut digests = BTreeMap::new();
    for (section, grant) in project.services.values().flat_map(grants) {
        let from = format!("{section}.{}", grant.source);
        if !digests.contains_key(&from)
            && let Some(source) = source(project, section, &grant.source)
            && let Ok(content) = content(&from, source)
        {
            digests.insert(from, digest(&content));
        }
    }
    digests
}

/// The content of a config or secret, by its place in the project, when it is the
/// one of this digest; `None` when it is another one by now, or is a folder, or
/// stands in the project itself.
pub fn bytes(project: &Project, from: &str, digest: &str) -> Option<Vec<u8>> {
    let (section, key) = from.split_once('.')?;
    let source = source(project, section, key)?;
    if matches!(source, FileSource::Content(_)) {
        return None;
    }
    let content = content(from, source).ok()?;
    let same = self::digest(&content) == digest;
    match content {
        Content::Bytes(bytes) if same => Some(bytes),
        Content::Bytes(_) | Content::Folder(_) => None,
    }
}

/// The files that configs and secrets of a project come from.
pub fn files(project: &Project) -> Vec<PathBuf> {
    let grants = project.services.values().flat_map(grants);
    let sources = grants.filter_map(|(section, grant)| source(project, section, &grant.source));
    sources
        .filter_map(|source| match source {
            FileSource::File(path) => Some(path.clone()),
            _ => None,
        })
        .collect()
}

/// The configs and secrets of a service that cannot be had, in words.
pub(super) fn missing(project: &Project, service: &Service) -> Vec<String> {
    grants(service)
        .filter_map(|(section, grant)| {
            let from = format!("{section}.{}", grant.source);
            let error = content(&from, source(project, section, &grant.source)?).err()?;
            Some(format!("service \"{}\": {error}", service.name))
        })
        .collect()
}

/// Reads a source.
fn content(from: &str, source: &FileSource) -> Result<Content, HostError> {
    let nothing = |reason: &str| HostError::NotGiven {
        what: from.to_owned(),
        reason: reason.to_owned(),
    };
    match source {
        FileSource::External => Err(nothing("it is external, and there is no store of them")),
        FileSource::Content(text) => Ok(Content::Bytes(text.clone().into_bytes())),
        FileSource::Environment {
            value: Some(value), ..
        } => Ok(Content::Bytes(value.clone().into_bytes())),
        FileSource::Environment {
            variable,
            value: None,
        } => Err(nothing(&format!("environment variable {variable} is not set"))),
        FileSource::File(path) if path.is_dir() => Ok(Content::Folder(path.clone())),
        FileSource::File(path) => fs::read(path)
            .map(Content::Bytes)
            .map_err(|error| nothing(&format!("{}: {error}", path.display()))),
    }
}

/// What tells contents apart without telling what they are.
fn digest(content: &Content) -> String {
    match content {
        Content::Bytes(bytes) => {
            let digest = Sha256::digest(bytes);
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        }
        // Seen as it is at any time.
        Content::Folder(path) => path.display().to_string(),
    }
}

/// Where the file of the `number`th grant is.
fn place(paths: &ContainerPaths, number: usize) -> PathBuf {
    paths.run.join("given").join(number.to_string())
}

/// Writes the files of a container. Those that are there already and whose
/// source is known no more are left as they are.
///
/// # Errors
/// [`HostError::NotGiven`] when a content cannot be had and is not there from
/// before, [`HostError::Io`] when a file cannot be written.
pub(super) fn write(paths: &ContainerPaths, given: &[Given]) -> Result<(), HostError> {
    for (number, given) in given.iter().enumerate() {
        let path = place(paths, number);
        match content(&given.from, &given.source) {
            Ok(Content::Bytes(bytes)) => {
                put(&path, &bytes, given).map_err(HostError::io("write", &path))?;
            }
            Ok(Content::Folder(_)) => {}
            Err(_) if path.exists() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives a file its content, owner and mode. An existing one stays the same
/// file: it is mounted somewhere.
fn put(path: &Path, bytes: &[u8], given: &Given) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    // Readers never find it empty in between.
    file.write_all(bytes)?;
    file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (given.uid, given.gid) {
        std::os::unix::fs::fchown(&file, Some(given.uid), Some(given.gid))?;
    }
    file.set_permissions(fs::Permissions::from_mode(given.mode))
}

/// What to mount where: source and target of each.
pub(super) fn mounts(paths: &ContainerPaths, given: &[Given]) -> Vec<(PathBuf, String)> {
    given
        .iter()
        .enumerate()
        .map(|(number, given)| {
            let source = match &given.source {
                FileSource::File(path) if path.is_dir() => path.clone(),
                _ => place(paths, number),
            };
            (source, given.target.clone())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(folder: &Path) -> ContainerPaths {
        ContainerPaths {
            state: folder.join("state"),
            run: folder.join("run"),
        }
    }

    fn given(source: FileSource) -> Given {
        Given {
            from: "secrets.password".into(),
            source,
            target: "/run/secrets/password".into(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mode: 0o400,
            digest: String::new(),
        }
    }

    #[test]
    fn new_content_goes_into_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        write(&paths, &[given(FileSource::Content("a long first text".into()))]).unwrap();
        let file = place(&paths, 0);
        let before = fs::metadata(&file).unwrap();
        write(&paths, &[given(FileSource::Content("short".into()))]).unwrap();
        let after = fs::metadata(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "short");
        assert_eq!((before.ino(), after.mode() & 0o777), (after.ino(), 0o400));
    }

    #[test]
    fn the_value_of_a_variable_is_kept_in_no_record() {
        let source = FileSource::Environment {
            variable: "PASSWORD".into(),
            value: Some("hunter2".into()),
        };
        let text = serde_json::to_string(&given(source.clone())).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        // So a start from the record finds the file of before, or says why not.
        let folder = tempfile::tempdir().unwrap();
        let paths = paths(folder.path());
        let recorded: Given = serde_json::from_str(&text).unwrap();
        let error = write(&paths, std::slice::from_ref(&recorded))
            .unwrap_err()
            .to_string();
        assert!(error.contains("PASSWORD is not set"), "{error}");
        write(&paths, &[given(source)]).unwrap();
        write(&paths, &[recorded]).unwrap();
        assert_eq!(fs::read_to_string(place(&paths, 0)).unwrap(), "hunter2");
    }

    #[test]
    fn a_source_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let source = FileSource::File(folder.path().join("none"));
        let error = write(&paths(folder.path()), &[given(source)])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("secrets.password: ") && error.contains("none"),
            "{error}"
        );
    }
}
