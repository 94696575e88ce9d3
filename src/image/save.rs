//! Writes images as archives that docker, podman and skopeo read: an OCI layout
//! and docker's `manifest.json` over the same blobs.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write};
use std::sync::Arc;

use serde_json::json;

use super::digest::Digest;
use super::error::ImageError;
use super::pack::file_header;
use super::packed::platform_of;
use super::progress::{Progress, blocking, reporting};
use super::reference::{Reference, Source};
use super::registry::Packed;
use super::store::ImageStore;

impl ImageStore {
    /// Writes images, by their names, into one archive. An image that is named
    /// by its id is written without a name.
    ///
    /// Must run in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`ImageError`], which names the image and what failed; the archive is
    /// then not whole.
    pub async fn save<W: Write + Send + 'static>(
        &self,
        names: &[String],
        out: W,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<(), ImageError> {
        let mut images: Vec<(Digest, Vec<Reference>, Arc<str>)> = Vec::new();
        for name in names {
            let (id, source) = self.id_of(name)?;
            let reference = match source {
                Some(Source::Registry(reference)) if reference.digest().is_none() => Some(reference),
                _ => None,
            };
            match images.iter_mut().find(|(known, ..)| *known == id) {
                Some((_, references, _)) => references.extend(reference),
                None => images.push((id, reference.into_iter().collect(), name.as_str().into())),
            }
        }
        let all: Arc<str> = names.join(" ").into();
        reporting(progress, |events| async move {
            self.prepare()?;
            let mut packed = Vec::new();
            for (id, references, name) in images {
                packed.push((self.packed(&name, id, false, &events).await?, references));
            }
            let image = Arc::clone(&all);
            blocking(all, move || {
                let failed = |source| ImageError::Io {
                    operation: "write the archive of",
                    path: image.as_ref().into(),
                    source,
                };
                let mut out = Out {
                    out,
                    there: BTreeSet::new(),
                };
                let mut index = Vec::new();
                let mut saved = Vec::new();
                for (image, references) in packed {
                    let manifest = Digest::of(&image.manifest);
                    for layer in &image.layers {
                        out.blob(&layer.digest, &layer.packed).map_err(failed)?;
                    }
                    let platform = platform_of(&image.config);
                    out.blob(&image.id, &Packed::Bytes(image.config.into()))
                        .map_err(failed)?;
                    let size = image.manifest.len();
                    out.blob(&manifest, &Packed::Bytes(image.manifest.into()))
                        .map_err(failed)?;
                    let descriptor = json!({
                        "mediaType": image.manifest_kind,
                        "digest": manifest.to_string(),
                        "size": size,
                        "platform": platform,
                    });
                    for reference in &references {
                        let mut named = descriptor.clone();
                        if let Some(object) = named.as_object_mut() {
                            object.insert(
                                "annotations".to_owned(),
                                json!({
                                    "io.containerd.image.name": reference.to_string(),
                                    "org.opencontainers.image.ref.name": reference.tag(),
                                }),
                            );
                        }
                        index.push(named);
                    }
                    if references.is_empty() {
                        index.push(descriptor);
                    }
                    let layers: Vec<_> = image.layers.iter().map(|layer| place(&layer.digest)).collect();
                    let tags: Vec<_> = references.iter().map(Reference::familiar).collect();
                    saved.push(json!({
                        "Config": place(&image.id),
                        "RepoTags": if tags.is_empty() { json!(null) } else { json!(tags) },
                        "Layers": layers,
                    }));
                }
                let index = json!({
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.oci.image.index.v1+json",
                    "manifests": index,
                });
                let layout = json!({"imageLayoutVersion": "1.0.0"});
                for (name, document) in [
                    ("oci-layout", layout),
                    ("index.json", index),
                    ("manifest.json", json!(saved)),
                ] {
                    let bytes = document.to_string().into_bytes();
                    out.file(name, &Packed::Bytes(bytes.into())).map_err(failed)?;
                }
                out.end().map_err(failed)
            })
            .await
        })
        .await
    }
}

fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The archive that is being written.
struct Out<W> {
    out: W,
    there: BTreeSet<Digest>,
}

impl<W: Write> Out<W> {
    fn blob(&mut self, digest: &Digest, packed: &Packed) -> io::Result<()> {
        if self.there.insert(*digest) {
            self.file(&place(digest), packed)?;
        }
        Ok(())
    }

    fn file(&mut self, name: &str, packed: &Packed) -> io::Result<()> {
        let size = packed.len();
        self.out.write_all(&file_header(name, size))?;
        match packed {
            Packed::Bytes(data) => self.out.write_all(data)?,
            Packed::File(file, offset, length) => {
                let slice = super::layer::Slice::new(Arc::clone(file), *offset, *length);
                let count = io::copy(&mut slice.take(size), &mut self.out)?;
                if count < size {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("{name} is cut off"),
                    ));
                }
            }
        }
        let over = usize::try_from(size % 512).unwrap_or(0);
        if over > 0 {
            self.out.write_all(&vec![0; 512 - over])?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.write_all(&[0; 1024])?;
        self.out.flush()
    }
}
