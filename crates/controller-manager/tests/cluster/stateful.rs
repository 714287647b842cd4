//! A stateful set through its life: its pods keep their names and claims.

use kybern_api::Object;
use kybern_api::apps::v1::StatefulSet;
use kybern_api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kybern_apimachinery::{Value, json};
use kybern_client::{DeleteOptions, Patch, Propagation};

use crate::fixture::Cluster;
use crate::template;

fn set(replicas: i32, image: &str) -> Value {
    let mut template = template("web", image);
    template["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "www", "mountPath": "/data"}]);
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "serviceName": "web", "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": template, "volumeClaimTemplates": [{"metadata": {"name": "www"}, "spec": claim}],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"},
        },
    })
}

/// Whether all is as the newest spec wants it.
async fn is_done(cluster: &Cluster, replicas: i32) -> bool {
    let set = cluster.get::<StatefulSet>("default", "web").await.expect("the set");
    let status = set.status.unwrap_or_default();
    status.observed_generation == set.metadata.generation
        && (status.replicas, status.available_replicas) == (replicas, Some(replicas))
        && status.updated_replicas == Some(replicas)
        && status.current_revision == status.update_revision
}

async fn names<K: Object>(cluster: &Cluster) -> Vec<String> {
    let mut names: Vec<String> = cluster.list::<K>("default").await.iter().map(|o| o.name().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_keeps_its_names_and_claims() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create(set(3, "i:1"), "statefulsets").await;
    cluster.until("three pods", async |c| is_done(c, 3).await).await;
    assert_eq!(names::<Pod>(&cluster).await, ["web-0", "web-1", "web-2"]);
    assert_eq!(names::<PersistentVolumeClaim>(&cluster).await, ["www-web-0", "www-web-1", "www-web-2"]);
    let text = "Create Pod web-0 in StatefulSet web successful";
    let is_it = |event: &Event| event.message.as_deref() == Some(text);
    cluster.until(text, async |c| c.list::<Event>("default").await.iter().any(is_it)).await;

    // One that failed is made anew.
    let failed = cluster.get::<Pod>("default", "web-1").await.unwrap();
    let status = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    cluster.client.patch::<Pod>("default", "web-1", &status, Some("status")).await.unwrap();
    cluster
        .until("another web-1", async |c| {
            let pod = c.get::<Pod>("default", "web-1").await;
            pod.is_some_and(|pod| pod.uid() != failed.uid()) && is_done(c, 3).await
        })
        .await;

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "i:2"}]}}}});
    cluster.client.patch::<StatefulSet>("default", "web", &Patch::Strategic(image), None).await.unwrap();
    cluster.until("the update", async |c| is_done(c, 3).await).await;
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.containers[0].image.clone());
    assert!(cluster.list::<Pod>("default").await.iter().all(|pod| image(pod).as_deref() == Some("i:2")));

    let fewer = Patch::Merge(json!({"spec": {"replicas": 1}}));
    cluster.client.patch::<StatefulSet>("default", "web", &fewer, None).await.unwrap();
    cluster.until("one pod", async |c| is_done(c, 1).await && names::<Pod>(c).await == ["web-0"]).await;
    cluster
        .until("the end of the others' claims", async |c| names::<PersistentVolumeClaim>(c).await == ["www-web-0"])
        .await;

    // The next set takes the pod over as it is.
    let pod = cluster.get::<Pod>("default", "web-0").await.unwrap();
    let orphan = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
    cluster.client.delete::<StatefulSet>("default", "web", &orphan).await.unwrap();
    cluster.until("the end of the set", async |c| c.get::<StatefulSet>("default", "web").await.is_none()).await;
    cluster.create(set(2, "i:2"), "statefulsets").await;
    cluster.until("two pods", async |c| is_done(c, 2).await).await;
    assert_eq!(cluster.get::<Pod>("default", "web-0").await.unwrap().uid(), pod.uid());
}
