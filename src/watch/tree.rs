//! Trees of source files, followed by inotify.
//!
//! Every folder in which a rule can take something has a watch; one that no
//! rule enters is never opened. A change is passed on as soon as it is whole:
//! a file that was closed or renamed a few milliseconds after the last event,
//! one that is still being written a little later, and a burst (a checkout of a
//! thousand files) as one batch, for which the lock of git is waited for.
//!
//! Events only name what to look at; when the kernel's queue overflows, all of
//! it is to be looked at ([`Batch::lost`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::git::Locks;
use super::rule::{Rule, Verdict};
use crate::sys::readiness::watch;

/// How long nothing must follow a file that is whole.
const WHOLE: Duration = Duration::from_millis(3);
/// How long nothing must follow in a burst of files.
const BURST: Duration = Duration::from_millis(25);
/// How long nothing must follow a file that is still held open.
const OPEN: Duration = Duration::from_millis(40);
/// So many files are a burst.
const MANY: usize = 8;
/// A batch is passed on at the latest this long after its first event.
const BOUND: Duration = Duration::from_millis(400);

/// Why sources cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The kernel gives no more inotify instances.
    #[error("watch sources: {source}{}", hint(source, "max_user_instances"))]
    Open {
        /// Why.
        source: io::Error,
    },
    /// A folder could not be watched.
    #[error("watch {}: {source}{}", path.display(), hint(source, "max_user_watches"))]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn hint(error: &io::Error, limit: &str) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EMFILE) => format!(" (see fs.inotify.{limit}, or ignore more)"),
        _ => String::new(),
    }
}

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What to look at.
    pub paths: BTreeSet<PathBuf>,
    /// What has changed too, and no rule takes; only when asked for.
    pub passed: BTreeSet<PathBuf>,
    /// More may have changed: everything is to be looked at.
    pub lost: bool,
}

/// The trees of a number of rules.
#[derive(Debug)]
pub struct Tree {
    inotify: AsyncFd<OwnedFd>,
    rules: Vec<Rule>,
    /// Watched folders, by watch and by path.
    folders: HashMap<i32, PathBuf>,
    watches: BTreeMap<PathBuf, i32>,
    /// Locks that git holds while it changes files.
    locks: Locks,
    batch: Batch,
    /// Files that are still being written.
    open: BTreeSet<PathBuf>,
    /// When the first and the last event of the batch came.
    since: Option<(Instant, Instant)>,
    /// Gather [`Batch::passed`].
    pub tell_passed: bool,
}

impl Tree {
    /// Follows what these rules take, from now on. Paths that are not there
    /// are waited for. Must be called inside an event loop.
    ///
    /// # Errors
    /// [`TreeError`] when the kernel's limits do not allow it.
    pub fn new(rules: Vec<Rule>) -> Result<Self, TreeError> {
        let failed = |source| TreeError::Open { source };
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let locks = Locks::of(rules.iter().map(|rule| rule.path.as_path()));
        let mut tree = Self {
            inotify: watch(inotify, Interest::READABLE).map_err(failed)?,
            rules,
            folders: HashMap::new(),
            watches: BTreeMap::new(),
            locks,
            batch: Batch::default(),
            open: BTreeSet::new(),
            since: None,
            tell_passed: false,
        };
        tree.arm()?;
        // Nothing of what was found is news.
        tree.batch = Batch::default();
        tree.since = None;
        Ok(tree)
    }

    /// Watches the roots, and where they would appear.
    fn arm(&mut self) -> Result<(), TreeError> {
        let roots: BTreeSet<PathBuf> = self.rules.iter().map(|rule| rule.path.clone()).collect();
        for root in roots {
            let above = root.ancestors().skip(1).find(|path| path.is_dir());
            if let Some(above) = above {
                self.add(above)?;
            }
            self.enter(&root)?;
        }
        Ok(())
    }

