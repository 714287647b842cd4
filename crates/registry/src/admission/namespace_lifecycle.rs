//! `NamespaceLifecycle`: nothing is created in a namespace that does not exist or is on its way out, and the cluster's own
//! namespaces stay.

use kybern_apimachinery::{ApiError, Value, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::access::{AdmissionPlugin, AdmissionRequest, Operation};
use kybern_apiserver::connect::ObjectsSlot;

pub(super) struct NamespaceLifecycle {
    objects: ObjectsSlot,
}

const PERMANENT: [&str; 3] = ["default", "kube-system", "kube-public"];

impl NamespaceLifecycle {
    pub(super) fn new(objects: ObjectsSlot) -> Self {
        Self { objects }
    }
}

impl AdmissionPlugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
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
            if is_namespace || request.namespace.is_empty() || request.operation != Operation::Create {
                return Ok(());
            }
            let namespace = self.objects.get()?.get("", "namespaces", "", request.namespace).await?;
            let name = object.as_deref().map_or(request.name, |o| object::name(o));
            refuse_terminating(&namespace, &resource, name)
        })
    }
}

fn refuse_terminating(
    namespace: &Value,
    resource: &kybern_apimachinery::GroupResource,
    name: &str,
) -> Result<(), ApiError> {
    if !object::is_deleting(namespace) && object::str_at(namespace, &["status", "phase"]) != "Terminating" {
        return Ok(());
    }
    let holder = object::name(namespace);
    let error = ApiError::forbidden(
        resource,
        name,
        &format!("unable to create new content in namespace {holder} because it is being terminated"),
    );
    let mut details = error.details().cloned().unwrap_or_else(|| json!({}));
    details["causes"] = json!([{
        "reason": "NamespaceTerminating", "message": format!("namespace {holder} is being terminated"), "field": "metadata.namespace",
    }]);
    Err(error.with_details(details))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::GroupResource;

    #[test]
    fn a_terminating_namespace_takes_nothing_in() {
        let pods = GroupResource::new("", "pods");
        assert!(
            refuse_terminating(&json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}}), &pods, "p").is_ok()
        );
        let going = json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
        let error = refuse_terminating(&going, &pods, "p").unwrap_err();
        assert_eq!(
            error.message(),
            "pods \"p\" is forbidden: unable to create new content in namespace a because it is being terminated"
        );
        assert_eq!(error.details().unwrap()["causes"][0]["reason"], "NamespaceTerminating");
    }
}
