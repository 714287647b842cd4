//! Rules where they belong in a compiled schema.

use std::sync::Arc;

use kybern_apimachinery::Value;
use kybern_cel::{DeclKind, DeclType, escape};

use super::super::compile::Node;
use super::super::is_true;
use super::compile;

/// Compiles the rules of a schema and of all within it. Answers whether there are any. `declared` is what values of it are to
/// rules, where those above have said so.
pub(in super::super) fn attach(
    node: &mut Node,
    schema: &Value,
    declared: Option<&Arc<DeclType>>,
    is_resource: bool,
) -> bool {
    if !has_rules(schema) {
        return false;
    }
    let made;
    let declared = match declared {
        Some(declared) => declared,
        None => match DeclType::from_schema(schema, is_resource) {
            Some(found) => {
                made = Arc::new(found);
                &made
            }
            None => return false,
        },
    };
    spread(node, schema, declared);
    node.ruled
}

fn spread(node: &mut Node, schema: &Value, declared: &Arc<DeclType>) {
    node.rules = compile(schema, declared);
    node.ruled = !node.rules.is_empty();
    for (name, property) in &mut node.properties {
        let schema = &schema["properties"][name];
        let Some(declared) = property_type(declared, name, schema) else { continue };
        spread(property, schema, &declared);
        node.ruled |= property.ruled;
    }
    let within = [(&mut node.items, "items"), (&mut node.additional, "additionalProperties")];
    for (child, key) in within.into_iter().filter_map(|(child, key)| Some((child.as_mut()?, key))) {
        let Some(declared) = element_type(declared) else { continue };
        spread(child, &schema[key], declared);
        node.ruled |= child.ruled;
    }
    // Only those who evaluate need it.
    node.declared = node.ruled.then(|| declared.clone());
}

/// What the values of a property are to rules.
pub(in super::super) fn property_type(declared: &DeclType, name: &str, schema: &Value) -> Option<Arc<DeclType>> {
    match (escape(name), &declared.kind) {
        (Some(key), DeclKind::Object { fields, .. }) => fields.get(&*key).map(|field| field.of.clone()),
        (Some(_), _) => None,
        // Rules cannot name it, but it can have rules.
        (None, _) => DeclType::from_schema(schema, is_true(schema, "x-kubernetes-embedded-resource")).map(Arc::new),
    }
}

/// What the items of a list, or the values of a map, are to rules.
pub(in super::super) fn element_type(declared: &DeclType) -> Option<&Arc<DeclType>> {
    match &declared.kind {
        DeclKind::List { element, .. } => Some(element),
        DeclKind::Map { value } => Some(value),
        _ => None,
    }
}

/// Whether there is a rule in a schema.
fn has_rules(schema: &Value) -> bool {
    let own = schema["x-kubernetes-validations"].as_array().is_some_and(|rules| !rules.is_empty());
    own || ["items", "additionalProperties"].iter().any(|key| schema[*key].is_object() && has_rules(&schema[*key]))
        || schema["properties"].as_object().is_some_and(|all| all.values().any(has_rules))
}
