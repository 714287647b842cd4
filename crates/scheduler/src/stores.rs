//! What plugins read besides nodes and pods: stores that the driver fills from watches, reduced to what is asked of them.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use kybern_api::apps::v1::{ReplicaSet, StatefulSet};
use kybern_api::core::v1::{Namespace, PersistentVolume, PersistentVolumeClaim, ReplicationController, Service};
use kybern_api::policy::v1::PodDisruptionBudget;
use kybern_api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use kybern_api::resource::v1alpha3::DeviceTaintRule;
use kybern_api::storage::v1::{CSIDriver, CSINode, CSINodeDriver, CSIStorageCapacity, StorageClass, VolumeAttachment};
use kybern_api::{DecodeError, Object, label_selector};
use kybern_apimachinery::object;
use kybern_apimachinery::quantity::Quantity;
use kybern_apimachinery::selector::LabelSelector;
use kybern_client::store::Cached;
use kybern_client::{Client, Informer, ListOptions, Store};

use crate::config::Features;
use crate::gangs::Gangs;
use crate::plugins::dynamic_resources::{self, DEVICE, SLICE_NODE, devices_of, node_of_slice};

/// Clones share the stores.
#[derive(Clone)]
pub struct Stores {
    pub namespaces: Store<Kept<Namespace, Labelled>>,
    pub budgets: Store<Kept<PodDisruptionBudget, Budget>>,
    pub services: Store<Kept<Service, Selection>>,
    pub replication_controllers: Store<Kept<ReplicationController, Selection>>,
    pub replica_sets: Store<Kept<ReplicaSet, Selection>>,
    pub stateful_sets: Store<Kept<StatefulSet, Selection>>,
    pub claims: Store<PersistentVolumeClaim>,
    /// With the index [`ON_OFFER`].
    pub volumes: Store<PersistentVolume>,
    pub classes: Store<StorageClass>,
    pub csi_nodes: Store<Kept<CSINode, Limits>>,
    pub csi_drivers: Store<Kept<CSIDriver, TellsCapacity>>,
    /// With the index [`BY_CLASS`].
    pub capacities: Store<Kept<CSIStorageCapacity, Capacity>>,
    /// With the index [`BY_NODE`].
    pub attachments: Store<Kept<VolumeAttachment, Attachment>>,
    pub device_classes: Store<DeviceClass>,
    /// With the index [`DEVICE`].
    pub resource_claims: Store<ResourceClaim>,
    /// With the index [`SLICE_NODE`].
    pub slices: Store<ResourceSlice>,
    /// `None` where taints of devices count for nothing.
    pub device_taints: Option<DeviceTaints>,
    /// `None` where pods of a gang go one by one.
    pub gangs: Option<Gangs>,
    /// Devices that are being given to claims.
    pub devices: Arc<dynamic_resources::Shared>,
}

/// What is known of taints beside those that drivers publish.
#[derive(Clone, Default)]
pub struct DeviceTaints {
    /// `None` where rules count for nothing.
    pub rules: Option<Store<DeviceTaintRule>>,
}

/// Volumes that claims may get: those set aside for one by the claim's key, the others by the name of their storage class.
pub const ON_OFFER: &str = "offer";

/// The index [`ON_OFFER`]. What is in use without a claim, or being deleted, is on no offer.
pub fn offer(volume: &PersistentVolume) -> Vec<String> {
    let spec = volume.spec.as_ref();
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    match spec.and_then(|spec| spec.claim_ref.as_ref()) {
        _ if volume.is_deleting() => Vec::new(),
        Some(claim) => {
            let part = |part: &Option<String>| part.clone().unwrap_or_default();
            vec![object::key_of(&part(&claim.namespace), &part(&claim.name))]
        }
        None if phase == Some("Available") => {
            vec![spec.and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default()]
        }
        None => Vec::new(),
    }
}

/// Attachments of volumes by the names of their nodes.
pub const BY_NODE: &str = "node";

pub fn node_of(attachment: &Kept<VolumeAttachment, Attachment>) -> Vec<String> {
    vec![attachment.facts.node.to_string()]
}

/// Capacities by the names of their storage classes.
pub const BY_CLASS: &str = "class";

pub fn class_of_capacity(capacity: &Kept<CSIStorageCapacity, Capacity>) -> Vec<String> {
    vec![capacity.facts.class.to_string()]
}

