//! Equality, order and arithmetic.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::EvalError;
use crate::time;
use crate::value::Value;

/// What every output that costs do not bound beforehand is bounded by, in bytes.
pub(crate) const MAX_OUTPUT: usize = 32 << 20;

pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            numbers(a, b) == Some(Ordering::Equal)
        }
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::List(a), Value::List(b)) => return a.equals(b),
        (Value::Map(a), Value::Map(b)) => return a.equals(b),
        // Values with a schema refuse to be compared with other kinds.
        (Value::List(crate::list::List::Json(_, Some(_))) | Value::Map(crate::map::Map::Json(_, Some(_))), _) => {
            return Err(EvalError::no_such_overload());
        }
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => return equal(a, b),
            _ => false,
        },
        (Value::Struct(a), Value::Struct(b)) => {
            if a.name != b.name || a.fields.len() != b.fields.len() {
                return Ok(false);
            }
            for ((name, x), (other, y)) in a.fields.iter().zip(&b.fields) {
                if name != other || !equal(x, y)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Unknown(a), Value::Unknown(b)) => a == b,
        (Value::Opaque(a), Value::Opaque(b)) => {
            return a.equals(b).ok_or_else(EvalError::no_such_overload);
        }
        (Value::Opaque(_), _) => return Err(EvalError::no_such_overload()),
        _ => false,
    })
}

/// Numbers of any two types; none where one is no number.
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Double(a), _) => double_to_whole(*a, whole(b)?),
        (_, Value::Double(b)) => double_to_whole(*b, whole(a)?).map(Ordering::reverse),
        _ => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

fn whole(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(i) => Some(i128::from(*i)),
        Value::Uint(u) => Some(i128::from(*u)),
        _ => None,
    }
}

fn double_to_whole(a: f64, b: i128) -> Option<Ordering> {
    if a.is_nan() {
        return None;
    }
    if a >= 2f64.powi(64) {
        return Some(Ordering::Greater);
    }
    if a < -(2f64.powi(63)) {
        return Some(Ordering::Less);
    }
    a.partial_cmp(&(b as f64))
}

pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering, EvalError> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            numbers(a, b).ok_or_else(|| EvalError::new("NaN values cannot be ordered"))
        }
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Ok(a.as_bytes().cmp(b.as_bytes())),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.cmp(b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn int_overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn uint_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn duration_overflow() -> EvalError {
    EvalError::new("duration overflow")
}

pub(crate) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            if a.len() + b.len() > MAX_OUTPUT {
                return Err(EvalError::cost_limit());
            }
            let mut text = String::with_capacity(a.len() + b.len());
            text.push_str(a);
            text.push_str(b);
            Value::string(text)
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            if a.len() + b.len() > MAX_OUTPUT {
                return Err(EvalError::cost_limit());
            }
            Value::Bytes(Arc::from([&**a, &**b].concat()))
        }
        (Value::List(a), Value::List(b)) => Value::List(a.concat(b)?),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(*b).ok_or_else(duration_overflow)?),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            Value::Timestamp(time::plus(*t, *d)?)
        }
        _ => return Err(EvalError::no_such_overload()),
    })
}

pub(crate) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or_else(uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_sub(*b).ok_or_else(duration_overflow)?),
        (Value::Timestamp(t), Value::Duration(d)) => {
            Value::Timestamp(time::plus(*t, d.checked_neg().ok_or_else(time::overflow)?)?)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = a.nanos() - b.nanos();
            Value::Duration(i64::try_from(nanos).map_err(|_| duration_overflow())?)
        }
        _ => return Err(EvalError::no_such_overload()),
    })
}

pub(crate) fn multiply<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_mul(*b).ok_or_else(uint_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a * b),
        _ => return Err(EvalError::no_such_overload()),
    })
}

pub(crate) fn divide<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("division by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a / b),
        (Value::Double(a), Value::Double(b)) => Value::Double(a / b),
        _ => return Err(EvalError::no_such_overload()),
    })
}

pub(crate) fn modulo<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("modulus by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_rem(*b).ok_or_else(int_overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a % b),
        _ => return Err(EvalError::no_such_overload()),
    })
}

pub(crate) fn negate<'a>(a: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(match a {
        Value::Int(a) => Value::Int(a.checked_neg().ok_or_else(int_overflow)?),
        Value::Double(a) => Value::Double(-a),
        Value::Duration(a) => Value::Duration(a.checked_neg().ok_or_else(duration_overflow)?),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// `in`, for lists and maps.
pub(crate) fn contains<'a>(value: &Value<'a>, container: &Value<'a>) -> Result<bool, EvalError> {
    match container {
        Value::List(list) => list.contains(value),
        Value::Map(map) => map.contains(value),
        _ => Err(EvalError::no_such_overload()),
    }
}
