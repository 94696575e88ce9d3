//! File system events to one debounced change, and sources into containers.
//!
//! Two things are followed. [`Watch`] is for the files of the stack itself, few
//! and known by name. [`Tree`] is for the sources of `develop.watch`: whole
//! trees, of which [`Rule`]s say what counts ([`pattern`] matches); [`scan()`]
//! says what is there, and [`Root`] writes it into a container.
//!
//! # Stack files
//!
//! The *folders* of the watched files are watched, not the files: editors save
//! by writing a new file and renaming it over the old one, and an inotify watch
//! on the old inode would go deaf. A symbolic link is watched at both ends, and
//! so are folders on the way that are links, or are below the folder that all
//! files have in common: a swapped link (the way configuration maps are updated)
//! counts, and so does a folder that is moved away, and back.
//!
//! An event only says *look again*; what changed is found by loading the stack
//! file again and planning. Events are gathered until nothing has come for
//! [`QUIET`], or for [`BOUND`] in all when writing does not end. Nothing is looked
//! at while git holds its lock (`git`): a checkout is one change, however many
//! files it writes.
//!
//! Known to be weak: when the folder that all files have in common is itself
//! replaced, that is noticed only with the next change that is seen.

mod git;
pub mod pattern;
mod place;
mod rule;
mod scan;
mod tree;

pub use place::Root;
pub use rule::{IgnoreFile, Rule, Verdict};
pub use scan::{Files, Kind, Stamp, below, scan};
pub use tree::{Batch, Tree, TreeError};

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use git::Locks;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A change is passed on when nothing has followed it for this long: longer
/// than an editor takes between truncating a file and having written it.
pub const QUIET: Duration = Duration::from_millis(40);

/// A change is passed on at the latest this long after its first event.
pub const BOUND: Duration = Duration::from_millis(400);

/// A change that is being gathered.
#[derive(Debug)]
struct Gathering {
    /// When it began.
    first: Instant,
    /// When the last came.
    last: Instant,
    /// It is passed on now, unless more comes or git is at work.
    due: Instant,
}

/// Why files cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel's notification queue could not be opened, or a folder not added.
    #[error("watch {}: {source}", path.display())]
    Notify {
        /// The folder; empty for the queue itself.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

/// Device and inode number.
type Identity = (u64, u64);

/// A set of watched files.
#[derive(Debug)]
pub struct Watch {
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<PathBuf>,
    /// The files, and what is on the way to them.
    files: BTreeSet<PathBuf>,
    /// Watched folders, each as it was when that began.
    folders: BTreeMap<PathBuf, Identity>,
    /// Of the repositories that they are in.
    locks: Locks,
    gathering: Option<Gathering>,
}

impl Watch {
    /// Watches nothing so far.
    ///
    /// # Errors
    /// [`WatchError::Notify`] when the kernel gives no more inotify instances.
    pub fn new() -> Result<Self, WatchError> {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            // Reading a file is no change of it.
            if matches!(event.kind, notify::EventKind::Access(kind)
                if kind != notify::event::AccessKind::Close(notify::event::AccessMode::Write))
            {
                return;
            }
            for path in event.paths {
                let _ = sender.send(path);
            }
        })
        .map_err(|source| WatchError::Notify {
            path: PathBuf::new(),
            source,
        })?;
        Ok(Self {
            watcher,
            events,
            files: BTreeSet::new(),
            folders: BTreeMap::new(),
            locks: Locks::default(),
            gathering: None,
        })
    }

    /// Watches these files from now on, and no others; whether that includes a
    /// folder that was not watched so far, in which changes have gone unseen.
    /// Files that do not exist are watched for; folders that do not exist are
    /// passed over.
    ///
    /// # Errors
    /// [`WatchError::Notify`] when a folder cannot be watched (the user's limit
    /// of inotify watches, say).
    pub fn files<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) -> Result<bool, WatchError> {
        let named: Vec<PathBuf> = files.into_iter().map(|file| absolute(file)).collect();
        let ends: BTreeSet<PathBuf> = named.iter().flat_map(|file| ends(file)).collect();
        let shared = shared_folder(&named);
        let ways = ends.iter().flat_map(|end| ways(end, &shared));
        self.files = ways.chain(ends.iter().cloned()).collect();
        let folders: BTreeMap<PathBuf, Identity> = self
            .files
            .iter()
            .filter_map(|file| file.parent())
            .filter_map(|folder| Some((folder.to_path_buf(), identity(folder)?)))
            .collect();
        let mut fresh = false;
        for (gone, is) in &self.folders {
            if folders.get(gone) != Some(is) {
                // It may have been removed, which ended the watch already.
                let _ = self.watcher.unwatch(gone);
            }
        }
        for (folder, is) in &folders {
            if self.folders.get(folder) != Some(is) {
                fresh = true;
                self.watcher
                    .watch(folder, RecursiveMode::NonRecursive)
                    .map_err(|source| WatchError::Notify {
                        path: folder.clone(),
                        source,
                    })?;
            }
        }
        self.folders = folders;
        self.locks = Locks::of(self.files.iter().map(PathBuf::as_path));
        Ok(fresh)
    }

    /// Resolves when watched files have changed and then been left alone for a
    /// moment. May be dropped at any await and called again; nothing is lost.
    pub async fn changed(&mut self) {
        loop {
            let due = self.gathering.as_ref().map(|gathering| gathering.due);
            tokio::select! {
                event = self.events.recv() => match event {
                    None => std::future::pending().await,
                    Some(path) if self.concerns(&path) => {
                        // A folder that was moved is no longer watched, even
                        // when it has come back since.
                        self.folders.retain(|folder, _| !folder.starts_with(&path));
                        self.gather();
                    }
                    Some(_) => {}
                },
                () = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {
                    if !self.holds_back() {
                        self.gathering = None;
                        return;
                    }
                }
            }
        }
    }

    /// Something more has changed.
    fn gather(&mut self) {
        let now = Instant::now();
        let fresh = Gathering {
            first: now,
            last: now,
            due: now,
        };
        let gathering = self.gathering.get_or_insert(fresh);
        gathering.last = now;
        gathering.due = (gathering.first + BOUND).min(now + QUIET);
    }

    /// Whether what was gathered is a part of a checkout that goes on; it is due
    /// again in a moment then.
    fn holds_back(&mut self) -> bool {
        let Some(gathering) = &mut self.gathering else {
            return false;
        };
        let now = Instant::now();
        gathering.due = now + QUIET;
        self.locks.hold_back((gathering.first, gathering.last))
    }

    fn concerns(&self, path: &Path) -> bool {
        self.files.contains(path)
    }
}

fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf())
}

/// Which folder a path leads to; `None` when it leads to none.
fn identity(folder: &Path) -> Option<Identity> {
    let found = std::fs::metadata(folder).ok().filter(Metadata::is_dir)?;
    Some((found.dev(), found.ino()))
}

/// The innermost folder that all these files are below.
fn shared_folder(files: &[PathBuf]) -> PathBuf {
    let mut folders = files.iter().filter_map(|file| file.parent());
    let first = folders.next().unwrap_or(Path::new("/")).to_path_buf();
    folders.fold(first, |shared, folder| {
        let both = shared.ancestors().find(|above| folder.starts_with(above));
        both.unwrap_or(Path::new("/")).to_path_buf()
    })
}

/// The folders on the way to a file that may be replaced under it: those below
/// the folder that all share, and those that are links.
fn ways(end: &Path, shared: &Path) -> Vec<PathBuf> {
    let above = end.ancestors().skip(1);
    let counts = |folder: &&Path| {
        folder.parent().is_some_and(|parent| parent.starts_with(shared))
            || std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink())
    };
    above.filter(counts).map(Path::to_path_buf).collect()
}

/// The absolute path of a file and, when links lead elsewhere, of each step.
fn ends(file: &Path) -> Vec<PathBuf> {
    let mut found = vec![file.to_path_buf()];
    // A chain of links has an end: the kernel follows at most 40.
    for _ in 0..40 {
        let Some(last) = found.last() else { break };
        let Ok(target) = std::fs::read_link(last) else {
            break;
        };
        let next = last.parent().unwrap_or(Path::new("/")).join(target);
        if found.contains(&next) {
            break;
        }
        found.push(next);
    }
    if let Ok(real) = std::fs::canonicalize(file)
        && !found.contains(&real)
    {
        found.push(real);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn change(watch: &mut Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(5), watch.changed())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn every_way_of_saving_is_seen_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compose.yaml");
        std::fs::write(&file, "a").unwrap();
        let mut watch = Watch::new().unwrap();
        watch.files([&file]).unwrap();

        std::fs::write(&file, "truncated and written").unwrap();
        assert!(change(&mut watch).await);

        let fresh = folder.path().join(".compose.yaml.swp");
        for text in ["renamed over", "and again, at once"] {
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(&fresh, &file).unwrap();
        }
        assert!(change(&mut watch).await);
        assert!(watch.events.try_recv().is_err(), "one change of two saves");

        std::fs::remove_file(&file).unwrap();
        assert!(change(&mut watch).await);
    }

    #[tokio::test]
    async fn a_checkout_is_one_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at(".git")).unwrap();
        let files: Vec<PathBuf> = (0..3).map(|number| at(&format!("{number}.env"))).collect();
        let mut watch = Watch::new().unwrap();
        watch.files(&files).unwrap();
        std::fs::write(at(".git/index.lock"), "").unwrap();
        // It takes longer than any other change may.
        let checkout = async {
            for file in &files {
                std::fs::write(file, "2").unwrap();
                tokio::time::sleep(BOUND / 2).await;
            }
            std::fs::remove_file(at(".git/index.lock")).unwrap();
            Instant::now()
        };
        let seen = async {
            assert!(change(&mut watch).await);
            Instant::now()
        };
        let (done, seen) = tokio::join!(checkout, seen);
        assert!(seen >= done);
        assert!(watch.events.is_empty());
    }

    #[tokio::test]
    async fn other_files_of_the_folder_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compose.yaml");
        let mut watch = Watch::new().unwrap();
        watch.files([&file]).unwrap();
        std::fs::write(folder.path().join("other"), "x").unwrap();
        std::fs::write(&file, "made").unwrap();
        assert!(change(&mut watch).await);
        assert!(watch.events.is_empty());
    }

    #[tokio::test]
    async fn a_swapped_link_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        std::fs::create_dir_all(&old).unwrap();
        std::fs::create_dir_all(&new).unwrap();
        std::fs::write(old.join("c"), "1").unwrap();
        std::fs::write(new.join("c"), "2").unwrap();
        let link = folder.path().join("compose.yaml");
        std::os::unix::fs::symlink(old.join("c"), &link).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.files([&link]).unwrap();
        std::fs::write(old.join("c"), "3").unwrap();
        assert!(change(&mut watch).await, "written through the link");
        let swap = folder.path().join("swap");
        std::os::unix::fs::symlink(new.join("c"), &swap).unwrap();
        std::fs::rename(&swap, &link).unwrap();
        assert!(change(&mut watch).await, "link swapped");
    }

    #[tokio::test]
    async fn a_swapped_folder_of_links_is_seen() {
        // As configuration maps are updated: file -> ..data/file, ..data -> ..1.
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for number in ["..1", "..2"] {
            std::fs::create_dir(at(number)).unwrap();
            std::fs::write(at(number).join("compose.yaml"), number).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/compose.yaml", at("compose.yaml")).unwrap();
        let mut watch = Watch::new().unwrap();
        let file = at("compose.yaml");
        assert!(watch.files([&file]).unwrap());
        for next in ["..2", "..1"] {
            std::os::unix::fs::symlink(next, at("..fresh")).unwrap();
            std::fs::rename(at("..fresh"), at("..data")).unwrap();
            assert!(change(&mut watch).await, "swapped to {next}");
            assert!(watch.files([&file]).unwrap(), "another folder is watched");
            assert!(!watch.files([&file]).unwrap());
            std::fs::write(at(next).join("compose.yaml"), "written").unwrap();
            assert!(change(&mut watch).await, "written in {next}");
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_moved_away_and_back_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("env")).unwrap();
        let files = [at("compose.yaml"), at("env/a.env")];
        for file in &files {
            std::fs::write(file, "1").unwrap();
        }
        let mut watch = Watch::new().unwrap();
        watch.files(&files).unwrap();
        std::fs::rename(at("env"), at("away")).unwrap();
        assert!(change(&mut watch).await, "moved away");
        watch.files(&files).unwrap();
        // What is elsewhere now is none of ours.
        std::fs::write(at("away/a.env"), "2").unwrap();
        std::fs::rename(at("away"), at("env")).unwrap();
        assert!(change(&mut watch).await, "moved back");
        assert!(watch.files(&files).unwrap());
        std::fs::write(at("env/a.env"), "3").unwrap();
        assert!(change(&mut watch).await, "written after that");
        // Away and back at once.
        std::fs::rename(at("env"), at("away")).unwrap();
        std::fs::rename(at("away"), at("env")).unwrap();
        assert!(change(&mut watch).await);
        assert!(watch.files(&files).unwrap());
        std::fs::write(at("env/a.env"), "3").unwrap();
        assert!(change(&mut watch).await, "written after it was away for a moment");
        // Made anew, with nothing between.
        std::fs::rename(at("env"), at("away")).unwrap();
        std::fs::create_dir(at("env")).unwrap();
        assert!(change(&mut watch).await);
        assert!(watch.files(&files).unwrap());
        std::fs::write(at("env/a.env"), "4").unwrap();
        assert!(change(&mut watch).await, "written in the new one");
    }
}
