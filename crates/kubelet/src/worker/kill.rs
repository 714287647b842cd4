//! Stopping containers, and taking down a pod of which nothing runs any more.

use std::time::{Duration, Instant};

use super::steps::Done;
use super::{Worker, hooks};
use crate::orphans;
use crate::pod::memory::StepKey;
use crate::pod::spec;
use crate::volume::setup;

/// What a hook leaves of the grace period is never less than this, as upstream has it.
const MIN_GRACE: Duration = Duration::from_secs(2);

/// How long to wait after a failure, so that a runtime in trouble is not pressed.
const RETRY: Duration = Duration::from_secs(2);

/// How long at most.
const MAX_RETRY: Duration = Duration::from_secs(60);

impl Worker {
    pub(super) fn kill(&mut self, id: String, name: String, message: String, grace: Duration) {
        if self.announced.insert(id.clone()) {
            self.shared.events.normal(&self.pod, Some(&name), "Killing", message);
        }
        let container = spec::container(&self.pod, &name).map(|(_, c)| c);
        let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.clone());
        let hook = hook.filter(|_| self.hooked.insert(id.clone()));
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let ips = self.observed.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        let ip = if spec::host_network(&pod) { shared.view.host_ips.first().cloned() } else { ips.first().cloned() };
        let drained_at = self.drained_at.filter(|_| !self.gone);
        self.step(StepKey::Kill(id.clone()), async move {
            let begun = Instant::now();
            if let (Some(hook), Some(container)) = (hook, &container) {
                let ran = hooks::run(&shared, &hook, container, &id, ip.as_deref().unwrap_or(""));
                match tokio::time::timeout(grace, ran).await {
                    Ok(Ok(())) => {}
                    Ok(Err(cause)) => {
                        tracing::info!(pod = %spec::full_name(&pod), container = name, cause, "pre-stop hook failed");
                        shared.events.warning(&pod, Some(&name), "FailedPreStopHook", "PreStopHook failed");
                    }
                    Err(_) => {
                        tracing::info!(pod = %spec::full_name(&pod), container = name, "pre-stop hook ran out of grace")
                    }
                }
            }
            let hook_took = begun.elapsed();
            let left = if hook_took < Duration::from_millis(10) {
                grace
            } else {
                grace.saturating_sub(hook_took).max(MIN_GRACE)
            };
            let drain = drained_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            tokio::time::sleep(drain).await;
            let left = left.saturating_sub(drain).max(left / 2);
            let stopped = shared.runtime.stop_container(&id, left).await;
            if stopped.is_err() {
                tokio::time::sleep(RETRY).await;
            }
            Done::Killed(stopped.map_err(|e| e.to_string()))
        });
    }

    pub(super) fn tear_down(&mut self) {
        let (shared, pod, ids) = (self.shared.clone(), self.pod.clone(), self.ids.clone());
        let wait = (RETRY * 2_u32.pow(self.failures.min(10))).min(MAX_RETRY);
        self.step(StepKey::Teardown, async move {
            let work = async {
                let (root, uid) = (shared.config.root_dir.clone(), spec::uid(&pod).to_owned());
                // Not only what was seen of it: the runtime may have made more.
                let held = orphans::list(shared.runtime.as_ref()).await.map_err(|e| e.to_string())?;
                let held = held.get(&uid).map(|held| held.ids.sandboxes.clone()).unwrap_or_default();
                for id in ids.sandboxes.union(&held) {
                    shared.runtime.stop_pod_sandbox(id).await.map_err(|e| e.to_string())?;
                }
                let own = uid.clone();
                let removed = tokio::task::spawn_blocking(move || setup::remove_volumes(&root, &own)).await;
                removed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
                shared.holders.release(&uid);
                Ok(())
            };
            let done: Result<(), String> = work.await;
            if done.is_err() {
                tokio::time::sleep(wait).await;
            }
            Done::TornDown(done)
        });
    }
}
