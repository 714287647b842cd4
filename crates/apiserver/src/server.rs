//! The server: everything a request needs, put together once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kybern_apimachinery::time::{Clock, SystemClock};
use kybern_apimachinery::{GroupVersion, Value};
use kybern_storage::{Storage, StorageError};
use parking_lot::Mutex;
use tokio::task::AbortHandle;

use crate::access::{Authenticator, Authorizer, CredentialHeaders};
use crate::admission::{AdmissionChain, AdmissionPlugin};
use crate::audit::Audit;
use crate::cache::{Cache, KindCache};
use crate::connect::Observer;
use crate::contention::Turns;
use crate::discovery::Discovery;
use crate::flow::Flow;
use crate::health::Checks;
use crate::in_flight::InFlight;
use crate::metrics::Metrics;
use crate::openapi::Documents;
use crate::registrations::Registrations;
use crate::resource::{Resource, StoredKind};
use crate::resources::ResourceTable;
use crate::respond;
use crate::routes::{PrefixRoutes, Route};
use crate::strategy::Features;

/// What a server is made of. Lists are asked in order.
pub struct Options {
    pub storage: Arc<dyn Storage>,
    pub resources: Vec<Resource>,
    pub authenticators: Vec<Arc<dyn Authenticator>>,
    pub authorizers: Vec<Arc<dyn Authorizer>>,
    pub admission: Vec<Arc<dyn AdmissionPlugin>>,
    pub observers: Vec<Arc<dyn Observer>>,
    /// `None`: nothing is recorded.
    pub audit: Option<Arc<Audit>>,
    /// By exact path.
    pub routes: Vec<(String, Arc<dyn Route>)>,
    /// How the groups and versions of built-in kinds are ranked among those of others.
    pub priorities: fn(&str, &str) -> Option<(i64, i64)>,
    /// The body of `/version`.
    pub version: Value,
    pub clock: Arc<dyn Clock>,
    pub features: Features,
    /// Requests that read, served at once, without those that last (watches, exec); more are answered 429. Zero: no bound.
    pub max_requests_in_flight: usize,
    /// The same of requests that write.
    pub max_mutating_requests_in_flight: usize,
    /// Whether the sum of both is shared out by flow schemas and priority levels.
    pub priority_and_fairness: bool,
    /// After this a request that does not last is answered 504.
    pub request_timeout: Duration,
    /// How long `/healthz` and `/livez` wait for the store, and `/readyz`.
    pub health_timeout: Duration,
    pub readiness_timeout: Duration,
}

impl Options {
    /// A server with no kinds that lets nobody in.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self {
            storage,
            resources: Vec::new(),
            authenticators: Vec::new(),
            authorizers: Vec::new(),
            admission: Vec::new(),
            observers: Vec::new(),
            audit: None,
            routes: Vec::new(),
            priorities: |_, _| None,
            version: Value::Null,
            clock: Arc::new(SystemClock),
            features: Features::default(),
            max_requests_in_flight: 400,
            max_mutating_requests_in_flight: 200,
            priority_and_fairness: false,
            request_timeout: Duration::from_secs(60),
            health_timeout: Duration::from_secs(2),
            readiness_timeout: Duration::from_secs(2),
        }
    }
}

/// The rows that are served, and what is made of them.
pub(crate) struct Served {
    pub(crate) table: ResourceTable,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: Documents,
}

impl Served {
    fn new(table: ResourceTable) -> Self {
        Self { discovery: Discovery::default(), openapi: Documents::default(), table }
    }
}

/// Why rows were not taken.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error(
        "{0:?} is no group of custom resources: it has no dot, and could be taken for a resource of the core group"
    )]
    NoDomain(String),
    #[error("{row} is no row of the group {group:?} that stores its objects below the group's name")]
    Foreign { group: String, row: String },
    #[error("the stored objects cannot be read: {0}")]
    Storage(#[from] StorageError),
}

