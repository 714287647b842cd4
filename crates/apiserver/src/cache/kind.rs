//! The objects of one stored kind, and its recent changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kybern_storage::Revision;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::change::{Change, WatchEvent};
use super::joined::Joined;
use super::objects::{Objects, overlaid};
use super::sealed::Sealed;
use super::subscription::{Backlog, Subscription};
use super::watchers::{Member, Watchers};
use super::{BadEntry, Entry, Selection};
use crate::resource::StoredKind;

/// Changes that are kept however old they are.
const WINDOW_MIN: usize = 100;
/// How long a change is kept beyond that.
const WINDOW_AGE: Duration = Duration::from_secs(300);
/// Changes kept at most.
const WINDOW_MAX: usize = 65_536;
/// Bytes of replaced objects that the window keeps alive at most.
const WINDOW_BYTES: usize = 24 << 20;
/// Changes since a list of everything was made for a watch, after which another watch gets one of its own.
const STALE: usize = 1000;
/// What is kept of a list of everything in the form in which watches are sent it.
const JOINED_BYTES: usize = 4 << 20;

/// See the module.
pub struct KindCache {
    pub kind: Arc<StoredKind>,
    /// `/registry/pods/`.
    pub prefix: String,
    pub(super) sealed: Sealed,
    state: RwLock<State>,
    /// Taken after the state, never before it.
    watchers: Mutex<Watchers>,
    /// How often all watches were ended.
    endings: AtomicU64,
    /// Everything that there is in a namespace, or in all, as watches that begin at the same time share it.
    snapshots: Mutex<HashMap<String, Weak<Snapshot>>>,
}

#[derive(Default)]
struct State {
    objects: Objects,
    window: VecDeque<Arc<Change>>,
    window_bytes: usize,
    /// Every change after this revision is in the window.
    window_start: Revision,
    /// The last change's revision.
    revision: Revision,
}

/// All objects at a revision.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) revision: Revision,
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) joined: Mutex<Joined<JOINED_BYTES>>,
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

impl KindCache {
    pub(super) fn new(kind: Arc<StoredKind>, revision: Revision) -> Self {
        let prefix = format!("/registry/{}/", kind.prefix);
        let state = State { window_start: revision, revision, ..State::default() };
        Self {
            kind,
            prefix,
            sealed: Sealed::default(),
            state: RwLock::new(state),
            watchers: Mutex::default(),
            endings: AtomicU64::new(0),
            snapshots: Mutex::default(),
        }
    }

    /// The storage key of an object. A cluster-scoped one has no namespace, though a Namespace's requests name one.
    pub fn key(&self, namespace: &str, name: &str) -> Arc<str> {
        self.key_text(namespace, name).into()
    }

    fn key_text(&self, namespace: &str, name: &str) -> String {
        let (namespace, slash) = if self.kind.namespaced { (namespace, "/") } else { ("", "") };
        [&self.prefix, namespace, slash, name].concat()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.at_key(&self.key_text(namespace, name))
    }

    /// Fails where the object of a name is there and no key opens it.
    pub(crate) fn check_readable(&self, namespace: &str, name: &str) -> Result<(), BadEntry> {
        if self.sealed.is_empty() {
            return Ok(());
        }
        self.sealed.get(&self.key_text(namespace, name)).map_or(Ok(()), Err)
    }

    /// Fails where no key opens some object in a selection's scope.
    pub(crate) fn check_all_readable(&self, selection: &Selection) -> Result<(), BadEntry> {
        self.sealed.first(&self.scope(selection)).map_or(Ok(()), Err)
    }

