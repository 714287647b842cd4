//! [`Object`] for every kind that components use.

use std::collections::BTreeMap;

use crate::lenient;
use crate::typed::{DecodeError, Object};

/// `namespaced` or `cluster`, as the scope is written in the list below.
macro_rules! is_namespaced {
    (namespaced) => {
        true
    };
    (cluster) => {
        false
    };
}

macro_rules! objects {
    ($($group:ident :: $version:ident { $($scope:ident $kind:ident),* $(,)? })*) => {$($(
        impl Object for k8s_openapi::api::$group::$version::$kind {
            const GROUP: &'static str = <Self as k8s_openapi::Resource>::GROUP;
            const VERSION: &'static str = <Self as k8s_openapi::Resource>::VERSION;
            const KIND: &'static str = <Self as k8s_openapi::Resource>::KIND;
            const RESOURCE: &'static str = <Self as k8s_openapi::Resource>::URL_PATH_SEGMENT;
            const NAMESPACED: bool = is_namespaced!($scope);

            fn from_json(json: &[u8]) -> Result<Self, DecodeError> {
                serde_json::from_slice(json).or_else(|error| {
                    let tree = lenient::tree(Self::GROUP, Self::VERSION, Self::KIND, json, &error)?;
                    serde_json::from_value(tree).map_err(|e| DecodeError { kind: Self::KIND, cause: e.to_string() })
                })
            }

            fn to_json(&self) -> Vec<u8> {
                serde_json::to_vec(self).expect("an API struct has string keys only")
            }

            fn name(&self) -> &str {
                self.metadata.name.as_deref().unwrap_or("")
            }

            fn namespace(&self) -> &str {
                self.metadata.namespace.as_deref().unwrap_or("")
            }

            fn uid(&self) -> &str {
                self.metadata.uid.as_deref().unwrap_or("")
            }

            fn resource_version(&self) -> &str {
                self.metadata.resource_version.as_deref().unwrap_or("")
            }

            fn labels(&self) -> Option<&BTreeMap<String, String>> {
                self.metadata.labels.as_ref()
            }

            fn is_deleting(&self) -> bool {
                self.metadata.deletion_timestamp.is_some()
            }

            fn drop_managed_fields(&mut self) {
                self.metadata.managed_fields = None;
            }
        }
    )*)*};
}

objects! {
    core::v1 {
        namespaced Pod, cluster Node, namespaced Service, namespaced Endpoints, namespaced ConfigMap, namespaced Secret,
        cluster Namespace, namespaced ServiceAccount, namespaced Event, namespaced ReplicationController,
        cluster PersistentVolume, namespaced PersistentVolumeClaim, namespaced ResourceQuota, namespaced LimitRange,
        namespaced PodTemplate,
    }
    apps::v1 {
        namespaced Deployment, namespaced ReplicaSet, namespaced DaemonSet, namespaced StatefulSet, namespaced ControllerRevision,
    }
    batch::v1 { namespaced Job, namespaced CronJob }
    coordination::v1 { namespaced Lease }
    coordination::v1beta1 { namespaced LeaseCandidate }
    discovery::v1 { namespaced EndpointSlice }
    events::v1 { namespaced Event }
    autoscaling::v2 { namespaced HorizontalPodAutoscaler }
    certificates::v1 { cluster CertificateSigningRequest }
    networking::v1 {
        namespaced Ingress, cluster IngressClass, namespaced NetworkPolicy, cluster IPAddress, cluster ServiceCIDR,
    }
    node::v1 { cluster RuntimeClass }
    policy::v1 { namespaced PodDisruptionBudget }
    rbac::v1 { cluster ClusterRole, cluster ClusterRoleBinding, namespaced Role, namespaced RoleBinding }
    resource::v1 {
        namespaced ResourceClaim, namespaced ResourceClaimTemplate, cluster DeviceClass, cluster ResourceSlice,
    }
    resource::v1alpha3 { cluster DeviceTaintRule }
    scheduling::v1 { cluster PriorityClass }
    scheduling::v1alpha1 { namespaced Workload }
    storage::v1 {
        cluster StorageClass, cluster VolumeAttachment, cluster CSINode, cluster CSIDriver, namespaced CSIStorageCapacity,
        cluster VolumeAttributesClass,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps, core, networking};

    use super::*;

    #[test]
    fn an_object_survives_the_codec() {
        let json = br#"{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":{"app":"x"}}}"#;
        let pod = core::v1::Pod::from_json(json).unwrap();
        assert_eq!((pod.key().as_str(), pod.uid(), pod.resource_version()), ("n/a", "u", "7"));
        assert!(!pod.is_deleting());
        let text = String::from_utf8(pod.to_json()).unwrap();
        assert!(text.starts_with(r#"{"apiVersion":"v1","kind":"Pod","#), "{text}");
        assert_eq!(core::v1::Pod::from_json(text.as_bytes()).unwrap(), pod);
    }

    #[test]
    fn coordinates() {
        assert_eq!(apps::v1::Deployment::gvr().path(Some("n")), "/apis/apps/v1/namespaces/n/deployments");
        assert_eq!(networking::v1::IngressClass::gvr().path(None), "/apis/networking.k8s.io/v1/ingressclasses");
        assert_eq!(core::v1::Endpoints::RESOURCE, "endpoints");
    }

    #[test]
    fn a_wrong_kind_is_refused() {
        let error = core::v1::Pod::from_json(br#"{"apiVersion":"v1","kind":"Node","metadata":{}}"#).unwrap_err();
        assert_eq!(error.kind, "Pod");
    }
}
