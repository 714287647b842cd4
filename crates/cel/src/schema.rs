//! Declared types: how the fields of an object are called and typed, how large they can be, and which form their values have.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::Value as Json;

use crate::error::EvalError;
use crate::escape::escape;
use crate::types::Type;
use crate::value::Value;
use crate::{convert, time};

/// The largest request that is accepted, from which sizes follow where a schema sets none.
pub const MAX_REQUEST_SIZE: i64 = 3 * 1024 * 1024;

/// A type with what a schema says of it.
#[derive(Clone, Debug)]
pub struct DeclType {
    pub kind: DeclKind,
    pub nullable: bool,
    /// The most elements, characters or bytes that a value can have.
    pub max_elements: i64,
    /// The fewest bytes that a value takes in JSON.
    pub min_size: i64,
}

#[derive(Clone, Debug)]
pub enum DeclKind {
    /// Anything.
    Dyn,
    IntOrString,
    Bool,
    Int,
    Double,
    String,
    /// Texts in base64.
    Bytes,
    Duration,
    Date,
    DateTime,
    List {
        element: Arc<DeclType>,
        list: ListKind,
    },
    Map {
        value: Arc<DeclType>,
    },
    /// By its escaped field names.
    Object {
        name: Arc<str>,
        fields: BTreeMap<String, DeclField>,
    },
    /// Kept as it is, without a schema: rules do not see it.
    Unknown,
}

#[derive(Clone, Debug)]
pub struct DeclField {
    pub of: Arc<DeclType>,
    pub required: bool,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<String>),
}

impl DeclType {
    pub fn new(kind: DeclKind, min_size: i64) -> Self {
        Self { kind, nullable: false, max_elements: 0, min_size }
    }

    /// An object type from its fields, as for the variables of an environment.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, DeclType)>) -> Self {
        let fields = fields
            .into_iter()
            .map(|(name, of)| {
                let key = escape(name).map_or_else(|| name.to_owned(), |key| key.into_owned());
                (key, DeclField { of: Arc::new(of), required: false })
            })
            .collect();
        Self::new(DeclKind::Object { name: name.into(), fields }, 2)
    }

    pub fn string() -> Self {
        Self { max_elements: MAX_REQUEST_SIZE - 2, ..Self::new(DeclKind::String, 2) }
    }

    pub fn bool() -> Self {
        Self::new(DeclKind::Bool, 4)
    }

    pub fn int() -> Self {
        Self::new(DeclKind::Int, 1)
    }

    pub fn timestamp() -> Self {
        Self { max_elements: 32, ..Self::new(DeclKind::DateTime, 21) }
    }

    pub fn dynamic() -> Self {
        Self::new(DeclKind::Dyn, 1)
    }

    pub fn list(element: Self) -> Self {
        let max_elements = max_items(element.min_size);
        let kind = DeclKind::List { element: Arc::new(element), list: ListKind::Atomic };
        Self { max_elements, ..Self::new(kind, 2) }
    }

    pub fn map(value: Self) -> Self {
        let max_elements = max_properties(value.min_size);
        Self { max_elements, ..Self::new(DeclKind::Map { value: Arc::new(value) }, 2) }
    }

    /// What an OpenAPI (structural) schema declares; none where expressions do not see values of it. The root of a resource
    /// has `apiVersion`, `kind` and some of `metadata` in any case.
    pub fn from_schema(schema: &Json, resource_root: bool) -> Option<Self> {
        let mut declared = build(schema, resource_root)?;
        declared.nullable = schema["nullable"].as_bool().unwrap_or(false);
        Some(declared)
    }

    /// The type with names for it and the object types within: `self.spec` and so on.
    pub fn named(self, name: &str) -> Self {
        let kind = match self.kind {
            DeclKind::Object { name: own, fields } => {
                let name = if *own == *"object" { name } else { &own };
                let fields = fields
                    .into_iter()
                    .map(|(key, field)| {
                        let of = unshared(field.of).named(&format!("{name}.{key}"));
                        (key, DeclField { of: Arc::new(of), required: field.required })
                    })
                    .collect();
                DeclKind::Object { name: name.into(), fields }
            }
            DeclKind::Map { value } => {
                DeclKind::Map { value: Arc::new(unshared(value).named(&format!("{name}.@elem"))) }
            }
            DeclKind::List { element, list } => {
                DeclKind::List { element: Arc::new(unshared(element).named(&format!("{name}.@idx"))), list }
            }
            kind => kind,
        };
        Self { kind, ..self }
    }

    /// The type as the checker has it.
    pub fn cel_type(&self) -> Type {
        match &self.kind {
            DeclKind::Dyn | DeclKind::IntOrString | DeclKind::Unknown => Type::Dyn,
            DeclKind::Bool => Type::Bool,
            DeclKind::Int => Type::Int,
            DeclKind::Double => Type::Double,
            DeclKind::String => Type::String,
            DeclKind::Bytes => Type::Bytes,
            DeclKind::Duration => Type::Duration,
            DeclKind::Date | DeclKind::DateTime => Type::Timestamp,
            DeclKind::List { element, .. } => Type::list(element.cel_type()),
            DeclKind::Map { value } => Type::map(Type::String, value.cel_type()),
            DeclKind::Object { name, .. } => Type::Object(name.clone()),
        }
    }

    /// A text in its format.
    pub(crate) fn formatted<'a>(&self, text: &str) -> Result<Value<'a>, EvalError> {
        let parsed = match self.kind {
            DeclKind::Duration => time::parse_loose_duration(text).map(Value::Duration).ok_or("duration"),
            DeclKind::Date => time::parse_date(text).map(Value::Timestamp).ok_or("date formatted string"),
            DeclKind::DateTime => {
                time::parse_loose_date_time(text).map(Value::Timestamp).ok_or("date-time formatted string")
            }
            _ => convert::base64(text).map(|b| Value::Bytes(b.into())).ok_or("byte formatted string"),
        };
        parsed.map_err(|what| EvalError::new(format!("Invalid {what} {text}: it is not of that format")))
    }
}

