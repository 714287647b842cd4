//! What a part of an object was before: fields by their names, items of lists that are maps by their keys, and nothing else.

use std::collections::HashMap;
use std::fmt::Write as _;

use kybern_apimachinery::Value;

use super::super::compile::{Node, Uniqueness};

/// The items of a list that is a map, by their keys.
#[derive(Default)]
pub(in super::super) struct Former<'v> {
    keys: &'v [String],
    items: HashMap<String, &'v Value>,
}

impl<'v> Former<'v> {
    /// Of what a list was. A list that is no map has none that could be found.
    pub(in super::super) fn of(node: &'v Node, old: Option<&'v Value>) -> Self {
        let (Uniqueness::Keys(keys), Some(Value::Array(items))) = (&node.unique, old) else { return Self::default() };
        let mut former = Self { keys, items: HashMap::with_capacity(items.len()) };
        for item in items {
            if let Some(key) = identity(item, keys) {
                former.items.entry(key).or_insert(item);
            }
        }
        former
    }

    /// What an item was.
    pub(in super::super) fn get(&self, item: &Value) -> Option<&'v Value> {
        if self.items.is_empty() {
            return None;
        }
        self.items.get(&identity(item, self.keys)?).copied()
    }
}

/// The keys of an item, all of them scalars.
fn identity(item: &Value, keys: &[String]) -> Option<String> {
    let mut text = String::new();
    for key in keys {
        let value = item.get(key).filter(|value| !value.is_object() && !value.is_array() && !value.is_null())?;
        let _ = write!(text, "{value}\0");
    }
    Some(text)
}

/// Whether a value is what it was: lists that are maps in any order, and nothing that the schema does not know.
pub(in super::super) fn unchanged(node: &Node, new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Array(items), Value::Array(before)) => {
            if !matches!(node.unique, Uniqueness::Keys(_)) {
                return items == before;
            }
            let (Some(item), true) = (&node.items, items.len() == before.len()) else { return false };
            let former = Former::of(node, Some(old));
            items.iter().all(|new| former.get(new).is_some_and(|old| unchanged(item, new, old)))
        }
        (Value::Object(fields), Value::Object(before)) => {
            fields.len() == before.len()
                && fields.iter().all(|(key, new)| match (node.child(key), before.get(key)) {
                    (Some(child), Some(old)) => unchanged(child, new, old),
                    _ => false,
                })
        }
        _ => new == old,
    }
}
