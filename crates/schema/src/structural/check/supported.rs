//! Whether a schema uses only what is supported, and whether its rules compile and cost no more than they may.

use std::sync::Arc;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_cel::DeclType;

use super::super::rules::{element_type, property_type};
use super::super::{is_true, text};
use super::merging::merging;
use super::rules::Costs;
use super::{META, Precedent, TYPES, nested, properties, rules};

/// Everything that is wrong with a schema, beside what keeps it from being structural. Rules are looked at where it is.
pub(super) fn check(schema: &Value, path: &FieldPath, precedent: &Precedent, sound: bool) -> Vec<FieldError> {
    let mut run = Run { precedent, errors: Vec::new(), of_rules: Vec::new(), costs: Costs::default() };
    let scope = sound.then_some(Scope { cardinality: Some(1), declared: None });
    let at = At { defaults: Defaults::Allowed, in_meta: false, root: true, apart: None };
    run.check(schema, path, &at, scope.as_ref());
    let mut errors = run.errors;
    errors.extend(run.of_rules);
    errors.extend(run.costs.over(path));
    errors
}

/// Where defaults may be; the text says why not.
#[derive(Clone, Copy)]
enum Defaults {
    Allowed,
    Forbidden(&'static str),
}

/// Where a schema is.
#[derive(Clone)]
struct At {
    defaults: Defaults,
    /// In the type or the metadata of an object.
    in_meta: bool,
    root: bool,
    /// The list around it whose items cannot be told from one another.
    apart: Option<FieldPath>,
}

/// What rules need to know of a place.
pub(super) struct Scope {
    /// How many values there can be; `None`: nobody says.
    pub(super) cardinality: Option<u64>,
    /// What values are to rules, where there are rules around it.
    declared: Option<Arc<DeclType>>,
}

impl Scope {
    /// Of something within. `declared` finds its type in that of what is around it.
    fn within(&self, schema: &Value, declared: impl FnOnce(&Arc<DeclType>) -> Option<Arc<DeclType>>) -> Self {
        let factor = match (text(schema, "type"), schema["additionalProperties"].is_null()) {
            ("object", false) => bound(schema, "maxProperties"),
            ("array", _) => bound(schema, "maxItems"),
            _ => Some(1),
        };
        let product = |times: u64| factor.map(|factor| times.saturating_mul(factor));
        Self { cardinality: self.cardinality.and_then(product), declared: self.declared.as_ref().and_then(declared) }
    }
}

fn bound(schema: &Value, key: &str) -> Option<u64> {
    schema[key].as_i64().map(|n| u64::try_from(n).unwrap_or(0))
}

struct Run<'p> {
    precedent: &'p Precedent,
    errors: Vec<FieldError>,
    of_rules: Vec<FieldError>,
    costs: Costs,
}

impl Run<'_> {
    fn check(&mut self, schema: &Value, path: &FieldPath, at: &At, scope: Option<&Scope>) {
        let before = self.errors.len();
        let has_rules = !nested(schema, "x-kubernetes-validations").is_empty();
        let resource = at.root || is_true(schema, "x-kubernetes-embedded-resource");
        let made;
        let scope = match scope {
            Some(Scope { cardinality, declared: None }) if has_rules => {
                let declared = DeclType::from_schema(schema, resource).map(Arc::new);
                made = Scope { cardinality: *cardinality, declared };
                Some(&made)
            }
            scope => scope,
        };
        self.keywords(schema, path, at);
        self.within(schema, path, at, scope);
        if schema["x-kubernetes-preserve-unknown-fields"] == false {
            let path = path.child("x-kubernetes-preserve-unknown-fields");
            self.errors.push(FieldError::invalid(&path, false, "must be true or undefined"));
        }
        merging(schema, path, self.precedent, &mut self.errors);
        if !has_rules {
            return;
        }
        rules::forms(schema, path, &mut self.errors);
        // What is wrong with a schema may be what is wrong with its rules.
        let (Some(scope), true) = (scope, self.errors.len() == before) else { return };
        let Some(declared) = &scope.declared else {
            let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
            self.of_rules.push(FieldError::internal(&path.child("x-kubernetes-validations"), detail));
            return;
        };
        let place = rules::Place {
            path,
            declared,
            cardinality: scope.cardinality,
            apart: at.apart.as_ref(),
            may_cost: self.precedent.same_schema,
        };
        rules::check(schema, &place, &mut self.costs, &mut self.of_rules);
    }

    fn keywords(&mut self, schema: &Value, path: &FieldPath, at: &At) {
        let ty = text(schema, "type");
        if !self.precedent.unknown_types && !ty.is_empty() && !TYPES.contains(&ty) {
            self.errors.push(FieldError::not_supported(&path.child("type"), ty, &TYPES));
        }
        let mut forbid = |key: &str, detail: &str| self.errors.push(FieldError::forbidden(&path.child(key), detail));
        if let (Defaults::Forbidden(reason), false) = (at.defaults, schema["default"].is_null()) {
            forbid("default", &format!("must not be set {reason}"));
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
        if at.in_meta && is_true(schema, "x-kubernetes-embedded-resource") {
            forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta");
        }
        if is_true(schema, "uniqueItems") {
            forbid("uniqueItems", "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
        }
        let additional = &schema["additionalProperties"];
        if !additional.is_null() && *additional != true && properties(schema).next().is_some() {
            forbid("additionalProperties", "additionalProperties and properties are mutual exclusive");
        }
    }

    fn within(&mut self, schema: &Value, path: &FieldPath, at: &At, scope: Option<&Scope>) {
        let child = At { root: false, ..at.clone() };
        let additional = &schema["additionalProperties"];
        if additional.is_object() {
            let mut at = child.clone();
            if at.in_meta {
                at.defaults = Defaults::Forbidden("inside additionalProperties applying to object metadata");
            }
            let scope = scope.map(|scope| scope.within(schema, |declared| element_type(declared).cloned()));
            self.check(additional, &path.child("additionalProperties"), &at, scope.as_ref());
        }
        let (is_root, embedded) = (at.root, is_true(schema, "x-kubernetes-embedded-resource"));
        for (name, property) in properties(schema) {
            let mut at = child.clone();
            if (is_root || embedded) && META.contains(&name.as_str()) {
                at.in_meta = true;
                if is_root {
                    at.defaults = Defaults::Forbidden(match name.as_str() {
                        "metadata" => "in top-level metadata",
                        "kind" => "in top-level kind",
                        _ => "in top-level apiVersion",
                    });
                }
            }
            let scope = scope.map(|scope| scope.within(schema, |declared| property_type(declared, name, property)));
            self.check(property, &path.child("properties").key(name), &at, scope.as_ref());
        }
        if schema["not"].is_object() {
            self.check(&schema["not"], &path.child("not"), &child, None);
        }
        for key in ["allOf", "oneOf", "anyOf"] {
            for (i, inner) in nested(schema, key).iter().enumerate() {
                self.check(inner, &path.child(key).index(i), &child, None);
            }
        }
        if schema["items"].is_object() {
            let mut at = child;
            if text(schema, "x-kubernetes-list-type") != "map" {
                at.apart = at.apart.or_else(|| Some(path.clone()));
            }
            let scope = scope.map(|scope| scope.within(schema, |declared| element_type(declared).cloned()));
            self.check(&schema["items"], &path.child("items"), &at, scope.as_ref());
        }
    }
}
