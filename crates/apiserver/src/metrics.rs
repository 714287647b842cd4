//! Metrics under upstream's names.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use kybern_apimachinery::{ApiError, GroupResource};
use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::cache::Cache;
use crate::request_info::RequestInfo;
use crate::resources::ResourceTable;
use crate::{Body, body};

/// Of one program there is one component.
const COMPONENT: &str = "apiserver";

/// What a request is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    #[prometheus(flatten)]
    of: OfLabels,
    dry_run: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    #[prometheus(flatten)]
    of: DurationLabels,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupResourceLabels {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

/// What one kind of requests is counted by. The metrics of equal labels, found without making labels.
struct Counted {
    labels: RequestLabels,
    requests: Counter,
    /// Of those that do not last.
    durations: Option<Histogram>,
}

/// See the module.
pub struct Metrics {
    registry: Arc<RwLock<Registry>>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    /// By the hash of their labels.
    counted: RwLock<HashMap<u64, Counted>>,
    hasher: RandomState,
    objects: Family<ResourceLabels, Gauge>,
    objects_by_group: Family<GroupResourceLabels, Gauge>,
    long_running: Family<OfLabels, Gauge>,
    storage_bytes: Gauge,
    in_flight: Family<InFlightLabels, Gauge>,
}

const BUCKETS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

impl OfLabels {
    fn is(&self, of: &Of<'_>) -> bool {
        let Self { verb, group, version, resource, subresource, scope, component: _ } = self;
        *of == Of { verb, group, version, resource, subresource, scope }
    }
}

/// A request that lasts, counted as long as this is held.
pub(crate) struct LongRunning(Gauge);

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// [`OfLabels`] before they are made.
#[derive(PartialEq, Eq, Hash)]
struct Of<'a> {
    verb: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    scope: &'static str,
}

impl<'a> Of<'a> {
    fn new(table: &ResourceTable, info: &'a RequestInfo) -> Self {
        let verb = match info.verb {
            _ if info.resource_request && connects(&info.subresource) => "CONNECT",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "create" | "post" => "POST",
            "update" | "put" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            _ => "other",
        };
        // What nobody serves must not make labels without bound.
        let row = table.get(&info.group, &info.version, &info.resource);
        let text = |text: &'a str, known| if known { text } else { "" };
        let served = row.is_some();
        let subresource = row.is_some_and(|row| row.subresource(&info.subresource).is_some());
        let scope = match (info.resource_request, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        Self {
            verb,
            group: text(&info.group, served),
            version: text(&info.version, served),
            resource: text(&info.resource, served),
            subresource: text(&info.subresource, subresource),
            scope,
        }
    }

    fn labels(&self) -> OfLabels {
        OfLabels {
            verb: self.verb,
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            resource: self.resource.to_owned(),
            subresource: self.subresource.to_owned(),
            scope: self.scope,
            component: COMPONENT,
        }
    }
}

/// Whether a subresource is a connection to a pod, a Service or a node.
fn connects(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward" | "proxy")
}

impl Counted {
    fn count(&self, lasted: Option<Duration>) {
        self.requests.inc();
        if let (Some(durations), Some(lasted)) = (&self.durations, lasted) {
            durations.observe(lasted.as_secs_f64());
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let (objects, objects_by_group, long_running) = (Family::default(), Family::default(), Family::default());
        let (storage_bytes, in_flight) = (Gauge::default(), Family::default());
        // The encoder adds `_total` itself.
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Response latency in seconds", durations.clone());
        registry.register("apiserver_storage_objects", "Stored objects by resource", objects.clone());
        registry.register(
            "apiserver_resource_objects",
            "Stored objects by group and resource",
            objects_by_group.clone(),
        );
        let help = "Watches, logs, exec and other requests that last, under way";
        registry.register("apiserver_longrunning_requests", help, long_running.clone());
        registry.register("apiserver_storage_size_bytes", "Size of the store in bytes", storage_bytes.clone());
        registry.register("apiserver_current_inflight_requests", "Requests being served", in_flight.clone());
        kybern_component_base::listener::register(&mut registry);
        Self {
            registry: Arc::new(RwLock::new(registry)),
            requests,
            durations,
            counted: RwLock::default(),
            hasher: RandomState::new(),
            objects,
            objects_by_group,
            long_running,
            storage_bytes,
            in_flight,
        }
    }
}

impl Metrics {
    /// Lets another part of the program add its metrics.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.write());
    }

    /// Counts a request that lasts.
    pub(crate) fn long_running(&self, table: &ResourceTable, info: &RequestInfo) -> LongRunning {
        let gauge = self.long_running.get_or_create_owned(&Of::new(table, info).labels());
        gauge.inc();
        LongRunning(gauge)
    }

    pub(crate) fn request(
        &self,
        table: &ResourceTable,
        info: &RequestInfo,
        is_dry: bool,
        code: StatusCode,
        duration: Duration,
    ) {
        let of = Of::new(table, info);
        let dry_run = if is_dry { "All" } else { "" };
        let code = code.as_u16();
        let lasted = (!info.is_long_running()).then_some(duration);
        let hash = self.hasher.hash_one((&of, dry_run, code, lasted.is_some()));
        if let Some(known) = self.counted.read().get(&hash)
            && known.labels.of.of.is(&of)
            && (known.labels.of.dry_run, known.labels.code) == (dry_run, code)
        {
            return known.count(lasted);
        }
        let labels = RequestLabels { of: DurationLabels { of: of.labels(), dry_run }, code };
        let requests = self.requests.get_or_create_owned(&labels);
        let durations = lasted.map(|_| self.durations.get_or_create_owned(&labels.of));
        let counted = Counted { labels, requests, durations };
        counted.count(lasted);
        self.counted.write().insert(hash, counted);
    }

    pub(crate) fn serve(
        &self,
        cache: &Cache,
        size: Option<kybern_storage::Size>,
        [reading, writing]: [usize; 2],
    ) -> Response<Body> {
        for cache in cache.kinds() {
            let resource = GroupResource::new(&cache.kind.gvk.group, &cache.kind.resource).to_string();
            self.objects.get_or_create(&ResourceLabels { resource }).set(cache.len() as i64);
            let (group, resource) = (cache.kind.gvk.group.clone(), cache.kind.resource.clone());
            self.objects_by_group.get_or_create(&GroupResourceLabels { group, resource }).set(cache.len() as i64);
        }
        if let Some(size) = size {
            self.storage_bytes.set(size.bytes as i64);
        }
        for (request_kind, requests) in [("readOnly", reading), ("mutating", writing)] {
            self.in_flight.get_or_create(&InFlightLabels { request_kind }).set(requests as i64);
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry.read()) {
            Ok(()) => {
                body::response(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
            Err(error) => body::error(&ApiError::internal(error)),
        }
    }
}
