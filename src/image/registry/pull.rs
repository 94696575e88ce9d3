//! Finds images in a registry and streams their layers.

use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::uri::range_start;
use super::{ATTEMPTS, Ask, PATIENCE, Registry, Target, chain};
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::manifest::{self, ACCEPT, CONFIG_LIMIT, Descriptor, Document, MANIFEST_LIMIT, Platform};
use crate::image::progress::Progress;
use crate::image::pull::{Blob, Candidate, Place};
use crate::image::reference::Reference;

/// Indexes inside indexes.
const NESTING_LIMIT: u32 = 4;
/// Tags that are asked for at once, and that one repository may have.
const TAGS_A_PAGE: usize = 1000;
const TAGS_LIMIT: usize = 100_000;
/// Progress is told for each of so many bytes.
const REPORT_EVERY: u64 = 512 << 10;

fn accept() -> HeaderValue {
    HeaderValue::from_static(ACCEPT)
}

impl Registry {
    /// The digest that a reference has now, by a request that counts for no
    /// limit; `None` when the registry does not tell.
    pub(in crate::image) async fn head(&self, reference: &Reference) -> Option<Digest> {
        let path = format!("manifests/{}", reference.version());
        let ask =
            Ask::new(Method::HEAD, Target::Path(path.clone()), path, &[200]).header(header::ACCEPT, accept());
        // Whatever is wrong will be said by the request that counts.
        let response = self.ask_once(&ask).await.ok()?;
        let announced = response.headers().get("docker-content-digest")?;
        Digest::parse(announced.to_str().ok()?)
    }

