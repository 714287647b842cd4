//! What tests of plugins ask.

use std::sync::Arc;

use crate::cache::Cluster;
use crate::framework::{Filter, PreFilter, PreScore, Score, Verdict};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;

/// A node with pods on it.
pub(crate) fn occupied(node: Node, pods: &[&PodInfo]) -> NodeInfo {
    let mut info = NodeInfo::new(Arc::new(node));
    pods.iter().for_each(|pod| info.add(Arc::new((*pod).clone())));
    info
}

pub(crate) fn filter(plugin: &impl Filter, pod: &PodInfo, node: &NodeInfo) -> Verdict {
    let cluster = Cluster::default();
    match plugin.pre_filter(pod, &cluster) {
        PreFilter::Skip => Verdict::Fits,
        PreFilter::Filter(filter) => filter.check(node),
        PreFilter::Only(names, _) if !names.contains(&*node.node.name) => Verdict::Unresolvable(Vec::new()),
        PreFilter::Only(_, filter) => filter.check(node),
        PreFilter::Reject(reason) => Verdict::unresolvable(reason),
    }
}

/// The normalized scores; empty where the plugin has nothing to say.
pub(crate) fn score(plugin: &impl Score, pod: &PodInfo, nodes: &[NodeInfo]) -> Vec<i64> {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|info| drop(cluster.set_node(info.node.clone())));
    score_of(plugin, pod, &cluster, &nodes.iter().collect::<Vec<_>>())
}

/// As [`score`], of a cluster's nodes.
pub(crate) fn score_in(plugin: &impl Score, pod: &PodInfo, cluster: &Cluster) -> Vec<i64> {
    score_of(plugin, pod, cluster, &cluster.nodes().collect::<Vec<_>>())
}

fn score_of<'a>(plugin: &'a impl Score, pod: &'a PodInfo, cluster: &'a Cluster, nodes: &[&'a NodeInfo]) -> Vec<i64> {
    match plugin.pre_score(pod, cluster, nodes) {
        PreScore::Skip => Vec::new(),
        PreScore::Score(score) => {
            let mut scores: Vec<i64> = nodes.iter().map(|node| score(node)).collect();
            plugin.normalize(&mut scores);
            scores
        }
    }
}
