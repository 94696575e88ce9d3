//! Reads tar archives: POSIX ustar and pax, GNU long names, base-256 numbers
//! and sparse files (old GNU, pax 0.0, 0.1 and 1.0).
//!
//! Formats: POSIX.1-2024 `pax`, section "EXTENDED DESCRIPTION", and the manual
//! of GNU tar, "Tar Internals". Everything read is bounded: an archive decides
//! neither how much memory is taken nor for how long.

use std::io::{self, Read};

use super::UnpackError;

const BLOCK: usize = 512;
/// Most bytes of extended headers and long names before one entry.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// Most data segments of a sparse file.
const SEGMENT_LIMIT: usize = 1 << 16;
/// Most extended attributes of an entry; no file system of ours holds as many.
const ATTRIBUTES_LIMIT: usize = 256;
/// How much is read at once.
const BUFFER: usize = 256 << 10;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Time {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// The layout of a sparse file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Where data is: offset and length, ascending, adding up to what is stored.
    pub(super) segments: Vec<(u64, u64)>,
    /// Length of the file with its holes.
    pub(super) length: u64,
}

/// One entry. Its data, if any, is read from the reader before the next entry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Time,
    pub(super) device: (u32, u32),
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<Sparse>,
}

/// Reads entries from a stream that is already decompressed.
pub(super) struct Reader<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Unread data of the present entry, and what pads it to a block.
    data: u64,
    padding: u64,
    /// Bytes of the stream before `buffer`.
    before: u64,
    globals: Pax,
    ended: bool,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            data: 0,
            padding: 0,
            before: 0,
            globals: Pax::default(),
            ended: false,
        }
    }

    /// The next entry; `None` at the end of the archive.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, UnpackError> {
        if self.ended {
            return Ok(None);
        }
        self.skip_data()?;
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        let mut extension = 0;
        loop {
            let Some(block) = self.header()? else {
                self.ended = true;
                if long_path.is_some() || long_link.is_some() || !pax.is_empty() {
                    return Err(malformed("the last extended header belongs to no entry"));
                }
                return Ok(None);
            };
            let header = Header { block: &block };
            let size = header.size()?;
            let kind = header.kind();
            if matches!(kind, b'x' | b'g' | b'L' | b'K') {
                extension += size;
                if extension > EXTENSION_LIMIT {
                    return Err(malformed("extended headers are larger than 1 MiB"));
                }
                let data = self.extension(size)?;
                match kind {
                    b'x' => pax.read(&data)?,
                    b'g' => {
                        self.globals.read(&data)?;
                        // Nobody writes these, and they would pile up.
                        if !self.globals.attributes.is_empty() {
                            return Err(malformed("a global header holds extended attributes"));
                        }
                    }
                    b'L' => long_path = Some(until_nul(&data).to_vec()),
                    _ => long_link = Some(until_nul(&data).to_vec()),
                }
                continue;
            }
            return self.entry(&header, size, pax, long_path, long_link).map(Some);
        }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        mut size: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, UnpackError> {
        let pax = pax.over(&self.globals);
        let path = match (pax.path, long_path) {
            (Some(path), _) | (None, Some(path)) => path,
            (None, None) => header.path(),
        };
        let link = match (pax.link, long_link) {
            (Some(link), _) | (None, Some(link)) => link,
            (None, None) => until_nul(header.field(157, 100)).to_vec(),
        };
        let kind = match header.kind() {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharacterDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(UnpackError::Kind {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    kind: char::from(other),
                });
            }
        };
        if let Some(real) = pax.size {
            size = real;
        }
        if kind != Kind::File {
            // POSIX gives these no data, whatever their size field says.
            size = 0;
        }
        self.data = size;
        self.padding = padding(size);
        let sparse = if kind != Kind::File {
            None
        } else if header.kind() == b'S' {
            Some(self.gnu_sparse(header)?)
        } else if let Some(sparse) = pax.sparse {
            Some(self.pax_sparse(sparse)?)
        } else {
            None
        };
        if let Some(sparse) = &sparse {
            check_sparse(sparse, self.data)?;
        }
        // The last number means "leave as it is" to chown(2).
        let number = |value: i64| {
            let value = u32::try_from(value).ok().filter(|&value| value != u32::MAX);
            value.ok_or_else(|| malformed("an owner is out of range"))
        };
        let uid = match pax.uid {
            Some(uid) => uid,
            None => header.number(108, 8)?,
        };
        let gid = match pax.gid {
            Some(gid) => gid,
            None => header.number(116, 8)?,
        };
        let modified = match pax.modified {
            Some(time) => time,
            None => Time {
                seconds: header.number(136, 12)?,
                nanoseconds: 0,
            },
        };
        let device = if matches!(kind, Kind::CharacterDevice | Kind::BlockDevice) {
            let part =
                |value: i64| u32::try_from(value).map_err(|_| malformed("a device number is out of range"));
            (part(header.number(329, 8)?)?, part(header.number(337, 8)?)?)
        } else {
            (0, 0)
        };
        Ok(Entry {
            kind,
            path: pax.sparse_name.unwrap_or(path),
            link,
            mode: (header.number(100, 8)? & 0o7777) as u32,
            uid: number(uid)?,
            gid: number(gid)?,
            modified,
            device,
            attributes: pax.attributes,
            sparse,
        })
    }

    /// Unread bytes of data of the present entry.
    pub(super) fn remaining(&self) -> u64 {
        self.data
    }

    /// Where in the stream the next byte comes from.
    pub(super) fn position(&self) -> u64 {
        self.before + self.start as u64
    }

    /// The next piece of data of the present entry, at most `limit` bytes;
    /// empty at its end.
    pub(super) fn data(&mut self, limit: u64) -> Result<&[u8], UnpackError> {
        let wanted = self.data.min(limit);
        if wanted == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill()? {
            return Err(UnpackError::Truncated);
        }
        let available = self.end - self.start;
        let count = usize::try_from(wanted).unwrap_or(usize::MAX).min(available);
        let start = self.start;
        self.start += count;
        self.data -= count as u64;
        Ok(self.buffer.get(start..start + count).unwrap_or_default())
    }

    /// Reads the rest of the stream, which belongs to its digest although it
    /// means nothing.
    pub(super) fn drain(&mut self) -> Result<(), UnpackError> {
        self.start = self.end;
        while self.fill()? {
            self.start = self.end;
        }
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), UnpackError> {
        let mut left = self.data.saturating_add(self.padding);
        self.data = 0;
        self.padding = 0;
        while left > 0 {
            if self.start == self.end && !self.fill()? {
                return Err(UnpackError::Truncated);
            }
            let count = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.end - self.start);
            self.start += count;
            left -= count as u64;
        }
        Ok(())
    }

    /// Fills the empty buffer; `false` at the end of the stream.
    fn fill(&mut self) -> Result<bool, UnpackError> {
        loop {
            match self.inner.read(&mut self.buffer) {
                Ok(count) => {
                    self.before += self.end as u64;
                    self.start = 0;
                    self.end = count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
    }

    /// Reads a block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            if self.start == self.end && !self.fill()? {
                return if have == 0 {
                    Ok(None)
                } else {
                    Err(UnpackError::Truncated)
                };
            }
            let count = (BLOCK - have).min(self.end - self.start);
            if let (Some(to), Some(from)) = (
                block.get_mut(have..have + count),
                self.buffer.get(self.start..self.start + count),
            ) {
                to.copy_from_slice(from);
            }
            self.start += count;
            have += count;
        }
        Ok(Some(block))
    }

    /// Reads a header block; `None` at the end of the archive: two blocks of
    /// zeros, or the end of the stream.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, UnpackError> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().all(|&byte| byte == 0) {
            return match self.block()? {
                Some(next) if next.iter().any(|&byte| byte != 0) => {
                    Err(malformed("a lone block of zeros is not an end"))
                }
                _ => Ok(None),
            };
        }
        Header { block: &block }.check()?;
        Ok(Some(block))
    }

    /// Reads the data of an extended header, at most [`EXTENSION_LIMIT`].
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        self.data = size;
        self.padding = padding(size);
        let mut data = Vec::new();
        while self.data > 0 {
            data.extend_from_slice(self.data(u64::MAX)?);
        }
        self.skip_data()?;
        Ok(data)
    }

    /// The map of an old GNU sparse file: in the header and the blocks after it.
    fn gnu_sparse(&mut self, header: &Header<'_>) -> Result<Sparse, UnpackError> {
        let length = header.unsigned(483, 12)?;
        let mut segments = Vec::new();
        let mut more = gnu_segments(header.field(386, 24 * 4), &mut segments)? && header.byte(482) != 0;
        while more {
            let block = self.block()?.ok_or(UnpackError::Truncated)?;
            let next = Header { block: &block };
            more = gnu_segments(next.field(0, 24 * 21), &mut segments)? && next.byte(504) != 0;
            if segments.len() > SEGMENT_LIMIT {
                return Err(malformed("a sparse file has too many segments"));
            }
        }
        Ok(Sparse { segments, length })
    }

    /// The map of a sparse file in pax form.
    fn pax_sparse(&mut self, sparse: PaxSparse) -> Result<Sparse, UnpackError> {
        let length = sparse
            .length
            .ok_or_else(|| malformed("a sparse file has no length"))?;
        let segments = if sparse.map_in_data {
            self.sparse_map()?
        } else if sparse.numbers.len().is_multiple_of(2) {
            sparse
                .numbers
                .chunks_exact(2)
                .filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)))
                .collect()
        } else {
            return Err(malformed("a sparse map has an odd number of values"));
        };
        Ok(Sparse { segments, length })
    }

    /// The map at the start of the data (pax 1.0): decimal lines, padded to a block.
    fn sparse_map(&mut self) -> Result<Vec<(u64, u64)>, UnpackError> {
        let mut line = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut wanted = None;
        while wanted != Some(numbers.len()) {
            if self.data < BLOCK as u64 {
                return Err(malformed("a sparse map does not end"));
            }
            // `data` counts what is stored, and the map is a part of it.
            let block = self.block()?.ok_or(UnpackError::Truncated)?;
            self.data -= BLOCK as u64;
            for byte in block {
                if wanted == Some(numbers.len()) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(malformed("a sparse map holds no number"));
                    }
                    continue;
                }
                let number = decimal(&line).ok_or_else(|| malformed("a sparse map holds no number"))?;
                line.clear();
                if wanted.is_some() {
                    numbers.push(number);
                } else {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > SEGMENT_LIMIT {
                        return Err(malformed("a sparse file has too many segments"));
                    }
                    wanted = Some(count * 2);
                }
            }
        }
        Ok(numbers
            .chunks_exact(2)
            .filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)))
            .collect())
    }
}

