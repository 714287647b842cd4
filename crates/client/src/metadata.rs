//! Objects of any kind reduced to what every object has: for garbage collection and namespace deletion.

use kybern_api::DecodeError;
use kybern_apimachinery::{Value, json};
use serde::Deserialize;

/// The parts of `metadata` that tell who an object is and what it hangs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartialMetadata {
    pub name: Box<str>,
    /// Empty when cluster-scoped.
    pub namespace: Box<str>,
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    pub deleting: bool,
    pub finalizers: Box<[Box<str>]>,
    pub owners: Box<[Owner]>,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Owner {
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub controller: bool,
    pub block_owner_deletion: bool,
}

#[derive(Deserialize)]
struct Wire {
    metadata: WireMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireMetadata {
    name: Box<str>,
    namespace: Box<str>,
    uid: Box<str>,
    resource_version: Box<str>,
    deletion_timestamp: Option<Box<str>>,
    finalizers: Option<Box<[Box<str>]>>,
    owner_references: Option<Box<[Owner]>>,
}

impl PartialMetadata {
    /// Reads an object of any kind, whole or reduced by the server.
    pub fn from_json(json: &[u8]) -> Result<Self, DecodeError> {
        let failed = |e: serde_json::Error| DecodeError { kind: "PartialObjectMetadata", cause: e.to_string() };
        let wire: Wire = match serde_json::from_slice(json) {
            Ok(wire) => wire,
            Err(_) => serde_json::from_value(fitting(serde_json::from_slice(json).map_err(failed)?)).map_err(failed)?,
        };
        let WireMetadata { name, namespace, uid, resource_version, deletion_timestamp, finalizers, owner_references } =
            wire.metadata;
        Ok(Self {
            name,
            namespace,
            uid,
            resource_version,
            deleting: deletion_timestamp.is_some(),
            finalizers: finalizers.unwrap_or_default(),
            owners: owner_references.unwrap_or_default(),
        })
    }

    pub fn key(&self) -> String {
        kybern_apimachinery::object::key_of(&self.namespace, &self.name)
    }

    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| &**f == finalizer)
    }
}

/// The metadata alone, without what has another form than it should.
fn fitting(mut object: Value) -> Value {
    let mut metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
    let texts = |value: &mut Value| {
        let Some(items) = value.as_array_mut() else { return false };
        items.retain(Value::is_string);
        true
    };
    let owners = |value: &mut Value| {
        let Some(items) = value.as_array_mut() else { return false };
        items.retain(Value::is_object);
        for owner in items {
            if let Some(owner) = owner.as_object_mut() {
                let flag = |name: &str| matches!(name, "controller" | "blockOwnerDeletion");
                owner.retain(|name, value| if flag(name) { value.is_boolean() } else { value.is_string() });
            }
        }
        true
    };
    // Without a name there is no object: that is left to the decoder to refuse.
    if let Some(fields) = metadata.as_object_mut().filter(|fields| fields.get("name").is_some_and(Value::is_string)) {
        fields.retain(|name, value| match name.as_str() {
            "finalizers" => texts(value),
            "ownerReferences" => owners(value),
            _ => value.is_string(),
        });
    }
    json!({"metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_object_is_reduced() {
        let json = br#"{"kind":"X","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"3","labels":{"a":"b"},
            "deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["f"],
            "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"o","controller":true}]},"spec":{}}"#;
        let got = PartialMetadata::from_json(json).unwrap();
        assert_eq!((got.key().as_str(), &*got.uid, got.deleting, got.has_finalizer("f")), ("n/a", "u", true, true));
        assert_eq!(
            (&*got.owners[0].uid, got.owners[0].controller, got.owners[0].block_owner_deletion),
            ("o", true, false)
        );
    }

    #[test]
    fn odd_parts_are_left_out() {
        let json = br#"{"metadata":{"name":"a","namespace":null,"uid":7,"resourceVersion":"3","finalizers":[null,"f"],
            "ownerReferences":[null,{"name":"r","uid":"o","controller":null}]}}"#;
        let got = PartialMetadata::from_json(json).unwrap();
        assert_eq!((got.key().as_str(), &*got.uid, got.has_finalizer("f")), ("a", "", true));
        assert_eq!((&*got.owners[0].uid, got.owners[0].controller), ("o", false));
        for nameless in [&br#"{"metadata":null}"#[..], br#"{"metadata":{"name":null}}"#, br#"{"metadata":7}"#, b"{}"] {
            assert!(PartialMetadata::from_json(nameless).is_err());
        }
    }
}
