//! What makes a schema structural: every value has one shape, which the rules for values do not change.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, json};

use super::super::validation::check_pattern;
use super::super::{is_true, text};
use super::{Level, nested, properties};

/// Everything that keeps a schema from being structural.
pub(super) fn violations(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    completeness(schema, schema, path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == json!([{"type": "integer"}, {"type": "string"}])
}

fn invariants(schema: &Value, level: Level, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let (ty, x) = (text(schema, "type"), |key: &str| is_true(schema, key));
    if ty == "array" && schema["items"].is_null() {
        errors.push(FieldError::required(&path.child("items"), "must be specified"));
    }
    if schema["items"].is_object() {
        invariants(&schema["items"], Level::Item, &path.child("items"), errors);
    }
    for (name, property) in properties(schema) {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = &schema["additionalProperties"];
    let additional_path = path.child("additionalProperties");
    if !additional.is_null() {
        if level == Level::Root {
            errors.push(FieldError::forbidden(&additional_path, "must not be used at the root"));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &additional_path, errors);
        }
    }
    let (embedded, any) = (x("x-kubernetes-embedded-resource"), x("x-kubernetes-int-or-string"));
    let preserve = x("x-kubernetes-preserve-unknown-fields");
    let not_both = "must be false if x-kubernetes-int-or-string is true";
    if any && preserve {
        errors.push(FieldError::invalid(&path.child("x-kubernetes-preserve-unknown-fields"), true, not_both));
    }
    if any && embedded {
        errors.push(FieldError::invalid(&path.child("x-kubernetes-embedded-resource"), true, not_both));
    }
    let first = nested(schema, "allOf").first().is_some_and(|first| is_int_or_string(&first["anyOf"]));
    values(schema, is_int_or_string(&schema["anyOf"]), first, path, errors);
    let type_path = path.child("type");
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() {
            FieldError::required(&type_path, detail)
        } else {
            FieldError::invalid(&type_path, ty, detail)
        });
    } else if ty.is_empty() && !any && !preserve {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.push(FieldError::required(&type_path, format!("must not be empty {place}")));
    }
    if embedded && !additional.is_null() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(&additional_path, detail));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(&type_path, ty, "must be object at the root"));
    }
    if level == Level::Root || embedded {
        for field in ["kind", "apiVersion"] {
            let found = &schema["properties"][field];
            if !found.is_null() && text(found, "type") != "string" {
                let path = path.child("properties").key(field).child("type");
                errors.push(FieldError::invalid(&path, text(found, "type"), "must be string"));
            }
        }
        let metadata = &schema["properties"]["metadata"];
        let meta_path = path.child("properties").key("metadata");
        if !metadata.is_null() && text(metadata, "type") != "object" {
            errors.push(FieldError::invalid(&meta_path.child("type"), text(metadata, "type"), "must be object"));
        }
        if level == Level::Root && !metadata.is_null() && !names_only(metadata) {
            let detail =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(&meta_path, detail));
        }
    }
    if embedded && !preserve && properties(schema).next().is_none() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), detail));
    }
}

/// Whether a schema of metadata restricts names alone.
fn names_only(metadata: &Value) -> bool {
    let ignored = ["type", "properties", "default"];
    let others = metadata.as_object().into_iter().flatten().filter(|(key, _)| !ignored.contains(&key.as_str()));
    others.count() == 0 && properties(metadata).all(|(name, _)| matches!(name.as_str(), "name" | "generateName"))
}

/// The rules for values, which are in no shape of their own.
fn values(schema: &Value, skip_any: bool, skip_first: bool, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for key in ["anyOf", "allOf", "oneOf"] {
        if key == "anyOf" && skip_any {
            continue;
        }
        for (i, rule) in nested(schema, key).iter().enumerate() {
            let skip = key == "allOf" && skip_first && i == 0;
            value_rule(rule, skip, &path.child(key).index(i), errors);
        }
    }
    if schema["not"].is_object() {
        value_rule(&schema["not"], false, &path.child("not"), errors);
    }
    let pattern = text(schema, "pattern");
    if let Some(problem) = Some(pattern).filter(|p| !p.is_empty()).and_then(check_pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {problem}");
        errors.push(FieldError::invalid(&path.child("pattern"), pattern, detail));
    }
}

fn value_rule(rule: &Value, skip_any: bool, path: &FieldPath, errors: &mut Vec<FieldError>) {
    values(rule, skip_any, false, path, errors);
    if rule["items"].is_object() {
        value_rule(&rule["items"], false, &path.child("items"), errors);
    }
    for (name, property) in properties(rule) {
        value_rule(property, false, &path.child("properties").key(name), errors);
    }
    let mut forbid = |key: &str, how: &str| {
        errors.push(FieldError::forbidden(&path.child(key), format!("must be {how} to be structural")));
    };
    let is_set = |key: &str| match &rule[key] {
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null => false,
        _ => true,
    };
    for (key, how) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        if if how == "false" { is_true(rule, key) } else { is_set(key) } {
            forbid(key, how);
        }
    }
    if rule["properties"]["metadata"].is_object() {
        let path = path.child("properties").key("metadata");
        errors.push(FieldError::forbidden(&path, "must not be specified in a nested context"));
    }
}

/// Every rule for a value is for one that has a shape.
fn completeness(rule: &Value, shape: &Value, at: &FieldPath, rule_at: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut each = |inner: &Value, inner_at: &FieldPath| covered(inner, shape, at, inner_at, errors);
    if rule["not"].is_object() {
        each(&rule["not"], &rule_at.child("not"));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, inner) in nested(rule, key).iter().enumerate() {
            each(inner, &rule_at.child(key).index(i));
        }
    }
}

fn covered(rule: &Value, shape: &Value, at: &FieldPath, rule_at: &FieldPath, errors: &mut Vec<FieldError>) {
    let missing = |at: &FieldPath, rule_at: &FieldPath| {
        FieldError::required(at, format!("because it is defined in {}", rule_at.as_str()))
    };
    completeness(rule, shape, at, rule_at, errors);
    if rule["items"].is_object() {
        let (at, rule_at) = (at.child("items"), rule_at.child("items"));
        match &shape["items"] {
            items @ Value::Object(_) => covered(&rule["items"], items, &at, &rule_at, errors),
            _ => errors.push(missing(&at, &rule_at)),
        }
    }
    for (name, property) in properties(rule) {
        let at = at.child("properties").key(name);
        let rule_at = rule_at.child("properties").key(name);
        match &shape["properties"][name] {
            shape @ Value::Object(_) => covered(property, shape, &at, &rule_at, errors),
            _ => errors.push(missing(&at, &rule_at)),
        }
    }
}
