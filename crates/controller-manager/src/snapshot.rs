//! The objects that controllers read: one shared store per kind.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, select_all};
use kybern_api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use kybern_api::autoscaling::v2::HorizontalPodAutoscaler;
use kybern_api::batch::v1::{CronJob, Job};
use kybern_api::certificates::v1::CertificateSigningRequest;
use kybern_api::coordination::v1::Lease;
use kybern_api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    ResourceQuota, Secret, Service, ServiceAccount,
};
use kybern_api::discovery::v1::EndpointSlice;
use kybern_api::meta::v1::ObjectMeta;
use kybern_api::networking::v1::{IPAddress, ServiceCIDR};
use kybern_api::policy::v1::PodDisruptionBudget;
use kybern_api::rbac::v1::ClusterRole;
use kybern_api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kybern_api::storage::v1::{CSIDriver, StorageClass, VolumeAttachment, VolumeAttributesClass};
use kybern_api::{Object, owner};
use kybern_apimachinery::Gvr;
#[cfg(test)]
use kybern_client::store::IndexFn;
use kybern_client::{Client, Informer, ListOptions, Store};

use crate::bootstrap_tokens;
use crate::controllers::{
    attach_detach, disruption, legacy_token_cleaner, local_path_provisioner, persistent_volume_binder, resource_claim,
    service_account_tokens, service_lb, vac_protection,
};
use crate::inventory::Inventory;
use crate::pods;

/// Index: the uid of the managing controller, or [`orphans`] of the namespace.
pub const OWNER: &str = "owner";
/// Index: the node a pod runs on, or is pinned to, or that holds a volume.
pub const NODE: &str = "node";
/// Index: the namespace an object is in.
pub const NAMESPACE: &str = "namespace";
/// Index: the keys of the claims that a pod may use, or that a volume is for; those of devices with a word before them.
pub const CLAIM: &str = "claim";
/// Index: the labels of a pod that is not finished, each as [`label_in`] its namespace.
pub const LABEL: &str = "label";
/// Index: the first label that a Service selects by, as [`label_in`] its namespace.
pub const SELECTOR: &str = "selector";
/// Index: the classes of attributes that a volume or claim names.
pub const ATTRIBUTES_CLASS: &str = "attributes class";
/// Index: the storage class of the claims that lack a volume, and of the volumes that lack a claim.
pub const STORAGE_CLASS: &str = "storage class";
/// Index: the volume that a claim names, or that is attached.
pub const VOLUME: &str = "volume";
/// Index: `namespace/name` of the Service an EndpointSlice belongs to.
pub const SERVICE: &str = "service";
/// Index: a label that a budget's pods bear, or its namespace ([`disruption::selects`]).
pub const SELECTS: &str = "selects";

/// Index: the ports of nodes that a Service wants to be balanced at ([`service_lb::node_ports`]).
pub const NODE_PORT: &str = "node port";

/// How long a plan's writes may take to come back on the watch before the key is worked on again regardless.
const REFLECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The value in the index [`OWNER`] of the objects of a namespace that have no controller.
pub fn orphans(namespace: &str) -> String {
    format!("orphans/{namespace}")
}

fn owner_of(metadata: &ObjectMeta) -> Vec<String> {
    match owner::controller_of(metadata) {
        Some(controller) => vec![controller.uid.clone()],
        None => vec![orphans(metadata.namespace.as_deref().unwrap_or(""))],
    }
}

/// A label in the index [`LABEL`].
pub fn label_in(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

fn labels_of(pod: &Pod) -> Vec<String> {
    let labels = pod.labels().into_iter().flatten().filter(|_| !pods::is_finished(pod));
    labels.map(|(key, value)| label_in(pod.namespace(), key, value)).collect()
}

fn selector_of(service: &Service) -> Vec<String> {
    let first = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()?.first_key_value());
    first.map(|(key, value)| label_in(service.namespace(), key, value)).into_iter().collect()
}

