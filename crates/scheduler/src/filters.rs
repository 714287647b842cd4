//! The filters that have something to say of one pod, and what they say of a node.

use std::sync::Arc;

use crate::cache::Cluster;
use crate::framework::{NodeFilter, Verdict};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;

pub struct Filters<'a> {
    pub pod: &'a PodInfo,
    pub cluster: &'a Cluster,
    /// With their bits: their places in the chain.
    list: Vec<(usize, Box<dyn NodeFilter + 'a>)>,
    /// Extenders have a say in whose place the pod may have.
    pub leaves_choice: bool,
}

impl<'a> Filters<'a> {
    pub fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Self {
        Self { pod, cluster, list: Vec::new(), leaves_choice: false }
    }

    pub fn push(&mut self, bit: usize, filter: Box<dyn NodeFilter + 'a>) {
        self.list.push((bit, filter));
    }

    /// Thinks a pod onto a node (1) or off it (-1).
    pub fn shift(&mut self, pod: &PodInfo, node: &Node, by: i64) {
        self.list.iter_mut().for_each(|(_, filter)| filter.shift(pod, node, by));
    }

    /// Why the node cannot take the pod, and whose bit says so. Where others of its priority or a higher one are nominated to
    /// the node, it must fit both with and without them: they may yet go elsewhere.
    pub fn rejection(&mut self, info: &NodeInfo) -> Option<(usize, Verdict)> {
        let pod = self.pod;
        let outranks = |other: &&Arc<PodInfo>| other.priority >= pod.priority && other.uid != pod.uid;
        let nominated: Vec<Arc<PodInfo>> =
            self.cluster.nominated_on(&info.node.name).iter().filter(outranks).cloned().collect();
        if !nominated.is_empty() {
            let mut with = info.clone();
            for other in nominated.iter().cloned() {
                self.shift(&other, &info.node, 1);
                with.add(other);
            }
            let rejection = self.first(&with);
            nominated.iter().for_each(|other| self.shift(other, &info.node, -1));
            if rejection.is_some() {
                return rejection;
            }
        }
        self.first(info)
    }

    fn first(&self, info: &NodeInfo) -> Option<(usize, Verdict)> {
        self.list.iter().find_map(|(bit, filter)| match filter.check(info) {
            Verdict::Fits => None,
            rejection => Some((*bit, rejection)),
        })
    }
}
