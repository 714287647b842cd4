//! What components share beside their work: small plain-HTTP endpoints for health and metrics, and TLS without verification
//! (`k8s.io/component-base`).

pub mod http;
pub mod tls;

pub use http::{Reply, Server, metrics};
