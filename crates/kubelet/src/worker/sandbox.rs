//! Making a pod's sandbox.

use std::path::Path;

use kybern_api::core::v1::Pod;
use kybern_api::node::v1::RuntimeClass;
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

impl Worker {
    pub(super) fn create_sandbox(&mut self, attempt: u32) {
        let (shared, pod, whole) = (self.shared.clone(), self.pod.clone(), self.whole.clone());
        if attempt > 0 {
            let message = "Pod sandbox changed, it will be killed and re-created.";
            shared.events.normal(&pod, None, "SandboxChanged", message);
        }
        self.step(StepKey::Sandbox, async move {
            let work = async move {
                let config = configuration(&shared, &pod, attempt)?;
                let logs = Path::new(&config.log_directory).to_owned();
                kybern_linux::files::make_dirs(&logs, 0o755)
                    .map_err(|e| format!("cannot make {}: {e}", logs.display()))?;
                if let Some(cgroups) = &shared.cgroups {
                    let made = cgroups.create(&config.cgroup_parent, &cgroup_resources(&pod));
                    made.map_err(|e| format!("cannot make the cgroup {}: {e}", config.cgroup_parent))?;
                }
                let handler = runtime_handler(&shared, &pod).await?;
                shared.runtime.run_pod_sandbox(config, &handler).await.map_err(|e| e.to_string())
            };
            Done::Sandbox(whole.run(work).await.and_then(|done| done))
        });
    }
}
