//! The node's lease: renewed every ten seconds, so that the control plane learns of the node's death within forty.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kybern_api::coordination::v1::{Lease, LeaseSpec};
use kybern_api::core::v1::Node;
use kybern_api::meta::v1::{MicroTime, ObjectMeta};
use kybern_client::{ClientError, Store};
use tokio::time::MissedTickBehavior;

use crate::shared::Shared;

const NAMESPACE: &str = "kube-node-lease";
const RENEW_EVERY: Duration = Duration::from_secs(10);
const DURATION_SECONDS: i32 = 40;

/// Renews the lease until dropped.
pub async fn run(shared: Arc<Shared>, nodes: Store<Node>) {
    let mut lease: Option<Lease> = None;
    let mut ticks = tokio::time::interval(RENEW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match renew(&shared, &nodes, lease.take()).await {
            Ok(renewed) => lease = Some(renewed),
            Err(error) => tracing::warn!(%error, "cannot renew the node's lease; trying again in 10 s"),
        }
    }
}

async fn renew(shared: &Shared, nodes: &Store<Node>, held: Option<Lease>) -> Result<Lease, ClientError> {
    let (client, name) = (&shared.client, &shared.config.node_name);
    let held = match held {
        Some(lease) => Some(lease),
        None => match client.get::<Lease>(NAMESPACE, name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    let now = MicroTime(Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or_default());
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        renew_time: Some(now),
        ..Default::default()
    };
    let owner = nodes.get(name).map(|node| vec![kybern_api::owner::owner_ref::<Node>(&node)]);
    match held {
        Some(mut lease) => {
            lease.spec = Some(spec);
            if lease.metadata.owner_references.is_none() {
                lease.metadata.owner_references = owner;
            }
            client.update(&lease).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.to_owned()),
                owner_references: owner,
                ..Default::default()
            };
            client.create(&Lease { metadata, spec: Some(spec) }).await
        }
    }
}
