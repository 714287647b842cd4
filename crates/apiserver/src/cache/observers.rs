//! Who is shown every change, and how much of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::object;
use parking_lot::RwLock;

use super::extract::{self, Wanted};
use super::{BadEntry, Entry};
use crate::connect::{Observer, ReadLater, Unread};
use crate::resource::StoredKind;

#[derive(Default)]
pub(super) struct Observers(RwLock<HashMap<(&'static str, &'static str), Concerned>>);

/// The observers of one resource.
#[derive(Default)]
struct Concerned {
    observers: Vec<Arc<dyn Observer>>,
    /// What they read of its objects; `None`: everything.
    reads: Option<Wanted>,
    sorting: Vec<Sorting>,
}

/// An observer that is shown one text, and what the rest can be read from.
struct Sorting {
    observer: Arc<dyn Observer>,
    path: &'static [&'static str],
    text: Wanted,
    read: Arc<ReadLater>,
}

impl Sorting {
    fn text<'a>(&self, kind: &StoredKind, entry: &'a Entry) -> Result<Cow<'a, str>, BadEntry> {
        // Usually it can be selected by, and is known.
        let known = kind
            .selectable
            .iter()
            .position(|field| field.json_path == self.path && field.unset.is_empty() && field.instead.is_none());
        if let Some(place) = known {
            return Ok(entry.field(place).into());
        }
        let part = entry.part(|bytes| extract::tree(bytes, &self.text))?;
        Ok(object::str_at(&part, self.path).to_owned().into())
    }

    fn tell(&self, kind: &StoredKind, namespace: &str, name: &str, entry: Option<&Entry>) {
        let (group, resource) = (kind.gvk.group.as_str(), kind.resource.as_str());
        let Some(entry) = entry else { return self.observer.sorted(group, resource, namespace, name, None) };
        let text = match self.text(kind, entry) {
            Ok(text) => text,
            Err(error) => return tracing::error!(%error, "a change is not taken into account"),
        };
        let unread = Unread::new(entry.bytes.clone(), self.read.clone());
        self.observer.sorted(group, resource, namespace, name, Some((&text, unread)));
    }
}

impl Observers {
    pub(super) fn add(&self, observer: Arc<dyn Observer>) {
        let mut all = self.0.write();
        for &(group, resource) in observer.observes() {
            let concerned = all.entry((group, resource)).or_default();
            let paths = observer.reads(group, resource);
            if let Some(path) = observer.sorts_by(group, resource) {
                let (text, rest) = (Wanted::default().with(&[path]), Wanted::default().with(paths));
                let read = Arc::new(move |bytes: &[u8]| extract::tree(bytes, &rest));
                concerned.sorting.push(Sorting { observer: observer.clone(), path, text, read });
                continue;
            }
            let is_first = concerned.observers.is_empty();
            concerned.reads = match concerned.reads.take() {
                _ if paths.is_empty() => None,
                None if !is_first => None,
                reads => Some(reads.unwrap_or_default().with(paths)),
            };
            concerned.observers.push(observer.clone());
        }
    }

    /// Shows a change to those whom it concerns.
    pub(super) fn tell(&self, kind: &StoredKind, namespace: &str, name: &str, entry: Option<&Entry>) {
        let (group, resource) = (kind.gvk.group.as_str(), kind.resource.as_str());
        let all = self.0.read();
        let Some(concerned) = all.get(&(group, resource)) else { return };
        concerned.sorting.iter().for_each(|sorting| sorting.tell(kind, namespace, name, entry));
        if concerned.observers.is_empty() {
            return;
        }
        let read = |entry: &Entry| match &concerned.reads {
            Some(wanted) => entry.part(|bytes| extract::tree(bytes, wanted)),
            None => entry.value(),
        };
        let object = match entry.map(read).transpose() {
            Ok(object) => object,
            Err(error) => return tracing::error!(%error, "a change is not taken into account"),
        };
        for observer in &concerned.observers {
            observer.changed(group, resource, namespace, name, object.as_ref());
        }
    }
}
