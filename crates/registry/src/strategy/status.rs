//! The two halves of a kind that has a status: its owner writes `spec`, its controller writes `status`.

use kybern_apimachinery::field::FieldError;
use kybern_apimachinery::{Value, json};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use crate::tree::keep;

/// What a creator says about the status does not count. Upstream's status is a struct, hence written even when empty.
pub(super) fn reset_status(object: &mut Value) {
    object["status"] = json!({});
}

/// A kind without special rules that has a status.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlainWithStatus;

impl Strategy for PlainWithStatus {
    fn prepare_for_create(&self, _: &StrategyContext<'_>, object: &mut Value) {
        reset_status(object);
    }
}

/// The `status` subresource of any kind: everything but the status and the metadata stays as it was, and nothing is
/// validated that only controllers write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StatusOnly;

impl Strategy for StatusOnly {
    fn prepare_for_update(&self, _: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        keep_all_but(object, old, "status");
    }
}

/// The `status` subresource of a kind whose status has rules.
pub(crate) struct Status {
    pub validate: fn(&Value, &Value) -> Vec<FieldError>,
    pub warnings: fn(&Value) -> Vec<String>,
    /// The fields of `metadata` that stay as they were, too.
    pub keeps: &'static [&'static str],
    pub resets: &'static [&'static [&'static str]],
    pub has_table: bool,
}

impl Status {
    pub(crate) fn new(validate: fn(&Value, &Value) -> Vec<FieldError>) -> Self {
        Self { validate, warnings: |_| Vec::new(), keeps: &[], resets: &[], has_table: true }
    }

    pub(crate) fn keeping_metadata(validate: fn(&Value, &Value) -> Vec<FieldError>) -> Self {
        let keeps = &["labels", "annotations", "finalizers"];
        Self { keeps, resets: &[&["metadata"]], ..Self::new(validate) }
    }
}

impl Strategy for Status {
    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        self.resets
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, object: &mut Value, old: &Value) {
        keep_all_but(object, old, "status");
        if let Some(metadata) = object.get_mut("metadata") {
            for field in self.keeps {
                keep(metadata, &old["metadata"], field);
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        (self.validate)(object, old)
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        (self.warnings)(object)
    }

    fn has_table(&self) -> bool {
        self.has_table
    }
}

/// Takes everything from `old` but `metadata`, `apiVersion`, `kind` and one field. Owners are not a status writer's to
/// change.
pub(super) fn keep_all_but(object: &mut Value, old: &Value, field: &str) {
    let fields: Vec<String> =
        [&*object, old].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys().cloned()).collect();
    for name in fields.iter().filter(|n| !["metadata", "apiVersion", "kind", field].contains(&n.as_str())) {
        keep(object, old, name);
    }
    if let (Some(new), Some(old)) = (object.get_mut("metadata"), old.get("metadata")) {
        keep(new, old, "ownerReferences");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_write_changes_nothing_else() {
        let old = json!({"metadata": {"name": "a", "ownerReferences": [1]}, "spec": {"x": 1}, "status": {"s": 1}});
        let mut new =
            json!({"metadata": {"name": "a", "labels": {"l": "1"}}, "spec": {"x": 2}, "status": {"s": 2}, "data": 1});
        keep_all_but(&mut new, &old, "status");
        let expect = json!({"metadata": {"name": "a", "labels": {"l": "1"}, "ownerReferences": [1]}, "spec": {"x": 1}, "status": {"s": 2}});
        assert_eq!(new, expect);
    }
}
