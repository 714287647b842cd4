use kybern_api::core::v1::{PodStatus, Probe};
use kybern_api::meta::v1::Time;
use kybern_cri::{PodSandbox, PodSandboxMetadata, PodSandboxState, PodSandboxStatus};

use super::*;
use crate::pod::backoff::Backoff;
use crate::pod::memory::{Failure, Probed, Waiting};
use crate::pod::testing::{container, pod};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn nanos(second: i64) -> i64 {
    (1_000_000 + second) * 1_000_000_000
}

/// A world to plan in: time 100, a ready sandbox, volumes made.
struct World {
    pod: Pod,
    sandboxes: Vec<PodSandboxStatus>,
    containers: Vec<ContainerStatus>,
    memory: Memory,
    now: i64,
}

fn world(containers: &[&str]) -> World {
    let pod = pod("p", containers.iter().map(|name| container(name)).collect());
    let memory = Memory { volumes_ready: true, ..Default::default() };
    World { pod, sandboxes: vec![sandbox("s0", 0, true)], containers: vec![], memory, now: 100 }
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> PodSandboxStatus {
    let state = if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady };
    let metadata = PodSandboxMetadata { attempt, ..Default::default() };
    let sandbox =
        PodSandbox { id: id.into(), metadata, state, created_at: nanos(i64::from(attempt)), ..Default::default() };
    PodSandboxStatus { sandbox, ..Default::default() }
}

