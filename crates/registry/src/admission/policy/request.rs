//! The variables `request` and `namespaceObject`.

use std::sync::OnceLock;

use kybern_apimachinery::{Gvk, Gvr, Value, json};
use kybern_apiserver::admission::{AdmissionRequest, Equivalent};

/// `request`: made when an expression first looks at it.
#[derive(Clone, Copy)]
pub(crate) struct RequestVariable<'a> {
    pub(crate) request: &'a AdmissionRequest<'a>,
    pub(crate) seen: &'a Equivalent,
    /// Kept here: for others who see the request as the same.
    pub(crate) value: &'a OnceLock<Value>,
}

impl<'a> RequestVariable<'a> {
    pub(crate) fn get(&self) -> &'a Value {
        self.value.get_or_init(|| request_value(self.request, self.seen))
    }
}

/// What is empty is not there, as in an AdmissionReview.
fn request_value(request: &AdmissionRequest<'_>, seen: &Equivalent) -> Value {
    let gvk = |kind: &Gvk| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let gvr = |of: &Gvr| json!({"group": of.group, "version": of.version, "resource": of.resource});
    let mut user = json!({});
    for (field, text) in [("username", &request.user.name), ("uid", &request.user.uid)] {
        if !text.is_empty() {
            user[field] = text.as_str().into();
        }
    }
    if !request.user.groups.is_empty() {
        user["groups"] = json!(request.user.groups);
    }
    if !request.user.extra.is_empty() {
        user["extra"] = json!(request.user.extra);
    }
    let mut value = json!({
        "uid": "",
        "kind": gvk(&seen.kind),
        "resource": gvr(&seen.resource),
        "requestKind": gvk(request.kind),
        "requestResource": gvr(&request.resource.gvr),
        "operation": request.operation.as_str(),
        "userInfo": user,
        "object": null,
        "oldObject": null,
        "dryRun": request.dry_run,
        "options": request.options,
    });
    for (field, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", request.namespace),
    ] {
        if !text.is_empty() {
            value[field] = text.into();
        }
    }
    value
}

/// `namespaceObject`: without what is none of a policy's business.
pub(crate) fn namespace_value(namespace: &Value) -> Value {
    const METADATA: &[&str] = &[
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
    ];
    let mut value = json!({"metadata": {}});
    for field in METADATA {
        if let Some(known) = namespace["metadata"].get(*field) {
            value["metadata"][field] = known.clone();
        }
    }
    for field in ["spec", "status"] {
        if let Some(known) = namespace.get(field) {
            value[field] = known.clone();
        }
    }
    value
}
