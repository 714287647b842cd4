//! WATCH.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::{Body, body};

use crate::fixture::*;

/// The events of a JSON watch.
pub(crate) struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    pub(crate) async fn open(client: &Client, path: &str) -> Self {
        let response = client.raw("GET", path, &[], body::empty()).await;
        assert_eq!(response.status(), 200);
        Self { body: response.into_body(), buffer: Vec::new() }
    }

    /// `None` when the watch is over.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.unwrap();
            self.buffer.extend_from_slice(&frame.into_data().unwrap());
        }
    }

    /// Type and name of the next events.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..count {
            let event = self.next().await.unwrap();
            seen.push(format!("{} {}", event["type"].as_str().unwrap(), object::name(&event["object"])));
        }
        seen
    }
}

#[tokio::test]
async fn events_from_a_revision_on() {
    let client = Client::new().await;
    let first = client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    client.post(CONFIG_MAPS, config_map("b", "1")).await.ok();
    let mut watch =
        Watch::open(&client, &format!("{CONFIG_MAPS}?watch=true&resourceVersion={}", revision(&first))).await;
    client.put(&format!("{CONFIG_MAPS}/a"), config_map("a", "2")).await.ok();
    client.post("/api/v1/namespaces/other/configmaps", config_map("x", "1")).await.ok();
    client.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert_eq!(watch.take(2).await, ["ADDED b", "MODIFIED a"]);
    let deleted = watch.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["k"]), (&json!("DELETED"), &json!("2")));
    assert!(revision(&deleted["object"]) > revision(&first) + 2, "it carries the revision of its deletion");
}

#[tokio::test]
async fn without_a_revision_all_there_is_comes_first() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    client.post(CONFIG_MAPS, config_map("b", "2")).await.ok();
    for query in ["", "&resourceVersion=0"] {
        let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1{query}")).await;
        assert_eq!(watch.take(2).await, ["ADDED a", "ADDED b"]);
    }
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&labelSelector=v%3D2")).await;
    assert_eq!(watch.take(1).await, ["ADDED b"]);
    client.put(&format!("{CONFIG_MAPS}/a"), config_map("a", "2")).await.ok();
    client.put(&format!("{CONFIG_MAPS}/b"), config_map("b", "3")).await.ok();
    assert_eq!(watch.take(2).await, ["ADDED a", "DELETED b"]);
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Db")).await;
    assert_eq!(watch.take(1).await, ["ADDED b"]);
}

