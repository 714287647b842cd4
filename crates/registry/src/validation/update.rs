//! What an update may not change.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::format::Errors;

/// A field that stays as it was.
pub(crate) fn immutable(out: &mut Errors, path: &FieldPath, new: Option<&Value>, old: Option<&Value>) {
    if new != old {
        out.push(FieldError::invalid(path, new.cloned().unwrap_or(Value::Null), "field is immutable"));
    }
}

/// A field of `object` that stays as it was, in the words of storage.
pub(crate) fn unchanged(out: &mut Errors, path: &FieldPath, object: &Value, old: &Value, field: &str) {
    if object.get(field) != old.get(field) {
        out.push(FieldError::forbidden(path, format!("updates to {field} are forbidden.")));
    }
}

/// The paths at which two values differ, as `spec.containers[0].name: "a" -> "b"`, at most `limit` of them.
pub(crate) fn differences(new: &Value, old: &Value, path: &FieldPath, limit: usize, out: &mut Vec<String>) {
    if out.len() >= limit || new == old {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                differences(
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    &path.child(key),
                    limit,
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (new, old)) in a.iter().zip(b).enumerate() {
                differences(new, old, &path.index(i), limit, out);
            }
        }
        _ => out.push(format!("{path}: {} -> {}", old, new)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn differences_name_their_paths() {
        let mut out = Vec::new();
        differences(&json!({"a": [{"b": 1}], "c": 2}), &json!({"a": [{"b": 3}]}), &FieldPath::new("spec"), 9, &mut out);
        assert_eq!(out, ["spec.a[0].b: 3 -> 1", "spec.c: null -> 2"]);
    }
}
