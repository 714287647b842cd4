//! Protobuf's wire format: reading fields, and writing them back to front so that no length is computed twice.

/// Why a body is not a protobuf message of its kind.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ProtoError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: varint overflow")]
    Overflow,
    #[error("proto: illegal wireType {0}")]
    WireType(u64),
    #[error("proto: string field holds invalid UTF-8")]
    Utf8,
    #[error("proto: wrong wire type for field {0}")]
    Mismatch(String),
    #[error("proto: messages are nested too deeply")]
    Depth,
    #[error("{0} does not support the protobuf encoding")]
    NoForm(String),
    #[error("malformed JSON at byte {0}")]
    Json(usize),
    #[error("field {field}: {problem}")]
    Value { field: String, problem: String },
    #[error("{0}")]
    OverBudget(#[from] kybern_apimachinery::OverBudget),
}

impl ProtoError {
    /// The same, of a value within a field.
    pub(crate) fn in_field(self, name: &str) -> Self {
        match self {
            Self::Value { field, problem } if field.is_empty() => Self::Value { field: name.to_owned(), problem },
            Self::Value { field, problem } => Self::Value { field: format!("{name}.{field}"), problem },
            other => other,
        }
    }
}

/// A field's payload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The numbers and payloads of a message's fields.
pub(crate) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Result<(u32, Item<'_>), ProtoError>> {
    std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| {
            let field = field(&mut rest);
            if field.is_err() {
                rest = &[];
            }
            field
        })
    })
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Item<'a>), ProtoError> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).map_err(|_| ProtoError::Overflow)?;
    let item = match tag & 7 {
        0 => Item::Varint(varint(rest)?),
        1 => Item::Fixed64(u64::from_le_bytes(array(rest)?)),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| ProtoError::Truncated)?;
            let (bytes, after) = rest.split_at_checked(length).ok_or(ProtoError::Truncated)?;
            *rest = after;
            Item::Bytes(bytes)
        }
        5 => Item::Fixed32(u32::from_le_bytes(array(rest)?)),
        other => return Err(ProtoError::WireType(other)),
    };
    Ok((number, item))
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ProtoError> {
    let (bytes, after) = rest.split_first_chunk().ok_or(ProtoError::Truncated)?;
    *rest = after;
    Ok(*bytes)
}

pub(crate) fn varint(rest: &mut &[u8]) -> Result<u64, ProtoError> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first().ok_or(ProtoError::Truncated)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(ProtoError::Overflow)
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, ProtoError> {
    std::str::from_utf8(bytes).map_err(|_| ProtoError::Utf8)
}

/// A message written from its end to its start: when a field is closed, its length is known. What is written stands at
/// the end of the buffer, in order.
#[derive(Default)]
pub(crate) struct Reversed {
    buffer: Vec<u8>,
    /// Where what is written starts.
    start: usize,
}

impl Reversed {
    pub(crate) fn len(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(crate) fn written(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Forgets what is written, and keeps the buffer.
    pub(crate) fn clear(&mut self) {
        self.start = self.buffer.len();
    }

    /// Takes back what was written since the length was `end`.
    pub(crate) fn truncate(&mut self, end: usize) {
        self.start = self.buffer.len() - end.min(self.len());
    }

    /// Makes room for about as much, if there is little.
    pub(crate) fn reserve(&mut self, more: usize) {
        if self.start < more / 2 {
            self.grow(more);
        }
    }

    /// Makes room for at least `more` bytes before what is written.
    #[cold]
    fn grow(&mut self, more: usize) {
        let capacity = (self.len() + more).max(self.buffer.len() * 2).max(512);
        let mut buffer = vec![0; capacity];
        let start = capacity - self.len();
        buffer[start..].copy_from_slice(self.written());
        (self.buffer, self.start) = (buffer, start);
    }

    #[inline]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        if self.start < bytes.len() {
            self.grow(bytes.len());
        }
        let start = self.start - bytes.len();
        self.buffer[start..self.start].copy_from_slice(bytes);
        self.start = start;
    }