#[tokio::test(start_paused = true)]
async fn streaming_lists_end_with_a_bookmark() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(watch.take(1).await, ["ADDED a"]);
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(object::annotation(&bookmark["object"], "k8s.io/initial-events-end"), Some("true"));
    // Another kind's write moves the revision on; the next bookmark tells.
    client.post(PODS, pod("p", "")).await.ok();
    let later = watch.next().await.unwrap();
    assert_eq!(later["type"], "BOOKMARK");
    assert!(revision(&later["object"]) > revision(&bookmark["object"]));
    assert!(object::annotation(&later["object"], "k8s.io/initial-events-end").is_none());
    let refused = client.get(&format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(refused.code, 422);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_when_its_time_is_over() {
    let client = Client::new().await;
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=5")).await;
    let started = tokio::time::Instant::now();
    assert!(watch.next().await.is_none());
    assert_eq!(started.elapsed().as_secs(), 5);
}

/// The pieces that come to each of so many watchers when four objects are made one right after the other.
async fn pieces(watchers: usize) -> Vec<usize> {
    let client = Client::new().await;
    let mut readers = Vec::new();
    for _ in 0..watchers {
        let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion=0&timeoutSeconds=5");
        let mut body = client.raw("GET", &path, &[], body::empty()).await.into_body();
        readers.push(tokio::spawn(async move {
            let (mut pieces, mut events) = (0, 0);
            while let Some(frame) = body.frame().await {
                pieces += 1;
                events += frame.unwrap().into_data().unwrap().iter().filter(|byte| **byte == b'\n').count();
            }
            assert_eq!(events, 4);
            pieces
        }));
    }
    for name in ["a", "b", "c", "d"] {
        client.post(CONFIG_MAPS, config_map(name, "1")).await.ok();
        for _ in 0..4 * watchers {
            tokio::task::yield_now().await;
        }
    }
    let mut all = Vec::new();
    for reader in readers {
        all.push(reader.await.unwrap());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_what_follows_at_once_goes_along() {
    assert_eq!(pieces(1).await, [4]);
    assert_eq!(pieces(100).await, [2; 100]);
}

/// A write of a namespace, a name and a label's value, as whoever watches what `wants` it sees it.
fn seen(writes: &[(&str, String, &str)], wants: impl Fn(&str, &str) -> bool) -> Vec<String> {
    let (mut labels, mut seen) = (HashMap::new(), Vec::new());
    for (namespace, name, label) in writes {
        let was = labels.insert((namespace, name), label).is_some_and(|label| wants(namespace, label));
        match (was, wants(namespace, label)) {
            (false, true) => seen.push(format!("ADDED {name}")),
            (true, true) => seen.push(format!("MODIFIED {name}")),
            (true, false) => seen.push(format!("DELETED {name}")),
            (false, false) => {}
        }
    }
    seen
}

/// What one of a crowd is sent is given to others who want the same, and to nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_crowd_of_all_sorts_each_sees_its_own() {
    let client = Client::new().await;
    let writes: Vec<(&str, String, &str)> = (0..300)
        .map(|n| (["ns", "ns", "other"][n % 3], format!("c{}", n % 7), ["1", "2", "3"][n * n / 5 % 3]))
        .collect();
    type Wants = fn(&str) -> bool;
    let labels: [(&str, Wants); 3] = [
        ("", |_| true),
        ("&labelSelector=v%3D1", |label| label == "1"),
        ("&labelSelector=v!%3D1", |label| label != "1"),
    ];
    let forms = [
        ("application/json", "ConfigMap"),
        ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "PartialObjectMetadata"),
    ];
    let mut readers = Vec::new();
    for n in 0..216 {
        let (query, wants) = labels[n % 3];
        let (accept, kind) = forms[n / 3 % 2];
        let everywhere = n / 6 % 2 == 0;
        let collection = if everywhere { "/api/v1/configmaps" } else { CONFIG_MAPS };
        let path = format!("{collection}?watch=1&resourceVersion=0{query}");
        let response = client.raw("GET", &path, &[("accept", accept)], body::empty()).await;
        let mut watch = Watch { body: response.into_body(), buffer: Vec::new() };
        let expect = seen(&writes, |namespace, label| (everywhere || namespace == "ns") && wants(label));
        readers.push(tokio::spawn(async move {
            let (mut got, mut last) = (Vec::new(), 0);
            while got.len() < expect.len() {
                let event = watch.next().await.unwrap();
                assert_eq!(object::kind(&event["object"]), kind, "{path}");
                assert!(revision(&event["object"]) > last, "{path}");
                last = revision(&event["object"]);
                got.push(format!("{} {}", event["type"].as_str().unwrap(), object::name(&event["object"])));
            }
            assert_eq!(got, expect, "{path}");
        }));
    }
    let mut made = HashSet::new();
    for (number, (namespace, name, label)) in writes.iter().enumerate() {
        let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
        let mut object = config_map(name, label);
        // Something changes in any case.
        object["data"]["n"] = number.to_string().into();
        let answer = match made.insert((namespace, name)) {
            true => client.post(&collection, object).await,
            false => client.put(&format!("{collection}/{name}"), object).await,
        };
        answer.ok();
    }
    for reader in readers {
        tokio::time::timeout(Duration::from_secs(60), reader).await.expect("all events come").unwrap();
    }
}

#[tokio::test]
async fn a_revision_that_is_gone() {
    let storage = Arc::new(kybern_storage::memory::Memory::default());
    let client = Client::on(storage.clone()).await;
    for i in 0..3 {
        client.post(CONFIG_MAPS, config_map(&format!("c{i}"), "")).await.ok();
    }
    kybern_storage::Storage::compact(&*storage, 3).await.unwrap();
    // A server that starts now knows nothing from before.
    let client = Client::on(storage).await;
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=2")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert_eq!(event["object"]["message"], "too old resource version: 2 (3)");
    assert!(watch.next().await.is_none());
    let mut resumed = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=3")).await;
    assert_eq!(resumed.take(1).await, ["ADDED c2"], "the history in the store is replayed at start");
}

#[tokio::test]
async fn a_reader_that_sleeps_catches_up() {
    let client = Client::new().await;
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1")).await;
    for i in 0..600 {
        client.post(CONFIG_MAPS, config_map(&format!("c{i:03}"), "")).await.ok();
    }
    let expect: Vec<String> = (0..600).map(|i| format!("ADDED c{i:03}")).collect();
    assert_eq!(watch.take(600).await, expect);
}

#[tokio::test]
async fn watches_of_tables_and_protobuf() {
    let client = Client::new().await;
    let path = format!("{CONFIG_MAPS}?watch=1");
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let response = client.raw("GET", &path, &table, body::empty()).await;
    let mut watch = Watch { body: response.into_body(), buffer: Vec::new() };
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    client.post(CONFIG_MAPS, config_map("b", "1")).await.ok();
    let (first, second) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");

    let protobuf = [("accept", "application/vnd.kubernetes.protobuf;stream=watch")];
    let response = client.raw("GET", &path, &protobuf, body::empty()).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let bytes = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
    let frame = &bytes[4..4 + length];
    assert!(frame.starts_with(b"\x0a\x05ADDED\x12"), "{frame:?}");
    let start = frame.windows(4).position(|w| w == b"k8s\0").unwrap();
    let kind = kybern_schema::builtin().kind(&kybern_apimachinery::Gvk::new("", "v1", "ConfigMap")).unwrap();
    assert_eq!(object::name(&kybern_schema::proto::decode(&kind, &frame[start..]).unwrap()), "a");
}

/// What an observer was told, by name: whether the object is there.
#[derive(Default)]
struct Told(parking_lot::Mutex<std::collections::BTreeMap<String, bool>>);
impl kybern_apiserver::connect::Observer for Told {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "configmaps")]
    }
    fn changed(&self, _: &str, _: &str, _: &str, name: &str, object: Option<&Value>) {
        self.0.lock().insert(name.to_owned(), object.is_some());
    }
}

