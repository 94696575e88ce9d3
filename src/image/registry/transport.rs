//! Connections: HTTP/1.1 over TCP, with TLS where it is wanted.

use std::sync::OnceLock;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::resolve::Resolver;

/// How long a connection may take to be made, all addresses of a host together.
const CONNECT: Duration = Duration::from_secs(20);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(20);

/// The connections of one pull.
#[derive(Debug)]
pub(super) struct Transport {
    plain: Client<HttpConnector<Resolver>, Full<Bytes>>,
    /// Made when it is wanted: reading the system's certificates takes longer
    /// than a whole pull from a loopback registry may.
    secure: OnceLock<Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>>,
}

/// Why a request could not be sent.
#[derive(Debug)]
pub(super) enum Error {
    /// The system's certificate authorities cannot be read.
    Roots(String),
    Client(hyper_util::client::legacy::Error),
}

impl Transport {
    pub(super) fn new() -> Self {
        Self {
            plain: builder().build(connector()),
            secure: OnceLock::new(),
        }
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        let response = if request.uri().scheme_str() == Some("https") {
            self.secure()?.request(request)
        } else {
            self.plain.request(request)
        };
        response.await.map_err(Error::Client)
    }

    fn secure(&self) -> Result<&Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>, Error> {
        if let Some(client) = self.secure.get() {
            return Ok(client);
        }
        let roots = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| {
                Error::Roots(format!(
                    "the system has no certificate authorities ({error}): install the package ca-certificates"
                ))
            })?;
        let client = builder().build(roots.https_only().enable_http1().wrap_connector(connector()));
        Ok(self.secure.get_or_init(|| client))
    }
}

fn connector() -> HttpConnector<Resolver> {
    let mut connector = HttpConnector::new_with_resolver(Resolver::default());
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
    builder
}
