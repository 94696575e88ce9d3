//! The image store: what is here, what it is made of, and who may touch it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::config::{self, ImageConfig};
use super::digest::Digest;
use super::error::ImageError;
use super::ingest::{LayerRecord, Lease, whole_layer};
use super::reference::Source;
use super::registry::Places;
use crate::store::{StoreError, read_record};

/// What programs in a container find their commands by when nothing says so.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image that is on this machine, ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `sha256:` and the digest of the configuration; for `rootfs:`, of the path.
    pub id: String,
    /// The source, in its canonical form.
    pub reference: String,
    /// How its containers run.
    pub config: ImageConfig,
    /// Folders for overlayfs, topmost first, each once, never to be written to.
    pub layers: Vec<PathBuf>,
    /// A `rootfs:` source: the only layer is a directory of the host.
    pub rootfs: bool,
}

/// A line of [`ImageStore::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The source, in its canonical form.
    pub reference: String,
    /// Image id.
    pub id: String,
    /// Bytes of file data in its layers, shared ones included.
    pub bytes: u64,
    /// When it came.
    pub pulled: SystemTime,
}

/// What [`ImageStore::prune`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Sources that were forgotten.
    pub references: Vec<String>,
    /// Ids of the images.
    pub ids: Vec<String>,
    /// Bytes of packed layers, manifests and configurations.
    pub packed: u64,
    /// Images.
    pub images: usize,
    /// Layers.
    pub layers: usize,
    /// Bytes of file data in these layers.
    pub bytes: u64,
}

/// The images of one world. Cheap to make and to copy; opens nothing.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
    places: Places,
}

/// `references/<digest of the source>.json`: which image a source is.
#[derive(Debug, Serialize, Deserialize)]
struct ReferenceRecord {
    source: String,
    id: Digest,
    /// What a local source looked like when it was imported.
    stamp: Option<Stamp>,
    /// Digest of the manifest or index that the source pointed at.
    #[serde(default)]
    top: Option<Digest>,
}

/// A source that is known.
#[derive(Clone, Debug)]
pub(super) struct Pointer {
    pub(super) source: String,
    pub(super) id: Digest,
    pub(super) top: Option<Digest>,
}

/// `records/<id>.json`: what an image is made of. Written last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    /// Digest of the manifest, when there is one.
    pub(super) manifest: Option<Digest>,
    /// Names of folders in `layers/`, topmost first: what overlayfs gets.
    pub(super) layers: Vec<String>,
    /// All its layers, base first.
    #[serde(default)]
    pub(super) parts: Vec<Part>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    /// Digest of the decompressed archive.
    pub(super) diff: Digest,
    /// The folder in `layers/`.
    pub(super) name: String,
    /// Digest and size of the packed form, which may be kept in `blobs/`.
    pub(super) blob: Option<(Digest, u64)>,
}

/// What tells that a local source has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stamp {
    /// Digest of a layout's `index.json`.
    Index(Digest),
    /// An archive: device, inode, size, time of change in nanoseconds.
    File(u64, u64, u64, i128),
}

impl Stamp {
    /// The present stamp of a source; `None` for one without, and when the place
    /// is not there.
    pub(super) fn of(source: &Source) -> Result<Option<Self>, ImageError> {
        let absent = |error: io::Error, path: &Path| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(ImageError::io("look at", path)(error)),
        };
        match source {
            Source::Registry(_) | Source::Rootfs { .. } => Ok(None),
            Source::Layout { path, .. } => {
                let index = path.join("index.json");
                match fs::read(&index) {
                    Ok(bytes) => Ok(Some(Self::Index(Digest::of(&bytes)))),
                    Err(error) => absent(error, &index),
                }
            }
            Source::LayoutArchive { path, .. } | Source::DockerArchive { path, .. } => {
                match fs::metadata(path) {
                    Ok(found) => Ok(Some(Self::File(
                        found.dev(),
                        found.ino(),
                        found.size(),
                        i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
                    ))),
                    Err(error) => absent(error, path),
                }
            }
        }
    }
}

