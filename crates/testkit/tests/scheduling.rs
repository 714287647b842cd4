//! The scheduler against the real API server.

#[path = "scheduling/extenders.rs"]
mod extenders;
#[path = "scheduling/gangs.rs"]
mod gangs;

use std::time::{Duration, Instant};

use kybern_api::condition;
use kybern_api::core::v1::{Event, Pod};
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, DeleteOptions, Informer, ListOptions, Patch, Store};
use kybern_testkit::api_server::ApiServer;

/// Far beyond what anything takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    server: ApiServer,
    client: Client,
    pods: Store<Pod>,
}

impl Cluster {
    async fn start() -> Self {
        let server = ApiServer::start().await;
        let client = server.admin();
        let pods = Informer::<Pod>::new(client.clone(), ListOptions::default()).spawn();
        let cluster = Self { server, client, pods };
        // What its controller would make.
        let metadata = json!({"name": "default", "namespace": "default"});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata});
        cluster.create("serviceaccounts", account).await;
        cluster
    }

    /// Starts a scheduler with the rights that upstream's has.
    fn schedule(&self) -> tokio::task::JoinHandle<()> {
        self.schedule_with(Default::default())
    }

    fn schedule_with(&self, config: kybern_scheduler::Config) -> tokio::task::JoinHandle<()> {
        let client = self.server.client("system:kube-scheduler", &[]);
        tokio::spawn(kybern_scheduler::run(config, client, std::future::pending()))
    }

    async fn create(&self, resource: &str, object: Value) {
        self.client.raw(&Gvr::new("", "v1", resource)).create(&object).await.expect("created");
    }

    async fn node(&self, name: &str, cpu: &str, spec: Value) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec});
        self.create("nodes", node).await;
        let capacity = json!({"cpu": cpu, "memory": "64Gi", "pods": "110"});
        // What the node controller does once a node is ready.
        let ready = Patch::Merge(json!({"spec": {"taints": null}}));
        self.client.raw(&Gvr::new("", "v1", "nodes")).patch("", name, &ready, None).await.unwrap();
        let status = json!({"status": {"capacity": capacity, "allocatable": capacity}});
        self.client
            .raw(&Gvr::new("", "v1", "nodes"))
            .patch("", name, &Patch::Merge(status), Some("status"))
            .await
            .unwrap();
    }

    async fn pod(&self, name: &str, cpu: &str) {
        self.pod_requesting(name, json!({"cpu": cpu})).await;
    }

    async fn pod_requesting(&self, name: &str, amounts: Value) {
        let resources = json!({"requests": amounts, "limits": amounts});
        let container = json!({"name": "c", "image": "pause", "resources": resources});
        let metadata = json!({"name": name, "namespace": "default"});
        self.create(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}),
        )
        .await;
    }

    async fn until(&self, what: &str, reached: impl Fn(&Store<Pod>) -> bool) {
        tokio::time::timeout(PATIENCE, self.pods.wait_until(reached)).await.unwrap_or_else(|_| {
            let states: Vec<_> = self.pods.list().iter().take(3).map(|pod| pod.status.clone()).collect();
            panic!("never came: {what}; pods: {states:?}")
        });
    }

    async fn events(&self, reason: &str) -> Vec<String> {
        // The recorder writes behind the scheduler's back.
        for _ in 0..100 {
            let events = self.client.list::<Event>("default", &ListOptions::default()).await.unwrap();
            let of_reason = events.into_iter().filter(|e| e.reason.as_deref() == Some(reason));
            let found: Vec<String> = of_reason.filter_map(|e| e.message).collect();
            if !found.is_empty() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no event {reason}");
    }
}

