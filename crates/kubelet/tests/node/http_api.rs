//! The kubelet's HTTP API over TLS, with certificates of an authority made for the test.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use kybern_apimachinery::Value;
use kybern_kubelet::ServerConfig;
use kybern_kubelet::server::auth::{Authorizer, Identity};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpStream;

use crate::TestNode;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and key of the authority for a member of `group`.
fn issue(authority: &Authority, group: &str) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "someone");
    params.distinguished_name.push(DnType::OrganizationName, group);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

/// Lets nobody in but masters with a certificate.
struct Masters;

impl Authorizer for Masters {
    fn authenticate<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<Identity>> {
        Box::pin(async { None })
    }

    fn authorize<'a>(&'a self, who: &'a Identity, _: &'a str, _: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async { who.groups.iter().any(|group| group == "system:masters") })
    }
}

struct Caller {
    tls: tokio_rustls::TlsConnector,
    port: u16,
}

impl Caller {
    fn new(authority: &Authority, group: Option<&str>, port: u16) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match group {
            Some(group) => {
                let (certificate, key) = issue(authority, group);
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self { tls: Arc::new(config).into(), port }
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let stream = self.tls.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

async fn serving() -> (TestNode, Authority, u16) {
    serving_with(|_| {}).await
}

async fn serving_with(change: impl FnOnce(&mut ServerConfig)) -> (TestNode, Authority, u16) {
    let mut node = TestNode::prepare();
    let authority = authority();
    let (certificate, key) = issue(&authority, "system:nodes");
    let file = |name: &str, text: String| {
        let path = node.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut config = node.config();
    let mut server = ServerConfig {
        tls: Default::default(),
        address,
        certificate: file("tls.crt", certificate.pem()),
        key: file("tls.key", key.serialize_pem()),
        client_ca: Some(file("ca.crt", authority.pem())),
        anonymous: false,
        authorizer: Arc::new(Masters),
        profiling: true,
    };
    change(&mut server);
    config.server = Some(server);
    node.start(config);
    node.running("p", |_| {}).await;
    (node, authority, address.port())
}

#[tokio::test]
async fn only_masters_get_in() {
    let (_node, authority, port) = serving().await;
    for (group, expect) in [(None, 401), (Some("system:nodes"), 403), (Some("system:masters"), 200)] {
        for path in ["/pods", "/debug/pprof/", "/debug/pprof/cmdline"] {
            let (status, _) = Caller::new(&authority, group, port).get(path).await;
            assert_eq!(status, expect, "{group:?} {path}");
        }
    }
}

#[tokio::test]
async fn profiles_may_be_off() {
    let (_node, authority, port) = serving_with(|server| server.profiling = false).await;
    for path in ["/debug/pprof/", "/debug/pprof/profile?seconds=1"] {
        let answer = Caller::new(&authority, Some("system:masters"), port).get(path).await;
        assert_eq!(answer, (StatusCode::METHOD_NOT_ALLOWED, "profiling endpoint is disabled.\n".to_owned()), "{path}");
    }
}

#[tokio::test]
async fn logs_are_served() {
    let (node, authority, port) = serving().await;
    let caller = Caller::new(&authority, Some("system:masters"), port);
    let get = async |query: &str| caller.get(&format!("/containerLogs/default/p/c{query}")).await;
    assert_eq!(get("").await, (StatusCode::OK, "one\ntwo\n".to_owned()));
    assert_eq!(get("?tailLines=1").await.1, "two\n");
    assert_eq!(get("?previous=true").await.0, StatusCode::BAD_REQUEST);
    let (status, text) = caller.get("/containerLogs/default/p/none").await;
    assert_eq!((status, text.as_str()), (StatusCode::BAD_REQUEST, "container none is not valid for pod p"));
    assert_eq!(caller.get("/containerLogs/default/q/c").await.0, StatusCode::NOT_FOUND);
    node.create("q", |pod| pod["spec"]["containers"][0]["image"] = "missing:1".into());
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    node.until("q", |pod| waiting(pod) == "ImagePullBackOff").await;
    let refused = caller.get("/containerLogs/default/q/c").await.1;
    assert_eq!(refused, "container \"c\" in pod \"q\" is waiting to start: trying and failing to pull image");

    let followed = async { get("?follow=true").await };
    let goes_on = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let log = node.dir.path().join("pod-logs/default_p_p-uid/c/0.log");
        let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        std::io::Write::write_all(&mut file, b"2026-01-01T00:00:02Z stdout F three\n").unwrap();
        // Rotated more often than the reader looks.
        for number in 0..4 {
            std::fs::rename(&log, log.with_file_name(format!("0.log.20260101-00000{number}"))).unwrap();
            std::fs::write(&log, format!("2026-01-01T00:00:02Z stdout F file {number}\n")).unwrap();
        }
        node.cri.exit("c", 0);
    };
    let (followed, ()) = tokio::join!(followed, goes_on);
    assert_eq!(followed.1, "one\ntwo\nthree\nfile 0\nfile 1\nfile 2\nfile 3\n");
}

#[tokio::test]
async fn other_pages() {
    let (_node, authority, port) = serving().await;
    let caller = Caller::new(&authority, Some("system:masters"), port);
    assert_eq!(caller.get("/healthz").await, (StatusCode::OK, "ok".to_owned()));
    assert!(caller.get("/pods").await.1.contains("\"uid\":\"p-uid\""));
    assert!(caller.get("/metrics").await.1.contains("kubelet_running_pods 1"));
    assert!(caller.get("/stats/summary").await.1.contains("\"nodeName\":\"n1\""));
    assert_eq!(caller.get("/exec/default/p/c?command=x&output=1").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(caller.get("/nothing").await.0, StatusCode::NOT_FOUND);
}
