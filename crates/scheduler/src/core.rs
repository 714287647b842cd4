//! The scheduler as a state machine: what is known goes in, decisions come out. Pure; the driver watches and acts.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Cluster;
use crate::chain::Chain;
use crate::config::Profiles;
use crate::cycle::{self, Position};
use crate::framework::{ApiCall, PreFilter, Verdict};
use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;
use crate::queue::Queue;

/// What came of a cycle.
#[derive(Debug)]
pub enum Decision {
    /// Make these calls, in this order, then tell [`Core::bound`].
    Bind { pod: Arc<PodInfo>, node: Box<str>, calls: Vec<ApiCall> },
    /// No node takes it now.
    Unschedulable { pod: Arc<PodInfo>, message: String },
}

pub struct Core {
    chain: Chain,
    profiles: Profiles,
    cluster: Cluster,
    queue: Queue,
    position: Position,
}

impl Core {
    pub fn new(chain: Chain, profiles: Profiles) -> Self {
        let queue = Queue::new(chain.queue_sort.clone(), profiles.initial_backoff, profiles.max_backoff);
        Self { chain, profiles, cluster: Cluster::default(), queue, position: Position::default() }
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A node is new or has changed.
    pub fn set_node(&mut self, node: Arc<Node>, now: Duration) {
        let name = node.name.clone();
        let old = self.cluster.set_node(node.clone());
        if old.is_none_or(|old| old.differs_for_pods(&node))
            && let Some(info) = self.cluster.node(&name)
        {
            let (chain, cluster) = (&self.chain, &self.cluster);
            self.queue.move_on(now, |pod, rejected_by| fits_now(chain, cluster, pod, rejected_by, info));
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        self.cluster.remove_node(name);
    }

    /// A pod is new or has changed.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, now: Duration) {
        if pod.is_bound() {
            self.queue.remove(&pod.uid);
            self.cluster.set_bound(pod);
        } else if pod.is_deleting || !self.profiles.names.iter().any(|name| **name == *pod.wants().scheduler) {
            self.queue.remove(&pod.uid);
        } else if !self.cluster.has_pod(&pod.uid) || self.queue.contains(&pod.uid) {
            let ready = self.chain.pre_enqueue.iter().all(|plugin| plugin.is_ready(&pod));
            self.queue.set(pod, ready, now);
        }
    }

    /// A pod is gone, or has ended.
    pub fn remove_pod(&mut self, uid: &str, now: Duration) {
        self.queue.remove(uid);
        if let Some(gone) = self.cluster.remove_pod(uid) {
            self.room_was_made(&gone, now);
        }
    }

    fn room_was_made(&mut self, gone: &PodInfo, now: Duration) {
        let filters = &self.chain.filter;
        self.queue.move_on(now, |pod, rejected_by| {
            let concerned = filters.iter().enumerate().filter(|(bit, _)| rejected_by & 1 << bit != 0);
            rejected_by == 0 || concerned.into_iter().any(|(_, plugin)| plugin.may_fit_without(pod, gone))
        });
    }

    /// Moves on pods whose time has come.
    pub fn tick(&mut self, now: Duration) {
        self.queue.flush(now);
    }

    /// When [`Core::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.queue.next_deadline()
    }

    pub fn has_work(&self) -> bool {
        self.queue.has_active()
    }

    /// Schedules the pod that goes first.
    pub fn schedule_next(&mut self, now: Duration) -> Option<Decision> {
        let pod = self.queue.pop()?;
        self.cluster.refresh_order();
        let percentage = self.profiles.percentage_of_nodes_to_score;
        match cycle::schedule(&self.chain, &pod, &self.cluster, percentage, &mut self.position) {
            Ok(index) => Some(self.commit(pod, index, now)),
            Err(diagnosis) => {
                let tried = self.chain.post_filter.iter().map(|p| p.post_filter(&pod, &self.cluster, &diagnosis));
                let tried: Vec<String> = tried.filter(|text| !text.is_empty()).collect();
                let message = cycle::message(&diagnosis, &tried.join(", "));
                self.queue.unschedulable(&pod.uid, diagnosis.plugins, now);
                Some(Decision::Unschedulable { pod, message })
            }
        }
    }

    fn commit(&mut self, pod: Arc<PodInfo>, index: usize, now: Duration) -> Decision {
        let info = self.cluster.node_at(index);
        let node = info.node.name.clone();
        let reserved = self.chain.reserve.iter().try_for_each(|plugin| plugin.reserve(&pod, info));
        let permitted =
            reserved.and_then(|()| self.chain.permit.iter().try_for_each(|plugin| plugin.permit(&pod, info)));
        if let Err(reason) = permitted {
            self.chain.reserve.iter().rev().for_each(|plugin| plugin.unreserve(&pod, &node));
            self.queue.failed(&pod.uid, now);
            return Decision::Unschedulable { pod, message: reason.into_owned() };
        }
        let mut calls: Vec<ApiCall> =
            self.chain.pre_bind.iter().flat_map(|plugin| plugin.pre_bind(&pod, &node)).collect();
        calls.extend(self.chain.bind.iter().find_map(|plugin| plugin.bind(&pod, &node)));
        self.cluster.assume(pod.clone(), &node);
        Decision::Bind { pod, node, calls }
    }

