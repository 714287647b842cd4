//! `NamespaceLifecycle`: nothing is created in a namespace that does not exist or is on its way out, and the cluster's own
//! namespaces stay.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, GroupResource, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

/// Which namespaces there are, and whether they are on their way out.
#[derive(Default)]
pub(super) struct Namespaces(RwLock<HashMap<String, bool>>);

impl Observer for Namespaces {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "namespaces")]
    }

    fn changed(&self, _group: &str, _resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let mut all = self.0.write();
        match object {
            Some(namespace) => drop(all.insert(name.to_owned(), is_terminating(namespace))),
            None => drop(all.remove(name)),
        }
    }
}

pub(super) struct NamespaceLifecycle {
    namespaces: Arc<Namespaces>,
}

const PERMANENT: [&str; 3] = ["default", "kube-system", "kube-public"];

impl NamespaceLifecycle {
    pub(super) fn new(namespaces: Arc<Namespaces>) -> Self {
        Self { namespaces }
    }
}

impl AdmissionPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let resource = request.resource.gvr.group_resource();
            let is_namespace = resource.group.is_empty() && resource.resource == "namespaces";
            if is_namespace && request.operation == Operation::Delete && PERMANENT.contains(&request.name) {
                return Err(ApiError::forbidden(&resource, request.name, "this namespace may not be deleted"));
            }
            // A review is no content, and must not tell which namespaces there are.
            let review = resource.group == "authorization.k8s.io" && resource.resource == "localsubjectaccessreviews";
            if is_namespace || review || request.namespace.is_empty() || request.operation != Operation::Create {
                return Ok(());
            }
            let terminating = self.namespaces.0.read().get(request.namespace).copied();
            match terminating {
                None => Err(ApiError::not_found(&GroupResource::new("", "namespaces"), request.namespace)),
                Some(false) => Ok(()),
                Some(true) => {
                    let name = object.as_deref().map_or(request.name, |o| object::name(o));
                    Err(is_going(request.namespace, &resource, name))
                }
            }
        })
    }
}

fn is_terminating(namespace: &Value) -> bool {
    object::is_deleting(namespace) || object::str_at(namespace, &["status", "phase"]) == "Terminating"
}

fn is_going(holder: &str, resource: &GroupResource, name: &str) -> ApiError {
    let error = ApiError::forbidden(
        resource,
        name,
        &format!("unable to create new content in namespace {holder} because it is being terminated"),
    );
    let mut details = error.details().cloned().unwrap_or_else(|| json!({}));
    details["causes"] = json!([{
        "reason": "NamespaceTerminating", "message": format!("namespace {holder} is being terminated"), "field": "metadata.namespace",
    }]);
    error.with_details(details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminating_namespace_takes_nothing_in() {
        let namespaces = Namespaces::default();
        let see = |object: Option<Value>| {
            namespaces.changed("", "namespaces", "", "a", object.as_ref());
            namespaces.0.read().get("a").copied()
        };
        assert_eq!(see(Some(json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}}))), Some(false));
        assert_eq!(see(Some(json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}}))), Some(true));
        assert_eq!(
            see(Some(json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}))),
            Some(true)
        );
        assert_eq!(see(None), None);
        let error = is_going("a", &GroupResource::new("", "pods"), "p");
        assert_eq!(
            error.message(),
            "pods \"p\" is forbidden: unable to create new content in namespace a because it is being terminated"
        );
        assert_eq!(error.details().unwrap()["causes"][0]["reason"], "NamespaceTerminating");
    }
}
