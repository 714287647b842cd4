//! What differs between two objects, as sets of fields.

use std::collections::BTreeMap;

use kybern_apimachinery::{Map, Value};

use super::path::PathElement;
use super::set::FieldSet;
use super::shape::{Items, Shape, Typed, field_element, is_empty};
use crate::types::{KindType, Presence, Type};

/// The fields that are only in the new object, in both but different, and only in the old one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// Without the fields in `ignored` and all below them.
    pub(super) fn without(self, ignored: &FieldSet) -> Self {
        Self {
            added: self.added.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            removed: self.removed.recursive_difference(ignored),
        }
    }

    pub(super) fn written(&self) -> FieldSet {
        self.added.clone().union(&self.modified)
    }
}

pub(super) fn compare(kind: &KindType, old: &Value, new: &Value) -> Comparison {
    let root = Type::Struct(kind.root);
    let mut walk = Walk { path: Vec::new(), found: Comparison::default() };
    walk.compare(Typed::root(kind, &root), Some(old), Some(new));
    walk.found
}

struct Walk {
    path: Vec<PathElement>,
    found: Comparison,
}

impl Walk {
    fn compare(&mut self, typed: Typed<'_>, old: Option<&Value>, new: Option<&Value>) {
        if old == new {
            return;
        }
        let values: Vec<&Value> = [old, new].into_iter().flatten().collect();
        // Two empty values of different form are a leaf, so that the difference is seen.
        let shape = if is_empty(old) && is_empty(new) { Shape::Leaf } else { typed.shape(&values) };
        match shape {
            Shape::Leaf if old.is_some() && new.is_some() => self.found.modified.insert(&self.path),
            Shape::Leaf => {}
            Shape::Struct(ty) => {
                // Go cannot leave out a struct that is no pointer: where its parent is, it is, even if not written.
                let empty = Value::Object(Map::new());
                let is_always_there = |name: &str| {
                    ty.field(name).is_some_and(|f| f.presence == Presence::Always && matches!(f.ty, Type::Struct(_)))
                };
                let absent = |name: &str, parent: Option<&Value>| {
                    (parent.is_some_and(Value::is_object) && is_always_there(name)).then_some(&empty)
                };
                self.compare_maps(old, new, |name| typed.field(ty, name), absent);
            }
            Shape::Map(value) => self.compare_maps(old, new, |_| Some(value), |_, _| None),
            Shape::List(items) => self.compare_lists(items, old, new),
        }
        match (old, new) {
            (None, Some(_)) => self.found.added.insert(&self.path),
            (Some(_), None) => self.found.removed.insert(&self.path),
            _ => {}
        }
    }

    fn step(&mut self, element: PathElement, typed: Typed<'_>, old: Option<&Value>, new: Option<&Value>) {
        self.path.push(element);
        self.compare(typed, old, new);
        self.path.pop();
    }

    /// `absent` is what an absent value of a field counts as, given the map that it is absent from.
    fn compare_maps<'t, 'e>(
        &mut self,
        old_map: Option<&Value>,
        new_map: Option<&Value>,
        typed: impl Fn(&str) -> Option<Typed<'t>>,
        absent: impl Fn(&str, Option<&Value>) -> Option<&'e Value>,
    ) {
        let none = Map::new();
        let old = old_map.and_then(Value::as_object).unwrap_or(&none);
        let new = new_map.and_then(Value::as_object).unwrap_or(&none);
        for (name, value) in old {
            if let (Some(typed), true) = (typed(name), new.get(name) != Some(value)) {
                let other = new.get(name).or_else(|| absent(name, new_map));
                self.step(field_element(name), typed, Some(value), other);
            }
        }
        for (name, value) in new {
            if let (Some(typed), false) = (typed(name), old.contains_key(name)) {
                self.step(field_element(name), typed, absent(name, old_map), Some(value));
            }
        }
    }

