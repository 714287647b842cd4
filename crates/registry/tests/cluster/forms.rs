//! One object of every kind with every field set, shown in every form that reads have. The published objects are no part of
//! this repository; `upstream_facts` tells where they are looked for.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use kybern_apimachinery::{Gvk, Value, object};
use kybern_apiserver::body;
use kybern_schema::proto;
use kybern_storage::memory::Memory;
use kybern_storage::{Storage, Txn};
use kybern_testbed::upstream_facts;

use crate::harness::{Cluster, admin};

const PARTIAL: &str = ";as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

async fn read(cluster: &Cluster, path: &str, accept: &str) -> Bytes {
    let request = Request::builder().method(Method::GET).uri(path).header("accept", accept);
    let mut request = request.body(body::empty()).unwrap();
    request.extensions_mut().insert(admin());
    let response = cluster.server.handle(request).await;
    assert_eq!(response.status(), 200, "{path} as {accept}");
    if !path.contains("watch=1") {
        return response.into_body().collect().await.unwrap().to_bytes();
    }
    // Of a watch, what comes first: there is one object.
    response.into_body().frame().await.unwrap().unwrap().into_data().unwrap()
}

/// The first object in a list of its own namespace, or of all that has none.
fn ours(list: &Value) -> Value {
    let items = list["items"].as_array().unwrap();
    items.iter().find(|item| object::name(item) == "nameValue").unwrap_or_else(|| panic!("{list}")).clone()
}

#[tokio::test]
async fn published_objects_are_shown_in_every_form() {
    let Some(objects) = upstream_facts("registry: published_objects_are_shown_in_every_form", "objects-v1.35") else {
        return;
    };
    let storage = Arc::new(Memory::default());
    let cluster = Cluster::on(storage.clone()).await;
    let builtin = kybern_schema::builtin();
    let kind = |group: &str, version: &str, kind: &str| builtin.kind(&Gvk::new(group, version, kind)).unwrap();
    let mut shown = 0;
    for row in builtin.resources().iter().filter(|r| r.verbs.contains(&"watch")) {
        let Gvk { group, version, kind: name } = row.gvk();
        let Some((prefix, stored)) = cluster.stored.get(&(group.clone(), row.resource.to_owned())) else { continue };
        // Other versions, and groups, are read from what is stored as this one.
        if *stored != row.gvk() {
            continue;
        }
        let file = format!("{}.{version}.{name}.json", if group.is_empty() { "core" } else { &group });
        let Ok(json) = std::fs::read(objects.join(file)) else { continue };
        let mut object: Value = serde_json::from_slice(&json).unwrap();
        object::remove(&mut object, &["metadata", "resourceVersion"]);
        if !row.namespaced {
            object::remove(&mut object, &["metadata", "namespace"]);
        }
        let place = if row.namespaced { "namespaceValue/" } else { "" };
        let key: Arc<str> = format!("/registry/{prefix}/{place}nameValue").into();
        storage.txn(Txn::create(key, object.to_string().into())).await.unwrap();

        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let place = if row.namespaced { "/namespaces/namespaceValue" } else { "" };
        let path = format!("{root}/{version}{place}/{}", row.resource);
        let list: Value = serde_json::from_slice(&read(&cluster, &path, "application/json").await).unwrap();
        let mut served = ours(&list);
        object::remove(&mut served, &["metadata", "resourceVersion"]);
        // A list says once what its items are.
        let mut listed = object.clone();
        object::remove(&mut listed, &["apiVersion"]);
        object::remove(&mut listed, &["kind"]);
        assert_eq!(served, listed, "{path}");

        let protobuf = read(&cluster, &path, proto::MEDIA_TYPE).await;
        let list_kind = kind(&group, &version, &format!("{name}List"));
        assert!(protobuf == proto::encode(&list_kind, &list).unwrap(), "{path} in protobuf");
        let yaml = read(&cluster, &path, "application/yaml").await;
        assert_eq!(kybern_schema::decode::yaml_to_value(&yaml).unwrap(), list, "{path} in YAML");
        let pretty = read(&cluster, &format!("{path}?pretty=true"), "application/json").await;
        assert_eq!(serde_json::from_slice::<Value>(&pretty).unwrap(), list, "{path} indented");

        let one = format!("{path}/nameValue");
        let served: Value = serde_json::from_slice(&read(&cluster, &one, "application/json").await).unwrap();
        let mut bare = served.clone();
        assert_eq!(object::remove(&mut bare, &["kind"]), Some(name.as_str().into()), "{one}");
        object::remove(&mut bare, &["apiVersion"]);
        assert_eq!(bare, ours(&list), "{one}");
        let protobuf = read(&cluster, &one, proto::MEDIA_TYPE).await;
        assert!(protobuf == proto::encode(&kind(&group, &version, &name), &served).unwrap(), "{one} in protobuf");

        let partial: Value =
            serde_json::from_slice(&read(&cluster, &path, &format!("application/json{PARTIAL}")).await).unwrap();
        assert_eq!(ours(&partial)["metadata"], served["metadata"], "metadata of {path}");
        let protobuf = read(&cluster, &path, &format!("{}{PARTIAL}", proto::MEDIA_TYPE)).await;
        let expect = proto::encode(&kind("meta.k8s.io", "v1", "PartialObjectMetadataList"), &partial).unwrap();
        assert!(protobuf == expect, "metadata of {path} in protobuf");

        let table = read(&cluster, &path, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
        let table: Value = serde_json::from_slice(&table).unwrap();
        let columns = table["columnDefinitions"].as_array().unwrap();
        let row_of = |row: &&Value| object::name(&row["object"]) == "nameValue";
        let shown_row = table["rows"].as_array().unwrap().iter().find(row_of).unwrap();
        let cells = shown_row["cells"].as_array().unwrap();
        // Upstream shows the age of an IPAddress without a column for it.
        assert!(cells.len() == columns.len() + usize::from(name == "IPAddress"), "{path}: {table}");
        let watch = format!("{path}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3DnameValue");
        let event: Value = serde_json::from_slice(&read(&cluster, &watch, "application/json").await).unwrap();
        assert_eq!((&event["type"], &event["object"]), (&"ADDED".into(), &served), "{watch}");
        let frame = read(&cluster, &watch, proto::MEDIA_TYPE).await;
        let body = proto::encode(&kind(&group, &version, &name), &served).unwrap();
        assert!(frame.windows(body.len()).any(|part| part == body), "{watch} in protobuf");
        shown += 1;
    }
    assert!(shown > 50, "only {shown} kinds");
}
