//! Cuts a JSON document into slices without building a tree, so that a list or a watch event is parsed once, by the
//! codec of its object. Only the structure is checked here; the codec checks the rest.

use std::borrow::Cow;
use std::ops::Range;

/// The document is not the expected object or array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON")]
pub(crate) struct Malformed;

/// A member of a JSON object: raw key (escapes kept) and raw value.
pub(crate) type Member<'a> = (&'a [u8], &'a [u8]);

/// The members of a JSON object.
pub(crate) fn members(json: &[u8]) -> Result<Vec<Member<'_>>, Malformed> {
    let mut scanner = Scanner { json, at: 0 };
    let mut members = Vec::with_capacity(4);
    scanner.open(b'{')?;
    while !scanner.close(b'}')? {
        let key = scanner.value()?;
        scanner.expect(b':')?;
        let value = scanner.value()?;
        members.push((key.strip_prefix(b"\"").and_then(|k| k.strip_suffix(b"\"")).ok_or(Malformed)?, value));
        scanner.separator(b'}')?;
    }
    Ok(members)
}

/// The elements of a JSON array, or nothing for `null`.
pub(crate) fn elements(json: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    if json.trim_ascii() == b"null" {
        return Ok(Vec::new());
    }
    let mut scanner = Scanner { json, at: 0 };
    let mut elements = Vec::new();
    scanner.open(b'[')?;
    while !scanner.close(b']')? {
        elements.push(scanner.value()?);
        scanner.separator(b']')?;
    }
    Ok(elements)
}

/// An object without `metadata.managedFields`: half of many an object, they cost more to read than all the rest. What is
/// malformed stays as it is, for the codec to refuse.
pub(crate) fn without_managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    match managed_fields(json) {
        Ok(Some(range)) => Cow::Owned([&json[..range.start], &json[range.end..]].concat()),
        _ => Cow::Borrowed(json),
    }
}

/// Where they are, with the comma that separates them from other members.
fn managed_fields(json: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
    let mut scanner = Scanner { json, at: 0 };
    scanner.open(b'{')?;
    while !scanner.close(b'}')? {
        let key = scanner.value()?;
        scanner.expect(b':')?;
        if key != b"\"metadata\"" {
            scanner.value()?;
            scanner.separator(b'}')?;
            continue;
        }
        scanner.open(b'{')?;
        // The end of the member before, and so the place of the comma.
        let mut before = None;
        while !scanner.close(b'}')? {
            let start = scanner.at;
            let key = scanner.value()?;
            scanner.expect(b':')?;
            scanner.value()?;
            let end = scanner.at;
            scanner.separator(b'}')?;
            if key == b"\"managedFields\"" {
                let is_last = scanner.close(b'}')?;
                return Ok(Some(if is_last { before.unwrap_or(start)..end } else { start..scanner.at }));
            }
            before = Some(end);
        }
        return Ok(None);
    }
    Ok(None)
}

struct Scanner<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&mut self) -> Result<u8, Malformed> {
        while self.json.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.json.get(self.at).copied().ok_or(Malformed)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek()? != byte {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    fn open(&mut self, byte: u8) -> Result<(), Malformed> {
        self.expect(byte)
    }

    /// Whether the container ends here.
    fn close(&mut self, byte: u8) -> Result<bool, Malformed> {
        Ok(self.peek()? == byte)
    }

    /// Steps over a comma; the end of the container may stand in its place.
    fn separator(&mut self, close: u8) -> Result<(), Malformed> {
        match self.peek()? {
            b',' => self.at += 1,
            byte if byte == close => {}
            _ => return Err(Malformed),
        }
        Ok(())
    }

    fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => self.string()?,
            b'{' | b'[' => self.container()?,
            _ => {
                let ends = |b: &u8| b",}]:".contains(b) || b.is_ascii_whitespace();
                let length = self.json[start..].iter().position(ends).ok_or(Malformed)?;
                if length == 0 {
                    return Err(Malformed);
                }
                self.at = start + length;
            }
        }
        Ok(&self.json[start..self.at])
    }

    fn string(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        loop {
            match self.json.get(self.at).ok_or(Malformed)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Ok(())
    }

    fn container(&mut self) -> Result<(), Malformed> {
        let mut depth = 0_usize;
        loop {
            match self.json.get(self.at).ok_or(Malformed)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_fall_into_members() {
        let json = br#" {"type" : "ADDED", "object":{"a":"}\"{","b":[1,{}]}, "n":-1.5e3 , "z":null} "#;
        let got = members(json).unwrap();
        let text: Vec<(&str, &str)> =
            got.iter().map(|(k, v)| (std::str::from_utf8(k).unwrap(), std::str::from_utf8(v).unwrap())).collect();
        assert_eq!(
            text,
            [("type", "\"ADDED\""), ("object", r#"{"a":"}\"{","b":[1,{}]}"#), ("n", "-1.5e3"), ("z", "null")]
        );
    }

    #[test]
    fn arrays_fall_into_elements() {
        assert_eq!(elements(br#"[{"a":[1]}, "x",3]"#).unwrap(), [&br#"{"a":[1]}"#[..], b"\"x\"", b"3"]);
        assert_eq!(elements(b"[]").unwrap().len(), 0);
        assert_eq!(elements(b"null").unwrap().len(), 0);
    }

    #[test]
    fn managed_fields_are_left_out() {
        let check = |json: &str, expect: &str| {
            assert_eq!(std::str::from_utf8(&without_managed_fields(json.as_bytes())).unwrap(), expect, "{json}");
        };
        let fields = r#""managedFields":[{"fieldsV1":{"f:a":{"}":"]"}}}, 1]"#;
        let with = |members: &str| format!(r#"{{"kind":"X","metadata":{{{members}}},"spec":{{{fields}}}}}"#);
        for (before, after) in [("", ""), (r#""a":1"#, ""), ("", r#""z":{"b":2}"#), (r#""a":1"#, r#""z":{"b":2}"#)] {
            let join =
                |parts: &[&str]| parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(",");
            check(&with(&join(&[before, fields, after])), &with(&join(&[before, after])));
        }
        for same in [with(""), with(r#""a":"managedFields""#), "{}".into(), "[1]".into(), r#"{"metadata":7}"#.into()] {
            check(&same, &same);
        }
        let whole = with(fields);
        for end in 0..whole.find("spec").unwrap() - 3 {
            assert!(
                serde_json::from_slice::<serde_json::Value>(&without_managed_fields(&whole.as_bytes()[..end])).is_err()
            );
        }
    }

    #[test]
    fn what_is_cut_off_is_malformed() {
        let whole = br#"{"type":"ADDED","object":{"a":"b\\"}}"#;
        assert!(members(whole).is_ok());
        for end in 0..whole.len() {
            assert_eq!(members(&whole[..end]), Err(Malformed), "{end}");
        }
        for bad in ["{\"a\":}", "[1 2]", "{1:2}", "{\"a\":1]"] {
            assert!(members(bad.as_bytes()).is_err() && elements(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
