//! A registry's client (OCI distribution specification 1.1, and the token
//! protocol of the `distribution` project).
//!
//! # How it works
//!
//! [`settings`] says which hosts answer for a repository: mirrors first. There
//! is one [`Registry`] for each; `pull.rs` finds images and streams layers,
//! `push.rs` sends them, `login.rs` tries a login. Every request is an [`Ask`]
//! that goes through [`Registry::ask`]:
//!
//! - It is sent without asking first who we may be. A 401 is answered by the
//!   first challenge we can meet (`token.rs`); only then are credentials looked
//!   for. The result is kept for the whole pull or push, and made once although
//!   several layers want it.
//! - 408, 429, 500, 502, 503, 504 and broken connections are tried again, five
//!   times at most, with growing pauses or after what `Retry-After` says. A body
//!   that breaks off is continued by `Range`, an upload where the registry says
//!   that it stopped.
//! - Redirects are followed; credentials only go to the host they are for, and
//!   never over an unencrypted connection unless it stays on this machine or the
//!   registry is said to be insecure.
//!
//! Loopback registries (`localhost`, 127.0.0.0/8, `::1`) are spoken to over
//! plain HTTP, and over HTTPS when they want that; all others over HTTPS with the
//! certificate authorities of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR`
//! are honoured) and those of `certs.d`.
//!
//! # Known to be weak
//!
//! No HTTP/2: one connection per layer. Of an image for several platforms only
//! the one that is here can be pushed. No referrers.

mod challenge;
mod credentials;
mod login;
mod pull;
mod push;
mod resolve;
mod settings;
mod token;
mod transport;
mod uri;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{sleep, timeout};

pub(super) use self::login::{log_in, log_out};
pub(super) use self::push::{Packed, Upload};

use self::credentials::Credentials;
use self::settings::{Endpoint, Security, Settings};
use self::transport::{Body, Transport};
use self::uri::{is_loopback, redirect, resolve_uri, retry_after, same_origin};
use super::error::{ImageError, chain};
use super::progress::{Events, Progress};
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
const USER_AGENT: &str = concat!("rcompose/", env!("CARGO_PKG_VERSION"));

/// Where settings and credentials are looked for.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The only file of credentials; `None`: those that docker and podman use.
    pub(super) docker_config: Option<PathBuf>,
    /// What `/etc` is below; `/` but in tests.
    pub(super) root: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            docker_config: None,
            root: "/".into(),
        }
    }
}

/// What is to be done in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    /// With the repositories of the same registry that layers may be taken from.
    Push(Vec<String>),
}

/// The client of one pull or push with one host.
#[derive(Debug)]
pub(super) struct Registry {
    image: Arc<str>,
    /// As people call it.
    registry: String,
    endpoint: Endpoint,
    places: Places,
    settings: Arc<Settings>,
    /// Whether it is spoken to by HTTPS.
    secure: AtomicBool,
    /// Whether it has ever answered: then the scheme is settled.
    answered: AtomicBool,
    transports: std::sync::Mutex<HashMap<String, Arc<Transport>>>,
    credentials: OnceCell<Credentials>,
    /// What a token must be good for.
    scopes: Vec<String>,
    /// The `Authorization` that was accepted last.
    authorization: Mutex<Option<HeaderValue>>,
    events: Events,
}

/// Where a request goes.
#[derive(Clone, Debug)]
enum Target {
    /// Below `/v2/<repository>/`.
    Path(String),
    /// `/v2/`.
    Base,
    /// Where the registry has sent us.
    At(Uri),
}

/// Makes the body of a request, again for each attempt.
type MakeBody = Box<dyn Fn() -> Body + Send + Sync>;

/// One request.
struct Ask {
    method: Method,
    target: Target,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Option<MakeBody>,
    /// Grows while the body is sent.
    sent: Arc<AtomicU64>,
    /// What it is for, for people: `manifests/latest`.
    what: String,
    /// Statuses that are answers.
    good: &'static [u16],
}