    /// Watches one folder; `false` when there is none that may be read.
    fn add(&mut self, folder: &Path) -> Result<bool, TreeError> {
        let flags = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::EXCL_UNLINK;
        match inotify::add_watch(self.inotify.get_ref(), folder, flags) {
            Ok(watch) => {
                // The folder may have been renamed: the watch stays with it.
                if let Some(old) = self.folders.insert(watch, folder.to_owned())
                    && old != folder
                {
                    self.watches.remove(&old);
                }
                self.watches.insert(folder.to_owned(), watch);
                Ok(true)
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => Ok(false),
            Err(error) => Err(TreeError::Folder {
                path: folder.to_owned(),
                source: error.into(),
            }),
        }
    }

    /// Watches a folder and all below it that a rule enters; what is there
    /// counts as changed.
    fn enter(&mut self, folder: &Path) -> Result<(), TreeError> {
        let mut left = vec![folder.to_owned()];
        while let Some(folder) = left.pop() {
            // First watched, then read: what comes between is seen twice, not never.
            if !self.rules.iter().any(|rule| rule.enters(&folder)) || !self.add(&folder)? {
                continue;
            }
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                self.note(&path, false);
                if is_folder {
                    left.push(path);
                }
            }
        }
        Ok(())
    }

    /// Forgets a folder that was moved or removed, and all below it.
    fn leave(&mut self, folder: &Path) {
        let below: Vec<PathBuf> = self
            .watches
            .range(folder.to_owned()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(folder))
            .cloned()
            .collect();
        for path in below {
            if let Some(watch) = self.watches.remove(&path) {
                self.folders.remove(&watch);
                // It may have ended by itself.
                let _ = inotify::remove_watch(self.inotify.get_ref(), watch);
            }
        }
    }

