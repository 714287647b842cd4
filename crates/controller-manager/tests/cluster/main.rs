//! The controllers against the real API server on memory storage, in one process; kubelet and scheduler are played by the
//! test.

mod certificates;
mod devices;
mod discovery;
mod fixture;
mod jobs;
mod migrations;
mod quotas;
mod roles;
mod stateful;
mod tokens;
mod volumes;

use kybern_api::Object;
use kybern_api::apps::v1::{DaemonSet, Deployment, ReplicaSet};
use kybern_api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccount,
};
use kybern_api::discovery::v1::EndpointSlice;
use kybern_apimachinery::{Value, json};
use kybern_client::{DeleteOptions, ListOptions, Patch, Propagation};

use fixture::Cluster;

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": image}]}})
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template("web", image)},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_furnished_and_emptied() {
    let cluster = Cluster::start().await;
    cluster.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "work"}}), "namespaces").await;
    cluster
        .until("the default service account", async |c| c.get::<ServiceAccount>("work", "default").await.is_some())
        .await;
    cluster.until("the CA bundle", async |c| c.get::<ConfigMap>("work", "kube-root-ca.crt").await.is_some()).await;
    cluster.create(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "work", "finalizers": ["example.com/keep"]}}), "secrets").await;
    cluster.client.delete::<Namespace>("", "work", &DeleteOptions::default()).await.unwrap();
    cluster
        .until("the condition that names the finalizer", async |c| {
            let namespace = c.get::<Namespace>("", "work").await.expect("kept by the secret");
            let conditions = namespace.status.unwrap_or_default().conditions.unwrap_or_default();
            conditions.iter().any(|c| {
                c.type_ == "NamespaceFinalizersRemaining"
                    && c.status == "True"
                    && c.message.as_deref().unwrap_or("").contains("example.com/keep")
            })
        })
        .await;
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster.client.patch::<Secret>("work", "s", &release, None).await.unwrap();
    cluster.until("the end of the namespace", async |c| c.get::<Namespace>("", "work").await.is_none()).await;
    assert_eq!(cluster.list::<ConfigMap>("work").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_rolls_behind_its_service_and_goes_with_all_its_pods() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    cluster.create(service, "services").await;
    cluster.create(deployment(3, "nginx:1.14"), "deployments").await;
    cluster.until("three available replicas", async |c| available(c).await == 3).await;
    let ready_addresses = async |c: &Cluster| {
        let slices = c.list::<EndpointSlice>("default").await;
        let ready =
            |e: &&kybern_api::discovery::v1::Endpoint| e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
        slices.iter().filter(|s| s.name() != "kubernetes").flat_map(|s| &s.endpoints).filter(ready).count()
    };
    cluster.until("three endpoints", async |c| ready_addresses(c).await == 3).await;
    cluster
        .until("the same in Endpoints", async |c| {
            let endpoints = c.get::<Endpoints>("default", "web").await;
            let subsets = endpoints.and_then(|e| e.subsets).unwrap_or_default();
            subsets.iter().flat_map(|s| s.addresses.iter().flatten()).count() == 3
        })
        .await;

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "nginx:1.15"}]}}}});
    cluster.client.patch::<Deployment>("default", "web", &Patch::Strategic(image), None).await.unwrap();
    cluster
        .until("the rollout", async |c| {
            let deployment = c.get::<Deployment>("default", "web").await.unwrap();
            // Its own annotations count, too.
            let generation = deployment.metadata.generation;
            let status = deployment.status.unwrap_or_default();
            assert!(
                status.available_replicas.unwrap_or(0) >= 3,
                "25 % of 3 may be unavailable, rounded down: none: {status:?}"
            );
            status.observed_generation == generation
                && status.updated_replicas == Some(3)
                && status.replicas == Some(3)
                && status.available_replicas == Some(3)
        })
        .await;
    let sets = cluster.list::<ReplicaSet>("default").await;
    assert_eq!(sets.len(), 2, "one per template");
    assert!(
        cluster.list::<Pod>("default").await.iter().filter(|p| !p.is_deleting()).all(|p| p
            .spec
            .as_ref()
            .unwrap()
            .containers[0]
            .image
            .as_deref()
            == Some("nginx:1.15"))
    );
    cluster
        .until("events of the rollout", async |c| {
            let events = c.list::<Event>("default").await;
            events.iter().any(|e| e.reason.as_deref() == Some("ScalingReplicaSet"))
                && events.iter().any(|e| e.reason.as_deref() == Some("SuccessfulCreate"))
        })
        .await;

    let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    cluster.client.delete::<Deployment>("default", "web", &foreground).await.unwrap();
    cluster.until("the end of the deployment", async |c| c.get::<Deployment>("default", "web").await.is_none()).await;
    assert!(cluster.list::<ReplicaSet>("default").await.is_empty(), "in the foreground dependents go first");
    cluster.until("the end of the pods", async |c| c.list::<Pod>("default").await.is_empty()).await;
    cluster.client.delete::<Service>("default", "web", &DeleteOptions::default()).await.unwrap();
    cluster.until("the end of the slices", async |c| c.list::<EndpointSlice>("default").await.len() == 1).await;
}

