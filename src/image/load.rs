//! Images out of files and containers: `load`, `import`, `commit`.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::archive::Archive;
use super::change::change;
use super::config;
use super::digest::{Digest, Digesting};
use super::error::ImageError;
use super::ingest::open_folder;
use super::layer::decode;
use super::manifest::{LAYERS_LIMIT, Platform};
use super::pack::{Form, pack};
use super::packed::{Hashing, nameless};
use super::progress::{Events, Progress, blocking, reporting};
use super::pull::{Blob, Candidate, Place, Work};
use super::reference::{Reference, Source};
use super::store::{Image, ImageStore};

/// Where an archive comes from.
#[derive(Debug)]
pub enum Input {
    /// A file, or the folder of an OCI layout.
    Path(PathBuf),
    /// A stream, which may be standard input.
    Stream(File),
}

/// An image that [`ImageStore::load`] brought here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedImage {
    /// Image id.
    pub id: String,
    /// Its names, in their canonical form.
    pub references: Vec<String>,
}

/// What an imported or committed image is to say.
#[derive(Clone, Debug, Default)]
pub struct Authored {
    /// What it is to be called; `None`: nothing.
    pub reference: Option<String>,
    /// Who made it.
    pub author: String,
    /// Why.
    pub message: String,
    /// Instructions of a Dockerfile that change its configuration: `CMD …`.
    pub changes: Vec<String>,
    /// `os/architecture[/variant]`; `None` is this machine.
    pub platform: Option<String>,
}

