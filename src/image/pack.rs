//! A folder becomes a tar archive: what a container changed as a layer, or what
//! it sees as one tree.
//!
//! Folders are given topmost first, in the form that overlayfs keeps them in,
//! and are walked by descriptors, so that nothing a container does to its links
//! leads out of them. Names come in the order of their bytes: the same folders
//! always make the same archive. Sockets are left out, as tar has no word for
//! them; of extended attributes capabilities and `user.` are taken.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Folders inside folders; more is no tree that anybody wants to keep.
const DEPTH_LIMIT: usize = 2048;
const BLOCK: usize = 512;
const OPAQUE: &CStr = c"trusted.overlay.opaque";
const REDIRECT: &CStr = c"trusted.overlay.redirect";

/// What the archive says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The difference of the only folder to what is below it, with whiteouts.
    Difference,
    /// All that shows of the folders laid over each other.
    Merged,
}

/// Where something stands, and what failed.
fn at(path: &[u8], operation: &str) -> impl FnOnce(Errno) -> io::Error {
    let text = format!("{operation} {}", String::from_utf8_lossy(path));
    move |error| io::Error::new(io::Error::from(error).kind(), format!("{text}: {error}"))
}

/// Writes the archive of some folders, topmost first.
///
/// # Errors
/// When something cannot be read or written; it names what.
pub(super) fn pack(folders: Vec<OwnedFd>, form: Form, out: impl Write) -> io::Result<()> {
    let mut packer = Packer {
        out,
        form,
        links: HashMap::new(),
    };
    packer.walk(folders)?;
    packer.out.write_all(&[0; 2 * BLOCK])?;
    packer.out.flush()
}

struct Packer<W> {
    out: W,
    form: Form,
    /// First path of each file with several names, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
}

/// A folder on the way: its layers, and what is left to do in it.
struct Level {
    layers: Vec<OwnedFd>,
    /// Name to the first layer that has it, last name first.
    names: Vec<(CString, usize)>,
    /// The path is cut back to this length when it is done.
    length: usize,
}

