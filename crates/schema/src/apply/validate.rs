//! Whether a configuration fits its kind well enough to be applied; with upstream's texts.

use std::collections::BTreeSet;

use kybern_apimachinery::{Value, go};

use super::path::{PathElement, display};
use super::shape::{Shape, Typed, field_element};
use crate::types::{KindType, Type};

/// What is wrong with a configuration: `.spec.foo: field not declared in schema`; several errors are a list.
pub(super) fn validate(kind: &KindType, config: &Value) -> Result<(), String> {
    let root = Type::Struct(kind.root);
    let mut errors = Vec::new();
    check(Typed::root(kind, &root), config, &mut Vec::new(), &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!("errors:\n  {}", many.join("\n  "))),
    }
}

fn check(typed: Typed<'_>, value: &Value, path: &mut Vec<PathElement>, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match typed.shape(&[value]) {
        Shape::Leaf => {
            if let Some(expected) = typed.ty().and_then(|ty| mismatch(ty, value)) {
                errors.push(at(path, expected));
            }
        }
        Shape::Struct(ty) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                path.push(field_element(name));
                match typed.field(ty, name) {
                    Some(typed) => check(typed, value, path, errors),
                    None => errors.push(at(path, "field not declared in schema")),
                }
                path.pop();
            }
        }
        Shape::Map(typed) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                path.push(field_element(name));
                check(typed, value, path, errors);
                path.pop();
            }
        }
        Shape::List(items) => {
            let mut seen = BTreeSet::new();
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                match items.element(item) {
                    Err(text) => errors.push(at(path, format!("element {index}: {text}"))),
                    Ok(element) => {
                        if !seen.insert(element.clone()) {
                            errors.push(at(path, format!("duplicate entries for key {element}")));
                        }
                        path.push(element);
                        check(items.item(), item, path, errors);
                        path.pop();
                    }
                }
            }
        }
    }
}

fn at(path: &[PathElement], text: impl std::fmt::Display) -> String {
    if path.is_empty() { text.to_string() } else { format!("{}: {text}", display(path)) }
}

/// What the type wants, where the value is something else.
fn mismatch(ty: &Type, value: &Value) -> Option<String> {
    let plain = || format!("&{{{}}}", go::value(value));
    match ty {
        Type::Bool if !value.is_boolean() => Some(format!("expected boolean, got {}", plain())),
        Type::Int32 | Type::Int64 | Type::Double if !value.is_number() => {
            Some(format!("expected numeric (int or float), got {}", go::type_of(value)))
        }
        Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration if !value.is_string() => {
            Some(format!("expected string, got &value.valueUnstructured{{Value:{}}}", go::literal(value)))
        }
        Type::Struct(_) | Type::Map(_) if !value.is_object() => Some(format!("expected map, got {}", plain())),
        Type::List(_) if !value.is_array() => Some(format!("expected list, got {}", plain())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::json;

    #[test]
    fn texts_are_upstreams() {
        let check = |kind: &str, config: Value, expect: &str| {
            assert_eq!(validate(&fixture::kind(kind), &config).unwrap_err(), expect, "{config}");
        };
        check("Pod", json!({"spec": {"foo": 1}}), ".spec.foo: field not declared in schema");
        check(
            "Pod",
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X"}, {"name": "X"}]}]}}),
            ".spec.containers[name=\"a\"].env: duplicate entries for key [name=\"X\"]",
        );
        check(
            "Pod",
            json!({"spec": {"containers": [{"image": "a"}]}}),
            ".spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)",
        );
        check(
            "Deployment",
            json!({"spec": {"replicas": "3", "paused": 1}}),
            "errors:\n  .spec.paused: expected boolean, got &{1}\n  .spec.replicas: expected numeric (int or float), got string",
        );
        check("ConfigMap", json!({"data": [1]}), ".data: expected map, got &{[1]}");
        check(
            "ConfigMap",
            json!({"data": {"a": true}}),
            ".data.a: expected string, got &value.valueUnstructured{Value:true}",
        );
        assert_eq!(
            validate(&fixture::kind("Widget"), &json!({"spec": {"free": {"anything": [1]}, "size": null}})),
            Ok(())
        );
    }
}
