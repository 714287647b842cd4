//! Which kind has which rules.

use std::sync::Arc;

use kybern_apiserver::strategy::{Plain, Strategy};

use super::pod::{PodStrategy, parts};
use super::{
    PlainWithStatus, ServiceStrategy, Status, StatusOnly, admission_policy, api_service, apps, autoscaling, batch,
    certificate_status, certificates, config, csi, definitions, device_claims, device_slices, device_taint_rule,
    disruption, endpoint_slice, event, flow_control, ingress, limit_range, mutating_policy, namespace, network,
    network_policy, node, pod_template, rbac, resource_quota, runtime_class, scheduling, service, service_range,
    storage, storage_class, trust_bundle, webhooks, workload,
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
        ("" | "events.k8s.io", "events") => Arc::new(event::Event { new_group: group == "events.k8s.io" }),
        ("", "limitranges") => Arc::new(limit_range::LimitRange),
        ("", "namespaces") => Arc::new(namespace::Namespace),
        ("", "nodes") => Arc::new(node::Node),
        ("", "persistentvolumeclaims") => Arc::new(storage::PersistentVolumeClaim),
        ("", "persistentvolumes") => Arc::new(storage::PersistentVolume),
        ("", "pods") => Arc::new(PodStrategy),
        ("", "podtemplates") => Arc::new(pod_template::PodTemplate),
        ("", "replicationcontrollers") => Arc::new(apps::ReplicationController),
        ("", "resourcequotas") => Arc::new(resource_quota::ResourceQuota),
        ("", "secrets") => Arc::new(config::Secret),
        ("", "serviceaccounts") => Arc::new(config::ServiceAccount),
        ("", "services") => Arc::new(ServiceStrategy { allocators: services.clone() }),
        ("apps", "controllerrevisions") => Arc::new(apps::ControllerRevision),
        ("apps", "daemonsets") => Arc::new(apps::DaemonSet),
        ("apps", "deployments") => Arc::new(apps::Deployment),
        ("apps", "replicasets") => Arc::new(apps::ReplicaSet),
        ("apps", "statefulsets") => Arc::new(apps::StatefulSet),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations" | "validatingwebhookconfigurations") => {
            Arc::new(webhooks::WebhookConfiguration { mutating: resource == "mutatingwebhookconfigurations" })
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => {
            Arc::new(admission_policy::ValidatingAdmissionPolicy)
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => {
            Arc::new(mutating_policy::MutatingAdmissionPolicy)
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            Arc::new(mutating_policy::MutatingAdmissionPolicyBinding)
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            Arc::new(admission_policy::ValidatingAdmissionPolicyBinding)
        }
        ("apiregistration.k8s.io", "apiservices") => Arc::new(api_service::ApiService),
        ("apiextensions.k8s.io", "customresourcedefinitions") => Arc::new(definitions::CustomResourceDefinition),
        ("autoscaling", "horizontalpodautoscalers") => Arc::new(autoscaling::HorizontalPodAutoscaler),
        ("batch", "cronjobs") => Arc::new(batch::CronJob),
        ("batch", "jobs") => Arc::new(batch::Job),
        ("certificates.k8s.io", "clustertrustbundles") => Arc::new(trust_bundle::ClusterTrustBundle),
        ("certificates.k8s.io", "certificatesigningrequests") => Arc::new(certificates::CertificateSigningRequest),
        ("coordination.k8s.io", "leases") => Arc::new(node::Lease),
        ("discovery.k8s.io", "endpointslices") => Arc::new(endpoint_slice::EndpointSlice),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => Arc::new(flow_control::FlowSchema),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => Arc::new(flow_control::PriorityLevel),
        ("networking.k8s.io", "ingressclasses") => Arc::new(ingress::IngressClass),
        ("networking.k8s.io", "ingresses") => Arc::new(ingress::Ingress),
        ("networking.k8s.io", "ipaddresses") => Arc::new(service_range::IpAddress),
        ("networking.k8s.io", "networkpolicies") => Arc::new(network_policy::NetworkPolicy),
        ("networking.k8s.io", "servicecidrs") => Arc::new(service_range::ServiceCidr),
        ("node.k8s.io", "runtimeclasses") => Arc::new(runtime_class::RuntimeClass),
        ("policy", "poddisruptionbudgets") => Arc::new(disruption::PodDisruptionBudget),
        ("rbac.authorization.k8s.io", "clusterroles" | "roles") => {
            Arc::new(rbac::Role { cluster: resource == "clusterroles" })
        }
        ("rbac.authorization.k8s.io", "clusterrolebindings" | "rolebindings") => {
            Arc::new(rbac::Binding { cluster: resource == "clusterrolebindings" })
        }
        ("resource.k8s.io", "deviceclasses") => Arc::new(device_claims::DeviceClass),
        ("resource.k8s.io", "devicetaintrules") => Arc::new(device_taint_rule::DeviceTaintRule),
        ("resource.k8s.io", "resourceclaims") => Arc::new(device_claims::ResourceClaim),
        ("resource.k8s.io", "resourceclaimtemplates") => Arc::new(device_claims::ResourceClaimTemplate),
        ("resource.k8s.io", "resourceslices") => Arc::new(device_slices::ResourceSlice),
        ("scheduling.k8s.io", "priorityclasses") => Arc::new(scheduling::PriorityClass),
        ("scheduling.k8s.io", "workloads") => Arc::new(workload::Workload),
        ("storage.k8s.io", "csidrivers") => Arc::new(csi::CsiDriver),
        ("storage.k8s.io", "csinodes") => Arc::new(csi::CsiNode),
        ("storage.k8s.io", "csistoragecapacities") => Arc::new(csi::CsiStorageCapacity),
        ("storage.k8s.io", "storageclasses") => Arc::new(storage_class::StorageClass),
        ("storage.k8s.io", "volumeattachments") => Arc::new(csi::VolumeAttachment),
        ("storage.k8s.io", "volumeattributesclasses") => Arc::new(storage_class::VolumeAttributesClass),
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
        ("", "namespaces", "status") => Arc::new(Status::new(namespace::validate_status)),
        ("", "persistentvolumes", "status") => Arc::new(storage::VolumeStatus),
        ("", "persistentvolumeclaims", "status") => Arc::new(Status::new(storage::validate_claim_status)),
        ("", "services", "status") => {
            Arc::new(Status { warnings: ingress::status_warnings, ..Status::new(service::validate_status) })
        }
        ("batch", "jobs", "status") => Arc::new(Status::new(batch::status::validate)),
        ("", "nodes", "status") => Arc::new(Status::new(node::validate_status)),
        ("", "resourcequotas", "status") => Arc::new(Status::new(resource_quota::validate_status)),
        ("certificates.k8s.io", "certificatesigningrequests", "approval") => Arc::new(certificate_status::Approval),
        ("certificates.k8s.io", "certificatesigningrequests", "status") => {
            Arc::new(certificate_status::CertificateStatus)
        }
        ("apps", "deployments", "status") => Arc::new(Status {
            keeps: &["labels"],
            resets: &[&["metadata", "labels"]],
            ..Status::new(apps::status::deployment)
        }),
        ("apps", "replicasets", "status") => Arc::new(Status::new(apps::status::replica_set)),
        ("", "replicationcontrollers", "status") => Arc::new(Status::new(apps::status::replica_set)),
        ("apps", "statefulsets", "status") => Arc::new(Status::new(apps::status::stateful_set)),
        ("apps", "daemonsets", "status") => Arc::new(Status::new(apps::status::daemon_set)),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies", "status") => {
            Arc::new(Status::keeping_metadata(admission_policy::validate_status))
        }
        ("apiregistration.k8s.io", "apiservices", "status") => {
            Arc::new(Status { has_table: false, ..Status::keeping_metadata(api_service::validate_status) })
        }
        ("apiextensions.k8s.io", "customresourcedefinitions", "status") => {
            Arc::new(Status::keeping_metadata(definitions::validate_status))
        }
        ("autoscaling", _, "status") => Arc::new(Status::new(autoscaling::validate_status)),
        ("flowcontrol.apiserver.k8s.io", _, "status") => {
            Arc::new(Status::keeping_metadata(flow_control::validate_status))
        }
        ("networking.k8s.io", "ingresses", "status") => {
            Arc::new(Status { warnings: ingress::status_warnings, ..Status::new(ingress::validate_status) })
        }
        ("networking.k8s.io", "servicecidrs", "status") => {
            Arc::new(Status { resets: &[], ..Status::keeping_metadata(|_, _| Vec::new()) })
        }
        ("policy", "poddisruptionbudgets", "status") => Arc::new(Status::new(disruption::validate_status)),
        ("resource.k8s.io", "devicetaintrules", "status") => {
            Arc::new(Status::keeping_metadata(device_taint_rule::validate_status))
        }
        ("resource.k8s.io", "resourceclaims", "status") => {
            let status = Status::keeping_metadata(device_claims::validate_status);
            Arc::new(Status { resets: &[], has_table: false, ..status })
        }
        ("storage.k8s.io", "volumeattachments", "status") => Arc::new(Status::keeping_metadata(csi::validate_status)),
        (_, _, "status") => Arc::new(StatusOnly),
        _ => return None,
    })
}
