//! Deletion, graceful and not.

use kybern_apimachinery::{Gvk, Value, json, object};

use crate::fixture::*;

#[tokio::test]
async fn a_deleted_object_is_gone_and_told() {
    let client = Client::new().await;
    let created = client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let status = client.delete(&path).await.ok();
    let details = json!({"name": "a", "kind": "configmaps", "uid": object::uid(&created)});
    assert_eq!(
        (&status["kind"], &status["status"], &status["details"]),
        (&json!("Status"), &json!("Success"), &details)
    );
    assert_eq!(client.get(&path).await.status(), (404, "configmaps \"a\" not found".to_owned()));
    assert_eq!(client.delete(&path).await.code, 404);
}

#[tokio::test]
async fn preconditions() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    let (code, text) = client.send("DELETE", &path, &[], options.to_string()).await.status();
    assert_eq!(code, 409);
    assert!(
        text.contains("ConfigMap \"a\": the UID in the precondition (other) does not match the UID in record ("),
        "{text}"
    );
    let options = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(client.send("DELETE", &path, &[], options.to_string()).await.code, 409);
}

/// client-go sends options in the version of the resource's group, as JSON, YAML and protobuf.
#[tokio::test]
async fn options_are_read_in_every_version() {
    let client = Client::new().await;
    let options = kybern_schema::builtin().kind(&Gvk::new("meta.k8s.io", "v1", "DeleteOptions")).unwrap();
    let versions = ["", "v1", "apps/v1", "meta.k8s.io/v1", "policy/v1beta1", "example.com/v7"];
    for (version, collection) in versions.into_iter().flat_map(|v| [(v, CONFIG_MAPS), (v, DEPLOYMENTS)]) {
        for media in ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"] {
            client.post(collection, object_of(collection)).await.ok();
            let told = json!({"kind": "DeleteOptions", "apiVersion": version, "preconditions": {"uid": "other"}});
            let encode = |mut object: Value| {
                if version.is_empty() {
                    object::remove(&mut object, &["apiVersion"]);
                }
                match media {
                    "application/vnd.kubernetes.protobuf" => {
                        let message = kybern_schema::proto::encode_message(&options, &object).unwrap();
                        kybern_schema::proto::enclose(version, "DeleteOptions", &message)
                    }
                    _ => object.to_string().into_bytes(),
                }
            };
            let path = format!("{collection}/a");
            let headers = [("content-type", media)];
            // The options are obeyed, not only let through.
            let (code, text) = client.send("DELETE", &path, &headers, encode(told.clone())).await.status();
            assert!(code == 409 && text.contains("precondition (other)"), "{version} {media}: {code} {text}");
            let mut told = told;
            told["preconditions"] = Value::Null;
            client.send("DELETE", &path, &headers, encode(told.clone())).await.ok();
            client.post(collection, object_of(collection)).await.ok();
            client.send("DELETE", collection, &headers, encode(told)).await.ok();
            assert_eq!(client.get(&path).await.code, 404);
        }
    }
}

fn object_of(collection: &str) -> Value {
    if collection == CONFIG_MAPS { config_map("a", "1") } else { deployment("a") }
}

#[tokio::test]
async fn a_body_of_another_kind_deletes_nothing() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let pod = kybern_schema::proto::enclose("v1", "Pod", &[]);
    let json = br#"{"kind":"Pod","apiVersion":"v1"}"#.to_vec();
    for (media, body) in [("application/json", json), ("application/vnd.kubernetes.protobuf", pod)] {
        let (code, text) = client.send("DELETE", &path, &[("content-type", media)], body).await.status();
        assert!(code == 400 && text.starts_with("no kind \"Pod\" is registered for version \"v1\""), "{code} {text}");
    }
    client.get(&path).await.ok();
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let client = Client::new().await;
    let mut object = config_map("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.post(CONFIG_MAPS, object).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let mut pending = client.delete(&path).await.ok();
    assert!(object::is_deleting(&pending), "{pending}");
    assert_eq!(client.get(&path).await.ok(), pending);
    pending["metadata"]["finalizers"] = json!(["example.com/hold", "example.com/more"]);
    assert_eq!(client.put(&path, pending.clone()).await.code, 422, "no new finalizers");
    pending["metadata"]["finalizers"] = json!([]);
    client.put(&path, pending).await.ok();
    assert_eq!(client.get(&path).await.code, 404);
}

