//! Where the runtime keeps things and finds things.

use std::path::PathBuf;
use std::sync::Arc;

use crate::network::PodNetwork;

#[derive(Clone)]
pub struct Config {
    /// Images and the containers' writable layers: `<data-dir>/runtime`.
    pub root_dir: PathBuf,
    /// What lives as long as the machine runs: `/run/kybern/runtime`.
    pub state_dir: PathBuf,
    /// Where network namespaces are named: `/run/kybern/netns`.
    pub netns_dir: PathBuf,
    /// This program's own file, which shims and the built-in image are made of.
    pub executable: PathBuf,
    /// The version in the built-in images' tags.
    pub version: String,
    /// Mirrors, TLS and credentials of registries; need not exist.
    pub registries_file: PathBuf,
    /// `None`: only pods on the host's network can run.
    pub network: Option<Arc<dyn PodNetwork>>,
}

impl Config {
    /// The built-in image: this program at `/kybern`.
    pub fn builtin_image(&self) -> String {
        format!("kybern.local/kybern:{}", self.version)
    }

    /// The built-in image that does nothing.
    pub fn pause_image(&self) -> String {
        format!("kybern.local/pause:{}", self.version)
    }

    pub(crate) fn sandboxes_dir(&self) -> PathBuf {
        self.state_dir.join("sandboxes")
    }

    pub(crate) fn containers_dir(&self) -> PathBuf {
        self.root_dir.join("containers")
    }

    pub(crate) fn images_dir(&self) -> PathBuf {
        self.root_dir.join("images")
    }
}
