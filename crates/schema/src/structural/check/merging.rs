//! The extensions that say how lists and maps are merged.

use std::collections::HashSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::super::{is_true, text};
use super::{Precedent, words};

/// So many keys are told at most of a list with faults in them, each of which repeats all keys.
const MAX_TOLD: usize = 4096;

pub(super) fn merging(schema: &Value, path: &FieldPath, precedent: &Precedent, errors: &mut Vec<FieldError>) {
    let ty = text(schema, "type");
    let type_path = path.child("type");
    for (key, wanted, values) in [
        ("x-kubernetes-map-type", "object", &["atomic", "granular"][..]),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]),
    ] {
        let Some(given) = schema[key].as_str() else { continue };
        let detail = format!("must be {wanted} if {key} is specified");
        match ty {
            "" => errors.push(FieldError::required(&type_path, detail)),
            ty if ty != wanted => errors.push(FieldError::invalid(&type_path, ty, detail)),
            _ => {}
        }
        if !values.contains(&given) {
            errors.push(FieldError::not_supported(&path.child(key), given, values));
        }
    }
    let list_type = schema["x-kubernetes-list-type"].as_str();
    let (items, items_path) = (&schema["items"], path.child("items"));
    if ty == "array" && list_type == Some("set") && items.is_object() && !precedent.sets_of_parts {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let given = &items["x-kubernetes-list-type"];
        match text(items, "type") {
            "array" if !given.is_null() && given != "atomic" => {
                errors.push(FieldError::invalid(&items_path.child("x-kubernetes-list-type"), given.clone(), detail));
            }
            "object" if items["x-kubernetes-map-type"] != "atomic" => {
                errors.push(FieldError::invalid(&items_path.child("x-kubernetes-map-type"), given.clone(), detail));
            }
            _ => {}
        }
    }
    let (keys, keys_path) = (words(schema, "x-kubernetes-list-map-keys"), path.child("x-kubernetes-list-map-keys"));
    if !keys.is_empty() && list_type != Some("map") {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        let path = path.child("x-kubernetes-list-type");
        errors.push(match list_type {
            None => FieldError::required(&path, detail),
            Some(given) => FieldError::invalid(&path, given, detail),
        });
    }
    if list_type == Some("map") {
        if keys.is_empty() {
            let detail = "must not be empty if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&keys_path, detail));
        }
        if items.is_null() {
            let detail = "must have a schema if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&items_path, detail));
        } else if text(items, "type") != "object" {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&items_path.child("type"), text(items, "type"), detail));
        } else {
            keyed(items, &keys, &items_path, &keys_path, errors);
        }
    }
    if !precedent.loose_keys {
        certain(schema, path, errors);
    }
}

/// Whether a schema is that of a set whose items can be changed in part.
pub(super) fn is_set_of_parts(schema: &Value) -> bool {
    let items = &schema["items"];
    text(schema, "x-kubernetes-list-type") == "set"
        && match text(items, "type") {
            "array" => items["x-kubernetes-list-type"].as_str().is_some_and(|ty| ty != "atomic"),
            "object" => items["x-kubernetes-map-type"] != "atomic",
            _ => false,
        }
}

/// Items of sets and maps are there, and so are the keys of a map's.
pub(super) fn certain(schema: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let (items, path) = (&schema["items"], path.child("items"));
    let list_type = text(schema, "x-kubernetes-list-type");
    if !items.is_object() || !matches!(list_type, "set" | "map") {
        return;
    }
    if is_true(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(&path.child("nullable"), detail));
    }
    if list_type != "map" {
        return;
    }
    let required: HashSet<&str> = words(items, "required").into_iter().collect();
    for key in words(schema, "x-kubernetes-list-map-keys") {
        let Some(property) = items["properties"].get(key) else { continue };
        let (path, of) = (path.child("properties").key(key), "this property is in x-kubernetes-list-map-keys, so it");
        if !required.contains(key) && property["default"].is_null() {
            let detail = format!("{of} must have a default or be a required property");
            errors.push(FieldError::required(&path.child("default"), detail));
        }
        if is_true(property, "nullable") {
            errors.push(FieldError::forbidden(&path.child("nullable"), format!("{of} cannot be nullable")));
        }
    }
}

/// The keys of a list are fields of its items, each named once.
fn keyed(items: &Value, keys: &[&str], items_path: &FieldPath, keys_path: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    let mut told = 0;
    let mut tell = |errors: &mut Vec<FieldError>, detail: &str| {
        told += keys.len();
        if told <= MAX_TOLD || told == keys.len() {
            errors.push(FieldError::invalid(keys_path, keys.to_vec(), detail));
        }
    };
    for key in keys {
        match items["properties"].get(*key) {
            None => tell(errors, "entries must all be names of item properties"),
            Some(property) if matches!(text(property, "type"), "array" | "object") => {
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let path = items_path.child("properties").key(key).child("type");
                errors.push(FieldError::invalid(&path, text(items, "type"), detail));
            }
            Some(_) => {}
        }
        if !seen.insert(*key) {
            tell(errors, "must not contain duplicate entries");
        }
    }
}
