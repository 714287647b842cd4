//! Objects that were written under another schema are read as the schema of today has them: by GET, LIST and WATCH.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::body;
use kybern_storage::memory::Memory;

use super::{DEFINITIONS, FOOS, PATIENCE, define, definition};
use crate::harness::{Cluster, admin};

fn version(name: &str, storage: bool, spec: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "selectableFields": [],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": spec}}}}})
}

async fn change(cluster: &Cluster, versions: Value) {
    let (code, changed) =
        cluster.patch(&format!("{DEFINITIONS}/foos.ex.io"), json!({"spec": {"versions": versions}})).await;
    assert_eq!(code, 200, "{changed}");
}

/// Waits until an object's spec reads so.
async fn reads(cluster: &Cluster, path: &str, spec: Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, found) = cluster.ask(Method::GET, path, None).await;
        if found["spec"] == spec {
            return;
        }
        assert!(Instant::now() < deadline, "{found}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn foo(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn what_was_stored_follows_its_schema() {
    let storage = Arc::new(Memory::default());
    let cluster = Cluster::on(storage.clone()).await;
    let old = json!({"a": {"type": "string"}, "gone": {"type": "integer"}, "n": {"type": "string", "nullable": true}});
    define(&cluster, definition("foos", "Foo", json!([version("v1", true, old)]))).await;
    cluster.create(FOOS, foo("x", json!({"a": "1", "gone": 7, "n": null}))).await;
    let new = json!({"a": {"type": "string"}, "d": {"type": "string", "default": "z"}, "n": {"type": "string"}});
    let path = format!("{FOOS}/x");
    change(&cluster, json!([version("v1", true, new.clone())])).await;
    let expect = json!({"a": "1", "d": "z"});
    reads(&cluster, &path, expect.clone()).await;
    let listed = cluster.get(FOOS).await;
    assert_eq!(listed["items"][0]["spec"], expect);
    let revision = cluster.get(&path).await["metadata"]["resourceVersion"].clone();
    let mut watch = Request::builder().uri(format!(
        "{FOOS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    ));
    watch.headers_mut().unwrap().insert("accept", "application/json".parse().unwrap());
    let mut watch = watch.body(body::empty()).unwrap();
    watch.extensions_mut().insert(admin());
    let mut events = cluster.server.handle(watch).await.into_body();
    let first = events.frame().await.unwrap().unwrap().into_data().unwrap();
    let first: Value = serde_json::from_slice(first.split(|b| *b == b'\n').next().unwrap()).unwrap();
    assert_eq!((&first["type"], &first["object"]["spec"]), (&json!("ADDED"), &expect));
    // Reading writes nothing; an update that changes nothing writes what is read.
    assert_eq!(first["object"]["metadata"]["resourceVersion"], revision);
    let same = cluster.get(&path).await;
    let (code, written) = cluster.ask(Method::PUT, &path, Some(same)).await;
    assert_eq!(code, 200);
    assert_ne!(object::resource_version(&written), revision.as_str().unwrap());
    let (_, again) = cluster.ask(Method::PUT, &path, Some(written.clone())).await;
    assert_eq!(object::resource_version(&again), object::resource_version(&written), "now it is as it is stored");
    // Another start reads it so, too.
    cluster.create(FOOS, foo("y", json!({"a": "2"}))).await;
    change(
        &cluster,
        json!([version("v1", true, json!({"d": {"type": "string"}, "e": {"type": "integer", "default": 3}}))]),
    )
    .await;
    reads(&cluster, &format!("{FOOS}/y"), json!({"d": "z", "e": 3})).await;
    drop((events, cluster));
    let cluster = Cluster::on(storage).await;
    assert_eq!(cluster.get(&path).await["spec"], json!({"d": "z", "e": 3}));
    assert_eq!(cluster.get(FOOS).await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn versions_of_other_schemas_show_what_they_know() {
    let cluster = Cluster::start().await;
    let (first, second) = (json!({"a": {"type": "string"}, "b": {"type": "string"}}), json!({"a": {"type": "string"}}));
    define(&cluster, definition("foos", "Foo", json!([version("v1", true, first), version("v2", false, second)])))
        .await;
    cluster.create(FOOS, foo("x", json!({"a": "1", "b": "2"}))).await;
    let there = "/apis/ex.io/v2/namespaces/default/foos";
    assert_eq!(cluster.get(&format!("{there}/x")).await["spec"], json!({"a": "1"}));
    assert_eq!(cluster.get(there).await["items"][0]["spec"], json!({"a": "1"}));
    // What the other version does not know is lost when it is written there: nobody translates.
    assert_eq!(cluster.patch(&format!("{there}/x"), json!({"spec": {"a": "3"}})).await.0, 200);
    assert_eq!(cluster.get(&format!("{FOOS}/x")).await["spec"], json!({"a": "3"}));
}

#[tokio::test]
async fn nulls_that_may_not_be_go() {
    let cluster = Cluster::start().await;
    let spec = json!({"a": {"type": "string"}, "d": {"type": "string", "default": "x"}, "n": {"type": "string", "nullable": true}});
    define(&cluster, definition("foos", "Foo", json!([version("v1", true, spec)]))).await;
    let made = cluster.create(FOOS, foo("x", json!({"a": null, "d": null, "n": null}))).await;
    assert_eq!(made["spec"], json!({"d": "x", "n": null}));
}
