//! The control loops, one file each. StatefulSet, Job and CronJob join here.

pub mod daemonset;
pub mod deployment;
pub mod endpoint_slice;
pub mod namespace;
pub mod replicaset;
pub mod root_ca;
pub mod service_account;
