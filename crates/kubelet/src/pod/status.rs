//! The status that a pod shows: a pure function of its spec, its last status, what runs and what is remembered.

use jiff::Timestamp;
use kybern_api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use kybern_api::meta::v1::Time;
use kybern_cri::{ContainerState as RunState, ContainerStatus as Observation};

use super::conditions;
use super::memory::Memory;
use super::observed::{Observed, restart_count, time_of, whole_seconds};
use super::plan::is_terminating;
use super::spec::{self, ContainerKind};
use super::{resources, security};

/// What of the node appears in every pod's status.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// The scheme of container ids, `kybern`.
    pub runtime: String,
}

/// `generateAPIPodStatus`. `old` is the status as it was last published.
pub fn pod_status(
    pod: &Pod,
    old: &PodStatus,
    observed: &Observed,
    memory: &Memory,
    node: &NodeView,
    now: Timestamp,
) -> PodStatus {
    let spec = spec::spec(pod);
    let view = View { pod, observed, memory, node, old };
    let (mut init, mut main, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, container) in spec::containers(pod) {
        let status = view.container(kind, &container);
        match kind {
            ContainerKind::Init | ContainerKind::Sidecar => init.push(status),
            ContainerKind::Main => main.push(status),
            ContainerKind::Ephemeral => ephemeral.push(status),
        }
    }
    let mut status = PodStatus {
        observed_generation: pod.metadata.generation,
        qos_class: Some(resources::qos_class(spec).as_str().to_owned()),
        start_time: old.start_time.clone().or(Some(Time(whole_seconds(now)))),
        host_ip: node.host_ips.first().cloned(),
        host_ips: Some(node.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        nominated_node_name: old.nominated_node_name.clone(),
        message: old.message.clone().filter(|_| spec::has_ended(pod)),
        reason: old.reason.clone().filter(|_| spec::has_ended(pod)),
        ..Default::default()
    };
    let ips: Vec<String> = if spec::host_network(pod) {
        node.host_ips.clone()
    } else {
        let of_sandbox = observed.sandboxes().first().map(|s| s.ips.clone()).unwrap_or_default();
        if of_sandbox.is_empty() { old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect() } else { of_sandbox }
    };
    if !ips.is_empty() {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
    let mut phase = phase(pod, &init, &main);
    // A pod is not over while something of it still runs, and what is over stays over.
    let running = observed.running().next().is_some();
    if spec::has_ended(pod) {
        phase = if spec::phase(pod) == "Failed" { "Failed" } else { "Succeeded" };
    } else if running && matches!(phase, "Succeeded" | "Failed") && !is_terminating(pod, memory) {
        phase = "Running";
    }
    if let Some(failure) = &memory.failure {
        status.reason = Some(failure.reason.clone());
        status.message = Some(failure.message.clone());
        if failure.rejected {
            return PodStatus {
                phase: Some("Failed".into()),
                reason: status.reason,
                message: Some(format!("Pod was rejected: {}", failure.message)),
                qos_class: status.qos_class,
                start_time: status.start_time,
                observed_generation: status.observed_generation,
                ..Default::default()
            };
        }
        if !spec::has_ended(pod) {
            phase = "Failed";
        }
    }
    let ended = matches!(phase, "Succeeded" | "Failed");
    if spec::is_deleting(pod) && !running && !ended && memory.torn_down {
        // What was never started, or was stopped before it could end, is recorded as ended.
        for status in init.iter_mut().chain(&mut main) {
            settle(status, pod);
        }
        phase = final_phase(&main);
    }
    status.conditions = Some(conditions::conditions(pod, observed, &init, &main, phase, old, now));
    status.phase = Some(phase.to_owned());
    status.container_statuses = some(main);
    status.init_container_statuses = some(init);
    status.ephemeral_container_statuses = some(ephemeral);
    status
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn is_init(pod: &Pod, name: &str) -> bool {
    spec::init_containers(pod).iter().any(|c| c.name == name)
}

fn final_phase(main: &[ContainerStatus]) -> &'static str {
    let succeeded = |s: &ContainerStatus| terminated(s).is_some_and(|t| t.exit_code == 0);
    if main.iter().all(succeeded) { "Succeeded" } else { "Failed" }
}

pub fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

/// Records a container that waits as ended, once its pod is gone (`TerminatePod`).
fn settle(status: &mut ContainerStatus, pod: &Pod) {
    if terminated(status).is_some() || (is_init(pod, &status.name) && status.state.is_none()) {
        return;
    }
    if let Some(last) = status.last_state.take().filter(|last| last.terminated.is_some()) {
        status.state = Some(last);
        return;
    }
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("The container could not be located when the pod was terminated".into()),
        ..Default::default()
    };
    status.state = Some(ContainerState { terminated: Some(terminated), ..Default::default() });
}

/// `getPhase`.
fn phase(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let policy = spec::spec(pod).restart_policy.as_deref().unwrap_or("Always");
    let (mut pending, mut failed) = (false, false);
    for (container, status) in spec::init_containers(pod).iter().zip(init) {
        if spec::is_sidecar(container) {
            continue;
        }
        match terminated(status).map(|t| t.exit_code).or(last_exit(status)) {
            Some(0) => {}
            Some(_) => failed = true,
            None => pending = true,
        }
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in main {
        let state = status.state.as_ref();
        match terminated(status).map(|t| t.exit_code) {
            Some(code) => {
                stopped += 1;
                succeeded += i32::from(code == 0);
            }
            None if state.is_some_and(|s| s.running.is_some()) => running += 1,
            None if last_exit(status).is_some() => stopped += 1,
            None => waiting += 1,
        }
    }
    match policy {
        "Never" if failed => "Failed",
        _ if pending || failed => "Pending",
        _ if waiting > 0 => {
            if stopped > 0 {
                "Running"
            } else {
                "Pending"
            }
        }
        _ if running > 0 => "Running",
        _ if stopped == 0 => "Pending",
        "Always" => "Running",
        _ if stopped == succeeded => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

fn is_of(state: &ContainerState, id: &str) -> bool {
    state.terminated.as_ref().is_some_and(|t| t.container_id.as_deref() == Some(id))
}

fn last_exit(status: &ContainerStatus) -> Option<i32> {
    Some(status.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

struct View<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    node: &'a NodeView,
    old: &'a PodStatus,
}

impl View<'_> {
    fn old(&self, name: &str) -> Option<&ContainerStatus> {
        let lists =
            [&self.old.container_statuses, &self.old.init_container_statuses, &self.old.ephemeral_container_statuses];
        lists.into_iter().flatten().flatten().find(|s| s.name == name)
    }

    fn container(&self, kind: ContainerKind, container: &Container) -> ContainerStatus {
        let name = &container.name;
        let old = self.old(name);
        let mut starts = self.observed.starts(name);
        let mut status = match starts.next() {
            Some(latest) => {
                self.seen(kind, container, latest, starts.find(|s| s.container.state == RunState::Exited), old)
            }
            None => self.unseen(kind, container, old),
        };
        if let Some(waiting) = self.memory.waiting.get(name) {
            let runs = status.state.as_ref().is_some_and(|s| s.running.is_some());
            let over = terminated(&status).is_some_and(|t| !self.restarts(kind, container, t.exit_code));
            if !runs && !over && !is_terminating(self.pod, self.memory) {
                if let Some(ended) = status.state.take().filter(|s| s.terminated.is_some()) {
                    status.last_state = Some(ended);
                }
                status.state = Some(wait(&waiting.reason, Some(&waiting.message)));
            }
        }
        status.volume_mounts = some(self.mounts(container));
        status
    }

    fn restarts(&self, kind: ContainerKind, container: &Container, code: i32) -> bool {
        match kind {
            ContainerKind::Init => spec::init_restarts(self.pod, container, code),
            ContainerKind::Sidecar => true,
            ContainerKind::Main => spec::restarts(self.pod, container, code),
            ContainerKind::Ephemeral => false,
        }
    }

    /// A container that was never started, or whose every trace is gone.
    fn unseen(&self, kind: ContainerKind, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
        if let Some(old) = old.filter(|old| old.container_id.is_some()) {
            let mut kept = old.clone();
            if kept.state.as_ref().is_some_and(|s| s.running.is_some()) {
                kept.last_state = None;
                kept.ready = false;
                kept.started = Some(false);
                kept.state = Some(wait(self.initial_reason(kind), None));
                settle(&mut kept, self.pod);
            }
            if !is_terminating(self.pod, self.memory) && kind == ContainerKind::Main {
                if let Some(ended) = kept.state.take() {
                    kept.last_state = Some(ended);
                }
                kept.state = Some(wait(self.initial_reason(kind), None));
            }
            return kept;
        }
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            started: (kind != ContainerKind::Ephemeral).then_some(false),
            state: Some(wait(self.initial_reason(kind), None)),
            last_state: Some(ContainerState::default()),
            ..Default::default()
        }
    }

    fn initial_reason(&self, kind: ContainerKind) -> &'static str {
        let has_init = !spec::init_containers(self.pod).is_empty();
        let initializing =
            matches!(kind, ContainerKind::Main | ContainerKind::Init | ContainerKind::Sidecar) && has_init;
        if initializing { "PodInitializing" } else { "ContainerCreating" }
    }

    fn seen(
        &self,
        kind: ContainerKind,
        container: &Container,
        latest: &Observation,
        previous: Option<&Observation>,
        old: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let seen = &latest.container;
        let id = format!("{}://{}", self.node.runtime, seen.id);
        let running = seen.state == RunState::Running;
        let state = match seen.state {
            RunState::Running => ContainerState {
                running: Some(ContainerStateRunning { started_at: seconds(latest.started_at) }),
                ..Default::default()
            },
            RunState::Exited => ended(latest, &self.node.runtime),
            RunState::Created | RunState::Unknown => wait(self.initial_reason(kind), None),
        };
        let old_last = old.filter(|o| i64::from(o.restart_count) == i64::from(restart_count(latest)));
        let last_state = match previous {
            Some(previous) => ended(previous, &self.node.runtime),
            // What was shown as the last state while this start waited to be followed by another is its own end.
            None => old_last.and_then(|o| o.last_state.clone()).filter(|last| !is_of(last, &id)).unwrap_or_default(),
        };
        let probed = self.memory.probed.get(&seen.id);
        let starting = self.memory.is_starting(&container.name);
        let started = running && !starting && (container.startup_probe.is_none() || probed.is_some_and(|p| p.started));
        let ready = match kind {
            ContainerKind::Ephemeral => false,
            ContainerKind::Init => seen.state == RunState::Exited && latest.exit_code == 0,
            _ => started && (container.readiness_probe.is_none() || probed.is_some_and(|p| p.ready)),
        };
        let resources = container.resources.clone().map(|r| ResourceRequirements { claims: None, ..r });
        let wanted = container.resources.as_ref().and_then(|r| r.requests.clone());
        ContainerStatus {
            name: container.name.clone(),
            state: Some(state),
            last_state: Some(last_state),
            ready,
            restart_count: i32::try_from(restart_count(latest)).unwrap_or(i32::MAX),
            image: if seen.image.is_empty() { container.image.clone().unwrap_or_default() } else { seen.image.clone() },
            image_id: seen.image_ref.clone(),
            container_id: Some(id),
            started: (kind != ContainerKind::Ephemeral).then_some(started),
            allocated_resources: wanted.filter(|_| kind != ContainerKind::Ephemeral),
            resources: resources.filter(|_| running),
            user: running.then(|| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: latest.uid,
                    gid: latest.gid,
                    supplemental_groups: Some(security::reported_groups(self.pod, latest.gid)),
                }),
            }),
            ..Default::default()
        }
    }

    fn mounts(&self, container: &Container) -> Vec<VolumeMountStatus> {
        let mounts = container.volume_mounts.iter().flatten();
        mounts
            .map(|m| VolumeMountStatus {
                name: m.name.clone(),
                mount_path: m.mount_path.clone(),
                read_only: m.read_only.filter(|r| *r),
                recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".to_owned()),
            })
            .collect()
    }
}

fn seconds(nanoseconds: i64) -> Option<Time> {
    time_of(nanoseconds).map(|time| Time(whole_seconds(time)))
}

fn wait(reason: &str, message: Option<&str>) -> ContainerState {
    let message = message.filter(|m| !m.is_empty()).map(str::to_owned);
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..Default::default()
    }
}

/// How a container ended. A signal's exit code is 128 and the signal.
fn ended(status: &Observation, runtime: &str) -> ContainerState {
    let reason = match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let terminated = ContainerStateTerminated {
        container_id: Some(format!("{runtime}://{}", status.container.id)),
        exit_code: status.exit_code,
        reason: Some(reason.to_owned()),
        message: Some(status.message.clone()).filter(|m| !m.is_empty()),
        started_at: seconds(status.started_at),
        finished_at: seconds(status.finished_at),
        signal: None,
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
