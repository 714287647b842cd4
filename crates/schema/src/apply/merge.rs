//! An applied configuration merged into the live object.

use std::collections::BTreeMap;

use kybern_apimachinery::{Map, Value};

use super::path::PathElement;
use super::shape::{Items, Shape, Typed, is_empty};
use crate::types::{KindType, Type};

/// Merges `config` into `live`: leaves are replaced, structs, maps and associative lists merge.
pub(super) fn merge(kind: &KindType, live: &Value, config: &Value) -> Value {
    let root = Type::Struct(kind.root);
    merge_values(Typed::root(kind, &root), Some(live), Some(config)).unwrap_or_else(|| Value::Object(Map::new()))
}

fn merge_values(typed: Typed<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let (Some(old), Some(new)) = (live, config) else { return config.or(live).cloned() };
    if is_empty(live) && is_empty(config) {
        return Some(new.clone());
    }
    match typed.shape(&[old, new]) {
        Shape::Leaf => Some(new.clone()),
        Shape::Struct(ty) => Some(merge_maps(old, new, |name| typed.field(ty, name))),
        Shape::Map(value) => Some(merge_maps(old, new, |_| Some(value))),
        Shape::List(items) => Some(merge_lists(items, old, new)),
    }
}

fn merge_maps<'t>(old: &Value, new: &Value, typed: impl Fn(&str) -> Option<Typed<'t>>) -> Value {
    let mut merged = old.as_object().cloned().unwrap_or_default();
    for (name, value) in new.as_object().into_iter().flatten() {
        let value = match typed(name) {
            Some(typed) => merge_values(typed, merged.get(name), Some(value)),
            None => Some(value.clone()),
        };
        if let Some(value) = value {
            merged.insert(name.clone(), value);
        }
    }
    Value::Object(merged)
}

/// The items of both, those of the configuration in its order, the others where they lie between them in the live list.
fn merge_lists(items: Items<'_>, old: &Value, new: &Value) -> Value {
    let live = items.elements(Some(old));
    let config = items.elements(Some(new));
    let mut in_live: BTreeMap<&PathElement, Vec<&Value>> = BTreeMap::new();
    for (element, item) in &live {
        in_live.entry(element).or_default().push(item);
    }
    let in_config: BTreeMap<&PathElement, &Value> = config.iter().map(|(element, item)| (element, *item)).collect();
    let mut shared = config.iter().map(|(element, _)| element).filter(|e| in_live.contains_key(e)).peekable();
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let mut live_rest = live.iter().peekable();
    for (element, item) in &config {
        // Up to the next item that both have, the live list's own items come first.
        while let Some((candidate, own)) = live_rest.peek() {
            if !in_config.contains_key(candidate) {
                merged.push((*own).clone());
            } else if Some(&candidate) == shared.peek() {
                break;
            }
            live_rest.next();
        }
        if shared.next_if_eq(&element).is_some() && live_rest.peek().is_some_and(|(candidate, _)| candidate == element)
        {
            live_rest.next();
        }
        // Live items that one key cannot tell apart are replaced together.
        let before = match in_live.get(element).map(Vec::as_slice) {
            Some([one]) => Some(*one),
            _ => None,
        };
        merged.extend(merge_values(items.item(), before, Some(item)));
    }
    merged.extend(live_rest.filter(|(element, _)| !in_config.contains_key(element)).map(|(_, own)| (*own).clone()));
    Value::Array(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::json;

    fn check(live: Value, config: Value, expect: Value) {
        let merged = merge(&fixture::kind("Widget"), &json!({"spec": live}), &json!({"spec": config}));
        assert_eq!(merged["spec"], expect, "{live} with {config}");
    }

    #[test]
    fn by_type() {
        check(json!({"size": 1, "steps": ["a"]}), json!({"steps": ["b"]}), json!({"size": 1, "steps": ["b"]}));
        check(json!({"sealed": {"a": "1"}}), json!({"sealed": {"b": "2"}}), json!({"sealed": {"b": "2"}}));
        check(
            json!({"byName": {"a": {"size": 1}}}),
            json!({"byName": {"a": {"name": "n"}, "b": {}}}),
            json!({"byName": {"a": {"size": 1, "name": "n"}, "b": {}}}),
        );
        check(
            json!({"parts": [{"name": "x", "size": 1}]}),
            json!({"parts": [{"name": "x", "tags": ["t"]}]}),
            json!({"parts": [{"name": "x", "size": 1, "tags": ["t"]}]}),
        );
        check(
            json!({"free": {"a": {"b": 1}}}),
            json!({"free": {"a": {"c": 2}, "known": "k"}}),
            json!({"free": {"a": {"b": 1, "c": 2}, "known": "k"}}),
        );
        check(json!({"raw": {"a": 1}}), json!({"raw": {"b": 2}}), json!({"raw": {"b": 2}}));
    }

    #[test]
    fn order_of_lists() {
        let check = |live: &[&str], config: &[&str], expect: &[&str]| {
            check(json!({"tags": live}), json!({"tags": config}), json!({"tags": expect}))
        };
        check(&["a", "b"], &["b", "c"], &["a", "b", "c"]);
        check(&["a", "b"], &["b", "a"], &["b", "a"]);
        check(&["a", "b", "c"], &["c", "a"], &["b", "c", "a"]);
        check(&["a", "b", "c"], &["d"], &["a", "b", "c", "d"]);
        check(&[], &["b", "a"], &["b", "a"]);
        check(&["x", "a", "y"], &["n", "a", "m"], &["x", "n", "a", "y", "m"]);
        check(&["a"], &[], &["a"]);
    }
}
