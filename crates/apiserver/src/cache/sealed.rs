//! Stored objects that no key opens: they are there, so nobody may be told otherwise.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use kybern_storage::encryption::ENCRYPTED;
use parking_lot::RwLock;

use super::BadEntry;

/// By storage key, with the cause.
#[derive(Default)]
pub(super) struct Sealed(RwLock<BTreeMap<Arc<str>, String>>);

impl Sealed {
    /// Takes in why a value cannot be read, if that is why. Answers whether it is.
    pub(super) fn note(&self, value: &[u8], bad: BadEntry) -> bool {
        let is_sealed = value.starts_with(ENCRYPTED);
        if is_sealed {
            self.0.write().insert(bad.key, bad.cause);
        }
        is_sealed
    }

    pub(super) fn forget(&self, key: &str) {
        if !self.is_empty() {
            self.0.write().remove(key);
        }
    }

    /// Nearly always there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// Takes these for all that there are.
    pub(super) fn replace(&self, other: Self) {
        *self.0.write() = other.0.into_inner();
    }

    /// The first whose key begins so.
    pub(super) fn first(&self, prefix: &str) -> Option<BadEntry> {
        let all = self.0.read();
        let (key, cause) = all.range::<str, _>((Bound::Included(prefix), Bound::Unbounded)).next()?;
        key.starts_with(prefix).then(|| BadEntry { key: key.clone(), cause: cause.clone() })
    }

    pub(super) fn get(&self, key: &str) -> Option<BadEntry> {
        let all = self.0.read();
        all.get_key_value(key).map(|(key, cause)| BadEntry { key: key.clone(), cause: cause.clone() })
    }
}
