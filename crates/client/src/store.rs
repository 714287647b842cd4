//! The shared cache of one resource: filled by one reflector, read by many.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Weak};

use kybern_api::{DecodeError, Object};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::PartialMetadata;
use crate::split::without_managed_fields;

/// What a store can hold: every typed object, and [`PartialMetadata`].
pub trait Cached: Send + Sync + 'static {
    fn decode(json: &[u8]) -> Result<Self, DecodeError>
    where
        Self: Sized;
    /// `namespace/name`, or `name` when cluster-scoped.
    fn key(&self) -> String;
    fn resource_version(&self) -> &str;
}

impl<K: Object> Cached for K {
    /// Without `managedFields`: no component reads them, and they are half of many an object.
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        let mut object = K::from_json(&without_managed_fields(json))?;
        // Where an odd object has them in another place.
        object.drop_managed_fields();
        Ok(object)
    }
    fn key(&self) -> String {
        Object::key(self)
    }
    fn resource_version(&self) -> &str {
        Object::resource_version(self)
    }
}

impl Cached for PartialMetadata {
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        Self::from_json(json)
    }
    fn key(&self) -> String {
        PartialMetadata::key(self)
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

/// Computes the values under which an object is found in an index.
pub type IndexFn<K> = fn(&K) -> Vec<String>;

/// One object that came (`old` is `None`), changed, or went (`new` is `None`).
#[derive(Debug)]
pub struct Change<K> {
    pub old: Option<Arc<K>>,
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> &Arc<K> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has an object")
    }

    pub fn is_removal(&self) -> bool {
        self.new.is_none()
    }
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        Self { old: self.old.clone(), new: self.new.clone() }
    }
}

/// What a [`Subscription`] delivers.
#[derive(Debug)]
pub enum Changes<K> {
    /// In the order in which they happened.
    Batch(Vec<Change<K>>),
    /// The subscriber is new or was too slow: look at the whole store. Removals may have gone unseen.
    Resync,
}

/// A handle to the cache; clones share it. The reflector ends with the last handle or subscription.
pub struct Store<K> {
    shared: Arc<Shared<K>>,
    /// Ends what fills it when dropped.
    _guard: Option<Arc<dyn Any + Send + Sync>>,
}

/// The writing side, held by the reflector (or a test).
pub struct StoreWriter<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: RwLock<State<K>>,
    /// Counts changes; waiters look again when it moves.
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    synced: bool,
    /// The newest resourceVersion that is known to be reflected.
    resource_version: u64,
}

struct State<K> {
    objects: BTreeMap<Arc<str>, Arc<K>>,
    indices: Vec<Index<K>>,
    mailboxes: Vec<Weak<Mailbox<K>>>,
}

struct Index<K> {
    name: &'static str,
    values_of: IndexFn<K>,
    /// With the objects themselves: whoever asks wants all of them, and looking each up costs more than all else.
    entries: HashMap<String, BTreeMap<Arc<str>, Arc<K>>>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _guard: self._guard.clone() }
    }
}

impl<K: Cached> Store<K> {
    /// An empty, unsynced store and its writer.
    pub fn new(indices: impl IntoIterator<Item = (&'static str, IndexFn<K>)>) -> (Self, StoreWriter<K>) {
        let indices =
            indices.into_iter().map(|(name, values_of)| Index { name, values_of, entries: HashMap::new() }).collect();
        let state = State { objects: BTreeMap::new(), indices, mailboxes: Vec::new() };
        let shared = Arc::new(Shared { state: RwLock::new(state), progress: watch::Sender::default() });
        (Self { shared: shared.clone(), _guard: None }, StoreWriter { shared })
    }

    pub(crate) fn with_guard(mut self, guard: Arc<dyn Any + Send + Sync>) -> Self {
        self._guard = Some(guard);
        self
    }

    /// The object with a key of the form `namespace/name`, or `name` when cluster-scoped.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.shared.state.read().objects.get(key).cloned()
    }

