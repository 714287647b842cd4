//! What pods leave behind, and removing it: once a pod is gone, and at the start for pods that went unseen.

use std::collections::BTreeSet;
use std::path::Path;

use kybern_api::core::v1::Pod;
use kybern_cri::CriError;

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

/// Removes the directories of pods that nobody knows any more.
pub async fn remove_directories(shared: &Shared, known: BTreeSet<String>) {
    let root = shared.config.root_dir.clone();
    let work = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(root.join("pods")).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !known.contains(&uid)
                && let Err(error) = setup::remove_pod_dir(&root, &uid)
            {
                tracing::warn!(%error, uid, "cannot remove an orphaned pod's directory");
            }
        }
    });
    let _ = work.await;
}
