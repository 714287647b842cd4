//! nftables over netlink: a table as plain data ([`model`]), the difference of two tables as a batch of operations
//! ([`diff`]), bytes of both directions ([`encode`], [`decode`]), and the socket that reads and applies ([`kernel`]).
//!
//! A caller describes the whole table it wants; [`kernel::Nftables::reconcile`] reads what the kernel holds and changes only
//! the difference, in one transaction that the kernel applies wholly or not at all.

pub mod decode;
pub mod diff;
pub mod encode;
pub mod kernel;
pub mod model;
pub mod monitor;
pub mod rule;
pub mod trace;

pub use diff::{Op, diff};
pub use kernel::Nftables;
pub use model::*;
pub use monitor::Monitor;
