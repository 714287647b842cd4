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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
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
    watchers: Family<ResourceLabels, Gauge>,
    storage_bytes: Gauge,
    in_flight: Family<InFlightLabels, Gauge>,
}

const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 10.0, 60.0];

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
        let (objects, watchers) = (Family::default(), Family::default());
        let (storage_bytes, in_flight) = (Gauge::default(), Family::default());
        // The encoder adds `_total` itself.
        registry.register("apiserver_request", "Requests by verb, resource and code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Response latency in seconds", durations.clone());
        registry.register("apiserver_storage_objects", "Stored objects by resource", objects.clone());
        registry.register("apiserver_longrunning_requests", "Watchers by resource", watchers.clone());
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
            watchers,
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

    pub(crate) fn request(&self, table: &ResourceTable, info: &RequestInfo, code: StatusCode, duration: Duration) {
        let verb = match info.verb {
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
        let text = |text, known| if known { text } else { "" };
        let served = row.is_some();
        let subresource = row.is_some_and(|row| row.subresource(&info.subresource).is_some());
        let scope = match (info.resource_request, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let code = code.as_u16();
        let (group, version) = (text(info.group.as_str(), served), text(info.version.as_str(), served));
        let (resource, subresource) = (text(&info.resource, served), text(&info.subresource, subresource));
        let lasted = (!info.is_long_running()).then_some(duration);
        let hash = self.hasher.hash_one((verb, group, version, resource, subresource, scope, code, lasted.is_some()));
        if let Some(known) = self.counted.read().get(&hash) {
            let RequestLabels { verb: v, group: g, version: n, resource: r, subresource: s, scope: at, code: c } =
                &known.labels;
            if (*v, &**g, &**n, &**r, &**s, *at, *c) == (verb, group, version, resource, subresource, scope, code) {
                return known.count(lasted);
            }
        }
        let [group, version, resource, subresource] = [group, version, resource, subresource].map(str::to_owned);
        let labels = RequestLabels { verb, group, version, resource, subresource, scope, code };
        let RequestLabels { group, version, resource, subresource, .. } = labels.clone();
        let of_durations = DurationLabels { verb, group, version, resource, subresource, scope };
        let requests = self.requests.get_or_create_owned(&labels);
        let durations = lasted.map(|_| self.durations.get_or_create_owned(&of_durations));
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
            let labels = ResourceLabels { resource };
            self.objects.get_or_create(&labels).set(cache.len() as i64);
            self.watchers.get_or_create(&labels).set(cache.watchers() as i64);
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
