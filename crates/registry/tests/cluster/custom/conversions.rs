//! Conversion webhooks over HTTPS: several versions, and webhooks that lie, fail or are away.

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request, Response};
use kybern_apimachinery::{Value, json, object};
use kybern_testbed::https::{HttpsOptions, HttpsServer, TestCa};

use super::{DEFINITIONS, condition, define, definition};
use crate::harness::Cluster;

const V1: &str = "/apis/ex.io/v1/namespaces/default/foos";
const V2: &str = "/apis/ex.io/v2/namespaces/default/foos";

/// A webhook that moves `spec.size` to `spec.sizes[0]` and back; objects' names say what else it does.
async fn start(ca: &TestCa) -> HttpsServer {
    HttpsServer::start(HttpsOptions::new(&ca.issue(&["127.0.0.1"])), |call: Request<Bytes>| async move {
        let review: Value = serde_json::from_slice(call.body()).unwrap();
        let request = &review["request"];
        let to = request["desiredAPIVersion"].as_str().unwrap();
        let given = request["objects"].as_array().unwrap();
        let mut objects: Vec<Value> = given.iter().map(|given| converted(given.clone(), to)).collect();
        let has = |name: &str| given.iter().any(|given| object::name(given) == name);
        if has("short") {
            objects.pop();
        }
        if has("huge") {
            return Response::new(Bytes::from(vec![b' '; 10 << 20]));
        }
        if has("garbage") {
            return Response::new(Bytes::from_static(b"garbage"));
        }
        if has("broken") {
            return Response::builder().status(500).body(Bytes::from_static(b"oops")).unwrap();
        }
        let result = if has("failed") {
            json!({"status": "Failure", "message": "it does not like it"})
        } else {
            json!({"status": "Success"})
        };
        let uid = if has("other-uid") { json!("other") } else { request["uid"].clone() };
        let answer = json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"],
            "response": {"uid": uid, "result": result, "convertedObjects": objects}});
        Response::new(Bytes::from(answer.to_string()))
    })
    .await
}

fn converted(mut object: Value, to: &str) -> Value {
    object["apiVersion"] = to.into();
    if let Some(spec) = object["spec"].as_object_mut() {
        match to.ends_with("v2") {
            true => spec.remove("size").map(|size| spec.insert("sizes".to_owned(), json!([size]))),
            false => spec.remove("sizes").map(|sizes| spec.insert("size".to_owned(), sizes[0].clone())),
        };
        let (from, to) = if to.ends_with("v2") { ("mode", "way") } else { ("way", "mode") };
        spec.remove(from).map(|mode| spec.insert(to.to_owned(), mode));
        spec.insert("unknown".to_owned(), 1.into());
    }
    let name = object::name(&object).to_owned();
    match name.as_str() {
        "labels" => object["metadata"]["labels"] = json!({"by": "the webhook"}),
        "uid" => object["metadata"]["uid"] = "x".into(),
        "renamed" => object["metadata"]["name"] = "y".into(),
        "kind" => object["kind"] = "Bar".into(),
        "version" => object["apiVersion"] = "ex.io/v3".into(),
        "no-metadata" => drop(object.as_object_mut().unwrap().remove("metadata")),
        "bad-labels" => object["metadata"]["labels"] = json!({"a": 1}),
        _ => {}
    }
    object
}

fn version(name: &str, storage: bool, spec: Value, column: &str) -> Value {
    let field = if spec.get("mode").is_some() { ".spec.mode" } else { ".spec.way" };
    json!({"name": name, "served": true, "storage": storage, "selectableFields": [{"jsonPath": field}],
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": column}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": spec},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}}}}})
}

fn versions(stored: &str) -> Value {
    let (integer, text) = (json!({"type": "integer"}), json!({"type": "string"}));
    let first = json!({"size": integer, "replicas": integer, "mode": text});
    let second = json!({"sizes": {"type": "array", "items": integer}, "replicas": integer, "way": text});
    json!([version("v1", stored == "v1", first, ".spec.size"), version("v2", stored == "v2", second, ".spec.sizes[0]")])
}

