//! Whether a schema can be a custom resource's: structural, and of nothing that is not supported. With upstream's texts
//! (`k8s.io/apiextensions-apiserver/pkg/apiserver/schema` and `…/apis/apiextensions/validation`).

mod defaults;
mod invariants;
mod merging;
mod rules;
mod supported;
#[cfg(test)]
mod tests;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::{is_true, text};

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

/// What a definition that is changed had already, and may keep.
#[derive(Clone, Copy, Debug, Default)]
pub struct Precedent {
    /// Sets of what can be changed in part.
    sets_of_parts: bool,
    /// Keys of lists that need not be there, and items that may be null.
    loose_keys: bool,
    /// Types that there are not.
    unknown_types: bool,
    /// Defaults that are pruned.
    unpruned_defaults: bool,
    /// The very schema, whose rules may cost what they cost.
    pub same_schema: bool,
}

impl Precedent {
    /// Of the schemas that a definition had.
    pub fn of<'s>(schemas: impl IntoIterator<Item = &'s Value>) -> Self {
        let mut precedent = Self::default();
        for schema in schemas.into_iter().filter(|schema| schema.is_object() && depth(schema) <= MAX_DEPTH) {
            each(schema, &mut |schema| {
                let ty = text(schema, "type");
                precedent.unknown_types |= !ty.is_empty() && !TYPES.contains(&ty);
                precedent.sets_of_parts |= merging::is_set_of_parts(schema);
                let mut errors = Vec::new();
                merging::certain(schema, &FieldPath::root(), &mut errors);
                precedent.loose_keys |= !errors.is_empty();
                precedent.unpruned_defaults |= !defaults::is_pruned(schema);
            });
        }
        precedent
    }

    #[must_use]
    pub fn with_same_schema(self, same_schema: bool) -> Self {
        Self { same_schema, ..self }
    }
}

/// Everything that is wrong with an `openAPIV3Schema`, which takes the place of others.
pub fn check(schema: &Value, path: &FieldPath, precedent: &Precedent) -> Vec<FieldError> {
    if depth(schema) > MAX_DEPTH {
        return vec![FieldError::invalid(path, "", format!("must not be nested deeper than {MAX_DEPTH} levels"))];
    }
    let mut errors = invariants::violations(schema, path);
    let mut sound = errors.is_empty();
    if is_true(schema, "nullable") {
        let nullable = FieldPath::new(&format!("{}.nullable", path.as_str()));
        errors.insert(0, FieldError::forbidden(&nullable, "nullable cannot be true at the root"));
    }
    if sound {
        let found = defaults::check(schema, path, precedent);
        sound = found.is_empty();
        errors.extend(found);
    }
    errors.extend(supported::check(schema, path, precedent, sound));
    errors
}

/// What keeps a schema from being structural, whatever else is wrong with it.
pub fn violations(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    if depth(schema) > MAX_DEPTH { Vec::new() } else { invariants::violations(schema, path) }
}

fn depth(schema: &Value) -> usize {
    match schema {
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Shows a schema and every schema in it.
fn each(schema: &Value, see: &mut dyn FnMut(&Value)) {
    see(schema);
    for key in ["items", "additionalProperties", "not"] {
        if schema[key].is_object() {
            each(&schema[key], see);
        }
    }
    properties(schema).for_each(|(_, property)| each(property, see));
    for key in ["allOf", "anyOf", "oneOf"] {
        nested(schema, key).iter().for_each(|inner| each(inner, see));
    }
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
