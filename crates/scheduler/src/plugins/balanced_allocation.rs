//! Processor and memory of a node should be used up together.

use crate::cache::Cluster;
use crate::framework::{MAX_NODE_SCORE, Plugin, PreScore, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
}

impl Score for NodeResourcesBalancedAllocation {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> PreScore<'a> {
        // A pod that requests nothing cannot bring a node out of balance.
        if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
            return PreScore::Skip;
        }
        let want = &pod.requests;
        PreScore::Score(Box::new(|node| {
            let have = &node.node.allocatable;
            if have.milli_cpu == 0 || have.memory == 0 {
                return MAX_NODE_SCORE;
            }
            let share = |taken: i64, have: i64| (taken as f64 / have as f64).min(1.0);
            let cpu = share(node.requested.milli_cpu + want.milli_cpu, have.milli_cpu);
            let memory = share(node.requested.memory + want.memory, have.memory);
            // The standard deviation of two values.
            let deviation = (cpu - memory).abs() / 2.0;
            ((1.0 - deviation) * MAX_NODE_SCORE as f64) as i64
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::check;

    #[test]
    fn scores() {
        let nodes = [
            check::occupied(fixture::sized("even", "4", "4Gi"), &[]),
            check::occupied(fixture::sized("odd", "4", "4Gi"), &[&fixture::requesting("a", "2", "0")]),
        ];
        assert_eq!(
            check::score(&NodeResourcesBalancedAllocation, &fixture::requesting("b", "1", "1Gi"), &nodes),
            [100, 75]
        );
        assert!(check::score(&NodeResourcesBalancedAllocation, &fixture::requesting("b", "0", "0"), &nodes).is_empty());
    }
}
