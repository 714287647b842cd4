//! The protobuf form of the API: a transcoder between trees and messages, driven by the shape table.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` message, whose `raw` field holds the object's message.
//! Field order and presence are those of upstream's generated code, byte for byte: what is no pointer is written even
//! when it is zero.

mod decode;
mod plan;
mod tape;
pub(crate) mod wire;
mod write;

use std::cell::Cell;

use kybern_apimachinery::{Budget, GroupVersion, Gvk, Value};

use crate::types::{KindType, StructType};

pub(crate) use plan::Plan;
pub use wire::ProtoError;
pub use write::Writer;

/// The media type of bodies in this form.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What a body in this form begins with.
pub const MAGIC: &[u8] = b"k8s\0";

/// The envelope of a body, and the message in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// The object's message, or what `content_type` says it is.
    pub raw: &'a [u8],
    /// Empty for protobuf.
    pub content_type: &'a str,
}

impl<'a> Envelope<'a> {
    /// Opens a body.
    pub fn open(body: &'a [u8]) -> Result<Self, ProtoError> {
        let message = body.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?;
        let mut envelope = Self { api_version: "", kind: "", raw: &[], content_type: "" };
        for field in wire::fields(message) {
            match field? {
                (1, wire::Item::Bytes(type_meta)) => {
                    for field in wire::fields(type_meta) {
                        match field? {
                            (1, wire::Item::Bytes(text)) => envelope.api_version = wire::text(text)?,
                            (2, wire::Item::Bytes(text)) => envelope.kind = wire::text(text)?,
                            _ => {}
                        }
                    }
                }
                (2, wire::Item::Bytes(raw)) => envelope.raw = raw,
                (4, wire::Item::Bytes(text)) => envelope.content_type = wire::text(text)?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// The kind that the envelope names; `None` where it names none.
    pub fn gvk(&self) -> Option<Gvk> {
        let GroupVersion { group, version } = GroupVersion::parse(self.api_version)?;
        (!self.kind.is_empty()).then(|| Gvk::new(group, version, self.kind))
    }
}

/// Puts an encoded message of a kind into an envelope.
pub fn enclose(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    let end = out.open_body();
    out.raw(message);
    out.close_body(api_version, kind, end);
    out.written().to_vec()
}

/// Whether the kind has a protobuf form: `Table` and custom resources have none.
pub fn has_form(kind: &KindType) -> bool {
    let root: &StructType = kind.root();
    !root.proto_order.is_empty()
}

/// The body of an object: envelope and message. `apiVersion` and `kind` are the object's own, else the kind's.
pub fn encode(kind: &KindType, object: &Value) -> Result<Vec<u8>, ProtoError> {
    let message = encode_message(kind, object)?;
    // A watch event has no type of its own.
    if kind.root().field("kind").is_none() {
        return Ok(enclose("", "", &message));
    }
    let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
    let own = kind.gvk.api_version();
    Ok(enclose(text("apiVersion").unwrap_or(&own), text("kind").unwrap_or(&kind.gvk.kind), &message))
}

/// The object's message alone.
pub fn encode_message(kind: &KindType, object: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut out = Writer::default();
    let json =
        serde_json::to_vec(object).map_err(|e| ProtoError::Value { field: String::new(), problem: e.to_string() })?;
    out.message(kind, &json)?;
    Ok(out.written().to_vec())
}

/// Decodes a body of a kind.
pub fn decode(kind: &KindType, body: &[u8]) -> Result<Value, ProtoError> {
    let nodes = Cell::new(0);
    let object = decode_at(kind, &Envelope::open(body)?, decode::Progress { depth: 0, nodes: &nodes })?;
    Budget::REQUEST.check(&object)?;
    Ok(object)
}

/// Decodes an object that may be nested in others.
fn decode_at(kind: &KindType, envelope: &Envelope, progress: decode::Progress<'_>) -> Result<Value, ProtoError> {
    if !has_form(kind) {
        return Err(ProtoError::NoForm(kind.gvk.to_string()));
    }
    let mut object = decode::message(&kind.schema, kind.root(), envelope.raw, progress)?;
    if let Some(map) = object.as_object_mut() {
        let own = kind.gvk.api_version();
        for (key, named, own) in
            [("apiVersion", envelope.api_version, own.as_str()), ("kind", envelope.kind, kind.gvk.kind.as_str())]
        {
            if kind.root().field(key).is_some() {
                map.insert(key.to_owned(), if named.is_empty() { own } else { named }.into());
            }
        }
    }
    Ok(object)
}

/// Decodes a message without an envelope; the answer has no `apiVersion` and `kind`.
pub fn decode_message(kind: &KindType, message: &[u8]) -> Result<Value, ProtoError> {
    if !has_form(kind) {
        return Err(ProtoError::NoForm(kind.gvk.to_string()));
    }
    let nodes = Cell::new(0);
    let object = decode::message(&kind.schema, kind.root(), message, decode::Progress { depth: 0, nodes: &nodes })?;
    Budget::REQUEST.check(&object)?;
    Ok(object)
}

#[cfg(test)]
#[path = "tests.rs"]
mod made_up;

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;
    use crate::builtin;

    fn kind(group: &str, version: &str, kind: &str) -> KindType {
        builtin().kind(&Gvk::new(group, version, kind)).unwrap()
    }

    #[test]
    fn what_has_no_form_is_refused() {
        let table = kind("meta.k8s.io", "v1", "Table");
        assert!(matches!(encode(&table, &json!({})), Err(ProtoError::NoForm(_))));
        assert_eq!(decode(&kind("", "v1", "Pod"), b"{}"), Err(ProtoError::NoMagic));
    }

    #[test]
    fn wrong_trees_are_told_by_field() {
        let error = encode(&kind("", "v1", "ConfigMap"), &json!({"data": {"a": 1}})).unwrap_err();
        assert_eq!(error.to_string(), "field data.a: 1 is of a wrong type");
    }

    #[test]
    fn objects_in_objects_are_decoded_but_not_without_end() {
        let event = kind("", "v1", "WatchEvent");
        let map = kind("", "v1", "ConfigMap");
        let wrap = |inner: &[u8]| {
            let mut out = wire::Reversed::default();
            let end = out.len();
            out.bytes_field(1, inner);
            out.close_field(2, end);
            out.bytes_field(1, b"ADDED");
            enclose("v1", "WatchEvent", &out.finish())
        };
        let mut body = wrap(&encode(&map, &json!({"metadata": {"name": "a"}})).unwrap());
        assert_eq!(decode(&event, &body).unwrap()["object"]["metadata"]["name"], "a");
        for _ in 0..1000 {
            body = wrap(&body);
        }
        assert_eq!(decode(&event, &body), Err(ProtoError::Depth));
    }

    /// Two bytes make a container with all its required fields.
    #[test]
    fn small_messages_do_not_make_large_trees() {
        let pod = kind("", "v1", "Pod");
        let body = |containers: usize| {
            let spec = [0x12, 0].repeat(containers);
            let mut out = wire::Reversed::default();
            out.bytes_field(2, &spec);
            enclose("v1", "Pod", &out.finish())
        };
        assert!(decode(&pod, &body(10_000)).is_ok());
        assert!(matches!(decode(&pod, &body(1_000_000)), Err(ProtoError::OverBudget(_))));
    }

    #[test]
    fn raw_json_is_within_the_budget() {
        let event = kind("", "v1", "WatchEvent");
        let body = |json: &str| {
            let mut out = wire::Reversed::default();
            let end = out.len();
            out.bytes_field(1, json.as_bytes());
            out.close_field(2, end);
            enclose("v1", "WatchEvent", &out.finish())
        };
        let nested = |n: usize| body(&format!("{}{}", "[".repeat(n), "]".repeat(n)));
        assert!(decode(&event, &nested(90)).is_ok());
        for n in [Budget::REQUEST.depth, 127, 1_000_000] {
            assert!(matches!(decode(&event, &nested(n)), Err(ProtoError::OverBudget(_))), "{n}");
        }
        assert!(decode(&event, &body(&format!("[{}0]", "0,".repeat(300_000)))).is_err());
    }
}
