//! Sends images to their registry.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::digest::Digest;
use super::error::ImageError;
use super::progress::{Events, Progress, reporting};
use super::reference::{Reference, Source};
use super::registry::{Access, Packed, Registry, Upload};
use super::store::ImageStore;

/// Blobs that are sent side by side.
const SIDE_BY_SIDE: usize = 4;
/// Repositories that a layer is asked for before it is sent.
const MOUNTS_LIMIT: usize = 3;

/// A tag that is in the registry now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The reference, in its canonical form.
    pub reference: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Bytes of the manifest.
    pub size: usize,
}

impl ImageStore {
    /// Sends an image to the registry that its name says. With `all_tags` the
    /// name has no tag, and every tag of the repository that is here is sent;
    /// layers that are there are not sent, and layers of other repositories of
    /// the registry are taken from these.
    ///
    /// Must run in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`ImageError`], which names the image and what failed.
    pub async fn push(
        &self,
        name: &str,
        all_tags: bool,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Vec<Pushed>, ImageError> {
        reporting(progress, |events| self.push_all(name, all_tags, events)).await
    }

    async fn push_all(&self, name: &str, all_tags: bool, events: Events) -> Result<Vec<Pushed>, ImageError> {
        let wrong = |reason: &str| ImageError::Settings {
            image: name.to_owned(),
            reason: reason.to_owned(),
        };
        self.prepare()?;
        let Source::Registry(reference) = Source::parse(name)? else {
            return Err(wrong(
                "only an image with the name of a registry can be pushed: tag it first",
            ));
        };
        if reference.digest().is_some() {
            return Err(wrong("an image is pushed by its tag, not by a digest"));
        }
        let repository = |one: &Reference| (one.registry().to_owned(), one.repository().to_owned());
        let typed_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        if all_tags && typed_tag {
            return Err(wrong("a tag cannot be given with --all-tags"));
        }
        let mut tags: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for pointer in self.pointers()? {
            let Ok(known) = Reference::parse(&pointer.source) else {
                continue;
            };
            let wanted = if all_tags {
                repository(&known) == repository(&reference)
                    && known.tag().is_some()
                    && known.digest().is_none()
            } else {
                known == reference
            };
            if wanted {
                tags.entry(pointer.id).or_default().push(known);
            }
        }
        if tags.is_empty() {
            return Err(ImageError::Absent {
                name: name.to_owned(),
            });
        }
        let image: Arc<str> = name.into();
        let mut pushed = Vec::new();
        for (id, references) in tags {
            pushed.extend(self.push_one(&image, id, &references, &events).await?);
        }
        pushed.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(pushed)
    }

    async fn push_one(
        &self,
        name: &Arc<str>,
        id: Digest,
        references: &[Reference],
        events: &Events,
    ) -> Result<Vec<Pushed>, ImageError> {
        let cancelled = || ImageError::Cancelled {
            image: name.to_string(),
        };
        let first = references.first().ok_or_else(cancelled)?;
        let packed = self.packed(name, id, true, events).await?;
        let elsewhere = self.elsewhere(first)?;
        let mut from: Vec<String> = elsewhere.values().flatten().cloned().collect();
        from.sort();
        from.dedup();
        from.truncate(MOUNTS_LIMIT);
        let clients = Registry::clients(name, first, &Access::Push(from.clone()), self.places(), events)?;
        let client = clients.last().ok_or_else(cancelled)?;
        let mut uploads = vec![Upload {
            digest: packed.id,
            packed: Packed::Bytes(packed.config.into()),
            from: Vec::new(),
            layer: false,
        }];
        for layer in packed.layers {
            if uploads.iter().any(|upload| upload.digest == layer.digest) {
                continue;
            }
            let mut has = elsewhere.get(&layer.digest).cloned().unwrap_or_default();
            has.retain(|repository| from.contains(repository));
            uploads.push(Upload {
                digest: layer.digest,
                packed: layer.packed,
                from: has,
                layer: true,
            });
        }
        events.send(Progress::Layers {
            total: uploads.len() - 1,
            missing: uploads.len() - 1,
            bytes: uploads.iter().map(|upload| upload.packed.len()).sum(),
        });
        let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let mut tasks = JoinSet::new();
        for upload in uploads {
            let (client, places) = (Arc::clone(client), Arc::clone(&places));
            tasks.spawn(async move {
                let _place = places.acquire().await;
                client.push_blob(&upload).await
            });
        }
        while let Some(result) = tasks.join_next().await {
            // The first that fails ends the others: dropping the set stops them.
            result.unwrap_or_else(|_| Err(cancelled()))?;
        }
        let digest = Digest::of(&packed.manifest);
        let mut pushed = Vec::new();
        // What the manifest names is there: now it may be.
        for reference in references {
            client
                .push_manifest(&reference.version(), &packed.manifest_kind, &packed.manifest)
                .await?;
            let using = self.shared().await?;
            if self
                .pointed(&Source::Registry(reference.clone()))?
                .is_some_and(|(now, _)| now == id)
            {
                self.point(&Source::Registry(reference.clone()), id, None, Some(digest))?;
            }
            drop(using);
            pushed.push(Pushed {
                reference: reference.to_string(),
                digest: digest.to_string(),
                size: packed.manifest.len(),
            });
        }
        Ok(pushed)
    }

    /// Which other repositories of the same registry may have which blob.
    fn elsewhere(&self, reference: &Reference) -> Result<BTreeMap<Digest, Vec<String>>, ImageError> {
        let mut found: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for pointer in self.pointers()? {
            let Ok(known) = Reference::parse(&pointer.source) else {
                continue;
            };
            // Without a digest it is only a name that somebody has given here.
            let other =
                known.registry() == reference.registry() && known.repository() != reference.repository();
            if !other || pointer.top.is_none() {
                continue;
            }
            for part in self
                .record(&pointer.id)?
                .map(|record| record.parts)
                .unwrap_or_default()
            {
                if let Some((digest, _)) = part.blob {
                    found
                        .entry(digest)
                        .or_default()
                        .push(known.repository().to_owned());
                }
            }
        }
        Ok(found)
    }
}
