//! Netlink: the message format ([`wire`]) and one synchronous socket ([`socket`]). Users of it: [`crate::rtnl`],
//! [`crate::nft`], [`crate::conntrack`].

pub mod socket;
pub mod wire;

pub use socket::{NetlinkError, Protocol, Socket};
pub use wire::{Attributes, Buffer};
