//! The pod network of a node whose kubelet runs alone: written as for the all-in-one server, unless somebody has put another
//! there. The node's pod addresses are those it was given, or those that the control plane gives it.

use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use kybern_api::core::v1::Node;
use kybern_client::{Client, Informer, ListOptions, Store};
use kybern_cni::DefaultNetwork;

use super::node;
use crate::paths::Paths;

/// How long after its registration a node waits for the control plane to give it pod addresses.
const PATIENCE: Duration = Duration::from_secs(10);
/// What an all-in-one server takes, which is the only node of its cluster.
const ONLY_NODE: &str = "10.244.0.0/24";

/// Writes the configuration once it is known; until then the node is not ready, for want of a network.
pub(crate) async fn configure(paths: Paths, client: Client, node_name: String, given: Option<String>) {
    if DefaultNetwork::yields(&paths.cni_config) {
        return;
    }
    let ranges = match given {
        Some(ranges) => ranges,
        None => of_control_plane(client, &node_name).await,
    };
    let written = subnets(&ranges).and_then(|subnets| node::write_network(&paths, subnets));
    match written {
        Ok(true) => tracing::info!(pod_cidr = ranges, "configured the pod network"),
        // Somebody was faster.
        Ok(false) => {}
        Err(error) => tracing::error!("{error:#}"),
    }
}

fn subnets(ranges: &str) -> Result<Vec<IpNet>> {
    let parse = |range: &str| range.trim().parse().with_context(|| format!("the pod CIDR {range:?} is no network"));
    ranges.split(',').map(parse).collect()
}

async fn of_control_plane(client: Client, node_name: &str) -> String {
    let options = ListOptions::fields(format!("metadata.name={node_name}"));
    let nodes: Store<Node> = Informer::new(client, options).spawn();
    until(&nodes, |node| node.is_some()).await;
    let given = |node: Option<&Node>| {
        let spec = node?.spec.as_ref()?;
        let all = spec.pod_cidrs.as_ref().filter(|all| !all.is_empty()).map(|all| all.join(","));
        all.or_else(|| spec.pod_cidr.clone()).filter(|ranges| !ranges.is_empty())
    };
    let waited = tokio::time::timeout(PATIENCE, until(&nodes, |node| given(node).is_some())).await;
    let ranges = waited.ok().and_then(|()| given(nodes.list().first().map(AsRef::as_ref)));
    ranges.unwrap_or_else(|| {
        tracing::warn!(
            "nobody gave this node pod addresses (--pod-cidr, podCIDR in the configuration file, or a controller manager with \
             --allocate-node-cidrs): its pods get {ONLY_NODE}, which only a cluster of one node can use"
        );
        ONLY_NODE.to_owned()
    })
}

async fn until(nodes: &Store<Node>, reached: impl Fn(Option<&Node>) -> bool) {
    let mut changes = nodes.subscribe();
    while !reached(nodes.list().first().map(AsRef::as_ref)) {
        changes.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_both_families() {
        assert_eq!(subnets("10.1.2.0/24, fd00::/64").unwrap().len(), 2);
        assert_eq!(subnets("10.1.2").unwrap_err().to_string(), "the pod CIDR \"10.1.2\" is no network");
    }
}
