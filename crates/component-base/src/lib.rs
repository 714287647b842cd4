//! What components share beside their work: listeners that hold clients to limits, small plain-HTTP endpoints for health and
//! metrics, and TLS without verification
//! (`k8s.io/component-base`).

pub mod http;
pub mod listener;
pub mod tls;
pub mod tls_policy;

pub use http::{Reply, Server, metrics};
pub use tls_policy::TlsPolicy;
