//! Cluster DNS, configured and observed as CoreDNS is: a Corefile, its plugins, and the Kubernetes DNS specification.
//!
//! A query is read ([`message`]), goes to the server block of its zone ([`server`]) and through the block's plugins in the
//! fixed order of [`setup`]. The cluster's names come from tables in memory ([`zone`]) that follow the API server
//! ([`follow`]); other names are asked elsewhere and kept ([`plugin::cache`]).

pub mod corefile;
mod follow;
mod listen;
pub mod message;
mod metrics;
pub mod name;
pub mod plugin;
mod run;
pub mod server;
pub mod setup;
pub mod zone;

pub use run::{Config, RunError, run};
