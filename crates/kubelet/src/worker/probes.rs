//! Which probes run: those of running containers, and none but the startup probe before that has succeeded.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::Worker;
use crate::pod::observed::time_of;
use crate::pod::plan::is_terminating;
use crate::pod::spec::{self, ContainerKind};
use crate::probe::ProbeKind;
use crate::probe::check::Target;
use crate::probe::prober::{self, Verdict};

/// The running probes of a pod, by container id.
pub struct Probes {
    tasks: BTreeMap<(String, ProbeKind), AbortHandle>,
    verdicts: mpsc::Sender<Verdict>,
}

impl Probes {
    pub fn new(verdicts: mpsc::Sender<Verdict>) -> Self {
        Self { tasks: BTreeMap::new(), verdicts }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Worker {
    pub(super) fn reconcile_probes(&mut self) {
        let mut wanted = BTreeMap::new();
        let terminating = is_terminating(&self.pod, &self.memory);
        let ip = match self.observed.ready_sandbox() {
            _ if spec::host_network(&self.pod) => self.shared.view.host_ips.first().cloned(),
            sandbox => sandbox.and_then(|s| s.ips.first().cloned()),
        };
        for (kind, container) in spec::containers(&self.pod) {
            if !matches!(kind, ContainerKind::Main | ContainerKind::Sidecar) {
                continue;
            }
            let running = self.observed.running().find(|s| s.container.metadata.name == container.name);
            let Some(status) = running else { continue };
            let id = &status.container.id;
            let done = self.memory.probed.get(id).cloned().unwrap_or_default();
            let started = container.startup_probe.is_none() || done.started;
            let probes = [
                (
                    ProbeKind::Startup,
                    container.startup_probe.as_ref().filter(|_| !done.started && done.failed.is_none()),
                ),
                (ProbeKind::Liveness, container.liveness_probe.as_ref().filter(|_| started && done.failed.is_none())),
                // Readiness is watched to the end, so that a stopping pod leaves its Services in time.
                (ProbeKind::Readiness, container.readiness_probe.as_ref().filter(|_| started)),
            ];
            for (probe_kind, probe) in probes {
                let Some(probe) = probe else { continue };
                if terminating && probe_kind != ProbeKind::Readiness {
                    continue;
                }
                let started_at = time_of(status.started_at).unwrap_or_else(Timestamp::now);
                wanted.insert((id.clone(), probe_kind), (probe.clone(), container.clone().into_owned(), started_at));
            }
        }
        let probes = &mut self.probes;
        probes.tasks.retain(|key, task| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for ((id, kind), (probe, container, started_at)) in wanted {
            if probes.tasks.contains_key(&(id.clone(), kind)) {
                continue;
            }
            // The address may be seen later than the container: until then every attempt would fail, and count.
            let needs_address = probe.exec.is_none();
            let Some(pod_ip) = ip.clone().or_else(|| (!needs_address).then(String::new)) else { continue };
            let target = Target { container_id: id.clone(), container, pod_ip };
            let (shared, pod, verdicts) = (self.shared.clone(), self.pod.clone(), probes.verdicts.clone());
            let task = tokio::spawn(prober::run(shared, pod, probe, kind, target, started_at, verdicts));
            probes.tasks.insert((id, kind), task.abort_handle());
        }
    }

    pub(super) fn take_verdict(&mut self, verdict: Verdict) {
        if !self.ids.containers.contains(&verdict.container_id) {
            return;
        }
        let probed = self.memory.probed.entry(verdict.container_id).or_default();
        match (verdict.kind, verdict.success) {
            (ProbeKind::Startup, true) => probed.started = true,
            (ProbeKind::Readiness, success) => probed.ready = success,
            (ProbeKind::Liveness, true) => {}
            (kind, false) => probed.failed = Some(kind.name()),
        }
    }
}
