//! What the scheduler keeps of a node, and what is taken of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_api::DecodeError;
use kybern_api::core::v1::{Node as ApiNode, Taint};
use kybern_client::store::Cached;

use crate::pod::{Guessed, HostPort, PodInfo};
use crate::resources::Resources;
use crate::topology::{self, SLOTS};

/// A node as the API describes it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: Box<str>,
    pub resource_version: Box<str>,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    /// Name and size in bytes of the images it has; sorted by name.
    pub images: Vec<(Arc<str>, i64)>,
    /// Its values of the keys that [`topology::PodIndex`] counts by.
    pub domains: [Option<Arc<str>>; SLOTS],
}

impl Node {
    pub fn of(node: ApiNode) -> Self {
        let spec = node.spec.unwrap_or_default();
        let status = node.status.unwrap_or_default();
        let mut images: Vec<(Arc<str>, i64)> = Vec::new();
        for image in status.images.unwrap_or_default() {
            let size = image.size_bytes.unwrap_or(0);
            images.extend(image.names.unwrap_or_default().into_iter().map(|name| (Arc::from(name), size)));
        }
        images.sort();
        let name = node.metadata.name.unwrap_or_default();
        let labels = node.metadata.labels.unwrap_or_default();
        Self {
            domains: topology::domains(&name, &labels),
            name: name.into(),
            resource_version: node.metadata.resource_version.unwrap_or_default().into(),
            labels,
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: Resources::parse(status.allocatable.as_ref()),
            images,
        }
    }

    /// Whether a change can make a waiting pod fit: heartbeats and image lists cannot.
    pub fn differs_for_pods(&self, other: &Self) -> bool {
        self.allocatable != other.allocatable
            || self.labels != other.labels
            || self.taints != other.taints
            || self.unschedulable != other.unschedulable
    }

    /// Region and zone.
    pub fn zone(&self) -> (&str, &str) {
        let label = |key: &str| self.labels.get(key).map_or("", String::as_str);
        (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
    }
}

impl Cached for Node {
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        <ApiNode as Cached>::decode(json).map(Self::of)
    }
    fn key(&self) -> String {
        self.name.to_string()
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

/// A node with the pods that are bound or about to be bound to it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub node: Arc<Node>,
    pub requested: Resources,
    pub guessed: Guessed,
    pub host_ports: Vec<HostPort>,
    pub pods: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, ..Self::default() }
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.guessed.milli_cpu += pod.guessed.milli_cpu;
        self.guessed.memory += pod.guessed.memory;
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.push(pod);
    }

    pub fn remove(&mut self, uid: &str) {
        if let Some(at) = self.pods.iter().position(|pod| &*pod.uid == uid) {
            self.remove_at(at);
        }
    }

    /// Removes the pod at a place. Answers the one that has its place now, if any.
    pub fn remove_at(&mut self, at: usize) -> Option<Arc<PodInfo>> {
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.guessed.milli_cpu -= pod.guessed.milli_cpu;
        self.guessed.memory -= pod.guessed.memory;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(at);
            }
        }
        self.pods.get(at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::json;

    #[test]
    fn adding_and_removing_is_nothing() {
        let mut info = NodeInfo::new(Arc::new(fixture::node(json!({"metadata": {"name": "n"}}))));
        let spec = json!({"nodeName": "n", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "x.io/y": "2"}}, "ports": [{"containerPort": 1, "hostPort": 1}]}]});
        let pod = Arc::new(fixture::pod_named("a", spec));
        info.add(pod.clone());
        assert_eq!(
            (info.requested.milli_cpu, info.requested.pods, info.requested.scalar("x.io/y"), info.host_ports.len()),
            (1000, 1, 2, 1)
        );
        info.remove("nobody");
        info.remove(&pod.uid);
        assert_eq!((info.requested.milli_cpu, info.requested.pods, info.requested.scalar("x.io/y")), (0, 0, 0));
        assert!(info.host_ports.is_empty() && info.pods.is_empty() && info.guessed == Guessed::default());
    }
}