    /// The object of a namespace (empty when cluster-scoped) and a name.
    pub fn get_in(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&kybern_apimachinery::object::key_of(namespace, name))
    }

    /// All objects, by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.state.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = format!("{namespace}/");
        let state = self.shared.state.read();
        let range = state.objects.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded));
        range.take_while(|(key, _)| key.starts_with(&from)).map(|(_, object)| object.clone()).collect()
    }

    /// The objects that an index finds under a value, by key. Panics when the store has no such index.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        self.by_index_and(index, &[value])
    }

    /// The objects that an index finds under every one of some values, by key; none where no value is given. It looks
    /// through those of the rarest value only. Panics when the store has no such index.
    pub fn by_index_and(&self, index: &str, values: &[impl AsRef<str>]) -> Vec<Arc<K>> {
        let state = self.shared.state.read();
        let index = state.indices.iter().find(|i| i.name == index).unwrap_or_else(|| panic!("no index {index:?}"));
        let Some(found) = values.iter().map(|value| index.entries.get(value.as_ref())).collect::<Option<Vec<_>>>()
        else {
            return Vec::new();
        };
        let Some(rarest) = found.iter().min_by_key(|objects| objects.len()) else { return Vec::new() };
        let in_all = |key: &Arc<str>| found.iter().all(|all| std::ptr::eq(*all, *rarest) || all.contains_key(key));
        rarest.iter().filter(|(key, _)| in_all(key)).map(|(_, object)| object.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.shared.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        self.wait(|_, progress| progress.synced).await;
    }

    pub fn is_synced(&self) -> bool {
        self.shared.progress.borrow().synced
    }

    /// The newest resourceVersion that is reflected; 0 before the first.
    pub fn resource_version(&self) -> u64 {
        self.shared.progress.borrow().resource_version
    }

    /// Waits until `reached` holds. It is asked again after every change of the store.
    pub async fn wait_until(&self, reached: impl Fn(&Self) -> bool) {
        self.wait(|store, _| reached(store)).await;
    }

    async fn wait(&self, reached: impl Fn(&Self, Progress) -> bool) {
        let mut progress = self.shared.progress.subscribe();
        loop {
            let now = *progress.borrow_and_update();
            if reached(self, now) {
                return;
            }
            progress.changed().await.expect("the store holds the sender");
        }
    }

    /// Follows the changes from now on; begins with a [`Changes::Resync`] once the store is synced.
    pub fn subscribe(&self) -> Subscription<K> {
        self.subscribe_bounded(4096)
    }

    /// As [`Store::subscribe`], holding at most `capacity` undelivered changes.
    pub fn subscribe_bounded(&self, capacity: usize) -> Subscription<K> {
        let mailbox = Mailbox {
            inbox: Mutex::new(Inbox { changes: VecDeque::new(), resync: true }),
            wake: Notify::new(),
            capacity,
        };
        let mailbox = Arc::new(mailbox);
        self.shared.state.write().mailboxes.push(Arc::downgrade(&mailbox));
        Subscription { store: self.clone(), mailbox }
    }
}

impl<K: Cached> StoreWriter<K> {
    /// Replaces the content by a complete list as of `resource_version`, and marks the store synced.
    pub fn replace(&self, objects: impl IntoIterator<Item = K>, resource_version: &str) {
        self.replace_keeping(objects, &[], resource_version);
    }

    /// As [`StoreWriter::replace`]; what is held under the keys in `kept` stays.
    pub(crate) fn replace_keeping(
        &self,
        objects: impl IntoIterator<Item = K>,
        kept: &[String],
        resource_version: &str,
    ) {
        let mut state = self.shared.state.write();
        let mut gone: BTreeSet<Arc<str>> = state.objects.keys().cloned().collect();
        for key in kept {
            gone.remove(key.as_str());
        }
        for object in objects {
            let key = object.key();
            gone.remove(key.as_str());
            let unchanged =
                state.objects.get(key.as_str()).is_some_and(|old| old.resource_version() == object.resource_version());
            if !unchanged || object.resource_version().is_empty() {
                state.set(&key, Some(Arc::new(object)));
            }
        }
        for key in gone {
            state.set(&key, None);
        }
        drop(state);
        self.advance(resource_version, true);
    }

    /// Puts one object in.
    pub fn upsert(&self, object: K) {
        let object = Arc::new(object);
        self.shared.state.write().set(&object.key(), Some(object.clone()));
        self.advance(object.resource_version(), false);
    }

    /// Takes one object out; `resource_version` is that of the deletion.
    pub fn remove(&self, key: &str, resource_version: &str) {
        self.shared.state.write().set(key, None);
        self.advance(resource_version, false);
    }

    /// Says that everything up to `resource_version` is in.
    pub fn advance(&self, resource_version: &str, synced: bool) {
        let version: u64 = resource_version.parse().unwrap_or(0);
        self.shared.progress.send_modify(|progress| {
            progress.resource_version = progress.resource_version.max(version);
            progress.synced |= synced;
        });
    }
}

impl<K: Cached> State<K> {
    fn set(&mut self, key: &str, new: Option<Arc<K>>) {
        // The objects and all indices share one key.
        let key = self.objects.get_key_value(key).map_or_else(|| Arc::from(key), |(held, _)| held.clone());
        let old = match &new {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        if old.is_none() && new.is_none() {
            return;
        }
        for index in &mut self.indices {
            index.update(&key, old.as_ref(), new.as_ref());
        }
        let change = Change { old, new };
        self.mailboxes.retain(|mailbox| mailbox.upgrade().map(|m| m.put(change.clone())).is_some());
    }
}

impl<K> Index<K> {
    fn update(&mut self, key: &Arc<str>, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        let values = |object: Option<&Arc<K>>| object.map(|object| (self.values_of)(object)).unwrap_or_default();
        let (before, after) = (values(old), values(new));
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(objects) = self.entries.get_mut(value) {
                objects.remove(key);
                if objects.is_empty() {
                    self.entries.remove(value);
                }
            }
        }
        for (value, new) in after.into_iter().zip(new.into_iter().cycle()) {
            self.entries.entry(value).or_default().insert(key.clone(), new.clone());
        }
    }
}