#[tokio::test]
async fn propagation_is_a_finalizer() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("a", "1")).await.ok();
    let pending = client.delete(&format!("{CONFIG_MAPS}/a?propagationPolicy=Foreground")).await.ok();
    assert_eq!(pending["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let pending = client.delete(&format!("{CONFIG_MAPS}/a?propagationPolicy=Orphan")).await.ok();
    assert_eq!(pending["metadata"]["finalizers"], json!(["orphan"]));
    client.delete(&format!("{CONFIG_MAPS}/a?propagationPolicy=Background")).await.ok();
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
}

#[tokio::test]
async fn a_scheduled_pod_gets_its_grace() {
    let client = Client::new().await;
    client.post(PODS, pod("a", "n1")).await.ok();
    let path = format!("{PODS}/a");
    let pending = client.delete(&path).await.ok();
    assert_eq!(pending["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = client.delete(&format!("{path}?gracePeriodSeconds=5")).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    // The kubelet's last word.
    let last = client.delete(&format!("{path}?gracePeriodSeconds=0")).await.ok();
    assert_eq!(last["kind"], "Pod");
    assert_eq!(client.get(&path).await.code, 404);
    client.post(PODS, pod("b", "")).await.ok();
    client.delete(&format!("{PODS}/b")).await.ok();
    assert_eq!(client.get(&format!("{PODS}/b")).await.code, 404);
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_finalized() {
    let client = Client::new().await;
    client.post("/api/v1/namespaces", json!({"metadata": {"name": "x"}})).await.ok();
    let mut pending = client.delete("/api/v1/namespaces/x").await.ok();
    assert_eq!(pending["status"]["phase"], "Terminating");
    pending["spec"]["finalizers"] = json!([]);
    client.put("/api/v1/namespaces/x/finalize", pending).await.ok();
    assert_eq!(client.get("/api/v1/namespaces/x").await.code, 404);
}

#[tokio::test]
async fn a_collection() {
    let client = Client::new().await;
    for (name, value) in [("a", "1"), ("b", "1"), ("c", "2")] {
        client.post(CONFIG_MAPS, config_map(name, value)).await.ok();
    }
    let deleted = client.delete(&format!("{CONFIG_MAPS}?labelSelector=v%3D1")).await.ok();
    assert_eq!(deleted["kind"], "ConfigMapList");
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = client.get(CONFIG_MAPS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_collection_goes_in_groups() {
    let directory = tempfile::tempdir().unwrap();
    let storage = kybern_storage::sqlite::Sqlite::open(directory.path(), Default::default()).unwrap();
    let client = Client::on(std::sync::Arc::new(storage)).await;
    let mut held = config_map("held", "");
    object::set(&mut held, &["metadata", "finalizers"], json!(["a/b"]));
    client.post(CONFIG_MAPS, held).await.ok();
    // Fewer at once than the server takes.
    for hundred in 0..3 {
        let made = (0..100).map(|i| {
            let (client, name) = (&client, format!("c{hundred}-{i}"));
            async move { client.post(CONFIG_MAPS, config_map(&name, "")).await.ok() }
        });
        futures_util::future::join_all(made).await;
    }
    let before = client.get(CONFIG_MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let deleted = client.delete(CONFIG_MAPS).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 301);
    let left = client.get(CONFIG_MAPS).await.ok();
    assert_eq!(left["items"].as_array().unwrap().len(), 1, "what has a finalizer is marked");
    let events = client.get(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1&resourceVersion={before}")).await;
    let lines = String::from_utf8_lossy(&events.bytes).into_owned();
    let revisions: std::collections::BTreeSet<u64> =
        lines.lines().map(|line| revision(&serde_json::from_str::<Value>(line).unwrap()["object"])).collect();
    assert_eq!((revisions.len(), lines.lines().count()), (301, 301), "each has a revision of its own");
}
