//! Pods of a gang get nodes together or not at all. Does nothing where workloads are not read.

use std::time::Duration;

use crate::cache::Cluster;
use crate::framework::{Permission, Permit, Plugin, PreEnqueue, Reason, Reserve};
use crate::gangs::Gangs;
use crate::node::NodeInfo;
use crate::pod::PodInfo;

#[derive(Clone, Copy, Debug, Default)]
pub struct GangScheduling;

pub const NAME: &str = "GangScheduling";

/// Nothing for a pod that is in no group.
fn gangs<'a>(pod: &PodInfo, cluster: &'a Cluster) -> Option<&'a Gangs> {
    pod.membership.as_ref().and(cluster.stores().gangs.as_ref())
}

impl Plugin for GangScheduling {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl PreEnqueue for GangScheduling {
    fn is_ready(&self, pod: &PodInfo, cluster: &Cluster) -> bool {
        gangs(pod, cluster).is_none_or(|gangs| gangs.is_whole(pod))
    }
}

impl Reserve for GangScheduling {
    fn reserve(&self, pod: &PodInfo, _: &NodeInfo, cluster: &Cluster) -> Result<(), Reason> {
        if let Some(gangs) = gangs(pod, cluster) {
            gangs.assume(&pod.uid, true);
        }
        Ok(())
    }

    fn unreserve(&self, pod: &PodInfo, _: &str, cluster: &Cluster) {
        if let Some(gangs) = gangs(pod, cluster) {
            gangs.assume(&pod.uid, false);
        }
    }
}

impl Permit for GangScheduling {
    fn permit(&self, pod: &PodInfo, _: &NodeInfo, cluster: &Cluster, now: Duration) -> Permission {
        gangs(pod, cluster).map_or(Permission::Allow, |gangs| gangs.permit(pod, now))
    }
}
