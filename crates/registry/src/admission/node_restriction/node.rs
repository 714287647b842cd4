//! What a kubelet says of its own Node.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apiserver::admission::{AdmissionRequest, Operation};

use super::{Verdict, forbid};
use crate::tree::{has, list, map};

pub(super) fn write(node: &str, request: &AdmissionRequest<'_>, object: Option<&Value>) -> Verdict {
    if request.name != node {
        return forbid(format!("node {node:?} is not allowed to modify node {:?}", request.name));
    }
    let spec = |o: Option<&Value>| o.map_or(Value::Null, |o| o["spec"].clone());
    let (new, old) = (spec(object), spec(request.old));
    match request.operation {
        Operation::Create => {
            if has(&new, "configSource") {
                return forbid(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
            let forbidden = forbidden_labels(object, None);
            if !forbidden.is_empty() {
                let text =
                    format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", "));
                return forbid(text);
            }
        }
        Operation::Update => {
            if has(&new, "configSource") && new["configSource"] != old["configSource"] {
                let text = format!("node {node:?} is not allowed to update configSource to a new non-nil configSource");
                return forbid(text);
            }
            if list(&new, "taints") != list(&old, "taints") {
                return forbid(format!("node {node:?} is not allowed to modify taints"));
            }
            let owners = |o: Option<&Value>| o.map_or(Vec::new(), |o| list(&o["metadata"], "ownerReferences").to_vec());
            if owners(object) != owners(request.old) {
                return forbid(format!("node {node:?} is not allowed to modify ownerReferences"));
            }
            let forbidden = forbidden_labels(object, request.old);
            if !forbidden.is_empty() {
                return forbid(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
            }
        }
        _ => {}
    }
    Ok(())
}

/// The labels that change and are not a kubelet's to give: by those, workloads are kept apart and steered.
fn forbidden_labels(new: Option<&Value>, old: Option<&Value>) -> Vec<String> {
    let labels = |o: Option<&Value>| -> BTreeSet<(String, String)> {
        let labels = o.into_iter().flat_map(|o| map(&o["metadata"], "labels"));
        labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned())).collect()
    };
    let (new, old) = (labels(new), labels(old));
    let changed: BTreeSet<&String> = new.symmetric_difference(&old).map(|(key, _)| key).collect();
    changed.into_iter().filter(|key| is_forbidden(key)).cloned().collect()
}

/// Those that the kubelet gives to the node that it registers.
const OF_KUBELETS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let below = |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if below("node-restriction.kubernetes.io") {
        return true;
    }
    let allowed = OF_KUBELETS.contains(&label) || below("kubelet.kubernetes.io") || below("node.kubernetes.io");
    (below("kubernetes.io") || below("k8s.io")) && !allowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_labels_are_not_a_kubelets() {
        for (label, expect) in [
            ("kubernetes.io/hostname", false),
            ("node.kubernetes.io/anything", false),
            ("x.node.kubernetes.io/anything", false),
            ("kubelet.kubernetes.io/anything", false),
            ("example.com/anything", false),
            ("plain", false),
            ("notkubernetes.io/x", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/x", true),
            ("a.node-restriction.kubernetes.io/x", true),
            ("kubernetes.io/role", true),
            ("x.k8s.io/y", true),
        ] {
            assert_eq!(is_forbidden(label), expect, "{label}");
        }
    }
}
