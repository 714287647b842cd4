//! A network of a test's own with servers to be proxied to, and the proxy as browsers and tools meet it.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::access::UserInfo;
use kybern_apiserver::{Body, body};
use kybern_testbed::TestNs;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Cluster, admin, pod, user};
use crate::streams;

pub(crate) const BACKEND: &str = "10.77.0.1";
pub(crate) const OTHER: &str = "10.77.0.2";

/// Runs a test in a network where [`BACKEND`] and [`OTHER`] are this machine's.
pub(crate) fn in_network<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F + Send) {
    let Some(network) = TestNs::temporary(name) else { return };
    for address in [BACKEND, OTHER] {
        network.add_address(address.parse().unwrap());
    }
    let run = || {
        // A server's start takes more stack than a thread has by default.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(16 << 20).spawn_scoped(scope, || {
                // Its threads are made in the namespace, too.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let patience = std::time::Duration::from_secs(60);
                runtime.block_on(async { tokio::time::timeout(patience, test()).await.expect("within a minute") });
            });
            thread.unwrap().join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        Ok(())
    };
    network.ns.run(run).unwrap();
}

/// What a backend says of itself and of what it was asked.
fn echo(name: &str, shown: bool, request: &Request<hyper::body::Incoming>) -> Response<Body> {
    let headers: serde_json::Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned().into()))
        .collect();
    let mut response = Response::new(body::full(
        json!({"backend": name, "method": request.method().as_str(), "uri": request.uri().to_string(),
            "certificate": shown, "headers": headers})
        .to_string(),
    ));
    let set = response.headers_mut();
    set.insert("content-type", "application/json".parse().unwrap());
    set.insert("access-control-allow-origin", "*".parse().unwrap());
    response
}

async fn answer(name: &'static str, shown: bool, mut request: Request<hyper::body::Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/moved" => {
            let to = request.headers()["x-to"].clone();
            let mut response = Response::new(body::empty());
            *response.status_mut() = http::StatusCode::FOUND;
            response.headers_mut().insert("location", to);
            response
        }
        "/chat" => {
            let mut response = echo(name, shown, &request);
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                io.read_exact(&mut word).await.unwrap();
                word.reverse();
                io.write_all(&word).await.unwrap();
            });
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            *response.body_mut() = body::empty();
            let seen: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.as_bytes())))
                .collect();
            response.headers_mut().insert("x-seen", seen.join("|").parse().unwrap());
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "chat".parse().unwrap());
            response
        }
        "/page" | "/page.gz" => {
            let page = b"<a href=\"/rewriteme\">test</a>";
            let mut response = Response::new(body::full(&page[..]));
            if path.ends_with("gz") {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut encoder, page).unwrap();
                response = Response::new(body::full(encoder.finish().unwrap()));
                response.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            }
            response.headers_mut().insert("content-type", "text/html; charset=utf-8".parse().unwrap());
            response
        }
        "/count" => {
            use http_body_util::BodyExt;
            let mut count = 0;
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                count += frame.unwrap().data_ref().map_or(0, |data| data.len());
            }
            Response::new(body::full(count.to_string()))
        }
        path if path.starts_with("/exec/") || path.starts_with("/portForward/") => streams::spdy_alone(request),
        _ => echo(name, shown, &request),
    }
}

async fn serve(name: &'static str, shown: bool, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let service =
        service_fn(move |request| async move { Ok::<_, std::convert::Infallible>(answer(name, shown, request).await) });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}

/// Serves in the clear; its port.
pub(crate) async fn plain(name: &'static str, address: &str) -> u16 {
    let listener = TcpListener::bind((address.parse::<IpAddr>().unwrap(), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(name, false, stream));
        }
    });
    port
}

/// Serves with a certificate of `cluster`'s authority for `address`, and asks for one: as a kubelet or an API server does.
pub(crate) async fn secure(name: &'static str, cluster: &Cluster, address: &str) -> u16 {
    let address: IpAddr = address.parse().unwrap();
    let issued = cluster.pki.kubelet_server("n", &[address], jiff::Timestamp::now()).unwrap();
    let (chain, key) = issued.rustls().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.pki.ca.certificate_der().to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let shown = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
                serve(name, shown, stream).await;
            });
        }
    });
    port
}

pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or("")
    }
}