/// The node a pod is bound to, or the one that a daemon set pinned it to.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let pinned = fields.filter(|f| f.key == "metadata.name" && f.operator == "In");
    pinned.filter_map(|f| f.values.as_deref()?.first()).map(String::as_str).next()
}

fn service_of(slice: &EndpointSlice) -> Vec<String> {
    let name = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
    name.map(|name| format!("{}/{name}", slice.namespace())).into_iter().collect()
}

/// A write whose effect should be seen before the key is worked on again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) gvr: Gvr,
    pub(crate) key: String,
    pub(crate) effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The object has this resourceVersion, or a later one.
    Version(u64),
    /// The object with this uid is gone, or going.
    Deleted(String),
}

macro_rules! snapshot {
    ($($field:ident: $kind:ty = $options:expr, [$($index:expr => $values:expr),*] $(, $trim:path)?;)*) => {
        /// The shared stores. Cheap to clone behind an `Arc`.
        pub struct Snapshot {
            $(pub $field: Store<$kind>,)*
            /// Identity and owners of every object in the cluster.
            pub inventory: Arc<Inventory>,
        }

        impl Snapshot {
            /// Starts a reflector per kind.
            pub fn spawn(client: &Client, inventory: Arc<Inventory>) -> Self {
                Self {
                    $($field: {
                        let informer = Informer::<$kind>::new(client.clone(), $options);
                        $(let informer = informer.index($index, $values);)*
                        $(let informer = informer.trim($trim).shared();)?
                        informer.spawn()
                    },)*
                    inventory,
                }
            }

            /// Waits until every store has its first list.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }

            /// Waits, not for long, until a write is in the store of its kind. Kinds that no store holds are not waited for.
            pub(crate) async fn reflects(&self, written: &Written) {
                // Some kinds are in several stores, each with its selection.
                let mut waits: Vec<BoxFuture<'_, ()>> = Vec::new();
                $(if written.gvr == <$kind>::gvr() {
                    waits.push(wait(&self.$field, written).boxed());
                })*
                let waiting = async {
                    match &written.effect {
                        Effect::Version(_) if !waits.is_empty() => drop(select_all(waits).await),
                        _ => drop(join_all(waits).await),
                    }
                };
                if tokio::time::timeout(REFLECTION_TIMEOUT, waiting).await.is_err() {
                    tracing::debug!(resource = %written.gvr, key = written.key, "a write is not reflected yet");
                }
            }
        }

        #[cfg(test)]
        pub(crate) struct Writers {
            $(pub(crate) $field: kybern_client::StoreWriter<$kind>,)*
        }

        #[cfg(test)]
        impl Snapshot {
            /// Empty, synced stores that a test fills.
            pub(crate) fn for_test(inventory: Arc<Inventory>) -> (Self, Writers) {
                $(let $field = {
                    let indices: Vec<(&'static str, IndexFn<$kind>)> = vec![$(($index, $values as IndexFn<$kind>)),*];
                    let (store, writer) = Store::new(indices);
                    writer.replace([], "1");
                    (store, writer)
                };)*
                (Self { $($field: $field.0,)* inventory }, Writers { $($field: $field.1,)* })
            }
        }
    };
}

snapshot! {
    namespaces: Namespace = ListOptions::default(), [];
    nodes: Node = ListOptions::default(), [];
    pods: Pod = ListOptions::default(), [
        OWNER => |pod| owner_of(&pod.metadata),
        NODE => |pod| node_of(pod).map(str::to_owned).into_iter().collect(),
        CLAIM => |pod| pods::claims(pod).into_iter().chain(resource_claim::index(pod)).collect(),
        LABEL => labels_of
    ], pods::trimmed::trim;
    claims: PersistentVolumeClaim = ListOptions::default(), [
        ATTRIBUTES_CLASS => vac_protection::of_claim,
        STORAGE_CLASS => persistent_volume_binder::unbound,
        VOLUME => persistent_volume_binder::volumes_of
    ];
    volumes: PersistentVolume = ListOptions::default(), [
        ATTRIBUTES_CLASS => vac_protection::of_volume,
        STORAGE_CLASS => persistent_volume_binder::free,
        CLAIM => persistent_volume_binder::claims_of,
        NODE => local_path_provisioner::nodes_of
    ];
    storage_classes: StorageClass = ListOptions::default(), [];
    volume_attachments: VolumeAttachment = ListOptions::default(), [
        NODE => attach_detach::node_of,
        VOLUME => attach_detach::volumes_of
    ];
    csi_drivers: CSIDriver = ListOptions::default(), [];
    resource_claims: ResourceClaim = ListOptions::default(), [OWNER => |claim| owner_of(&claim.metadata)];
    resource_claim_templates: ResourceClaimTemplate = ListOptions::default(), [];
    attributes_classes: VolumeAttributesClass = ListOptions::default(), [];
    services: Service = ListOptions::default(), [SELECTOR => selector_of, NODE_PORT => service_lb::node_ports];
    endpoints: Endpoints = ListOptions::default(), [];
    endpoint_slices: EndpointSlice = ListOptions::default(), [SERVICE => service_of];
    service_accounts: ServiceAccount = ListOptions::default(), [];
    root_ca_maps: ConfigMap = ListOptions::fields("metadata.name=kube-root-ca.crt"), [];
    cluster_infos: ConfigMap = ListOptions::fields("metadata.name=cluster-info"), [];
    token_secrets: Secret = ListOptions::fields(service_account_tokens::SELECTOR), [NAMESPACE => |secret| vec![secret.namespace().to_owned()]];
    token_tracking: ConfigMap = ListOptions::fields(legacy_token_cleaner::TRACKING), [];
    bootstrap_tokens: Secret = ListOptions::fields(bootstrap_tokens::SELECTOR), [];
    deployments: Deployment = ListOptions::default(), [];
    replica_sets: ReplicaSet = ListOptions::default(), [OWNER => |set| owner_of(&set.metadata)];
    jobs: Job = ListOptions::default(), [OWNER => |job| owner_of(&job.metadata)];
    cron_jobs: CronJob = ListOptions::default(), [];
    daemon_sets: DaemonSet = ListOptions::default(), [];
    stateful_sets: StatefulSet = ListOptions::default(), [];
    revisions: ControllerRevision = ListOptions::default(), [OWNER => |revision| owner_of(&revision.metadata)];
    replication_controllers: ReplicationController = ListOptions::default(), [];
    node_leases: Lease = ListOptions::default(), [];
    signing_requests: CertificateSigningRequest = ListOptions::default(), [];
    cluster_roles: ClusterRole = ListOptions::default(), [];
    budgets: PodDisruptionBudget = ListOptions::default(), [SELECTS => disruption::selects];
    autoscalers: HorizontalPodAutoscaler = ListOptions::default(), [];
    service_cidrs: ServiceCIDR = ListOptions::default(), [];
    ip_addresses: IPAddress = ListOptions::default(), [];
    quotas: ResourceQuota = ListOptions::default(), [NAMESPACE => |quota| vec![quota.namespace().to_owned()]];
}

async fn wait<K: Object>(store: &Store<K>, written: &Written) {
    match &written.effect {
        Effect::Version(version) => {
            let reached = |k: &K| k.resource_version().parse::<u64>().is_ok_and(|v| v >= *version);
            store
                .wait_until(|s| s.resource_version() >= *version || s.get(&written.key).is_some_and(|k| reached(&k)))
                .await;
        }
        Effect::Deleted(uid) => {
            let going = |k: &K| k.is_deleting() || (!uid.is_empty() && k.uid() != uid);
            store.wait_until(|s| s.get(&written.key).is_none_or(|k| going(&k))).await;
        }
    }
}
