//! A registry's client, as far as pulling goes (OCI distribution specification
//! 1.1, and the token protocol of the `distribution` project).
//!
//! # How it works
//!
//! [`Registry::find`] asks for the manifest, follows an index to this machine's
//! platform and fetches the configuration; [`Registry::layer`] streams one
//! blob to whoever unpacks it. Every request goes through [`Registry::get`]:
//!
//! - It is sent without asking first who we may be. A 401 is answered by the
//!   first challenge we can meet; the result is kept for the whole pull, and
//!   made once although several layers want it.
//! - 408, 429, 500, 502, 503, 504 and broken connections are tried again, five
//!   times at most, with growing pauses or after what `Retry-After` says. A body
//!   that breaks off is continued by `Range`.
//! - Redirects are followed; credentials only go to the host they are for, and
//!   never over an unencrypted connection unless it stays on this machine.
//!
//! Loopback registries (`localhost`, 127.0.0.0/8, `::1`) are spoken to over
//! plain HTTP, and over HTTPS when they want that; all others over HTTPS with the
//! certificate authorities of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR`
//! are honoured).
//!
//! # Known to be weak
//!
//! No credential helpers, no proxies, no mirrors, no certificates per registry,
//! no HTTP/2: one connection per layer.

mod challenge;
mod credentials;
mod resolve;
mod transport;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};

use self::credentials::{Credentials, Login};
use self::transport::Transport;
use super::digest::Digest;
use super::error::{ImageError, chain};
use super::manifest::{self, ACCEPT, CONFIG_LIMIT, Descriptor, Document, MANIFEST_LIMIT, Platform};
use super::pull::{Blob, Candidate, Events, Place, Progress};
use super::reference::Reference;

/// How often something is tried in all.
const ATTEMPTS: u32 = 5;
/// Pause before the second attempt; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause of our own.
const PAUSE_LIMIT: Duration = Duration::from_secs(8);
/// The longest that a registry may ask us to wait.
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(60);
/// How long an answer, or the next piece of one, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the text of an error may take.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(5);
/// Redirects in a row.
const REDIRECTS_LIMIT: u32 = 10;
/// As much of an error's body is read.
const MESSAGE_LIMIT: usize = 16 << 10;
/// Indexes inside indexes.
const NESTING_LIMIT: u32 = 4;
/// Progress is told for each of so many bytes.
const REPORT_EVERY: u64 = 512 << 10;
const USER_AGENT: &str = concat!("rcompose/", env!("CARGO_PKG_VERSION"));

/// The client of one pull.
#[derive(Debug)]
pub(super) struct Registry {
    image: Arc<str>,
    /// As people call it.
    registry: String,
    /// Host and port that answer.
    host: String,
    repository: String,
    /// Whether it is spoken to by HTTPS.
    secure: AtomicBool,
    transport: Transport,
    credentials: Credentials,
    /// The `Authorization` that was accepted last.
    authorization: Mutex<Option<HeaderValue>>,
    events: Events,
}

/// How an attempt failed.
enum Failure {
    /// Another may do better, after a pause the registry may have named.
    Passing(ImageError, Option<Duration>),
    Final(ImageError),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Final(error)
    }
}

impl Registry {
    /// A client for one image. Reads the credentials.
    pub(super) fn new(
        image: &Arc<str>,
        reference: &Reference,
        docker_config: Option<&Path>,
        events: Events,
    ) -> Result<Self, ImageError> {
        let file = docker_config
            .map(Path::to_owned)
            .or_else(credentials::default_file);
        let credentials = match file {
            Some(file) => credentials::read(&file, reference.registry()),
            None => Ok(Credentials::default()),
        };
        let credentials = credentials.unwrap_or_else(|text| {
            // Most images need none: it is said, and the pull goes on.
            events.send(Progress::Warning { text });
            Credentials::default()
        });
        Ok(Self {
            image: Arc::clone(image),
            registry: reference.registry().to_owned(),
            host: reference.host().to_owned(),
            repository: reference.repository().to_owned(),
            secure: AtomicBool::new(!is_loopback(host_of(reference.host()))),
            transport: Transport::new(),
            credentials,
            authorization: Mutex::new(None),
            events,
        })
    }

