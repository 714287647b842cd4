//! The objects of one stored kind, and its recent events.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use kybern_storage::Revision;
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::watchers::Watchers;
use super::{Entry, Selection};
use crate::resource::StoredKind;

/// Events that are kept however old they are.
const WINDOW_MIN: usize = 100;
/// How long an event is kept beyond that.
const WINDOW_AGE: Duration = Duration::from_secs(300);
/// Events kept at most.
const WINDOW_MAX: usize = 65_536;
/// Bytes of replaced objects that the window keeps alive at most.
const WINDOW_BYTES: usize = 24 << 20;

/// `ADDED`, `MODIFIED` or `DELETED`, as one watcher is to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

/// One event for one watcher.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    pub kind: EventKind,
    pub entry: Arc<Entry>,
}

/// One committed change.
#[derive(Clone, Debug)]
struct Change {
    /// The new state; for a deletion the last state at the deletion's revision.
    entry: Arc<Entry>,
    deleted: bool,
    previous: Option<Arc<Entry>>,
    at: Instant,
}

impl Change {
    /// What a watcher of a selection sees of it: leaving the selection is a deletion, entering it an addition.
    fn seen_by(&self, selection: &Selection) -> Option<WatchEvent> {
        let was = self.previous.as_ref().is_some_and(|e| selection.matches(e));
        let is = !self.deleted && selection.matches(&self.entry);
        match (was, is, &self.previous) {
            (false, true, _) => Some(WatchEvent { kind: EventKind::Added, entry: self.entry.clone() }),
            (true, true, _) => Some(WatchEvent { kind: EventKind::Modified, entry: self.entry.clone() }),
            (true, false, _) if self.deleted => {
                Some(WatchEvent { kind: EventKind::Deleted, entry: self.entry.clone() })
            }
            (true, false, Some(previous)) => {
                let entry = Arc::new(previous.at_revision(self.entry.revision));
                Some(WatchEvent { kind: EventKind::Deleted, entry })
            }
            _ => None,
        }
    }
}

/// See the module.
pub struct KindCache {
    pub kind: Arc<StoredKind>,
    /// `/registry/pods/`.
    pub prefix: String,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    window: VecDeque<Change>,
    window_bytes: usize,
    /// Every event after this revision is in the window.
    window_start: Revision,
    /// The last event's revision.
    revision: Revision,
    watchers: Watchers,
    /// How often all watches were ended.
    endings: u64,
}

/// A piece of a list.
#[derive(Debug)]
pub struct Listing {
    pub revision: Revision,
    pub items: Vec<Arc<Entry>>,
    /// The storage key of the last item, when there is more.
    pub next: Option<Arc<str>>,
    /// How many are left, where that is known without reading them.
    pub remaining: Option<usize>,
}

/// A revision that is before the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    pub requested: Revision,
    pub oldest: Revision,
}

/// A watcher's place: first what happened before it came, then what its queue brings.
pub struct Subscription {
    pub backlog: Vec<WatchEvent>,
    pub queue: mpsc::Receiver<WatchEvent>,
    /// The revision that the backlog reaches to.
    pub revision: Revision,
    /// Of when it began; see [`KindCache::has_ended`].
    endings: u64,
}

impl KindCache {
    pub(super) fn new(kind: Arc<StoredKind>, revision: Revision) -> Self {
        let prefix = format!("/registry/{}/", kind.prefix);
        let state = State { window_start: revision, revision, ..State::default() };
        Self { kind, prefix, state: RwLock::new(state) }
    }

    /// The storage key of an object. A cluster-scoped one has no namespace, though a Namespace's requests name one.
    pub fn key(&self, namespace: &str, name: &str) -> Arc<str> {
        let (namespace, slash) = if self.kind.namespaced { (namespace, "/") } else { ("", "") };
        [&self.prefix, namespace, slash, name].concat().into()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(&self.key(namespace, name)).cloned()
    }

