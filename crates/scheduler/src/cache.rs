//! The cluster as the scheduler believes it to be: nodes, and the pods on them, including those whose binding is under way.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;
use crate::stores::Stores;
use crate::topology::PodIndex;

#[derive(Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Box<str>, usize>,
    /// Pods on nodes that are not known (yet, or any more), by node.
    strays: HashMap<Box<str>, NodeInfo>,
    pods: HashMap<Box<str>, Placement>,
    assumed: usize,
    /// Number of nodes that have an image, by its name.
    images: HashMap<Arc<str>, i64>,
    /// Indexes of `nodes`, the zones taking turns.
    order: Vec<usize>,
    is_order_stale: bool,
    index: PodIndex,
    stores: Stores,
    /// Pods that wait for room on a node, by its name, in the order in which they came.
    nominated: HashMap<Box<str>, Vec<Arc<PodInfo>>>,
    /// The same nodes, by the pods' uids.
    nominations: HashMap<Box<str>, Box<str>>,
    /// Uids of pods whose deletion is under way for a pod of higher priority.
    doomed: HashSet<Box<str>>,
}

struct Placement {
    pod: Arc<PodInfo>,
    node: Box<str>,
    /// Where among the node's pods: some nodes have thousands.
    at: usize,
    is_assumed: bool,
}

impl Cluster {
    pub fn new(stores: Stores) -> Self {
        Self { stores, ..Self::default() }
    }

    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// How many pods are where.
    pub fn index(&self) -> &PodIndex {
        &self.index
    }

    /// Pods that wait for room on a node.
    pub fn nominated_on(&self, node: &str) -> &[Arc<PodInfo>] {
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }

