//! One task for each APIService of another server: it looks whether the server is there, and reads what it says of itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::StatusCode;
use kybern_apimachinery::{ApiError, Reason, Value};
use kybern_apiserver::registrations::{OpenApiPart, Registration, Remote};
use kybern_apiserver::{PrefixRoute, Server, openapi_part};
use kybern_schema::openapi::joined;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::api_service::{ApiService, Backend, Condition};
use super::backend::{Asked, Connections, user};
use super::{GROUP, RESOURCE, Shared, availability, discovery};

/// A network that fails tells nobody: so often is looked.
const RECHECK_AFTER: Duration = Duration::from_secs(30);
/// How soon after a failure, first and after many.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(30));
/// How old what a server said of itself may be.
const REREAD_AFTER: Duration = Duration::from_secs(60);
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(5);
const DOCUMENT_PATIENCE: Duration = Duration::from_secs(60);

/// Both forms of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

pub(super) struct Worker {
    pub(super) service: ApiService,
    pub(super) backend: Backend,
    pub(super) connections: Result<Arc<Connections>, String>,
    pub(super) route: Arc<dyn PrefixRoute>,
    pub(super) shared: Weak<Shared>,
    pub(super) server: Weak<Server>,
    /// Told when to look again.
    pub(super) changed: Notify,
    /// What it has written last.
    pub(super) written: Mutex<Option<Condition>>,
}

/// What the server has said of itself.
#[derive(Default)]
struct Said {
    read: Option<Instant>,
    was_available: bool,
    /// What was written of it, without the route.
    discovery: Value,
    discovery_etag: String,
    resources: Value,
    openapi_v2: Option<Arc<OpenApiPart>>,
    openapi_v2_etag: String,
    openapi_v3: Option<String>,
}

