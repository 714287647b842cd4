//! Looking at what the runtime holds of a pod.

use std::collections::BTreeSet;
use std::sync::Arc;

use kybern_cri::{ContainerState, ContainerStatus, CriError};

use super::Worker;
use crate::pod::{Observed, labels, observed, spec};
use crate::volume::mounts;

const MAX_MESSAGE: usize = 4096;
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// The ids under which the runtime may hold something of a pod.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    pub sandboxes: BTreeSet<String>,
    pub containers: BTreeSet<String>,
}

impl Worker {
    pub(super) async fn observe(&mut self) {
        let (mut sandboxes, mut containers) = (Vec::new(), Vec::new());
        for id in self.ids.sandboxes.clone() {
            match self.shared.runtime.pod_sandbox_status(&id).await {
                Ok(status) => sandboxes.push(status),
                Err(CriError::NotFound(_)) => {
                    self.ids.sandboxes.remove(&id);
                }
                Err(error) => self.observe_later(&error),
            }
        }
        for id in self.ids.containers.clone() {
            match self.shared.runtime.container_status(&id).await {
                Ok(status) => containers.push(status),
                Err(CriError::NotFound(_)) => {
                    self.ids.containers.remove(&id);
                    self.last_words.remove(&id);
                }
                Err(error) => self.observe_later(&error),
            }
        }
        for status in &mut containers {
            if status.container.state == ContainerState::Exited {
                status.message = self.last_words(status).await;
            }
        }
        let known = &self.ids.containers;
        self.memory.probed.retain(|id, _| known.contains(id));
        self.hooked.retain(|id| known.contains(id));
        self.announced.retain(|id| known.contains(id));
        self.observed = Arc::new(Observed::new(sandboxes, containers));
        self.view.send_modify(|view| view.observed = self.observed.clone());
    }

    fn observe_later(&mut self, error: &CriError) {
        tracing::warn!(pod = %spec::full_name(&self.pod), %error, "cannot read the state of a container");
    }

    /// The termination message: the file's content, else (by policy) the end of the log, else the runtime's word.
    async fn last_words(&mut self, status: &ContainerStatus) -> String {
        let id = &status.container.id;
        if let Some(words) = self.last_words.get(id) {
            return words.clone();
        }
        let (name, attempt) = (&status.container.metadata.name, observed::restart_count(status));
        let path = mounts::termination_log(&self.shared.config.root_dir, spec::uid(&self.pod), name, attempt);
        let from_log = status.container.annotations.get(labels::TERMINATION_MESSAGE_POLICY).map(String::as_str)
            == Some("FallbackToLogsOnError")
            && status.exit_code != 0;
        let log = status.log_path.clone();
        let words = tokio::task::spawn_blocking(move || {
            let mut words = read_start(&path, MAX_MESSAGE);
            if words.is_empty() && from_log {
                words = crate::server::logs::tail_text(log.as_ref(), MAX_LOG_LINES, MAX_LOG_MESSAGE);
            }
            words
        });
        let mut words = words.await.unwrap_or_default();
        if words.is_empty() {
            words = status.message.clone();
        }
        self.last_words.insert(id.clone(), words.clone());
        words
    }
}

fn read_start(path: &std::path::Path, limit: usize) -> String {
    use std::io::Read;
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        let _ = file.take(limit as u64).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
