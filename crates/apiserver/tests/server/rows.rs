//! Rows that change at run time: groups that come and go, versions that are converted, watches that end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use kybern_apimachinery::{ApiError, Gvk, Gvr, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::resource::{Conversion, Resource, SelectableField, StoredKind};
use kybern_apiserver::strategy::Plain;
use kybern_schema::structural;
use kybern_storage::memory::Memory;
use kybern_storage::{RangeRequest, Storage, Txn};

use crate::fixture::*;
use crate::watches::Watch;

/// A `Widget` of v1 has `size`; one of v2 has `spec.size`.
#[derive(Default)]
struct Turner {
    calls: AtomicUsize,
    away: AtomicBool,
}

impl Conversion for Turner {
    fn convert<'a>(
        &'a self,
        mut objects: Vec<Value>,
        api_version: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if self.away.load(Ordering::Relaxed) {
                return Err(ApiError::internal("the converter is away"));
            }
            for object in &mut objects {
                if api_version.ends_with("/v2") {
                    let size = object::remove(object, &["size"]).unwrap_or_default();
                    object::set(object, &["spec", "size"], size);
                } else {
                    let size = object::remove(object, &["spec", "size"]).unwrap_or_default();
                    object::remove(object, &["spec"]);
                    object::set(object, &["size"], size);
                }
                object::set(object, &["apiVersion"], api_version);
            }
            Ok(objects)
        })
    }
}

/// Versions of widgets in a group. The one that is stored comes first.
fn widgets(group: &str, versions: &[&str], selectable: &[&str], turner: Option<&Arc<Turner>>) -> Vec<Arc<Resource>> {
    let stored = Arc::new(StoredKind {
        prefix: format!("{group}/widgets"),
        gvk: Gvk::new(group, versions[0], "Widget"),
        resource: "widgets".to_owned(),
        namespaced: true,
        selectable: selectable.iter().map(|path| SelectableField::at(path)).collect(),
        refusal: None,
        reader: None,
    });
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = |version: &&str| {
        let gvk = Gvk::new(group, *version, "Widget");
        Arc::new(Resource {
            gvr: Gvr::new(group, *version, "widgets"),
            ty: structural::kind_type(gvk.clone(), &schema, false),
            schema: Some(Arc::new(schema.clone())),
            internal: gvk,
            stored: stored.clone(),
            conversion: turner.map(|turner| turner.clone() as Arc<dyn Conversion>),
            kind: "Widget".to_owned(),
            singular: "widget".to_owned(),
            short_names: vec!["wd".to_owned()],
            ..row("", "v1", "Pod", true, Arc::new(Plain))
        })
    };
    versions.iter().map(version).collect()
}

const GROUP: &str = "example.com";
const V1: &str = "/apis/example.com/v1/namespaces/ns/widgets";
const V2: &str = "/apis/example.com/v2/namespaces/ns/widgets";

fn widget(version: &str, name: &str, size: i64) -> Value {
    let mut object =
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "metadata": {"name": name}});
    let path: &[&str] = if version == "v1" { &["size"] } else { &["spec", "size"] };
    object::set(&mut object, path, size);
    object
}

async fn serve(client: &Client, rows: Vec<Arc<Resource>>) {
    client.server.replace_groups(vec![(GROUP.to_owned(), rows)]).await.unwrap();
}

