//! What is there now, in as few words as tell a change.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rule::{Rule, Verdict};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
}

/// What tells one state of an entry from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes; 0 for folders.
    pub size: u64,
    /// Modification time, nanoseconds since 1970; 0 for folders.
    pub modified: i64,
    /// Inode number: another one under an old name is another file; 0 for folders.
    pub inode: u64,
}

impl Stamp {
    /// The stamp of an entry; `None` for sockets, pipes and devices, which are
    /// no sources.
    fn of(found: &Metadata) -> Option<Self> {
        let kind = if found.is_dir() {
            Kind::Folder
        } else if found.is_file() {
            Kind::File
        } else if found.is_symlink() {
            Kind::Link
        } else {
            return None;
        };
        let content = kind != Kind::Folder;
        let modified = found
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(found.mtime_nsec());
        Some(Self {
            kind,
            // That of a link means nothing.
            mode: if kind == Kind::Link {
                0
            } else {
                found.mode() & 0o7777
            },
            size: if content { found.size() } else { 0 },
            modified: if content { modified } else { 0 },
            inode: if content { found.ino() } else { 0 },
        })
    }

    /// The same, and in doubt: a file that was written again within one tick of
    /// the clock, to the same size, has the stamp it had before.
    pub fn doubted(self) -> Self {
        Self {
            modified: i64::MIN,
            ..self
        }
    }

    /// Whether only the content itself can tell.
    pub fn is_doubted(&self) -> bool {
        self.modified == i64::MIN
    }

    /// The stamp of what is at a path now, links not followed; `None` when
    /// there is nothing that can be copied.
    pub fn at(path: &Path) -> Option<Self> {
        Self::of(&std::fs::symlink_metadata(path).ok()?)
    }
}

/// The entries that a rule takes, by their paths relative to the rule's.
pub type Files = BTreeMap<PathBuf, Stamp>;

/// Everything that a rule takes now. Folders in which nothing can count are
/// not opened; ones that may not be read are passed over.
///
/// # Errors
/// When the rule's own folder cannot be read; it not being there is no error.
pub fn scan(rule: &Rule) -> io::Result<Files> {
    let mut files = Files::new();
    below(rule, &rule.path, &mut files)?;
    Ok(files)
}

/// Adds what the rule takes at a path and below it.
///
/// # Errors
/// As [`scan`].
pub fn below(rule: &Rule, path: &Path, files: &mut Files) -> io::Result<()> {
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let Some(stamp) = Stamp::at(&path) else { continue };
        let Some(relative) = rule.relative(&path) else {
            continue;
        };
        if rule.verdict(&path) == Verdict::Taken {
            files.insert(relative.to_owned(), stamp);
        }
        if stamp.kind != Kind::Folder || !rule.enters(&path) {
            continue;
        }
        match std::fs::read_dir(&path) {
            Ok(entries) => left.extend(entries.flatten().map(|entry| entry.path())),
            Err(error) if relative.as_os_str().is_empty() && error.kind() != io::ErrorKind::NotFound => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("read {}: {error}", path.display()),
                ));
            }
            Err(error) => tracing::debug!(path = %path.display(), %error, "not looked into"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_scan_finds_what_counts_and_sees_every_change() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/skip")).unwrap();
        fs::write(root.join("a/f"), "1").unwrap();
        fs::write(root.join("a/skip/f"), "1").unwrap();
        std::os::unix::fs::symlink("f", root.join("a/link")).unwrap();
        let rule = Rule::new(root.into(), &[], &["a/skip".to_owned()], vec![]);
        let first = scan(&rule).unwrap();
        let names: Vec<&str> = first.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["", "a", "a/f", "a/link"]);
        assert_eq!(scan(&rule).unwrap(), first);
        // The same size, under the same name, with the same time.
        let time = fs::metadata(root.join("a/f")).unwrap().modified().unwrap();
        fs::write(root.join("new"), "2").unwrap();
        fs::File::options()
            .write(true)
            .open(root.join("new"))
            .unwrap()
            .set_modified(time)
            .unwrap();
        fs::rename(root.join("new"), root.join("a/f")).unwrap();
        assert_ne!(scan(&rule).unwrap(), first);
        let stamp = Stamp::at(&root.join("a/f")).unwrap();
        assert!(stamp.doubted().is_doubted() && !stamp.is_doubted());
        assert_ne!(stamp.doubted(), stamp);
        let missing = Rule::new(root.join("nothing"), &[], &[], vec![]);
        assert!(scan(&missing).unwrap().is_empty());
    }
}
