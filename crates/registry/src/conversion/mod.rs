//! Conversions of the few kinds whose versions differ in shape. All others differ in `apiVersion` alone.

mod autoscaling;
mod definition;
mod event;
mod resource;

use std::sync::Arc;

use kybern_apimachinery::{ApiError, Value, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::resource::Conversion;

/// A kind of which one version has another shape than all others.
struct Reshape {
    /// That version's `apiVersion`.
    odd: &'static str,
    from_odd: fn(Value) -> Value,
    to_odd: fn(Value) -> Value,
}

impl Reshape {
    fn one(&self, mut object: Value, api_version: &str) -> Value {
        if object::api_version(&object) == self.odd {
            object = (self.from_odd)(object);
        }
        if api_version == self.odd {
            object = (self.to_odd)(object);
        }
        object::set(&mut object, &["apiVersion"], api_version);
        object
    }
}

impl Conversion for Reshape {
    fn convert<'a>(&'a self, objects: Vec<Value>, api_version: &'a str) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move { Ok(objects.into_iter().map(|object| self.one(object, api_version)).collect()) })
    }
}

/// How the versions of a kind are converted; `None` where all have one shape.
pub(crate) fn conversion(group: &str, resource: &str) -> Option<Arc<dyn Conversion>> {
    let reshape = match (group, resource) {
        ("" | "events.k8s.io", "events") => {
            Reshape { odd: "events.k8s.io/v1", from_odd: event::to_core, to_odd: event::from_core }
        }
        ("autoscaling", "horizontalpodautoscalers") => {
            Reshape { odd: "autoscaling/v1", from_odd: autoscaling::to_v2, to_odd: autoscaling::from_v2 }
        }
        ("resource.k8s.io", "resourceclaims" | "resourceclaimtemplates" | "resourceslices") => {
            Reshape { odd: "resource.k8s.io/v1beta1", from_odd: resource::to_v1, to_odd: resource::from_v1 }
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            // Nobody asks for that version.
            Reshape { odd: "apiextensions.k8s.io/v1beta1", from_odd: definition::to_v1, to_odd: |object| object }
        }
        _ => return None,
    };
    Some(Arc::new(reshape))
}

/// Moves the value at a top-level field to another name.
fn rename(object: &mut Value, from: &str, to: &str) {
    if let Value::Object(map) = object
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}
