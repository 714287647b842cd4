//! Where things lie on a node.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser};

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

/// What holds where nothing is said.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    directories: Directories,
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

    /// Those that are not the usual ones, as arguments after a command: empty, or with a leading blank.
    pub(crate) fn unusual(&self) -> String {
        let usual = Defaults::parse_from(["kybern"]).directories.to_arguments();
        let unusual = self.to_arguments().into_iter().filter(|flag| !usual.contains(flag));
        unusual.map(|flag| format!(" {flag}")).collect()
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

/// Secrets of pods lie below.
fn make_private(path: &Path, flag: &str) -> Result<()> {
    kybern_linux::files::make_dirs(path, 0o700).map_err(|error| match error.kind() {
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            anyhow!("cannot make {}: a file is in the way; name another directory with {flag}", path.display())
        }
        _ => failure(&format!("cannot make {} ({flag})", path.display()), error),
    })
}

/// A failure to write, with its cure where it is plain.
pub(crate) fn failure(what: &str, error: std::io::Error) -> anyhow::Error {
    let cure = match error.kind() {
        ErrorKind::PermissionDenied => "; Kybern needs root",
        ErrorKind::ReadOnlyFilesystem => "; name a place that can be written, or mount this one writable",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room there",
        _ => "",
    };
    anyhow!("{what}: {error}{cure}")
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

/// What may be in a data directory: only what a server has made there, and the registries' settings.
const KNOWN: &[&str] = &[
    "admin.kubeconfig",
    "admin.new",
    "cni",
    "kubelet",
    "lock",
    "lost+found",
    "owned.json",
    "owned.new",
    "registries.yaml",
    "runtime",
    "server",
    "server.log",
    "volumes",
];

impl Paths {
    /// Where the runtime keeps its state, below the run directory.
    pub(crate) const RUNTIME: &str = "runtime";
    /// The file in the data directory that says what lies outside of it.
    pub(crate) const OWNED: &str = "owned.json";

    /// Makes the data directory where it is missing. Refuses one that holds other things: a mistyped `--data-dir` must not
    /// mix a cluster into somebody's files.
    pub(crate) fn make_data(&self) -> Result<()> {
        make_private(&self.data, "--data-dir")?;
        match self.foreign()? {
            None => Ok(()),
            Some(name) => bail!(
                "{} is not a Kybern data directory: it holds {name:?}; name an empty or a new one with --data-dir",
                self.data.display()
            ),
        }
    }

    pub(crate) fn make_run(&self) -> Result<()> {
        make_private(&self.run, "--run-dir")
    }

    /// Something in the data directory that no server makes.
    pub(crate) fn foreign(&self) -> Result<Option<String>> {
        for entry in std::fs::read_dir(&self.data).with_context(|| format!("cannot read {}", self.data.display()))? {
            let name = entry?.file_name();
            if !KNOWN.iter().any(|known| name == *known) {
                return Ok(Some(name.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }

    /// For people: full rights.
    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.data.join("server/pki")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.data.join("runtime")
    }

    pub(crate) fn runtime_state(&self) -> PathBuf {
        self.run.join(Self::RUNTIME)
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
