//! The Node object: pure functions of the machine, the runtime's word and the clock (`pkg/kubelet/nodestatus`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use kybern_api::Quantity;
use kybern_api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use kybern_api::meta::v1::{ObjectMeta, Time};
use kybern_cri::{Image, RuntimeCondition, RuntimeHandler};

use super::machine::{Machine, Pressure};
use crate::config::Config;
use crate::pod::observed::whole_seconds;
use crate::volume::local_path;

/// Upstream's hard eviction threshold.
const MIN_MEMORY_BYTES: i64 = 100 << 20;
/// Nearer to full than upstream's 10 % before a large disk is called full.
const MIN_DISK_PERCENT: i64 = 5;
const MIN_INODES_PERCENT: i64 = 5;
const MIN_PIDS: i64 = 100;
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

/// What the runtime says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeView {
    /// `kybern://v0.1.0`.
    pub version: String,
    /// Not ready when it cannot be asked: the error.
    pub conditions: Result<Vec<RuntimeCondition>, String>,
    pub handlers: Vec<RuntimeHandler>,
    pub images: Vec<Image>,
}

/// The node's labels.
pub fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), machine.architecture.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), machine.architecture.clone()),
    ]);
    labels.extend(config.labels.iter().cloned());
    labels
}

/// The node's annotations.
pub fn annotations(config: &Config) -> BTreeMap<String, String> {
    let directory = config.volumes_dir.to_string_lossy().into_owned();
    BTreeMap::from([
        ("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned()),
        (local_path::DIRECTORY.to_owned(), directory),
    ])
}

/// The object that registers the node.
pub fn registration(config: &Config, machine: &Machine, status: NodeStatus) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config, machine)),
            annotations: Some(annotations(config)),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: config.pod_cidr.clone(),
            pod_cidrs: config.pod_cidr.clone().map(|cidr| vec![cidr]),
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..Default::default()
        }),
        status: Some(status),
    }
}

fn capacity(config: &Config, machine: &Machine) -> BTreeMap<String, Quantity> {
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), Quantity((machine.milli_cpus / 1000).to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", machine.memory_bytes / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", machine.storage_bytes / 1024))),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    for (kib, bytes) in &machine.hugepages {
        let size = if kib % (1 << 20) == 0 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
        let amount = if *bytes == 0 { "0".to_owned() } else { format!("{}Mi", bytes >> 20) };
        capacity.insert(format!("hugepages-{size}"), Quantity(amount));
    }
    capacity
}

/// The node's status; `old` is as last published.
pub fn status(
    config: &Config,
    machine: &Machine,
    runtime: &RuntimeView,
    pressure: &Pressure,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let capacity = capacity(config, machine);
    let mut addresses: Vec<NodeAddress> = config
        .node_ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".to_owned(), address: ip.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        // Nothing is reserved for the system: its own processes are few and small.
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions(runtime, pressure, old, now)),
        daemon_endpoints: config.server.as_ref().map(|server| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(server.address.port()) }),
        }),
        images: Some(images(&runtime.images)),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: runtime.version.clone(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: config.version.clone(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..Default::default()
        }),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        runtime_handlers: Some(runtime.handlers.iter().map(handler).collect()),
        ..Default::default()
    }
}

fn handler(handler: &RuntimeHandler) -> NodeRuntimeHandler {
    NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    }
}

