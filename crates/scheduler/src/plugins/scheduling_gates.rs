//! A pod with scheduling gates waits until all are removed.

use crate::cache::Cluster;
use crate::framework::{Plugin, PreEnqueue};
use crate::pod::PodInfo;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }
}

impl PreEnqueue for SchedulingGates {
    fn is_ready(&self, pod: &PodInfo, _: &Cluster) -> bool {
        pod.wants().gates.is_empty()
    }
}