impl<W: Write> Packer<W> {
    fn walk(&mut self, folders: Vec<OwnedFd>) -> io::Result<()> {
        let mut path = Vec::new();
        let mut levels = vec![self.level(folders, &path)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, first)) = level.names.pop() else {
                path.truncate(level.length);
                levels.pop();
                continue;
            };
            let before = path.len();
            if before > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let below = self.entry(level, &name, first, &path)?;
            match below {
                Some(layers) if levels.len() >= DEPTH_LIMIT => {
                    drop(layers);
                    return Err(io::Error::other("folders lie too deep inside each other"));
                }
                Some(layers) => {
                    let mut next = self.level(layers, &path)?;
                    next.length = before;
                    levels.push(next);
                }
                None => path.truncate(before),
            }
        }
        Ok(())
    }

    fn level(&self, layers: Vec<OwnedFd>, path: &[u8]) -> io::Result<Level> {
        let mut names = BTreeMap::new();
        for (index, layer) in layers.iter().enumerate() {
            for entry in rustix::fs::Dir::read_from(layer).map_err(at(path, "read"))? {
                let entry = entry.map_err(at(path, "read"))?;
                let name = entry.file_name();
                if !matches!(name.to_bytes(), b"." | b"..") {
                    names.entry(name.to_owned()).or_insert(index);
                }
            }
        }
        Ok(Level {
            layers,
            names: names.into_iter().rev().collect(),
            length: 0,
        })
    }

    /// Writes one entry; the layers of a folder to go on in.
    fn entry(
        &mut self,
        level: &Level,
        name: &CStr,
        first: usize,
        path: &[u8],
    ) -> io::Result<Option<Vec<OwnedFd>>> {
        let look = |folder: &OwnedFd| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let Some(folder) = level.layers.get(first) else {
            return Ok(None);
        };
        let found = look(folder).map_err(at(path, "look at"))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::CharacterDevice && found.st_rdev == 0 {
            if self.form == Form::Difference {
                let hidden = with_name(path, &[b".wh.", name.to_bytes()].concat());
                self.plain(&hidden)?;
            }
            return Ok(None);
        }
        if kind == FileType::Socket {
            return Ok(None);
        }
        if kind != FileType::Directory {
            self.other(folder, name, &found, kind, path)?;
            return Ok(None);
        }
        let mut layers = Vec::new();
        for folder in level.layers.iter().skip(first) {
            match look(folder) {
                Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {}
                // Something else, or a whiteout, hides what is below.
                Ok(_) => break,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(at(path, "look at")(error)),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(at(path, "open"))?;
            if attribute(&inner, REDIRECT).is_some() {
                return Err(io::Error::other(format!(
                    "folder {} was renamed by overlayfs in a way that cannot be read",
                    String::from_utf8_lossy(path)
                )));
            }
            let opaque = attribute(&inner, OPAQUE).is_some_and(|value| value == b"y");
            layers.push(inner);
            if opaque {
                break;
            }
        }
        let mut full = path.to_vec();
        full.push(b'/');
        let top = layers.first();
        let attributes = top.map(attributes).unwrap_or_default();
        self.header(&Header {
            path: &full,
            link: b"",
            kind: b'5',
            size: 0,
            found: &found,
            attributes,
        })?;
        let opaque = top.is_some_and(|top| attribute(top, OPAQUE).is_some_and(|value| value == b"y"));
        if self.form == Form::Difference && opaque {
            full.extend_from_slice(b".wh..wh..opq");
            self.plain(&full)?;
        }
        Ok(Some(layers))
    }

    fn other(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        found: &Stat,
        kind: FileType,
        path: &[u8],
    ) -> io::Result<()> {
        if found.st_nlink > 1 {
            let key = (found.st_dev, found.st_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                return self.header(&Header {
                    path,
                    link: &first,
                    kind: b'1',
                    size: 0,
                    found,
                    attributes: Vec::new(),
                });
            }
            self.links.insert(key, path.to_vec());
        }
        let mut header = Header {
            path,
            link: b"",
            kind: b'0',
            size: 0,
            found,
            attributes: Vec::new(),
        };
        match kind {
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(folder, name, Vec::new()).map_err(at(path, "read the link"))?;
                header.kind = b'2';
                header.link = target.as_bytes();
                self.header(&header)
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                header.kind = match kind {
                    FileType::CharacterDevice => b'3',
                    FileType::BlockDevice => b'4',
                    _ => b'6',
                };
                self.header(&header)
            }
            _ => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file =
                    rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(at(path, "open"))?;
                header.attributes = attributes(&file);
                // What the open file is, whatever has its name by now.
                let now = rustix::fs::fstat(&file).map_err(at(path, "look at"))?;
                header.size = u64::try_from(now.st_size).unwrap_or(0);
                header.found = &now;
                self.header(&header)?;
                self.data(File::from(file), header.size)
            }
        }
    }

    /// Data of a known length: a file that grows or shrinks meanwhile is cut or
    /// filled with zeros.
    fn data(&mut self, file: File, size: u64) -> io::Result<()> {
        let count = io::copy(&mut file.take(size), &mut self.out)?;
        io::copy(&mut io::repeat(0).take(size - count), &mut self.out)?;
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if over > 0 {
            self.out.write_all(&vec![0; BLOCK - over])?;
        }
        Ok(())
    }

    /// An empty file: a whiteout.
    fn plain(&mut self, path: &[u8]) -> io::Result<()> {
        self.out.write_all(&block(path, b"", b'0', 0, None))
    }

    fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let mut pax: Vec<u8> = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            pax.extend_from_slice(length.to_string().as_bytes());
            pax.push(b' ');
            pax.extend_from_slice(key);
            pax.push(b'=');
            pax.extend_from_slice(value);
            pax.push(b'\n');
        };
        let plain = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        if !plain(header.path) {
            record(b"path", header.path);
        }
        if !plain(header.link) {
            record(b"linkpath", header.link);
        }
        let found = header.found;
        if header.size >= 1 << 33 {
            record(b"size", header.size.to_string().as_bytes());
        }
        for (key, number) in [("uid", found.st_uid), ("gid", found.st_gid)] {
            if number >= 1 << 21 {
                record(key.as_bytes(), number.to_string().as_bytes());
            }
        }
        if found.st_mtime_nsec != 0 || !(0..1 << 33).contains(&found.st_mtime) {
            record(b"mtime", time(found.st_mtime, found.st_mtime_nsec).as_bytes());
        }
        for (name, value) in &header.attributes {
            record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        if !pax.is_empty() {
            let name = b"PaxHeaders/"
                .iter()
                .chain(header.path.iter().rev().take(80).rev())
                .copied();
            let name: Vec<u8> = name.filter(u8::is_ascii).collect();
            self.out
                .write_all(&block(&name, b"", b'x', pax.len() as u64, None))?;
            self.out.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        let cut = |text: &[u8]| text.get(..100).unwrap_or(text).to_vec();
        let block = block(
            &cut(header.path),
            &cut(header.link),
            header.kind,
            header.size,
            Some(found),
        );
        self.out.write_all(&block)
    }
}

