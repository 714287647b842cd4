//! Who may read `metrics.k8s.io`, which is built in: whoever may view, edit or administer, as metrics-server grants it.

use kybern_apimachinery::json;

use super::Manifest;

pub(super) fn manifests() -> Vec<Manifest> {
    let labels =
        ["admin", "edit", "view"].map(|role| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), "true"));
    let labels: std::collections::BTreeMap<_, _> = labels.into();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "system:aggregated-metrics-reader", "labels": labels},
        "rules": [{"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}],
    });
    vec![Manifest::new("rbac.authorization.k8s.io", "v1", "clusterroles", role)]
}
