//! Objects as their schema would have them: what it does not know is dropped, what it has a default for is there. Stored
//! objects are brought into this form when they are read, for they were written under the schema of their time.

use std::sync::Arc;

use kybern_apimachinery::{Gvk, Value, object};

use super::{is_true, kind_type};
use crate::types::KindType;
use crate::{apply_defaults, prune};

/// A version's schema, for the upkeep of its objects.
#[derive(Debug)]
pub struct Upkeep {
    pub kind: KindType,
    pub schema: Arc<Value>,
    /// The definition's `preserveUnknownFields`.
    preserve: bool,
}

impl Upkeep {
    pub fn new(gvk: Gvk, schema: Arc<Value>, preserve: bool) -> Self {
        Self { kind: kind_type(gvk, &schema, preserve), schema, preserve }
    }

    /// Drops what the schema does not know.
    pub fn prune(&self, object: &mut Value) {
        if !self.preserve {
            prune(&self.kind, object);
        }
        self.settle_nulls(object);
    }

    /// What a stored object is to its readers.
    pub fn refresh(&self, object: &mut Value) {
        self.prune(object);
        apply_defaults(&self.kind, object);
        // Very old objects have none.
        if object::at(object, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0) == 0 {
            object::set(object, &["metadata", "generation"], 1);
        }
    }

    /// Nothing is `null` that may not be: a field that has no default goes.
    pub fn settle_nulls(&self, object: &mut Value) {
        if !self.preserve && has_null(object) {
            settle(&self.schema, object);
        }
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

fn settle(schema: &Value, value: &mut Value) {
    let child = |key: &str| -> Option<&Value> {
        schema["properties"].get(key).or_else(|| Some(&schema["additionalProperties"]).filter(|s| s.is_object()))
    };
    let unwanted = |schema: &Value, value: &Value| value.is_null() && !is_true(schema, "nullable");
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| !child(key).is_some_and(|s| unwanted(s, value) && s["default"].is_null()));
            for (key, value) in fields {
                let Some(schema) = child(key) else { continue };
                if unwanted(schema, value) {
                    *value = schema["default"].clone();
                }
                settle(schema, value);
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            let schema = &schema["items"];
            for value in items {
                if unwanted(schema, value) {
                    *value = schema["default"].clone();
                }
                settle(schema, value);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    #[test]
    fn what_is_stored_is_read_as_the_schema_has_it() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"}, "d": {"type": "string", "default": "x"}, "n": {"type": "string", "nullable": true},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"d": {"type": "integer", "default": 1}}}},
        }}}});
        let stored = json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "a", "odd": 1}, "extra": true,
            "spec": {"a": null, "d": null, "n": null, "gone": 1, "m": {"k": null, "v": "w"}, "l": [{"old": 1}, {"d": null}]}});
        let gvk = Gvk::new("ex.io", "v1", "Foo");
        let mut object = stored.clone();
        Upkeep::new(gvk.clone(), Arc::new(schema.clone()), false).refresh(&mut object);
        let expect = json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "a", "generation": 1},
            "spec": {"d": "x", "n": null, "m": {"v": "w"}, "l": [{"d": 1}, {"d": 1}]}});
        assert_eq!(object, expect);
        let mut again = object.clone();
        Upkeep::new(gvk.clone(), Arc::new(schema.clone()), false).refresh(&mut again);
        assert_eq!(again, object);
        let mut kept = stored;
        Upkeep::new(gvk, Arc::new(schema), true).refresh(&mut kept);
        assert_eq!((&kept["extra"], &kept["spec"]["gone"], &kept["spec"]["d"]), (&json!(true), &json!(1), &json!("x")));
    }
}
