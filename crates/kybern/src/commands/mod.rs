//! One file per command: its flags, and how they become the configuration of the parts.

pub(crate) mod admission;
pub(crate) mod api_access;
pub(crate) mod audit;
pub(crate) mod authentication;
pub(crate) mod backup;
pub(crate) mod completion;
mod controller_limits;
mod controller_settings;
mod controller_workers;
pub(crate) mod coredns;
pub(crate) mod down;
pub(crate) mod explain_scheduling;
pub(crate) mod image;
pub(crate) mod kube_apiserver;
pub(crate) mod kube_controller_manager;
pub(crate) mod kube_proxy;
pub(crate) mod kube_scheduler;
pub(crate) mod kubelet;
mod kubelet_access;
mod kubelet_config;
mod leader_election;
pub(crate) mod load_balancers;
pub(crate) mod runtime_config;
pub(crate) mod server;
mod storage;
pub(crate) mod store;
pub(crate) mod up;
