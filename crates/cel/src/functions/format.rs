//! `"…".format([…])`, in the version of the strings library that Kubernetes has: numbers are written as in American English.

use std::fmt::Write;

use crate::error::EvalError;
use crate::list::List;
use crate::map::MapKey;
use crate::ops::MAX_OUTPUT;
use crate::value::Value;
use crate::{convert, text};

/// Go writes no number with more decimals.
const MAX_PRECISION: usize = 1_000;

/// What a clause does with its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clause {
    Text,
    Decimal,
    Fixed(usize),
    Scientific,
    Binary,
    Hex { upper: bool },
    Octal,
}

impl Clause {
    /// The complaint about an argument of the type.
    pub(crate) fn refusal(self, type_name: &str) -> String {
        let rule = match self {
            Self::Text => {
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, \
                 and timestamps"
            }
            Self::Decimal => "decimal clause can only be used on integers",
            Self::Fixed(_) => "fixed-point clause can only be used on doubles",
            Self::Scientific => "scientific clause can only be used on doubles",
            Self::Binary => "only integers and bools can be formatted as binary",
            Self::Hex { .. } => "only integers, byte buffers, and strings can be formatted as hex",
            Self::Octal => "octal clause can only be used on integers",
        };
        format!("error during formatting: {rule}, was given {type_name}")
    }
}

/// A piece of a format.
#[derive(Debug)]
pub(crate) enum Piece<'f> {
    Plain(&'f str),
    Clause(Clause),
}

/// Takes a format apart, in order; `each` gets the number of the argument with a clause.
pub(crate) fn pieces<'f, E: From<String>>(
    format: &'f str,
    arguments: usize,
    mut each: impl FnMut(Piece<'f>, usize) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = format;
    let mut index = 0;
    while let Some(at) = rest.find('%') {
        each(Piece::Plain(&rest[..at]), index)?;
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            each(Piece::Plain("%"), index)?;
            rest = after;
            continue;
        }
        if index >= arguments {
            return Err(format!("index {index} out of range").into());
        }
        if rest.is_empty() {
            return Err("unexpected end of string".to_owned().into());
        }
        let (clause, after) = clause(rest).map_err(|e| format!("could not parse formatting clause: {e}"))?;
        each(Piece::Clause(clause), index)?;
        index += 1;
        rest = after;
    }
    each(Piece::Plain(rest), index)
}

fn clause(text: &str) -> Result<(Clause, &str), String> {
    let (precision, rest) = match text.strip_prefix('.') {
        None => (6, text),
        Some(rest) => {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            if length == rest.len() {
                return Err("error while parsing precision: could not find end of precision specifier".to_owned());
            }
            let digits = &rest[..length];
            let precision: usize = digits.parse().map_err(|_| {
                let what = "error while parsing precision: error while converting precision to integer: strconv.Atoi";
                format!("{what}: parsing {}: invalid syntax", text::quote(digits))
            })?;
            (precision.min(MAX_PRECISION), &rest[length..])
        }
    };
    let kind = rest.chars().next().unwrap_or(' ');
    let clause = match kind {
        's' => Clause::Text,
        'd' => Clause::Decimal,
        'f' => Clause::Fixed(precision),
        'e' => Clause::Scientific,
        'b' => Clause::Binary,
        'x' => Clause::Hex { upper: false },
        'X' => Clause::Hex { upper: true },
        'o' => Clause::Octal,
        other => return Err(format!("unrecognized formatting clause \"{other}\"")),
    };
    Ok((clause, &rest[kind.len_utf8()..]))
}

/// An error of a format, or of the evaluation.
struct Failed(EvalError);

impl From<String> for Failed {
    fn from(message: String) -> Self {
        Self(EvalError::new(message))
    }
}

pub(super) fn format(format: &str, arguments: &List<'_>) -> Result<String, EvalError> {
    let mut out = String::new();
    pieces(format, arguments.len(), |piece, index| {
        match piece {
            Piece::Plain(text) => out.push_str(text),
            Piece::Clause(clause) => {
                let value = arguments.get(index).map_err(Failed)?;
                write_clause(&mut out, clause, &value)?;
            }
        }
        if out.len() > MAX_OUTPUT { Err(Failed(EvalError::cost_limit())) } else { Ok(()) }
    })
    .map_err(|Failed(error)| error)?;
    Ok(out)
}

