//! Aggregation (`k8s.io/kube-aggregator`): APIServices say which server has a group's version. Those of this server's own
//! groups and of custom resources are made and removed here; those of other servers are routed to them, watched for whether
//! they are available, and become part of discovery and OpenAPI.

mod api_service;
mod availability;
mod backend;
mod discovery;
mod metrics;
mod priorities;
mod registering;
mod route;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use kybern_apimachinery::{ApiError, Reason, Value};
use kybern_apiserver::connect::Observer;
use kybern_apiserver::registrations::{Registration, Remote};
use kybern_apiserver::{PrefixRoute, Server};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::service_addresses::{Routing, ServiceAddresses};
use crate::tree::{flag, list, text};
use api_service::{ApiService, Condition};
pub use backend::Locate;
use backend::{Connections, ProxyIdentity};
pub use priorities::priorities;
use registering::{Registering, Wanted};
use route::Route;
use worker::Worker;

const GROUP: &str = "apiregistration.k8s.io";
const RESOURCE: &str = "apiservices";
/// After this, what could not be written is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// APIServices that are written at once when a server starts, so that they share commits.
const PARALLEL: usize = 64;

/// How other servers are reached.
pub struct AggregationOptions {
    /// Files of the certificate and key by which they recognize this server.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub locate: Locate,
    /// Whether an answer that leads elsewhere is kept from clients.
    pub rejects_redirects: bool,
    pub built_in: Vec<BuiltIn>,
}

/// A version of a group that this server answers for without storing anything, unless an APIService names a server for it.
pub struct BuiltIn {
    pub group: &'static str,
    pub version: &'static str,
    /// Of the group, and of the version in it.
    pub priorities: (i64, i64),
    /// As in aggregated discovery.
    pub resources: Value,
    pub route: Arc<dyn PrefixRoute>,
}

impl BuiltIn {
    fn name(&self) -> String {
        format!("{}.{}", self.version, self.group)
    }

    fn serve(&self, server: &Server) {
        let (group_priority, version_priority) = self.priorities;
        let discovery = discovery::entry(self.version, self.resources.clone(), true);
        let remote = Remote { route: self.route.clone(), discovery, openapi_v2: None, openapi_v3: None };
        let registration = Registration { group_priority, version_priority, remote: Some(remote) };
        server.registrations().set(self.group, self.version, Some(registration));
        server.prefixes().set(&format!("/apis/{}/{}", self.group, self.version), Some(self.route.clone()));
    }
}

/// What there is of APIServices, and of what concerns them.
#[derive(Clone, Default)]
pub struct Aggregation(Arc<Shared>);

#[derive(Default)]
struct Shared {
    addresses: Arc<ServiceAddresses>,
    metrics: metrics::Metrics,
    state: Mutex<State>,
    /// Told of changes, and of the end.
    changed: Arc<Notify>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

#[derive(Default)]
struct State {
    services: BTreeMap<String, Arc<ApiService>>,
    /// Names of those behind a Service, by its namespace and name.
    behind: HashMap<(String, String), BTreeSet<String>>,
    /// The group and served versions of every definition of custom resources.
    definitions: HashMap<String, (String, Vec<String>)>,
    /// How many definitions serve a group's version, by the APIService's name.
    custom: HashMap<String, usize>,
    /// Those to be looked at; `true`: its server, too.
    dirty: BTreeMap<String, bool>,
}

impl State {
    fn service_changed(&mut self, name: &str, object: Option<&Value>) {
        let before = match object {
            Some(object) => self.services.insert(name.to_owned(), Arc::new(ApiService::read(object))),
            None => self.services.remove(name),
        };
        let place = |service: &ApiService| service.backend.as_ref().map(|b| (b.namespace.clone(), b.name.clone()));
        if let Some(place) = before.and_then(|service| place(&service))
            && let Some(names) = self.behind.get_mut(&place)
        {
            names.remove(name);
            if names.is_empty() {
                self.behind.remove(&place);
            }
        }
        if let Some(place) = self.services.get(name).and_then(|service| place(service)) {
            self.behind.entry(place).or_default().insert(name.to_owned());
        }
        self.dirty.entry(name.to_owned()).or_default();
    }

    fn definition_changed(&mut self, name: &str, object: Option<&Value>) {
        let served = object.map(|object| {
            let spec = &object["spec"];
            let versions = list(spec, "versions").iter().filter(|version| flag(version, "served"));
            let versions: Vec<String> = versions.map(|version| text(version, "name").to_owned()).collect();
            (text(spec, "group").to_owned(), versions)
        });
        let before = match served.clone() {
            Some(served) => self.definitions.insert(name.to_owned(), served),
            None => self.definitions.remove(name),
        };
        if before == served {
            return;
        }
        let names = |served: &Option<(String, Vec<String>)>| -> Vec<String> {
            let (group, versions) = served.clone().unwrap_or_default();
            versions.into_iter().map(|version| format!("{version}.{group}")).collect()
        };
        for name in names(&served) {
            *self.custom.entry(name.clone()).or_default() += 1;
            self.dirty.entry(name).or_default();
        }
        for name in names(&before) {
            if let Some(count) = self.custom.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    self.custom.remove(&name);
                }
            }
            self.dirty.entry(name).or_default();
        }
    }
}

