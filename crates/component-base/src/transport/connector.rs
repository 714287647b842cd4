//! Opens connections to one server, for hyper's pool.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::attempts::first_of;
use super::kubeconfig::RestConfig;
use super::{BoxError, ConfigError, client_config};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a host is. Asked once for every new connection.
pub trait Resolve: Send + Sync + 'static {
    /// Addresses, best first: each is tried until one takes the connection.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, Result<Vec<SocketAddr>, BoxError>>;
}

/// The system's own resolver.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, Result<Vec<SocketAddr>, BoxError>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("cannot find {host}: {source}")]
    Resolve { host: String, source: BoxError },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("no TLS connection to {host}:{port}: {source}")]
    Tls { host: String, port: u16, source: std::io::Error },
    #[error("no connection to {host}:{port} within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout { host: String, port: u16 },
}

/// Opens connections to the server of a configuration.
#[derive(Clone)]
pub struct Connector {
    tls: Option<(TlsConnector, ServerName<'static>)>,
    resolver: Arc<dyn Resolve>,
}

impl Connector {
    /// With the application protocols that are offered, best first.
    pub fn new(config: &RestConfig, protocols: &[&[u8]], resolver: Arc<dyn Resolve>) -> Result<Self, ConfigError> {
        let server = server_uri(config)?;
        let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
        let tls = match server.scheme_str() {
            Some("https") => {
                let name = config.server_name.as_deref().unwrap_or(host).to_owned();
                let name = ServerName::try_from(name).map_err(|e| ConfigError(format!("server name: {e}")))?;
                let mut tls = client_config(config)?;
                tls.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
                Some((TlsConnector::from(Arc::new(tls)), name))
            }
            _ => None,
        };
        Ok(Self { tls, resolver })
    }
}

/// A configuration's server, which must have a scheme and a host.
pub(super) fn server_uri(config: &RestConfig) -> Result<Uri, ConfigError> {
    let server = &config.server;
    let uri: Uri = server.trim_end_matches('/').parse().map_err(|e| ConfigError(format!("server {server:?}: {e}")))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err(ConfigError(format!("server {server:?} names no host")));
    }
    match uri.scheme_str() {
        Some("https" | "http") => Ok(uri),
        _ => Err(ConfigError(format!("server {server:?} must start with https:// or http://"))),
    }
}

impl RestConfig {
    /// The server's address, which must have a scheme and a host.
    pub fn server_uri(&self) -> Result<Uri, ConfigError> {
        server_uri(self)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Stream;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Stream, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (tls, resolver) = (self.tls.clone(), self.resolver.clone());
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
            let connect = async {
                let addresses = resolver.resolve(&host, port).await;
                let addresses = addresses.map_err(|source| DialError::Resolve { host: host.clone(), source })?;
                if addresses.is_empty() {
                    return Err(DialError::NoAddress { host: host.clone() });
                }
                let tcp = first_of(addresses.len(), |number| {
                    let address = addresses[number % addresses.len()];
                    async move {
                        let failed = |source| DialError::Connect { address, source };
                        let tcp = TcpStream::connect(address).await.map_err(failed)?;
                        tcp.set_nodelay(true).map_err(failed)?;
                        Ok(tcp)
                    }
                });
                let tcp = tcp.await?;
                Ok(match tls {
                    Some((connector, name)) => {
                        let tls = connector.connect(name, tcp).await;
                        let tls = tls.map_err(|source| DialError::Tls { host: host.clone(), port, source })?;
                        Stream::Tls(TokioIo::new(Box::new(tls)))
                    }
                    None => Stream::Plain(TokioIo::new(tcp)),
                })
            };
            match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
                Ok(connected) => connected,
                Err(_) => Err(DialError::Timeout { host: host.clone(), port }),
            }
        })
    }
}

/// A connection.
pub enum Stream {
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
