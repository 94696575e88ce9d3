//! `container diff`: what a container has added, changed and deleted, read from
//! its writable layer as overlayfs keeps it.
//!
//! Folders are listed as changed when something below them is, as docker does.
//! Mount points that the runtime made are the container's own as well.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::super::context::Context;
use super::super::failure::Failure;
use super::make;
use crate::host::View;

/// Folders inside folders.
const DEEPEST: usize = 1000;

/// A line for each path: `A`, `C` or `D`, and the path.
pub(super) fn diff(context: &Context, view: &View) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::new(format!("read container {}: {error}", view.record.name));
    let upper = make::upper(context, view);
    let top = match open(CWD, upper.as_os_str()) {
        Ok(top) => top,
        // It has never run.
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(error) => return Err(failed(error.into())),
    };
    let layers = make::layers(context, view)?;
    let mut found = BTreeMap::new();
    walk(&top, Path::new("/"), &layers, DEEPEST, &mut found).map_err(failed)?;
    let mut text = String::new();
    for (path, kind) in found {
        text.push(kind);
        text.push(' ');
        // Nothing in a name breaks the line, or drives the terminal.
        let shown = path.to_string_lossy();
        text.extend(shown.chars().map(|c| if c.is_control() { '?' } else { c }));
        text.push('\n');
    }
    Ok(text)
}

fn open(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// Notes what is in a folder of the writable layer; whether that was anything.
fn walk(
    folder: &OwnedFd,
    path: &Path,
    layers: &[PathBuf],
    deeper: usize,
    found: &mut BTreeMap<PathBuf, char>,
) -> io::Result<bool> {
    let before = found.len();
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    let opaque = is_opaque(folder.as_fd());
    for name in &names {
        let place = path.join(name);
        let Ok(stat) = rustix::fs::statat(folder, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW) else {
            // Gone meanwhile.
            continue;
        };
        let below = if opaque { None } else { lower(layers, &place)? };
        if is_whiteout(&stat) {
            if below.is_some() {
                found.insert(place, 'D');
            }
            continue;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            found.insert(place, if below.is_some() { 'C' } else { 'A' });
            continue;
        }
        let was_folder = below
            .as_ref()
            .is_some_and(|below| FileType::from_raw_mode(below.st_mode) == FileType::Directory);
        let mut changed = false;
        if deeper > 0
            && let Ok(inner) = open(folder.as_fd(), name)
        {
            let layers = if was_folder { layers } else { &[] };
            changed = walk(&inner, &place, layers, deeper - 1, found)?;
            if was_folder && is_opaque(inner.as_fd()) {
                changed = true;
            }
        }
        let kind = match below {
            None => 'A',
            Some(below) if !was_folder || changed || differs(&stat, &below) => 'C',
            Some(_) => continue,
        };
        found.insert(place, kind);
    }
    if opaque {
        // What was there has gone with the folder that it was in.
        for name in lower_names(layers, path)? {
            if !names.contains(&name) {
                found.insert(path.join(name), 'D');
            }
        }
    }
    Ok(found.len() > before)
}

fn differs(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid, a.st_mtime, a.st_mtime_nsec)
        != (b.st_mode, b.st_uid, b.st_gid, b.st_mtime, b.st_mtime_nsec)
}

/// A character device 0:0 hides what is below.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a folder hides what is in the same one below.
fn is_opaque(folder: BorrowedFd<'_>) -> bool {
    let mut value = [0; 4];
    let read = rustix::fs::fgetxattr(folder, "trusted.overlay.opaque", &mut value);
    matches!(read, Ok(1)) && value.starts_with(b"y")
}

/// What the layers, top first, have at a path.
fn lower(layers: &[PathBuf], path: &Path) -> io::Result<Option<Stat>> {
    let parts: Vec<&OsStr> = path.iter().skip(1).collect();
    'layers: for layer in layers {
        let mut at = layer.clone();
        let mut last = false;
        for (index, part) in parts.iter().enumerate() {
            at.push(part);
            let stat = match rustix::fs::lstat(&at) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NOTDIR) if last => return Ok(None),
                Err(Errno::NOENT | Errno::NOTDIR) => continue 'layers,
                Err(error) => return Err(error.into()),
            };
            if is_whiteout(&stat) {
                return Ok(None);
            }
            if index + 1 == parts.len() {
                return Ok(Some(stat));
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(None);
            }
            last |= open(CWD, at.as_os_str()).is_ok_and(|folder| is_opaque(folder.as_fd()));
        }
        if last {
            return Ok(None);
        }
    }
    Ok(None)
}

/// The names that the layers have in a folder.
fn lower_names(layers: &[PathBuf], path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for layer in layers {
        let below = layer.join(path.strip_prefix("/").unwrap_or(path));
        let Ok(entries) = fs::read_dir(below) else {
            continue;
        };
        for entry in entries {
            let name = entry?.file_name();
            if !names.contains(&name) && lower(layers, &path.join(&name))?.is_some() {
                names.push(name);
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn whiteout(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    }

    fn lines(upper: &Path, layers: &[PathBuf]) -> Vec<String> {
        let top = open(CWD, upper.as_os_str()).unwrap();
        let mut found = BTreeMap::new();
        walk(&top, Path::new("/"), layers, DEEPEST, &mut found).unwrap();
        let line = |(path, kind): (PathBuf, char)| format!("{kind} {}", path.display());
        found.into_iter().map(line).collect()
    }

    #[test]
    fn what_was_added_changed_and_deleted_is_told() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let [upper, top, base] = ["upper", "top", "base"].map(|name| folder.path().join(name));
        for path in [&upper, &top, &base] {
            fs::create_dir(path).unwrap();
        }
        write(&base.join("etc/a"), "a");
        write(&base.join("etc/gone-in-top"), "a");
        write(&base.join("var/x"), "x");
        write(&base.join("same/x"), "x");
        write(&top.join("etc/b"), "b");
        whiteout(&top.join("etc/gone-in-top"));
        fs::create_dir(upper.join("etc")).unwrap();
        write(&upper.join("etc/a"), "changed");
        whiteout(&upper.join("etc/b"));
        write(&upper.join("etc/gone-in-top"), "back");
        write(&upper.join("new/deep/file"), "n");
        symlink("/etc", upper.join("link")).unwrap();
        fs::create_dir(upper.join("var")).unwrap();
        write(&upper.join("var/y"), "y");
        let var = open(CWD, upper.join("var").as_os_str()).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::fsetxattr(&var, "trusted.overlay.opaque", b"y", flags).is_err() {
            println!("skipped: this file system keeps no such attribute");
            return;
        }
        assert_eq!(
            lines(&upper, &[top, base]),
            [
                "C /etc",
                "C /etc/a",
                "D /etc/b",
                "A /etc/gone-in-top",
                "A /link",
                "A /new",
                "A /new/deep",
                "A /new/deep/file",
                "C /var",
                "D /var/x",
                "A /var/y",
            ]
        );
    }
}
