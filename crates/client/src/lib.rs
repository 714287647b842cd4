//! Everything a component needs to talk to an API server: transports, the typed and the untyped client, discovery, the
//! reflector with its shared store, the work queue, the event recorder and leader election.
//!
//! Components get a [`Client`] and never learn whether its [`Transport`] is TLS, in-process or simulated.

pub mod account;
pub mod backoff;
pub mod body;
pub mod client;
pub mod discovery;
pub mod error;
pub mod events;
pub mod informer;
pub mod leader;
pub mod metadata;
pub mod options;
pub mod queue;
pub mod raw;
pub mod review;
pub mod source;
pub mod store;
pub mod tls;
pub mod transport;
pub mod watch;

mod correlator;
mod split;
mod unreadable;

pub use account::AccountTransport;
pub use body::Body;
pub use client::Client;
pub use discovery::ApiResource;
pub use error::ClientError;
pub use events::{EventRecorder, EventType, ObjectRef};
pub use informer::Informer;
pub use kybern_component_base::transport::{BoxError, CertificateAuthorities, RestConfig, kubeconfig};
pub use leader::{LeaderElector, LeaseConfig};
pub use metadata::PartialMetadata;
pub use options::{DeleteOptions, ListOptions, Patch, Propagation};
pub use queue::WorkQueue;
pub use raw::Raw;
pub use review::Reviews;
pub use source::Sources;
pub use store::{Change, Changes, Store, StoreWriter, Subscription};
pub use transport::{Transport, TransportError};
pub use unreadable::register_metrics as register_informer_metrics;

/// A future on the heap, as trait objects return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