impl Ask {
    fn new(method: Method, target: Target, what: impl Into<String>, good: &'static [u16]) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            body: None,
            sent: Arc::default(),
            what: what.into(),
            good,
        }
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
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

/// An empty body.
fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of some bytes.
fn bytes(data: Bytes) -> Body {
    http_body_util::Full::new(data)
        .map_err(|never| match never {})
        .boxed_unsync()
}

impl Registry {
    /// The clients for one repository: mirrors first, the registry last.
    ///
    /// # Errors
    /// [`ImageError::Settings`].
    pub(super) fn clients(
        image: &Arc<str>,
        reference: &Reference,
        access: &Access,
        places: &Places,
        events: &Events,
    ) -> Result<Vec<Arc<Self>>, ImageError> {
        let wrong = |reason| ImageError::Settings {
            image: image.to_string(),
            reason,
        };
        let settings = Arc::new(Settings::read(&places.root).map_err(wrong)?);
        let push = matches!(access, Access::Push(_));
        let endpoints = settings.endpoints(reference, push).map_err(wrong)?;
        let clients = endpoints.into_iter().map(|endpoint| {
            let own = format!("repository:{}", endpoint.repository);
            let scopes = match access {
                Access::Pull => vec![format!("{own}:pull")],
                Access::Push(from) => std::iter::once(format!("{own}:pull,push"))
                    .chain(from.iter().map(|from| format!("repository:{from}:pull")))
                    .collect(),
            };
            let name = if endpoint.mirror {
                endpoint.host.clone()
            } else {
                reference.registry().to_owned()
            };
            Arc::new(Self::client(
                Arc::clone(image),
                name,
                endpoint,
                scopes,
                places,
                Arc::clone(&settings),
                events.clone(),
            ))
        });
        Ok(clients.collect())
    }

    fn client(
        image: Arc<str>,
        registry: String,
        endpoint: Endpoint,
        scopes: Vec<String>,
        places: &Places,
        settings: Arc<Settings>,
        events: Events,
    ) -> Self {
        Self {
            image,
            registry,
            secure: AtomicBool::new(endpoint.security != Security::Loopback),
            answered: AtomicBool::new(false),
            endpoint,
            places: places.clone(),
            settings,
            transports: std::sync::Mutex::default(),
            credentials: OnceCell::new(),
            scopes,
            authorization: Mutex::new(None),
            events,
        }
    }

    /// Whether another answers when this one cannot.
    pub(super) fn is_mirror(&self) -> bool {
        self.endpoint.mirror
    }

    /// As people call it.
    pub(super) fn name(&self) -> &str {
        &self.registry
    }

    /// The connections to the host of an address.
    fn transport(&self, target: &Uri) -> Arc<Transport> {
        let host = target.authority().map(ToString::to_string).unwrap_or_default();
        let own = host == self.endpoint.host;
        let insecure = own && self.endpoint.security == Security::Insecure;
        let mut transports = self.transports.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = transports
            .entry(host.clone())
            .or_insert_with(|| Arc::new(Transport::new(self.settings.trust(&host, insecure))));
        Arc::clone(entry)
    }

