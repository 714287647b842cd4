//! Remembered attachments: `<cache dir>/results/<network>-<container>-<interface>`, as libcni keeps them, so that a deletion
//! uses the configuration and result of the addition even when the configuration has changed or the process has restarted.

use std::io;
use std::path::{Path, PathBuf};

use kybern_linux::files;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::CniError;
use crate::config::NetworkConfig;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    pub(crate) kind: String,
    pub(crate) container_id: String,
    pub(crate) if_name: String,
    pub(crate) network_name: String,
    pub(crate) cni_version: String,
    pub(crate) plugins: Vec<Map<String, Value>>,
    pub(crate) netns: PathBuf,
    pub(crate) cni_args: Vec<(String, String)>,
    pub(crate) capability_args: Map<String, Value>,
    /// Absent until the whole chain has been added: what a crash in between leaves can still be deleted.
    pub(crate) result: Option<Value>,
}

impl Attachment {
    pub(crate) fn network(&self) -> NetworkConfig {
        NetworkConfig {
            name: self.network_name.clone(),
            cni_version: self.cni_version.clone(),
            disable_check: false,
            plugins: self.plugins.clone(),
        }
    }

    fn file(&self, dir: &Path) -> PathBuf {
        dir.join("results").join(format!("{}-{}-{}", self.network_name, self.container_id, self.if_name))
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), CniError> {
        let file = self.file(dir);
        let write = || -> io::Result<()> {
            files::make_dirs(&dir.join("results"), 0o700)?;
            let temporary = file.with_extension("tmp");
            files::write(&temporary, serde_json::to_vec(self)?, 0o600)?;
            std::fs::rename(&temporary, &file)
        };
        write().map_err(|cause| CniError::Io { what: "cannot save the CNI result", path: file.clone(), cause })
    }

    pub(crate) fn forget(&self, dir: &Path) -> Result<(), CniError> {
        let path = self.file(dir);
        // A crash may have left one that was being written.
        let _ = std::fs::remove_file(path.with_extension("tmp"));
        match std::fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(CniError::Io { what: "cannot remove the CNI result", path, cause })
            }
            _ => Ok(()),
        }
    }
}

/// The remembered attachment of a container's interface; that of `network` is looked for first.
pub(crate) fn find(dir: &Path, network: &str, container_id: &str, if_name: &str) -> Option<Attachment> {
    let file = dir.join("results").join(format!("{network}-{container_id}-{if_name}"));
    let direct = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    // The network may have another name since.
    direct.or_else(|| all(dir).into_iter().find(|a| a.container_id == container_id && a.if_name == if_name))
}

/// Removes what a crash has left of results that were being written, of containers that are not alive.
pub(crate) fn sweep(dir: &Path, is_alive: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(dir.join("results")) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".tmp"));
        // `<network>-<container>-<interface>`; no id of a container has a dash.
        let container = stem.and_then(|stem| stem.rsplit('-').nth(1));
        if container.is_some_and(|container| !is_alive(container)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// All remembered attachments that can be read.
pub(crate) fn all(dir: &Path) -> Vec<Attachment> {
    let Ok(entries) = std::fs::read_dir(dir.join("results")) else { return Vec::new() };
    entries.filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.ok()?.path()).ok()?).ok()).collect()
}
