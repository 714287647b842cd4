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

/// The first places at which two values differ, for the end of a refusal: a line each of what was and what would be, such as
/// `-spec.containers[0].name: "a"` and `+spec.containers[0].name: "b"`.
pub(crate) fn diff(new: &Value, old: &Value, path: &FieldPath) -> String {
    let mut lines = Vec::new();
    differences(new, old, path, &mut lines);
    format!("\n{}\n", lines.join("\n"))
}

const SHOWN: usize = 10;

fn differences(new: &Value, old: &Value, path: &FieldPath, out: &mut Vec<String>) {
    if out.len() >= SHOWN || new == old {
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
                    out,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (new, old)) in a.iter().zip(b).enumerate() {
                differences(new, old, &path.index(i), out);
            }
        }
        _ => out.push(format!("-{path}: {old}\n+{path}: {new}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn differences_name_their_paths() {
        let text = diff(&json!({"a": [{"b": 1}], "c": 2}), &json!({"a": [{"b": 3}]}), &FieldPath::new("spec"));
        assert_eq!(text, "\n-spec.a[0].b: 3\n+spec.a[0].b: 1\n-spec.c: null\n+spec.c: 2\n");
    }
}