fn status(name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> ContainerStatus {
    let mut status = ContainerStatus { exit_code, started_at: nanos(1), ..Default::default() };
    status.container.id = format!("{name}{attempt}");
    status.container.metadata.name = name.into();
    status.container.metadata.attempt = attempt;
    status.container.pod_sandbox_id = "s0".into();
    status.container.state = state;
    status.container.created_at = nanos(i64::from(attempt) + 1);
    if state == ContainerState::Exited {
        status.finished_at = nanos(95);
    }
    status
}

fn running(name: &str) -> ContainerStatus {
    status(name, 0, ContainerState::Running, 0)
}

fn exited(name: &str, code: i32) -> ContainerStatus {
    status(name, 0, ContainerState::Exited, code)
}

impl World {
    fn with(mut self, containers: impl IntoIterator<Item = ContainerStatus>) -> Self {
        self.containers.extend(containers);
        self
    }

    fn spec(mut self, change: impl FnOnce(&mut kybern_api::core::v1::PodSpec)) -> Self {
        change(self.pod.spec.as_mut().unwrap());
        self
    }

    fn policy(self, policy: &str) -> Self {
        self.spec(|spec| spec.restart_policy = Some(policy.into()))
    }

    fn init(self, containers: Vec<Container>) -> Self {
        self.spec(|spec| spec.init_containers = Some(containers))
    }

    fn deleted(mut self, grace: i64) -> Self {
        self.pod.metadata.deletion_timestamp = Some(Time(at(99)));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
        self
    }

    fn memory(mut self, change: impl FnOnce(&mut Memory)) -> Self {
        change(&mut self.memory);
        self
    }

    fn plan(&self) -> Plan {
        let observed = Observed::new(self.sandboxes.clone(), self.containers.clone());
        plan_pod(&self.pod, &observed, &self.memory, at(self.now))
    }

    /// The actions in short: `start c 1`, `kill c0 30s`, …
    fn check(&self, expect: &[&str]) {
        let short = |action: Action| match action {
            Action::PrepareVolumes => "volumes".to_owned(),
            Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
            Action::Start { container, attempt } => format!("start {container} {attempt}"),
            Action::Kill { id, grace, .. } => format!("kill {id} {}s", grace.as_secs()),
            Action::BackOffCrash { container, .. } => format!("crash {container}"),
            Action::BackOffPull { container } => format!("pull {container}"),
            Action::Fail { reason, .. } => format!("fail {reason}"),
            Action::RemoveContainer { id } => format!("remove {id}"),
            Action::RemoveSandbox { id } => format!("remove {id}"),
            Action::Teardown => "teardown".to_owned(),
        };
        let got: Vec<String> = self.plan().actions.into_iter().map(short).collect();
        assert_eq!(got, expect);
    }
}

fn sidecar(name: &str) -> Container {
    Container { restart_policy: Some("Always".into()), ..container(name) }
}

#[test]
fn volumes_then_sandbox_then_containers() {
    let mut new = world(&["a", "b"]);
    new.sandboxes.clear();
    new.memory.volumes_ready = false;
    new.check(&["volumes"]);
    new.memory.busy = BTreeSet::from([StepKey::Volumes]);
    new.check(&[]);
    new.memory.busy.clear();
    new.memory.volumes_ready = true;
    new.check(&["sandbox 0"]);
    let up = world(&["a", "b"]);
    up.check(&["start a 0"]);
    up.with([running("a")]).check(&["start b 0"]);
}

#[test]
fn one_container_starts_at_a_time() {
    world(&["a", "b"]).memory(|m| m.busy = BTreeSet::from([StepKey::Start("a".into())])).check(&[]);
}

#[test]
fn failures_wait_before_the_next_attempt() {
    let mut none = world(&["a"]).memory(|m| m.retry_at = Some(at(105)));
    none.sandboxes.clear();
    none.check(&[]);
    assert_eq!(none.plan().wake_at, Some(at(105)));
    none.now = 105;
    none.check(&["sandbox 0"]);
}

#[test]
fn restart_policies() {
    for (policy, code, expect) in [
        ("Always", 0, vec!["start a 1"]),
        ("Always", 1, vec!["start a 1"]),
        ("OnFailure", 1, vec!["start a 1"]),
        ("OnFailure", 0, vec!["teardown"]),
        ("Never", 1, vec!["teardown"]),
    ] {
        world(&["a"]).policy(policy).with([exited("a", code)]).check(&expect);
    }
    world(&["a", "b"]).policy("Never").with([exited("a", 1), running("b")]).check(&[]);
}

#[test]
fn crashes_back_off() {
    let mut backoff = Backoff::default();
    backoff.advance(at(50), at(50));
    let crashed = world(&["a"]).with([exited("a", 1)]).memory(|m| {
        m.crash.insert(crash_key(&container("a")), backoff);
    });
    crashed.check(&["crash a"]);
    assert_eq!(crashed.plan().wake_at, Some(at(105)));
    let told = crashed.memory(|m| {
        let waiting =
            Waiting { reason: CRASH_LOOP_BACK_OFF.into(), message: "".into(), since: at(100), retry_at: at(105) };
        m.waiting.insert("a".into(), waiting);
    });
    told.check(&[]);
    let mut later = told;
    later.now = 105;
    later.check(&["start a 1"]);
    // A changed container has not failed yet.
    let mut changed = later.memory(|m| m.waiting.clear());
    changed.now = 100;
    changed.spec(|spec| spec.containers[0].image = Some("fixed".into())).check(&["start a 1"]);
}

#[test]
fn failed_pulls_are_shown_before_they_back_off() {
    let failed = |now| {
        let mut world = world(&["a"]).memory(|m| {
            let waiting =
                Waiting { reason: ERR_IMAGE_PULL.into(), message: "".into(), since: at(100), retry_at: at(110) };
            m.waiting.insert("a".into(), waiting);
        });
        world.now = now;
        world
    };
    failed(100).check(&[]);
    assert_eq!(failed(100).plan().wake_at, Some(at(101)));
    failed(101).check(&["pull a"]);
    failed(110).check(&["start a 0"]);
}

#[test]
fn init_containers_run_in_turn() {
    let with =
        |containers: Vec<ContainerStatus>| world(&["a"]).init(vec![container("i"), container("j")]).with(containers);
    with(vec![]).check(&["start i 0"]);
    with(vec![running("i")]).check(&[]);
    with(vec![exited("i", 1)]).check(&["start i 1"]);
    with(vec![exited("i", 0)]).check(&["start j 0"]);
    with(vec![exited("i", 0), exited("j", 0)]).check(&["start a 0"]);
    with(vec![exited("i", 1)]).policy("Never").check(&["teardown"]);
    // Once a main container was made, what init containers did is over.
    with(vec![running("a")]).check(&[]);
}

#[test]
fn sidecars_come_before_and_go_after() {
    let with = |containers: Vec<ContainerStatus>| world(&["a"]).init(vec![sidecar("s")]).with(containers);
    with(vec![]).check(&["start s 0"]);
    with(vec![running("s")]).check(&["start a 0"]);
    with(vec![exited("s", 0), running("a")]).check(&["start s 1"]);
    let mut gated = sidecar("s");
    gated.startup_probe = Some(Probe::default());
    let waits = world(&["a"]).init(vec![gated]).with([running("s")]);
    waits.check(&[]);
    waits
        .memory(|m| {
            m.probed.insert("s0".into(), Probed { started: true, ..Default::default() });
        })
        .check(&["start a 0"]);
    with(vec![running("s"), running("a")]).deleted(5).check(&["kill a0 5s"]);
    with(vec![running("s"), exited("a", 0)]).deleted(5).check(&["kill s0 5s"]);
    with(vec![running("s"), exited("a", 0)]).policy("Never").check(&["kill s0 30s"]);
}

#[test]
fn deletion_kills_with_grace_and_tears_down_once() {
    world(&["a"]).with([running("a")]).deleted(7).check(&["kill a0 7s"]);
    world(&["a"]).with([running("a")]).deleted(0).check(&["kill a0 1s"]);
    world(&["a"])
        .with([running("a")])
        .deleted(7)
        .memory(|m| m.busy = BTreeSet::from([StepKey::Kill("a0".into())]))
        .check(&[]);
    world(&["a"]).with([exited("a", 0)]).deleted(7).check(&["teardown"]);
    world(&["a"]).with([exited("a", 0)]).deleted(7).memory(|m| m.torn_down = true).check(&[]);
    world(&["a"]).with([running("a")]).memory(|m| m.gone = true).check(&["kill a0 30s"]);
    let refused = Failure { reason: "OutOfcpu".into(), message: "".into(), rejected: true };
    world(&["a"]).memory(|m| m.failure = Some(refused)).check(&["teardown"]);
}

#[test]
fn a_dead_sandbox_is_replaced() {
    let mut dead = world(&["a"]).with([running("a")]);
    dead.sandboxes = vec![sandbox("s0", 0, false)];
    dead.check(&["kill a0 30s"]);
    dead.containers = vec![exited("a", 137)];
    dead.check(&["sandbox 1"]);
    dead.sandboxes.push(sandbox("s1", 1, true));
    dead.check(&["start a 1"]);
    // The old one goes with the last start that is kept in it.
    let mut again = status("a", 1, ContainerState::Running, 0);
    again.container.pod_sandbox_id = "s1".into();
    dead.containers.push(again);
    dead.check(&[]);
    dead.containers.remove(0);
    dead.check(&["remove s0"]);
    let mut finished = world(&["a"]).policy("Never").with([exited("a", 0)]);
    finished.sandboxes = vec![sandbox("s0", 0, false)];
    finished.check(&["teardown"]);
}

#[test]
fn probes_and_changes_restart_a_container() {
    let failed = |probe: Probe| {
        let mut world = world(&["a"]).with([running("a")]).memory(|m| {
            m.probed.insert("a0".into(), Probed { failed: Some("liveness"), ..Default::default() });
        });
        world.pod.spec.as_mut().unwrap().containers[0].liveness_probe = Some(probe);
        world
    };
    failed(Probe::default()).check(&["kill a0 30s"]);
    failed(Probe { termination_grace_period_seconds: Some(3), ..Default::default() }).check(&["kill a0 3s"]);
    let mut old = running("a");
    old.container.annotations.insert(labels::CONTAINER_HASH.into(), "0".into());
    let plan = world(&["a"]).with([old]).plan();
    let [Action::Kill { message, .. }] = plan.actions.as_slice() else { panic!("{plan:?}") };
    assert_eq!(message, "Container a definition changed, will be restarted");
}

#[test]
fn a_failed_probe_restarts_at_once() {
    let mut backoff = Backoff::default();
    backoff.advance(at(60), at(60));
    let condemned = |before: i64| {
        let mut first = exited("a", 1);
        first.finished_at = nanos(before);
        world(&["a"]).with([first, status("a", 1, ContainerState::Exited, 137)]).memory(|m| {
            m.crash.insert(crash_key(&container("a")), backoff);
            m.probed.insert("a1".into(), Probed { failed: Some("liveness"), ..Default::default() });
        })
    };
    // It ended at 95, which does not count; the start before it does.
    condemned(80).check(&["start a 2"]);
    condemned(94).check(&["crash a"]);
    // Once it runs again, only the last end is of use.
    condemned(80).with([status("a", 2, ContainerState::Running, 0)]).check(&["remove a0"]);
    let first = world(&["a"]).with([exited("a", 137)]).memory(|m| {
        m.crash.insert(crash_key(&container("a")), backoff);
        m.probed.insert("a0".into(), Probed { failed: Some("startup"), ..Default::default() });
    });
    first.check(&["start a 1"]);
}

#[test]
fn restarts_are_counted_over_a_reboot() {
    let mut lost = world(&["a"]);
    let status = kybern_api::core::v1::ContainerStatus {
        name: "a".into(),
        restart_count: 4,
        container_id: Some("kybern://a4".into()),
        ..Default::default()
    };
    lost.pod.status = Some(PodStatus { container_statuses: Some(vec![status]), ..Default::default() });
    lost.check(&["start a 5"]);
}

#[test]
fn what_was_made_but_never_started_is_no_restart() {
    let made = |attempt| status("a", attempt, ContainerState::Created, 0);
    world(&["a"]).with([made(0)]).check(&["start a 0"]);
    world(&["a"]).with([status("a", 0, ContainerState::Exited, 1), made(1)]).check(&["start a 1"]);
    // Once the new one is there, the one that was never started goes.
    let again = ContainerStatus {
        container: kybern_cri::Container { id: "again".into(), created_at: nanos(9), ..running("a").container },
        ..running("a")
    };
    world(&["a"]).with([made(0), again]).check(&["remove a0"]);
}

#[test]
fn the_deadline_fails_the_pod() {
    let mut pod = world(&["a"]).with([running("a")]).spec(|spec| spec.active_deadline_seconds = Some(60));
    pod.pod.status = Some(PodStatus { start_time: Some(Time(at(50))), ..Default::default() });
    pod.check(&[]);
    assert_eq!(pod.plan().wake_at, Some(at(110)));
    pod.now = 110;
    pod.check(&["fail DeadlineExceeded"]);
}

#[test]
fn one_dead_start_of_each_container_is_kept() {
    let dead = |attempt| status("a", attempt, ContainerState::Exited, 1);
    world(&["a"]).with([dead(0), dead(1), status("a", 2, ContainerState::Running, 0)]).check(&["remove a0"]);
}
