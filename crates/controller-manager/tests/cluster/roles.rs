//! Every controller does its work with no more than its own role `system:controller:…` allows: the fixture fails a test in
//! which one was refused. This one lets those act that no other test moves.

use kybern_api::core::v1::{Endpoints, Node, Pod, ReplicationController};
use kybern_api::discovery::v1::EndpointSlice;
use kybern_api::networking::v1::ServiceCIDR;
use kybern_api::rbac::v1::ClusterRole;
use kybern_apimachinery::json;
use kybern_client::{DeleteOptions, Patch};

use crate::fixture::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_controller_may_do_what_it_has_to() {
    let cluster = Cluster::start().await;
    cluster.add_node("n1").await;
    let container = json!([{"name": "main", "image": "nginx"}]);
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old", "namespace": "default"},
        "spec": {
            "replicas": 2, "selector": {"app": "old"},
            "template": {"metadata": {"labels": {"app": "old"}}, "spec": {"containers": container}},
        },
    });
    cluster.create(controller, "replicationcontrollers").await;
    let available = async |c: &Cluster| {
        let controller = c.get::<ReplicationController>("default", "old").await;
        controller.and_then(|c| c.status?.available_replicas)
    };
    cluster.until("two replicas", async |c| available(c).await == Some(2)).await;

    // Endpoints by hand are mirrored.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "outside", "namespace": "default"},
        "spec": {"ports": [{"port": 80}]},
    });
    cluster.create(service, "services").await;
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "outside", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}],
    });
    cluster.create(endpoints, "endpoints").await;
    let mirrored = async |c: &Cluster| {
        let slices = c.list::<EndpointSlice>("default").await;
        slices.iter().any(|s| s.endpoints.iter().any(|e| e.addresses == ["192.0.2.7"]))
    };
    cluster.until("a mirror", mirrored).await;
    cluster.client.delete::<Endpoints>("default", "outside", &DeleteOptions::default()).await.unwrap();
    cluster.until("the mirror's end", async |c| !mirrored(c).await).await;

    // Rights that are added to a role of many parts.
    let part = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "part", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["example.com"], "resources": ["things"], "verbs": ["get"]}],
    });
    cluster.create(part, "clusterroles").await;
    let grown = async |c: &Cluster| {
        let rules = c.get::<ClusterRole>("", "view").await.and_then(|role| role.rules).unwrap_or_default();
        rules.iter().any(|rule| rule.resources.as_deref() == Some(&["things".to_owned()]))
    };
    cluster.until("the whole role", grown).await;

    // A range of Services is protected and ready, and goes when nobody uses it.
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "extra"},
        "spec": {"cidrs": ["10.200.0.0/24"]},
    });
    cluster.create(range, "servicecidrs").await;
    let is_ready = async |c: &Cluster| {
        let range = c.get::<ServiceCIDR>("", "extra").await.unwrap_or_default();
        let conditions = range.status.and_then(|status| status.conditions).unwrap_or_default();
        range.metadata.finalizers.is_some_and(|f| f == ["networking.k8s.io/service-cidr-finalizer"])
            && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    cluster.until("a range that is ready", is_ready).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "in-range", "namespace": "default"},
        "spec": {"clusterIP": "10.200.0.9", "ports": [{"port": 80}]},
    });
    cluster.create(service, "services").await;
    cluster.client.delete::<ServiceCIDR>("", "extra", &DeleteOptions::default()).await.unwrap();
    let is_held = async |c: &Cluster| {
        let range = c.get::<ServiceCIDR>("", "extra").await.expect("it is in use");
        range.status.and_then(|s| s.conditions).unwrap_or_default().iter().any(|c| c.reason == "Terminating")
    };
    cluster.until("a range that says why it stays", is_held).await;

    // A node that says it is not ready, while another is, is tainted, and loses the pods that do not bear it.
    let impatient = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "impatient", "namespace": "default"},
        "spec": {
            "containers": container, "nodeName": "n1",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}],
        },
    });
    cluster.create(impatient, "pods").await;
    cluster.add_node("n2").await;
    let now = kybern_apimachinery::time::to_rfc3339(jiff::Timestamp::now());
    let sick = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "lastHeartbeatTime": now}]}});
    cluster.client.patch::<Node>("", "n1", &Patch::Strategic(sick), Some("status")).await.unwrap();
    let tainted = async |c: &Cluster| {
        let taints = c.get::<Node>("", "n1").await.and_then(|n| n.spec?.taints).unwrap_or_default();
        taints.iter().any(|t| t.key == "node.kubernetes.io/not-ready" && t.effect == "NoExecute")
    };
    cluster.until("a taint", tainted).await;
    cluster.until("the pod's end", async |c| c.get::<Pod>("default", "impatient").await.is_none()).await;
}
