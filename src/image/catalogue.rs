//! What is here: images by name and id, their details, tags, and their end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use super::config;
use super::digest::Digest;
use super::error::ImageError;
use super::manifest::Platform;
use super::reference::{Reference, Source};
use super::store::{ImageStore, Pruned};

/// Fewest digits of an id that name an image.
const PREFIX: usize = 4;

/// An image that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// `sha256:` and the digest of the configuration.
    pub id: String,
    /// The sources that are this image, in their canonical form, sorted.
    pub references: Vec<String>,
    /// `registry/repository@sha256:…`, what it was pulled or pushed as.
    pub digests: Vec<String>,
    /// When it was built, as its configuration says (RFC 3339); may be empty.
    pub created: String,
    /// When it came here.
    pub arrived: SystemTime,
    /// Bytes of file data in its layers.
    pub bytes: u64,
    /// Bytes of file data in layers that other images have too.
    pub shared: u64,
    /// Bytes of the packed layers that are kept for pushing and saving.
    pub packed: u64,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDetail {
    /// Digest of the decompressed archive.
    pub diff: String,
    /// Bytes of file data.
    pub bytes: u64,
    /// Where it lies.
    pub folder: PathBuf,
}

/// Everything about one image.
#[derive(Clone, Debug)]
pub struct Details {
    /// The short form.
    pub summary: Summary,
    /// Its configuration document, as it came.
    pub config: serde_json::Value,
    /// Its manifest, as it came, when it came with one.
    pub manifest: Option<serde_json::Value>,
    /// Its layers, base first.
    pub layers: Vec<LayerDetail>,
}

/// What [`ImageStore::remove_image`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Sources that were forgotten.
    pub untagged: Vec<String>,
    /// Images and layers that are gone, by their digests.
    pub deleted: Vec<String>,
}

/// Who uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUser {
    /// Image id.
    pub image: String,
    /// Name of the container.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// What the store takes on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of file data in all layers, each counted once.
    pub layers: u64,
    /// Bytes of packed layers, manifests and configurations.
    pub packed: u64,
    /// Bytes of layers that are not an image's yet, or not any more.
    pub leftovers: u64,
}

impl ImageStore {
    /// Every image that is here, those without a name too; newest first.
    ///
    /// # Errors
    /// [`ImageError::Store`] or [`ImageError::Io`] when the store cannot be read.
    pub fn summaries(&self) -> Result<Vec<Summary>, ImageError> {
        let pointers = self.pointers()?;
        let mut sizes: BTreeMap<String, (u64, u32)> = BTreeMap::new();
        let mut records = Vec::new();
        for id in self.ids()? {
            let Some(record) = self.record(&id)? else {
                continue;
            };
            let names: BTreeSet<_> = record
                .parts
                .iter()
                .map(|part| part.name.clone())
                .chain(record.layers.iter().cloned())
                .collect();
            for name in &names {
                let size = self.layer_bytes(name)?;
                sizes.entry(name.clone()).or_insert((size, 0)).1 += 1;
            }
            records.push((id, record, names));
        }
        let mut list = Vec::new();
        for (id, record, names) in records {
            let Some(bytes) = self.read_blob(&id)? else {
                continue;
            };
            let Ok((config, _)) = config::parse(&bytes) else {
                continue;
            };
            #[derive(Default, serde::Deserialize)]
            struct When {
                created: Option<String>,
            }
            let when: When = serde_json::from_slice(&bytes).unwrap_or_default();
            let own = pointers.iter().filter(|pointer| pointer.id == id);
            let mut digests: Vec<String> = own
                .clone()
                .filter_map(|pointer| {
                    let reference = Reference::parse(&pointer.source).ok()?;
                    let top = pointer.top?;
                    Some(format!(
                        "{}/{}@{top}",
                        reference.registry(),
                        reference.repository()
                    ))
                })
                .collect();
            digests.sort();
            digests.dedup();
            let of = |shared: bool| {
                names
                    .iter()
                    .filter_map(|name| sizes.get(name))
                    .filter(|(_, users)| !shared || *users > 1)
                    .map(|(size, _)| size)
                    .sum()
            };
            let mut platform = format!("{}/{}", config.os, config.architecture);
            if !config.variant.is_empty() {
                platform = format!("{platform}/{}", config.variant);
            }
            let packed: BTreeSet<_> = record.parts.iter().filter_map(|part| part.blob).collect();
            list.push(Summary {
                id: id.to_string(),
                references: own.map(|pointer| pointer.source.clone()).collect(),
                digests,
                created: when.created.unwrap_or_default(),
                arrived: self.record_time(&id),
                bytes: of(false),
                shared: of(true),
                packed: packed
                    .iter()
                    .filter_map(|(digest, _)| std::fs::metadata(self.blob(digest)).ok())
                    .map(|found| found.len())
                    .sum(),
                platform,
                labels: config.labels,
            });
        }
        list.sort_by(|a, b| (&b.created, &a.references, &a.id).cmp(&(&a.created, &b.references, &b.id)));
        Ok(list)
    }

