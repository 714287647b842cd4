//! Scalars: Go's rules for what fits which type, and canonical notations.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::time::{parse_rfc3339, to_rfc3339, to_rfc3339_micro};
use kybern_apimachinery::{Value, go};

use crate::duration;
use crate::types::{Schema, Type};

pub(super) enum Problem {
    /// What was found where another type belongs: `string`, `number 1.5`.
    Type(String),
    /// The same, and the Go type that a type with a decoder of its own reads.
    Inner(String, &'static str),
    /// The whole error text for a string in a wrong notation.
    Notation(String),
}

/// A bool, number or string as a value of a type.
pub(super) fn read(ty: &Type, found: Value) -> Result<Value, Problem> {
    match (ty, &found) {
        (Type::Any | Type::RawExtension, _)
        | (Type::Bool, Value::Bool(_))
        | (Type::String, Value::String(_))
        | (Type::IntOrString, Value::String(_)) => Ok(found),
        (Type::Int32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(found),
        (Type::Int64, Value::Number(n)) if n.is_i64() => Ok(found),
        (Type::Int32 | Type::Int64, Value::Number(n)) => Err(Problem::Type(format!("number {n}"))),
        (Type::IntOrString, Value::Number(n)) => match n.as_i64().map(i32::try_from) {
            Some(Ok(_)) => Ok(found),
            _ => Err(Problem::Inner(format!("number {n}"), "int32")),
        },
        (Type::IntOrString, _) => Err(Problem::Inner(go::json_name(&found).to_owned(), "int32")),
        (Type::Double, Value::Number(_)) => Ok(canonical(ty, found)),
        (Type::Quantity, Value::Number(n)) => quantity(&n.to_string()),
        (Type::Quantity, Value::String(s)) => quantity(s.trim()),
        (Type::Quantity, _) => quantity(&found.to_string()),
        (Type::Bytes, Value::String(s)) => bytes(s),
        (Type::Time, Value::String(s)) => match parse_rfc3339(s) {
            Some(time) => Ok(to_rfc3339(time).into()),
            None => Err(bad_time(s, "2006-01-02T15:04:05Z07:00")),
        },
        (Type::MicroTime, Value::String(s)) => match parse_rfc3339(s) {
            Some(time) => Ok(to_rfc3339_micro(time).into()),
            None => Err(bad_time(s, "2006-01-02T15:04:05.000000Z07:00")),
        },
        (Type::Duration, Value::String(s)) => match duration::parse(s) {
            Some(nanos) => Ok(duration::format(nanos).into()),
            None => Err(Problem::Notation(format!("time: invalid duration {s:?}"))),
        },
        (Type::Time | Type::MicroTime | Type::Duration, _) => {
            Err(Problem::Inner(go::json_name(&found).to_owned(), "string"))
        }
        _ => Err(Problem::Type(go::json_name(&found).to_owned())),
    }
}

/// The canonical form of what needs no check: numbers of a float field without a needless fraction.
pub(crate) fn canonical(ty: &Type, found: Value) -> Value {
    match (ty, found.as_f64()) {
        #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
        // Go writes `1.0` as `1`.
        (Type::Double | Type::Int64, Some(number))
            if number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0 =>
        {
            (number as i64).into()
        }
        _ => found,
    }
}

fn quantity(text: &str) -> Result<Value, Problem> {
    match Quantity::parse(text) {
        Ok(quantity) => Ok(quantity.to_string().into()),
        Err(problem) => Err(Problem::Notation(problem.to_owned())),
    }
}

/// Go's base64 decoder skips line ends, and does not mind bits that are left over.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

fn bytes(text: &str) -> Result<Value, Problem> {
    let wrapped = text.contains(['\n', '\r']);
    let unwrapped: String;
    let plain = if wrapped {
        unwrapped = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        &unwrapped
    } else {
        text
    };
    if STANDARD.decode(plain).is_ok() {
        return Ok(plain.into());
    }
    match LENIENT.decode(plain) {
        Ok(bytes) => Ok(STANDARD.encode(bytes).into()),
        Err(_) => {
            let at = corrupt_at(text.as_bytes());
            Err(Problem::Notation(format!("illegal base64 data at input byte {at}")))
        }
    }
}

/// Where Go's decoder sees the first fault.
fn corrupt_at(text: &[u8]) -> usize {
    let is_end = |at: usize| matches!(text.get(at), Some(b'\n' | b'\r'));
    let mut at = 0;
    // The place within four characters.
    let mut place = 0;
    while let Some(&c) = text.get(at) {
        at += 1;
        match c {
            b'\n' | b'\r' => {}
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => place = (place + 1) % 4,
            b'=' if place >= 2 => {
                if place == 2 {
                    while is_end(at) {
                        at += 1;
                    }
                    match text.get(at) {
                        None => return text.len(),
                        Some(b'=') => at += 1,
                        Some(_) => return at - 1,
                    }
                }
                while is_end(at) {
                    at += 1;
                }
                return at;
            }
            _ => return at - 1,
        }
    }
    at - place
}

/// Go's refusal of a time: what does not belong behind one, or else the whole.
fn bad_time(text: &str, layout: &str) -> Problem {
    let quoted = go_time_quote(text);
    let whole = text
        .char_indices()
        .map(|(at, _)| at)
        .skip(20)
        .find(|at| matches!(text.as_bytes()[at - 1], b'Z' | b'0'..=b'9') && parse_rfc3339(&text[..*at]).is_some());
    if let Some(end) = whole {
        return Problem::Notation(format!("parsing time {quoted}: extra text: {}", go_time_quote(&text[end..])));
    }
    Problem::Notation(format!("parsing time {quoted} as {layout:?}: cannot parse {quoted} as \"2006\""))
}

/// As Go's package `time` quotes: bytes beyond ASCII one by one.
fn go_time_quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(byte)]),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => {
                let _ = write!(quoted, "\\x{byte:02x}");
            }
        }
    }
    quoted.push('"');
    quoted
}

/// Go's name of a type, as error texts have it: `int32`, `[]v1.Container`, `map[string]string`.
pub(super) fn go_name(schema: &Schema, ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Double => "float64".into(),
        Type::String => "string".into(),
        Type::Bytes => "[]uint8".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::Duration => "v1.Duration".into(),
        Type::FieldsV1 => "v1.FieldsV1".into(),
        Type::RawExtension => "runtime.RawExtension".into(),
        Type::Any => "interface {}".into(),
        Type::Struct(id) => {
            let name = &schema.get(*id).name;
            let package = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
            name[package..].to_owned()
        }
        Type::List(list) => format!("[]{}", go_name(schema, &list.item)),
        Type::Map(map) => format!("map[string]{}", go_name(schema, &map.value)),
        Type::Either(either) => go_name(schema, &either.object),
    }
}
