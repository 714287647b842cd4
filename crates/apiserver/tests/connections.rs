//! Real connections on the loopback: TLS, client certificates, renewal, HTTP/1.1 and HTTP/2, bad clients.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kybern_apiserver::access::{Answer, Attributes, Authenticator, Authorizer, Credentials, Decision, UserInfo};
use kybern_apiserver::{Body, BoxFuture, Options, Server, body, serve};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Ca {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn key(&self, name: &str) -> CertifiedKey {
        let (certificate, key) = self.issue(name);
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        CertifiedKey::new(vec![certificate], key)
    }
}

#[derive(Debug)]
struct Renewable(ArcSwap<CertifiedKey>);
impl ResolvesServerCert for Renewable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Names the user after how many certificates the client showed.
struct Counting;
impl Authenticator for Counting {
    fn authenticate<'a>(&'a self, credentials: &'a Credentials<'a>) -> BoxFuture<'a, Result<Option<UserInfo>, String>> {
        let name = format!("user-{}", credentials.client_certificates.len());
        Box::pin(async { Ok(Some(UserInfo { name, ..UserInfo::default() })) })
    }
}

/// Refuses everybody, and so tells in its text who asked.
struct Nobody;
impl Authorizer for Nobody {
    fn authorize<'a>(&'a self, _: &'a Attributes) -> Answer<'a> {
        Decision::NoOpinion(String::new()).into()
    }
}

struct Fixture {
    address: std::net::SocketAddr,
    ca: Ca,
    certificate: Arc<Renewable>,
}

async fn start() -> Fixture {
    let ca = Ca::new();
    let mut options = Options::new(Arc::new(kybern_storage::memory::Memory::default()));
    options.authenticators = vec![Arc::new(Counting)];
    options.authorizers = vec![Arc::new(Nobody)];
    let server = Server::start(options).await.unwrap();
    let certificate = Arc::new(Renewable(ArcSwap::from_pointee(ca.key("localhost"))));
    let tls = serve::tls_config(&Default::default(), certificate.clone(), &[ca.certificate.der().clone()]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Arc::new(tls);
    tokio::spawn(serve::serve(server, listener, move || tls.clone()));
    Fixture { address, ca, certificate }
}

impl Fixture {
    async fn connect(
        &self,
        client: Option<&Ca>,
        h2: bool,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let (certificate, key) = ca.issue("client");
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = if h2 { vec![b"h2".to_vec()] } else { Vec::new() };
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn get(&self, client: Option<&Ca>, h2: bool) -> String {
        let stream = TokioIo::new(self.connect(client, h2).await.unwrap());
        let request =
            Request::get("https://localhost/metrics").header("host", "localhost").body(body::empty()).unwrap();
        let response: Response<hyper::body::Incoming> = if h2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Body>(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }
}

#[tokio::test]
async fn both_protocols_with_and_without_a_client_certificate() {
    let fixture = start().await;
    for h2 in [false, true] {
        assert!(fixture.get(None, h2).await.contains("user-0"));
        assert!(fixture.get(Some(&fixture.ca), h2).await.contains("user-1"));
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let fixture = start().await;
    // With TLS 1.3 the client learns of it when it reads.
    let refused = match fixture.connect(Some(&Ca::new()), false).await {
        Err(_) => true,
        Ok(mut stream) => stream.read(&mut [0; 1]).await.is_err(),
    };
    assert!(refused);
}

#[tokio::test]
async fn the_certificate_is_renewed_while_serving() {
    let fixture = start().await;
    let shown = async || {
        let stream = fixture.connect(None, false).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let before = shown().await;
    fixture.certificate.0.store(Arc::new(fixture.ca.key("localhost")));
    assert_ne!(shown().await, before);
}

#[tokio::test]
async fn garbage_does_no_harm() {
    let fixture = start().await;
    let mut plain = TcpStream::connect(fixture.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut tls = fixture.connect(None, false).await.unwrap();
    tls.write_all(b"\x00\xff nonsense\r\n\r\n").await.unwrap();
    let _ = tls.read(&mut [0; 512]).await;
    assert!(fixture.get(None, false).await.contains("user-0"));
}

/// Sends a body of `size` whole before it reads, as simple clients do; the answer, or what was left of it.
async fn refused_late(fixture: &Fixture, size: usize) -> String {
    let mut stream = fixture.connect(None, false).await.unwrap();
    let head = format!("POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 64 << 10];
    let mut left = size;
    while left > 0 {
        let length = left.min(piece.len());
        if stream.write_all(&piece[..length]).await.is_err() {
            break;
        }
        left -= length;
    }
    let _ = stream.flush().await;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn a_refusal_reaches_who_still_sends() {
    let fixture = start().await;
    for size in [10, 100 << 10, 900 << 10, 2 << 20] {
        let answer = refused_late(&fixture, size).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{size}: {answer:?}");
    }
}

/// Over HTTP/2 the end of a stream that is still being written to fails the whole request in some clients (curl).
#[tokio::test]
async fn over_http2_a_refused_body_is_taken_to_its_end() {
    let fixture = start().await;
    let stream = TokioIo::new(fixture.connect(None, true).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let (pieces, mut sent) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
    let body = futures_util::stream::poll_fn(move |cx| {
        sent.poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok::<_, std::convert::Infallible>(http_body::Frame::data(piece))))
    });
    let request = Request::post("https://a/api/v1/namespaces").body(http_body_util::StreamBody::new(body)).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 403);
    response.into_body().collect().await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        pieces.send(bytes::Bytes::from_static(b"more")).await.expect("the stream is still taken");
    }
}

#[tokio::test]
async fn what_is_thrown_away_has_a_bound() {
    let fixture = start().await;
    let started = std::time::Instant::now();
    let mut stream = fixture.connect(None, false).await.unwrap();
    let head = format!("POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1u64 << 40);
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 64 && stream.write_all(&piece).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 64, "an endless body is cut off");
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}
