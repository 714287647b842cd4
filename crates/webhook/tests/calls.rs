//! Calls to servers on loopback: good ones, and what upstream says about all others.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, Version};
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa, TestCertificate};
use kybern_webhook::{
    Backoff, CallError, Client, ClientConfig, ClientManager, NoServices, ServiceReference, ServiceResolver, Target,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

/// Answers as the request's path asks.
async fn answer(request: Request<Bytes>) -> Response<Bytes> {
    let with = |code: u16, body: &str| Response::builder().status(code).body(Bytes::from(body.to_owned())).unwrap();
    match request.uri().path() {
        "/hang" => std::future::pending().await,
        "/big" => Response::new(Bytes::from(vec![b'x'; 10 << 20])),
        "/redirect" => Response::builder().status(307).header("Location", "/echo").body(Bytes::new()).unwrap(),
        "/teapot" => with(418, "short and stout"),
        "/broken" => with(500, "no luck\n"),
        "/away" => with(503, ""),
        "/status" => Response::builder()
            .status(403)
            .header("Content-Type", "application/json")
            .body(Bytes::from(
                r#"{"kind":"Status","apiVersion":"v1","reason":"Forbidden","message":"not you","code":403}"#,
            ))
            .unwrap(),
        _ => {
            let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("-");
            let text = format!(
                "{} {} {} {} {} {}",
                request.method(),
                request.uri().path_and_query().map_or("", |p| p.as_str()),
                if request.version() == Version::HTTP_2 { 2 } else { 1 },
                header("authorization"),
                header("user-agent"),
                String::from_utf8_lossy(request.body()),
            );
            Response::new(text.into())
        }
    }
}

fn manager(resolver: impl ServiceResolver) -> ClientManager {
    ClientManager::new(Arc::new(resolver), "kube-apiserver-admission")
}

fn at(url: &str, ca: &str) -> ClientConfig {
    ClientConfig { target: Target::Url(url.to_owned()), ca_bundle: ca.as_bytes().to_vec() }
}

async fn server(ca: &TestCa) -> HttpsServer {
    HttpsServer::start(HttpsOptions::new(&ca.issue(&["127.0.0.1"])), answer).await
}

async fn post(config: &ClientConfig, timeout: Option<Duration>) -> Result<String, String> {
    let client = manager(NoServices).client(config)?;
    let answer = client.post(Bytes::from_static(b"hello"), timeout).await.map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_url_is_posted_to() {
    let ca = TestCa::new("ca");
    let server = server(&ca).await;
    let told = post(&at(&format!("{}/echo/", server.url()), &ca.pem), Some(Duration::from_secs(10))).await.unwrap();
    assert_eq!(told, "POST /echo?timeout=10s 2 - kube-apiserver-admission hello");
    // Without a path it is the root; without a timeout nobody is told one.
    let told = post(&at(&server.url(), &ca.pem), None).await.unwrap();
    assert_eq!(told, "POST / 2 - kube-apiserver-admission hello");
}

#[tokio::test]
async fn error_responses_have_upstreams_texts() {
    let ca = TestCa::new("ca");
    let server = server(&ca).await;
    for (path, expect) in [
        ("teapot", "the server responded with the status code 418 but did not return more information"),
        ("redirect", "the server responded with the status code 307 but did not return more information"),
        ("broken", "an error on the server (\"no luck\") has prevented the request from succeeding"),
        ("away", "the server is currently unable to handle the request"),
        ("status", "not you"),
    ] {
        assert_eq!(post(&at(&format!("{}/{path}", server.url()), &ca.pem), SECOND).await, Err(expect.to_owned()));
    }
    let url = format!("{}/big", server.url());
    let expect = format!("the response of {url} is longer than 8388608 bytes");
    assert_eq!(post(&at(&url, &ca.pem), SECOND).await, Err(expect));
}

#[tokio::test]
async fn one_that_hangs_costs_its_time_and_nobody_elses() {
    let ca = TestCa::new("ca");
    let server = server(&ca).await;
    let url = format!("{}/hang", server.url());
    let start = Instant::now();
    let manager = manager(NoServices);
    let hanging = manager.client(&at(&url, &ca.pem)).unwrap();
    // More than may be under way at once: those that wait for their turn have the same time.
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..300 {
        let client = hanging.clone();
        if number == 1 {
            // The others find a connection.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        calls.spawn(async move { client.post(Bytes::new(), SECOND).await });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let quick = manager.client(&at(&server.url(), &ca.pem)).unwrap();
    let asked = Instant::now();
    quick.post(Bytes::new(), Some(Duration::from_secs(10))).await.unwrap();
    assert!(asked.elapsed() < Duration::from_millis(800), "{:?}", asked.elapsed());
    while let Some(ended) = calls.join_next().await {
        let error = ended.unwrap().unwrap_err();
        assert_eq!(error.to_string(), format!("Post \"{url}?timeout=1s\": context deadline exceeded"));
        assert!(error.is_deadline() && !error.should_retry());
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn certificates_are_verified() {
    let ca = TestCa::new("ca");
    let named = HttpsServer::start(HttpsOptions::new(&ca.issue(&["a.example", "b.example"])), answer).await;
    let expired = ca.issue_with(&["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let expired = HttpsServer::start(HttpsOptions::new(&expired), answer).await;
    let good = server(&ca).await;
    let other = TestCa::new("other");
    for (server, trusted, expect) in [
        (&good, &other.pem, "tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        (&named, &ca.pem, "x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs"),
        (&expired, &ca.pem, "x509: certificate has expired or is not yet valid: current time 20"),
    ] {
        let url = format!("{}/x", server.url());
        let error = post(&at(&url, trusted), SECOND).await.unwrap_err();
        assert!(error.starts_with(&format!("Post \"{url}?timeout=1s\": tls: ")) && error.contains(expect), "{error}");
    }
    let nonsense = post(&at(&good.url(), "nonsense"), SECOND).await;
    assert_eq!(nonsense, Err("unable to load root certificates: unable to parse bytes as PEM block".to_owned()));
}

#[tokio::test]
async fn a_certificate_may_be_its_own_bundle() {
    let own = TestCertificate::self_signed(&["127.0.0.1"]);
    let server = HttpsServer::start(HttpsOptions::new(&own), answer).await;
    assert!(post(&at(&server.url(), &own.certificate_pem), SECOND).await.is_ok());
    // For its own names only.
    let elsewhere = TestCertificate::self_signed(&["a.example"]);
    let server = HttpsServer::start(HttpsOptions::new(&elsewhere), answer).await;
    let error = post(&at(&server.url(), &elsewhere.certificate_pem), SECOND).await.unwrap_err();
    assert!(error.contains("doesn't contain any IP SANs"), "{error}");
}

#[tokio::test]
async fn those_who_are_not_there_or_speak_nonsense() {
    let ca = TestCa::new("ca");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gone = post(&at(&format!("https://{address}"), &ca.pem), SECOND).await;
    let expect = format!("Post \"https://{address}/?timeout=1s\": dial tcp {address}: connect: connection refused");
    assert_eq!(gone, Err(expect));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for round in 0.. {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.read(&mut [0; 512]).await;
            if round == 0 {
                let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nno TLS here").await;
            }
        }
    });
    let plain = post(&at(&format!("https://{address}"), &ca.pem), SECOND).await.unwrap_err();
    assert!(plain.ends_with(": http: server gave HTTP response to HTTPS client"), "{plain}");
    let closed = post(&at(&format!("https://{address}"), &ca.pem), SECOND).await.unwrap_err();
    assert!(closed.ends_with(": EOF") || closed.ends_with("connection reset by peer"), "{closed}");
    let nowhere = post(&at("https://does-not-exist.invalid/x", &ca.pem), SECOND).await.unwrap_err();
    assert!(nowhere.ends_with("dial tcp: lookup does-not-exist.invalid: no such host"), "{nowhere}");
}

struct Servers(Vec<SocketAddr>);

impl ServiceResolver for Servers {
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        assert_eq!((namespace, port), ("shop", 8443));
        if name == "hook" { Ok(self.0.clone()) } else { Err(format!("no endpoints available for service {name:?}")) }
    }
}

fn service(name: &str, ca: &str) -> ClientConfig {
    let target = ServiceReference { namespace: "shop".into(), name: name.into(), path: "/v".into(), port: 8443 };
    ClientConfig { target: Target::Service(target), ca_bundle: ca.as_bytes().to_vec() }
}

#[tokio::test]
async fn a_service_is_found_and_must_prove_its_name() {
    let ca = TestCa::new("ca");
    let right = HttpsServer::start(HttpsOptions::new(&ca.issue(&["hook.shop.svc"])), answer).await;
    let wrong = HttpsServer::start(HttpsOptions::new(&ca.issue(&["a.svc", "b.svc"])), answer).await;
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // The first of its servers is away: the next one is asked.
    let manager_right = manager(Servers(vec![dead, right.address]));
    let client = manager_right.client(&service("hook", &ca.pem)).unwrap();
    for _ in 0..5 {
        let told = client.post(Bytes::new(), Some(Duration::from_secs(3))).await.unwrap();
        assert_eq!(&told[..], b"POST /v?timeout=3s 1 - kube-apiserver-admission ");
    }
    assert_eq!(right.connections(), 1, "a connection is used again");
    // Who configures the same has the same client.
    assert!(Arc::ptr_eq(&client, &manager_right.client(&service("hook", &ca.pem)).unwrap()));
    let manager_wrong = manager(Servers(vec![wrong.address]));
    for (name, expect) in [
        ("hook", "tls: failed to verify certificate: x509: certificate is valid for a.svc, b.svc, not hook.shop.svc"),
        ("away", "no endpoints available for service \"away\""),
    ] {
        let error =
            manager_wrong.client(&service(name, &ca.pem)).unwrap().post(Bytes::new(), SECOND).await.unwrap_err();
        assert_eq!(error.to_string(), format!("Post \"https://{name}.shop.svc:8443/v?timeout=1s\": {expect}"));
    }
}

#[tokio::test]
async fn a_kubeconfig_file_says_where_to_and_who_asks() {
    let (ca, clients) = (TestCa::new("ca"), TestCa::new("clients"));
    let certificate = ca.issue(&["hooks.example"]);
    let options = HttpsOptions { client_ca: Some(&clients), ..HttpsOptions::new(&certificate) };
    let server = HttpsServer::start(options, answer).await;
    let directory = tempfile::tempdir().unwrap();
    let me = clients.issue(&["me"]);
    for (name, text) in [("ca.pem", &ca.pem), ("me.pem", &me.certificate_pem), ("me.key", &me.key_pem)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let config = |user: &str, cluster: &str| {
        let path = directory.path().join("config");
        let text = format!(
            "{{kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: s, user: u}}}}], \
             clusters: [{{name: s, cluster: {{server: '{}/authn', {cluster}}}}}], users: [{{name: u, user: {{{user}}}}}]}}",
            server.url()
        );
        std::fs::write(&path, text).unwrap();
        Client::from_kubeconfig(&path, "kybern").unwrap()
    };
    let shown = "client-certificate: me.pem, client-key: me.key, token: secret";
    let trusted = "certificate-authority: ca.pem, tls-server-name: hooks.example";
    for cluster in [trusted, "insecure-skip-tls-verify: true"] {
        let told = config(shown, cluster).post(Bytes::from_static(b"x"), None).await.unwrap();
        assert_eq!(&told[..], b"POST /authn 2 Bearer secret kybern x");
    }
    let error = config("token: secret", trusted).post(Bytes::new(), None).await.unwrap_err().to_string();
    assert!(error.ends_with("remote error: tls: certificate required"), "{error}");
    let error = config(shown, "certificate-authority: ca.pem").post(Bytes::new(), None).await.unwrap_err().to_string();
    assert!(error.contains("x509: cannot validate certificate for 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn later_is_believed() {
    let ca = TestCa::new("ca");
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let server = HttpsServer::start(HttpsOptions::new(&ca.issue(&["127.0.0.1"])), move |_| {
        let call = counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(match call {
            0 => Response::builder().status(429).header("Retry-After", "1").body(Bytes::new()).unwrap(),
            1 | 2 => Response::builder().status(500).body(Bytes::new()).unwrap(),
            _ => Response::new(Bytes::from_static(b"ok")),
        })
    })
    .await;
    let client = manager(NoServices).client(&at(&server.url(), &ca.pem)).unwrap();
    let start = Instant::now();
    let first: CallError = client.post(Bytes::new(), None).await.unwrap_err();
    assert!(start.elapsed() >= Duration::from_secs(1) && first.should_retry() && first.code() == Some(500), "{first}");
    let backoff = Backoff { initial: Duration::from_millis(10), ..Backoff::default() };
    assert_eq!(&backoff.run(|| client.post(Bytes::new(), None)).await.unwrap()[..], b"ok");
    assert_eq!(calls.load(Ordering::Relaxed), 4);
}
