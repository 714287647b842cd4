//! Reads single values out of an object's JSON without building a tree.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::resource::SelectableField;

/// Keys and values.
pub(super) type Pairs = Box<[(Box<str>, Box<str>)]>;

/// The labels in a `metadata` object.
pub(super) fn labels(metadata: &[u8]) -> serde_json::Result<Pairs> {
    let mut reader = serde_json::Deserializer::from_slice(metadata);
    Member { name: "labels", value: Labels }.deserialize(&mut reader).map(Option::unwrap_or_default)
}

/// The values at the fields' paths, as selectors compare them.
pub(super) fn fields(object: &[u8], wanted: &[SelectableField]) -> serde_json::Result<Box<[Box<str>]>> {
    if wanted.is_empty() {
        return Ok(Box::default());
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
    Ok(found.iter().zip(wanted).map(read).collect())
}

/// One member of an object, read by another seed.
struct Member<S> {
    name: &'static str,
    value: S,
}

impl<'de, S: DeserializeSeed<'de> + Copy> DeserializeSeed<'de> for Member<S> {
    type Value = Option<S::Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de> + Copy> Visitor<'de> for Member<S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(KeyIs(self.name))? {
            if is_it {
                found = Some(map.next_value_seed(self.value)?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Compares a key without keeping it.
struct KeyIs(&'static str);

impl<'de> DeserializeSeed<'de> for KeyIs {
    type Value = bool;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<bool, E> {
        Ok(key == self.0)
    }
}

#[derive(Clone, Copy)]
struct Labels;

impl<'de> DeserializeSeed<'de> for Labels {
    type Value = Pairs;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Labels {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "labels")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Box::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut labels = Vec::with_capacity(map.size_hint().unwrap_or(0));
        while let Some(label) = map.next_entry()? {
            labels.push(label);
        }
        Ok(labels.into())
    }
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
            assert_eq!(got.iter().map(|v| &**v).collect::<Vec<_>>(), expect, "{object}");
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
        let got = labels(br#"{"name":"a","labels":{"x":"1","y":"\u0032"},"annotations":{"labels":"no"}}"#).unwrap();
        assert_eq!(&*got, [("x".into(), "1".into()), ("y".into(), "2".into())]);
        assert!(labels(br#"{"labels":null}"#).unwrap().is_empty());
    }
}