fn node_of(pods: &Store<Pod>, name: &str) -> String {
    let pod = pods.get_in("default", name);
    pod.and_then(|pod| pod.spec.clone()?.node_name).unwrap_or_default()
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

/// The status, reason and message of `PodScheduled`.
fn scheduled(pods: &Store<Pod>, name: &str) -> Option<(String, String, String)> {
    let conditions = pods.get_in("default", name)?.status.clone()?.conditions;
    let found = condition::find(&conditions, "PodScheduled")?;
    Some((found.status.clone(), found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_a_node_that_can_take_it() {
    let cluster = Cluster::start().await;
    cluster.node("cordoned", "8", json!({"unschedulable": true})).await;
    cluster.node("small", "1", json!({})).await;
    let _scheduler = cluster.schedule();
    cluster.pod("large", "4").await;
    cluster.pod("little", "500m").await;
    cluster.until("the small pod's binding", |pods| node_of(pods, "little") == "small").await;
    cluster.until("its condition", |pods| scheduled(pods, "little").is_some_and(|c| c.0 == "True")).await;
    assert!(cluster.events("Scheduled").await.contains(&"Successfully assigned default/little to small".to_owned()));
    let text = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. no new claims to \
                deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let unschedulable = ("False".to_owned(), "Unschedulable".to_owned(), text.to_owned());
    cluster.until("the large pod's condition", |pods| scheduled(pods, "large").as_ref() == Some(&unschedulable)).await;
    assert_eq!(cluster.events("FailedScheduling").await, [text]);

    let uncordon = Patch::Merge(json!({"spec": {"unschedulable": null}}));
    cluster.client.raw(&Gvr::new("", "v1", "nodes")).patch("", "cordoned", &uncordon, None).await.unwrap();
    cluster.until("the large pod's binding", |pods| node_of(pods, "large") == "cordoned").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_takes_the_place_of_one_that_leaves() {
    let cluster = Cluster::start().await;
    cluster.node("n", "1", json!({})).await;
    let first = cluster.schedule();
    cluster.pod("old", "1").await;
    cluster.until("the first binding", |pods| node_of(pods, "old") == "n").await;
    // Another scheduler takes over what it finds.
    first.abort();
    let _second = cluster.schedule();
    cluster.pod("new", "1").await;
    cluster.until("the second pod to wait", |pods| scheduled(pods, "new").is_some_and(|c| c.0 == "False")).await;
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    cluster.client.delete::<Pod>("default", "old", &now).await.unwrap();
    cluster.until("the second binding", |pods| node_of(pods, "new") == "n").await;
}

/// Nothing is bound twice or beyond what a node has; the rate is printed, for it says where a slow machine stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_fill_the_nodes_exactly() {
    const NODES: usize = 50;
    let cluster = Cluster::start().await;
    for n in 0..NODES {
        cluster.node(&format!("n{n}"), "1", json!({})).await;
    }
    for n in 0..NODES * 10 + 3 {
        cluster.pod(&format!("p{n}"), "100m").await;
    }
    let start = Instant::now();
    let _scheduler = cluster.schedule();
    let bound = |pods: &Store<Pod>| pods.list().iter().filter(|pod| is_bound(pod)).count();
    cluster.until("all bindings", |pods| bound(pods) == NODES * 10).await;
    println!("{} pods on {NODES} nodes in {:.2?}", NODES * 10, start.elapsed());
    cluster
        .until("three left over", |pods| {
            pods.list()
                .iter()
                .filter(|pod| {
                    scheduled(pods, pod.metadata.name.as_deref().unwrap_or("")).is_some_and(|c| c.0 == "False")
                })
                .count()
                == 3
        })
        .await;
    let mut per_node = std::collections::BTreeMap::new();
    for pod in cluster.pods.list().iter().filter(|pod| is_bound(pod)) {
        *per_node.entry(pod.spec.clone().unwrap().node_name).or_insert(0) += 1;
    }
    assert_eq!(per_node.len(), NODES);
    assert!(per_node.values().all(|count| *count == 10), "{per_node:?}");
}

/// Claims of devices from end to end: made of a template, allocated, reserved, and given back for the pod that waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_goes_from_pod_to_pod() {
    let cluster = Cluster::start().await;
    let _scheduler = cluster.schedule();
    let config = kybern_controller_manager::Config {
        controllers: vec!["resourceclaim-controller".into(), "garbage-collector-controller".into()],
        ..Default::default()
    };
    let admin = cluster.server.admin();
    tokio::spawn(kybern_controller_manager::run(config, admin, std::future::pending()));
    cluster.node("n", "8", json!({})).await;
    let make = async |resource: &str, kind: &str, object: Value| {
        let mut object = object;
        object["apiVersion"] = "resource.k8s.io/v1".into();
        object["kind"] = kind.into();
        cluster.client.raw(&Gvr::new("resource.k8s.io", "v1", resource)).create(&object).await.expect("created");
    };
    let selectors = json!([{"cel": {"expression": "device.attributes['gpu.example.com'].model == 'x'"}}]);
    make("deviceclasses", "DeviceClass", json!({"metadata": {"name": "gpu"}, "spec": {"selectors": selectors}})).await;
    let devices = json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}});
    let metadata = json!({"name": "t", "namespace": "default"});
    make("resourceclaimtemplates", "ResourceClaimTemplate", json!({"metadata": metadata, "spec": {"spec": devices}}))
        .await;
    let pod = async |name: &str| {
        let containers = json!([{"name": "c", "image": "pause", "resources": {"claims": [{"name": "gpu"}]}}]);
        let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
        let spec = json!({"containers": containers, "resourceClaims": claims});
        let metadata = json!({"name": name, "namespace": "default"});
        cluster.create("pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    };
    pod("first").await;
    let waits = "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are \
                 available: 1 Preemption is not helpful for scheduling.";
    let is_waiting = |pods: &Store<Pod>, name: &str| scheduled(pods, name).is_some_and(|c| c.2 == waits);
    cluster.until("it to say why it waits", |pods| is_waiting(pods, "first")).await;
    // A driver comes to the node.
    let device = |name: &str, model: &str| json!({"name": name, "attributes": {"model": {"string": model}}});
    let pool = json!({"name": "n", "generation": 1, "resourceSliceCount": 1});
    let listed = json!([device("d0", "y"), device("d1", "x")]);
    let spec = json!({"driver": "gpu.example.com", "nodeName": "n", "pool": pool, "devices": listed});
    make("resourceslices", "ResourceSlice", json!({"metadata": {"name": "n"}, "spec": spec})).await;
    cluster.until("the first to be bound", |pods| node_of(pods, "first") == "n").await;
    let claims = async || {
        let raw = cluster.client.raw(&Gvr::new("resource.k8s.io", "v1", "resourceclaims"));
        raw.list("default", &ListOptions::default()).await.expect("listed")
    };
    let listed = claims().await;
    let status = &listed[0]["status"];
    assert_eq!(status["allocation"]["devices"]["results"][0]["device"], "d1", "{listed:?}");
    assert_eq!(status["reservedFor"][0]["name"], "first");
    pod("second").await;
    cluster.until("the second to wait", |pods| is_waiting(pods, "second")).await;
    let done = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    cluster.client.patch::<Pod>("default", "first", &done, Some("status")).await.unwrap();
    cluster.until("the second to be bound", |pods| node_of(pods, "second") == "n").await;
}

/// A claim waits until its driver says that there is room, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_storage_capacity() {
    let cluster = Cluster::start().await;
    cluster.node("n", "4", json!({})).await;
    let storage = |resource: &str| cluster.client.raw(&Gvr::new("storage.k8s.io", "v1", resource));
    let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d.example.com"}, "spec": {"storageCapacity": true}});
    storage("csidrivers").create(&driver).await.unwrap();
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": "d.example.com", "volumeBindingMode": "WaitForFirstConsumer"});
    storage("storageclasses").create(&class).await.unwrap();
    let capacity = |size: &str| json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity", "metadata": {"name": "c", "namespace": "default"}, "storageClassName": "fast", "nodeTopology": {}, "capacity": size});
    storage("csistoragecapacities").create(&capacity("1Gi")).await.unwrap();
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "default"}, "spec": {"storageClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}});
    cluster.create("persistentvolumeclaims", claim).await;
    let _scheduler = cluster.schedule();
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
    let spec = json!({"containers": [{"name": "c", "image": "pause"}], "volumes": [volume]});
    let metadata = json!({"name": "p", "namespace": "default"});
    cluster.create("pods", json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    let told = |pods: &Store<Pod>| scheduled(pods, "p").map(|(_, _, message)| message).unwrap_or_default();
    let text = "0/1 nodes are available: 1 node(s) did not have enough free storage.";
    cluster.until(text, |pods| told(pods).starts_with(text)).await;
    let grown = Patch::Merge(json!({"capacity": "2Gi"}));
    storage("csistoragecapacities").patch("default", "c", &grown, None).await.unwrap();
    let claims = cluster.client.raw(&Gvr::new("", "v1", "persistentvolumeclaims"));
    let selected = async {
        while claims.get("default", "data").await.unwrap()["metadata"]["annotations"]["volume.kubernetes.io/selected-node"]
            != "n"
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, selected).await.expect("the claim is to be provisioned");
}