/// The archive breaks its format.
fn malformed(reason: &'static str) -> UnpackError {
    UnpackError::Malformed { reason }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Takes pairs of offset and length; `false` at the first unused one.
fn gnu_segments(field: &[u8], segments: &mut Vec<(u64, u64)>) -> Result<bool, UnpackError> {
    for pair in field.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if offset.first() == Some(&0) {
            return Ok(false);
        }
        let parse = |field| {
            u64::try_from(parse_number(field)?).map_err(|_| malformed("a sparse segment is negative"))
        };
        segments.push((parse(offset)?, parse(length)?));
    }
    Ok(true)
}

fn check_sparse(sparse: &Sparse, stored: u64) -> Result<(), UnpackError> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for &(offset, length) in &sparse.segments {
        if offset < end {
            return Err(malformed("the segments of a sparse file overlap"));
        }
        end = offset
            .checked_add(length)
            .ok_or_else(|| malformed("a sparse segment is too long"))?;
        sum += length;
    }
    if end > sparse.length || i64::try_from(sparse.length).is_err() {
        return Err(malformed("a sparse file is longer than it says"));
    }
    if sum != stored {
        return Err(malformed("the segments of a sparse file are not what is stored"));
    }
    Ok(())
}

/// One header block.
struct Header<'a> {
    block: &'a [u8; BLOCK],
}