struct Header<'a> {
    path: &'a [u8],
    link: &'a [u8],
    kind: u8,
    size: u64,
    found: &'a Stat,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Seconds with a fraction, as pax has them.
fn time(seconds: i64, nanoseconds: impl TryInto<u64>) -> String {
    let nanoseconds: u64 = nanoseconds.try_into().unwrap_or(0);
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, _) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').to_owned()
}

/// A header block (POSIX ustar).
fn block(path: &[u8], link: &[u8], kind: u8, size: u64, found: Option<&Stat>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, text: &[u8]| {
        if let Some(place) = block.get_mut(offset..offset + text.len()) {
            place.copy_from_slice(text);
        }
    };
    // Digits that fill the field; what does not fit stands in a pax record.
    let octal = |value: u64, digits: usize| {
        let text = format!("{value:0digits$o}");
        let start = text.len() - digits;
        text.get(start..).unwrap_or_default().to_owned()
    };
    put(0, path.get(..100).unwrap_or(path));
    let mode = found.map_or(0o644, |found| found.st_mode & 0o7777);
    put(100, octal(mode.into(), 7).as_bytes());
    put(
        108,
        octal(found.map_or(0, |found| found.st_uid).into(), 7).as_bytes(),
    );
    put(
        116,
        octal(found.map_or(0, |found| found.st_gid).into(), 7).as_bytes(),
    );
    put(124, octal(size, 11).as_bytes());
    let modified = found.map_or(0, |found| u64::try_from(found.st_mtime).unwrap_or(0));
    put(136, octal(modified, 11).as_bytes());
    put(156, &[kind]);
    put(157, link.get(..100).unwrap_or(link));
    put(257, b"ustar\x0000");
    if let Some(found) = found
        && matches!(kind, b'3' | b'4')
    {
        put(329, octal(rustix::fs::major(found.st_rdev).into(), 7).as_bytes());
        put(337, octal(rustix::fs::minor(found.st_rdev).into(), 7).as_bytes());
    }
    checksum(&mut block);
    block
}

/// The header of a plain file in an archive of images; the size may need more
/// digits than octal ones have room for.
pub(super) fn file_header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = block(name.as_bytes(), b"", b'0', size.min((1 << 33) - 1), None);
    if size >= 1 << 33 {
        // GNU's base-256 numbers: the first bit, then the number, big end first.
        if let Some(place) = header.get_mut(124..136) {
            place.fill(0);
            place.iter_mut().take(1).for_each(|byte| *byte = 0x80);
        }
        if let Some(place) = header.get_mut(128..136) {
            place.copy_from_slice(&size.to_be_bytes());
        }
        checksum(&mut header);
    }
    header
}

fn checksum(block: &mut [u8; BLOCK]) {
    if let Some(place) = block.get_mut(148..156) {
        place.copy_from_slice(b"        ");
    }
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    let sum = format!("{sum:06o}\0 ");
    if let Some(place) = block.get_mut(148..156) {
        place.copy_from_slice(sum.as_bytes());
    }
}

/// A path with its last part changed.
fn with_name(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => [path.get(..=slash).unwrap_or_default(), name].concat(),
        None => name.to_vec(),
    }
}

/// An extended attribute; `None` when there is none.
fn attribute(file: &OwnedFd, name: &CStr) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::fgetxattr(file, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

/// The extended attributes that belong into an archive, by name.
fn attributes(file: &OwnedFd) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = vec![0; 64 << 10];
    let Ok(length) = rustix::fs::flistxattr(file.as_fd(), &mut list[..]) else {
        // A file system without them.
        return Vec::new();
    };
    list.truncate(length);
    let mut found: Vec<_> = list
        .split(|&byte| byte == 0)
        .filter(|name| *name == b"security.capability" || name.starts_with(b"user."))
        .filter(|name| !name.starts_with(b"user.overlay."))
        .filter_map(|name| {
            let value = attribute(file, &CString::new(name).ok()?)?;
            Some((name.to_vec(), value))
        })
        .collect();
    found.sort();
    found
}