    fn compare_lists(&mut self, items: Items<'_>, old: Option<&Value>, new: Option<&Value>) {
        let mut pairs: BTreeMap<PathElement, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
        for (element, item) in items.elements(old) {
            pairs.entry(element).or_default().0.push(item);
        }
        for (element, item) in items.elements(new) {
            pairs.entry(element).or_default().1.push(item);
        }
        for (element, (old, new)) in pairs {
            if old.len() <= 1 && new.len() <= 1 {
                self.step(element, items.item(), old.first().copied(), new.first().copied());
                continue;
            }
            // Items that one key cannot tell apart are owned together, whole.
            if old == new {
                continue;
            }
            self.path.push(element);
            let set = match (old.is_empty(), new.is_empty()) {
                (true, _) => &mut self.found.added,
                (_, true) => &mut self.found.removed,
                _ => &mut self.found.modified,
            };
            set.insert(&self.path);
            self.path.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use kybern_apimachinery::json;

    /// Compares the `spec` of two Widgets; expects the sets as `FieldsV1` below `f:spec`.
    fn check(old: Value, new: Value, added: Value, modified: Value, removed: Value) {
        let found = compare(&fixture::kind("Widget"), &json!({"spec": old}), &json!({"spec": new}));
        let wrap = |set: Value| if set == json!({}) { set } else { json!({"f:spec": set}) };
        assert_eq!(found.added.to_fields_v1(), wrap(added), "added: {old} -> {new}");
        assert_eq!(found.modified.to_fields_v1(), wrap(modified), "modified: {old} -> {new}");
        assert_eq!(found.removed.to_fields_v1(), wrap(removed), "removed: {old} -> {new}");
    }

    #[test]
    fn differences() {
        let none = || json!({});
        check(json!({"size": 1}), json!({"size": 2}), none(), json!({"f:size": {}}), none());
        check(json!({}), json!({"sealed": {"a": "1"}}), json!({"f:sealed": {}}), none(), none());
        check(json!({"sealed": {"a": "1"}}), json!({"sealed": {"a": "2"}}), none(), json!({"f:sealed": {}}), none());
        check(
            json!({"tags": ["a", "b"]}),
            json!({"tags": ["b", "c"]}),
            json!({"f:tags": {"v:\"c\"": {}}}),
            none(),
            json!({"f:tags": {"v:\"a\"": {}}}),
        );
        check(json!({"tags": ["a", "b"]}), json!({"tags": ["b", "a"]}), none(), none(), none());
        check(json!({"steps": ["a"]}), json!({"steps": ["b"]}), none(), json!({"f:steps": {}}), none());
        check(
            json!({"parts": [{"name": "x", "size": 1}]}),
            json!({"parts": [{"name": "x", "size": 2}, {"name": "y"}]}),
            json!({"f:parts": {"k:{\"name\":\"y\"}": {".": {}, "f:name": {}}}}),
            json!({"f:parts": {"k:{\"name\":\"x\"}": {"f:size": {}}}}),
            none(),
        );
        check(json!({}), json!({"byName": {"a": {}}}), json!({"f:byName": {".": {}, "f:a": {}}}), none(), none());
        check(
            json!({"free": {"x": {"y": 1}}}),
            json!({"free": {"x": {"y": 2, "z": [1]}}}),
            json!({"f:free": {"f:x": {"f:z": {}}}}),
            json!({"f:free": {"f:x": {"f:y": {}}}}),
            none(),
        );
        check(json!({"raw": {"x": 1}}), json!({"raw": {"x": 2}}), none(), json!({"f:raw": {}}), none());
        // An absent list is not a null one, and items of a null one are added without it.
        check(json!({"tags": null}), json!({"tags": ["a"]}), json!({"f:tags": {"v:\"a\"": {}}}), none(), none());
        check(json!({}), json!({"tags": ["a"]}), json!({"f:tags": {".": {}, "v:\"a\"": {}}}), none(), none());
    }

    #[test]
    fn items_with_one_key() {
        let two =
            |sizes: [i64; 2]| json!({"parts": [{"name": "x", "size": sizes[0]}, {"name": "x", "size": sizes[1]}]});
        check(two([1, 2]), two([1, 3]), json!({}), json!({"f:parts": {"k:{\"name\":\"x\"}": {}}}), json!({}));
        check(two([1, 2]), two([1, 2]), json!({}), json!({}), json!({}));
    }
}
