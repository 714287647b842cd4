//! Whether a schema can be a custom resource's: structural, and of nothing that is not supported. With upstream's texts
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema` and `…/apis/apiextensions/validation`).

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Gvk, Value, json};

use super::validation::{Validator, check_pattern};
use super::{is_true, kind_type};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// Schemas may be nested so deep.
const MAX_DEPTH: usize = 100;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that is wrong with an `openAPIV3Schema`.
pub fn check(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    if depth(schema) > MAX_DEPTH {
        return vec![FieldError::invalid(path, "", format!("must not be nested deeper than {MAX_DEPTH} levels"))];
    }
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    completeness(schema, schema, path, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    let structural = errors.is_empty();
    if is_true(schema, "nullable") {
        let nullable = FieldPath::new(&format!("{}.nullable", path.as_str()));
        errors.insert(0, FieldError::forbidden(&nullable, "nullable cannot be true at the root"));
    }
    if structural {
        defaults(schema, path, &mut errors);
    }
    supported(schema, path, Defaults::Allowed, true, &mut errors);
    errors
}

fn depth(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or("")
}

fn words<'a>(schema: &'a Value, key: &str) -> Vec<&'a str> {
    schema[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn nested<'a>(schema: &'a Value, key: &str) -> &'a [Value] {
    schema[key].as_array().map_or(&[], Vec::as_slice)
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

/// A default must be what the schema lets pass.
fn defaults(schema: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let default = &schema["default"];
    if !default.is_null() {
        let at = path.child("default");
        let wrapped = json!({"type": "object", "properties": {"value": schema}});
        let kind = kind_type(Gvk::new("validation", "v1", "Validation"), &wrapped, false);
        let mut pruned = json!({"value": default});
        crate::prune(&kind, &mut pruned);
        if pruned["value"] != *default {
            errors.push(FieldError::invalid(&at, default.clone(), "must not have unknown fields"));
        }
        if let Ok(validator) = Validator::new(schema) {
            for mut error in validator.against_schema(default, None) {
                error.path = match error.path.as_str() {
                    "" => at.clone(),
                    below => at.child(below),
                };
                errors.push(error);
            }
        }
    }
    if schema["items"].is_object() {
        defaults(&schema["items"], &path.child("items"), errors);
    }
    for (name, property) in properties(schema) {
        defaults(property, &path.child("properties").key(name), errors);
    }
}

/// Where defaults may be; the text says why not.
#[derive(Clone, Copy)]
enum Defaults {
    Allowed,
    Forbidden(&'static str),
}

fn supported(schema: &Value, path: &FieldPath, allowed: Defaults, root: bool, errors: &mut Vec<FieldError>) {
    let ty = text(schema, "type");
    let mut forbid = |key: &str, detail: &str| errors.push(FieldError::forbidden(&path.child(key), detail));
    if let (Defaults::Forbidden(reason), false) = (allowed, schema["default"].is_null()) {
        forbid("default", format!("must not be set {reason}").trim_end());
    }
    for key in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !schema[key].is_null() {
            forbid(key, &format!("{key} is not supported"));
        }
    }
    if ty == "null" {
        forbid("type", "type cannot be set to null, use nullable as an alternative");
    }
    if schema["items"].is_array() {
        forbid("items", "items must be a schema object and not an array");
    }
    if is_true(schema, "uniqueItems") {
        forbid("uniqueItems", "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    }
    let additional = &schema["additionalProperties"];
    if !additional.is_null() && *additional != true && properties(schema).next().is_some() {
        forbid("additionalProperties", "additionalProperties and properties are mutual exclusive");
    }
    if !ty.is_empty() && ty != "null" && !TYPES.contains(&ty) {
        errors.push(FieldError::not_supported(&path.child("type"), ty, &TYPES));
    }
    if additional.is_object() {
        supported(additional, &path.child("additionalProperties"), allowed, false, errors);
    }
    let embedded = is_true(schema, "x-kubernetes-embedded-resource");
    for (name, property) in properties(schema) {
        let inner = match (root && META.contains(&name.as_str()), name.as_str()) {
            (true, "metadata") => Defaults::Forbidden("in top-level metadata"),
            (true, "kind") => Defaults::Forbidden("in top-level kind"),
            (true, _) => Defaults::Forbidden("in top-level apiVersion"),
            _ => allowed,
        };
        if (root || embedded) && META.contains(&name.as_str()) && is_true(property, "x-kubernetes-embedded-resource") {
            let path = path.child("properties").key(name).child("x-kubernetes-embedded-resource");
            errors.push(FieldError::forbidden(&path, "must not be used inside of resource meta"));
        }
        supported(property, &path.child("properties").key(name), inner, false, errors);
    }
    if schema["not"].is_object() {
        supported(&schema["not"], &path.child("not"), allowed, false, errors);
    }
    for key in ["allOf", "oneOf", "anyOf"] {
        for (i, inner) in nested(schema, key).iter().enumerate() {
            supported(inner, &path.child(key).index(i), allowed, false, errors);
        }
    }
    if schema["items"].is_object() {
        supported(&schema["items"], &path.child("items"), allowed, false, errors);
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        let path = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&path, false, "must be true or undefined"));
    }
    merging(schema, ty, path, errors);
}

/// The extensions that say how lists and maps are merged.
fn merging(schema: &Value, ty: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
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
    if ty == "array" && list_type == Some("set") && items.is_object() {
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
    if matches!(list_type, Some("set" | "map")) && is_true(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {}", list_type.unwrap_or(""));
        errors.push(FieldError::forbidden(&items_path.child("nullable"), detail));
    }
}

/// The keys of a list are fields of its items that are always there.
fn keyed(items: &Value, keys: &[&str], items_path: &FieldPath, keys_path: &FieldPath, errors: &mut Vec<FieldError>) {
    let required = words(items, "required");
    for (i, key) in keys.iter().enumerate() {
        let property = &items["properties"][*key];
        let path = items_path.child("properties").key(key);
        if property.is_null() {
            let detail = "entries must all be names of item properties";
            errors.push(FieldError::invalid(keys_path, keys.to_vec(), detail));
        } else if matches!(text(property, "type"), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&path.child("type"), text(items, "type"), detail));
        }
        if keys[..i].contains(key) {
            errors.push(FieldError::invalid(keys_path, keys.to_vec(), "must not contain duplicate entries"));
        }
        if property.is_null() {
            continue;
        }
        let of = "this property is in x-kubernetes-list-map-keys, so it";
        if !required.contains(key) && property["default"].is_null() {
            let detail = format!("{of} must have a default or be a required property");
            errors.push(FieldError::required(&path.child("default"), detail));
        }
        if is_true(property, "nullable") {
            errors.push(FieldError::forbidden(&path.child("nullable"), format!("{of} cannot be nullable")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(schema: &Value) -> Vec<String> {
        check(schema, &FieldPath::new("s")).iter().map(ToString::to_string).collect()
    }

    fn of(spec: Value) -> Vec<String> {
        texts(&json!({"type": "object", "properties": {"spec": spec}}))
    }

    #[test]
    fn good_schemas_pass() {
        for spec in [
            json!({"type": "string", "pattern": "^a+$", "default": "a"}),
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"minimum": 1}]}),
            json!({"x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"properties": {"a": {"minLength": 1}}}]}),
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}}),
            json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
        ] {
            assert_eq!(of(spec.clone()), Vec::<String>::new(), "{spec}");
        }
        let metadata = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}}});
        assert_eq!(texts(&metadata), Vec::<String>::new());
    }

    #[test]
    fn bad_schemas_are_told() {
        let p = "s.properties[spec]";
        for (spec, expect) in [
            (json!({}), format!("{p}.type: Required value: must not be empty for specified object fields")),
            (json!({"type": "array"}), format!("{p}.items: Required value: must be specified")),
            (
                json!({"type": "thing"}),
                format!(
                    "{p}.type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
                ),
            ),
            (
                json!({"type": "string", "pattern": "("}),
                format!("{p}.pattern: Invalid value: \"(\": must be a valid regular expression"),
            ),
            (json!({"type": "string", "pattern": "(a{1000}){1000}"}), format!("{p}.pattern: Invalid value")),
            (
                json!({"type": "string", "anyOf": [{"type": "string"}]}),
                format!("{p}.anyOf[0].type: Forbidden: must be empty to be structural"),
            ),
            (json!({"type": "string", "default": 1}), format!("{p}.default: Invalid value: \"integer\": ")),
            (
                json!({"type": "object", "default": {"a": 1}}),
                format!("{p}.default: Invalid value: {{\"a\":1}}: must not have unknown fields"),
            ),
            (json!({"type": "string", "$ref": "#/x"}), format!("{p}.$ref: Forbidden: $ref is not supported")),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false}),
                format!(
                    "{p}.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"
                ),
            ),
            (
                json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
                format!("{p}.uniqueItems: Forbidden"),
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
                format!(
                    "{p}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
                ),
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"], "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
                format!(
                    "{p}.items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
                ),
            ),
            (
                json!({"type": "object", "x-kubernetes-embedded-resource": true}),
                format!("{p}.properties: Required value: must not be empty if"),
            ),
        ] {
            let found = of(spec.clone());
            assert!(found.iter().any(|text| text.starts_with(&expect)), "{spec}\n{found:?}\nlacks {expect}");
        }
        for (schema, expect) in [
            (
                json!({"type": "object", "allOf": [{"properties": {"a": {"minimum": 1}}}]}),
                "s.properties[a]: Required value: because it is defined in s.allOf[0].properties[a]",
            ),
            (json!({"type": "string"}), "s.type: Invalid value: \"string\": must be object at the root"),
            (json!({"type": "object", "nullable": true}), "s.nullable: Forbidden: nullable cannot be true at the root"),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                "s.additionalProperties: Forbidden: must not be used at the root",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName",
            ),
        ] {
            let found = texts(&schema);
            assert!(found.iter().any(|text| text.starts_with(expect)), "{schema}\n{found:?}\nlacks {expect}");
        }
        let mut deep = json!({"type": "string"});
        for _ in 0..80 {
            deep = json!({"type": "object", "properties": {"a": deep}});
        }
        assert!(texts(&deep)[0].contains("must not be nested deeper"));
    }
}
