//! The conditions of a pod's status (`pkg/kubelet/status/generate.go`).

use jiff::Timestamp;
use kybern_api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use kybern_api::meta::v1::Time;

use super::observed::Observed;
use super::observed::whole_seconds;
use super::spec;
use super::status::terminated;

/// The conditions that the kubelet owns.
pub const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// A condition's verdict: its status, reason and message.
struct Verdict(bool, &'static str, String);

impl Verdict {
    fn yes() -> Self {
        Self(true, "", String::new())
    }
}

/// The kubelet's conditions.
pub fn conditions(
    pod: &Pod,
    observed: &Observed,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    phase: &str,
    old: &PodStatus,
    now: Timestamp,
) -> Vec<PodCondition> {
    let networked = match observed.ready_sandbox() {
        Some(sandbox) => spec::host_network(pod) || !sandbox.ips.is_empty(),
        None => false,
    };
    let containers_ready = containers_ready(pod, init, main, phase);
    let ready = pod_ready(pod, &containers_ready);
    let scheduled = find(old, "PodScheduled").map_or("True", |c| c.status.as_str());
    let own = [
        ("PodReadyToStartContainers", Verdict(networked, "", String::new())),
        ("Initialized", initialized(pod, init, main, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict(scheduled == "True", "", String::new())),
    ];
    own.into_iter().map(|(kind, verdict)| condition(pod, kind, verdict, old, now)).collect()
}

fn find<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind)
}

fn condition(pod: &Pod, kind: &str, verdict: Verdict, old: &PodStatus, now: Timestamp) -> PodCondition {
    let status = if verdict.0 { "True" } else { "False" };
    let since = find(old, kind).filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: text(verdict.1),
        message: text(&verdict.2),
        last_transition_time: since.or(Some(Time(whole_seconds(now)))),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    }
}

fn names<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    statuses.map(|s| s.name.as_str()).collect::<Vec<_>>().join(" ")
}

fn initialized(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Verdict {
    let started = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    if phase == "Succeeded" {
        return Verdict(true, "PodCompleted", String::new());
    }
    if main.iter().any(started) {
        return Verdict::yes();
    }
    let incomplete = spec::init_containers(pod).iter().zip(init).filter(|(container, status)| {
        if spec::is_sidecar(container) { status.started != Some(true) } else { !status.ready }
    });
    let incomplete = names(incomplete.map(|(_, status)| status));
    if incomplete.is_empty() {
        return Verdict::yes();
    }
    Verdict(false, "ContainersNotInitialized", format!("containers with incomplete status: [{incomplete}]"))
}

fn containers_ready(pod: &Pod, init: &[ContainerStatus], main: &[ContainerStatus], phase: &str) -> Verdict {
    match phase {
        "Succeeded" => return Verdict(false, "PodCompleted", String::new()),
        "Failed" => return Verdict(false, "PodFailed", String::new()),
        _ => {}
    }
    let sidecars = spec::init_containers(pod).iter().zip(init).filter(|(c, _)| spec::is_sidecar(c)).map(|(_, s)| s);
    let unready = names(sidecars.chain(main).filter(|s| !s.ready || terminated(s).is_some()));
    if unready.is_empty() {
        return Verdict::yes();
    }
    Verdict(false, "ContainersNotReady", format!("containers with unready status: [{unready}]"))
}

fn pod_ready(pod: &Pod, containers: &Verdict) -> Verdict {
    if !containers.0 {
        return Verdict(false, containers.1, containers.2.clone());
    }
    let mut messages = Vec::new();
    for gate in spec::spec(pod).readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match pod.status.as_ref().and_then(|status| find(status, kind)) {
            None => messages.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(c) if c.status != "True" => {
                messages.push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", c.status));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() {
        return Verdict::yes();
    }
    let message = if messages.len() == 1 { messages.remove(0) } else { format!("[{}]", messages.join(", ")) };
    Verdict(false, "ReadinessGatesNotReady", message)
}
