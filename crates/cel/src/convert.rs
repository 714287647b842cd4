//! Conversions between types: `int()`, `string()` and the rest.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::value::{Str, Value};
use crate::{text, time};

pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

fn failed(value: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

pub(crate) fn to_string<'a>(value: &Value<'a>) -> Result<Str<'a>, EvalError> {
    let text = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => text::float(*d),
        Value::Bytes(bytes) => std::str::from_utf8(bytes)
            .map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?
            .to_owned(),
        Value::Duration(nanos) => time::duration_to_string(*nanos),
        Value::Timestamp(t) => time::to_string(*t)?,
        Value::Type(name) => return Ok(Str::Shared(name.clone())),
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Ip(ip) => ip.to_string(),
            Opaque::Cidr(ip, bits) => format!("{ip}/{bits}"),
            _ => return Err(failed(value, "string")),
        },
        _ => return Err(failed(value, "string")),
    };
    Ok(Str::Shared(text.into()))
}

pub(crate) fn to_int<'a>(value: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(Value::Int(match value {
        Value::Int(i) => *i,
        Value::Uint(u) => i64::try_from(*u).map_err(|_| EvalError::new("integer overflow"))?,
        Value::Double(d) => {
            if !d.is_finite() || *d <= -(2f64.powi(63)) || *d >= 2f64.powi(63) {
                return Err(EvalError::new("integer overflow"));
            }
            *d as i64
        }
        Value::String(text) => go_int(text).ok_or_else(|| failed(value, "int"))?,
        Value::Duration(nanos) => *nanos,
        Value::Timestamp(t) => t.seconds(),
        _ => return Err(failed(value, "int")),
    }))
}

fn go_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

pub(crate) fn to_uint<'a>(value: &Value<'a>) -> Result<Value<'a>, EvalError> {
    let overflow = || EvalError::new("unsigned integer overflow");
    Ok(Value::Uint(match value {
        Value::Uint(u) => *u,
        Value::Int(i) => u64::try_from(*i).map_err(|_| overflow())?,
        Value::Double(d) => {
            if !d.is_finite() || *d < 0.0 || *d >= 2f64.powi(64) {
                return Err(overflow());
            }
            *d as u64
        }
        Value::String(text) if !text.starts_with('+') => text.parse().map_err(|_| failed(value, "uint"))?,
        _ => return Err(failed(value, "uint")),
    }))
}

pub(crate) fn to_double<'a>(value: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(Value::Double(match value {
        Value::Double(d) => *d,
        Value::Int(i) => *i as f64,
        Value::Uint(u) => *u as f64,
        Value::String(text) => {
            let number: f64 = text.parse().map_err(|_| failed(value, "double"))?;
            let named = text.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_alphabetic());
            if number.is_infinite() && !named {
                return Err(failed(value, "double"));
            }
            number
        }
        _ => return Err(failed(value, "double")),
    }))
}

pub(crate) fn to_bool<'a>(value: &Value<'a>) -> Result<Value<'a>, EvalError> {
    Ok(Value::Bool(match value {
        Value::Bool(b) => *b,
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => true,
            "0" | "f" | "F" | "FALSE" | "false" | "False" => false,
            _ => return Err(failed(value, "bool")),
        },
        _ => return Err(failed(value, "bool")),
    }))
}

pub(crate) fn to_bytes<'a>(value: &Value<'a>) -> Result<Value<'a>, EvalError> {
    match value {
        Value::Bytes(_) => Ok(value.clone()),
        Value::String(text) => Ok(Value::Bytes(Arc::from(text.as_bytes()))),
        _ => Err(failed(value, "bytes")),
    }
}

pub(crate) fn to_duration<'a>(value: &Value<'a>) -> Result<Value<'a>, EvalError> {
    match value {
        Value::Duration(_) => Ok(value.clone()),
        Value::String(text) => {
            time::parse_duration(text).map(Value::Duration).ok_or_else(|| failed(value, "google.protobuf.Duration"))
        }
        _ => Err(failed(value, "google.protobuf.Duration")),
    }
}

pub(crate) fn to_timestamp<'a>(value: &Value<'a>) -> Result<Value<'a>, EvalError> {
    match value {
        Value::Timestamp(_) => Ok(value.clone()),
        Value::Int(seconds) => time::Time::from_seconds(*seconds).map(Value::Timestamp).ok_or_else(time::overflow),
        Value::String(text) => {
            time::parse(text).map(Value::Timestamp).ok_or_else(|| failed(value, "google.protobuf.Timestamp"))
        }
        _ => Err(failed(value, "google.protobuf.Timestamp")),
    }
}
