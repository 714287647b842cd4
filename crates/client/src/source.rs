//! One reflector for the stores of several components of a process: each object is sent and read once, and each store
//! keeps of it what its component needs.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use kybern_api::Object;
use parking_lot::Mutex;

use crate::informer::Reflector;
use crate::store::{Cached, IndexFn};
use crate::{Client, ListOptions, Store, StoreWriter};

/// What components share that know of each other: a watch of each kind that they ask for
/// ([`Informer::shared`](crate::Informer::shared)). Clones are the same.
#[derive(Clone, Default)]
pub struct Sources {
    by_kind: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
}

impl Sources {
    fn of<K: Object>(&self) -> Arc<Source<K>> {
        let mut by_kind = self.by_kind.lock();
        let source = by_kind.entry(TypeId::of::<K>()).or_insert_with(|| Arc::new(Source::<K>::default()));
        source.clone().downcast().expect("a source is found by its kind")
    }

    /// A store of what `reduce` makes of each object; where that is nothing, the store has none.
    pub(crate) fn store<K: Object, V: Cached>(
        &self,
        client: &Client,
        indices: Vec<(&'static str, IndexFn<V>)>,
        reduce: Reduce<K, V>,
    ) -> Store<V> {
        let (store, writer) = Store::new(indices);
        let source = self.of::<K>();
        let view: Arc<dyn View<K>> = Arc::new(Reduced { writer, reduce, listed: Mutex::default() });
        source.join(client, view.clone());
        store.with_guard(Arc::new(Leave { source, view }))
    }
}

/// All objects of a kind, told to the stores that have joined.
struct Source<K> {
    state: Mutex<Joined<K>>,
}

struct Joined<K> {
    views: Vec<Arc<dyn View<K>>>,
    reflector: Option<tokio::task::JoinHandle<()>>,
}

impl<K> Default for Source<K> {
    fn default() -> Self {
        Self { state: Mutex::new(Joined { views: Vec::new(), reflector: None }) }
    }
}

impl<K: Object> Source<K> {
    /// Lists anew, for the store that has come; to the others only what has changed meanwhile is news.
    fn join(&self, client: &Client, view: Arc<dyn View<K>>) {
        let mut state = self.state.lock();
        state.views.push(view);
        let views = state.views.iter().map(Arc::downgrade).collect();
        let before = state.reflector.take();
        // At once: whoever comes next may end the task below before it has begun.
        if let Some(before) = &before {
            before.abort();
        }
        let reflector = Reflector::new(client.raw(&K::gvr()), String::new(), ListOptions::default(), Views(views));
        state.reflector = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // What it was about to tell is older than the list.
                let _ = before.await;
            }
            reflector.run().await;
        }));
    }
}

/// What a store keeps of an object.
type Reduce<K, V> = Box<dyn Fn(&K) -> Option<V> + Send + Sync>;

/// Takes a store out when its last handle is dropped, and ends the reflector with the last store.
struct Leave<K> {
    source: Arc<Source<K>>,
    view: Arc<dyn View<K>>,
}

impl<K> Drop for Leave<K> {
    fn drop(&mut self) {
        let mut state = self.source.state.lock();
        state.views.retain(|view| !Arc::ptr_eq(view, &self.view));
        if state.views.is_empty()
            && let Some(reflector) = state.reflector.take()
        {
            reflector.abort();
        }
    }
}

/// Where a reflector's objects go.
pub(crate) trait Sink<K>: Send {
    /// One of a list that is under way.
    fn list(&mut self, object: K);
    /// One that went while the list was under way.
    fn unlist(&mut self, key: &str);
    /// The list under way has failed.
    fn abandon(&mut self);
    /// The list is complete as of `resource_version`; what is held under the keys in `kept` stays.
    fn complete(&mut self, kept: &[String], resource_version: &str);
    fn upsert(&mut self, object: K);
    fn remove(&mut self, key: &str, resource_version: &str);
    /// Everything up to `resource_version` has been told.
    fn advance(&mut self, resource_version: &str);
}

