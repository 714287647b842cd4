//! Pods of a kind spread over zones, nodes or whatever else nodes are labelled by.

use kybern_api::core::v1::TopologySpreadConstraint;
use kybern_api::label_selector;
use kybern_apimachinery::selector::{LabelSelector, Operator};

use crate::cache::Cluster;
use crate::framework::{Filter, MAX_NODE_SCORE, NodeFilter, Plugin, PreFilter, PreScore, Score, Verdict};
use crate::node::{Node, NodeInfo};
use crate::plugins::{node_affinity, taint_toleration};
use crate::pod::{PodInfo, Wants, label};
use crate::pod_terms::merge_keys;
use crate::topology::{self, Counts, HOSTNAME, NAME, Tally};

#[derive(Clone, Debug, Default)]
pub struct PodTopologySpread {
    /// The constraints of pods that have none but belong to a Service or a controller; `None` for upstream's own.
    pub defaults: Option<Vec<TopologySpreadConstraint>>,
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    max_skew: i64,
    key: Box<str>,
    slot: Option<usize>,
    selector: LabelSelector,
    min_domains: usize,
    honors_affinity: bool,
    honors_taints: bool,
    /// `DoNotSchedule`.
    is_hard: bool,
}

impl Constraint {
    pub fn of(constraint: &TopologySpreadConstraint, labels: &[(Box<str>, Box<str>)]) -> Self {
        let selector = constraint.label_selector.as_ref();
        let mut selector = selector.and_then(|s| label_selector(s).ok()).unwrap_or_else(LabelSelector::none);
        merge_keys(&mut selector, constraint.match_label_keys.as_deref(), Operator::In, labels);
        Self {
            max_skew: i64::from(constraint.max_skew),
            key: constraint.topology_key.as_str().into(),
            slot: topology::slot(&constraint.topology_key),
            selector,
            min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            honors_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
            honors_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
            is_hard: constraint.when_unsatisfiable == "DoNotSchedule",
        }
    }

    /// One of upstream's default constraints, which only make a difference in the score.
    fn preference(key: &str, max_skew: i64, selector: LabelSelector) -> Self {
        Self {
            max_skew,
            key: key.into(),
            slot: topology::slot(key),
            selector,
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
            is_hard: false,
        }
    }

    /// A node's value of its key.
    fn domain<'a>(&self, node: &'a Node) -> Option<&'a str> {
        topology::domain(node, self.slot, &self.key)
    }

    fn selects(&self, labels: &[(Box<str>, Box<str>)]) -> bool {
        // An empty selector counts nobody.
        !self.selector.is_everything() && self.selector.matches(|key| label(labels, key))
    }

    /// Whether the pods of a node count.
    fn includes(&self, wants: &Wants, node: &Node) -> bool {
        (!self.honors_affinity || node_affinity::matches(wants, node))
            && (!self.honors_taints || taint_toleration::untolerated(node, &wants.tolerations).is_none())
    }

    /// Whether the pods of every node count that has the key.
    fn includes_all(&self, wants: &Wants) -> bool {
        (!self.honors_affinity || (wants.node_selector.is_empty() && wants.required.is_none())) && !self.honors_taints
    }

    /// The pods that it counts, by a key or by the name of their node.
    fn tally<'a>(&self, key: &str, pod: &PodInfo, cluster: &'a Cluster) -> Tally<'a> {
        let mut tally = Tally::new(key);
        for (labels, is_deleting, domains) in cluster.index().groups(&pod.namespace) {
            if !is_deleting && self.selects(labels) {
                tally.take(domains, 1, cluster);
            }
        }
        tally
    }
}

fn has_all_keys(node: &Node, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|constraint| constraint.domain(node).is_some())
}

/// How many pods a constraint counts in each domain that has a node which it includes; only nodes with all keys are looked
/// at where that is asked for.
fn count(constraint: &Constraint, all: Option<&[Constraint]>, pod: &PodInfo, cluster: &Cluster) -> Counts {
    let nodes = cluster.index().nodes();
    let everywhere = |slot: usize| nodes.total(slot) == nodes.total(NAME);
    let keys_are_everywhere =
        all.is_none_or(|all| all.iter().all(|constraint| constraint.slot.is_some_and(everywhere)));
    if let (Some(slot), true, true) = (constraint.slot, constraint.includes_all(pod.wants()), keys_are_everywhere) {
        let tally = constraint.tally(&constraint.key, pod, cluster);
        return nodes.counts(slot).keys().map(|value| (value.clone(), tally.at(value))).collect();
    }
    let tally = constraint.tally("", pod, cluster);
    let mut counts = Counts::new();
    for info in cluster.nodes() {
        let node = &*info.node;
        if all.is_none_or(|all| has_all_keys(node, all))
            && constraint.includes(pod.wants(), node)
            && let Some(value) = topology::value(node, constraint.slot, &constraint.key)
        {
            *counts.entry(value).or_insert(0) += tally.at(&node.name);
        }
    }
    counts
}

