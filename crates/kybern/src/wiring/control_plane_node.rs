//! Marks the node that runs the control plane as such. No kubelet may do that itself, as in any cluster: it could make
//! itself one.

use std::time::Duration;

use kybern_api::core::v1::Node;
use kybern_apimachinery::{Gvr, json};
use kybern_client::{Client, Informer, ListOptions, Patch, Store};

const LABEL: &str = "node-role.kubernetes.io/control-plane";
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Waits for the node to register, and gives it the label. `client` is an administrator's.
pub(super) async fn mark(client: Client, name: String) {
    let options = ListOptions::fields(format!("metadata.name={name}"));
    let nodes: Store<Node> = Informer::new(client.clone(), options).spawn();
    nodes.wait_until(|nodes| nodes.get(&name).is_some()).await;
    let patch = Patch::Merge(json!({"metadata": {"labels": {LABEL: ""}}}));
    let mut wait = RETRY;
    while let Err(error) = client.raw(&Gvr::new("", "v1", "nodes")).patch("", &name, &patch, None).await {
        tracing::warn!("cannot label node {name} with {LABEL}: {error}; trying again in {} s", wait.as_secs());
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
