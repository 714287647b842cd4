//! Values that may be absent.

use std::sync::Arc;

use crate::decl::{Functions, Native};
use crate::error::EvalError;
use crate::list::List;
use crate::value::Value;

use super::list;

/// Never called: the interpreter has these itself.
const SPECIAL: Native = |_| Err(EvalError::no_such_overload());

pub(super) fn declare(f: &mut Functions) {
    f.add("optional.of", "optional_of", "(V) -> optional(V)", |a| wrap(a[0].clone()));
    f.add("optional.ofNonZeroValue", "optional_ofNonZeroValue", "(V) -> optional(V)", |a| {
        if is_zero(&a[0]) { Ok(Value::Optional(None)) } else { wrap(a[0].clone()) }
    });
    f.add("optional.none", "optional_none", "() -> optional(V)", |_| Ok(Value::Optional(None)));
    f.add("value", "optional_value", "optional(V).() -> V", |a| match &a[0] {
        Value::Optional(Some(inner)) => Ok((**inner).clone()),
        Value::Optional(None) => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::no_such_overload()),
    });
    f.add("hasValue", "optional_hasValue", "optional(V).() -> bool", |a| match &a[0] {
        Value::Optional(inner) => Ok(Value::Bool(inner.is_some())),
        _ => Err(EvalError::no_such_overload()),
    });
    f.add("or", "optional_or_optional", "optional(V).(optional(V)) -> optional(V)", SPECIAL);
    f.add("orValue", "optional_orValue_value", "optional(V).(V) -> V", SPECIAL);
    f.add("_?._", "select_optional_field", "(dyn, string) -> optional(V)", SPECIAL);
    f.add("_[?_]", "list_optindex_optional_int", "(list(V), int) -> optional(V)", SPECIAL);
    f.add("_[?_]", "optional_list_optindex_optional_int", "(optional(list(V)), int) -> optional(V)", SPECIAL);
    f.add("_[?_]", "map_optindex_optional_value", "(map(K, V), K) -> optional(V)", SPECIAL);
    f.add("_[?_]", "optional_map_optindex_optional_value", "(optional(map(K, V)), K) -> optional(V)", SPECIAL);
    f.add("first", "list_first", "list(V).() -> optional(V)", |a| {
        let list = list(&a[0])?;
        if list.is_empty() { Ok(Value::Optional(None)) } else { wrap(list.get(0)?) }
    });
    f.add("last", "list_last", "list(V).() -> optional(V)", |a| {
        let list = list(&a[0])?;
        if list.is_empty() { Ok(Value::Optional(None)) } else { wrap(list.get(list.len() - 1)?) }
    });
    f.add("optional.unwrap", "optional_unwrap", "(list(optional(V))) -> list(V)", unwrap);
    f.add("unwrapOpt", "optional_unwrapOpt", "list(optional(V)).() -> list(V)", unwrap);
}

fn wrap(value: Value<'_>) -> super::Result<'_> {
    if value.depth() >= crate::value::MAX_DEPTH {
        return Err(crate::list::too_deep());
    }
    Ok(Value::Optional(Some(Arc::new(value))))
}

fn unwrap<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let mut items = Vec::new();
    for item in list(&a[0])?.iter() {
        match item? {
            Value::Optional(inner) => items.extend(inner.map(|inner| (*inner).clone())),
            other => return Err(EvalError::new(format!("value {} is not optional", other.display()))),
        }
    }
    List::checked(items).map(Value::List)
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Uint(u) => *u == 0,
        Value::Double(d) => *d == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(nanos) => *nanos == 0,
        Value::Timestamp(time) => time.is_zero(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        Value::Struct(made) => made.fields.is_empty(),
        Value::Type(_) | Value::Opaque(_) | Value::Unknown(_) => false,
    }
}
