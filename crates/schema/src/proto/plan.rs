//! What writing a message needs of the shape table, laid out for it: fields by a hash of their names, steps in the order of
//! writing, and what an unset field is, written already. Made once for a schema, when it is first needed.

use std::sync::Arc;

use super::wire::Reversed;
use crate::types::{Presence, Schema, StructType, Type};

/// See the module.
#[derive(Debug)]
pub(crate) struct Plan {
    structs: Vec<StructPlan>,
    /// The shapes of lists' items and of maps' values, and a map's entry of such a value that is not set.
    inner: Vec<(Shape, Box<[u8]>)>,
    eithers: Vec<EitherPlan>,
}

/// A [`Type`] by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Bool,
    Int,
    Double,
    String,
    Bytes,
    IntOrString,
    Quantity,
    Time,
    MicroTime,
    Duration,
    /// JSON that is kept as it is, in a message of its own.
    Raw,
    Struct(u32),
    List(u32),
    Map(u32),
    Either(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct EitherPlan {
    pub(super) object: Shape,
    pub(super) object_number: u32,
    pub(super) other: Shape,
    pub(super) other_number: u32,
}

#[derive(Debug)]
pub(super) struct StructPlan {
    /// In the order of their tags.
    pub(super) fields: Box<[FieldPlan]>,
    /// Last to first.
    pub(super) steps: Box<[Step]>,
    /// In the order of their names, in which we write them.
    sorted: Box<[Sorted]>,
    names: Names,
}

/// A name by its first eight bytes, where they are that many.
#[derive(Clone, Copy, Debug)]
struct Sorted {
    word: u64,
    mask: u64,
    length: usize,
    place: u16,
}

#[derive(Debug)]
pub(super) struct FieldPlan {
    pub(super) name: Arc<str>,
    pub(super) shape: Shape,
    pub(super) number: u32,
    /// The field with its tag when it is not set.
    pub(super) unset: Box<[u8]>,
}

#[derive(Debug)]
pub(super) enum Step {
    /// A field by its place.
    Field(u16),
    /// A message that is none in JSON. With `only` it is there when that field is.
    Group { number: u32, only: Option<u16>, members: Box<[Step]> },
}

impl Plan {
    pub(crate) fn new(schema: &Schema) -> Self {
        let mut plan = Self { structs: Vec::new(), inner: Vec::new(), eithers: Vec::new() };
        for shape in &schema.structs {
            let structure = plan.structure(schema, shape);
            plan.structs.push(structure);
        }
        plan
    }

    pub(super) fn structure_at(&self, id: u32) -> &StructPlan {
        &self.structs[id as usize]
    }

    pub(super) fn inner(&self, id: u32) -> Shape {
        self.inner[id as usize].0
    }

    /// The value, in a map's entry, that is not set.
    pub(super) fn unset_entry(&self, id: u32) -> &[u8] {
        &self.inner[id as usize].1
    }

    pub(super) fn either(&self, id: u32) -> EitherPlan {
        self.eithers[id as usize]
    }

    fn structure(&mut self, schema: &Schema, shape: &StructType) -> StructPlan {
        let fields: Box<[FieldPlan]> = shape
            .proto_order
            .iter()
            .map(|&index| {
                let field = &shape.fields[usize::from(index)];
                let number = field.proto.innermost();
                let mut unset = Reversed::default();
                if matches!(field.presence, Presence::Always | Presence::OmitEmpty) {
                    write_unset(schema, &field.ty, number, &mut unset);
                }
                let unset = unset.finish().into();
                FieldPlan { name: field.name.clone(), shape: self.shape(schema, &field.ty), number, unset }
            })
            .collect();
        let places: Vec<u16> = (0..).take(fields.len()).collect();
        let names = Names::new(fields.iter().map(|f| &*f.name));
        let mut by_name: Vec<(&str, u16)> = fields.iter().map(|f| &*f.name).zip(0..).collect();
        by_name.sort_unstable();
        let sorted = by_name.into_iter().map(|(name, place)| {
            let length = name.len();
            let mask = if length < 8 { (1 << (length * 8)) - 1 } else { u64::MAX };
            Sorted { word: word(name.as_bytes(), 0) & mask, mask, length, place }
        });
        StructPlan { sorted: sorted.collect(), steps: steps(shape, &places, 0), fields, names }
    }

    fn shape(&mut self, schema: &Schema, ty: &Type) -> Shape {
        match ty {
            Type::Bool => Shape::Bool,
            Type::Int32 | Type::Int64 => Shape::Int,
            Type::Double => Shape::Double,
            Type::String => Shape::String,
            Type::Bytes => Shape::Bytes,
            Type::IntOrString => Shape::IntOrString,
            Type::Quantity => Shape::Quantity,
            Type::Time => Shape::Time,
            Type::MicroTime => Shape::MicroTime,
            Type::Duration => Shape::Duration,
            Type::FieldsV1 | Type::RawExtension | Type::Any => Shape::Raw,
            Type::Struct(id) => Shape::Struct(id.0),
            Type::List(list) => Shape::List(self.keep(schema, &list.item)),
            Type::Map(map) => Shape::Map(self.keep(schema, &map.value)),
            Type::Either(either) => {
                let (object, other) = (self.shape(schema, &either.object), self.shape(schema, &either.other));
                let (object_number, other_number) = (either.object_number, either.other_number);
                self.eithers.push(EitherPlan { object, object_number, other, other_number });
                Shape::Either(index(self.eithers.len() - 1))
            }
        }
    }

    fn keep(&mut self, schema: &Schema, ty: &Type) -> u32 {
        let shape = self.shape(schema, ty);
        if let Some(known) = self.inner.iter().position(|(known, _)| *known == shape) {
            return index(known);
        }
        let mut unset = Reversed::default();
        write_unset(schema, ty, 2, &mut unset);
        self.inner.push((shape, unset.finish().into()));
        index(self.inner.len() - 1)
    }
}

fn index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// How to write one message, last to first: the fields of `places` that share the numbers above `level`.
fn steps(shape: &StructType, places: &[u16], level: u32) -> Box<[Step]> {
    let field_at = |place: &u16| &shape.fields[usize::from(shape.proto_order[usize::from(*place)])];
    let (mut rest, mut steps) = (places, Vec::new());
    while let Some(last) = rest.last() {
        let Some(number) = field_at(last).proto.level(level) else { break };
        let start = rest.partition_point(|place| field_at(place).proto.level(level) < Some(number));
        let members = &rest[start..];
        rest = &rest[..start];
        steps.push(if field_at(last).proto.level(level + 1).is_none() {
            Step::Field(*last)
        } else {
            // An inlined struct's message is always there; that of a named list only when there is a list.
            let only = (members.len() == 1 && matches!(field_at(last).ty, Type::List(_))).then_some(*last);
            Step::Group { number, only, members: self::steps(shape, members, level + 1) }
        });
    }
    steps.into()
}

/// What a field that is no pointer is when it is not set.
fn write_unset(schema: &Schema, ty: &Type, number: u32, out: &mut Reversed) {
    let end = out.len();
    match ty {
        Type::Bool | Type::Int32 | Type::Int64 => out.varint_field(number, 0),
        Type::Double => out.double_field(number, 0.0),
        Type::String => out.bytes_field(number, b""),
        Type::Quantity => {
            out.bytes_field(1, b"0");
            out.close_field(number, end);
        }
        Type::IntOrString => {
            out.bytes_field(3, b"");
            out.varint_field(2, 0);
            out.varint_field(1, 0);
            out.close_field(number, end);
        }
        Type::Duration => {
            out.varint_field(1, 0);
            out.close_field(number, end);
        }
        Type::Struct(id) => {
            let shape = schema.get(*id);
            let places: Vec<u16> = (0..).take(shape.proto_order.len()).collect();
            write_unset_fields(schema, shape, &steps(shape, &places, 0), out);
            out.close_field(number, end);
        }
        Type::Time | Type::MicroTime | Type::FieldsV1 | Type::RawExtension | Type::Any | Type::Either(_) => {
            out.close_field(number, end);
        }
        Type::Bytes | Type::List(_) | Type::Map(_) => {}
    }
}

fn write_unset_fields(schema: &Schema, shape: &StructType, steps: &[Step], out: &mut Reversed) {
    for step in steps {
        match step {
            Step::Field(place) => {
                let field = &shape.fields[usize::from(shape.proto_order[usize::from(*place)])];
                let number = field.proto.innermost();
                if matches!(field.presence, Presence::Always | Presence::OmitEmpty) {
                    write_unset(schema, &field.ty, number, out);
                }
            }
            Step::Group { only: Some(_), .. } => {}
            Step::Group { number, only: None, members } => {
                let end = out.len();
                write_unset_fields(schema, shape, members, out);
                out.close_field(*number, end);
            }
        }
    }
}

impl StructPlan {
    /// The place of the field with a JSON name, given where it stands in the JSON.
    #[inline]
    pub(super) fn place(&self, json: &[u8], start: usize, end: usize) -> Option<u16> {
        self.names.find(hash(json, start, end), &json[start..end])
    }

    /// The place of the field whose name starts here, and where the name ends, if it is one of those that come next in their
    /// order; `next` is where they begin.
    #[inline]
    pub(super) fn next_place(&self, json: &[u8], start: usize, next: &mut usize) -> Option<(u16, usize)> {
        const AHEAD: usize = 8;
        let found = u64::from_le_bytes(*json.get(start..)?.first_chunk()?);
        for (passed, name) in self.sorted.get(*next..)?.iter().take(AHEAD).enumerate() {
            let end = start + name.length;
            if found & name.mask == name.word
                && json.get(end) == Some(&b'"')
                && (name.length <= 8
                    || json[start + 8..end] == self.fields[usize::from(name.place)].name.as_bytes()[8..])
            {
                *next += passed + 1;
                return Some((name.place, end));
            }
        }
        None
    }

    pub(super) fn place_of(&self, name: &str) -> Option<u16> {
        self.place(name.as_bytes(), 0, name.len())
    }
}

/// Names in a hash table with open addressing, in one piece of memory.
#[derive(Debug)]
struct Names {
    slots: Box<[Slot]>,
    text: Box<[u8]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    at: u16,
    /// 0: nothing is here.
    length: u16,
    place: u16,
}

impl Names {
    fn new<'n>(names: impl ExactSizeIterator<Item = &'n str>) -> Self {
        let mut slots = vec![Slot::default(); (names.len() * 2).next_power_of_two().max(2)];
        let mut text = Vec::new();
        for (place, name) in (0..).zip(names) {
            let mut slot = hash(name.as_bytes(), 0, name.len()) as usize % slots.len();
            while slots[slot].length != 0 {
                slot = (slot + 1) % slots.len();
            }
            let small = |n: usize| u16::try_from(n).unwrap_or_default();
            slots[slot] = Slot { at: small(text.len()), length: small(name.len()), place };
            text.extend_from_slice(name.as_bytes());
        }
        Self { slots: slots.into(), text: text.into() }
    }

    #[inline]
    fn find(&self, hash: u32, name: &[u8]) -> Option<u16> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.length == 0 {
                return None;
            }
            let start = usize::from(slot.at);
            if &self.text[start..start + usize::from(slot.length)] == name {
                return Some(slot.place);
            }
            at = (at + 1) & mask;
        }
    }
}

/// Of the first and the last eight bytes of a name, and its length.
#[inline]
fn hash(json: &[u8], start: usize, end: usize) -> u32 {
    let length = end - start;
    let word = |at: usize| match json.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => json[at.min(json.len())..].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    let mixed =
        if length >= 8 { word(start) ^ word(end - 8).rotate_left(29) } else { word(start) & ((1 << (length * 8)) - 1) };
    ((mixed ^ length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// Eight bytes, or what there is.
#[inline]
fn word(json: &[u8], at: usize) -> u64 {
    match json.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(bytes) => u64::from_le_bytes(*bytes),
        None => json[at.min(json.len())..].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}
