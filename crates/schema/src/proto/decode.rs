//! Messages to trees, in the form that JSON decoding makes.

use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kybern_apimachinery::time::{to_rfc3339, to_rfc3339_micro};
use kybern_apimachinery::{Budget, Map, OverBudget, Value};

use super::wire::{self, Item, ProtoError};
use super::{Envelope, MAGIC};
use crate::decode::{fill, omits, zero};
use crate::duration;
use crate::types::{EitherType, Field, ProtoTag, Schema, StructType, Type};

/// Messages within each other.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
const MAX_DEPTH: u32 = Budget::REQUEST.depth as u32;
/// What an empty message counts for: its required fields are filled in.
const MESSAGE: usize = 4;

/// Where the decoding of a body stands: messages around, and values made so far.
#[derive(Clone, Copy)]
pub(super) struct Progress<'a> {
    pub(super) depth: u32,
    pub(super) nodes: &'a Cell<usize>,
}

impl Progress<'_> {
    fn count(self, nodes: usize) -> Result<(), ProtoError> {
        self.nodes.set(self.nodes.get() + nodes);
        let max = Budget::REQUEST.nodes;
        if self.nodes.get() > max { Err(OverBudget::Nodes(max).into()) } else { Ok(()) }
    }
}

pub(super) fn message(
    schema: &Schema,
    shape: &StructType,
    bytes: &[u8],
    progress: Progress<'_>,
) -> Result<Value, ProtoError> {
    Decoder { schema, progress }.structure(shape, bytes, None)
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    schema: &'a Schema,
    progress: Progress<'a>,
}

