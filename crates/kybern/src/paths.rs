//! Where things lie on a node.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

/// The directories of a node, as its commands' flags. Several nodes on one machine need different ones.
#[derive(Clone, Debug, Args)]
pub(crate) struct Directories {
    /// Holds all state.
    #[arg(long, global = true, default_value = "/var/lib/kybern")]
    pub(crate) data_dir: PathBuf,
    /// Holds what does not survive a reboot: sockets, network namespaces.
    #[arg(long, global = true, default_value = "/run/kybern")]
    pub(crate) run_dir: PathBuf,
    /// Holds the pod network's configuration.
    #[arg(long, global = true, default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,
    /// Holds the containers' logs.
    #[arg(long, global = true, default_value = "/var/log/pods")]
    pub(crate) pod_logs_dir: PathBuf,
    /// The cgroup below which the pods' lie.
    #[arg(long, global = true, default_value = "/")]
    pub(crate) cgroup_root: String,
}

impl Directories {
    /// The paths, made absolute.
    pub(crate) fn paths(&self) -> Result<Paths> {
        let absolute =
            |path: &Path| std::path::absolute(path).with_context(|| format!("{} is no path", path.display()));
        let pod_logs = absolute(&self.pod_logs_dir)?;
        // Upstream's links lie beside the logs.
        let container_logs = pod_logs.parent().unwrap_or(Path::new("/")).join("containers");
        Ok(Paths {
            data: absolute(&self.data_dir)?,
            run: absolute(&self.run_dir)?,
            pod_logs,
            container_logs,
            cni_config: absolute(&self.cni_conf_dir)?,
            cni_bin: PathBuf::from("/opt/cni/bin"),
            cgroup_root: self.cgroup_root.clone(),
        })
    }

    /// The same as arguments of another `kybern`.
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        vec![
            format!("--data-dir={}", self.data_dir.display()),
            format!("--run-dir={}", self.run_dir.display()),
            format!("--cni-conf-dir={}", self.cni_conf_dir.display()),
            format!("--pod-logs-dir={}", self.pod_logs_dir.display()),
            format!("--cgroup-root={}", self.cgroup_root),
        ]
    }
}

/// All paths of one cluster's server or agent. Everything that must survive a reboot is below `data`; everything that must
/// not is below `run`.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) pod_logs: PathBuf,
    pub(crate) container_logs: PathBuf,
    pub(crate) cni_config: PathBuf,
    pub(crate) cni_bin: PathBuf,
    pub(crate) cgroup_root: String,
}

impl Paths {
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