impl Header<'_> {
    fn field(&self, start: usize, length: usize) -> &[u8] {
        self.block.get(start..start + length).unwrap_or_default()
    }

    fn byte(&self, at: usize) -> u8 {
        self.block.get(at).copied().unwrap_or_default()
    }

    fn kind(&self) -> u8 {
        self.byte(156)
    }

    fn number(&self, start: usize, length: usize) -> Result<i64, UnpackError> {
        parse_number(self.field(start, length))
    }

    fn unsigned(&self, start: usize, length: usize) -> Result<u64, UnpackError> {
        u64::try_from(self.number(start, length)?).map_err(|_| malformed("a size is negative"))
    }

    fn size(&self) -> Result<u64, UnpackError> {
        self.unsigned(124, 12)
    }

    /// The name field, with the prefix that only POSIX archives have.
    fn path(&self) -> Vec<u8> {
        let name = until_nul(self.field(0, 100));
        let prefix = until_nul(self.field(345, 155));
        if self.field(257, 6) == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    /// The checksum: the sum of all bytes with its own field as spaces. Some
    /// old writers summed signed bytes.
    fn check(&self) -> Result<(), UnpackError> {
        let wanted = self.number(148, 8)?;
        let mut unsigned = 0i64;
        let mut signed = 0i64;
        for (at, &byte) in self.block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if wanted == unsigned || wanted == signed {
            Ok(())
        } else {
            Err(malformed("the checksum of a header is wrong"))
        }
    }
}

