//! Our own executable, as the roles are executed from it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::sys::mount::{Attributes, RDONLY, set_attributes};

static PATH: OnceLock<PathBuf> = OnceLock::new();
static EXECUTABLE: OnceLock<OwnedFd> = OnceLock::new();

/// The `rcompose` binary to execute roles from, for a program that only embeds
/// this library. Counts when called before anything is started.
pub fn use_executable(path: &Path) {
    let _ = PATH.set(path.to_owned());
}

/// Our executable, opened once for the life of this process.
///
/// It is a read-only mount of that one file, attached nowhere: whoever gets at
/// it from inside a container (`/proc/self/exe`, CVE-2019-5736) cannot open it
/// for writing. Without the right to mount, it is the file as it is.
pub(super) fn open() -> io::Result<BorrowedFd<'static>> {
    if let Some(fd) = EXECUTABLE.get() {
        return Ok(fd.as_fd());
    }
    let path = PATH.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let read_only = open_tree(CWD, path, flags)
        .map_err(io::Error::from)
        .and_then(|tree| {
            set_attributes(
                tree.as_fd(),
                c"",
                Attributes {
                    set: RDONLY,
                    ..Attributes::default()
                },
                false,
            )?;
            Ok(tree)
        });
    let fd = match read_only {
        Ok(fd) => fd,
        Err(_) => rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
    };
    Ok(EXECUTABLE.get_or_init(|| fd).as_fd())
}

/// The arguments of a role.
pub(super) fn arguments(role: &str, further: &[String]) -> Vec<CString> {
    ["rcompose", role]
        .into_iter()
        .map(str::to_owned)
        .chain(further.iter().cloned())
        .filter_map(|text| CString::new(text).ok())
        .collect()
}
