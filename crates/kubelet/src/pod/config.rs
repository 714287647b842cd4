//! A sandbox's and a container's configuration for the runtime (`pkg/kubelet/kuberuntime`).

use kybern_api::core::v1::{Container, Pod};
use kybern_cri::{
    ContainerConfig, ContainerMetadata, DnsConfig, Image, ImageSpec, LogRotation, Mount, NamespaceMode,
    PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};

use super::env::expand;
use super::{labels, resources, security, spec};

/// What of the node goes into every pod's configuration.
#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    /// The directory of all pods' logs, `/var/log/pods`.
    pub pod_logs: String,
    pub cgroup_root: String,
    /// Where `Localhost` seccomp profiles lie.
    pub seccomp_root: String,
    pub memory_capacity_bytes: i64,
    pub log_rotation: LogRotation,
}

/// `<logs>/<namespace>_<name>_<uid>`.
pub fn log_directory(root: &str, pod: &Pod) -> String {
    format!("{root}/{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod))
}

/// The configuration of a pod's sandbox.
pub fn sandbox(pod: &Pod, attempt: u32, node: &NodeFacts, dns: DnsConfig, hostname: &str) -> PodSandboxConfig {
    let of_pod = spec::spec(pod);
    let context = of_pod.security_context.clone().unwrap_or_default();
    let host_network = spec::host_network(pod);
    PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: spec::name(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            namespace: spec::namespace(pod).to_owned(),
            attempt,
        },
        // On the host's network a pod has the host's name.
        hostname: if host_network { String::new() } else { hostname.to_owned() },
        log_directory: log_directory(&node.pod_logs, pod),
        dns_config: dns,
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels: labels::sandbox_labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        cgroup_parent: resources::cgroup_parent(&node.cgroup_root, pod, of_pod),
        sysctls: context.sysctls.iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
        namespaces: security::namespaces(pod),
        privileged: security::is_privileged(pod),
        supplemental_groups: security::supplemental_groups(pod),
        seccomp: security::pod_seccomp(pod, &node.seccomp_root),
        resources: resources::pod_resources(of_pod),
    }
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let containers = spec::containers(pod);
    let ports = containers.iter().flat_map(|(_, c)| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0);
            Some(PortMapping {
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                container_port: number(port.container_port)?,
                host_port: number(port.host_port.unwrap_or(0))?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// What a container's configuration is made from besides the pod.
pub struct ContainerInputs<'a> {
    pub image: &'a Image,
    pub attempt: u32,
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// The id of the container whose processes an ephemeral container shares.
    pub target: Option<String>,
}

/// The configuration of one start of a container; an error is shown as `CreateContainerConfigError`.
pub fn container(
    pod: &Pod,
    container: &Container,
    node: &NodeFacts,
    inputs: ContainerInputs<'_>,
) -> Result<ContainerConfig, String> {
    let get = |name: &str| inputs.envs.iter().rev().find(|(have, _)| have == name).map(|(_, value)| value.clone());
    let expanded = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expand(text, &get)).collect();
    let name = &container.name;
    let mut security = security::container_context(pod, container, inputs.image, &node.seccomp_root)?;
    if let Some(target) = inputs.target.filter(|_| security.namespaces.pid == NamespaceMode::Container) {
        security.namespaces.pid = NamespaceMode::Target;
        security.namespaces.target_id = target;
    }
    let stop_signal = container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()).unwrap_or_default();
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name: name.clone(), attempt: inputs.attempt },
        image: ImageSpec {
            image: inputs.image.id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        },
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        security,
        envs: inputs.envs,
        mounts: inputs.mounts,
        devices: Vec::new(),
        labels: labels::container_labels(pod, name),
        annotations: labels::container_annotations(pod, container, inputs.attempt),
        log_path: format!("{name}/{}.log", inputs.attempt),
        log_rotation: node.log_rotation,
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: resources::container_resources(spec::spec(pod), container, node.memory_capacity_bytes),
        stop_signal,
    })
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::ContainerPort;

    use super::*;
    use crate::pod::testing::{container as named, pod};

    #[test]
    fn commands_see_the_environment() {
        let mut c = named("c");
        c.command = Some(vec!["sh".into(), "$(A)".into()]);
        c.args = Some(vec!["$(B)".into()]);
        let pod = pod("p", vec![c.clone()]);
        let image = Image { id: "sha256:1".into(), ..Default::default() };
        let envs = vec![("A".to_owned(), "1".to_owned())];
        let inputs = |target| ContainerInputs { image: &image, attempt: 2, envs: envs.clone(), mounts: vec![], target };
        let got = container(&pod, &c, &NodeFacts::default(), inputs(None)).unwrap();
        assert_eq!((got.command, got.args), (vec!["sh".to_owned(), "1".to_owned()], vec!["$(B)".to_owned()]));
        assert_eq!((got.log_path.as_str(), got.image.image.as_str()), ("c/2.log", "sha256:1"));
        assert_eq!(got.annotations[labels::RESTART_COUNT], "2");
        assert_eq!(got.security.namespaces.pid, NamespaceMode::Container);
        let debugging = container(&pod, &c, &NodeFacts::default(), inputs(Some("id".into()))).unwrap();
        let namespaces = debugging.security.namespaces;
        assert_eq!((namespaces.pid, namespaces.target_id.as_str()), (NamespaceMode::Target, "id"));
    }

    #[test]
    fn host_ports_are_mapped_except_on_the_host_network() {
        let mut c = named("c");
        c.ports = Some(vec![
            ContainerPort {
                container_port: 80,
                host_port: Some(8080),
                protocol: Some("UDP".into()),
                ..Default::default()
            },
            ContainerPort { container_port: 81, ..Default::default() },
        ]);
        let mut pod = pod("p", vec![c]);
        let got = sandbox(&pod, 0, &NodeFacts::default(), DnsConfig::default(), "p");
        assert_eq!(got.port_mappings.len(), 1);
        assert_eq!((got.port_mappings[0].host_port, got.port_mappings[0].protocol), (8080, Protocol::Udp));
        assert_eq!(got.log_directory, "/default_p_p-uid");
        pod.spec.as_mut().unwrap().host_network = Some(true);
        let got = sandbox(&pod, 0, &NodeFacts::default(), DnsConfig::default(), "p");
        assert!(got.port_mappings.is_empty() && got.hostname.is_empty());
    }
}
