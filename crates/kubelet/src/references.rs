//! The ConfigMaps and Secrets that pods refer to: one watch per object, shared by all pods that refer to it, ended with
//! the last of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, Stream};
use kybern_api::Object;
use kybern_api::core::v1::{ConfigMap, Container, Pod, Secret};
use kybern_client::store::Cached;
use kybern_client::{Client, Informer, ListOptions, Store};
use parking_lot::Mutex;

use crate::pod::env::References;
use crate::pod::spec;

/// How long a pod waits for what it refers to, as long as upstream waits for its caches.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

type Watches<K> = Mutex<HashMap<(String, String), Weak<Store<K>>>>;

/// All watched references of a node.
pub struct ReferenceCache {
    client: Client,
    config_maps: Watches<ConfigMap>,
    secrets: Watches<Secret>,
}

impl ReferenceCache {
    pub fn new(client: Client) -> Self {
        Self { client, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    fn watch<K: Object + Cached>(&self, watches: &Watches<K>, namespace: &str, name: &str) -> Arc<Store<K>> {
        let mut watches = watches.lock();
        watches.retain(|_, store| store.strong_count() > 0);
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(store) = watches.get(&key).and_then(Weak::upgrade) {
            return store;
        }
        let options = ListOptions::fields(format!("metadata.name={name}"));
        let store = Arc::new(Informer::new(self.client.clone(), options).in_namespace(namespace).spawn());
        watches.insert(key, Arc::downgrade(&store));
        store
    }

    /// Watches all that a pod refers to.
    pub fn of_pod(&self, pod: &Pod) -> PodReferences {
        let namespace = spec::namespace(pod);
        let (config_maps, secrets) = referenced(pod);
        let watched = |name: String| (name.clone(), self.watch(&self.config_maps, namespace, &name));
        let config_maps = config_maps.into_iter().map(watched).collect();
        let secrets =
            secrets.into_iter().map(|name| (name.clone(), self.watch(&self.secrets, namespace, &name))).collect();
        PodReferences { namespace: namespace.to_owned(), config_maps, secrets }
    }
}

/// The names of the ConfigMaps and Secrets that a pod refers to.
fn referenced(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    let of_pod = spec::spec(pod);
    secrets.extend(of_pod.image_pull_secrets.iter().flatten().map(|r| r.name.clone()));
    for volume in of_pod.volumes.iter().flatten() {
        config_maps.extend(volume.config_map.iter().map(|s| s.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        for part in volume.projected.iter().filter_map(|p| p.sources.as_ref()).flatten() {
            config_maps.extend(part.config_map.iter().map(|s| s.name.clone()));
            secrets.extend(part.secret.iter().map(|s| s.name.clone()));
        }
    }
    for (_, container) in spec::containers(pod) {
        of_container(&container, &mut config_maps, &mut secrets);
    }
    for names in [&mut config_maps, &mut secrets] {
        names.retain(|name| !name.is_empty());
        names.sort();
        names.dedup();
    }
    (config_maps, secrets)
}

fn of_container(container: &Container, config_maps: &mut Vec<String>, secrets: &mut Vec<String>) {
    for source in container.env_from.iter().flatten() {
        config_maps.extend(source.config_map_ref.iter().map(|s| s.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|s| s.name.clone()));
    }
    for from in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        config_maps.extend(from.config_map_key_ref.iter().map(|s| s.name.clone()));
        secrets.extend(from.secret_key_ref.iter().map(|s| s.name.clone()));
    }
}

/// What one pod refers to, watched as long as this lives.
#[derive(Clone, Default)]
pub struct PodReferences {
    namespace: String,
    config_maps: BTreeMap<String, Arc<Store<ConfigMap>>>,
    secrets: BTreeMap<String, Arc<Store<Secret>>>,
}

impl References for PodReferences {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(name)?.get_in(&self.namespace, name)
    }

    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.secrets.get(name)?.get_in(&self.namespace, name)
    }
}

impl PodReferences {
    /// Waits until every reference was read once.
    pub async fn synced(&self) -> Result<(), String> {
        let all = async {
            for store in self.config_maps.values() {
                store.synced().await;
            }
            for store in self.secrets.values() {
                store.synced().await;
            }
        };
        let late = "failed to sync the pod's ConfigMaps and Secrets: timed out waiting for the condition";
        tokio::time::timeout(SYNC_TIMEOUT, all).await.map_err(|_| late.to_owned())
    }

    /// Yields whenever one of them changes (or is read for the first time).
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + Unpin + use<> {
        let streams: FuturesUnordered<_> = FuturesUnordered::new();
        for store in self.config_maps.values() {
            streams.push(next_change(store.subscribe_boxed()));
        }
        for store in self.secrets.values() {
            streams.push(next_change(store.subscribe_boxed()));
        }
        Changes(streams)
    }
}

/// A subscription whose kind no longer matters.
trait Feed: Send {
    fn changed(&mut self) -> futures_util::future::BoxFuture<'_, ()>;
}

impl<K: Object + Cached> Feed for kybern_client::Subscription<K> {
    fn changed(&mut self) -> futures_util::future::BoxFuture<'_, ()> {
        Box::pin(async move {
            kybern_client::Subscription::changed(self).await;
        })
    }
}

trait SubscribeBoxed {
    fn subscribe_boxed(&self) -> Box<dyn Feed>;
}

impl<K: Object + Cached> SubscribeBoxed for Store<K> {
    fn subscribe_boxed(&self) -> Box<dyn Feed> {
        Box::new(self.subscribe_bounded(16))
    }
}

type NextChange = futures_util::future::BoxFuture<'static, Box<dyn Feed>>;

fn next_change(mut feed: Box<dyn Feed>) -> NextChange {
    Box::pin(async move {
        feed.changed().await;
        feed
    })
}

struct Changes(FuturesUnordered<NextChange>);

impl Stream for Changes {
    type Item = ();

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<()>> {
        match self.0.poll_next_unpin(cx) {
            std::task::Poll::Ready(Some(feed)) => {
                self.0.push(next_change(feed));
                std::task::Poll::Ready(Some(()))
            }
            std::task::Poll::Ready(None) => std::task::Poll::Ready(None),
            std::task::Poll::Pending => std::task::Poll::Pending,
        }
    }
}
