//! Custom resources: defined, served while the server runs, checked by their schema, and gone with their definition.

mod conversions;
mod hostile;
mod rules;
mod upkeep;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::body;
use kybern_storage::memory::Memory;

use crate::harness::{Cluster, admin};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FOOS: &str = "/apis/ex.io/v1/namespaces/default/foos";
const PATIENCE: Duration = Duration::from_secs(20);

fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage, "subresources": {"status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [
            {"name": "Mode", "type": "string", "jsonPath": ".spec.mode"},
            {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status", "priority": 1}],
        "selectableFields": [{"jsonPath": ".spec.mode"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1}, "mode": {"type": "string", "default": "fast", "enum": ["fast", "slow"]},
                "replicas": {"type": "integer"}, "address": {"type": "string", "format": "ipv4"},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"}, "name": {"type": "string"}}}},
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"},
                "conditions": {"type": "array", "items": {"type": "object", "properties": {
                    "type": {"type": "string"}, "status": {"type": "string"}}}}}}}}}})
}

fn definition(plural: &str, kind: &str, versions: Value) -> Value {
    json!({"metadata": {"name": format!("{plural}.ex.io")}, "spec": {"group": "ex.io", "scope": "Namespaced",
        "names": {"plural": plural, "kind": kind, "shortNames": [&plural[..2]], "categories": ["all"]}, "versions": versions}})
}

fn foo(name: &str, size: i64) -> Value {
    json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": name}, "spec": {"size": size}})
}

