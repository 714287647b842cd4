//! Go's embedded structs, which upstream's type errors name: `Volume.spec.volumes.VolumeSource.emptyDir`.

/// Which structs a field of a struct comes from, outermost first; mostly none.
pub(super) fn embedded(owner: &str, field: &str) -> &'static [&'static str] {
    match (owner, field) {
        ("Volume", "name") => &[],
        ("Volume", _) => &["VolumeSource"],
        (
            "PersistentVolumeSpec",
            "accessModes"
            | "capacity"
            | "claimRef"
            | "mountOptions"
            | "nodeAffinity"
            | "persistentVolumeReclaimPolicy"
            | "storageClassName"
            | "volumeAttributesClassName"
            | "volumeMode",
        ) => &[],
        ("PersistentVolumeSpec", _) => &["PersistentVolumeSource"],
        ("Probe", "exec" | "grpc" | "httpGet" | "tcpSocket") => &["ProbeHandler"],
        ("EphemeralContainer", "targetContainerName") => &[],
        ("EphemeralContainer", _) => &["EphemeralContainerCommon"],
        (
            "ConfigMapEnvSource"
            | "ConfigMapKeySelector"
            | "ConfigMapProjection"
            | "ConfigMapVolumeSource"
            | "SecretEnvSource"
            | "SecretKeySelector"
            | "SecretProjection",
            "name",
        ) => &["LocalObjectReference"],
        ("IngressRule", "http") => &["IngressRuleValue"],
        ("RuleWithOperations", "operations") | ("NamedRuleWithOperations", "resourceNames") => &[],
        ("RuleWithOperations", _) => &["Rule"],
        ("NamedRuleWithOperations", "operations") => &["RuleWithOperations"],
        ("NamedRuleWithOperations", _) => &["RuleWithOperations", "Rule"],
        ("DeviceClaimConfiguration" | "DeviceClassConfiguration" | "DeviceAllocationConfiguration", "opaque") => {
            &["DeviceConfiguration"]
        }
        _ => &[],
    }
}
