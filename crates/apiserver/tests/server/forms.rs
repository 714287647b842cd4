//! Every form of an answer holds the same: protobuf that is made of stored bytes is what the JSON's tree would be.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::{Gvk, Value, json, object};
use kybern_schema::proto;
use kybern_schema::types::KindType;
use kybern_storage::memory::Memory;
use kybern_storage::{Storage, Txn};

use crate::fixture::*;

const PROTOBUF: [(&str, &str); 1] = [("accept", "application/vnd.kubernetes.protobuf")];
const PARTIAL: [(&str, &str); 1] =
    [("accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];

fn kind(group: &str, version: &str, name: &str) -> KindType {
    kybern_schema::builtin().kind(&Gvk::new(group, version, name)).unwrap()
}

fn unzipped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

/// The protobuf of a list is that of its JSON, and has the length that was announced.
async fn same(client: &Client, path: &str) -> usize {
    let list: Value = client.get(path).await.ok();
    let name = object::kind(&list).to_owned();
    let (group, version) = object::api_version(&list).split_once('/').unwrap_or(("", object::api_version(&list)));
    let expect = proto::encode(&kind(group, version, &name), &list).unwrap();
    // Lengths are found by the first, and known to the second.
    for time in 1..=2 {
        let got = client.send("GET", path, &PROTOBUF, "").await;
        assert_eq!(got.code, 200);
        assert_eq!(got.headers["content-type"], "application/vnd.kubernetes.protobuf");
        assert_eq!(got.headers["content-length"].to_str().unwrap(), got.bytes.len().to_string(), "{path}, {time}");
        assert!(got.bytes == expect, "{path}, time {time}: {} and {} bytes", got.bytes.len(), expect.len());
    }
    let zip = [PROTOBUF[0], ("accept-encoding", "gzip")];
    let got = client.send("GET", path, &zip, "").await;
    if got.headers.contains_key("content-encoding") {
        assert!(unzipped(&got.bytes) == expect, "{path}, compressed");
    } else {
        assert!(got.bytes == expect && expect.len() < 200_000, "{path}");
    }
    let partial =
        client.send("GET", path, &[("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")], "");
    let expect = proto::encode(&kind("meta.k8s.io", "v1", "PartialObjectMetadataList"), &partial.await.ok()).unwrap();
    let got = client.send("GET", path, &PARTIAL, "").await;
    assert!(got.bytes == expect, "metadata of {path}");
    list["items"].as_array().unwrap().len()
}

#[tokio::test]
async fn lists_in_protobuf_are_those_in_json() {
    let client = Client::new().await;
    assert_eq!(same(&client, CONFIG_MAPS).await, 0);
    for i in 0..40 {
        let name = format!("c{i:02}");
        client.post(CONFIG_MAPS, config_map(&name, &(i % 3).to_string())).await.ok();
        // Together more than is kept from when lengths are found, and single ones more than a piece.
        let size = if i % 10 == 0 { 300_000 } else { i * 3000 };
        let big = json!({"data": {"big": "é\"\\".repeat(size / 4), "empty": ""}});
        client.patch(&format!("{CONFIG_MAPS}/{name}"), "application/merge-patch+json", big).await.ok();
        client.post(PODS, pod(&format!("p{i}"), "n")).await.ok();
        client.post(DEPLOYMENTS, deployment(&format!("d{i}"))).await.ok();
    }
    assert_eq!(same(&client, CONFIG_MAPS).await, 40);
    assert_eq!(same(&client, &format!("{CONFIG_MAPS}?labelSelector=v%3D1")).await, 13);
    assert_eq!(same(&client, &format!("{CONFIG_MAPS}?limit=30")).await, 30);
    assert_eq!(same(&client, PODS).await, 40);
    assert_eq!(same(&client, DEPLOYMENTS).await, 40);
}

#[tokio::test]
async fn an_object_in_protobuf_is_that_in_json() {
    let client = Client::new().await;
    client.post(DEPLOYMENTS, deployment("d")).await.ok();
    let path = format!("{DEPLOYMENTS}/d");
    let object: Value = client.get(&path).await.ok();
    let got = client.send("GET", &path, &PROTOBUF, "").await;
    assert_eq!(got.bytes, proto::encode(&kind("apps", "v1", "Deployment"), &object).unwrap());
    let partial = [("accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")];
    let got = client.send("GET", &path, &partial, "").await;
    let partial =
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
    assert_eq!(got.bytes, proto::encode(&kind("meta.k8s.io", "v1", "PartialObjectMetadata"), &partial).unwrap());
    // A table has no such form.
    let table = [("accept", "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io")];
    assert_eq!(client.send("GET", &path, &table, "").await.code, 406);
}

/// The frames of a watch in protobuf.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (frame, after) = rest.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        bytes = after;
    }
    frames
}

