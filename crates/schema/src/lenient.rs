//! Makes a stored object fit its kind's shape, for readers that must not stumble over it: what old versions wrote, what
//! Go reads without complaint (`null` anywhere, absent required fields), and what nobody should have stored at all. What
//! fits is kept; what does not is read as if it were not there. Servers decode, and refuse; this is for clients.

use kybern_apimachinery::{Map, Value};

use crate::decode::{fit, zero};
use crate::types::{KindType, Schema, StructType, Type};

/// The instant that Go writes as `null`.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Makes the object fit.
pub fn make_fit(kind: &KindType, object: &mut Value) {
    if let Value::Object(fields) = object {
        structure(&kind.schema, kind.root(), fields);
    }
}

fn structure(schema: &Schema, ty: &StructType, fields: &mut Map<String, Value>) {
    let given = std::mem::take(fields);
    for (name, value) in given {
        let Some(field) = ty.field(&name) else {
            if !value.is_null() {
                fields.insert(name, value);
            }
            continue;
        };
        if let Some(value) = value_of(schema, &field.ty, value) {
            fields.insert(name, value);
        }
    }
    // Go's zero value stands for an absent instant; every other type has one in every language.
    for field in ty.fields.iter().filter(|f| f.required && matches!(f.ty, Type::Time | Type::MicroTime)) {
        fields.entry(field.name.to_string()).or_insert_with(|| NO_TIME.into());
    }
}

/// The value in the type's form; `None` where it has none.
fn value_of(schema: &Schema, ty: &Type, value: Value) -> Option<Value> {
    match (ty, value) {
        (_, Value::Null) => None,
        (Type::Any | Type::RawExtension | Type::FieldsV1 | Type::Either(_), value) => Some(value),
        (Type::Struct(id), Value::Object(mut fields)) => {
            let ty = schema.get(*id);
            // An object within another is of the kind that its place says, whatever it says itself.
            if ty.field("metadata").is_some() {
                fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind"));
            }
            structure(schema, ty, &mut fields);
            Some(Value::Object(fields))
        }
        (Type::List(list), Value::Array(items)) => {
            Some(items.into_iter().filter_map(|item| element(schema, &list.item, item)).collect())
        }
        (Type::Map(map), Value::Object(entries)) => {
            let entries = entries.into_iter();
            Some(entries.filter_map(|(key, value)| Some((key, element(schema, &map.value, value)?))).collect())
        }
        (Type::Struct(_) | Type::List(_) | Type::Map(_), _) => None,
        (ty, value) => fit(ty, whole(value)),
    }
}

/// Go reads `null` in a list or a map as the element's zero value, so that its place or key stays.
fn element(schema: &Schema, ty: &Type, value: Value) -> Option<Value> {
    if !value.is_null() {
        return value_of(schema, ty, value);
    }
    value_of(schema, ty, zero(schema, ty))
}

/// Encoders without integers write `3.0`.
fn whole(value: Value) -> Value {
    match value.as_f64().filter(|n| value.is_f64() && n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0) {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        Some(number) => (number as i64).into(),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::{Gvk, json};

    use super::*;

    fn check(group: &str, kind: &str, mut object: Value, expect: &Value) {
        make_fit(&crate::builtin().kind(&Gvk::new(group, "v1", kind)).unwrap(), &mut object);
        assert_eq!(object, *expect);
    }

    #[test]
    fn nulls_are_absent_or_zero() {
        let object = json!({"metadata": {"name": "a", "labels": {"x": null}, "finalizers": null}, "data": {"k": null},
            "binaryData": null});
        let expect = json!({"metadata": {"name": "a", "labels": {"x": ""}}, "data": {"k": ""}});
        check("", "ConfigMap", object, &expect);
        let object = json!({"spec": {"containers": [null, {"name": "c", "args": ["a", null]}], "nodeSelector": null}});
        let expect = json!({"spec": {"containers": [{"name": "", "resources": {}}, {"name": "c", "args": ["a", ""]}]}});
        check("", "Pod", object, &expect);
    }

    #[test]
    fn conditions_have_a_time() {
        let object = json!({"status": {"conditions": [{"type": "A", "lastTransitionTime": null}, {"type": "B"}]}});
        let expect = json!({"status": {"conditions": [
            {"type": "A", "lastTransitionTime": NO_TIME}, {"type": "B", "lastTransitionTime": NO_TIME}]}});
        check("", "Service", object, &expect);
    }

    #[test]
    fn what_does_not_fit_is_absent() {
        let object = json!({"spec": {"replicas": 3.0, "minReadySeconds": 1.5, "paused": "yes", "selector": [],
            "template": {"spec": {"containers": [{"name": 7, "resources": {"limits": {"cpu": 2, "memory": "?"}}}]}},
            "progressDeadlineSeconds": 99_999_999_999_i64}, "unknown": {"a": 1}});
        let expect = json!({"spec": {"replicas": 3,
            "template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "2"}}}]}}}, "unknown": {"a": 1}});
        check("apps", "Deployment", object, &expect);
    }

    #[test]
    fn an_inner_object_is_what_its_place_says() {
        let object = json!({"kind": "StatefulSet", "spec": {"volumeClaimTemplates": [{"kind": "Claim", "apiVersion": "v0",
            "metadata": {"name": "a"}}]}});
        let expect = json!({"kind": "StatefulSet", "spec": {"volumeClaimTemplates": [{"metadata": {"name": "a"}}]}});
        check("apps", "StatefulSet", object, &expect);
    }
}