    /// The image of a reference for a platform.
    pub(in crate::image) async fn find(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Candidate, ImageError> {
        let mut version = reference.version();
        let mut wanted = reference.digest().copied();
        let mut top = None;
        for _ in 0..NESTING_LIMIT {
            let (bytes, digest) = self.manifest(&version, wanted).await?;
            top = top.or(Some(digest));
            let document = manifest::parse(&bytes).map_err(|reason| self.document("manifest", reason))?;
            match document {
                Document::Index(entries) => {
                    let chosen =
                        manifest::choose(platform, &entries).map_err(|available| ImageError::Platform {
                            image: self.image.to_string(),
                            wanted: platform.to_string(),
                            available,
                        })?;
                    version = chosen.digest.to_string();
                    wanted = Some(chosen.digest);
                }
                Document::Manifest { config, layers } => {
                    let config = self.configuration(&config).await?;
                    let layers = layers.iter().map(|layer| Blob {
                        digest: Some((layer.digest, layer.size)),
                        place: Place::Registry,
                    });
                    return Ok(Candidate {
                        config,
                        manifest: Some((digest, bytes)),
                        layers: layers.collect(),
                        top,
                    });
                }
            }
        }
        Err(self.document("index", "holds only indexes".to_owned()))
    }

    /// The digest that the registry has for a reference now.
    pub(in crate::image) async fn digest(&self, reference: &Reference) -> Result<Digest, ImageError> {
        let wanted = reference.digest().copied();
        let (_, digest) = self.manifest(&reference.version(), wanted).await?;
        Ok(digest)
    }

    /// Every tag of the repository, as the registry lists them.
    pub(in crate::image) async fn tags(&self) -> Result<Vec<String>, ImageError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut all: Vec<String> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut path = "tags/list".to_owned();
        loop {
            let (bytes, more) = self.page(&path).await?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|error| self.document("list of tags", format!("is malformed: {error}")))?;
            let before = all.len();
            for tag in page.tags.unwrap_or_default() {
                // What is no tag cannot be asked for, and must not lead elsewhere.
                if Reference::is_tag(&tag) && seen.insert(tag.clone()) {
                    all.push(tag);
                }
            }
            match all.last() {
                // A registry that repeats itself comes to no end.
                Some(last) if more && all.len() > before && all.len() < TAGS_LIMIT => {
                    path = format!("tags/list?n={TAGS_A_PAGE}&last={last}");
                }
                _ => return Ok(all),
            }
        }
    }

    /// One page of a list, and whether there are more.
    async fn page(&self, path: &str) -> Result<(Vec<u8>, bool), ImageError> {
        let response = self.ask(&Self::get(path, 0)).await?;
        let links = response.headers().get_all(header::LINK);
        let more = links
            .iter()
            .any(|link| link.to_str().is_ok_and(|link| link.contains("rel=\"next\"")));
        let limit = usize::try_from(MANIFEST_LIMIT).unwrap_or(usize::MAX);
        let body = Limited::new(response.into_body(), limit);
        match timeout(PATIENCE, body.collect()).await {
            Ok(Ok(body)) => Ok((body.to_bytes().to_vec(), more)),
            Ok(Err(error)) => Err(self.transfer(path, chain(error.as_ref()))),
            Err(_) => Err(self.transfer(path, "no data for a minute".to_owned())),
        }
    }

    /// A manifest by tag or digest: its bytes as they came, and their digest.
    async fn manifest(&self, version: &str, wanted: Option<Digest>) -> Result<(Vec<u8>, Digest), ImageError> {
        let path = format!("manifests/{version}");
        let (bytes, announced) = self.small(&path, "manifest", MANIFEST_LIMIT).await?;
        let digest = Digest::of(&bytes);
        match wanted.or(announced) {
            Some(expected) if expected != digest => Err(ImageError::WrongDigest {
                image: self.image.to_string(),
                what: "manifest".to_owned(),
                expected,
                actual: digest,
            }),
            _ => Ok((bytes, digest)),
        }
    }

    async fn configuration(&self, config: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let path = format!("blobs/{}", config.digest);
        let (bytes, _) = self.small(&path, "configuration", CONFIG_LIMIT).await?;
        let actual = Digest::of(&bytes);
        if actual == config.digest {
            return Ok(bytes);
        }
        Err(ImageError::WrongDigest {
            image: self.image.to_string(),
            what: "configuration".to_owned(),
            expected: config.digest,
            actual,
        })
    }

    fn get(path: &str, from: u64) -> Ask {
        let mut ask = Ask::new(Method::GET, Target::Path(path.to_owned()), path, &[200, 206]);
        if path.starts_with("manifests/") {
            ask = ask.header(header::ACCEPT, accept());
        }
        if from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            ask = ask.header(header::RANGE, range);
        }
        ask
    }

    /// Reads something small whole, with the digest that the registry announces.
    async fn small(
        &self,
        path: &str,
        what: &'static str,
        limit: u64,
    ) -> Result<(Vec<u8>, Option<Digest>), ImageError> {
        let mut attempt = 1;
        loop {
            let response = self.ask(&Self::get(path, 0)).await?;
            let announced = response.headers().get("docker-content-digest");
            let announced = announced.and_then(|value| Digest::parse(value.to_str().ok()?));
            let body = Limited::new(response.into_body(), usize::try_from(limit).unwrap_or(usize::MAX));
            let reason = match timeout(PATIENCE, body.collect()).await {
                Ok(Ok(body)) => return Ok((body.to_bytes().to_vec(), announced)),
                Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                    return Err(self.document(what, format!("has more than {limit} bytes")));
                }
                Ok(Err(error)) => chain(error.as_ref()),
                Err(_) => "no data for a minute".to_owned(),
            };
            if attempt == ATTEMPTS {
                return Err(self.transfer(path, reason));
            }
            self.pause(&mut attempt, path, reason, None).await;
        }
    }

    /// Streams a blob from `received` on, which it keeps up to date, into `sink`:
    /// pieces, and an empty one when all of it has been sent. Its digest is for the receiver to check. A
    /// break is continued where it happened.
    pub(in crate::image) async fn layer(
        &self,
        digest: &Digest,
        size: u64,
        received: &AtomicU64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), ImageError> {
        let path = format!("blobs/{digest}");
        let report = |bytes| {
            self.events.send(Progress::Downloaded {
                layer: digest.short(),
                bytes,
                total: size,
            });
        };
        let counter = received;
        let mut received = counter.load(Ordering::Relaxed);
        let mut reported = received;
        let mut attempt = 1;
        if received > 0 && received == size {
            report(size);
            return sink.send(Bytes::new()).await.map_err(|_| self.cancelled());
        }
        loop {
            let before = received;
            let response = self.ask(&Self::get(&path, received)).await?;
            // A server that does not know ranges sends the whole again.
            let mut skip = match response.status() {
                StatusCode::PARTIAL_CONTENT => match range_start(&response) {
                    Some(start) if start <= received => received - start,
                    _ => return Err(self.transfer(&path, "it sends another part than asked for".to_owned())),
                },
                _ => received,
            };
            let mut body = response.into_body();
            let reason = loop {
                let frame = match timeout(PATIENCE, body.frame()).await {
                    Err(_) => break "no data for a minute".to_owned(),
                    Ok(None) if received == size => {
                        report(received);
                        // A blob of no bytes has no pieces either.
                        return sink.send(Bytes::new()).await.map_err(|_| self.cancelled());
                    }
                    Ok(None) => break format!("cut off after {received} of {size} bytes"),
                    Ok(Some(Err(error))) => {
                        break format!("{} after {received} of {size} bytes", chain(&error));
                    }
                    Ok(Some(Ok(frame))) => frame,
                };
                let Ok(mut data) = frame.into_data() else { continue };
                let skipped = skip.min(data.len() as u64);
                skip -= skipped;
                let _ = data.split_to(usize::try_from(skipped).unwrap_or(usize::MAX).min(data.len()));
                if data.is_empty() {
                    continue;
                }
                received += data.len() as u64;
                if received > size {
                    return Err(ImageError::WrongSize {
                        image: self.image.to_string(),
                        what: format!("layer {}", digest.short()),
                        expected: size,
                        actual: received,
                    });
                }
                if received - reported >= REPORT_EVERY {
                    reported = received;
                    report(received);
                }
                sink.send(data).await.map_err(|_| self.cancelled())?;
                counter.store(received, Ordering::Relaxed);
            };
            if received > before {
                // As long as it goes on, it may break any number of times.
                attempt = 1;
            } else if attempt == ATTEMPTS {
                return Err(self.transfer(&path, reason));
            }
            self.pause(&mut attempt, &path, reason, None).await;
        }
    }
}
