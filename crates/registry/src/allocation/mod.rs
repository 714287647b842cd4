//! Claims of what must be unique in the cluster: service addresses and node ports. The API server is the only writer, so
//! the claims live in memory and are rebuilt from the Services at start.

mod pool;
mod services;

pub use pool::{Pool, PoolError};
pub use services::{Claiming, ServiceAllocators, ServiceClaims};
