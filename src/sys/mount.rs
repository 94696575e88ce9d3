//! The mount calls that rustix lacks. The rest is `rustix::mount`.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// The argument of mount_setattr(2), as in `linux/mount.h` (size 32).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to keep it.
    pub propagation: u64,
    /// Descriptor of the user namespace of an idmapped mount, with [`IDMAP`] in `set`; else 0.
    pub user_namespace: u64,
}

/// `MOUNT_ATTR_RDONLY`.
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: all the bits of the access time mode.
pub const ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`.
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`.
pub const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`.
pub const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_IDMAP`.
pub const IDMAP: u64 = 0x10_0000;
/// `MOUNT_ATTR_NOSYMFOLLOW`.
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// Changes a mount, or with `recursive` all mounts below it too:
/// mount_setattr(2), Linux 5.12. An empty `path` is `folder` itself.
///
/// # Errors
/// What the call returns.
pub fn set_attributes(
    folder: BorrowedFd<'_>,
    path: &CStr,
    attributes: Attributes,
    recursive: bool,
) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: a live string, and a structure of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            folder.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
