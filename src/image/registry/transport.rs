//! Connections: HTTP/1.1 over TCP, with TLS where it is wanted, through proxies
//! where the environment says so.
//!
//! Proxies are those of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`
//! (either case; networks in CIDR form too). Loopback is never asked for
//! through a proxy. HTTPS goes through a CONNECT tunnel. A proxy that is itself
//! spoken to by TLS or SOCKS is refused.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tower_service::Service;

use super::resolve::Resolver;
use super::uri::is_loopback;

/// How long a connection may take to be made, all addresses of a host together.
const CONNECT: Duration = Duration::from_secs(20);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(20);

/// What a request sends.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How one host is trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trust {
    /// Folders of certificates as docker has them: `*.crt` are authorities,
    /// `*.cert` with the `*.key` of the same name is who we are.
    pub(super) folders: Vec<PathBuf>,
    /// Take any certificate (`insecure-registries`).
    pub(super) anybody: bool,
}

/// The connections to one host.
#[derive(Debug)]
pub(super) struct Transport {
    plain: Client<Route, Body>,
    /// Made when it is wanted: reading the system's certificates takes longer
    /// than a whole pull from a loopback registry may.
    secure: OnceLock<Client<HttpsConnector<Route>, Body>>,
    route: Route,
    trust: Trust,
}

/// Why a request could not be sent.
#[derive(Debug)]
pub(super) enum Error {
    /// Certificates cannot be read.
    Trust(String),
    Client(hyper_util::client::legacy::Error),
}

impl Transport {
    pub(super) fn new(trust: Trust) -> Self {
        let route = Route {
            direct: connector(),
            proxies: Arc::new(Matcher::from_env()),
        };
        Self {
            plain: builder().build(route.clone()),
            secure: OnceLock::new(),
            route,
            trust,
        }
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let response = if request.uri().scheme_str() == Some("https") {
            self.secure()?.request(request)
        } else {
            // In a tunnel only the proxy sees this; without one it is a header of the request.
            if let Some((_, Some(login))) = self.route.proxy(request.uri()) {
                request.headers_mut().insert(header::PROXY_AUTHORIZATION, login);
            }
            self.plain.request(request)
        };
        response.await.map_err(Error::Client)
    }

    fn secure(&self) -> Result<&Client<HttpsConnector<Route>, Body>, Error> {
        if let Some(client) = self.secure.get() {
            return Ok(client);
        }
        let config = tls(&self.trust).map_err(Error::Trust)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(self.route.clone());
        let client = builder().build(connector);
        Ok(self.secure.get_or_init(|| client))
    }
}

/// The TLS of a host: the system's authorities and its own, and who we are.
fn tls(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut own = None;
    let mut roots = RootCertStore::empty();
    for folder in &trust.folders {
        for path in sorted(folder) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => {
                    for certificate in certificates(&path)? {
                        roots
                            .add(certificate)
                            .map_err(|error| format!("certificate {}: {error}", path.display()))?;
                    }
                }
                Some("cert") => {
                    let key = path.with_extension("key");
                    let chain = certificates(&path)?;
                    let key = PrivateKeyDer::from_pem_file(&key)
                        .map_err(|error| format!("key {}: {error}", key.display()))?;
                    own = Some((path, chain, key));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(format!(
                        "key {} lacks its certificate, a file of the same name that ends in .cert",
                        path.display()
                    ));
                }
                _ => {}
            }
        }
    }
    let builder = if trust.anybody {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        let private = !roots.is_empty();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // One that cannot be read is not trusted, that is all.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() && !private {
            return Err(
                "the system has no certificate authorities: install the package ca-certificates".to_owned(),
            );
        }
        builder.with_root_certificates(roots)
    };
    match own {
        None => Ok(builder.with_no_client_auth()),
        Some((path, chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("certificate {}: {error}", path.display())),
    }
}

/// The files of a folder by name; none when it cannot be read.
fn sorted(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |reason: &dyn std::fmt::Display| format!("certificate {}: {reason}", path.display());
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| wrong(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&error))?;
    if list.is_empty() {
        return Err(wrong(&"holds none"));
    }
    Ok(list)
}

/// Takes any certificate: what `insecure-registries` asks for.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes connections: directly, or by way of a proxy.
#[derive(Clone, Debug)]
struct Route {
    direct: HttpConnector<Resolver>,
    proxies: Arc<Matcher>,
}

impl Route {
    /// The proxy for a request, and what it wants to be shown.
    fn proxy(&self, target: &Uri) -> Option<(Uri, Option<HeaderValue>)> {
        if target.host().is_some_and(is_loopback) {
            return None;
        }
        let found = self.proxies.intercept(target)?;
        Some((found.uri().clone(), found.basic_auth().cloned()))
    }
}

impl Service<Uri> for Route {
    type Response = Stream;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let proxy = self.proxy(&target);
        let mut direct = self.direct.clone();
        Box::pin(async move {
            let Some((proxy, login)) = proxy else {
                let inner = direct.call(target).await?;
                return Ok(Stream {
                    inner,
                    proxied: false,
                });
            };
            if proxy.scheme_str() != Some("http") {
                return Err(format!(
                    "proxy {}: only proxies that are spoken to by plain HTTP are known here",
                    proxy
                        .authority()
                        .map(|authority| authority.host())
                        .unwrap_or_default()
                )
                .into());
            }
            if target.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(proxy, direct);
                if let Some(login) = login {
                    tunnel = tunnel.with_auth(login);
                }
                let inner = tunnel.call(target).await?;
                return Ok(Stream {
                    inner,
                    proxied: false,
                });
            }
            let inner = direct.call(proxy).await?;
            Ok(Stream { inner, proxied: true })
        })
    }
}

/// A connection, which may end at a proxy.
#[derive(Debug)]
struct Stream {
    inner: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.inner.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, data)
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
