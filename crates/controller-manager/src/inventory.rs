//! Identity, finalizers and owners of every object of every resource, custom ones included, as garbage collection and
//! namespace deletion need them. Follows discovery: resources that come and go with their definitions are taken up and
//! dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kybern_apimachinery::{GroupVersion, Gvr};
use kybern_client::backoff::{Backoff, Random, SystemRandom};
#[cfg(test)]
use kybern_client::store::IndexFn;
use kybern_client::{ApiResource, Change, Changes, Client, Informer, ListOptions, PartialMetadata, Store};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::warn;

/// Index: the uid of every owner.
const OWNERS: &str = "owners";
/// After a definition changed, how long to wait for more before asking for discovery again.
const SETTLE: Duration = Duration::from_millis(100);

type Listener = Box<dyn Fn(&ApiResource, Seen<'_>) + Send + Sync>;

/// What a listener is told.
#[derive(Clone, Copy)]
pub enum Seen<'a> {
    Change(&'a Change<PartialMetadata>),
    /// Changes of the resource were missed, removals among them. What is there comes next, as if it came now.
    Missed,
}

/// All objects of the cluster, reduced to [`PartialMetadata`].
#[derive(Default)]
pub struct Inventory {
    state: RwLock<State>,
    listeners: Mutex<Vec<Arc<Listener>>>,
}

#[derive(Default)]
struct State {
    discovered: bool,
    resources: HashMap<Gvr, Entry>,
    /// Resources that can be deleted but are not followed: nothing owns or is owned by them, and they change all the time.
    unfollowed: Vec<ApiResource>,
    /// Versions that the server announces but cannot serve now.
    stale: Vec<String>,
    /// Of each group the version that is preferred.
    preferred: HashMap<String, String>,
}

fn preferred(resources: &[ApiResource]) -> HashMap<String, String> {
    let mut preferred = HashMap::new();
    for gvr in resources.iter().map(|resource| &resource.gvr) {
        preferred.entry(gvr.group.clone()).or_insert_with(|| gvr.version.clone());
    }
    preferred
}

struct Entry {
    resource: Arc<ApiResource>,
    store: Store<PartialMetadata>,
}

/// One resource with its objects.
#[derive(Clone)]
pub struct Followed {
    pub resource: Arc<ApiResource>,
    pub store: Store<PartialMetadata>,
}

fn owner_uids(object: &PartialMetadata) -> Vec<String> {
    object.owners.iter().map(|owner| owner.uid.to_string()).collect()
}

fn is_followed(resource: &ApiResource) -> bool {
    resource.gvr.resource != "events" && resource.has_verbs(&["get", "list", "watch"])
}

impl Inventory {
    /// Calls `listener` on every change from now on; for objects that are there already when their resource is taken up,
    /// as if they came then.
    pub fn listen(&self, listener: impl Fn(&ApiResource, Seen<'_>) + Send + Sync + 'static) {
        self.listeners.lock().push(Arc::new(Box::new(listener)));
    }

    /// Whether the server has said what kinds it has.
    pub fn knows_kinds(&self) -> bool {
        self.state.read().discovered
    }

    /// Whether everything that the server has is known: discovery succeeded and every store has its first list.
    pub fn is_complete(&self) -> bool {
        let state = self.state.read();
        state.discovered && state.resources.values().all(|entry| entry.store.is_synced())
    }

    /// Group versions that the server announces but cannot serve now.
    pub fn stale(&self) -> Vec<String> {
        self.state.read().stale.clone()
    }

    /// Every followed resource.
    pub fn followed(&self) -> Vec<Followed> {
        let entries = self.state.read();
        let mut list: Vec<Followed> = entries
            .resources
            .values()
            .map(|e| Followed { resource: e.resource.clone(), store: e.store.clone() })
            .collect();
        list.sort_by(|a, b| a.resource.gvr.cmp(&b.resource.gvr));
        list
    }

    /// Resources that can be deleted from but are not followed.
    pub fn unfollowed(&self) -> Vec<ApiResource> {
        self.state.read().unfollowed.clone()
    }

    /// The version of a group that its server prefers, if it serves anything.
    pub fn preferred_version(&self, group: &str) -> Option<String> {
        self.state.read().preferred.get(group).cloned()
    }

    pub fn resource(&self, gvr: &Gvr) -> Option<Followed> {
        let state = self.state.read();
        state.resources.get(gvr).map(|e| Followed { resource: e.resource.clone(), store: e.store.clone() })
    }

    /// The resource that an owner reference means. The version does not matter: a kind is followed in one version.
    pub fn resource_of_kind(&self, api_version: &str, kind: &str) -> Option<Followed> {
        let group = GroupVersion::parse(api_version)?.group;
        let state = self.state.read();
        let entry = state.resources.values().find(|e| e.resource.kind == kind && e.resource.gvr.group == group)?;
        Some(Followed { resource: entry.resource.clone(), store: entry.store.clone() })
    }

    /// Every object that names the uid among its owners.
    pub fn dependents(&self, uid: &str) -> Vec<(Arc<ApiResource>, Arc<PartialMetadata>)> {
        let state = self.state.read();
        let of =
            |e: &Entry| e.store.by_index(OWNERS, uid).into_iter().map(|o| (e.resource.clone(), o)).collect::<Vec<_>>();
        state.resources.values().flat_map(of).collect()
    }

    /// Follows the cluster until dropped.
    pub async fn run(self: Arc<Self>, client: Client) {
        let mut feeds: HashMap<Gvr, tokio::task::AbortHandle> = HashMap::new();
        let mut tasks = JoinSet::new();
        let rediscover = Arc::new(Notify::new());
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
        loop {
            match client.preferred_resources().await {
                Ok((resources, stale)) => {
                    backoff.reset();
                    let retry = !stale.is_empty();
                    self.take_up(&client, resources, stale, &mut feeds, &mut tasks, &rediscover);
                    if retry {
                        let delay = Duration::from_secs(10);
                        let _ = tokio::time::timeout(delay, rediscover.notified()).await;
                    } else {
                        rediscover.notified().await;
                    }
                    tokio::time::sleep(SETTLE).await;
                }
                Err(error) => {
                    warn!("cannot discover the server's resources: {error}");
                    tokio::time::sleep(backoff.next(SystemRandom.fraction())).await;
                }
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    fn take_up(
        self: &Arc<Self>,
        client: &Client,
        resources: Vec<ApiResource>,
        stale: Vec<String>,
        feeds: &mut HashMap<Gvr, tokio::task::AbortHandle>,
        tasks: &mut JoinSet<()>,
        rediscover: &Arc<Notify>,
    ) {
        let preferred = preferred(&resources);
        let deletable = resources.into_iter().filter(|r| r.has_verbs(&["delete", "list"]));
        let (followed, unfollowed): (Vec<_>, Vec<_>) = deletable.partition(is_followed);
        let mut state = self.state.write();
        state.resources.retain(|gvr, _| {
            // What a server cannot serve now is not gone.
            let keep =
                followed.iter().any(|r| r.gvr == *gvr) || stale.contains(&format!("{}/{}", gvr.group, gvr.version));
            if !keep && let Some(feed) = feeds.remove(gvr) {
                feed.abort();
            }
            keep
        });
        for resource in followed {
            if state.resources.contains_key(&resource.gvr) {
                continue;
            }
            let informer = Informer::metadata(client.clone(), &resource.gvr, ListOptions::default());
            let store = informer.index(OWNERS, owner_uids).spawn();
            let resource = Arc::new(resource);
            let feed = tasks.spawn(self.clone().feed(resource.clone(), store.clone(), rediscover.clone()));
            feeds.insert(resource.gvr.clone(), feed);
            state.resources.insert(resource.gvr.clone(), Entry { resource, store });
        }
        (state.unfollowed, state.stale, state.discovered) = (unfollowed, stale, true);
        state.preferred = preferred;
    }

    /// Passes the changes of one resource on.
    async fn feed(self: Arc<Self>, resource: Arc<ApiResource>, store: Store<PartialMetadata>, rediscover: Arc<Notify>) {
        let defines_resources = matches!(resource.gvr.resource.as_str(), "customresourcedefinitions" | "apiservices");
        let mut subscription = store.subscribe();
        let mut first = true;
        loop {
            let (changes, missed) = match subscription.changed().await {
                Changes::Batch(changes) => (changes, false),
                Changes::Resync => {
                    (store.list().into_iter().map(|o| Change { old: None, new: Some(o) }).collect(), true)
                }
            };
            if defines_resources && !std::mem::take(&mut first) {
                rediscover.notify_one();
            }
            let listeners = self.listeners.lock().clone();
            let missed = missed.then_some(Seen::Missed).into_iter();
            for seen in missed.chain(changes.iter().map(Seen::Change)) {
                listeners.iter().for_each(|listener| listener(&resource, seen));
            }
        }
    }

    /// An inventory that a test fills.
    #[cfg(test)]
    pub(crate) fn for_test(
        resources: impl IntoIterator<Item = ApiResource>,
    ) -> (Arc<Self>, HashMap<String, kybern_client::StoreWriter<PartialMetadata>>) {
        let inventory = Self::default();
        let mut writers = HashMap::new();
        {
            let mut state = inventory.state.write();
            state.discovered = true;
            let resources: Vec<ApiResource> = resources.into_iter().collect();
            state.preferred = preferred(&resources);
            for resource in resources {
                let (store, writer) = Store::new([(OWNERS, owner_uids as IndexFn<_>)]);
                writer.replace([], "1");
                writers.insert(resource.gvr.resource.clone(), writer);
                let gvr = resource.gvr.clone();
                if is_followed(&resource) {
                    state.resources.insert(gvr, Entry { resource: Arc::new(resource), store });
                } else {
                    state.unfollowed.push(resource);
                }
            }
        }
        (Arc::new(inventory), writers)
    }
}
