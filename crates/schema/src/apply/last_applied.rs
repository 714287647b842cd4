//! kubectl's step from client-side to server-side apply: the annotation that client-side apply left says what kubectl
//! itself had set, so that it does not conflict with that.

use kybern_apimachinery::{Value, object};

use super::compare::compare;
use super::fields::field_set;
use super::set::FieldSet;
use crate::types::KindType;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager for which the annotation is read and kept up to date.
pub(super) const KUBECTL: &str = "kubectl";
/// Upstream's limit of all annotations together, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// The fields that were last applied by the client and have not been changed since.
pub(super) fn unchanged(kind: &KindType, live: &Value) -> FieldSet {
    let last = object::annotation(live, ANNOTATION).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(last) = last.filter(|last| object::api_version(last) == kind.gvk.api_version()) else {
        return FieldSet::default();
    };
    let comparison = compare(kind, &last, live);
    field_set(kind, &last)
        .difference(&comparison.modified)
        .difference(&comparison.added)
        .difference(&comparison.removed)
}

/// Writes what is applied now into the annotation, if the live object has one.
pub(super) fn refresh(live: &Value, config: &Value, new: &mut Value) {
    if object::annotation(live, ANNOTATION).is_none() {
        return;
    }
    let mut config = config.clone();
    object::remove(&mut config, &["metadata", "annotations", ANNOTATION]);
    let text = format!("{config}\n");
    let annotations = object::map_at_mut(new, &["metadata", "annotations"]);
    let others: usize = annotations
        .iter()
        .filter(|(key, _)| *key != ANNOTATION)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if others + ANNOTATION.len() + text.len() > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}
