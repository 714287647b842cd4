//! The plugins, and their order: that of this file.

use std::sync::Arc;

use crate::framework::{Bind, Filter, Permit, PostFilter, PreBind, PreEnqueue, QueueSort, Reserve, Score};
use crate::plugins::balanced_allocation::NodeResourcesBalancedAllocation;
use crate::plugins::default_binder::DefaultBinder;
use crate::plugins::default_preemption::DefaultPreemption;
use crate::plugins::image_locality::ImageLocality;
use crate::plugins::inter_pod_affinity::InterPodAffinity;
use crate::plugins::node_affinity::NodeAffinity;
use crate::plugins::node_name::NodeName;
use crate::plugins::node_ports::NodePorts;
use crate::plugins::node_resources_fit::NodeResourcesFit;
use crate::plugins::node_unschedulable::NodeUnschedulable;
use crate::plugins::node_volume_limits::NodeVolumeLimits;
use crate::plugins::pod_topology_spread::PodTopologySpread;
use crate::plugins::priority_sort::PrioritySort;
use crate::plugins::scheduling_gates::SchedulingGates;
use crate::plugins::taint_toleration::TaintToleration;
use crate::plugins::volume_binding::VolumeBinding;
use crate::plugins::volume_restrictions::VolumeRestrictions;
use crate::plugins::volume_zone::VolumeZone;

/// What runs at each extension point.
pub struct Chain {
    pub queue_sort: Arc<dyn QueueSort>,
    pub pre_enqueue: Vec<Box<dyn PreEnqueue>>,
    /// At most 32: their verdicts are kept as bits.
    pub filter: Vec<Box<dyn Filter>>,
    pub post_filter: Vec<Box<dyn PostFilter>>,
    /// With their weights.
    pub score: Vec<(Box<dyn Score>, i64)>,
    pub reserve: Vec<Box<dyn Reserve>>,
    pub permit: Vec<Box<dyn Permit>>,
    pub pre_bind: Vec<Box<dyn PreBind>>,
    pub bind: Vec<Box<dyn Bind>>,
}

impl Default for Chain {
    /// Upstream's default plugins and weights.
    fn default() -> Self {
        Self {
            queue_sort: Arc::new(PrioritySort),
            pre_enqueue: vec![Box::new(SchedulingGates)],
            filter: vec![
                Box::new(NodeUnschedulable),
                Box::new(NodeName),
                Box::new(TaintToleration),
                Box::new(NodeAffinity),
                Box::new(NodePorts),
                Box::new(NodeResourcesFit::default()),
                Box::new(VolumeRestrictions),
                Box::new(NodeVolumeLimits),
                Box::new(VolumeBinding),
                Box::new(VolumeZone),
                Box::new(PodTopologySpread),
                Box::new(InterPodAffinity),
            ],
            post_filter: vec![Box::new(DefaultPreemption)],
            score: vec![
                (Box::new(TaintToleration), 3),
                (Box::new(NodeAffinity), 2),
                (Box::new(NodeResourcesFit::default()), 1),
                (Box::new(PodTopologySpread), 2),
                (Box::new(InterPodAffinity), 2),
                (Box::new(NodeResourcesBalancedAllocation::default()), 1),
                (Box::new(ImageLocality), 1),
            ],
            reserve: vec![],
            permit: vec![],
            pre_bind: vec![Box::new(VolumeBinding)],
            bind: vec![Box::new(DefaultBinder)],
        }
    }
}
