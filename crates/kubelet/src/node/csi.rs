//! The node's CSINode: which CSI drivers the node has, and that volumes of upstream's former in-tree plugins go through CSI.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kybern_api::core::v1::Node;
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::storage::v1::{CSINode, CSINodeSpec};
use kybern_client::{ClientError, Store};

use crate::shared::Shared;

const MIGRATED_PLUGINS: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// What upstream's kubelet of this version lists.
const MIGRATED: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,\
                        kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Keeps the object there for the node as it is registered, which may be deleted and made anew. Runs until dropped.
pub async fn run(shared: Arc<Shared>, nodes: Store<Node>) {
    let mut changes = nodes.subscribe();
    let mut published = String::new();
    let mut retry = FIRST_RETRY;
    loop {
        let node =
            nodes.get(&shared.config.node_name).filter(|node| *node.metadata.uid.as_deref().unwrap_or("") != published);
        let Some(node) = node else {
            changes.changed().await;
            continue;
        };
        match publish(&shared, &node).await {
            Ok(()) => {
                published = node.metadata.uid.clone().unwrap_or_default();
                retry = FIRST_RETRY;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot publish the node's CSINode; trying again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn publish(shared: &Shared, node: &Node) -> Result<(), ClientError> {
    let (client, owners) = (&shared.client, Some(vec![kybern_api::owner::owner_ref::<Node>(node)]));
    let annotation = (MIGRATED_PLUGINS.to_owned(), MIGRATED.to_owned());
    let mut held = match client.get::<CSINode>("", &shared.config.node_name).await {
        Ok(held) => held,
        Err(error) if error.is_not_found() => {
            let metadata = ObjectMeta {
                name: Some(shared.config.node_name.clone()),
                owner_references: owners,
                annotations: Some(BTreeMap::from([annotation])),
                ..Default::default()
            };
            return client.create(&CSINode { metadata, spec: CSINodeSpec::default() }).await.map(drop);
        }
        Err(error) => return Err(error),
    };
    // One that names a node that is gone would be taken for garbage.
    let before = held.metadata.clone();
    held.metadata.owner_references = owners;
    held.metadata.annotations.get_or_insert_default().insert(annotation.0, annotation.1);
    if held.metadata == before { Ok(()) } else { client.update(&held).await.map(drop) }
}
