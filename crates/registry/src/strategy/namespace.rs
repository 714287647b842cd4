//! Namespaces: deleted in two steps. `spec.finalizers` holds a namespace until its content is gone; the `finalize`
//! subresource empties it.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1123_label, label_key};
use kybern_apimachinery::{Value, json, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};

use super::status::keep_all_but;
use crate::tree::{keep, list};
use crate::validation::{Errors, format};

pub(super) const FINALIZER: &str = "kubernetes";
pub(super) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Namespace;

/// `spec.finalizers`, each told at `path`.
fn finalizers(namespace: &Value, path: impl Fn(usize) -> FieldPath) -> Errors {
    let mut out = Errors::new();
    for (i, finalizer) in list(&namespace["spec"], "finalizers").iter().enumerate() {
        let (path, text) = (path(i), finalizer.as_str().unwrap_or(""));
        format::invalid(&mut out, &path, text, label_key(text));
        if !text.contains('/') && ![FINALIZER, "orphan", "foregroundDeletion"].contains(&text) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            out.push(FieldError::invalid(&path, text, detail));
        }
    }
    out
}

impl Strategy for Namespace {
    fn default(&self, namespace: &mut Value) {
        let name = object::name(namespace).to_owned();
        if !name.is_empty() {
            object::set(namespace, &["metadata", "labels", NAME_LABEL], name);
        }
        if object::str_at(namespace, &["status", "phase"]).is_empty() {
            object::set(namespace, &["status", "phase"], "Active");
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
        finalizers(namespace, |_| FieldPath::new("spec.finalizers"))
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

/// `status`: the phase follows from whether the namespace is being deleted.
pub(super) fn validate_status(namespace: &Value, _old: &Value) -> Vec<FieldError> {
    let (phase, path) = (object::str_at(namespace, &["status", "phase"]), FieldPath::new("status.Phase"));
    let (wanted, detail) = if object::is_deleting(namespace) {
        ("Terminating", "may only be 'Terminating' if `deletionTimestamp` is not empty")
    } else {
        ("Active", "may only be 'Active' if `deletionTimestamp` is empty")
    };
    if phase == wanted { Vec::new() } else { vec![FieldError::invalid(&path, phase, detail)] }
}

/// `namespaces/finalize`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Finalize;

impl Strategy for Finalize {
    fn reset_fields(&self) -> &'static [&'static [&'static str]] {
        &[&["status"]]
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, namespace: &mut Value, old: &Value) {
        keep_all_but(namespace, old, "spec");
    }

    fn validate(&self, namespace: &Value) -> Vec<FieldError> {
        finalizers(namespace, |i| FieldPath::new("spec.finalizers").index(i))
    }

    fn deletion_pending(&self, namespace: &Value) -> bool {
        Namespace.deletion_pending(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apiserver::strategy::Features;

    #[test]
    fn the_phase_is_of_the_deletion() {
        let faults = |phase: &str, deleted: Value| {
            let namespace = json!({"metadata": {"deletionTimestamp": deleted}, "status": {"phase": phase}});
            validate_status(&namespace, &json!({})).len()
        };
        let at = || json!("2024-01-01T00:00:00Z");
        assert_eq!((faults("Active", Value::Null), faults("Terminating", at())), (0, 0));
        assert_eq!((faults("Terminating", Value::Null), faults("Active", at())), (1, 1));
    }

    #[test]
    fn finalizers_have_names() {
        let texts = |strategy: &dyn Strategy, finalizer: &str| -> Vec<String> {
            let namespace = json!({"spec": {"finalizers": [finalizer]}});
            strategy.validate(&namespace).iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(&Namespace, "example.com/f"), [""; 0]);
        assert!(texts(&Namespace, "f")[0].starts_with("spec.finalizers: Invalid value: \"f\": name is neither"));
        assert!(texts(&Finalize, "f")[0].starts_with("spec.finalizers[0]: Invalid value: \"f\": name is neither"));
        assert!(texts(&Namespace, "a b/c").len() == 1);
    }

    #[test]
    fn a_namespace_is_labelled_and_held() {
        let user = Default::default();
        let ctx = StrategyContext {
            user: &user,
            now: jiff::Timestamp::UNIX_EPOCH,
            dry_run: false,
            features: &Features::default(),
        };
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
