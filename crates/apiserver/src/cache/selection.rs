//! Which objects a list or watch is about.

use kybern_apimachinery::ApiError;
use kybern_apimachinery::selector::{FieldSelector, LabelSelector};

use super::Entry;
use crate::resource::{SelectableField, StoredKind};

/// A namespace, a name, labels and fields; the default selects everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// Empty: all namespaces.
    pub namespace: String,
    /// Empty: all names.
    pub name: String,
    labels: LabelSelector,
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    field: Field,
    value: String,
    equal: bool,
}

/// A field of an object that a selection can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Field {
    Name,
    Namespace,
    /// By its place in [`StoredKind::selectable`].
    Selectable(usize),
}

impl Field {
    fn value(self, entry: &Entry) -> &str {
        match self {
            Self::Name => entry.name(),
            Self::Namespace => entry.namespace(),
            Self::Selectable(index) => entry.field(index),
        }
    }
}

/// A field that must have one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pinned(Field);

impl Pinned {
    /// Whether it is none of those that a key consists of.
    pub(super) fn is_selectable(self) -> bool {
        matches!(self.0, Field::Selectable(_))
    }

    pub(super) fn value(self, entry: &Entry) -> &str {
        self.0.value(entry)
    }
}

impl Selection {
    /// Refuses fields that the kind does not offer, in upstream's words.
    pub fn new(
        kind: &StoredKind,
        namespace: &str,
        labels: LabelSelector,
        fields: &FieldSelector,
    ) -> Result<Self, ApiError> {
        let namespace = if kind.namespaced { namespace } else { "" };
        let mut selection = Self { namespace: namespace.to_owned(), name: String::new(), labels, terms: Vec::new() };
        for (path, value, equal) in &fields.terms {
            let field = match path.as_str() {
                "metadata.name" => Field::Name,
                // A kind without fields of its own takes both, whatever its scope.
                "metadata.namespace" if kind.namespaced || kind.selectable.is_empty() => Field::Namespace,
                _ => {
                    let named = |field: &SelectableField| field.path == *path || field.aliases.contains(path);
                    Field::Selectable(kind.selectable.iter().position(named).ok_or_else(|| unknown(kind, path))?)
                }
            };
            match field {
                Field::Name if *equal && selection.name.is_empty() && !value.is_empty() => {
                    selection.name = value.clone()
                }
                _ => selection.terms.push(Term { field, value: value.clone(), equal: *equal }),
            }
        }
        Ok(selection)
    }

    /// Everything in a namespace; in all of them when it is empty.
    #[cfg(test)]
    pub fn in_namespace(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..Self::default() }
    }

    /// Whether anything besides the namespace decides.
    pub fn has_selectors(&self) -> bool {
        !self.labels.is_everything() || !self.terms.is_empty() || !self.name.is_empty()
    }

    /// A field and the only value of it that is selected, where there is one.
    pub(super) fn pin(&self) -> Option<(Pinned, &str)> {
        if !self.name.is_empty() {
            return Some((Pinned(Field::Name), &self.name));
        }
        self.terms.iter().find(|term| term.equal).map(|term| (Pinned(term.field), term.value.as_str()))
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        (self.name.is_empty() || self.name == entry.name())
            && (self.namespace.is_empty() || self.namespace == entry.namespace())
            && self.terms.iter().all(|term| (term.field.value(entry) == term.value) == term.equal)
            && self.labels.matches(|key| entry.label(key))
    }
}

fn unknown(kind: &StoredKind, path: &str) -> ApiError {
    ApiError::bad_request(match kind.refusal {
        Some(refusal) => refusal(path),
        None if kind.selectable.is_empty() => {
            format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        None => format!("field label not supported: {path}"),
    })
}