#[tokio::test(start_paused = true)]
async fn watches_in_protobuf_are_those_in_json() {
    let client = Client::new().await;
    for i in 0..3 {
        client.post(PODS, pod(&format!("p{i}"), "n")).await.ok();
    }
    client.delete(&format!("{PODS}/p1?gracePeriodSeconds=0")).await.ok();
    let event = kind("", "v1", "WatchEvent");
    for (query, accept) in [
        ("resourceVersion=1", ""),
        ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", ""),
        ("resourceVersion=1", ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
        (
            "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
            ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        ),
    ] {
        let path = format!("{PODS}?watch=1&timeoutSeconds=1&{query}");
        let json = client.send("GET", &path, &[("accept", &format!("application/json{accept}"))], "").await;
        let protobuf = format!("application/vnd.kubernetes.protobuf{accept}");
        let protobuf = client.send("GET", &path, &[("accept", &protobuf)], "").await;
        assert_eq!(protobuf.headers["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
        let expect: Vec<Value> = json
            .bytes
            .split(|b| *b == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        let got = frames(&protobuf.bytes);
        assert_eq!(got.len(), expect.len());
        assert!(got.len() >= 3);
        for (frame, expect) in got.iter().zip(&expect) {
            // The object of an event is a whole body of its own.
            let group = if accept.is_empty() { "" } else { "meta.k8s.io" };
            let whole = kind(group, "v1", object::kind(&expect["object"]));
            let object = proto::encode(&whole, &expect["object"]).unwrap();
            let read = proto::decode_message(&event, frame).unwrap();
            assert_eq!(read["type"], expect["type"]);
            assert!(frame.windows(object.len()).any(|part| part == object), "{expect}");
        }
    }
    // Objects have remembered their lengths as events, and lists make use of them.
    let pods = client.server.cache().kind("pods").unwrap();
    assert!(pods.get("ns", "p0").unwrap().message_length().is_some());
    assert_eq!(same(&client, PODS).await, 2);
}

#[tokio::test]
async fn after_a_start_the_lengths_of_many_objects_are_found_ahead() {
    let storage = Arc::new(Memory::default());
    for i in 0..1_100 {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{i}"), "namespace": "ns"},
            "data": {"text": "é".repeat(i)}});
        let key = format!("/registry/configmaps/ns/c{i}");
        storage.txn(Txn::create(key.into(), object.to_string().into())).await.unwrap();
    }
    let client = Client::on(storage).await;
    let kind = client.server.cache().kind("configmaps").unwrap();
    let all = || (0..1_100).all(|i| kind.get("ns", &format!("c{i}")).unwrap().message_length().is_some());
    let found = async {
        while !all() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.expect("nobody asked for a list, and nobody need");
    assert_eq!(same(&client, CONFIG_MAPS).await, 1_100);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_an_error_in_protobuf() {
    use kybern_storage::{Storage, Txn, memory::Memory};
    let storage = std::sync::Arc::new(Memory::default());
    let bad = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad","namespace":"ns"},"data":{"k":7}}"#;
    storage.txn(Txn::create("/registry/configmaps/ns/bad".into(), bad.into())).await.unwrap();
    let client = Client::on(storage).await;
    client.post(CONFIG_MAPS, config_map("good", "1")).await.ok();
    for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}/bad")] {
        let answer = client.send("GET", &path, &PROTOBUF, "").await;
        assert_eq!(answer.code, 500, "{path}");
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert!(text.contains("/registry/configmaps/ns/bad: field data.k: 7 is of a wrong type"), "{text}");
    }
    assert_eq!(client.send("GET", &format!("{CONFIG_MAPS}/good"), &PROTOBUF, "").await.code, 200);
}

#[tokio::test]
async fn lists_in_yaml_are_those_in_json() {
    let client = Client::new().await;
    let empty = client.send("GET", CONFIG_MAPS, &[("accept", "application/yaml")], "").await;
    assert!(String::from_utf8_lossy(&empty.bytes).ends_with("items: []\n"), "{:?}", empty.bytes);
    for n in 0..300 {
        let data = json!({"text": "a: b\n".repeat(300), "odd": "- \u{1}é", "number": "1e3"});
        let object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{n}")}, "data": data});
        client.post(CONFIG_MAPS, object).await.ok();
    }
    for shape in ["", ";as=Table;g=meta.k8s.io;v=v1", ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"] {
        let json = client.send("GET", CONFIG_MAPS, &[("accept", &format!("application/json{shape}"))], "").await;
        let yaml = client.send("GET", CONFIG_MAPS, &[("accept", &format!("application/yaml{shape}"))], "").await;
        let read = kybern_schema::decode::yaml_to_value(&yaml.bytes).unwrap();
        let json: Value = serde_json::from_slice(&json.bytes).unwrap();
        assert!(json == read, "{shape}: {}", String::from_utf8_lossy(&yaml.bytes[..2000]));
    }
}

#[tokio::test]
async fn forms_that_are_not_served_are_refused_as_upstream_refuses_them() {
    let client = Client::new().await;
    client.post(CONFIG_MAPS, config_map("c", "1")).await.ok();
    let all = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    let cbor = [("accept", "application/cbor")];
    for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}/c")] {
        assert_eq!(client.send("GET", &path, &cbor, "").await.status(), (406, all.to_owned()));
    }
    let watch = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1");
    for accept in ["application/cbor-seq", "application/cbor"] {
        assert_eq!(client.send("GET", &watch, &[("accept", accept)], "").await.code, 406, "{accept}");
    }
    let yaml = client.send("GET", &watch, &[("accept", "application/yaml")], "").await;
    assert_eq!(yaml.code, 406);
    let text = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert!(String::from_utf8_lossy(&yaml.bytes).replace("\n  ", " ").contains(text), "{:?}", yaml.bytes);
    let sent = client.send("POST", CONFIG_MAPS, &[("content-type", "application/cbor")], "\u{1}").await;
    let text = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(sent.status(), (415, text.to_owned()));
    let path = format!("{CONFIG_MAPS}/c");
    let applied = client.send("PATCH", &path, &[("content-type", "application/apply-patch+cbor")], "\u{1}").await;
    assert_eq!(applied.code, 415);
}

