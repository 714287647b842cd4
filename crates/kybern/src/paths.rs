//! Where things lie on a node.

use std::path::{Path, PathBuf};

/// All paths of one cluster's server or agent. Everything that must survive a reboot is below `data`; everything that must
/// not is below `run`.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) pod_logs: PathBuf,
    pub(crate) cni_config: PathBuf,
    pub(crate) cni_bin: PathBuf,
}

impl Paths {
    pub(crate) fn new(data: &Path, run: &Path) -> Self {
        Self {
            data: data.to_owned(),
            run: run.to_owned(),
            pod_logs: PathBuf::from("/var/log/pods"),
            cni_config: PathBuf::from("/etc/cni/net.d"),
            cni_bin: PathBuf::from("/opt/cni/bin"),
        }
    }

    /// For people: full rights.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("server/db")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("server/pki")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.data.join("runtime")
    }

    pub(crate) fn runtime_state(&self) -> PathBuf {
        self.run.join("runtime")
    }

    pub(crate) fn kubelet(&self) -> PathBuf {
        self.data.join("kubelet")
    }

    pub(crate) fn cni_state(&self) -> PathBuf {
        self.data.join("cni")
    }

    /// Registry mirrors, credentials and TLS settings.
    pub(crate) fn registries(&self) -> PathBuf {
        self.data.join("registries.yaml")
    }

    /// What a server in the background prints.
    pub(crate) fn server_log(&self) -> PathBuf {
        self.data.join("server.log")
    }
}