fn write_clause(out: &mut String, clause: Clause, value: &Value<'_>) -> Result<(), Failed> {
    let refused = || Failed::from(clause.refusal(value.type_name()));
    match (clause, value) {
        (Clause::Text, value) => out.push_str(&plain(value).ok_or_else(refused)?),
        (Clause::Decimal, Value::Int(i)) => out.push_str(&i.to_string()),
        (Clause::Decimal, Value::Uint(u)) => out.push_str(&u.to_string()),
        (Clause::Fixed(precision), value) => {
            out.push_str(&fixed(double(value).ok_or_else(refused)?, precision));
        }
        (Clause::Scientific, value) => out.push_str(&scientific(double(value).ok_or_else(refused)?)),
        (Clause::Binary, Value::Bool(b)) => out.push(if *b { '1' } else { '0' }),
        (Clause::Binary, Value::Uint(u)) => out.push_str(&format!("{u:b}")),
        (Clause::Binary, Value::Int(i)) => out.push_str(&signed(*i, |m| format!("{m:b}"))),
        (Clause::Octal, Value::Uint(u)) => out.push_str(&format!("{u:o}")),
        (Clause::Octal, Value::Int(i)) => out.push_str(&signed(*i, |m| format!("{m:o}"))),
        (Clause::Hex { upper }, value) => {
            let text = match value {
                Value::Int(i) => signed(*i, |m| format!("{m:x}")),
                Value::Uint(u) => format!("{u:x}"),
                Value::String(text) => hex(text.as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => return Err(refused()),
            };
            out.push_str(&if upper { text.to_uppercase() } else { text });
        }
        _ => return Err(refused()),
    }
    Ok(())
}

fn signed(number: i64, write: impl Fn(u64) -> String) -> String {
    let magnitude = write(number.unsigned_abs());
    if number < 0 { format!("-{magnitude}") } else { magnitude }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(d) => Some(*d),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(number: f64) -> Option<&'static str> {
    if number.is_nan() {
        Some("NaN")
    } else if number.is_infinite() {
        Some(if number > 0.0 { "∞" } else { "-∞" })
    } else {
        None
    }
}

/// With commas between thousands.
fn fixed(number: f64, precision: usize) -> String {
    if let Some(special) = special(number) {
        return special.to_owned();
    }
    let plain = format!("{:.precision$}", number.abs());
    let (whole, fraction) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let mut text = String::from(if number.is_sign_negative() { "-" } else { "" });
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text + fraction
}

fn scientific(number: f64) -> String {
    if let Some(special) = special(number) {
        return special.to_owned();
    }
    let plain = text::scientific(number, 6);
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "+00"));
    let raised: String = exponent
        .chars()
        .filter_map(|c| match c {
            '-' => Some('\u{207b}'),
            '1' => Some('\u{b9}'),
            '2' => Some('\u{b2}'),
            '3' => Some('\u{b3}'),
            digit => digit.to_digit(10).and_then(|d| char::from_u32(0x2070 + d)),
        })
        .collect();
    format!("{mantissa}\u{202f}×\u{202f}10{raised}")
}

/// As `%s` writes it; none for what has no such form.
fn plain(value: &Value<'_>) -> Option<String> {
    match value {
        Value::List(_) | Value::Map(_) => nested(value),
        Value::Null => Some("null".to_owned()),
        Value::Optional(_) | Value::Struct(_) | Value::Opaque(_) | Value::Unknown(_) => None,
        other => Some(convert::to_string(other).ok()?.to_string()),
    }
}

/// Within a list or a map: as a literal.
fn nested(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::String(text) => text::quote(text),
        Value::Bytes(bytes) => format!("b{}", text::quote(&String::from_utf8_lossy(bytes))),
        Value::Double(d) if !d.is_finite() => text::quote(&text::float(*d)),
        Value::Double(d) => format!("{d:.6}"),
        Value::Timestamp(_) => format!("timestamp({})", text::quote(&plain(value)?)),
        Value::Duration(_) => format!("duration({})", text::quote(&plain(value)?)),
        Value::List(list) => {
            let mut text = String::from("[");
            for (i, item) in list.iter().enumerate() {
                text.push_str(if i > 0 { ", " } else { "" });
                text.push_str(&nested(&item.ok()?)?);
                if text.len() > MAX_OUTPUT {
                    return None;
                }
            }
            text + "]"
        }
        Value::Map(map) => {
            let mut pairs = Vec::new();
            map.try_each(&mut |key, value| {
                let key = match key {
                    MapKey::String(text) => text::quote(text),
                    other => other.value().display(),
                };
                let value = nested(&value).ok_or_else(|| EvalError::new("no formatting function"))?;
                pairs.push(format!("{key}:{value}"));
                Ok(())
            })
            .ok()?;
            pairs.sort();
            format!("{{{}}}", pairs.join(", "))
        }
        other => plain(other)?,
    })
}