/// See the module.
pub struct Server {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) served: ArcSwap<Served>,
    /// Held while rows are replaced.
    replacing: tokio::sync::Mutex<()>,
    pub(crate) turns: Turns,
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    /// What the authenticators read, and nobody further on may.
    pub(crate) credential_headers: Vec<CredentialHeaders>,
    pub(crate) authorizers: Vec<Arc<dyn Authorizer>>,
    pub(crate) admission: AdmissionChain,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) routes: Vec<(String, Arc<dyn Route>)>,
    pub(crate) version: Value,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) features: Features,
    pub(crate) priorities: fn(&str, &str) -> Option<(i64, i64)>,
    /// Other servers' groups and versions, and what else is routed by prefix.
    pub(crate) prefixes: PrefixRoutes,
    pub(crate) registrations: Registrations,
    pub(crate) in_flight: InFlight,
    pub(crate) flow: Option<Arc<Flow>>,
    pub(crate) request_timeout: Duration,
    pub(crate) health_timeout: Duration,
    pub(crate) readiness_timeout: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) checks: Checks,
    /// What goes on for as long as the server is there, such as what feeds the cache.
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.lock().iter().for_each(AbortHandle::abort);
    }
}

impl Server {
    /// Loads every stored kind, shows observers every object, and starts to follow the store. Must be called within a
    /// tokio runtime. When this answers, requests are served.
    pub async fn start(options: Options) -> Result<Arc<Self>, StorageError> {
        let cache = Cache::new(options.storage.clone());
        for observer in options.observers {
            cache.add_observer(observer);
        }
        let capacity = options.max_requests_in_flight + options.max_mutating_requests_in_flight;
        let flow = options.priority_and_fairness.then(|| Flow::new(capacity, options.request_timeout));
        if let Some(flow) = &flow {
            cache.add_observer(flow.clone());
        }
        let table = ResourceTable::new(options.resources);
        let from = cache.load(&stored_kinds(table.rows())).await?;
        let served = Served::new(table);
        let server = Arc::new(Self {
            storage: options.storage,
            cache: cache.clone(),
            served: ArcSwap::from_pointee(served),
            replacing: Default::default(),
            turns: Turns::default(),
            credential_headers: options.authenticators.iter().map(|a| a.credential_headers()).collect(),
            authenticators: options.authenticators,
            authorizers: options.authorizers,
            admission: AdmissionChain::new(&options.admission),
            audit: options.audit,
            routes: options.routes,
            version: options.version,
            clock: options.clock,
            features: options.features,
            priorities: options.priorities,
            prefixes: PrefixRoutes::default(),
            registrations: Registrations::default(),
            in_flight: InFlight::new(options.max_requests_in_flight, options.max_mutating_requests_in_flight),
            flow,
            request_timeout: options.request_timeout,
            health_timeout: options.health_timeout,
            readiness_timeout: options.readiness_timeout,
            metrics: Metrics::default(),
            checks: Checks::default(),
            tasks: Mutex::default(),
        });
        server.metrics.register(|registry| server.admission.register(registry));
        if let Some(audit) = &server.audit {
            server.metrics.register(|registry| audit.register(registry));
        }
        if let Some(flow) = &server.flow {
            server.metrics.register(|registry| flow.register(registry));
        }
        let checks = server.checks.clone();
        let follower = tokio::spawn(async move {
            let told = checks.clone();
            let on_failure = move |error: Option<&StorageError>| match error {
                Some(error) => told.fail("etcd", error.to_string()),
                None => told.pass("etcd"),
            };
            let error = cache.follow(from, on_failure).await;
            tracing::error!(%error, "the watch cache no longer follows the store");
            checks.fail("etcd", error.to_string());
        });
        server.ends_with_it(follower.abort_handle());
        server.cache.catch_up().await?;
        let served = server.served.load();
        let stored = served.table.rows().filter(|row| row.api_version() == row.stored.gvk.api_version());
        let kinds = stored.filter_map(|row| Some((row.clone(), server.cache.kind(&row.stored.prefix)?))).collect();
        server.ends_with_it(tokio::spawn(respond::ahead::measure(kinds)).abort_handle());
        drop(served);
        Ok(server)
    }

