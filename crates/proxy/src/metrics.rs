//! Metrics by upstream's names (`pkg/proxy/metrics`).

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// kube-proxy's metrics, registered under `kubeproxy_`.
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    sync_duration: Histogram,
    last_sync: Gauge<f64, AtomicU64>,
    last_queued: Gauge<f64, AtomicU64>,
    service_changes: Counter,
    endpoint_changes: Counter,
    failures: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("kubeproxy");
        kybern_client::register_informer_metrics(&mut registry);
        let sync_duration = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let (last_sync, last_queued) = (Gauge::default(), Gauge::default());
        let (service_changes, endpoint_changes, failures) =
            (Counter::default(), Counter::default(), Counter::default());
        registry.register(
            "sync_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds",
            sync_duration.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            last_sync.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            last_queued.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes",
            "Cumulative proxy rules Service changes",
            service_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_endpoint_changes",
            "Cumulative proxy rules Endpoint changes",
            endpoint_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_nftables_sync_failures",
            "Cumulative proxy nftables sync failures",
            failures.clone(),
        );
        Self { registry, sync_duration, last_sync, last_queued, service_changes, endpoint_changes, failures }
    }

    /// Notes changed objects. `now` is in seconds since the epoch.
    pub(crate) fn queued(&self, services: usize, slices: usize, now: f64) {
        self.service_changes.inc_by(services as u64);
        self.endpoint_changes.inc_by(slices as u64);
        self.last_queued.set(now);
    }

    pub(crate) fn synced(&self, ok: bool, took: Duration, now: f64) {
        self.sync_duration.observe(took.as_secs_f64());
        if ok {
            self.last_sync.set(now);
        } else {
            self.failures.inc();
        }
    }
}
