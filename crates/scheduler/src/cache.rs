//! The cluster as the scheduler believes it to be: nodes, and the pods on them, including those whose binding is under way.

use std::collections::HashMap;
use std::sync::Arc;

use crate::node::{Node, NodeInfo};
use crate::pod::PodInfo;

#[derive(Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Box<str>, usize>,
    /// Pods on nodes that are not known (yet, or any more), by node.
    strays: HashMap<Box<str>, NodeInfo>,
    pods: HashMap<Box<str>, Placement>,
    /// Number of nodes that have an image, by its name.
    images: HashMap<Arc<str>, i64>,
    /// Indexes of `nodes`, the zones taking turns.
    order: Vec<usize>,
    is_order_stale: bool,
}

struct Placement {
    pod: Arc<PodInfo>,
    node: Box<str>,
    is_assumed: bool,
}

impl Cluster {
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
                let old = std::mem::replace(&mut self.nodes[at].node, node);
                self.is_order_stale |= old.zone() != self.nodes[at].node.zone();
                self.count_images(&old, -1);
                Some(old)
            }
            None => {
                let mut info = self.strays.remove(&node.name).unwrap_or_default();
                self.by_name.insert(node.name.clone(), self.nodes.len());
                info.node = node;
                self.nodes.push(info);
                self.is_order_stale = true;
                None
            }
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.remove(name) else { return };
        let mut info = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.node.name.clone(), at);
        }
        self.is_order_stale = true;
        let node = std::mem::take(&mut info.node);
        self.count_images(&node, -1);
        if !info.pods.is_empty() {
            self.strays.insert(name.into(), info);
        }
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

    pub fn has_pod(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// A pod that the API says is bound; confirms an assumed one.
    pub fn set_bound(&mut self, pod: Arc<PodInfo>) {
        self.place(pod.clone(), &pod.node, false);
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
        let placement = self.pods.remove(uid)?;
        match self.by_name.get(&placement.node) {
            Some(&at) => self.nodes[at].remove(uid),
            None => {
                if let Some(stray) = self.strays.get_mut(&placement.node) {
                    stray.remove(uid);
                    if stray.pods.is_empty() {
                        self.strays.remove(&placement.node);
                    }
                }
            }
        }
        Some(placement.pod)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str, is_assumed: bool) {
        self.remove_pod(&pod.uid);
        match self.by_name.get(node) {
            Some(&at) => self.nodes[at].add(pod.clone()),
            None => self.strays.entry(node.into()).or_default().add(pod.clone()),
        }
        self.pods.insert(pod.uid.clone(), Placement { pod, node: node.into(), is_assumed });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
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
}
