//! A node must have left what a pod requests; one with more left over is better (`LeastAllocated`).

use crate::cache::Cluster;
use crate::framework::{Filter, MAX_NODE_SCORE, Plugin, PreFilter, PreScore, Reason, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }
}

fn check(pod: &PodInfo, node: &NodeInfo) -> Verdict {
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
    for (name, want) in &want.scalar {
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
        PreFilter::by(|node| check(pod, node))
    }

    fn may_fit_without(&self, _: &PodInfo, _: &PodInfo) -> bool {
        // Every pod leaves at least its place.
        true
    }
}

/// The share of a resource that would be left, in hundredths.
fn left(have: i64, taken: i64) -> i64 {
    if have == 0 || taken > have { 0 } else { (have - taken) * MAX_NODE_SCORE / have }
}

impl Score for NodeResourcesFit {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> PreScore<'a> {
        let want = pod.guessed;
        PreScore::Score(Box::new(move |node| {
            let have = &node.node.allocatable;
            let resources = [
                (have.milli_cpu, node.guessed.milli_cpu + want.milli_cpu),
                (have.memory, node.guessed.memory + want.memory),
            ];
            // A resource that a node does not have at all says nothing of it.
            let counted = resources.iter().filter(|(have, _)| *have > 0).count() as i64;
            let sum: i64 = resources.iter().map(|(have, taken)| left(*have, *taken)).sum();
            if counted == 0 { 0 } else { sum / counted }
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
        let verdict =
            |cpu: &str, memory: &str| ask::filter(&NodeResourcesFit, &fixture::requesting("b", cpu, memory), &node);
        assert_eq!(verdict("500m", "1Gi"), Verdict::Fits);
        assert_eq!(verdict("501m", "1Gi"), Verdict::unschedulable("Insufficient cpu"));
        assert_eq!(
            verdict("1", "1025Mi"),
            Verdict::Unschedulable(vec!["Insufficient cpu".into(), "Insufficient memory".into()])
        );
        assert_eq!(verdict("3", "1"), Verdict::unresolvable("Insufficient cpu"));
        let gpu = fixture::pod(json!({"containers": [{"name": "c", "resources": {"requests": {"x.io/gpu": "1"}}}]}));
        assert_eq!(ask::filter(&NodeResourcesFit, &gpu, &node), Verdict::unresolvable("Insufficient x.io/gpu"));
        let small = fixture::node(json!({"metadata": {"name": "s"}, "status": {"allocatable": {"pods": "1"}}}));
        let full = ask::occupied(small, &[&fixture::pod(json!({}))]);
        assert_eq!(
            ask::filter(&NodeResourcesFit, &fixture::pod(json!({})), &full),
            Verdict::unschedulable("Too many pods")
        );
    }

    #[test]
    fn scores() {
        let nodes = [
            ask::occupied(fixture::sized("empty", "4", "4Gi"), &[]),
            ask::occupied(fixture::sized("half", "4", "4Gi"), &[&fixture::requesting("a", "2", "2Gi")]),
        ];
        assert_eq!(ask::score(&NodeResourcesFit, &fixture::requesting("b", "1", "1Gi"), &nodes), [75, 25]);
    }
}
