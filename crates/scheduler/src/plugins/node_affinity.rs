//! `nodeSelector` and node affinity, required and preferred.

use std::collections::BTreeSet;

use kybern_api::node_affinity::{NodeTerm, PreferredTerm};

use crate::cache::Cluster;
use crate::framework::{Filter, Plugin, PreFilter, PreScore, Score, Verdict, normalize_by_max};
use crate::node::{Node, NodeInfo};
use crate::pod::{PodInfo, Wants};

/// What the profile asks of every pod's node, besides what the pod asks.
#[derive(Clone, Debug, Default)]
pub struct NodeAffinity {
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<PreferredTerm>,
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }
}

/// Whether the node is one that the pod asks for.
pub fn matches(wants: &Wants, node: &Node) -> bool {
    wants.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && wants.required.as_ref().is_none_or(|terms| terms.iter().any(|term| term.matches(&node.name, &node.labels)))
}

/// The nodes that the required terms name, if every term names one: pods of a DaemonSet do.
fn pinned(terms: &[NodeTerm]) -> Option<BTreeSet<String>> {
    let names: Option<BTreeSet<String>> = terms.iter().map(|t| t.pinned_name().map(str::to_owned)).collect();
    names.filter(|names| !names.is_empty())
}

impl Filter for NodeAffinity {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> PreFilter<'a> {
        let wants = pod.wants();
        if wants.node_selector.is_empty() && wants.required.is_none() && self.required.is_none() {
            return PreFilter::Skip;
        }
        let filter = Box::new(|node: &NodeInfo| {
            if self
                .required
                .as_ref()
                .is_some_and(|terms| !terms.iter().any(|term| term.matches(&node.node.name, &node.node.labels)))
            {
                return Verdict::unresolvable("node(s) didn't match scheduler-enforced node affinity");
            }
            match matches(wants, &node.node) {
                true => Verdict::Fits,
                false => Verdict::unresolvable("node(s) didn't match Pod's node affinity/selector"),
            }
        });
        match wants.required.as_deref().and_then(pinned) {
            Some(names) => PreFilter::Only(names, filter),
            None => PreFilter::Filter(filter),
        }
    }
}

impl Score for NodeAffinity {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> PreScore<'a> {
        let preferred = &pod.wants().preferred;
        if preferred.is_empty() && self.preferred.is_empty() {
            return PreScore::Skip;
        }
        PreScore::Score(Box::new(|node| {
            preferred
                .iter()
                .chain(&self.preferred)
                .filter(|p| p.term.matches(&node.node.name, &node.node.labels))
                .map(|p| p.weight)
                .sum()
        }))
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_max(scores, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::check;
    use kybern_api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
    use kybern_apimachinery::{Value, json};

    fn labelled(name: &str, labels: Value) -> NodeInfo {
        check::occupied(fixture::node(json!({"metadata": {"name": name, "labels": labels}})), &[])
    }

    #[test]
    fn filters() {
        let node = labelled("n", json!({"disk": "ssd"}));
        let fits = |spec: Value| check::filter(&NodeAffinity::default(), &fixture::pod(spec), &node) == Verdict::Fits;
        assert!(fits(json!({"nodeSelector": {"disk": "ssd"}})));
        assert!(!fits(json!({"nodeSelector": {"disk": "hdd"}})));
        let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let disk = |value: &str| json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]});
        assert!(fits(required(json!([disk("hdd"), disk("ssd")]))));
        assert!(!fits(required(json!([disk("hdd")]))));
        let named = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        assert!(fits(required(json!([named("n")]))));
        assert!(!fits(required(json!([named("m")]))));
    }

    #[test]
    fn scores() {
        let term = |weight: i64, zone: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}});
        let pod = fixture::pod(
            json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term(10, "a"), term(5, "b")]}}}),
        );
        let nodes = ["a", "b", "c"].map(|zone| labelled(zone, json!({"zone": zone})));
        assert_eq!(check::score(&NodeAffinity::default(), &pod, &nodes), [100, 50, 0]);
    }

    #[test]
    fn what_the_profile_adds() {
        let zone = |zone: &str| NodeSelectorTerm {
            match_expressions: Some(vec![NodeSelectorRequirement {
                key: "zone".into(),
                operator: "In".into(),
                values: Some(vec![zone.into()]),
            }]),
            match_fields: None,
        };
        let nodes = ["a", "b", "c"].map(|zone| labelled(zone, json!({"zone": zone})));
        let preferred = PreferredTerm { weight: 5, term: NodeTerm::of(&zone("b")) };
        let plugin = NodeAffinity { required: Some(vec![NodeTerm::of(&zone("a"))]), preferred: vec![preferred] };
        let pod = fixture::pod(json!({}));
        assert_eq!(check::filter(&plugin, &pod, &nodes[0]), Verdict::Fits);
        let verdict = check::filter(&plugin, &pod, &nodes[1]);
        assert_eq!(verdict, Verdict::unresolvable("node(s) didn't match scheduler-enforced node affinity"));
        assert_eq!(check::score(&plugin, &pod, &nodes), [0, 100, 0]);
    }
}
