//! JSON trees of the parts of objects that are compared, hashed or patched on their own.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kybern_apimachinery::Value;

use crate::Object;

/// The tree of a typed object, with `apiVersion` and `kind`.
pub fn value<K: Object>(object: &K) -> Value {
    serde_json::from_slice(&object.to_json()).expect("an encoder writes JSON")
}

/// A tree as `runtime.RawExtension`, such as a ControllerRevision's data.
pub fn raw(value: Value) -> RawExtension {
    RawExtension(value)
}

/// The tree of a pod template.
pub fn pod_template(template: &PodTemplateSpec) -> Value {
    serde_json::to_value(template).expect("an API struct has string keys only")
}
