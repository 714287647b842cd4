//! What to do next for one pod: a pure function of its spec, of what runs and of what is remembered.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Container, Pod};
use kybern_cri::{ContainerState, ContainerStatus};

use super::labels;
use super::memory::{CRASH_LOOP_BACK_OFF, ERR_IMAGE_PULL, Memory, StepKey, crash_key};
use super::observed::{Observed, restart_count, time_of};
use super::spec::{self, ContainerKind};

/// One thing to do. Each is idempotent or harmless when the world has moved on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make the volumes' contents.
    PrepareVolumes,
    CreateSandbox {
        attempt: u32,
    },
    /// Pull the image if needed, create, start, run the post-start hook.
    Start {
        container: String,
        attempt: u32,
    },
    /// Run the pre-stop hook, stop, kill after `grace`.
    Kill {
        id: String,
        container: String,
        message: String,
        grace: Duration,
    },
    /// Say that a crashed container waits.
    BackOffCrash {
        container: String,
        until: Timestamp,
    },
    /// Say that a failed pull waits.
    BackOffPull {
        container: String,
    },
    /// Fail the whole pod.
    Fail {
        reason: &'static str,
        message: &'static str,
    },
    RemoveContainer {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Nothing of the pod runs any more: stop the sandboxes, unmount the volumes.
    Teardown,
}

/// What to do now, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |have| have.min(at)));
    }
}

/// How long a failed pull is shown as `ErrImagePull` before it is shown as waiting.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

const DEADLINE: (&str, &str) = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");

/// Whether the pod is on its way out: deleted, failed by the kubelet, or recorded as ended.
pub fn is_terminating(pod: &Pod, memory: &Memory) -> bool {
    spec::is_deleting(pod) || memory.gone || memory.failure.is_some() || spec::has_ended(pod)
}

/// The pod's next steps.
pub fn plan_pod(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if is_terminating(pod, memory) || is_finished(pod, observed) {
        plan_termination(pod, observed, memory, &mut plan);
        return plan;
    }
    if let Some(deadline) = deadline(pod) {
        if now >= deadline {
            plan.actions.push(Action::Fail { reason: DEADLINE.0, message: DEADLINE.1 });
            return plan;
        }
        plan.wake(deadline);
    }
    remove_dead(observed, memory, &mut plan);
    if observed.ready_sandbox().is_none() {
        plan_sandbox(pod, observed, memory, now, &mut plan);
        return plan;
    }
    if memory.busy.contains(&StepKey::Sandbox) {
        return plan;
    }
    remove_old_sandboxes(observed, memory, &mut plan);
    kill_strays(pod, observed, memory, &mut plan);
    if !memory.volumes_ready {
        prepare_volumes(memory, now, &mut plan);
        return plan;
    }
    let mut walk = Walk { pod, observed, memory, now, plan: &mut plan, starting: memory.is_any_starting() };
    if walk.init() {
        walk.main();
    }
    plan
}

fn deadline(pod: &Pod) -> Option<Timestamp> {
    let seconds = spec::spec(pod).active_deadline_seconds?;
    spec::start_time(pod)?.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Whether every main container has ended and none will be started again, or an init container failed for good.
pub fn is_finished(pod: &Pod, observed: &Observed) -> bool {
    let ended_for_good = |container: &Container| {
        observed.latest(&container.name).is_some_and(|status| {
            status.container.state == ContainerState::Exited && !spec::restarts(pod, container, status.exit_code)
        })
    };
    let main = &spec::spec(pod).containers;
    init_failed(pod, observed) || (!main.is_empty() && main.iter().all(ended_for_good))
}

/// Whether an init container failed and will not be started again.
pub fn init_failed(pod: &Pod, observed: &Observed) -> bool {
    spec::init_containers(pod).iter().filter(|c| !spec::is_sidecar(c)).any(|container| {
        observed.latest(&container.name).is_some_and(|status| {
            status.container.state == ContainerState::Exited
                && status.exit_code != 0
                && !spec::init_restarts(pod, container, status.exit_code)
        })
    })
}

fn plan_termination(pod: &Pod, observed: &Observed, memory: &Memory, plan: &mut Plan) {
    let grace = spec::grace_period(pod);
    let sidecars: Vec<&str> =
        spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c)).map(|c| c.name.as_str()).collect();
    let is_sidecar = |c: &&ContainerStatus| sidecars.contains(&c.container.metadata.name.as_str());
    let mut targets: Vec<&ContainerStatus> = observed.running().filter(|c| !is_sidecar(c)).collect();
    if targets.is_empty() {
        // Sidecars outlive the containers that they serve, and stop in the reverse of their order of start.
        targets = sidecars
            .iter()
            .rev()
            .find_map(|name| observed.running().find(|c| c.container.metadata.name == *name))
            .into_iter()
            .collect();
    }
    for status in &targets {
        kill(memory, plan, status, format!("Stopping container {}", status.container.metadata.name), grace);
    }
    if targets.is_empty() && observed.running().next().is_none() && memory.busy.is_empty() && !memory.torn_down {
        plan.actions.push(Action::Teardown);
    }
}

