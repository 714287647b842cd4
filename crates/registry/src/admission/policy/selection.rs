//! Which policies a request is for, by which bindings and with which parameters.

use kybern_apimachinery::{ApiError, GroupResource, Value};
use kybern_apiserver::admission::{AdmissionRequest, Equivalent};
use kybern_apiserver::connect::Objects;

use super::params;
use super::request::namespace_value;
use super::views::{Binding, Hook, Policy, PolicySort};
use crate::admission::matching::Candidate;
use crate::admission::namespaces::NamespaceObjects;

/// What is to be asked about reviews may break the cluster, and what policies say of policies would lock it.
const EXCLUDED: [(&str, &str); 10] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
];

/// Whether policies are not asked about a request at all.
pub(super) fn is_excluded(request: &AdmissionRequest<'_>) -> bool {
    let gvr = &request.resource.gvr;
    EXCLUDED.contains(&(gvr.group.as_str(), gvr.resource.as_str()))
}

/// What of a policy a request is for.
pub(super) struct Selected<'h, S> {
    pub policy: &'h Policy<S>,
    pub seen: &'h Equivalent,
    /// Each with its parameters.
    pub bindings: Vec<(&'h Binding, Vec<Value>)>,
    pub faults: Vec<Fault<'h>>,
}

/// Why a policy, or one of its bindings, cannot be asked.
pub(super) struct Fault<'h> {
    pub binding: Option<&'h Binding>,
    pub message: String,
}

impl<'h> Fault<'h> {
    pub(super) fn new(binding: Option<&'h Binding>, cause: &str) -> Self {
        let what = if binding.is_some() { "binding" } else { "policy" };
        Self { binding, message: format!("failed to configure {what}: {cause}") }
    }
}

/// `Err` where the policy itself cannot be asked, nothing where the request is none of its business.
pub(super) async fn select<'h, S: PolicySort>(
    hook: &'h Hook<S>,
    candidate: &'h Candidate<'_>,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
    objects: &dyn Objects,
) -> Result<Option<Selected<'h, S>>, Fault<'h>> {
    let policy = &*hook.policy;
    let fault = |error: &str| Fault::new(None, error);
    let constraints =
        policy.constraints.as_ref().ok_or_else(|| fault("policy contained no match constraints, a required field"))?;
    let seen = candidate.matches(constraints, object).map_err(|error| fault(error.message()))?;
    let Some(seen) = seen else { return Ok(None) };
    let place = policy.param_kind.as_ref().and_then(|kind| objects.place(kind));
    if let (Some(kind), None) = (&policy.param_kind, &place) {
        let shown = params::shown(kind);
        return Err(fault(&format!("failed to find resource referenced by paramKind: '{shown}'")));
    }
    let mut selected = Selected { policy, seen, bindings: Vec::new(), faults: Vec::new() };
    for binding in hook.bindings.iter().map(|binding| &**binding) {
        let chosen = match &binding.resources {
            Some(resources) => candidate.matches(resources, object).map(|found| found.is_some()),
            None => Ok(true),
        };
        match chosen {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                selected.faults.push(Fault::new(Some(binding), error.message()));
                continue;
            }
        }
        let reference = &binding.object["spec"]["paramRef"];
        let found =
            params::collect(objects, policy.param_kind.as_ref(), place.as_ref(), reference, request.namespace).await;
        match found {
            Ok(params) => selected.bindings.push((binding, params)),
            Err(error) => selected.faults.push(Fault::new(Some(binding), &error)),
        }
    }
    Ok(Some(selected))
}

/// `namespaceObject` of a request: null for what is in none, and for namespaces themselves.
pub(super) fn namespace_object(
    request: &AdmissionRequest<'_>,
    namespaces: &NamespaceObjects,
) -> Result<Value, ApiError> {
    let kind = request.kind;
    let is_namespace = kind.group.is_empty() && kind.version == "v1" && kind.kind == "Namespace";
    if request.namespace.is_empty() || is_namespace {
        return Ok(Value::Null);
    }
    match namespaces.get(request.namespace) {
        Some(namespace) => Ok(namespace_value(&namespace)),
        None => Err(ApiError::not_found(&GroupResource::new("", "namespaces"), request.namespace)),
    }
}