/// A large list is the same in the forms that are for people.
#[tokio::test]
async fn large_lists_for_people() {
    let client = Client::new().await;
    for i in 0..8 {
        let mut map = config_map(&format!("c{i}"), "1");
        map["data"] = json!({"big": "{\"a\": [1,2],\n}".repeat(4000), "empty": ""});
        client.post(CONFIG_MAPS, map).await.ok();
    }
    let list = client.get(CONFIG_MAPS).await.ok();
    let pretty = client.get(&format!("{CONFIG_MAPS}?pretty=true")).await;
    assert_eq!(pretty.ok(), list);
    assert!(pretty.bytes.starts_with(b"{\n  \"kind\": \"ConfigMapList\",\n  \"apiVersion\": \"v1\",\n"));
    assert!(pretty.bytes.ends_with(b"}\n"));
    let zip = client.send("GET", &format!("{CONFIG_MAPS}?pretty=1"), &[("accept-encoding", "gzip")], "").await;
    assert!(unzipped(&zip.bytes) == pretty.bytes);
    let yaml = client.send("GET", CONFIG_MAPS, &[("accept", "application/yaml")], "").await;
    assert_eq!(kybern_schema::decode::yaml_to_value(&yaml.bytes).unwrap(), list);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("accept-encoding", "gzip")];
    let table = client.send("GET", CONFIG_MAPS, &table, "").await;
    let table: Value = serde_json::from_slice(&unzipped(&table.bytes)).unwrap();
    assert_eq!(table["rows"].as_array().unwrap().len(), 8);
}
