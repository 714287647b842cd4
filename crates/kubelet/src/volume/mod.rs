//! Volumes: what a pod's volumes hold (`payload`, pure) or are bound to (`claims`), how it gets to disk (`atomic`, `setup`,
//! `mounts`).

pub mod atomic;
pub mod claims;
pub mod hostpath;
pub mod local_path;
mod medium;
pub mod mounts;
mod nested;
mod ownership;
pub mod payload;
pub mod setup;
pub mod subpath;
pub mod tokens;

use std::path::{Path, PathBuf};

use kybern_api::core::v1::Volume;

/// A pod's directory: `<root>/pods/<uid>`.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// The plugin that upstream names a volume's directory after; `None` for a kind that this kubelet cannot mount.
pub fn plugin(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.empty_dir.is_some(), "kubernetes.io~empty-dir"),
        (volume.host_path.is_some(), "kubernetes.io~host-path"),
        (volume.config_map.is_some(), "kubernetes.io~configmap"),
        (volume.secret.is_some(), "kubernetes.io~secret"),
        (volume.projected.is_some(), "kubernetes.io~projected"),
        (volume.downward_api.is_some(), "kubernetes.io~downward-api"),
    ];
    kinds.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
}

/// Whether a volume may only be read, whatever its mounts say.
pub fn is_read_only(volume: &Volume) -> bool {
    volume.config_map.is_some() || on_memory(volume)
}

/// Whether what the API server says in confidence lies in a volume: that is never written to a disk.
pub fn on_memory(volume: &Volume) -> bool {
    volume.secret.is_some() || volume.projected.is_some() || volume.downward_api.is_some()
}

/// Where a volume's content lies on the node.
pub fn volume_path(root: &Path, uid: &str, volume: &Volume) -> Option<PathBuf> {
    if let Some(host) = &volume.host_path {
        return Some(PathBuf::from(&host.path));
    }
    Some(pod_dir(root, uid).join("volumes").join(plugin(volume)?).join(&volume.name))
}