/// A number: octal digits, or base 256 when the first bit is set (GNU).
fn parse_number(field: &[u8]) -> Result<i64, UnpackError> {
    let first = field.first().copied().unwrap_or_default();
    if first & 0x80 != 0 {
        let mut value: i128 = if first & 0x40 != 0 { -1 } else { 0 };
        for (at, &byte) in field.iter().enumerate() {
            let byte = if at == 0 && first & 0x40 == 0 {
                byte & 0x7f
            } else {
                byte
            };
            value = value << 8 | i128::from(byte);
            if i64::try_from(value).is_err() {
                return Err(malformed("a number in a header is too large"));
            }
        }
        return i64::try_from(value).map_err(|_| malformed("a number in a header is too large"));
    }
    let text = until_nul(field).trim_ascii();
    let mut value: i64 = 0;
    for &byte in text {
        if !(b'0'..=b'7').contains(&byte) {
            return Err(malformed("a number in a header is not octal"));
        }
        value = value << 3 | i64::from(byte - b'0');
    }
    Ok(value)
}

/// What extended headers say about an entry.
#[derive(Clone, Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    modified: Option<Time>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Option<PaxSparse>,
    sparse_name: Option<Vec<u8>>,
    any: bool,
}

/// A sparse file in one of the three pax forms.
#[derive(Clone, Debug, Default)]
struct PaxSparse {
    length: Option<u64>,
    numbers: Vec<u64>,
    map_in_data: bool,
}

impl Pax {
    fn is_empty(&self) -> bool {
        !self.any
    }

    /// Reads records: `length key=value\n`.
    fn read(&mut self, mut data: &[u8]) -> Result<(), UnpackError> {
        self.any = true;
        while !data.is_empty() {
            // Some writers pad with zeros.
            if data.iter().all(|&byte| byte == 0) {
                break;
            }
            let space = data.iter().take(20).position(|&byte| byte == b' ');
            let length = space
                .and_then(|space| decimal(data.get(..space)?))
                .and_then(|length| usize::try_from(length).ok());
            let (Some(space), Some(length)) = (space, length) else {
                return Err(malformed("an extended header has no length"));
            };
            let record = data
                .get(space + 1..length)
                .and_then(|record| record.strip_suffix(b"\n"))
                .ok_or_else(|| malformed("an extended header has a wrong length"))?;
            let equals = record
                .iter()
                .position(|&byte| byte == b'=')
                .ok_or_else(|| malformed("an extended header has no value"))?;
            let (key, value) = record.split_at(equals);
            self.set(key, value.get(1..).unwrap_or_default())?;
            data = data.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), UnpackError> {
        let number = || decimal(value).ok_or_else(|| malformed("an extended header holds no number"));
        let signed = || i64::try_from(number()?).map_err(|_| malformed("an extended header holds no number"));
        let text = || {
            if value.contains(&0) {
                return Err(malformed("a name holds a NUL byte"));
            }
            Ok(Some(value.to_vec()).filter(|value| !value.is_empty()))
        };
        match key {
            b"path" => self.path = text()?,
            b"linkpath" => self.link = text()?,
            // An empty value takes back what a global header said.
            b"size" if value.is_empty() => self.size = None,
            b"uid" if value.is_empty() => self.uid = None,
            b"gid" if value.is_empty() => self.gid = None,
            b"mtime" if value.is_empty() => self.modified = None,
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(signed()?),
            b"gid" => self.gid = Some(signed()?),
            b"mtime" => {
                self.modified =
                    Some(parse_time(value).ok_or_else(|| malformed("an extended header holds no time"))?);
            }
            b"GNU.sparse.name" => self.sparse_name = text()?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse().length = Some(number()?),
            b"GNU.sparse.major" => self.sparse().map_in_data = number()? == 1,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let number = number()?;
                self.sparse().numbers.push(number);
            }
            b"GNU.sparse.map" => {
                let mut numbers = Vec::new();
                for part in value.split(|&byte| byte == b',').filter(|part| !part.is_empty()) {
                    numbers.push(decimal(part).ok_or_else(|| malformed("a sparse map holds no number"))?);
                }
                self.sparse().numbers = numbers;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err(malformed("an extended attribute has no name"));
                    }
                    self.attributes.retain(|(known, _)| known != name);
                    self.attributes.push((name.to_vec(), value.to_vec()));
                    if self.attributes.len() > ATTRIBUTES_LIMIT {
                        return Err(malformed("an entry has too many extended attributes"));
                    }
                }
            }
        }
        if self
            .sparse
            .as_ref()
            .is_some_and(|sparse| sparse.numbers.len() > 2 * SEGMENT_LIMIT)
        {
            return Err(malformed("a sparse file has too many segments"));
        }
        Ok(())
    }

    fn sparse(&mut self) -> &mut PaxSparse {
        self.sparse.get_or_insert_default()
    }

    /// These records, and the global ones where these are silent.
    fn over(self, globals: &Pax) -> Pax {
        Pax {
            path: self.path.or_else(|| globals.path.clone()),
            link: self.link.or_else(|| globals.link.clone()),
            size: self.size.or(globals.size),
            uid: self.uid.or(globals.uid),
            gid: self.gid.or(globals.gid),
            modified: self.modified.or(globals.modified),
            attributes: self.attributes,
            sparse: self.sparse,
            sparse_name: self.sparse_name,
            any: self.any,
        }
    }
}

