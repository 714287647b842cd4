//! The stages around the handlers: what a request holds and for how long, its deadline, panics, routes that come and go.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use kybern_apimachinery::{ApiError, Value, json};
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest};
use kybern_apiserver::{Body, BoxFuture, Options, PrefixRequest, PrefixRoute, Server, body};
use kybern_storage::memory::Memory;
use tokio::sync::Semaphore;

use crate::fixture::*;

/// Holds every write up until it is let on; a name that begins with `panic` panics.
struct Gate(Arc<Semaphore>);
impl AdmissionPlugin for Gate {
    fn name(&self) -> &'static str {
        "Gate"
    }
    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        _: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        assert!(!request.name.starts_with("panic"), "as the test wants it");
        Box::pin(async {
            self.0.acquire().await.unwrap().forget();
            Ok(())
        })
    }
}

async fn gated(change: impl FnOnce(&mut Options)) -> (Client, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let mut options = Options::new(Arc::new(Memory::default()));
    options.resources = rows();
    options.authorizers = vec![Arc::new(Rules)];
    options.admission = vec![Arc::new(Gate(gate.clone()))];
    change(&mut options);
    (Client { server: Server::start(options).await.unwrap(), user: "admin" }, gate)
}

/// Gives the other tasks of the test their turns.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_write_whose_client_has_gone_keeps_its_place() {
    let (client, gate) = gated(|options| options.max_mutating_requests_in_flight = 1).await;
    let mut given_up = Box::pin(client.post(CONFIG_MAPS, config_map("a", "")));
    tokio::select! {
        _ = &mut given_up => panic!("it was to be held up"),
        () = settle() => {}
    }
    drop(given_up);
    let refused = client.post(CONFIG_MAPS, config_map("b", "")).await;
    assert_eq!(refused.status(), (429, "Too many requests, please try again later.".to_owned()));
    assert_eq!(refused.headers["retry-after"], "1");
    gate.add_permits(2);
    settle().await;
    // The first write was made, and only then was its place free.
    client.post(CONFIG_MAPS, config_map("b", "")).await.ok();
    client.get(&format!("{CONFIG_MAPS}/a")).await.ok();
}

#[tokio::test]
async fn a_list_that_is_not_taken_keeps_its_place() {
    let (client, gate) = gated(|options| options.max_requests_in_flight = 1).await;
    gate.add_permits(1);
    client.post(CONFIG_MAPS, config_map("a", "")).await.ok();
    let response = client.raw("GET", CONFIG_MAPS, &[], body::empty()).await;
    assert_eq!(response.status(), 200);
    assert_eq!(client.get(CONFIG_MAPS).await.code, 429, "the first one is still on its way");
    response.into_body().collect().await.unwrap();
    let given_up = client.raw("GET", CONFIG_MAPS, &[], body::empty()).await;
    assert_eq!(client.get(CONFIG_MAPS).await.code, 429);
    drop(given_up);
    client.get(CONFIG_MAPS).await.ok();
    let watch = client.raw("GET", &format!("{CONFIG_MAPS}?watch=true"), &[], body::empty()).await;
    assert_eq!(watch.status(), 200);
    client.get(CONFIG_MAPS).await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_in_time() {
    let (client, gate) = gated(|options| options.max_mutating_requests_in_flight = 1).await;
    let late = (504, "Timeout: request did not complete within the allotted timeout".to_owned());
    let started = tokio::time::Instant::now();
    let answer = client.post(&format!("{CONFIG_MAPS}?timeout=5s"), config_map("a", "")).await;
    assert_eq!((answer.status(), answer.json()["reason"].as_str()), (late.clone(), Some("Timeout")));
    assert_eq!(started.elapsed().as_secs(), 5);
    assert_eq!(client.post(CONFIG_MAPS, config_map("b", "")).await.code, 429, "the work has not ended");
    gate.add_permits(1);
    settle().await;
    // No client gets more than the server's time.
    let started = tokio::time::Instant::now();
    assert_eq!(client.post(&format!("{CONFIG_MAPS}?timeout=5h"), config_map("b", "")).await.status(), late);
    assert_eq!(started.elapsed().as_secs(), 60);
    gate.add_permits(1);
    // A watch is no such request.
    let mut watch = client.raw("GET", &format!("{CONFIG_MAPS}?watch=true&timeout=1s"), &[], body::empty()).await;
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(watch.body_mut().frame().await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_taken_too_slowly_is_cut_off() {
    let (client, gate) = gated(|_| {}).await;
    gate.add_permits(1);
    client.post(CONFIG_MAPS, config_map("a", "")).await.ok();
    let list = client.raw("GET", &format!("{CONFIG_MAPS}?timeout=3s"), &[], body::empty()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let error = list.into_body().collect().await.unwrap_err();
    assert!(error.to_string().contains("allotted timeout"), "{error}");
}

#[tokio::test]
async fn a_panic_ends_one_request_only() {
    let (client, gate) = gated(|options| options.max_mutating_requests_in_flight = 1).await;
    for _ in 0..3 {
        let answer = client.post(CONFIG_MAPS, config_map("panic", "")).await;
        assert_eq!(answer.code, 500);
        assert!(answer.bytes.starts_with(b"This request caused apiserver to panic."));
        assert_eq!(answer.headers["audit-id"].len(), 36);
    }
    gate.add_permits(1);
    client.post(CONFIG_MAPS, config_map("a", "")).await.ok();
    let metrics = String::from_utf8(client.get("/metrics").await.bytes.to_vec()).unwrap();
    assert!(metrics.contains("code=\"500\"} 3"), "{metrics}");
}

struct Elsewhere;
impl PrefixRoute for Elsewhere {
    fn serve(&self, request: PrefixRequest) -> BoxFuture<'_, Result<http::Response<Body>, ApiError>> {
        let text = format!("{} {}", request.user.name, request.request.uri().path());
        request.warnings.add("from elsewhere".to_owned());
        Box::pin(async { Ok(body::text(http::StatusCode::OK, text)) })
    }
}

#[tokio::test]
async fn prefixes_are_routed_as_long_as_they_are_set() {
    let (client, _) = gated(|_| {}).await;
    let path = "/apis/extension.example.com/v1/namespaces/ns/things/a";
    assert_eq!(client.get(path).await.code, 404);
    client.server.prefixes().set("/apis/extension.example.com/v1", Some(Arc::new(Elsewhere)));
    let answer = client.get(path).await;
    assert_eq!((answer.code.as_u16(), &answer.bytes[..]), (200, format!("admin {path}").as_bytes()));
    assert_eq!(answer.headers["warning"], "299 - \"from elsewhere\"");
    let headers = [("impersonate-user", "someone")];
    let answer = client.send("GET", path, &headers, "").await;
    assert!(answer.bytes.starts_with(b"someone "), "{:?}", answer.bytes);
    let nobody = Client { server: client.server.clone(), user: "nobody" };
    assert_eq!(nobody.get(path).await.code, 403, "it is authorized like everything else");
    assert_eq!(client.get("/apis/extension.example.com/v2").await.code, 404);
    client.server.prefixes().set("/apis/extension.example.com/v1", None);
    assert_eq!(client.get(path).await.code, 404);
    assert_eq!(client.post("/api/v1/namespaces/ns/pods/a", json!({})).await.code, 405);
}
