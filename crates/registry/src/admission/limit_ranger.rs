//! `LimitRanger`: a namespace's LimitRanges give pods what they do not ask for, and refuse what asks for too much or too
//! little.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};
use kybern_apiserver::connect::Observer;
use kybern_quota::limit_ranges::{check_claim, check_pod, set_defaults};
use parking_lot::RwLock;

/// The LimitRanges by namespace.
#[derive(Default)]
pub(super) struct LimitRanges(RwLock<HashMap<String, BTreeMap<String, Arc<Value>>>>);

impl Observer for LimitRanges {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "limitranges")]
    }

    fn changed(&self, _group: &str, _resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let mut all = self.0.write();
        let ranges = all.entry(namespace.to_owned()).or_default();
        match object {
            Some(range) => drop(ranges.insert(name.to_owned(), Arc::new(range.clone()))),
            None => drop(ranges.remove(name)),
        }
        if ranges.is_empty() {
            all.remove(namespace);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Pod,
    Claim,
}

/// What of a request the ranges are about: containers cannot change but by a resize.
fn subject(request: &AdmissionRequest<'_>) -> Option<Subject> {
    let gvr = &request.resource.gvr;
    if !gvr.group.is_empty() || request.old.is_some_and(object::is_deleting) {
        return None;
    }
    match (gvr.resource.as_str(), request.subresource, request.operation) {
        ("pods", "", Operation::Create) | ("pods", "resize", Operation::Update) => Some(Subject::Pod),
        ("persistentvolumeclaims", "", Operation::Create | Operation::Update) => Some(Subject::Claim),
        _ => None,
    }
}

pub(super) struct LimitRanger(pub(super) Arc<LimitRanges>);

impl LimitRanger {
    fn ranges(&self, namespace: &str) -> Vec<Arc<Value>> {
        self.0.0.read().get(namespace).map(|ranges| ranges.values().cloned().collect()).unwrap_or_default()
    }

    fn check(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Result<(), ApiError> {
        let (Some(object), Some(subject)) = (object, subject(request)) else { return Ok(()) };
        for range in self.ranges(request.namespace) {
            let verdict = match subject {
                Subject::Pod => check_pod(&range, object),
                Subject::Claim => check_claim(&range, object),
            };
            verdict.map_err(|cause| request.forbidden(Some(object), &cause))?;
        }
        Ok(())
    }
}

impl AdmissionPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, _: Step, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    fn admit<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a mut Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        if let (Some(pod), Some(Subject::Pod)) = (object, subject(request)) {
            self.ranges(request.namespace).iter().for_each(|range| set_defaults(range, pod));
        }
        Box::pin(async { Ok(()) })
    }

    fn validate<'a>(
        &'a self,
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let checked = self.check(request, object);
        Box::pin(async move { checked })
    }
}
