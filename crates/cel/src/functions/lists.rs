//! Functions of lists: the language's extension, sets, and Kubernetes' own.

use std::cmp::Ordering;

use crate::decl::{Functions, Native};
use crate::error::EvalError;
use crate::list::List;
use crate::ops;
use crate::value::Value;

use super::{int, list};

/// No call may make a longer list.
const MAX_LENGTH: i64 = 1_000_000;

pub(super) fn declare(f: &mut Functions) {
    sets(f);
    kubernetes(f);
    f.add("slice", "list_slice", "list(T).(int, int) -> list(T)", slice);
    f.add("flatten", "list_flatten", "list(list(T)).() -> list(T)", |a| flatten(list(&a[0])?, 1));
    f.add("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", |a| flatten(list(&a[0])?, int(&a[1])?));
    f.add("lists.range", "lists_range", "(int) -> list(int)", |a| {
        let count = int(&a[0])?;
        if count > MAX_LENGTH {
            return Err(EvalError::cost_limit());
        }
        Ok(Value::List(List::of((0..count).map(Value::Int).collect())))
    });
    f.add("reverse", "list_reverse", "list(T).() -> list(T)", |a| {
        let list = list(&a[0])?;
        let items = (0..list.len()).rev().map(|i| list.get(i)).collect::<Result<_, _>>()?;
        Ok(Value::List(List::of(items)))
    });
    f.add("distinct", "list_distinct", "list(T).() -> list(T)", distinct);
    // By upstream's identifiers.
    macro_rules! sorts {
        ($($element:literal $name:literal;)*) => {$(
            f.add("sort", concat!("list_", $name, "_sort"), concat!("list(", $element, ").() -> list(", $element, ")"), |a| {
                let list = list(&a[0])?;
                sort_by(list, list)
            });
            f.add(
                "@sortByAssociatedKeys",
                concat!("list_", $name, "_sortByAssociatedKeys"),
                concat!("list(T).(list(", $element, ")) -> list(T)"),
                |a| sort_by(list(&a[0])?, list(&a[1])?),
            );
        )*};
    }
    sorts! {
        "int" "int";
        "uint" "uint";
        "double" "double";
        "bool" "bool";
        "duration" "google.protobuf.Duration";
        "timestamp" "google.protobuf.Timestamp";
        "string" "string";
        "bytes" "bytes";
    }
}

fn sets(f: &mut Functions) {
    f.add("sets.contains", "list_sets_contains_list", "(list(T), list(T)) -> bool", |a| {
        Ok(Value::Bool(has_all(list(&a[0])?, list(&a[1])?)?))
    });
    f.add("sets.equivalent", "list_sets_equivalent_list", "(list(T), list(T)) -> bool", |a| {
        let (a, b) = (list(&a[0])?, list(&a[1])?);
        Ok(Value::Bool(has_all(a, b)? && has_all(b, a)?))
    });
    f.add("sets.intersects", "list_sets_intersects_list", "(list(T), list(T)) -> bool", |a| {
        let other = list(&a[1])?;
        for item in list(&a[0])?.iter() {
            if other.contains(&item?).unwrap_or(false) {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    });
}

fn has_all<'a>(all: &List<'a>, some: &List<'a>) -> Result<bool, EvalError> {
    for item in some.iter() {
        if !all.contains(&item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn kubernetes(f: &mut Functions) {
    let sorted: Native = is_sorted;
    let max: Native = |a| extreme(a, Ordering::Less, "max");
    let min: Native = |a| extreme(a, Ordering::Greater, "min");
    macro_rules! comparable {
        ($($element:literal)*) => {$(
            f.add(
                "isSorted",
                concat!("list_", $element, "_is_sorted_bool"),
                concat!("list(", $element, ").() -> bool"),
                sorted,
            );
            let (max_id, min_id) =
                (concat!("list_", $element, "_max_", $element), concat!("list_", $element, "_min_", $element));
            f.add("max", max_id, concat!("list(", $element, ").() -> ", $element), max);
            f.add("min", min_id, concat!("list(", $element, ").() -> ", $element), min);
        )*};
    }
    comparable!("int" "uint" "double" "bool" "duration" "timestamp" "string" "bytes");
    f.add("sum", "list_int_sum_int", "list(int).() -> int", |a| sum(a, Value::Int(0)));
    f.add("sum", "list_uint_sum_uint", "list(uint).() -> uint", |a| sum(a, Value::Uint(0)));
    f.add("sum", "list_double_sum_double", "list(double).() -> double", |a| sum(a, Value::Double(0.0)));
    f.add("sum", "list_duration_sum_duration", "list(duration).() -> duration", |a| sum(a, Value::Duration(0)));
    f.add("indexOf", "list_a_index_of_int", "list(A).(A) -> int", |a| {
        let items = list(&a[0])?;
        position(items, &a[1], &mut (0..items.len()))
    });
    f.add("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", |a| {
        let items = list(&a[0])?;
        position(items, &a[1], &mut (0..items.len()).rev())
    });
}

fn position<'a>(items: &List<'a>, wanted: &Value<'a>, indices: &mut dyn Iterator<Item = usize>) -> super::Result<'a> {
    for i in indices {
        if ops::equal(&items.get(i)?, wanted).unwrap_or(false) {
            return Ok(Value::Int(i as i64));
        }
    }
    Ok(Value::Int(-1))
}

fn is_sorted<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let mut before: Option<Value<'_>> = None;
    for item in list(&a[0])?.iter() {
        let item = item?;
        if let Some(before) = before
            && ops::compare(&before, &item)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        before = Some(item);
    }
    Ok(Value::Bool(true))
}

fn extreme<'a>(a: &[Value<'a>], replaced_when: Ordering, name: &str) -> super::Result<'a> {
    let mut found: Option<Value<'a>> = None;
    for item in list(&a[0])?.iter() {
        let item = item?;
        found = Some(match found {
            Some(found) if ops::compare(&found, &item)? != replaced_when => found,
            _ => item,
        });
    }
    found.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn sum<'a>(a: &[Value<'a>], zero: Value<'a>) -> super::Result<'a> {
    list(&a[0])?.iter().try_fold(zero, |sum, item| ops::add(&sum, &item?))
}

