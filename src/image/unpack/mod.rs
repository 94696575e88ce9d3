//! A layer's tar archive becomes a folder that overlayfs can take as a lower
//! layer.
//!
//! # How it works
//!
//! [`unpack`] reads entries one by one (`tar.rs`) and puts each into the tree
//! (`tree.rs`). An archive is hostile until proved otherwise, so no path is
//! ever resolved as a string: the parent of an entry is opened by openat2(2)
//! below the folder with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`, and the
//! entry is made in it with `O_EXCL` or a call that follows nothing. A symbolic
//! link, made by an earlier entry or not, is never walked through; an entry
//! that would have to is an error. A name with `..` is an error.
//!
//! Whiteouts (OCI image layer specification, "Representing Changes") take the
//! form that overlayfs knows: `.wh.name` is the character device 0:0,
//! `.wh..wh..opq` is `trusted.overlay.opaque=y` on its folder. They apply to
//! lower layers only, wherever in the archive they stand. Attributes named
//! `trusted.overlay.…` in the archive are escaped as overlayfs does it, so that
//! a layer cannot tell overlayfs to look elsewhere.
//!
//! A later entry of the same name replaces an earlier one; a folder over a
//! folder only changes its attributes. Owners, modes and times of folders are
//! set last, when nothing changes in them any more.
//!
//! # Folders that the archive does not list
//!
//! Most archives list the parents of what they hold. Where one does not, the
//! folder that is made takes its place *above* the lower layers' folder, with
//! its own owner and mode. [`Unpacked::unlisted`] names these, and `adopt.rs`
//! gives them what the lower layers say.
//!
//! # Known to be weak
//!
//! POSIX ACLs (`SCHILY.acl.*`) are not restored, as Docker does not either.
//! An unlisted folder that is a symbolic link in a lower layer is refused.
//! Setting device nodes and owners needs real root.

mod adopt;
mod members;
mod tar;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{self, Read};
use std::os::fd::OwnedFd;

pub(super) use adopt::{adopt, is_opaque};
pub(super) use members::{Member, members};

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive does not follow its format.
    #[error("the archive is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
    },
    /// The archive ends in the middle.
    #[error("the archive is cut off")]
    Truncated,
    /// An entry of a type that no layer may hold.
    #[error("entry {path:?} has the unknown type {kind:?}")]
    Kind {
        /// The entry.
        path: String,
        /// Its type flag.
        kind: char,
    },
    /// A path that leaves the layer, or cannot be one.
    #[error("entry {path:?} {reason}")]
    Path {
        /// The entry.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A hard link whose target the layer does not have.
    #[error("entry {path:?} is a hard link to {target:?}, which is not in this layer")]
    Link {
        /// The entry.
        path: String,
        /// What it links to.
        target: String,
    },
    /// More than there is room for.
    #[error("the layer holds more than {limit} {what}")]
    Limit {
        /// `bytes` or `entries`.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The archive could not be read.
    #[error("read the archive: {0}")]
    Read(#[source] io::Error),
    /// A call failed.
    #[error("{operation} {path:?}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The entry.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl UnpackError {
    fn path(path: &[u8], reason: &'static str) -> Self {
        Self::Path {
            path: String::from_utf8_lossy(path).into_owned(),
            reason,
        }
    }

    fn io(operation: &'static str, path: &[u8]) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = String::from_utf8_lossy(path).into_owned();
        move |source| Self::Io {
            operation,
            path,
            source: source.into(),
        }
    }
}

/// What a layer may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of file data.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
}

impl Limits {
    /// Most entries of a layer; a few hundred times what large images have.
    const ENTRIES: u64 = 20_000_000;

    /// What fits on the file system of a folder: all that is free but one
    /// hundredth of the whole (at most 1 GiB), so that no layer fills the disk.
    ///
    /// # Errors
    /// What fstatvfs(2) says.
    pub fn of(folder: &OwnedFd) -> io::Result<Self> {
        let numbers = rustix::fs::fstatvfs(folder)?;
        let total = numbers.f_blocks.saturating_mul(numbers.f_frsize);
        let free = numbers.f_bavail.saturating_mul(numbers.f_frsize);
        Ok(Self {
            bytes: free.saturating_sub((total / 100).min(1 << 30)),
            entries: Self::ENTRIES,
        })
    }
}

/// What came out of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of file data.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Folders that had to be made and that no entry describes, relative to the
    /// layer, parents first. The layer's own folder is never among them.
    pub unlisted: Vec<Vec<u8>>,
}

/// Unpacks a decompressed tar archive into an empty folder and reads the stream
/// to its end.
///
/// # Errors
/// [`UnpackError`]; the folder then holds a part, but nothing outside it was touched.
pub fn unpack(archive: impl Read, folder: &OwnedFd, limits: Limits) -> Result<Unpacked, UnpackError> {
    let mut reader = tar::Reader::new(archive);
    let mut tree = tree::Tree::new(folder, limits);
    while let Some(entry) = reader.next_entry()? {
        tree.add(entry, &mut reader)?;
    }
    reader.drain()?;
    tree.finish()
}
