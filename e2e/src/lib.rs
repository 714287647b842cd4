//! The harness of the end-to-end tests: a running cluster, reached as a user reaches it, with the official kubectl.
//! `cargo xtask e2e` makes the cluster and says where it is through the environment.

mod churn;
mod cluster;
mod held;
mod proxy;
mod run;
mod scratch;
mod table;

pub use churn::{churn, churn_size};
pub use cluster::{Cluster, Kubectl, Namespace};
pub use proxy::Proxy;
pub use run::{Finished, eventually, eventually_within};
pub use scratch::Scratch;
pub use table::Table;
