//! Brings an image here: which layers are missing, who fetches them, and when
//! they become visible.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::archive::Archive;
use super::config;
use super::digest::Digest;
use super::error::ImageError;
use super::ingest::{LayerRecord, Lease, from_hex, open_folder, receive};
use super::layer::{Cancellable, Download, Slice};
use super::manifest::{self, Platform};
use super::reference::Source;
use super::registry::Registry;
use super::store::{Image, ImageStore, Stamp};
use super::unpack;

/// Layers that are fetched side by side. More than one connection is needed to
/// fill most lines, and more threads than that only take turns.
const SIDE_BY_SIDE: usize = 4;
/// How often is looked whether another process is done with a layer: flock(2)
/// can only be waited for by a thread that then cannot be called back.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a pull reports while it goes on. Layers are named by the first 12
/// digits of their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The image is known.
    Layers {
        /// Layers it has.
        total: usize,
        /// Those to fetch.
        missing: usize,
        /// Compressed bytes to fetch.
        bytes: u64,
    },
    /// More of a layer is here.
    Downloaded {
        /// Which.
        layer: String,
        /// Compressed bytes so far.
        bytes: u64,
        /// Of how many.
        total: u64,
    },
    /// A layer is unpacked and checked.
    Unpacked {
        /// Which.
        layer: String,
    },
    /// Another process fetches what is still missing.
    Waiting,
    /// Something failed and is tried again.
    Retrying {
        /// What.
        request: String,
        /// Why.
        reason: String,
    },
    /// Something the user should know.
    Warning {
        /// A sentence.
        text: String,
    },
}

/// Where progress goes: tasks of any thread send, the pull's own task reports.
#[derive(Clone, Debug)]
pub(super) struct Events(mpsc::UnboundedSender<Progress>);

impl Events {
    pub(super) fn send(&self, progress: Progress) {
        // Nobody listening is a pull that was given up.
        let _ = self.0.send(progress);
    }
}

/// An image that could be brought here.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Option<(Digest, Vec<u8>)>,
    pub(super) layers: Vec<Blob>,
}

/// A layer as its source has it, without the digest of its content.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    /// Digest and size of what is transferred, when the source says them.
    pub(super) digest: Option<(Digest, u64)>,
    pub(super) place: Place,
}

/// Where a layer's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In the registry, under the digest.
    Registry,
    /// In a file of their own.
    File(PathBuf),
    /// In a part of a file: offset and length.
    Slice(Arc<File>, u64, u64),
}

/// A layer to be fetched.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Digest of the decompressed archive.
    pub(super) diff: Digest,
    /// Digest and size of what is transferred.
    pub(super) blob: Option<(Digest, u64)>,
    place: Place,
}

impl Layer {
    /// Short, for people.
    pub(super) fn name(&self) -> String {
        self.blob.map_or(self.diff, |(digest, _)| digest).short()
    }
}

/// Gives up the work of a pull when it is dropped or told to.
#[derive(Debug)]
struct Cancel {
    flag: Arc<AtomicBool>,
    signal: watch::Sender<bool>,
}

impl Cancel {
    fn new() -> Self {
        Self {
            flag: Arc::default(),
            signal: watch::Sender::new(false),
        }
    }

    fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
        self.signal.send_replace(true);
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl ImageStore {
    /// Brings an image here from its source, and returns it. What is here
    /// already is not fetched; a tag is always asked for anew.
    ///
    /// Several pulls at once, in this process or others, share the work: each
    /// layer is fetched once. A pull that is dropped or killed leaves nothing
    /// that could be taken for a layer; the layers it had unpacked to their end
    /// are used by the next attempt (until the machine restarts), and go when a
    /// pull has ended well.
    ///
    /// Must run in a tokio runtime with I/O and time; decompression runs on its
    /// blocking threads.
    ///
    /// # Errors
    /// [`ImageError`], which names the image and what failed.
    pub async fn pull(
        &self,
        source: &str,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, ImageError> {
        let parsed = Source::parse(source)?;
        if let Source::Rootfs { .. } = &parsed {
            return self.resolve(source)?.ok_or_else(|| ImageError::Cancelled {
                image: source.to_owned(),
            });
        }
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let work = self.pull_source(&parsed, source, Events(sender));
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                Some(event) = receiver.recv() => progress(event),
                result = &mut work => break result,
            }
        };
        while let Ok(event) = receiver.try_recv() {
            progress(event);
        }
        result
    }

