//! What documents say of kinds and fields, from `table/descriptions.txt`. Nothing of it is kept but the text itself, which is
//! part of the program.
//!
//! A line that is not indented is a struct, by its definition's name without `io.k8s.`, and what it is. The lines below
//! it that are indented by two spaces are its fields. Those below `*` are for fields of every kind.

use std::collections::HashMap;

const TEXT: &str = include_str!("../../table/descriptions.txt");
const PREFIX: &str = "io.k8s.";
const ANY: &str = "*";

/// Changes when a description does.
pub(super) const FINGERPRINT: u64 = {
    let (mut hash, mut i) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while i < TEXT.len() {
        hash = (hash ^ TEXT.as_bytes()[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
};

/// The descriptions, for as long as a document is being made.
pub(super) struct Descriptions(HashMap<(&'static str, &'static str), &'static str>);

/// Struct (without the prefix), field (empty for the struct itself) and text.
fn entries() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let mut shape = "";
    TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(move |line| {
        let (name, text) = line.trim_start().split_once(' ').unwrap_or((line, ""));
        if line.starts_with("  ") {
            return (shape, name, text);
        }
        shape = name;
        (shape, "", text)
    })
}

impl Descriptions {
    pub(super) fn load() -> Self {
        Self(entries().map(|(shape, field, text)| ((shape, field), text)).collect())
    }

    /// Only those of fields that every object has.
    pub(super) fn of_every_kind() -> Self {
        let own = entries().filter(|(shape, ..)| *shape == ANY);
        Self(own.map(|(shape, field, text)| ((shape, field), text)).collect())
    }

    /// Of a struct.
    pub(super) fn of(&self, definition: &str) -> Option<&'static str> {
        self.0.get(&(definition.strip_prefix(PREFIX)?, "")).copied()
    }

    /// Of a field that every object has.
    pub(super) fn of_any(&self, field: &str) -> Option<&'static str> {
        self.0.get(&(ANY, field)).copied()
    }

    /// Of a field: what is said of it, or else of the field of every kind with its name.
    pub(super) fn of_field(&self, definition: &str, field: &str, in_kind: bool) -> Option<&'static str> {
        let own = self.0.get(&(definition.strip_prefix(PREFIX)?, field));
        own.or_else(|| self.0.get(&(ANY, field)).filter(|_| in_kind)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use crate::types::Type;

    #[test]
    fn everything_described_is_there_and_described_once() {
        let schema = builtin().schema();
        let mut seen = std::collections::HashSet::new();
        for (shape, field, text) in entries() {
            assert!(seen.insert((shape, field)), "{shape} {field} is described twice");
            if shape == ANY {
                continue;
            }
            let id = builtin().structure(&format!("{PREFIX}{shape}")).unwrap_or_else(|| panic!("no struct {shape}"));
            assert!(field.is_empty() || schema.get(id).field(field).is_some(), "{shape} has no field {field}");
            assert!(text.ends_with('.') && text.len() > 3, "{shape} {field}: {text:?} is no sentence");
        }
    }

    #[test]
    fn a_field_says_more_than_what_it_refers_to() {
        // Clients show both.
        let (schema, descriptions) = (builtin().schema(), Descriptions::load());
        for (shape, field, text) in entries().filter(|(shape, field, _)| *shape != ANY && !field.is_empty()) {
            let id = builtin().structure(&format!("{PREFIX}{shape}")).unwrap();
            if let Type::Struct(target) = &schema.get(id).field(field).unwrap().ty {
                assert_ne!(descriptions.of(&schema.get(*target).name), Some(text), "{shape} {field}");
            }
        }
    }

    #[test]
    fn own_words_come_before_those_of_every_kind() {
        let descriptions = Descriptions::load();
        let pod = "io.k8s.api.core.v1.Pod";
        assert!(descriptions.of(pod).unwrap().starts_with("One or more containers"));
        assert_eq!(descriptions.of_field(pod, "spec", true), Some("What is wanted. Written by users."));
        assert_eq!(descriptions.of_field(pod, "spec", false), None);
        let template = "io.k8s.api.core.v1.PodTemplateSpec";
        assert_eq!(descriptions.of_field(template, "spec", true), Some("The spec of each pod."));
        assert_eq!((descriptions.of("com.example.v1.Widget"), descriptions.of_field(pod, "none", true)), (None, None));
    }
}
