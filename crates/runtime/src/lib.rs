//! The container runtime: images, sandboxes, containers, and the shim that keeps a pod alive. `docs/ARCHITECTURE.md` says
//! where it stands; [`Runtime::open`] is where it begins.

mod config;
mod container;
mod device;
mod disk;
mod image;
mod launch_spec;
mod network;
mod pull;
mod runtime;
mod sandbox;
mod seccomp_profile;
mod service;
mod shim;
mod spec;
mod streaming;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use image::{ImageStore, Reference, ReferenceError, StoreError, StoredImage};
pub use network::{PodNet, PodNetwork};
pub use runtime::Runtime;
pub use service::Service;
pub use shim::{SHIM_COMMAND, shim_main};