impl Observer for Shared {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, RESOURCE), ("apiextensions.k8s.io", "customresourcedefinitions")]
    }

    fn changed(&self, _: &str, resource: &str, _: &str, name: &str, object: Option<&Value>) {
        let mut state = self.state.lock();
        match resource {
            RESOURCE => state.service_changed(name, object),
            _ => state.definition_changed(name, object),
        }
        drop(state);
        self.changed.notify_one();
    }
}

impl Shared {
    /// Whether an APIService is, as the store has it.
    fn is_available(&self, name: &str) -> bool {
        self.state.lock().services.get(name).is_some_and(|service| service.condition.is_true())
    }

    fn look_behind(&self, namespace: &str, name: &str) {
        let mut state = self.state.lock();
        let Some(names) = state.behind.get(&(namespace.to_owned(), name.to_owned())).cloned() else { return };
        state.dirty.extend(names.into_iter().map(|name| (name, true)));
        drop(state);
        self.changed.notify_one();
    }

    fn again(&self, name: &str) {
        self.state.lock().dirty.entry(name.to_owned()).or_default();
        self.changed.notify_one();
    }
}

impl Aggregation {
    pub fn new(addresses: Arc<ServiceAddresses>) -> Self {
        let (metrics, state, changed) = Default::default();
        Self(Arc::new(Shared { addresses, metrics, state, changed }))
    }

    /// What shows it the objects that it has to know.
    pub fn observers(&self) -> [Arc<dyn Observer>; 2] {
        [self.0.clone(), self.0.addresses.clone()]
    }

    /// How a Service is called.
    pub fn locate(&self, routing: Routing) -> Locate {
        let addresses = self.0.addresses.clone();
        Arc::new(move |namespace, name, port| addresses.locate(namespace, name, port, routing))
    }

    /// Registers what this server serves itself, routes to other servers what they serve, and follows both for as long as the
    /// server is there.
    pub async fn start(&self, server: &Arc<Server>, options: AggregationOptions) {
        let told = Arc::downgrade(&self.0);
        self.0.addresses.listen(move |namespace, name| {
            told.upgrade().inspect(|shared| shared.look_behind(namespace, name));
        });
        server.metrics().register(|registry| self.0.metrics.register(registry));
        let (existing, custom): (BTreeSet<String>, Vec<String>) = {
            let state = self.0.state.lock();
            (state.services.keys().cloned().collect(), state.custom.keys().cloned().collect())
        };
        let own = server.own_versions().into_iter().filter_map(|of| {
            let priorities = priorities(&of.group, &of.version)?;
            Some((format!("{}.{}", of.version, of.group), Wanted::on_start(of, priorities)))
        });
        let registering = Arc::new(Registering::new(own.collect(), existing.clone()));
        let built_in = options.built_in.iter().map(BuiltIn::name);
        let names = registering.own_names().into_iter().chain(custom).chain(existing).chain(built_in);
        let names: BTreeSet<String> = names.collect();
        let (shared, own_server) = (Arc::downgrade(&self.0), Arc::downgrade(server));
        let mut controller = Controller { shared, server: own_server, options, registering, remotes: HashMap::new() };
        stream::iter(&names).for_each_concurrent(PARALLEL, |name| controller.register(&self.0, server, name)).await;
        for name in &names {
            controller.follow(&self.0, server, name, false).await;
        }
        for check in CHECKS {
            server.checks().pass(check);
        }
        tokio::spawn(controller.run(self.0.changed.clone()));
    }
}

/// What `/readyz` tells of it.
const CHECKS: [&str; 9] = [
    "autoregister-completion",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "poststarthook/start-kube-aggregator-informers",
];

/// The task of another server's APIService.
struct Followed {
    worker: Arc<Worker>,
    task: AbortHandle,
    path: String,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Controller {
    shared: Weak<Shared>,
    server: Weak<Server>,
    options: AggregationOptions,
    registering: Arc<Registering>,
    /// By the APIService's name.
    remotes: HashMap<String, Followed>,
}

impl Controller {
    async fn run(mut self, changed: Arc<Notify>) {
        loop {
            while let (Some(shared), Some(server)) = (self.shared.upgrade(), self.server.upgrade()) {
                let Some((name, look)) = shared.state.lock().dirty.pop_first() else { break };
                self.register(&shared, &server, &name).await;
                self.follow(&shared, &server, &name, look).await;
            }
            if self.shared.strong_count() == 0 || self.server.strong_count() == 0 {
                return;
            }
            changed.notified().await;
        }
    }