/// Waits until a definition has a condition of this reason; answers it.
async fn condition(cluster: &Cluster, name: &str, kind: &str, reason: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let definition = cluster.get(&format!("{DEFINITIONS}/{name}")).await;
        let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(found) = conditions.iter().find(|c| c["type"] == kind && c["reason"] == reason) {
            return found.clone();
        }
        assert!(Instant::now() < deadline, "{name} never gets {kind} {reason}: {conditions:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn define(cluster: &Cluster, definition: Value) {
    let name = object::name(&definition).to_owned();
    cluster.create(DEFINITIONS, definition).await;
    condition(cluster, &name, "Established", "InitialNamesAccepted").await;
}

async fn gone(cluster: &Cluster, path: &str) {
    let deadline = Instant::now() + PATIENCE;
    while cluster.ask(Method::GET, path, None).await.0 != 404 {
        assert!(Instant::now() < deadline, "{path} stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn with_foos() -> Cluster {
    let cluster = Cluster::start().await;
    define(&cluster, definition("foos", "Foo", json!([version("v1", true)]))).await;
    cluster
}

#[tokio::test]
async fn what_is_established_is_served() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.ask(Method::GET, FOOS, None).await.0, 404);
    define(&cluster, definition("foos", "Foo", json!([version("v1", true)]))).await;
    let accepted = condition(&cluster, "foos.ex.io", "NamesAccepted", "NoConflicts").await;
    assert_eq!((&accepted["status"], &accepted["message"]), (&json!("True"), &json!("no conflicts found")));
    let made = cluster.create(FOOS, foo("a", 1)).await;
    assert_eq!(made["spec"], json!({"size": 1, "mode": "fast"}), "with its defaults");
    assert_eq!(object::generation(&made), 1);
    // Everywhere at once.
    let listed = cluster.get("/apis/ex.io/v1").await;
    let names: Vec<&str> = listed["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert_eq!(names, ["foos", "foos/status", "foos/scale"]);
    assert_eq!(listed["resources"][0]["categories"], json!(["all"]));
    let document = cluster.get("/openapi/v3/apis/ex.io/v1").await;
    let schema = &document["components"]["schemas"]["io.ex.v1.Foo"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["minimum"], 1);
    assert!(cluster.get("/openapi/v2").await["definitions"]["io.ex.v1.Foo"].is_object());
    assert_eq!(
        cluster.get(&format!("{FOOS}?fieldSelector=spec.mode%3Dfast")).await["items"].as_array().unwrap().len(),
        1
    );
    assert_eq!(
        cluster.get(&format!("{FOOS}?fieldSelector=spec.mode%3Dslow")).await["items"].as_array().unwrap().len(),
        0
    );
    let refused = cluster.refusal(Method::GET, &format!("{FOOS}?fieldSelector=spec.size%3D1"), None, 400).await;
    assert_eq!(refused, "field label not supported: spec.size");
    let table = cluster.table(FOOS).await;
    assert_eq!(table, [[json!("a"), json!("fast"), json!(null)]]);
}

#[tokio::test]
async fn schemas_are_kept() {
    let cluster = with_foos().await;
    let mut bad = foo("a", 0);
    bad["spec"]["mode"] = "odd".into();
    bad["spec"]["address"] = "nowhere".into();
    let refused = cluster.refusal(Method::POST, FOOS, Some(bad), 422).await;
    for part in [
        "Foo.ex.io \"a\" is invalid: [",
        "spec.address: Invalid value: \"nowhere\": spec.address in body must be of type ipv4: \"nowhere\"",
        "spec.mode: Unsupported value: \"odd\": supported values: \"fast\", \"slow\"",
        "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
    ] {
        assert!(refused.contains(part), "{refused}\nlacks {part}");
    }
    let mut more = foo("a", 1);
    more["spec"]["unknown"] = 1.into();
    more["spec"]["any"] = json!({"x": [1.5, null]});
    let strict = format!("{FOOS}?fieldValidation=Strict");
    let refused = cluster.refusal(Method::POST, &strict, Some(more.clone()), 400).await;
    assert!(refused.contains("unknown field \"spec.unknown\""), "{refused}");
    let made = cluster.create(FOOS, more).await;
    assert_eq!(
        made["spec"],
        json!({"size": 1, "mode": "fast", "any": {"x": [1.5, null]}}),
        "what is not known is dropped"
    );
    // Updates name a revision, and strategic patches are for others.
    let mut update = made.clone();
    object::remove(&mut update, &["metadata", "resourceVersion"]);
    let refused = cluster.refusal(Method::PUT, &format!("{FOOS}/a"), Some(update), 422).await;
    assert!(
        refused.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"),
        "{refused}"
    );
    let media = "application/strategic-merge-patch+json";
    let (code, status) =
        cluster.send(admin(), Method::PATCH, &format!("{FOOS}/a"), media, Some(json!({"spec": {"size": 2}}))).await;
    assert_eq!(code, 415, "{status}");
    assert!(!status["message"].as_str().unwrap().contains("strategic"), "{status}");
    // Lists with keys are merged by them.
    let apply = async |manager: &str, ports: Value| {
        let path = format!("{FOOS}/a?fieldManager={manager}");
        let body = json!({"apiVersion": "ex.io/v1", "kind": "Foo", "spec": {"size": 1, "ports": ports}});
        cluster.send(admin(), Method::PATCH, &path, "application/apply-patch+yaml", Some(body)).await
    };
    let (code, applied) = apply("one", json!([{"port": 1, "name": "x"}])).await;
    assert_eq!(code, 200, "{applied}");
    let (_, applied) = apply("two", json!([{"port": 2}])).await;
    assert_eq!(applied["spec"]["ports"], json!([{"port": 1, "name": "x"}, {"port": 2}]));
    let (code, conflict) = apply("two", json!([{"port": 1, "name": "y"}])).await;
    assert_eq!(code, 409, "{conflict}");
}

#[tokio::test]
async fn status_and_scale_are_their_own() {
    let cluster = with_foos().await;
    let mut first = foo("a", 1);
    first["status"] = json!({"replicas": 9});
    let made = cluster.create(FOOS, first).await;
    assert!(made.get("status").is_none());
    let (_, patched) = cluster
        .patch(&format!("{FOOS}/a/status"), json!({"status": {"replicas": 2, "selector": "a=b"}, "spec": {"size": 7}}))
        .await;
    assert_eq!(
        (&patched["spec"]["size"], &patched["status"]["replicas"], object::generation(&patched)),
        (&json!(1), &json!(2), 1)
    );
    let (_, patched) =
        cluster.patch(&format!("{FOOS}/a"), json!({"status": {"replicas": 3}, "spec": {"replicas": 4}})).await;
    assert_eq!((&patched["status"]["replicas"], object::generation(&patched)), (&json!(2), 2));
    let scale = cluster.get(&format!("{FOOS}/a/scale")).await;
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 4}), &json!({"replicas": 2, "selector": "a=b"}))
    );
    let (code, scaled) = cluster.patch(&format!("{FOOS}/a/scale"), json!({"spec": {"replicas": 6}})).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(6)));
    let now = cluster.get(&format!("{FOOS}/a")).await;
    assert_eq!((&now["spec"]["replicas"], object::generation(&now)), (&json!(6), 3));
    let bad = json!({"status": {"replicas": "many"}});
    let (code, status) = cluster.patch(&format!("{FOOS}/a/status"), bad).await;
    assert_eq!(code, 422, "{status}");
    assert!(
        status["message"].as_str().unwrap().contains(
            "status.replicas: Invalid value: \"string\": replicas in body must be of type integer: \"string\""
        ),
        "{status}"
    );
}

