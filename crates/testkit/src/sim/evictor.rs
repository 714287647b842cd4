//! Whoever drains nodes: cordons one, evicts its pods for a while, as often as budgets refuse, and lets it go again.

use std::time::Duration;

use kybern_apimachinery::{Gvr, Value, json, object};
use kybern_client::{Client, ListOptions, Patch};
use tokio::time::{Instant, sleep};

use super::model::has_ended;
use super::random::Random;
use super::workloads::owner_kind;

/// The longest pause between two drains, and the longest that one lasts.
const PAUSE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(120);
/// After a refusal, as `kubectl drain` waits.
const RETRY: Duration = Duration::from_secs(5);

/// Drains for as long as it is polled.
pub(super) async fn run(client: Client, nodes: Vec<String>, mut random: Random) {
    loop {
        sleep(random.delay(PAUSE)).await;
        let Some(node) = random.pick(&nodes) else { return };
        cordon(&client, node, true).await;
        let end = Instant::now() + random.delay(DRAIN);
        while Instant::now() < end {
            evict(&client, node).await;
            sleep(RETRY).await;
        }
        cordon(&client, node, false).await;
    }
}

/// Its failure is of no account.
pub(super) async fn cordon(client: &Client, node: &str, is_cordoned: bool) {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": is_cordoned}}));
    let _ = client.raw(&Gvr::new("", "v1", "nodes")).patch("", node, &patch, None).await;
}

/// Asks for every pod of a node to go, but for those that would come back.
async fn evict(client: &Client, node: &str) {
    let pods = client.raw(&Gvr::new("", "v1", "pods"));
    let on_node = ListOptions::fields(format!("spec.nodeName={node}"));
    let found = pods.list("", &on_node).await.unwrap_or_default();
    for pod in found.iter().filter(|pod| owner_kind(pod) != "DaemonSet" && !has_ended(pod) && !object::is_deleting(pod))
    {
        let (namespace, name) = (object::namespace(pod), object::name(pod));
        let eviction: Value = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace}});
        let _ = pods.create_subresource(namespace, name, "eviction", &eviction).await;
    }
}
