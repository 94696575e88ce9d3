//! A layer in the making: who makes it, and what it has to be.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Digesting};
use super::error::ImageError;
use super::layer::decode;
use super::pull::Layer;
use super::store::{ImageStore, read_damaged, remove_all};
use super::unpack;
use crate::store::{StoreError, write_record};

/// `layer.json` beside a layer's `fs`: written when `fs` is whole.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// The boot in which it was unpacked; until it is synced it means nothing in another.
    pub(super) boot: String,
    /// Digest and size of the packed form it came in.
    #[serde(default)]
    pub(super) packed: Option<(Digest, u64)>,
    /// Folders to [`unpack::adopt()`], as hexadecimal digits: names are bytes.
    pub(super) unlisted: Vec<String>,
}

/// The record of a layer in `ingest/` that was unpacked to its end in this boot.
pub(super) fn whole_layer(folder: &Path) -> Result<Option<LayerRecord>, ImageError> {
    let record = match read_damaged::<LayerRecord>(&folder.join("layer.json")) {
        // A lock file lies there too.
        Err(ImageError::Store(StoreError::Io { source, .. }))
            if source.kind() == io::ErrorKind::NotADirectory =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let boot = boot()?;
    Ok(record.filter(|record| record.boot == boot))
}

/// The present boot of the machine.
pub(super) fn boot() -> Result<String, ImageError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(ImageError::io("read", path))?;
    Ok(text.trim().to_owned())
}

/// A claim on one layer while it is being made: nobody else makes it. Falls with
/// the process that holds it.
#[derive(Debug)]
pub(super) struct Lease {
    _file: File,
    lock: PathBuf,
    /// Where the layer grows: `layer.json` and `fs`.
    pub(super) folder: PathBuf,
}

impl Lease {
    /// Claims a layer; `None` while another holds it.
    pub(super) fn take(store: &ImageStore, layer: &Digest) -> Result<Option<Self>, ImageError> {
        let folder = store.ingest().join(layer.hex());
        let lock = store.ingest().join(layer.hex() + ".lock");
        loop {
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600);
            let file = options.open(&lock).map_err(ImageError::io("open", &lock))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(ImageError::io("lock", &lock)(error)),
            }
            // Its holder removes the file: what we have locked may be gone.
            let own = file.metadata().map_err(ImageError::io("look at", &lock))?.ino();
            if fs::symlink_metadata(&lock).is_ok_and(|found| found.ino() == own) {
                return Ok(Some(Self {
                    _file: file,
                    lock,
                    folder,
                }));
            }
        }
    }

    /// The layer's record, when an earlier attempt had unpacked it to its end.
    pub(super) fn whole(&self) -> Result<Option<LayerRecord>, ImageError> {
        whole_layer(&self.folder)
    }
}

impl Lease {
    /// Where the packed form of the layer grows, and its digest; `None` without one.
    pub(super) fn part(&self, layer: &Layer) -> Option<(PathBuf, Digest)> {
        let digest = layer.blob.map_or(layer.diff, |(digest, _)| digest);
        let name = format!("{}.{}.part", layer.diff.hex(), digest.hex());
        Some((self.folder.parent()?.join(name), digest))
    }

    /// What an earlier attempt has of the packed form, and how much.
    pub(super) fn resume(&self, layer: &Layer) -> Result<(Option<File>, u64), ImageError> {
        let (Some((path, _)), Some((_, size))) = (self.part(layer), layer.blob) else {
            return Ok((None, 0));
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, 0)),
            Err(error) => return Err(ImageError::io("open", &path)(error)),
        };
        let have = file.metadata().map_err(ImageError::io("look at", &path))?.len();
        if have == 0 || have > size {
            remove_all(&path)?;
            return Ok((None, 0));
        }
        Ok((Some(file), have))
    }

    /// Removes what there is of the packed form.
    pub(super) fn forget(&self, layer: &Layer) -> Result<(), ImageError> {
        self.part(layer).map_or(Ok(()), |(path, _)| remove_all(&path))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Before the lock falls, so that nobody waits for a file without a name.
        let _ = fs::remove_file(&self.lock);
    }
}