impl ImageStore {
    /// The store in a directory, which need not be there yet.
    pub fn open(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            places: Places::default(),
        }
    }

    /// Takes registry credentials from this `config.json` instead of
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    #[must_use]
    pub fn with_docker_config(mut self, file: PathBuf) -> Self {
        self.places.docker_config = Some(file);
        self
    }

    /// Reads the settings of registries (`daemon.json`, `registries.conf`,
    /// `certs.d`) below this folder instead of `/`, and none of the user's.
    #[must_use]
    pub fn with_settings_below(mut self, root: PathBuf) -> Self {
        self.places.root = root;
        self
    }

    /// The image of a source, when it is here: a few small reads, no network.
    ///
    /// A layout or archive that has changed since it was imported is not here;
    /// one that is gone still is. `rootfs:PATH` is always here, with an empty
    /// configuration but for [`DEFAULT_PATH`]: the directory as it stands is the
    /// read-only lower layer, and what containers write goes to their own layer.
    /// As with any lower layer, what changes in the directory while a container
    /// runs may or may not show in it.
    ///
    /// # Errors
    /// [`ImageError::Reference`]; [`ImageError::Place`] when a `rootfs:` path is
    /// not a directory; [`ImageError::Store`] or [`ImageError::Io`] when the
    /// store cannot be read.
    pub fn resolve(&self, source: &str) -> Result<Option<Image>, ImageError> {
        let source = Source::parse(source)?;
        if let Source::Rootfs { path } = &source {
            return rootfs(&source, path).map(Some);
        }
        let canonical = source.to_string();
        let Some(record) = read_damaged::<ReferenceRecord>(&self.reference_path(&canonical))? else {
            return Ok(None);
        };
        if let Some(stamp) = Stamp::of(&source)?
            && record.stamp.as_ref() != Some(&stamp)
        {
            return Ok(None);
        }
        self.image(&record.id, canonical)
    }

    /// When the registry of a source was last asked for it; `None` for what is
    /// not here or from no registry.
    ///
    /// # Errors
    /// [`ImageError::Reference`]; [`ImageError::Io`] when the store cannot be read.
    pub fn last_asked(&self, source: &str) -> Result<Option<SystemTime>, ImageError> {
        let source = Source::parse(source)?;
        let Source::Registry(_) = &source else {
            return Ok(None);
        };
        let path = self.reference_path(&source.to_string());
        match fs::metadata(&path).and_then(|found| found.modified()) {
            Ok(time) => Ok(Some(time)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io("look at", &path)(error)),
        }
    }

    /// The image with an id (`sha256:…`), when it is here; its reference is the id.
    ///
    /// # Errors
    /// [`ImageError::Store`] or [`ImageError::Io`] when the store cannot be read.
    pub fn get(&self, id: &str) -> Result<Option<Image>, ImageError> {
        match Digest::parse(id) {
            Some(digest) => self.image(&digest, id.to_owned()),
            None => Ok(None),
        }
    }

    /// Every source that has been pulled, sorted.
    ///
    /// # Errors
    /// [`ImageError::Store`] or [`ImageError::Io`] when the store cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let mut list = Vec::new();
        for name in names(&self.root.join("references"))? {
            let path = self.root.join("references").join(&name);
            let Some(record) = read_damaged::<ReferenceRecord>(&path)? else {
                continue;
            };
            let Some(image) = read_damaged::<ImageRecord>(&self.record_path(&record.id))? else {
                continue;
            };
            let pulled = fs::metadata(&path).and_then(|found| found.modified());
            let mut bytes = 0;
            for layer in &image.layers {
                bytes += self.layer_bytes(layer)?;
            }
            list.push(Listed {
                reference: record.source,
                id: record.id.to_string(),
                bytes,
                pulled: pulled.map_err(ImageError::io("look at", &path))?,
            });
        }
        list.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(list)
    }

    /// Forgets a source. Its layers stay until [`ImageStore::prune`]. `false`
    /// when it was not here.
    ///
    /// # Errors
    /// [`ImageError::Reference`]; [`ImageError::Io`] when it cannot be removed.
    pub fn remove(&self, source: &str) -> Result<bool, ImageError> {
        let path = self.reference_path(&Source::parse(source)?.to_string());
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ImageError::io("remove", &path)(error)),
        }
    }

    /// Removes every image that no source names and that is not among `keep`
    /// (the ids of the containers' images), its layers unless other images share
    /// them, and all leftovers. Waits for pulls in other processes.
    ///
    /// # Errors
    /// [`ImageError::Store`] or [`ImageError::Io`] when the store cannot be read
    /// or something cannot be removed; the rest is then left for the next time.
    pub fn prune(&self, keep: &BTreeSet<String>) -> Result<Pruned, ImageError> {
        let _alone = self.alone()?;
        self.sweep(false)?;
        let mut ids: BTreeSet<Digest> = keep.iter().filter_map(|id| Digest::parse(id)).collect();
        for name in names(&self.root.join("references"))? {
            let path = self.root.join("references").join(name);
            if let Some(record) = read_damaged::<ReferenceRecord>(&path)? {
                ids.insert(record.id);
            }
        }
        self.sweep_images(&ids)
    }

    /// Removes every image but these, and what only they have. For who has the
    /// store alone.
    pub(super) fn sweep_images(&self, ids: &BTreeSet<Digest>) -> Result<Pruned, ImageError> {
        let mut pruned = Pruned::default();
        let mut layers = BTreeSet::new();
        let mut blobs = BTreeSet::new();
        for name in names(&self.root.join("records"))? {
            let path = self.root.join("records").join(&name);
            let id = name.strip_suffix(".json").and_then(Digest::parse_hex);
            let record = read_damaged::<ImageRecord>(&path)?;
            match (id, record) {
                (Some(id), Some(record)) if ids.contains(&id) => {
                    blobs.insert(id.hex());
                    blobs.extend(record.manifest.map(|digest| digest.hex()));
                    blobs.extend(record.parts.iter().filter_map(|part| Some(part.blob?.0.hex())));
                    layers.extend(record.parts.into_iter().map(|part| part.name));
                    layers.extend(record.layers);
                }
                _ => {
                    // First the record, then what it names: it never lies.
                    fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
                    pruned.ids.extend(id.map(|id| id.to_string()));
                    pruned.images += 1;
                }
            }
        }
        for name in names(&self.root.join("layers"))? {
            if !layers.contains(&name) {
                pruned.bytes += self.layer_bytes(&name)?;
                self.discard(&self.root.join("layers").join(&name))?;
                pruned.layers += 1;
            }
        }
        for name in names(&self.blobs())? {
            if !blobs.contains(&name) {
                let path = self.blobs().join(&name);
                pruned.packed += fs::metadata(&path).map_or(0, |found| found.len());
                fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
            }
        }
        Ok(pruned)
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Makes the folders of the store. Only root may look inside: layers hold
    /// set-user-ID programs.
    pub(super) fn prepare(&self) -> Result<(), ImageError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        let parent = self.root.parent().unwrap_or(&self.root);
        builder.create(parent).map_err(ImageError::io("create", parent))?;
        builder.mode(0o700);
        for name in [
            "references",
            "records",
            "blobs/sha256",
            "layers",
            "ingest",
            "trash",
        ] {
            let path = self.root.join(name);
            builder.create(&path).map_err(ImageError::io("create", &path))?;
        }
        Ok(())
    }

    /// The lock that whoever brings images shares, and whoever removes them has alone.
    pub(super) fn lock_file(&self) -> Result<File, ImageError> {
        let path = self.root.join("lock");
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        options.open(&path).map_err(ImageError::io("open", &path))
    }

    /// Removes what killed processes left. Only for who has the store alone.
    /// Layers that are whole but not yet part of an image may be kept, for the
    /// next attempt to bring that image.
    pub(super) fn sweep(&self, keep_whole: bool) -> Result<(), ImageError> {
        for name in all_names(&self.root.join("trash"))? {
            remove_all(&self.root.join("trash").join(name))?;
        }
        for name in all_names(&self.root.join("ingest"))? {
            let path = self.root.join("ingest").join(&name);
            // What somebody has claimed is being made just now.
            let layer = name.get(..64).and_then(Digest::parse_hex);
            let lease = match layer {
                Some(layer) => match Lease::take(self, &layer)? {
                    Some(lease) => Some(lease),
                    None => continue,
                },
                None => None,
            };
            let wanted = name.ends_with(".part") || whole_layer(&path)?.is_some();
            if !(keep_whole && wanted) {
                remove_all(&path)?;
            }
            drop(lease);
        }
        for folder in ["references", "records", "blobs/sha256"] {
            let folder = self.root.join(folder);
            for name in all_names(&folder)? {
                if name.starts_with(NEW) {
                    remove_all(&folder.join(name))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn ingest(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(super) fn layer(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
    }

    /// Whether a layer is here.
    pub(super) fn has_layer(&self, name: &str) -> Result<bool, ImageError> {
        let path = self.layer(name).join("fs");
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok(found.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ImageError::io("look at", &path)(error)),
        }
    }

    /// Whether an image is here with all its layers.
    pub(super) fn has_image(&self, id: &Digest) -> Result<bool, ImageError> {
        Ok(self.image(id, String::new())?.is_some())
    }

    /// Writes the records of an image whose layers are here, and the documents
    /// they come from, synced and in the order that leaves nothing unexplained.
    pub(super) fn commit(
        &self,
        id: &Digest,
        config: &[u8],
        manifest: Option<(&Digest, &[u8])>,
        layers: Vec<String>,
        parts: Vec<Part>,
    ) -> Result<(), ImageError> {
        replace(&self.blobs().join(id.hex()), config)?;
        if let Some((digest, bytes)) = manifest {
            replace(&self.blobs().join(digest.hex()), bytes)?;
        }
        let record = ImageRecord {
            manifest: manifest.map(|(digest, _)| *digest),
            layers,
            parts,
        };
        replace_record(&self.record_path(id), &record)
    }

    /// Says which image a source is from now on.
    pub(super) fn point(
        &self,
        source: &Source,
        id: Digest,
        stamp: Option<Stamp>,
        top: Option<Digest>,
    ) -> Result<(), ImageError> {
        let source = source.to_string();
        let path = self.reference_path(&source);
        let record = ReferenceRecord {
            source,
            id,
            stamp,
            top,
        };
        replace_record(&path, &record)
    }

    /// Which image a source is, and the digest it pointed at.
    pub(super) fn pointed(&self, source: &Source) -> Result<Option<(Digest, Option<Digest>)>, ImageError> {
        let path = self.reference_path(&source.to_string());
        let record = read_damaged::<ReferenceRecord>(&path)?;
        Ok(record.map(|record| (record.id, record.top)))
    }

    /// What a local source looked like when it was imported.
    pub(super) fn stamp_of(&self, source: &Source) -> Result<Option<Stamp>, ImageError> {
        let path = self.reference_path(&source.to_string());
        Ok(read_damaged::<ReferenceRecord>(&path)?.and_then(|record| record.stamp))
    }

    /// Every source: its canonical form, image, and the digest it pointed at.
    pub(super) fn pointers(&self) -> Result<Vec<Pointer>, ImageError> {
        let mut list = Vec::new();
        for name in names(&self.root.join("references"))? {
            let path = self.root.join("references").join(&name);
            let Some(record) = read_damaged::<ReferenceRecord>(&path)? else {
                continue;
            };
            list.push(Pointer {
                source: record.source,
                id: record.id,
                top: record.top,
            });
        }
        list.sort_by(|a, b| a.source.cmp(&b.source));
        Ok(list)
    }

    /// The ids of all images that are here, whole or not.
    pub(super) fn ids(&self) -> Result<BTreeSet<Digest>, ImageError> {
        let names = names(&self.root.join("records"))?;
        Ok(names
            .iter()
            .filter_map(|name| Digest::parse_hex(name.strip_suffix(".json")?))
            .collect())
    }

    /// What an image is made of.
    pub(super) fn record(&self, id: &Digest) -> Result<Option<ImageRecord>, ImageError> {
        read_damaged(&self.record_path(id))
    }

    /// When an image came to be here.
    pub(super) fn record_time(&self, id: &Digest) -> SystemTime {
        let found = fs::metadata(self.record_path(id)).and_then(|found| found.modified());
        found.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub(super) fn layer_record(&self, name: &str) -> Result<Option<LayerRecord>, ImageError> {
        read_damaged(&self.layer(name).join("layer.json"))
    }

    /// Where content is kept.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Reads a manifest or configuration; `None` when it is not here or damaged.
    pub(super) fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, ImageError> {
        let path = self.blob(digest);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == *digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io("read", &path)(error)),
        }
    }

    /// The layers that are here.
    pub(super) fn layer_names(&self) -> Result<Vec<String>, ImageError> {
        names(&self.root.join("layers"))
    }

    /// Bytes of all blobs.
    pub(super) fn blob_bytes(&self) -> Result<u64, ImageError> {
        let names = names(&self.blobs())?;
        let size = |name: String| fs::metadata(self.blobs().join(name)).map_or(0, |found| found.len());
        Ok(names.into_iter().map(size).sum())
    }

    /// Has the store alone: nobody brings anything to its place meanwhile.
    pub(super) fn alone(&self) -> Result<File, ImageError> {
        self.prepare()?;
        let lock = self.lock_file()?;
        lock.lock()
            .map_err(ImageError::io("lock", &self.root.join("lock")))?;
        Ok(lock)
    }

    /// Removes a folder: first out of sight, then for good.
    pub(super) fn discard(&self, path: &Path) -> Result<(), ImageError> {
        let trash = self.root.join("trash").join(fresh_name());
        fs::rename(path, &trash).map_err(ImageError::io("remove", path))?;
        remove_all(&trash)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn reference_path(&self, canonical: &str) -> PathBuf {
        let name = Digest::of(canonical.as_bytes()).hex() + ".json";
        self.root.join("references").join(name)
    }

    fn record_path(&self, id: &Digest) -> PathBuf {
        self.root.join("records").join(id.hex() + ".json")
    }

    pub(super) fn layer_bytes(&self, name: &str) -> Result<u64, ImageError> {
        let record = read_damaged::<LayerRecord>(&self.layer(name).join("layer.json"))?;
        Ok(record.map_or(0, |record| record.bytes))
    }

    /// The image with an id; `None` unless it is here with all its layers.
    pub(super) fn image(&self, id: &Digest, reference: String) -> Result<Option<Image>, ImageError> {
        let Some(record) = read_damaged::<ImageRecord>(&self.record_path(id))? else {
            return Ok(None);
        };
        let path = self.blobs().join(id.hex());
        let config = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::io("read", &path)(error)),
        };
        // It was checked when it came; if the disk has lost it since, it is fetched again.
        let Ok((config, _)) = config::parse(&config) else {
            return Ok(None);
        };
        let mut layers = Vec::with_capacity(record.layers.len());
        for name in &record.layers {
            if !self.has_layer(name)? {
                return Ok(None);
            }
            layers.push(self.layer(name).join("fs"));
        }
        Ok(Some(Image {
            id: id.to_string(),
            reference,
            config,
            layers,
            rootfs: false,
        }))
    }
}

/// The image that a directory of the host is.
fn rootfs(source: &Source, path: &Path) -> Result<Image, ImageError> {
    let wrong = |reason: String| ImageError::Place {
        image: source.to_string(),
        path: path.to_owned(),
        reason,
    };
    if !path.is_absolute() {
        return Err(wrong("is not an absolute path".to_owned()));
    }
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(wrong("is not a directory".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(wrong("does not exist".to_owned()));
        }
        Err(error) => return Err(wrong(format!("cannot be looked at: {error}"))),
    }
    let platform = super::manifest::Platform::own();
    Ok(Image {
        id: Digest::of(source.to_string().as_bytes()).to_string(),
        reference: source.to_string(),
        config: ImageConfig {
            env: vec![DEFAULT_PATH.to_owned()],
            architecture: platform.architecture,
            os: platform.os,
            ..ImageConfig::default()
        },
        layers: vec![path.to_owned()],
        rootfs: true,
    })
}

/// Starts the name of what is being written.
const NEW: &str = ".new.";

/// A name that nobody else uses.
pub(super) fn fresh_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let time = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{NEW}{}.{}.{count}", std::process::id(), time.as_nanos())
}

