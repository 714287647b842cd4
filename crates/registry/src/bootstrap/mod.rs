//! What a fresh cluster holds before its first user comes, made at each start where it is missing: namespaces, the default
//! roles, the Service `kubernetes`, the system's priority classes, flow control.

mod authentication;
mod flow_control;
mod joining;
mod kubernetes_service;
mod reconcile;
mod roles;

use std::net::IpAddr;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use kybern_apimachinery::{ApiError, Gvk, Value, json};
use kybern_apiserver::connect::Objects;
use kybern_apiserver::strategy::Features;

pub use authentication::{AuthenticationConfig, authentication_config};
pub(crate) use flow_control::mandatory as mandatory_flow_control;
pub use joining::{joining, token_tracking};
use reconcile::ensure;

/// Objects made at once, so that they share commits.
const PARALLEL: usize = 64;

/// What the objects depend on.
#[derive(Clone, Debug)]
pub struct BootstrapOptions {
    /// Where clients outside Services reach the API server.
    pub advertise_address: IpAddr,
    pub secure_port: u16,
    /// The first address of the service range.
    pub kubernetes_ip: IpAddr,
    /// The service ranges, `10.96.0.0/12`, of one family or two.
    pub service_cidrs: Vec<String>,
    /// The user as whom the API server calls kubelets, if its certificate is of the cluster's making.
    pub kubelet_client: Option<&'static str>,
    pub features: Features,
}

/// Makes what is missing and adds what roles lack. What users changed otherwise stays; a role or binding with the annotation
/// `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone, as upstream does.
pub async fn run(objects: &dyn Objects, options: &BootstrapOptions) -> Result<(), ApiError> {
    // Namespaces first: the rest lies in them.
    for name in ["kube-system", "kube-public", "kube-node-lease", "default"] {
        ensure(objects, "", "namespaces", namespace(name), reconcile::keep).await?;
    }
    let mut entries = roles::entries();
    if options.features.has("DRADeviceTaints") {
        roles::add_device_taints(&mut entries);
    }
    if options.features.has("GenericWorkload") {
        roles::let_scheduler_read(&mut entries, "scheduling.k8s.io", "workloads");
    }
    let is_served = |group: &str, kind: &str| objects.place(&Gvk::new(group, "v1beta1", kind)).is_some();
    if is_served("storagemigration.k8s.io", "StorageVersionMigration") {
        entries.extend(roles::of_migrations());
    }
    if is_served("certificates.k8s.io", "ClusterTrustBundle") {
        entries.extend(roles::of_trust_bundles());
    }
    if is_served("coordination.k8s.io", "LeaseCandidate") {
        entries.extend(roles::of_elections());
    }
    let roles = entries.into_iter().map(|entry| {
        let merge = if entry.resource.ends_with("bindings") { reconcile::add_subjects } else { reconcile::add_rules };
        ensure(objects, "rbac.authorization.k8s.io", entry.resource, entry.object, merge)
    });
    stream::iter(roles).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    if let Some(user) = options.kubelet_client {
        let roles::Entry { resource, object } = roles::kubelet_client(user);
        ensure(objects, "rbac.authorization.k8s.io", resource, object, reconcile::add_subjects).await?;
    }
    for class in priority_classes() {
        ensure(objects, "scheduling.k8s.io", "priorityclasses", class, reconcile::keep).await?;
    }
    flow_control::ensure_all(objects).await?;
    kubernetes_service::ensure_all(objects, options).await
}

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

fn priority_classes() -> [Value; 2] {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description,
        })
    };
    [
        class("system-node-critical", 2_000_001_000, "For pods that a node cannot do without."),
        class("system-cluster-critical", 2_000_000_000, "For pods that the cluster cannot do without."),
    ]
}
