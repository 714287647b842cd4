//! What components share beside their work: listeners that hold clients to limits, small plain-HTTP endpoints for health and
//! metrics, the way to a server (kubeconfig, trust, connections), gRPC, TLS without verification, and answers kept for a while
//! (`k8s.io/component-base`).

pub mod grpc;
pub mod http;
pub mod kept;
pub mod listener;
pub mod tls;
pub mod tls_policy;
pub mod transport;
pub mod uuid;
pub mod x509;

pub use http::{Reply, Server, metrics};
pub use kept::Kept;
pub use tls_policy::TlsPolicy;
