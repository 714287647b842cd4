//! Reads single values out of an object's JSON without building a tree.

use super::blocks;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use kybern_apimachinery::{Map, Value};

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
    /// Labels that stand at a place.
    pub(super) fn read(object: &[u8], span: Option<Range<usize>>) -> serde_json::Result<Self> {
        let Some(span) = span else { return Ok(Self::None) };
        let json = &object[span.clone()];
        if let (Ok(start), Ok(end), true) = (u32::try_from(span.start), u32::try_from(span.end), is_plain(json)) {
            return Ok(Self::Plain(start..end));
        }
        let pairs: Option<BTreeMap<Box<str>, Box<str>>> = serde_json::from_slice(json)?;
        let pairs: Pairs = pairs.unwrap_or_default().into_iter().collect();
        Ok(if pairs.is_empty() { Self::None } else { Self::Parsed(Box::new(pairs)) })
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

/// Pairs that are compared with each other for being there twice.
const COMPARED: usize = 32;

/// Whether it is `{"a":"1","b":"2"}`: pairs of text, without space, escapes and names that are there twice.
fn is_plain(json: &[u8]) -> bool {
    if memchr::memchr(b'\\', json).is_some() || std::str::from_utf8(json).is_err() {
        return false;
    }
    let mut parts = json.split(|byte| *byte == b'"');
    let mut names: Vec<&[u8]> = Vec::with_capacity(8);
    let mut before = parts.next();
    while before == Some(if names.is_empty() { &b"{"[..] } else { b"," }) {
        let (Some(name), Some(b":"), Some(_)) = (parts.next(), parts.next(), parts.next()) else { return false };
        if names.len() == COMPARED || names.contains(&name) {
            return false;
        }
        names.push(name);
        before = parts.next();
    }
    before == Some(b"}") && parts.next().is_none() && !names.is_empty()
}

fn space(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

/// A member of an object.
struct Member<'a> {
    name: Cow<'a, str>,
    /// Where its value starts.
    value: usize,
}

/// The next member of an object, or where the object ends. To be asked inside of it: behind its bracket, or behind a value.
/// `None` for what is no JSON.
fn member(json: &[u8], at: usize) -> Option<Result<Member<'_>, usize>> {
    let mut at = space(json, at);
    if json.get(at) == Some(&b',') {
        at = space(json, at + 1);
    }
    match json.get(at)? {
        b'}' => Some(Err(at + 1)),
        b'"' => {
            let end = end_of_string(json, at + 1)?;
            let text = &json[at + 1..end - 1];
            let name = match memchr::memchr(b'\\', text) {
                None => Cow::Borrowed(std::str::from_utf8(text).ok()?),
                Some(_) => Cow::Owned(serde_json::from_slice(&json[at..end]).ok()?),
            };
            let colon = space(json, end);
            (json.get(colon) == Some(&b':')).then(|| Ok(Member { name, value: space(json, colon + 1) }))
        }
        _ => None,
    }
}

/// Where the `metadata` object that opens at `start` ends, and where its labels stand (the last, where there are several).
pub(super) fn metadata(json: &[u8], start: usize) -> Option<(usize, Option<Range<usize>>)> {
    let (mut at, mut labels) = (start + 1, None);
    loop {
        let member = match member(json, at)? {
            Ok(member) => member,
            Err(end) => return Some((end, labels)),
        };
        at = end_of_value(json, member.value)?;
        if member.name == "labels" {
            labels = Some(member.value..at);
        }
    }
}

/// The lowest bit of each of eight bytes.
const ONES: u64 = 0x0101_0101_0101_0101;

/// The highest bit of each of eight bytes that are such a one; right up to the first of them.
fn equal(eight: u64, byte: u8) -> u64 {
    let different = eight ^ (ONES * u64::from(byte));
    different.wrapping_sub(ONES) & !different & (ONES << 7)
}