    /// Brings an APIService about that this server keeps.
    async fn register(&self, shared: &Arc<Shared>, server: &Arc<Server>, name: &str) {
        let (current, custom) = {
            let state = shared.state.lock();
            (state.services.get(name).cloned(), state.custom.contains_key(name))
        };
        if let Err(error) = self.registering.sync(server, name, current.as_deref(), custom).await {
            tracing::warn!(%error, apiservice = name, "it is registered again in a moment");
            let (shared, name) = (self.shared.clone(), name.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(RETRY_AFTER).await;
                shared.upgrade().inspect(|shared| shared.again(&name));
            });
        }
    }

    /// Serves what an APIService says, as it is now.
    async fn follow(&mut self, shared: &Arc<Shared>, server: &Arc<Server>, name: &str, look: bool) {
        let service = shared.state.lock().services.get(name).cloned();
        let built_in = self.options.built_in.iter().find(|built_in| built_in.name() == name);
        let Some(service) = service else {
            self.remotes.remove(name).inspect(|followed| server.prefixes().set(&followed.path, None));
            if let Some(built_in) = built_in {
                built_in.serve(server);
            } else if let Some((version, group)) = name.split_once('.') {
                server.registrations().set(group, version, None);
            }
            shared.metrics.forget(name);
            return;
        };
        // What registers all others is nobody else's, whatever somebody registers.
        let backend = service.backend.clone().filter(|_| service.group != GROUP);
        let Some(backend) = backend else {
            self.remotes.remove(name).inspect(|followed| server.prefixes().set(&followed.path, None));
            let (group_priority, version_priority) = (service.group_priority, service.version_priority);
            let local = Registration { group_priority, version_priority, remote: None };
            server.registrations().set(&service.group, &service.version, Some(local));
            built_in.inspect(|built_in| built_in.serve(server));
            shared.metrics.condition(name, &Condition::local());
            if service.condition != Condition::local() && service.backend.is_none() {
                self.mark_local(shared, server, name).await;
            }
            return;
        };
        if let Some(followed) = self.remotes.get(name) {
            let of = &followed.worker.service;
            let same = of.uid == service.uid
                && of.backend == service.backend
                && (of.group_priority, of.version_priority) == (service.group_priority, service.version_priority);
            if same {
                if look || followed.worker.written.lock().as_ref() != Some(&service.condition) {
                    followed.worker.changed.notify_one();
                }
                return;
            }
        }
        let identity: &ProxyIdentity = &self.options.identity;
        let connections = Connections::new(&backend, identity, self.options.locate.clone()).map(Arc::new);
        let route: Arc<dyn PrefixRoute> = Arc::new(Route {
            name: name.to_owned(),
            shared: self.shared.clone(),
            connections: connections.clone(),
            rejects_redirects: self.options.rejects_redirects,
        });
        let worker = Arc::new(Worker {
            service: ApiService::clone(&service),
            backend,
            connections,
            route: route.clone(),
            shared: self.shared.clone(),
            server: self.server.clone(),
            changed: Notify::new(),
            written: Mutex::default(),
        });
        let remote = Remote {
            route: route.clone(),
            discovery: discovery::entry(&service.version, Value::Null, false),
            openapi_v2: None,
            openapi_v3: None,
        };
        let (group_priority, version_priority) = (service.group_priority, service.version_priority);
        let registration = Registration { group_priority, version_priority, remote: Some(remote) };
        server.registrations().set(&service.group, &service.version, Some(registration));
        server.prefixes().set(&service.path(), Some(route));
        let task = tokio::spawn(worker.clone().run()).abort_handle();
        self.remotes.insert(name.to_owned(), Followed { worker, task, path: service.path() });
    }

    /// What is this server's own is always available.
    async fn mark_local(&self, shared: &Arc<Shared>, server: &Arc<Server>, name: &str) {
        let now = server.now();
        let change = |object: &mut Value| {
            if ApiService::read(object).backend.is_none() {
                Condition::local().set(object, now);
            }
            Ok(())
        };
        let written: Result<u64, ApiError> = server.update_part(GROUP, RESOURCE, "", name, "status", &change).await;
        if let Err(error) = written
            && error.reason() != Reason::NotFound
        {
            tracing::warn!(%error, apiservice = name, "its availability cannot be written");
            let (shared, name) = (Arc::downgrade(shared), name.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(RETRY_AFTER).await;
                shared.upgrade().inspect(|shared| shared.again(&name));
            });
        }
    }
}