struct Skews<'a> {
    pod: &'a PodInfo,
    constraints: Vec<Constraint>,
    /// By constraint, as are the others.
    counts: Vec<Counts>,
    least: Vec<i64>,
    selects_pod: Vec<bool>,
}

fn least(counts: &Counts) -> i64 {
    counts.values().copied().min().unwrap_or(0)
}

impl NodeFilter for Skews<'_> {
    fn check(&self, info: &NodeInfo) -> Verdict {
        for (at, constraint) in self.constraints.iter().enumerate() {
            let counts = &self.counts[at];
            let Some(value) = constraint.domain(&info.node) else {
                return Verdict::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                );
            };
            let least = if counts.len() < constraint.min_domains { 0 } else { self.least[at] };
            let here = counts.get(value).copied().unwrap_or(0);
            if here + i64::from(self.selects_pod[at]) - least > constraint.max_skew {
                return Verdict::unschedulable("node(s) didn't match pod topology spread constraints");
            }
        }
        Verdict::Fits
    }

    fn shift(&mut self, other: &PodInfo, node: &Node, by: i64) {
        if other.namespace != self.pod.namespace || other.is_deleting || !has_all_keys(node, &self.constraints) {
            return;
        }
        for (at, constraint) in self.constraints.iter().enumerate() {
            if !constraint.selects(&other.labels) || !constraint.includes(self.pod.wants(), node) {
                continue;
            }
            let Some(value) = topology::value(node, constraint.slot, &constraint.key) else { continue };
            let count = self.counts[at].entry(value).or_insert(0);
            let was_least = *count == self.least[at];
            *count += by;
            if *count < self.least[at] {
                self.least[at] = *count;
            } else if was_least && by > 0 {
                self.least[at] = least(&self.counts[at]);
            }
        }
    }
}

impl Filter for PodTopologySpread {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a> {
        let constraints = self.constraints(pod, cluster, true);
        if constraints.is_empty() {
            return PreFilter::Skip;
        }
        let counts: Vec<Counts> = constraints.iter().map(|c| count(c, Some(&constraints), pod, cluster)).collect();
        PreFilter::Filter(Box::new(Skews {
            pod,
            least: counts.iter().map(least).collect(),
            counts,
            selects_pod: constraints.iter().map(|c| c.selector.matches(|key| pod.label(key))).collect(),
            constraints,
        }))
    }

    fn may_fit_without(&self, pod: &PodInfo, gone: &PodInfo) -> bool {
        pod.namespace == gone.namespace
            && (self.may_be_by_default(pod) || hard(pod).any(|constraint| constraint.selects(&gone.labels)))
    }

    fn heeds_arrivals(&self) -> bool {
        true
    }

    fn may_fit_with(&self, pod: &PodInfo, new: &PodInfo, _: &Cluster) -> bool {
        self.may_fit_without(pod, new)
    }

    fn may_fit_on(&self, pod: &PodInfo, node: &NodeInfo, _: &Cluster) -> bool {
        hard(pod).all(|constraint| node.node.labels.contains_key(&*constraint.key))
    }

    /// Another domain, or one less, lets nodes of all domains take more or less.
    fn may_fit_after(&self, pod: &PodInfo, old: Option<&Node>, new: Option<&Node>) -> bool {
        let counts = |node: &&Node| hard(pod).all(|constraint| node.labels.contains_key(&*constraint.key));
        match (old.filter(counts), new.filter(counts)) {
            (None, None) => false,
            (Some(old), Some(new)) => {
                (self.may_be_by_default(pod) && old.labels != new.labels)
                    || old.taints != new.taints
                    || hard(pod).any(|c| old.labels.get(&*c.key) != new.labels.get(&*c.key))
            }
            _ => true,
        }
    }
}

fn hard(pod: &PodInfo) -> impl Iterator<Item = &Constraint> {
    pod.wants().spread.iter().filter(|constraint| constraint.is_hard)
}

impl PodTopologySpread {
    /// The pod's own constraints, required or preferred; the defaults for one that has none but belongs to a Service or a
    /// controller.
    fn constraints(&self, pod: &PodInfo, cluster: &Cluster, is_hard: bool) -> Vec<Constraint> {
        let own = &pod.wants().spread;
        if !own.is_empty() {
            return own.iter().filter(|constraint| constraint.is_hard == is_hard).cloned().collect();
        }
        let of_kind = |listed: &TopologySpreadConstraint| (listed.when_unsatisfiable == "DoNotSchedule") == is_hard;
        if self.defaults.as_ref().map_or(is_hard, |listed| !listed.iter().any(of_kind)) {
            return Vec::new();
        }
        let selector = default_selector(pod, cluster);
        if selector.is_everything() {
            return Vec::new();
        }
        match &self.defaults {
            Some(listed) => {
                let one = |listed| Constraint { selector: selector.clone(), ..Constraint::of(listed, &pod.labels) };
                listed.iter().filter(|listed| of_kind(listed)).map(one).collect()
            }
            None => {
                let zone = Constraint::preference("topology.kubernetes.io/zone", 5, selector.clone());
                vec![Constraint::preference(HOSTNAME, 3, selector), zone]
            }
        }
    }

