//! What structural schemas ask for beyond OpenAPI: objects within objects say what they are, sets and maps hold nothing twice.

use std::collections::HashMap;

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::{dns1035_label, path_segment};
use kybern_apimachinery::{GroupVersion, Value, object};

use super::compile::{Node, Uniqueness};

/// Checks type and metadata of embedded objects.
pub(super) fn embedded(node: &Node, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if !node.embeds {
        return;
    }
    match value {
        Value::Object(map) => {
            if node.embedded {
                resource(value, path, errors);
            }
            for (key, child) in map {
                match (node.properties.get(key), &node.additional) {
                    (Some(property), _) if property.embeds => embedded(property, child, &path.child(key), errors),
                    (None, Some(additional)) => embedded(additional, child, &path.key(key), errors),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                items.iter().enumerate().for_each(|(i, value)| embedded(item, value, &path.index(i), errors));
            }
        }
        _ => {}
    }
}

fn resource(value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for field in ["apiVersion", "kind"] {
        let path = path.child(field);
        match value.get(field) {
            None => errors.push(FieldError::required(&path, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&path, "", "must not be empty"));
            }
            Some(Value::String(text)) if field == "apiVersion" => {
                if GroupVersion::parse(text).is_none() {
                    let detail = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(&path, text.as_str(), detail));
                }
            }
            Some(Value::String(kind)) => {
                let faults = dns1035_label(&kind.to_lowercase());
                if !faults.is_empty() {
                    let detail = format!("may have mixed case, but should otherwise match: {}", faults.join(","));
                    errors.push(FieldError::invalid(&path, kind.as_str(), detail));
                }
            }
            Some(other) => errors.push(FieldError::invalid(&path, other.clone(), "must be a string")),
        }
    }
    let metadata = path.child("metadata");
    if let Some(other) = value.get("metadata").filter(|metadata| !metadata.is_object() && !metadata.is_null()) {
        let detail = "must be an object";
        errors.push(FieldError::invalid(&metadata, other.clone(), detail));
    }
    for field in ["name", "generateName", "namespace"] {
        let text = object::str_at(value, &["metadata", field]);
        for fault in path_segment(text) {
            errors.push(FieldError::invalid(&metadata.child(field), text, fault));
        }
    }
}

/// Checks that what is said to be a set or a map is one.
pub(super) fn lists(node: &Node, value: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if !node.uniques {
        return;
    }
    match value {
        Value::Object(map) => {
            for (key, child) in map {
                match (node.properties.get(key), &node.additional) {
                    (Some(property), _) if property.uniques => lists(property, child, &path.child(key), errors),
                    (None, Some(additional)) => lists(additional, child, &path.key(key), errors),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            match &node.unique {
                Uniqueness::Nothing => {}
                Uniqueness::Items => {
                    for i in repeated(items.iter().map(Value::to_string)) {
                        errors.push(FieldError::duplicate(&path.index(i), items[i].clone()));
                    }
                }
                Uniqueness::Keys(keys) => keyed(items, keys, path, errors),
            }
            if let Some(item) = &node.items {
                items.iter().enumerate().for_each(|(i, value)| lists(item, value, &path.index(i), errors));
            }
        }
        _ => {}
    }
}

fn keyed(items: &[Value], keys: &[String], path: &FieldPath, errors: &mut Vec<FieldError>) {
    if let Some(i) = items.iter().position(|item| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        errors.push(FieldError::invalid(&path.index(i), items[i].clone(), detail));
        return;
    }
    let identity = |item: &Value| -> Value {
        let set = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
        set.collect::<kybern_apimachinery::Map<_, _>>().into()
    };
    let identities: Vec<Value> = items.iter().map(identity).collect();
    for i in repeated(identities.iter().map(Value::to_string)) {
        errors.push(FieldError::duplicate(&path.index(i), identities[i].clone()));
    }
}

/// Where each text that is there more than once comes for the second time.
fn repeated(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut found = Vec::new();
    for (i, text) in texts.enumerate() {
        let seen = times.entry(text).or_default();
        *seen += 1;
        if *seen == 2 {
            found.push(i);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::super::Validator;
    use super::*;

    #[test]
    fn embedded_objects_say_what_they_are() {
        let schema = json!({"type": "object", "properties": {"t": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true}}});
        let validator = Validator::new(&schema).unwrap();
        let texts = |template: Value| -> Vec<String> {
            validator.validate(&json!({"t": template})).iter().map(ToString::to_string).collect()
        };
        assert!(texts(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}})).is_empty());
        assert_eq!(texts(json!({})), ["t.apiVersion: Required value", "t.kind: Required value"]);
        assert_eq!(
            texts(json!({"apiVersion": "a/b/c", "kind": "", "metadata": {"name": "a/b"}})),
            [
                "t.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "t.kind: Invalid value: \"\": must not be empty",
                "t.metadata.name: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
    }
}
