//! kube-proxy: Services and EndpointSlices become the nftables tables `kube-proxy` (families `ip` and `ip6`), laid out as
//! upstream's nftables mode lays them out.
//!
//! [`plan`] computes the whole table from a snapshot; [`driver`] watches, plans, and applies the difference to what the
//! kernel holds. A restart therefore changes nothing that is right, and drops no connection.

pub mod config;
pub mod conntrack;
pub mod driver;
pub mod health;
mod metrics;
pub mod names;
pub mod plan;
pub mod service;

pub use config::{Config, ConfigError};
pub use driver::{RunError, run};
