//! An object's JSON, indexed along its shape in one pass: where the value of each field stands. No tree is made.

use super::plan::{Plan, Shape};
use super::wire::ProtoError;

/// Readers of JSON go no deeper.
const MAX_DEPTH: u32 = kybern_apimachinery::Budget::JSON_DEPTH as u32;

/// A value, or the key of a map's entry. What it contains follows it, up to `next`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// Of a string without its quotes, of anything else as it stands.
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) next: u32,
    /// In a struct, the field's place.
    pub(super) place: u16,
    pub(super) token: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Null,
    /// A number, `true` or `false`.
    Bare,
    String,
    /// A string with escapes.
    Escaped,
    Object,
    Array,
    /// Anything, where the shape asks for nothing else.
    Raw,
}

pub(super) fn read(plan: &Plan, root: u32, json: &[u8], tape: &mut Vec<Node>) -> Result<(), ProtoError> {
    tape.clear();
    // What is text as a whole is text in every part that is cut at quotes.
    if u32::try_from(json.len()).is_err() {
        return Err(ProtoError::Json(json.len()));
    }
    let mut reader = Reader { plan, json, at: 0, tape, depth: 0 };
    reader.space();
    if reader.peek() != b'{' {
        return Err(reader.malformed());
    }
    reader.value(Shape::Struct(root), 0)?;
    reader.space();
    if reader.at < json.len() { Err(reader.malformed()) } else { Ok(()) }
}

struct Reader<'a> {
    plan: &'a Plan,
    json: &'a [u8],
    at: usize,
    tape: &'a mut Vec<Node>,
    depth: u32,
}

