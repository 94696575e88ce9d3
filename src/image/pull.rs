//! Brings an image here: which layers are missing, who fetches them, and when
//! they become visible.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::archive::Archive;
use super::config;
use super::digest::Digest;
use super::error::ImageError;
use super::ingest::{Lease, receive};
use super::layer::{Cancellable, Download, Slice};
use super::manifest::{self, Platform};
use super::progress::{Events, Progress, blocking, reporting};
use super::reference::{Reference, Source};
use super::registry::{Access, Registry};
use super::stack::{Fetched, Stack};
use super::store::{Image, ImageStore, Stamp};
use super::unpack;

/// Layers that are fetched side by side. More than one connection is needed to
/// fill most lines, and more threads than that only take turns.
const SIDE_BY_SIDE: usize = 4;
/// How often is looked whether another process is done with a layer: flock(2)
/// can only be waited for by a thread that then cannot be called back.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// An image that could be brought here.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Option<(Digest, Vec<u8>)>,
    pub(super) layers: Vec<Blob>,
    /// Digest of what the reference points at: the manifest, or the index it is from.
    pub(super) top: Option<Digest>,
}

/// How an image is brought here.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// `os/architecture[/variant]`, or the architecture alone; `None` is this
    /// machine. The image of another may not run here.
    pub platform: Option<String>,
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
    /// that could be taken for a layer; the layers it had unpacked to their end,
    /// and the parts it had of others, are used by the next attempt, and go when
    /// a pull has ended well.
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
        self.pull_with(source, &PullOptions::default(), progress).await
    }

    /// [`ImageStore::pull`] with options.
    ///
    /// # Errors
    /// As [`ImageStore::pull`]; [`ImageError::Settings`] when the platform is none.
    pub async fn pull_with(
        &self,
        source: &str,
        options: &PullOptions,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, ImageError> {
        let parsed = Source::parse(source)?;
        if let Source::Rootfs { .. } = &parsed {
            return self.resolve(source)?.ok_or_else(|| ImageError::Cancelled {
                image: source.to_owned(),
            });
        }
        let platform = match &options.platform {
            None => Platform::own(),
            Some(text) => Platform::parse(text).ok_or_else(|| ImageError::Settings {
                image: source.to_owned(),
                reason: format!("platform {text:?} is not os/architecture[/variant]"),
            })?,
        };
        reporting(progress, |events| async move {
            self.pull_source(&parsed, source, &platform, options.platform.is_some(), events)
                .await
        })
        .await
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
        let name: Arc<str> = source.into();
        let events = Events::unheard();
        let mut failure = None;
        for client in Registry::clients(&name, &reference, &Access::Pull, self.places(), &events)? {
            match client.digest(&reference).await {
                Ok(digest) => return Ok(format!("{reference}@{digest}")),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| ImageError::NotFound {
            image: source.to_owned(),
            registry: reference.registry().to_owned(),
        }))
    }

    /// A reference for every tag that a repository has in its registry.
    ///
    /// # Errors
    /// [`ImageError::Settings`] when the name is none of a registry, or has a
    /// tag or digest; [`ImageError`] when the registry does not tell.
    pub async fn tags(&self, name: &str) -> Result<Vec<String>, ImageError> {
        let wrong = |reason: &str| ImageError::Settings {
            image: name.to_owned(),
            reason: reason.to_owned(),
        };
        let Source::Registry(reference) = Source::parse(name)? else {
            return Err(wrong("only a repository of a registry has tags"));
        };
        let typed_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        if typed_tag || reference.digest().is_some() {
            return Err(wrong("a tag or digest cannot be given with --all-tags"));
        }
        let image: Arc<str> = name.into();
        let events = Events::unheard();
        let clients = Registry::clients(&image, &reference, &Access::Pull, self.places(), &events)?;
        let mut failure = wrong("no registry is configured for it");
        for client in clients {
            match client.tags().await {
                Ok(tags) => {
                    let base = format!("{}/{}", reference.registry(), reference.repository());
                    return Ok(tags.iter().map(|tag| format!("{base}:{tag}")).collect());
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn pull_source(
        &self,
        source: &Source,
        name: &str,
        platform: &Platform,
        any: bool,
        events: Events,
    ) -> Result<Image, ImageError> {
        self.prepare()?;
        self.tidy(true).await?;
        let name: Arc<str> = name.into();
        let mut work = Work {
            name: Arc::clone(&name),
            platform: platform.clone(),
            any,
            registries: Vec::new(),
            keep: false,
            events: events.clone(),
        };
        let (candidate, stamp) = match source {
            Source::Registry(reference) => {
                let clients = Registry::clients(&name, reference, &Access::Pull, self.places(), &events)?;
                let mut found = None;
                for (at, client) in clients.iter().enumerate() {
                    if let Some(image) = self.is_current(client, source, reference, platform).await? {
                        events.send(Progress::UpToDate);
                        return Ok(image);
                    }
                    match client.find(reference, platform).await {
                        Ok(candidate) => {
                            found = Some(candidate);
                            work.registries = clients.get(at..).unwrap_or_default().to_vec();
                            break;
                        }
                        Err(error) if client.is_mirror() => events.send(Progress::Warning {
                            text: format!("mirror {} passed over: {error}", client.name()),
                        }),
                        Err(error) => return Err(error),
                    }
                }
                work.keep = true;
                let found = found.ok_or_else(|| ImageError::Cancelled {
                    image: name.to_string(),
                })?;
                (found, None)
            }
            Source::Layout { .. } | Source::LayoutArchive { .. } | Source::DockerArchive { .. } => {
                let (source, ingest, platform) = (source.clone(), self.ingest(), platform.clone());
                let found = blocking(Arc::clone(&name), {
                    let name = Arc::clone(&name);
                    move || {
                        // Taken before it is read: a change in between is a change.
                        let stamp = Stamp::of(&source)?;
                        let archive = Archive::open(&name, &source, &ingest)?;
                        Ok((archive.find(&platform)?, stamp))
                    }
                });
                found.await?
            }
            Source::Rootfs { .. } => {
                return Err(ImageError::Cancelled {
                    image: name.to_string(),
                });
            }
        };
        let image = self
            .obtain(&work, candidate, std::slice::from_ref(source), stamp)
            .await?;
        // All is well: what no image needed may go, if nobody else is at work.
        self.tidy(false).await?;
        Ok(image)
    }

    /// The image of a reference, when the registry says that it has not changed.
    async fn is_current(
        &self,
        client: &Registry,
        source: &Source,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, ImageError> {
        let Some((id, Some(top))) = self.pointed(source)? else {
            return Ok(None);
        };
        let Some(image) = self.image(&id, source.to_string())? else {
            return Ok(None);
        };
        let config = &image.config;
        if !manifest::runs_here(platform, &config.os, &config.architecture, &config.variant) {
            return Ok(None);
        }
        let now = match reference.digest() {
            Some(digest) => Some(*digest),
            None => client.head(reference).await,
        };
        if now != Some(top) {
            return Ok(None);
        }
        let using = self.shared().await?;
        // Removed meanwhile, perhaps.
        if self.image(&id, String::new())?.is_none() {
            return Ok(None);
        }
        // When it was last asked for is when the record was written.
        self.point(source, id, None, Some(top))?;
        drop(using);
        Ok(Some(image))
    }

    /// Cleans up, if nobody brings or removes anything just now.
    pub(super) async fn tidy(&self, keep_whole: bool) -> Result<(), ImageError> {
        let store = self.clone();
        let path = self.ingest();
        let work = move || {
            let lock = store.lock_file()?;
            if lock.try_lock().is_ok() {
                store.sweep(keep_whole)?;
            }
            Ok(())
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(ImageError::io("clean up", &path)(error.into())),
        }
    }

    /// Holds the store against those who remove from it.
    pub(super) async fn shared(&self) -> Result<File, ImageError> {
        let lock = self.lock_file()?;
        loop {
            match lock.try_lock_shared() {
                Ok(()) => return Ok(lock),
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(fs::TryLockError::Error(error)) => {
                    return Err(ImageError::io("lock", &self.ingest())(error));
                }
            }
        }
    }

    /// Fetches what is missing of an image, commits it, and makes sources point
    /// at it.
    pub(super) async fn obtain(
        &self,
        work: &Work,
        image: Candidate,
        sources: &[Source],
        stamp: Option<Stamp>,
    ) -> Result<Image, ImageError> {
        let (name, events) = (&work.name, &work.events);
        let id = Digest::of(&image.config);
        let document = |reason: String| ImageError::Document {
            image: name.to_string(),
            what: "configuration",
            reason,
        };
        let (config, diffs) = config::parse(&image.config).map_err(document)?;
        let fits = manifest::runs_here(&work.platform, &config.os, &config.architecture, &config.variant);
        if !fits && !work.any {
            return Err(ImageError::Platform {
                image: name.to_string(),
                wanted: work.platform.to_string(),
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
        let canonical = sources.first().map_or_else(|| id.to_string(), Source::to_string);
        let top = image.top;
        let store = self.clone();
        let finish = {
            let (name, sources) = (Arc::clone(name), sources.to_vec());
            move || {
                for source in &sources {
                    store.point(source, id, stamp.clone(), top)?;
                }
                let image = store.image(&id, canonical)?;
                image.ok_or_else(|| ImageError::Cancelled {
                    image: name.to_string(),
                })
            }
        };
        let total = layers.len();
        let stack = Arc::new(Stack::new(self.clone(), Arc::clone(name), layers));
        let mut announced = false;
        let mut waiting = false;
        let mut using = None;
        loop {
            if self.has_image(&id)? {
                let _using = match using.take() {
                    Some(using) => using,
                    None => self.shared().await?,
                };
                if self.has_image(&id)? {
                    if !announced {
                        events.send(Progress::Layers {
                            total,
                            missing: 0,
                            bytes: 0,
                        });
                    }
                    return blocking(Arc::clone(name), finish).await;
                }
            }
            let missing = stack.missing()?;
            if !announced {
                announced = true;
                let sizes = missing.iter().filter_map(|&at| stack.layers.get(at)?.blob);
                events.send(Progress::Layers {
                    total,
                    missing: missing.len(),
                    bytes: sizes.map(|(_, size)| size).sum(),
                });
            }
            if missing.is_empty() {
                let held = match using.take() {
                    Some(using) => using,
                    None => self.shared().await?,
                };
                // Somebody may have removed some while nothing was held.
                if !stack.missing()?.is_empty() {
                    continue;
                }
                let store = self.clone();
                let manifest = image.manifest;
                let config = image.config;
                return blocking(Arc::clone(name), move || {
                    let layers = stack.names_for_overlay()?;
                    let parts = stack.parts()?;
                    let manifest = manifest
                        .as_ref()
                        .map(|(digest, bytes)| (digest, bytes.as_slice()));
                    store.commit(&id, &config, manifest, layers, parts)?;
                    let image = finish();
                    drop(held);
                    image
                })
                .await;
            }
            using = None;
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
            let fetched = self.fetch(&stack, leases, work).await?;
            using = Some(self.shared().await?);
            let stack = Arc::clone(&stack);
            blocking(Arc::clone(name), move || stack.place(fetched)).await?;
        }
    }

    /// Fetches and unpacks layers side by side into `ingest/`.
    async fn fetch(
        &self,
        stack: &Arc<Stack>,
        leases: Vec<(usize, Lease)>,
        work: &Work,
    ) -> Result<Vec<Fetched>, ImageError> {
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let cancel = Cancel::new();
        let mut tasks = JoinSet::new();
        let registries: Arc<[Arc<Registry>]> = work.registries.clone().into();
        for (at, lease) in leases {
            let Some(layer) = stack.layers.get(at).cloned() else {
                continue;
            };
            let (places, registries) = (Arc::clone(&places), Arc::clone(&registries));
            let (flag, mut signal) = (Arc::clone(&cancel.flag), cancel.signal.subscribe());
            let (image, events) = (Arc::clone(&stack.image), work.events.clone());
            let keep = work.keep;
            tasks.spawn(async move {
                let _place = places.acquire().await;
                if let Some(record) = lease.whole()? {
                    return Ok(Fetched {
                        part: lease.part(&layer),
                        at,
                        lease,
                        record,
                    });
                }
                let cancelled = || ImageError::Cancelled {
                    image: image.to_string(),
                };
                if flag.load(Ordering::Relaxed) {
                    return Err(cancelled());
                }
                let label = layer.name();
                let lease = Arc::new(lease);
                let unpack = |stream: Box<dyn std::io::Read + Send>, have: u64| {
                    let (name, layer, lease) = (Arc::clone(&image), layer.clone(), Arc::clone(&lease));
                    let stream = Cancellable::new(stream, Arc::clone(&flag));
                    blocking(Arc::clone(&image), move || {
                        receive(&name, &layer, stream, &lease, keep.then_some(have))
                    })
                };
                let record = match (&layer.place, layer.blob) {
                    (Place::File(path), _) => {
                        let file = File::open(path).map_err(ImageError::io("open", path))?;
                        unpack(Box::new(file), 0).await?
                    }
                    (Place::Slice(file, offset, length), _) => {
                        unpack(Box::new(Slice::new(Arc::clone(file), *offset, *length)), 0).await?
                    }
                    (Place::Registry, Some((digest, size))) => loop {
                        // What an earlier attempt has is read again, not fetched again.
                        let (part, have) = match keep {
                            true => lease.resume(&layer)?,
                            false => (None, 0),
                        };
                        let (sender, stream) = Download::new();
                        let received = AtomicU64::new(have);
                        // Owns the sender: gone without an end when there was an error.
                        let download = async {
                            let sender = sender;
                            let fetch = async {
                                let mut result = Err(cancelled());
                                for registry in registries.iter() {
                                    result = registry.layer(&digest, size, &received, &sender).await;
                                    match &result {
                                        Err(error) if registry.is_mirror() && !sender.is_closed() => {
                                            events.send(Progress::Warning {
                                                text: format!(
                                                    "mirror {} passed over: {error}",
                                                    registry.name()
                                                ),
                                            });
                                        }
                                        _ => break,
                                    }
                                }
                                result
                            };
                            tokio::select! {
                                result = fetch => result,
                                _ = signal.changed() => Err(cancelled()),
                            }
                        };
                        let stream: Box<dyn std::io::Read + Send> = match part {
                            Some(part) => Box::new(part.chain(stream)),
                            None => Box::new(stream),
                        };
                        match tokio::join!(download, unpack(stream, have)) {
                            // What was kept of an earlier attempt was no good.
                            (_, Err(error)) if have > 0 && error.is_of_content() => {
                                lease.forget(&layer)?;
                            }
                            (Err(error), _) if error.is_of_content() => {
                                lease.forget(&layer)?;
                                return Err(error);
                            }
                            // A download fails too when nobody takes its data any more.
                            (Err(error), Err(unpack)) => return Err(error.unless_cut_short(unpack)),
                            (Err(error), Ok(_)) => return Err(error),
                            (Ok(()), unpacked) => break unpacked?,
                        }
                    },
                    (Place::Registry, None) => return Err(cancelled()),
                };
                events.send(Progress::Unpacked { layer: label });
                let part = lease.part(&layer);
                // The threads that had a share of it are done.
                let lease = Arc::try_unwrap(lease).map_err(|_| cancelled())?;
                Ok(Fetched {
                    at,
                    lease,
                    record,
                    part,
                })
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
    /// Whether it says that content is not what it should be.
    fn is_of_content(&self) -> bool {
        match self {
            Self::WrongDigest { .. } | Self::WrongSize { .. } => true,
            Self::Unpack { source, .. } => !matches!(source, unpack::UnpackError::Io { .. }),
            _ => false,
        }
    }

    /// This error, unless it only says that another has ended the work.
    pub(super) fn unless_cut_short(self, other: Self) -> Self {
        if matches!(self, Self::Cancelled { .. }) {
            other
        } else {
            self
        }
    }
}

/// One image on its way here.
#[derive(Debug)]
pub(super) struct Work {
    /// The image as asked for.
    pub(super) name: Arc<str>,
    pub(super) platform: Platform,
    /// An image for another platform is fine too.
    pub(super) any: bool,
    /// Who has the layers; the next is asked when one fails.
    pub(super) registries: Vec<Arc<Registry>>,
    /// Keep the packed layers, so that they can be pushed and saved.
    pub(super) keep: bool,
    pub(super) events: Events,
}
