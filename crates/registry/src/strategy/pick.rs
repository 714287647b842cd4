//! Which kind has which rules.

use std::sync::Arc;

use kybern_apiserver::strategy::{Plain, Strategy};

use super::pod::{PodStrategy, parts};
use super::{
    PlainWithStatus, ServiceStrategy, StatusOnly, apps, batch, certificates, config, event, namespace, network, node,
    rbac, scheduling, storage,
};
use crate::allocation::ServiceAllocators;

/// The strategy of a resource in its stored version.
pub(crate) fn strategy(
    group: &str,
    resource: &str,
    has_status: bool,
    services: &Arc<ServiceAllocators>,
) -> Arc<dyn Strategy> {
    match (group, resource) {
        ("", "componentstatuses") => Arc::new(node::ComponentStatus),
        ("", "configmaps") => Arc::new(config::ConfigMap),
        ("", "endpoints") => Arc::new(network::Endpoints),
        ("" | "events.k8s.io", "events") => Arc::new(event::Event),
        ("", "limitranges") => Arc::new(scheduling::LimitRange),
        ("", "namespaces") => Arc::new(namespace::Namespace),
        ("", "nodes") => Arc::new(node::Node),
        ("", "persistentvolumeclaims") => Arc::new(storage::PersistentVolumeClaim),
        ("", "persistentvolumes") => Arc::new(storage::PersistentVolume),
        ("", "pods") => Arc::new(PodStrategy),
        ("", "replicationcontrollers") => Arc::new(apps::ReplicationController),
        ("", "resourcequotas") => Arc::new(scheduling::ResourceQuota),
        ("", "secrets") => Arc::new(config::Secret),
        ("", "serviceaccounts") => Arc::new(config::ServiceAccount),
        ("", "services") => Arc::new(ServiceStrategy { allocators: services.clone() }),
        ("apps", "controllerrevisions") => Arc::new(apps::ControllerRevision),
        ("apps", "daemonsets") => Arc::new(apps::DaemonSet),
        ("apps", "deployments") => Arc::new(apps::Deployment),
        ("apps", "replicasets") => Arc::new(apps::ReplicaSet),
        ("apps", "statefulsets") => Arc::new(apps::StatefulSet),
        ("autoscaling", "horizontalpodautoscalers") => Arc::new(scheduling::HorizontalPodAutoscaler),
        ("batch", "cronjobs") => Arc::new(batch::CronJob),
        ("batch", "jobs") => Arc::new(batch::Job),
        ("certificates.k8s.io", "certificatesigningrequests") => Arc::new(certificates::CertificateSigningRequest),
        ("coordination.k8s.io", "leases") => Arc::new(node::Lease),
        ("discovery.k8s.io", "endpointslices") => Arc::new(network::EndpointSlice),
        ("networking.k8s.io", "ingresses") => Arc::new(network::Ingress),
        ("networking.k8s.io", "networkpolicies") => Arc::new(network::NetworkPolicy),
        ("policy", "poddisruptionbudgets") => Arc::new(scheduling::PodDisruptionBudget),
        ("rbac.authorization.k8s.io", "clusterroles" | "roles") => {
            Arc::new(rbac::Role { cluster: resource == "clusterroles" })
        }
        ("rbac.authorization.k8s.io", "clusterrolebindings" | "rolebindings") => {
            Arc::new(rbac::Binding { cluster: resource == "clusterrolebindings" })
        }
        ("scheduling.k8s.io", "priorityclasses") => Arc::new(scheduling::PriorityClass),
        ("storage.k8s.io", "storageclasses") => Arc::new(storage::StorageClass),
        _ if has_status => Arc::new(PlainWithStatus),
        _ => Arc::new(Plain),
    }
}

/// The strategy of a subresource that writes a part of its parent; `None` when it is something else.
pub(crate) fn part(group: &str, resource: &str, subresource: &str) -> Option<Arc<dyn Strategy>> {
    Some(match (group, resource, subresource) {
        ("", "pods", "status") => Arc::new(parts::PodStatus),
        ("", "pods", "ephemeralcontainers") => Arc::new(parts::EphemeralContainers),
        ("", "pods", "resize") => Arc::new(parts::Resize),
        ("", "namespaces", "finalize") => Arc::new(namespace::Finalize),
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => Arc::new(certificates::Approval),
        (_, _, "status") => Arc::new(StatusOnly),
        _ => return None,
    })
}
