//! Labels of bind mounts (`z`, `Z`) on machines that have SELinux.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{XattrFlags, lsetxattr};

/// What containers may read and write, of all categories. Our containers have no
/// categories of their own, so that `Z` is no narrower than `z`.
const LABEL: &[u8] = b"system_u:object_r:container_file_t:s0\0";

/// Places that whole machines live in: a label there would break them, and
/// Docker refuses them, too.
const NEVER: [&str; 8] = ["/", "/usr", "/etc", "/home", "/root", "/var", "/bin", "/tmp"];

/// Whether this machine has SELinux; without, labels have no effect, as with
/// Docker.
fn is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Labels a file, or a folder and everything below it on the same file system.
///
/// # Errors
/// What lsetxattr(2) and reading folders return; `InvalidInput` for a folder of
/// the whole machine.
pub(super) fn relabel(path: &Path) -> io::Result<()> {
    if !is_enabled() {
        return Ok(());
    }
    if NEVER.iter().any(|place| path == Path::new(place)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a folder of the whole machine is not labelled",
        ));
    }
    label(path, std::fs::symlink_metadata(path)?.dev())
}

fn label(path: &Path, device: u64) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if metadata.dev() != device {
        return Ok(());
    }
    match lsetxattr(path, "security.selinux", LABEL, XattrFlags::empty()) {
        // A file system without labels has one for all.
        Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
        Err(error) => return Err(error.into()),
    }
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            label(&entry?.path(), device)?;
        }
    }
    Ok(())
}
