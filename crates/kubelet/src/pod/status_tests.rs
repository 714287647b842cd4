use kybern_api::core::v1::Probe;
use kybern_cri::{PodSandboxState, PodSandboxStatus};

use super::*;
use crate::pod::memory::{Probed, Waiting};
use crate::pod::testing::{container, pod};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn observation(name: &str, attempt: u32, state: RunState, exit_code: i32) -> Observation {
    let mut status = Observation { exit_code, ..Default::default() };
    status.container.id = format!("{name}{attempt}");
    status.container.metadata.name = name.into();
    status.container.metadata.attempt = attempt;
    status.container.state = state;
    status.container.image_ref = "sha256:1".into();
    status.started_at = 1_000_001_700_000_000;
    status.container.created_at = i64::from(attempt);
    status
}

fn build(pod: &Pod, containers: Vec<Observation>, memory: &Memory) -> PodStatus {
    let mut sandbox = PodSandboxStatus { ips: vec!["10.0.0.2".into()], ..Default::default() };
    sandbox.sandbox.state = PodSandboxState::Ready;
    let observed = Observed::new(vec![sandbox], containers);
    let node = NodeView { host_ips: vec!["10.1.1.1".into()], runtime: "kybern".into() };
    pod_status(pod, &pod.status.clone().unwrap_or_default(), &observed, memory, &node, at(10))
}

fn with_policy(policy: &str, names: &[&str]) -> Pod {
    let mut pod = pod("p", names.iter().map(|name| container(name)).collect());
    pod.spec.as_mut().unwrap().restart_policy = Some(policy.into());
    pod
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a kybern_api::core::v1::PodCondition {
    status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn phases() {
    use RunState::{Exited, Running};
    let check = |policy: &str, containers: &[(&str, RunState, i32)], expect: &str| {
        let seen = containers.iter().map(|(name, state, code)| observation(name, 0, *state, *code)).collect();
        let status = build(&with_policy(policy, &["a", "b"]), seen, &Memory::default());
        assert_eq!(status.phase.as_deref(), Some(expect), "{policy} {containers:?}");
    };
    check("Always", &[], "Pending");
    check("Always", &[("a", Running, 0)], "Pending");
    check("Always", &[("a", Running, 0), ("b", Running, 0)], "Running");
    check("Always", &[("a", Exited, 0), ("b", Exited, 1)], "Running");
    check("Never", &[("a", Running, 0), ("b", Exited, 1)], "Running");
    check("Never", &[("a", Exited, 0), ("b", Exited, 1)], "Failed");
    check("Never", &[("a", Exited, 0), ("b", Exited, 0)], "Succeeded");
    check("OnFailure", &[("a", Exited, 0), ("b", Exited, 1)], "Running");
}

#[test]
fn a_running_pod_is_ready() {
    let status =
        build(&with_policy("Always", &["a"]), vec![observation("a", 0, RunState::Running, 0)], &Memory::default());
    for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, kind).status, "True", "{kind}");
    }
    assert_eq!((status.pod_ip.as_deref(), status.host_ip.as_deref()), (Some("10.0.0.2"), Some("10.1.1.1")));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("kybern://a0"));
    assert_eq!((container.ready, container.started, container.restart_count), (true, Some(true), 0));
    let started = container.state.as_ref().unwrap().running.as_ref().unwrap().started_at.clone().unwrap();
    assert_eq!(started.0.subsec_nanosecond(), 0);
}

#[test]
fn probes_gate_readiness() {
    let mut pod = with_policy("Always", &["a"]);
    pod.spec.as_mut().unwrap().containers[0].readiness_probe = Some(Probe::default());
    pod.spec.as_mut().unwrap().containers[0].startup_probe = Some(Probe::default());
    for (started, ready, expect) in [
        (false, false, (false, false)),
        (false, true, (false, false)),
        (true, false, (true, false)),
        (true, true, (true, true)),
    ] {
        let mut memory = Memory::default();
        memory.probed.insert("a0".into(), Probed { started, ready, failed: None });
        let status = build(&pod, vec![observation("a", 0, RunState::Running, 0)], &memory);
        let container = &status.container_statuses.as_ref().unwrap()[0];
        assert_eq!((container.started.unwrap(), container.ready), expect);
        assert_eq!(condition(&status, "Ready").status == "True", expect.1);
        if !expect.1 {
            let message = condition(&status, "Ready").message.as_deref();
            assert_eq!(message, Some("containers with unready status: [a]"));
        }
    }
}

#[test]
fn a_crash_loop_shows_the_last_end() {
    let mut memory = Memory::default();
    let waiting =
        Waiting { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into(), since: at(0), retry_at: at(20) };
    memory.waiting.insert("a".into(), waiting);
    let status = build(&with_policy("Always", &["a"]), vec![observation("a", 3, RunState::Exited, 7)], &memory);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.unwrap()[0];
    let waiting = container.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(
        (waiting.reason.as_deref(), waiting.message.as_deref()),
        (Some("CrashLoopBackOff"), Some("back-off 10s"))
    );
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref(), container.restart_count), (7, Some("Error"), 3));
}

#[test]
fn before_it_runs_a_container_waits() {
    let reason = |status: &PodStatus, init: bool| {
        let list = if init { &status.init_container_statuses } else { &status.container_statuses };
        list.as_ref().unwrap()[0].state.as_ref().unwrap().waiting.as_ref().unwrap().reason.clone().unwrap()
    };
    let mut pod = with_policy("Always", &["a"]);
    assert_eq!(reason(&build(&pod, vec![], &Memory::default()), false), "ContainerCreating");
    pod.spec.as_mut().unwrap().init_containers = Some(vec![container("i")]);
    let status = build(&pod, vec![], &Memory::default());
    assert_eq!((reason(&status, true), reason(&status, false)), ("PodInitializing".into(), "PodInitializing".into()));
    assert_eq!(condition(&status, "Initialized").message.as_deref(), Some("containers with incomplete status: [i]"));
    let status = build(&pod, vec![observation("i", 0, RunState::Exited, 0)], &Memory::default());
    assert_eq!(condition(&status, "Initialized").status, "True");
    assert!(status.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn a_deleted_pod_ends_in_a_final_phase() {
    let mut deleted = with_policy("Always", &["a"]);
    deleted.metadata.deletion_timestamp = Some(Time(at(0)));
    let phase = |torn_down, seen| {
        let memory = Memory { torn_down, ..Default::default() };
        build(&deleted, seen, &memory).phase.unwrap()
    };
    assert_eq!(phase(false, vec![observation("a", 0, RunState::Exited, 0)]), "Running");
    assert_eq!(phase(true, vec![observation("a", 0, RunState::Exited, 0)]), "Succeeded");
    assert_eq!(phase(true, vec![observation("a", 0, RunState::Exited, 137)]), "Failed");
    assert_eq!(phase(true, vec![]), "Failed");
}

#[test]
fn conditions_keep_their_time() {
    let mut pod = with_policy("Always", &["a"]);
    let first = build(&pod, vec![observation("a", 0, RunState::Running, 0)], &Memory::default());
    pod.status = Some(first.clone());
    let observed = vec![observation("a", 0, RunState::Running, 0)];
    let second = build(&pod, observed, &Memory::default());
    assert_eq!(first, second);
}