fn kill(memory: &Memory, plan: &mut Plan, status: &ContainerStatus, message: String, grace: Duration) {
    let (id, container) = (status.container.id.clone(), status.container.metadata.name.clone());
    if !memory.is_killing(&id) {
        plan.actions.push(Action::Kill { id, container, message, grace });
    }
}

/// Of each container's ended starts the newest is kept, for its status and its log. What never ran is of no use once there is
/// a newer one.
fn remove_dead(observed: &Observed, memory: &Memory, plan: &mut Plan) {
    let (mut seen, mut ended) = (BTreeSet::new(), BTreeSet::new());
    for status in observed.containers() {
        let name = &status.container.metadata.name;
        let newest = seen.insert(name);
        let superfluous = match status.container.state {
            // The one before says since when the restart backs off.
            ContainerState::Exited if newest && memory.is_condemned(&status.container.id) => false,
            ContainerState::Exited => !ended.insert(name),
            ContainerState::Created => !newest,
            _ => false,
        };
        let id = &status.container.id;
        if superfluous && !memory.is_starting(name) && !memory.busy.contains(&StepKey::Remove(id.clone())) {
            plan.actions.push(Action::RemoveContainer { id: id.clone() });
        }
    }
}

/// Since when a restart backs off: the end of the last start, or of the one before where a probe ended the last, for whose
/// end the container is to run again at once.
pub fn backs_off_since(observed: &Observed, memory: &Memory, name: &str) -> Option<Timestamp> {
    let mut starts = observed.starts(name).filter(|s| s.container.state != ContainerState::Created);
    let latest = starts.next()?;
    let counted = if memory.is_condemned(&latest.container.id) { starts.next()? } else { latest };
    time_of(counted.finished_at)
}

/// An older sandbox stays as long as it holds the last start of a container.
fn remove_old_sandboxes(observed: &Observed, memory: &Memory, plan: &mut Plan) {
    for old in observed.sandboxes().iter().skip(1) {
        let id = &old.sandbox.id;
        let holds = observed.containers().iter().any(|c| c.container.pod_sandbox_id == *id);
        if !holds && !memory.busy.contains(&StepKey::Remove(id.clone())) {
            plan.actions.push(Action::RemoveSandbox { id: id.clone() });
        }
    }
}

fn prepare_volumes(memory: &Memory, now: Timestamp, plan: &mut Plan) {
    if memory.busy.contains(&StepKey::Volumes) {
        return;
    }
    match memory.retry_at {
        Some(at) if at > now => plan.wake(at),
        _ => plan.actions.push(Action::PrepareVolumes),
    }
}

fn plan_sandbox(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp, plan: &mut Plan) {
    // Containers of a sandbox that died go with it.
    let mut running = false;
    for status in observed.running() {
        running = true;
        let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        kill(memory, plan, status, message, spec::grace_period(pod));
    }
    if running || memory.busy.contains(&StepKey::Sandbox) {
        return;
    }
    if !memory.volumes_ready {
        prepare_volumes(memory, now, plan);
        return;
    }
    match memory.retry_at {
        Some(at) if at > now => plan.wake(at),
        _ => {
            remove_old_sandboxes(observed, memory, plan);
            plan.actions.push(Action::CreateSandbox { attempt: observed.next_attempt() });
        }
    }
}

/// Running containers that the spec does not know any more, or that belong to an older sandbox.
fn kill_strays(pod: &Pod, observed: &Observed, memory: &Memory, plan: &mut Plan) {
    let sandbox = observed.ready_sandbox().map(|s| s.sandbox.id.as_str());
    for status in observed.running() {
        let known = spec::container(pod, &status.container.metadata.name).is_some();
        if !known || Some(status.container.pod_sandbox_id.as_str()) != sandbox {
            let message = format!("Stopping container {}", status.container.metadata.name);
            kill(memory, plan, status, message, spec::grace_period(pod));
        }
    }
}

/// The walk over the containers in their order of start.
struct Walk<'a, 'p> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
    plan: &'p mut Plan,
    /// A container is being started: the next one waits for it.
    starting: bool,
}

