//! The pod network as the runtime sees it.

use std::path::PathBuf;
use std::sync::Arc;

use kybern_cri::{BoxFuture, DnsConfig, PodSandboxMetadata, PortMapping};

/// One sandbox to be connected or disconnected.
#[derive(Clone, Debug)]
pub struct PodNet {
    pub sandbox_id: String,
    pub netns: PathBuf,
    pub metadata: PodSandboxMetadata,
    pub port_mappings: Vec<PortMapping>,
    pub dns: DnsConfig,
}

/// Whether a sandbox is there, by its id. Sandboxes are made while it is asked.
pub type Alive = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Connects sandboxes. The usual one runs CNI plugins.
pub trait PodNetwork: Send + Sync {
    /// Why no pod can be connected yet, if so; the text of the node's `NetworkReady` condition.
    fn ready(&self) -> Result<(), String>;
    /// Connects a sandbox's namespace, of which not even the loopback link is up; answers its addresses, the primary one first.
    fn add<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<Vec<String>, String>>;
    /// Releases what sandboxes that are not there still hold: a machine that went down could not undo their connections.
    fn collect_garbage(&self, alive: Alive) -> BoxFuture<'_, Result<(), String>>;
    /// Undoes [`Self::add`]. Idempotent; also called when `add` failed half-way, and when the namespace is gone.
    fn del<'a>(&'a self, net: &'a PodNet) -> BoxFuture<'a, Result<(), String>>;
}