fn unshared(shared: Arc<DeclType>) -> DeclType {
    Arc::try_unwrap(shared).unwrap_or_else(|shared| (*shared).clone())
}

fn max_items(element: i64) -> i64 {
    (MAX_REQUEST_SIZE - 2) / (element + 1)
}

fn max_properties(value: i64) -> i64 {
    (MAX_REQUEST_SIZE - 2) / (value + 6)
}

fn flag(schema: &Json, name: &str) -> bool {
    schema[name].as_bool().unwrap_or(false)
}

fn limit(schema: &Json, name: &str) -> Option<i64> {
    schema[name].as_i64().map(|n| n.max(0))
}

fn build(schema: &Json, resource_root: bool) -> Option<DeclType> {
    if flag(schema, "x-kubernetes-int-or-string") {
        let max_elements = limit(schema, "maxLength").map_or(MAX_REQUEST_SIZE - 2, |n| n.saturating_mul(4));
        return Some(DeclType { max_elements, ..DeclType::new(DeclKind::IntOrString, 1) });
    }
    let kind = if resource_root { "object" } else { schema["type"].as_str().unwrap_or_default() };
    let embedded = |schema: &Json| flag(schema, "x-kubernetes-embedded-resource");
    match kind {
        "array" => {
            let items = schema.get("items")?;
            let element = DeclType::from_schema(items, embedded(items))?;
            let max_elements = limit(schema, "maxItems").unwrap_or_else(|| max_items(element.min_size));
            let list = match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(
                    schema["x-kubernetes-list-map-keys"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Json::as_str)
                        .map(|key| escape(key).map_or_else(|| key.to_owned(), |k| k.into_owned()))
                        .collect(),
                ),
                _ => ListKind::Atomic,
            };
            Some(DeclType { max_elements, ..DeclType::new(DeclKind::List { element: Arc::new(element), list }, 2) })
        }
        "object" => object(schema, resource_root),
        "string" => Some(string(schema)),
        "boolean" => Some(DeclType::bool()),
        "number" => Some(DeclType::new(DeclKind::Double, 1)),
        "integer" => Some(DeclType::int()),
        _ => None,
    }
}

fn object(schema: &Json, resource_root: bool) -> Option<DeclType> {
    let additional = &schema["additionalProperties"];
    if additional.is_object() {
        let value = DeclType::from_schema(additional, flag(additional, "x-kubernetes-embedded-resource"))?;
        let max_elements = limit(schema, "maxProperties").unwrap_or_else(|| max_properties(value.min_size));
        return Some(DeclType { max_elements, ..DeclType::new(DeclKind::Map { value: Arc::new(value) }, 2) });
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let mut fields = BTreeMap::new();
    let mut min_size = 2;
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let Some(of) = DeclType::from_schema(property, flag(property, "x-kubernetes-embedded-resource")) else {
            continue;
        };
        let is_required = required.contains(&name.as_str());
        // What has a default is filled in by the server.
        if is_required && property.get("default").is_none_or(Json::is_null) {
            min_size += name.len() as i64 + of.min_size + 4;
        }
        if let Some(key) = escape(name) {
            fields.insert(key.into_owned(), DeclField { of: Arc::new(of), required: is_required });
        }
    }
    if resource_root {
        let text = || DeclField { of: Arc::new(DeclType::string()), required: false };
        for name in ["kind", "apiVersion"] {
            fields.entry(name.to_owned()).or_insert_with(text);
        }
        let metadata = schema["properties"]["metadata"]["properties"].as_object();
        if !metadata.is_some_and(|m| m.contains_key("name") && m.contains_key("generateName")) {
            let of = DeclType::object("object", [("name", DeclType::string()), ("generateName", DeclType::string())]);
            fields.insert("metadata".to_owned(), DeclField { of: Arc::new(of), required: false });
        }
    }
    Some(DeclType::new(DeclKind::Object { name: "object".into(), fields }, min_size))
}

fn string(schema: &Json) -> DeclType {
    let (kind, min_size, max) = match schema["format"].as_str() {
        Some("byte") => {
            let max = limit(schema, "maxLength").unwrap_or(MAX_REQUEST_SIZE - 2);
            (DeclKind::Bytes, 2, max)
        }
        Some("duration") => (DeclKind::Duration, 3, 32),
        Some("date") => (DeclKind::Date, 12, 12),
        Some("date-time") => (DeclKind::DateTime, 21, 32),
        _ => {
            let values = schema["enum"].as_array().filter(|values| !values.is_empty());
            let longest =
                |values: &Vec<Json>| values.iter().filter_map(Json::as_str).map(|v| v.len() as i64).max().unwrap_or(0);
            let max = match limit(schema, "maxLength") {
                Some(n) => n.saturating_mul(4),
                None => values.map_or(MAX_REQUEST_SIZE - 2, longest),
            };
            (DeclKind::String, 2, max)
        }
    };
    DeclType { max_elements: max, ..DeclType::new(kind, min_size) }
}
