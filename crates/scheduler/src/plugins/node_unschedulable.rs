//! A cordoned node takes no pods but those that tolerate it.

use kybern_api::core::v1::Taint;
use kybern_api::node_affinity::tolerates;

use crate::cache::Cluster;
use crate::framework::{Filter, Plugin, PreFilter, Verdict};
use crate::pod::PodInfo;

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }
}

impl Filter for NodeUnschedulable {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> PreFilter<'a> {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        if pod.wants().tolerations.iter().any(|t| tolerates(t, &taint)) {
            return PreFilter::Skip;
        }
        PreFilter::by(|node| match node.node.unschedulable {
            false => Verdict::Fits,
            true => Verdict::unresolvable("node(s) were unschedulable"),
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
    fn cordoned() {
        let node =
            check::occupied(fixture::node(json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true}})), &[]);
        assert_eq!(
            check::filter(&NodeUnschedulable, &fixture::pod(json!({})), &node),
            Verdict::unresolvable("node(s) were unschedulable")
        );
        let daemon =
            fixture::pod(json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}));
        assert_eq!(check::filter(&NodeUnschedulable, &daemon, &node), Verdict::Fits);
    }
}
