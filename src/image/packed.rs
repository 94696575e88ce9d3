//! The packed form of an image that is here: what goes to a registry or into an
//! archive.
//!
//! A layer's archive is looked for where it costs least: among the blobs that
//! are kept, in the file that the image came from, in the registry that it came
//! from, and last it is made of the layer's folder again, which gives the same
//! archive for the layers that this program has made itself.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::json;
use tokio::sync::mpsc;

use super::archive::Archive;
use super::config;
use super::digest::{Digest, Digesting};
use super::error::ImageError;
use super::ingest::open_folder;
use super::manifest::{self, Document, Platform};
use super::pack::{Form, pack};
use super::progress::{Events, blocking};
use super::pull::Place;
use super::reference::Source;
use super::registry::{Access, Packed, Registry};
use super::store::{ImageStore, Part, Stamp};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer in its packed form.
#[derive(Clone, Debug)]
pub(super) struct PackedLayer {
    pub(super) digest: Digest,
    pub(super) packed: Packed,
    /// As its first bytes tell.
    kind: &'static str,
}

/// An image in its packed form.
#[derive(Clone, Debug)]
pub(super) struct PackedImage {
    pub(super) id: Digest,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
    pub(super) manifest_kind: String,
    /// Base first, as often as they occur.
    pub(super) layers: Vec<PackedLayer>,
}

impl ImageStore {
    /// The packed form of an image. With `compress` layers that lie here as
    /// plain archives are compressed, as registries want them.
    pub(super) async fn packed(
        &self,
        name: &Arc<str>,
        id: Digest,
        compress: bool,
        events: &Events,
    ) -> Result<PackedImage, ImageError> {
        // What is open cannot be pruned away.
        let using = self.shared().await?;
        let absent = || ImageError::Absent {
            name: name.to_string(),
        };
        let record = self.record(&id)?.ok_or_else(absent)?;
        let config = self.read_blob(&id)?.ok_or_else(absent)?;
        let mut manifest = match record.manifest {
            Some(digest) => self.read_blob(&digest)?,
            None => None,
        };
        let mut found: Vec<Option<Packed>> = Vec::new();
        for part in &record.parts {
            found.push(self.kept(part)?);
        }
        drop(using);
        self.out_of_files(name, id, &record.parts, &mut found).await?;
        let mut layers = Vec::with_capacity(record.parts.len());
        for (part, packed) in record.parts.iter().zip(found) {
            let packed = match packed {
                Some(packed) => packed,
                None => match self.out_of_registry(name, id, part, events).await? {
                    Some(packed) => packed,
                    None => self.made_again(name, part).await?,
                },
            };
            layers.push((part.clone(), packed));
        }
        let store = self.clone();
        let image = Arc::clone(name);
        blocking(Arc::clone(name), move || {
            let mut done = Vec::with_capacity(layers.len());
            for (part, packed) in layers {
                let kind = kind_of(&packed).map_err(ImageError::io("read", &store.ingest()))?;
                let (digest, packed, kind) = match (kind, part.blob) {
                    ("", _) if compress => {
                        let (digest, packed) = compressed(&packed, &store.ingest())?;
                        (digest, packed, "+gzip")
                    }
                    ("", Some((digest, size))) if size == packed.len() => (digest, packed, ""),
                    ("", _) => (part.diff, packed, ""),
                    (kind, Some((digest, _))) => (digest, packed, kind),
                    (_, None) => {
                        return Err(ImageError::Cancelled {
                            image: image.to_string(),
                        });
                    }
                };
                done.push(PackedLayer { digest, packed, kind });
            }
            // The manifest as it came is good for the layers as they came.
            let same = manifest
                .as_deref()
                .and_then(|bytes| match manifest::parse(bytes) {
                    Ok(Document::Manifest { layers, .. }) => Some(layers),
                    _ => None,
                });
            let same = same.is_some_and(|layers| {
                layers.len() == done.len() && layers.iter().zip(&done).all(|(a, b)| a.digest == b.digest)
            });
            if !same {
                manifest = None;
            }
            let manifest = match manifest {
                Some(manifest) => manifest,
                None => made(id, &config, &done),
            };
            let kind = serde_json::from_slice::<serde_json::Value>(&manifest).ok();
            let kind = kind.and_then(|value| Some(value.get("mediaType")?.as_str()?.to_owned()));
            Ok(PackedImage {
                id,
                config,
                manifest,
                manifest_kind: kind.unwrap_or_else(|| OCI_MANIFEST.to_owned()),
                layers: done,
            })
        })
        .await
    }