/// Behind the quote that ends a string, given where its text starts. Looks at eight bytes at once: this is where the time goes
/// when many objects are read.
fn end_of_string(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        let found = match json.get(at..)?.first_chunk::<8>() {
            Some(eight) => {
                let eight = u64::from_le_bytes(*eight);
                let found = equal(eight, b'"') | equal(eight, b'\\');
                if found == 0 {
                    at += 8;
                    continue;
                }
                found.trailing_zeros() as usize / 8
            }
            None => json[at..].iter().position(|byte| matches!(byte, b'"' | b'\\'))?,
        };
        at += found;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Where a value ends.
fn end_of_value(json: &[u8], start: usize) -> Option<usize> {
    match json.get(start)? {
        b'"' => end_of_string(json, start + 1),
        b'{' | b'[' => blocks::end_of_container(json, start),
        b'}' | b']' => None,
        // A number or word.
        _ => {
            let is_end = |b: &u8| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r');
            let rest = &json[start + 1..];
            Some(start + 1 + rest.iter().position(is_end).unwrap_or(rest.len()))
        }
    }
}

/// Paths into an object, by their first name.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    whole: bool,
    below: Vec<(&'static str, Wanted)>,
}

impl Wanted {
    pub(super) fn with(mut self, paths: &[&[&'static str]]) -> Self {
        paths.iter().for_each(|path| self.add(path));
        self
    }

    fn add(&mut self, path: &[&'static str]) {
        let Some((first, rest)) = path.split_first() else {
            self.whole = true;
            return;
        };
        match self.below.iter_mut().find(|(name, _)| name == first) {
            Some((_, below)) => below.add(rest),
            None => {
                let mut below = Self::default();
                below.add(rest);
                self.below.push((first, below));
            }
        }
    }
}

/// What is wanted of an object, as a tree. Paths lead through lists to each of their objects.
pub(super) fn tree(object: &[u8], wanted: &Wanted) -> serde_json::Result<Value> {
    part(object, 0, wanted)?.map_or_else(|| Err(no_json()), |(value, _)| Ok(value))
}

/// A part of what starts at a place, and where that ends. `None` for what is no JSON.
fn part(json: &[u8], start: usize, wanted: &Wanted) -> serde_json::Result<Option<(Value, usize)>> {
    let first = json.get(start);
    let mut at = start + 1;
    if !wanted.whole && first == Some(&b'{') {
        let mut map = Map::new();
        loop {
            let member = match member(json, at) {
                None => return Ok(None),
                Some(Err(end)) => return Ok(Some((Value::Object(map), end))),
                Some(Ok(member)) => member,
            };
            let below = wanted.below.iter().find(|(name, _)| *name == member.name);
            let end = match below {
                None => end_of_value(json, member.value),
                Some((name, below)) => part(json, member.value, below)?.map(|(value, end)| {
                    map.insert((*name).to_owned(), value);
                    end
                }),
            };
            let Some(end) = end else { return Ok(None) };
            at = end;
        }
    }
    if !wanted.whole && first == Some(&b'[') {
        let mut list = Vec::new();
        loop {
            at = space(json, at);
            match json.get(at) {
                Some(b']') => return Ok(Some((Value::Array(list), at + 1))),
                Some(b',') => at += 1,
                Some(b'{') => {
                    let Some((value, end)) = part(json, at, wanted)? else { return Ok(None) };
                    list.push(value);
                    at = end;
                }
                // No list of objects.
                _ => {
                    let Some(end) = end_of_value(json, at) else { return Ok(None) };
                    list.push(Value::Null);
                    at = end;
                }
            }
        }
    }
    let Some(end) = end_of_value(json, start) else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&json[start..end])?, end)))
}

fn no_json() -> serde_json::Error {
    serde::de::Error::custom("it is no JSON")
}

/// Values of a kind's selectable fields, in their order, in one piece: where the first begins and each ends, then their text.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Box<[u8]>);

impl Fields {
    fn new(values: &[&str]) -> Self {
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

/// The values at the fields' paths, as selectors compare them, in an object of which all before `from` is no part of any:
/// behind its bracket, or behind a value.
pub(super) fn fields(object: &[u8], from: usize, wanted: &[SelectableField]) -> serde_json::Result<Fields> {
    if wanted.is_empty() {
        return Ok(Fields::default());
    }
    let mut paths = Paths { json: object, wanted, found: vec![None; wanted.len()] };
    paths.descend(from, &(0..wanted.len()).collect::<Vec<_>>(), 0)?.ok_or_else(no_json)?;
    let found = &paths.found;
    let set = |place: usize| found.get(place)?.as_deref().filter(|value| !value.is_empty());
    let mut values = Vec::with_capacity(wanted.len());
    for (place, field) in wanted.iter().enumerate() {
        let read = set(place).or_else(|| field.instead.and_then(set));
        values.push(read.unwrap_or(&field.unset));
    }
    Ok(Fields::new(&values))
}

/// Descends along the paths that are still possible at a depth and passes over everything else.
struct Paths<'a> {
    json: &'a [u8],
    wanted: &'a [SelectableField],
    found: Vec<Option<Cow<'a, str>>>,
}

impl Paths<'_> {
    /// Answers where the object ends; `None` for what is no JSON.
    fn descend(&mut self, from: usize, alive: &[usize], depth: usize) -> serde_json::Result<Option<usize>> {
        let (json, mut at) = (self.json, from);
        loop {
            let member = match member(json, at) {
                None => return Ok(None),
                Some(Err(end)) => return Ok(Some(end)),
                Some(Ok(member)) => member,
            };
            let on_path = |i: &usize| self.wanted[*i].json_path.get(depth).is_some_and(|name| *name == *member.name);
            let mut below = alive.iter().copied().filter(on_path).peekable();
            let end = match (below.peek(), json.get(member.value)) {
                (None, _) => end_of_value(json, member.value),
                (Some(_), Some(b'{')) => {
                    let below: Vec<usize> = below.collect();
                    self.descend(member.value + 1, &below, depth + 1)?
                }
                (Some(_), _) => {
                    let below: Vec<usize> = below.collect();
                    let Some(end) = end_of_value(json, member.value) else { return Ok(None) };
                    let value = scalar(&json[member.value..end])?;
                    for i in below.into_iter().filter(|i| self.wanted[*i].json_path.len() == depth + 1) {
                        // Null leaves it as it was.
                        self.found[i] = value.clone().or_else(|| self.found[i].take());
                    }
                    Some(end)
                }
            };
            let Some(end) = end else { return Ok(None) };
            at = end;
        }
    }
}

