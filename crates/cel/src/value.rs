//! Values of an evaluation. What comes from an object stays where it is: values refer to its tree.

use kybern_apimachinery::go;
use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::Value as Json;

use crate::error::EvalError;
use crate::list::List;
use crate::map::{Map, MapKey};
use crate::opaque::Opaque;
use crate::schema::{DeclKind, DeclType};
use crate::time::Time;

/// Values are not nested deeper than this: comparing and dropping them recurses.
pub(crate) const MAX_DEPTH: u16 = 500;

/// A value; cheap to clone.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Str<'a>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Time),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Arc<Value<'a>>>),
    /// A type, by its name.
    Type(Arc<str>),
    /// What `Object{}` and `JSONPatch{}` make.
    Struct(Arc<Struct<'a>>),
    /// A value that only its library looks into.
    Opaque(Arc<Opaque>),
    /// Preserved without a schema: it can be compared, and no more.
    Unknown(&'a Json),
}

/// A text, of the object or of the evaluation.
#[derive(Clone, Debug)]
pub enum Str<'a> {
    Borrowed(&'a str),
    Shared(Arc<str>),
}

impl std::ops::Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

/// An object that an expression made.
#[derive(Debug)]
pub struct Struct<'a> {
    pub name: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Value<'a>>,
    pub(crate) depth: u16,
}

impl<'a> Value<'a> {
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(Str::Shared(text.into()))
    }

    pub fn borrowed(text: &'a str) -> Self {
        Self::String(Str::Borrowed(text))
    }

    /// What may be there.
    pub fn optional(value: Option<Self>) -> Self {
        Self::Optional(value.map(Arc::new))
    }

    /// A list of texts.
    pub fn strings(texts: impl IntoIterator<Item = String>) -> Self {
        Self::List(List::of(texts.into_iter().map(Self::string).collect()))
    }

    /// A value of an object's tree, without a schema.
    pub fn json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(number) => match number.as_i64() {
                Some(int) => Self::Int(int),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::borrowed(text),
            Json::Array(items) => Self::List(List::Json(items, None)),
            Json::Object(fields) => Self::Map(Map::Json(fields, None)),
        }
    }

    /// A value of an object's tree as its schema says; an error where it is not of that form.
    pub fn typed(json: &'a Json, schema: &'a DeclType) -> Result<Self, EvalError> {
        let wrong =
            |wanted: &str| EvalError::new(format!("invalid data, expected {wanted}, got {}", go::type_of(json)));
        if json.is_null() && !matches!(schema.kind, DeclKind::Unknown | DeclKind::Dyn) {
            if schema.nullable {
                return Ok(Self::Null);
            }
            return Err(EvalError::new("invalid data, got null for schema with nullable=false"));
        }
        Ok(match &schema.kind {
            DeclKind::Dyn => Self::json(json),
            DeclKind::Unknown => Self::Unknown(json),
            DeclKind::IntOrString => match json {
                Json::String(text) => Self::borrowed(text),
                Json::Number(n) if n.is_i64() => Self::Int(n.as_i64().unwrap_or_default()),
                _ => {
                    let message = "invalid data, expected XIntOrString value to be either a string or integer";
                    return Err(EvalError::new(message));
                }
            },
            DeclKind::Bool => Self::Bool(json.as_bool().ok_or_else(|| wrong("bool"))?),
            DeclKind::Int => Self::Int(json.as_i64().ok_or_else(|| wrong("int"))?),
            DeclKind::Double => Self::Double(json.as_f64().ok_or_else(|| wrong("float"))?),
            DeclKind::String => Self::borrowed(json.as_str().ok_or_else(|| wrong("string"))?),
            DeclKind::Bytes | DeclKind::Duration | DeclKind::Date | DeclKind::DateTime => {
                return schema.formatted(json.as_str().ok_or_else(|| wrong("string"))?);
            }
            DeclKind::List { .. } => match json {
                Json::Array(items) => Self::List(List::Json(items, Some(schema))),
                _ => {
                    let message = "invalid data, expected an array for the provided schema with type=array";
                    return Err(EvalError::new(message));
                }
            },
            DeclKind::Map { .. } | DeclKind::Object { .. } => match json {
                Json::Object(fields) => Self::Map(Map::Json(fields, Some(schema))),
                _ => {
                    let message = "invalid data, expected a map for the provided schema with type=object";
                    return Err(EvalError::new(message));
                }
            },
        })
    }

    /// The name of its type, as `type()` has it.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Struct(made) => &made.name,
            Self::Opaque(opaque) => opaque.type_name(),
            Self::Unknown(_) => "unknown",
        }
    }

    pub(crate) fn depth(&self) -> u16 {
        match self {
            Self::List(list) => list.depth(),
            Self::Map(map) => map.depth(),
            Self::Struct(made) => made.depth,
            Self::Optional(Some(inner)) => inner.depth() + 1,
            _ => 0,
        }
    }

    /// The size that costs are computed from: of texts in characters, of lists and maps in elements, else one.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(inner)) => inner.size(),
            Self::Opaque(opaque) => opaque.size(),
            _ => 1,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The tree that it is; an error for what JSON has no form for.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(b) => Json::Bool(*b),
            Self::Int(i) => Json::from(*i),
            Self::Uint(u) => Json::from(*u),
            Self::Double(d) => serde_json::Number::from_f64(*d)
                .map(Json::Number)
                .ok_or_else(|| EvalError::new(format!("the number {d} cannot be written as JSON")))?,
            Self::String(text) => Json::String(text.to_string()),
            Self::Bytes(bytes) => {
                use base64::Engine;
                Json::String(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Self::Duration(_) | Self::Timestamp(_) => Json::String(crate::convert::to_string(self)?.to_string()),
            Self::List(list) => Json::Array((0..list.len()).map(|i| list.get(i)?.to_json()).collect::<Result<_, _>>()?),
            Self::Map(map) => {
                let mut fields = serde_json::Map::new();
                map.try_each(&mut |key, value| {
                    let MapKey::String(name) = key else {
                        return Err(EvalError::new(format!("map key {} is not a string", key.value().display())));
                    };
                    fields.insert(name.to_string(), value.to_json()?);
                    Ok(())
                })?;
                Json::Object(fields)
            }
            Self::Struct(made) => {
                let mut fields = serde_json::Map::new();
                for (name, value) in &made.fields {
                    fields.insert(name.to_string(), value.to_json()?);
                }
                Json::Object(fields)
            }
            Self::Unknown(json) => (*json).clone(),
            Self::Optional(_) | Self::Type(_) | Self::Opaque(_) => {
                return Err(EvalError::new(format!("a value of type {} cannot be written as JSON", self.type_name())));
            }
        })
    }

    /// As upstream writes it into an error.
    pub(crate) fn display(&self) -> String {
        match self {
            Self::Null => "NULL_VALUE".to_owned(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Uint(u) => u.to_string(),
            Self::Double(d) => crate::text::float(*d),
            Self::String(text) => text.to_string(),
            Self::Type(name) => name.to_string(),
            other => crate::convert::to_string(other)
                .ok()
                .map_or_else(|| other.type_name().to_owned(), |text| text.to_string()),
        }
    }
}
