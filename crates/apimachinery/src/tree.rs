//! Reading untyped objects: what decoding has checked to be a list is one, what is absent reads as Go's zero value.

use crate::{Map, Value};

/// The items of a list field.
pub fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The items of a list field, to be changed.
pub fn list_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut [Value] {
    object.get_mut(field).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// The entries of a map field.
pub fn map<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(field).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or("")
}

pub fn int(object: &Value, field: &str) -> Option<i64> {
    object.get(field).and_then(Value::as_i64)
}

pub fn flag(object: &Value, field: &str) -> bool {
    object.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// Whether a field is there and not null.
pub fn has(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|v| !v.is_null())
}

/// Sets a field that is absent.
pub fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if !has(object, field)
        && let Value::Object(map) = object
    {
        map.insert(field.to_owned(), value.into());
    }
}

/// Removes a field.
pub fn drop_field(object: &mut Value, field: &str) {
    if let Value::Object(map) = object {
        map.remove(field);
    }
}

/// Makes `field` what it is in `old`: absent when it is absent there.
pub fn keep(object: &mut Value, old: &Value, field: &str) {
    if let Value::Object(map) = object {
        match old.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}
