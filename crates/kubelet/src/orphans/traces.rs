//! A pod's directories, logs and control groups, once nothing of it runs.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use kybern_linux::cgroup::Cgroups;
use kybern_linux::remove::{Mounts, remove_tree};

use crate::shared::Shared;
use crate::volume::setup;

/// The names in a directory; none where there is no such.
pub(super) fn directories(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Where pods leave traces.
#[derive(Clone)]
pub(super) struct Places {
    root: PathBuf,
    logs: PathBuf,
    links: PathBuf,
    cgroups: Option<Cgroups>,
    cgroup_root: String,
}

/// The log directories of pods and the links to what is in them, by uid: read once for many pods.
#[derive(Default)]
pub(super) struct Logs(BTreeMap<String, Vec<PathBuf>>);

impl Logs {
    /// Takes what belongs to one pod, the links first.
    pub(super) fn take(&mut self, uid: &str) -> Vec<PathBuf> {
        self.0.remove(uid).unwrap_or_default()
    }
}

impl Places {
    pub(super) fn of(shared: &Shared) -> Self {
        Self {
            root: shared.config.root_dir.clone(),
            logs: shared.config.pod_logs_dir.clone(),
            links: shared.config.container_logs_dir.clone(),
            cgroups: shared.cgroups.clone(),
            cgroup_root: shared.facts.cgroup_root.trim_end_matches('/').to_owned(),
        }
    }

    pub(super) fn logs(&self) -> Logs {
        logs(&self.logs, &self.links)
    }

    /// Removes a pod's groups, logs and, last, its directory: by it the rest is found again.
    pub(super) fn remove(&self, uid: &str, logs: &[PathBuf]) -> io::Result<()> {
        if let Some(cgroups) = &self.cgroups {
            for class in ["", "burstable/", "besteffort/"] {
                cgroups.remove(&format!("{}/kubepods/{class}pod{uid}", self.cgroup_root))?;
            }
        }
        logs.iter().try_for_each(|path| remove(path))?;
        setup::remove_pod_dir(&self.root, uid)
    }
}

/// The uid at the end of the name of a pod's log directory.
fn uid_of(name: &str) -> Option<&str> {
    name.rsplit_once('_').map(|(_, uid)| uid)
}

fn logs(logs: &Path, links: &Path) -> Logs {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for name in directories(links) {
        let link = links.join(name);
        let target = std::fs::read_link(&link).unwrap_or_default();
        let pod = target.strip_prefix(logs).ok().and_then(|path| path.iter().next()?.to_str());
        if let Some(uid) = pod.and_then(uid_of) {
            found.entry(uid.to_owned()).or_default().push(link);
        }
    }
    for name in directories(logs) {
        if let Some(uid) = uid_of(&name) {
            found.entry(uid.to_owned()).or_default().push(logs.join(&name));
        }
    }
    Logs(found)
}

/// Removes a link or a directory, where there is one.
fn remove(path: &Path) -> io::Result<()> {
    remove_tree(path, Mounts::Refuse)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Removes the logs of all pods of the kubelet whose directory is `root`, which does not run any more.
pub fn purge_logs(root: &Path, logs: &Path, links: &Path) {
    let mut found = self::logs(logs, links);
    for uid in directories(&root.join("pods")) {
        for path in found.take(&uid) {
            let _ = remove(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelets_logs_are_purged_and_nobody_elses() {
        let temp = tempfile::tempdir().unwrap();
        let path = |path: &str| temp.path().join(path);
        for made in ["kubelet/pods/u1", "logs/ns_p_u1/c", "logs/ns_p_u2/c", "links"] {
            std::fs::create_dir_all(path(made)).unwrap();
        }
        std::os::unix::fs::symlink(path("logs/ns_p_u1/c/0.log"), path("links/p_ns_c-1.log")).unwrap();
        purge_logs(&path("kubelet"), &path("logs"), &path("links"));
        assert!(!path("logs/ns_p_u1").exists() && path("logs/ns_p_u2").exists());
        assert_eq!(std::fs::read_dir(path("links")).unwrap().count(), 0);
    }

    #[test]
    fn an_orphan_goes_with_its_logs_and_nobody_elses() {
        let temp = tempfile::tempdir().unwrap();
        let dir = |path: &str| {
            let path = temp.path().join(path);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (own, other) = (dir("logs/ns_p_u1"), dir("logs/ns_p_u2"));
        let links = dir("links");
        std::os::unix::fs::symlink(own.join("c/0.log"), links.join("p_ns_c-1.log")).unwrap();
        std::os::unix::fs::symlink(other.join("c/0.log"), links.join("p_ns_c-2.log")).unwrap();
        let pod = dir("kubelet/pods/u1/volumes");
        let root = temp.path().join("kubelet");
        let places = Places {
            root,
            logs: temp.path().join("logs"),
            links: links.clone(),
            cgroups: None,
            cgroup_root: String::new(),
        };
        places.remove("u1", &places.logs().take("u1")).unwrap();
        assert!(!own.exists() && !pod.exists() && other.exists());
        let left: Vec<_> = std::fs::read_dir(links).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["p_ns_c-2.log"]);
    }
}
