//! Operators, `size`, `type` and the conversions.

use std::cmp::Ordering;

use crate::convert;
use crate::decl::{Functions, Native};
use crate::error::EvalError;
use crate::ops;
use crate::value::Value;

use super::Result;

pub(super) fn declare(f: &mut Functions) {
    logic(f);
    arithmetic(f);
    relations(f);
    containers(f);
    conversions(f);
}

/// Never called: the interpreter has these itself.
const SPECIAL: Native = |_| Err(EvalError::no_such_overload());

fn logic(f: &mut Functions) {
    f.add("_?_:_", "conditional", "(bool, A, A) -> A", SPECIAL);
    f.add("_&&_", "logical_and", "(bool, bool) -> bool", SPECIAL);
    f.add("_||_", "logical_or", "(bool, bool) -> bool", SPECIAL);
    f.add("@not_strictly_false", "not_strictly_false", "(bool) -> bool", SPECIAL);
    f.add("!_", "logical_not", "(bool) -> bool", |a| Ok(Value::Bool(!super::bool(&a[0])?)));
    f.add("_==_", "equals", "(A, A) -> bool", |a| ops::equal(&a[0], &a[1]).map(Value::Bool));
    f.add("_!=_", "not_equals", "(A, A) -> bool", |a| ops::equal(&a[0], &a[1]).map(|same| Value::Bool(!same)));
}

fn arithmetic(f: &mut Functions) {
    let plus: Native = |a| ops::add(&a[0], &a[1]);
    let minus: Native = |a| ops::subtract(&a[0], &a[1]);
    let times: Native = |a| ops::multiply(&a[0], &a[1]);
    let over: Native = |a| ops::divide(&a[0], &a[1]);
    let modulo: Native = |a| ops::modulo(&a[0], &a[1]);
    let negated: Native = |a| ops::negate(&a[0]);
    for (name, id, signature, native) in [
        ("_+_", "add_bytes", "(bytes, bytes) -> bytes", plus),
        ("_+_", "add_double", "(double, double) -> double", plus),
        ("_+_", "add_duration_duration", "(duration, duration) -> duration", plus),
        ("_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", plus),
        ("_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", plus),
        ("_+_", "add_int64", "(int, int) -> int", plus),
        ("_+_", "add_list", "(list(A), list(A)) -> list(A)", plus),
        ("_+_", "add_string", "(string, string) -> string", plus),
        ("_+_", "add_uint64", "(uint, uint) -> uint", plus),
        ("_/_", "divide_double", "(double, double) -> double", over),
        ("_/_", "divide_int64", "(int, int) -> int", over),
        ("_/_", "divide_uint64", "(uint, uint) -> uint", over),
        ("_%_", "modulo_int64", "(int, int) -> int", modulo),
        ("_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
        ("_*_", "multiply_double", "(double, double) -> double", times),
        ("_*_", "multiply_int64", "(int, int) -> int", times),
        ("_*_", "multiply_uint64", "(uint, uint) -> uint", times),
        ("-_", "negate_double", "(double) -> double", negated),
        ("-_", "negate_int64", "(int) -> int", negated),
        ("_-_", "subtract_double", "(double, double) -> double", minus),
        ("_-_", "subtract_duration_duration", "(duration, duration) -> duration", minus),
        ("_-_", "subtract_int64", "(int, int) -> int", minus),
        ("_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", minus),
        ("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", minus),
        ("_-_", "subtract_uint64", "(uint, uint) -> uint", minus),
    ] {
        f.add(name, id, signature, native);
    }
}

fn relations(f: &mut Functions) {
    let less: Native = |a| ops::compare(&a[0], &a[1]).map(|o| Value::Bool(o == Ordering::Less));
    let at_most: Native = |a| ops::compare(&a[0], &a[1]).map(|o| Value::Bool(o != Ordering::Greater));
    let greater: Native = |a| ops::compare(&a[0], &a[1]).map(|o| Value::Bool(o == Ordering::Greater));
    let at_least: Native = |a| ops::compare(&a[0], &a[1]).map(|o| Value::Bool(o != Ordering::Less));
    // The identifiers are upstream's: costs are by those of texts and bytes.
    macro_rules! relation {
        ($name:literal, $prefix:literal, $native:expr) => {
            for (id, signature) in [
                (concat!($prefix, "_bool"), "(bool, bool) -> bool"),
                (concat!($prefix, "_int64"), "(int, int) -> bool"),
                (concat!($prefix, "_int64_double"), "(int, double) -> bool"),
                (concat!($prefix, "_int64_uint64"), "(int, uint) -> bool"),
                (concat!($prefix, "_uint64"), "(uint, uint) -> bool"),
                (concat!($prefix, "_uint64_double"), "(uint, double) -> bool"),
                (concat!($prefix, "_uint64_int64"), "(uint, int) -> bool"),
                (concat!($prefix, "_double"), "(double, double) -> bool"),
                (concat!($prefix, "_double_int64"), "(double, int) -> bool"),
                (concat!($prefix, "_double_uint64"), "(double, uint) -> bool"),
                (concat!($prefix, "_string"), "(string, string) -> bool"),
                (concat!($prefix, "_bytes"), "(bytes, bytes) -> bool"),
                (concat!($prefix, "_timestamp"), "(timestamp, timestamp) -> bool"),
                (concat!($prefix, "_duration"), "(duration, duration) -> bool"),
            ] {
                f.add($name, id, signature, $native);
            }
        };
    }
    relation!("_<_", "less", less);
    relation!("_<=_", "less_equals", at_most);
    relation!("_>_", "greater", greater);
    relation!("_>=_", "greater_equals", at_least);
}

fn containers(f: &mut Functions) {
    f.add("_[_]", "index_list", "(list(A), int) -> A", SPECIAL);
    f.add("_[_]", "index_map", "(map(A, B), A) -> B", SPECIAL);
    f.add("_[_]", "optional_list_index_int", "(optional(list(V)), int) -> optional(V)", SPECIAL);
    f.add("_[_]", "optional_map_index_value", "(optional(map(K, V)), K) -> optional(V)", SPECIAL);
    let contains: Native = |a| ops::contains(&a[0], &a[1]).map(Value::Bool);
    f.add("@in", "in_list", "(A, list(A)) -> bool", contains);
    f.add("@in", "in_map", "(A, map(A, B)) -> bool", contains);
    for (id, signature) in [
        ("size_bytes", "(bytes) -> int"),
        ("bytes_size", "bytes.() -> int"),
        ("size_list", "(list(A)) -> int"),
        ("list_size", "list(A).() -> int"),
        ("size_map", "(map(A, B)) -> int"),
        ("map_size", "map(A, B).() -> int"),
        ("size_string", "(string) -> int"),
        ("string_size", "string.() -> int"),
    ] {
        f.add("size", id, signature, size);
    }
    f.add("cel.@mapInsert", "cel_@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)", |a| match &a[0] {
        Value::Map(map) => map.clone().insert(&a[1], a[2].clone()).map(Value::Map),
        _ => Err(EvalError::no_such_overload()),
    });
    f.add("cel.@mapInsert", "cel_@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)", insert_all);
}

fn size<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => Ok(Value::Int(a[0].size() as i64)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn insert_all<'a>(a: &[Value<'a>]) -> Result<'a> {
    let (Value::Map(into), Value::Map(from)) = (&a[0], &a[1]) else { return Err(EvalError::no_such_overload()) };
    let mut entries = Vec::new();
    from.try_each(&mut |key, value| {
        entries.push((key.value(), value));
        Ok(())
    })?;
    let mut map = into.clone();
    for (key, value) in entries {
        map = map.insert(&key, value)?;
    }
    Ok(Value::Map(map))
}