    /// Serves these rows of these groups from now on, besides those that the server was started with: such as when a custom
    /// resource is defined or removed. Rows that are given again, and their kinds' watchers, are not disturbed. A watch of a
    /// row that is replaced or gone ends; a kind that no row names any more is forgotten, though its objects stay in the
    /// store. Callers follow one another.
    pub async fn replace_groups(&self, groups: Vec<(String, Vec<Arc<Resource>>)>) -> Result<(), RowsError> {
        for (group, rows) in &groups {
            if !group.contains('.') {
                return Err(RowsError::NoDomain(group.clone()));
            }
            let foreign = |row: &&Arc<Resource>| {
                let own = row.stored.prefix.strip_prefix(group.as_str()).and_then(|rest| rest.strip_prefix('/'));
                row.gvr.group != *group || own.is_none_or(|resource| resource != row.gvr.resource)
            };
            if let Some(row) = rows.iter().find(foreign) {
                return Err(RowsError::Foreign { group: group.clone(), row: row.gvr.to_string() });
            }
        }
        let _replacing = self.replacing.lock().await;
        let served = self.served.load_full();
        let table = served.table.with(&groups);
        let rows_of = |table: &ResourceTable| -> Vec<Arc<Resource>> {
            groups.iter().filter_map(|(name, _)| table.group(name)).flat_map(|g| g.rows().cloned()).collect()
        };
        let (before, after) = (rows_of(&served.table), rows_of(&table));
        let kinds = stored_kinds(&after);
        self.cache.add(&kinds).await?;
        self.served.store(Arc::new(Served::new(table)));
        // Whoever subscribes from here on finds that its row is another, if it is.
        let stays: HashSet<*const Resource> = after.iter().map(Arc::as_ptr).collect();
        let changed = before.iter().filter(|row| !stays.contains(&Arc::as_ptr(row)));
        let changed: HashSet<&str> = changed.map(|row| row.stored.prefix.as_str()).collect();
        let kept: HashSet<&str> = kinds.iter().map(|kind| kind.prefix.as_str()).collect();
        self.cache.end_watchers(&changed);
        self.cache.forget(&changed.difference(&kept).copied().collect());
        Ok(())
    }

    /// Ends a task when the server ends.
    pub(crate) fn ends_with_it(&self, task: AbortHandle) {
        self.tasks.lock().push(task);
    }

    /// What time it is to the server.
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// What `/` lists: the paths that are served.
    pub(crate) fn paths(&self) -> Vec<String> {
        let served = self.served.load();
        let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
        for group in served.table.groups().iter().filter(|g| !g.name.is_empty()) {
            paths.push(format!("/apis/{}", group.name));
            paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{}", group.name, version.name)));
        }
        for (group, versions) in self.registrations.remotes() {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|listed| format!("/apis/{group}/{}", listed.version)));
        }
        let rest = ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"];
        paths.extend(rest.map(str::to_owned));
        paths.extend(self.routes.iter().map(|(path, _)| path.clone()));
        paths.sort();
        paths.dedup();
        paths
    }

    /// What is routed by prefix; may change while the server runs.
    pub fn prefixes(&self) -> &PrefixRoutes {
        &self.prefixes
    }

    /// What APIServices say of groups and versions; may change while the server runs.
    pub fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    /// The groups and versions of built-in kinds that are served.
    pub fn own_versions(&self) -> Vec<GroupVersion> {
        let served = self.served.load();
        let built_in = served.table.groups().iter().filter(|group| group.is_built_in());
        let versions =
            built_in.flat_map(|group| group.versions.iter().map(|v| GroupVersion::new(&*group.name, &v.name)));
        versions.collect()
    }

    /// Health and readiness; components may hold `/readyz` back.
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// The server's metrics, to which other parts of the program may add theirs.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The objects of a resource's stored kind.
    pub(crate) fn kind(&self, resource: &Resource) -> Result<Arc<KindCache>, kybern_apimachinery::ApiError> {
        self.cache.kind(&resource.stored.prefix).ok_or_else(|| {
            // It was served a moment ago.
            kybern_apimachinery::ApiError::no_such_path()
        })
    }

    /// The row of a resource's stored version.
    pub(crate) fn row(&self, group: &str, resource: &str) -> Result<Arc<Resource>, kybern_apimachinery::ApiError> {
        let served = self.served.load();
        served.table.stored(group, resource).cloned().ok_or_else(kybern_apimachinery::ApiError::no_such_path)
    }
}

/// Every stored kind of rows, once.
fn stored_kinds<'a>(rows: impl IntoIterator<Item = &'a Arc<Resource>>) -> Vec<Arc<StoredKind>> {
    let mut seen = HashSet::new();
    let stored = rows.into_iter().filter(|r| r.unstored.is_none()).map(|row| &row.stored);
    stored.filter(|kind| seen.insert(kind.prefix.as_str())).cloned().collect()
}
