//! `metav1.Condition`s in a status.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::label_key;

use super::format::{self, Errors};
use crate::tree::{has, int, list, text};

const MAX_REASON: usize = 1 << 10;
const MAX_MESSAGE: usize = 32 << 10;
const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// The list `conditions` of `status` at `path`.
pub(crate) fn validate(out: &mut Errors, path: &FieldPath, status: &Value) {
    let (conditions, path) = (list(status, "conditions"), path.child("conditions"));
    for (i, condition) in conditions.iter().enumerate() {
        let (path, kind, reason) = (path.index(i), text(condition, "type"), text(condition, "reason"));
        if conditions[..i].iter().any(|earlier| text(earlier, "type") == kind) {
            out.push(FieldError::duplicate(&path.child("type"), kind));
        }
        format::invalid(out, &path.child("type"), kind, label_key(kind));
        format::one_of(out, &path.child("status"), text(condition, "status"), &["False", "True", "Unknown"]);
        if let Some(generation) = int(condition, "observedGeneration").filter(|g| *g < 0) {
            let detail = "must be greater than or equal to zero";
            out.push(FieldError::invalid(&path.child("observedGeneration"), generation, detail));
        }
        if !has(condition, "lastTransitionTime") {
            out.push(FieldError::required(&path.child("lastTransitionTime"), ""));
        }
        if reason.is_empty() {
            out.push(FieldError::required(&path.child("reason"), ""));
        } else {
            if !is_reason(reason) {
                out.push(FieldError::invalid(&path.child("reason"), reason, REASON));
            }
            if reason.len() > MAX_REASON {
                out.push(FieldError::too_long(&path.child("reason"), MAX_REASON));
            }
        }
        if text(condition, "message").len() > MAX_MESSAGE {
            out.push(FieldError::too_long(&path.child("message"), MAX_MESSAGE));
        }
    }
}

fn is_reason(reason: &str) -> bool {
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && !reason.ends_with([',', ':'])
        && reason.bytes().all(|c| c.is_ascii_alphanumeric() || b"_,:".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_condition_is_whole() {
        let texts = |condition: Value| {
            let mut out = Vec::new();
            validate(&mut out, &FieldPath::new("status"), &json!({"conditions": [condition]}));
            out.len()
        };
        let time = "2024-01-01T00:00:00Z";
        assert_eq!(texts(json!({"type": "A", "status": "True", "reason": "B", "lastTransitionTime": time})), 0);
        assert_eq!(texts(json!({"type": "A", "status": "True", "reason": "B:", "lastTransitionTime": time})), 1);
        assert_eq!(texts(json!({"type": "A"})), 3);
    }
}