fn conversions(f: &mut Functions) {
    f.add("type", "type", "(A) -> type(A)", |a| Ok(Value::Type(a[0].type_name().into())));
    f.add("dyn", "to_dyn", "(A) -> dyn", |a| Ok(a[0].clone()));
    let text: Native = |a| convert::to_string(&a[0]).map(Value::String);
    for (name, id, signature, native) in [
        ("bool", "bool_to_bool", "(bool) -> bool", convert_bool as Native),
        ("bool", "string_to_bool", "(string) -> bool", convert_bool),
        ("bytes", "bytes_to_bytes", "(bytes) -> bytes", |a| convert::to_bytes(&a[0])),
        ("bytes", "string_to_bytes", "(string) -> bytes", |a| convert::to_bytes(&a[0])),
        ("double", "double_to_double", "(double) -> double", |a| convert::to_double(&a[0])),
        ("double", "int64_to_double", "(int) -> double", |a| convert::to_double(&a[0])),
        ("double", "string_to_double", "(string) -> double", |a| convert::to_double(&a[0])),
        ("double", "uint64_to_double", "(uint) -> double", |a| convert::to_double(&a[0])),
        ("duration", "duration_to_duration", "(duration) -> duration", |a| convert::to_duration(&a[0])),
        ("duration", "int64_to_duration", "(int) -> duration", |a| convert::to_duration(&a[0])),
        ("duration", "string_to_duration", "(string) -> duration", |a| convert::to_duration(&a[0])),
        ("int", "int64_to_int64", "(int) -> int", |a| convert::to_int(&a[0])),
        ("int", "double_to_int64", "(double) -> int", |a| convert::to_int(&a[0])),
        ("int", "duration_to_int64", "(duration) -> int", |a| convert::to_int(&a[0])),
        ("int", "string_to_int64", "(string) -> int", |a| convert::to_int(&a[0])),
        ("int", "timestamp_to_int64", "(timestamp) -> int", |a| convert::to_int(&a[0])),
        ("int", "uint64_to_int64", "(uint) -> int", |a| convert::to_int(&a[0])),
        ("string", "string_to_string", "(string) -> string", text),
        ("string", "bool_to_string", "(bool) -> string", text),
        ("string", "bytes_to_string", "(bytes) -> string", text),
        ("string", "double_to_string", "(double) -> string", text),
        ("string", "duration_to_string", "(duration) -> string", text),
        ("string", "int64_to_string", "(int) -> string", text),
        ("string", "timestamp_to_string", "(timestamp) -> string", text),
        ("string", "uint64_to_string", "(uint) -> string", text),
        ("timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", |a| convert::to_timestamp(&a[0])),
        ("timestamp", "int64_to_timestamp", "(int) -> timestamp", |a| convert::to_timestamp(&a[0])),
        ("timestamp", "string_to_timestamp", "(string) -> timestamp", |a| convert::to_timestamp(&a[0])),
        ("uint", "uint64_to_uint64", "(uint) -> uint", |a| convert::to_uint(&a[0])),
        ("uint", "double_to_uint64", "(double) -> uint", |a| convert::to_uint(&a[0])),
        ("uint", "int64_to_uint64", "(int) -> uint", |a| convert::to_uint(&a[0])),
        ("uint", "string_to_uint64", "(string) -> uint", |a| convert::to_uint(&a[0])),
    ] {
        f.add(name, id, signature, native);
    }
}

fn convert_bool<'a>(a: &[Value<'a>]) -> Result<'a> {
    convert::to_bool(&a[0])
}