impl Reader<'_> {
    fn malformed(&self) -> ProtoError {
        ProtoError::Json(self.at)
    }

    #[inline]
    fn peek(&self) -> u8 {
        self.json.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\t' | b'\r') {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), ProtoError> {
        self.space();
        if self.peek() != byte {
            return Err(self.malformed());
        }
        self.at += 1;
        Ok(())
    }

    fn push(&mut self, start: usize, end: usize, place: u16, token: Token) {
        let next = self.tape.len() as u32 + 1;
        self.tape.push(Node { start: start as u32, end: end as u32, next, place, token });
    }

    fn value(&mut self, shape: Shape, place: u16) -> Result<(), ProtoError> {
        self.space();
        let start = self.at;
        let first = self.peek();
        if first == b'n' {
            self.skip()?;
            self.push(start, self.at, place, Token::Null);
            return if &self.json[start..self.at] == b"null" { Ok(()) } else { Err(self.malformed()) };
        }
        match shape {
            Shape::Raw => {
                self.skip()?;
                self.push(start, self.at, place, Token::Raw);
            }
            Shape::Struct(id) if first == b'{' => {
                let node = self.open(place, Token::Object)?;
                self.members(id)?;
                self.close(node);
            }
            Shape::Map(id) if first == b'{' => {
                let node = self.open(place, Token::Object)?;
                self.entries(self.plan.inner(id))?;
                self.close(node);
            }
            Shape::List(id) if first == b'[' => {
                let node = self.open(place, Token::Array)?;
                self.items(self.plan.inner(id))?;
                self.close(node);
            }
            Shape::Either(id) => {
                let either = self.plan.either(id);
                let (shape, token) =
                    if first == b'{' { (either.object, Token::Object) } else { (either.other, Token::Array) };
                let node = self.open_at(place, token)?;
                self.value(shape, 0)?;
                self.close(node);
            }
            Shape::Struct(_) | Shape::Map(_) | Shape::List(_) => return Err(self.mismatch()),
            _ if first == b'"' => {
                let (start, end, escaped) = self.string()?;
                self.push(start, end, place, if escaped { Token::Escaped } else { Token::String });
            }
            _ if matches!(first, b'{' | b'[') => return Err(self.mismatch()),
            _ => {
                self.skip()?;
                self.push(start, self.at, place, Token::Bare);
            }
        }
        Ok(())
    }

    /// Refuses the value that stands here.
    #[cold]
    fn mismatch(&mut self) -> ProtoError {
        let start = self.at;
        match self.skip() {
            Ok(()) => super::write::mismatch(&self.json[start..self.at]),
            Err(error) => error,
        }
    }

    fn open(&mut self, place: u16, token: Token) -> Result<usize, ProtoError> {
        let node = self.open_at(place, token)?;
        self.at += 1;
        Ok(node)
    }

    fn open_at(&mut self, place: u16, token: Token) -> Result<usize, ProtoError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ProtoError::Depth);
        }
        self.push(self.at, self.at, place, token);
        Ok(self.tape.len() - 1)
    }

    fn close(&mut self, node: usize) {
        self.depth -= 1;
        let next = self.tape.len() as u32;
        let node = &mut self.tape[node];
        (node.end, node.next) = (self.at as u32, next);
    }

    /// Whether another member comes, in an object or array that is open; `first` until there was one.
    #[inline]
    fn more(&mut self, end: u8, first: &mut bool) -> Result<bool, ProtoError> {
        self.space();
        let byte = self.peek();
        if byte == b',' && !*first {
            self.at += 1;
            self.space();
            return if self.peek() == end { Err(self.malformed()) } else { Ok(true) };
        }
        if byte == end {
            self.at += 1;
            return Ok(false);
        }
        if std::mem::take(first) { Ok(true) } else { Err(self.malformed()) }
    }

    fn members(&mut self, id: u32) -> Result<(), ProtoError> {
        let plan = self.plan.structure_at(id);
        let (mut first, mut next) = (true, 0);
        while self.more(b'}', &mut first)? {
            let known = if self.peek() == b'"' { plan.next_place(self.json, self.at + 1, &mut next) } else { None };
            let place = match known {
                Some((place, end)) => {
                    self.at = end + 1;
                    Some(place)
                }
                None => {
                    let (start, end, escaped) = self.string()?;
                    if escaped {
                        plan.place_of(&unescaped(self.json, start, end)?)
                    } else {
                        plan.place(self.json, start, end)
                    }
                }
            };
            self.expect(b':')?;
            match place {
                Some(place) => {
                    let field = &plan.fields[usize::from(place)];
                    self.value(field.shape, place).map_err(|e| e.in_field(&field.name))?;
                }
                None => {
                    self.space();
                    self.skip()?;
                }
            }
        }
        Ok(())
    }

    fn entries(&mut self, shape: Shape) -> Result<(), ProtoError> {
        let mut first = true;
        while self.more(b'}', &mut first)? {
            let (start, end, escaped) = self.string()?;
            self.push(start, end, 0, if escaped { Token::Escaped } else { Token::String });
            self.expect(b':')?;
            self.value(shape, 0).map_err(|e| e.in_field(&String::from_utf8_lossy(&self.json[start..end])))?;
        }
        Ok(())
    }

    fn items(&mut self, shape: Shape) -> Result<(), ProtoError> {
        let mut first = true;
        while self.more(b']', &mut first)? {
            self.value(shape, 0)?;
        }
        Ok(())
    }

    /// Passes a string, and answers where it stands within its quotes and whether something in it is escaped.
    #[inline]
    fn string(&mut self) -> Result<(usize, usize, bool), ProtoError> {
        if self.peek() != b'"' {
            return Err(self.malformed());
        }
        let start = self.at + 1;
        let (end, escaped) = end_of_string(self.json, start).ok_or_else(|| self.malformed())?;
        self.at = end + 1;
        Ok((start, end, escaped))
    }

    /// Passes any value.
    fn skip(&mut self) -> Result<(), ProtoError> {
        match self.peek() {
            b'"' => self.string().map(|_| ()),
            b'{' | b'[' => {
                let mut depth = 0usize;
                loop {
                    match self.peek() {
                        b'"' => {
                            self.string()?;
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        0 => return Err(self.malformed()),
                        _ => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
            }
            _ => {
                let rest = &self.json[self.at..];
                let end = rest.iter().position(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'+' | b'.' | b'E'));
                let end = end.unwrap_or(rest.len());
                if end == 0 {
                    return Err(self.malformed());
                }
                self.at += end;
                Ok(())
            }
        }
    }
}

/// The closing quote of a string whose text starts at `at`.
#[inline]
fn end_of_string(json: &[u8], at: usize) -> Option<(usize, bool)> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The highest bit of the first byte that is zero, and maybe of some after it.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let mut here = at;
    // Most strings are short.
    for _ in 0..4 {
        let Some(bytes) = json.get(here..).and_then(|rest| rest.first_chunk::<8>()) else { break };
        let word = u64::from_le_bytes(*bytes);
        let found = zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64));
        if found != 0 {
            here += found.trailing_zeros() as usize / 8;
            return if json[here] == b'"' { Some((here, false)) } else { end_of_escaped(json, here) };
        }
        here += 8;
    }
    here += memchr::memchr2(b'"', b'\\', json.get(here..)?)?;
    if json[here] == b'"' { Some((here, false)) } else { end_of_escaped(json, here) }
}

fn end_of_escaped(json: &[u8], mut at: usize) -> Option<(usize, bool)> {
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some((at, true));
        }
        at += 2;
    }
}

/// The text of a string with escapes.
pub(super) fn unescaped(json: &[u8], start: usize, end: usize) -> Result<String, ProtoError> {
    serde_json::from_slice(&json[start - 1..=end]).map_err(|_| ProtoError::Json(start))
}