    /// The image of a name: a source, an id, or the first digits of one.
    ///
    /// # Errors
    /// [`ImageError::Absent`]; [`ImageError::Settings`] when digits fit several;
    /// [`ImageError::Store`] or [`ImageError::Io`] when the store cannot be read.
    pub fn find(&self, name: &str) -> Result<Summary, ImageError> {
        let id = self.id_of(name)?.0.to_string();
        self.summaries()?
            .into_iter()
            .find(|summary| summary.id == id)
            .ok_or_else(|| ImageError::Absent {
                name: name.to_owned(),
            })
    }

    /// The id that a name stands for, and the source when it is one.
    pub(super) fn id_of(&self, name: &str) -> Result<(Digest, Option<Source>), ImageError> {
        let absent = || ImageError::Absent {
            name: name.to_owned(),
        };
        if let Some(id) = Digest::parse(name) {
            return self.record(&id)?.map(|_| (id, None)).ok_or_else(absent);
        }
        if let Ok(source) = Source::parse(name) {
            if let Some((id, _)) = self.pointed(&source)? {
                return Ok((id, Some(source)));
            }
            // By the digest it was pulled as, whatever tag it has here.
            if let Source::Registry(reference) = &source
                && let Some(digest) = reference.digest()
            {
                let found = self.pointers()?.into_iter().find(|pointer| {
                    pointer.top == Some(*digest)
                        && Reference::parse(&pointer.source).is_ok_and(|known| {
                            known.registry() == reference.registry()
                                && known.repository() == reference.repository()
                        })
                });
                if let Some(found) = found {
                    return Ok((found.id, Source::parse(&found.source).ok()));
                }
            }
        }
        let digits = name.strip_prefix("sha256:").unwrap_or(name);
        let plain = digits
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !plain || digits.len() < PREFIX || digits.len() > 64 {
            return Err(absent());
        }
        let mut found = self.ids()?.into_iter().filter(|id| id.hex().starts_with(digits));
        match (found.next(), found.next()) {
            (Some(id), None) => Ok((id, None)),
            (None, _) => Err(absent()),
            (Some(_), Some(_)) => Err(ImageError::Settings {
                image: name.to_owned(),
                reason: "several images have an id that starts so".to_owned(),
            }),
        }
    }

    /// Everything about an image, by name.
    ///
    /// # Errors
    /// As [`ImageStore::find`].
    pub fn details(&self, name: &str) -> Result<Details, ImageError> {
        let summary = self.find(name)?;
        let absent = || ImageError::Absent {
            name: name.to_owned(),
        };
        let id = Digest::parse(&summary.id).ok_or_else(absent)?;
        let record = self.record(&id)?.ok_or_else(absent)?;
        let config = self.read_blob(&id)?.ok_or_else(absent)?;
        let manifest = match record.manifest {
            Some(digest) => self.read_blob(&digest)?,
            None => None,
        };
        let mut layers = Vec::with_capacity(record.parts.len());
        for part in &record.parts {
            layers.push(LayerDetail {
                diff: part.diff.to_string(),
                bytes: self.layer_bytes(&part.name)?,
                folder: self.layer(&part.name).join("fs"),
            });
        }
        Ok(Details {
            config: serde_json::from_slice(&config).map_err(|error| ImageError::Document {
                image: name.to_owned(),
                what: "configuration",
                reason: format!("is malformed: {error}"),
            })?,
            manifest: manifest.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
            summary,
            layers,
        })
    }

