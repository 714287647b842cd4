//! Making a pod's sandbox.

use std::path::Path;

use kybern_api::Object;
use kybern_api::core::v1::Pod;
use kybern_api::node::v1::RuntimeClass;
use kybern_api::resource::v1::ResourceClaim;
use kybern_cri::PodSandboxConfig;

use super::Worker;
use super::start::cgroup_resources;
use super::steps::Done;
use crate::pod::memory::StepKey;
use crate::pod::{config, dns, spec};
use crate::shared::Shared;

/// The sandbox's configuration, or why the pod cannot have one.
pub fn configuration(shared: &Shared, pod: &Pod, attempt: u32) -> Result<PodSandboxConfig, String> {
    let hostname = dns::hostname(pod, &shared.config.cluster_domain)?;
    let resolver = dns::pod_dns(pod, &shared.config.cluster_dns, &shared.config.cluster_domain, &shared.resolver);
    Ok(config::sandbox(pod, attempt, &shared.facts, resolver, &hostname.hostname))
}

/// The content of the pod's hosts file.
pub fn hosts(shared: &Shared, pod: &Pod, ips: &[String]) -> Result<String, String> {
    let hostname = dns::hostname(pod, &shared.config.cluster_domain)?;
    let of_node = spec::host_network(pod).then(|| std::fs::read_to_string("/etc/hosts").unwrap_or_default());
    Ok(dns::hosts_file(pod, ips, &hostname, of_node.as_deref()))
}

/// The runtime's handler for the pod's RuntimeClass: the usual one, which has no name, where the pod names no class. Few pods
/// do, so the class is asked for when it is needed.
async fn runtime_handler(shared: &Shared, pod: &Pod) -> Result<String, String> {
    let named = spec::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty());
    let Some(name) = named else { return Ok(String::new()) };
    match shared.client.get::<RuntimeClass>("", name).await {
        Ok(class) => Ok(class.handler),
        Err(error) if error.is_not_found() => Err(format!("runtimeclass.node.k8s.io {name:?} not found")),
        Err(error) => Err(format!("failed to lookup RuntimeClass {name}: {error}")),
    }
}

/// Nothing of a pod starts before its devices are prepared, which their drivers do: there is no way to them yet.
async fn prepare_devices(shared: &Shared, pod: &Pod) -> Result<(), String> {
    let made = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default();
    for wish in spec::spec(pod).resource_claims.iter().flatten() {
        let of_template = made.iter().find(|status| status.name == wish.name);
        let name = match (&wish.resource_claim_name, of_template) {
            (Some(name), _) => name,
            (None, Some(made)) => match &made.resource_claim_name {
                Some(name) => name,
                None => continue,
            },
            (None, None) => return Err(format!("pod {:?}: ResourceClaim not created yet", spec::full_name(pod))),
        };
        let claim = shared.client.get::<ResourceClaim>(spec::namespace(pod), name).await;
        let claim = claim.map_err(|error| format!("fetch ResourceClaim {name}: {error}"))?;
        let (status, uid) = (claim.status.clone().unwrap_or_default(), spec::uid(pod));
        if status.reserved_for.iter().flatten().all(|consumer| consumer.uid != uid) {
            let (pod, claim) = (spec::name(pod), claim.uid());
            return Err(format!("pod {pod} ({uid}) is not allowed to use ResourceClaim {name} ({claim})"));
        }
        let devices = status.allocation.and_then(|allocation| allocation.devices?.results).unwrap_or_default();
        if let Some(device) = devices.first() {
            return Err(format!("DRA driver {} is not registered", device.driver));
        }
    }
    Ok(())
}

/// Why there is no sandbox: an event's reason and its message.
pub type Failure = (&'static str, String);

async fn make(shared: &Shared, pod: &Pod, attempt: u32) -> Result<String, String> {
    let config = configuration(shared, pod, attempt)?;
    let logs = Path::new(&config.log_directory).to_owned();
    kybern_linux::files::make_dirs(&logs, 0o755).map_err(|e| format!("cannot make {}: {e}", logs.display()))?;
    if let Some(cgroups) = &shared.cgroups {
        let made = cgroups.create(&config.cgroup_parent, &cgroup_resources(pod));
        made.map_err(|e| format!("cannot make the cgroup {}: {e}", config.cgroup_parent))?;
    }
    let handler = runtime_handler(shared, pod).await?;
    shared.runtime.run_pod_sandbox(config, &handler).await.map_err(|e| e.to_string())
}

impl Worker {
    pub(super) fn create_sandbox(&mut self, attempt: u32) {
        let (shared, pod, whole) = (self.shared.clone(), self.pod.clone(), self.whole.clone());
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            shared.events.normal(&pod, None, "SandboxChanged", message);
        }
        self.step(StepKey::Sandbox, async move {
            let failed = |cause: String| ("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {cause}"));
            let work = async move {
                prepare_devices(&shared, &pod).await.map_err(|cause| {
                    let message = format!("Failed to prepare dynamic resources: prepare dynamic resources: {cause}");
                    ("FailedPrepareDynamicResources", message)
                })?;
                make(&shared, &pod, attempt).await.map_err(failed)
            };
            Done::Sandbox(whole.run(work).await.map_err(failed).and_then(|done| done))
        });
    }
}
