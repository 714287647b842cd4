//! A configuration merged into an object by a policy: as in an apply patch, but nobody owns what it sets.

use kybern_apimachinery::Value;

use super::merge::merge;
use super::path::{PathElement, display};
use super::shape::{Shape, Typed, field_element};
use super::validate::validate;
use crate::types::{KindType, Type};

/// The object with the configuration's fields; both are in the version of `kind`. The texts are upstream's.
///
/// A configuration that holds something atomic is refused: it would take away what it does not name.
pub fn merge_configuration(kind: &KindType, object: &Value, configuration: &Value) -> Result<Value, String> {
    let typed = |what: &str, value: &Value| {
        validate(kind, value).map_err(|error| format!("failed to convert {what} object to typed object: {error}"))
    };
    typed("patch", configuration)?;
    let root = Type::Struct(kind.root);
    let mut atomics = Vec::new();
    find_atomics(Typed::root(kind, &root), configuration, &mut Vec::new(), &mut atomics);
    if !atomics.is_empty() {
        let atomics = atomics.join(", ");
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {atomics}"));
    }
    typed("original", object)?;
    Ok(merge(kind, object, configuration))
}

fn find_atomics(typed: Typed<'_>, value: &Value, path: &mut Vec<PathElement>, atomics: &mut Vec<String>) {
    let (shape, atomic) = typed.within(value);
    if atomic {
        atomics.push(display(path));
    }
    match shape {
        // Upstream does not look into maps.
        Shape::Leaf | Shape::Map(_) => {}
        Shape::Struct(ty) => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let Some(typed) = typed.field(ty, name) else { continue };
                path.push(field_element(name));
                find_atomics(typed, value, path, atomics);
                path.pop();
            }
        }
        Shape::List(items) => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                path.push(PathElement::Index(u32::try_from(index).unwrap_or(u32::MAX)));
                find_atomics(items.item(), item, path, atomics);
                path.pop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::json;

    #[test]
    fn what_is_atomic_is_not_touched() {
        let check = |configuration: Value, expect: Result<Value, &str>| {
            let live = json!({"spec": {"size": 1, "steps": ["a"], "parts": [{"name": "x", "size": 2}]}});
            let merged = merge_configuration(&fixture::kind("Widget"), &live, &json!({"spec": configuration}));
            let merged = merged.map(|mut merged| merged["spec"].take());
            assert_eq!(merged, expect.map_err(str::to_owned));
        };
        check(
            json!({"parts": [{"name": "x", "size": 3}, {"name": "y"}]}),
            Ok(json!({"size": 1, "steps": ["a"], "parts": [{"name": "x", "size": 3}, {"name": "y"}]})),
        );
        let refused =
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.sealed, .spec.steps";
        check(json!({"steps": ["b"], "sealed": {"a": "1"}}), Err(refused));
        let unknown = "failed to convert patch object to typed object: .spec.no: field not declared in schema";
        check(json!({"no": 1}), Err(unknown));
    }
}
