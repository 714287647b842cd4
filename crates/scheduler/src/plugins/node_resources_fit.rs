//! A node must have left what a pod requests; one with more left over is better, or one with less, as is configured.

use crate::cache::Cluster;
use crate::framework::{Filter, MAX_NODE_SCORE, Plugin, PreFilter, PreScore, Reason, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::resources::Kind;

#[derive(Clone, Debug)]
pub struct NodeResourcesFit {
    /// Extended resources that need not be left.
    pub ignored: Vec<String>,
    /// As [`Self::ignored`], all with this before the slash.
    pub ignored_groups: Vec<String>,
    pub strategy: Strategy,
    /// What is scored, with weights.
    pub resources: Vec<(Kind, i64)>,
}

impl Default for NodeResourcesFit {
    fn default() -> Self {
        Self {
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: vec![(Kind::Cpu, 1), (Kind::Memory, 1)],
        }
    }
}

/// Which of the nodes that could take a pod are better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    LeastAllocated,
    MostAllocated,
    /// Rising hundredths of what a node has that are taken, each with its score; between two of them it is proportional.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

impl Strategy {
    fn score(&self, have: i64, taken: i64) -> i64 {
        match self {
            Self::LeastAllocated if taken > have => 0,
            Self::LeastAllocated => (have - taken) * MAX_NODE_SCORE / have,
            Self::MostAllocated => taken.min(have) * MAX_NODE_SCORE / have,
            Self::RequestedToCapacityRatio(shape) => {
                let taken = if taken > have { 100 } else { taken * 100 / have };
                let after = shape.iter().position(|(at, _)| taken <= *at);
                match (after, shape.last()) {
                    (Some(0), _) => shape[0].1,
                    (Some(n), _) => {
                        let ((left, low), (right, high)) = (shape[n - 1], shape[n]);
                        low + (high - low) * (taken - left) / (right - left)
                    }
                    (None, last) => last.map_or(0, |(_, score)| *score),
                }
            }
        }
    }
}

/// What a node has of a resource, and how much of it would be taken with the pod on it: exactly, or with upstream's guess for
/// containers that request nothing. `None` where the resource says nothing of the node.
pub(super) fn amounts(kind: &Kind, pod: &PodInfo, node: &NodeInfo, exactly: bool) -> Option<(i64, i64)> {
    let want = match kind {
        Kind::Cpu if !exactly => pod.guessed.milli_cpu,
        Kind::Memory if !exactly => pod.guessed.memory,
        kind => pod.requests.amount(kind),
    };
    if want == 0 && matches!(kind, Kind::Scalar(_)) {
        return None;
    }
    let taken = match kind {
        Kind::Cpu if !exactly => node.guessed.milli_cpu,
        Kind::Memory if !exactly => node.guessed.memory,
        kind => node.requested.amount(kind),
    };
    Some((node.node.allocatable.amount(kind), taken + want)).filter(|(have, _)| *have > 0)
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
}

fn check(pod: &PodInfo, node: &NodeInfo, ignores: impl Fn(&str) -> bool) -> Verdict {
    let (want, have, taken) = (&pod.requests, &node.node.allocatable, &node.requested);
    let mut lacking: Vec<Reason> = Vec::new();
    let mut unresolvable = false;
    if taken.pods + 1 > have.pods {
        lacking.push("Too many pods".into());
        unresolvable |= have.pods < 1;
    }
    let mut require = |want: i64, have: i64, taken: i64, reason: &dyn Fn() -> Reason| {
        if want > 0 && want > have - taken {
            lacking.push(reason());
            unresolvable |= want > have;
        }
    };
    require(want.milli_cpu, have.milli_cpu, taken.milli_cpu, &|| "Insufficient cpu".into());
    require(want.memory, have.memory, taken.memory, &|| "Insufficient memory".into());
    require(want.ephemeral_storage, have.ephemeral_storage, taken.ephemeral_storage, &|| {
        "Insufficient ephemeral-storage".into()
    });
    for (name, want) in want.scalar.iter().filter(|(name, _)| !ignores(name)) {
        require(*want, have.scalar(name), taken.scalar(name), &|| format!("Insufficient {name}").into());
    }
    match (lacking.is_empty(), unresolvable) {
        (true, _) => Verdict::Fits,
        (false, false) => Verdict::Unschedulable(lacking),
        (false, true) => Verdict::Unresolvable(lacking),
    }
}

impl Filter for NodeResourcesFit {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> PreFilter<'a> {
        let ignores = |name: &str| {
            let group = name.split_once('/').map(|(group, _)| group);
            group.is_some_and(|group| self.ignored_groups.iter().any(|ignored| ignored == group))
                || self.ignored.iter().any(|ignored| ignored == name)
        };
        PreFilter::by(move |node: &NodeInfo| check(pod, node, ignores))
    }

    fn may_fit_without(&self, _: &PodInfo, _: &PodInfo) -> bool {
        // Every pod leaves at least its place.
        true
    }
}

