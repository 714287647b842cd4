//! The watch cache: every stored object's bytes and extracted metadata, and recent events, fed by one watch of the store.
//! Reads never touch the store.

mod ages;
mod blocks;
mod change;
mod entry;
mod extract;
mod joined;
mod kind;
mod objects;
mod observers;
mod sealed;
mod selection;
mod subscription;
mod watchers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use kybern_storage::{Batch, Event, KeyValue, RangeRequest, Revision, Storage, StorageError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connect::Observer;
use crate::resource::StoredKind;
use ages::Ages;
pub use change::{EventKind, Form, WatchEvent};
pub(crate) use entry::canonical;
pub use entry::{BadEntry, Entry};
pub use kind::{KindCache, Listing, TooOld};
use observers::Observers;
use sealed::Sealed;
pub use selection::Selection;
pub use subscription::Subscription;
pub use watchers::Behind;

/// Objects read from the store at once when a kind is loaded.
const PAGE: usize = 500;
/// More kinds than this are read together, by one pass over the store.
const SCANNED_TOGETHER: usize = 16;
/// Revisions before the latest that the cache starts from, so that watchers can resume across a restart of the server.
const REPLAY: u64 = 1000;
/// All keys of objects begin so.
const ROOT: &str = "/registry/";
/// How often the store is asked how far it is while somebody waits for it, first and after many times.
const PROGRESS_PERIOD: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));
/// How long a read waits for what was committed before it.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(20);
/// How long a write that is committed waits to be seen.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before the store is followed again, after the first failure and after many.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// By prefix. Copied when a kind is added: of thousands of kinds no text is.
type Kinds = HashMap<Arc<str>, Arc<KindCache>>;

/// What a kind's cache learns of an event.
enum Learned {
    /// The key, and what is there now.
    Seen(Arc<str>, Option<Entry>),
    /// No key opens it: who watches must not take the object for unchanged.
    Sealed,
    Damaged,
}

/// What was read of kinds.
type Loaded = Vec<(Arc<KindCache>, Vec<Arc<Entry>>)>;

/// See the module.
pub struct Cache {
    storage: Arc<dyn Storage>,
    kinds: ArcSwap<Kinds>,
    /// Held while events are fed to the kinds.
    feeding: Mutex<()>,
    observers: Observers,
    applied: AtomicU64,
    ages: Ages,
    progress: watch::Sender<Revision>,
}