    /// Whether defaults, which are not at hand, may have rejected the pod.
    fn may_be_by_default(&self, pod: &PodInfo) -> bool {
        pod.wants().spread.is_empty() && self.defaults.is_some()
    }
}

/// What the Services of a pod and its controller select by.
fn default_selector(pod: &PodInfo, cluster: &Cluster) -> LabelSelector {
    let mut found = LabelSelector::everything();
    if pod.labels.is_empty() {
        return found;
    }
    let stores = cluster.stores();
    let mut add = |selector: &LabelSelector| {
        for requirement in &selector.requirements {
            if !found.requirements.contains(requirement) {
                found.requirements.push(requirement.clone());
            }
        }
    };
    for service in stores.services.list_in(&pod.namespace) {
        if service.facts.0.matches(|key| pod.label(key)) {
            add(&service.facts.0);
        }
    }
    if let Some((version, kind, name)) = &pod.wants().owner {
        match (&**version, &**kind) {
            ("v1", "ReplicationController") => {
                let owner = stores.replication_controllers.get_in(&pod.namespace, name);
                owner.iter().for_each(|owner| add(&owner.facts.0));
            }
            ("apps/v1", "ReplicaSet") => {
                stores.replica_sets.get_in(&pod.namespace, name).iter().for_each(|owner| add(&owner.facts.0));
            }
            ("apps/v1", "StatefulSet") => {
                stores.stateful_sets.get_in(&pod.namespace, name).iter().for_each(|owner| add(&owner.facts.0));
            }
            _ => {}
        }
    }
    found
}

/// What a preference counts of a node: the pods on it, or those in its domain, each weighed.
struct Crowd<'a> {
    constraint: Constraint,
    on_node: Option<Tally<'a>>,
    in_domain: Counts,
    weight: f64,
}

impl Score for PodTopologySpread {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster, nodes: &[&'a NodeInfo]) -> PreScore<'a> {
        let constraints = self.constraints(pod, cluster, false);
        if constraints.is_empty() {
            return PreScore::Skip;
        }
        // Upstream's own constraints also spread over the nodes of a cluster without zones.
        let are_upstreams = pod.wants().spread.is_empty() && self.defaults.is_none();
        let required = (!are_upstreams).then(|| constraints.clone());
        let counts = |info: &&&'a NodeInfo| required.as_ref().is_none_or(|all| has_all_keys(&info.node, all));
        let crowds: Vec<Crowd<'a>> = constraints
            .iter()
            .map(|constraint| {
                let by_node = &*constraint.key == HOSTNAME;
                let counted = nodes.iter().filter(counts);
                let size = match by_node {
                    true => counted.count(),
                    false => {
                        let value = |info: &&'a NodeInfo| constraint.domain(&info.node);
                        counted.map(value).collect::<std::collections::HashSet<_>>().len()
                    }
                };
                Crowd {
                    on_node: by_node.then(|| constraint.tally("", pod, cluster)),
                    in_domain: match by_node {
                        true => Counts::new(),
                        false => count(constraint, required.as_deref(), pod, cluster),
                    },
                    // Few large domains do not drown in many small ones.
                    weight: ((size + 2) as f64).ln(),
                    constraint: constraint.clone(),
                }
            })
            .collect();
        PreScore::Score(Box::new(move |info| {
            if required.as_ref().is_some_and(|all| !has_all_keys(&info.node, all)) {
                return OUT_OF_PLACE;
            }
            let of = |crowd: &Crowd<'_>| {
                let value = crowd.constraint.domain(&info.node)?;
                let count = match &crowd.on_node {
                    Some(tally) => tally.at(&info.node.name),
                    None => crowd.in_domain.get(value).copied().unwrap_or(0),
                };
                Some(count as f64 * crowd.weight + (crowd.constraint.max_skew - 1) as f64)
            };
            crowds.iter().filter_map(of).sum::<f64>().round() as i64
        }))
    }

    fn normalize(&self, scores: &mut [i64]) {
        let placed = || scores.iter().copied().filter(|score| *score != OUT_OF_PLACE);
        let (min, max) = (placed().min().unwrap_or(0), placed().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                OUT_OF_PLACE => 0,
                _ if max == 0 => MAX_NODE_SCORE,
                crowd => MAX_NODE_SCORE * (max + min - crowd) / max,
            };
        }
    }
}

/// The crowd on a node without the labels that the constraints name.
const OUT_OF_PLACE: i64 = -1;

#[cfg(test)]
#[path = "pod_topology_spread_tests.rs"]
mod tests;
