//! What nodes have should be used up together: processor and memory, or what is configured.

use crate::cache::Cluster;
use crate::framework::{MAX_NODE_SCORE, Plugin, PreScore, Score};
use crate::node::NodeInfo;
use crate::plugins::node_resources_fit::amounts;
use crate::pod::PodInfo;
use crate::resources::Kind;

#[derive(Clone, Debug)]
pub struct NodeResourcesBalancedAllocation {
    pub resources: Vec<Kind>,
}

impl Default for NodeResourcesBalancedAllocation {
    fn default() -> Self {
        Self { resources: vec![Kind::Cpu, Kind::Memory] }
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
}

impl Score for NodeResourcesBalancedAllocation {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster, _: &[&'a NodeInfo]) -> PreScore<'a> {
        // A pod that requests nothing cannot bring a node out of balance.
        if self.resources.iter().all(|kind| pod.requests.amount(kind) == 0) {
            return PreScore::Skip;
        }
        PreScore::Score(Box::new(move |node| {
            let share = |(have, taken): (i64, i64)| (taken as f64 / have as f64).min(1.0);
            let shares = self.resources.iter().filter_map(|kind| amounts(kind, pod, node, true)).map(share);
            let mut first = shares.clone();
            let deviation = match (first.next(), first.next(), first.next()) {
                (Some(a), Some(b), None) => (a - b).abs() / 2.0,
                (_, None, _) => 0.0,
                _ => {
                    let (count, sum) =
                        shares.clone().fold((0.0, 0.0), |(count, sum), share| (count + 1.0, sum + share));
                    (shares.map(|share| (share - sum / count).powi(2)).sum::<f64>() / count).sqrt()
                }
            };
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
            check::score(&NodeResourcesBalancedAllocation::default(), &fixture::requesting("b", "1", "1Gi"), &nodes),
            [100, 75]
        );
        let three = NodeResourcesBalancedAllocation { resources: ["cpu", "memory", "pods"].map(Kind::of).into() };
        assert_eq!(check::score(&three, &fixture::requesting("b", "1", "1Gi"), &nodes), [100, 75]);
        assert!(
            check::score(&NodeResourcesBalancedAllocation::default(), &fixture::requesting("b", "0", "0"), &nodes)
                .is_empty()
        );
    }
}