    /// The object under a storage key.
    pub fn at_key(&self, key: &str) -> Option<Arc<Entry>> {
        self.state.read().objects.get(key).cloned()
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// How many objects there are, and the bytes that one has on average.
    pub(crate) fn size(&self) -> (usize, usize) {
        let state = self.state.read();
        let count = state.objects.len();
        (count, state.objects.bytes().checked_div(count).unwrap_or(0))
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn watchers(&self) -> usize {
        self.watchers.lock().count()
    }

    /// Ends all watches, once they have told what happened before.
    pub(super) fn end_watchers(&self) {
        self.endings.fetch_add(1, Ordering::AcqRel);
        *self.watchers.lock() = Watchers::default();
    }

    /// Whether a watch was ended, and not just left behind.
    pub fn has_ended(&self, subscription: &Subscription) -> bool {
        self.endings.load(Ordering::Acquire) != subscription.endings
    }

    /// Takes in objects at load, before there are watchers.
    pub(super) fn load(&self, entries: Vec<Arc<Entry>>) {
        let mut state = self.state.write();
        if state.objects.len() == 0 {
            state.objects = Objects::new(entries);
            return;
        }
        for entry in entries {
            state.objects.insert(entry);
        }
    }

    /// Takes in committed changes, in order; an entry that is `None` is a deletion. What it has had already is ignored. Called
    /// by one at a time.
    pub(super) fn apply(&self, changes: Vec<(Arc<str>, Option<Entry>, Revision)>, now: Instant) {
        let mut new = Vec::with_capacity(changes.len());
        {
            let mut state = self.state.write();
            let state = &mut *state;
            let known = state.revision;
            for (key, entry, revision) in changes.into_iter().filter(|(_, _, revision)| *revision > known) {
                state.revision = revision;
                let (previous, entry, deleted) = match entry {
                    Some(entry) => {
                        let entry = Arc::new(entry);
                        (state.objects.insert(entry.clone()), entry, false)
                    }
                    None => {
                        let Some(previous) = state.objects.remove(&key) else { continue };
                        let last = Arc::new(previous.at_revision(revision));
                        (Some(previous), last, true)
                    }
                };
                let change = Arc::new(Change::new(entry, deleted, previous, now));
                state.window_bytes += change.weight();
                state.window.push_back(change.clone());
                state.trim(now);
                new.push(change);
            }
        }
        // Readers need not wait for it. Whoever joins meanwhile finds the changes in the window, and knows them when it is told.
        self.watchers.lock().tell(&new);
    }

    /// Begins the window anew behind a revision at which something happened that nobody can be told of: watchers of earlier
    /// revisions have to list.
    pub(super) fn forget_history(&self, revision: Revision) {
        let mut state = self.state.write();
        if revision <= state.revision {
            return;
        }
        let objects = std::mem::take(&mut state.objects);
        *state = State { objects, window_start: revision, revision, ..State::default() };
        drop(state);
        *self.watchers.lock() = Watchers::default();
    }

    /// Takes these objects for all that there is at a revision, and answers what differs: each object, and whether it is
    /// still there. What happened in between is not known, so the window begins anew, and watchers of earlier revisions
    /// have to list.
    pub(super) fn replace(&self, objects: Vec<Arc<Entry>>, at: Revision) -> Vec<(Arc<Entry>, bool)> {
        let objects = Objects::new(objects);
        let mut state = self.state.write();
        let gone = state.objects.iter().filter(|e| objects.get(&e.key).is_none()).map(|e| (e.clone(), false));
        let known = |entry: &Entry| state.objects.get(&entry.key).is_some_and(|old| old.revision == entry.revision);
        let new = objects.iter().filter(|entry| !known(entry)).map(|e| (e.clone(), true));
        let differences = gone.chain(new).collect();
        *state = State { objects, window_start: at, revision: at, ..State::default() };
        drop(state);
        *self.watchers.lock() = Watchers::default();
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
        self.prepare(selection);
        let state = self.state.read();
        // Read under the lock: every change up to it is in the state.
        let revision = at.unwrap_or_else(|| state.revision.max(current()));
        let scope = self.scope(selection);
        let mut listing = Listing { revision, items: Vec::new(), next: None, remaining: None };
        let now = state.objects.range(selection.pin(), &scope, after);
        if revision < state.revision {
            let then = state.as_of(revision, &scope, after)?;
            listing.fill(overlaid(now, then), selection, limit, None);
        } else if !selection.name.is_empty() && (!selection.namespace.is_empty() || !self.kind.namespaced) {
            let key = self.key(&selection.namespace, &selection.name);
            listing.fill(state.objects.get(&key).into_iter(), selection, limit, None);
        } else {
            if limit == 0 && !selection.has_selectors() && selection.namespace.is_empty() {
                listing.items.reserve_exact(state.objects.len());
            }
            let namespace = if self.kind.namespaced { &*selection.namespace } else { "" };
            let whole = (after.is_none() && selection.name.is_empty()).then(|| state.objects.count(namespace));
            listing.fill(now, selection, limit, whole);
        }
        Ok(listing)
    }

    /// Makes the index that a selection asks for, where it helps.
    fn prepare(&self, selection: &Selection) {
        if let Some((pinned, _)) = selection.pin().filter(|(pinned, _)| pinned.is_selectable())
            && self.state.read().objects.lacks_index(pinned)
        {
            self.state.write().objects.index(pinned);
        }
    }

    /// The prefix of the keys in a selection's namespace.
    fn scope(&self, selection: &Selection) -> String {
        if selection.namespace.is_empty() || !self.kind.namespaced {
            self.prefix.clone()
        } else {
            format!("{}{}/", self.prefix, selection.namespace)
        }
    }

    /// A place among the watchers, taken before the state is looked at: what is told from then on and is no news is known by
    /// its revision.
    fn join(&self, selection: &Selection) -> (Member, u64) {
        let endings = self.endings.load(Ordering::Acquire);
        (self.watchers.lock().join(selection), endings)
    }

    /// Starts watching after a revision.
    pub fn watch(&self, selection: &Arc<Selection>, from: Revision) -> Result<Subscription, TooOld> {
        let (member, endings) = self.join(selection);
        let state = self.state.read();
        let backlog = Backlog::of_events(state.events_after(selection, from)?);
        Ok(Subscription::new(selection.clone(), backlog, member, state.revision, endings))
    }

    /// Goes on watching after what a watcher has seen, which was left behind.
    pub fn resume(&self, subscription: &mut Subscription) -> Result<(), TooOld> {
        let endings = subscription.endings;
        *subscription = self.watch(&subscription.selection().clone(), subscription.seen())?;
        subscription.endings = endings;
        Ok(())
    }

    /// Starts watching with everything there is: as additions, at their own revisions.
    pub fn watch_from_now(&self, selection: &Arc<Selection>, current: impl FnOnce() -> Revision) -> Subscription {
        self.prepare(selection);
        let (member, endings) = self.join(selection);
        let state = self.state.read();
        let revision = state.revision.max(current());
        let backlog = if selection.pin().is_none() {
            let snapshot = self.snapshot(&state, selection);
            // It has not changed since a little before: what did, comes after it.
            let later = state.newer(snapshot.revision).filter_map(|c| c.seen_by(selection)).collect();
            Backlog::of_snapshot(snapshot, later)
        } else {
            let scope = self.scope(selection);
            let entries = state.objects.range(selection.pin(), &scope, None).filter(|e| selection.matches(e));
            Backlog::of_events(entries.cloned().map(WatchEvent::initial).collect())
        };
        Subscription::new(selection.clone(), backlog, member, revision, endings)
    }

    /// Everything that there is in a selection's namespace, or was a few changes ago.
    fn snapshot(&self, state: &State, selection: &Selection) -> Arc<Snapshot> {
        let mut shared = self.snapshots.lock();
        if let Some(snapshot) = shared.get(&selection.namespace).and_then(Weak::upgrade)
            && snapshot.revision >= state.window_start
            && state.newer(snapshot.revision).len() <= STALE.min(snapshot.entries.len() / 4)
        {
            return snapshot;
        }
        let entries = state.objects.range(None, &self.scope(selection), None).cloned().collect();
        let snapshot = Arc::new(Snapshot { revision: state.revision, entries, joined: Mutex::default() });
        shared.retain(|_, snapshot| snapshot.strong_count() > 0);
        shared.insert(selection.namespace.clone(), Arc::downgrade(&snapshot));
        snapshot
    }
}

impl Listing {
    /// `whole`: how many the entries are, where that is known.
    fn fill<'a>(
        &mut self,
        mut entries: impl Iterator<Item = &'a Arc<Entry>>,
        selection: &Selection,
        limit: usize,
        whole: Option<usize>,
    ) {
        // Keys were found by the namespace.
        let all = !selection.has_selectors();
        for entry in entries.by_ref() {
            if !all && !selection.matches(entry) {
                continue;
            }
            if limit > 0 && self.items.len() == limit {
                self.next = self.items.last().map(|e| e.key.clone());
                // Upstream tells it only where it need not look at what is left.
                let left = || whole.map_or_else(|| entries.count() + 1, |whole| whole - limit);
                self.remaining = (!selection.has_selectors()).then(left);
                return;
            }
            self.items.push(entry.clone());
        }
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
            self.window_start = oldest.revision();
            self.window.pop_front();
        }
    }

