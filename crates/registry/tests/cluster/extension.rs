//! A sample extension API server: over TLS with an authority of its own, with authentication delegated to the cluster as
//! `extension-apiserver-authentication` says it, a group `wardle.example.com`, watches and a protocol to switch to. It can be
//! made to behave badly.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, LOCATION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kybern_apimachinery::{Value, json};
use kybern_apiserver::{Body, body};
use kybern_testbed::https::TestCa;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use crate::harness::Cluster;

pub(crate) const GROUP: &str = "wardle.example.com";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    /// Knows the older form of discovery only, and no OpenAPI.
    Old,
    /// Sends everybody elsewhere.
    Redirects,
    /// Never answers.
    Hangs,
    /// Answers discovery with 10 MB.
    Huge,
    /// Claims to have groups that are others', and says so in every document.
    Lies,
    Broken,
}

struct Shared {
    manner: Mutex<Manner>,
    /// Path and headers of what clients asked for, in order.
    seen: Mutex<Vec<(String, Vec<String>)>>,
    events: broadcast::Sender<Bytes>,
    /// Told of the end.
    end: watch::Sender<bool>,
}

pub(crate) struct Extension {
    pub(crate) address: SocketAddr,
    /// Its authority, as PEM.
    pub(crate) ca: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.end.send_replace(true);
    }
}