#[tokio::test]
async fn groups_come_and_go() {
    let client = Client::new().await;
    assert_eq!(client.get(V1).await.code, 404);
    let rows = widgets(GROUP, &["v1"], &[], None);
    serve(&client, rows.clone()).await;
    client.post(V1, widget("v1", "a", 1)).await.ok();
    client.post(PODS, pod("p", "")).await.ok();
    // Once for every document, at once.
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let groups = async || {
        let answer = client.send("GET", "/apis", &[("accept", aggregated)], "").await;
        let names: Vec<String> =
            answer.ok()["items"].as_array().unwrap().iter().map(|g| object::name(g).to_owned()).collect();
        (names, answer.headers["etag"].clone())
    };
    let (names, with) = groups().await;
    assert_eq!(names, ["apps", GROUP]);
    let listed = client.get("/apis/example.com/v1").await.ok();
    assert_eq!(
        (&listed["resources"][0]["name"], &listed["resources"][0]["shortNames"]),
        (&json!("widgets"), &json!(["wd"]))
    );
    let index = client.get("/openapi/v3").await.ok();
    let address = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(client.get(&address).await.ok()["components"]["schemas"]["com.example.v1.Widget"].is_object());
    let v2 = client.get("/openapi/v2").await;
    assert!(v2.ok()["definitions"]["com.example.v1.Widget"].is_object());

    serve(&client, Vec::new()).await;
    assert_eq!(client.get(V1).await.code, 404);
    assert_eq!(client.get("/apis/example.com").await.code, 404);
    assert_eq!(client.get(&address).await.code, 404);
    let (names, without) = groups().await;
    assert_eq!(names, ["apps"]);
    assert_ne!(with, without);
    assert_ne!(client.get("/openapi/v2").await.headers["etag"], v2.headers["etag"]);
    assert_eq!(client.get(&format!("{PODS}/p")).await.code, 200);
    // What was stored is found again.
    serve(&client, rows).await;
    assert_eq!(client.get(&format!("{V1}/a")).await.ok()["size"], 1);
}

#[tokio::test]
async fn no_group_takes_what_is_not_its_own() {
    let client = Client::new().await;
    client.post(PODS, pod("p", "")).await.ok();
    for group in ["", "pods", "apps"] {
        let rows = widgets(group, &["v1"], &[], None);
        let refused = client.server.replace_groups(vec![(group.to_owned(), rows)]).await;
        assert!(refused.unwrap_err().to_string().contains("has no dot"), "{group}");
    }
    let mut other = (*widgets(GROUP, &["v1"], &[], None)[0]).clone();
    other.stored = row("", "v1", "Pod", true, Arc::new(Plain)).stored;
    let refused = client.server.replace_groups(vec![(GROUP.to_owned(), vec![Arc::new(other)])]).await;
    assert!(refused.is_err(), "its objects would be the pods");
    let foreign = widgets("other.com", &["v1"], &[], None);
    assert!(client.server.replace_groups(vec![(GROUP.to_owned(), foreign)]).await.is_err());
    assert_eq!(client.get(PODS).await.ok()["items"].as_array().unwrap().len(), 1);
    assert_eq!(client.get(V1).await.code, 404);
}

#[tokio::test]
async fn watches_of_what_changes_end_and_no_others() {
    let client = Client::new().await;
    let rows = widgets(GROUP, &["v1"], &[], None);
    serve(&client, rows.clone()).await;
    client.post(V1, widget("v1", "a", 1)).await.ok();
    let mut pods = Watch::open(&client, &format!("{PODS}?watch=1")).await;
    let mut first = Watch::open(&client, &format!("{V1}?watch=1")).await;
    // The same again changes nothing.
    serve(&client, rows.clone()).await;
    client.post(V1, widget("v1", "b", 1)).await.ok();
    assert_eq!(first.take(2).await, ["ADDED a", "ADDED b"]);
    // What happened before is still told.
    client.post(V1, widget("v1", "c", 1)).await.ok();
    serve(&client, widgets(GROUP, &["v1"], &[], None)).await;
    assert_eq!(first.take(1).await, ["ADDED c"]);
    assert_eq!(first.next().await, None);
    let mut second = Watch::open(&client, &format!("{V1}?watch=1")).await;
    assert_eq!(second.take(3).await, ["ADDED a", "ADDED b", "ADDED c"]);
    serve(&client, Vec::new()).await;
    assert_eq!(second.next().await, None);
    client.post(PODS, pod("p", "")).await.ok();
    assert_eq!(pods.take(1).await, ["ADDED p"]);
}

