//! A layer's stream: its compression, and where it comes from.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::unpack::UnpackError;

/// How much compressed data is read at once.
const BUFFER: usize = 128 << 10;

/// Decompresses a stream. Its first bytes tell how it is compressed: media
/// types are often wrong, and `docker save` has none.
pub(super) fn decode<'a>(mut stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>, UnpackError> {
    let mut head = [0; 6];
    let mut have = 0;
    while let Some(rest) = head.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(UnpackError::Read(error)),
        }
    }
    let head = head.get(..have).unwrap_or_default().to_vec();
    let unsupported = |reason| Err(UnpackError::Malformed { reason });
    let gzip = head.starts_with(&[0x1f, 0x8b]);
    let zstd = head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    if head.starts_with(b"BZh") {
        return unsupported("it is compressed by bzip2, which images may not be");
    }
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return unsupported("it is compressed by xz, which images may not be");
    }
    let stream = io::Cursor::new(head).chain(stream);
    Ok(if gzip {
        // Several members in a row are one stream (RFC 1952); pigz and others write them.
        Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(
            BUFFER, stream,
        )))
    } else if zstd {
        let decoder = zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(BUFFER, stream));
        Box::new(decoder.map_err(UnpackError::Read)?)
    } else {
        Box::new(stream)
    })
}

/// Reads what a download sends. When the sender goes away without having said
/// that all is sent, that is an error and not the end.
#[derive(Debug)]
pub(super) struct Download {
    receiver: mpsc::Receiver<Bytes>,
    present: Bytes,
    ended: bool,
}

impl Download {
    /// A download and where its data goes: pieces, and an empty one at the end.
    pub(super) fn new() -> (mpsc::Sender<Bytes>, Self) {
        // Pieces are up to some hundred KiB: enough to keep both sides busy, little to hold.
        let (sender, receiver) = mpsc::channel(16);
        let download = Self {
            receiver,
            present: Bytes::new(),
            ended: false,
        };
        (sender, download)
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.present.is_empty() && !self.ended {
            self.present = self
                .receiver
                .blocking_recv()
                .ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionAborted, "the download has ended"))?;
            self.ended = self.present.is_empty();
        }
        let piece = self.present.split_to(self.present.len().min(buffer.len()));
        if let Some(place) = buffer.get_mut(..piece.len()) {
            place.copy_from_slice(&piece);
        }
        Ok(piece.len())
    }
}

/// Reads a part of a file that others read too.
#[derive(Debug)]
pub(super) struct Slice {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Slice {
    pub(super) fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self {
            file,
            offset,
            left: length,
        }
    }
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self
            .file
            .read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A reader that fails once the work it belongs to is given up.
#[derive(Debug)]
pub(super) struct Cancellable<R> {
    inner: R,
    cancelled: Arc<AtomicBool>,
}

impl<R> Cancellable<R> {
    pub(super) fn new(inner: R, cancelled: Arc<AtomicBool>) -> Self {
        Self { inner, cancelled }
    }
}

impl<R: Read> Read for Cancellable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            // Not `Interrupted`: readers try that again.
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cancelled"));
        }
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn decoded(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decode(bytes)
            .map_err(|error| io::Error::other(error.to_string()))?
            .read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_first_bytes_tell_the_compression() {
        assert_eq!(decoded(b"plain").unwrap(), b"plain");
        assert_eq!(decoded(b"").unwrap(), b"");
        assert_eq!(decoded(&gzip(b"data")).unwrap(), b"data");
        assert_eq!(
            decoded(&[gzip(b"two "), gzip(b"members")].concat()).unwrap(),
            b"two members"
        );
        let frame = zstd::encode_all(&b"frame"[..], 1).unwrap();
        assert_eq!(decoded(&frame).unwrap(), b"frame");
        assert_eq!(decoded(&[frame.clone(), frame].concat()).unwrap(), b"frameframe");
        assert!(decoded(b"BZh91AY").unwrap_err().to_string().contains("bzip2"));
        assert!(decoded(b"\xfd7zXZ\0").unwrap_err().to_string().contains("xz"));
        let whole = gzip(&[7; 1000]);
        assert!(decoded(&whole[..whole.len() - 5]).is_err());
    }

    #[test]
    fn a_download_that_stops_is_not_at_its_end() {
        let (sender, mut download) = Download::new();
        sender.try_send(Bytes::from_static(b"ab")).unwrap();
        sender.try_send(Bytes::new()).unwrap();
        drop(sender);
        let mut out = Vec::new();
        download.read_to_end(&mut out).unwrap();
        assert_eq!(out, b"ab");

        let (sender, mut download) = Download::new();
        sender.try_send(Bytes::from_static(b"ab")).unwrap();
        drop(sender);
        assert!(download.read_to_end(&mut Vec::new()).is_err());
    }
}
