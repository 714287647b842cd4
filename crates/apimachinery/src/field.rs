//! Field errors with upstream's texts (`k8s.io/apimachinery/pkg/util/validation/field`).

use std::fmt;

use crate::Value;

/// A path to a field: `spec.containers[0].image`, `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    pub fn root() -> Self {
        Self::default()
    }

    /// A path of dotted names, as `FieldPath::new("spec.template.spec")`.
    pub fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// The kind of a field error. The second word of each is upstream's `reason` in a `StatusCause`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorType {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
    Internal,
}

impl FieldErrorType {
    /// `StatusCause.reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorType,
    pub path: FieldPath,
    /// The offending value, where the text shows it.
    pub value: Option<Value>,
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorType, path: &FieldPath, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.clone(), value, detail: detail.into() }
    }

    pub fn required(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorType::Required, path, None, detail)
    }

    pub fn invalid(path: &FieldPath, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorType::Invalid, path, Some(value.into()), detail)
    }

    pub fn duplicate(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorType::Duplicate, path, Some(value.into()), "")
    }

    pub fn not_found(path: &FieldPath, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorType::NotFound, path, Some(value.into()), "")
    }

    pub fn forbidden(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorType::Forbidden, path, None, detail)
    }

    /// `Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(path: &FieldPath, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(FieldErrorType::NotSupported, path, Some(value.into()), detail)
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(path: &FieldPath, max: usize) -> Self {
        Self::new(FieldErrorType::TooLong, path, None, format!("may not be more than {max} bytes"))
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(path: &FieldPath, actual: usize, max: usize) -> Self {
        Self::new(
            FieldErrorType::TooMany,
            path,
            Some(actual.into()),
            format!("must have at most {max} {}", if max == 1 { "item" } else { "items" }),
        )
    }

    pub fn internal(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorType::Internal, path, None, detail)
    }

    /// The error without its path: `Invalid value: "x": must be …`; a `StatusCause`'s message.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(&shown(value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

/// Structures whose fields Go writes in this order.
const STRUCTURES: [&[&str]; 2] = [
    &["matchLabels", "matchExpressions"],
    &["Rule", "Message", "MessageExpression", "Reason", "FieldPath", "OptionalOldSelf"],
];

/// A value as Go writes it: structures by the order of their fields, and nothing in them that HTML would take for its own.
fn shown(value: &Value) -> String {
    let Value::Object(map) = value else {
        let text = value.to_string();
        return if value.is_array() { escaped(&text) } else { text };
    };
    let same = |fields: &&&[&str]| map.len() == fields.len() && fields.iter().all(|field| map.contains_key(*field));
    match STRUCTURES.iter().find(same) {
        Some(fields) => {
            let members: Vec<String> = fields.iter().map(|field| format!("\"{field}\":{}", map[*field])).collect();
            escaped(&format!("{{{}}}", members.join(",")))
        }
        None => escaped(&value.to_string()),
    }
}

fn escaped(json: &str) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json.to_owned();
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let path = FieldPath::new("spec").child("ports").index(0).child("protocol");
        let check = |error: FieldError, expect: &str| assert_eq!(error.to_string(), expect);
        check(FieldError::required(&path, ""), "spec.ports[0].protocol: Required value");
        check(
            FieldError::invalid(&path, 7, "must be a string"),
            "spec.ports[0].protocol: Invalid value: 7: must be a string",
        );
        check(
            FieldError::not_supported(&path, "X", &["SCTP", "TCP"]),
            "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\"",
        );
        check(FieldError::duplicate(&path.key("a"), "a"), "spec.ports[0].protocol[a]: Duplicate value: \"a\"");
        let selector = serde_json::json!({"matchExpressions": [], "matchLabels": {"a": "b"}});
        check(
            FieldError::duplicate(&FieldPath::new("s"), selector),
            "s: Duplicate value: {\"matchLabels\":{\"a\":\"b\"},\"matchExpressions\":[]}",
        );
    }
}