impl Cluster {
    /// A pod that says that it has `ip`.
    pub(crate) async fn pod_at(&self, namespace: &str, name: &str, ip: &str) {
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let mut object = pod(name);
        object["spec"]["nodeName"] = "n".into();
        self.create(&pods, object).await;
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
        let (code, answer) = self.patch(&format!("{pods}/{name}/status"), status).await;
        assert_eq!(code, 200, "{answer}");
    }

    pub(crate) async fn request(&self, user: UserInfo, method: Method, uri: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(uri).header("host", "front:6443");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body::empty()).unwrap();
        request.extensions_mut().insert(user);
        let (parts, content) = self.server.handle(request).await.into_parts();
        let bytes = body::read(content).await.unwrap();
        let text = || String::from_utf8_lossy(&bytes).into_owned().into();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        }
    }
}

/// Who may edit in the namespace `team` and nothing else.
pub(crate) fn eve() -> UserInfo {
    user("eve", &[])
}

pub(crate) async fn with_editor() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "team"}})).await;
    cluster.create("/api/v1/namespaces/team/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    // What a controller aggregates into `edit`.
    for part in ["edit", "view"] {
        let binding = json!({"metadata": {"name": part}, "subjects": [{"kind": "User", "name": "eve",
            "apiGroup": "rbac.authorization.k8s.io"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": format!("system:aggregate-to-{part}")}});
        cluster.create("/apis/rbac.authorization.k8s.io/v1/namespaces/team/rolebindings", binding).await;
    }
    cluster
}

#[test]
fn a_browser_finds_its_way() {
    in_network("browser", || async {
        let cluster = with_editor().await;
        let port = plain("web", BACKEND).await;
        // A namespace and a pod that are named as the subresource.
        cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "proxy"}})).await;
        cluster.create("/api/v1/namespaces/proxy/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        cluster.pod_at("proxy", "proxy-a", BACKEND).await;
        let base = format!("/api/v1/namespaces/proxy/pods/proxy-a:{port}/proxy");
        let ask = |method: Method, path: String| cluster_request(&cluster, method, path, &[]);

        let moved = ask(Method::GET, format!("{base}?a=b")).await;
        assert_eq!((moved.code, moved.header("location")), (301, format!("{base}/?a=b").as_str()));
        let posted = ask(Method::POST, base.clone()).await;
        assert_eq!(
            (posted.code, posted.body["uri"].as_str(), posted.body["method"].as_str()),
            (200, Some("/"), Some("POST"))
        );

        let seen = ask(Method::GET, format!("{base}/proxy/x%20y/../z/?q=1&q=%2F&watch=true")).await;
        assert_eq!(seen.body["uri"], "/proxy/z/?q=1&q=%2F&watch=true");
        assert_eq!(seen.body["headers"]["host"], "front:6443", "the name that the caller uses");
        assert_eq!(seen.body["headers"]["x-forwarded-uri"], format!("{base}/proxy/z/"));
        assert_eq!(seen.header("access-control-allow-origin"), "", "the backend speaks for its own origin alone");
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"] {
            let answer = cluster_request(&cluster, method.parse().unwrap(), format!("{base}/m"), &[]).await;
            assert_eq!((answer.code, &answer.body["method"]), (200, &json!(method)));
        }

        for (to, expect) in [
            ("/login".to_owned(), format!("{base}/login")),
            (format!("http://{BACKEND}:{port}/login?x"), format!("{base}/login?x")),
            (format!("https://front:6443{base}/a"), format!("https://front:6443{base}/a")),
            (format!("{base}/a"), format!("{base}/a")),
            ("a/b".to_owned(), "a/b".to_owned()),
            ("https://example.com/a".to_owned(), "https://example.com/a".to_owned()),
        ] {
            let moved = cluster_request(&cluster, Method::GET, format!("{base}/moved"), &[("x-to", &to)]).await;
            assert_eq!((moved.code, moved.header("location")), (302, expect.as_str()), "{to}");
        }
        let expect = format!("<a href=\"{base}/rewriteme\">test</a>");
        let page = cluster_request(&cluster, Method::GET, format!("{base}/page"), &[]).await;
        assert_eq!((page.code, page.body.as_str()), (200, Some(expect.as_str())));
        let request = Request::get(format!("{base}/page.gz")).header("host", "front:6443");
        let mut request = request.body(body::empty()).unwrap();
        request.extensions_mut().insert(admin());
        let packed = body::read(cluster.server.handle(request).await.into_body()).await.unwrap();
        let mut unpacked = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, expect, "compressed pages are turned, too");
        let gone =
            cluster_request(&cluster, Method::GET, "/api/v1/namespaces/proxy/pods/proxy-a:9/proxy/".to_owned(), &[])
                .await;
        assert_eq!(gone.code, 503);
        assert!(
            gone.message().starts_with(&format!("error trying to reach service: dial tcp {BACKEND}:9: connect: ")),
            "{}",
            gone.message()
        );
    });
}

