//! Logs and exec through to a kubelet on the loopback, which verifies the API server's certificate.

use std::sync::Arc;

use http::{Method, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kybern_apimachinery::json;
use kybern_apiserver::body;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Cluster, pod};

/// A kubelet that answers with the path it was asked for; its port.
async fn kubelet(cluster: &Cluster) -> u16 {
    let now = jiff::Timestamp::now();
    let (chain, key) = cluster.pki.kubelet_server("n", &[[127, 0, 0, 1].into()], now).unwrap().rustls().unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.pki.ca.certificate_der().to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let answer = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let told: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
                assert_eq!(told, ["host"], "a log is asked for without anything of the caller's");
                Ok::<_, std::convert::Infallible>(Response::new(body::full(format!("asked for {}", request.uri()))))
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        }
    });
    port
}

#[tokio::test]
async fn logs_come_from_the_pods_kubelet() {
    let cluster = Cluster::start().await;
    let port = kubelet(&cluster).await;
    let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    cluster.create("/api/v1/nodes", node).await;
    let pods = "/api/v1/namespaces/default/pods";
    cluster.create(pods, pod("waiting")).await;
    assert_eq!(cluster.ask(Method::GET, &format!("{pods}/waiting/log"), None).await, (200, json!("")));
    let text = cluster.refusal(Method::POST, &format!("{pods}/waiting/exec?command=ls&stdout=1"), None, 400).await;
    assert_eq!(text, "pod waiting does not have a host assigned");

    let mut running = pod("a");
    running["spec"]["nodeName"] = "n".into();
    cluster.create(pods, running).await;
    let (code, text) = cluster.ask(Method::GET, &format!("{pods}/a/log?tailLines=5&follow=true"), None).await;
    assert_eq!((code, text), (200, json!("asked for /containerLogs/default/a/c?follow=true&tailLines=5")));
    let text = cluster.refusal(Method::GET, &format!("{pods}/a/log?container=x"), None, 400).await;
    assert_eq!(text, "container x is not valid for pod a");
}

#[tokio::test]
async fn a_stranger_is_not_taken_for_a_kubelet() {
    let (cluster, other) = (Cluster::start().await, Cluster::start().await);
    let port = kubelet(&other).await;
    let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    cluster.create("/api/v1/nodes", node).await;
    let mut running = pod("a");
    running["spec"]["nodeName"] = "n".into();
    cluster.create("/api/v1/namespaces/default/pods", running).await;
    let text = cluster.refusal(Method::GET, "/api/v1/namespaces/default/pods/a/log", None, 500).await;
    assert!(text.starts_with("Get \"https://127.0.0.1:") && text.contains("certificate"), "{text}");
}