#[tokio::test]
async fn a_name_has_one_owner_and_is_freed() {
    let cluster = with_foos().await;
    let mut other = definition("fobs", "Foo", json!([version("v1", true)]));
    other["spec"]["names"]["shortNames"] = json!(["fo"]);
    cluster.create(DEFINITIONS, other).await;
    let refused = condition(&cluster, "fobs.ex.io", "NamesAccepted", "ListKindConflict").await;
    assert_eq!(refused["message"], "\"FooList\" is already in use");
    condition(&cluster, "fobs.ex.io", "Established", "NotAccepted").await;
    assert_eq!(cluster.ask(Method::GET, "/apis/ex.io/v1/fobs", None).await.0, 404);
    cluster.ask(Method::DELETE, &format!("{DEFINITIONS}/foos.ex.io"), None).await;
    gone(&cluster, &format!("{DEFINITIONS}/foos.ex.io")).await;
    condition(&cluster, "fobs.ex.io", "Established", "InitialNamesAccepted").await;
    assert_eq!(cluster.ask(Method::GET, "/apis/ex.io/v1/fobs", None).await.0, 200);
    // What was never established goes as well.
    let mut third = definition("fogs", "Foo", json!([version("v1", true)]));
    third["spec"]["names"]["shortNames"] = json!([]);
    cluster.create(DEFINITIONS, third).await;
    condition(&cluster, "fogs.ex.io", "Established", "NotAccepted").await;
    cluster.ask(Method::DELETE, &format!("{DEFINITIONS}/fogs.ex.io"), None).await;
    gone(&cluster, &format!("{DEFINITIONS}/fogs.ex.io")).await;
}