    /// The image of a reference for this machine.
    pub(super) async fn find(&self, reference: &Reference) -> Result<Candidate, ImageError> {
        let own = Platform::own();
        let mut version = reference.version();
        let mut wanted = reference.digest().copied();
        for _ in 0..NESTING_LIMIT {
            let (bytes, digest) = self.manifest(&version, wanted).await?;
            let document = manifest::parse(&bytes).map_err(|reason| self.document("manifest", reason))?;
            match document {
                Document::Index(entries) => {
                    let chosen =
                        manifest::choose(&own, &entries).map_err(|available| ImageError::Platform {
                            image: self.image.to_string(),
                            wanted: own.to_string(),
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
                    });
                }
            }
        }
        Err(self.document("index", "holds only indexes".to_owned()))
    }

    /// The digest that the registry has for a reference now.
    pub(super) async fn digest(&self, reference: &Reference) -> Result<Digest, ImageError> {
        let wanted = reference.digest().copied();
        let (_, digest) = self.manifest(&reference.version(), wanted).await?;
        Ok(digest)
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

    /// Reads something small whole, with the digest that the registry announces.
    async fn small(
        &self,
        path: &str,
        what: &'static str,
        limit: u64,
    ) -> Result<(Vec<u8>, Option<Digest>), ImageError> {
        let mut attempt = 1;
        loop {
            let response = self.get(path, 0).await?;
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

    /// Streams a blob into `sink`: pieces, and an empty one when all of it has
    /// been sent. Its digest is for the receiver to check. A break is continued
    /// where it happened.
    pub(super) async fn layer(
        &self,
        digest: &Digest,
        size: u64,
        sink: &mpsc::Sender<Bytes>,
    ) -> Result<(), ImageError> {
        let path = format!("blobs/{digest}");
        let stopped = || ImageError::Cancelled {
            image: self.image.to_string(),
        };
        let report = |bytes| {
            self.events.send(Progress::Downloaded {
                layer: digest.short(),
                bytes,
                total: size,
            });
        };
        let mut received = 0u64;
        let mut reported = 0u64;
        let mut attempt = 1;
        loop {
            let before = received;
            let response = self.get(&path, received).await?;
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
                        return sink.send(Bytes::new()).await.map_err(|_| stopped());
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
                sink.send(data).await.map_err(|_| stopped())?;
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

    /// Gets something of the repository, from an offset on, with all attempts,
    /// redirects and authorization that it takes.
    async fn get(&self, path: &str, from: u64) -> Result<Response<Incoming>, ImageError> {
        let mut attempt = 1;
        loop {
            let (error, after) = match self.get_once(path, from).await {
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error, _)) if attempt == ATTEMPTS => return Err(error),
                Err(Failure::Passing(error, after)) => (error, after),
            };
            if after.is_some_and(|after| after > RETRY_AFTER_LIMIT) {
                return Err(error);
            }
            self.pause(&mut attempt, path, error.to_string(), after).await;
        }
    }

    async fn get_once(&self, path: &str, from: u64) -> Result<Response<Incoming>, Failure> {
        let mut authorised = false;
        loop {
            let secure = self.secure.load(Ordering::Relaxed);
            let scheme = if secure { "https" } else { "http" };
            let first = format!("{scheme}://{}/v2/{}/{path}", self.host, self.repository);
            let first: Uri = first
                .parse()
                .map_err(|error| self.connect(&self.host, &format!("{error}")))?;
            let mut target = first.clone();
            let mut used = None;
            let mut redirects = 0;
            let response = loop {
                let mut request = self.request(Method::GET, &target, path, from)?;
                if same_origin(&first, &target) {
                    used.clone_from(&*self.authorization.lock().await);
                    if let Some(value) = &used {
                        request.headers_mut().insert(header::AUTHORIZATION, value.clone());
                    }
                }
                let response = self.send(request, &target, path).await?;
                let Some(next) = redirect(&response) else {
                    break response;
                };
                redirects += 1;
                if redirects > REDIRECTS_LIMIT {
                    return Err(self.transfer(path, "it redirects without end".to_owned()).into());
                }
                target = resolve_uri(&target, &next)
                    .ok_or_else(|| self.transfer(path, format!("it redirects to {next:?}")))?;
            };
            let status = response.status();
            let ours = same_origin(&first, &target);
            match status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if ours && !authorised => {
                    authorised = true;
                    self.authorise(&response, used.as_ref()).await?;
                }
                _ => {
                    let (head, body) = self.message(response).await;
                    // What TLS servers answer to plain HTTP.
                    let wants_tls = status == StatusCode::BAD_REQUEST
                        && body.windows(5).any(|word| word.eq_ignore_ascii_case(b"https"));
                    if !(ours && !secure && wants_tls) {
                        return Err(self.status(&head, &body, &target, path));
                    }
                    self.secure.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn request(
        &self,
        method: Method,
        target: &Uri,
        path: &str,
        from: u64,
    ) -> Result<Request<Full<Bytes>>, ImageError> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::USER_AGENT, USER_AGENT);
        if path.starts_with("manifests/") {
            request = request.header(header::ACCEPT, ACCEPT);
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        request
            .body(Full::default())
            .map_err(|error| self.transfer(path, error.to_string()))
    }

    /// Sends one request; a broken connection is worth another attempt.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        target: &Uri,
        path: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let host = target.authority().map(ToString::to_string).unwrap_or_default();
        match timeout(PATIENCE, self.transport.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(transport::Error::Roots(reason))) => Err(self.connect(&host, &reason).into()),
            Ok(Err(transport::Error::Client(error))) if error.is_connect() => {
                Err(self.connect(&host, &connect_reason(&error)).into())
            }
            Ok(Err(transport::Error::Client(error))) => {
                let error = self.transfer_from(&host, path, chain(&error));
                Err(Failure::Passing(error, None))
            }
            Err(_) => {
                let error = self.transfer_from(&host, path, "no answer for a minute".to_owned());
                Err(Failure::Passing(error, None))
            }
        }
    }

    /// Meets the challenge of a 401 and keeps the result. `used` is what was
    /// not good enough.
    async fn authorise(
        &self,
        response: &Response<Incoming>,
        used: Option<&HeaderValue>,
    ) -> Result<(), Failure> {
        let mut kept = self.authorization.lock().await;
        if kept.as_ref() != used {
            // Another layer has been through this meanwhile.
            return Ok(());
        }
        let lines = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<_> = lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let value = match (of("bearer"), of("basic"), &self.credentials.login) {
            (_, _, Some(Login::Bearer(token))) if used.is_none() => format!("Bearer {token}"),
            (Some(challenge), ..) => format!("Bearer {}", self.token(challenge).await?),
            (None, Some(_), Some(Login::Basic(basic))) if used.is_none() => {
                if !self.secure.load(Ordering::Relaxed) && !is_loopback(host_of(&self.host)) {
                    return Err(self.denied("credentials are not sent over plain HTTP").into());
                }
                format!("Basic {basic}")
            }
            (None, Some(_), Some(_)) => {
                return Err(self.denied("the credentials are not accepted").into());
            }
            (None, Some(_), None) => return Err(self.denied("it wants a login").into()),
            (None, None, _) => {
                return Err(self
                    .denied("it offers no way to log in that is known here")
                    .into());
            }
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| self.denied("its token cannot be sent"))?;
        value.set_sensitive(true);
        *kept = Some(value);
        Ok(())
    }

    /// A token for pulling from the repository.
    async fn token(&self, challenge: &challenge::Challenge) -> Result<String, Failure> {
        #[derive(Deserialize)]
        struct Granted {
            token: Option<String>,
            access_token: Option<String>,
        }
        let realm = challenge.parameter("realm").unwrap_or_default();
        let realm: Uri = realm
            .parse()
            .ok()
            .filter(|uri: &Uri| uri.authority().is_some())
            .ok_or_else(|| self.denied("its token server has no valid address"))?;
        let private = realm.scheme_str() == Some("https") || realm.host().is_some_and(is_loopback);
        let scope = challenge
            .parameter("scope")
            .map_or_else(|| format!("repository:{}:pull", self.repository), str::to_owned);
        let mut fields = vec![("scope", scope)];
        if let Some(service) = challenge.parameter("service") {
            fields.push(("service", service.to_owned()));
        }
        if self.credentials.login.is_some() && !private {
            return Err(self
                .denied("credentials are not sent to a token server over plain HTTP")
                .into());
        }
        let identity = match &self.credentials.login {
            Some(Login::Identity(token)) => Some(token),
            _ => None,
        };
        if let Some(token) = identity {
            fields.push(("grant_type", "refresh_token".to_owned()));
            fields.push(("client_id", "rcompose".to_owned()));
            fields.push(("refresh_token", token.clone()));
        }
        let form: Vec<_> = fields
            .iter()
            .map(|(key, value)| format!("{key}={}", percent(value)))
            .collect();
        let form = form.join("&");
        let request = if identity.is_some() {
            Request::post(&realm)
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::from(form))
        } else {
            let separator = if realm.query().is_some() { '&' } else { '?' };
            let mut request = Request::get(format!("{realm}{separator}{form}"));
            if let Some(Login::Basic(basic)) = &self.credentials.login {
                request = request.header(header::AUTHORIZATION, format!("Basic {basic}"));
            }
            request.body(Full::default())
        };
        let mut request = request.map_err(|_| self.denied("its token server has no valid address"))?;
        request
            .headers_mut()
            .insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let response = self.send(request, &realm, "a token").await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let what = if self.credentials.login.is_some() {
                    "the credentials are not accepted"
                } else {
                    "it wants a login"
                };
                return Err(self.denied(what).into());
            }
            _ => {
                let (head, body) = self.message(response).await;
                return Err(self.status(&head, &body, &realm, "a token"));
            }
        }
        let body = Limited::new(response.into_body(), MESSAGE_LIMIT * 4).collect();
        let host = realm.host().unwrap_or_default();
        let broken = |reason: String| Failure::Passing(self.transfer_from(host, "a token", reason), None);
        let body = match timeout(PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(broken(chain(error.as_ref()))),
            Err(_) => return Err(broken("no data for a minute".to_owned())),
        };
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| self.denied("its token server answers without a token"))?;
        let token = granted
            .token
            .filter(|token| !token.is_empty())
            .or(granted.access_token);
        Ok(token.ok_or_else(|| self.denied("its token server answers without a token"))?)
    }

    /// An answer that is no success, with the start of what it says.
    async fn message(&self, response: Response<Incoming>) -> (Parts, Bytes) {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MESSAGE_LIMIT).collect();
        let body = match timeout(MESSAGE_PATIENCE, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            // The status says enough.
            _ => Bytes::new(),
        };
        (head, body)
    }

    /// The error that a status is.
    fn status(&self, head: &Parts, body: &[u8], target: &Uri, path: &str) -> Failure {
        #[derive(Deserialize)]
        struct Envelope {
            errors: Vec<Entry>,
        }
        #[derive(Deserialize)]
        #[serde(default)]
        #[derive(Default)]
        struct Entry {
            code: String,
            message: String,
        }
        let status = head.status;
        let after = head.headers.get(header::RETRY_AFTER).and_then(retry_after);
        let entry = serde_json::from_slice::<Envelope>(body)
            .ok()
            .and_then(|envelope| envelope.errors.into_iter().next())
            .unwrap_or_default();
        let says: String = match (entry.code.is_empty(), entry.message.is_empty()) {
            (_, false) => entry.message,
            (false, true) => entry.code.clone(),
            (true, true) => String::new(),
        };
        // Printed on a terminal: a registry decides what it says, not what it does.
        let says: String = says.chars().filter(|c| !c.is_control()).take(300).collect();
        let error = match status {
            StatusCode::UNAUTHORIZED if self.credentials.login.is_some() => {
                self.denied("the credentials are not accepted")
            }
            StatusCode::UNAUTHORIZED => self.denied("it wants a login"),
            StatusCode::FORBIDDEN if says.is_empty() => self.denied("it forbids to pull"),
            StatusCode::FORBIDDEN => self.denied(&says),
            StatusCode::NOT_FOUND if path.starts_with("manifests/") => ImageError::NotFound {
                image: self.image.to_string(),
                registry: self.registry.clone(),
            },
            _ => ImageError::Status {
                image: self.image.to_string(),
                host: target.authority().map(ToString::to_string).unwrap_or_default(),
                status: status.as_u16(),
                request: format!("the request for {path}"),
                detail: if says.is_empty() {
                    says
                } else {
                    format!(": {says}")
                },
            },
        };
        let passing = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
        if passing {
            Failure::Passing(error, after)
        } else {
            Failure::Final(error)
        }
    }

    /// Says that there will be another attempt, and waits before it.
    async fn pause(&self, attempt: &mut u32, path: &str, reason: String, after: Option<Duration>) {
        self.events.send(Progress::Retrying {
            request: path.to_owned(),
            reason,
        });
        let doubled = PAUSE.saturating_mul(1 << (*attempt - 1).min(8)).min(PAUSE_LIMIT);
        // Clients that failed together should not come back together.
        let time = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let jitter = Duration::from_millis(u64::from(time.unwrap_or_default().subsec_nanos()) % 200);
        sleep(after.unwrap_or(doubled) + jitter).await;
        *attempt += 1;
    }

    fn denied(&self, reason: &str) -> ImageError {
        let mut reason = reason.to_owned();
        if self.credentials.login.is_none() {
            reason += &match &self.credentials.helper {
                Some(helper) => format!(
                    " (its credentials are with docker-credential-{helper}, which this program does not call: \
                     log in without a credential helper)"
                ),
                None => format!(
                    " (the image may not exist, or `docker login {}` is needed)",
                    self.registry
                ),
            };
        }
        ImageError::Denied {
            image: self.image.to_string(),
            registry: self.registry.clone(),
            reason,
        }
    }

    fn connect(&self, host: &str, reason: &str) -> ImageError {
        ImageError::Connect {
            image: self.image.to_string(),
            host: host.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn transfer(&self, path: &str, reason: String) -> ImageError {
        self.transfer_from(&self.host, path, reason)
    }

    fn transfer_from(&self, host: &str, path: &str, reason: String) -> ImageError {
        ImageError::Transfer {
            image: self.image.to_string(),
            host: host.to_owned(),
            request: path.to_owned(),
            reason,
        }
    }

    fn document(&self, what: &'static str, reason: String) -> ImageError {
        ImageError::Document {
            image: self.image.to_string(),
            what,
            reason,
        }
    }
}

/// `registry:5000` without its port.
fn host_of(authority: &str) -> &str {
    if let Some(address) = authority.strip_prefix('[') {
        return address.split(']').next().unwrap_or_default();
    }
    authority.split(':').next().unwrap_or_default()
}

/// Whether traffic to a host stays on this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| {
        uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        })
    };
    a.scheme() == b.scheme() && a.host() == b.host() && port(a) == port(b)
}

