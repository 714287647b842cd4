//! The control loops, one file each. StatefulSet, Job and CronJob join here.

pub mod bootstrap_signer;
pub mod cluster_role_aggregation;
pub mod csr_approving;
pub mod csr_cleaner;
pub mod csr_signing;
pub mod daemonset;
pub mod deployment;
pub mod endpoint_slice;
pub mod endpoint_slice_mirroring;
pub mod endpoints;
pub mod event_ttl;
pub mod garbage_collector;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod pv_protection;
pub mod pvc_protection;
pub mod replicaset;
pub mod replication_controller;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod vac_protection;
