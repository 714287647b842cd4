//! Claims of what must be unique in the cluster: service addresses and node ports. They are stored, and made in the
//! transaction of the Service that has them; what is in memory says what is worth asking for.

mod claiming;
mod node_ports;
mod pool;
mod ranges;
mod services;

pub use claiming::Claiming;
pub(crate) use claiming::{address_of, free, is_of};
pub use pool::{Pool, PoolError};
pub use services::{ServiceAllocators, ServiceClaims};