/// Reads a record; one that a power failure has damaged counts as none, as what
/// it describes can be fetched again.
pub(super) fn read_damaged<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    match read_record(path) {
        Ok(record) => Ok(record),
        Err(error @ StoreError::Malformed { .. }) => {
            tracing::warn!(%error, "damaged record of the image store left out");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn replace_record<T: Serialize>(path: &Path, record: &T) -> Result<(), ImageError> {
    let bytes = serde_json::to_vec(record).map_err(|source| StoreError::Malformed {
        path: path.to_owned(),
        source,
    })?;
    replace(path, &bytes)
}

/// Replaces a file, synced: after a power failure it is the old or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let fresh = path.with_file_name(fresh_name());
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    write().map_err(|error| {
        // A full disk must not keep what could not be finished.
        let _ = fs::remove_file(&fresh);
        ImageError::io("write", path)(error)
    })
}

/// Removes a file or a folder with all that is in it; fine when it is not there.
pub(super) fn remove_all(path: &Path) -> Result<(), ImageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Every name in a folder; none when it is not there.
fn all_names(folder: &Path) -> Result<Vec<String>, ImageError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ImageError::io("read", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ImageError::io("read", folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// The names in a folder of things that are finished.
fn names(folder: &Path) -> Result<Vec<String>, ImageError> {
    let mut names = all_names(folder)?;
    names.retain(|name| !name.starts_with(NEW));
    Ok(names)
}