/// Makes a layer in its folder out of a stream and checks that it is the right
/// one. `layer.json` is there only when all is well. With `keep` the packed form
/// is kept beside it; so many bytes of it are there already.
pub(super) fn receive(
    image: &str,
    layer: &Layer,
    stream: impl Read,
    lease: &Lease,
    keep: Option<u64>,
) -> Result<LayerRecord, ImageError> {
    remove_all(&lease.folder)?;
    let result = match keep.and_then(|have| Some((have, lease.part(layer)?.0))) {
        None => fill(image, layer, stream, lease),
        Some((have, path)) => {
            let mut options = File::options();
            options.create(true).write(true).truncate(false).mode(0o600);
            let file = options.open(&path).map_err(ImageError::io("create", &path))?;
            file.set_len(have)
                .map_err(ImageError::io("set the length of", &path))?;
            let mut stream = Keeping {
                inner: stream,
                file,
                skip: have,
                at: 0,
                failed: None,
            };
            let result = fill(image, layer, &mut stream, lease);
            match stream.failed {
                Some(error) => Err(ImageError::io("write", &path)(error)),
                None => result,
            }
        }
    };
    if let Err(error) = &result {
        remove_all(&lease.folder)?;
        // What came before a break of the connection is good for the next attempt.
        let broken = matches!(
            error,
            ImageError::Unpack {
                source: unpack::UnpackError::Read(_),
                ..
            }
        );
        let empty = lease
            .part(layer)
            .is_some_and(|(path, _)| fs::metadata(path).is_ok_and(|found| found.len() == 0));
        if !broken || empty {
            lease.forget(layer)?;
        }
    }
    result
}

/// Writes what is read through it to a file.
struct Keeping<R> {
    inner: R,
    file: File,
    /// So much is in the file already.
    skip: u64,
    at: u64,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Keeping<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let end = self.at + count as u64;
        let skipped = usize::try_from(self.skip.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if let Some(fresh) = buffer.get(skipped.min(count)..count)
            && !fresh.is_empty()
        {
            let place = end - fresh.len() as u64;
            if let Err(error) = self.file.write_all_at(fresh, place) {
                let text = io::Error::other("the packed layer cannot be kept");
                self.failed = Some(error);
                return Err(text);
            }
        }
        self.at = end;
        Ok(count)
    }
}

fn fill(image: &str, layer: &Layer, stream: impl Read, lease: &Lease) -> Result<LayerRecord, ImageError> {
    let fs_path = lease.folder.join("fs");
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder
        .create(&fs_path)
        .map_err(ImageError::io("create", &fs_path))?;
    let folder = open_folder(&fs_path)?;
    // Whatever the umask is: this is the root folder that a container may see.
    rustix::fs::fchmod(&folder, rustix::fs::Mode::from_raw_mode(0o755))
        .map_err(|error| ImageError::io("set the mode of", &fs_path)(error.into()))?;
    let limits = unpack::Limits::of(&folder).map_err(ImageError::io("look at", &fs_path))?;
    let what = || format!("layer {}", layer.name());
    let mut packed = Digesting::new(stream);
    let unpacked = decode(&mut packed).and_then(|plain| {
        let mut plain = Digesting::new(plain);
        let unpacked = unpack::unpack(&mut plain, &folder, limits)?;
        Ok((unpacked, plain.finish().0))
    });
    // What follows the compressed data belongs to the blob; and of a damaged
    // blob the digest tells more than how the damage shows.
    let drained = io::copy(&mut packed, &mut io::sink());
    let (digest, size) = packed.finish();
    if drained.is_ok()
        && let Some((expected, expected_size)) = layer.blob
    {
        if size != expected_size {
            return Err(ImageError::WrongSize {
                image: image.to_owned(),
                what: what(),
                expected: expected_size,
                actual: size,
            });
        }
        if digest != expected {
            return Err(ImageError::WrongDigest {
                image: image.to_owned(),
                what: what(),
                expected,
                actual: digest,
            });
        }
    }
    let unpack_error = |source| ImageError::Unpack {
        image: image.to_owned(),
        layer: layer.name(),
        source,
    };
    let (unpacked, diff) = unpacked.map_err(unpack_error)?;
    drained.map_err(|error| unpack_error(unpack::UnpackError::Read(error)))?;
    if diff != layer.diff {
        return Err(ImageError::WrongDigest {
            image: image.to_owned(),
            what: what() + ", decompressed,",
            expected: layer.diff,
            actual: diff,
        });
    }
    let record = LayerRecord {
        bytes: unpacked.bytes,
        entries: unpacked.entries,
        boot: boot()?,
        packed: Some((digest, size)),
        unlisted: unpacked.unlisted.iter().map(|path| to_hex(path)).collect(),
    };
    write_record(&lease.folder.join("layer.json"), &record)?;
    Ok(record)
}

pub(super) fn open_folder(path: &Path) -> Result<OwnedFd, ImageError> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|error| ImageError::io("open", path)(error.into()))
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads what [`to_hex`] wrote.
pub(super) fn from_hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}