impl<'a> Walk<'a, '_> {
    /// Whether initialization is complete.
    fn init(&mut self) -> bool {
        let initialized = self.any_main_created();
        for container in spec::init_containers(self.pod) {
            let status = self.in_sandbox(&container.name);
            if spec::is_sidecar(container) {
                let up = self.keep_running(container, ContainerKind::Sidecar, status);
                if !up && !initialized {
                    return false;
                }
                continue;
            }
            if initialized {
                continue;
            }
            match status.map(|s| (s.container.state, s.exit_code)) {
                Some((ContainerState::Exited, 0)) => {}
                Some((ContainerState::Running, _)) => return false,
                _ => {
                    self.start(container, status);
                    return false;
                }
            }
        }
        true
    }

    fn main(&mut self) {
        for (kind, container) in spec::containers(self.pod) {
            match kind {
                ContainerKind::Main => {
                    let status = self.observed.latest(&container.name);
                    self.keep_running(&container, kind, status);
                }
                ContainerKind::Ephemeral if self.observed.latest(&container.name).is_none() => {
                    self.start(&container, None)
                }
                _ => {}
            }
        }
    }

    fn any_main_created(&self) -> bool {
        spec::spec(self.pod).containers.iter().any(|c| self.in_sandbox(&c.name).is_some())
    }

    /// The newest start within the present sandbox.
    fn in_sandbox(&self, name: &str) -> Option<&'a ContainerStatus> {
        let sandbox = &self.observed.ready_sandbox()?.sandbox.id;
        self.observed.latest(name).filter(|s| s.container.pod_sandbox_id == *sandbox)
    }

    fn keep_running(&mut self, container: &Container, kind: ContainerKind, status: Option<&ContainerStatus>) -> bool {
        match status {
            Some(status) if status.container.state == ContainerState::Running => self.check(container, kind, status),
            Some(status)
                if status.container.state == ContainerState::Exited
                    && kind == ContainerKind::Main
                    && !spec::restarts(self.pod, container, status.exit_code) =>
            {
                false
            }
            _ => {
                self.start(container, status);
                false
            }
        }
    }

    /// Whether a running container is up; ends it where its definition changed or a probe condemned it.
    fn check(&mut self, container: &Container, kind: ContainerKind, status: &ContainerStatus) -> bool {
        let name = &container.name;
        let hash = format!("{:x}", labels::container_hash(container));
        let probed = self.memory.probed.get(&status.container.id);
        let changed = status.container.annotations.get(labels::CONTAINER_HASH).is_some_and(|have| *have != hash);
        let failed = probed.and_then(|p| p.failed);
        let message = match (changed, failed) {
            (true, _) => format!("Container {name} definition changed, will be restarted"),
            (false, Some(probe)) => format!("Container {name} failed {probe} probe, will be restarted"),
            (false, None) => {
                let waits = kind == ContainerKind::Sidecar && container.startup_probe.is_some();
                return !self.memory.is_starting(name) && (!waits || probed.is_some_and(|p| p.started));
            }
        };
        let probe = match failed {
            Some("startup") => container.startup_probe.as_ref(),
            Some(_) => container.liveness_probe.as_ref(),
            None => None,
        };
        let own_grace = probe.and_then(|p| p.termination_grace_period_seconds).and_then(|s| u64::try_from(s).ok());
        let grace = own_grace.map_or_else(|| spec::grace_period(self.pod), |s| Duration::from_secs(s.max(1)));
        kill(self.memory, self.plan, status, message, grace);
        false
    }

    /// Starts a container, unless it must wait.
    fn start(&mut self, container: &Container, status: Option<&ContainerStatus>) {
        let name = &container.name;
        if self.starting {
            return;
        }
        let waiting = self.memory.waiting.get(name);
        if let Some(waiting) = waiting.filter(|w| w.retry_at > self.now) {
            self.plan.wake(waiting.retry_at);
            if waiting.reason == ERR_IMAGE_PULL {
                let shown_until = waiting.since + PULL_ERROR_SHOWN;
                if self.now >= shown_until {
                    self.plan.actions.push(Action::BackOffPull { container: name.clone() });
                } else {
                    self.plan.wake(shown_until);
                }
            }
            return;
        }
        let ended = status.and_then(|_| backs_off_since(self.observed, self.memory, name));
        if let Some(left) =
            ended.and_then(|ended| self.memory.crash.get(&crash_key(container))?.remaining(ended, self.now))
        {
            let until = self.now + SignedDuration::try_from(left).unwrap_or(SignedDuration::ZERO);
            self.plan.wake(until);
            if waiting.is_none_or(|w| w.reason != CRASH_LOOP_BACK_OFF) {
                self.plan.actions.push(Action::BackOffCrash { container: name.clone(), until });
            }
            return;
        }
        // Restart counts go on over new sandboxes, and over a reboot in which the runtime has lost its containers. A container
        // that was made but never started, because a crash came between, is no restart.
        let attempt = match self.observed.latest(name) {
            Some(latest) => restart_count(latest) + u32::from(has_run(latest)),
            None => published_restarts(self.pod, name).map_or(0, |count| count + 1),
        };
        self.starting = true;
        self.plan.actions.push(Action::Start { container: name.clone(), attempt });
    }
}

fn has_run(status: &ContainerStatus) -> bool {
    status.container.state != ContainerState::Created
}

/// How often the API says that a container was restarted; `None` when it was never started.
fn published_restarts(pod: &Pod, name: &str) -> Option<u32> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == name && s.container_id.is_some())?;
    u32::try_from(found.restart_count).ok()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