impl Score for NodeResourcesFit {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> PreScore<'a> {
        PreScore::Score(Box::new(move |node| {
            let (mut sum, mut weights) = (0, 0);
            for (kind, weight) in &self.resources {
                let Some((have, taken)) = amounts(kind, pod, node, false) else { continue };
                let score = self.strategy.score(have, taken);
                if score > 0 || !matches!(self.strategy, Strategy::RequestedToCapacityRatio(_)) {
                    sum += score * weight;
                    weights += weight;
                }
            }
            match (weights, &self.strategy) {
                (0, _) => 0,
                (_, Strategy::RequestedToCapacityRatio(_)) => (sum as f64 / weights as f64).round() as i64,
                _ => sum / weights,
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::check as ask;
    use kybern_apimachinery::json;

    #[test]
    fn filters() {
        let node = ask::occupied(fixture::sized("n", "2", "2Gi"), &[&fixture::requesting("a", "1500m", "1Gi")]);
        let verdict = |cpu: &str, memory: &str| {
            ask::filter(&NodeResourcesFit::default(), &fixture::requesting("b", cpu, memory), &node)
        };
        assert_eq!(verdict("500m", "1Gi"), Verdict::Fits);
        assert_eq!(verdict("501m", "1Gi"), Verdict::unschedulable("Insufficient cpu"));
        assert_eq!(
            verdict("1", "1025Mi"),
            Verdict::Unschedulable(vec!["Insufficient cpu".into(), "Insufficient memory".into()])
        );
        assert_eq!(verdict("3", "1"), Verdict::unresolvable("Insufficient cpu"));
        let gpu = fixture::pod(json!({"containers": [{"name": "c", "resources": {"requests": {"x.io/gpu": "1"}}}]}));
        assert_eq!(
            ask::filter(&NodeResourcesFit::default(), &gpu, &node),
            Verdict::unresolvable("Insufficient x.io/gpu")
        );
        let [ignored, group] = [vec!["x.io/gpu".to_owned()], vec!["x.io".to_owned()]];
        let plugin = NodeResourcesFit { ignored, ..NodeResourcesFit::default() };
        assert_eq!(ask::filter(&plugin, &gpu, &node), Verdict::Fits);
        let plugin = NodeResourcesFit { ignored_groups: group, ..NodeResourcesFit::default() };
        assert_eq!(ask::filter(&plugin, &gpu, &node), Verdict::Fits);
        let small = fixture::node(json!({"metadata": {"name": "s"}, "status": {"allocatable": {"pods": "1"}}}));
        let full = ask::occupied(small, &[&fixture::pod(json!({}))]);
        assert_eq!(
            ask::filter(&NodeResourcesFit::default(), &fixture::pod(json!({})), &full),
            Verdict::unschedulable("Too many pods")
        );
    }

    #[test]
    fn scores() {
        let nodes = [
            ask::occupied(fixture::sized("empty", "4", "4Gi"), &[]),
            ask::occupied(fixture::sized("half", "4", "4Gi"), &[&fixture::requesting("a", "2", "2Gi")]),
        ];
        let pod = fixture::requesting("b", "1", "1Gi");
        let check = |strategy: Strategy, resources: &[(&str, i64)], expect: [i64; 2]| {
            let resources = resources.iter().map(|(name, weight)| (Kind::of(name), *weight)).collect();
            let plugin = NodeResourcesFit { strategy: strategy.clone(), resources, ..NodeResourcesFit::default() };
            assert_eq!(ask::score(&plugin, &pod, &nodes), expect, "{strategy:?}");
        };
        let even: &[(&str, i64)] = &[("cpu", 1), ("memory", 1)];
        check(Strategy::LeastAllocated, even, [75, 25]);
        check(Strategy::MostAllocated, even, [25, 75]);
        // What the pod does not request says nothing; nor what no node has.
        check(Strategy::MostAllocated, &[("cpu", 5), ("x.io/gpu", 5), ("ephemeral-storage", 9)], [25, 75]);
        check(Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 100)]), even, [25, 75]);
        check(Strategy::RequestedToCapacityRatio(vec![(0, 100), (50, 0)]), even, [50, 0]);
        check(Strategy::RequestedToCapacityRatio(vec![(50, 10), (60, 90)]), even, [10, 90]);
    }
}