impl Stores {
    /// Watches everything; synced once all is listed.
    pub async fn watch(client: &Client, features: Features) -> Self {
        fn kept<K: Object, T: Of<K>>(client: &Client) -> Store<Kept<K, T>> {
            Informer::<Kept<K, T>>::of(client.clone(), &K::gvr(), ListOptions::default()).spawn()
        }
        let all = ListOptions::default;
        let stores = Self {
            namespaces: kept(client),
            budgets: kept(client),
            services: kept(client),
            replication_controllers: kept(client),
            replica_sets: kept(client),
            stateful_sets: kept(client),
            claims: Informer::new(client.clone(), all()).spawn(),
            volumes: Informer::new(client.clone(), all()).index(ON_OFFER, offer).spawn(),
            classes: Informer::new(client.clone(), all()).spawn(),
            csi_nodes: kept(client),
            csi_drivers: kept(client),
            capacities: Informer::of(client.clone(), &CSIStorageCapacity::gvr(), all())
                .index(BY_CLASS, class_of_capacity)
                .spawn(),
            attachments: Informer::of(client.clone(), &VolumeAttachment::gvr(), all()).index(BY_NODE, node_of).spawn(),
            device_classes: Informer::new(client.clone(), all()).spawn(),
            resource_claims: Informer::new(client.clone(), all()).index(DEVICE, devices_of).spawn(),
            slices: Informer::new(client.clone(), all()).index(SLICE_NODE, node_of_slice).spawn(),
            device_taints: features.device_taints.then(|| DeviceTaints {
                rules: features.device_taint_rules.then(|| Informer::new(client.clone(), all()).spawn()),
            }),
            gangs: features.gangs.then(|| Gangs::new(Informer::new(client.clone(), all()).spawn())),
            devices: Arc::default(),
        };
        if let Some(gangs) = &stores.gangs {
            gangs.workloads.synced().await;
        }
        if let Some(DeviceTaints { rules: Some(rules) }) = &stores.device_taints {
            rules.synced().await;
        }
        stores.namespaces.synced().await;
        stores.budgets.synced().await;
        stores.services.synced().await;
        stores.replication_controllers.synced().await;
        stores.replica_sets.synced().await;
        stores.stateful_sets.synced().await;
        stores.claims.synced().await;
        stores.volumes.synced().await;
        stores.classes.synced().await;
        stores.csi_nodes.synced().await;
        stores.csi_drivers.synced().await;
        stores.capacities.synced().await;
        stores.attachments.synced().await;
        stores.device_classes.synced().await;
        stores.resource_claims.synced().await;
        stores.slices.synced().await;
        stores
    }
}

impl Default for Stores {
    /// Empty ones.
    fn default() -> Self {
        Self {
            namespaces: Store::new([]).0,
            budgets: Store::new([]).0,
            services: Store::new([]).0,
            replication_controllers: Store::new([]).0,
            replica_sets: Store::new([]).0,
            stateful_sets: Store::new([]).0,
            claims: Store::new([]).0,
            volumes: Store::new([(ON_OFFER, offer as fn(&PersistentVolume) -> Vec<String>)]).0,
            classes: Store::new([]).0,
            csi_nodes: Store::new([]).0,
            csi_drivers: Store::new([]).0,
            capacities: Store::new([(BY_CLASS, class_of_capacity as fn(&Kept<_, _>) -> Vec<String>)]).0,
            attachments: Store::new([(BY_NODE, node_of as fn(&Kept<VolumeAttachment, Attachment>) -> Vec<String>)]).0,
            device_classes: Store::new([]).0,
            resource_claims: Store::new([(DEVICE, devices_of as fn(&ResourceClaim) -> Vec<String>)]).0,
            slices: Store::new([(SLICE_NODE, node_of_slice as fn(&ResourceSlice) -> Vec<String>)]).0,
            device_taints: None,
            gangs: None,
            devices: Arc::default(),
        }
    }
}

/// What is kept of an object of kind `K`.
pub struct Kept<K, T> {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub resource_version: Box<str>,
    pub facts: T,
    kind: PhantomData<fn() -> K>,
}

/// Facts that are read from a kind.
pub trait Of<K>: Send + Sync + 'static {
    fn of(object: &K) -> Self;
}

impl<K: Object, T: Of<K>> Kept<K, T> {
    pub fn of(object: &K) -> Self {
        Self {
            namespace: object.namespace().into(),
            name: object.name().into(),
            resource_version: Object::resource_version(object).into(),
            facts: T::of(object),
            kind: PhantomData,
        }
    }
}

impl<K: Object, T: Of<K>> Cached for Kept<K, T> {
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::of(&K::decode(json)?))
    }
    fn key(&self) -> String {
        match self.namespace.is_empty() {
            true => self.name.to_string(),
            false => object::key_of(&self.namespace, &self.name),
        }
    }
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

