//! Strategic merge patch: a merge patch whose lists merge by the facts in the schema (`PatchStrategy`), steered by
//! directives: `$patch`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`, `$retainKeys`.
//!
//! A field that the schema does not know merges as in a JSON merge patch: maps by key, lists whole.

use std::collections::{HashMap, HashSet};

use kybern_apimachinery::{Map, Value, go};

use super::PatchError;
use crate::types::{KindType, PatchStrategy, Schema, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

const BAD_PRIMITIVE_LIST: &str = "invalid patch format of primitive list";
const BAD_RETAIN_KEYS: &str = "invalid patch format of retainKeys";
const BAD_SET_ORDER: &str = "invalid patch format of setElementOrder list";

type Result<T> = std::result::Result<T, PatchError>;
type Tree = Map<String, Value>;

/// Applies a strategic merge patch to an object of a kind.
pub fn apply(kind: &KindType, object: Value, patch: Value) -> Result<Value> {
    let Value::Object(patch) = patch else { return malformed("invalid JSON document") };
    let Value::Object(object) = object else { return malformed("invalid JSON document") };
    let root = Type::Struct(kind.root);
    Merger { schema: &kind.schema }.merge_map(object, patch, Some(&root)).map(Value::Object)
}

fn malformed<T>(text: impl Into<String>) -> Result<T> {
    Err(PatchError::Malformed(text.into()))
}

struct Merger<'a> {
    schema: &'a Schema,
}

impl<'a> Merger<'a> {
    /// What the schema says of a key in a value of type `ty`.
    fn lookup(&self, ty: Option<&'a Type>, key: &str) -> (Option<&'a Type>, PatchStrategy) {
        match ty {
            Some(Type::Struct(id)) => match self.schema.get(*id).field(key) {
                Some(field) => (Some(&field.ty), field.patch.clone()),
                None => (None, PatchStrategy::default()),
            },
            Some(Type::Map(map)) => (Some(&map.value), PatchStrategy::default()),
            _ => (None, PatchStrategy::default()),
        }
    }

    fn merge_map(&self, mut original: Tree, mut patch: Tree, ty: Option<&'a Type>) -> Result<Tree> {
        if let Some(directive) = patch.get(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => {
                    patch.remove(DIRECTIVE);
                    Ok(patch)
                }
                Some("delete") => Ok(Tree::new()),
                _ => unknown_directive(directive, &patch),
            };
        }
        if let Some(keys) = patch.remove(RETAIN_KEYS) {
            retain_keys(&mut original, &patch, &keys)?;
        }
        let ordered: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).cloned().collect();
        for directive in ordered {
            let Some(Value::Array(order)) = patch.remove(&directive) else { return malformed(BAD_SET_ORDER) };
            let Some(list) = list_named(&directive, SET_ORDER) else { return malformed(BAD_SET_ORDER) };
            let list = list.to_owned();
            self.merge_ordered(&mut original, &mut patch, &list, &order, ty)?;
        }
        for (key, value) in patch {
            let (key, deleting) = match key.starts_with(DELETE_FROM) {
                true => match list_named(&key, DELETE_FROM) {
                    Some(list) => (list.to_owned(), true),
                    None => return malformed(BAD_PRIMITIVE_LIST),
                },
                false => (key, false),
            };
            if value.is_null() {
                original.remove(&key);
                continue;
            }
            let merged = match (original.remove(&key), value) {
                (Some(Value::Object(old)), Value::Object(new)) => {
                    let (ty, strategy) = self.lookup(ty, &key);
                    Some(Value::Object(if strategy.replace { new } else { self.merge_map(old, new, ty)? }))
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    let (ty, strategy) = self.lookup(ty, &key);
                    Some(Value::Array(self.merge_list(old, new, ty, &strategy, deleting)?))
                }
                (old, _) if deleting => old,
                (_, new) => clean(new),
            };
            if let Some(merged) = merged {
                original.insert(key, merged);
            }
        }
        Ok(original)
    }

    /// Merges a list that has a `$setElementOrder` and puts it into that order: its named elements as named, the others
    /// where they lie between them in the live list.
    fn merge_ordered(
        &self,
        original: &mut Tree,
        patch: &mut Tree,
        name: &str,
        order: &[Value],
        ty: Option<&'a Type>,
    ) -> Result<()> {
        let list = |tree: &mut Tree| match tree.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => malformed(format!("expected a []interface {{}}, but received a {}", go::type_of(&other))),
        };
        // A null in the patch deletes the list; the order then says nothing.
        if patch.get(name).is_some_and(Value::is_null) {
            return Ok(());
        }
        let (live, patched) = (list(original)?, list(patch)?);
        let (ty, strategy) = self.lookup(ty, name);
        let key = strategy.merge_key.as_deref();
        if let Some(patched) = &patched {
            check_order(patched, order, key)?;
        }
        let live_order = order_after(live.as_deref().unwrap_or(&[]), patched.as_deref().unwrap_or(&[]), key)?;
        let merged = match (live, patched) {
            (None, None) => return Ok(()),
            (Some(live), None) => live,
            (None, Some(patched)) => clean_list(patched),
            (Some(live), Some(patched)) => self.merge_list(live, patched, ty, &strategy, false)?,
        };
        let arranged = arrange(merged, &Order::of(order, key)?, &live_order, key)?;
        original.insert(name.to_owned(), Value::Array(arranged));
        Ok(())
    }

    fn merge_list(
        &self,
        mut original: Vec<Value>,
        patch: Vec<Value>,
        ty: Option<&'a Type>,
        strategy: &PatchStrategy,
        deleting: bool,
    ) -> Result<Vec<Value>> {
        if !strategy.merge {
            return Ok(patch);
        }
        let Some(maps) = holds_maps(&original, &patch)? else { return Ok(original) };
        if !maps {
            if deleting {
                let gone = Order::of(&patch, None)?;
                original.retain(|item| gone.place(&item.to_string()).is_none());
                return Ok(original);
            }
            let live = Order::of(&original, None)?;
            let chosen = Order::of(&patch, None)?;
            let mut merged = original;
            merged.extend(patch.into_iter().filter(|item| live.place(&item.to_string()).is_none()));
            return arrange(merged, &chosen, &live, None);
        }
        let Some(key) = strategy.merge_key.as_deref() else {
            return malformed("cannot merge lists without merge key for struct");
        };
        let item_ty = match ty {
            Some(Type::List(list)) => Some(&list.item),
            _ => None,
        };
        let (mut merged, patch) = special_elements(original, patch, key)?;
        let live = Order::of(&merged, Some(key))?;
        let chosen = Order::of(&patch, Some(key))?;
        let mut places: HashMap<String, usize> = HashMap::new();
        for (place, item) in merged.iter().enumerate() {
            places.entry(identity(item, Some(key))?).or_insert(place);
        }
        for item in patch {
            let id = identity(&item, Some(key))?;
            match (places.get(&id), item) {
                (Some(&place), Value::Object(item)) => {
                    let Value::Object(old) = merged[place].take() else { unreachable!("checked by holds_maps") };
                    merged[place] = Value::Object(self.merge_map(old, item, item_ty)?);
                }
                (_, item) => {
                    if let Some(item) = clean(item) {
                        places.insert(id, merged.len());
                        merged.push(item);
                    }
                }
            }
        }
        arrange(merged, &chosen, &live, Some(key))
    }
}

