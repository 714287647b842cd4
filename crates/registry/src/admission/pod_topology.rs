//! `PodTopologyLabels`: pods have their node's zone and region as labels, for containers to read through the downward API.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

use crate::tree::text;

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

/// The labels of all nodes that have some.
#[derive(Default)]
pub(crate) struct NodeTopology(RwLock<HashMap<String, [Option<String>; 2]>>);

impl Observer for NodeTopology {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "nodes")]
    }

    fn changed(&self, _group: &str, _resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let labels = LABELS.map(|key| object.and_then(|node| object::label(node, key)).map(str::to_owned));
        let mut all = self.0.write();
        match labels {
            [None, None] => drop(all.remove(name)),
            labels => drop(all.insert(name.to_owned(), labels)),
        }
    }
}

impl NodeTopology {
    /// Puts a node's labels on a pod or a binding, over those that are there.
    fn copy(&self, node: &str, object: &mut Value) {
        let Some(labels) = self.0.read().get(node).cloned() else { return };
        for (key, value) in LABELS.into_iter().zip(labels) {
            if let Some(value) = value {
                object::map_at_mut(object, &["metadata", "labels"]).insert(key.to_owned(), value.into());
            }
        }
    }
}

pub(super) struct PodTopologyLabels(pub(super) Arc<NodeTopology>);

impl AdmissionPlugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let gvr = &request.resource.gvr;
        if let (Some(object), true) = (object, gvr.group.is_empty() && gvr.resource == "pods") {
            let node = match request.subresource {
                "" => object::str_at(object, &["spec", "nodeName"]),
                "binding" if text(&object["target"], "kind") == "Node" => object::str_at(object, &["target", "name"]),
                _ => "",
            };
            let node = node.to_owned();
            self.0.copy(&node, object);
        }
        Box::pin(async { Ok(()) })
    }
}