/// The stores of a source; those whose handles are gone are told nothing.
struct Views<K>(Vec<Weak<dyn View<K>>>);

impl<K> Views<K> {
    fn each(&self, tell: impl Fn(&dyn View<K>)) {
        self.0.iter().filter_map(Weak::upgrade).for_each(|view| tell(&*view));
    }
}

impl<K: Object> Sink<K> for Views<K> {
    fn list(&mut self, object: K) {
        self.each(|view| view.list(&object));
    }
    fn unlist(&mut self, key: &str) {
        self.each(|view| view.unlist(key));
    }
    fn abandon(&mut self) {
        self.each(|view| view.abandon());
    }
    fn complete(&mut self, kept: &[String], resource_version: &str) {
        self.each(|view| view.complete(kept, resource_version));
    }
    fn upsert(&mut self, object: K) {
        self.each(|view| view.upsert(&object));
    }
    fn remove(&mut self, key: &str, resource_version: &str) {
        self.each(|view| view.remove(key, resource_version));
    }
    fn advance(&mut self, resource_version: &str) {
        self.each(|view| view.advance(resource_version));
    }
}

/// A [`Sink`] among several.
trait View<K>: Send + Sync {
    fn list(&self, object: &K);
    fn unlist(&self, key: &str);
    fn abandon(&self);
    fn complete(&self, kept: &[String], resource_version: &str);
    fn upsert(&self, object: &K);
    fn remove(&self, key: &str, resource_version: &str);
    fn advance(&self, resource_version: &str);
}

struct Reduced<K, V> {
    writer: StoreWriter<V>,
    reduce: Reduce<K, V>,
    listed: Mutex<Vec<V>>,
}

impl<K: Object, V: Cached> View<K> for Reduced<K, V> {
    fn list(&self, object: &K) {
        self.listed.lock().extend((self.reduce)(object));
    }
    fn unlist(&self, key: &str) {
        self.listed.lock().retain(|listed| listed.key() != key);
    }
    fn abandon(&self) {
        *self.listed.lock() = Vec::new();
    }
    fn complete(&self, kept: &[String], resource_version: &str) {
        let listed = std::mem::take(&mut *self.listed.lock());
        self.writer.replace_keeping(listed, kept, resource_version);
    }
    fn upsert(&self, object: &K) {
        match (self.reduce)(object) {
            Some(reduced) => self.writer.upsert(reduced),
            None => self.writer.remove(&Object::key(object), Object::resource_version(object)),
        }
    }
    fn remove(&self, key: &str, resource_version: &str) {
        self.writer.remove(key, resource_version);
    }
    fn advance(&self, resource_version: &str) {
        self.writer.advance(resource_version, false);
    }
}

/// A store with a watch of its own.
pub(crate) struct Own<K> {
    pub(crate) writer: StoreWriter<K>,
    pub(crate) trim: fn(&mut K),
    pub(crate) listed: Vec<K>,
}

impl<K: Cached> Sink<K> for Own<K> {
    fn list(&mut self, mut object: K) {
        (self.trim)(&mut object);
        self.listed.push(object);
    }
    fn unlist(&mut self, key: &str) {
        self.listed.retain(|listed| listed.key() != key);
    }
    fn abandon(&mut self) {
        self.listed = Vec::new();
    }
    fn complete(&mut self, kept: &[String], resource_version: &str) {
        self.writer.replace_keeping(std::mem::take(&mut self.listed), kept, resource_version);
    }
    fn upsert(&mut self, mut object: K) {
        (self.trim)(&mut object);
        self.writer.upsert(object);
    }
    fn remove(&mut self, key: &str, resource_version: &str) {
        self.writer.remove(key, resource_version);
    }
    fn advance(&mut self, resource_version: &str) {
        self.writer.advance(resource_version, false);
    }
}
