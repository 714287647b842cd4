//! A default must be what the schema lets pass: of its form, without unknown fields, and by its rules.

use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Gvk, Value, json};
use kybern_cel::RUNTIME_COST_BUDGET;

use super::super::validation::Validator;
use super::super::{is_true, kind_type};
use super::{META, Precedent, properties};

/// Everything that is wrong with the defaults of a schema.
pub(super) fn check(schema: &Value, path: &FieldPath, precedent: &Precedent) -> Vec<FieldError> {
    let mut run = Run { precedent, errors: Vec::new(), budget: Some(RUNTIME_COST_BUDGET) };
    run.check(schema, path, true, false);
    run.errors
}

/// Whether the default of a schema has known fields only.
pub(super) fn is_pruned(schema: &Value) -> bool {
    let default = &schema["default"];
    if !default.is_object() && !default.is_array() {
        return true;
    }
    let wrapped = json!({"type": "object", "properties": {"value": schema}});
    let kind = kind_type(Gvk::new("validation", "v1", "Validation"), &wrapped, false);
    let mut pruned = json!({"value": default});
    crate::prune(&kind, &mut pruned);
    pruned["value"] == *default
}

struct Run<'p> {
    precedent: &'p Precedent,
    errors: Vec<FieldError>,
    /// What rules may cost yet; `None` when it is used up.
    budget: Option<u64>,
}

impl Run<'_> {
    /// `in_meta`: whether it is of an embedded object's type or metadata.
    fn check(&mut self, schema: &Value, path: &FieldPath, is_root: bool, in_meta: bool) {
        let embedded = is_root || is_true(schema, "x-kubernetes-embedded-resource");
        let in_meta = in_meta && !embedded;
        if !schema["default"].is_null() {
            self.default_of(schema, &path.child("default"), embedded, in_meta);
        }
        if self.budget.is_some() && schema["items"].is_object() {
            self.check(&schema["items"], &path.child("items"), false, in_meta);
        }
        for (name, property) in properties(schema) {
            if self.budget.is_none() {
                return;
            }
            let in_meta = in_meta || (embedded && META.contains(&name.as_str()));
            self.check(property, &path.child("properties").key(name), false, in_meta);
        }
    }

    fn default_of(&mut self, schema: &Value, path: &FieldPath, is_resource: bool, in_meta: bool) {
        let default = &schema["default"];
        if !in_meta && !self.precedent.unpruned_defaults && !is_pruned(schema) {
            self.errors.push(FieldError::invalid(path, default.clone(), "must not have unknown fields"));
        }
        let Ok(validator) = Validator::of_part(schema, is_resource) else { return };
        let mut found = validator.structure_under(path, default);
        if found.is_empty() {
            found = validator.against_schema_under(path, default);
        }
        if !found.is_empty() {
            self.errors.extend(found);
            return;
        }
        if !validator.has_rules() {
            return;
        }
        let mut left = self.budget;
        // As what stays, and as what is new: some rules tell these apart.
        for old in [Some(default), None] {
            let mut budget = self.budget;
            let found = validator.rules_under(path, default, old, &mut budget, &mut Vec::new());
            left = left.min(budget);
            let sound = found.is_empty();
            self.errors.extend(found);
            if !sound {
                break;
            }
        }
        self.budget = left;
    }
}
