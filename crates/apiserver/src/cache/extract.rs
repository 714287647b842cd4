//! Reads single values out of an object's JSON without building a tree.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::resource::SelectableField;

/// Keys and values.
type Pairs = Box<[(Box<str>, Box<str>)]>;

/// An object's labels: mostly just where they stand in its bytes.
#[derive(Clone, Debug, Default)]
pub(super) enum Labels {
    #[default]
    None,
    /// A JSON object without space or escapes.
    Plain(Range<u32>),
    Parsed(Box<Pairs>),
}

impl Labels {
    /// The labels in the `metadata` object that opens at `start`.
    pub(super) fn read(object: &[u8], start: usize) -> serde_json::Result<Self> {
        let Some(span) = member(object, start, "labels") else { return Ok(Self::None) };
        let json = &object[span.clone()];
        let pairs: Option<Pairs> =
            serde_json::from_slice::<Option<BTreeMap<Box<str>, Box<str>>>>(json)?.map(|map| map.into_iter().collect());
        let pairs = pairs.unwrap_or_default();
        if pairs.is_empty() {
            return Ok(Self::None);
        }
        let plain: usize = pairs.iter().map(|(key, value)| key.len() + value.len() + r#""":"","#.len()).sum();
        match (u32::try_from(span.start), u32::try_from(span.end)) {
            (Ok(start), Ok(end)) if json.len() == plain + 1 => Ok(Self::Plain(start..end)),
            _ => Ok(Self::Parsed(Box::new(pairs))),
        }
    }

    /// The same in bytes in which they stand so much further on.
    pub(super) fn moved(&self, by: i64) -> Self {
        match self {
            Self::Plain(span) => {
                let moved = |at: u32| (i64::from(at) + by) as u32;
                Self::Plain(moved(span.start)..moved(span.end))
            }
            other => other.clone(),
        }
    }

    pub(super) fn get<'a>(&'a self, object: &'a [u8], key: &str) -> Option<&'a str> {
        match self {
            Self::None => None,
            Self::Parsed(pairs) => pairs.iter().find(|(k, _)| **k == *key).map(|(_, v)| &**v),
            Self::Plain(span) => {
                // `{"a":"1","b":"2"}`: text and quotes in turn.
                let text = object.get(span.start as usize + 1..span.end as usize - 1)?;
                let mut parts = text.split(|byte| *byte == b'"');
                while let (Some(_), Some(name), Some(_), Some(value)) =
                    (parts.next(), parts.next(), parts.next(), parts.next())
                {
                    if name == key.as_bytes() {
                        return std::str::from_utf8(value).ok();
                    }
                }
                None
            }
        }
    }
}

/// Where the value of a member stands in the object that opens at `start`; the last, where there are several. What is no JSON
/// has no members.
fn member(json: &[u8], start: usize, name: &str) -> Option<Range<usize>> {
    let space = |mut at: usize| {
        while matches!(json.get(at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            at += 1;
        }
        at
    };
    let (mut at, mut found) = (space(start + 1), None);
    while json.get(at) == Some(&b'"') {
        let key = at + 1..end_of_value(json, at)? - 1;
        at = space(space(key.end + 1) + 1);
        let end = end_of_value(json, at)?;
        if &json[key] == name.as_bytes() {
            found = Some(at..end);
        }
        at = space(end);
        if json.get(at) == Some(&b',') {
            at = space(at + 1);
        }
    }
    found
}

/// Where a value ends.
pub(super) fn end_of_value(json: &[u8], start: usize) -> Option<usize> {
    let (mut depth, mut at) = (0usize, start);
    loop {
        match json.get(at)? {
            b'"' => {
                at += 1;
                while *json.get(at)? != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            // A number or word, to its last character.
            _ if depth == 0 => {
                while json.get(at + 1).is_some_and(|b| !matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r'))
                {
                    at += 1;
                }
            }
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Values of a kind's selectable fields, in their order, in one piece: where the first begins and each ends, then their text.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Box<[u8]>);

impl Fields {
    fn new(values: &[Box<str>]) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        let mut end = (values.len() + 1) * 4;
        let mut bytes = Vec::with_capacity(end + values.iter().map(|v| v.len()).sum::<usize>());
        bytes.extend_from_slice(&(end as u32).to_le_bytes());
        for value in values {
            end += value.len();
            bytes.extend_from_slice(&(end as u32).to_le_bytes());
        }
        values.iter().for_each(|value| bytes.extend_from_slice(value.as_bytes()));
        Self(bytes.into())
    }

    /// A value by its place; empty where there is none.
    pub(super) fn get(&self, place: usize) -> &str {
        let bound = |at: usize| {
            let bytes = self.0.get(at * 4..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*bytes) as usize)
        };
        // The text begins behind the last end.
        let count = bound(0).map_or(0, |start| start / 4 - 1);
        if place >= count {
            return "";
        }
        let text = bound(place).zip(bound(place + 1)).and_then(|(start, end)| self.0.get(start..end));
        text.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or("")
    }
}

/// The values at the fields' paths, as selectors compare them.
pub(super) fn fields(object: &[u8], wanted: &[SelectableField]) -> serde_json::Result<Fields> {
    if wanted.is_empty() {
        return Ok(Fields::default());
    }
    let mut found: Vec<Option<Box<str>>> = vec![None; wanted.len()];
    let all: Vec<usize> = (0..wanted.len()).collect();
    let mut reader = serde_json::Deserializer::from_slice(object);
    Paths { wanted, alive: &all, depth: 0, found: &mut found }.deserialize(&mut reader)?;
    let set = |found: &Option<Box<str>>| found.clone().filter(|value| !value.is_empty());
    let read = |(value, field): (&Option<Box<str>>, &SelectableField)| {
        let instead = || field.instead.and_then(|other| set(found.get(other)?));
        set(value).or_else(instead).unwrap_or_else(|| field.unset.as_str().into())
    };
    Ok(Fields::new(&found.iter().zip(wanted).map(read).collect::<Vec<_>>()))
}

/// Descends along the paths that are still possible at this depth and skips everything else.
struct Paths<'a> {
    wanted: &'a [SelectableField],
    alive: &'a [usize],
    depth: usize,
    found: &'a mut [Option<Box<str>>],
}

impl Paths<'_> {
    fn set(&mut self, value: &dyn fmt::Display) {
        for &i in self.alive {
            if self.wanted[i].json_path.len() == self.depth {
                self.found[i] = Some(value.to_string().into());
            }
        }
    }
}

impl<'de> DeserializeSeed<'de> for Paths<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Paths<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "any value")
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<(), E> {
        self.set(&value);
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.set(&value);
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.set(&value);
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        self.set(&value);
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.set(&value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<str>>()? {
            let on_path = |i: &usize| self.wanted[*i].json_path.get(self.depth).is_some_and(|k| *k == *key);
            let alive: Vec<usize> = self.alive.iter().copied().filter(on_path).collect();
            if alive.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                let below =
                    Paths { wanted: self.wanted, alive: &alive, depth: self.depth + 1, found: &mut *self.found };
                map.next_value_seed(below)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(path: &str, unset: &str) -> SelectableField {
        SelectableField { unset: unset.into(), ..SelectableField::at(path) }
    }

    #[test]
    fn values_at_paths() {
        let wanted = [
            field("spec.nodeName", ""),
            field("spec.hostNetwork", "false"),
            field("status.phase", ""),
            field("spec.n", ""),
        ];
        let check = |object: &str, expect: &[&str]| {
            let got = fields(object.as_bytes(), &wanted).unwrap();
            assert_eq!((0..wanted.len()).map(|i| got.get(i)).collect::<Vec<_>>(), expect, "{object}");
            assert_eq!(got.get(wanted.len()), "");
        };
        check(
            r#"{"spec":{"nodeName":"n\"1","x":{"nodeName":"no"},"n":3},"status":{"phase":"Running"}}"#,
            &["n\"1", "false", "Running", "3"],
        );
        check(r#"{"spec":{"hostNetwork":true,"nodeName":null},"status":[1,{"phase":"no"}]}"#, &["", "true", "", ""]);
        check("{}", &["", "false", "", ""]);
    }

    #[test]
    fn labels_of_metadata() {
        let check = |json: &str, is_plain: bool, expect: &[(&str, &str)]| {
            let object = format!("{{\"metadata\":{json}}}");
            let start = object.find(json).unwrap();
            let labels = Labels::read(object.as_bytes(), start).unwrap();
            assert_eq!(matches!(labels, Labels::Plain(_)), is_plain, "{json}");
            for (key, value) in expect {
                assert_eq!(labels.get(object.as_bytes(), key), Some(*value), "{json}");
            }
            assert_eq!(labels.get(object.as_bytes(), "no"), None);
        };
        check(
            r#"{"name":"a","labels":{"x":"1","y/z":"","é":"ü"},"b":[{"labels":{"no":"1"}}]}"#,
            true,
            &[("x", "1"), ("y/z", ""), ("é", "ü")],
        );
        check(r#"{"a":{"labels":{"no":"1"}},"labels":{"x":"\u0032","y":"\""}}"#, false, &[("x", "2"), ("y", "\"")]);
        check(r#"{ "labels" : { "x" : "1" } , "n": -1.5e3 , "t":true}"#, false, &[("x", "1")]);
        check(r#"{"labels":{"x":"1","x":"2"}}"#, false, &[("x", "2")]);
        for none in [r#"{"labels":null,"name":"a"}"#, r#"{"labels":{}}"#, "{}", r#"{"annotations":{"labels":"no"}}"#] {
            check(none, false, &[]);
        }
        assert!(Labels::read(br#"{"labels":{"a":7}}"#, 0).is_err());
    }

    #[test]
    fn ends_of_values() {
        for value in ["1", "-1.5e3", "true", "null", "\"a\\\"}\"", "{}", r#"{"a":[1,{"b":"]"}]}"#, "[]"] {
            for behind in ["", ",", "}", "]", " "] {
                assert_eq!(
                    end_of_value(format!("{value}{behind}").as_bytes(), 0),
                    Some(value.len()),
                    "{value}{behind}"
                );
            }
        }
        for broken in ["", "{", "\"a", "}", "[\"]", "\"\\"] {
            assert_eq!(end_of_value(broken.as_bytes(), 0), None, "{broken}");
        }
    }
}