    /// The node on which a pod waits for room.
    pub fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominations.get(uid).map(|node| &**node)
    }

    /// Has a pod wait for room on a node, instead of on another.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.denominate(&pod.uid);
        self.nominations.insert(pod.uid.clone(), node.into());
        self.nominated.entry(node.into()).or_default().push(pod);
    }

    /// Ends a pod's wait; answers the pod if it was nominated.
    pub fn denominate(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.nominations.remove(uid)?;
        let pods = self.nominated.get_mut(&node)?;
        let pod = pods.iter().position(|pod| &*pod.uid == uid).map(|at| pods.remove(at));
        if pods.is_empty() {
            self.nominated.remove(&node);
        }
        pod
    }

    /// Notes that a pod is being deleted for the sake of another.
    pub fn doom(&mut self, uid: &str) {
        if self.pods.contains_key(uid) {
            self.doomed.insert(uid.into());
        }
    }

    pub fn spare(&mut self, uid: &str) {
        self.doomed.remove(uid);
    }

    /// Whether a pod makes room already.
    pub fn is_leaving(&self, pod: &PodInfo) -> bool {
        (pod.is_deleting && pod.is_preempted) || self.doomed.contains(&pod.uid)
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|at| &self.nodes[*at])
    }

    pub fn node_at(&self, index: usize) -> &NodeInfo {
        &self.nodes[index]
    }

    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter()
    }

    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn nodes_with_image(&self, name: &str) -> i64 {
        self.images.get(name).copied().unwrap_or(0)
    }

    /// In which order nodes are looked at: zones take turns, so that a sample spreads over them.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Must be called before a cycle after nodes came or went.
    pub fn refresh_order(&mut self) {
        if !std::mem::take(&mut self.is_order_stale) {
            return;
        }
        let mut zones: Vec<Vec<usize>> = Vec::new();
        let mut known: HashMap<(&str, &str), usize> = HashMap::new();
        for (index, info) in self.nodes.iter().enumerate() {
            let zone = *known.entry(info.node.zone()).or_insert_with(|| {
                zones.push(Vec::new());
                zones.len() - 1
            });
            zones[zone].push(index);
        }
        let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
        self.order =
            (0..longest).flat_map(|turn| zones.iter().filter_map(move |zone| zone.get(turn).copied())).collect();
    }

    /// Adds or replaces a node; answers what it was.
    pub fn set_node(&mut self, node: Arc<Node>) -> Option<Arc<Node>> {
        self.count_images(&node, 1);
        match self.by_name.get(&node.name) {
            Some(&at) => {
                let info = &mut self.nodes[at];
                let old = std::mem::replace(&mut info.node, node);
                self.is_order_stale |= old.zone() != info.node.zone();
                if old.domains != info.node.domains {
                    self.index.add_node(&old, -1);
                    self.index.add_node(&info.node, 1);
                    for pod in &info.pods {
                        self.index.remove(pod, &old);
                        self.index.add(pod, &info.node);
                    }
                }
                self.count_images(&old, -1);
                Some(old)
            }
            None => {
                let mut info = self.strays.remove(&node.name).unwrap_or_default();
                self.by_name.insert(node.name.clone(), self.nodes.len());
                info.node = node;
                self.index.add_node(&info.node, 1);
                info.pods.iter().for_each(|pod| self.index.add(pod, &info.node));
                self.nodes.push(info);
                self.is_order_stale = true;
                None
            }
        }
    }

    /// Answers what it was.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<Node>> {
        let at = self.by_name.remove(name)?;
        let mut info = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.node.name.clone(), at);
        }
        self.is_order_stale = true;
        let node = std::mem::take(&mut info.node);
        self.count_images(&node, -1);
        self.index.add_node(&node, -1);
        info.pods.iter().for_each(|pod| self.index.remove(pod, &node));
        if !info.pods.is_empty() {
            self.strays.insert(name.into(), info);
        }
        Some(node)
    }

    fn count_images(&mut self, node: &Node, by: i64) {
        for (name, _) in &node.images {
            let count = self.images.entry(name.clone()).or_insert(0);
            *count += by;
            if *count == 0 {
                self.images.remove(name);
            }
        }
    }

    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|info| &*info.node.name)
    }

    /// The uids of all pods on nodes.
    pub fn pod_uids(&self) -> impl Iterator<Item = &str> {
        self.pods.keys().map(|uid| &**uid)
    }

    /// How many pods are on nodes, and how many of them only as far as is known here.
    pub fn pod_counts(&self) -> (usize, usize) {
        (self.pods.len(), self.assumed)
    }

    pub fn has_pod(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// A pod that the API says is bound; confirms an assumed one. Answers what it was if it was known to be bound.
    pub fn set_bound(&mut self, pod: Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let known = self.pods.get(&pod.uid).filter(|placement| !placement.is_assumed);
        let known = known.map(|placement| placement.pod.clone());
        self.place(pod.clone(), &pod.node, false);
        known
    }

    /// Counts a pod on a node before its binding is known to have succeeded.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node, true);
    }

    /// Takes an assumed pod back. One that meanwhile is bound stays.
    pub fn forget(&mut self, uid: &str) -> bool {
        let is_assumed = self.pods.get(uid).is_some_and(|placement| placement.is_assumed);
        is_assumed && self.remove_pod(uid).is_some()
    }

    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        self.doomed.remove(uid);
        self.take(uid)
    }

    fn take(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placement = self.pods.remove(uid)?;
        self.assumed -= usize::from(placement.is_assumed);
        let moved = match self.by_name.get(&placement.node) {
            Some(&at) => {
                self.index.remove(&placement.pod, &self.nodes[at].node);
                self.nodes[at].remove_at(placement.at)
            }
            None => {
                let stray = self.strays.get_mut(&placement.node)?;
                let moved = stray.remove_at(placement.at);
                if stray.pods.is_empty() {
                    self.strays.remove(&placement.node);
                }
                moved
            }
        };
        if let Some(moved) = moved.and_then(|pod| self.pods.get_mut(&pod.uid)) {
            moved.at = placement.at;
        }
        Some(placement.pod)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str, is_assumed: bool) {
        self.take(&pod.uid);
        self.denominate(&pod.uid);
        let info = match self.by_name.get(node) {
            Some(&at) => {
                self.index.add(&pod, &self.nodes[at].node);
                &mut self.nodes[at]
            }
            None => self.strays.entry(node.into()).or_default(),
        };
        let at = info.pods.len();
        info.add(pod.clone());
        self.assumed += usize::from(is_assumed);
        self.pods.insert(pod.uid.clone(), Placement { pod, node: node.into(), at, is_assumed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, topology};
    use kybern_apimachinery::json;

    fn cpu(cluster: &Cluster, node: &str) -> i64 {
        cluster.node(node).unwrap().requested.milli_cpu
    }

    #[test]
    fn pods_are_counted_once() {
        let mut cluster = Cluster::default();
        cluster.set_node(Arc::new(fixture::sized("a", "4", "4Gi")));
        let pod = Arc::new(fixture::requesting("p", "1", "1Gi"));
        cluster.assume(pod.clone(), "a");
        assert_eq!(cpu(&cluster, "a"), 1000);
        let mut bound = (*pod).clone();
        bound.node = "a".into();
        cluster.set_bound(Arc::new(bound));
        assert_eq!(cpu(&cluster, "a"), 1000);
        assert!(!cluster.forget("p"), "it is bound");
        cluster.remove_pod("p");
        assert_eq!(cpu(&cluster, "a"), 0);
        cluster.assume(pod, "a");
        assert!(cluster.forget("p"));
        assert_eq!(cpu(&cluster, "a"), 0);
    }

    /// In any order, and while their node comes and goes: each is found where it is.
    #[test]
    fn many_pods_of_one_node_come_and_go() {
        let mut cluster = Cluster::default();
        cluster.set_node(Arc::new(fixture::sized("a", "4", "4Gi")));
        let pod = |number: usize| {
            let mut pod = fixture::requesting(&format!("p{number}"), "1m", "1Mi");
            pod.node = "a".into();
            Arc::new(pod)
        };
        let mut there = std::collections::BTreeSet::new();
        for step in 0..2_000 {
            let number = step * 7919 % 101;
            match step % 5 {
                0 | 1 => drop(there.insert(number).then(|| cluster.set_bound(pod(number)))),
                2 if there.contains(&number) => drop(cluster.set_bound(pod(number))),
                3 if there.remove(&number) => drop(cluster.remove_pod(&pod(number).uid)),
                4 if step % 400 == 4 => drop(cluster.remove_node("a")),
                4 => drop(cluster.set_node(Arc::new(fixture::sized("a", "4", "4Gi")))),
                _ => {}
            }
            if let Some(info) = cluster.node("a") {
                let held: std::collections::BTreeSet<_> = info.pods.iter().map(|pod| pod.uid.clone()).collect();
                assert_eq!(held, there.iter().map(|number| pod(*number).uid.clone()).collect(), "step {step}");
                assert_eq!((info.pods.len(), info.requested.milli_cpu), (there.len(), there.len() as i64));
            }
        }
        assert!(there.len() > 20);
    }

    #[test]
    fn pods_outlive_their_nodes_absence() {
        let mut cluster = Cluster::default();
        let mut pod = fixture::requesting("p", "1", "1Gi");
        pod.node = "late".into();
        cluster.set_bound(Arc::new(pod));
        cluster.set_node(Arc::new(fixture::sized("late", "4", "4Gi")));
        assert_eq!(cpu(&cluster, "late"), 1000);
        cluster.set_node(Arc::new(fixture::sized("other", "4", "4Gi")));
        cluster.remove_node("late");
        assert_eq!((cluster.len(), cpu(&cluster, "other")), (1, 0));
        cluster.set_node(Arc::new(fixture::sized("late", "4", "4Gi")));
        assert_eq!(cpu(&cluster, "late"), 1000);
    }

    #[test]
    fn zones_take_turns() {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")] {
            let node = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}});
            cluster.set_node(Arc::new(fixture::node(node)));
        }
        cluster.refresh_order();
        let names: Vec<&str> = cluster.order().iter().map(|at| &*cluster.node_at(*at).node.name).collect();
        assert_eq!(names, ["a1", "b1", "a2", "a3"]);
    }
    /// What is counted by labels is, at every moment, what a count of all pods gives.
    #[test]
    fn the_index_counts_every_pod_once() {
        let mut cluster = Cluster::default();
        let zoned = |name: &str, zone: &str| {
            let labels = json!({"topology.kubernetes.io/zone": zone});
            Arc::new(fixture::node(json!({"metadata": {"name": name, "labels": labels}})))
        };
        let pod = |name: &str| Arc::new(fixture::labelled(name, json!({"app": "x"}), json!({})));
        let zone = topology::slot("topology.kubernetes.io/zone").unwrap();
        let check = |cluster: &Cluster, expect: &[(&str, i64)]| {
            let mut found = std::collections::BTreeMap::new();
            for (_, _, domains) in cluster.index().groups("default") {
                for (value, count) in domains.counts(zone) {
                    *found.entry(value.to_string()).or_insert(0) += count;
                }
            }
            let found: Vec<(&str, i64)> = found.iter().map(|(value, count)| (value.as_str(), *count)).collect();
            assert_eq!(found, expect);
        };
        cluster.set_node(zoned("n1", "a"));
        cluster.assume(pod("p1"), "n1");
        cluster.assume(pod("p2"), "late");
        check(&cluster, &[("a", 1)]);
        cluster.set_node(zoned("late", "b"));
        check(&cluster, &[("a", 1), ("b", 1)]);
        cluster.set_node(zoned("late", "a"));
        check(&cluster, &[("a", 2)]);
        let mut leaving = (*pod("p2")).clone();
        (leaving.node, leaving.is_deleting) = ("late".into(), true);
        cluster.set_bound(Arc::new(leaving));
        check(&cluster, &[("a", 2)]);
        cluster.remove_node("late");
        check(&cluster, &[("a", 1)]);
        cluster.remove_pod("p2");
        cluster.set_node(zoned("late", "a"));
        cluster.forget("p1");
        check(&cluster, &[]);
        assert_eq!(cluster.index().namespaces().count(), 0, "nothing is left of what is empty");
        assert_eq!(cluster.index().nodes().total(zone), 2);
    }

    #[test]
    fn nominations_end_with_the_wait() {
        let mut cluster = Cluster::default();
        cluster.set_node(Arc::new(fixture::sized("a", "4", "4Gi")));
        let pod = Arc::new(fixture::requesting("p", "1", "1Gi"));
        cluster.nominate(pod.clone(), "a");
        cluster.nominate(pod.clone(), "b");
        assert_eq!((cluster.nominated_on("a").len(), cluster.nominated_on("b").len()), (0, 1));
        cluster.assume(pod, "a");
        assert_eq!((cluster.nomination("p"), cluster.nominated_on("b").len()), (None, 0));
    }
}