    /// The object under a storage key.
    pub fn at_key(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn watchers(&self) -> usize {
        self.state.write().watchers.count()
    }

    /// Ends all watches, once they have told what happened before.
    pub(super) fn end_watchers(&self) {
        let mut state = self.state.write();
        state.endings += 1;
        state.watchers = Watchers::default();
    }

    /// Whether a watch was ended, and not just left behind.
    pub fn has_ended(&self, subscription: &Subscription) -> bool {
        self.state.read().endings != subscription.endings
    }

    /// Takes in an object at load, before there are watchers.
    pub(super) fn load(&self, entry: Entry) {
        self.state.write().objects.insert(entry.key.clone(), Arc::new(entry));
    }

    /// Takes in committed changes, in order; an entry that is `None` is a deletion. What it has had already is ignored.
    pub(super) fn apply(&self, changes: Vec<(Arc<str>, Option<Entry>, Revision)>, now: Instant) {
        let mut state = self.state.write();
        let state = &mut *state;
        let known = state.revision;
        for (key, entry, revision) in changes.into_iter().filter(|(_, _, revision)| *revision > known) {
            state.revision = revision;
            let (previous, entry, deleted) = match entry {
                Some(entry) => {
                    let entry = Arc::new(entry);
                    (state.objects.insert(key, entry.clone()), entry, false)
                }
                None => {
                    let Some(previous) = state.objects.remove(&key) else { continue };
                    let last = Arc::new(previous.at_revision(revision));
                    (Some(previous), last, true)
                }
            };
            let change = Change { entry, deleted, previous, at: now };
            state.watchers.tell(change.previous.as_deref(), &change.entry, |selection| change.seen_by(selection));
            state.window_bytes += change.weight();
            state.window.push_back(change);
            state.trim(now);
        }
    }

    /// Takes these objects for all that there is at a revision, and answers what differs: each object, and whether it is
    /// still there. What happened in between is not known, so the window begins anew, and watchers of earlier revisions
    /// have to list.
    pub(super) fn replace(&self, objects: Vec<Arc<Entry>>, at: Revision) -> Vec<(Arc<Entry>, bool)> {
        let objects: BTreeMap<Arc<str>, Arc<Entry>> = objects.into_iter().map(|e| (e.key.clone(), e)).collect();
        let mut state = self.state.write();
        let gone = state.objects.iter().filter(|(key, _)| !objects.contains_key(*key)).map(|(_, e)| (e.clone(), false));
        let known = |entry: &Entry| state.objects.get(&entry.key).is_some_and(|old| old.revision == entry.revision);
        let new = objects.values().filter(|entry| !known(entry)).map(|e| (e.clone(), true));
        let differences = gone.chain(new).collect();
        *state = State { objects, window_start: at, revision: at, endings: state.endings, ..State::default() };
        differences
    }

    /// What a selection holds, at most `limit` (0: all) items after the key `after`, as of `at` (`None`: now).
    /// `current` is the revision that the whole cache has reached.
    pub fn list(
        &self,
        selection: &Selection,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
        current: impl FnOnce() -> Revision,
    ) -> Result<Listing, TooOld> {
        let state = self.state.read();
        // Read under the lock: every event up to it is in the state.
        let revision = at.unwrap_or_else(|| state.revision.max(current()));
        let scope = self.scope(selection);
        let mut listing = Listing { revision, items: Vec::new(), next: None, remaining: None };
        if revision < state.revision {
            let old = state.as_of(revision)?;
            let range = (after.map_or(Bound::Included(scope.as_str()), Bound::Excluded), Bound::Unbounded);
            let mut merged: BTreeMap<&str, &Arc<Entry>> = state
                .objects
                .range::<str, _>(range)
                .take_while(|(k, _)| k.starts_with(&scope))
                .map(|(k, e)| (&**k, e))
                .collect();
            for (key, entry) in old.range::<str, _>(range).take_while(|(k, _)| k.starts_with(&scope)) {
                match entry {
                    Some(entry) => merged.insert(&**key, entry),
                    None => merged.remove(&**key),
                };
            }
            listing.fill(merged.into_values(), selection, limit);
        } else if !selection.name.is_empty() && (!selection.namespace.is_empty() || !self.kind.namespaced) {
            let key = self.key(&selection.namespace, &selection.name);
            listing.fill(state.objects.get(&key).into_iter(), selection, limit);
        } else {
            let range = (after.map_or(Bound::Included(scope.as_str()), Bound::Excluded), Bound::Unbounded);
            let items = state.objects.range::<str, _>(range).take_while(|(k, _)| k.starts_with(&scope)).map(|(_, e)| e);
            if limit == 0 && !selection.has_selectors() && selection.namespace.is_empty() {
                listing.items.reserve_exact(state.objects.len());
            }
            listing.fill(items, selection, limit);
        }
        Ok(listing)
    }

    /// The prefix of the keys in a selection's namespace.
    fn scope(&self, selection: &Selection) -> String {
        if selection.namespace.is_empty() || !self.kind.namespaced {
            self.prefix.clone()
        } else {
            format!("{}{}/", self.prefix, selection.namespace)
        }
    }

    /// Starts watching after a revision.
    pub fn watch(&self, selection: Arc<Selection>, from: Revision) -> Result<Subscription, TooOld> {
        let mut state = self.state.write();
        let backlog = state.events_after(&selection, from)?;
        Ok(state.subscribe(selection, backlog))
    }

    /// Starts watching with everything there is: as additions, at their own revisions.
    pub fn watch_from_now(&self, selection: Arc<Selection>, current: impl FnOnce() -> Revision) -> Subscription {
        let mut state = self.state.write();
        let revision = state.revision.max(current());
        let scope = self.scope(&selection);
        let entries = state.objects.range::<str, _>((Bound::Included(scope.as_str()), Bound::Unbounded));
        let backlog = entries
            .take_while(|(k, _)| k.starts_with(&scope))
            .filter(|(_, e)| selection.matches(e))
            .map(|(_, entry)| WatchEvent { kind: EventKind::Added, entry: entry.clone() })
            .collect();
        let mut subscription = state.subscribe(selection, backlog);
        subscription.revision = revision;
        subscription
    }
}

impl Listing {
    fn fill<'a>(&mut self, mut entries: impl Iterator<Item = &'a Arc<Entry>>, selection: &Selection, limit: usize) {
        for entry in entries.by_ref() {
            if !selection.matches(entry) {
                continue;
            }
            if limit > 0 && self.items.len() == limit {
                self.next = self.items.last().map(|e| e.key.clone());
                // Upstream tells it only where it need not look at what is left.
                self.remaining = (!selection.has_selectors()).then(|| entries.count() + 1);
                return;
            }
            self.items.push(entry.clone());
        }
    }
}

