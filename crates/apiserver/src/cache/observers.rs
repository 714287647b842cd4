//! Who is shown every change, and how much of it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::Entry;
use super::extract::{self, Wanted};
use crate::connect::Observer;
use crate::resource::StoredKind;

#[derive(Default)]
pub(super) struct Observers(RwLock<HashMap<(&'static str, &'static str), Concerned>>);

/// The observers of one resource.
#[derive(Default)]
struct Concerned {
    observers: Vec<Arc<dyn Observer>>,
    /// What they read of its objects; `None`: everything.
    reads: Option<Wanted>,
}

impl Observers {
    pub(super) fn add(&self, observer: Arc<dyn Observer>) {
        let mut all = self.0.write();
        for &(group, resource) in observer.observes() {
            let concerned = all.entry((group, resource)).or_default();
            let paths = observer.reads(group, resource);
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
