//! Patches and server-side apply.

use kybern_apimachinery::json;

use crate::fixture::*;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test]
async fn three_kinds_of_patch() {
    let client = Client::new().await;
    client.post(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 2}]);
    assert_eq!(client.patch(&path, JSON, patch).await.ok()["spec"]["replicas"], 2);
    let patch = json!({"spec": {"replicas": 3}});
    assert_eq!(client.patch(&path, MERGE, patch).await.ok()["spec"]["replicas"], 3);
    let containers = json!([{"name": "side", "image": "j"}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let patched = client.patch(&path, STRATEGIC, patch).await.ok();
    assert_eq!(patched["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    assert_eq!(patched["metadata"]["generation"], 4);
}

#[tokio::test]
async fn patches_that_are_refused() {
    let client = Client::new().await;
    let created = client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(client.patch(&path, "text/plain", json!({})).await.code, 415);
    assert_eq!(client.patch(&format!("{CONFIG_MAPS}/none"), MERGE, json!({})).await.code, 404);
    assert_eq!(client.patch(&path, MERGE, json!({"metadata": {"name": "b"}})).await.code, 422);
    assert_eq!(client.patch(&path, MERGE, json!({"metadata": {"resourceVersion": "1"}})).await.code, 409);
    assert_eq!(client.patch(&path, MERGE, json!({"kind": "Secret"})).await.code, 400);
    let test = json!([{"op": "test", "path": "/data/k", "value": "2"}]);
    assert_eq!(client.patch(&path, JSON, test).await.code, 422);
    let mistyped = client.patch(&path, MERGE, json!({"data": 3})).await;
    assert_eq!(mistyped.code, 422, "the patch, not the request, is invalid");
    // What changes nothing is not written.
    assert_eq!(client.patch(&path, MERGE, json!({})).await.ok(), created);
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let client = std::sync::Arc::new(Client::new().await);
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let tasks: Vec<_> = (0..4)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move {
                let patch = json!({"data": {format!("k{i}"): "x"}});
                client.patch(&format!("{CONFIG_MAPS}/a"), MERGE, patch).await.ok()
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let object = client.get(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert_eq!(object["data"].as_object().unwrap().len(), 5);
}

#[tokio::test]
async fn apply_creates_updates_and_conflicts() {
    let client = Client::new().await;
    let path = format!("{CONFIG_MAPS}/a");
    let config =
        |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}});
    let nameless = client.patch(&path, APPLY, config("1")).await;
    assert_eq!(nameless.code, 422, "apply needs a manager");
    assert_eq!(client.patch(&format!("{path}?fieldManager="), APPLY, config("1")).await.code, 422);
    let mut known = config("1");
    known["metadata"]["uid"] = "u".into();
    let (code, text) = client.patch(&format!("{path}?fieldManager=one"), APPLY, known).await.status();
    let expect = "Operation cannot be fulfilled on configmaps \"a\": uid mismatch: the provided object specified uid u, and no existing object was found";
    assert_eq!((code, text.as_str()), (409, expect));
    let created = client.patch(&format!("{path}?fieldManager=one"), APPLY, config("1")).await;
    assert_eq!(created.code, 201);
    let created = created.ok();
    assert_eq!(created["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = client.patch(&format!("{path}?fieldManager=one"), APPLY, config("1")).await;
    assert_eq!((again.code.as_u16(), again.ok()), (200, created));
    let (code, text) = client.patch(&format!("{path}?fieldManager=two"), APPLY, config("2")).await.status();
    assert_eq!((code, text.as_str()), (409, "Apply failed with 1 conflict: conflict with \"one\": .data.k"));
    let forced = client.patch(&format!("{path}?fieldManager=two&force=true"), APPLY, config("2")).await.ok();
    assert_eq!(forced["data"]["k"], "2");
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "nonsense": 1});
    let strict = format!("{path}?fieldManager=two&force=true&fieldValidation=Strict");
    assert_eq!(client.patch(&strict, APPLY, wrong).await.code, 500);
}

#[tokio::test]
async fn status_is_owned_through_its_subresource() {
    let client = Client::new().await;
    client.post(DEPLOYMENTS, deployment("d")).await.ok();
    let patch = json!({"status": {"replicas": 1}});
    let patched = client.patch(&format!("{DEPLOYMENTS}/d/status"), MERGE, patch).await.ok();
    assert_eq!(patched["status"]["replicas"], 1);
    let entries = patched["metadata"]["managedFields"].as_array().unwrap();
    assert!(entries.iter().any(|e| e["subresource"] == "status" && e["manager"] == "test"), "{entries:?}");
}

/// What an applied configuration may hold does not depend on `fieldValidation`; only keys that are there twice do.
#[tokio::test]
async fn configurations_that_are_refused() {
    let client = Client::new().await;
    let apply = async |validation: &str, body: &str| {
        let path = format!("{CONFIG_MAPS}/a?fieldManager=m&fieldValidation={validation}");
        let answer = client.send("PATCH", &path, &[("content-type", APPLY)], body.to_owned()).await;
        let warning = answer.headers.get("warning").map(|w| w.to_str().unwrap().to_owned()).unwrap_or_default();
        let status: kybern_apimachinery::Value = serde_json::from_slice(&answer.bytes).unwrap();
        (answer.code.as_u16(), status["message"].as_str().unwrap_or("").to_owned(), warning)
    };
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n";
    let untyped = "failed to create typed patch object (/a; /v1, Kind=ConfigMap): ";
    for validation in ["Strict", "Warn", "Ignore"] {
        for (rest, message) in [
            ("  foo: 1\n", ".metadata.foo: field not declared in schema"),
            ("data: [1]\n", ".data: expected map, got &{[1]}"),
            ("data: {k: no}\n", ".data.k: expected string, got &value.valueUnstructured{Value:false}"),
        ] {
            let expect = (500, format!("{untyped}{message}"), String::new());
            assert_eq!(apply(validation, &format!("{head}{rest}")).await, expect, "{validation}");
        }
        for (body, message) in [
            (
                "[1]",
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}",
            ),
            ("", "invalid object type: /, Kind="),
            ("{apiVersion: v1, kind: Secret}", "invalid object type: /v1, Kind=Secret"),
        ] {
            assert_eq!(apply(validation, body).await, (400, message.to_owned(), String::new()));
        }
    }
    let twice = format!("{head}data:\n  k: a\n  k: b\n");
    let line = r#"line 7: key "k" already set in map"#;
    let message =
        format!("error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {line}");
    assert_eq!(apply("Strict", &twice).await, (400, message, String::new()));
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    let warning = format!("299 - \"{}\"", line.replace('"', "\\\""));
    assert_eq!(apply("Warn", &twice).await, (201, String::new(), warning));
    assert_eq!(apply("Ignore", &twice).await, (200, String::new(), String::new()));
    // More than an answer has room for headers.
    let often = format!("{head}data:\n{}", "  k: a\n".repeat(50_000));
    let path = format!("{CONFIG_MAPS}/a?fieldManager=m&force=true");
    let answer = client.send("PATCH", &path, &[("content-type", APPLY)], often).await;
    assert_eq!((answer.code.as_u16(), answer.headers.get_all("warning").iter().count()), (200, 100));
}

/// Each of them names no revision: whoever comes too late patches what is there then, as upstream does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_of_one_object_at_once_all_succeed() {
    let client = std::sync::Arc::new(Client::new().await);
    let path = format!("{CONFIG_MAPS}/a");
    client.post(CONFIG_MAPS, config_map("a", "0")).await.ok();
    let all = (0..40).map(|n| {
        let (client, path) = (client.clone(), path.clone());
        tokio::spawn(async move { client.patch(&path, MERGE, json!({"data": {format!("k{n}"): "v"}})).await.code })
    });
    for answer in all.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), 200);
    }
    assert_eq!(client.get(&path).await.ok()["data"].as_object().unwrap().len(), 41);
}
