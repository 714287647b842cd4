//! What every component serves beside its work: small plain-HTTP endpoints for health and metrics
//! (`k8s.io/component-base`).

pub mod http;

pub use http::{Reply, Server, metrics};
