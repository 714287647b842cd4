//! `kybern down`: everything that a cluster has made, and nothing else. Works from what it finds, so it also removes what
//! a crash has left.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kybern_linux::cgroup::Cgroups;
use kybern_linux::{mount, process, remove};

use super::node;
use crate::ownership::{self, Owned, Register};
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
    // What it was started with, not what is said now, is what it has made.
    let owned = Owned::read(&paths.data)?;
    let paths = &owned.as_ref().map_or_else(|| paths.clone(), |owned| owned.paths(paths));
    let netns = owned.as_ref().map_or(Ok(None), Owned::foreign_netns);
    stop_server(paths)?;
    if still_in_use(paths) {
        bail!(
            "a kubelet is running with --run-dir={}: end it first; nothing but the server was stopped",
            paths.run.display()
        );
    }
    kybern_runtime::purge(&node::runtime_config(paths)?).context("cannot remove the containers")?;
    let all = owned.as_ref().is_none_or(|owned| owned.cgroups_made);
    remove_cgroups(paths, all).context("cannot remove the pods' cgroups")?;
    match netns {
        Ok(None) => remove_network(paths)?,
        Ok(Some(netns)) => netns.run(|| remove_network(paths).map_err(std::io::Error::other))?,
        // With the namespace went what was in it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("cannot find the cluster's network namespace"),
    }
    if ownership::network_owner(&paths.cni_config).is_none_or(|owner| owner == paths.data) {
        let _ = std::fs::remove_file(paths.cni_config.join(kybern_cni::default::CONFIG_FILE));
        remove_if_empty(&paths.cni_config);
    }
    mount::detach_below(&paths.data)?;
    mount::detach_below(&paths.run)?;
    remove_tree(&paths.run)?;
    if !keep_data {
        kybern_kubelet::orphans::purge_logs(&paths.kubelet(), &paths.pod_logs, &paths.container_logs);
        remove_if_empty(&paths.pod_logs);
        remove_if_empty(&paths.container_logs);
        remove_data(paths)?;
    }
    Register::of_machine().release(&paths.data);
    println!("The cluster is gone{}.", if keep_data { "; its data is kept" } else { "" });
    Ok(())
}

/// Bridge, addresses, links and rules in this network namespace.
fn remove_network(paths: &Paths) -> Result<()> {
    let network = node::default_network(paths, Vec::new());
    // Of a network that somebody else has put there, the bridge is theirs.
    let own = ownership::network_owner(&paths.cni_config).is_some_and(|owner| owner == paths.data);
    kybern_cni::purge(&network, own, &paths.cni_state()).context("cannot remove the pod network")?;
    kybern_proxy::driver::cleanup().context("cannot remove the Services' rules")
}

/// The pods' cgroups and those above them. Where these were there before (`all` is false), another kubelet's pods may be in
/// them: then only what was this node's goes.
fn remove_cgroups(paths: &Paths, all: bool) -> std::io::Result<()> {
    let cgroups = Cgroups::detect()?;
    let pods = ownership::kubepods(&paths.cgroup_root);
    for entry in std::fs::read_dir(paths.kubelet().join("pods")).into_iter().flatten().flatten() {
        for class in ["", "burstable/", "besteffort/"] {
            cgroups.remove(&format!("{pods}/{class}pod{}", entry.file_name().display()))?;
        }
    }
    if all {
        cgroups.remove(&pods)?;
    }
    let root = paths.cgroup_root.trim_end_matches('/');
    let above = [format!("{pods}/burstable"), format!("{pods}/besteffort"), pods, root.to_owned()];
    for group in above.iter().filter(|group| !group.is_empty()) {
        cgroups.directories(group).iter().for_each(|dir| remove_if_empty(dir));
    }
    Ok(())
}

fn stop_server(paths: &Paths) -> Result<()> {
    let Some(pid) = kybern_storage::lock::holder(&paths.data) else { return Ok(()) };
    process::terminate(pid, END_TIMEOUT).with_context(|| format!("cannot stop the server, process {pid}"))
}

/// Whether a kubelet runs that no server has started. What a killed server held is free a moment after its death.
fn still_in_use(paths: &Paths) -> bool {
    (0..40).all(|_| {
        let in_use = kybern_runtime::is_in_use(&paths.runtime_state());
        if in_use {
            std::thread::sleep(END_TIMEOUT / 100);
        }
        in_use
    })
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
    remove::remove_tree(path, remove::Mounts::Refuse).with_context(|| format!("cannot remove {}", path.display()))
}
