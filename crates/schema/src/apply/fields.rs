//! The fields that a configuration sets, and objects without some of their fields.

use std::collections::BTreeMap;

use kybern_apimachinery::{Map, Value};

use super::path::PathElement;
use super::set::FieldSet;
use super::shape::{Shape, Typed, field_element};
use crate::types::{KindType, StructType, Type};

/// Every field that an object sets: its leaves, and the items of its maps and lists. Structs are not members themselves,
/// so that applying one field of a struct owns no other.
pub(super) fn field_set(kind: &KindType, object: &Value) -> FieldSet {
    let root = Type::Struct(kind.root);
    let mut set = FieldSet::default();
    collect(Typed::root(kind, &root), object, &mut Vec::new(), &mut set);
    set
}

fn collect(typed: Typed<'_>, value: &Value, path: &mut Vec<PathElement>, set: &mut FieldSet) {
    match typed.shape(&[value]) {
        Shape::Leaf => set.insert(path),
        Shape::Struct(ty) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let Some(typed) = typed.field(ty, name) else { continue };
                path.push(field_element(name));
                collect(typed, value, path, set);
                if ty.field(name).is_none() || value.is_null() || is_empty_map(value) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Shape::Map(typed) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                path.push(field_element(name));
                collect(typed, value, path, set);
                set.insert(path);
                path.pop();
            }
        }
        Shape::List(items) => {
            let mut seen: BTreeMap<PathElement, usize> = BTreeMap::new();
            let elements = items.elements(Some(value));
            for (element, _) in &elements {
                *seen.entry(element.clone()).or_default() += 1;
            }
            for (element, item) in elements {
                let alone = seen[&element] == 1;
                path.push(element);
                if alone {
                    collect(items.item(), item, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
    }
}

fn is_empty_map(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

/// The set with every struct field that has members below it as a member, too. Removing a field then removes what holds it.
pub(super) fn with_named_fields(kind: &KindType, set: &FieldSet) -> FieldSet {
    let root = Type::Struct(kind.root);
    name_fields(kind, Some(&root), set)
}

fn name_fields(kind: &KindType, ty: Option<&Type>, set: &FieldSet) -> FieldSet {
    let declared: Option<&StructType> = match ty {
        Some(Type::Struct(id)) => Some(kind.schema.get(*id)),
        Some(Type::Either(either)) => return name_fields(kind, Some(&either.object), set),
        _ => None,
    };
    FieldSet::from_elements(set.elements().map(|(element, member, below)| {
        let (ty, named) = match (ty, declared, element) {
            (_, Some(declared), PathElement::Field(name)) => {
                let field = declared.field(name);
                (field.map(|f| &f.ty), field.is_some() && !below.is_empty())
            }
            (Some(Type::Map(map)), _, _) => (Some(&map.value), false),
            (Some(Type::List(list)), _, _) => (Some(&list.item), false),
            _ => (None, false),
        };
        (element.clone(), member || named, name_fields(kind, ty, below))
    }))
}

/// The object without the fields and items in `gone`. What is left empty by that goes, too; atomic values that have
/// members below them, which a change of the schema can cause, are kept.
pub(super) fn without(kind: &KindType, object: &Value, gone: &FieldSet) -> Value {
    let root = Type::Struct(kind.root);
    prune(Typed::root(kind, &root), object, gone).unwrap_or_else(|| Value::Object(Map::new()))
}

fn prune(typed: Typed<'_>, value: &Value, gone: &FieldSet) -> Option<Value> {
    let shape = typed.shape(&[value]);
    let keep = |element: &PathElement, typed: Option<Typed<'_>>, value: &Value| match (gone.below(element), typed) {
        _ if gone.has(element) => None,
        (Some(below), Some(typed)) => Some(prune(typed, value, below).unwrap_or(Value::Null)),
        _ => Some(value.clone()),
    };
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_), Value::Object(map)) => {
            let child = |name: &str| match shape {
                Shape::Struct(ty) => typed.field(ty, name),
                Shape::Map(value) => Some(value),
                _ => None,
            };
            let kept: Map<String, Value> = map
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), keep(&field_element(name), child(name), value)?)))
                // A null that pruning left stands for nothing.
                .filter(|(name, value)| !value.is_null() || map[name].is_null())
                .collect();
            (!kept.is_empty() || map.is_empty()).then_some(Value::Object(kept))
        }
        (Shape::List(items), Value::Array(list)) => {
            let kept: Vec<Value> = list
                .iter()
                .filter_map(|item| match items.element(item) {
                    Ok(element) => keep(&element, Some(items.item()), item),
                    Err(_) => Some(item.clone()),
                })
                .filter(|item| !item.is_null())
                .collect();
            (!kept.is_empty() || list.is_empty()).then_some(Value::Array(kept))
        }
        _ => Some(value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::json;

    #[test]
    fn sets_of_configurations() {
        let pod = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [{"name": "c", "ports": [{"containerPort": 80}], "args": ["a"], "resources": {}}],
                "nodeSelector": {"a": "b"},
                "volumes": [],
            },
        });
        assert_eq!(
            field_set(&fixture::kind("Pod"), &pod).to_fields_v1(),
            json!({
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:args": {}, "f:resources": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    }},
                    "f:nodeSelector": {},
                },
            })
        );
    }

    #[test]
    fn removing() {
        let kind = fixture::kind("Widget");
        let object = json!({"spec": {"size": 1, "tags": ["a", "b"], "parts": [{"name": "x", "size": 1}], "byName": {"k": {"size": 2}}}});
        let check = |gone: Value, expect: Value| {
            let gone = FieldSet::from_fields_v1(&gone).unwrap();
            assert_eq!(without(&kind, &object, &gone)["spec"], expect, "{gone:?}");
        };
        check(
            json!({"f:spec": {"f:tags": {"v:\"a\"": {}}}}),
            json!({"size": 1, "tags": ["b"], "parts": [{"name": "x", "size": 1}], "byName": {"k": {"size": 2}}}),
        );
        check(
            json!({"f:spec": {"f:size": {}, "f:tags": {}, "f:parts": {"k:{\"name\":\"x\"}": {"f:size": {}}}, "f:byName": {"f:k": {}}}}),
            json!({"parts": [{"name": "x"}]}),
        );
        check(json!({"f:spec": {}}), Value::Null);
    }
}
