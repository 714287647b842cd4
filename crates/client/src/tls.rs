//! The transport over TCP and TLS: HTTP/2 where the server offers it, a pool of HTTP/1.1 connections otherwise, and a
//! connection of its own for every upgrade.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, UPGRADE};
use http::{Request, Response, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kybern_component_base::transport::{Authorization, Connector, RestConfig, SystemResolver};

use crate::{Body, BoxError, BoxFuture, ClientError, Transport, TransportError};

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
        let server = config.server_uri()?;
        let resolver = Arc::new(SystemResolver);
        let connector = |protocols: &[&[u8]]| Connector::new(config, protocols, resolver.clone());
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
            .build(connector(&[b"h2", b"http/1.1"])?);
        let upgrading = builder().pool_max_idle_per_host(0).build(connector(&[b"http/1.1"])?);
        let authorization = Authorization::new(config.credential.clone());
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
