//! The published facts of v1.35, against what is served. They are no part of this repository; `upstream_facts` tells where
//! they are looked for.

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, Request};
use kybern_apimachinery::{Gvk, Value, object};
use kybern_apiserver::body;
use kybern_testbed::upstream_facts;

use crate::harness::{Cluster, admin};

/// The published document is of an early 1.35; the release, of which the types are, has put these in the place of those.
const RETIRED: [&str; 3] = [
    "certificates.k8s.io/v1alpha1 podcertificaterequests",
    "storage.k8s.io/v1alpha1 volumeattributesclasses",
    "storagemigration.k8s.io/v1alpha1 storageversionmigrations",
];
const NEWER: [&str; 4] = [
    "certificates.k8s.io/v1beta1 podcertificaterequests",
    "resource.k8s.io/v1alpha3 devicetaintrules/\"status\"",
    "scheduling.k8s.io/v1alpha1 workloads",
    "storagemigration.k8s.io/v1beta1 storageversionmigrations",
];

/// Every resource and subresource of an aggregated discovery document, with what they say of it.
fn resources(document: &Value) -> BTreeMap<String, String> {
    fn list(value: &Value) -> impl Iterator<Item = &Value> {
        value.as_array().into_iter().flatten()
    }
    let set = |value| -> BTreeSet<&str> { list(value).filter_map(Value::as_str).collect() };
    let mut all = BTreeMap::new();
    for group in list(&document["items"]) {
        for version in list(&group["versions"]) {
            let place = format!("{}/{}", object::name(group), version["version"].as_str().unwrap());
            for resource in list(&version["resources"]) {
                let name = resource["resource"].as_str().unwrap();
                let says = format!(
                    "{} {} {:?} {:?} {:?}",
                    resource["scope"],
                    resource["singularResource"],
                    set(&resource["verbs"]),
                    set(&resource["shortNames"]),
                    set(&resource["categories"])
                );
                all.insert(format!("{place} {name} {}", resource["responseKind"]["kind"]), says);
                for sub in list(&resource["subresources"]) {
                    let says = format!("{} {:?}", sub["responseKind"]["kind"], set(&sub["verbs"]));
                    all.insert(format!("{place} {name}/{}", sub["subresource"]), says);
                }
            }
        }
    }
    all
}

#[tokio::test]
async fn discovery_is_as_published() {
    let Some(path) = upstream_facts("registry: discovery_is_as_published", "discovery-v1.35.json") else { return };
    let published: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let cluster = Cluster::start().await;
    // Of the core group nothing is published.
    let accept = "application/json;v=v2;g=apidiscovery.k8s.io;as=APIGroupDiscoveryList";
    let mut request = Request::builder().uri("/apis").header("accept", accept).body(body::empty()).unwrap();
    request.extensions_mut().insert(admin());
    let bytes = body::read(cluster.server.handle(request).await.into_body()).await.unwrap();
    let served: Value = serde_json::from_slice(&bytes).unwrap();
    let (ours, theirs) = (resources(&served), resources(&published));
    assert!(theirs.len() > 100, "{}", theirs.len());
    let retired = |name: &str| RETIRED.iter().any(|r| name.starts_with(r));
    let missing: Vec<_> = theirs.iter().filter(|(n, says)| ours.get(*n) != Some(says) && !retired(n)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    let newer = |name: &str| NEWER.iter().any(|r| name.starts_with(r));
    let more: Vec<_> = ours.keys().filter(|name| !theirs.contains_key(*name) && !newer(name)).collect();
    assert!(more.is_empty(), "{more:#?}");
}

/// One object of every kind with every field set, to nonsense where it is text: it is read and written in every form, and
/// refused for what is wrong with its values only.
#[tokio::test]
async fn published_objects_are_understood() {
    let Some(objects) = upstream_facts("registry: published_objects_are_understood", "objects-v1.35") else { return };
    let cluster = Cluster::start().await;
    let mut taken = 0;
    for row in kybern_schema::builtin().resources().iter().filter(|r| r.verbs.contains(&"create")) {
        let Gvk { group, version, kind } = row.gvk();
        let file = format!("{}.{version}.{kind}", if group.is_empty() { "core" } else { &group });
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let place = if row.namespaced { "/namespaces/default" } else { "" };
        let path = format!("{root}/{version}{place}/{}?dryRun=All&fieldValidation=Strict", row.resource);
        let Ok(json) = std::fs::read(objects.join(format!("{file}.json"))) else { continue };
        let mut answers = Vec::new();
        for (ending, media) in
            [("json", "application/json"), ("yaml", "application/yaml"), ("pb", "application/vnd.kubernetes.protobuf")]
        {
            let Ok(bytes) = std::fs::read(objects.join(format!("{file}.{ending}"))) else { continue };
            let request = Request::builder().method(Method::POST).uri(&path).header("content-type", media);
            let mut request = request.body(body::full(bytes)).unwrap();
            request.extensions_mut().insert(admin());
            let response = cluster.server.handle(request).await;
            let code = response.status().as_u16();
            let answer = body::read(response.into_body()).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            answers.push((code, answer["reason"].clone(), answer["message"].clone()));
        }
        assert_eq!(answers.len(), 3, "{file}");
        // Its metadata, such as the namespace that it names, is nonsense as well.
        assert!(answers.iter().all(|a| *a == answers[0]), "{file}: {answers:#?}");
        assert!(matches!(answers[0].0, 201 | 400 | 403 | 422), "{file}: {answers:#?}");
        let object: Value = serde_json::from_slice(&json).unwrap();
        let ours = sane(object);
        let (code, answer) = cluster.as_user(admin(), Method::POST, &path, Some(ours)).await;
        assert!(matches!(code, 201 | 403 | 422), "{file}: {answer}");
        let text = answer["message"].as_str().unwrap_or("");
        assert!(code != 422 || answer["details"]["causes"].as_array().is_some_and(|c| !c.is_empty()), "{file}: {text}");
        taken += 1;
    }
    assert!(taken > 60, "{taken}");
}

/// With metadata that a creator may send.
fn sane(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| matches!(field.as_str(), "name" | "labels" | "annotations"));
    metadata.insert("name".into(), "sane".into());
    object
}