    /// Tells how the calls of a [`Decision::Bind`] ended.
    pub fn bound(&mut self, pod: &PodInfo, node: &str, succeeded: bool, now: Duration) {
        if succeeded {
            self.queue.remove(&pod.uid);
            return;
        }
        self.chain.reserve.iter().rev().for_each(|plugin| plugin.unreserve(pod, node));
        if self.cluster.forget(&pod.uid) {
            self.room_was_made(pod, now);
        }
        self.queue.failed(&pod.uid, now);
    }
}

/// Whether the filters that rejected a pod let it on a node now.
fn fits_now(chain: &Chain, cluster: &Cluster, pod: &PodInfo, rejected_by: u32, node: &NodeInfo) -> bool {
    let concerned = chain.filter.iter().enumerate().filter(|(bit, _)| rejected_by & 1 << bit != 0);
    rejected_by == 0
        || concerned.into_iter().all(|(_, plugin)| match plugin.pre_filter(pod, cluster) {
            PreFilter::Skip => true,
            PreFilter::Filter(filter) => filter(node) == Verdict::Fits,
            PreFilter::Only(names, filter) => names.contains(&*node.node.name) && filter(node) == Verdict::Fits,
            PreFilter::Reject(_) => false,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::{Value, json};

    fn core() -> Core {
        Core::new(Chain::default(), Profiles::default())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// `pod@node` or `pod: message` of the next decision.
    fn next(core: &mut Core, now: Duration) -> String {
        match core.schedule_next(now) {
            None => "nothing".to_owned(),
            Some(Decision::Bind { pod, node, .. }) => format!("{}@{node}", pod.name),
            Some(Decision::Unschedulable { pod, message }) => format!("{}: {message}", pod.name),
        }
    }

    fn bound(name: &str, node: &str, cpu: &str) -> Arc<PodInfo> {
        let mut pod = fixture::requesting(name, cpu, "1Mi");
        pod.node = node.into();
        Arc::new(pod)
    }

    #[test]
    fn a_new_node_helps_those_it_suits() {
        let mut core = core();
        core.set_pod(Arc::new(fixture::pod_named("ssd", json!({"nodeSelector": {"disk": "ssd"}}))), at(0));
        core.set_pod(Arc::new(fixture::requesting("large", "8", "1Gi")), at(1));
        core.set_node(Arc::new(fixture::sized("small", "1", "1Gi")), at(1));
        assert_eq!(
            next(&mut core, at(2)),
            "ssd: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        );
        assert_eq!(next(&mut core, at(2)), "large: 0/1 nodes are available: 1 Insufficient cpu.");
        core.set_node(Arc::new(fixture::sized("other", "2", "1Gi")), at(60));
        assert_eq!(next(&mut core, at(60)), "nothing");
        let node = |labels: Value| json!({"metadata": {"name": "small", "labels": labels}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "9"}}});
        core.set_node(Arc::new(fixture::node(node(json!({"disk": "ssd"})))), at(61));
        assert_eq!(next(&mut core, at(61)), "ssd@small");
        core.set_node(Arc::new(fixture::sized("big", "16", "64Gi")), at(62));
        assert_eq!(next(&mut core, at(62)), "large@big");
    }

    #[test]
    fn a_leaving_pod_makes_room_after_the_backoff() {
        let mut core = core();
        core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
        core.set_pod(bound("old", "n", "1"), at(0));
        core.set_pod(Arc::new(fixture::requesting("new", "1", "1Mi")), at(0));
        assert_eq!(next(&mut core, at(0)), "new: 0/1 nodes are available: 1 Insufficient cpu.");
        core.remove_pod("old", at(0));
        assert_eq!(next(&mut core, at(0)), "nothing");
        assert_eq!(core.next_deadline(), Some(at(1)));
        core.tick(at(1));
        assert_eq!(next(&mut core, at(1)), "new@n");
        // It counts before it is confirmed, and not twice when it is.
        core.set_pod(Arc::new(fixture::requesting("third", "1", "1Mi")), at(1));
        assert!(next(&mut core, at(1)).starts_with("third: "));
        let new = Arc::new(fixture::requesting("new", "1", "1Mi"));
        core.bound(&new, "n", true, at(1));
        core.set_pod(bound("new", "n", "1"), at(1));
        assert_eq!(core.cluster().node("n").unwrap().requested.milli_cpu, 1000);
    }

    #[test]
    fn a_failed_binding_gives_back_what_it_took() {
        let mut core = core();
        core.set_node(Arc::new(fixture::sized("n", "1", "1Gi")), at(0));
        let pod = Arc::new(fixture::requesting("p", "1", "1Mi"));
        core.set_pod(pod.clone(), at(0));
        assert_eq!(next(&mut core, at(0)), "p@n");
        core.bound(&pod, "n", false, at(0));
        assert_eq!(core.cluster().node("n").unwrap().requested.milli_cpu, 0);
        core.tick(at(1));
        assert_eq!(next(&mut core, at(1)), "p@n");
        core.remove_pod("p", at(1));
        core.bound(&pod, "n", false, at(1));
        core.tick(at(100));
        assert_eq!(next(&mut core, at(100)), "nothing");
        assert_eq!(core.cluster().node("n").unwrap().requested.milli_cpu, 0);
    }
}
