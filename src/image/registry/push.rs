//! Sends blobs and manifests.
//!
//! For each blob: is it there (HEAD), can it be taken from another repository
//! of the registry (mount), and only then is it sent. Small ones go whole in one
//! PUT. Large ones in one PATCH that is streamed, which every registry takes;
//! in pieces when the registry says that this is too much (413); and from where
//! the registry says that it stopped when the connection breaks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode, Uri};
use tokio::task::JoinHandle;

use super::transport::Body;
use super::uri::{percent, resolve_uri};
use super::{ATTEMPTS, Ask, Failure, Registry, Target, bytes};
use crate::image::digest::Digest;
use crate::image::error::ImageError;
use crate::image::progress::Progress;

/// Up to here a blob is sent in one request.
const WHOLE: u64 = 4 << 20;
/// Pieces of a blob that is too large for one request.
const PIECE: u64 = 16 << 20;
/// How much is read from a file at once.
const READ: usize = 256 << 10;
/// Progress is told for each of so many bytes.
const REPORT_EVERY: u64 = 512 << 10;

/// A blob as it lies here.
#[derive(Clone, Debug)]
pub(in crate::image) enum Packed {
    /// In a part of a file: offset and length.
    File(Arc<File>, u64, u64),
    /// In memory.
    Bytes(Bytes),
}

impl Packed {
    pub(in crate::image) fn len(&self) -> u64 {
        match self {
            Self::File(_, _, length) => *length,
            Self::Bytes(data) => data.len() as u64,
        }
    }

    fn body(&self, from: u64, length: u64, sent: Arc<AtomicU64>) -> Body {
        match self {
            Self::File(file, offset, _) => FileBody {
                file: Arc::clone(file),
                offset: offset + from,
                left: length,
                reading: None,
                sent,
            }
            .boxed_unsync(),
            Self::Bytes(data) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
                bytes(data.slice(place(from)..place(from + length)))
            }
        }
    }
}

/// A blob that is to be in the registry.
#[derive(Clone, Debug)]
pub(in crate::image) struct Upload {
    pub(in crate::image) digest: Digest,
    pub(in crate::image) packed: Packed,
    /// Repositories of the same registry that may have it.
    pub(in crate::image) from: Vec<String>,
    /// A layer, and not a configuration.
    pub(in crate::image) layer: bool,
}

