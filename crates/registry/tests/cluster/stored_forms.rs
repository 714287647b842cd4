//! Objects in the store: as JSON, and as protobuf, which upstream's servers write.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use kybern_apimachinery::{Value, json};
use kybern_storage::memory::Memory;
use kybern_storage::{RangeRequest, Storage, Txn};

use crate::harness::Cluster;
use crate::minimal::minimal;

/// What a server wrote as protobuf is what it answered, to itself and to the next; and writing it again changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_is_stored_as_protobuf_and_read_the_same() {
    let storage = Arc::new(Memory::default());
    let cluster = Cluster::in_protobuf(storage.clone()).await;
    let account = json!({"metadata": {"name": "default"}});
    cluster.create("/api/v1/namespaces/default/serviceaccounts", account).await;
    let mut made = Vec::new();
    for row in kybern_schema::builtin().resources().iter().filter(|row| row.verbs.contains(&"create")) {
        let root = if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
        let place = if row.namespaced { "/namespaces/default" } else { "" };
        let path = format!("{root}/{}{place}/{}", row.version, row.resource);
        let mut object = minimal(row.kind);
        object["metadata"]["name"] = "stored".into();
        let (code, answer) = cluster.ask(Method::POST, &path, Some(object)).await;
        // What wants more than the least is no matter here.
        if code == 201 && row.verbs.contains(&"get") {
            made.push((format!("{path}/stored"), answer));
        }
    }
    assert!(made.len() > 40, "{}", made.len());
    let second = Cluster::on(storage.clone()).await;
    for (path, answer) in &made {
        let first = cluster.get(path).await;
        // Its kind's strategy may have gone on meanwhile.
        if first["metadata"]["resourceVersion"] == answer["metadata"]["resourceVersion"] {
            assert_eq!(first, *answer, "{path}");
        }
        assert_eq!(second.get(path).await, first, "{path}");
        let (code, again) = cluster.ask(Method::PUT, path, Some(first.clone())).await;
        if code == 200 {
            assert_eq!(again["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"], "{path}");
        }
    }
    let request = RangeRequest { prefix: "/registry/", after: "", limit: 10_000, at: None };
    let page = storage.range(request).await.unwrap();
    let protobuf = page.items.iter().filter(|kv| kv.value.starts_with(b"k8s\0")).count();
    let json: Vec<_> = page.items.iter().filter(|kv| kv.value.starts_with(b"{")).map(|kv| &*kv.key).collect();
    let expected = |key: &&str| {
        key.starts_with("/registry/apiextensions.k8s.io/")
            || key.starts_with("/registry/apiregistration.k8s.io/")
            || key.starts_with("/registry/ranges/")
    };
    assert!(protobuf > made.len() / 2, "{protobuf} of {}", made.len());
    assert!(json.iter().all(expected), "{json:?}");
}

/// Upstream's servers store definitions as v1beta1, in which schemas stand beside the versions that share them.
#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_upstream_stored_keeps_its_schema() {
    let storage = Arc::new(Memory::default());
    let names = json!({"plural": "gears", "singular": "gear", "kind": "Gear", "listKind": "GearList"});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "required": ["teeth"],
        "properties": {"teeth": {"type": "integer"}}}}}});
    let stored = json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gears.ex.io", "uid": "u1", "creationTimestamp": "2026-11-01T00:00:00Z", "generation": 1},
        "spec": {"group": "ex.io", "scope": "Namespaced", "version": "v1", "names": names, "validation": schema,
            "preserveUnknownFields": false, "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true}]},
        "status": {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"]}});
    let key = "/registry/apiextensions.k8s.io/customresourcedefinitions/gears.ex.io";
    storage.txn(Txn::create(key.into(), stored.to_string().into())).await.unwrap();
    let cluster = Cluster::on(storage.clone()).await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gears.ex.io";
    let established = async {
        loop {
            let shown = cluster.get(path).await;
            let conditions = shown["status"]["conditions"].as_array().into_iter().flatten();
            if conditions.into_iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let shown = tokio::time::timeout(Duration::from_secs(30), established).await.expect("it is established");
    assert_eq!(shown["spec"]["versions"][0]["schema"], schema);
    assert_eq!((shown["spec"].get("version"), shown["spec"].get("preserveUnknownFields")), (None, None));
    let gears = "/apis/ex.io/v1/namespaces/default/gears";
    let gear = |spec: Value| json!({"apiVersion": "ex.io/v1", "kind": "Gear", "metadata": {"name": "a"}, "spec": spec});
    cluster.refusal(Method::POST, gears, Some(gear(json!({}))), 422).await;
    cluster.create(gears, gear(json!({"teeth": 3}))).await;
    // What was written back has it, too.
    let request = RangeRequest { prefix: key, after: "", limit: 1, at: None };
    let written: Value = serde_json::from_slice(&storage.range(request).await.unwrap().items[0].value).unwrap();
    assert_eq!(written["apiVersion"], "apiextensions.k8s.io/v1");
    assert_eq!(written["spec"]["versions"][0]["schema"], schema);
}
