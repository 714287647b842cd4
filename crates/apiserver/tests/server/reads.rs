//! GET of objects and collections, in every form.

use std::time::Duration;

use kybern_apimachinery::{Value, json, object};

use crate::fixture::*;

async fn with_five() -> Client {
    let client = Client::new().await;
    for i in 0..5 {
        client.post(CONFIG_MAPS, config_map(&format!("c{i}"), &(i % 2).to_string())).await.ok();
    }
    client.post("/api/v1/namespaces/other/configmaps", config_map("c9", "9")).await.ok();
    client
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(object::name).collect()
}

#[tokio::test]
async fn lists_select() {
    let client = with_five().await;
    let check = async |path: &str, expect: &[&str]| assert_eq!(names(&client.get(path).await.ok()), expect, "{path}");
    check(CONFIG_MAPS, &["c0", "c1", "c2", "c3", "c4"]).await;
    check("/api/v1/configmaps", &["c0", "c1", "c2", "c3", "c4", "c9"]).await;
    check(&format!("{CONFIG_MAPS}?labelSelector=v%3D1"), &["c1", "c3"]).await;
    check(&format!("{CONFIG_MAPS}?labelSelector=v+notin+(1)"), &["c0", "c2", "c4"]).await;
    check(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc2"), &["c2"]).await;
    check(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name!%3Dc2"), &["c0", "c1", "c3", "c4"]).await;
    check("/api/v1/configmaps?fieldSelector=metadata.namespace%3Dother", &["c9"]).await;
    let bad = client.get(&format!("{CONFIG_MAPS}?fieldSelector=data.k%3D1")).await;
    let text = r#""data.k" is not a known field selector: only "metadata.name", "metadata.namespace""#;
    assert_eq!(bad.status(), (400, text.to_owned()));
    client.post(PODS, pod("a", "n1")).await.ok();
    client.post(PODS, pod("b", "n2")).await.ok();
    check(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn2,status.phase%3DPending"), &["b"]).await;
    let bad = client.get(&format!("{PODS}?fieldSelector=spec.x%3D1")).await;
    assert_eq!(bad.status(), (400, "field label not supported: spec.x".to_owned()));
}

#[tokio::test]
async fn a_list_in_pages_is_of_one_revision() {
    let client = with_five().await;
    let first = client.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    assert_eq!(names(&first), ["c0", "c1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    client.delete(&format!("{CONFIG_MAPS}/c3")).await.ok();
    client.post(CONFIG_MAPS, config_map("c31", "")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = client.get(&format!("{CONFIG_MAPS}?limit=10&continue={token}")).await.ok();
    assert_eq!(names(&rest), ["c2", "c3", "c4"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(rest["metadata"].get("continue").is_none());
    assert_eq!(client.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.code, 400);
}

#[tokio::test]
async fn a_list_of_an_old_revision() {
    let client = with_five().await;
    let before = client.get(CONFIG_MAPS).await.ok();
    let revision = object::str_at(&before, &["metadata", "resourceVersion"]).to_owned();
    client.delete(&format!("{CONFIG_MAPS}/c0")).await.ok();
    client.put(&format!("{CONFIG_MAPS}/c1"), config_map("c1", "new")).await.ok();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(client.get(&exact).await.ok(), before);
    let newer = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&client.get(&newer).await.ok()), ["c1", "c2", "c3", "c4"]);
    assert_eq!(names(&client.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.ok()).len(), 4);
}

/// Upstream's store compacts what is older than five minutes, whichever kinds have changed since.
#[tokio::test(start_paused = true)]
async fn what_lists_go_on_from_expires_with_age() {
    let client = with_five().await;
    let first = client.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    let next = |token: &Value| format!("{CONFIG_MAPS}?limit=2&continue={}", token.as_str().unwrap());
    let exact = format!("{CONFIG_MAPS}?resourceVersionMatch=Exact&resourceVersion=");
    let exact = format!("{exact}{}", first["metadata"]["resourceVersion"].as_str().unwrap());
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(
        names(&client.get(&next(&first["metadata"]["continue"])).await.ok()),
        ["c2", "c3"],
        "nothing followed it"
    );
    client.put(&format!("{CONFIG_MAPS}/c4"), config_map("c4", "new")).await.ok();
    tokio::time::advance(Duration::from_secs(250)).await;
    assert_eq!(names(&client.get(&next(&first["metadata"]["continue"])).await.ok()), ["c2", "c3"]);
    tokio::time::advance(Duration::from_secs(60)).await;
    let expired = client.get(&next(&first["metadata"]["continue"])).await;
    assert_eq!(expired.code, 410);
    let status: Value = serde_json::from_slice(&expired.bytes).unwrap();
    assert_eq!(status["reason"], "Expired");
    let rest = client.get(&next(&status["metadata"]["continue"])).await.ok();
    assert_eq!((names(&rest), &rest["metadata"]["remainingItemCount"]), (vec!["c2", "c3"], &json!(1)));
    assert_eq!(client.get(&exact).await.code, 410);
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_never_reached() {
    let client = Client::new().await;
    let (code, text) = client.get(&format!("{CONFIG_MAPS}?resourceVersion=999")).await.status();
    assert_eq!((code, text.as_str()), (504, "Timeout: Too large resource version: 999, current: 1"));
}

#[tokio::test]
async fn tables_and_metadata() {
    let client = with_five().await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let got = client.send("GET", CONFIG_MAPS, &table, "").await.ok();
    assert_eq!((&got["kind"], &got["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(got["columnDefinitions"][0]["name"], "Name");
    assert_eq!(got["rows"][1]["cells"], json!(["c1", "ConfigMap"]));
    assert_eq!(got["rows"][1]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(object::name(&got["rows"][1]["object"]), "c1");
    let one = client.send("GET", &format!("{CONFIG_MAPS}/c1?includeObject=Object"), &table, "").await.ok();
    assert_eq!(one["rows"][0]["object"]["data"]["k"], "1");
    let metadata = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let got = client.send("GET", CONFIG_MAPS, &metadata, "").await.ok();
    assert_eq!((got["kind"].as_str(), names(&got).len()), (Some("PartialObjectMetadataList"), 5));
    assert!(got["items"][0].get("data").is_none() && !object::uid(&got["items"][0]).is_empty());
    let metadata = [("accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let answer = client.send("GET", CONFIG_MAPS, &metadata, "").await;
    assert!(answer.code.is_success() && answer.bytes.starts_with(b"k8s\0"), "{}", answer.code);
}

#[tokio::test]
async fn yaml_protobuf_and_gzip() {
    let client = with_five().await;
    let path = format!("{CONFIG_MAPS}/c1");
    let yaml = client.send("GET", &path, &[("accept", "application/yaml")], "").await;
    assert!(String::from_utf8_lossy(&yaml.bytes).contains("kind: ConfigMap"));
    let list = kybern_schema::builtin().kind(&kybern_apimachinery::Gvk::new("", "v1", "ConfigMapList")).unwrap();
    let protobuf = client.send("GET", CONFIG_MAPS, &[("accept", "application/vnd.kubernetes.protobuf")], "").await;
    let decoded = kybern_schema::proto::decode(&list, &protobuf.bytes).unwrap();
    assert_eq!(names(&decoded), ["c0", "c1", "c2", "c3", "c4"]);
    let small = client.send("GET", CONFIG_MAPS, &[("accept-encoding", "gzip")], "").await;
    assert!(!small.headers.contains_key("content-encoding"));
    client.post(CONFIG_MAPS, config_map("big", &"x".repeat(60))).await.ok();
    let big = json!({"data": {"k": "y".repeat(200_000)}});
    client.patch(&format!("{CONFIG_MAPS}/big"), "application/merge-patch+json", big).await.ok();
    let large = client.send("GET", CONFIG_MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(large.headers["content-encoding"], "gzip");
    assert!(large.bytes.len() < 20_000 && large.bytes.starts_with(&[0x1f, 0x8b]));
}