/// Where a response sends us.
fn redirect(response: &Response<Incoming>) -> Option<String> {
    let follow = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    follow.then(|| location.to_owned())
}

/// A `Location`, which may be relative. From HTTPS it must not lead to plain
/// HTTP, unless that stays on this machine.
fn resolve_uri(base: &Uri, location: &str) -> Option<Uri> {
    let uri: Uri = location.parse().ok()?;
    let uri = if uri.scheme().is_some() {
        uri
    } else {
        let (scheme, authority) = (base.scheme_str()?, base.authority()?);
        let text = if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        };
        text.parse().ok()?
    };
    match uri.scheme_str() {
        Some("https") => Some(uri),
        Some("http") if base.scheme_str() == Some("http") || uri.host().is_some_and(is_loopback) => Some(uri),
        _ => None,
    }
}

/// The first byte of a partial answer: `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response<Incoming>) -> Option<u64> {
    let value = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    value
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .trim()
        .parse()
        .ok()
}

/// `Retry-After`: seconds, or a date.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let seconds = date.as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// A value of a form (RFC 3986, section 2.3: all but unreserved characters).
fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Why a connection could not be made, without the layers it was made through.
fn connect_reason(error: &hyper_util::client::legacy::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut reason = error.to_string();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return "connection refused".to_owned();
        }
        reason = error.to_string();
        source = error.source();
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let base: Uri = "https://a.test:444/v2/x/blobs/1?q=1".parse().unwrap();
        let at = |location: &str| resolve_uri(&base, location).map(|uri| uri.to_string());
        assert_eq!(at("https://b.test/x?y=1").unwrap(), "https://b.test/x?y=1");
        assert_eq!(at("/other").unwrap(), "https://a.test:444/other");
        assert_eq!(at("2").unwrap(), "https://a.test:444/v2/x/blobs/2");
        assert_eq!(at("//c.test/x").unwrap(), "https://c.test/x");
        assert_eq!(
            at("http://b.test/x"),
            None,
            "secrets of the image would be readable"
        );
        assert_eq!(at("http://127.0.0.1:1/x").unwrap(), "http://127.0.0.1:1/x");
        assert_eq!(at("ftp://b.test/x"), None);
    }

    #[test]
    fn origins() {
        let same = |a: &str, b: &str| same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://a/x", "https://a:443/y"));
        assert!(!same("https://a/x", "http://a/x"));
        assert!(!same("http://a:1/x", "http://a:2/x"));
        assert!(!same("http://a/x", "http://b/x"));
    }

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "127.0.0.1", "127.3.2.1", "::1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1", "docker.io", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
        assert_eq!(host_of("[::1]:5000"), "::1");
        assert_eq!(host_of("localhost:5000"), "localhost");
    }

    #[test]
    fn pauses_that_a_registry_asks_for() {
        let after = |text| retry_after(&HeaderValue::from_static(text));
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(after("Fri, 06 Nov 2099 08:49:37 GMT").unwrap() > Duration::from_secs(86400));
        assert_eq!(after("soon"), None);
    }
}
