//! Pods of a gang, with the gates open: the server keeps what they belong to, the scheduler may read workloads, and binds all or none.

use kybern_apimachinery::{Gvr, json};
use kybern_scheduler::{Config, Features};

use crate::{Cluster, node_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gang_is_bound_once_there_is_room_for_all() {
    let cluster = Cluster::start().await;
    let features = Features { gangs: true, ..Features::default() };
    let _scheduler = cluster.schedule_with(Config { features, ..Config::default() });
    cluster.node("n1", "1", json!({})).await;
    cluster.node("n2", "1", json!({})).await;
    let member = async |name: &str| {
        let resources = json!({"requests": {"cpu": "1"}});
        let spec = json!({
            "containers": [{"name": "c", "image": "pause", "resources": resources}],
            "workloadRef": {"name": "training", "podGroup": "workers"},
        });
        let metadata = json!({"name": name, "namespace": "default"});
        cluster.create("pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    };
    for name in ["a", "b", "c"] {
        member(name).await;
    }
    let workload = json!({
        "apiVersion": "scheduling.k8s.io/v1alpha1", "kind": "Workload",
        "metadata": {"name": "training", "namespace": "default"},
        "spec": {"podGroups": [{"name": "workers", "policy": {"gang": {"minCount": 3}}}]},
    });
    let workloads = Gvr::new("scheduling.k8s.io", "v1alpha1", "workloads");
    cluster.client.raw(&workloads).create(&workload).await.expect("created");
    // Two hold the nodes, and wait for the third, which is told why it has none.
    let told = cluster.events("FailedScheduling").await;
    assert!(told.iter().any(|text| text.contains("0/2 nodes are available: 2 Insufficient cpu.")), "{told:?}");
    assert!(["a", "b", "c"].iter().all(|name| node_of(&cluster.pods, name).is_empty()), "none before all");
    cluster.node("n3", "1", json!({})).await;
    let all = |pods: &_| ["a", "b", "c"].iter().all(|name| !node_of(pods, name).is_empty());
    cluster.until("all three to be bound", all).await;
}
