//! What is counted when somebody asks, from what the stores hold.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::{Arc, Weak};

use kybern_api::Object;
use kybern_api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kybern_api::resource::v1::ResourceClaim;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Metric;
use super::table::{
    AUTOSCALERS, BOUND_CLAIMS, BOUND_VOLUMES, COLLECTED, DEVICE_CLAIMS, ENDPOINT_SLICES, SERVICES, UNBOUND_CLAIMS,
    UNBOUND_VOLUMES, VOLUMES,
};
use crate::controllers::resource_claim::admin_access;
use crate::snapshot::Snapshot;

/// The stores, while controllers work on them.
#[derive(Debug)]
pub(super) struct Stores(pub(super) Arc<Mutex<Weak<Snapshot>>>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

/// By metric and labels.
type Counts = BTreeMap<(&'static str, Vec<String>), i64>;

fn add<const N: usize>(counts: &mut Counts, metric: &'static Metric, labels: [&str; N]) {
    *counts.entry((metric.name, labels.map(str::to_owned).to_vec())).or_default() += 1;
}

fn volume(counts: &mut Counts, volume: &PersistentVolume) {
    let (spec, status) = (volume.spec.as_ref(), volume.status.as_ref());
    let mode = spec.and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem");
    add(counts, &VOLUMES, [&plugin(volume), mode]);
    let class = spec.and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or("");
    let is_bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
    add(counts, if is_bound { &BOUND_VOLUMES } else { &UNBOUND_VOLUMES }, [class]);
}

/// The name of the kind of a volume, with its driver where others make it.
fn plugin(volume: &PersistentVolume) -> String {
    let Some(spec) = &volume.spec else { return "N/A".to_owned() };
    if let Some(csi) = &spec.csi {
        return format!("kubernetes.io/csi:{}", csi.driver);
    }
    let kinds = [
        (spec.host_path.is_some(), "host-path"),
        (spec.local.is_some(), "local-volume"),
        (spec.nfs.is_some(), "nfs"),
        (spec.iscsi.is_some(), "iscsi"),
        (spec.fc.is_some(), "fc"),
    ];
    kinds.iter().find(|(is, _)| *is).map_or_else(|| "N/A".to_owned(), |(_, name)| format!("kubernetes.io/{name}"))
}

fn claim(counts: &mut Counts, claim: &PersistentVolumeClaim) {
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let class = spec.and_then(|spec| spec.storage_class_name.as_deref()).unwrap_or("");
    let attributes = spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()).unwrap_or("");
    let is_bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
    let metric = if is_bound { &BOUND_CLAIMS } else { &UNBOUND_CLAIMS };
    add(counts, metric, [claim.namespace(), class, attributes]);
}

fn devices(counts: &mut Counts, claim: &ResourceClaim) {
    let is_allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
    add(counts, &DEVICE_CLAIMS, [if is_allocated { "true" } else { "false" }, admin_access(&claim.spec)]);
}

fn count(snapshot: &Snapshot) -> Counts {
    let mut counts = Counts::new();
    snapshot.volumes.list().iter().for_each(|object| volume(&mut counts, object));
    snapshot.claims.list().iter().for_each(|object| claim(&mut counts, object));
    snapshot.resource_claims.list().iter().for_each(|object| devices(&mut counts, object));
    for service in snapshot.services.list() {
        if let Some(wanted) = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref()) {
            add(&mut counts, &SERVICES, [wanted]);
        }
    }
    for (metric, number) in
        [(&AUTOSCALERS, snapshot.autoscalers.len()), (&ENDPOINT_SLICES, snapshot.endpoint_slices.len())]
    {
        counts.insert((metric.name, Vec::new()), i64::try_from(number).unwrap_or(i64::MAX));
    }
    counts
}

impl Collector for Stores {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(snapshot) = self.0.lock().upgrade() else { return Ok(()) };
        let counts = count(&snapshot);
        for metric in COLLECTED {
            let mut encoder = encoder.encode_descriptor(metric.name, metric.help, None, MetricType::Gauge)?;
            for ((_, labels), number) in
                counts.range((metric.name, Vec::new())..).take_while(|((n, _), _)| *n == metric.name)
            {
                let labels: super::Labels = metric.labels.iter().copied().zip(labels.iter().cloned()).collect();
                ConstGauge::new(*number).encode(encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kybern_apimachinery::json;
    use prometheus_client::registry::Registry;

    use super::super::Metrics;
    use crate::testing::World;

    #[test]
    fn the_stores_are_counted_when_they_are_asked_for() {
        let world = World::new();
        let read = |value: kybern_apimachinery::Value| value.to_string().into_bytes();
        fn object<K: kybern_api::Object>(json: Vec<u8>) -> K {
            K::from_json(&json).unwrap()
        }
        world.writers.volumes.upsert(object(read(json!({
            "metadata": {"name": "a"}, "spec": {"hostPath": {"path": "/x"}, "storageClassName": "s"}, "status": {"phase": "Bound"},
        }))));
        world.writers.volumes.upsert(object(read(json!({
            "metadata": {"name": "b"}, "spec": {"csi": {"driver": "d", "volumeHandle": "h"}, "volumeMode": "Block"},
        }))));
        world.writers.claims.upsert(object(read(json!({
            "metadata": {"name": "c", "namespace": "n"}, "spec": {"storageClassName": "s"}, "status": {"phase": "Pending"},
        }))));
        let request = json!({"name": "r", "exactly": {"deviceClassName": "c", "adminAccess": true}});
        world.writers.resource_claims.upsert(object(read(json!({
            "metadata": {"name": "c", "namespace": "n"}, "spec": {"devices": {"requests": [request]}},
            "status": {"allocation": {}},
        }))));
        world.writers.services.upsert(object(read(json!({
            "metadata": {"name": "s", "namespace": "n"}, "spec": {"trafficDistribution": "PreferClose"},
        }))));
        world.writers.services.upsert(object(read(json!({"metadata": {"name": "t", "namespace": "n"}, "spec": {}}))));
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(!text().contains("pv_collector"), "nobody works");
        let snapshot = Arc::new(world.snapshot);
        metrics.count_in(&snapshot);
        let shown = text();
        for line in [
            "pv_collector_total_pv_count{plugin_name=\"kubernetes.io/csi:d\",volume_mode=\"Block\"} 1",
            "pv_collector_total_pv_count{plugin_name=\"kubernetes.io/host-path\",volume_mode=\"Filesystem\"} 1",
            "pv_collector_bound_pv_count{storage_class=\"s\"} 1",
            "pv_collector_unbound_pv_count{storage_class=\"\"} 1",
            "pv_collector_unbound_pvc_count{namespace=\"n\",storage_class=\"s\",volume_attributes_class=\"\"} 1",
            "resourceclaim_controller_resource_claims{allocated=\"true\",admin_access=\"true\"} 1",
            "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers{} 0",
            "endpoint_slice_controller_num_endpoint_slices{} 0",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"} 1",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
        drop(snapshot);
        assert!(!text().contains("pv_collector"), "nobody works any more");
    }
}