    /// Whether an image is the one for a platform, when one is asked for: of an
    /// image for several platforms one is kept.
    ///
    /// # Errors
    /// As [`ImageStore::find`]; [`ImageError::Settings`] when the text is no
    /// platform; [`ImageError::Platform`] when the image is for another one.
    pub fn require_platform(&self, name: &str, platform: Option<&str>) -> Result<(), ImageError> {
        let Some(text) = platform else { return Ok(()) };
        let wanted = Platform::parse(text).ok_or_else(|| ImageError::Settings {
            image: name.to_owned(),
            reason: format!("platform {text:?} is not os/architecture[/variant]"),
        })?;
        let summary = self.find(name)?;
        let offered = Platform::parse(&summary.platform);
        if offered.is_some_and(|offered| wanted.takes(&offered)) {
            return Ok(());
        }
        Err(ImageError::Platform {
            image: name.to_owned(),
            wanted: wanted.to_string(),
            available: summary.platform,
        })
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// As [`ImageStore::find`]; [`ImageError::Reference`] when the new name is
    /// none; [`ImageError::Settings`] when it has a digest.
    pub fn tag(&self, name: &str, target: &str) -> Result<(), ImageError> {
        let target = Reference::parse(target)?;
        if target.digest().is_some() {
            return Err(ImageError::Settings {
                image: target.familiar(),
                reason: "a digest cannot be given as a name".to_owned(),
            });
        }
        let _alone = self.alone()?;
        let (id, _) = self.id_of(name)?;
        self.point(&Source::Registry(target), id, None, None)
    }

    /// Removes a name of an image, and the image with its last one. By id it
    /// removes all names. A container that uses the image keeps it; `force`
    /// then removes the names alone, and with an id several names.
    ///
    /// # Errors
    /// As [`ImageStore::find`]; [`ImageError::InUse`].
    pub fn remove_image(&self, name: &str, force: bool, users: &[ImageUser]) -> Result<Removed, ImageError> {
        let _alone = self.alone()?;
        let (id, source) = self.id_of(name)?;
        let pointers = self.pointers()?;
        let own: Vec<&str> = pointers
            .iter()
            .filter(|pointer| pointer.id == id)
            .map(|pointer| pointer.source.as_str())
            .collect();
        let going: Vec<String> = match &source {
            Some(source) => vec![source.to_string()],
            None => own.iter().map(|source| (*source).to_owned()).collect(),
        };
        let refuse = |reason: String| ImageError::InUse {
            image: name.to_owned(),
            reason,
        };
        if source.is_none() && going.len() > 1 && !force {
            return Err(refuse(format!(
                "it has several names ({}): remove these, or use --force",
                going.join(", ")
            )));
        }
        let last = own.iter().all(|one| going.iter().any(|gone| gone == one));
        let text = id.to_string();
        let user = users
            .iter()
            .filter(|user| user.image == text)
            .max_by_key(|user| user.running);
        if let Some(user) = user.filter(|_| last)
            && (!force || (user.running && source.is_none()))
        {
            let how = if user.running {
                "running container"
            } else {
                "stopped container"
            };
            return Err(refuse(format!("{how} {} uses it", user.container)));
        }
        let mut removed = Removed::default();
        for gone in going {
            if self.remove(&gone)? {
                removed.untagged.push(gone);
            }
        }
        if last && user.is_none() {
            let mut ids = self.ids()?;
            let before = self.ids()?;
            ids.remove(&id);
            let layers = self.record(&id)?.map(|record| record.parts).unwrap_or_default();
            self.sweep_images(&ids)?;
            removed
                .deleted
                .extend(before.difference(&self.ids()?).map(Digest::to_string));
            for part in layers.iter().rev() {
                if !self.has_layer(&part.name)? {
                    removed.deleted.push(part.diff.to_string());
                }
            }
        }
        Ok(removed)
    }

    /// Removes images that nobody uses: those without a name, or with `all`
    /// every one that no container (`keep`: the ids of their images) is made
    /// from; only those that `chosen` says yes to. Also removes what killed
    /// processes left.
    ///
    /// # Errors
    /// As [`ImageStore::prune`].
    pub fn prune_images(
        &self,
        keep: &BTreeSet<String>,
        all: bool,
        chosen: impl Fn(&Summary) -> bool,
    ) -> Result<Pruned, ImageError> {
        let _alone = self.alone()?;
        self.sweep(false)?;
        let mut ids = self.ids()?;
        let mut references = Vec::new();
        for summary in self.summaries()? {
            let used = keep.contains(&summary.id);
            let unwanted = summary.references.is_empty() || all;
            if !used
                && unwanted
                && chosen(&summary)
                && let Some(id) = Digest::parse(&summary.id)
            {
                ids.remove(&id);
                for reference in summary.references {
                    self.remove(&reference)?;
                    references.push(reference);
                }
            }
        }
        let mut pruned = self.sweep_images(&ids)?;
        pruned.references = references;
        Ok(pruned)
    }

    /// What the store takes on the disk.
    ///
    /// # Errors
    /// [`ImageError::Store`] or [`ImageError::Io`] when the store cannot be read.
    pub fn usage(&self) -> Result<Usage, ImageError> {
        let mut used = BTreeSet::new();
        for id in self.ids()? {
            if let Some(record) = self.record(&id)? {
                used.extend(record.layers);
                used.extend(record.parts.into_iter().map(|part| part.name));
            }
        }
        let mut usage = Usage::default();
        for name in self.layer_names()? {
            let bytes = self.layer_bytes(&name)?;
            usage.layers += bytes;
            if !used.contains(&name) {
                usage.leftovers += bytes;
            }
        }
        usage.packed = self.blob_bytes()?;
        Ok(usage)
    }
}
