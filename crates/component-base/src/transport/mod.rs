//! How a component reaches a server: kubeconfig files, whom to trust, what to show, and connections over TCP and TLS
//! (`k8s.io/client-go/transport`). The client of the API and the webhooks' client are both built on it.

mod attempts;
mod authorization;
mod connector;
mod identity;
pub mod kubeconfig;
mod roots;
mod tls;

pub use authorization::Authorization;
pub use connector::{Connector, DialError, Resolve, Stream, SystemResolver};
pub use kubeconfig::{CertificateAuthorities, Credential, Identity, RestConfig, Users};
pub use tls::client_config;

/// Any error of a transport.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A configuration (kubeconfig, in-cluster files, certificates) that is unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);
