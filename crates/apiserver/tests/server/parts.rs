//! What the server offers to its other parts: objects, observers, rows that change, the store on disk.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, json, object};
use kybern_apiserver::connect::{ConnectRequest, Connector, Objects, Observer, Unread};
use kybern_apiserver::resource::{Subresource, SubresourceHandler};
use kybern_apiserver::{Body, BoxFuture, body};
use kybern_storage::Storage;
use kybern_storage::memory::Memory;
use kybern_storage::sqlite::Sqlite;
use parking_lot::Mutex;

use crate::fixture::*;

#[tokio::test]
async fn objects_are_reached_from_within() {
    let client = Client::new().await;
    let objects: &dyn Objects = &*client.server;
    objects.create("", "pods", pod_in("ns", "a", "")).await.unwrap();
    // A binding: what no client may change, and what the strategy would refuse.
    let bind = |pod: &mut Value| {
        object::set(pod, &["spec", "nodeName"], "n1");
        Ok(())
    };
    objects.update("", "pods", "ns", "a", &bind).await.unwrap();
    let bound = objects.get("", "pods", "ns", "a").await.unwrap();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(client.get(&format!("{PODS}/a")).await.ok(), bound);
    let refuse = |_: &mut Value| Err(ApiError::bad_request("no"));
    assert_eq!(objects.update("", "pods", "ns", "a", &refuse).await.unwrap_err().code(), 400);
    assert_eq!(objects.list("", "pods", "").await.unwrap(), [bound]);
    assert!(objects.list("", "pods", "other").await.unwrap().is_empty());
    objects.delete("", "pods", "ns", "a", json!({"gracePeriodSeconds": 0})).await.unwrap();
    assert_eq!(objects.get("", "pods", "ns", "a").await.unwrap_err().message(), "pods \"a\" not found");
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);
impl Observer for Seen {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "configmaps")]
    }
    fn changed(&self, _: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let what = if object.is_some() { "put" } else { "gone" };
        self.0.lock().push(format!("{what} {resource} {namespace}/{name}"));
    }
}

#[tokio::test]
async fn observers_see_a_change_before_its_author() {
    let storage = Arc::new(Memory::default());
    Client::on(storage.clone()).await.post(CONFIG_MAPS, config_map("before", "")).await.ok();
    storage.compact(2).await.unwrap();
    let seen = Arc::new(Seen::default());
    let client = Client::with(|options| {
        options.storage = storage;
        options.observers = vec![seen.clone()];
    })
    .await;
    client.post(CONFIG_MAPS, config_map("a", "")).await.ok();
    assert_eq!(*seen.0.lock(), ["put configmaps ns/before", "put configmaps ns/a"]);
    client.post(PODS, pod("a", "")).await.ok();
    client.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert_eq!(seen.0.lock()[2..], ["gone configmaps ns/a"]);
}

/// Sorts pods by their node, which can be selected by, and ConfigMaps by something that cannot.
#[derive(Default)]
struct Sorted(Mutex<Vec<Shown>>);
/// An object's place, and its text.
type Shown = (String, Option<(String, Unread)>);
impl Observer for Sorted {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "configmaps"), ("", "pods")]
    }
    fn reads(&self, _: &str, _: &str) -> &'static [&'static [&'static str]] {
        &[&["metadata", "name"], &["data"]]
    }
    fn sorts_by(&self, _: &str, resource: &str) -> Option<&'static [&'static str]> {
        Some(if resource == "pods" { &["spec", "nodeName"] } else { &["data", "k"] })
    }
    fn sorted(&self, _: &str, _: &str, namespace: &str, name: &str, object: Option<(&str, Unread)>) {
        let object = object.map(|(text, unread)| (text.to_owned(), unread));
        self.0.lock().push((format!("{namespace}/{name}"), object));
    }
    fn changed(&self, _: &str, _: &str, _: &str, name: &str, _: Option<&Value>) {
        panic!("{name} is read at once");
    }
}

#[tokio::test]
async fn an_observer_that_sorts_is_shown_one_text_and_reads_the_rest_later() {
    let storage = Arc::new(Memory::default());
    let before = Client::on(storage.clone()).await;
    before.post(CONFIG_MAPS, config_map("before", "v")).await.ok();
    before.post(PODS, pod("a", "n1")).await.ok();
    storage.compact(3).await.unwrap();
    let (sorted, seen) = (Arc::new(Sorted::default()), Arc::new(Seen::default()));
    let client = Client::with(|options| {
        options.storage = storage;
        options.observers = vec![sorted.clone(), seen.clone()];
    })
    .await;
    client.post(PODS, pod("b", "")).await.ok();
    client.delete(&format!("{CONFIG_MAPS}/before")).await.ok();
    let mut shown = std::mem::take(&mut *sorted.0.lock());
    // Both were there at the start, in no order.
    shown[..2].sort_by(|(a, _), (b, _)| a.cmp(b));
    let texts: Vec<_> =
        shown.iter().map(|(name, object)| (&**name, object.as_ref().map(|(text, _)| &**text))).collect();
    assert_eq!(texts, [("ns/a", Some("n1")), ("ns/before", Some("v")), ("ns/b", Some("")), ("ns/before", None)]);
    let read = |place: usize| shown[place].1.as_ref().unwrap().1.read().unwrap();
    assert_eq!(read(0), json!({"metadata": {"name": "a"}}), "what it said that it reads");
    assert_eq!(read(1), json!({"metadata": {"name": "before"}, "data": {"k": "v"}}), "though it is gone by now");
    assert_eq!(*seen.0.lock(), ["put configmaps ns/before", "gone configmaps ns/before"], "others see objects");
}

