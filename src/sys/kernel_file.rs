//! Files that the kernel makes up: `/proc`, control groups.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

/// What most of them say fits in here.
const USUAL: usize = 4096;

/// What a file says. Such files have no size, for which `std::fs::read_to_string`
/// asks first and then reads in pieces that begin at 32 bytes, each of which
/// makes the kernel write its text anew.
///
/// # Errors
/// What open(2) and read(2) return; [`io::ErrorKind::InvalidData`] for what is
/// no text.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let file = rustix::fs::openat(
        CWD,
        path.as_ref(),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut bytes = Vec::with_capacity(USUAL);
    loop {
        if bytes.capacity() == bytes.len() {
            bytes.reserve(bytes.len().max(USUAL));
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, USUAL - 1, USUAL, USUAL + 1, 10 * USUAL] {
            let text = "x".repeat(length);
            std::fs::write(&path, &text).unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
        assert_eq!(
            read("/proc/self/comm").unwrap(),
            std::fs::read_to_string("/proc/self/comm").unwrap()
        );
        assert!(read(folder.path().join("none")).is_err());
    }
}
