//! Every model that a stack was brought to, for `history`, `diff` and `rollback`.
//!
//! One file a generation in `<stack>/generations`, numbered from 1; the newest
//! is what the stack was last brought to. Bringing it to the same once more adds
//! none. Only the supervisor writes, after the fact: one that is killed between
//! the two forgets a generation, never invents one.
//!
//! What configs and secrets were goes with them, so that `rollback` brings it
//! back: a generation has their digests, and each content is a file of its own in
//! `generations/contents`, named by its digest and for root alone. It is written
//! before the first generation that names it and removed after the last. No
//! command prints it.
//!
//! Weak: of a config or secret that is a folder only the path is known.
//! Generations go with the stack's last container, so that `down` leaves nothing
//! behind. [`KEPT`] of them are kept, and prunes spare the images of the last
//! [`WITH_IMAGES`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::graph::mounted_images;
use crate::host::given;
use crate::project::{FileSource, Project};
use crate::store::{StoreError, World, read_record, remove_record, write_bytes, write_record};

/// How many generations are kept.
pub const KEPT: usize = 200;

/// Of how many the images are spared by prunes.
pub const WITH_IMAGES: usize = 10;

/// What is known of a generation without its project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its number, from 1.
    pub number: u64,
    /// When the stack had been brought to it, in nanoseconds since 1970.
    pub applied: u64,
    /// What did that: `up`, `reload`, `rollback to 3`.
    pub by: String,
    /// Tells models apart: 64 hexadecimal digits.
    pub digest: String,
}

/// One generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// What is known without the project.
    #[serde(flatten)]
    pub summary: Summary,
    /// What the stack was brought to.
    pub project: Project,
    /// Digests of its configs and secrets, by their place in the project
    /// (`secrets.password`).
    #[serde(default)]
    pub contents: BTreeMap<String, String>,
}

impl Generation {
    /// Its project with the configs and secrets that it had, as far as they are
    /// kept; the others are what they are now. Values of variables are taken
    /// from `environment` then.
    pub(super) fn restored(&self, world: &World, environment: &BTreeMap<String, String>) -> Project {
        let mut project = self.project.clone();
        project.take_values(environment);
        let restore = |section: &str, key: &String, source: &mut FileSource| {
            let digest = self.contents.get(&format!("{section}.{key}"));
            let kept = digest.and_then(|digest| content_path(world, &self.project.name, digest));
            let Some(kept) = kept.filter(|kept| kept.is_file()) else {
                return;
            };
            match source {
                FileSource::File(path) => *path = kept,
                FileSource::Environment { value, .. } => {
                    if let Ok(text) = fs::read_to_string(kept) {
                        *value = Some(text);
                    }
                }
                FileSource::Content(_) | FileSource::External => {}
            }
        };
        for (key, secret) in &mut project.secrets {
            restore("secrets", key, &mut secret.source);
        }
        for (key, config) in &mut project.configs {
            restore("configs", key, &mut config.source);
        }
        project
    }

    /// The images that its services need, as the project writes them.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.project.services.values().flat_map(|service| {
            let hooks = service.pre_start.iter().filter_map(|hook| hook.image.as_deref());
            std::iter::once(service.image.as_str())
                .chain(hooks)
                .chain(mounted_images(service))
        })
    }
}

/// Where they are.
pub(super) fn folder(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("generations")
}

fn contents_folder(world: &World, project: &str) -> PathBuf {
    folder(world, project).join("contents")
}

/// Where a content is, by its digest; that of a folder is none.
fn content_path(world: &World, project: &str, digest: &str) -> Option<PathBuf> {
    let is_digest = digest.len() == 64 && digest.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_digest.then(|| contents_folder(world, project).join(digest))
}

fn path(world: &World, project: &str, number: u64) -> PathBuf {
    folder(world, project).join(format!("{number}.json"))
}

/// Their numbers, oldest first.
fn numbers(world: &World, project: &str) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(folder(world, project)) else {
        return vec![];
    };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
    let mut numbers: Vec<u64> = entries.flatten().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The generations of a stack, oldest first.
///
/// # Errors
/// [`StoreError`] when one is there and cannot be read.
pub fn list(world: &World, project: &str) -> Result<Vec<Generation>, StoreError> {
    let mut list = Vec::new();
    for number in numbers(world, project) {
        list.extend(read(world, project, number)?);
    }
    Ok(list)
}

/// The generation of that number; `None` when it is not there.
///
/// # Errors
/// [`StoreError`] when it is there and cannot be read.
pub fn read(world: &World, project: &str, number: u64) -> Result<Option<Generation>, StoreError> {
    read_record(&path(world, project, number))
}

/// The number of the newest generation; `None` before the first.
pub fn newest(world: &World, project: &str) -> Option<u64> {
    numbers(world, project).pop()
}

/// References of the images that going back to one of the last [`WITH_IMAGES`]
/// generations of a stack needs. What cannot be read needs none.
pub fn images(world: &World, project: &str) -> BTreeSet<String> {
    let numbers = numbers(world, project);
    let last = numbers.iter().rev().take(WITH_IMAGES);
    let mut images = BTreeSet::new();
    for generation in last.filter_map(|number| read(world, project, *number).ok()?) {
        images.extend(generation.images().map(str::to_owned));
    }
    images
}