    /// A layer's blob, when it is kept and has its length.
    fn kept(&self, part: &Part) -> Result<Option<Packed>, ImageError> {
        let Some((digest, size)) = part.blob else {
            return Ok(None);
        };
        let path = self.blob(&digest);
        match File::open(&path) {
            Ok(file) => {
                let length = file.metadata().map_err(ImageError::io("look at", &path))?.len();
                Ok((length == size).then(|| Packed::File(Arc::new(file), 0, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io("open", &path)(error)),
        }
    }

    /// Fills in what the file has that the image came from, if it is unchanged.
    async fn out_of_files(
        &self,
        name: &Arc<str>,
        id: Digest,
        parts: &[Part],
        found: &mut [Option<Packed>],
    ) -> Result<(), ImageError> {
        if found.iter().all(Option::is_some) {
            return Ok(());
        }
        for pointer in self.pointers()?.into_iter().filter(|pointer| pointer.id == id) {
            let Ok(source) = Source::parse(&pointer.source) else {
                continue;
            };
            let current = Stamp::of(&source)?;
            if current.is_none() || self.stamp_of(&source)? != current {
                continue;
            }
            let (ingest, image) = (self.ingest(), Arc::clone(name));
            let platform = match self.image(&id, String::new())? {
                Some(image) => Platform {
                    os: image.config.os,
                    architecture: image.config.architecture,
                    variant: Some(image.config.variant).filter(|variant| !variant.is_empty()),
                },
                None => Platform::own(),
            };
            let work = move || Archive::open(&image, &source, &ingest)?.find(&platform);
            let Ok(candidate) = blocking(Arc::clone(name), work).await else {
                continue;
            };
            if Digest::of(&candidate.config) != id || candidate.layers.len() != parts.len() {
                continue;
            }
            for (place, blob) in found.iter_mut().zip(candidate.layers) {
                if place.is_some() {
                    continue;
                }
                *place = match blob.place {
                    Place::File(path) => {
                        let file = File::open(&path).map_err(ImageError::io("open", &path))?;
                        let size = file.metadata().map_err(ImageError::io("look at", &path))?.len();
                        Some(Packed::File(Arc::new(file), 0, size))
                    }
                    Place::Slice(file, offset, length) => Some(Packed::File(file, offset, length)),
                    Place::Registry => None,
                };
            }
        }
        Ok(())
    }

    /// Fetches a blob from where the image was pulled from, into a nameless file.
    async fn out_of_registry(
        &self,
        name: &Arc<str>,
        id: Digest,
        part: &Part,
        events: &Events,
    ) -> Result<Option<Packed>, ImageError> {
        let Some((digest, size)) = part.blob else {
            return Ok(None);
        };
        for pointer in self.pointers()?.into_iter().filter(|pointer| pointer.id == id) {
            let (Ok(Source::Registry(reference)), true) =
                (Source::parse(&pointer.source), pointer.top.is_some())
            else {
                continue;
            };
            for client in Registry::clients(name, &reference, &Access::Pull, self.places(), events)? {
                let (sender, mut receiver) = mpsc::channel(16);
                let received = AtomicU64::new(0);
                let mut file = nameless(&self.ingest())?;
                let ingest = self.ingest();
                let write = tokio::task::spawn_blocking(move || {
                    while let Some(data) = receiver
                        .blocking_recv()
                        .filter(|data: &hyper::body::Bytes| !data.is_empty())
                    {
                        file.write_all(&data).map_err(ImageError::io("write", &ingest))?;
                    }
                    file.rewind().map_err(ImageError::io("read", &ingest))?;
                    let mut digesting = Digesting::new(&file);
                    io::copy(&mut digesting, &mut io::sink()).map_err(ImageError::io("read", &ingest))?;
                    let (found, _) = digesting.finish();
                    Ok::<_, ImageError>((file, found))
                });
                let fetched = client.layer(&digest, size, &received, &sender).await;
                drop(sender);
                let written = write.await.unwrap_or_else(|_| {
                    Err(ImageError::Cancelled {
                        image: name.to_string(),
                    })
                });
                let (file, actual) = written?;
                if fetched.is_ok() && actual == digest {
                    return Ok(Some(Packed::File(Arc::new(file), 0, size)));
                }
            }
        }
        Ok(None)
    }

    /// Packs a layer's folder again.
    async fn made_again(&self, name: &Arc<str>, part: &Part) -> Result<Packed, ImageError> {
        let (store, part, image) = (self.clone(), part.clone(), Arc::clone(name));
        blocking(Arc::clone(name), move || {
            let folder = open_folder(&store.layer(&part.name).join("fs"))?;
            let mut file = nameless(&store.ingest())?;
            let io = |error| ImageError::io("pack", &store.layer(&part.name))(error);
            let (digest, size) = {
                let mut out = Hashing::new(io::BufWriter::with_capacity(1 << 20, &file));
                pack(vec![folder], Form::Difference, &mut out).map_err(io)?;
                out.finish().map_err(io)?
            };
            file.rewind().map_err(io)?;
            if digest != part.diff {
                return Err(ImageError::Settings {
                    image: image.to_string(),
                    reason: format!(
                        "the packed form of layer {} is no longer here, nor where the image came from: pull it again",
                        part.diff.short()
                    ),
                });
            }
            Ok(Packed::File(Arc::new(file), 0, size))
        })
        .await
    }
}

/// A file without a name, which goes with this process.
pub(super) fn nameless(folder: &Path) -> Result<File, ImageError> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, folder, flags, Mode::from_raw_mode(0o600))
        .map(File::from)
        .map_err(|error| ImageError::io("create a file in", folder)(error.into()))
}

/// A writer that digests and counts what is written through it.
pub(super) struct Hashing<W> {
    inner: W,
    hasher: sha2::Sha256,
    count: u64,
}

impl<W: io::Write> Hashing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: <sha2::Sha256 as sha2::Digest>::new(),
            count: 0,
        }
    }

    /// Digest and length of what was written.
    pub(super) fn finish(self) -> io::Result<(Digest, u64)> {
        let (digest, count, _) = self.into_parts()?;
        Ok((digest, count))
    }

    /// The same, and what it was written to.
    pub(super) fn into_parts(mut self) -> io::Result<(Digest, u64, W)> {
        self.inner.flush()?;
        let digest = Digest::from_bytes(sha2::Digest::finalize(self.hasher).into());
        Ok((digest, self.count, self.inner))
    }
}

