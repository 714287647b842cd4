//! Disks that one node cannot have twice, and claims that only one pod may mount.

use crate::cache::Cluster;
use crate::framework::{Filter, NodeFilter, Plugin, PreFilter, Verdict};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;

pub struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }
}

struct Rules<'a> {
    pod: &'a PodInfo,
    /// The claims that must not be mounted elsewhere.
    exclusive: Vec<&'a str>,
    /// How many times they are.
    mounts: i64,
}

fn clash(a: &PodInfo, b: &PodInfo) -> bool {
    a.disks.iter().any(|disk| b.disks.iter().any(|other| disk.conflicts(other)))
}

impl NodeFilter for Rules<'_> {
    fn check(&self, info: &NodeInfo) -> Verdict {
        if !self.pod.disks.is_empty() && info.pods.iter().any(|other| clash(self.pod, other)) {
            return Verdict::unschedulable("node(s) had no available disk");
        }
        if self.mounts > 0 {
            return Verdict::unschedulable(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
            );
        }
        Verdict::Fits
    }

    fn shift(&mut self, other: &PodInfo, _: &Node, by: i64) {
        if other.namespace == self.pod.namespace {
            let shared = other.claims.iter().filter(|(claim, _)| self.exclusive.contains(&&**claim)).count();
            self.mounts += by * shared as i64;
        }
    }
}

impl Filter for VolumeRestrictions {
    fn pre_filter<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster) -> PreFilter<'a> {
        let mut rules = Rules { pod, exclusive: Vec::new(), mounts: 0 };
        for (name, _) in pod.claims.iter().filter(|(_, is_ephemeral)| !is_ephemeral) {
            let Some(claim) = cluster.stores().claims.get_in(&pod.namespace, name) else {
                return PreFilter::Reject(format!("persistentvolumeclaim {name:?} not found").into());
            };
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                rules.exclusive.push(name);
                rules.mounts += i64::from(cluster.index().is_mounted(&pod.namespace, name));
            }
        }
        match pod.disks.is_empty() && rules.mounts == 0 {
            true => PreFilter::Skip,
            false => PreFilter::Filter(Box::new(rules)),
        }
    }

    fn may_fit_without(&self, pod: &PodInfo, gone: &PodInfo) -> bool {
        let shares = |(claim, _): &(Box<str>, bool)| gone.claims.iter().any(|(other, _)| other == claim);
        clash(pod, gone) || (pod.namespace == gone.namespace && pod.claims.iter().any(shares))
    }

    fn reads_storage(&self) -> bool {
        true
    }
}