impl Change {
    /// The bytes that only the window keeps.
    fn weight(&self) -> usize {
        self.previous.as_ref().map_or(0, |e| e.bytes.len()) + if self.deleted { self.entry.bytes.len() } else { 0 }
    }
}

impl State {
    fn trim(&mut self, now: Instant) {
        while let Some(oldest) = self.window.front() {
            let aged = self.window.len() > WINDOW_MIN && now.duration_since(oldest.at) > WINDOW_AGE;
            if !aged && self.window.len() <= WINDOW_MAX && self.window_bytes <= WINDOW_BYTES {
                return;
            }
            self.window_bytes -= oldest.weight();
            self.window_start = oldest.entry.revision;
            self.window.pop_front();
        }
    }

    fn check(&self, revision: Revision) -> Result<(), TooOld> {
        if revision < self.window_start {
            return Err(TooOld { requested: revision, oldest: self.window_start });
        }
        Ok(())
    }

    fn newer(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Change> {
        self.window.range(self.window.partition_point(|c| c.entry.revision <= revision)..)
    }

    fn events_after(&self, selection: &Selection, from: Revision) -> Result<Vec<WatchEvent>, TooOld> {
        self.check(from)?;
        Ok(self.newer(from).filter_map(|c| c.seen_by(selection)).collect())
    }

    /// What the keys that changed after a revision were at that revision.
    fn as_of(&self, revision: Revision) -> Result<BTreeMap<Arc<str>, Option<Arc<Entry>>>, TooOld> {
        self.check(revision)?;
        Ok(self.newer(revision).rev().map(|c| (c.entry.key.clone(), c.previous.clone())).collect())
    }

    fn subscribe(&mut self, selection: Arc<Selection>, backlog: Vec<WatchEvent>) -> Subscription {
        Subscription { backlog, queue: self.watchers.add(selection), revision: self.revision, endings: self.endings }
    }
}

#[cfg(test)]
#[path = "kind_tests.rs"]
mod tests;
