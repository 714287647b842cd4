//! The netlink message format (RFC 3549, `linux/netlink.h`): messages of a 16-byte header, a family header, and
//! type-length-value attributes aligned to four bytes. Pure: bytes in, bytes out.

/// Request flags (`NLM_F_*`).
pub mod flags {
    pub const REQUEST: u16 = 0x1;
    pub const MULTI: u16 = 0x2;
    pub const ACK: u16 = 0x4;
    pub const DUMP_INTERRUPTED: u16 = 0x10;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
    pub const DUMP: u16 = 0x300;
}

/// Control message types.
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;

const HEADER_LEN: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Netlink messages under construction, one after the other.
#[derive(Default, Debug, Clone)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends one message: header, family header, and the attributes that `body` writes.
    pub fn message(&mut self, kind: u16, flags: u16, seq: u32, header: &[u8], body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.raw(header);
        body(self);
        let len = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Appends bytes as they are, padded to four.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// One attribute. `value` must be shorter than 65,532 bytes, as the length field has 16 bits.
    pub fn attr(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).expect("an attribute is shorter than 64 KiB");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value);
    }

    pub fn attr_u8(&mut self, kind: u16, value: u8) {
        self.attr(kind, &[value]);
    }

    pub fn attr_u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_ne_bytes());
    }

    /// Big-endian, as netfilter's attributes are.
    pub fn attr_be32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    pub fn attr_be64(&mut self, kind: u16, value: u64) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// A string with its terminating NUL.
    pub fn attr_str(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    /// An attribute that holds the attributes that `body` writes.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        body(self);
        let len = u16::try_from(self.bytes.len() - start).expect("a nested attribute is shorter than 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

/// One received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    /// Port of the socket that asked for it, or whose request it tells of.
    pub port: u32,
    /// Family header and attributes.
    pub payload: &'a [u8],
}

/// The messages of one datagram. Stops at the first malformed one.
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Received<'a>> {
        let head = self.0.get(..HEADER_LEN)?;
        let len = u32_ne(head)? as usize;
        let payload = self.0.get(HEADER_LEN..len)?;
        let message = Received {
            kind: u16_ne(&head[4..])?,
            flags: u16_ne(&head[6..])?,
            seq: u32_ne(&head[8..])?,
            port: u32_ne(&head[12..])?,
            payload,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    }
}

/// The attributes in a byte slice: `(type without flags, value)`. Stops at the first malformed one.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of a type.
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        { self }.find_map(|(k, value)| (k == kind).then_some(value))
    }

    /// The attributes nested in the first one of a type; none if there is no such.
    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or(&[]))
    }

    pub fn find_u32(self, kind: u16) -> Option<u32> {
        u32_ne(self.find(kind)?)
    }

    pub fn find_be32(self, kind: u16) -> Option<u32> {
        u32_ne(self.find(kind)?).map(u32::from_be)
    }

    pub fn find_be64(self, kind: u16) -> Option<u64> {
        self.find(kind)?.get(..8)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub fn find_str(self, kind: u16) -> Option<&'a str> {
        text(self.find(kind)?)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_ne(self.0)?);
        let kind = u16_ne(self.0.get(2..)?)? & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Text up to the first NUL.
pub fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|b| *b == 0).next()?).ok()
}

pub fn u16_ne(bytes: &[u8]) -> Option<u16> {
    bytes.get(..2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub fn u32_ne(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back() {
        let mut buffer = Buffer::new();
        buffer.message(16, flags::REQUEST, 7, &[9; 5], |b| {
            b.attr_str(3, "eth0");
            b.nest(18, |b| b.attr_be32(1, 0x0102_0304));
        });
        buffer.message(17, 0, 8, &[], |_| {});
        let messages: Vec<_> = Messages(buffer.as_bytes()).collect();
        assert_eq!((messages.len(), messages[0].kind, messages[0].seq, messages[1].kind), (2, 16, 7, 17));
        let attributes = Attributes(&messages[0].payload[8..]);
        assert_eq!(attributes.find_str(3), Some("eth0"));
        assert_eq!(attributes.nested(18).find_be32(1), Some(0x0102_0304));
        assert_eq!(attributes.find(5), None);
    }

    #[test]
    fn truncated_input_ends_the_iteration() {
        let mut buffer = Buffer::new();
        buffer.message(16, 0, 1, &[], |b| b.attr_str(3, "a long enough name"));
        let bytes = buffer.as_bytes();
        assert_eq!(Messages(&bytes[..bytes.len() - 4]).count(), 0);
        assert_eq!(Attributes(&bytes[16..bytes.len() - 8]).count(), 0);
        // A length of zero must not loop.
        assert_eq!(Attributes(&[0, 0, 1, 0, 0, 0]).count(), 0);
        assert_eq!(Messages(&[0; 16]).count(), 0);
    }
}
