//! The TLS transport against real servers on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kybern_apimachinery::Gvr;
use kybern_client::{Client, ClientError, RestConfig, body};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Server {
    address: SocketAddr,
    ca_pem: String,
}

/// Serves TLS with a certificate for 127.0.0.1; ALPN as given.
async fn serve(protocols: &[&str]) -> Server {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(tls), service_fn(answer)).await;
            });
        }
    });
    Server { address, ca_pem: cert.pem() }
}

/// Tells the protocol and the credential; echoes on upgraded connections.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key(http::header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).await.unwrap();
            stream.write_all(&buffer).await.unwrap();
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("upgrade", "echo")
            .header("connection", "upgrade");
        return Ok(response.body(Full::default()).unwrap());
    }
    let version = if request.version() == Version::HTTP_2 { "2" } else { "1.1" };
    let credential = request.headers().get("authorization").map_or("", |v| v.to_str().unwrap());
    let text = format!(r#"{{"path":"{}","version":"{version}","credential":"{credential}"}}"#, request.uri().path());
    Ok(Response::new(Full::new(text.into())))
}

fn kubeconfig(server: &Server, cluster: &str, user: &str) -> String {
    let ca = base64::engine::general_purpose::STANDARD.encode(&server.ca_pem);
    format!(
        "{{current-context: c, contexts: [{{name: c, context: {{cluster: k, user: u}}}}], users: [{{name: u, user: {{{user}}}}}], \
         clusters: [{{name: k, cluster: {{server: 'https://{}{cluster}', certificate-authority-data: {ca}}}}}]}}",
        server.address
    )
}

fn client(kubeconfig: &str, directory: &Path) -> Client {
    Client::from_config(&RestConfig::parse_kubeconfig(kubeconfig, directory).unwrap()).unwrap()
}

#[tokio::test]
async fn http2_is_used_where_it_is_offered() {
    for (protocols, expect) in [(&["h2", "http/1.1"][..], "2"), (&["http/1.1"], "1.1"), (&[], "1.1")] {
        let server = serve(protocols).await;
        let client = client(&kubeconfig(&server, "/prefix", "token: secret"), Path::new("/"));
        let pods = client.raw(&Gvr::new("", "v1", "pods"));
        for _ in 0..3 {
            let seen = pods.get("default", "a").await.unwrap();
            assert_eq!(
                (seen["version"].as_str(), seen["path"].as_str()),
                (Some(expect), Some("/prefix/api/v1/namespaces/default/pods/a"))
            );
            assert_eq!(seen["credential"], "Bearer secret");
        }
    }
}

#[tokio::test]
async fn tokens_are_read_from_files_and_passwords_encoded() {
    let server = serve(&["h2"]).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "from-file\n").unwrap();
    for (user, expect) in
        [("tokenFile: token", "Bearer from-file"), ("username: me, password: pw", "Basic bWU6cHc="), ("", "")]
    {
        let seen = client(&kubeconfig(&server, "", user), directory.path())
            .raw(&Gvr::new("", "v1", "pods"))
            .get("d", "a")
            .await
            .unwrap();
        assert_eq!(seen["credential"], expect);
    }
}

#[tokio::test]
async fn connections_are_upgraded() {
    let server = serve(&["h2", "http/1.1"]).await;
    let client = client(&kubeconfig(&server, "", ""), Path::new("/"));
    let request =
        Request::post("/exec").header("upgrade", "echo").header("connection", "upgrade").body(body::empty()).unwrap();
    let mut response = client.stream(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut buffer = [0; 5];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"hello");
}

#[tokio::test]
async fn an_unknown_authority_is_refused_and_the_cause_told() {
    let (server, other) = (serve(&["h2"]).await, serve(&["h2"]).await);
    let mixed = Server { address: server.address, ca_pem: other.ca_pem };
    let error = client(&kubeconfig(&mixed, "", ""), Path::new("/"))
        .raw(&Gvr::new("", "v1", "pods"))
        .get("d", "a")
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Transport(_)));
    let text = error.to_string();
    assert!(text.starts_with("cannot reach https://127.0.0.1:") && text.contains("certificate"), "{text}");
}

#[tokio::test]
async fn a_closed_port_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let config = RestConfig { server: format!("http://{address}"), ..RestConfig::default() };
    let error = Client::from_config(&config)
        .unwrap()
        .raw(&Gvr::new("", "v1", "pods"))
        .get("d", "a")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
}