    /// Notes that a path is to be looked at, when it concerns a rule.
    fn note(&mut self, path: &Path, open: bool) {
        let taken = self.rules.iter().any(|rule| {
            // What is above a rule's path is of concern as its way.
            rule.verdict(path) == Verdict::Taken || rule.reads(path) || rule.path.starts_with(path)
        });
        let below = || self.rules.iter().any(|rule| rule.relative(path).is_some());
        if taken {
            if open {
                self.open.insert(path.to_owned());
            } else {
                self.open.remove(path);
            }
            self.batch.paths.insert(path.to_owned());
        } else if self.tell_passed && below() {
            self.batch.passed.insert(path.to_owned());
        } else {
            return;
        }
        let now = Instant::now();
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    fn take(&mut self, watch: i32, events: ReadFlags, name: Option<&OsStr>) -> Result<(), TreeError> {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.batch.lost = true;
            let now = Instant::now();
            self.since = Some((self.since.map_or(now, |(first, _)| first), now));
            return self.arm();
        }
        if events.contains(ReadFlags::IGNORED) {
            if let Some(path) = self.folders.remove(&watch) {
                self.watches.remove(&path);
            }
            return Ok(());
        }
        let Some(folder) = self.folders.get(&watch) else {
            return Ok(());
        };
        let path = match name {
            Some(name) => folder.join(name),
            None => folder.clone(),
        };
        let here = events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let gone = events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::DELETE_SELF);
        if events.contains(ReadFlags::ISDIR) || name.is_none() {
            if gone {
                self.leave(&path);
            }
            self.note(&path, false);
            if here {
                self.enter(&path)?;
                if self
                    .rules
                    .iter()
                    .any(|rule| rule.path.starts_with(&path) && rule.path != path)
                {
                    // On the way to a rule's path.
                    self.arm()?;
                }
            }
            if gone && self.rules.iter().any(|rule| rule.path.starts_with(&path)) {
                self.arm()?;
            }
            return Ok(());
        }
        // A file that was made is written next; links and further names of a
        // file are whole at once.
        let open = if events.contains(ReadFlags::CREATE) {
            std::fs::symlink_metadata(&path)
                .is_ok_and(|found| found.is_file() && std::os::unix::fs::MetadataExt::nlink(&found) == 1)
        } else {
            events.contains(ReadFlags::MODIFY)
        };
        self.note(&path, open);
        Ok(())
    }

    /// When the batch is to be passed on.
    fn due(&self) -> Option<Instant> {
        let (first, last) = self.since?;
        let quiet = if !self.open.is_empty() {
            OPEN
        } else if self.batch.paths.len() > MANY {
            BURST
        } else {
            WHOLE
        };
        Some((last + quiet).min(first + BOUND))
    }

    /// Resolves when something has changed and is whole. May be dropped at any
    /// await and called again; nothing is lost.
    ///
    /// # Errors
    /// [`TreeError`] when a new folder cannot be watched: what follows in it
    /// would go unseen.
    pub async fn changed(&mut self) -> Result<Batch, TreeError> {
        let mut held = None;
        loop {
            let due = self.due().map(|due| held.map_or(due, |held| due.max(held)));
            let ready = tokio::select! {
                // What has come is taken in before a batch is closed.
                biased;
                ready = self.inotify.readable() => Some(ready),
                () = async {
                    match due {
                        Some(due) => tokio::time::sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => None,
            };
            let Some(ready) = ready else {
                let now = Instant::now();
                let written = self.since.unwrap_or((now, now));
                if self.batch.paths.len() > 1 && self.locks.hold_back(written) {
                    held = Some(now + BURST);
                    continue;
                }
                self.since = None;
                self.open.clear();
                return Ok(std::mem::take(&mut self.batch));
            };
            ready.map_err(|source| TreeError::Open { source })?.clear_ready();
            let mut events = Vec::new();
            let mut buffer = [MaybeUninit::<u8>::uninit(); 16 << 10];
            let mut reader = Reader::new(self.inotify.get_ref(), &mut buffer);
            loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| name.to_bytes().to_vec());
                        events.push((event.wd(), event.events(), name));
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(error) => return Err(TreeError::Open { source: error.into() }),
                }
            }
            for (watch, flags, name) in events {
                self.take(watch, flags, name.as_deref().map(OsStr::from_bytes))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn next(tree: &mut Tree, root: &Path) -> Vec<String> {
        let batch = tokio::time::timeout(Duration::from_secs(10), tree.changed())
            .await
            .expect("no change was seen")
            .unwrap();
        let relative = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        batch.paths.iter().map(relative).collect()
    }

    #[tokio::test]
    async fn a_tree_is_followed_through_its_changes() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let src = root.join("way/src");
        let rule = Rule::new(src.clone(), &[], &["skip".to_owned()], vec![]);
        let mut tree = Tree::new(vec![rule]).unwrap();
        // It is not there yet, nor is the way to it.
        fs::create_dir_all(src.join("a/b")).unwrap();
        fs::write(src.join("a/b/f"), "1").unwrap();
        let mut seen = next(&mut tree, &root).await;
        while !seen.contains(&"way/src/a/b/f".to_owned()) {
            seen.extend(next(&mut tree, &root).await);
        }
        // Drains what the making of it has told twice.
        while tokio::time::timeout(Duration::from_millis(100), tree.changed())
            .await
            .is_ok()
        {}
        fs::write(src.join("a/b/f"), "2").unwrap();
        assert_eq!(next(&mut tree, &root).await, ["way/src/a/b/f"]);
        fs::create_dir(src.join("skip")).unwrap();
        fs::write(src.join("skip/x"), "2").unwrap();
        fs::rename(src.join("a"), src.join("c")).unwrap();
        assert_eq!(
            next(&mut tree, &root).await,
            ["way/src/a", "way/src/c", "way/src/c/b", "way/src/c/b/f"]
        );
        fs::write(src.join("c/b/f"), "3").unwrap();
        assert_eq!(
            next(&mut tree, &root).await,
            ["way/src/c/b/f"],
            "followed where it went"
        );
        fs::remove_dir_all(src.join("c")).unwrap();
        assert!(next(&mut tree, &root).await.contains(&"way/src/c/b/f".to_owned()));
    }

    #[tokio::test]
    async fn a_burst_is_one_batch_and_git_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join(".git")).unwrap();
        let rule = Rule::new(root.clone(), &[], &[], vec![]);
        let mut tree = Tree::new(vec![rule]).unwrap();
        let writer = {
            let root = root.clone();
            std::thread::spawn(move || {
                let lock = root.join(".git/index.lock");
                fs::write(&lock, "").unwrap();
                for number in 0..300 {
                    fs::write(root.join(format!("f{number}")), "x").unwrap();
                }
                fs::remove_file(lock).unwrap();
            })
        };
        let seen = next(&mut tree, &root).await;
        writer.join().unwrap();
        assert_eq!(seen.len(), 300);
    }
}
