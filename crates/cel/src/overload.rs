//! Which overload fits values whose types only show when they are there, and what upstream says when none does.

use crate::decl::Overload;
use crate::error::EvalError;
use crate::types::{OPTIONAL, Type};
use crate::value::Value;

pub(crate) fn fits(overload: &Overload, args: &[Value<'_>]) -> bool {
    overload.args.len() == args.len() && overload.args.iter().zip(args).all(|(t, v)| is_of(t, v))
}

/// Of lists and maps the first element is looked at, as upstream does.
fn is_of(t: &Type, value: &Value<'_>) -> bool {
    match (t, value) {
        (Type::Dyn | Type::Any | Type::Param(_), _) => true,
        (Type::List(element), Value::List(list)) => {
            list.is_empty() || list.get(0).is_ok_and(|first| is_of(element, &first))
        }
        (Type::Map(entry), Value::Map(map)) => match map.keys().first() {
            None => true,
            Some(key) => {
                let key = key.value();
                is_of(&entry.0, &key) && map.get(&key).ok().flatten().is_some_and(|v| is_of(&entry.1, &v))
            }
        },
        (Type::Opaque(name, of), Value::Optional(inner)) => {
            **name == *OPTIONAL && inner.as_ref().is_none_or(|v| of.first().is_none_or(|t| is_of(t, v)))
        }
        (Type::List(_) | Type::Map(_), _) => false,
        (Type::Type(_), Value::Type(_)) => true,
        (t, value) => t.name() == value.type_name(),
    }
}

/// Operators look at their first operand only, functions at all.
pub(crate) fn missing(function: &str, args: &[Value<'_>]) -> EvalError {
    let first = args.first();
    let able = match function {
        "_+_" => matches!(
            first,
            Some(
                Value::Bytes(_)
                    | Value::Double(_)
                    | Value::Duration(_)
                    | Value::Int(_)
                    | Value::List(_)
                    | Value::String(_)
                    | Value::Timestamp(_)
                    | Value::Uint(_)
            )
        ),
        "_-_" => matches!(
            first,
            Some(Value::Double(_) | Value::Duration(_) | Value::Int(_) | Value::Timestamp(_) | Value::Uint(_))
        ),
        "_*_" | "_/_" => matches!(first, Some(Value::Double(_) | Value::Int(_) | Value::Uint(_))),
        "_%_" => matches!(first, Some(Value::Int(_) | Value::Uint(_))),
        "-_" => matches!(first, Some(Value::Double(_) | Value::Int(_) | Value::Duration(_))),
        "_<_" | "_<=_" | "_>_" | "_>=_" => !matches!(
            first,
            Some(
                Value::Null
                    | Value::List(_)
                    | Value::Map(_)
                    | Value::Optional(_)
                    | Value::Type(_)
                    | Value::Struct(_)
                    | Value::Opaque(_)
                    | Value::Unknown(_)
            )
        ),
        "matches" => matches!(first, Some(Value::String(_))),
        "size" => false,
        "!_" | "@in" => true,
        _ => {
            let types: Vec<&str> = args.iter().map(Value::type_name).collect();
            return EvalError::new(format!("no such overload: {function}({})", types.join(", ")));
        }
    };
    if able { EvalError::no_such_overload() } else { EvalError::new(format!("no such overload: {function}")) }
}

/// What upstream's implementation calls the type of a value, where that shows.
pub(crate) fn go_name(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "types.Null",
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::String(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Duration(_) => "types.Duration",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Type(_) => "*types.Type",
        Value::Optional(_) => "*types.Optional",
        _ => "ref.Val",
    }
}