    fn check(&self, revision: Revision) -> Result<(), TooOld> {
        if revision < self.window_start {
            return Err(TooOld { requested: revision, oldest: self.window_start });
        }
        Ok(())
    }

    fn newer(&self, revision: Revision) -> impl DoubleEndedIterator<Item = &Arc<Change>> + ExactSizeIterator {
        self.window.range(self.window.partition_point(|c| c.revision() <= revision)..)
    }

    fn events_after(&self, selection: &Selection, from: Revision) -> Result<VecDeque<WatchEvent>, TooOld> {
        self.check(from)?;
        Ok(self.newer(from).filter_map(|c| c.seen_by(selection)).collect())
    }

    /// What the keys of a range that changed after a revision were at that revision.
    fn as_of<'a>(
        &'a self,
        revision: Revision,
        scope: &str,
        after: Option<&str>,
    ) -> Result<BTreeMap<&'a str, Option<&'a Arc<Entry>>>, TooOld> {
        self.check(revision)?;
        let within = |change: &&Arc<Change>| {
            let key = &*change.entry.key;
            key.starts_with(scope) && after.is_none_or(|after| key > after)
        };
        Ok(self.newer(revision).rev().filter(within).map(|c| (&*c.entry.key, c.previous.as_ref())).collect())
    }
}

#[cfg(test)]
#[path = "kind_tests.rs"]
mod tests;
