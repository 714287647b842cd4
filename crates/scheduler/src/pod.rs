//! What the scheduler keeps of a pod: for one that runs, only what it takes from its node.

use std::sync::Arc;

use kybern_api::core::v1::{
    Container, ContainerPort, NodeSelectorTerm, Pod, PodSpec, Toleration, Volume, WorkloadReference,
};
use kybern_api::node_affinity::{NodeTerm, PreferredTerm};
use kybern_api::owner::controller_of;
use kybern_api::{DecodeError, Object, condition};
use kybern_apimachinery::object;
use kybern_client::store::Cached;

use crate::plugins::pod_topology_spread::Constraint;
use crate::pod_terms::PodTerms;
use crate::resources::{DEFAULT_MEMORY, DEFAULT_MILLI_CPU, Resources};

/// A pod, light enough to hold all of a cluster's.
#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub resource_version: Box<str>,
    /// Empty while it is not bound.
    pub node: Box<str>,
    /// Sorted by key; clones share them.
    pub labels: Labels,
    pub priority: i32,
    pub is_deleting: bool,
    /// It has the condition `DisruptionTarget` with the scheduler's reason.
    pub is_preempted: bool,
    /// `status.startTime` in seconds since 1970; the end of time where there is none.
    pub started: i64,
    /// Its affinity to other pods, if any.
    pub terms: Option<Arc<PodTerms>>,
    /// With one for `pods`.
    pub requests: Resources,
    /// Processor and memory with upstream's guess for containers that request none: what scores are computed from.
    pub guessed: Guessed,
    pub host_ports: Box<[HostPort]>,
    /// The claims that it mounts: their names, and whether they are made for it (generic ephemeral volumes).
    pub claims: Box<[(Box<str>, bool)]>,
    pub disks: Box<[Disk]>,
    /// The group that it is scheduled with, if any.
    pub membership: Option<Box<Membership>>,
    /// What only matters until it is bound; `None` afterwards.
    pub wants: Option<Box<Wants>>,
}

/// A replica of a group of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    pub workload: Box<str>,
    pub group: Box<str>,
    pub replica: Box<str>,
}

impl Membership {
    fn of(reference: &WorkloadReference) -> Self {
        Self {
            workload: reference.name.as_str().into(),
            group: reference.pod_group.as_str().into(),
            replica: reference.pod_group_replica_key.as_deref().unwrap_or("").into(),
        }
    }
}

pub type Labels = Arc<[(Box<str>, Box<str>)]>;

/// A label's value.
pub fn label<'a>(labels: &'a [(Box<str>, Box<str>)], key: &str) -> Option<&'a str> {
    labels.binary_search_by(|(have, _)| (**have).cmp(key)).ok().map(|at| &*labels[at].1)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guessed {
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
}

/// What a pod asks of a node besides resources.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    pub scheduler: Box<str>,
    pub gates: Vec<String>,
    pub tolerations: Vec<Toleration>,
    pub node_selector: Vec<(String, String)>,
    /// One of these must match; `None` where nothing is required.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<PreferredTerm>,
    /// Of all containers, with a tag.
    pub images: Vec<String>,
    /// Its claims of devices.
    pub devices: Vec<DeviceWish>,
    /// Its topology spread constraints.
    pub spread: Vec<Constraint>,
    pub preempts_never: bool,
    /// `status.nominatedNodeName`.
    pub nominated: Box<str>,
    /// API version, kind and name of its controller.
    pub owner: Option<(Box<str>, Box<str>, Box<str>)>,
    /// Reason and message of the condition `PodScheduled` while that is `False`.
    pub reported: Option<(String, String)>,
}

/// A claim of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWish {
    /// `None` while it is not made yet; empty where none is needed.
    pub claim: Option<Box<str>>,
    /// It is made for the pod, from a template.
    pub is_made: bool,
}

fn devices(pod: &Pod, spec: &PodSpec) -> Vec<DeviceWish> {
    let made = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.as_deref()).unwrap_or_default();
    let wishes = spec.resource_claims.iter().flatten().map(|wish| match &wish.resource_claim_name {
        Some(name) => DeviceWish { claim: Some(name.as_str().into()), is_made: false },
        None => {
            let made = made.iter().find(|status| status.name == wish.name);
            let claim = made.map(|status| status.resource_claim_name.as_deref().unwrap_or("").into());
            DeviceWish { claim, is_made: true }
        }
    });
    wishes.collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: Box<str>,
    /// Empty or `0.0.0.0` for all.
    pub ip: Box<str>,
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be taken on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// A disk of a provider, named in the pod itself: not all pods of a node can have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    name: Box<str>,
    /// Where it is, for one that can be found in several places.
    monitors: Vec<String>,
    is_read_only: bool,
}