impl Worker {
    /// As long as the APIService is as it is.
    pub(super) async fn run(self: Arc<Self>) {
        let mut said = Said::default();
        let mut retry = RETRY_AFTER.0;
        loop {
            let Some(shared) = self.shared.upgrade() else { return };
            let condition =
                availability::check(&self.service, &self.backend, &shared.addresses, &self.connections).await;
            let failed = condition.reason == "FailedDiscoveryCheck";
            shared.metrics.condition(&self.service.name, &condition);
            drop(shared);
            let Some(server) = self.server.upgrade() else { return };
            if let Err(error) = self.write(&server, &condition).await {
                tracing::warn!(%error, apiservice = self.service.name, "its availability cannot be written");
            }
            self.read(&server, &mut said, condition.is_true()).await;
            drop(server);
            let pause = if failed { retry } else { RECHECK_AFTER };
            retry = if failed { (retry * 2).min(RETRY_AFTER.1) } else { RETRY_AFTER.0 };
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn write(&self, server: &Server, condition: &Condition) -> Result<(), ApiError> {
        *self.written.lock() = Some(condition.clone());
        let now = server.now();
        let change = |object: &mut Value| {
            // Another one, or one that means another server by now, has a worker of its own.
            let current = ApiService::read(object);
            if current.uid == self.service.uid && current.backend.as_ref() == Some(&self.backend) {
                condition.set(object, now);
            }
            Ok(())
        };
        match server.update_part(GROUP, RESOURCE, "", &self.service.name, "status", &change).await {
            Err(error) if error.reason() == Reason::NotFound => Ok(()),
            done => done.map(drop),
        }
    }

    /// Reads what the server says of itself, where that is due.
    async fn read(&self, server: &Server, said: &mut Said, available: bool) {
        let came_back = available && !said.was_available;
        said.was_available = available;
        if !came_back && said.read.is_some_and(|at| at.elapsed() < REREAD_AFTER) {
            return;
        }
        said.read = Some(Instant::now());
        let current = match self.discovery(said).await {
            Ok(resources) => {
                said.resources = resources;
                true
            }
            Err(cause) => {
                tracing::debug!(apiservice = self.service.name, cause, "its discovery cannot be read");
                (said.resources, said.discovery_etag) = (Value::Null, String::new());
                false
            }
        };
        let entry = discovery::entry(&self.service.version, said.resources.clone(), current);
        if current && !self.service.group.is_empty() {
            self.documents(said).await;
        }
        said.discovery = entry;
        self.register(server, said);
    }

    fn register(&self, server: &Server, said: &Said) {
        let remote = Remote {
            route: self.route.clone(),
            discovery: said.discovery.clone(),
            openapi_v2: said.openapi_v2.clone(),
            openapi_v3: said.openapi_v3.clone(),
        };
        let ApiService { group, version, group_priority, version_priority, .. } = &self.service;
        let registration =
            Registration { group_priority: *group_priority, version_priority: *version_priority, remote: Some(remote) };
        server.registrations().set(group, version, Some(registration));
    }

    /// The resources of its version.
    async fn discovery(&self, said: &mut Said) -> Result<Value, String> {
        let connections = self.connections.as_ref().map_err(Clone::clone)?;
        let ApiService { group, version, .. } = &self.service;
        let aggregator = user("system:kube-aggregator", &["system:masters"]);
        let asked = Asked {
            path: "/apis",
            accept: AGGREGATED,
            user: &aggregator,
            etag: &said.discovery_etag,
            patience: DISCOVERY_PATIENCE,
        };
        let answer = connections.document(asked).await?;
        let is_aggregated = answer.media.replace(' ', "").contains("as=APIGroupDiscoveryList");
        match answer.status {
            StatusCode::NOT_MODIFIED if !said.discovery_etag.is_empty() => return Ok(said.resources.clone()),
            StatusCode::SERVICE_UNAVAILABLE => return Err("it is unavailable".to_owned()),
            StatusCode::OK if is_aggregated => {
                let resources = discovery::of_aggregated(&answer.bytes, group, version)?;
                said.discovery_etag = answer.etag;
                return Ok(resources);
            }
            _ => {}
        }
        said.discovery_etag.clear();
        let (path, aggregator) = (self.service.discovery_path(), user("system:kube-aggregator", &[]));
        let asked = Asked {
            path: &path,
            accept: "application/json",
            user: &aggregator,
            etag: "",
            patience: DISCOVERY_PATIENCE,
        };
        let answer = connections.document(asked).await?;
        if answer.status != StatusCode::OK {
            return Err(format!("{path} answers {}", answer.status));
        }
        discovery::of_legacy(&answer.bytes)
    }

    /// Its OpenAPI; what cannot be read stays as it was.
    async fn documents(&self, said: &mut Said) {
        let Ok(connections) = &self.connections else { return };
        let aggregator = user("system:aggregator", &[]);
        let asked = |path, etag| Asked {
            path,
            accept: "application/json",
            user: &aggregator,
            etag,
            patience: DOCUMENT_PATIENCE,
        };
        let ApiService { group, version, .. } = &self.service;
        let known = said.openapi_v2_etag.clone();
        match connections.document(asked("/openapi/v2", &known)).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let (group, version) = (group.clone(), version.clone());
                // Of megabytes, perhaps: not where others wait.
                let read = tokio::task::spawn_blocking(move || {
                    let document: Value = serde_json::from_slice(&answer.bytes).ok()?;
                    let document = openapi_part(&document, &group, &version);
                    let hash = joined(&[&document.to_string()]);
                    Some((Arc::new(OpenApiPart { document, hash }), answer.etag))
                });
                if let Ok(Some((part, etag))) = read.await {
                    (said.openapi_v2, said.openapi_v2_etag) = (Some(part), etag);
                }
            }
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => {
                (said.openapi_v2, said.openapi_v2_etag) = (None, String::new());
            }
            _ => {}
        }
        match connections.document(asked("/openapi/v3", "")).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                let index: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
                let url = index["paths"][format!("apis/{group}/{version}")]["serverRelativeURL"].as_str();
                said.openapi_v3 = url.map(str::to_owned);
            }
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => said.openapi_v3 = None,
            _ => {}
        }
    }
}
