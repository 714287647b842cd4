//! Events.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::Strategy;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Event;

impl Strategy for Event {
    fn validate(&self, event: &Value) -> Vec<FieldError> {
        let (namespace, about) = (object::namespace(event), object::str_at(event, &["involvedObject", "namespace"]));
        // Events about cluster-scoped objects are in `default`.
        let fits =
            if about.is_empty() { namespace == "default" || namespace == "kube-system" } else { namespace == about };
        if fits {
            return Vec::new();
        }
        vec![FieldError::invalid(&FieldPath::new("involvedObject.namespace"), about, "does not match event.namespace")]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}
