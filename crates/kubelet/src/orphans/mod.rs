//! What pods leave behind, and removing it until it is gone: driven by what the runtime and the disk hold, not by what a task
//! remembers of its pod.

mod cleaner;
mod traces;

use std::collections::{BTreeMap, BTreeSet};

use kybern_cri::{CriError, RuntimeService};

pub use cleaner::{Cleaner, Leftovers};
pub use traces::purge_logs;

use crate::pod::labels;
use crate::shared::Shared;
use crate::worker::observe::Ids;

/// What the runtime holds of one pod.
#[derive(Clone, Debug, Default)]
pub struct RuntimePod {
    /// `namespace/name`.
    pub name: String,
    pub ids: Ids,
}

/// What the runtime holds, by the pods' uids.
pub async fn list(runtime: &dyn RuntimeService) -> Result<BTreeMap<String, RuntimePod>, CriError> {
    let mut pods: BTreeMap<String, RuntimePod> = BTreeMap::new();
    let mut by_sandbox = BTreeMap::new();
    for sandbox in runtime.list_pod_sandbox().await? {
        let pod = pods.entry(sandbox.metadata.uid.clone()).or_default();
        pod.name = format!("{}/{}", sandbox.metadata.namespace, sandbox.metadata.name);
        by_sandbox.insert(sandbox.id.clone(), sandbox.metadata.uid);
        pod.ids.sandboxes.insert(sandbox.id);
    }
    for container in runtime.list_containers().await? {
        let labelled = container.labels.get(labels::POD_UID).cloned();
        let Some(uid) = labelled.or_else(|| by_sandbox.get(&container.pod_sandbox_id).cloned()) else { continue };
        pods.entry(uid).or_default().ids.containers.insert(container.id);
    }
    Ok(pods)
}

/// The uids of which the runtime or the disk holds something and which are not known.
pub async fn unknown(shared: &Shared, is_known: impl Fn(&str) -> bool) -> Result<BTreeSet<String>, String> {
    let of_runtime = list(shared.runtime.as_ref()).await.map_err(|error| error.to_string())?;
    let pods = shared.config.root_dir.join("pods");
    let of_disk = tokio::task::spawn_blocking(move || traces::directories(&pods)).await.map_err(|e| e.to_string())?;
    let of_runtime: Vec<String> = of_runtime.into_keys().filter(|uid| !is_known(uid)).collect();
    shared.leftovers.found_orphans(of_runtime.len());
    Ok(of_runtime.into_iter().chain(of_disk.into_iter().filter(|uid| !is_known(uid))).collect())
}
