//! Reads JSON and YAML into a tree that is checked against a kind's shape and looks as a round trip through upstream's
//! Go struct would make it look, in one pass.
//!
//! What a round trip does, and so does this:
//! - `null` is absence; keys are case-sensitive; the last of several equal keys wins; unknown fields are dropped;
//! - a field is written, left out or zeroed by its declaration ([`Presence`](crate::types::Presence)): `resources: {}`
//!   appears in every container, an empty `nodeSelector` disappears, `emptyDir: {}` stays;
//! - quantities, times, durations and base64 are written in their canonical form.
//!
//! Fields of custom resources are kept as they are: their schema's validation, not decoding, reports wrong types.

mod duplicates;
mod embedded;
mod presence;
mod scalar;
mod syntax;
mod walk;
mod yaml;

use std::cell::RefCell;

use kybern_apimachinery::{ApiError, Budget, Gvk, OverBudget, Reason, Value, go};
use serde::de::DeserializeSeed;

use crate::types::{KindType, Type};
use walk::{Node, Place};

pub use presence::zero;
pub(crate) use presence::{fill, omits};
pub(crate) use scalar::canonical;
pub use yaml::{documents as yaml_documents, strictly as yaml_strictly, to_value as yaml_to_value};

/// What to do about unknown and duplicate fields: the request's `fieldValidation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    Ignore,
    /// Report them as warnings.
    Warn,
    /// Refuse the object.
    Strict,
}

#[derive(Debug, thiserror::Error, PartialEq)]
pub enum DecodeError {
    /// Not JSON or YAML at all.
    #[error("{0}")]
    Syntax(String),
    /// A value of a wrong type or notation.
    #[error("{0}")]
    Type(String),
    /// Unknown and duplicate fields under [`Strictness::Strict`].
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// Beyond [`Budget::REQUEST`].
    #[error("{0}")]
    OverBudget(#[from] OverBudget),
}

impl From<crate::proto::ProtoError> for DecodeError {
    fn from(error: crate::proto::ProtoError) -> Self {
        match error {
            crate::proto::ProtoError::OverBudget(over) => Self::OverBudget(over),
            other => Self::Syntax(other.to_string()),
        }
    }
}

impl DecodeError {
    /// The 400 that upstream answers for a body of this kind.
    pub fn into_api_error(self, gvk: &Gvk) -> ApiError {
        let Gvk { version, kind, .. } = gvk;
        if let Self::OverBudget(over) = self {
            return over.into();
        }
        let text = match &self {
            // What cannot be parsed has no kind, so upstream fails to find that first.
            Self::Syntax(problem) => format!(
                "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {problem}"
            ),
            Self::Type(_) | Self::Strict(_) | Self::OverBudget(_) => {
                format!("{kind} in version {version:?} cannot be handled as a {kind}: {self}")
            }
        };
        ApiError::new(Reason::BadRequest, text)
    }
}

/// Upstream collects this many strict errors at most.
const MAX_STRICT_ERRORS: usize = 100;

/// What one decoding has found so far.
#[derive(Default)]
struct Findings {
    /// The first wrong type; decoding goes on after it, as upstream's does.
    type_error: Option<String>,
    strict: Vec<String>,
}

/// A decoding under way: the kind and what was found.
struct Decoding<'a> {
    kind: &'a KindType,
    findings: RefCell<Findings>,
}

impl Decoding<'_> {
    fn wrong_type(&self, text: impl FnOnce() -> String) {
        self.findings.borrow_mut().type_error.get_or_insert_with(text);
    }

    fn strict(&self, text: String) {
        let strict = &mut self.findings.borrow_mut().strict;
        if strict.len() < MAX_STRICT_ERRORS {
            strict.push(text);
        }
    }
}

/// Decodes a JSON body. Answers the object and the warnings, which are empty unless `strictness` is
/// [`Strictness::Warn`].
pub fn decode(kind: &KindType, json: &[u8], strictness: Strictness) -> Result<(Value, Vec<String>), DecodeError> {
    Budget::REQUEST.check_json(json)?;
    let failed = |error: serde_json::Error| DecodeError::Syntax(syntax::message(json, &error));
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let decoded = run(kind, strictness, |node| node.deserialize(&mut deserializer).map_err(failed))?;
    deserializer.end().map_err(failed)?;
    Ok(decoded)
}

/// [`decode`] of one YAML document.
pub fn decode_yaml(kind: &KindType, yaml: &[u8], strictness: Strictness) -> Result<(Value, Vec<String>), DecodeError> {
    let decoded = yaml::on_own_stack(|| run(kind, strictness, |node| yaml::read(yaml, node)))?;
    // Aliases may have made more of it.
    Budget::REQUEST.check(&decoded.0)?;
    Ok(decoded)
}

/// [`decode`] of a tree, such as a patch has made.
pub fn decode_value(kind: &KindType, tree: Value, strictness: Strictness) -> Result<(Value, Vec<String>), DecodeError> {
    Budget::REQUEST.check(&tree)?;
    run(kind, strictness, |node| node.deserialize(tree).map_err(|e| DecodeError::Syntax(e.to_string())))
}

/// JSON as a tree, of no particular kind: a patch. The text of a syntax error is serde's.
pub fn json_to_value(json: &[u8]) -> Result<Value, DecodeError> {
    Budget::REQUEST.check_json(json)?;
    serde_json::from_slice(json).map_err(|error| DecodeError::Syntax(error.to_string()))
}

/// What is wrong with a text that has to be one JSON object, in Go's words.
pub fn json_object_fault(json: &[u8]) -> Option<String> {
    match serde_json::from_slice::<Value>(json) {
        Ok(Value::Object(_) | Value::Null) => None,
        Ok(other) => {
            let found = go::json_name(&other);
            Some(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
        }
        Err(error) => Some(syntax::message(json, &error)),
    }
}

fn run(
    kind: &KindType,
    strictness: Strictness,
    read: impl FnOnce(Node) -> Result<Option<Value>, DecodeError>,
) -> Result<(Value, Vec<String>), DecodeError> {
    let decoding = Decoding { kind, findings: RefCell::default() };
    let root = Type::Struct(kind.root);
    let value = read(Node { decoding: &decoding, ty: &root, go_type: None, verbatim: false, place: Place::ROOT })?;
    let Findings { type_error, strict } = decoding.findings.into_inner();
    if let Some(error) = type_error {
        return Err(DecodeError::Type(error));
    }
    let mut value = value.unwrap_or_else(|| zero(&kind.schema, &root));
    if let Some(object) = value.as_object_mut() {
        for (key, own) in [("apiVersion", kind.gvk.api_version()), ("kind", kind.gvk.kind.clone())] {
            if kind.root().field(key).is_some() {
                object.entry(key).or_insert_with(|| own.into());
            }
        }
    }
    match strictness {
        Strictness::Strict if !strict.is_empty() => Err(DecodeError::Strict(strict)),
        Strictness::Warn => Ok((value, strict)),
        _ => Ok((value, Vec::new())),
    }
}

/// A scalar as a value of its type; `None` where it is of another type or in a wrong notation.
pub(crate) fn fit(ty: &Type, found: Value) -> Option<Value> {
    scalar::read(ty, found).ok()
}

#[cfg(test)]
mod tests;
