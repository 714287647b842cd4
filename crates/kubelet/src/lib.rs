//! The kubelet: makes a node run the pods that are bound to it, through a container runtime behind CRI.
//!
//! `pod` decides, purely; `worker` executes, one task per pod; `kubelet` feeds the workers from the API and the runtime;
//! `node` reports the machine; `image`, `probe` and `volume` serve the workers; `server` is the kubelet's HTTP API.

pub mod config;
pub mod image;
pub mod kubelet;
pub mod node;
pub mod orphans;
pub mod pod;
pub mod probe;
pub mod qos;
pub mod references;
pub mod server;
pub mod shared;
pub mod volume;
pub mod worker;

pub use config::{Config, ServerConfig};
pub use kubelet::{KubeletError, run};