async fn available(cluster: &Cluster) -> i32 {
    let deployment = cluster.get::<Deployment>("default", "web").await;
    deployment.and_then(|d| d.status?.available_replicas).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn background_and_orphan_deletion() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    cluster.create(deployment(2, "nginx:1.14"), "deployments").await;
    cluster.until("two available replicas", async |c| available(c).await == 2).await;
    let orphan = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
    cluster.client.delete::<Deployment>("default", "web", &orphan).await.unwrap();
    cluster.until("the end of the deployment", async |c| c.get::<Deployment>("default", "web").await.is_none()).await;
    let sets = cluster.list::<ReplicaSet>("default").await;
    assert_eq!((sets.len(), sets[0].metadata.owner_references.as_ref().map_or(0, Vec::len)), (1, 0));
    // A new deployment of the same template adopts the set, and its pods with it.
    cluster.create(deployment(2, "nginx:1.14"), "deployments").await;
    cluster.until("the adoption", async |c| available(c).await == 2).await;
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 1);
    cluster.client.delete::<Deployment>("default", "web", &DeleteOptions::default()).await.unwrap();
    cluster
        .until("the end of all", async |c| {
            c.list::<Pod>("default").await.is_empty() && c.list::<ReplicaSet>("default").await.is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_follow_nodes() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let daemon = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": template("agent", "i:1")},
    });
    cluster.create(daemon, "daemonsets").await;
    let ready = async |c: &Cluster, n: i32| {
        let status = c.get::<DaemonSet>("kube-system", "agent").await.unwrap().status.unwrap_or_default();
        status.number_available == Some(n)
            && status.updated_number_scheduled == Some(n)
            && status.desired_number_scheduled == n
    };
    cluster.until("one daemon", async |c| ready(c, 1).await).await;
    cluster.add_node("n2").await;
    cluster.until("two daemons", async |c| ready(c, 2).await).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "i:2"}]}}}});
    cluster.client.patch::<DaemonSet>("kube-system", "agent", &Patch::Strategic(image), None).await.unwrap();
    cluster
        .until("the update", async |c| {
            let pods = c.list::<Pod>("kube-system").await;
            pods.len() == 2
                && pods.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("i:2"))
                && ready(c, 2).await
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_typed_client_lists_with_selectors() {
    let cluster = Cluster::start().await;
    for (name, tier) in [("a", "web"), ("b", "db")] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "labels": {"tier": tier}}});
        cluster.create(map, "configmaps").await;
    }
    let found = cluster.client.list::<ConfigMap>("default", &ListOptions::labels("tier in (db)")).await.unwrap();
    assert_eq!(found.iter().map(Object::name).collect::<Vec<_>>(), ["b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_in_use_and_a_bound_volume_stay_until_they_are_let_go() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    // As made before admission added the finalizers.
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    cluster.create(claim, "persistentvolumeclaims").await;
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp"}},
    });
    cluster.create(volume, "persistentvolumes").await;
    let bound = async |c: &Cluster| {
        let volume = c.get::<PersistentVolume>("", "disk").await.unwrap();
        volume.status.and_then(|status| status.phase).as_deref() == Some("Bound")
    };
    cluster.until("them to be bound", bound).await;
    let finalizer_of = |metadata: kybern_api::meta::v1::ObjectMeta| metadata.finalizers.unwrap_or_default().concat();
    cluster
        .until("both finalizers", async |c| {
            let claim = c.get::<PersistentVolumeClaim>("default", "data").await.unwrap();
            let volume = c.get::<PersistentVolume>("", "disk").await.unwrap();
            finalizer_of(claim.metadata) == "kubernetes.io/pvc-protection"
                && finalizer_of(volume.metadata) == "kubernetes.io/pv-protection"
        })
        .await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user", "namespace": "default"},
        "spec": {
            "nodeName": "n1", "containers": [{"name": "main", "image": "nginx"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        },
    });
    cluster.create(pod, "pods").await;
    cluster.client.delete::<PersistentVolumeClaim>("default", "data", &DeleteOptions::default()).await.unwrap();
    cluster.client.delete::<PersistentVolume>("", "disk", &DeleteOptions::default()).await.unwrap();
    // What is deleted later, and is in nobody's way, is gone first.
    cluster.create(deployment(1, "nginx:1.14"), "deployments").await;
    cluster.until("another controller's work", async |c| available(c).await == 1).await;
    assert!(cluster.get::<PersistentVolumeClaim>("default", "data").await.is_some_and(|c| c.is_deleting()));
    assert!(cluster.get::<PersistentVolume>("", "disk").await.is_some_and(|v| v.is_deleting()));

    cluster.client.delete::<Pod>("default", "user", &DeleteOptions::default()).await.unwrap();
    let gone = async |c: &Cluster| c.get::<PersistentVolumeClaim>("default", "data").await.is_none();
    cluster.until("the end of the claim", gone).await;
    cluster.until("the end of the volume", async |c| c.get::<PersistentVolume>("", "disk").await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_their_parts_of_the_pod_network() {
    let cluster = Cluster::start().await;
    let of = async |c: &Cluster, name: &str| {
        let spec = c.get::<Node>("", name).await.expect("a node").spec.unwrap_or_default();
        assert_eq!(spec.pod_cidr.as_ref(), spec.pod_cidrs.as_ref().and_then(|list| list.first()));
        spec.pod_cidrs.unwrap_or_default()
    };
    for name in ["n1", "n2", "n3"] {
        cluster.add_node(name).await;
        cluster.until("a part", async |c| of(c, name).await.len() == 2).await;
    }
    assert_eq!(of(&cluster, "n2").await, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    cluster.client.delete::<Node>("", "n2", &DeleteOptions::default()).await.unwrap();
    cluster.until("the end of the node", async |c| c.get::<Node>("", "n2").await.is_none()).await;
    cluster.add_node("n4").await;
    cluster
        .until("the part that is free again", async |c| of(c, "n4").await.first().is_some_and(|p| p == "10.244.1.0/24"))
        .await;
}
