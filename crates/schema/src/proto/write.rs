//! Messages from an object's JSON, without a tree: the JSON is indexed along the shape, then written from its end to its
//! start.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::time::parse_rfc3339;

use super::plan::{Plan, Shape, Step};
use super::tape::{self, Node, Token};
use super::wire::{ProtoError, Reversed};
use super::{MAGIC, has_form};
use crate::duration;
use crate::types::KindType;

/// More than this is not kept from one object to the next.
const KEPT: usize = 1 << 16;

/// Writes messages, one before the other: what is to stand last is written first. Its memory serves one object after the
/// other.
#[derive(Default)]
pub struct Writer {
    out: Reversed,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    tape: Vec<Node>,
    /// For each field of the structs being written, its node; 0 where it is not set.
    slots: Vec<u32>,
    /// Nodes of lists and maps being written.
    order: Vec<u32>,
    bytes: Vec<u8>,
}

impl Writer {
    /// The message of an object, given as JSON, alone.
    pub fn message(&mut self, kind: &KindType, json: &[u8]) -> Result<(), ProtoError> {
        std::str::from_utf8(json).map_err(|_| ProtoError::Utf8)?;
        self.message_again(kind, json)
    }

    /// The same of JSON that a message was written of before: it is known to be UTF-8.
    pub fn message_again(&mut self, kind: &KindType, json: &[u8]) -> Result<(), ProtoError> {
        if !has_form(kind) {
            return Err(ProtoError::NoForm(kind.gvk.to_string()));
        }
        let plan = kind.schema.plan();
        let scratch = &mut self.scratch;
        // Mostly a message is shorter than its JSON.
        self.out.reserve(json.len());
        tape::read(plan, kind.root.0, json, &mut scratch.tape)?;
        let mut emitter = Emitter {
            plan,
            json,
            tape: &scratch.tape,
            out: &mut self.out,
            slots: &mut scratch.slots,
            order: &mut scratch.order,
            bytes: &mut scratch.bytes,
        };
        let written = emitter.structure(kind.root.0, 0);
        scratch.slots.clear();
        scratch.order.clear();
        if scratch.tape.capacity() > KEPT {
            scratch.tape = Vec::new();
        }
        if scratch.bytes.capacity() > KEPT {
            scratch.bytes = Vec::new();
        }
        written
    }

    /// The body of an object: envelope and message.
    pub fn body(&mut self, kind: &KindType, api_version: &str, name: &str, json: &[u8]) -> Result<(), ProtoError> {
        let end = self.open_body();
        self.message(kind, json)?;
        self.close_body(api_version, name, end);
        Ok(())
    }

    /// What stands behind the message of an object in its envelope. Upstream writes the empty content encoding and type.
    pub fn open_body(&mut self) -> usize {
        self.out.bytes_field(4, b"");
        self.out.bytes_field(3, b"");
        self.len()
    }

    /// What stands before the message, which was written since [`Writer::open_body`] answered `end`.
    pub fn close_body(&mut self, api_version: &str, kind: &str, end: usize) {
        self.head_of_body(api_version, kind, self.len() - end);
    }

    /// The start of an envelope, up to a message of some length.
    pub fn head_of_body(&mut self, api_version: &str, kind: &str, length: usize) {
        self.out.head_field(2, length);
        let end = self.len();
        self.out.bytes_field(2, kind.as_bytes());
        self.out.bytes_field(1, api_version.as_bytes());
        self.out.close_field(1, end);
        self.out.raw(MAGIC);
    }

    /// The start of a field: its number, and the length of the message that was written since the length was `end`.
    pub fn close_field(&mut self, number: u32, end: usize) {
        self.out.close_field(number, end);
    }

    /// The number and length of a field whose bytes stand elsewhere.
    pub fn head_of_field(&mut self, number: u32, length: usize) {
        self.out.head_field(number, length);
    }

    pub fn bytes_field(&mut self, number: u32, bytes: &[u8]) {
        self.out.bytes_field(number, bytes);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.raw(bytes);
    }

    /// The length of what is written.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn written(&self) -> &[u8] {
        self.out.written()
    }

    /// Takes back what was written since the length was `end`.
    pub fn truncate(&mut self, end: usize) {
        self.out.truncate(end);
    }

    pub fn clear(&mut self) {
        self.out.clear();
    }
}

struct Emitter<'a> {
    plan: &'a Plan,
    json: &'a [u8],
    tape: &'a [Node],
    out: &'a mut Reversed,
    slots: &'a mut Vec<u32>,
    order: &'a mut Vec<u32>,
    bytes: &'a mut Vec<u8>,
}

impl<'a> Emitter<'a> {
    fn node(&self, at: u32) -> Node {
        self.tape[at as usize]
    }

