//! kube-scheduler: gives every pod a node.
//!
//! [`framework`] is the contract of plugins, [`chain`] their list and order, `plugins/` one file each. [`cycle`] decides for
//! one pod, on [`cache::Cluster`]; [`queue`] says which pod is next; [`core`] joins them into a state machine without I/O,
//! which [`run`] feeds from watches and whose decisions it carries out. [`extender`]s are asked by the driver, too.

mod arguments;
pub mod cache;
pub mod chain;
pub mod config;
pub mod core;
pub mod cycle;
mod driver;
pub mod explain;
pub mod extender;
pub mod filters;
#[cfg(test)]
mod fixture;
pub mod framework;
pub mod gangs;
pub mod meter;
mod metrics;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod pod_terms;
pub mod queue;
pub mod resources;
pub mod stores;
pub mod topology;

pub use config::{Config, ConfigError, Features, Profile, Profiles};
pub use driver::run;
pub use explain::Explanations;
pub use metrics::Metrics;