/// On one thread, so that the cache hears nothing of what is written without pause.
#[tokio::test(flavor = "current_thread")]
async fn a_cache_that_falls_behind_the_history_loads_anew() {
    use kybern_storage::{Storage, Txn};
    let storage = Arc::new(kybern_storage::memory::Memory::default());
    let told = Arc::new(Told::default());
    let mut options = kybern_apiserver::Options::new(storage.clone());
    options.resources = rows();
    options.authorizers = vec![Arc::new(Rules)];
    options.observers = vec![told.clone()];
    let client = Client { server: kybern_apiserver::Server::start(options).await.unwrap(), user: "admin" };
    for name in ["stays", "changes", "goes"] {
        client.post(CONFIG_MAPS, config_map(name, "1")).await.ok();
    }
    let before = client.get(CONFIG_MAPS).await.ok();
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", revision(&before))).await;
    let key = |name: &str| -> Arc<str> { format!("/registry/configmaps/ns/{name}").into() };
    let item = |name: &str| {
        let items = before["items"].as_array().unwrap();
        items.iter().find(|i| object::name(i) == name).cloned().unwrap()
    };
    let stored = |mut object: Value| {
        // A list does not say this of each.
        object::set(&mut object, &["apiVersion"], "v1");
        object::set(&mut object, &["kind"], "ConfigMap");
        object::remove(&mut object, &["metadata", "resourceVersion"]);
        bytes::Bytes::from(object.to_string())
    };
    // More than the store keeps for a watcher that does not read, and then the history goes.
    for n in 0..600 {
        let mut new = item("changes");
        new["data"]["k"] = n.to_string().into();
        let key = key("changes");
        let write = kybern_storage::Write::Put(key, stored(new));
        storage.txn(Txn { guards: Vec::new(), writes: vec![write] }).await.unwrap();
    }
    storage.txn(Txn::delete(key("goes"), revision(&item("goes")))).await.unwrap();
    let mut comes = item("stays");
    object::set(&mut comes, &["metadata", "name"], "comes");
    let last = storage.txn(Txn::create(key("comes"), stored(comes))).await.unwrap();
    storage.compact(last).await.unwrap();

    let after = client.get(CONFIG_MAPS).await.ok();
    let names: Vec<&str> = after["items"].as_array().unwrap().iter().map(object::name).collect();
    assert_eq!(names, ["changes", "comes", "stays"]);
    assert_eq!(after["items"][0]["data"]["k"], "599");
    assert_eq!(revision(&after), last);
    assert_eq!(object::resource_version(&after["items"][2]), object::resource_version(&item("stays")));
    let expect = [("changes", true), ("comes", true), ("goes", false), ("stays", true)];
    assert_eq!(*told.0.lock(), expect.map(|(name, there)| (name.to_owned(), there)).into());
    // What was watched up to here cannot be continued.
    let end = loop {
        let event = watch.next().await.expect("an error ends the watch");
        if event["type"] != "MODIFIED" {
            break event;
        }
    };
    assert_eq!((&end["type"], &end["object"]["code"]), (&json!("ERROR"), &json!(410)));
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&resourceVersion={last}")).await;
    client.post(CONFIG_MAPS, config_map("later", "1")).await.ok();
    assert_eq!(watch.take(1).await, ["ADDED later"]);
    assert_eq!(client.get("/readyz").await.code, 200);
}
