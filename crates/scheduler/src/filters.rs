//! The filters that have something to say of one pod, and what they say of a node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::Cluster;
use crate::framework::{NodeFilter, Verdict};
use crate::meter::{Counted, Meter, SAMPLED_NODES};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;

pub struct Filters<'a> {
    pub pod: &'a PodInfo,
    pub cluster: &'a Cluster,
    /// With their bits: their places in the chain.
    list: Vec<(usize, Box<dyn NodeFilter + 'a>)>,
    /// Extenders have a say in whose place the pod may have.
    pub leaves_choice: bool,
    /// How many nodes each filter was the last to look at.
    last: Vec<u64>,
    /// Where each was timed, and which answer it gave.
    timed: Option<Vec<(usize, &'static str, Duration)>>,
}

impl<'a> Filters<'a> {
    pub fn new(pod: &'a PodInfo, cluster: &'a Cluster) -> Self {
        Self { pod, cluster, list: Vec::new(), leaves_choice: false, last: Vec::new(), timed: None }
    }

    pub fn push(&mut self, bit: usize, filter: Box<dyn NodeFilter + 'a>) {
        self.list.push((bit, filter));
        self.last.push(0);
    }

    /// From now on filters are timed on some nodes.
    pub fn time(&mut self) {
        self.timed = Some(Vec::new());
    }

    /// Tells how often each filter was asked, and what those took that were timed. `name` is the name of a bit's.
    pub fn tell(&mut self, meter: &mut Meter, name: impl Fn(usize) -> &'static str) {
        let mut asked = 0;
        for ((bit, _), last) in self.list.iter().zip(&mut self.last).rev() {
            asked += std::mem::take(last);
            meter.count(Counted::Filter, *bit, asked);
        }
        for (bit, status, took) in self.timed.iter_mut().flat_map(std::mem::take) {
            meter.add("Filter", Some(name(bit)), status, took);
        }
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

    fn first(&mut self, info: &NodeInfo) -> Option<(usize, Verdict)> {
        // Those that all filters let pass are the more, and the ones that time is spent on.
        if self.timed.is_some() && self.last.last().is_some_and(|passed| passed.is_multiple_of(SAMPLED_NODES as u64)) {
            return self.first_timed(info);
        }
        let found = self.list.iter().enumerate().find_map(|(at, (bit, filter))| match filter.check(info) {
            Verdict::Fits => None,
            rejection => Some((at, (*bit, rejection))),
        });
        self.note(found)
    }

    fn first_timed(&mut self, info: &NodeInfo) -> Option<(usize, Verdict)> {
        let mut found = None;
        for (at, (bit, filter)) in self.list.iter().enumerate() {
            let began = Instant::now();
            let verdict = filter.check(info);
            self.timed.iter_mut().for_each(|timed| timed.push((*bit, verdict.code(), began.elapsed())));
            if verdict != Verdict::Fits {
                found = Some((at, (*bit, verdict)));
                break;
            }
        }
        self.note(found)
    }

    fn note(&mut self, found: Option<(usize, (usize, Verdict))>) -> Option<(usize, Verdict)> {
        let last = found.as_ref().map_or(self.list.len().wrapping_sub(1), |(at, _)| *at);
        if let Some(count) = self.last.get_mut(last) {
            *count += 1;
        }
        found.map(|(_, rejection)| rejection)
    }
}
