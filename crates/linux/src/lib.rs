//! The Linux kernel's interfaces, and the only crate with `unsafe`.
#![allow(unsafe_code)]

pub mod announce;
pub mod capability;
pub mod cgroup;
pub mod conntrack;
pub mod files;
pub mod inotify;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod process;
pub mod remove;
pub mod rtnl;
pub mod sampler;
pub mod seccomp;
pub mod sysctl;