/// The list that a directive's key such as `$setElementOrder/containers` names.
fn list_named<'k>(key: &'k str, directive: &str) -> Option<&'k str> {
    key.strip_prefix(directive)?.strip_prefix('/')
}

/// `$retainKeys`: drops what is not listed. Every key that the patch sets must be listed.
fn retain_keys(original: &mut Tree, patch: &Tree, keys: &Value) -> Result<()> {
    let Value::Array(keys) = keys else { return malformed(BAD_RETAIN_KEYS) };
    let keys: HashSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let listed = |key: &str| keys.contains(key);
    let directive = |key: &str| key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !directive(key) && !listed(key)) {
        return malformed(BAD_RETAIN_KEYS);
    }
    original.retain(|key, _| listed(key));
    Ok(())
}

/// Carries out the elements of a patched list that are directives; answers the live and the patched list without them.
fn special_elements(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    let mut deleted = HashSet::new();
    for item in patch {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or("")) {
            None => plain.push(item),
            Some("delete") => {
                let Some(gone) = item.get(key) else { return no_merge_key(&item, key) };
                deleted.insert(gone.to_string());
            }
            Some("replace") => replace = true,
            Some("merge") => return malformed("merging lists cannot yet be specified in the patch"),
            Some(_) => return unknown_directive(&item[DIRECTIVE], item.as_object().unwrap_or(&Tree::new())),
        }
    }
    if !deleted.is_empty() {
        original.retain(|live| live.get(key).is_none_or(|is| !deleted.contains(&is.to_string())));
    }
    Ok(if replace { (clean_list(plain), Vec::new()) } else { (original, plain) })
}

/// Whether the elements of two lists are maps; `None` when there is no element. They must all be of one kind.
fn holds_maps(original: &[Value], patch: &[Value]) -> Result<Option<bool>> {
    let mut kind = None;
    for item in original.iter().chain(patch) {
        if item.is_array() {
            return Err(PatchError::NotApplicable("lists of lists are not supported".to_owned()));
        }
        let this = std::mem::discriminant(item);
        if *kind.get_or_insert(this) != this {
            return malformed(format!(
                "list element types are not identical: [{} {}]",
                go::list(original),
                go::list(patch)
            ));
        }
    }
    Ok(original.first().or(patch.first()).map(Value::is_object))
}

