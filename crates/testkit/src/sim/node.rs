//! A fake node: registers, renews its lease, says that its pods run, and ends those that are deleted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use kybern_api::core::v1::{PersistentVolumeClaim, Pod};
use kybern_api::{Object, condition};
use kybern_apimachinery::time::{to_rfc3339, to_rfc3339_micro};
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, ClientError, DeleteOptions, Informer, ListOptions, Patch, Store};
use tokio::time::{Instant, sleep_until};

use super::random::Random;
use super::volumes::Folders;

/// The cores, in thousandths, and pods that every node has.
pub const NODE_MILLI_CPU: i64 = 3000;
pub const NODE_PODS: i64 = 30;
/// Addresses that a node has for its pods.
const NODE_ADDRESSES: u32 = 4096;
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// The longest that a pod takes to start or to end.
const POD_DELAY: Duration = Duration::from_secs(5);
/// How likely a pod that ends by itself succeeds.
const SUCCEEDS: f64 = 0.8;
const RETRY: Duration = Duration::from_secs(1);

/// What a node is.
#[derive(Clone)]
pub struct Config {
    pub name: String,
    /// Differs from node to node, and so do its pods' addresses.
    pub number: u32,
    pub(super) folders: Arc<Folders>,
}

/// Plays a node for as long as it is polled.
pub async fn run(config: Config, client: Client, random: Random) {
    let selector = ListOptions::fields(format!("spec.nodeName={}", config.name));
    let pods = Informer::<Pod>::new(client.clone(), selector).spawn();
    let mut node =
        Node { config, client, random, pods: pods.clone(), due: BTreeMap::new(), addresses: 0, ended: BTreeMap::new() };
    let mut changes = pods.subscribe();
    let mut renewal = Instant::now();
    loop {
        let next = node.due.values().min().copied();
        tokio::select! {
            biased;
            _ = changes.changed() => node.look(),
            () = sleep_until(renewal) => {
                renewal = Instant::now() + LEASE_PERIOD;
                if node.report().await.is_err() {
                    renewal = Instant::now() + RETRY;
                }
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => node.act().await,
        }
    }
}

struct Node {
    config: Config,
    client: Client,
    random: Random,
    pods: Store<Pod>,
    /// By key: when something is to be done about a pod.
    due: BTreeMap<String, Instant>,
    addresses: u32,
    /// By uid: how a pod ended, which its object may not say yet. It does not end twice.
    ended: BTreeMap<String, bool>,
}

impl Node {
    /// Plans what is to be done about pods.
    fn look(&mut self) {
        for pod in self.pods.list() {
            if pod.is_deleting() || ends_itself(&pod) || !(is_running(&pod) || has_ended(&pod)) {
                let at = Instant::now() + self.random.delay(POD_DELAY);
                self.due.entry(object_key(&pod)).or_insert(at);
            }
        }
    }

    /// Does what is due.
    async fn act(&mut self) {
        let now = Instant::now();
        let due: Vec<String> = self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.due.remove(&key);
            let Some(pod) = self.pods.get(&key) else { continue };
            let result = if ends_itself(&pod) {
                self.end(&pod).await
            } else if pod.is_deleting() {
                let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(pod.uid()) };
                self.client.delete::<Pod>(pod.namespace(), pod.name(), &options).await
            } else if is_running(&pod) || has_ended(&pod) {
                Ok(())
            } else {
                self.start(&pod).await
            };
            if result.is_err_and(|e| !e.is_not_found() && !e.is_conflict()) {
                self.due.insert(key, Instant::now() + RETRY);
            }
        }
    }

    async fn start(&mut self, pod: &Pod) -> Result<(), ClientError> {
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(source) = &volume.persistent_volume_claim else { continue };
            let claim = self.client.get::<PersistentVolumeClaim>(pod.namespace(), &source.claim_name).await?;
            let bound = claim.spec.and_then(|spec| spec.volume_name);
            self.config.folders.make(&self.config.name, &bound.unwrap_or_default());
        }
        self.addresses += 1;
        let ip =
            Ipv4Addr::from_bits((10 << 24) + self.config.number * NODE_ADDRESSES + self.addresses % NODE_ADDRESSES);
        let now = to_rfc3339(self.client.clock().now());
        let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": now});
        let kinds = ["Initialized", "ContainersReady", "Ready"];
        let status = json!({"metadata": {"uid": pod.uid()}, "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": now,
            "conditions": kinds.map(condition)}});
        let patch = Patch::Strategic(status);
        self.client.patch::<Pod>(pod.namespace(), pod.name(), &patch, Some("status")).await.map(|_| ())
    }

    /// Lets a pod that is not started again succeed or fail; one that is deleted fails, and goes after that.
    async fn end(&mut self, pod: &Pod) -> Result<(), ClientError> {
        let drawn = !pod.is_deleting() && self.random.chance(SUCCEEDS);
        let succeeds = *self.ended.entry(pod.uid().to_owned()).or_insert(drawn);
        let phase = if succeeds { "Succeeded" } else { "Failed" };
        let not_ready = json!({"type": "Ready", "status": "False", "reason": "PodCompleted"});
        let status = json!({"phase": phase, "conditions": [not_ready]});
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        self.client.patch::<Pod>(pod.namespace(), pod.name(), &patch, Some("status")).await.map(|_| ())
    }

    /// Renews the lease, and the node's status where that does not say that it is ready.
    async fn report(&self) -> Result<(), ClientError> {
        let name = &*self.config.name;
        let nodes = self.client.raw(&Gvr::new("", "v1", "nodes"));
        let node = match nodes.get("", name).await {
            Err(error) if error.is_not_found() => {
                let zone = if self.config.number.is_multiple_of(2) { "even" } else { "odd" };
                let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                    "topology.kubernetes.io/zone": zone});
                let annotations = json!({"local-path.kybern.io/directory": "/volumes"});
                let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
                let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata});
                nodes.create(&node).await?
            }
            result => result?,
        };
        let now = self.client.clock().now();
        if !says_ready(&node) {
            let size = json!({"cpu": format!("{NODE_MILLI_CPU}m"), "memory": "64Gi", "pods": NODE_PODS.to_string()});
            let now = to_rfc3339(now);
            let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
                "lastHeartbeatTime": now, "lastTransitionTime": now});
            let status = json!({"status": {"capacity": size, "allocatable": size, "conditions": [ready]}});
            nodes.patch("", name, &Patch::Strategic(status), Some("status")).await?;
        }
        let leases = self.client.raw(&Gvr::new("coordination.k8s.io", "v1", "leases"));
        let now = to_rfc3339_micro(now);
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now});
        let patch = Patch::Merge(json!({"spec": spec}));
        match leases.patch("kube-node-lease", name, &patch, None).await {
            Err(error) if error.is_not_found() => {
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec,
                    "metadata": {"name": name, "namespace": "kube-node-lease"}});
                leases.create(&lease).await.map(|_| ())
            }
            result => result.map(|_| ()),
        }
    }
}

fn object_key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace(), pod.name())
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// It has not ended, and will: by itself when it runs, or because it is deleted.
fn ends_itself(pod: &Pod) -> bool {
    let is_once = pod.spec.as_ref().is_some_and(|s| s.restart_policy.as_deref() == Some("Never"));
    is_once && !has_ended(pod) && (is_running(pod) || pod.is_deleting())
}

/// And said to be ready, which the node controller denies when the node was silent.
fn is_running(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|s| s.phase.as_deref() == Some("Running") && condition::is_true(&s.conditions, "Ready"))
}

fn says_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}