fn slice<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let (items, start, end) = (list(&a[0])?, int(&a[1])?, int(&a[2])?);
    let length = items.len() as i64;
    let refused = |why: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")));
    if start < 0 || end < 0 {
        return refused("negative indexes not supported".to_owned());
    }
    if start > end {
        return refused("start index must be less than or equal to end index".to_owned());
    }
    if length < end {
        return refused(format!("list is length {length}"));
    }
    let items = (start..end).map(|i| items.get(i as usize)).collect::<Result<_, _>>()?;
    Ok(Value::List(List::of(items)))
}

fn flatten<'a>(items: &List<'a>, depth: i64) -> super::Result<'a> {
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut flat = Vec::new();
    flatten_into(items, depth, &mut flat)?;
    Ok(Value::List(List::of(flat)))
}

fn flatten_into<'a>(items: &List<'a>, depth: i64, flat: &mut Vec<Value<'a>>) -> Result<(), EvalError> {
    for item in items.iter() {
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, flat)?,
            other => flat.push(other),
        }
        if flat.len() as i64 > MAX_LENGTH {
            return Err(EvalError::cost_limit());
        }
    }
    Ok(())
}

fn distinct<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let mut seen: Vec<Value<'a>> = Vec::new();
    'items: for item in list(&a[0])?.iter() {
        let item = item?;
        for other in &seen {
            if ops::equal(&item, other).unwrap_or(false) {
                continue 'items;
            }
        }
        seen.push(item);
    }
    Ok(Value::List(List::of(seen)))
}

fn sort_by<'a>(items: &List<'a>, keys: &List<'a>) -> super::Result<'a> {
    if items.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} \
             elements respectively",
            items.len(),
            keys.len()
        )));
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> =
        keys.iter().zip(items.iter()).map(|(k, v)| Ok((k?, v?))).collect::<Result<_, EvalError>>()?;
    if let Some((first, _)) = pairs.first() {
        if ops::compare(first, first).is_err() && !matches!(first, Value::Double(_)) {
            return Err(EvalError::new("list elements must be comparable"));
        }
        if pairs.iter().any(|(key, _)| key.type_name() != first.type_name()) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    pairs.sort_by(|(a, _), (b, _)| ops::compare(a, b).unwrap_or(Ordering::Equal));
    Ok(Value::List(List::of(pairs.into_iter().map(|(_, v)| v).collect())))
}