/// The labels of an object.
pub struct Labelled(pub BTreeMap<String, String>);

impl Of<Namespace> for Labelled {
    fn of(namespace: &Namespace) -> Self {
        Self(namespace.metadata.labels.clone().unwrap_or_default())
    }
}

/// How many pods of a selection may be disrupted now.
pub struct Budget {
    pub selector: LabelSelector,
    pub allowed: i32,
    /// Names of pods whose disruption the server has counted already.
    pub disrupted: BTreeSet<String>,
}

impl Of<PodDisruptionBudget> for Budget {
    fn of(budget: &PodDisruptionBudget) -> Self {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        Self {
            // An unreadable one selects nothing; so, here, does an empty one.
            selector: selector
                .and_then(|selector| label_selector(selector).ok())
                .filter(|selector| !selector.is_everything())
                .unwrap_or_else(LabelSelector::none),
            allowed: status.map_or(0, |status| status.disruptions_allowed),
            disrupted: disrupted.into_iter().flat_map(BTreeMap::keys).cloned().collect(),
        }
    }
}

/// The pods that an object is about.
pub struct Selection(pub LabelSelector);

impl Selection {
    fn pairs(pairs: Option<&BTreeMap<String, String>>) -> Self {
        // A Service without a selector is about none.
        let pairs = pairs.filter(|pairs| !pairs.is_empty());
        let selector = |pairs: &BTreeMap<String, String>| {
            LabelSelector::from_pairs(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())))
        };
        Self(pairs.map_or_else(LabelSelector::none, selector))
    }
}

impl Of<Service> for Selection {
    fn of(service: &Service) -> Self {
        Self::pairs(service.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
    }
}

impl Of<ReplicationController> for Selection {
    fn of(controller: &ReplicationController) -> Self {
        Self::pairs(controller.spec.as_ref().and_then(|spec| spec.selector.as_ref()))
    }
}

impl Of<ReplicaSet> for Selection {
    fn of(set: &ReplicaSet) -> Self {
        let selector = set.spec.as_ref().map(|spec| label_selector(&spec.selector));
        Self(selector.and_then(Result::ok).unwrap_or_else(LabelSelector::none))
    }
}

impl Of<StatefulSet> for Selection {
    fn of(set: &StatefulSet) -> Self {
        let selector = set.spec.as_ref().map(|spec| label_selector(&spec.selector));
        Self(selector.and_then(Result::ok).unwrap_or_else(LabelSelector::none))
    }
}

/// How many volumes of each driver a node can have; no entry where there is no limit.
pub struct Limits(pub Vec<(String, usize)>);

impl Of<CSINode> for Limits {
    fn of(node: &CSINode) -> Self {
        let limit = |driver: &CSINodeDriver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.clone(), usize::try_from(count).unwrap_or(0)))
        };
        Self(node.spec.drivers.iter().filter_map(limit).collect())
    }
}

/// Whether volumes of a driver go only where it says that there is room for them.
pub struct TellsCapacity(pub bool);

impl Of<CSIDriver> for TellsCapacity {
    fn of(driver: &CSIDriver) -> Self {
        Self(driver.spec.storage_capacity == Some(true))
    }
}

/// How large a volume of a storage class may be made on some nodes.
pub struct Capacity {
    pub class: Box<str>,
    /// Bytes; `None` while it is not known.
    pub limit: Option<i64>,
    /// The nodes that reach the storage.
    pub nodes: LabelSelector,
}

impl Of<CSIStorageCapacity> for Capacity {
    fn of(capacity: &CSIStorageCapacity) -> Self {
        let limit = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
        let nodes = capacity.node_topology.as_ref().map(label_selector);
        Self {
            class: capacity.storage_class_name.as_str().into(),
            limit: limit.and_then(|limit| Quantity::parse(&limit.0).ok()).map(|limit| limit.value()),
            // Without one, or with an unreadable one, no node does.
            nodes: nodes.and_then(Result::ok).unwrap_or_else(LabelSelector::none),
        }
    }
}

/// A volume that is attached to a node.
pub struct Attachment {
    node: Box<str>,
    pub driver: String,
    pub volume: Option<String>,
}

impl Of<VolumeAttachment> for Attachment {
    fn of(attachment: &VolumeAttachment) -> Self {
        let spec = &attachment.spec;
        Self {
            node: spec.node_name.as_str().into(),
            driver: spec.attacher.clone(),
            volume: spec.source.persistent_volume_name.clone(),
        }
    }
}