impl Disk {
    fn of(volume: &Volume) -> Option<Self> {
        let of = |name: String, read_only: Option<bool>| {
            Some(Self { name: name.into(), monitors: Vec::new(), is_read_only: read_only == Some(true) })
        };
        if let Some(disk) = &volume.gce_persistent_disk {
            of(format!("gce {}", disk.pd_name), disk.read_only)
        } else if let Some(disk) = &volume.aws_elastic_block_store {
            of(format!("aws {}", disk.volume_id), None)
        } else if let Some(disk) = &volume.iscsi {
            of(format!("iscsi {}", disk.iqn), disk.read_only)
        } else if let Some(disk) = &volume.rbd {
            let pool = disk.pool.as_deref().unwrap_or("rbd");
            let name = format!("rbd {pool}/{}", disk.image).into();
            Some(Self { name, monitors: disk.monitors.clone(), is_read_only: disk.read_only == Some(true) })
        } else {
            None
        }
    }

    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let meets = self.monitors.is_empty() || self.monitors.iter().any(|monitor| other.monitors.contains(monitor));
        self.name == other.name && meets && !(self.is_read_only && other.is_read_only)
    }
}

impl PodInfo {
    pub fn of(pod: &Pod) -> Self {
        let default = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&default);
        let node = spec.node_name.as_deref().unwrap_or("");
        let (requests, guessed) = requests(spec);
        let pairs = pod.metadata.labels.iter().flatten();
        let labels: Labels = pairs.map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect();
        let status = pod.status.as_ref();
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let target = conditions.iter().find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
        Self {
            namespace: pod.namespace().into(),
            name: pod.name().into(),
            uid: pod.uid().into(),
            resource_version: Object::resource_version(pod).into(),
            node: node.into(),
            priority: spec.priority.unwrap_or(0),
            is_deleting: pod.is_deleting(),
            is_preempted: target.is_some_and(|c| c.reason.as_deref() == Some("PreemptionByScheduler")),
            started: status.and_then(|s| s.start_time.as_ref()).map_or(i64::MAX, |time| time.0.as_second()),
            terms: PodTerms::of(spec, pod.namespace(), &labels).map(Arc::new),
            requests,
            guessed,
            host_ports: host_ports(spec),
            claims: claims(pod, spec),
            disks: spec.volumes.iter().flatten().filter_map(Disk::of).collect(),
            membership: spec.workload_ref.as_ref().map(|reference| Box::new(Membership::of(reference))),
            wants: node.is_empty().then(|| Box::new(Wants::of(pod, spec, &labels))),
            labels,
        }
    }

    /// What the scheduler keeps of a pod, which is nothing once it has ended.
    pub fn unless_finished(pod: &Pod) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        (!matches!(phase, Some("Succeeded" | "Failed"))).then(|| Self::of(pod))
    }

    /// What it asks of a node; nothing once it is bound.
    pub fn wants(&self) -> &Wants {
        static NOTHING: std::sync::LazyLock<Wants> = std::sync::LazyLock::new(Wants::default);
        self.wants.as_deref().unwrap_or(&NOTHING)
    }

    /// The value of one of its labels.
    pub fn label(&self, key: &str) -> Option<&str> {
        label(&self.labels, key)
    }

    /// Whether a change can make it fit where it did not. Its status, which the scheduler itself writes, cannot.
    pub fn asks_differently(&self, other: &Self) -> bool {
        let (a, b) = (self.wants(), other.wants());
        self.requests != other.requests
            || self.host_ports != other.host_ports
            || a.tolerations != b.tolerations
            || a.node_selector != b.node_selector
            || a.required != b.required
            || a.devices != b.devices
            || self.labels != other.labels
    }

    pub fn is_bound(&self) -> bool {
        !self.node.is_empty()
    }
}

impl Cached for PodInfo {
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::of(&Pod::decode(json)?))
    }
    fn key(&self) -> String {
        object::key_of(&self.namespace, &self.name)
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

impl Wants {
    /// Whether a pod's status says already why it is not scheduled.
    pub fn has_reported(&self, reason: &str, message: &str) -> bool {
        self.reported.as_ref().is_some_and(|(known, said)| known == reason && said == message)
    }

    fn of(pod: &Pod, spec: &PodSpec, labels: &Labels) -> Self {
        let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        let terms = |terms: &[NodeSelectorTerm]| terms.iter().map(NodeTerm::of).collect();
        let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone());
        let reported = condition::find(&conditions, "PodScheduled")
            .filter(|c| c.status == "False")
            .map(|c| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()));
        let images = all_containers(spec).filter_map(|c| c.image.as_deref()).map(with_tag).collect();
        Self {
            scheduler: spec.scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
            gates: spec.scheduling_gates.iter().flatten().map(|g| g.name.clone()).collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.clone().unwrap_or_default().into_iter().collect(),
            required: required.map(|selector| terms(&selector.node_selector_terms)),
            preferred: preferred.into_iter().flatten().map(PreferredTerm::of).collect(),
            images,
            devices: devices(pod, spec),
            spread: spec.topology_spread_constraints.iter().flatten().map(|c| Constraint::of(c, labels)).collect(),
            preempts_never: spec.preemption_policy.as_deref() == Some("Never"),
            nominated: pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).unwrap_or("").into(),
            owner: controller_of(&pod.metadata).map(|owner| {
                (owner.api_version.as_str().into(), owner.kind.as_str().into(), owner.name.as_str().into())
            }),
            reported,
        }
    }
}

