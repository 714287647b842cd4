//! The smallest object of each kind that upstream accepts, beyond its metadata.

use std::sync::LazyLock;

use kybern_apimachinery::{Value, json};

/// A PEM block of a certificate request, in base64; what is in it no one reads here.
pub(crate) const CSR: &str =
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUFBPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

pub(crate) fn minimal(kind: &str) -> Value {
    let template =
        || json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let job = || json!({"spec": {"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Never"}});
    let selector = || json!({"matchLabels": {"a": "b"}});
    let webhook = json!({"name": "w.example.com", "clientConfig": {"url": "https://example.com"}, "sideEffects": "None", "admissionReviewVersions": ["v1"]});
    match kind {
        "Pod" => json!({"spec": template()["spec"]}),
        "PodTemplate" => json!({"template": template()}),
        "ReplicationController" => json!({"spec": {"selector": {"a": "b"}, "template": template()}}),
        "Deployment" | "ReplicaSet" | "DaemonSet" => json!({"spec": {"selector": selector(), "template": template()}}),
        "StatefulSet" => json!({"spec": {"selector": selector(), "serviceName": "s", "template": template()}}),
        "ControllerRevision" => json!({"revision": 1, "data": {}}),
        "Job" => json!({"spec": {"template": job()}}),
        "CronJob" => json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": job()}}}}),
        "Service" => json!({"spec": {"ports": [{"port": 80}]}}),
        "Event" => json!({
            "involvedObject": {"namespace": "default"}, "regarding": {"namespace": "default"}, "reportingController": "c", "reportingComponent": "c",
            "eventTime": "2026-11-20T00:00:00.000000Z", "reportingInstance": "i", "action": "a", "reason": "r", "type": "Normal",
        }),
        "PersistentVolume" => {
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}})
        }
        "PersistentVolumeClaim" => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
        }
        "StorageClass" => json!({"provisioner": "p"}),
        "RoleBinding" | "ClusterRoleBinding" => {
            json!({"roleRef": {"kind": "ClusterRole", "name": "view", "apiGroup": "rbac.authorization.k8s.io"}})
        }
        "EndpointSlice" => {
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]})
        }
        "Ingress" => json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        "HorizontalPodAutoscaler" => {
            json!({"spec": {"maxReplicas": 1, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}})
        }
        "CertificateSigningRequest" => {
            json!({"spec": {"request": CSR, "signerName": "example.com/s", "usages": ["client auth"]}})
        }
        "ClusterTrustBundle" => {
            static CA: LazyLock<String> = LazyLock::new(|| kybern_testbed::https::TestCa::new("authority").pem);
            json!({"spec": {"trustBundle": *CA}})
        }
        "DeviceTaintRule" => json!({"spec": {"taint": {"key": "k", "effect": "NoExecute"}}}),
        "Workload" => json!({"spec": {"podGroups": [{"name": "g", "policy": {"gang": {"minCount": 1}}}]}}),
        "PriorityClass" => json!({"value": 1}),
        "CustomResourceDefinition" => json!({"spec": {
            "group": "example", "scope": "Namespaced", "names": {"plural": "x", "kind": "Foo"},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
            ],
        }}),
        "ResourceSlice" => json!({"spec": {
            "driver": "d", "nodeName": "n", "pool": {"name": "p", "generation": 0, "resourceSliceCount": 1},
        }}),
        "IngressClass" => json!({"spec": {"controller": "example.com/c"}}),
        "IPAddress" => json!({"spec": {"parentRef": {"resource": "services", "name": "s"}}}),
        "ServiceCIDR" => json!({"spec": {"cidrs": ["10.1.0.0/24"]}}),
        "FlowSchema" => json!({"spec": {"priorityLevelConfiguration": {"name": "exempt"}}}),
        "PriorityLevelConfiguration" => {
            json!({"spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}})
        }
        "VolumeAttachment" => {
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})
        }
        "VolumeAttributesClass" => json!({"driverName": "d", "parameters": {"a": "b"}}),
        "ValidatingAdmissionPolicy" => json!({"spec": {
            "matchConstraints": {"resourceRules": [
                {"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]},
            ]},
            "validations": [{"expression": "true"}],
        }}),
        "MutatingAdmissionPolicy" => json!({"spec": {
            "matchConstraints": {"resourceRules": [
                {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]},
            ]},
            "mutations": [{
                "patchType": "ApplyConfiguration",
                "applyConfiguration": {"expression": "Object{metadata: Object.metadata{labels: {'a': 'b'}}}"},
            }],
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
        }}),
        "MutatingAdmissionPolicyBinding" => json!({"spec": {"policyName": "p"}}),
        "ValidatingAdmissionPolicyBinding" => json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        "APIService" => json!({"spec": {"version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}}),
        "CSIStorageCapacity" => json!({"storageClassName": "c"}),
        "RuntimeClass" => json!({"handler": "h"}),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => json!({"webhooks": [webhook]}),
        _ => json!({}),
    }
}
