//! What a client can send to make the server die, grow, or forget: each is refused, and others are served.

use std::sync::Arc;

use kybern_apimachinery::{Budget, Value, json, object};
use kybern_apiserver::strategy::{Plain, Strategy};
use kybern_apiserver::{Options, Server};
use kybern_storage::{Storage, Txn, memory::Memory};

use crate::fixture::*;
use crate::watches::Watch;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const APPLY: &str = "application/apply-patch+yaml";

fn nested(depth: usize) -> String {
    format!("{}{}", "{\"x\":".repeat(depth), "0") + &"}".repeat(depth)
}

#[tokio::test]
async fn patches_that_nest_or_double() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let rounds = [
        json!({"op": "add", "path": "/b", "value": {}}),
        json!({"op": "move", "from": "/data", "path": "/b/a"}),
        json!({"op": "move", "from": "/b", "path": "/data"}),
    ];
    let rounds: Vec<Value> = rounds.iter().cycle().take(9_999).cloned().collect();
    let refused = client.patch(&path, JSON, rounds.into()).await;
    assert_eq!(refused.code, 422);
    assert!(refused.status().1.starts_with("json: exceeded max depth"), "{}", refused.status().1);
    let mut copies = vec![json!({"op": "replace", "path": "/data/k", "value": "x".repeat(10_000)})];
    copies.extend((0..300).map(|n| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")})));
    let refused = client.patch(&path, JSON, copies.into()).await;
    assert_eq!(refused.code, 422);
    assert!(refused.status().1.contains("accumulated size increase"), "{}", refused.status().1);
    assert_eq!(client.get(&path).await.ok()["data"]["k"], "1");
}

#[tokio::test]
async fn bodies_that_nest() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    for depth in [Budget::REQUEST.depth + 1, 129, 300_000] {
        let body = nested(depth);
        for (method, path, media) in [
            ("PATCH", &*path, JSON),
            ("PATCH", &path, MERGE),
            ("PATCH", &path, STRATEGIC),
            ("PATCH", &format!("{path}?fieldManager=m"), APPLY),
            ("POST", CONFIG_MAPS, "application/json"),
            ("POST", CONFIG_MAPS, "application/yaml"),
            ("PUT", &path, "application/json"),
            ("DELETE", &path, "application/json"),
        ] {
            let headers = [("content-type", media)];
            let answer = client.raw(method, path, &headers, kybern_apiserver::body::full(body.clone())).await;
            let code = answer.status().as_u16();
            assert!(code == 400 || code == 413, "{method} {media} {depth}: {code}");
        }
    }
    let wide = format!("[{}0]", "0,".repeat(Budget::REQUEST.nodes));
    let headers = [("content-type", MERGE)];
    assert_eq!(client.raw("PATCH", &path, &headers, kybern_apiserver::body::full(wide)).await.status(), 413);
    assert_eq!(client.get(&path).await.ok()["data"]["k"], "1");
}

/// What is as deep as may be can be updated, listed in every form and deleted; its finalizers and preconditions count.
#[tokio::test]
async fn the_deepest_object_lives_as_any_other() {
    let mut options = Options::new(Arc::new(Memory::default()));
    options.resources = rows();
    let kind = "CustomResourceDefinition";
    options.resources.push(row("apiextensions.k8s.io", "v1", kind, false, Arc::new(Plain)));
    options.authorizers = vec![Arc::new(Rules)];
    let client = Client { server: Server::start(options).await.unwrap(), user: "admin" };
    let schema = (0..Budget::REQUEST.depth - 8).fold(json!({"type": "object"}), |inner, _| json!({"not": inner}));
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "deep", "finalizers": ["a.b/c"]},
        "spec": {"group": "a.b", "names": {"plural": "deep", "kind": "Deep"}, "scope": "Cluster",
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    let created = client.post(CRDS, crd).await.ok();
    let path = format!("{CRDS}/deep");
    assert_eq!(client.patch(&path, MERGE, json!({"metadata": {"labels": {"a": "b"}}})).await.code, 200);
    for accept in [
        "application/json",
        "application/yaml",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        "application/vnd.kubernetes.protobuf",
    ] {
        for path in [CRDS, &path] {
            assert_eq!(client.send("GET", path, &[("accept", accept)], "").await.code, 200, "{accept} {path}");
        }
    }
    let other = json!({"preconditions": {"uid": "another"}});
    assert_eq!(client.send("DELETE", &path, &[], other.to_string()).await.code, 409);
    client.delete(&path).await.ok();
    let held = client.get(&path).await.ok();
    assert!(object::is_deleting(&held) && object::uid(&held) == object::uid(&created));
    assert_eq!(client.patch(&path, MERGE, json!({"metadata": {"finalizers": null}})).await.code, 200);
    assert_eq!(client.get(&path).await.code, 404);
}

/// A PUT to a missing name creates.
struct MadeByPut;

impl Strategy for MadeByPut {
    fn allow_create_on_update(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn whoever_may_change_may_not_create_by_that() {
    let mut client =
        Client::with(|options| options.resources.push(row("", "v1", "Node", false, Arc::new(MadeByPut)))).await;
    let (nodes, node) = ("/api/v1/nodes/new", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "new"}}));
    for (user, code) in [("changer", 403), ("admin", 201), ("changer", 200)] {
        client.user = user;
        assert_eq!(client.send("PUT", nodes, &[], node.to_string()).await.code, code, "{user}");
    }
    let path = format!("{CONFIG_MAPS}/new?fieldManager=m");
    let apply = || config_map("new", "1");
    let refusal = r#"configmaps "new" is forbidden: User "changer" cannot create resource "configmaps" in API group "" in the namespace "ns""#;
    client.user = "changer";
    assert_eq!(client.patch(&path, APPLY, apply()).await.status(), (403, refusal.to_owned()));
    client.user = "admin";
    assert_eq!(client.patch(&path, APPLY, apply()).await.code, 201);
    client.user = "changer";
    assert_eq!(client.patch(&path, APPLY, apply()).await.code, 200);
}

