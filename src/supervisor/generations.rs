//! Every model that a stack was brought to, for `history`, `diff` and `rollback`.
//!
//! One file a generation in `<stack>/generations`, numbered from 1; the newest
//! is what the stack was last brought to. Bringing it to the same once more adds
//! none. Only the supervisor writes, after the fact: one that is killed between
//! the two forgets a generation, never invents one.
//!
//! Weak: values of the environment that secrets and configs are made of are not
//! stored, nor is the content of their files: a generation names them, and gets
//! what they are when it is applied. Generations go with the stack's last
//! container, so that `down` leaves nothing behind. [`KEPT`] of them are kept.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::project::Project;
use crate::store::{StoreError, World, read_record, remove_record, write_record};

/// How many generations are kept.
pub const KEPT: usize = 200;

/// What is known of a generation without its project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// What is known without the project.
    #[serde(flatten)]
    pub summary: Summary,
    /// What the stack was brought to.
    pub project: Project,
}

/// Where they are.
pub(super) fn folder(world: &World, project: &str) -> PathBuf {
    world.stack(project).join("generations")
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

/// Adds what a stack has been brought to, unless it is what it was brought to
/// before.
///
/// # Errors
/// [`StoreError`] when it cannot be written.
pub(super) fn add(
    world: &World,
    project: &Project,
    digest: &str,
    by: String,
    applied: u64,
) -> Result<(), StoreError> {
    let numbers = numbers(world, &project.name);
    let newest = numbers.last().copied().unwrap_or(0);
    // Its project is passed over.
    let last: Option<Summary> = read_record(&path(world, &project.name, newest)).unwrap_or_default();
    if last.is_some_and(|last| last.digest == digest) {
        return Ok(());
    }
    let generation = Generation {
        summary: Summary {
            number: newest + 1,
            applied,
            by,
            digest: digest.to_owned(),
        },
        project: project.clone(),
    };
    write_record(&path(world, &project.name, newest + 1), &generation)?;
    for number in numbers.iter().rev().skip(KEPT - 1) {
        remove_record(&path(world, &project.name, *number))?;
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
        let add = |digest: &str| add(&world, &project, digest, "up".into(), 7).unwrap();
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
}
