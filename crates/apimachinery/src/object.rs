//! Reading and writing the parts of an object that every kind has, on the JSON tree.

use crate::{GroupVersion, Gvk, Map, Value};

/// A string at a path of object keys; empty when absent or not a string, as Go's zero value would be.
pub fn str_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or("")
}

/// The value at a path of object keys.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

/// The value at a path of object keys, mutably.
pub fn at_mut<'a>(object: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |value, key| value.get_mut(key))
}

/// The map at a path, made (with its parents) where absent. A non-map in the way is replaced.
pub fn map_at_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut value = object;
    for key in path {
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        let Value::Object(map) = value else { unreachable!("made an object above") };
        value = map.entry(*key).or_insert_with(|| Value::Object(Map::new()));
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { unreachable!("made an object above") };
    map
}

/// Sets the value at a path, making parents. `path` must not be empty.
pub fn set(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    let (last, parents) = path.split_last().expect("a path names at least one key");
    map_at_mut(object, parents).insert((*last).to_owned(), value.into());
}

/// Removes the value at a path and returns it.
pub fn remove(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    at_mut(object, parents)?.as_object_mut()?.remove(*last)
}

pub fn api_version(object: &Value) -> &str {
    str_at(object, &["apiVersion"])
}

pub fn kind(object: &Value) -> &str {
    str_at(object, &["kind"])
}

/// The object's `apiVersion` and `kind`; `None` where either is missing or malformed.
pub fn gvk(object: &Value) -> Option<Gvk> {
    let GroupVersion { group, version } = GroupVersion::parse(api_version(object))?;
    let kind = kind(object);
    (!kind.is_empty()).then(|| Gvk::new(group, version, kind))
}

pub fn name(object: &Value) -> &str {
    str_at(object, &["metadata", "name"])
}

pub fn namespace(object: &Value) -> &str {
    str_at(object, &["metadata", "namespace"])
}

pub fn uid(object: &Value) -> &str {
    str_at(object, &["metadata", "uid"])
}

pub fn resource_version(object: &Value) -> &str {
    str_at(object, &["metadata", "resourceVersion"])
}

pub fn generation(object: &Value) -> i64 {
    at(object, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether `metadata.deletionTimestamp` is set.
pub fn is_deleting(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    at(object, &["metadata", "finalizers"]).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// `metadata.labels`, or nothing.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    at(object, &["metadata", "labels"]).and_then(Value::as_object)
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    at(object, &["metadata", "annotations"])?.get(key)?.as_str()
}

/// `namespace/name`, or `name` for a cluster-scoped object: the key of caches and queues.
pub fn key(object: &Value) -> String {
    key_of(namespace(object), name(object))
}

pub fn key_of(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Splits a key made by [`key`] into namespace (empty when cluster-scoped) and name.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn set_makes_parents_and_remove_takes_only_the_leaf() {
        let mut object = json!({"metadata": {"name": "a"}});
        set(&mut object, &["metadata", "labels", "app"], "web");
        assert_eq!(label(&object, "app"), Some("web"));
        assert_eq!(remove(&mut object, &["metadata", "labels", "app"]), Some(json!("web")));
        assert_eq!(object, json!({"metadata": {"name": "a", "labels": {}}}));
    }

    #[test]
    fn gvk_needs_both_halves() {
        assert_eq!(
            gvk(&json!({"apiVersion": "apps/v1", "kind": "Deployment"})),
            Some(Gvk::new("apps", "v1", "Deployment"))
        );
        assert_eq!(gvk(&json!({"apiVersion": "a/b/c", "kind": "X"})), None);
        assert_eq!(gvk(&json!({"apiVersion": "v1"})), None);
    }
}