impl Extension {
    /// Starts one that serves as the Service `api` of the namespace `wardle`.
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let config = cluster.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await;
        let proxies = config["data"]["requestheader-client-ca-file"].as_str().unwrap().to_owned();
        let allowed: Vec<String> =
            serde_json::from_str(config["data"]["requestheader-allowed-names"].as_str().unwrap()).unwrap();
        assert_eq!(config["data"]["requestheader-username-headers"], "[\"X-Remote-User\"]");
        let ca = TestCa::new("wardle");
        let certificate = ca.issue(&["api.wardle.svc"]);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(proxies.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let chain = vec![CertificateDer::from_pem_slice(certificate.certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (manner, seen) = (Mutex::new(Manner::Good), Mutex::default());
        let shared = Arc::new(Shared { manner, seen, events: broadcast::channel(16).0, end: watch::channel(false).0 });
        let (of_task, allowed) = (shared.clone(), Arc::new(allowed));
        let task = tokio::spawn(async move {
            // Connections end with the server.
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, shared, allowed) = (acceptor.clone(), of_task.clone(), allowed.clone());
                serving.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let names = tls.get_ref().1.peer_certificates().map(|chain| {
                        kybern_component_base::x509::Subject::of_certificate(&chain[0]).unwrap().common_name
                    });
                    let trusted = names.is_some_and(|name| allowed.contains(&name));
                    let service = service_fn(move |request| {
                        let shared = shared.clone();
                        async move { Ok::<_, std::convert::Infallible>(serve(&shared, trusted, request).await) }
                    });
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection_with_upgrades(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, ca: ca.pem, shared, task }
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.shared.manner.lock() = manner;
    }

    /// The headers of the last request for a path, as `name: value`.
    pub(crate) fn seen(&self, path: &str) -> Option<Vec<String>> {
        let seen = self.shared.seen.lock();
        seen.iter().rev().find(|(asked, _)| asked == path).map(|(_, headers)| headers.clone())
    }

    /// Tells watchers of an object.
    pub(crate) fn tell(&self, name: &str) -> usize {
        let event = json!({"type": "ADDED", "object": flunder(name)});
        self.shared.events.send(Bytes::from(format!("{event}\n"))).unwrap_or(0)
    }
}

fn flunder(name: &str) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": "Flunder", "metadata": {"name": name}})
}

fn answer(value: &Value) -> Response<Body> {
    body::json(StatusCode::OK, value)
}

async fn serve(shared: &Arc<Shared>, trusted: bool, mut request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let headers = request.headers().iter().map(|(k, v)| format!("{k}: {}", String::from_utf8_lossy(v.as_bytes())));
    shared.seen.lock().push((path.clone(), headers.collect()));
    if !trusted {
        return body::text(StatusCode::UNAUTHORIZED, "whoever you are\n");
    }
    let manner = *shared.manner.lock();
    match manner {
        Manner::Hangs => std::future::pending().await,
        Manner::Broken => return body::text(StatusCode::INTERNAL_SERVER_ERROR, "broken\n"),
        Manner::Redirects => {
            let mut response = body::text(StatusCode::FOUND, "over there\n");
            response.headers_mut().insert(LOCATION, HeaderValue::from_static("https://192.0.2.1/secrets"));
            return response;
        }
        _ => {}
    }
    if request.headers().contains_key(UPGRADE) {
        return switch(&mut request, shared.end.subscribe());
    }
    let wants_aggregated =
        request.headers().get(ACCEPT).is_some_and(|a| a.to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    let resource = json!({
        "resource": "flunders", "singularResource": "flunder", "scope": "Namespaced", "verbs": ["get", "list", "watch"],
        "responseKind": {"group": GROUP, "version": "v1", "kind": "Flunder"},
    });
    let lies = manner == Manner::Lies;
    match path.as_str() {
        "/apis" if wants_aggregated && manner == Manner::Huge => {
            body::full(vec![b' '; 10 << 20]).into_response(AGGREGATED)
        }
        "/apis" if wants_aggregated && manner != Manner::Old => {
            let group = |name: &str, freshness: &str| json!({"metadata": {"name": name}, "versions": [{"version": "v1", "freshness": freshness, "resources": [resource]}]});
            let mut items = vec![group(GROUP, "Current")];
            if lies {
                items.extend([group("apps", "Current"), group("", "Current")]);
            }
            let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items});
            body::full(list.to_string()).into_response(AGGREGATED)
        }
        "/apis/wardle.example.com/v1" | "/apis/apps/v1" | "/api/v1" => answer(&json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/v1"),
            "resources": [{"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["list"]}],
        })),
        "/openapi/v2" if manner != Manner::Old => {
            let operation = json!({"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/com.example.wardle.v1.Flunder"}}}}});
            let mut document = json!({
                "swagger": "2.0", "paths": {"/apis/wardle.example.com/v1/flunders": operation},
                "definitions": {"com.example.wardle.v1.Flunder": {"type": "object"}, "io.k8s.api.core.v1.Pod": {"type": "string"}},
            });
            if lies {
                document["paths"]["/apis/apps/v1/deployments"] = operation.clone();
                document["paths"]["/api/v1/pods"] = operation;
            }
            answer(&document)
        }
        "/openapi/v3" if manner != Manner::Old => answer(&json!({"paths": {
            "apis/wardle.example.com/v1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=W"},
            "apis/apps/v1": {"serverRelativeURL": "https://192.0.2.1/"},
        }})),
        "/openapi/v3/apis/wardle.example.com/v1" if manner != Manner::Old => {
            answer(&json!({"openapi": "3.0.0", "info": {"title": "wardle"}}))
        }
        path if path.starts_with("/openapi") || path == "/apis" => {
            body::text(StatusCode::NOT_FOUND, "404 page not found\n")
        }
        _ if request.uri().query().is_some_and(|query| query.contains("watch=")) => {
            let events = shared.events.subscribe();
            let frames = futures_util::stream::unfold(events, |mut events| async {
                let event = events.recv().await.ok()?;
                Some((Ok(Frame::data(event)), events))
            });
            StreamBody::new(frames).boxed_unsync().into_response("application/json")
        }
        _ => {
            let method = request.method().to_string();
            let sent = request.into_body().collect().await.unwrap().to_bytes();
            let sent = String::from_utf8_lossy(&sent).into_owned();
            answer(
                &json!({"kind": "Echo", "apiVersion": format!("{GROUP}/v1"), "method": method, "path": path, "sent": sent}),
            )
        }
    }
}

trait IntoResponse {
    fn into_response(self, media: &'static str) -> Response<Body>;
}

impl IntoResponse for Body {
    fn into_response(self, media: &'static str) -> Response<Body> {
        let mut response = Response::new(self);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        response
    }
}

/// Says back what it hears, reversed, four bytes at a time.
fn switch(request: &mut Request<Incoming>, mut end: watch::Receiver<bool>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut io, mut four) = (TokioIo::new(upgraded), [0; 4]);
        let talk = async {
            while io.read_exact(&mut four).await.is_ok() {
                four.reverse();
                if io.write_all(&four).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = talk => {}
            _ = end.changed() => {}
        }
    });
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("chat"));
    response
}
