//! Reading a pod's spec: the small facts that several parts of the kubelet ask for.

use std::time::Duration;

use jiff::Timestamp;
use kybern_api::core::v1::{Container, Pod, PodSpec};

/// The role of a container in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    Main,
    Ephemeral,
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("")
}

pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("")
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

/// `name_namespace(uid)`, as upstream's texts name a pod.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// The spec; a pod from the API always has one.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::OnceLock<PodSpec> = std::sync::OnceLock::new();
    pod.spec.as_ref().unwrap_or_else(|| EMPTY.get_or_init(PodSpec::default))
}

pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Every container with its kind: init containers first, ephemeral ones last.
pub fn containers(pod: &Pod) -> Vec<(ContainerKind, std::borrow::Cow<'_, Container>)> {
    use std::borrow::Cow;
    let init = init_containers(pod).iter().map(|c| {
        let kind = if is_sidecar(c) { ContainerKind::Sidecar } else { ContainerKind::Init };
        (kind, Cow::Borrowed(c))
    });
    let main = spec(pod).containers.iter().map(|c| (ContainerKind::Main, Cow::Borrowed(c)));
    let ephemeral =
        spec(pod).ephemeral_containers.iter().flatten().map(|c| (ContainerKind::Ephemeral, Cow::Owned(ephemeral(c))));
    init.chain(main).chain(ephemeral).collect()
}

/// One container by name, of any kind.
pub fn container(pod: &Pod, name: &str) -> Option<(ContainerKind, Container)> {
    containers(pod).into_iter().find(|(_, c)| c.name == name).map(|(kind, c)| (kind, c.into_owned()))
}

/// The container whose processes an ephemeral container wants to see.
pub fn target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let ephemeral = spec(pod).ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    ephemeral.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// An ephemeral container as the container it is run as.
fn ephemeral(c: &kybern_api::core::v1::EphemeralContainer) -> Container {
    Container {
        name: c.name.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        command: c.command.clone(),
        args: c.args.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        volume_mounts: c.volume_mounts.clone(),
        working_dir: c.working_dir.clone(),
        ..Default::default()
    }
}

pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Whether the API already records that the pod has ended for good.
pub fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub fn start_time(pod: &Pod) -> Option<Timestamp> {
    pod.status.as_ref()?.start_time.as_ref().map(|t| t.0)
}

/// How long the pod's containers get to stop: the deletion's grace period, else the spec's; at least one second.
pub fn grace_period(pod: &Pod) -> Duration {
    let seconds = match (is_deleting(pod), pod.metadata.deletion_grace_period_seconds) {
        (true, Some(seconds)) => seconds,
        _ => spec(pod).termination_grace_period_seconds.unwrap_or(30),
    };
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// Whether a container that exited with `code` is to be started again.
pub fn restarts(pod: &Pod, container: &Container, code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|value| *value == code);
        if listed == (codes.operator == "In") && rule.action == "Restart" {
            return true;
        }
    }
    let policy = container.restart_policy.as_deref().or(spec(pod).restart_policy.as_deref()).unwrap_or("Always");
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// Like [`restarts`], for an init container that is no sidecar: `Always` means until it succeeds.
pub fn init_restarts(pod: &Pod, container: &Container, code: i32) -> bool {
    code != 0 && restarts(pod, container, code)
}