impl ImageStore {
    /// Brings every image of an archive here that runs on the platform (`None`:
    /// this machine), under the names it has there: what `docker save`, `podman
    /// save` and [`ImageStore::save`] write, compressed or not, or the folder of
    /// an OCI layout.
    ///
    /// Must run in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`ImageError`], which names what failed.
    pub async fn load(
        &self,
        input: Input,
        platform: Option<&str>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Vec<LoadedImage>, ImageError> {
        reporting(progress, |events| self.load_all(input, platform, events)).await
    }

    async fn load_all(
        &self,
        input: Input,
        platform: Option<&str>,
        events: Events,
    ) -> Result<Vec<LoadedImage>, ImageError> {
        self.prepare()?;
        self.tidy(true).await?;
        let any = platform.is_some();
        let platform = own_or(platform)?;
        let source = Source::DockerArchive {
            path: match &input {
                Input::Path(path) => path.clone(),
                Input::Stream(_) => "standard input".into(),
            },
            reference: None,
        };
        let name: Arc<str> = source
            .path()
            .unwrap_or(Path::new(""))
            .display()
            .to_string()
            .into();
        let found = {
            let (ingest, image, platform) = (self.ingest(), Arc::clone(&name), platform.clone());
            let work = move || {
                let archive = match input {
                    Input::Path(path) if path.is_dir() => Archive::of_folder(&image, &source, path),
                    Input::Path(_) => Archive::open(&image, &source, &ingest)?,
                    Input::Stream(stream) => {
                        let file = seekable(stream, &ingest)?;
                        Archive::of_file(&image, &source, file, &ingest)?
                    }
                };
                archive.all(&platform)
            };
            blocking(Arc::clone(&name), work).await?
        };
        let mut loaded = Vec::new();
        for (candidate, names) in found {
            let mut sources = Vec::new();
            for name in &names {
                match Reference::parse(name) {
                    Ok(reference) => sources.push(Source::Registry(reference)),
                    Err(error) => events.send(Progress::Warning {
                        text: format!("a name is left out: {error}"),
                    }),
                }
            }
            let work = Work {
                name: Arc::clone(&name),
                platform: platform.clone(),
                any,
                registries: Vec::new(),
                keep: true,
                events: events.clone(),
            };
            // What it pointed at in its registry is not known.
            let candidate = Candidate {
                top: None,
                ..candidate
            };
            let image = self.obtain(&work, candidate, &sources, None).await?;
            loaded.push(LoadedImage {
                id: image.id,
                references: sources.iter().map(Source::to_string).collect(),
            });
        }
        self.tidy(false).await?;
        Ok(loaded)
    }

    /// Makes an image with one layer of an archive of a root file system,
    /// compressed or not.
    ///
    /// Must run in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`ImageError`], which names what failed.
    pub async fn import(
        &self,
        input: File,
        authored: &Authored,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, ImageError> {
        reporting(progress, |events| async move {
            self.prepare()?;
            let name: Arc<str> = "standard input".into();
            let ingest = self.ingest();
            let work = {
                let name = Arc::clone(&name);
                move || {
                    let mut file = seekable(input, &ingest)?;
                    let io = |error| ImageError::io("read", Path::new(name.as_ref()))(error);
                    let mut plain = Digesting::new(decode(&file).map_err(|source| ImageError::Unpack {
                        image: name.to_string(),
                        layer: "to import".to_owned(),
                        source,
                    })?);
                    io::copy(&mut plain, &mut io::sink()).map_err(io)?;
                    let diff = plain.finish().0;
                    file.rewind().map_err(io)?;
                    let mut packed = Digesting::new(&file);
                    io::copy(&mut packed, &mut io::sink()).map_err(io)?;
                    let (digest, size) = packed.finish();
                    Ok((diff, (digest, size), file))
                }
            };
            let (diff, blob, file) = blocking(Arc::clone(&name), work).await?;
            let platform = own_or(authored.platform.as_deref())?;
            let mut document = Map::new();
            document.insert("architecture".to_owned(), platform.architecture.clone().into());
            document.insert("os".to_owned(), platform.os.clone().into());
            if let Some(variant) = &platform.variant {
                document.insert("variant".to_owned(), variant.clone().into());
            }
            document.insert("config".to_owned(), json!({}));
            let layer = Blob {
                digest: Some(blob),
                place: Place::Slice(Arc::new(file), 0, blob.1),
            };
            self.author(document, vec![layer], diff, authored, "imported", events)
                .await
        })
        .await
    }

    /// Makes an image of what a container changed: the image it was made from
    /// (`base`, an id), and the folder of its own layer in the form of
    /// overlayfs. `overrides` replace fields of the image's `config`.
    ///
    /// Must run in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`ImageError`], which names what failed; [`ImageError::Absent`] when the
    /// base is not an image of this store.
    pub async fn commit_container(
        &self,
        base: &str,
        upper: &Path,
        overrides: &Map<String, Value>,
        authored: &Authored,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Image, ImageError> {
        reporting(progress, |events| async move {
            self.prepare()?;
            let absent = || ImageError::Absent {
                name: base.to_owned(),
            };
            let id = Digest::parse(base).ok_or_else(absent)?;
            let record = self.record(&id)?.ok_or_else(absent)?;
            let config = self.read_blob(&id)?.ok_or_else(absent)?;
            let mut document: Map<String, Value> =
                serde_json::from_slice(&config).map_err(|error| ImageError::Document {
                    image: base.to_owned(),
                    what: "configuration",
                    reason: format!("is malformed: {error}"),
                })?;
            let mut own = object(&mut document, "config");
            own.extend(overrides.clone());
            document.insert("config".to_owned(), own.into());
            let name: Arc<str> = base.into();
            let (ingest, upper) = (self.ingest(), upper.to_owned());
            let work = move || {
                let folder = open_folder(&upper)?;
                let io = |error| ImageError::io("pack", &upper)(error);
                let file = nameless(&ingest)?;
                let out = Hashing::new(io::BufWriter::with_capacity(1 << 20, &file));
                let encoder = flate2::write::GzEncoder::new(out, flate2::Compression::default());
                let mut plain = Hashing::new(encoder);
                pack(vec![folder], Form::Difference, &mut plain).map_err(io)?;
                let (diff, _, encoder) = plain.into_parts().map_err(io)?;
                let blob = encoder.finish().and_then(Hashing::finish).map_err(io)?;
                Ok((diff, blob, file))
            };
            let (diff, blob, file) = blocking(Arc::clone(&name), work).await?;
            // Layers that are here are not fetched, so no place is looked at.
            let mut layers: Vec<Blob> = record
                .parts
                .iter()
                .map(|part| Blob {
                    digest: part.blob,
                    place: Place::Registry,
                })
                .collect();
            layers.push(Blob {
                digest: Some(blob),
                place: Place::Slice(Arc::new(file), 0, blob.1),
            });
            self.author(document, layers, diff, authored, "committed", events)
                .await
        })
        .await
    }

    /// Completes a configuration by one more layer, and brings the image here.
    async fn author(
        &self,
        mut document: Map<String, Value>,
        layers: Vec<Blob>,
        diff: Digest,
        authored: &Authored,
        verb: &str,
        events: Events,
    ) -> Result<Image, ImageError> {
        let reference = match &authored.reference {
            Some(text) => Some(Reference::parse(text)?),
            None => None,
        };
        let name = reference
            .as_ref()
            .map_or_else(|| format!("{verb} image"), Reference::familiar);
        let wrong = |reason: String| ImageError::Settings {
            image: name.clone(),
            reason,
        };
        if layers.len() > LAYERS_LIMIT {
            return Err(wrong(format!(
                "it would have {} layers, and the kernel takes {LAYERS_LIMIT}: export what it is made of, and import \
                 that as one layer",
                layers.len()
            )));
        }
        let mut config = object(&mut document, "config");
        for text in &authored.changes {
            change(&mut config, text).map_err(wrong)?;
        }
        document.insert("config".to_owned(), config.into());
        let now = jiff::Timestamp::now().to_string();
        document.insert("created".to_owned(), now.clone().into());
        if !authored.author.is_empty() {
            document.insert("author".to_owned(), authored.author.clone().into());
        }
        let mut rootfs = object(&mut document, "rootfs");
        rootfs.insert("type".to_owned(), "layers".into());
        add(&mut rootfs, "diff_ids", diff.to_string().into());
        document.insert("rootfs".to_owned(), rootfs.into());
        let mut entry = Map::new();
        entry.insert("created".to_owned(), now.into());
        if !authored.author.is_empty() {
            entry.insert("author".to_owned(), authored.author.clone().into());
        }
        if verb == "imported" {
            entry.insert("created_by".to_owned(), "import".into());
        }
        if !authored.message.is_empty() {
            entry.insert("comment".to_owned(), authored.message.clone().into());
        }
        add(&mut document, "history", entry.into());
        let config = Value::Object(document).to_string().into_bytes();
        config::parse(&config).map_err(|reason| wrong(format!("its configuration {reason}")))?;
        let work = Work {
            name: name.clone().into(),
            platform: Platform::own(),
            any: true,
            registries: Vec::new(),
            keep: true,
            events,
        };
        let candidate = Candidate {
            config,
            manifest: None,
            layers,
            top: None,
        };
        let sources: Vec<_> = reference.into_iter().map(Source::Registry).collect();
        self.obtain(&work, candidate, &sources, None).await
    }

    /// Writes what a container sees as one archive: its layers, topmost first.
    ///
    /// # Errors
    /// [`ImageError::Io`] when a folder cannot be read or the archive not written.
    pub fn export(layers: &[PathBuf], out: impl io::Write) -> Result<(), ImageError> {
        let folders = layers.iter().map(|layer| open_folder(layer));
        let folders = folders.collect::<Result<Vec<_>, _>>()?;
        let mut out = io::BufWriter::with_capacity(1 << 20, out);
        pack(folders, Form::Merged, &mut out).map_err(|source| ImageError::Io {
            operation: "export",
            path: layers.first().cloned().unwrap_or_default(),
            source,
        })
    }
}

fn own_or(platform: Option<&str>) -> Result<Platform, ImageError> {
    match platform {
        None => Ok(Platform::own()),
        Some(text) => Platform::parse(text).ok_or_else(|| ImageError::Settings {
            image: "to load".to_owned(),
            reason: format!("platform {text:?} is not os/architecture[/variant]"),
        }),
    }
}

/// Takes the object at a key out; an empty one in the place of anything else.
fn object(document: &mut Map<String, Value>, key: &str) -> Map<String, Value> {
    match document.remove(key) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// Adds to the array at a key.
fn add(document: &mut Map<String, Value>, key: &str, value: Value) {
    let mut list = match document.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    list.push(value);
    document.insert(key.to_owned(), list.into());
}

/// A file that can be read from any place: itself, or a copy of what it gives.
fn seekable(mut stream: File, scratch: &Path) -> Result<File, ImageError> {
    let io = |error| ImageError::io("copy the input into", scratch)(error);
    if stream.metadata().map_err(io)?.is_file() && stream.rewind().is_ok() {
        return Ok(stream);
    }
    let mut file = nameless(scratch)?;
    let limit = super::unpack::Limits::of(&open_folder(scratch)?)
        .map_err(io)?
        .bytes;
    let count = io::copy(&mut Read::by_ref(&mut stream).take(limit), &mut file).map_err(io)?;
    if count == limit {
        return Err(io(io::ErrorKind::StorageFull.into()));
    }
    file.flush().map_err(io)?;
    file.rewind().map_err(io)?;
    Ok(file)
}
