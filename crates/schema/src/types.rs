//! The shape of every value in the API: what decoding, defaulting, pruning, patching, managed fields, protobuf and
//! OpenAPI are all driven by. Built-in kinds come from the generated table, custom resources from their
//! structural schemas, and nothing after this file can tell them apart.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use kybern_apimachinery::{Gvk, Value};

use crate::proto;

/// A set of struct types that refer to each other by [`StructId`].
#[derive(Debug, Default)]
pub struct Schema {
    pub structs: Vec<StructType>,
    /// How messages are written; made when the first one is.
    plan: OnceLock<proto::Plan>,
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
    pub fn new(structs: Vec<StructType>) -> Self {
        Self { structs, plan: OnceLock::new() }
    }

    pub(crate) fn plan(&self) -> &proto::Plan {
        self.plan.get_or_init(|| proto::Plan::new(self))
    }

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
    /// Indexes into `fields` of those that have a protobuf form, in the order of their tags.
    pub proto_order: Vec<u16>,
    /// In the order in which they are applied; those that the fields declare come first.
    pub defaults: Vec<DefaultRule>,
    /// How many of the defaults their fields declare, sorted as these.
    declared: usize,
    /// Where a field is, if there are too many to search.
    places: HashMap<Arc<str>, usize>,
}

/// A binary search of as many fields takes as long as a hash.
const SEARCHED: usize = 8;

/// A default that depends on nothing outside its struct.
#[derive(Debug)]
pub struct DefaultRule {
    /// A field, or a path through fields that must be set.
    pub path: Vec<Arc<str>>,
    pub value: Value,
    /// Empty strings and lists and zeros count as unset: the field is no pointer.
    pub replaces_zero: bool,
    /// `null` counts as unset.
    pub replaces_null: bool,
    /// All must hold.
    pub conditions: Vec<DefaultCondition>,
}

/// A condition on another field, or a path of fields, of the struct that a [`DefaultRule`] is for.
#[derive(Debug)]
pub enum DefaultCondition {
    Equals(Vec<Arc<str>>, Value),
    Differs(Vec<Arc<str>>, Value),
    Set(Vec<Arc<str>>),
    Unset(Vec<Arc<str>>),
    /// No other field is set.
    Only(Arc<str>),
}

impl StructType {
    /// Sorts the fields and derives the orders that look-ups need.
    pub fn new(name: Arc<str>, mut fields: Vec<Field>, atomic: bool, preserve_unknown: bool) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let mut proto_order: Vec<u16> =
            (0..).zip(&fields).filter(|(_, f)| f.proto != ProtoTag::NONE).map(|(i, _)| i).collect();
        proto_order.sort_by_key(|&i| fields[usize::from(i)].proto);
        let declared = |f: &Field| {
            let value = f.default.clone()?;
            let replaces_zero = matches!(f.presence, Presence::OmitEmpty | Presence::Always);
            let (path, replaces_null) = (vec![f.name.clone()], !f.nullable);
            Some(DefaultRule { path, value, replaces_zero, replaces_null, conditions: Vec::new() })
        };
        let defaults: Vec<DefaultRule> = fields.iter().filter_map(declared).collect();
        let hashed = if fields.len() > SEARCHED { &*fields } else { &[] };
        let places = hashed.iter().enumerate().map(|(i, f)| (f.name.clone(), i)).collect();
        Self { name, fields, atomic, preserve_unknown, proto_order, declared: defaults.len(), defaults, places }
    }

    pub fn field(&self, json_name: &str) -> Option<&Field> {
        self.place(json_name).map(|i| &self.fields[i])
    }

    /// The place of a field among all.
    pub fn place(&self, json_name: &str) -> Option<usize> {
        if self.fields.len() > SEARCHED {
            return self.places.get(json_name).copied();
        }
        self.fields.binary_search_by(|f| f.name.as_ref().cmp(json_name)).ok()
    }

    /// The defaults that fields declare, which depend on nothing, by the names of their fields; and all others.
    pub(crate) fn split_defaults(&self) -> (&[DefaultRule], &[DefaultRule]) {
        self.defaults.split_at(self.declared)
    }
}

#[derive(Debug)]
pub struct Field {
    /// The JSON name.
    pub name: Arc<str>,
    pub ty: Type,
    pub required: bool,
    /// `x-kubernetes-map-type: granular`: owned field by field, though its struct is atomic elsewhere.
    pub granular: bool,
    /// `null` is a value and not the same as absence (`nullable` of a custom resource's schema).
    pub nullable: bool,
    /// The default that the schema itself declares.
    pub default: Option<Value>,
    /// What Go's encoders write for an absent or empty value.
    pub presence: Presence,
    /// Where the field is in the protobuf message.
    pub proto: ProtoTag,
    /// The Go name of the (innermost) element type where it is a named one: `v1.PullPolicy`. Error texts name it.
    pub go_type: Option<Arc<str>>,
    /// How strategic merge patch treats the field.
    pub patch: PatchStrategy,
}

impl Field {
    /// An optional field that is kept as it is given, as custom resources have them.
    pub fn new(name: impl Into<Arc<str>>, ty: Type) -> Self {
        Self {
            name: name.into(),
            ty,
            required: false,
            granular: false,
            nullable: false,
            default: None,
            presence: Presence::Verbatim,
            proto: ProtoTag::NONE,
            go_type: None,
            patch: PatchStrategy::default(),
        }
    }
}

/// What a round trip through upstream's Go struct makes of an absent or empty value, by the field's declaration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Custom resources: kept as it is.
    #[default]
    Verbatim,
    /// A pointer with `omitempty`: absent stays absent, an empty value is kept.
    Pointer,
    /// A value with `omitempty` or `omitzero`: zero and empty values are dropped.
    OmitEmpty,
    /// A value without `omitempty`: an absent one is written as the type's zero.
    Always,
    /// A pointer without `omitempty`: an absent one is written as `null`.
    NullPointer,
}

/// The field's number, after the numbers of the messages it is nested in: Go structs that JSON inlines are messages of
/// their own in protobuf. At most three levels of ten bits, outermost first, so that tags sort as they are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtoTag(u32);

impl ProtoTag {
    /// No protobuf form.
    pub const NONE: Self = Self(0);

    /// `None` for an empty or too deep path, and for numbers beyond 1023.
    pub fn new(path: &[u32]) -> Option<Self> {
        let fits = (1..=3).contains(&path.len()) && path.iter().all(|n| (1..1024).contains(n));
        fits.then(|| Self((0..3).fold(0, |tag, level| tag << 10 | path.get(level).copied().unwrap_or(0))))
    }

    /// The field's own number.
    pub fn innermost(self) -> u32 {
        (0..3).rev().find_map(|level| self.level(level)).unwrap_or_default()
    }

    /// The number at a nesting level, 0 for the outermost; `None` below the field itself.
    pub fn level(self, level: u32) -> Option<u32> {
        (level < 3).then(|| self.0 >> (10 * (2 - level)) & 1023).filter(|&n| n != 0)
    }
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    /// A map that is replaced whole.
    pub replace: bool,
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
    /// An object or something else, told apart by the JSON (`JSONSchemaPropsOrBool` and the like).
    Either(Box<EitherType>),
}

/// A JSON object is `object`, anything else is `other`; each with its field number in the protobuf message.
#[derive(Clone, Debug, PartialEq)]
pub struct EitherType {
    pub object: Type,
    pub object_number: u32,
    pub other: Type,
    pub other_number: u32,
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
