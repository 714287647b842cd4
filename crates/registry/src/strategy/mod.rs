//! The special rules of the built-in kinds, one file per kind or small family. All pure, but for the Service's claims.

mod admission_policy;
mod admission_rules;
mod api_service;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod config;
mod csi;
mod definitions;
mod device_claims;
mod device_slices;
mod disruption;
mod endpoint_slice;
mod event;
mod flow_control;
mod ingress;
mod namespace;
mod network;
mod network_policy;
mod node;
mod pick;
pub(crate) mod pod;
mod rbac;
mod runtime_class;
mod scheduling;
mod service;
mod service_range;
mod status;
mod storage;
mod storage_class;
mod webhooks;

pub(crate) use pick::{part, strategy};
pub(crate) use service::ServiceStrategy;
pub(crate) use status::{PlainWithStatus, Status, StatusOnly};
