//! `NodeRestriction`: a kubelet writes its own node, its own lease and the pods on its node, and nothing else.

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{AdmissionPlugin, AdmissionRequest, Operation};
use kybern_apiserver::connect::ObjectsSlot;
use kybern_auth::authz::node::node_of;

use super::service_account::MIRROR;
use crate::tree::map;

pub(super) struct NodeRestriction {
    objects: ObjectsSlot,
}

impl NodeRestriction {
    pub(super) fn new(objects: ObjectsSlot) -> Self {
        Self { objects }
    }
}

impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let Some(node) = node_of(request.user) else { return Ok(()) };
            let resource = request.resource.gvr.group_resource();
            // A write by path alone (delete, connect) is judged on the object as it is.
            let stored = match (request.old, resource.resource.as_str(), request.operation) {
                (None, "pods", Operation::Delete | Operation::Connect) => {
                    Some(self.objects.get()?.get("", "pods", request.namespace, request.name).await?)
                }
                _ => None,
            };
            let old = request.old.or(stored.as_ref());
            let verdict = match (resource.group.as_str(), resource.resource.as_str()) {
                ("", "pods") => pod(node, request.operation, request.subresource, object.as_deref(), old),
                ("", "nodes") => own_node(node, request.operation, request.name, object.as_deref(), old),
                ("coordination.k8s.io", "leases") => lease(node, request.namespace, request.name),
                ("storage.k8s.io", "csinodes") if request.name != node => {
                    Err("can only access CSINode with the same name as the requesting node".to_owned())
                }
                _ => Ok(()),
            };
            verdict.map_err(|cause| ApiError::forbidden(&resource, request.name, &cause))
        })
    }
}

fn pod(
    node: &str,
    operation: Operation,
    subresource: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), String> {
    let on = |pod: Option<&Value>| pod.map_or("", |p| object::str_at(p, &["spec", "nodeName"])).to_owned();
    match (operation, subresource) {
        (Operation::Create, "") => {
            let mirror = new.is_some_and(|p| object::annotation(p, MIRROR).is_some());
            if !mirror {
                return Err(format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                ));
            }
            if on(new) != node {
                return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
            }
            let account = new.map_or("", |p| object::str_at(p, &["spec", "serviceAccountName"]));
            if !account.is_empty() {
                return Err(format!("node {node:?} can not create pods that reference a service account"));
            }
            Ok(())
        }
        (Operation::Update, "status") if on(old) == node => {
            let labels = |p: Option<&Value>| p.and_then(object::labels).cloned().unwrap_or_default();
            if labels(new) == labels(old) {
                Ok(())
            } else {
                Err(format!("node {node:?} cannot update labels through pod status"))
            }
        }
        (Operation::Update, "status") => {
            Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
        }
        (Operation::Delete, _) if on(old) == node => Ok(()),
        (Operation::Delete, _) => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        (Operation::Connect, "eviction") if on(old) == node => Ok(()),
        (Operation::Connect, "eviction") => {
            Err(format!("node {node:?} can only evict pods with spec.nodeName set to itself"))
        }
        _ => Err(format!(
            "unexpected operation, node {node:?} can only create and delete mirror pods, update status and evict"
        )),
    }
}

fn own_node(
    node: &str,
    operation: Operation,
    name: &str,
    new: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), String> {
    if !name.is_empty() && name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    // Labels by which pods are kept apart are not a kubelet's to give.
    let guarded = |object: Option<&Value>| -> Vec<(String, Value)> {
        let labels = object.map(|o| map(&o["metadata"], "labels"));
        labels.into_iter().flatten().filter(|(k, _)| is_guarded(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    if new.is_some() && guarded(new) != guarded(old) {
        return Err("is not allowed to modify labels: node-restriction.kubernetes.io/*".to_owned());
    }
    if operation == Operation::Update {
        let taints = |o: Option<&Value>| o.and_then(|o| o["spec"].get("taints")).cloned();
        if taints(new) != taints(old) {
            return Err(format!("node {node:?} is not allowed to modify taints"));
        }
    }
    Ok(())
}

fn is_guarded(label: &str) -> bool {
    label.split_once('/').is_some_and(|(domain, _)| {
        domain == "node-restriction.kubernetes.io" || domain.ends_with(".node-restriction.kubernetes.io")
    })
}

fn lease(node: &str, namespace: &str, name: &str) -> Result<(), String> {
    if namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    if name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_kubelet_keeps_to_itself() {
        let on = |node: &str| json!({"metadata": {"annotations": {MIRROR: "x"}}, "spec": {"nodeName": node}});
        let (mine, other) = (on("a"), on("b"));
        assert!(pod("a", Operation::Create, "", Some(&mine), None).is_ok());
        assert!(pod("a", Operation::Create, "", Some(&other), None).is_err());
        assert!(pod("a", Operation::Create, "", Some(&json!({"spec": {"nodeName": "a"}})), None).is_err());
        assert!(pod("a", Operation::Update, "status", Some(&mine), Some(&mine)).is_ok());
        assert!(pod("a", Operation::Update, "status", Some(&mine), Some(&other)).is_err());
        assert!(pod("a", Operation::Update, "", Some(&mine), Some(&mine)).is_err());
        assert!(pod("a", Operation::Delete, "", None, Some(&mine)).is_ok());
        assert!(
            lease("a", "kube-node-lease", "a").is_ok()
                && lease("a", "default", "a").is_err()
                && lease("a", "kube-node-lease", "b").is_err()
        );
        let node =
            |taint: &str, label: &str| json!({"metadata": {"labels": {label: "1"}}, "spec": {"taints": [taint]}});
        assert!(own_node("a", Operation::Update, "b", None, None).is_err());
        assert!(own_node("a", Operation::Update, "a", Some(&node("x", "l")), Some(&node("x", "m"))).is_ok());
        assert!(own_node("a", Operation::Update, "a", Some(&node("x", "l")), Some(&node("y", "l"))).is_err());
        assert!(
            own_node("a", Operation::Create, "a", Some(&node("x", "node-restriction.kubernetes.io/x")), None).is_err()
        );
    }
}
