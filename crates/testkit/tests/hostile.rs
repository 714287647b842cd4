//! Impossible and hostile objects: each says why it cannot be, and none slows the others. Controllers against the real API
//! server, on the real clock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kybern_api::apps::v1::ReplicaSet;
use kybern_api::core::v1::Pod;
use kybern_api::{Object, condition, owner};
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, DeleteOptions, Informer, ListOptions, Store};
use kybern_testkit::api_server::ApiServer;
use tokio::task::JoinHandle;

/// Far beyond what anything takes that is not held up.
const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    pods: Store<Pod>,
    controllers: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

impl Cluster {
    async fn start() -> Self {
        let server = Arc::new(ApiServer::start().await);
        let client = server.admin();
        let pods = Informer::<Pod>::new(client.clone(), ListOptions::default()).spawn();
        let own = server.client("system:kube-controller-manager", &[]);
        let client_for = move |account: &str| {
            let name = format!("system:serviceaccount:kube-system:{account}");
            server.client(&name, &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
        };
        let config = kybern_controller_manager::Config {
            client_for: Some(Arc::new(client_for)),
            ..kybern_controller_manager::Config::default()
        };
        let controllers = tokio::spawn(kybern_controller_manager::run(config, own, std::future::pending()));
        let cluster = Self { client, pods, controllers };
        for namespace in ["hostile", "innocent"] {
            cluster.create("", "namespaces", json!({"metadata": {"name": namespace}})).await;
        }
        let begun = Instant::now();
        let accounts = Gvr::new("", "v1", "serviceaccounts");
        while cluster.client.raw(&accounts).get("innocent", "default").await.is_err()
            || cluster.client.raw(&accounts).get("hostile", "default").await.is_err()
        {
            assert!(begun.elapsed() < PATIENCE, "no service accounts");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster
    }

    async fn create(&self, group: &str, resource: &str, object: Value) {
        let made = self.client.raw(&Gvr::new(group, "v1", resource)).create(&object).await;
        made.unwrap_or_else(|error| panic!("{resource}: {error}: {object}"));
    }

    async fn replica_set(&self, namespace: &str, name: &str, app: &str, replicas: i32) {
        let labels = json!({"app": app});
        let spec = json!({"containers": [{"name": "c", "image": "pause"}], "automountServiceAccountToken": false});
        let set = json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}});
        self.create("apps", "replicasets", set).await;
    }

    fn count(&self, namespace: &str) -> usize {
        self.pods.list_in(namespace).len()
    }

    async fn until(&self, what: &str, reached: impl Fn(&Store<Pod>) -> bool + Send + Sync) -> Duration {
        let begun = Instant::now();
        let waited = tokio::time::timeout(PATIENCE, self.pods.wait_until(reached)).await;
        assert!(waited.is_ok(), "never came: {what}");
        begun.elapsed()
    }

    async fn set(&self, namespace: &str, name: &str) -> ReplicaSet {
        self.client.get(namespace, name).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_without_bounds_does_not_hold_up_another() {
    let cluster = Cluster::start().await;
    cluster.replica_set("innocent", "before", "before", 20).await;
    let alone = cluster.until("20 pods alone", |pods| pods.list_in("innocent").len() == 20).await;
    cluster.replica_set("hostile", "endless", "endless", i32::MAX).await;
    cluster.until("it is at work", |pods| pods.list_in("hostile").len() > 500).await;
    cluster.replica_set("innocent", "after", "after", 20).await;
    let beside = cluster.until("20 pods beside it", |pods| pods.list_in("innocent").len() == 40).await;
    // On its own it takes milliseconds; a queue of two thousand million would take for ever.
    assert!(beside < Duration::from_secs(10), "{beside:?} beside it, {alone:?} alone");
    cluster.client.delete::<ReplicaSet>("hostile", "endless", &DeleteOptions::default()).await.unwrap();
    cluster.until("its pods go with it", |pods| pods.list_in("hostile").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_of_nothing_is_told_and_others_go_on() {
    let cluster = Cluster::start().await;
    let quota = json!({"metadata": {"name": "none", "namespace": "hostile"}, "spec": {"hard": {"pods": "0"}}});
    cluster.create("", "resourcequotas", quota).await;
    // Admission knows the quota once it is counted.
    let begun = Instant::now();
    let quotas = Gvr::new("", "v1", "resourcequotas");
    while cluster.client.raw(&quotas).get("hostile", "none").await.unwrap()["status"]["hard"].is_null() {
        assert!(begun.elapsed() < PATIENCE, "the quota is never counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.replica_set("hostile", "wants", "wants", 1_000_000).await;
    cluster.replica_set("innocent", "other", "other", 20).await;
    cluster.until("the others'", |pods| pods.list_in("innocent").len() == 20).await;
    let told = loop {
        let set = cluster.set("hostile", "wants").await;
        let conditions = set.status.and_then(|status| status.conditions);
        if let Some(told) = condition::find(&conditions, "ReplicaFailure") {
            break told.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "nobody says why");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let message = told.message.unwrap_or_default();
    assert_eq!(told.reason.as_deref(), Some("FailedCreate"));
    assert!(message.contains("exceeded quota: none, requested: pods=1, used: pods=0, limited: pods=0"), "{message}");
    assert_eq!(cluster.count("hostile"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_do_not_fight_over_pods() {
    let cluster = Cluster::start().await;
    let orphans = 5;
    for number in 0..orphans {
        let metadata = json!({"name": format!("orphan-{number}"), "namespace": "hostile", "labels": {"app": "shared"}});
        let spec = json!({"containers": [{"name": "c", "image": "pause"}]});
        cluster.create("", "pods", json!({"metadata": metadata, "spec": spec})).await;
    }
    for name in ["one", "two", "three"] {
        cluster.replica_set("hostile", name, "shared", 4).await;
    }
    let owned = |pods: &Store<Pod>| {
        let all = pods.list_in("hostile");
        let alive = all.iter().filter(|pod| !pod.is_deleting());
        let owners: Vec<String> =
            alive.map(|pod| owner::controller_of(&pod.metadata).map(|o| o.name.clone()).unwrap_or_default()).collect();
        ["one", "two", "three"].map(|name| owners.iter().filter(|owner| *owner == name).count()) == [4, 4, 4]
            && owners.len() == 12
    };
    cluster.until("each has its own four", owned).await;
    // And then they leave each other alone.
    let seen = cluster.pods.resource_version();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before: Vec<_> = cluster.pods.list().iter().map(|pod| pod.uid().to_owned()).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let after: Vec<_> = cluster.pods.list().iter().map(|pod| pod.uid().to_owned()).collect();
    assert_eq!(before, after, "since {seen}");
    assert!(owned(&cluster.pods));
}