fn conditions(
    runtime: &RuntimeView,
    pressure: &Pressure,
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let now = Time(whole_seconds(now));
    let condition = |kind: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let old = old.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
        let since = old
            .into_iter()
            .find(|c| c.type_ == kind && c.status == status)
            .and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: since.or_else(|| Some(now.clone())),
        }
    };
    let memory = pressure.memory_available_bytes < MIN_MEMORY_BYTES;
    let disk =
        pressure.disk_available_percent < MIN_DISK_PERCENT || pressure.inodes_available_percent < MIN_INODES_PERCENT;
    let pids = pressure.pids_available < MIN_PIDS;
    let pick =
        |bad: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| if bad { yes } else { no };
    let (memory_reason, memory_text) = pick(
        memory,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let (disk_reason, disk_text) = pick(
        disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let (pid_reason, pid_text) = pick(
        pids,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let problems = not_ready(runtime);
    let ready = match problems.is_empty() {
        true => condition("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        false => condition("Ready", false, "KubeletNotReady", problems.join(", ")),
    };
    vec![
        condition("MemoryPressure", memory, memory_reason, memory_text.to_owned()),
        condition("DiskPressure", disk, disk_reason, disk_text.to_owned()),
        condition("PIDPressure", pids, pid_reason, pid_text.to_owned()),
        ready,
    ]
}

/// What keeps the node from being ready.
pub fn not_ready(runtime: &RuntimeView) -> Vec<String> {
    match &runtime.conditions {
        Err(cause) => vec![format!("container runtime is down: {cause}")],
        Ok(conditions) => conditions
            .iter()
            .filter(|c| !c.status)
            .map(|c| {
                let what = if c.kind == "NetworkReady" {
                    "container runtime network not ready"
                } else {
                    "container runtime status check may not have completed yet"
                };
                format!("{what}: {}=false reason:{} message:{}", c.kind, c.reason, c.message)
            })
            .collect(),
    }
}

/// The largest images, with a few names each.
fn images(images: &[Image]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&Image> = images.iter().collect();
    sorted.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    sorted.truncate(MAX_IMAGES);
    sorted
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(MAX_IMAGE_NAMES).cloned().collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect()
}

/// Whether two statuses say the same, heartbeats aside.
pub fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    still(a) == still(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(network: bool) -> RuntimeView {
        let condition = |kind: &str, status| RuntimeCondition {
            kind: kind.into(),
            status,
            reason: "NetworkPluginNotReady".into(),
            message: "no CNI".into(),
        };
        let conditions = Ok(vec![condition("RuntimeReady", true), condition("NetworkReady", network)]);
        RuntimeView { version: "kybern://v0.1.0".into(), conditions, handlers: vec![], images: vec![] }
    }

    fn build(network: bool, pressure: Pressure, old: Option<&NodeStatus>, second: i64) -> NodeStatus {
        let config = Config::new("n", "10.0.0.1".parse().unwrap(), std::path::Path::new("/data"));
        let machine =
            Machine { milli_cpus: 2000, memory_bytes: 1 << 30, architecture: "amd64".into(), ..Default::default() };
        status(&config, &machine, &runtime(network), &pressure, old, Timestamp::from_second(second).unwrap())
    }

    fn condition<'a>(status: &'a NodeStatus, kind: &str) -> &'a NodeCondition {
        status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
    }

    fn plenty() -> Pressure {
        Pressure {
            memory_available_bytes: 1 << 30,
            disk_available_percent: 50,
            inodes_available_percent: 50,
            pids_available: 10_000,
        }
    }

    #[test]
    fn readiness_is_the_runtimes() {
        let waiting = build(false, plenty(), None, 1);
        let ready = condition(&waiting, "Ready");
        assert_eq!(ready.status, "False");
        assert_eq!(
            ready.message.as_deref(),
            Some("container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no CNI")
        );
        let up = build(true, plenty(), Some(&waiting), 5);
        assert_eq!(condition(&up, "Ready").status, "True");
        assert!(!same(&waiting, &up));
        let later = build(true, plenty(), Some(&up), 9);
        assert!(same(&up, &later));
        assert_eq!(condition(&later, "Ready").last_transition_time, condition(&up, "Ready").last_transition_time);
    }

    #[test]
    fn pressures_and_amounts() {
        let status = build(true, Pressure { memory_available_bytes: 1, ..plenty() }, None, 1);
        assert_eq!(condition(&status, "MemoryPressure").status, "True");
        assert_eq!(condition(&status, "DiskPressure").status, "False");
        let capacity = status.capacity.unwrap();
        assert_eq!(
            (capacity["cpu"].0.as_str(), capacity["memory"].0.as_str(), capacity["pods"].0.as_str()),
            ("2", "1048576Ki", "110")
        );
    }
}