    fn text(&self, node: Node) -> &'a [u8] {
        &self.json[node.start as usize..node.end as usize]
    }

    fn structure(&mut self, id: u32, at: u32) -> Result<(), ProtoError> {
        let plan = self.plan.structure_at(id);
        let base = self.slots.len();
        self.slots.resize(base + plan.fields.len(), 0);
        let (mut child, end) = (at + 1, self.node(at).next);
        while child < end {
            let node = self.node(child);
            // The last of equal names counts.
            self.slots[base + usize::from(node.place)] = if node.token == Token::Null { 0 } else { child };
            child = node.next;
        }
        self.steps(id, &plan.steps, base)?;
        self.slots.truncate(base);
        Ok(())
    }

    fn steps(&mut self, id: u32, steps: &[Step], base: usize) -> Result<(), ProtoError> {
        let fields = &self.plan.structure_at(id).fields;
        for step in steps {
            match step {
                Step::Field(place) => {
                    let field = &fields[usize::from(*place)];
                    match self.slots[base + usize::from(*place)] {
                        0 => self.out.raw(&field.unset),
                        at => self.value(field.shape, field.number, at).map_err(|e| e.in_field(&field.name))?,
                    }
                }
                Step::Group { only: Some(place), .. } if self.slots[base + usize::from(*place)] == 0 => {}
                Step::Group { number, members, .. } => {
                    let end = self.out.len();
                    self.steps(id, members, base)?;
                    self.out.close_field(*number, end);
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, shape: Shape, number: u32, at: u32) -> Result<(), ProtoError> {
        let node = self.node(at);
        let end = self.out.len();
        match (shape, node.token) {
            (Shape::Raw, _) => {
                self.out.part_field(1, self.json, node.start as usize, node.end as usize);
                self.out.close_field(number, end);
            }
            (_, Token::Null) => return Err(mismatch(b"null")),
            (Shape::Struct(id), Token::Object) => {
                self.structure(id, at)?;
                self.out.close_field(number, end);
            }
            (Shape::List(id), Token::Array) => {
                let (base, shape) = (self.order.len(), self.plan.inner(id));
                self.children(at);
                for item in (base..self.order.len()).rev() {
                    self.value(shape, number, self.order[item])?;
                }
                self.order.truncate(base);
            }
            (Shape::Map(id), Token::Object) => self.map(id, number, at)?,
            (Shape::Either(id), token) => {
                let either = self.plan.either(id);
                if token == Token::Object {
                    self.value(either.object, either.object_number, at + 1)?;
                    // Upstream's `JSONSchemaPropsOrBool` allows what it has a schema for; the bool has the lower number.
                    if either.other == Shape::Bool {
                        self.out.varint_field(either.other_number, 1);
                    }
                } else {
                    self.value(either.other, either.other_number, at + 1)?;
                }
                self.out.close_field(number, end);
            }
            (Shape::String, Token::String) => {
                self.out.part_field(number, self.json, node.start as usize, node.end as usize);
            }
            (_, Token::Escaped) => {
                let text = tape::unescaped(self.json, node.start as usize, node.end as usize)?;
                self.string(shape, number, text.as_bytes())?;
            }
            (_, Token::String) => self.string(shape, number, self.text(node))?,
            (_, Token::Bare) => self.bare(shape, number, self.text(node))?,
            _ => return Err(mismatch(self.text(node))),
        }
        Ok(())
    }

    /// What stands in quotes.
    fn string(&mut self, shape: Shape, number: u32, text: &[u8]) -> Result<(), ProtoError> {
        let quoted = || mismatch(format!("{:?}", String::from_utf8_lossy(text)).as_bytes());
        let end = self.out.len();
        match shape {
            Shape::String => {
                self.out.bytes_field(number, text);
                return Ok(());
            }
            Shape::Bytes => {
                self.bytes.clear();
                STANDARD.decode_vec(text, self.bytes).map_err(|e| problem(e.to_string()))?;
                self.out.bytes_field(number, self.bytes);
                return Ok(());
            }
            Shape::IntOrString => self.int_or_string(1, 0, text),
            Shape::Quantity => self.out.bytes_field(1, text),
            Shape::Time | Shape::MicroTime => {
                let (seconds, nanos) = instant(text).ok_or_else(quoted)?;
                let nanos = if shape == Shape::Time { 0 } else { nanos / 1000 * 1000 };
                self.out.varint_field(2, nanos);
                self.out.varint_field(1, seconds.cast_unsigned());
            }
            Shape::Duration => {
                let nanos = std::str::from_utf8(text).ok().and_then(duration::parse).ok_or_else(quoted)?;
                self.out.varint_field(1, nanos.cast_unsigned());
            }
            _ => return Err(quoted()),
        }
        self.out.close_field(number, end);
        Ok(())
    }

    /// A number, `true` or `false`.
    fn bare(&mut self, shape: Shape, number: u32, text: &[u8]) -> Result<(), ProtoError> {
        let refuse = || mismatch(text);
        match shape {
            Shape::Bool => match text {
                b"true" => self.out.varint_field(number, 1),
                b"false" => self.out.varint_field(number, 0),
                _ => return Err(refuse()),
            },
            Shape::Int => self.out.varint_field(number, integer(text).ok_or_else(refuse)?.cast_unsigned()),
            Shape::Double => {
                let parsed = serde_json::from_slice::<f64>(text).map_err(|_| refuse())?;
                self.out.double_field(number, parsed);
            }
            Shape::IntOrString => {
                let end = self.out.len();
                self.int_or_string(0, integer(text).ok_or_else(refuse)?, b"");
                self.out.close_field(number, end);
            }
            _ => return Err(refuse()),
        }
        Ok(())
    }

    fn int_or_string(&mut self, kind: u64, int: i64, text: &[u8]) {
        self.out.bytes_field(3, text);
        self.out.varint_field(2, int.cast_unsigned());
        self.out.varint_field(1, kind);
    }

    /// Puts the places of a node's children at the end of `order`; of a map the keys'.
    fn children(&mut self, at: u32) {
        let (mut child, end) = (at + 1, self.node(at).next);
        while child < end {
            self.order.push(child);
            child = self.node(child).next;
        }
    }

    fn map(&mut self, id: u32, number: u32, at: u32) -> Result<(), ProtoError> {
        let (base, last) = (self.order.len(), self.node(at).next);
        // Keys in their order; as what we write is sorted, there is mostly nothing to do for it.
        let (mut key, mut sorted, mut before) = (at + 1, true, None::<&[u8]>);
        while key < last {
            let node = self.node(key);
            let text = self.text(node);
            sorted &= node.token == Token::String && before.is_none_or(|before| before < text);
            before = Some(text);
            self.order.push(key);
            key = self.node(key + 1).next;
        }
        if !sorted {
            self.sort(base)?;
        }
        for entry in (base..self.order.len()).rev() {
            let at = self.order[entry];
            let (node, end) = (self.node(at), self.out.len());
            if node.token == Token::Escaped {
                let key = tape::unescaped(self.json, node.start as usize, node.end as usize)?;
                self.entry(id, at + 1).map_err(|e| e.in_field(&key))?;
                self.out.bytes_field(1, key.as_bytes());
            } else {
                let key = self.text(node);
                self.entry(id, at + 1).map_err(|e| e.in_field(&String::from_utf8_lossy(key)))?;
                self.out.part_field(1, self.json, node.start as usize, node.end as usize);
            }
            self.out.close_field(number, end);
        }
        self.order.truncate(base);
        Ok(())
    }

    /// Sorts the keys from `base` on; the last of equal ones stays.
    fn sort(&mut self, base: usize) -> Result<(), ProtoError> {
        let mut keys = Vec::with_capacity(self.order.len() - base);
        for &at in &self.order[base..] {
            let node = self.node(at);
            let key = match node.token {
                Token::Escaped => {
                    tape::unescaped(self.json, node.start as usize, node.end as usize)?.into_bytes().into()
                }
                _ => std::borrow::Cow::Borrowed(self.text(node)),
            };
            keys.push((key, at));
        }
        keys.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        keys.dedup_by(|later, kept| later.0 == kept.0);
        self.order.truncate(base);
        self.order.extend(keys.iter().map(|(_, at)| at));
        Ok(())
    }

    /// A map entry's value, field 2. A list there is a message of its own.
    fn entry(&mut self, id: u32, at: u32) -> Result<(), ProtoError> {
        let is_null = self.node(at).token == Token::Null;
        match self.plan.inner(id) {
            shape @ Shape::List(_) => {
                let end = self.out.len();
                if !is_null {
                    self.value(shape, 1, at)?;
                }
                self.out.close_field(2, end);
                Ok(())
            }
            _ if is_null => {
                self.out.raw(self.plan.unset_entry(id));
                Ok(())
            }
            shape => self.value(shape, 2, at),
        }
    }
}

fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds since 1970, rounded down as Go's are, and nanoseconds, which are then never negative.
fn instant(text: &[u8]) -> Option<(i64, u64)> {
    plain_instant(text).or_else(|| {
        let nanos = parse_rfc3339(std::str::from_utf8(text).ok()?)?.as_nanosecond();
        let (seconds, rest) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
        Some((i64::try_from(seconds).ok()?, u64::try_from(rest).ok()?))
    })
}

/// Times as the server writes them: `2026-01-31T23:59:59Z`, `2026-01-31T23:59:59.123456Z`.
fn plain_instant(text: &[u8]) -> Option<(i64, u64)> {
    let number = |from: usize, to: usize| {
        text.get(from..to)?.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if text.len() < 20 || marks.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let nanos = match (text.len(), text[19], text[text.len() - 1]) {
        (20, b'Z', _) => 0,
        (27, b'.', b'Z') => number(20, 26)? * 1000,
        _ => return None,
    };
    // What is out of these bounds, or at a month's end, is for the parser.
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970-01-01, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some((seconds.cast_signed() - 719_468 * 86_400, nanos))
}

fn problem(problem: String) -> ProtoError {
    ProtoError::Value { field: String::new(), problem }
}

/// The refusal of a value, given as JSON.
pub(super) fn mismatch(json: &[u8]) -> ProtoError {
    problem(format!("{} is of a wrong type", String::from_utf8_lossy(json)))
}
