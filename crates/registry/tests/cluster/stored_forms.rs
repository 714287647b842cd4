//! Objects in the store: as JSON, and as protobuf, which upstream's servers write.

use std::sync::Arc;

use http::Method;
use kybern_apimachinery::json;
use kybern_storage::memory::Memory;
use kybern_storage::{RangeRequest, Storage};

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