impl Cache {
    /// An empty cache; kinds are added by [`Cache::load`], and fed once [`Cache::follow`] runs.
    pub fn new(storage: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self {
            storage,
            kinds: ArcSwap::default(),
            feeding: Mutex::new(()),
            observers: Observers::default(),
            applied: AtomicU64::new(0),
            ages: Ages::default(),
            progress: watch::channel(0).0,
        })
    }

    /// Loads kinds as of a revision shortly before the latest, so that following replays the events in between.
    /// Answers the revision.
    pub async fn load(self: &Arc<Self>, kinds: &[Arc<StoredKind>]) -> Result<Revision, StorageError> {
        let latest = self.storage.revision().await?;
        let early = latest.saturating_sub(REPLAY).max(1);
        match self.load_at(kinds, early).await {
            Err(StorageError::Compacted { oldest, .. }) => self.load_at(kinds, oldest.clamp(early, latest)).await,
            loaded => loaded,
        }
    }

    async fn load_at(self: &Arc<Self>, kinds: &[Arc<StoredKind>], at: Revision) -> Result<Revision, StorageError> {
        let all = empty(kinds, at);
        self.scan(&all, at).await?;
        self.install(all.into_values().collect());
        self.advance(at);
        Ok(at)
    }

    /// Makes entries of objects as they are loaded, and shows them to observers.
    fn decode(&self, kinds: &Kinds, piece: Vec<KeyValue>) -> Loaded {
        let mut loaded: Loaded = Vec::new();
        for kv in piece {
            let Some(cache) = kind_of(kinds, &kv.key) else { continue };
            match Entry::new(&cache.kind, cache.prefix.len(), kv.key, &kv.value, kv.mod_revision) {
                Ok(entry) => {
                    self.observers.tell(&cache.kind, entry.namespace(), entry.name(), Some(&entry));
                    match loaded.iter_mut().find(|(known, _)| Arc::ptr_eq(known, cache)) {
                        Some((_, entries)) => entries.push(Arc::new(entry)),
                        None => loaded.push((cache.clone(), vec![Arc::new(entry)])),
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "an object cannot be read");
                    cache.sealed.note(&kv.value, error);
                }
            }
        }
        loaded
    }

    /// Kinds with their objects at a revision.
    async fn read(self: &Arc<Self>, kinds: &[Arc<StoredKind>], at: Revision) -> Result<Kinds, StorageError> {
        let all = empty(kinds, at);
        if kinds.len() > SCANNED_TOGETHER {
            self.scan(&all, at).await?;
            return Ok(all);
        }
        for cache in all.values() {
            let mut after: Arc<str> = "".into();
            loop {
                let request = RangeRequest { prefix: &cache.prefix, after: &after, limit: PAGE, at: Some(at) };
                let page = self.storage.range(request).await?;
                let Some(last) = page.items.last() else { break };
                after = last.key.clone();
                for (cache, entries) in self.decode(&all, page.items) {
                    cache.load(entries);
                }
                if !page.more {
                    break;
                }
            }
        }
        Ok(all)
    }

    /// Reads the objects of kinds at a revision by one pass over the store. What is much is decoded by several threads.
    async fn scan(self: &Arc<Self>, kinds: &Kinds, at: Revision) -> Result<(), StorageError> {
        let all: Arc<Mutex<HashMap<String, Vec<Arc<Entry>>>>> = Arc::default();
        let (cache, shared, found) = (self.clone(), kinds.clone(), all.clone());
        let look = move |piece| {
            for (kind, entries) in cache.decode(&shared, piece) {
                found.lock().entry(kind.prefix.clone()).or_default().extend(entries);
            }
        };
        self.storage.scan(ROOT, at).await?.for_each(look).await?;
        let mut all = std::mem::take(&mut *all.lock());
        for cache in kinds.values() {
            cache.load(all.remove(&cache.prefix).unwrap_or_default());
        }
        Ok(())
    }

    fn install(&self, loaded: Vec<Arc<KindCache>>) {
        self.kinds.rcu(|kinds| {
            let mut kinds = (**kinds).clone();
            for cache in &loaded {
                kinds.insert(cache.kind.prefix.as_str().into(), cache.clone());
            }
            kinds
        });
    }

    /// Adds kinds while the store is being followed. One that is there is read anew if other fields of it can be selected
    /// now; its watchers end.
    pub async fn add(self: &Arc<Self>, kinds: &[Arc<StoredKind>]) -> Result<(), StorageError> {
        let known = self.kinds.load_full();
        let fits = |kind: &StoredKind| known.get(kind.prefix.as_str()).is_some_and(|known| known.kind.is_read_as(kind));
        let new: Vec<Arc<StoredKind>> = kinds.iter().filter(|kind| !fits(kind)).cloned().collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut reached = self.revision();
        let all = self.read(&new, reached).await?;
        let mut watch = self.storage.watch(ROOT, reached).await?;
        loop {
            {
                // Nothing is fed meanwhile: the kind gets every event from here on, and ignores what it has had.
                let _feeding = self.feeding.lock();
                if self.revision() <= reached {
                    self.install(all.into_values().collect());
                    break;
                }
            }
            match tokio::time::timeout(PROGRESS_PERIOD.1, watch.next()).await {
                Ok(Ok(batch)) => {
                    reached = batch.revision;
                    self.feed(&all, batch.events, Instant::now());
                }
                Ok(Err(StorageError::Lagged { last })) => watch = self.storage.watch(ROOT, last).await?,
                Ok(Err(error)) => return Err(error),
                Err(_) => self.storage.request_progress(),
            }
        }
        for kind in &new {
            if let Some(before) = known.get(kind.prefix.as_str()) {
                before.end_watchers();
            }
        }
        Ok(())
    }

    /// Ends the watches of kinds, named by prefix.
    pub fn end_watchers(&self, prefixes: &HashSet<&str>) {
        let kinds = self.kinds.load();
        for cache in prefixes.iter().filter_map(|prefix| kinds.get(*prefix)) {
            cache.end_watchers();
        }
    }

    /// Forgets kinds, named by prefix.
    pub fn forget(&self, prefixes: &HashSet<&str>) {
        if prefixes.is_empty() {
            return;
        }
        self.kinds.rcu(|kinds| {
            let mut kinds = (**kinds).clone();
            kinds.retain(|prefix, _| !prefixes.contains(&**prefix));
            kinds
        });
    }

    /// Applies what is committed after a revision, until the store is closed. `on_failure` is told why the store cannot be
    /// followed for now, and `None` once it is followed again.
    pub async fn follow(self: Arc<Self>, from: Revision, on_failure: impl Fn(Option<&StorageError>)) -> StorageError {
        let mut from = from;
        let mut failures = 0u32;
        loop {
            let error = match self.storage.watch(ROOT, from).await {
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Ok(batch) => {
                            from = batch.revision;
                            self.apply(batch);
                            if std::mem::take(&mut failures) > 0 {
                                on_failure(None);
                            }
                        }
                        Err(error) => break error,
                    }
                },
                Err(error) => error,
            };
            let error = match error {
                StorageError::Lagged { last } => {
                    from = last;
                    continue;
                }
                // The store has forgotten what came next: begin anew with what there is.
                StorageError::Compacted { .. } => match self.reload().await {
                    Ok(Some(reached)) => {
                        from = reached;
                        continue;
                    }
                    Ok(None) | Err(StorageError::Compacted { .. }) => continue,
                    Err(error) => error,
                },
                error => error,
            };
            if matches!(error, StorageError::Closed) {
                return error;
            }
            on_failure(Some(&error));
            // Somebody waits for the store, or will: what is there again is found soon.
            tokio::time::sleep((RETRY_AFTER.0 * 2u32.pow(failures.min(8))).min(RETRY_AFTER.1)).await;
            failures += 1;
        }
    }

    /// Replaces all that is cached by what the store has now, and shows observers the differences. Answers the revision;
    /// nothing where kinds came or went meanwhile.
    async fn reload(&self) -> Result<Option<Revision>, StorageError> {
        let at = self.storage.revision().await?;
        tracing::warn!(
            revision = at,
            last = self.revision(),
            "the watch cache fell behind the store's history: it is loaded anew"
        );
        let kinds = self.kinds.load_full();
        let mut found: HashMap<&str, Vec<Arc<Entry>>> = HashMap::new();
        let mut sealed: HashMap<&str, Sealed> = HashMap::new();
        let mut scan = self.storage.scan(ROOT, at).await?;
        while let Some(piece) = scan.recv().await {
            for kv in piece? {
                let Some(cache) = kind_of(&kinds, &kv.key) else { continue };
                let known = cache.at_key(&kv.key).filter(|entry| entry.revision == kv.mod_revision);
                let made = || {
                    Entry::new(&cache.kind, cache.prefix.len(), kv.key.clone(), &kv.value, kv.mod_revision)
                        .map(Arc::new)
                };
                match known.map_or_else(made, Ok) {
                    Ok(entry) => found.entry(&cache.kind.prefix).or_default().push(entry),
                    Err(error) => {
                        tracing::error!(%error, "an object cannot be read");
                        sealed.entry(&cache.kind.prefix).or_default().note(&kv.value, error);
                    }
                }
            }
        }
        let _feeding = self.feeding.lock();
        if !Arc::ptr_eq(&kinds, &self.kinds.load()) {
            return Ok(None);
        }
        for (prefix, cache) in kinds.iter() {
            cache.sealed.replace(sealed.remove(&**prefix).unwrap_or_default());
            for (entry, there) in cache.replace(found.remove(&**prefix).unwrap_or_default(), at) {
                let is = there.then_some(&*entry);
                self.observers.tell(&cache.kind, entry.namespace(), entry.name(), is);
            }
        }
        self.advance(at);
        Ok(Some(at))
    }

    /// The oldest revision that objects can be listed of.
    pub(crate) fn oldest(&self) -> Revision {
        self.ages.oldest(Instant::now())
    }

    fn apply(&self, batch: Batch) {
        let now = Instant::now();
        let _feeding = self.feeding.lock();
        self.feed(&self.kinds.load(), batch.events, now);
        self.advance(batch.revision);
        self.ages.note(batch.revision, now);
    }

    /// Hands events to those of these kinds that they are about.
    fn feed(&self, kinds: &Kinds, events: Vec<Event>, now: Instant) {
        let mut by_kind: Vec<(&Arc<KindCache>, Vec<_>)> = Vec::new();
        for event in events {
            let Some(cache) = kind_of(kinds, &event.key) else { continue };
            let revision = event.revision;
            let place = by_kind.iter().position(|(c, _)| Arc::ptr_eq(c, cache)).unwrap_or_else(|| {
                by_kind.push((cache, Vec::new()));
                by_kind.len() - 1
            });
            match self.change(cache, event) {
                Learned::Seen(key, entry) => by_kind[place].1.push((key, entry, revision)),
                Learned::Sealed => {
                    cache.apply(std::mem::take(&mut by_kind[place].1), now);
                    cache.forget_history(revision);
                }
                Learned::Damaged => {}
            }
        }
        for (cache, changes) in by_kind {
            cache.apply(changes, now);
        }
    }

    /// Makes an event what a kind's cache takes, and shows it to observers.
    fn change(&self, cache: &KindCache, event: Event) -> Learned {
        let entry = match &event.value {
            Some(value) => {
                let entry = Entry::new(&cache.kind, cache.prefix.len(), event.key.clone(), value, event.revision);
                match entry {
                    Ok(entry) => Some(entry),
                    Err(error) => {
                        tracing::error!(%error, "a changed object cannot be read");
                        let is_sealed = cache.sealed.note(value, error);
                        return if is_sealed { Learned::Sealed } else { Learned::Damaged };
                    }
                }
            }
            None => None,
        };
        cache.sealed.forget(&event.key);
        let own = &event.key[cache.prefix.len()..];
        let (namespace, name) =
            if cache.kind.namespaced { own.split_once('/').unwrap_or(("", own)) } else { ("", own) };
        self.observers.tell(&cache.kind, namespace, name, entry.as_ref());
        Learned::Seen(event.key, entry)
    }

    fn advance(&self, revision: Revision) {
        self.applied.fetch_max(revision, Ordering::AcqRel);
        self.progress.send_replace(revision);
    }

    /// The revision up to which everything is in the cache.
    pub fn revision(&self) -> Revision {
        self.applied.load(Ordering::Acquire)
    }

    /// Waits until everything up to a revision is in the cache.
    pub async fn wait_for(&self, revision: Revision) {
        if self.revision() >= revision {
            return;
        }
        let mut progress = self.progress.subscribe();
        // The sender lives as long as `self`.
        let _ = progress.wait_for(|reached| *reached >= revision).await;
    }

    /// Waits until a committed write is in the cache. It counts without that, so what the store fails to tell for long is
    /// not waited for.
    pub async fn settle(&self, revision: Revision) {
        let _ = tokio::time::timeout(SETTLE_PATIENCE, self.wait_for(revision)).await;
    }

    /// Waits until everything that was committed before this call is in the cache.
    pub async fn catch_up(&self) -> Result<(), StorageError> {
        let committed = self.storage.revision().await?;
        if self.revision() >= committed {
            return Ok(());
        }
        let deadline = Instant::now() + CATCH_UP_PATIENCE;
        let mut period = PROGRESS_PERIOD.0;
        while tokio::time::timeout(period, self.wait_for(committed)).await.is_err() {
            period = (period * 2).min(PROGRESS_PERIOD.1);
            if Instant::now() >= deadline {
                let reached = self.revision();
                let text =
                    format!("the store is at revision {committed}, and has told of changes up to {reached} only");
                return Err(StorageError::Unavailable(text));
            }
            // What was committed last may be nothing that is watched: then only the store can say so.
            self.storage.request_progress();
        }
        Ok(())
    }

    /// The objects stored under a prefix ([`StoredKind::prefix`]).
    pub fn kind(&self, prefix: &str) -> Option<Arc<KindCache>> {
        self.kinds.load().get(prefix).cloned()
    }

    pub fn kinds(&self) -> Vec<Arc<KindCache>> {
        self.kinds.load().values().cloned().collect()
    }

    /// Must be called before kinds are loaded: an observer sees every object.
    pub fn add_observer(&self, observer: Arc<dyn Observer>) {
        self.observers.add(observer);
    }
}

/// Kinds without objects.
fn empty(kinds: &[Arc<StoredKind>], at: Revision) -> Kinds {
    kinds.iter().map(|kind| (kind.prefix.as_str().into(), Arc::new(KindCache::new(kind.clone(), at)))).collect()
}

/// Prefixes have one or two segments: `pods`, `services/specs`. Where both are there, the shorter one is meant: the second
/// segment of its keys is a namespace.
fn kind_of<'a>(kinds: &'a Kinds, key: &str) -> Option<&'a Arc<KindCache>> {
    let own = key.strip_prefix("/registry/")?;
    let first = own.find('/')?;
    let second = own[first + 1..].find('/').map(|n| first + 1 + n);
    kinds.get(&own[..first]).or_else(|| second.and_then(|end| kinds.get(&own[..end])))
}
