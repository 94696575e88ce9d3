//! Gives folders that an archive does not list the owner and mode they have in
//! the layers below.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::UnpackError;
use super::tree::OPAQUE;

const INSIDE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Sets owner and mode of the `unlisted` folders of a layer to those in the
/// layers below it (topmost first). A folder that is in none of them keeps
/// root's ownership and mode 0755.
///
/// # Errors
/// [`UnpackError::Path`] when such a folder is a symbolic link below: what the
/// layer holds belongs behind that link, and a folder in its place would hide
/// everything else there. [`UnpackError::Io`] when a call fails.
pub(in crate::image) fn adopt(
    layer: &OwnedFd,
    unlisted: &[Vec<u8>],
    below: &[OwnedFd],
) -> Result<(), UnpackError> {
    for path in unlisted {
        let Some(found) = find(below, path)? else {
            continue;
        };
        let folder =
            open(layer, path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(UnpackError::io("open", path))?;
        let io = |operation| UnpackError::io(operation, path);
        rustix::fs::fchown(
            &folder,
            Some(Uid::from_raw(found.st_uid)),
            Some(Gid::from_raw(found.st_gid)),
        )
        .map_err(io("set the owner of"))?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(found.st_mode & 0o7777))
            .map_err(io("set the mode of"))?;
    }
    Ok(())
}

/// Whether a folder hides what the layers below have in it.
///
/// # Errors
/// What getxattr(2) says.
pub(in crate::image) fn is_opaque(folder: &OwnedFd) -> std::io::Result<bool> {
    let mut value = [0u8; 4];
    match rustix::fs::fgetxattr(folder, OPAQUE, &mut value) {
        Ok(1) => Ok(value.first() == Some(&b'y')),
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The folder that shows at a path when the layers are put on each other.
fn find(layers: &[OwnedFd], path: &[u8]) -> Result<Option<rustix::fs::Stat>, UnpackError> {
    let io = |operation| UnpackError::io(operation, path);
    for layer in layers {
        match open(layer, path, OFlags::PATH) {
            Ok(found) => {
                let found = rustix::fs::statat(&found, "", AtFlags::EMPTY_PATH).map_err(io("look at"))?;
                return match FileType::from_raw_mode(found.st_mode) {
                    FileType::Directory => Ok(Some(found)),
                    FileType::Symlink => Err(UnpackError::path(
                        path,
                        "is not listed, and is a symbolic link in a layer below",
                    )),
                    _ => Ok(None),
                };
            }
            Err(Errno::NOENT) => {
                if hides(layer, path).map_err(|error| UnpackError::Io {
                    operation: "look at",
                    path: String::from_utf8_lossy(path).into_owned(),
                    source: error,
                })? {
                    return Ok(None);
                }
            }
            // A parent that is no folder here hides the layers below.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(error) => return Err(io("open")(error)),
        }
    }
    Ok(None)
}

/// Whether a parent of the path is opaque in a layer.
fn hides(layer: &OwnedFd, path: &[u8]) -> std::io::Result<bool> {
    for (end, _) in path.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
        let parent = path.get(..end).unwrap_or_default();
        match open(layer, parent, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(folder) if is_opaque(&folder)? => return Ok(true),
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    is_opaque(layer)
}

fn open(layer: &OwnedFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(
        layer,
        path,
        flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
        INSIDE,
    )
}
