use std::io::Write as _;

use clap::Parser;
use kybern_apimachinery::{Value, json};
use kybern_auth::pki::{CertificateAuthority, CertifiedKey, Profile};
use kybern_component_base::tls::AcceptAny;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: ServingOptions,
}

/// An API server that knows one token and who may read metrics, and counts what it is asked.
async fn api_server(directory: &std::path::Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async {
                use http_body_util::BodyExt;
                let body = request.into_body().collect().await?.to_bytes();
                let review: Value = serde_json::from_slice(&body).unwrap_or_default();
                let spec = &review["spec"];
                let status = if review["kind"] == "TokenReview" {
                    let known = spec["token"].as_str().filter(|token| ["scraper", "nobody"].contains(token));
                    json!({"authenticated": known.is_some(), "user": {"username": known}})
                } else {
                    json!({"allowed": spec["user"] == "scraper" && spec["nonResourceAttributes"]["path"] == "/metrics"})
                };
                Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(json!({"status": status}).to_string()))))
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
        }
    });
    let kubeconfig = json!({
        "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}], "users": [{"name": "u", "user": {}}],
    });
    let path = directory.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).unwrap();
    path.display().to_string()
}

/// The answer's code to `GET path`.
async fn get(port: u16, path: &str, headers: &str, certificate: Option<&CertifiedKey>) -> Result<u16, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.unwrap().dangerous().with_custom_certificate_verifier(AcceptAny::new(provider));
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let (chain, key) = pair.rustls().unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut stream = connector.connect("localhost".try_into().unwrap(), tcp).await.map_err(|e| e.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    let code = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| format!("no answer: {read:?}"))
}

fn file(directory: &std::path::Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path.display().to_string()
}

async fn serve(flags: &[&str]) -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (address, port_flag) = ("--bind-address=127.0.0.1", format!("--secure-port={port}"));
    let options = Line::parse_from([&["x", address, &port_flag], flags].concat()).options;
    let component = Component { name: "kube-scheduler", port: 10259, tolerates_lookup_failure: true };
    let answer = |path: &str| match path {
        "/healthz" | "/metrics" => Reply::text(StatusCode::OK, "ok"),
        _ => Reply::not_found(),
    };
    start(&options, &component, answer).await.unwrap();
    port
}

#[tokio::test]
async fn who_asks_and_what_he_may_is_the_api_servers_word() {
    let directory = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now();
    let authority = CertificateAuthority::create("clients", now).unwrap();
    let client = |name: &str, group: Option<&str>| authority.issue(&Profile::client(name, group), now).unwrap();
    let (master, other) = (client("root", Some("system:masters")), client("carol", None));
    let stranger = CertificateAuthority::create("strangers", now).unwrap();
    let stranger = stranger.issue(&Profile::client("root", Some("system:masters")), now).unwrap();
    let ca = file(directory.path(), "ca.crt", authority.certificate_pem());
    let kubeconfig = api_server(directory.path()).await;
    let port = serve(&[
        &format!("--authentication-kubeconfig={kubeconfig}"),
        &format!("--authorization-kubeconfig={kubeconfig}"),
        "--authentication-skip-lookup=true",
        &format!("--client-ca-file={ca}"),
    ])
    .await;
    assert_eq!(get(port, "/healthz", "", None).await, Ok(200));
    assert_eq!(get(port, "/metrics", "", None).await, Ok(403));
    assert_eq!(get(port, "/metrics", "authorization: Bearer x\r\n", None).await, Ok(401));
    assert_eq!(get(port, "/metrics", "authorization: Bearer nobody\r\n", None).await, Ok(403));
    assert_eq!(get(port, "/metrics", "authorization: Bearer scraper\r\n", None).await, Ok(200));
    assert_eq!(get(port, "/configz", "authorization: Bearer scraper\r\n", None).await, Ok(403));
    assert_eq!(get(port, "/metrics", "", Some(&master)).await, Ok(200));
    assert_eq!(get(port, "/metrics", "", Some(&other)).await, Ok(403));
    assert!(get(port, "/metrics", "", Some(&stranger)).await.is_err(), "another authority's client");
    // Nobody's word counts who is no front proxy.
    let spoofed = "x-remote-user: root\r\nx-remote-group: system:masters\r\n";
    assert_eq!(get(port, "/metrics", spoofed, Some(&other)).await, Ok(403));
    let profile = "/debug/pprof/profile?seconds=1";
    for (headers, certificate) in [("", None), ("authorization: Bearer scraper\r\n", None), ("", Some(&other))] {
        assert_eq!(get(port, "/debug/pprof/", headers, certificate).await, Ok(403));
        assert_eq!(get(port, profile, headers, certificate).await, Ok(403));
    }
    assert_eq!(get(port, "/debug/pprof/", "", Some(&master)).await, Ok(200));
    assert_eq!(get(port, "/debug/pprof/heap", "", Some(&master)).await, Ok(404));
    assert_eq!(get(port, profile, "", Some(&master)).await, Ok(200));
    // Whoever goes away takes nobody's turn.
    let gone = get(port, "/debug/pprof/profile?seconds=300", "", Some(&master));
    assert!(tokio::time::timeout(Duration::from_millis(500), gone).await.is_err());
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while get(port, profile, "", Some(&master)).await != Ok(200) {
        assert!(std::time::Instant::now() < until, "a profile goes on whose client is gone");
    }
    let without = serve(&["--profiling=false", &format!("--client-ca-file={ca}")]).await;
    assert_eq!(get(without, "/debug/pprof/", "", Some(&master)).await, Ok(404));
}

#[tokio::test]
async fn without_an_api_server_only_health_is_told() {
    let port = serve(&[]).await;
    assert_eq!(get(port, "/healthz", "", None).await, Ok(200));
    assert_eq!(get(port, "/metrics", "", None).await, Ok(403));
    assert_eq!(get(port, "/metrics", "authorization: Bearer scraper\r\n", None).await, Ok(401));
}
