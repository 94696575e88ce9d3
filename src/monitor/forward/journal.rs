//! The journal of systemd, by its native protocol (systemd's
//! JOURNAL_NATIVE_PROTOCOL.md): one datagram an entry, a field a line.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};

use super::PATIENCE;
use crate::monitor::log::Stream;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    socket: UnixDatagram,
    /// What every entry begins with.
    fields: Vec<u8>,
}

impl Journal {
    pub(super) fn open(path: PathBuf, fields: Vec<(String, String)>) -> io::Result<Self> {
        let mut bytes = Vec::new();
        for (name, value) in &fields {
            put(&mut bytes, name, value.as_bytes());
        }
        let mut journal = Self {
            path,
            socket: UnixDatagram::unbound()?,
            fields: bytes,
        };
        journal.connect()?;
        Ok(journal)
    }

    pub(super) fn connect(&mut self) -> io::Result<()> {
        self.socket = UnixDatagram::unbound()?;
        self.socket.set_write_timeout(Some(PATIENCE))?;
        self.socket.connect(&self.path)
    }

    pub(super) fn send(&mut self, stream: Stream, partial: bool, text: &[u8]) -> io::Result<()> {
        let mut entry = self.fields.clone();
        // As severities of syslog.
        let priority: &[u8] = match stream {
            Stream::Stdout => b"6",
            Stream::Stderr => b"3",
        };
        put(&mut entry, "PRIORITY", priority);
        let time = crate::monitor::log::format_time(crate::runtime::now());
        put(&mut entry, "SYSLOG_TIMESTAMP", time.as_bytes());
        if partial {
            put(&mut entry, "CONTAINER_PARTIAL_MESSAGE", b"true");
        }
        put(&mut entry, "MESSAGE", text);
        match self.socket.send(&entry) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOBUFS)) => {
                self.send_file(&entry)
            }
            other => other.map(|_| ()),
        }
    }

    /// An entry that is too large for a datagram goes as a sealed memory file.
    fn send_file(&self, entry: &[u8]) -> io::Result<()> {
        let file = rustix::fs::memfd_create("entry", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut rest = entry;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, all)?;
        crate::sys::fd::send(self.socket.as_fd(), &[], Some(file.as_fd()))
    }
}

/// A field: `NAME=value`, or with its length when the value has lines.
fn put(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        let length = u64::try_from(value.len()).unwrap_or(u64::MAX);
        entry.extend_from_slice(&length.to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_as_the_protocol_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let server = UnixDatagram::bind(&path).unwrap();
        let fields = vec![
            ("CONTAINER_NAME".to_owned(), "web".to_owned()),
            ("A".into(), "x\ny".into()),
        ];
        let mut journal = Journal::open(path, fields).unwrap();
        journal.send(Stream::Stderr, true, b"hi").unwrap();
        let mut buffer = [0; 4096];
        let length = server.recv(&mut buffer).unwrap();
        let entry = &buffer[..length];
        assert!(
            entry
                .starts_with(b"CONTAINER_NAME=web\nA\n\x03\0\0\0\0\0\0\0x\ny\nPRIORITY=3\nSYSLOG_TIMESTAMP=")
        );
        assert!(entry.ends_with(b"\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=hi\n"));
    }

    #[test]
    fn a_large_entry_goes_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(path, Vec::new()).unwrap();
        let text = vec![b'x'; 1 << 20];
        journal.send(Stream::Stdout, false, &text).unwrap();
        let (length, file) = crate::sys::fd::receive(server.as_fd(), &mut [0; 16]).unwrap();
        assert_eq!(length, 0);
        let file = std::fs::File::from(file.unwrap());
        let mut content = vec![0; 2 << 20];
        let read = std::os::unix::fs::FileExt::read_at(&file, &mut content, 0).unwrap();
        assert!(content[..read].ends_with(b"xxx\n") && read > text.len());
    }
}