    /// A reference with the digest that its registry has for it now, in full
    /// (`docker.io/library/nginx:1.27@sha256:…`). References that have a digest
    /// are only written in full; what is no reference to a registry stays.
    ///
    /// # Errors
    /// [`ImageError`], which names the image and what failed.
    pub async fn pin(&self, source: &str) -> Result<String, ImageError> {
        let Source::Registry(reference) = Source::parse(source)? else {
            return Ok(source.to_owned());
        };
        if reference.digest().is_some() {
            return Ok(reference.to_string());
        }
        let (events, _) = mpsc::unbounded_channel();
        let name: Arc<str> = source.into();
        let registry = Registry::new(&name, &reference, self.docker_config(), Events(events))?;
        Ok(format!("{reference}@{}", registry.digest(&reference).await?))
    }

    async fn pull_source(&self, source: &Source, name: &str, events: Events) -> Result<Image, ImageError> {
        self.prepare()?;
        let using = self.share().await?;
        let name: Arc<str> = name.into();
        let (image, stamp, registry) = match source {
            Source::Registry(reference) => {
                let registry = Registry::new(&name, reference, self.docker_config(), events.clone())?;
                let registry = Arc::new(registry);
                (registry.find(reference).await?, None, Some(registry))
            }
            Source::Layout { .. } | Source::LayoutArchive { .. } | Source::DockerArchive { .. } => {
                let (source, name, ingest) = (source.clone(), Arc::clone(&name), self.ingest());
                let found = blocking(Arc::clone(&name), {
                    let name = Arc::clone(&name);
                    move || {
                        // Taken before it is read: a change in between is a change.
                        let stamp = Stamp::of(&source)?;
                        Ok((Archive::open(&name, &source, &ingest)?.find()?, stamp))
                    }
                });
                let (image, stamp) = found.await?;
                (image, stamp, None)
            }
            Source::Rootfs { .. } => {
                return Err(ImageError::Cancelled {
                    image: name.to_string(),
                });
            }
        };
        let id = self.obtain(&name, image, registry, &events).await?;
        let store = self.clone();
        let source = source.clone();
        blocking(Arc::clone(&name), move || {
            store.point(&source, id, stamp)?;
            let image = store.image(&id, source.to_string())?;
            drop(using);
            // All is well: what no image needed may go, if nobody else is at work.
            let lock = store.lock_file()?;
            if lock.try_lock().is_ok() {
                store.sweep(false)?;
            }
            image.ok_or_else(|| ImageError::Cancelled {
                image: name.to_string(),
            })
        })
        .await
    }

    /// Holds the store against those who remove from it. Whoever is alone cleans
    /// up first.
    async fn share(&self) -> Result<File, ImageError> {
        let lock = self.lock_file()?;
        let path = self.ingest();
        if lock.try_lock().is_ok() {
            let store = self.clone();
            let swept = tokio::task::spawn_blocking(move || store.sweep(true)).await;
            match swept {
                Ok(result) => result?,
                Err(error) => return Err(ImageError::io("clean up", &path)(error.into())),
            }
        }
        loop {
            match lock.try_lock_shared() {
                Ok(()) => return Ok(lock),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(fs::TryLockError::Error(error)) => return Err(ImageError::io("lock", &path)(error)),
            }
        }
    }

