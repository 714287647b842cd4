//! The harness of the end-to-end tests: a running cluster, reached as a user reaches it, with the official kubectl.
//! `cargo xtask e2e` makes the cluster and says where it is through the environment.

mod cluster;
mod run;
mod scratch;
mod table;

pub use cluster::{Cluster, Kubectl, Namespace};
pub use run::{Finished, eventually, eventually_within};
pub use scratch::Scratch;
pub use table::Table;
