//! A checkout in progress: git holds a lock on the index of the repository while
//! it writes files, however many there are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

/// How long git may write nothing while it holds its lock, until what it has
/// written so far is passed on all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long git may hold its lock, however much it writes: something may write
/// beside it all the time.
const LONGEST: Duration = Duration::from_secs(10);

/// Older locks do not count: git was killed, or somebody writes the message of a
/// commit.
const OLD: Duration = Duration::from_secs(30);

/// The locks of the repositories that watched paths are in.
#[derive(Debug, Default)]
pub(super) struct Locks(BTreeSet<PathBuf>);

impl Locks {
    /// Those of these paths. Each folder is looked at once.
    pub(super) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut seen: BTreeSet<&Path> = BTreeSet::new();
        let mut found = BTreeSet::new();
        for path in paths {
            let fresh = path.ancestors().take_while(|above| seen.insert(above));
            let repositories = fresh.map(|above| above.join(".git"));
            let here = repositories.into_iter().find(|git| git.exists());
            found.extend(here.and_then(|git| lock(&git)));
        }
        Self(found)
    }

    /// Whether what was written between these two moments is a part of a
    /// checkout that goes on.
    pub(super) fn hold_back(&self, (first, last): (Instant, Instant)) -> bool {
        last.elapsed() < PATIENCE && first.elapsed() < LONGEST && self.are_held()
    }

    /// Whether git is in the middle of something.
    fn are_held(&self) -> bool {
        self.0.iter().any(|lock| {
            let taken = std::fs::metadata(lock).and_then(|found| found.modified());
            taken.is_ok_and(|taken| taken.elapsed().unwrap_or_default() < OLD)
        })
    }
}

/// The lock of a repository, by its `.git`.
fn lock(git: &Path) -> Option<PathBuf> {
    if git.is_dir() {
        return Some(git.join("index.lock"));
    }
    // A further working tree: a file that says where its folder is.
    let text = std::fs::read_to_string(git).ok()?;
    let folder = Path::new(text.strip_prefix("gitdir:")?.trim()).to_owned();
    Some(git.parent()?.join(folder).join("index.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_lock_is_that_of_the_innermost_repository() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for made in [".git", "a/b", "c/d", "trees/c"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        fs::write(at("c/.git"), "gitdir: ../trees/c\n").unwrap();
        let paths = [at("a/b/f"), at("a/b/g"), at("a/h")];
        let of = || Locks::of(paths.iter().map(PathBuf::as_path));
        assert!(!of().are_held());
        fs::write(at(".git/index.lock"), "").unwrap();
        assert!(of().are_held());
        let inner = at("c/d/f");
        assert!(!Locks::of([inner.as_path()]).are_held());
        fs::write(at("trees/c/index.lock"), "").unwrap();
        assert!(Locks::of([inner.as_path()]).are_held());
        assert!(!Locks::of([Path::new("/nowhere/at/all")]).are_held());
        // What goes on is waited for, but not for ever.
        let before = |seconds| Instant::now() - Duration::from_secs(seconds);
        assert!(of().hold_back((before(5), before(0))));
        assert!(!of().hold_back((before(5), before(3))));
        assert!(!of().hold_back((before(11), before(0))));
        // One that was left.
        let lock = fs::File::create(at(".git/index.lock")).unwrap();
        lock.set_modified(std::time::SystemTime::now() - OLD).unwrap();
        assert!(!of().are_held());
    }
}