    /// Fetches what is missing of an image and commits it.
    async fn obtain(
        &self,
        name: &Arc<str>,
        image: Candidate,
        registry: Option<Arc<Registry>>,
        events: &Events,
    ) -> Result<Digest, ImageError> {
        let id = Digest::of(&image.config);
        let document = |reason: String| ImageError::Document {
            image: name.to_string(),
            what: "configuration",
            reason,
        };
        let (config, diffs) = config::parse(&image.config).map_err(document)?;
        let own = Platform::own();
        if !manifest::runs_here(&own, &config.os, &config.architecture, &config.variant) {
            return Err(ImageError::Platform {
                image: name.to_string(),
                wanted: own.to_string(),
                available: format!("{}/{}", config.os, config.architecture),
            });
        }
        if diffs.is_empty() {
            return Err(document("lists no layers".to_owned()));
        }
        if diffs.len() != image.layers.len() {
            return Err(document(format!(
                "lists {} layers, the manifest {}",
                diffs.len(),
                image.layers.len()
            )));
        }
        let layers: Vec<Layer> = diffs
            .into_iter()
            .zip(image.layers)
            .map(|(diff, blob)| Layer {
                diff,
                blob: blob.digest,
                place: blob.place,
            })
            .collect();
        if self.has_image(&id)? {
            events.send(Progress::Layers {
                total: layers.len(),
                missing: 0,
                bytes: 0,
            });
            return Ok(id);
        }
        let stack = Arc::new(Stack::new(self.clone(), Arc::clone(name), layers));
        let mut announced = false;
        let mut waiting = false;
        loop {
            let missing = stack.missing()?;
            if !announced {
                announced = true;
                let sizes = missing.iter().filter_map(|&at| stack.layers.get(at)?.blob);
                events.send(Progress::Layers {
                    total: stack.layers.len(),
                    missing: missing.len(),
                    bytes: sizes.map(|(_, size)| size).sum(),
                });
            }
            if missing.is_empty() {
                break;
            }
            let mut leases = Vec::new();
            for at in missing {
                let Some(layer) = stack.layers.get(at) else {
                    continue;
                };
                let lease = Lease::take(self, &layer.diff)?;
                // Its holder may have finished it just before.
                if let Some(lease) = lease.filter(|_| stack.present(at).is_ok_and(|name| name.is_none())) {
                    leases.push((at, lease));
                }
            }
            if leases.is_empty() {
                // Nothing is held while others are waited for, so nobody waits in a circle.
                if !std::mem::replace(&mut waiting, true) {
                    events.send(Progress::Waiting);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
                continue;
            }
            let fetched = self.fetch(&stack, leases, registry.as_ref(), events).await?;
            let stack = Arc::clone(&stack);
            blocking(Arc::clone(name), move || stack.place(fetched)).await?;
        }
        let store = self.clone();
        blocking(Arc::clone(name), move || {
            let layers = stack.names_for_overlay()?;
            let manifest = image
                .manifest
                .as_ref()
                .map(|(digest, bytes)| (digest, bytes.as_slice()));
            store.commit(&id, &image.config, manifest, layers)
        })
        .await?;
        Ok(id)
    }

    /// Fetches and unpacks layers side by side into `ingest/`.
    async fn fetch(
        &self,
        stack: &Arc<Stack>,
        leases: Vec<(usize, Lease)>,
        registry: Option<&Arc<Registry>>,
        events: &Events,
    ) -> Result<Vec<Fetched>, ImageError> {
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let cancel = Cancel::new();
        let mut tasks = JoinSet::new();
        for (at, lease) in leases {
            let Some(layer) = stack.layers.get(at).cloned() else {
                continue;
            };
            let (places, registry) = (Arc::clone(&places), registry.cloned());
            let (flag, mut signal) = (Arc::clone(&cancel.flag), cancel.signal.subscribe());
            let (image, events) = (Arc::clone(&stack.image), events.clone());
            tasks.spawn(async move {
                let _place = places.acquire().await;
                if let Some(record) = lease.whole()? {
                    return Ok(Fetched { at, lease, record });
                }
                if flag.load(Ordering::Relaxed) {
                    return Err(ImageError::Cancelled { image: image.to_string() });
                }
                let label = layer.name();
                let unpack = |stream: Box<dyn std::io::Read + Send>| {
                    let (name, layer) = (Arc::clone(&image), layer.clone());
                    let stream = Cancellable::new(stream, flag);
                    blocking(Arc::clone(&image), move || {
                        let record = receive(&name, &layer, stream, &lease)?;
                        Ok(Fetched { at, lease, record })
                    })
                };
                let fetched = match (&layer.place, registry, layer.blob) {
                    (Place::File(path), ..) => {
                        let file = File::open(path).map_err(ImageError::io("open", path))?;
                        unpack(Box::new(file)).await?
                    }
                    (Place::Slice(file, offset, length), ..) => {
                        unpack(Box::new(Slice::new(Arc::clone(file), *offset, *length))).await?
                    }
                    (Place::Registry, Some(registry), Some((digest, size))) => {
                        let (sender, stream) = Download::new();
                        // Owns the sender: gone without an end when there was an error.
                        let download = async {
                            let sender = sender;
                            tokio::select! {
                                result = registry.layer(&digest, size, &sender) => result,
                                _ = signal.changed() => Err(ImageError::Cancelled { image: image.to_string() }),
                            }
                        };
                        let (downloaded, unpacked) = tokio::join!(download, unpack(Box::new(stream)));
                        match (downloaded, unpacked) {
                            // A download fails too when nobody takes its data any more.
                            (Err(error), Err(unpack)) => return Err(error.unless_cut_short(unpack)),
                            (Err(error), Ok(_)) => return Err(error),
                            (Ok(()), unpacked) => unpacked?,
                        }
                    }
                    (Place::Registry, ..) => {
                        return Err(ImageError::Cancelled { image: image.to_string() });
                    }
                };
                events.send(Progress::Unpacked { layer: label });
                Ok(fetched)
            });
        }
        let mut fetched = Vec::new();
        let mut first: Option<ImageError> = None;
        while let Some(result) = tasks.join_next().await {
            let result = result.unwrap_or_else(|_| {
                Err(ImageError::Cancelled {
                    image: stack.image.to_string(),
                })
            });
            match result {
                Ok(layer) => fetched.push(layer),
                Err(error) => {
                    // The rest cannot help any more; it cleans up after itself.
                    cancel.cancel();
                    first = Some(match first {
                        Some(first) => first.unless_cut_short(error),
                        None => error,
                    });
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None => Ok(fetched),
        }
    }
}

impl ImageError {
    /// This error, unless it only says that another has ended the work.
    fn unless_cut_short(self, other: Self) -> Self {
        if matches!(self, Self::Cancelled { .. }) {
            other
        } else {
            self
        }
    }
}

/// Runs file system work on a thread that may wait.
async fn blocking<T: Send + 'static>(
    image: Arc<str>,
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(ImageError::Cancelled {
            image: image.to_string(),
        })
    })
}

