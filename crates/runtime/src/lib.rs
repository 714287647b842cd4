//! The container runtime: images, sandboxes, containers, and the shim that keeps a pod alive. `docs/ARCHITECTURE.md` says
//! where it stands; [`Runtime::open`] is where it begins.

mod cni_network;
mod config;
mod container;
mod device;
mod disk;
mod engine;
mod image;
mod launch_spec;
mod network;
mod operations;
mod pull;
mod purge;
mod registry;
mod sandbox;
mod sandbox_life;
mod seccomp_profile;
mod service;
mod shim;
mod spec;
mod streaming;
mod take_over;
#[cfg(test)]
mod testing;

pub use cni_network::CniNetwork;
pub use config::Config;
pub use engine::is_in_use;
#[doc(hidden)]
pub use image::fuzzing;
pub use image::{ImageArchives, Reference, ReferenceError, StoreError, StoredImage};
pub use network::{Alive, PodNet, PodNetwork};
pub use purge::purge;
pub use registry::check_registries;
pub use service::Runtime;
pub use shim::{SHIM_COMMAND, shim_main};

/// What the built-in pause image runs (`kybern pause`): reaps orphans until it is told to end.
pub fn pause_main() -> ! {
    kybern_linux::process::pause()
}
