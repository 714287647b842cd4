//! Kinds that are served only where somebody asks for them: what is stored in an older form is written anew, and there is a
//! bundle by which serving certificates are known.

use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::Patch;
use kybern_storage::{RangeRequest, Storage};

use crate::fixture::Cluster;

/// In which versions the objects of a kind are stored.
async fn stored(cluster: &Cluster) -> Vec<String> {
    let request = RangeRequest { prefix: "/registry/example.com/widgets/", after: "", limit: 1000, at: None };
    let page = cluster.storage.range(request).await.expect("a page");
    let version =
        |value: &[u8]| serde_json::from_slice::<Value>(value).expect("JSON")["apiVersion"].as_str().unwrap().to_owned();
    page.items.iter().map(|item| version(&item.value)).collect()
}

async fn migrate(cluster: &Cluster, name: &str, resource: &str) -> Value {
    let migrations = cluster.client.raw(&Gvr::new("storagemigration.k8s.io", "v1beta1", "storageversionmigrations"));
    let migration = json!({
        "apiVersion": "storagemigration.k8s.io/v1beta1", "kind": "StorageVersionMigration", "metadata": {"name": name},
        "spec": {"resource": {"group": "example.com", "resource": resource}},
    });
    migrations.create(&migration).await.expect("created");
    let is = |status: &Value, kind: &str| {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
    };
    let status = async |_: &Cluster| migrations.get("", name).await.expect("there")["status"].clone();
    cluster.until("the end of the migration", async |c| is(&status(c).await, "Succeeded")).await;
    let status = status(cluster).await;
    assert!(!is(&status, "Running"), "{status}");
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_move_to_the_version_that_is_stored_now() {
    let cluster = Cluster::start().await;
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        })
    };
    cluster
        .create(
            json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {"name": "widgets.example.com"},
                "spec": {
                    "group": "example.com", "scope": "Namespaced",
                    "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
                    "versions": [version("v1", true), version("v2", false)],
                },
            }),
            "customresourcedefinitions",
        )
        .await;
    let widgets = cluster.client.raw(&Gvr::new("example.com", "v1", "widgets"));
    cluster.until("the kind", async |_| widgets.list("default", &Default::default()).await.is_ok()).await;
    for n in 0..130 {
        let widget = json!({
            "apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {"name": format!("w{n}"), "namespace": "default"}, "spec": {"n": n},
        });
        cluster.create(widget, "widgets").await;
    }
    let other = Patch::Merge(json!({"spec": {"versions": [version("v1", false), version("v2", true)]}}));
    let definitions = cluster.client.raw(&Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"));
    definitions.patch("", "widgets.example.com", &other, None).await.expect("patched");
    let second = cluster.client.raw(&Gvr::new("example.com", "v2", "widgets"));
    let stored_as_v2 = async |_: &Cluster| {
        let widget = json!({
            "apiVersion": "example.com/v2", "kind": "Widget", "metadata": {"name": "probe", "namespace": "default"},
        });
        let _ = second.delete("default", "probe", &Default::default()).await;
        second.create(&widget).await.is_ok() && stored(&cluster).await.iter().any(|v| v == "example.com/v2")
    };
    cluster.until("the version that is stored", stored_as_v2).await;
    assert_eq!(stored(&cluster).await.iter().filter(|v| *v == "example.com/v1").count(), 130);
    let status = migrate(&cluster, "widgets", "widgets").await;
    assert!(status["resourceVersion"].as_str().is_some_and(|v| v.parse::<u64>().is_ok()), "{status}");
    assert!(stored(&cluster).await.iter().all(|v| v == "example.com/v2"));
    let kept = widgets.get("default", "w7").await.expect("there");
    assert_eq!(kept["spec"]["n"], 7);
    // Nothing to do is done, too.
    let before = kept["metadata"]["resourceVersion"].clone();
    migrate(&cluster, "again", "widgets").await;
    assert_eq!(widgets.get("default", "w7").await.expect("there")["metadata"]["resourceVersion"], before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serving_certificates_are_known_by_a_trust_bundle() {
    let cluster = Cluster::start().await;
    let bundles = cluster.client.raw(&Gvr::new("certificates.k8s.io", "v1beta1", "clustertrustbundles"));
    let there = async || bundles.list("", &Default::default()).await.expect("a list");
    let published = async |_: &Cluster| {
        there().await.iter().map(|b| b["spec"]["trustBundle"].clone()).collect::<Vec<_>>() == [json!(cluster.ca)]
    };
    cluster.until("the bundle", published).await;
    let name = there().await[0]["metadata"]["name"].as_str().unwrap().to_owned();
    bundles.delete("", &name, &Default::default()).await.expect("deleted");
    cluster.until("the bundle again", published).await;
}
