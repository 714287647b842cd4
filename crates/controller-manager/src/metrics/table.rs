//! The names, as in upstream's source.

use super::Kind::{self, Counter, Exponential, Gauge};
use super::Metric;

const EVICTION_BUCKETS: Kind =
    Kind::Buckets(&[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0]);
/// Those that a histogram has which does not say.
const USUAL_BUCKETS: Kind = Kind::Buckets(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);

macro_rules! metrics {
    ($all:ident: $($id:ident: $name:literal $kind:expr, [$($label:literal),*], $help:literal;)*) => {
        $(pub static $id: Metric = Metric { name: $name, help: $help, kind: $kind, labels: &[$($label),*] };)*
        pub(super) static $all: &[&Metric] = &[$(&$id),*];
    };
}

metrics! { PLANNED:
    ZONE_SIZE: "node_collector_zone_size" Gauge, ["zone"],
        "Gauge measuring number of registered Nodes per zones";
    ZONE_HEALTH: "node_collector_zone_health" Gauge, ["zone"],
        "Gauge measuring percentage of healthy nodes per zone";
    UNHEALTHY_NODES: "node_collector_unhealthy_nodes_in_zone" Gauge, ["zone"],
        "Gauge measuring number of not Ready Nodes per zones";
    NODE_EVICTIONS: "node_collector_evictions_total" Counter, ["zone"],
        "Number of Node evictions that happened since current instance of NodeController started";
    EVICTIONS: "taint_eviction_controller_pod_deletions_total" Counter, [],
        "Total number of Pods deleted by TaintEvictionController since its start";
    EVICTION_DURATION: "taint_eviction_controller_pod_deletion_duration_seconds" EVICTION_BUCKETS, [],
        "Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion";
    DEVICE_EVICTIONS: "device_taint_eviction_controller_pod_deletions_total" Counter, [],
        "Total number of Pods deleted by DeviceTaintEvictionController since its start";
    DEVICE_EVICTION_DURATION: "device_taint_eviction_controller_pod_deletion_duration_seconds" EVICTION_BUCKETS, [],
        "Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion";
    FORCED_DELETIONS: "pod_gc_collector_force_delete_pods_total" Counter, ["namespace", "reason"],
        "Number of pods that are being forcefully deleted since the Pod GC Controller started";
    UNAVAILABLE: "statefulset_controller_statefulset_unavailable_replicas" Gauge,
        ["statefulset_namespace", "statefulset_name", "pod_management_policy"],
        "Current number of unavailable pods in StatefulSet";
    MAX_UNAVAILABLE: "statefulset_controller_statefulset_max_unavailable" Gauge,
        ["statefulset_namespace", "statefulset_name", "pod_management_policy"],
        "Maximum number of unavailable pods allowed during StatefulSet rolling updates";
    JOB_SYNCS: "job_controller_job_syncs_total" Counter, ["completion_mode", "result", "action"],
        "The number of job syncs";
    JOBS_FINISHED: "job_controller_jobs_finished_total" Counter, ["completion_mode", "result", "reason"],
        "The number of finished jobs";
    JOB_PODS_FINISHED: "job_controller_job_pods_finished_total" Counter, ["completion_mode", "result"],
        "The number of finished Pods that are fully tracked";
    JOB_INDEXES_FINISHED: "job_controller_job_finished_indexes_total" Counter, ["status", "backoffLimit"],
        "The number of finished indexes";
    JOB_PODS_CREATED: "job_controller_job_pods_creation_total" Counter, ["reason", "status"],
        "The number of Pods created by the Job controller labelled with a reason for the Pod creation";
    JOB_SKEW: "cronjob_controller_job_creation_skew_duration_seconds" Exponential(1.0, 2.0, 10), [],
        "Time between when a cronjob is scheduled to be run, and when the corresponding job is created";
    FINISHED_JOB_DELETION: "ttl_after_finished_controller_job_deletion_duration_seconds" Exponential(0.1, 2.0, 14), [],
        "The time it took to delete the job since it became eligible for deletion";
    AUTOSCALINGS: "horizontal_pod_autoscaler_controller_reconciliations_total" Counter, ["action", "error"],
        "Number of reconciliations of HPA controller";
    METRIC_COMPUTATIONS: "horizontal_pod_autoscaler_controller_metric_computation_total" Counter,
        ["action", "error", "metric_type"],
        "Number of metric computations";
    DESIRED_REPLICAS: "horizontal_pod_autoscaler_controller_desired_replicas" Gauge, ["namespace", "hpa_name"],
        "Current desired replica count for HPA objects";
    SLICE_SYNCS: "endpoint_slice_controller_syncs" Counter, ["result"],
        "Number of EndpointSlice syncs";
    SLICE_CHANGES: "endpoint_slice_controller_changes" Counter, ["operation"],
        "Number of EndpointSlice changes";
    SLICES_CHANGED: "endpoint_slice_controller_endpointslices_changed_per_sync" USUAL_BUCKETS,
        ["topology", "traffic_distribution"],
        "Number of EndpointSlices changed on each Service sync";
    ENDPOINTS_ADDED: "endpoint_slice_controller_endpoints_added_per_sync" Exponential(2.0, 2.0, 15), [],
        "Number of endpoints added on each Service sync";
    ENDPOINTS_REMOVED: "endpoint_slice_controller_endpoints_removed_per_sync" Exponential(2.0, 2.0, 15), [],
        "Number of endpoints removed on each Service sync";
    EPHEMERAL_CLAIMS: "ephemeral_volume_controller_create_total" Counter, [],
        "Number of PersistentVolumeClaim creation requests";
    EPHEMERAL_FAILURES: "ephemeral_volume_controller_create_failures_total" Counter, [],
        "Number of PersistentVolumeClaim creation requests that failed";
    DEVICE_CLAIM_CREATES: "resourceclaim_controller_creates_total" Counter, ["status", "admin_access"],
        "Number of ResourceClaims creation requests, categorized by creation status and admin access";
}

metrics! { COLLECTED:
    VOLUMES: "pv_collector_total_pv_count" Gauge, ["plugin_name", "volume_mode"],
        "Gauge measuring total number of persistent volumes";
    BOUND_VOLUMES: "pv_collector_bound_pv_count" Gauge, ["storage_class"],
        "Gauge measuring number of persistent volume currently bound";
    UNBOUND_VOLUMES: "pv_collector_unbound_pv_count" Gauge, ["storage_class"],
        "Gauge measuring number of persistent volume currently unbound";
    BOUND_CLAIMS: "pv_collector_bound_pvc_count" Gauge, ["namespace", "storage_class", "volume_attributes_class"],
        "Gauge measuring number of persistent volume claim currently bound";
    UNBOUND_CLAIMS: "pv_collector_unbound_pvc_count" Gauge, ["namespace", "storage_class", "volume_attributes_class"],
        "Gauge measuring number of persistent volume claim currently unbound";
    DEVICE_CLAIMS: "resourceclaim_controller_resource_claims" Gauge, ["allocated", "admin_access"],
        "Number of ResourceClaims, categorized by allocation status and admin access";
    AUTOSCALERS: "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers" Gauge, [],
        "Current number of controlled HPA objects";
    SERVICES: "endpoint_slice_controller_services_count_by_traffic_distribution" Gauge, ["traffic_distribution"],
        "Number of Services using some specific trafficDistribution";
    ENDPOINT_SLICES: "endpoint_slice_controller_num_endpoint_slices" Gauge, [],
        "Number of EndpointSlices";
}
