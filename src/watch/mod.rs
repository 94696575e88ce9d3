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
//! on the old inode would go deaf. A symbolic link is watched at both ends, so
//! that a swapped link (the way configuration maps are updated) counts too.
//!
//! An event only says *look again*; what changed is found by loading the stack
//! file again and planning. Events are gathered until nothing has come for
//! [`QUIET`], or for [`BOUND`] in all when writing does not end.
//!
//! Known to be weak: a folder that is itself replaced (renamed away and made
//! anew) is noticed only when a file of it is named by a later [`Watch::files`].

pub mod pattern;
mod place;
mod rule;
mod scan;
mod tree;

pub use place::Root;
pub use rule::{IgnoreFile, Rule, Verdict};
pub use scan::{Files, Kind, Stamp, below, scan};
pub use tree::{Batch, Tree, TreeError};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A change is passed on when nothing has followed it for this long: longer
/// than an editor takes between truncating a file and having written it.
pub const QUIET: Duration = Duration::from_millis(40);

/// A change is passed on at the latest this long after its first event.
pub const BOUND: Duration = Duration::from_millis(400);

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

/// A set of watched files.
#[derive(Debug)]
pub struct Watch {
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<PathBuf>,
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    /// When the change that is being gathered began, and its last event.
    gathering: Option<(Instant, Instant)>,
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
            folders: BTreeSet::new(),
            gathering: None,
        })
    }

    /// Watches these files from now on, and no others. Files that do not exist
    /// are watched for; folders that do not exist are passed over.
    ///
    /// # Errors
    /// [`WatchError::Notify`] when a folder cannot be watched (the user's limit
    /// of inotify watches, say).
    pub fn files<'a>(&mut self, files: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), WatchError> {
        self.files = files.into_iter().flat_map(|file| ends(file)).collect();
        let folders: BTreeSet<PathBuf> = self
            .files
            .iter()
            .filter_map(|file| file.parent())
            .filter(|folder| folder.is_dir())
            .map(Path::to_path_buf)
            .collect();
        for gone in self.folders.difference(&folders) {
            // It may have been removed, which ended the watch already.
            let _ = self.watcher.unwatch(gone);
        }
        for fresh in folders.difference(&self.folders) {
            self.watcher
                .watch(fresh, RecursiveMode::NonRecursive)
                .map_err(|source| WatchError::Notify {
                    path: fresh.clone(),
                    source,
                })?;
        }
        self.folders = folders;
        Ok(())
    }

    /// Resolves when watched files have changed and then been left alone for a
    /// moment. May be dropped at any await and called again; nothing is lost.
    pub async fn changed(&mut self) {
        loop {
            let due = self
                .gathering
                .map(|(first, last)| (first + BOUND).min(last + QUIET));
            tokio::select! {
                event = self.events.recv() => match event {
                    None => std::future::pending().await,
                    Some(path) if self.concerns(&path) => {
                        let now = Instant::now();
                        let first = self.gathering.map_or(now, |(first, _)| first);
                        self.gathering = Some((first, now));
                    }
                    Some(_) => {}
                },
                () = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.gathering = None;
                    return;
                }
            }
        }
    }

    fn concerns(&self, path: &Path) -> bool {
        self.files.contains(path)
    }
}

/// The absolute path of a file and, when links lead elsewhere, of each step.
fn ends(file: &Path) -> Vec<PathBuf> {
    let mut found = vec![std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf())];
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
}
