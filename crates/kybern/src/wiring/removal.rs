//! `kybern down`: everything that a cluster has made, and nothing else. Works from what it finds, so it also removes what
//! a crash has left.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kybern_linux::cgroup::Cgroups;
use kybern_linux::{mount, process};

use super::node;
use crate::paths::Paths;

/// How long a server may take to end by itself. It has nothing to save.
const END_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Stops the server and removes processes, mounts, namespaces, cgroups, links, nftables tables and, unless it is to be
/// kept, the data.
pub(crate) fn remove(paths: &Paths, keep_data: bool) -> Result<()> {
    if !paths.data.exists() && !paths.run.exists() {
        println!("There is no cluster in {}.", paths.data.display());
        return Ok(());
    }
    // Guards against a mistyped `--data-dir`.
    if let Some(name) = paths.data.exists().then(|| paths.foreign()).transpose()?.flatten() {
        bail!(
            "{} is not a Kybern data directory: it holds {name:?}; nothing was removed. Take that away, or name the \
             cluster's with --data-dir",
            paths.data.display()
        );
    }
    stop_server(paths)?;
    kybern_runtime::purge(&node::runtime_config(paths)?).context("cannot remove the containers")?;
    remove_cgroups(&paths.cgroup_root).context("cannot remove the pods' cgroups")?;
    let subnet = "10.244.0.0/24".parse().expect("a constant");
    kybern_cni::purge(&node::default_network(paths, subnet), &paths.cni_state())
        .context("cannot remove the pod network")?;
    let _ = std::fs::remove_file(paths.cni_config.join(kybern_cni::default::CONFIG_FILE));
    remove_if_empty(&paths.cni_config);
    kybern_proxy::driver::cleanup().context("cannot remove the Services' rules")?;
    mount::detach_below(&paths.data)?;
    mount::detach_below(&paths.run)?;
    remove_tree(&paths.run)?;
    if !keep_data {
        kybern_kubelet::orphans::purge_logs(&paths.kubelet(), &paths.pod_logs, &paths.container_logs);
        remove_if_empty(&paths.pod_logs);
        remove_if_empty(&paths.container_logs);
        remove_data(paths)?;
    }
    println!("The cluster is gone{}.", if keep_data { "; its data is kept" } else { "" });
    Ok(())
}

/// The cgroups above the pods', which go with the containers.
fn remove_cgroups(root: &str) -> std::io::Result<()> {
    let cgroups = Cgroups::detect()?;
    let root = root.trim_end_matches('/');
    for group in ["kubepods/burstable", "kubepods/besteffort", "kubepods"] {
        cgroups.remove(&format!("{root}/{group}"))?;
    }
    if root.is_empty() { Ok(()) } else { cgroups.remove(root) }
}

fn stop_server(paths: &Paths) -> Result<()> {
    let Some(pid) = kybern_storage::lock::holder(&paths.data) else { return Ok(()) };
    process::terminate(pid, END_TIMEOUT).with_context(|| format!("cannot stop the server, process {pid}"))
}

/// All but the registries' settings, which the user has made.
fn remove_data(paths: &Paths) -> Result<()> {
    for entry in std::fs::read_dir(&paths.data).into_iter().flatten().flatten() {
        if entry.path() == paths.registries() {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        } else {
            let removed = std::fs::remove_file(entry.path());
            removed.with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    remove_if_empty(&paths.data);
    Ok(())
}

/// Others may keep things there, too.
fn remove_if_empty(path: &Path) {
    let _ = std::fs::remove_dir(path);
}

fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
