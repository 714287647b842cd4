//! Conversions of the few kinds whose versions differ in shape. All others differ in `apiVersion` alone.

mod autoscaling;
mod event;
mod resource;

use kybern_apimachinery::Value;
use kybern_apiserver::resource::Conversion;

/// How a served version of a resource is converted; `None` where its shape is the stored one's.
pub(crate) fn conversion(group: &str, version: &str, resource: &str) -> Option<Conversion> {
    match (group, version, resource) {
        ("events.k8s.io", "v1", "events") => {
            Some(Conversion { to_stored: event::to_core, from_stored: event::from_core })
        }
        ("autoscaling", "v1", "horizontalpodautoscalers") => {
            Some(Conversion { to_stored: autoscaling::to_v2, from_stored: autoscaling::from_v2 })
        }
        ("resource.k8s.io", "v1beta1", "resourceclaims" | "resourceclaimtemplates" | "resourceslices") => {
            Some(Conversion { to_stored: resource::to_v1, from_stored: resource::from_v1 })
        }
        _ => None,
    }
}

/// Moves the value at a top-level field to another name.
fn rename(object: &mut Value, from: &str, to: &str) {
    if let Value::Object(map) = object
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}
