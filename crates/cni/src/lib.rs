//! The Container Network Interface (CNI specification 1.1.0): reads `/etc/cni/net.d`, runs chains of plugins, remembers their
//! results for the deletion.
//!
//! The plugins `bridge`, `host-local`, `portmap` and `loopback` are built in and run in-process, whether or not an executable
//! of that name is in the plugin directories: they start faster, work with no file installed, and speak nftables. They keep
//! upstream's configuration keys, results and on-disk allocations. Every other type is executed.
//!
//! All calls block (netlink, files, child processes): an async caller wraps them in a blocking task.

mod attach;
mod builtin;
mod cache;
pub mod config;
pub mod default;
mod error;
mod exec;
pub mod result;

pub use attach::{Cni, ContainerNet, PortMapping};
pub use default::{DefaultNetwork, purge};
pub use error::CniError;
pub use result::CniResult;
