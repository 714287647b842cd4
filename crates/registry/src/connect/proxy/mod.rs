//! `proxy` of pods, services and nodes: HTTP passed on to whatever serves behind them
//! (`k8s.io/apimachinery/pkg/util/proxy`). The caller's credentials are gone before a request comes here.

mod html;
mod page;
mod path;
mod rewrite;
mod target;

use std::sync::Arc;

use http::header::{HOST, LOCATION, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use kybern_apimachinery::{ApiError, Reason};
use kybern_apiserver::access::Peer;
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects};
use kybern_apiserver::{Body, BoxFuture, body};
use kybern_component_base::tls::AcceptAny;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::dial::{self, Reach};
use super::kubelet::{KubeletClient, Unreachable, Verify};
use super::stream;
use rewrite::Rewriter;
pub(super) use target::Kind;
use target::{Backend, Target};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

pub(super) struct Proxy {
    kubelets: Arc<KubeletClient>,
    kind: Kind,
    /// Shows nothing and believes anything: what serves in a pod has no certificate that this server could know.
    tls: TlsConnector,
}

impl Proxy {
    pub(super) fn new(kubelets: Arc<KubeletClient>, kind: Kind) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("the provider knows TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(AcceptAny::new(provider))
            .with_no_client_auth();
        Self { kubelets, kind, tls: TlsConnector::from(Arc::new(config)) }
    }

    async fn send(&self, target: &Target, host: &str, request: Request<Body>) -> Result<Response<Body>, Unreachable> {
        let Target { backend, host: address, port } = target;
        let failed = |cause: &dyn std::fmt::Display| Unreachable(cause.to_string());
        let dial = || dial::connect(address, *port, Reach::Global, dial::DIAL_TIMEOUT);
        match backend {
            Backend::Kubelet => {
                let (reach, verify) = (Reach::Global, Verify::AsConfigured);
                self.kubelets.send_to(address, *port, reach, verify, Some(host), request).await
            }
            Backend::Stranger { https: false } => {
                let stream = dial().await.map_err(|e| failed(&e))?;
                stream::exchange(stream, host, request).await.map_err(|e| failed(&e))
            }
            Backend::Stranger { https: true } => {
                let name = ServerName::try_from(address.clone()).map_err(|e| failed(&e))?;
                let stream = dial().await.map_err(|e| failed(&e))?;
                let handshake = tokio::time::timeout(dial::DIAL_TIMEOUT, self.tls.connect(name, stream)).await;
                let stream = handshake.map_err(|_| failed(&"TLS handshake timeout"))?.map_err(|e| failed(&e))?;
                stream::exchange(stream, host, request).await.map_err(|e| failed(&e))
            }
        }
    }
}

impl Connector for Proxy {
    fn connect<'a>(
        &'a self,
        server: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<Response<Body>, ApiError>> {
        Box::pin(async move {
            let ConnectRequest { namespace, name, tail, held, mut request, .. } = request;
            request.extensions_mut().insert(held);
            let target = target::find(self.kind, server, &self.kubelets, &namespace, &name).await?;
            let whole = request.uri().path();
            let base = whole.strip_suffix(tail.as_str()).unwrap_or(whole).to_owned();
            let query = request.uri().query().map_or_else(String::new, |q| format!("?{q}"));
            let upgrades = request.headers().contains_key(UPGRADE);
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            if tail.is_empty() && reads && !upgrades {
                return Ok(to_root(&format!("{base}/{query}")));
            }
            let path = path::clean(&tail);
            let host = host_of(&request);
            let unusable =
                |e: &dyn std::fmt::Display| ApiError::bad_request(format!("invalid proxy path {path:?}: {e}"));
            *request.uri_mut() = format!("{path}{query}").parse().map_err(|e: http::uri::InvalidUri| unusable(&e))?;
            forwarded_for(&mut request);
            if upgrades {
                let sent = self.send(&target, &host, request).await;
                return upgraded(sent.map_err(|e| unknown(format!("error dialing backend: {}", e.0)))?);
            }
            if let Ok(uri) = HeaderValue::from_str(&format!("{base}{path}")) {
                request.headers_mut().insert(FORWARDED_URI, uri);
            }
            let with_body = *request.method() != Method::HEAD;
            let answer = self.send(&target, &host, request).await.map_err(|Unreachable(cause)| {
                ApiError::new(Reason::ServiceUnavailable, format!("error trying to reach service: {cause}"))
            })?;
            let rewriter = Rewriter { base, backend: target.authority(), host };
            rewrite::answer(answer, rewriter, with_body)
        })
    }
}

/// Browsers resolve a page's relative links against its path, which has to end in `/` for that.
fn to_root(location: &str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The server that the caller believes to talk to: so does the backend.
fn host_of(request: &Request<Body>) -> String {
    let header = request.headers().get(HOST).and_then(|h| h.to_str().ok());
    let authority = || request.uri().authority().map(|a| a.as_str());
    header.or_else(authority).unwrap_or("").to_owned()
}

/// Adds the caller's address to those that the request came by.
pub(crate) fn forwarded_for(request: &mut Request<Body>) {
    let Some(address) = request.extensions().get::<Arc<Peer>>().and_then(|peer| peer.address) else { return };
    let before = request.headers().get_all(FORWARDED_FOR);
    let mut all: Vec<String> = before.iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    all.push(address.ip().to_canonical().to_string());
    if let Ok(value) = HeaderValue::from_str(&all.join(", ")) {
        request.headers_mut().insert(FORWARDED_FOR, value);
    }
}

fn unknown(message: String) -> ApiError {
    ApiError::new(Reason::Unknown, message).with_code(500)
}

/// A backend either switches protocols or says why not.
fn upgraded(answer: Response<Body>) -> Result<Response<Body>, ApiError> {
    let code = answer.status();
    if code != StatusCode::SWITCHING_PROTOCOLS && code.as_u16() < 400 {
        return Err(unknown(format!("invalid upgrade response: status code {}", code.as_u16())));
    }
    Ok(answer)
}