    /// Sends a request with all attempts, redirects and authorization that it
    /// takes; the answer has one of the good statuses.
    async fn ask(&self, ask: &Ask) -> Result<Response<Incoming>, ImageError> {
        let mut attempt = 1;
        loop {
            let (error, after) = match self.ask_once(ask).await {
                Ok(response) => return Ok(response),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error, _)) if attempt == ATTEMPTS => return Err(error),
                Err(Failure::Passing(error, after)) => (error, after),
            };
            if after.is_some_and(|after| after > RETRY_AFTER_LIMIT) {
                return Err(error);
            }
            self.pause(&mut attempt, &ask.what, error.to_string(), after)
                .await;
        }
    }

    /// One attempt.
    async fn ask_once(&self, ask: &Ask) -> Result<Response<Incoming>, Failure> {
        let mut authorised = false;
        loop {
            let secure = self.secure.load(Ordering::Relaxed);
            let scheme = if secure { "https" } else { "http" };
            let home = format!("{scheme}://{}", self.endpoint.host);
            let address = |text: String| {
                text.parse::<Uri>()
                    .map_err(|error| self.connect(&self.endpoint.host, &format!("{error}")))
            };
            let home_uri = address(format!("{home}/"))?;
            let first = match &ask.target {
                Target::Path(path) => address(format!("{home}/v2/{}/{path}", self.endpoint.repository))?,
                Target::Base => address(format!("{home}/v2/"))?,
                Target::At(uri) => uri.clone(),
            };
            let mut target = first;
            let mut used = None;
            let mut redirects = 0;
            let response = loop {
                let mut request = self.request(ask, &target)?;
                if same_origin(&home_uri, &target) {
                    used.clone_from(&*self.authorization.lock().await);
                    if let Some(value) = &used {
                        request.headers_mut().insert(header::AUTHORIZATION, value.clone());
                    }
                }
                let response = match self.send(request, &target, ask).await {
                    Err(_) if same_origin(&home_uri, &target) && self.other_scheme(secure) => break None,
                    other => other?,
                };
                let Some(next) = redirect(&response) else {
                    break Some(response);
                };
                redirects += 1;
                if redirects > REDIRECTS_LIMIT {
                    return Err(self
                        .transfer(&ask.what, "it redirects without end".to_owned())
                        .into());
                }
                target = resolve_uri(&target, &next)
                    .ok_or_else(|| self.transfer(&ask.what, format!("it redirects to {next:?}")))?;
            };
            let Some(response) = response else { continue };
            let status = response.status();
            let ours = same_origin(&home_uri, &target);
            if ask.good.contains(&status.as_u16()) {
                self.answered.store(true, Ordering::Relaxed);
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && ours && !authorised {
                self.answered.store(true, Ordering::Relaxed);
                authorised = true;
                self.authorise(&response, used.as_ref()).await?;
                continue;
            }
            let (head, body) = self.message(response).await;
            // What TLS servers answer to plain HTTP.
            let wants_tls = status == StatusCode::BAD_REQUEST
                && (ask.method == Method::HEAD
                    || body.windows(5).any(|word| word.eq_ignore_ascii_case(b"https")));
            if !(ours && !secure && wants_tls && self.other_scheme(secure)) {
                return Err(self.status(&head, &body, &target, &ask.what));
            }
        }
    }

    /// Goes on with the other scheme than the one that was `used` when that may
    /// be what the host speaks; `false` when the scheme is settled.
    fn other_scheme(&self, used: bool) -> bool {
        let settled = self.answered.swap(true, Ordering::Relaxed);
        let secure = self.secure.load(Ordering::Relaxed);
        if secure != used {
            // Another request has found out meanwhile.
            return true;
        }
        match self.endpoint.security {
            _ if settled => false,
            Security::Checked => false,
            Security::Loopback if secure => false,
            Security::Insecure if !secure => false,
            Security::Loopback | Security::Insecure => {
                self.secure.store(!secure, Ordering::Relaxed);
                true
            }
        }
    }

    fn request(&self, ask: &Ask, target: &Uri) -> Result<Request<Body>, ImageError> {
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(target)
            .header(header::USER_AGENT, USER_AGENT);
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let body = ask.body.as_ref().map_or_else(nothing, |make| make());
        request
            .body(body)
            .map_err(|error| self.transfer(&ask.what, error.to_string()))
    }

    /// Sends one request; a broken connection is worth another attempt.
    async fn send(
        &self,
        request: Request<Body>,
        target: &Uri,
        ask: &Ask,
    ) -> Result<Response<Incoming>, Failure> {
        let host = target.authority().map(ToString::to_string).unwrap_or_default();
        let transport = self.transport(target);
        let answer = transport.send(request);
        tokio::pin!(answer);
        let mut sent = 0;
        let answer = loop {
            match timeout(PATIENCE, &mut answer).await {
                Ok(answer) => break answer,
                // A large body takes its time.
                Err(_) if ask.sent.load(Ordering::Relaxed) != sent => sent = ask.sent.load(Ordering::Relaxed),
                Err(_) => {
                    let error = self.transfer_from(&host, &ask.what, "no answer for a minute".to_owned());
                    return Err(Failure::Passing(error, None));
                }
            }
        };
        match answer {
            Ok(response) => Ok(response),
            Err(transport::Error::Trust(reason)) => Err(self.connect(&host, &reason).into()),
            Err(transport::Error::Client(error)) if error.is_connect() => {
                Err(self.connect(&host, &connect_reason(&error)).into())
            }
            Err(transport::Error::Client(error)) => {
                let error = self.transfer_from(&host, &ask.what, chain(&error));
                Err(Failure::Passing(error, None))
            }
        }
    }

    /// Who we are to this registry; looked for when it is first wanted.
    async fn credentials(&self) -> &Credentials {
        self.credentials
            .get_or_init(|| async {
                let (only, registry) = (self.places.docker_config.clone(), self.registry.clone());
                let repository = self.endpoint.repository.clone();
                // Helpers are programs.
                let find = move || credentials::find(only.as_deref(), &registry, &repository);
                let found = tokio::task::spawn_blocking(find).await.unwrap_or_default();
                for text in &found.problems {
                    // Most images need none: it is said, and the pull goes on.
                    self.events.send(Progress::Warning { text: text.clone() });
                }
                found
            })
            .await
    }

    /// Whether secrets may be sent to an address.
    fn is_private(&self, target: &Uri) -> bool {
        target.scheme_str() == Some("https")
            || target.host().is_some_and(is_loopback)
            || self.endpoint.security == Security::Insecure
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
    fn status(&self, head: &Parts, body: &[u8], target: &Uri, what: &str) -> Failure {
        let status = head.status;
        let after = head.headers.get(header::RETRY_AFTER).and_then(retry_after);
        let says = says(body);
        let known = self.credentials.get().is_some_and(|known| known.login.is_some());
        let error = match status {
            StatusCode::UNAUTHORIZED if known => self.denied("the credentials are not accepted"),
            StatusCode::UNAUTHORIZED => self.denied("it wants a login"),
            StatusCode::FORBIDDEN if says.is_empty() => self.denied("it does not allow this"),
            StatusCode::FORBIDDEN => self.denied(&says),
            StatusCode::NOT_FOUND if what.starts_with("manifests/") => ImageError::NotFound {
                image: self.image.to_string(),
                registry: self.registry.clone(),
            },
            _ => {
                let mut detail = if says.is_empty() {
                    says
                } else {
                    format!(": {says}")
                };
                if status == StatusCode::TOO_MANY_REQUESTS {
                    detail += &self.limits(head, after, known);
                }
                ImageError::Status {
                    image: self.image.to_string(),
                    host: target.authority().map(ToString::to_string).unwrap_or_default(),
                    status: status.as_u16(),
                    request: format!("the request for {what}"),
                    detail,
                }
            }
        };
        let passing = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
        if passing {
            Failure::Passing(error, after)
        } else {
            Failure::Final(error)
        }
    }

    /// What a registry says of how much it lets us do (`ratelimit-limit:
    /// 100;w=21600`), and what helps.
    fn limits(&self, head: &Parts, after: Option<Duration>, known: bool) -> String {
        let number = |name: &str| -> Option<(u64, Option<u64>)> {
            let mut parts = head.headers.get(name)?.to_str().ok()?.split(';');
            let count = parts.next()?.trim().parse().ok()?;
            let window = parts.find_map(|part| part.trim().strip_prefix("w=")?.parse().ok());
            Some((count, window))
        };
        let mut text = String::new();
        match (number("ratelimit-limit"), number("ratelimit-remaining")) {
            (Some((limit, Some(window))), _) => {
                text += &format!(" (its limit is {limit} pulls in {} minutes", window.div_ceil(60));
                if let Some((left, _)) = number("ratelimit-remaining") {
                    text += &format!(", {left} are left");
                }
                text.push(')');
            }
            (Some((limit, None)), _) => text += &format!(" (its limit is {limit} pulls)"),
            _ => {}
        }
        if let Some(after) = after {
            text += &format!("; it asks to wait for {} s", after.as_secs());
        }
        if !known {
            text += &format!("; who logs in may do more: `rcompose login {}`", self.registry);
        }
        text
    }

    /// Says that there will be another attempt, and waits before it.
    async fn pause(&self, attempt: &mut u32, what: &str, reason: String, after: Option<Duration>) {
        self.events.send(Progress::Retrying {
            request: what.to_owned(),
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
        if let Some(known) = self.credentials.get()
            && known.login.is_none()
        {
            reason += &match known.problems.first() {
                Some(problem) => format!(" ({problem})"),
                None => format!(
                    " (the image may not exist, or `rcompose login {}` is needed)",
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

    fn transfer(&self, what: &str, reason: String) -> ImageError {
        self.transfer_from(&self.endpoint.host, what, reason)
    }

    fn transfer_from(&self, host: &str, what: &str, reason: String) -> ImageError {
        ImageError::Transfer {
            image: self.image.to_string(),
            host: host.to_owned(),
            request: what.to_owned(),
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

    fn cancelled(&self) -> ImageError {
        ImageError::Cancelled {
            image: self.image.to_string(),
        }
    }
}

/// The message of an error's body.
fn says(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Entry {
        code: String,
        message: String,
    }
    let entry = serde_json::from_slice::<Envelope>(body)
        .ok()
        .and_then(|envelope| envelope.errors.into_iter().next())
        .unwrap_or_default();
    let text = if entry.message.is_empty() {
        entry.code
    } else {
        entry.message
    };
    // Printed on a terminal: a registry decides what it says, not what it does.
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Why a connection could not be made, without the layers it was made through.
fn connect_reason(error: &hyper_util::client::legacy::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut reason = error.to_string();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return "connection refused".to_owned();
        }
        reason = error.to_string();
        source = error.source();
    }
    reason
}
