//! The files of a log.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

/// Most files of a log that are looked for.
const FILES_MAX: u32 = 1000;

/// The log with a suffix: `.1`, `.next`.
fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    with(path, &format!(".{number}"))
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Puts an empty file in the place of a log and keeps the old one as `log.1`,
/// those before it moved up, of `max_files` in all.
///
/// # Errors
/// What open(2) and rename(2) return. Then nothing is lost; the log may still be
/// the old file.
pub(super) fn rotate(path: &Path, max_files: u32) -> io::Result<()> {
    let next = with(path, ".next");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(rustix::fs::open(&next, flags, Mode::from_raw_mode(0o600))?);
    match renameat_with(CWD, &next, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // A file system that cannot exchange: the log is missing for a moment.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            shift(path, max_files)?;
            if max_files > 1 {
                fs::rename(path, numbered(path, 1))?;
            }
            return fs::rename(&next, path);
        }
        Err(error) => return Err(error.into()),
    }
    put_behind(path, max_files)
}

/// The second step of [`rotate`], also for a writer that was killed before it.
pub(super) fn finish(path: &Path, max_files: u32) -> io::Result<()> {
    match fs::metadata(with(path, ".next")) {
        Ok(next) if next.len() > 0 => put_behind(path, max_files),
        Ok(_) => missing_is_fine(fs::remove_file(with(path, ".next"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn put_behind(path: &Path, max_files: u32) -> io::Result<()> {
    let next = with(path, ".next");
    shift(path, max_files)?;
    if max_files > 1 {
        fs::rename(next, numbered(path, 1))
    } else {
        fs::remove_file(next)
    }
}

/// Makes room for `log.1`: the older a file, the earlier it is moved, which
/// readers rely on. Files beyond the number there may be are removed.
fn shift(path: &Path, max_files: u32) -> io::Result<()> {
    let mut last = 0;
    while last < FILES_MAX && numbered(path, last + 1).exists() {
        last += 1;
    }
    for number in (1..=last).rev() {
        let file = numbered(path, number);
        missing_is_fine(if number + 1 < max_files {
            fs::rename(file, numbered(path, number + 1))
        } else {
            fs::remove_file(file)
        })?;
    }
    Ok(())
}

/// The files there are now, the present one first.
pub(super) fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    let next = with(path, ".next");
    if fs::metadata(&next).is_ok_and(|next| next.len() > 0) {
        files.push(next);
    }
    files.extend(
        (1..FILES_MAX)
            .map(|number| numbered(path, number))
            .take_while(|file| file.exists()),
    );
    files
}

/// Whether a path leads to this open file.
fn is(path: &Path, file: &fs::Metadata) -> bool {
    fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (file.dev(), file.ino()))
}

/// The file that follows an open one; `None` when it is the present one. When
/// it has been removed, the oldest there is.
pub(super) fn after(path: &Path, file: &File) -> io::Result<Option<File>> {
    let own = file.metadata()?;
    // Each further look means that the files were moved in between.
    for _ in 0..100 {
        let files = files(path);
        let place = files.iter().position(|one| is(one, &own));
        let follower = match place {
            Some(0) => return Ok(None),
            Some(place) => files.get(place - 1),
            None => files.last(),
        };
        let Some(follower) = follower else { continue };
        let opened = match File::open(follower) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        // An older file is moved before a newer one: where ours has stayed, the
        // one that follows had not been moved when it was opened.
        let stayed = match place.and_then(|place| files.get(place)) {
            Some(place) => is(place, &own),
            None => is(follower, &opened.metadata()?),
        };
        if stayed {
            return Ok(Some(opened));
        }
    }
    Ok(None)
}
