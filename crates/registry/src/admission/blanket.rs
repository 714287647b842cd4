//! Rules without exceptions, all off by default: `AlwaysAdmit`, `AlwaysDeny`, `NamespaceExists`, `NamespaceAutoProvision` and
//! `DenyServiceExternalIPs`.

use std::sync::Arc;

use kybern_apimachinery::{ApiError, GroupResource, Reason, Value, json};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::ObjectsSlot;

use super::namespaces::NamespaceObjects;
use crate::tree::list;

pub(super) struct AlwaysAdmit;

impl AdmissionPlugin for AlwaysAdmit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}

pub(super) struct AlwaysDeny;

const DENIED: &str = "admission control is denying all modifications";

impl AdmissionPlugin for AlwaysDeny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let refusal = request.forbidden(object.as_deref(), DENIED);
        Box::pin(async { Err(refusal) })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let refusal = request.forbidden(object, DENIED);
        Box::pin(async { Err(refusal) })
    }
}

/// The namespace that a request is in; none for that of a Namespace itself.
fn namespace<'r>(request: &AdmissionRequest<'r>) -> Option<&'r str> {
    let gvr = &request.resource.gvr;
    let is_namespace = gvr.group.is_empty() && gvr.resource == "namespaces";
    Some(request.namespace).filter(|namespace| !namespace.is_empty() && !is_namespace)
}

pub(super) struct NamespaceExists {
    pub(super) namespaces: Arc<NamespaceObjects>,
}

impl AdmissionPlugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update | Operation::Delete)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        _object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let missing = namespace(request)
            .filter(|_| request.operation != Operation::Connect)
            .filter(|namespace| self.namespaces.get(namespace).is_none());
        let refusal = missing.map(|name| ApiError::not_found(&GroupResource::new("", "namespaces"), name));
        Box::pin(async { refusal.map_or(Ok(()), Err) })
    }
}

pub(super) struct NamespaceAutoProvision {
    pub(super) namespaces: Arc<NamespaceObjects>,
    pub(super) objects: ObjectsSlot,
}

impl AdmissionPlugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Admit && operation == Operation::Create
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        Box::pin(async move {
            let creates = request.operation == Operation::Create && !request.dry_run;
            let Some(name) = namespace(request).filter(|_| creates) else { return Ok(()) };
            if self.namespaces.get(name).is_some() {
                return Ok(());
            }
            let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            match self.objects.get()?.create("", "namespaces", made).await {
                Err(error) if error.reason() != Reason::AlreadyExists => {
                    Err(request.forbidden(object.as_deref(), error.message()))
                }
                _ => Ok(()),
            }
        })
    }
}

pub(super) struct DenyServiceExternalIps;

fn has_new_external_ips(service: &Value, old: Option<&Value>) -> bool {
    let known = old.map_or(&[][..], |old| list(&old["spec"], "externalIPs"));
    list(&service["spec"], "externalIPs").iter().any(|ip| !known.contains(ip))
}

impl AdmissionPlugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn handles(&self, step: Step, operation: Operation) -> bool {
        step == Step::Validate && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let gvr = &request.resource.gvr;
        let is_service = gvr.group.is_empty() && gvr.resource == "services" && request.subresource.is_empty();
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let service = object.filter(|_| is_service && writes);
        let refusal = service
            .filter(|service| has_new_external_ips(service, request.old))
            .map(|_| request.forbidden(object, "Use of external IPs is denied by admission control"));
        Box::pin(async { refusal.map_or(Ok(()), Err) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_addresses_may_only_go() {
        let service = |ips: &[&str]| json!({"spec": {"externalIPs": ips}});
        assert!(has_new_external_ips(&service(&["192.0.2.1"]), None));
        assert!(!has_new_external_ips(&json!({"spec": {}}), None));
        let old = service(&["192.0.2.1", "192.0.2.2"]);
        assert!(!has_new_external_ips(&service(&["192.0.2.2"]), Some(&old)));
        assert!(has_new_external_ips(&service(&["192.0.2.2", "192.0.2.3"]), Some(&old)));
    }
}