/// Decimal seconds with a fraction, possibly negative.
fn parse_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut seconds: i64 = whole.parse().ok()?;
    let mut nanoseconds = 0u32;
    for digit in fraction.bytes().chain(std::iter::repeat(b'0')).take(9) {
        nanoseconds = nanoseconds * 10 + u32::from(digit - b'0');
    }
    if whole.starts_with('-') && nanoseconds > 0 {
        // The kernel counts nanoseconds forward from the whole second below.
        seconds = seconds.checked_sub(1)?;
        nanoseconds = 1_000_000_000 - nanoseconds;
    }
    Some(Time { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", 1 << 32),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        ] {
            assert_eq!(parse_number(field).unwrap(), value);
        }
        assert!(parse_number(b"0000648\0").is_err());
        assert!(parse_number(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
    }

    #[test]
    fn times() {
        let time = |seconds, nanoseconds| Some(Time { seconds, nanoseconds });
        assert_eq!(parse_time(b"1700000000.25"), time(1_700_000_000, 250_000_000));
        assert_eq!(parse_time(b"-1.5"), time(-2, 500_000_000));
        assert_eq!(parse_time(b"7"), time(7, 0));
        assert_eq!(parse_time(b"1.5x"), None);
        assert_eq!(parse_time(b""), None);
    }

    #[test]
    fn records() {
        let mut pax = Pax::default();
        pax.read(b"11 path=ab\n9 uid=42\n20 SCHILY.xattr.a=\x00\n")
            .unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"ab"[..]));
        assert_eq!(pax.uid, Some(42));
        assert_eq!(pax.attributes, [(b"a".to_vec(), b"\0".to_vec())]);
        for wrong in [
            &b"x path=a\n"[..],
            b"99 path=a\n",
            b"0 path=a\n",
            b"8 path=a\n",
            b"7 path\n",
            b"10 uid=-1x\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(Pax::default().read(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut reader = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next_entry() {}
        }

        /// Real headers with damaged bytes get much further than noise.
        #[test]
        fn no_damage_makes_it_panic(
            kind in prop::sample::select(&b"01234567xgLKS"[..]),
            body in prop::collection::vec(any::<u8>(), 0..1500),
            damage in prop::collection::vec((0usize..500, any::<u8>()), 0..6),
        ) {
            let mut block = [0u8; BLOCK];
            block[..4].copy_from_slice(b"name");
            block[100..108].copy_from_slice(b"0000644\0");
            block[124..136].copy_from_slice(format!("{:011o}\0", body.len()).as_bytes());
            block[156] = kind;
            block[257..265].copy_from_slice(b"ustar\x0000");
            for (at, byte) in damage {
                block[at] = byte;
            }
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let mut archive = block.to_vec();
            archive.extend(&body);
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
            archive.extend([0; 2 * BLOCK]);
            let mut reader = Reader::new(&archive[..]);
            while let Ok(Some(_)) = reader.next_entry() {
                while let Ok(data) = reader.data(u64::MAX) {
                    if data.is_empty() {
                        break;
                    }
                }
            }
        }
    }
}
