//! The transport over TCP and TLS: HTTP/2 where the server offers it, a pool of HTTP/1.1 connections otherwise, and a
//! connection of its own for every upgrade.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use http::header::{AUTHORIZATION, HeaderValue, UPGRADE};
use http::{Request, Response, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kybern_component_base::tls::AcceptAny;
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::IdentityFiles;
use crate::kubeconfig::{CertificateAuthorities, Credential, RestConfig};
use crate::{Body, BoxError, BoxFuture, ClientError, Transport, TransportError, dial};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a token that was read from a file is used before the file is read again, as client-go does.
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// Talks to the server of a [`RestConfig`].
pub struct HttpsTransport {
    shared: Arc<Shared>,
}

struct Shared {
    server: Uri,
    /// Multiplexing, for everything but upgrades.
    pooled: legacy::Client<Connector, Body>,
    /// HTTP/1.1 only: an upgrade takes its connection away.
    upgrading: legacy::Client<Connector, Body>,
    authorization: Authorization,
}

impl HttpsTransport {
    pub fn new(config: &RestConfig) -> Result<Self, ClientError> {
        let server: Uri =
            config.server.trim_end_matches('/').parse().map_err(|e| bad(format!("server {:?}: {e}", config.server)))?;
        let host = server
            .host()
            .ok_or_else(|| bad(format!("server {:?} names no host", config.server)))?
            .trim_matches(['[', ']']);
        let tls = match server.scheme_str() {
            Some("https") => {
                let name = config.server_name.as_deref().unwrap_or(host).to_owned();
                let name = ServerName::try_from(name).map_err(|e| bad(format!("server name: {e}")))?;
                Some((client_config(config)?, name))
            }
            Some("http") => None,
            _ => return Err(bad(format!("server {:?} must start with https:// or http://", config.server))),
        };
        let connector = |protocols: &[&[u8]]| Connector {
            tls: tls.as_ref().map(|(config, name)| {
                let mut config = config.clone();
                config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
                (TlsConnector::from(Arc::new(config)), name.clone())
            }),
        };
        let builder = || {
            let mut builder = legacy::Client::builder(TokioExecutor::new());
            builder.pool_timer(TokioTimer::new()).timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(90));
            builder
        };
        // Pings find a peer that vanished without a word; none are sent while nothing is under way.
        let pooled = builder()
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(15))
            .http2_adaptive_window(true)
            .build(connector(&[b"h2", b"http/1.1"]));
        let upgrading = builder().pool_max_idle_per_host(0).build(connector(&[b"http/1.1"]));
        let authorization = Authorization { credential: config.credential.clone(), cached: Mutex::new(None) };
        Ok(Self { shared: Arc::new(Shared { server, pooled, upgrading, authorization }) })
    }
}

impl Transport for HttpsTransport {
    fn call(&self, mut request: Request<Body>) -> BoxFuture<'static, Result<Response<Body>, TransportError>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let fail = |cause: BoxError| TransportError::new(format!("cannot reach {}", shared.server), cause);
            *request.uri_mut() = shared.absolute(request.uri()).map_err(fail)?;
            if let Some(value) = shared.authorization.header().await.map_err(fail)? {
                request.headers_mut().entry(AUTHORIZATION).or_insert(value);
            }
            let client = if request.headers().contains_key(UPGRADE) { &shared.upgrading } else { &shared.pooled };
            let response = client.request(request).await.map_err(|e| fail(root_cause(e)))?;
            Ok(response
                .map(|body| http_body_util::BodyExt::boxed_unsync(http_body_util::BodyExt::map_err(body, Into::into))))
        })
    }
}

impl Shared {
    /// The server's address and path prefix before the request's path and query.
    fn absolute(&self, uri: &Uri) -> Result<Uri, BoxError> {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let prefix = self.server.path().trim_end_matches('/');
        let mut parts = self.server.clone().into_parts();
        parts.path_and_query = Some(format!("{prefix}{path}").parse()?);
        Ok(Uri::from_parts(parts)?)
    }
}

fn bad(text: String) -> ClientError {
    ClientError::Config(text)
}

/// hyper-util's errors hide what happened (`client error (Connect)`): the innermost cause says it.
fn root_cause(error: legacy::Error) -> BoxError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text.into()
}

fn client_config(config: &RestConfig) -> Result<ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| bad(format!("TLS: {e}")))?;
    let builder = match &config.ca {
        CertificateAuthorities::Anyone => {
            builder.dangerous().with_custom_certificate_verifier(AcceptAny::new(provider.clone()))
        }
        CertificateAuthorities::These(list) => {
            let mut roots = RootCertStore::empty();
            for certificate in list {
                roots
                    .add(certificate.clone())
                    .map_err(|e| bad(format!("the certificate authority is unusable: {e}")))?;
            }
            builder.with_root_certificates(roots)
        }
        CertificateAuthorities::System => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots)
        }
    };
    match (&config.identity, &config.identity_files) {
        (Some(identity), Some((certificate, key))) => {
            let files = IdentityFiles::new(certificate, key, identity, provider)?;
            Ok(builder.with_client_cert_resolver(Arc::new(files)))
        }
        (Some(identity), None) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|e| bad(format!("the client certificate is unusable: {e}"))),
        (None, _) => Ok(builder.with_no_client_auth()),
    }
}

struct Authorization {
    credential: Option<Credential>,
    cached: Mutex<Option<(Instant, HeaderValue)>>,
}

impl Authorization {
    async fn header(&self) -> Result<Option<HeaderValue>, BoxError> {
        let bearer = |token: &str| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))?;
            value.set_sensitive(true);
            Ok::<_, BoxError>(Some(value))
        };
        match &self.credential {
            None => Ok(None),
            Some(Credential::Token(token)) => bearer(token),
            Some(Credential::Basic { username, password }) => {
                let text = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
                let mut value = HeaderValue::from_str(&format!("Basic {text}"))?;
                value.set_sensitive(true);
                Ok(Some(value))
            }
            Some(Credential::TokenFile(path)) => {
                let cached = self.cached.lock().clone();
                if let Some((read, value)) = cached
                    && read.elapsed() < TOKEN_AGE
                {
                    return Ok(Some(value));
                }
                let text = tokio::fs::read_to_string(path)
                    .await
                    .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                let value = bearer(&text)?;
                *self.cached.lock() = value.clone().map(|v| (Instant::now(), v));
                Ok(value)
            }
        }
    }
}

/// Opens connections to the server.
#[derive(Clone)]
struct Connector {
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
            let connect = async {
                let tcp = dial::first_of(|| TcpStream::connect((host.as_str(), port))).await?;
                tcp.set_nodelay(true)?;
                Ok::<_, BoxError>(match tls {
                    Some((connector, name)) => Stream::Tls(TokioIo::new(Box::new(connector.connect(name, tcp).await?))),
                    None => Stream::Plain(TokioIo::new(tcp)),
                })
            };
            let timeout = |_| format!("no connection to {host}:{port} within {} s", CONNECT_TIMEOUT.as_secs());
            tokio::time::timeout(CONNECT_TIMEOUT, connect).await.map_err(timeout)?
        })
    }
}

enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(TokioIo<Box<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(io) if io.inner().get_ref().1.alpn_protocol() == Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buffer),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
