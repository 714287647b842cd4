//! Who owns a new object that nobody has applied: its creator, all that is set. It is written as `FieldsV1` in one walk; the
//! same is found, by a comparison with an object with nothing set, in [`super::owners::update`].

use std::collections::BTreeMap;

use kybern_apimachinery::{Map, Value, object};

use super::managed::{Identity, Operation, entry};
use super::owners::NEVER_OWNED;
use super::path::PathElement;
use super::set::FieldSet;
use super::shape::{Shape, Typed, field_element, is_empty};
use super::{Context, zero};
use crate::types::{Presence, Type};

/// Makes the creator the only owner of the fields of `new`.
pub(super) fn track(ctx: &Context<'_>, new: &mut Value) {
    const PATH: [&str; 2] = ["metadata", "managedFields"];
    let root = Type::Struct(ctx.kind.root);
    let except = Except { below: Some(ctx.reset), alone: Some(&NEVER_OWNED) };
    let (_, fields) = owned(Typed::root(ctx.kind, &root), Some(&zero(ctx.kind)), new, except);
    match level(false, fields) {
        None => drop(object::remove(new, &PATH)),
        Some(fields) => {
            let api_version = ctx.kind.gvk.api_version();
            let creator = Identity::new(ctx.manager, Operation::Update, ctx.subresource, &api_version);
            object::set(new, &PATH, Value::Array(vec![entry(&creator, &api_version, Some(ctx.now), fields)]));
        }
    }
}

/// What is not owned though it is set: fields with all below them, and fields alone.
#[derive(Clone, Copy)]
struct Except<'a> {
    below: Option<&'a FieldSet>,
    alone: Option<&'a FieldSet>,
}

impl Except<'_> {
    /// Whether an element is to be left out itself, and what below it; `None` if all of it is.
    fn at(self, element: impl FnOnce() -> PathElement) -> Option<(bool, Self)> {
        if self.below.is_none() && self.alone.is_none() {
            return Some((false, self));
        }
        let element = element();
        if self.below.is_some_and(|set| set.has(&element)) {
            return None;
        }
        let alone = self.alone.is_some_and(|set| set.has(&element));
        Some((
            alone,
            Self {
                below: self.below.and_then(|set| set.below(&element)),
                alone: self.alone.and_then(|set| set.below(&element)),
            },
        ))
    }
}

type Fields = Vec<(String, Value)>;

/// A level of `FieldsV1`, if it says anything.
fn level(member: bool, mut fields: Fields) -> Option<Value> {
    if fields.is_empty() {
        return member.then(|| Value::Object(Map::new()));
    }
    if member {
        fields.insert(0, (".".to_owned(), Value::Object(Map::new())));
    }
    // Sorted already, but for items of lists: a map is built of such faster than key by key.
    Some(Value::Object(fields.into_iter().collect()))
}

/// Whether a value that is not `zero` is a member itself, and what is below it.
fn owned(typed: Typed<'_>, zero: Option<&Value>, new: &Value, except: Except<'_>) -> (bool, Fields) {
    let mut fields = Fields::new();
    let shape = match zero {
        _ if is_empty(zero) && is_empty(Some(new)) => Shape::Leaf,
        Some(zero) => typed.shape(&[zero, new]),
        None => typed.shape(&[new]),
    };
    let mut add = |name: &str, typed: Option<Typed<'_>>, zero: Option<&Value>, new: &Value| {
        if let (Some(typed), true) = (typed, zero != Some(new))
            && let Some((hidden, except)) = except.at(|| field_element(name))
        {
            let (member, below) = owned(typed, zero, new, except);
            fields.extend(level(member && !hidden, below).map(|below| (["f:", name].concat(), below)));
        }
    };
    let (none, empty) = (Map::new(), Value::Object(Map::new()));
    let was_map = zero.and_then(Value::as_object);
    let (was, is) = (was_map.unwrap_or(&none), new.as_object().unwrap_or(&none));
    match shape {
        Shape::Leaf => return (true, fields),
        Shape::Struct(ty) => {
            // As in a comparison: a struct that is no pointer is there where its parent is.
            let absent = |name: &str| {
                let field = ty.field(name).filter(|_| was_map.is_some());
                field.filter(|f| f.presence == Presence::Always && matches!(f.ty, Type::Struct(_))).map(|_| &empty)
            };
            for (name, value) in is {
                add(name, typed.field(ty, name), was.get(name).or_else(|| absent(name)), value);
            }
        }
        Shape::Map(values) => is.iter().for_each(|(name, value)| add(name, Some(values), was.get(name), value)),
        Shape::List(items) => {
            let mut found: BTreeMap<PathElement, Option<&Value>> = BTreeMap::new();
            for (element, item) in items.elements(Some(new)) {
                // Items that one key cannot tell apart are owned together, whole.
                found.entry(element).and_modify(|item| *item = None).or_insert(Some(item));
            }
            for (element, item) in found {
                let Some((hidden, except)) = except.at(|| element.clone()) else { continue };
                let (member, below) =
                    item.map_or((true, Fields::new()), |item| owned(items.item(), None, item, except));
                fields.extend(level(member && !hidden, below).map(|below| (element.encode(), below)));
            }
        }
    }
    (zero.is_none(), fields)
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::super::{ManagedFields, Versions, owners};
    use super::*;
    use crate::fixture;

    fn check(kind: &str, new: &Value) {
        let kind = fixture::kind(kind);
        for reset in [FieldSet::default(), FieldSet::of_fields(&[&["status"], &["spec", "replicas"]])] {
            let (manager, now) = ("m", "2026-01-01T00:00:00Z");
            let ctx =
                Context { kind: &kind, versions: Versions::SameShape, manager, subresource: "", reset: &reset, now };
            let (mut walked, mut compared, mut managed) = (new.clone(), new.clone(), ManagedFields::default());
            track(&ctx, &mut walked);
            owners::update(&ctx, &zero(&kind), new, &mut managed, manager);
            managed.store(&mut compared);
            assert_eq!(walked, compared, "{new}");
        }
    }

    #[test]
    fn a_walk_finds_what_a_comparison_finds() {
        let pod = json!({"metadata": {"name": "a", "labels": {"a": "b", "c": ""}, "annotations": {}, "creationTimestamp": null}, "spec": {
            "containers": [
                {"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 80}], "args": ["a"], "resources": {}},
                {"name": "b", "env": [{"name": "X", "value": ""}], "resources": {"limits": {"cpu": "1"}}},
            ],
            "nodeSelector": {"a": "b"}, "volumes": [], "securityContext": {},
        }, "status": {}});
        check("Pod", &pod);
        check(
            "Deployment",
            &json!({"metadata": {"name": "a"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": pod,
            "strategy": {}}, "status": {"replicas": 1}}),
        );
        check(
            "Deployment",
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"managedFields": [{"odd": 1}]}}),
        );
        for spec in [
            json!({"size": 1, "tags": ["b", "a", "a"], "steps": ["x"], "sealed": {"a": "1"}, "byName": {"a": {}, "b": {"size": 1}}}),
            json!({"parts": [{"name": "y"}, {"name": "x", "size": 1}, {"size": 2}, 3], "free": {"x": {"y": 1, "z": [], "n": null}}}),
            json!({"raw": {"x": 1}, "tags": null, "byName": {}, "unknown": {"a": 1}, "free": {}}),
            json!({}),
            Value::Null,
            json!([1]),
        ] {
            check("Widget", &json!({"metadata": {"name": "w"}, "spec": spec}));
        }
        check("Widget", &json!({}));
    }
}