/// Streams a part of a file.
struct FileBody {
    file: Arc<File>,
    offset: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    sent: Arc<AtomicU64>,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let length = usize::try_from(self.left).unwrap_or(READ).min(READ);
        let reading = self.reading.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; length];
                file.read_exact_at(&mut buffer, offset)?;
                Ok(Bytes::from(buffer))
            })
        });
        let read = std::task::ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let data = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        Poll::Ready(Some(data.map(|data| {
            self.offset += data.len() as u64;
            self.left -= data.len() as u64;
            self.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            Frame::data(data)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Registry {
    /// Sees to it that a blob is in the repository.
    pub(in crate::image) async fn push_blob(&self, blob: &Upload) -> Result<(), ImageError> {
        let label = blob.digest.short();
        let told = |state| {
            if blob.layer {
                self.events.send(Progress::Pushed {
                    layer: label.clone(),
                    state,
                });
            }
        };
        let path = format!("blobs/{}", blob.digest);
        let look = Ask::new(Method::HEAD, Target::Path(path.clone()), &path, &[200, 404]);
        if self.ask(&look).await?.status() == StatusCode::OK {
            told("exists");
            return Ok(());
        }
        let mut place = None;
        for from in &blob.from {
            let path = format!("blobs/uploads/?mount={}&from={}", blob.digest, percent(from));
            let ask = Ask::new(Method::POST, Target::Path(path), "a mount", &[201, 202]);
            // A registry that does not mount, or not this, says so; then it is sent.
            let Ok(response) = self.ask(&ask).await else {
                continue;
            };
            if response.status() == StatusCode::CREATED {
                told("mounted");
                return Ok(());
            }
            place = self.location(&response).ok();
            if place.is_some() {
                break;
            }
        }
        let mut attempt = 1;
        let mut piece = u64::MAX;
        loop {
            match self.send_blob(blob, place.take(), piece).await {
                Ok(()) => {
                    told("sent");
                    return Ok(());
                }
                Err(Failure::Final(ImageError::Status { status: 413, .. })) if piece > PIECE => {
                    piece = PIECE;
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error, _)) if attempt == ATTEMPTS => return Err(error),
                Err(Failure::Passing(error, after)) => {
                    self.pause(&mut attempt, &path, error.to_string(), after).await;
                }
            }
        }
    }

    /// One upload, which goes on after breaks as long as the registry knows it.
    async fn send_blob(&self, blob: &Upload, place: Option<Uri>, mut piece: u64) -> Result<(), Failure> {
        let size = blob.packed.len();
        let what = format!("blobs/{}", blob.digest);
        let mut place = match place {
            Some(place) => place,
            None => {
                let path = Target::Path("blobs/uploads/".to_owned());
                let response = self
                    .ask(&Ask::new(Method::POST, path, "an upload", &[202]))
                    .await?;
                // A registry may want pieces of some length at least.
                let least = response.headers().get("oci-chunk-min-length");
                let least = least.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                piece = piece.max(least.unwrap_or(0));
                self.location(&response)?
            }
        };
        let mut done = 0;
        let mut breaks = 0;
        while size > WHOLE && done < size {
            let length = piece.min(size - done);
            let mut ask = Ask::new(Method::PATCH, Target::At(place.clone()), &what, &[202]);
            // A registry of old takes a first piece without a range, and only that.
            if done > 0 || length < size {
                ask = ask.header(
                    header::CONTENT_RANGE,
                    value(&format!("{done}-{}", done + length - 1)),
                );
            }
            self.fill(&mut ask, blob, done, length);
            let watch = self.watch(blob, done, &ask.sent);
            let result = tokio::select! {
                result = self.ask_once(&ask) => result,
                never = watch => match never {},
            };
            match result {
                Ok(response) => {
                    place = self.location(&response)?;
                    done += length;
                    breaks = 0;
                }
                Err(failure) => {
                    breaks += 1;
                    let passing = match failure {
                        Failure::Passing(error, after) => (error, after),
                        // Out of order: it may have more, or less, than was heard of.
                        Failure::Final(error @ ImageError::Status { status: 416, .. }) => (error, None),
                        other => return Err(other),
                    };
                    if breaks > ATTEMPTS {
                        return Err(Failure::Passing(passing.0, passing.1));
                    }
                    let mut attempt = breaks;
                    self.pause(&mut attempt, &what, passing.0.to_string(), passing.1)
                        .await;
                    let status = Ask::new(Method::GET, Target::At(place.clone()), &what, &[200, 202, 204]);
                    match self.ask(&status).await {
                        Ok(response) => {
                            let range = response.headers().get(header::RANGE);
                            let last = range
                                .and_then(|range| {
                                    range.to_str().ok()?.trim_start_matches("bytes=").split_once('-')
                                })
                                .and_then(|(_, last)| last.parse::<u64>().ok());
                            // `0-0` is what registries say of nothing, and of one byte.
                            done = last.filter(|&last| last > 0).map_or(0, |last| last + 1).min(size);
                            place = self.location(&response).unwrap_or(place);
                        }
                        // It has forgotten the upload: from the start.
                        Err(_) => return Err(Failure::Passing(passing.0, None)),
                    }
                }
            }
        }
        let separator = if place.query().is_some() { '&' } else { '?' };
        let target = format!("{place}{separator}digest={}", percent(&blob.digest.to_string()))
            .parse()
            .map_err(|_| self.transfer(&what, "it names no valid address for the upload".to_owned()))?;
        let mut ask = Ask::new(Method::PUT, Target::At(target), &what, &[201, 204]);
        self.fill(&mut ask, blob, done, size - done);
        self.ask_once(&ask).await?;
        self.events.send(Progress::Uploaded {
            layer: blob.digest.short(),
            bytes: size,
            total: size,
        });
        Ok(())
    }

    fn fill(&self, ask: &mut Ask, blob: &Upload, from: u64, length: u64) {
        let (packed, sent) = (blob.packed.clone(), Arc::clone(&ask.sent));
        ask.headers.push((
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ));
        ask.body = Some(Box::new(move || packed.body(from, length, Arc::clone(&sent))));
    }

    /// Tells how far an upload is, for as long as it is asked to.
    async fn watch(&self, blob: &Upload, from: u64, sent: &AtomicU64) -> std::convert::Infallible {
        let mut told = 0;
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let now = sent.load(Ordering::Relaxed);
            if now - told >= REPORT_EVERY {
                told = now;
                self.events.send(Progress::Uploaded {
                    layer: blob.digest.short(),
                    bytes: (from + now).min(blob.packed.len()),
                    total: blob.packed.len(),
                });
            }
        }
    }

    /// Where an upload goes on.
    fn location(&self, response: &Response<Incoming>) -> Result<Uri, ImageError> {
        let wrong = || self.transfer("an upload", "it names no address for the upload".to_owned());
        let secure = self.secure.load(Ordering::Relaxed);
        let scheme = if secure { "https" } else { "http" };
        let base: Uri = format!(
            "{scheme}://{}/v2/{}/blobs/uploads/",
            self.endpoint.host, self.endpoint.repository
        )
        .parse()
        .map_err(|_| wrong())?;
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
        resolve_uri(&base, location).ok_or_else(wrong)
    }

    /// Puts a manifest under a tag or its digest.
    pub(in crate::image) async fn push_manifest(
        &self,
        version: &str,
        kind: &str,
        manifest: &[u8],
    ) -> Result<(), ImageError> {
        let path = format!("manifests/{version}");
        let mut ask = Ask::new(
            Method::PUT,
            Target::Path(path),
            format!("the manifest {version}"),
            &[200, 201, 202],
        )
        .header(header::CONTENT_TYPE, value(kind));
        let data = Bytes::copy_from_slice(manifest);
        ask.body = Some(Box::new(move || bytes(data.clone())));
        let response = self.ask(&ask).await?;
        let expected = Digest::of(manifest);
        let announced = response
            .headers()
            .get(HeaderName::from_static("docker-content-digest"));
        let announced = announced.and_then(|value| Digest::parse(value.to_str().ok()?));
        match announced {
            Some(actual) if actual != expected => Err(ImageError::WrongDigest {
                image: self.image.to_string(),
                what: "the manifest that was sent".to_owned(),
                expected,
                actual,
            }),
            _ => Ok(()),
        }
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}