async fn cluster_request(cluster: &Cluster, method: Method, uri: String, headers: &[(&str, &str)]) -> Answer {
    cluster.request(admin(), method, &uri, headers).await
}

pub(crate) type Connection = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// A connection to the server as a client has it.
pub(crate) async fn connection(cluster: &Cluster) -> Connection {
    let (chain, key) = cluster.pki.apiserver.rustls().unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let certificate = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key));
    let tls = kybern_apiserver::serve::tls_config(&Default::default(), Arc::new(certificate), &[]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Arc::new(tls);
    tokio::spawn(kybern_apiserver::serve::serve(cluster.server.clone(), listener, move || tls.clone()));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.pki.ca.certificate_der().to_vec().into()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("kubernetes").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

pub(crate) async fn head(stream: &mut Connection) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn an_upgrade_takes_no_token_along() {
    in_network("upgrade", || async {
        let cluster = with_editor().await;
        let port = plain("chat", BACKEND).await;
        cluster.pod_at("team", "chat", BACKEND).await;
        // The token that browsers send, and which this server knows.
        let token = "base64url.bearer.authorization.k8s.io.ZXZlLXRva2Vu";
        let ask = format!(
            "GET /api/v1/namespaces/team/pods/chat:{port}/proxy/chat HTTP/1.1\r\nHost: front\r\nConnection: Upgrade\r\n\
             Upgrade: chat\r\nX-Forwarded-For: 192.0.2.1\r\nCookie: session=secret\r\n\
             Authorization: Bearer eve-token\r\nSec-WebSocket-Protocol: {token}, chat\r\n\r\n"
        );
        let mut client = connection(&cluster).await;
        client.write_all(ask.as_bytes()).await.unwrap();
        let answer = head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let seen = answer.lines().find_map(|line| line.strip_prefix("x-seen: ")).unwrap();
        assert!(!seen.contains("eve-token") && !seen.contains("ZXZl") && !seen.contains("session"), "{seen}");
        let mut seen: Vec<&str> = seen.split('|').collect();
        seen.sort_unstable();
        let expect = [
            "connection=Upgrade",
            "host=front",
            "sec-websocket-protocol=chat",
            "upgrade=chat",
            "x-forwarded-for=192.0.2.1, 127.0.0.1",
        ];
        assert_eq!(seen, expect);
        client.write_all(b"abcd").await.unwrap();
        let mut four = [0; 4];
        client.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"dcba");

        // A backend that does not switch.
        let mut client = connection(&cluster).await;
        client.write_all(ask.replace("/proxy/chat", "/proxy/plain").as_bytes()).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 500"), "no upgrade, no answer that looks like one");
    });
}

#[test]
fn large_bodies_stream_through() {
    in_network("bodies", || async {
        const SIZE: usize = 20 << 20;
        let cluster = with_editor().await;
        let port = plain("count", BACKEND).await;
        cluster.pod_at("team", "count", BACKEND).await;
        let (mut reading, mut writing) = tokio::io::split(connection(&cluster).await);
        let head = format!(
            "POST /api/v1/namespaces/team/pods/count:{port}/proxy/count HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\
             Authorization: Bearer eve-token\r\nContent-Length: {SIZE}\r\n\r\n"
        );
        let write = async {
            writing.write_all(head.as_bytes()).await.unwrap();
            let piece = vec![b'x'; 1 << 20];
            for _ in 0..SIZE >> 20 {
                writing.write_all(&piece).await.unwrap();
            }
            // TLS may hold the end of it.
            writing.flush().await.unwrap();
        };
        let mut answer = String::new();
        let (_, read) = tokio::join!(write, reading.read_to_string(&mut answer));
        read.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(&SIZE.to_string()), "{answer}");
    });
}