impl Decoder<'_> {
    fn deeper(self) -> Result<Self, ProtoError> {
        self.progress.count(MESSAGE)?;
        let depth = self.progress.depth + 1;
        if depth > MAX_DEPTH {
            return Err(ProtoError::Depth);
        }
        Ok(Self { progress: Progress { depth, ..self.progress }, ..self })
    }

    /// Decodes a struct's message, into what an earlier occurrence of the field has made.
    fn structure(self, shape: &StructType, bytes: &[u8], earlier: Option<Value>) -> Result<Value, ProtoError> {
        let mut object = match earlier {
            Some(Value::Object(object)) => object,
            _ => Map::new(),
        };
        self.deeper()?.group(shape, &shape.proto_order, 0, bytes, &mut object)?;
        for field in &shape.fields {
            if object.get(field.name.as_ref()).is_some_and(|v| omits(self.schema, field, v)) {
                object.remove(field.name.as_ref());
            }
        }
        fill(self.schema, shape, &mut object);
        Ok(Value::Object(object))
    }

    /// The fields of one message: those of `order`, which share the numbers above `level`.
    fn group(
        self,
        shape: &StructType,
        order: &[u16],
        level: u32,
        bytes: &[u8],
        object: &mut Map<String, Value>,
    ) -> Result<(), ProtoError> {
        let tag = |index: &u16| -> ProtoTag { shape.fields[usize::from(*index)].proto };
        for item in wire::fields(bytes) {
            let (number, item) = item?;
            let start = order.partition_point(|i| tag(i).level(level) < Some(number));
            let end = order.partition_point(|i| tag(i).level(level) <= Some(number));
            let members = &order[start..end];
            let Some(first) = members.first() else { continue };
            let field = &shape.fields[usize::from(*first)];
            if field.proto.level(level + 1).is_none() {
                self.field(field, item, object)?;
            } else if let Item::Bytes(bytes) = item {
                self.group(shape, members, level + 1, bytes, object)?;
            }
        }
        Ok(())
    }

    fn field(self, field: &Field, item: Item, object: &mut Map<String, Value>) -> Result<(), ProtoError> {
        let mismatch = || ProtoError::Mismatch(field.name.to_string());
        let name = field.name.as_ref();
        self.progress.count(1)?;
        match &field.ty {
            Type::List(list) => {
                let slot = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                let items = slot.as_array_mut().ok_or_else(mismatch)?;
                match (&list.item, item) {
                    (Type::Bool | Type::Int32 | Type::Int64, Item::Bytes(mut packed)) => {
                        while !packed.is_empty() {
                            self.progress.count(1)?;
                            let item = Item::Varint(wire::varint(&mut packed)?);
                            items.push(self.value(&list.item, item, None).ok_or_else(mismatch)??);
                        }
                    }
                    (ty, item) => items.push(self.value(ty, item, None).ok_or_else(mismatch)??),
                }
            }
            Type::Map(map) => {
                let Item::Bytes(entry) = item else { return Err(mismatch()) };
                let (mut key, mut value) = ("", None);
                for field in wire::fields(entry) {
                    match field? {
                        (1, Item::Bytes(text)) => key = wire::text(text)?,
                        (2, item) => value = Some(self.entry(&map.value, item).ok_or_else(mismatch)??),
                        _ => {}
                    }
                }
                let value = value.unwrap_or_else(|| match &map.value {
                    Type::Bytes => "".into(),
                    ty => zero(self.schema, ty),
                });
                let slot = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
                slot.as_object_mut().ok_or_else(mismatch)?.insert(key.to_owned(), value);
            }
            ty => {
                let earlier = if matches!(ty, Type::Struct(_)) { object.remove(name) } else { None };
                let value = self.value(ty, item, earlier).ok_or_else(mismatch)??;
                object.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }

    /// A map entry's value. A list there is a message of its own, its items in field 1.
    fn entry(self, ty: &Type, item: Item) -> Option<Result<Value, ProtoError>> {
        match (ty, item) {
            (Type::List(list), Item::Bytes(bytes)) => Some(
                wire::fields(bytes)
                    .filter_map(|field| match field {
                        Ok((1, item)) => Some(self.progress.count(1).and_then(|()| {
                            self.value(&list.item, item, None)
                                .unwrap_or_else(|| Err(ProtoError::Mismatch("items".to_owned())))
                        })),
                        Ok(_) => None,
                        Err(error) => Some(Err(error)),
                    })
                    .collect::<Result<Vec<_>, _>>()
                    .map(Value::Array),
            ),
            _ => self.value(ty, item, None),
        }
    }

    /// `None` where the wire type is not the field's.
    fn value(self, ty: &Type, item: Item, earlier: Option<Value>) -> Option<Result<Value, ProtoError>> {
        Some(match (ty, item) {
            (Type::Bool, Item::Varint(v)) => Ok((v != 0).into()),
            #[expect(clippy::cast_possible_truncation, reason = "int32 is sent as a sign-extended int64")]
            (Type::Int32, Item::Varint(v)) => Ok((v as i32).into()),
            (Type::Int64, Item::Varint(v)) => Ok(v.cast_signed().into()),
            (Type::Double, Item::Fixed64(v)) => Ok(crate::decode::canonical(ty, f64::from_bits(v).into())),
            (Type::Double, Item::Fixed32(v)) => Ok(crate::decode::canonical(ty, f64::from(f32::from_bits(v)).into())),
            (Type::String, Item::Bytes(v)) => wire::text(v).map(Value::from),
            (Type::Bytes, Item::Bytes(v)) => Ok(STANDARD.encode(v).into()),
            (Type::Struct(id), Item::Bytes(v)) => self.structure(self.schema.get(*id), v, earlier),
            (Type::Quantity, Item::Bytes(v)) => quantity(v),
            (Type::IntOrString, Item::Bytes(v)) => int_or_string(v),
            (Type::Time | Type::MicroTime, Item::Bytes(v)) => time(ty, v),
            (Type::Duration, Item::Bytes(v)) => {
                numbers(v).map(|[_, nanos, _]| duration::format(nanos.cast_signed()).into())
            }
            (Type::FieldsV1 | Type::RawExtension | Type::Any, Item::Bytes(v)) => self.raw(v),
            (Type::Either(either), Item::Bytes(v)) => self.either(either, v),
            _ => return None,
        })
    }

    fn either(self, either: &EitherType, bytes: &[u8]) -> Result<Value, ProtoError> {
        let mismatch = || ProtoError::Mismatch("JSONSchemaProps".to_owned());
        let (mut object, mut other, mut items) = (None, None, Vec::new());
        for field in wire::fields(bytes) {
            let (number, item) = field?;
            self.progress.count(1)?;
            if number == either.object_number {
                object = Some(self.value(&either.object, item, object.take()).ok_or_else(mismatch)??);
            } else if number == either.other_number {
                match &either.other {
                    Type::List(list) => items.push(self.value(&list.item, item, None).ok_or_else(mismatch)??),
                    ty => other = Some(self.value(ty, item, None).ok_or_else(mismatch)??),
                }
            }
        }
        let other = other.or_else(|| (!items.is_empty()).then_some(Value::Array(items)));
        Ok(object.or(other).unwrap_or_else(|| zero(self.schema, &either.other)))
    }

    /// Raw JSON, or an object in its protobuf form where it is of a built-in kind.
    fn raw(self, bytes: &[u8]) -> Result<Value, ProtoError> {
        let mut raw: &[u8] = &[];
        for field in wire::fields(bytes) {
            if let (1, Item::Bytes(v)) = field? {
                raw = v;
            }
        }
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        if raw.starts_with(MAGIC) {
            let envelope = Envelope::open(raw)?;
            let named = || format!("{}, Kind={}", envelope.api_version, envelope.kind);
            let kind = envelope
                .gvk()
                .and_then(|gvk| crate::builtin().kind(&gvk))
                .ok_or_else(|| ProtoError::NoForm(named()))?;
            return super::decode_at(&kind, &envelope, self.progress);
        }
        self.progress.count(Budget::REQUEST.check_json(raw)?.nodes)?;
        serde_json::from_slice(raw).map_err(|e| ProtoError::Value { field: "raw".to_owned(), problem: e.to_string() })
    }
}

/// The varints of fields 1 and 2 of a message, at their numbers' indexes.
fn numbers(bytes: &[u8]) -> Result<[u64; 3], ProtoError> {
    let mut numbers = [0; 3];
    for field in wire::fields(bytes) {
        if let (number @ 1..=2, Item::Varint(v)) = field? {
            numbers[number as usize] = v;
        }
    }
    Ok(numbers)
}

fn quantity(bytes: &[u8]) -> Result<Value, ProtoError> {
    let mut text = "0";
    for field in wire::fields(bytes) {
        if let (1, Item::Bytes(v)) = field? {
            text = wire::text(v)?;
        }
    }
    match kybern_apimachinery::quantity::Quantity::parse(text) {
        Ok(quantity) => Ok(quantity.to_string().into()),
        Err(problem) => Err(ProtoError::Value { field: "quantity".to_owned(), problem: problem.to_owned() }),
    }
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let [_, kind, int] = numbers(bytes)?;
    if kind == 0 {
        #[expect(clippy::cast_possible_truncation, reason = "int32 is sent as a sign-extended int64")]
        return Ok((int as i32).into());
    }
    let mut text = "";
    for field in wire::fields(bytes) {
        if let (3, Item::Bytes(v)) = field? {
            text = wire::text(v)?;
        }
    }
    Ok(text.into())
}

/// An empty message is the zero time, which JSON writes as `null`.
fn time(ty: &Type, bytes: &[u8]) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let [_, seconds, nanos] = numbers(bytes)?;
    #[expect(clippy::cast_possible_truncation, reason = "int32 is sent as a sign-extended int64")]
    let time = Timestamp::new(seconds.cast_signed(), nanos as i32)
        .map_err(|e| ProtoError::Value { field: "time".to_owned(), problem: e.to_string() })?;
    Ok(if *ty == Type::Time { to_rfc3339(time) } else { to_rfc3339_micro(time) }.into())
}
