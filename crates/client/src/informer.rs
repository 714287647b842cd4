//! The reflector: keeps [`Store`]s equal to a resource of the server, by one streaming list that goes on as a watch
//! (`sendInitialEvents`), or by paged lists and a watch where the server does not offer that or fails at it.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kybern_api::{DecodeError, Object};
use kybern_apimachinery::{Gvr, Reason};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::backoff::Backoff;
use crate::raw::parse_list;
use crate::source::{Own, Sink, Sources};
use crate::store::{Cached, IndexFn};
use crate::unreadable::Unreadable;
use crate::watch::WatchEvent;
use crate::{Client, ClientError, ListOptions, PartialMetadata, Raw, Store};

/// Objects per page where the server cannot stream a list.
const PAGE: u32 = 500;
/// A watch that lived this long was healthy: its end is no failure.
const HEALTHY: Duration = Duration::from_secs(5);
const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The longest wait that a server's `Retry-After` is obeyed for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// A streamed list that brings nothing for so long will not end.
const INITIAL_SILENCE: Duration = Duration::from_secs(30);

/// Builds a store that follows a resource.
pub struct Informer<K> {
    resource: Raw,
    namespace: String,
    options: ListOptions,
    indices: Vec<(&'static str, IndexFn<K>)>,
    trim: fn(&mut K),
    share: Option<Share<K>>,
}

/// Makes the store of what others watch already.
type Share<K> = Box<dyn FnOnce(&Sources, &Client, Vec<(&'static str, IndexFn<K>)>) -> Store<K> + Send>;

impl<K: Object> Informer<K> {
    /// Follows the objects of a kind that `options` selects, in all namespaces.
    pub fn new(client: Client, options: ListOptions) -> Self {
        Self::of(client, &K::gvr(), options)
    }
}

impl<K: Object + Clone> Informer<K> {
    /// As [`Informer::shared_as`], with what `trim` leaves of each object. Call it after [`Informer::trim`].
    #[must_use]
    pub fn shared(self) -> Self {
        let trim = self.trim;
        self.shared_as(move |object: &K| {
            let mut object = object.clone();
            trim(&mut object);
            Some(object)
        })
    }
}

impl Informer<PartialMetadata> {
    /// Follows the metadata of any resource.
    pub fn metadata(client: Client, gvr: &Gvr, options: ListOptions) -> Self {
        let informer = Self::of(client, gvr, options);
        Self { resource: informer.resource.metadata_only(), ..informer }
    }
}

impl<K: Cached> Informer<K> {
    /// Follows a resource as whatever its objects decode to.
    pub fn of(client: Client, gvr: &Gvr, options: ListOptions) -> Self {
        Self {
            resource: client.raw(gvr),
            namespace: String::new(),
            options,
            indices: Vec::new(),
            trim: |_| {},
            share: None,
        }
    }

    /// Follows one namespace only.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Adds an index; see [`Store::by_index`].
    #[must_use]
    pub fn index(mut self, name: &'static str, values_of: IndexFn<K>) -> Self {
        self.indices.push((name, values_of));
        self
    }

    /// Has each object reduced before it is kept (client-go's `SetTransform`).
    #[must_use]
    pub fn trim(mut self, trim: fn(&mut K)) -> Self {
        self.trim = trim;
        self
    }

    /// Where the client has [`Sources`], all objects of kind `O` come by the watch that its holders share, and the store
    /// has what `reduce` makes of them; the informer's own options then do not matter, so `reduce` selects what they do.
    #[must_use]
    pub fn shared_as<O: Object>(mut self, reduce: impl Fn(&O) -> Option<K> + Send + Sync + 'static) -> Self {
        self.share = Some(Box::new(move |sources, client, indices| sources.store(client, indices, Box::new(reduce))));
        self
    }

    /// Starts the reflector on the current runtime. It ends when the last handle of the store is dropped.
    pub fn spawn(self) -> Store<K> {
        let Self { resource, namespace, options, indices, trim, share } = self;
        if let (Some(share), Some(sources)) = (share, resource.client().sources()) {
            return share(sources, resource.client(), indices);
        }
        let (store, writer) = Store::new(indices);
        let sink = Own { writer, trim, listed: Vec::new() };
        let task = tokio::spawn(Reflector::new(resource, namespace, options, sink).run());
        store.with_guard(Arc::new(AbortOnDrop(task.abort_handle())))
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) struct Reflector<K, S> {
    resource: Raw,
    namespace: String,
    options: ListOptions,
    sink: S,
    /// Where to resume; `None`: list first.
    resource_version: Option<String>,
    list: List,
    unreadable: Unreadable,
    kind: PhantomData<fn() -> K>,
}

/// How the next list is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    /// As the beginning of a watch.
    Streamed,
    /// In pages this once: the last streamed list failed, and any progress is better than none.
    PagedOnce,
    /// In pages: the server does not stream lists.
    Paged,
}

impl<K: Cached, S: Sink<K>> Reflector<K, S> {
    pub(crate) fn new(resource: Raw, namespace: String, options: ListOptions, sink: S) -> Self {
        let unreadable = Unreadable::new(resource.client().clone(), resource.gvr().clone());
        let (resource_version, list) = (None, List::Streamed);
        Self { resource, namespace, options, sink, resource_version, list, unreadable, kind: PhantomData }
    }

    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_MAX);
        loop {
            let started = Instant::now();
            let (before, tried) = (self.resource_version.clone(), self.list);
            let result = self.step().await;
            self.sink.abandon();
            let healthy = started.elapsed() >= HEALTHY || before != self.resource_version;
            if healthy {
                backoff.reset();
            }
            let retry_after = result.as_ref().err().and_then(ClientError::retry_after).map(|d| d.min(RETRY_AFTER_MAX));
            match result {
                Ok(()) if healthy => continue,
                Ok(()) => {}
                Err(error) if error.is_expired() && self.resource_version.is_some() => {
                    debug!(resource = %self.resource.gvr(), "the watch's history is gone, listing again");
                    self.resource_version = None;
                    if healthy {
                        continue;
                    }
                }
                Err(error) if self.resource_version.is_none() && tried == List::Streamed && falls_back(&error) => {
                    debug!(resource = %self.resource.gvr(), "no streamed list, listing in pages: {error}");
                    self.list = if refuses_streaming(&error) { List::Paged } else { List::PagedOnce };
                    continue;
                }
                Err(ClientError::Transport(error)) => {
                    debug!(resource = %self.resource.gvr(), "watch interrupted: {error}")
                }
                Err(error) => warn!(resource = %self.resource.gvr(), "cannot list or watch: {error}"),
            }
            let delay = backoff.next(self.resource.client().random().fraction());
            tokio::time::sleep(delay.max(retry_after.unwrap_or_default())).await;
        }
    }

    /// One request: a list, a streaming list that goes on as a watch, or a watch.
    async fn step(&mut self) -> Result<(), ClientError> {
        match (&self.resource_version, self.list) {
            (Some(_), _) => self.watch(false).await,
            (None, List::Streamed) => self.watch(true).await,
            (None, List::PagedOnce) => {
                self.list = List::Streamed;
                self.list().await
            }
            (None, List::Paged) => self.list().await,
        }
    }

    async fn list(&mut self) -> Result<(), ClientError> {
        let mut options = ListOptions { limit: Some(PAGE), ..self.options.clone() };
        let mut kept = Vec::new();
        loop {
            let bytes = self.resource.list_bytes(&self.namespace, &options).await?;
            let page = parse_list(&bytes)?;
            for item in &page.items {
                match K::decode(item) {
                    Ok(object) => self.sink.list(object),
                    Err(error) => kept.extend(self.unreadable.report(item, &error).map(|m| m.key())),
                }
            }
            if page.continue_token.is_empty() {
                self.sink.complete(&kept, &page.resource_version);
                self.resource_version = Some(page.resource_version);
                return Ok(());
            }
            options.continue_token = page.continue_token;
        }
    }

    /// Watches until the server ends it. With `initial`, everything up to the bookmark that ends the initial events is a
    /// list.
    async fn watch(&mut self, mut initial: bool) -> Result<(), ClientError> {
        let random = self.resource.client().random().fraction();
        let streaming = initial;
        let options = ListOptions {
            resource_version: self.resource_version.clone().unwrap_or_default(),
            resource_version_match: if streaming { "NotOlderThan".to_owned() } else { String::new() },
            send_initial_events: streaming,
            allow_watch_bookmarks: true,
            // Spread, so that not all watches of a cluster end together.
            timeout_seconds: Some(300 + (random * 300.0) as u32),
            ..self.options.clone()
        };
        let mut watcher = self.resource.watch(&self.namespace, &options).await?;
        let mut kept = Vec::new();
        loop {
            let next = watcher.next();
            let event = match initial {
                // Servers that do not know streamed lists send what there is, and then nothing.
                true => tokio::time::timeout(INITIAL_SILENCE, next).await.map_err(|_| unfinished("stopped"))?,
                false => next.await,
            };
            let Some(event) = event else { break };
            let event = match event {
                Err(ClientError::Transport(error)) if initial => return Err(unfinished(&error.to_string())),
                event => event?,
            };
            match event {
                WatchEvent::Added(bytes) | WatchEvent::Modified(bytes) => {
                    let object = match K::decode(&bytes) {
                        Ok(object) => object,
                        Err(error) => {
                            self.leave_out(&bytes, &error, initial.then_some(&mut kept));
                            continue;
                        }
                    };
                    match initial {
                        true => self.sink.list(object),
                        false => {
                            self.resource_version = Some(object.resource_version().to_owned());
                            self.sink.upsert(object);
                        }
                    }
                }
                WatchEvent::Deleted(bytes) => {
                    let Ok(object) = PartialMetadata::from_json(&bytes) else { continue };
                    match initial {
                        true => self.sink.unlist(&object.key()),
                        false => {
                            self.resource_version = Some(object.resource_version.to_string());
                            self.sink.remove(&object.key(), &object.resource_version);
                        }
                    }
                }
                WatchEvent::Bookmark { resource_version, initial_events_end } => {
                    match initial {
                        true if initial_events_end => self.sink.complete(&kept, &resource_version),
                        true => return Err(unfinished("went on as a watch")),
                        false => self.sink.advance(&resource_version),
                    }
                    initial = false;
                    self.resource_version = Some(resource_version);
                }
            }
        }
        if initial { Err(unfinished("ended")) } else { Ok(()) }
    }

    /// An object that this version cannot read is left out: one odd object must not stop a component. What the store holds
    /// of it from before stays: a pod is not to be killed because it became unreadable.
    fn leave_out(&mut self, bytes: &Bytes, error: &DecodeError, kept: Option<&mut Vec<String>>) {
        let Some(metadata) = self.unreadable.report(bytes, error) else { return };
        match kept {
            Some(kept) => kept.push(metadata.key()),
            None if metadata.resource_version.is_empty() => {}
            None => {
                self.sink.advance(&metadata.resource_version);
                self.resource_version = Some(metadata.resource_version.to_string());
            }
        }
    }
}

/// A streamed list without its end.
fn unfinished(how: &str) -> ClientError {
    ClientError::Decode(format!("the server's streamed list {how} before the bookmark that ends it"))
}

/// As client-go: any failure of a streamed list leads to a list in pages, but for those that a list would meet, too.
fn falls_back(error: &ClientError) -> bool {
    !matches!(error, ClientError::Transport(_)) && error.reason() != Some(Reason::TooManyRequests)
}

/// A server that does not know `sendInitialEvents`, or forbids it, refuses the parameters.
fn refuses_streaming(error: &ClientError) -> bool {
    matches!(error.reason(), Some(Reason::Invalid | Reason::BadRequest | Reason::Forbidden | Reason::MethodNotAllowed))
}

#[cfg(test)]
#[path = "informer_tests.rs"]
mod tests;
