//! The kubelet's HTTP API on port 10250 (`pkg/kubelet/server`): logs, exec, attach, port-forward, stats, metrics.

pub mod auth;
pub mod follow;
pub mod logs;
pub mod metrics;
pub mod pods;
pub mod stats;
pub mod streams;
mod volumes;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use kybern_apimachinery::percent::decode_query;
use kybern_component_base::listener::{self, Limits, Listener, Protocol, Slot};
use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::ServerConfig;
use crate::shared::Shared;
use crate::worker::View;
use auth::Identity;

/// A response's body.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address}: {cause}; is another kubelet running?")]
    Listen { address: SocketAddr, cause: std::io::Error },
    #[error("cannot read {}: {cause}", path.display())]
    Pem { path: PathBuf, cause: String },
    #[error("the serving certificate or the client authority is unusable: {0}")]
    Tls(String),
}

/// The pods that the API shows, by uid.
#[derive(Clone, Default)]
pub struct PodTable(Arc<RwLock<BTreeMap<String, watch::Receiver<View>>>>);

impl PodTable {
    pub fn insert(&self, uid: &str, view: watch::Receiver<View>) {
        self.0.write().insert(uid.to_owned(), view);
    }

    pub fn remove(&self, uid: &str) {
        self.0.write().remove(uid);
    }

    pub fn list(&self) -> Vec<View> {
        self.0.read().values().map(|view| view.borrow().clone()).collect()
    }

    /// Follows one pod by namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<watch::Receiver<View>> {
        let is_it = |view: &&watch::Receiver<View>| {
            let pod = &view.borrow().pod.metadata;
            pod.namespace.as_deref() == Some(namespace) && pod.name.as_deref() == Some(name)
        };
        // Of two with one name the younger is meant; the other is on its way out.
        self.0
            .read()
            .values()
            .filter(is_it)
            .max_by_key(|view| view.borrow().pod.metadata.creation_timestamp.clone())
            .cloned()
    }
}

/// What every request handler gets.
#[derive(Clone)]
pub struct Context {
    pub shared: Arc<Shared>,
    pub pods: PodTable,
}

/// A bound server.
pub struct Server {
    listener: Listener,
    tls: Arc<rustls::ServerConfig>,
    config: ServerConfig,
    context: Context,
}

fn pem<T>(path: &Path, read: Result<T, rustls::pki_types::pem::Error>) -> Result<T, ServerError> {
    read.map_err(|e| ServerError::Pem { path: path.to_owned(), cause: e.to_string() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    pem(path, CertificateDer::pem_file_iter(path).and_then(Iterator::collect))
}

fn tls_config(config: &ServerConfig) -> Result<rustls::ServerConfig, ServerError> {
    let bad = |e: &dyn std::fmt::Display| ServerError::Tls(e.to_string());
    let builder = config.tls.server().map_err(|e| bad(&e))?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(config, &certificates(path)?)?),
    };
    let key = pem(&config.key, PrivateKeyDer::from_pem_file(&config.key))?;
    let mut tls = builder.with_single_cert(certificates(&config.certificate)?, key).map_err(|e| bad(&e))?;
    // Streams are upgraded connections, which HTTP/2 does not have.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(tls)
}

fn verifier(
    config: &ServerConfig,
    authorities: &[CertificateDer<'static>],
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, ServerError> {
    let bad = |e: &dyn std::fmt::Display| ServerError::Tls(e.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|e| bad(&e))?;
    }
    rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), config.tls.provider())
        .allow_unauthenticated()
        .build()
        .map_err(|e| bad(&e))
}