async fn with(server: &HttpsServer, ca: &TestCa) -> Cluster {
    let cluster = Cluster::start().await;
    let mut foos = definition("foos", "Foo", versions("v1"));
    let bundle = base64::engine::general_purpose::STANDARD.encode(&ca.pem);
    foos["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("{}/convert", server.url()), "caBundle": bundle}}});
    define(&cluster, foos).await;
    cluster
}

fn foo(name: &str) -> Value {
    json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": name, "labels": {"a": "b"}}, "spec": {"size": 3, "replicas": 2}})
}

/// Fields are those of the version that is asked, whichever is stored.
#[tokio::test]
async fn fields_are_selected_as_the_version_has_them() {
    let ca = TestCa::new("conversion");
    let server = start(&ca).await;
    let cluster = with(&server, &ca).await;
    let mode = |name: &str, mode: &str| {
        let mut foo = foo(name);
        foo["spec"]["mode"] = mode.into();
        foo
    };
    for (name, of) in [("a", "x"), ("b", "y"), ("c", "x")] {
        cluster.create(V1, mode(name, of)).await;
    }
    let names = async |path: &str| -> Vec<String> {
        let list = cluster.get(path).await;
        list["items"].as_array().unwrap().iter().map(|item| object::name(item).to_owned()).collect()
    };
    assert_eq!(names(&format!("{V2}?fieldSelector=spec.way%3Dx")).await, ["a", "c"]);
    assert_eq!(names(&format!("{V2}?fieldSelector=spec.way!%3Dx")).await, ["b"]);
    assert_eq!(names(&format!("{V2}?fieldSelector=spec.way%3Dx,metadata.name%3Dc")).await, ["c"]);
    assert_eq!(names(&format!("{V1}?fieldSelector=spec.mode%3Dx")).await, ["a", "c"]);
    let from = cluster.get(V2).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    cluster.create(V1, mode("d", "x")).await;
    cluster.create(V1, mode("e", "y")).await;
    for way in ["y", "y", "x", "x"] {
        let patch = json!({"spec": {"way": way, "sizes": [i64::from(way == "x")]}});
        assert_eq!(cluster.patch(&format!("{V2}/d"), patch).await.0, 200);
    }
    let changed = json!({"spec": {"sizes": [8]}});
    assert_eq!(cluster.patch(&format!("{V2}/d"), changed).await.0, 200);
    for name in ["e", "d"] {
        assert_eq!(cluster.ask(Method::DELETE, &format!("{V2}/{name}"), None).await.0, 200);
    }
    let watch = format!("{V2}?watch=1&timeoutSeconds=0&resourceVersion={from}&fieldSelector=spec.way%3Dx");
    let (_, Value::String(events)) = cluster.ask(Method::GET, &watch, None).await else { panic!("several events") };
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seen: Vec<(&str, &str)> =
        events.iter().map(|event| (event["type"].as_str().unwrap(), object::name(&event["object"]))).collect();
    assert_eq!(seen, [("ADDED", "d"), ("DELETED", "d"), ("ADDED", "d"), ("MODIFIED", "d"), ("DELETED", "d")]);
    assert_eq!(events[1]["object"]["spec"]["way"], "x", "the last state that was selected");
    // What is selected is deleted, and nothing else.
    let (code, _) = cluster.ask(Method::DELETE, &format!("{V2}?fieldSelector=spec.way%3Dx"), None).await;
    assert_eq!((code, names(V2).await), (200, vec!["b".to_owned()]));
}

#[tokio::test]
async fn every_version_is_served() {
    let ca = TestCa::new("conversion");
    let server = start(&ca).await;
    let cluster = with(&server, &ca).await;
    cluster.create(V1, foo("a")).await;
    let second = cluster.get(&format!("{V2}/a")).await;
    assert_eq!(second["spec"], json!({"sizes": [3], "replicas": 2}), "what the schema does not know is dropped");
    assert_eq!(second["metadata"]["labels"], json!({"a": "b"}));
    assert_eq!(cluster.table(V2).await[0][..2], [json!("a"), json!(3)]);
    assert_eq!(cluster.get(&format!("{V2}/a/scale")).await["spec"]["replicas"], 2);
    // A write in one version is a write in all.
    assert_eq!(cluster.patch(&format!("{V2}/a"), json!({"spec": {"sizes": [5]}})).await.0, 200);
    assert_eq!(cluster.get(&format!("{V1}/a")).await["spec"]["size"], 5);
    let mut other = foo("b");
    (other["apiVersion"], other["spec"]) = ("ex.io/v2".into(), json!({"sizes": [7]}));
    cluster.create(V2, other).await;
    assert_eq!(cluster.get(&format!("{V1}/b")).await["spec"], json!({"size": 7}));
    // Another version is stored from here on; what is there stays readable, and is written anew by an update.
    let path = format!("{DEFINITIONS}/foos.ex.io");
    assert_eq!(cluster.patch(&path, json!({"spec": {"versions": versions("v2")}})).await.0, 200);
    condition(&cluster, "foos.ex.io", "Established", "InitialNamesAccepted").await;
    assert_eq!(cluster.get(&path).await["status"]["storedVersions"], json!(["v1", "v2"]));
    assert_eq!(cluster.patch(&format!("{V1}/a"), json!({"spec": {"size": 9}})).await.0, 200);
    cluster.create(V1, foo("c")).await;
    let sizes = |listed: Value| -> Vec<Value> {
        listed["items"].as_array().unwrap().iter().map(|item| item["spec"]["sizes"][0].clone()).collect()
    };
    assert_eq!(sizes(cluster.get(V2).await), [9, 7, 3]);
    assert_eq!(cluster.get(V1).await["items"][1]["spec"]["size"], 7);
    // A version that objects may be stored in stays.
    let gone = json!({"spec": {"versions": [versions("v2")[1]]}});
    let (code, refused) = cluster.patch(&path, gone).await;
    assert!(
        code == 422
            && refused["message"]
                .as_str()
                .unwrap()
                .contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_webhook_that_lies_is_told() {
    let ca = TestCa::new("conversion");
    let server = start(&ca).await;
    let cluster = with(&server, &ca).await;
    let of = "conversion webhook for ex.io/v1, Kind=Foo";
    for (name, expect) in [
        ("uid", "returned invalid object: must have the same UID: "),
        ("renamed", "returned invalid object: must have the same name: renamed != y"),
        ("kind", "returned invalid object at index 0: invalid kind (expected Foo, received Bar)"),
        ("version", "returned invalid object at index 0: invalid groupVersion (expected ex.io/v2, received ex.io/v3)"),
        ("no-metadata", "returned invalid object: must have the same name: no-metadata != "),
        (
            "bad-labels",
            "returned invalid metadata: metadata.labels[a] must be a string, but is int64 in converted object",
        ),
        ("short", "returned 0 objects, expected 1"),
        ("failed", "failed: it does not like it"),
        ("other-uid", "failed: expected response.uid="),
        ("garbage", "failed: "),
        ("broken", "failed: "),
        ("huge", "failed: "),
    ] {
        cluster.create(V1, foo(name)).await;
        let refused = cluster.refusal(Method::GET, &format!("{V2}/{name}"), None, 500).await;
        assert!(refused.starts_with(&format!("{of} {expect}")), "{name}: {refused}");
        // Its own version needs nobody.
        assert_eq!(cluster.get(&format!("{V1}/{name}")).await["spec"]["size"], 3);
        assert_eq!(cluster.ask(Method::DELETE, &format!("{V1}/{name}"), None).await.0, 200);
    }
    cluster.create(V1, foo("labels")).await;
    assert_eq!(cluster.get(&format!("{V2}/labels")).await["metadata"]["labels"], json!({"by": "the webhook"}));
    drop(server);
    let refused = cluster.refusal(Method::GET, &format!("{V2}/labels"), None, 500).await;
    assert!(refused.starts_with(&format!("{of} failed: Post \"https://")), "{refused}");
    assert_eq!(cluster.get(V1).await["items"].as_array().unwrap().len(), 1);
}
