//! Claims and volumes against an API server: bound, released, made for a claim, and removed.

use kybern_api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kybern_api::storage::v1::VolumeAttachment;
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{DeleteOptions, Patch};

use crate::fixture::Cluster;

fn claim(name: &str, class: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}},
        },
    })
}

fn volume(name: &str, size: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "storageClassName": "shelf",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/nowhere"},
        },
    })
}

async fn phase_of(cluster: &Cluster, name: &str) -> String {
    let volume = cluster.get::<PersistentVolume>("", name).await;
    volume.and_then(|volume| volume.status?.phase).unwrap_or_default()
}

async fn volume_of(cluster: &Cluster, name: &str) -> Option<String> {
    let claim = cluster.get::<PersistentVolumeClaim>("default", name).await?;
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    claim.spec?.volume_name.filter(|_| bound)
}

async fn delete_claim(cluster: &Cluster, name: &str) {
    cluster.client.delete::<PersistentVolumeClaim>("default", name, &DeleteOptions::default()).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_claim_gets_one_volume_and_every_volume_one_claim() {
    const MANY: usize = 8;
    let cluster = Cluster::start().await;
    for i in 0..MANY {
        cluster.create(claim(&format!("c{i}"), "shelf"), "persistentvolumeclaims").await;
    }
    for i in 0..MANY - 1 {
        cluster.create(volume(&format!("v{i}"), &format!("{}Gi", i + 1)), "persistentvolumes").await;
    }
    let all_taken = async |c: &Cluster| {
        let volumes = c.list::<PersistentVolume>("").await;
        volumes.iter().all(|v| v.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound"))
    };
    cluster.until("all volumes to be bound", all_taken).await;
    let both_ways = async |c: &Cluster| {
        let mut names = Vec::new();
        for i in 0..MANY {
            names.extend(volume_of(c, &format!("c{i}")).await);
        }
        names.sort();
        names.dedup();
        names.len() == MANY - 1
    };
    cluster.until("each to have its own", both_ways).await;
    // One waits until a volume comes, and a claim that goes leaves its volume as it is.
    cluster.create(volume("late", "1Gi"), "persistentvolumes").await;
    cluster.until("the last to be bound", async |c| phase_of(c, "late").await == "Bound").await;
    let last =
        cluster.get::<PersistentVolume>("", "late").await.unwrap().spec.unwrap().claim_ref.unwrap().name.unwrap();
    cluster.until("it to know", async |c| volume_of(c, &last).await.as_deref() == Some("late")).await;
    delete_claim(&cluster, &last).await;
    cluster.until("the volume to be released", async |c| phase_of(c, "late").await == "Released").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_of_a_node_is_made_for_a_claim_and_asked_back() {
    let cluster = Cluster::start().await;
    let metadata = json!({
        "name": "n1", "labels": {"kubernetes.io/hostname": "n1"},
        "annotations": {"local-path.kybern.io/directory": "/data/volumes"},
    });
    let status = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status});
    cluster.create(node, "nodes").await;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"},
        "provisioner": "kybern.io/local-path", "volumeBindingMode": "WaitForFirstConsumer",
    });
    cluster.create(class, "storageclasses").await;
    cluster.create(claim("data", "local-path"), "persistentvolumeclaims").await;
    let told = async |c: &Cluster, reason: &str| {
        let events = c.list::<Event>("default").await;
        events.iter().any(|event| event.reason.as_deref() == Some(reason))
    };
    cluster.until("it to wait for a pod", async |c| told(c, "WaitForFirstConsumer").await).await;
    let choice = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}});
    let claims = cluster.client.raw(&Gvr::new("", "v1", "persistentvolumeclaims"));
    claims.patch("default", "data", &Patch::Merge(choice), None).await.expect("what the scheduler does");
    cluster.until("the claim to be bound", async |c| volume_of(c, "data").await.is_some()).await;
    let name = volume_of(&cluster, "data").await.unwrap();
    let made = cluster.get::<PersistentVolume>("", &name).await.unwrap();
    assert_eq!(made.spec.unwrap().local.unwrap().path, format!("/data/volumes/{name}"));
    // The node cannot be reached: the volume stays, and says why. Once the node is gone for good, so is the volume.
    delete_claim(&cluster, "data").await;
    cluster.until("the failure to be told", async |c| told(c, "VolumeFailedDelete").await).await;
    assert_eq!(phase_of(&cluster, &name).await, "Released");
    cluster.client.delete::<Node>("", "n1", &DeleteOptions::default()).await.expect("deleted");
    let gone = async |c: &Cluster| c.get::<PersistentVolume>("", &name).await.is_none();
    cluster.until("the volume to go", gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drivers_volume_is_attached_while_a_pod_needs_it() {
    let cluster = Cluster::start().await;
    let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    let metadata = json!({"name": "n1", "annotations": annotations});
    cluster.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}), "nodes").await;
    let mut disk = volume("disk", "1Gi");
    disk["spec"]["hostPath"] = Value::Null;
    disk["spec"]["csi"] = json!({"driver": "d.example.com", "volumeHandle": "h"});
    cluster.create(disk, "persistentvolumes").await;
    cluster.create(claim("data", "shelf"), "persistentvolumeclaims").await;
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let spec = json!({"nodeName": "n1", "volumes": volumes, "containers": [{"name": "c", "image": "i"}]});
    let metadata = json!({"name": "p", "namespace": "default"});
    cluster.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}), "pods").await;
    let attachment = async |c: &Cluster| c.list::<VolumeAttachment>("").await.into_iter().next();
    cluster.until("it to be asked for", async |c| attachment(c).await.is_some()).await;
    let name = attachment(&cluster).await.unwrap().metadata.name.unwrap();
    // What the driver's external attacher does.
    let attached = Patch::Merge(json!({"status": {"attached": true}}));
    cluster.client.patch::<VolumeAttachment>("", &name, &attached, Some("status")).await.expect("attached");
    let reported = async |c: &Cluster| {
        let node = c.get::<Node>("", "n1").await.expect("it is there");
        let volumes = node.status.and_then(|status| status.volumes_attached).unwrap_or_default();
        volumes.into_iter().map(|volume| volume.name).collect::<Vec<_>>()
    };
    let unique = "kubernetes.io/csi/d.example.com^h";
    cluster.until("the node to know", async |c| reported(c).await == [unique]).await;
    cluster.client.delete::<Pod>("default", "p", &DeleteOptions::default()).await.expect("deleted");
    cluster.until("it to be detached", async |c| attachment(c).await.is_none()).await;
    assert!(reported(&cluster).await.is_empty());
}
