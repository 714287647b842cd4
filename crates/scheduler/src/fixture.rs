//! Pods and nodes for tests.

use kybern_apimachinery::{Value, json};
use kybern_client::store::Cached;

use crate::node::Node;
use crate::pod::PodInfo;

/// A pod in namespace `default`, whose uid is its name.
pub(crate) fn pod_named(name: &str, spec: Value) -> PodInfo {
    labelled(name, json!({}), spec)
}

/// As [`pod_named`], with labels.
pub(crate) fn labelled(name: &str, labels: Value, mut spec: Value) -> PodInfo {
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let metadata = json!({"name": name, "namespace": "default", "uid": name, "labels": labels});
    PodInfo::decode(json!({"metadata": metadata, "spec": spec}).to_string().as_bytes()).unwrap()
}

pub(crate) fn pod(spec: Value) -> PodInfo {
    pod_named("pod", spec)
}

/// A pod with one container that requests so much.
pub(crate) fn requesting(name: &str, cpu: &str, memory: &str) -> PodInfo {
    pod_named(name, json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}))
}

pub(crate) fn node(node: Value) -> Node {
    Node::decode(node.to_string().as_bytes()).unwrap()
}

/// A node with so much to give.
pub(crate) fn sized(name: &str, cpu: &str, memory: &str) -> Node {
    node(json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}}}))
}
