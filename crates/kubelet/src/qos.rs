//! The cgroups above the pods': `kubepods` with the node's share of CPU, `burstable` with the sum of its pods' requests,
//! `besteffort` with the least (`pkg/kubelet/cm/qos_container_manager_linux.go`).

use std::sync::Arc;

use kybern_api::core::v1::Pod;
use kybern_linux::cgroup::{Cgroups, Resources};

use crate::pod::resources::{QosClass, cpu_shares, milli, pod_requests, qos_class};
use crate::pod::spec;

/// Keeps the three groups.
pub struct QosCgroups {
    cgroups: Option<Cgroups>,
    root: String,
    burstable: Option<i64>,
}

fn shares(milli: i64) -> Resources {
    Resources { cpu_shares: u64::try_from(cpu_shares(milli)).ok(), ..Default::default() }
}

impl QosCgroups {
    /// Makes the groups below `root`; without cgroups it does nothing, ever.
    pub fn new(cgroups: Option<Cgroups>, root: &str, node_milli_cpus: i64) -> Self {
        let root = root.trim_end_matches('/').to_owned();
        let this = Self { cgroups, root, burstable: None };
        for (group, milli) in [("kubepods", node_milli_cpus), ("kubepods/besteffort", 0), ("kubepods/burstable", 0)] {
            if let Some(cgroups) = &this.cgroups
                && let Err(error) = cgroups.create(&format!("{}/{group}", this.root), &shares(milli))
            {
                tracing::warn!(%error, group, "cannot make a control group; pods of its class share CPU unfairly");
            }
        }
        this
    }

    /// Follows the set of pods.
    pub fn update(&mut self, pods: impl Iterator<Item = Arc<Pod>>) {
        let total = burstable_milli(pods);
        if self.burstable == Some(total) {
            return;
        }
        self.burstable = Some(total);
        if let Some(cgroups) = &self.cgroups
            && let Err(error) = cgroups.update(&format!("{}/kubepods/burstable", self.root), &shares(total))
        {
            tracing::warn!(%error, "cannot set the CPU share of burstable pods");
        }
    }
}

/// The CPU that the burstable pods ask for, in thousandths.
fn burstable_milli(pods: impl Iterator<Item = Arc<Pod>>) -> i64 {
    let burstable = pods.filter(|pod| !spec::has_ended(pod) && qos_class(spec::spec(pod)) == QosClass::Burstable);
    burstable.map(|pod| milli(&pod_requests(spec::spec(&pod)), "cpu")).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::{container, pod, resources};

    #[test]
    fn burstable_requests_are_summed() {
        let sized = |cpu: &str, limit: &[(&str, &str)]| {
            let mut c = container("c");
            c.resources = Some(resources(&[("cpu", cpu), ("memory", "1Mi")], limit));
            Arc::new(pod("p", vec![c]))
        };
        let guaranteed = sized("1", &[("cpu", "1"), ("memory", "1Mi")]);
        let mut ended = (*sized("5", &[])).clone();
        ended.status.get_or_insert_default().phase = Some("Failed".into());
        let pods = [sized("250m", &[]), guaranteed, sized("1", &[]), Arc::new(ended)];
        assert_eq!(burstable_milli(pods.into_iter()), 1250);
    }
}
