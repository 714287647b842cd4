//! The default StorageClass: volumes that are folders of the node which the first pod runs on. The provisioner is one of the
//! controllers.

use kybern_apimachinery::json;

use super::Manifest;

/// What is there belongs to its users: they may make another the default.
pub(super) fn manifests() -> Vec<Manifest> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {
            "name": "local-path",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kybern.io/local-path",
        "allowVolumeExpansion": true,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    });
    vec![Manifest { keep_existing: true, ..Manifest::new("storage.k8s.io", "v1", "storageclasses", class) }]
}