    /// A part of something longer.
    #[inline]
    pub(crate) fn part(&mut self, whole: &[u8], from: usize, to: usize) {
        // Most parts are short: what stands before one is copied with it, and overwritten by what is written next.
        const SHORT: usize = 16;
        let length = to - from;
        if length <= SHORT
            && let Some(source) = whole[..to].last_chunk::<SHORT>()
            && let Some(target) = self.buffer[..self.start].last_chunk_mut::<SHORT>()
        {
            *target = *source;
            self.start -= length;
            return;
        }
        self.raw(&whole[from..to]);
    }

    /// A field of bytes that are a part of something longer.
    #[inline]
    pub(crate) fn part_field(&mut self, number: u32, whole: &[u8], from: usize, to: usize) {
        self.part(whole, from, to);
        self.head_field(number, to - from);
    }

    #[inline]
    fn byte(&mut self, byte: u8) {
        if self.start == 0 {
            self.grow(1);
        }
        self.start -= 1;
        self.buffer[self.start] = byte;
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        if value < 0x80 {
            return self.byte(value as u8);
        }
        self.long_varint(value);
    }

    fn long_varint(&mut self, mut value: u64) {
        let mut bytes = [0; 10];
        let mut length = 0;
        loop {
            bytes[length] = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                break;
            }
            bytes[length] |= 0x80;
            length += 1;
        }
        self.raw(&bytes[..=length]);
    }

    #[inline]
    fn tag(&mut self, number: u32, wire_type: u64) {
        self.varint(u64::from(number) << 3 | wire_type);
    }

    #[inline]
    pub(crate) fn varint_field(&mut self, number: u32, value: u64) {
        self.varint(value);
        self.tag(number, 0);
    }

    pub(crate) fn double_field(&mut self, number: u32, value: f64) {
        self.raw(&value.to_le_bytes());
        self.tag(number, 1);
    }

    #[inline]
    pub(crate) fn bytes_field(&mut self, number: u32, bytes: &[u8]) {
        self.raw(bytes);
        self.varint(bytes.len() as u64);
        self.tag(number, 2);
    }

    /// The tag and length of bytes that stand elsewhere.
    #[inline]
    pub(crate) fn head_field(&mut self, number: u32, length: usize) {
        self.varint(length as u64);
        self.tag(number, 2);
    }

    /// Writes length and tag before what was written since `end` was the length.
    #[inline]
    pub(crate) fn close_field(&mut self, number: u32, end: usize) {
        self.head_field(number, self.len() - end);
    }

    /// What is written, in memory of its own size.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.written().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = Reversed::default();
        out.double_field(1000, 1.5);
        out.bytes_field(3, b"abc");
        let end = out.len();
        out.varint_field(1, u64::MAX);
        out.varint_field(1, 300);
        out.close_field(2, end);
        let bytes = out.finish();
        let read: Vec<_> = fields(&bytes).map(Result::unwrap).collect();
        assert!(matches!(read[..], [(2, Item::Bytes(_)), (3, Item::Bytes(b"abc")), (1000, Item::Fixed64(_))]));
        let Item::Bytes(inner) = read[0].1 else { unreachable!() };
        let inner: Vec<_> = fields(inner).map(Result::unwrap).collect();
        assert!(matches!(inner[..], [(1, Item::Varint(300)), (1, Item::Varint(u64::MAX))]));
    }

    #[test]
    fn broken_messages_are_refused() {
        for (bytes, expect) in [
            (&b"\x0a\x05ab"[..], ProtoError::Truncated),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", ProtoError::Overflow),
            (b"\x0b", ProtoError::WireType(3)),
            (b"\x09\x00", ProtoError::Truncated),
        ] {
            assert_eq!(fields(bytes).find_map(Result::err), Some(expect), "{bytes:?}");
        }
    }
}