#[tokio::test]
async fn other_fields_can_be_selected_at_once() {
    let client = Client::new().await;
    serve(&client, widgets(GROUP, &["v1"], &[], None)).await;
    client.post(V1, widget("v1", "a", 1)).await.ok();
    client.post(V1, widget("v1", "b", 2)).await.ok();
    let query = format!("{V1}?fieldSelector=size%3D2");
    assert_eq!(client.get(&query).await.code, 400);
    serve(&client, widgets(GROUP, &["v1"], &["size"], None)).await;
    let found = client.get(&query).await.ok();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert_eq!(object::name(&found["items"][0]), "b");
}

#[tokio::test]
async fn an_object_says_itself_in_which_version_it_is_stored() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    let client = Client::on(storage.clone()).await;
    let turner = Arc::new(Turner::default());
    serve(&client, widgets(GROUP, &["v1", "v2"], &[], Some(&turner))).await;
    client.post(V1, widget("v1", "old", 1)).await.ok();
    client.post(V2, widget("v2", "other", 2)).await.ok();
    // From now on v2 is stored; what is there stays as it is.
    serve(&client, widgets(GROUP, &["v2", "v1"], &[], Some(&turner))).await;
    client.post(V1, widget("v1", "new", 3)).await.ok();
    let raw = async |name: &str| {
        let key = format!("/registry/example.com/widgets/ns/{name}");
        let page = storage.range(RangeRequest { prefix: &key, after: "", limit: 1, at: None }).await.unwrap();
        serde_json::from_slice::<Value>(&page.items[0].value).unwrap()["apiVersion"].as_str().unwrap().to_owned()
    };
    assert_eq!([raw("old").await, raw("new").await], ["example.com/v1", "example.com/v2"]);
    for (path, version) in [(V1, "v1"), (V2, "v2")] {
        turner.calls.store(0, Ordering::Relaxed);
        let list = client.get(path).await.ok();
        assert_eq!(turner.calls.load(Ordering::Relaxed), 1, "a list is converted at once");
        for (item, (name, size)) in list["items"].as_array().unwrap().iter().zip([("new", 3), ("old", 1), ("other", 2)])
        {
            let mut expect = widget(version, name, size);
            expect["metadata"] = item["metadata"].clone();
            assert_eq!((item, object::name(item)), (&expect, name));
            let one = client.get(&format!("{path}/{name}")).await.ok();
            assert_eq!(one, expect);
        }
        let mut watch = Watch::open(&client, &format!("{path}?watch=1")).await;
        for size in [3, 1, 2] {
            let event = watch.next().await.unwrap();
            assert_eq!(event["object"]["apiVersion"], format!("example.com/{version}"));
            let at = if version == "v1" { "/object/size" } else { "/object/spec/size" };
            assert_eq!(event.pointer(at), Some(&json!(size)));
        }
    }
    // A write that changes nothing moves it to the version that is stored now.
    let old = client.get(&format!("{V1}/old")).await.ok();
    let again = client.put(&format!("{V1}/old"), old.clone()).await.ok();
    assert!(revision(&again) > revision(&old));
    assert_eq!(raw("old").await, "example.com/v2");
    let third = client.put(&format!("{V1}/old"), again.clone()).await.ok();
    assert_eq!(revision(&third), revision(&again));
    // And so does every other verb.
    let patch = json!({"size": 7});
    let patched = client.patch(&format!("{V1}/other"), "application/merge-patch+json", patch).await.ok();
    assert_eq!((&patched["apiVersion"], &patched["size"]), (&json!("example.com/v1"), &json!(7)));
    assert_eq!(raw("other").await, "example.com/v2");
    let applied =
        json!({"apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "other"}, "spec": {"size": 8}});
    let path = format!("{V2}/other?fieldManager=m&force=true");
    let applied = client.patch(&path, "application/apply-patch+yaml", applied).await.ok();
    assert_eq!(applied["spec"]["size"], 8);
    let managers: Vec<&str> = applied["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["fieldsV1"].to_string().contains("size"))
        .map(|m| m["manager"].as_str().unwrap())
        .collect();
    assert_eq!(managers, ["m"], "who owned it in v1 owns it no more");
    assert_eq!(client.delete(&format!("{V1}/other")).await.code, 200);
}

#[tokio::test]
async fn a_converter_that_is_away_is_told_of() {
    let client = Client::new().await;
    let turner = Arc::new(Turner::default());
    serve(&client, widgets(GROUP, &["v1", "v2"], &[], Some(&turner))).await;
    client.post(V1, widget("v1", "a", 1)).await.ok();
    turner.away.store(true, Ordering::Relaxed);
    for answer in [
        client.get(V2).await,
        client.get(&format!("{V2}/a")).await,
        client.post(V2, widget("v2", "b", 1)).await,
        client.put(&format!("{V2}/a"), widget("v2", "a", 2)).await,
        client.delete(&format!("{V2}/a")).await,
    ] {
        let (code, message) = answer.status();
        assert!(code == 500 && message.contains("the converter is away"), "{code} {message}");
    }
    let mut watch = Watch::open(&client, &format!("{V2}?watch=1")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(500)));
    // Who needs no conversion does not notice.
    assert_eq!(client.get(&format!("{V1}/a")).await.ok()["size"], 1);
    client.put(&format!("{V1}/a"), widget("v1", "a", 2)).await.ok();
}

#[tokio::test]
async fn a_kind_that_is_added_under_load_misses_nothing() {
    let storage: Arc<dyn Storage> = Arc::new(Memory::default());
    let client = Client::on(storage.clone()).await;
    let writing = tokio::spawn(async move {
        for i in 0..300 {
            let object = widget("v1", &format!("w{i}"), i).to_string();
            let key = format!("/registry/example.com/widgets/ns/w{i}");
            storage.txn(Txn::create(key.into(), object.into())).await.unwrap();
        }
    });
    tokio::task::yield_now().await;
    serve(&client, widgets(GROUP, &["v1"], &[], None)).await;
    writing.await.unwrap();
    assert_eq!(client.get(V1).await.ok()["items"].as_array().unwrap().len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_follow_one_another() {
    let client = Client::new().await;
    let tasks = (0..40).map(|i| {
        let server = client.server.clone();
        tokio::spawn(async move {
            let group = format!("g{i}.example.com");
            for versions in [&["v1"][..], &["v1", "v2"], &[], &["v2"]] {
                let rows = if versions.is_empty() { Vec::new() } else { widgets(&group, versions, &[], None) };
                server.replace_groups(vec![(group.clone(), rows)]).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for i in 0..40 {
        assert_eq!(client.get(&format!("/apis/g{i}.example.com/v2/widgets")).await.code, 200);
        assert_eq!(client.get(&format!("/apis/g{i}.example.com/v1/widgets")).await.code, 404);
    }
    let groups = client.get("/apis").await.ok();
    assert_eq!(groups["groups"].as_array().unwrap().len(), 41);
}

#[tokio::test]
async fn ten_thousand_groups_do_not_matter_to_one() {
    let client = Client::new().await;
    let all = (0..10_000).map(|i| format!("g{i}.example.com")).map(|group| {
        let rows = widgets(&group, &["v1"], &[], None);
        (group, rows)
    });
    client.server.replace_groups(all.collect()).await.unwrap();
    let started = Instant::now();
    const TIMES: u32 = 20;
    for _ in 0..TIMES {
        serve(&client, widgets(GROUP, &["v1"], &[], None)).await;
        serve(&client, Vec::new()).await;
    }
    let each = started.elapsed() / (2 * TIMES);
    println!("one group among ten thousand comes or goes in {each:?}");
    assert!(each.as_millis() < 250, "{each:?}");
    assert_eq!(client.get("/apis/g9999.example.com/v1/widgets").await.code, 200);
    assert_eq!(client.get("/apis").await.ok()["groups"].as_array().unwrap().len(), 10_001);
}