/// Such as another version, or another program, has stored.
#[tokio::test]
async fn an_unreadable_object_is_an_error_by_its_name_and_stops_no_other() {
    let storage = Arc::new(Memory::default());
    let deep = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"finalizers":["a.b/c"],"name":"deep","namespace":"ns","uid":"u"}},"data":{}}}"#,
        nested(200)
    );
    storage.txn(Txn::create("/registry/configmaps/ns/deep".into(), deep.into())).await.unwrap();
    let client = Client::on(storage).await;
    client.post(CONFIG_MAPS, config_map("other", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/deep");
    for (method, media, body) in [
        ("DELETE", "application/json", json!({"preconditions": {"uid": "another"}})),
        ("DELETE", "application/json", json!({})),
        ("PATCH", MERGE, json!({"data": null})),
        ("PATCH", JSON, json!([{"op": "remove", "path": "/data"}])),
        ("PUT", "application/json", config_map("deep", "1")),
    ] {
        let answer = client.send(method, &path, &[("content-type", media)], body.to_string()).await;
        let (code, text) = answer.status();
        assert_eq!(code, 500, "{method} {media}: {text}");
        assert!(text.contains("/registry/configmaps/ns/deep"), "{text}");
    }
    // Its bytes need not be read to be sent.
    assert!(client.get(&path).await.bytes.starts_with(b"{\"apiVersion\":\"v1\""));
    assert!(client.get(CONFIG_MAPS).await.bytes.windows(5).any(|w| w == b"other"));
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let rows = client.send("GET", CONFIG_MAPS, &table, "").await.ok();
    assert_eq!(rows["rows"][0]["cells"], json!(["deep", "<unreadable>"]));
    assert_eq!(rows["rows"][1]["cells"][0], "other");
    // Whoever would have to guess is told instead: a garbage collector must not take it for gone.
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    let answer = client.send("GET", CONFIG_MAPS, &protobuf, "").await;
    assert_eq!(answer.code, 500);
    assert_eq!(client.delete(CONFIG_MAPS).await.code, 500);
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/other")).await.code, 404, "the others are deleted");
    assert_eq!(client.get(&path).await.code, 200, "and it is not");
}

/// A Secret's value that no key opens is neither absent nor empty: whoever asks for it, or for all, is told. Others go on.
#[tokio::test]
async fn what_no_key_opens_is_an_error_and_never_absent() {
    let storage = Arc::new(Memory::default());
    let client = Client::on(storage.clone()).await;
    client.post(CONFIG_MAPS, config_map("good", "1")).await.ok();
    let key: Arc<str> = "/registry/configmaps/ns/sealed".into();
    let sealed = storage.txn(Txn::create(key.clone(), "k8s:enc:aesgcm:v1:key1:xyz".into())).await.unwrap();
    let name = format!("{CONFIG_MAPS}/sealed");
    for answer in [
        client.get(&name).await,
        client.get(CONFIG_MAPS).await,
        client.delete(&name).await,
        client.put(&name, config_map("sealed", "2")).await,
    ] {
        let (code, message) = answer.status();
        assert_eq!(code, 500, "{message}");
        assert!(message.contains("/registry/configmaps/ns/sealed") && message.contains("no key"), "{message}");
    }
    assert_eq!(client.post(CONFIG_MAPS, config_map("sealed", "2")).await.code, 409);
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/good")).await.code, 200);
    assert_eq!(client.get("/api/v1/namespaces/other/configmaps").await.code, 200);
    storage.txn(Txn::delete(key, sealed)).await.unwrap();
    assert_eq!(client.get(CONFIG_MAPS).await.code, 200);
}

/// An update that no key opens is nothing that watchers may miss: they have to list, and are told why that fails.
#[tokio::test]
async fn watchers_do_not_take_an_object_for_unchanged_that_no_key_opens() {
    let storage = Arc::new(Memory::default());
    let client = Client::on(storage.clone()).await;
    let made = revision(&client.post(CONFIG_MAPS, config_map("a", "1")).await.ok());
    let from = format!("{CONFIG_MAPS}?watch=1&resourceVersion={made}");
    let mut watch = Watch::open(&client, &from).await;
    let last = revision(&client.put(&format!("{CONFIG_MAPS}/a"), config_map("a", "2")).await.ok());
    let key: Arc<str> = "/registry/configmaps/ns/a".into();
    let sealed = Txn::update(key.clone(), last, "k8s:enc:aesgcm:v1:key1:xyz".into());
    let sealed = storage.txn(sealed).await.unwrap();
    assert_eq!(watch.take(1).await, ["MODIFIED a"]);
    let gone = watch.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(watch.next().await.is_none());
    let gone = Watch::open(&client, &from).await.next().await.unwrap();
    assert_eq!(gone["object"]["code"], 410, "from before the update as well");
    assert_eq!(client.get(CONFIG_MAPS).await.code, 500);
    // Who watches from it on goes on.
    let mut watch = Watch::open(&client, &format!("{CONFIG_MAPS}?watch=1&resourceVersion={sealed}")).await;
    storage.txn(Txn::delete(key, sealed)).await.unwrap();
    client.post(CONFIG_MAPS, config_map("b", "1")).await.ok();
    assert_eq!(watch.take(2).await, ["DELETED a", "ADDED b"]);
    assert_eq!(client.get(CONFIG_MAPS).await.code, 200);
}