/// Echoes the body it gets, as JSON.
pub(crate) struct Echo;
impl Connector for Echo {
    fn connect<'a>(
        &'a self,
        _: &'a dyn Objects,
        request: ConnectRequest,
    ) -> BoxFuture<'a, Result<http::Response<Body>, ApiError>> {
        Box::pin(async move {
            let bytes = body::read(request.request.into_body()).await?;
            Ok(body::response(http::StatusCode::CREATED, "application/json", bytes))
        })
    }
}

#[tokio::test]
async fn connectors_speak_json_whatever_the_client_speaks() {
    let gvk = kybern_apimachinery::Gvk::new("", "v1", "Binding");
    let client = Client::with(|options| {
        let handler = SubresourceHandler::Connect(Arc::new(Echo));
        let binding = Subresource { name: "binding".into(), verbs: vec!["create".into()], kind: gvk.clone(), handler };
        options.resources.iter_mut().find(|r| r.kind == "Pod").unwrap().subresources.push(binding);
    })
    .await;
    let kind = kybern_schema::builtin().kind(&gvk).unwrap();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"name": "n"}});
    let path = format!("{PODS}/a/binding");
    assert_eq!(client.post(&path, binding.clone()).await.ok()["target"]["name"], "n");
    let media = "application/vnd.kubernetes.protobuf";
    let bytes = kybern_schema::proto::encode(&kind, &binding).unwrap();
    let answer = client.send("POST", &path, &[("content-type", media), ("accept", media)], bytes).await;
    assert_eq!(answer.code, 201);
    assert_eq!(kybern_schema::proto::decode(&kind, &answer.bytes).unwrap()["target"]["name"], "n");
    // What they are shown is checked, whatever form it came in, and says what it is.
    assert_eq!(client.post(&path, json!({"target": {"name": "n"}})).await.ok()["kind"], "Binding");
    let older = json!({"apiVersion": "v1beta1", "kind": "Binding", "target": {"name": "n"}});
    assert_eq!(client.post(&path, older).await.code, 400, "nobody ever registered it");
    let foreign = json!({"apiVersion": "apps/v1", "kind": "Binding", "target": {"name": "n"}});
    assert_eq!(client.post(&path, foreign).await.code, 400);
    let other = json!({"apiVersion": "v1", "kind": "Pod"});
    let (code, text) = client.post(&path, other).await.status();
    assert!(code == 400 && text.contains("cannot be handled as a Binding"), "{text}");
    let unknown = json!({"target": {"name": "n"}, "x": 1});
    let warned = client.post(&path, unknown.clone()).await;
    assert_eq!(warned.headers["warning"], r#"299 - "unknown field \"x\"""#);
    let (code, text) = client.post(&format!("{path}?fieldValidation=Strict"), unknown).await.status();
    assert!(code == 400 && text.ends_with(r#"strict decoding error: unknown field "x""#), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_on_disk_keeps_objects_and_watches() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Sqlite::open(directory.path(), Default::default());
    let client = Client::on(Arc::new(open().unwrap())).await;
    let first = client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let tasks = (0..50).map(|i| {
        let client = Client { server: client.server.clone(), user: "admin" };
        tokio::spawn(async move { client.post(CONFIG_MAPS, config_map(&format!("c{i}"), "1")).await.ok() })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    // As after a crash: another server on a copy of the files.
    let copy = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    let again = Client::on(Arc::new(Sqlite::open(copy.path(), Default::default()).unwrap())).await;
    assert_eq!(again.get(CONFIG_MAPS).await.ok(), client.get(CONFIG_MAPS).await.ok());
    let path = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&resourceVersion={}", revision(&first));
    let events = again.get(&path).await;
    assert_eq!(String::from_utf8_lossy(&events.bytes).matches("\"type\":\"ADDED\"").count(), 50);
}

#[tokio::test]
async fn a_server_that_nobody_holds_is_freed() {
    let storage = Arc::new(Memory::default());
    let slot = kybern_apiserver::connect::ObjectsSlot::default();
    let client = Client::on(storage.clone()).await;
    slot.fill(client.server.clone());
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let (server, cache) = (Arc::downgrade(&client.server), Arc::downgrade(client.server.cache()));
    assert!(slot.get().is_ok());
    drop(client);
    assert!(server.upgrade().is_none());
    assert!(slot.get().is_err_and(|e| e.message().contains("shutting down")));
    // Its follower ends with it, at the next chance that it gets.
    while cache.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}