struct Mailbox<K> {
    inbox: Mutex<Inbox<K>>,
    wake: Notify,
    capacity: usize,
}

struct Inbox<K> {
    changes: VecDeque<Change<K>>,
    resync: bool,
}

impl<K> Mailbox<K> {
    fn put(&self, change: Change<K>) {
        let mut inbox = self.inbox.lock();
        if inbox.resync {
            return;
        }
        if inbox.changes.len() == self.capacity {
            inbox.changes = VecDeque::new();
            inbox.resync = true;
        } else {
            inbox.changes.push_back(change);
        }
        drop(inbox);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<Changes<K>> {
        let mut inbox = self.inbox.lock();
        if std::mem::take(&mut inbox.resync) {
            return Some(Changes::Resync);
        }
        (!inbox.changes.is_empty()).then(|| Changes::Batch(std::mem::take(&mut inbox.changes).into()))
    }
}

/// A bounded feed of changes. It keeps the store alive.
pub struct Subscription<K> {
    store: Store<K>,
    mailbox: Arc<Mailbox<K>>,
}

impl<K: Cached> Subscription<K> {
    /// Waits for changes and takes them all. Safe to cancel.
    pub async fn changed(&mut self) -> Changes<K> {
        self.store.synced().await;
        loop {
            if let Some(changes) = self.mailbox.take() {
                return changes;
            }
            self.mailbox.wake.notified().await;
        }
    }

    pub fn store(&self) -> &Store<K> {
        &self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, version: &str) -> PartialMetadata {
        let (namespace, name) = kybern_apimachinery::object::split_key(key);
        PartialMetadata {
            name: name.into(),
            namespace: namespace.into(),
            resource_version: version.into(),
            ..Default::default()
        }
    }

    fn by_version(object: &PartialMetadata) -> Vec<String> {
        vec![object.resource_version.to_string()]
    }

    fn keys(objects: &[Arc<PartialMetadata>]) -> Vec<String> {
        objects.iter().map(|o| o.key()).collect()
    }

    #[test]
    fn objects_are_found_by_key_namespace_and_index() {
        let (store, writer) = Store::new([("version", by_version as IndexFn<_>)]);
        assert!(!store.is_synced());
        writer.replace([object("a/x", "1"), object("a/y", "2"), object("ab/z", "2")], "2");
        assert!(store.is_synced());
        assert_eq!(keys(&store.list_in("a")), ["a/x", "a/y"]);
        assert_eq!(keys(&store.by_index("version", "2")), ["a/y", "ab/z"]);
        assert_eq!(keys(&store.by_index_and("version", &["2", "2"])), ["a/y", "ab/z"]);
        assert!(store.by_index_and("version", &["1", "2"]).is_empty());
        assert!(store.by_index_and("version", &["2", "9"]).is_empty());
        assert!(store.by_index_and("version", &[""; 0]).is_empty());
        writer.upsert(object("a/y", "3"));
        writer.remove("ab/z", "4");
        assert!(store.by_index("version", "2").is_empty());
        assert_eq!((store.resource_version(), store.len()), (4, 2));
        assert!(store.get("a/y").is_some() && store.get_in("a", "q").is_none());
    }

    #[tokio::test]
    async fn a_subscriber_sees_a_resync_and_then_changes() {
        let (store, writer) = Store::new([]);
        let mut subscription = store.subscribe();
        writer.replace([object("a", "1"), object("b", "1")], "1");
        assert!(matches!(subscription.changed().await, Changes::Resync));
        writer.replace([object("a", "1"), object("b", "2"), object("c", "2")], "2");
        writer.remove("c", "3");
        let Changes::Batch(changes) = subscription.changed().await else { panic!("expected changes") };
        let seen: Vec<_> = changes.iter().map(|c| (c.object().key(), c.old.is_some(), c.new.is_some())).collect();
        assert_eq!(seen, [("b".into(), true, true), ("c".into(), false, true), ("c".into(), true, false)]);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_to_resync() {
        let (store, writer) = Store::new([]);
        writer.replace([], "1");
        let mut subscription = store.subscribe_bounded(2);
        assert!(matches!(subscription.changed().await, Changes::Resync));
        for version in ["2", "3", "4"] {
            writer.upsert(object("a", version));
        }
        assert!(matches!(subscription.changed().await, Changes::Resync));
        writer.upsert(object("a", "5"));
        assert!(matches!(subscription.changed().await, Changes::Batch(b) if b.len() == 1));
    }

    #[tokio::test]
    async fn waiting_ends_when_the_change_is_in() {
        let (store, writer) = Store::new([]);
        writer.replace([], "1");
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.wait_until(|s| s.get("a").is_some()).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        writer.upsert(object("a", "2"));
        waiting.await.unwrap();
    }
}
