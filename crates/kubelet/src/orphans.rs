//! What pods leave behind, and removing it: once a pod is gone, and at the start for pods that went unseen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kybern_api::core::v1::Pod;
use kybern_cri::CriError;
use kybern_linux::cgroup::Cgroups;

use crate::kubelet::RuntimePod;
use crate::pod::{config, resources, spec};
use crate::shared::Shared;
use crate::volume::setup;

/// Removes a pod's directory, logs and cgroup.
pub async fn remove_traces(shared: &Shared, pod: &Pod) {
    if let Some(cgroups) = &shared.cgroups {
        let group = resources::cgroup_parent(&shared.facts.cgroup_root, pod, spec::spec(pod));
        if let Err(error) = cgroups.remove(&group) {
            tracing::debug!(%error, group, "cannot remove a pod's cgroup");
        }
    }
    let (root, uid) = (shared.config.root_dir.clone(), spec::uid(pod).to_owned());
    let logs = config::log_directory(&shared.facts.pod_logs, pod);
    let links = shared.config.container_logs_dir.clone();
    let prefix = format!("{}_{}_", spec::name(pod), spec::namespace(pod));
    let removed = tokio::task::spawn_blocking(move || {
        remove_links(&links, &prefix, Path::new(&logs));
        let _ = std::fs::remove_dir_all(&logs);
        setup::remove_pod_dir(&root, &uid)
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, pod = %spec::full_name(pod), "cannot remove a pod's directory"),
        Err(error) => tracing::warn!(%error, "cannot remove a pod's directory"),
    }
}

/// Removes the links by which a pod's logs were found.
fn remove_links(links: &Path, prefix: &str, logs: &Path) {
    for entry in std::fs::read_dir(links).into_iter().flatten().flatten() {
        let named = entry.file_name().to_string_lossy().starts_with(prefix);
        if named && std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(logs)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Stops and removes what runs of pods that the API does not know.
pub async fn remove_unknown(shared: &Shared, unknown: Vec<RuntimePod>) {
    for pod in unknown {
        tracing::info!(uid = pod.uid, "removing a pod that the API server does not know any more");
        for id in &pod.ids.sandboxes {
            let stopped = shared.runtime.stop_pod_sandbox(id).await;
            let removed = shared.runtime.remove_pod_sandbox(id).await;
            match stopped.and(removed) {
                Ok(()) | Err(CriError::NotFound(_)) => {}
                Err(error) => tracing::warn!(%error, sandbox = id, "cannot remove an orphaned sandbox"),
            }
        }
    }
}

/// Removes the directories, logs and cgroups of pods that nobody knows any more. Only a pod whose directory is here was
/// this node's: logs and cgroups of others are left alone.
pub async fn remove_directories(shared: &Shared, known: BTreeSet<String>) {
    let places = Places {
        root: shared.config.root_dir.clone(),
        logs: shared.config.pod_logs_dir.clone(),
        links: shared.config.container_logs_dir.clone(),
        cgroups: shared.cgroups.clone(),
        cgroup_root: shared.facts.cgroup_root.trim_end_matches('/').to_owned(),
    };
    let work = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(places.root.join("pods")).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !known.contains(&uid) {
                places.remove(&uid);
            }
        }
    });
    let _ = work.await;
}

/// Where a pod leaves traces.
struct Places {
    root: PathBuf,
    logs: PathBuf,
    links: PathBuf,
    cgroups: Option<Cgroups>,
    cgroup_root: String,
}

impl Places {
    fn remove(&self, uid: &str) {
        for class in ["", "burstable/", "besteffort/"] {
            let group = format!("{}/kubepods/{class}pod{uid}", self.cgroup_root);
            if let Some(cgroups) = &self.cgroups
                && cgroups.directories(&group).iter().any(|dir| dir.exists())
                && let Err(error) = cgroups.remove(&group)
            {
                tracing::warn!(%error, group, "cannot remove an orphaned pod's cgroup");
            }
        }
        remove_logs(&self.logs, &self.links, uid);
        if let Err(error) = setup::remove_pod_dir(&self.root, uid) {
            tracing::warn!(%error, uid, "cannot remove an orphaned pod's directory");
        }
    }
}

fn remove_logs(logs: &Path, links: &Path, uid: &str) {
    let suffix = format!("_{uid}");
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(&suffix) {
            remove_links(links, "", &entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes the logs of all pods of the kubelet whose directory is `root`, which does not run any more.
pub fn purge_logs(root: &Path, logs: &Path, links: &Path) {
    for entry in std::fs::read_dir(root.join("pods")).into_iter().flatten().flatten() {
        remove_logs(logs, links, &entry.file_name().to_string_lossy());
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
        places.remove("u1");
        assert!(!own.exists() && !pod.exists() && other.exists());
        let left: Vec<_> = std::fs::read_dir(links).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["p_ns_c-2.log"]);
    }
}
