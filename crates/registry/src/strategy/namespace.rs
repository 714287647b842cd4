//! Namespaces: deleted in two steps. `spec.finalizers` holds a namespace until its content is gone; the `finalize`
//! subresource empties it.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_label;
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::status::keep_all_but;
use crate::tree::{keep, list};

pub(super) const FINALIZER: &str = "kubernetes";
pub(super) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Namespace;

fn finalizers(out: &mut Vec<FieldError>, namespace: &Value) {
    for (i, finalizer) in list(&namespace["spec"], "finalizers").iter().enumerate() {
        let text = finalizer.as_str().unwrap_or("");
        if text != FINALIZER && !text.contains('/') {
            let path = FieldPath::new("spec.finalizers").index(i);
            out.push(FieldError::invalid(
                &path,
                text,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
}

impl Strategy for Namespace {
    fn default(&self, namespace: &mut Value) {
        let name = object::name(namespace).to_owned();
        if !name.is_empty() {
            object::set(namespace, &["metadata", "labels", NAME_LABEL], name);
        }
    }

    fn prepare_for_create(&self, _: &StrategyContext<'_>, namespace: &mut Value) {
        // A generated name is known only now.
        self.default(namespace);
        namespace["status"] = json!({"phase": "Active"});
        let mut all: Vec<Value> = list(&namespace["spec"], "finalizers").to_vec();
        if !all.iter().any(|f| f == FINALIZER) {
            all.push(FINALIZER.into());
        }
        object::set(namespace, &["spec", "finalizers"], all);
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, namespace: &mut Value, old: &Value) {
        keep(namespace, old, "spec");
        keep(namespace, old, "status");
    }

    fn validate(&self, namespace: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        finalizers(&mut out, namespace);
        out
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        dns1123_label(name)
    }

    fn prepare_for_delete(&self, namespace: &mut Value) {
        object::set(namespace, &["status", "phase"], "Terminating");
    }

    fn deletion_pending(&self, namespace: &Value) -> bool {
        !list(&namespace["spec"], "finalizers").is_empty()
    }
}

/// `namespaces/finalize`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Finalize;

impl Strategy for Finalize {
    fn prepare_for_update(&self, _: &StrategyContext<'_>, namespace: &mut Value, old: &Value) {
        keep_all_but(namespace, old, "spec");
    }

    fn validate(&self, namespace: &Value) -> Vec<FieldError> {
        Namespace.validate(namespace)
    }

    fn deletion_pending(&self, namespace: &Value) -> bool {
        Namespace.deletion_pending(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_labelled_and_held() {
        let user = Default::default();
        let ctx = StrategyContext { user: &user, now: jiff::Timestamp::UNIX_EPOCH, dry_run: false };
        let mut namespace = json!({"metadata": {"name": "a"}});
        Namespace.prepare_for_create(&ctx, &mut namespace);
        assert_eq!(object::label(&namespace, NAME_LABEL), Some("a"));
        assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
        assert!(Namespace.deletion_pending(&namespace));
        let mut emptied = namespace.clone();
        emptied["spec"]["finalizers"] = json!([]);
        Finalize.prepare_for_update(&ctx, &mut emptied, &namespace);
        assert!(!Namespace.deletion_pending(&emptied));
        assert_eq!(emptied["status"]["phase"], "Active");
    }
}
