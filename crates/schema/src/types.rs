//! The shape of every value in the API: what decoding, defaulting, pruning, patching, managed fields, protobuf and
//! OpenAPI are all driven by. Built-in kinds come from the generated table, custom resources from their
//! structural schemas, and nothing after this file can tell them apart.

use std::sync::Arc;

use kybern_apimachinery::{Gvk, Value};

/// A set of struct types that refer to each other by [`StructId`].
#[derive(Debug, Default)]
pub struct Schema {
    pub structs: Vec<StructType>,
}

/// An index into [`Schema::structs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StructId(pub u32);

/// A kind's shape: the schema it lives in and its root.
#[derive(Clone, Debug)]
pub struct KindType {
    pub schema: Arc<Schema>,
    pub root: StructId,
    pub gvk: Gvk,
}

impl KindType {
    pub fn root(&self) -> &StructType {
        self.schema.get(self.root)
    }
}

impl Schema {
    pub fn get(&self, id: StructId) -> &StructType {
        &self.structs[id.0 as usize]
    }
}

#[derive(Debug)]
pub struct StructType {
    /// The OpenAPI definition's name: `io.k8s.api.core.v1.PodSpec`.
    pub name: Arc<str>,
    /// Sorted by JSON name.
    pub fields: Vec<Field>,
    /// `x-kubernetes-map-type: atomic`: server-side apply owns it whole.
    pub atomic: bool,
    /// Fields not listed are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
}

impl StructType {
    pub fn field(&self, json_name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.as_ref().cmp(json_name)).ok().map(|i| &self.fields[i])
    }
}

#[derive(Debug)]
pub struct Field {
    /// The JSON name.
    pub name: Arc<str>,
    pub ty: Type,
    pub required: bool,
    /// The default that the schema itself declares.
    pub default: Option<Value>,
    /// The protobuf field number; 0 where the kind has no protobuf form.
    pub proto_number: u32,
    /// How strategic merge patch treats the field.
    pub patch: PatchStrategy,
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
    /// The key of a merged list of maps; empty for a merged list of scalars.
    pub merge_key: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 in JSON, bytes in protobuf.
    Bytes,
    /// A number or a string.
    IntOrString,
    /// `resource.Quantity`: a string or a number in JSON, canonicalized.
    Quantity,
    /// `metav1.Time`, RFC 3339 with whole seconds, or null.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
    /// `metav1.Duration`, Go's notation.
    Duration,
    /// `metav1.FieldsV1`: a raw JSON object.
    FieldsV1,
    /// `runtime.RawExtension` and friends: an object of any kind, kept as it is.
    RawExtension,
    /// Any JSON at all.
    Any,
    Struct(StructId),
    List(Box<ListType>),
    Map(Box<MapType>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListType {
    pub item: Type,
    pub kind: ListKind,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// Its `x-kubernetes-list-map-keys`.
    Map(Vec<Arc<str>>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct MapType {
    pub value: Type,
    /// `x-kubernetes-map-type: atomic`.
    pub atomic: bool,
}
