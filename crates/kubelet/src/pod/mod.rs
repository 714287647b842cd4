//! One pod, decided purely: what runs (`observed`), what is remembered (`memory`), what to do next (`plan`), what to show
//! (`status`), and how its containers are configured (`config` and what it calls). Nothing here does I/O.

pub mod admit;
pub mod backoff;
pub mod conditions;
pub mod config;
pub mod dns;
pub mod drain;
pub mod env;
pub mod labels;
pub mod memory;
pub mod observed;
pub mod plan;
pub mod resources;
pub mod security;
pub mod spec;
pub mod status;

#[cfg(test)]
pub mod testing;

pub use memory::Memory;
pub use observed::Observed;
pub use plan::{Action, Plan, plan_pod};
pub use status::{NodeView, pod_status};