impl Server {
    pub async fn bind(config: ServerConfig, shared: Arc<Shared>, pods: PodTable) -> Result<Self, ServerError> {
        let tls = Arc::new(tls_config(&config)?);
        let address = config.address;
        let listener = TcpListener::bind(address).await.map_err(|cause| ServerError::Listen { address, cause })?;
        let listener = Listener::new(listener, "kubelet", Limits::SERVER);
        Ok(Self { listener, tls, config, context: Context { shared, pods } })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped.
    pub async fn run(self) {
        loop {
            let (stream, _, slot) = self.listener.accept().await;
            let (tls, config, context) = (self.tls.clone(), self.config.clone(), self.context.clone());
            tokio::spawn(async move {
                if let Err(error) = serve(stream, tls, slot, config, context).await {
                    tracing::debug!(error, "a connection ended with an error");
                }
            });
        }
    }
}

async fn serve(
    stream: listener::Stream,
    tls: Arc<rustls::ServerConfig>,
    slot: Slot,
    config: ServerConfig,
    context: Context,
) -> Result<(), String> {
    let stream = listener::handshake(stream, tls, &slot).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let identity = certificate.and_then(|der| auth::certificate_identity(der));
    let own = slot.clone();
    let service = move |request: Request<Incoming>| {
        let (config, context, identity, slot) = (config.clone(), context.clone(), identity.clone(), own.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(request, identity, &slot, &config, &context).await) }
    };
    // Streams are upgraded connections, which HTTP/2 does not have.
    listener::serve(stream, Protocol::Http1, slot, service).await.map_err(|e| e.to_string())
}

async fn answer(
    request: Request<Incoming>,
    certified: Option<Identity>,
    slot: &Slot,
    config: &ServerConfig,
    context: &Context,
) -> Response<Body> {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "));
    let identity = match (certified, token) {
        (Some(identity), _) => Some(identity),
        (None, Some(token)) => config.authorizer.authenticate(token).await,
        (None, None) => {
            // A credential of another sort is not the same as none.
            let bare = !request.headers().contains_key(header::AUTHORIZATION);
            (config.anonymous && bare).then(auth::anonymous)
        }
    };
    let Some(identity) = identity else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
    if identity.user != auth::ANONYMOUS {
        slot.prove();
    }
    let (verb, subresources) = auth::attributes(request.method(), request.uri().path());
    for subresource in subresources {
        if config.authorizer.authorize(&identity, verb, subresource).await {
            return match kybern_profiling::is_below(request.uri().path()) {
                true if config.profiling => kybern_profiling::serve(request.method(), request.uri()).await.map(full),
                true => text(StatusCode::METHOD_NOT_ALLOWED, "profiling endpoint is disabled.\n"),
                false => route(request, context).await,
            };
        }
    }
    let (user, named) = (&identity.user, subresources.join(" "));
    let message = format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{named}])\n");
    text(StatusCode::FORBIDDEN, message)
}

/// One request of an authorized caller.
pub async fn route(request: Request<Incoming>, context: &Context) -> Response<Body> {
    let path = request.uri().path().trim_matches('/').to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    let reads = *request.method() == Method::GET || *request.method() == Method::HEAD;
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "syncloop" | "log"] => text(StatusCode::OK, "ok"),
        ["pods"] if reads => pods::list(context),
        ["containerLogs", namespace, pod, container] if reads => {
            follow::serve(context, namespace, pod, container, request.uri().query().unwrap_or("")).await
        }
        ["stats", "summary"] if reads => stats::summary(context).await,
        ["metrics"] if reads => metrics::kubelet(context),
        ["metrics", "resource"] if reads => metrics::resource(context).await,
        ["volumes", name] if *request.method() == Method::DELETE => volumes::remove(context, name).await,
        ["exec", rest @ ..] => streams::exec(request, context, rest).await,
        ["attach", rest @ ..] => streams::attach(request, context, rest).await,
        ["portForward", rest @ ..] => streams::port_forward(request, context, rest).await,
        ["run", namespace, pod, container] if *request.method() == Method::POST => {
            streams::run(context, namespace, pod, container, request.uri().query().unwrap_or("")).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// A whole body.
pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub fn json(body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The pairs of a query string, percent-decoded.
pub fn query_pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_query(name), decode_query(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let pairs = query_pairs("command=echo&command=a%20b%2Bc+d&tty&x=%zz");
        let expect = [("command", "echo"), ("command", "a b+c d"), ("tty", ""), ("x", "%zz")];
        assert_eq!(pairs, expect.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