#[tokio::test]
async fn a_definition_goes_with_its_objects() {
    let cluster = with_foos().await;
    cluster.create(FOOS, foo("a", 1)).await;
    let mut held = foo("held", 1);
    held["metadata"]["finalizers"] = json!(["ex.io/hold"]);
    cluster.create(FOOS, held).await;
    let mut request = Request::builder().uri(format!("{FOOS}?watch=1")).body(body::empty()).unwrap();
    request.extensions_mut().insert(admin());
    let mut watch = cluster.server.handle(request).await.into_body();
    let (code, deleted) = cluster.ask(Method::DELETE, &format!("{DEFINITIONS}/foos.ex.io"), None).await;
    assert_eq!(code, 200, "{deleted}");
    condition(&cluster, "foos.ex.io", "Terminating", "InstanceDeletionInProgress").await;
    gone(&cluster, &format!("{FOOS}/a")).await;
    let refused = cluster.refusal(Method::POST, FOOS, Some(foo("late", 1)), 403).await;
    assert!(refused.ends_with("create not allowed while custom resource definition is terminating"), "{refused}");
    // Whoever holds an object can let it go.
    let (code, _) = cluster.patch(&format!("{FOOS}/held"), json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(code, 200);
    gone(&cluster, &format!("{DEFINITIONS}/foos.ex.io")).await;
    assert_eq!(cluster.ask(Method::GET, FOOS, None).await.0, 404);
    let ends = async { while watch.frame().await.is_some() {} };
    tokio::time::timeout(PATIENCE, ends).await.expect("its watches end");
    define(&cluster, definition("foos", "Foo", json!([version("v1", true)]))).await;
    assert_eq!(cluster.get(FOOS).await["items"], json!([]));
}

#[tokio::test]
async fn a_definition_changes_under_its_objects() {
    let cluster = with_foos().await;
    cluster.create(FOOS, foo("a", 1)).await;
    let path = format!("{DEFINITIONS}/foos.ex.io");
    let mut second = version("v2", true);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["maximum"] = 5.into();
    let mut first = version("v1", false);
    first["deprecated"] = true.into();
    let (code, changed) = cluster.patch(&path, json!({"spec": {"versions": [first, second]}})).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["status"]["storedVersions"], json!(["v1", "v2"]));
    let deadline = Instant::now() + PATIENCE;
    let there = "/apis/ex.io/v2/namespaces/default/foos/a";
    while cluster.ask(Method::GET, there, None).await.0 != 200 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cluster.get(there).await["apiVersion"], "ex.io/v2");
    assert_eq!(cluster.get("/apis/ex.io").await["preferredVersion"]["version"], "v2");
    let refused = cluster.patch(there, json!({"spec": {"size": 6}})).await;
    assert_eq!(refused.0, 422);
    assert_eq!(cluster.patch(&format!("{FOOS}/a"), json!({"spec": {"size": 6}})).await.0, 200, "v1 has no maximum");
    // What was wrong before may stay so.
    assert_eq!(cluster.patch(there, json!({"spec": {"mode": "slow"}})).await.0, 200);
    // Kind, scope and plural are for good.
    for (change, part) in [
        (json!({"spec": {"names": {"kind": "Bar"}}}), "spec.names.kind: Invalid value: \"Bar\": field is immutable"),
        (json!({"spec": {"scope": "Cluster"}}), "spec.scope: Invalid value: \"Cluster\": field is immutable"),
    ] {
        let (code, status) = cluster.patch(&path, change).await;
        assert!(code == 422 && status["message"].as_str().unwrap().contains(part), "{status}");
    }
}

#[tokio::test]
async fn a_restart_serves_what_was_defined() {
    let storage = Arc::new(Memory::default());
    let cluster = Cluster::on(storage.clone()).await;
    define(&cluster, definition("foos", "Foo", json!([version("v1", true)]))).await;
    cluster.create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "x"}})).await;
    cluster.create(FOOS, foo("a", 1)).await;
    drop(cluster);
    let again = Cluster::on(storage).await;
    assert_eq!(again.get(&format!("{FOOS}/a")).await["spec"]["size"], 1);
    assert!(again.get("/openapi/v2").await["definitions"]["io.ex.v1.Foo"].is_object());
}

#[tokio::test]
async fn protected_groups_need_approval() {
    let cluster = Cluster::start().await;
    let mut protected = definition("foos", "Foo", json!([version("v1", true)]));
    protected["metadata"]["name"] = "foos.sig.k8s.io".into();
    protected["spec"]["group"] = "sig.k8s.io".into();
    let refused = cluster.refusal(Method::POST, DEFINITIONS, Some(protected.clone()), 422).await;
    assert!(
        refused
            .contains("metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have"),
        "{refused}"
    );
    protected["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, an experiment"});
    define(&cluster, protected).await;
    condition(&cluster, "foos.sig.k8s.io", "KubernetesAPIApprovalPolicyConformant", "UnapprovedAnnotation").await;
}
