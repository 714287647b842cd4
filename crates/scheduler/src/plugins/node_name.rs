//! A pod that names its node goes nowhere else.

use crate::cache::Cluster;
use crate::framework::{Filter, Plugin, PreFilter, Verdict};
use crate::pod::PodInfo;

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }
}

impl Filter for NodeName {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> PreFilter<'a> {
        if pod.node.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::by(|node| match node.node.name == pod.node {
            true => Verdict::Fits,
            false => Verdict::unresolvable("node(s) didn't match the requested node name"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::check;
    use kybern_apimachinery::json;

    #[test]
    fn names() {
        let node = check::occupied(fixture::sized("a", "1", "1Gi"), &[]);
        for (name, fits) in [("", true), ("a", true), ("b", false)] {
            let pod = fixture::pod(json!({"nodeName": name}));
            assert_eq!(check::filter(&NodeName, &pod, &node) == Verdict::Fits, fits, "{name:?}");
        }
    }
}