/// Adds what a stack has been brought to, unless it is what it was brought to
/// before; `contents` are the digests of its configs and secrets.
///
/// # Errors
/// [`StoreError`] when it cannot be written.
pub(super) fn add(
    world: &World,
    project: &Project,
    contents: &BTreeMap<String, String>,
    summary: Summary,
) -> Result<(), StoreError> {
    let numbers = numbers(world, &project.name);
    let newest = numbers.last().copied().unwrap_or(0);
    // Its project is passed over.
    let last: Option<Summary> = read_record(&path(world, &project.name, newest)).unwrap_or_default();
    if last.is_some_and(|last| last.digest == summary.digest) {
        return Ok(());
    }
    for (from, digest) in contents {
        keep_content(world, project, from, digest)?;
    }
    let number = newest + 1;
    let generation = Generation {
        summary: Summary { number, ..summary },
        project: project.clone(),
        contents: contents.clone(),
    };
    write_record(&path(world, &project.name, number), &generation)?;
    let mut gone = numbers.iter().rev().skip(KEPT - 1).peekable();
    if gone.peek().is_some() {
        for number in gone {
            remove_record(&path(world, &project.name, *number))?;
        }
        sweep_contents(world, &project.name)?;
    }
    Ok(())
}

/// Keeps the content of a config or secret, unless it is another one by now or
/// is a folder: then it cannot be brought back.
fn keep_content(world: &World, project: &Project, from: &str, digest: &str) -> Result<(), StoreError> {
    let path = content_path(world, &project.name, digest).filter(|path| !path.exists());
    match path.zip(given::bytes(project, from, digest)) {
        Some((path, bytes)) => write_bytes(&path, &bytes),
        None => Ok(()),
    }
}

/// Removes the contents that no generation names any more.
fn sweep_contents(world: &World, project: &str) -> Result<(), StoreError> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        contents: BTreeMap<String, String>,
    }
    let mut named = BTreeSet::new();
    for number in numbers(world, project) {
        let generation: Option<Named> = read_record(&path(world, project, number))?;
        named.extend(generation.into_iter().flat_map(|one| one.contents.into_values()));
    }
    let folder = contents_folder(world, project);
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| named.contains(name))
        {
            remove_record(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_added_once_and_the_oldest_go() {
        let state = tempfile::tempdir().unwrap();
        let world = World::new(Some(state.path()));
        let project = Project {
            name: "shop".into(),
            ..Project::default()
        };
        let add = |digest: &str| {
            let summary = Summary {
                number: 0,
                applied: 7,
                by: "up".into(),
                digest: digest.into(),
            };
            add(&world, &project, &BTreeMap::new(), summary).unwrap();
        };
        assert_eq!(newest(&world, "shop"), None);
        add("a");
        add("a");
        add("b");
        add("a");
        let digests: Vec<String> = list(&world, "shop")
            .unwrap()
            .into_iter()
            .map(|one| one.summary.digest)
            .collect();
        assert_eq!(digests, ["a", "b", "a"]);
        for number in 0..KEPT {
            add(&number.to_string());
        }
        let kept = numbers(&world, "shop");
        assert_eq!((kept.len(), kept.first()), (KEPT, Some(&4)));
        assert_eq!(read(&world, "shop", 1).unwrap(), None);
        assert_eq!(
            read(&world, "shop", 4).unwrap().map(|one| one.project),
            Some(project)
        );
    }

    #[test]
    fn contents_are_brought_back_and_go_with_the_last_that_names_them() {
        let state = tempfile::tempdir().unwrap();
        let world = World::new(Some(state.path()));
        let file = state.path().join("password");
        let mut project = Project {
            name: "shop".into(),
            ..Project::default()
        };
        let grant = crate::project::Grant {
            source: "password".into(),
            target: "/run/secrets/password".into(),
            ..Default::default()
        };
        let mut service = crate::project::Service::default();
        service.secrets.push(grant);
        project.services.insert("web".into(), service);
        let secret = crate::project::Secret {
            source: FileSource::File(file.clone()),
            ..Default::default()
        };
        project.secrets.insert("password".into(), secret);
        let add = |content: &str| {
            fs::write(&file, content).unwrap();
            let summary = Summary {
                number: 0,
                applied: 7,
                by: "up".into(),
                digest: content.to_uppercase(),
            };
            add(&world, &project, &given::digests(&project), summary).unwrap();
        };
        add("first");
        add("second");
        let first = read(&world, "shop", 1).unwrap().unwrap();
        let restored = first.restored(&world, &BTreeMap::new());
        let FileSource::File(kept) = &restored.secrets["password"].source else {
            panic!("{restored:?}");
        };
        assert_eq!(fs::read_to_string(kept).unwrap(), "first");
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(fs::metadata(kept).unwrap().mode() & 0o777, 0o600);
        assert_eq!(given::digests(&restored), first.contents);
        // Nothing of it is in the record.
        let record = fs::read_to_string(path(&world, "shop", 1)).unwrap();
        assert!(!record.contains("first"), "{record}");
        for number in 0..KEPT {
            add(if number % 2 == 0 { "third" } else { "second" });
        }
        assert!(!kept.exists());
        assert_eq!(fs::read_dir(contents_folder(&world, "shop")).unwrap().count(), 2);
    }
}