/// A value as selectors compare it; nothing for null and lists.
fn scalar(json: &[u8]) -> serde_json::Result<Option<Cow<'_, str>>> {
    if let [b'"', text @ .., b'"'] = json
        && memchr::memchr(b'\\', text).is_none()
        && let Ok(text) = std::str::from_utf8(text)
    {
        return Ok(Some(text.into()));
    }
    Ok(match serde_json::from_slice(json)? {
        Value::String(text) => Some(text.into()),
        Value::Bool(value) => Some(value.to_string().into()),
        Value::Number(value) => Some(match value.as_f64().filter(|_| value.is_f64()) {
            Some(float) => float.to_string().into(),
            None => value.to_string().into(),
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

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
            let got = fields(object.as_bytes(), 1, &wanted).unwrap();
            assert_eq!((0..wanted.len()).map(|i| got.get(i)).collect::<Vec<_>>(), expect, "{object}");
            assert_eq!(got.get(wanted.len()), "");
        };
        check(
            r#"{"spec":{"nodeName":"n\"1","x":{"nodeName":"no"},"n":3},"status":{"phase":"Running"}}"#,
            &["n\"1", "false", "Running", "3"],
        );
        check(r#"{"spec":{"hostNetwork":true,"nodeName":null},"status":[1,{"phase":"no"}]}"#, &["", "true", "", ""]);
        check("{}", &["", "false", "", ""]);
        // A name may be written otherwise, and be there twice; null is as if it were not there.
        check(
            r#"{ "spec" : {"n\u006fdeName":"a","nodeName": "b" ,"n":1.0,"nodeName":null}}"#,
            &["b", "false", "", "1"],
        );
        for broken in ["", "{", r#"{"spec""#, r#"{"spec":{"nodeName":"a}"#, r#"{"spec":{"nodeName" "a"}}"#, "{1}"] {
            assert!(fields(broken.as_bytes(), 1, &wanted).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_tree_of_what_is_wanted() {
        let wanted =
            Wanted::default().with(&[&["metadata", "name"], &["spec", "containers", "env", "from"], &["status"]]);
        let check = |object: &str, expect: Value| {
            assert_eq!(tree(object.as_bytes(), &wanted).unwrap(), expect, "{object}");
        };
        check(
            r#"{"kind":"Pod","metadata":{"labels":{"name":"no"},"name":"a\n"},"spec":{"x":[{}],"containers":[
                {"name":"c","env":[{"name":"A","from":{"b":[1,"]"]}},{"value":"}"}]}, 7, [[]], {}]},"status":{"s":null}}"#,
            json!({
                "metadata": {"name": "a\n"},
                "spec": {"containers": [{"env": [{"from": {"b": [1, "]"]}}, {}]}, null, null, {}]},
                "status": {"s": null},
            }),
        );
        check(r#"{"spec":null,"metadata":1}"#, json!({"spec": null, "metadata": 1}));
        for broken in
            ["", "{", r#"{"spec":{"containers":["#, r#"{"spec":{"containers":[{"env":[}]}"#, r#"{"status":tru}"#]
        {
            assert!(tree(broken.as_bytes(), &wanted).is_err(), "{broken}");
        }
        let deep = format!(r#"{{"spec":{{"containers":{}{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        check(&deep, json!({"spec": {"containers": [null]}}));
    }

    #[test]
    fn labels_of_metadata() {
        let check = |json: &str, is_plain: bool, expect: &[(&str, &str)]| {
            let object = format!("{{\"metadata\":{json}}}");
            let start = object.find(json).unwrap();
            let (end, span) = metadata(object.as_bytes(), start).unwrap();
            assert_eq!(end, object.len() - 1, "{json}");
            let labels = Labels::read(object.as_bytes(), span).unwrap();
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
        for bad in [r#"{"a":7}"#, r#"{"a":"b","c"}"#, r#"{"a":"b"} "c""#, r#"{"a":"b",}"#] {
            assert!(Labels::read(bad.as_bytes(), Some(0..bad.len())).is_err(), "{bad}");
        }
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
        // Wherever a string ends within eight bytes, and whatever stands in it.
        for length in 0..40 {
            for filling in ["x", "é", "\u{1}", "!#[]{}", "\\\"", "\\\\", "\u{7f}\u{80}"] {
                let value = format!("\"{}\"", filling.repeat(length));
                for behind in ["", ",\"more\":\"\\\"\"", "\"\"\"\"\"\"\"\""] {
                    let text = format!("{value}{behind}");
                    assert_eq!(end_of_value(text.as_bytes(), 0), Some(value.len()), "{text}");
                }
                assert_eq!(end_of_value(&value.as_bytes()[..value.len() - 1], 0), None, "{value}");
            }
        }
        for broken in ["", "{", "\"a", "}", "[\"]", "\"\\"] {
            assert_eq!(end_of_value(broken.as_bytes(), 0), None, "{broken}");
        }
    }
}
