//! Labels of nodes that upstream has deprecated, and warns of where they select nodes.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::FieldPath;

use crate::tree::{list, map, text};

const DEPRECATED: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// What upstream says of a deprecated label.
pub(crate) fn deprecation(key: &str) -> Option<&'static str> {
    DEPRECATED.iter().find(|(label, _)| *label == key).map(|(_, text)| *text)
}

/// Of the map `nodeSelector` below `owner`.
pub(crate) fn selector(path: &FieldPath, owner: &Value) -> Vec<String> {
    map(owner, "nodeSelector").filter_map(|(key, _)| Some(format!("{path}: {}", deprecation(key)?))).collect()
}

/// Of a label selector that selects nodes.
pub(crate) fn label_selector(path: &FieldPath, selector: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (i, expression) in list(selector, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        let path = path.child("matchExpressions").index(i).child("key");
        out.extend(deprecation(key).map(|told| format!("{path}: {key} is {told}")));
    }
    for (key, _) in map(selector, "matchLabels") {
        let path = path.child("matchLabels").child(key);
        out.extend(deprecation(key).map(|told| format!("{path}: {told}")));
    }
    out
}
