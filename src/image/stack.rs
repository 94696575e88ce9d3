//! The layers of one image on their way to their places.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::digest::Digest;
use super::error::ImageError;
use super::ingest::{LayerRecord, Lease, from_hex, open_folder};
use super::pull::Layer;
use super::store::{ImageStore, Part};
use super::unpack;

/// A layer that is unpacked in `ingest/`, not synced yet.
pub(super) struct Fetched {
    pub(super) at: usize,
    pub(super) lease: Lease,
    pub(super) record: LayerRecord,
    /// Its packed form, when that is kept, and the digest of it.
    pub(super) part: Option<(PathBuf, Digest)>,
}

/// The layers of one image, base first.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) store: ImageStore,
    pub(super) image: Arc<str>,
    pub(super) layers: Vec<Layer>,
    /// Names in `layers/` of those that depend on what is below them: chain ids
    /// (OCI image specification, "Layer ChainID"), marked as such.
    pub(super) chains: Vec<String>,
}

impl Stack {
    pub(super) fn new(store: ImageStore, image: Arc<str>, layers: Vec<Layer>) -> Self {
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
    pub(super) fn present(&self, at: usize) -> Result<Option<String>, ImageError> {
        let own = self.layers.get(at).map(|layer| layer.diff.hex());
        for name in own.into_iter().chain(self.chains.get(at).cloned()) {
            if self.store.has_layer(&name)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Positions of the layers that are not here, each content once.
    pub(super) fn missing(&self) -> Result<Vec<usize>, ImageError> {
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
    pub(super) fn place(&self, mut fetched: Vec<Fetched>) -> Result<(), ImageError> {
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
            if let Some((part, digest)) = layer.part.as_ref().filter(|(part, _)| part.exists()) {
                // Before the layer: a layer in its place is one that is done with.
                let digest = layer.record.packed.map_or(*digest, |(digest, _)| digest);
                let target = self.store.blob(&digest);
                fs::rename(part, &target).map_err(ImageError::io("create", &target))?;
            }
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
    pub(super) fn below(&self, at: usize, fetched: &[Fetched]) -> Result<Option<Vec<OwnedFd>>, ImageError> {
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

    /// What the image is made of, base first.
    pub(super) fn parts(&self) -> Result<Vec<Part>, ImageError> {
        let mut parts = Vec::with_capacity(self.layers.len());
        for (at, layer) in self.layers.iter().enumerate() {
            let name = self.present(at)?.ok_or_else(|| ImageError::Cancelled {
                image: self.image.to_string(),
            })?;
            let blob = match layer.blob {
                Some(blob) => Some(blob),
                None => self.store.layer_record(&name)?.and_then(|record| record.packed),
            };
            parts.push(Part {
                diff: layer.diff,
                name,
                blob,
            });
        }
        Ok(parts)
    }

    /// What overlayfs is given: topmost first; a layer that occurs twice only
    /// where it is on top, which gives the same and which alone is accepted;
    /// nothing below a layer that hides all below.
    pub(super) fn names_for_overlay(&self) -> Result<Vec<String>, ImageError> {
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