impl<W: io::Write> io::Write for Hashing<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(data)?;
        sha2::Digest::update(&mut self.hasher, data.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// What follows the media type of a plain archive: how a layer is compressed.
fn kind_of(packed: &Packed) -> io::Result<&'static str> {
    let mut head = [0; 4];
    let have = match packed {
        Packed::File(file, offset, length) => {
            let have = std::os::unix::fs::FileExt::read_at(&**file, &mut head, *offset)?;
            have.min(usize::try_from(*length).unwrap_or(usize::MAX))
        }
        Packed::Bytes(data) => io::Read::read(&mut data.as_ref(), &mut head)?,
    };
    let head = head.get(..have).unwrap_or_default();
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        "+gzip"
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        "+zstd"
    } else {
        ""
    })
}

/// Compresses a plain archive into a nameless file. The same archive always
/// gives the same bytes.
fn compressed(packed: &Packed, scratch: &Path) -> Result<(Digest, Packed), ImageError> {
    let io = |error| ImageError::io("compress a layer in", scratch)(error);
    let file = nameless(scratch)?;
    let out = Hashing::new(io::BufWriter::with_capacity(1 << 20, &file));
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    match packed {
        Packed::File(file, offset, length) => {
            let mut slice = super::layer::Slice::new(Arc::clone(file), *offset, *length);
            io::copy(&mut slice, &mut encoder).map_err(io)?;
        }
        Packed::Bytes(data) => encoder.write_all(data).map_err(io)?,
    }
    let (digest, size) = encoder.finish().and_then(Hashing::finish).map_err(io)?;
    Ok((digest, Packed::File(Arc::new(file), 0, size)))
}

/// A manifest for an image that came without one, or whose layers are packed
/// anew.
fn made(id: Digest, config: &[u8], layers: &[PackedLayer]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({
                "mediaType": format!("{OCI_LAYER}{}", layer.kind),
                "digest": layer.digest.to_string(),
                "size": layer.packed.len(),
            })
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": id.to_string(), "size": config.len()},
        "layers": layers,
    });
    manifest.to_string().into_bytes()
}

/// The platform that a configuration is for, as an index has it.
pub(super) fn platform_of(config: &[u8]) -> serde_json::Value {
    let parsed = config::parse(config)
        .map(|(config, _)| config)
        .unwrap_or_default();
    let mut platform = json!({"architecture": parsed.architecture, "os": parsed.os});
    if let Some(object) = platform.as_object_mut().filter(|_| !parsed.variant.is_empty()) {
        object.insert("variant".to_owned(), parsed.variant.into());
    }
    platform
}
