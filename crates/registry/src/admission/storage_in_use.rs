//! `StorageObjectInUseProtection`: volumes, claims and classes of attributes that are in use stay until they are not; the
//! controllers of the same names take the finalizers away again.

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::admission::{AdmissionPlugin, AdmissionRequest, Operation, Step};

pub(super) struct StorageObjectInUseProtection;

fn finalizer(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "persistentvolumes") => Some("kubernetes.io/pv-protection"),
        ("", "persistentvolumeclaims") => Some("kubernetes.io/pvc-protection"),
        ("storage.k8s.io", "volumeattributesclasses") => Some("kubernetes.io/vac-protection"),
        _ => None,
    }
}

fn protect(object: &mut Value, finalizer: &str) {
    if object::finalizers(object).any(|f| f == finalizer) {
        return;
    }
    let mut finalizers: Vec<Value> = object::finalizers(object).map(Value::from).collect();
    finalizers.push(finalizer.into());
    object::set(object, &["metadata", "finalizers"], finalizers);
}

impl AdmissionPlugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
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
        let creates = request.operation == Operation::Create && request.subresource.is_empty();
        if let (Some(object), true, Some(finalizer)) = (object, creates, finalizer(&gvr.group, &gvr.resource)) {
            protect(object, finalizer);
        }
        Box::pin(async { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_finalizer_is_added_once() {
        let finalizer = finalizer("", "persistentvolumes").unwrap();
        let mut volume = json!({"metadata": {"finalizers": ["own"]}});
        protect(&mut volume, finalizer);
        protect(&mut volume, finalizer);
        assert_eq!(volume["metadata"]["finalizers"], json!(["own", "kubernetes.io/pv-protection"]));
    }
}