/// A layer that is unpacked in `ingest/`, not synced yet.
struct Fetched {
    at: usize,
    lease: Lease,
    record: LayerRecord,
}

/// The layers of one image, base first.
struct Stack {
    store: ImageStore,
    image: Arc<str>,
    layers: Vec<Layer>,
    /// Names in `layers/` of those that depend on what is below them: chain ids
    /// (OCI image specification, "Layer ChainID"), marked as such.
    chains: Vec<String>,
}

impl Stack {
    fn new(store: ImageStore, image: Arc<str>, layers: Vec<Layer>) -> Self {
        let mut chains = Vec::with_capacity(layers.len());
        let mut below: Option<Digest> = None;
        for layer in &layers {
            let chain = match below {
                None => layer.diff,
                Some(below) => Digest::of(format!("{below} {}", layer.diff).as_bytes()),
            };
            chains.push(chain.hex() + ".chain");
            below = Some(chain);
        }
        Self {
            store,
            image,
            layers,
            chains,
        }
    }

    /// The name in `layers/` of a layer that is here.
    fn present(&self, at: usize) -> Result<Option<String>, ImageError> {
        let own = self.layers.get(at).map(|layer| layer.diff.hex());
        for name in own.into_iter().chain(self.chains.get(at).cloned()) {
            if self.store.has_layer(&name)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Positions of the layers that are not here, each content once.
    fn missing(&self) -> Result<Vec<usize>, ImageError> {
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            if self.present(at)?.is_none() && seen.insert(layer.diff) {
                missing.push(at);
            }
        }
        Ok(missing)
    }

    /// Moves fetched layers to their final names. One that depends on a layer
    /// that is still in other hands stays in `ingest/` for the next round.
    fn place(&self, mut fetched: Vec<Fetched>) -> Result<(), ImageError> {
        fetched.sort_by_key(|layer| layer.at);
        let mut ready = Vec::new();
        for layer in &fetched {
            let name = if layer.record.unlisted.is_empty() {
                self.layers.get(layer.at).map(|layer| layer.diff.hex())
            } else if let Some(below) = self.below(layer.at, &fetched)? {
                let folder = open_folder(&layer.lease.folder.join("fs"))?;
                let unlisted: Vec<_> = layer
                    .record
                    .unlisted
                    .iter()
                    .filter_map(|hex| from_hex(hex))
                    .collect();
                unpack::adopt(&folder, &unlisted, &below).map_err(|source| ImageError::Unpack {
                    image: self.image.to_string(),
                    layer: self.layers.get(layer.at).map(Layer::name).unwrap_or_default(),
                    source,
                })?;
                self.chains.get(layer.at).cloned()
            } else {
                None
            };
            ready.extend(name.map(|name| (name, layer)));
        }
        // One for all: a sync per file would cost more than the rest together.
        let ingest = self.store.ingest();
        rustix::fs::syncfs(open_folder(&ingest)?)
            .map_err(|error| ImageError::io("sync", &ingest)(error.into()))?;
        for (name, layer) in ready {
            let target = self.store.layer(&name);
            // Damaged beyond use, or it would have been taken for present.
            if fs::symlink_metadata(&target).is_ok() {
                self.store.discard(&target)?;
            }
            fs::rename(&layer.lease.folder, &target).map_err(ImageError::io("create", &target))?;
        }
        Ok(())
    }

    /// The folders of the layers below one, topmost first; `None` when one of
    /// them is neither here nor just fetched.
    fn below(&self, at: usize, fetched: &[Fetched]) -> Result<Option<Vec<OwnedFd>>, ImageError> {
        let mut folders = Vec::with_capacity(at);
        for lower in (0..at).rev() {
            let diff = self.layers.get(lower).map(|layer| layer.diff);
            let own = fetched
                .iter()
                .find(|layer| self.layers.get(layer.at).map(|layer| layer.diff) == diff);
            let folder = match (self.present(lower)?, own) {
                (Some(name), _) => self.store.layer(&name),
                (None, Some(own)) => own.lease.folder.clone(),
                (None, None) => return Ok(None),
            };
            folders.push(open_folder(&folder.join("fs"))?);
        }
        Ok(Some(folders))
    }

    /// What overlayfs is given: topmost first; a layer that occurs twice only
    /// where it is on top, which gives the same and which alone is accepted;
    /// nothing below a layer that hides all below.
    fn names_for_overlay(&self) -> Result<Vec<String>, ImageError> {
        let mut names: Vec<String> = Vec::new();
        for at in (0..self.layers.len()).rev() {
            let name = self.present(at)?.ok_or_else(|| ImageError::Cancelled {
                image: self.image.to_string(),
            })?;
            if names.contains(&name) {
                continue;
            }
            let fs = self.store.layer(&name).join("fs");
            names.push(name);
            if unpack::is_opaque(&open_folder(&fs)?).map_err(ImageError::io("look at", &fs))? {
                break;
            }
        }
        Ok(names)
    }
}
