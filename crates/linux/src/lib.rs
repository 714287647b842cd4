//! The Linux kernel's interfaces, and the only crate with `unsafe`.

pub mod conntrack;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod rtnl;
pub mod sysctl;