fn claims(pod: &Pod, spec: &PodSpec) -> Box<[(Box<str>, bool)]> {
    let claim = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some((source.claim_name.as_str().into(), false)),
        (None, Some(_)) => Some((format!("{}-{}", pod.name(), volume.name).into(), true)),
        (None, None) => None,
    };
    spec.volumes.iter().flatten().filter_map(claim).collect()
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// An image reference without tag and digest means `latest`; nodes list images with their tags.
fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

fn host_ports(spec: &PodSpec) -> Box<[HostPort]> {
    let restarts = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(restarts);
    let taken = |port: &ContainerPort| {
        let host_port = port.host_port.filter(|p| *p > 0)?;
        Some(HostPort {
            protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            ip: port.host_ip.as_deref().unwrap_or("").into(),
            port: host_port,
        })
    };
    sidecars.chain(&spec.containers).flat_map(|c| c.ports.iter().flatten()).filter_map(taken).collect()
}

/// A pod's request: what its containers take together, or its most demanding moment of initialization, whichever is more,
/// plus its overhead (`k8s.io/component-helpers/resource.PodRequests`).
fn requests(spec: &PodSpec) -> (Resources, Guessed) {
    let exact = |c: &Container| Resources::parse(c.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let guess = |c: &Container| {
        let mut found = exact(c);
        let set =
            |name: &str| c.resources.as_ref().and_then(|r| r.requests.as_ref()).is_some_and(|r| r.contains_key(name));
        if !set("cpu") {
            found.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !set("memory") {
            found.memory = DEFAULT_MEMORY;
        }
        found
    };
    let mut total = together(spec, exact);
    let mut guessed = together(spec, guess);
    if let Some(own) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        // Requests of the pod as a whole stand for those of its containers.
        let parsed = Resources::parse(Some(own));
        for sum in [&mut total, &mut guessed] {
            if own.contains_key("cpu") {
                sum.milli_cpu = parsed.milli_cpu;
            }
            if own.contains_key("memory") {
                sum.memory = parsed.memory;
            }
        }
    }
    let overhead = Resources::parse(spec.overhead.as_ref());
    total.add(&overhead);
    guessed.add(&overhead);
    total.pods = 1;
    (total, Guessed { milli_cpu: guessed.milli_cpu, memory: guessed.memory })
}

fn together(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|c| running.add(&of(c)));
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let own = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&own);
            sidecars.add(&own);
            peak.raise_to(&sidecars);
        } else {
            let mut moment = sidecars.clone();
            moment.add(&own);
            peak.raise_to(&moment);
        }
    }
    running.raise_to(&peak);
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::{Value, json};

    fn pod(spec: Value) -> PodInfo {
        PodInfo::decode(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}).to_string().as_bytes())
            .unwrap()
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn requests_of_pods() {
        let check = |spec: Value, cpu: i64, guessed: i64| {
            let pod = pod(spec.clone());
            assert_eq!((pod.requests.milli_cpu, pod.guessed.milli_cpu), (cpu, guessed), "{spec}");
        };
        check(json!({"containers": [container("1"), container("500m")]}), 1500, 1500);
        check(json!({"containers": [{"name": "a"}, {"name": "b"}]}), 0, 200);
        check(json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}), 3000, 3000);
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = "Always".into();
        check(json!({"containers": [container("1")], "initContainers": [sidecar, container("3")]}), 4000, 4000);
        check(json!({"containers": [container("1")], "initContainers": [container("1"), sidecar]}), 2000, 2000);
        check(json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), 1250, 1250);
        check(json!({"containers": [container("1")], "resources": {"requests": {"cpu": "5"}}}), 5000, 5000);
    }

    #[test]
    fn what_is_kept() {
        let waiting = pod(
            json!({"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2}]}]}),
        );
        assert_eq!(waiting.wants().images, ["nginx:latest"]);
        assert_eq!(waiting.host_ports.len(), 1);
        assert_eq!(&*waiting.wants().scheduler, "default-scheduler");
        assert!(pod(json!({"containers": [], "nodeName": "n1"})).wants.is_none());
        for (image, expect) in
            [("a/b", "a/b:latest"), ("h:5000/a", "h:5000/a:latest"), ("a:1", "a:1"), ("a@sha256:0", "a@sha256:0")]
        {
            assert_eq!(with_tag(image), expect);
        }
    }

    #[test]
    fn ports_conflict() {
        let port = |ip: &str, port: i32, protocol: &str| HostPort { protocol: protocol.into(), ip: ip.into(), port };
        assert!(port("", 80, "TCP").conflicts(&port("10.0.0.1", 80, "TCP")));
        assert!(port("10.0.0.1", 80, "TCP").conflicts(&port("10.0.0.1", 80, "TCP")));
        assert!(!port("10.0.0.2", 80, "TCP").conflicts(&port("10.0.0.1", 80, "TCP")));
        assert!(!port("", 80, "UDP").conflicts(&port("", 80, "TCP")));
        assert!(!port("", 81, "TCP").conflicts(&port("", 80, "TCP")));
    }
}
