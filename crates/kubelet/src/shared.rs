//! What all pods of a node share.

use std::sync::Arc;

use kybern_api::core::v1::{Pod, Service};
use kybern_client::events::{EventRecorder, EventType, ObjectRef};
use kybern_client::{Client, Store};
use kybern_cri::{DnsConfig, ImageService, RuntimeService};

use crate::config::Config;
use crate::image::pulled::PulledImages;
use crate::node::machine::Machine;
use crate::orphans::Leftovers;
use crate::pod::config::NodeFacts;
use crate::pod::env::Downward;
use crate::pod::spec::{self, ContainerKind};
use crate::pod::status::NodeView;
use crate::references::ReferenceCache;
use crate::volume::claims::Holders;

/// The node's clients, caches and facts.
pub struct Shared {
    pub config: Config,
    pub client: Client,
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    pub pulled: PulledImages,
    pub references: ReferenceCache,
    /// Which pods use which claimed volumes.
    pub holders: Holders,
    pub services: Store<Service>,
    pub events: Events,
    /// What is to be removed of pods that are gone, in numbers.
    pub leftovers: Leftovers,
    pub machine: Machine,
    pub view: NodeView,
    pub facts: NodeFacts,
    /// The node's own resolver.
    pub resolver: DnsConfig,
    /// `None` leaves cgroups alone (tests without root).
    pub cgroups: Option<kybern_linux::cgroup::Cgroups>,
}

impl Shared {
    /// What downward references read, for a pod with these addresses.
    pub fn downward(&self, pod_ips: Vec<String>) -> Downward {
        Downward {
            pod_ips,
            host_ips: self.view.host_ips.clone(),
            allocatable_milli_cpu: self.machine.milli_cpus,
            allocatable_memory_bytes: self.machine.memory_bytes,
            allocatable_storage_bytes: self.machine.storage_bytes,
        }
    }
}

/// Events about pods and the node.
pub struct Events(EventRecorder);

impl Events {
    pub fn new(recorder: EventRecorder) -> Self {
        Self(recorder)
    }

    pub fn normal(&self, pod: &Pod, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.0.event(&reference(pod, container), EventType::Normal, reason, message);
    }

    pub fn warning(&self, pod: &Pod, container: Option<&str>, reason: &str, message: impl Into<String>) {
        self.0.event(&reference(pod, container), EventType::Warning, reason, message);
    }

    /// An event about the node, whose uid is its name, as upstream's kubelet does.
    pub fn node(&self, name: &str, reason: &str, message: impl Into<String>) {
        self.about_node(name, EventType::Normal, reason, message);
    }

    pub fn node_warning(&self, name: &str, reason: &str, message: impl Into<String>) {
        self.about_node(name, EventType::Warning, reason, message);
    }

    fn about_node(&self, name: &str, kind: EventType, reason: &str, message: impl Into<String>) {
        let object = ObjectRef {
            kind: "Node".into(),
            api_version: "v1".into(),
            name: name.into(),
            uid: name.into(),
            ..Default::default()
        };
        self.0.event(&object, kind, reason, message);
    }
}

/// The pod, or one of its containers as `spec.containers{name}`.
fn reference(pod: &Pod, container: Option<&str>) -> ObjectRef {
    let object = ObjectRef::of::<Pod>(pod);
    let Some(name) = container else { return object };
    let list = match spec::container(pod, name) {
        Some((ContainerKind::Init | ContainerKind::Sidecar, _)) => "initContainers",
        Some((ContainerKind::Ephemeral, _)) => "ephemeralContainers",
        _ => "containers",
    };
    object.with_field_path(format!("spec.{list}{{{name}}}"))
}
