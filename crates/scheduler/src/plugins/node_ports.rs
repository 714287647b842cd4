//! A host port is given to one pod of a node.

use crate::cache::Cluster;
use crate::framework::{Filter, Plugin, PreFilter, Verdict};
use crate::pod::{HostPort, PodInfo};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }
}

fn conflict(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    wanted.iter().any(|port| taken.iter().any(|other| port.conflicts(other)))
}

impl Filter for NodePorts {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Cluster) -> PreFilter<'a> {
        if pod.host_ports.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::by(|node| match conflict(&pod.host_ports, &node.host_ports) {
            false => Verdict::Fits,
            true => Verdict::unschedulable("node(s) didn't have free ports for the requested pod ports"),
        })
    }

    fn may_fit_without(&self, pod: &PodInfo, gone: &PodInfo) -> bool {
        conflict(&pod.host_ports, &gone.host_ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::check;
    use kybern_apimachinery::json;

    #[test]
    fn taken_ports() {
        let pod = |port: i32| {
            fixture::pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": port}]}]}))
        };
        let node = check::occupied(fixture::sized("n", "1", "1Gi"), &[&pod(80)]);
        assert_eq!(
            check::filter(&NodePorts, &pod(80), &node),
            Verdict::unschedulable("node(s) didn't have free ports for the requested pod ports")
        );
        assert_eq!(check::filter(&NodePorts, &pod(81), &node), Verdict::Fits);
        assert!(NodePorts.may_fit_without(&pod(80), &pod(80)));
        assert!(!NodePorts.may_fit_without(&pod(80), &pod(81)));
    }
}
