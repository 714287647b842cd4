//! Taints keep pods away that do not tolerate them; `PreferNoSchedule` does so where there is a choice.

use kybern_api::core::v1::{Taint, Toleration};
use kybern_api::node_affinity::tolerates;

use crate::cache::Cluster;
use crate::framework::{Filter, Plugin, PreFilter, PreScore, Score, Verdict, normalize_by_max};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;

const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }
}

fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|t| tolerates(t, taint))
}

/// A taint that keeps the pod off the node.
pub fn untolerated<'a>(node: &'a Node, tolerations: &[Toleration]) -> Option<&'a Taint> {
    node.taints.iter().find(|t| t.effect != PREFER_NO_SCHEDULE && !is_tolerated(t, tolerations))
}

impl Filter for TaintToleration {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> PreFilter<'a> {
        let tolerations = &pod.wants().tolerations;
        PreFilter::by(|node| match untolerated(&node.node, tolerations) {
            None => Verdict::Fits,
            Some(taint) => Verdict::unresolvable(format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or("")
            )),
        })
    }
}

impl Score for TaintToleration {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, nodes: &[&'a NodeInfo]) -> PreScore<'a> {
        let prefers = |t: &&Taint| t.effect == PREFER_NO_SCHEDULE;
        if !nodes.iter().any(|node| node.node.taints.iter().any(|t| prefers(&t))) {
            return PreScore::Skip;
        }
        let tolerations = &pod.wants().tolerations;
        PreScore::Score(Box::new(move |node| {
            node.node.taints.iter().filter(prefers).filter(|t| !is_tolerated(t, tolerations)).count() as i64
        }))
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_max(scores, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::check;
    use kybern_apimachinery::{Value, json};

    fn tainted(taints: Value) -> NodeInfo {
        check::occupied(fixture::node(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}})), &[])
    }

    #[test]
    fn filters() {
        let node = tainted(json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]));
        assert_eq!(
            check::filter(&TaintToleration, &fixture::pod(json!({})), &node),
            Verdict::unresolvable("node(s) had untolerated taint {k: v}")
        );
        let tolerant = fixture::pod(json!({"tolerations": [{"key": "k", "operator": "Exists"}]}));
        assert_eq!(check::filter(&TaintToleration, &tolerant, &node), Verdict::Fits);
        let preference = tainted(json!([{"key": "k", "effect": "PreferNoSchedule"}]));
        assert_eq!(check::filter(&TaintToleration, &fixture::pod(json!({})), &preference), Verdict::Fits);
    }

    #[test]
    fn scores() {
        let nodes = [
            tainted(json!([{"key": "a", "effect": "PreferNoSchedule"}, {"key": "b", "effect": "PreferNoSchedule"}])),
            tainted(json!([{"key": "a", "effect": "PreferNoSchedule"}])),
            tainted(json!([])),
        ];
        assert_eq!(check::score(&TaintToleration, &fixture::pod(json!({})), &nodes), [0, 50, 100]);
        assert!(check::score(&TaintToleration, &fixture::pod(json!({})), &nodes[2..]).is_empty());
    }
}