/// A patched list must hold its elements in the order of its `$setElementOrder`, which must name them all.
fn check_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if order.is_empty() || patch.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let id = identity(item, key)?;
        loop {
            match rest.next() {
                Some(named) if identity(named, key)? == id => break,
                Some(_) => {}
                None => {
                    return malformed(format!(
                        "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                        go::list(patch),
                        go::list(order)
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What tells an element of a merged list from the others: its merge key's value, or a scalar itself.
fn identity(item: &Value, key: Option<&str>) -> Result<String> {
    match (key, item) {
        (Some(key), Value::Object(map)) => match map.get(key) {
            Some(value) => Ok(value.to_string()),
            None => no_merge_key(item, key),
        },
        (Some(_), other) => {
            malformed(format!("expected a map[string]interface {{}}, but received a {}", go::type_of(other)))
        }
        (None, scalar) => Ok(scalar.to_string()),
    }
}

/// Where each element of a list lies.
struct Order(HashMap<String, usize>);

impl Order {
    fn of(list: &[Value], key: Option<&str>) -> Result<Self> {
        let mut places = HashMap::with_capacity(list.len());
        for (place, item) in list.iter().enumerate() {
            places.entry(identity(item, key)?).or_insert(place);
        }
        Ok(Self(places))
    }

    fn append(&mut self, id: String) {
        let place = self.0.len();
        self.0.entry(id).or_insert(place);
    }

    fn place(&self, id: &str) -> Option<usize> {
        self.0.get(id).copied()
    }
}

/// The order of a live list once a patch has changed it: what the patch adds takes the places at the end that its
/// deletions freed, one each, and has no place beyond them. (Upstream's slices share their memory, so that it sees this;
/// it decides where a container lands that replaces another.)
fn order_after(live: &[Value], patch: &[Value], key: Option<&str>) -> Result<Order> {
    let Some(name) = key else { return Order::of(live, key) };
    let id = |item: &Value| item.get(name).map(Value::to_string);
    let gone = patch.iter().filter(|p| p.get(DIRECTIVE).is_some_and(|d| d == "delete")).map(id);
    let gone: HashSet<Option<String>> = gone.collect();
    let is_deleted = |item: &Value| !gone.is_empty() && gone.contains(&id(item));
    let mut order = Order(HashMap::with_capacity(live.len()));
    for item in live.iter().filter(|item| !is_deleted(item)) {
        order.append(identity(item, key)?);
    }
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if order.0.len() < live.len() {
            order.append(identity(item, key)?);
        }
    }
    Ok(order)
}

/// Orders a merged list: the elements in `chosen` as it orders them, the others as they lie in the live list, and each of
/// these before the first chosen one that the live list has behind it.
fn arrange(merged: Vec<Value>, chosen: &Order, live: &Order, key: Option<&str>) -> Result<Vec<Value>> {
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let id = identity(&item, key)?;
        let live_place = live.place(&id);
        match chosen.place(&id) {
            Some(place) => named.push((place, live_place, item)),
            None => others.push((live_place, item)),
        }
    }
    named.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, live_place, item) in named {
        while let Some(other) = others.next_if(|(place, _)| matches!((place, live_place), (Some(o), Some(n)) if *o < n))
        {
            arranged.push(other.1);
        }
        arranged.push(item);
    }
    arranged.extend(others.map(|(_, item)| item));
    Ok(arranged)
}

/// A patch's value as it enters an object that has nothing there: without nulls and directives. `None` for a map with a
/// `$patch`, which has nothing to act on; upstream drops even one that says `replace`.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            let directive =
                |key: &str| key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER);
            Some(Value::Object(
                map.into_iter()
                    .filter(|(key, value)| !value.is_null() && !directive(key))
                    .filter_map(|(key, value)| Some((key, clean(value)?)))
                    .collect(),
            ))
        }
        Value::Array(list) => Some(Value::Array(clean_list(list))),
        scalar => Some(scalar),
    }
}

fn clean_list(list: Vec<Value>) -> Vec<Value> {
    list.into_iter().filter_map(clean).collect()
}

fn no_merge_key<T>(item: &Value, key: &str) -> Result<T> {
    malformed(format!("map: {} does not contain declared merge key: {key}", go::value(item)))
}

fn unknown_directive<T>(directive: &Value, map: &Tree) -> Result<T> {
    malformed(format!(
        "unknown patch type: {} in map: {}",
        go::value(directive),
        go::value(&Value::Object(map.clone()))
    ))
}

#[cfg(test)]
mod tests;
