//! From changes to keys.

use std::pin::Pin;
use std::sync::Arc;

use kybern_client::store::Cached;
use kybern_client::{Change, Changes, Store, WorkQueue};

use crate::snapshot::Snapshot;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Keys = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Collects a controller's watches; the driver runs them.
pub struct Watches<'a> {
    pub snapshot: &'a Arc<Snapshot>,
    queue: WorkQueue<String>,
    /// The keys to look at when changes were missed, beside those of the objects that are there.
    primary: Vec<Keys>,
    feeds: Vec<Box<dyn FnOnce(Keys) -> Task + Send>>,
}

impl<'a> Watches<'a> {
    pub(crate) fn new(snapshot: &'a Arc<Snapshot>, queue: WorkQueue<String>) -> Self {
        Self { snapshot, queue, primary: Vec::new(), feeds: Vec::new() }
    }

    /// Every changed object's own key goes into the queue.
    pub fn primary<K: Cached>(&mut self, store: &Store<K>) {
        self.when_missed(store);
        self.on(store, |change, _| vec![change.object().key()]);
    }

    /// When changes of any store were missed, every object of this one is looked at.
    pub fn when_missed<K: Cached>(&mut self, store: &Store<K>) {
        let all = store.clone();
        self.primary.push(Arc::new(move || all.list().iter().map(|object| object.key()).collect()));
    }

    /// The keys that `map` finds for each change go into the queue.
    pub fn on<K: Cached>(
        &mut self,
        store: &Store<K>,
        map: impl Fn(&Change<K>, &Snapshot) -> Vec<String> + Send + Sync + 'static,
    ) {
        let (mut subscription, queue, snapshot) = (store.subscribe(), self.queue.clone(), self.snapshot.clone());
        let feed = move |primary: Keys| -> Task {
            Box::pin(async move {
                let add = |change: &Change<K>| map(change, &snapshot).into_iter().for_each(|key| queue.add(key));
                loop {
                    match subscription.changed().await {
                        Changes::Batch(changes) => changes.iter().for_each(add),
                        Changes::Resync => {
                            subscription
                                .store()
                                .list()
                                .into_iter()
                                .for_each(|o| add(&Change { old: None, new: Some(o) }));
                            primary().into_iter().for_each(|key| queue.add(key));
                        }
                    }
                }
            })
        };
        self.feeds.push(Box::new(feed));
    }

    /// Gives the queue to a source of keys that is no store.
    pub fn queue(&self) -> WorkQueue<String> {
        self.queue.clone()
    }

    pub(crate) fn into_tasks(self) -> Vec<Task> {
        let primary = self.primary;
        let keys: Keys = Arc::new(move || primary.iter().flat_map(|keys| keys()).collect());
        self.feeds.into_iter().map(|feed| feed(keys.clone())).collect()
    }
}
