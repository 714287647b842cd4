//! The Node authorizer (`plugin/pkg/auth/authorizer/node`): a kubelet may read what the pods on its own node refer to, and
//! write its own node, lease and pods' status.

use std::collections::{HashMap, HashSet};

use kybern_apimachinery::{Value, object};
use kybern_apiserver::access::{Attributes, Authorizer, Decision, UserInfo};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

use super::rbac::Rule;

/// The node that a user is the kubelet of.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    (!name.is_empty() && user.in_group("system:nodes")).then_some(name)
}

/// What a pod refers to, in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PodReferences {
    node: String,
    names: HashSet<(Kind, String)>,
}

/// Who uses what: nodes to pods to objects.
#[derive(Debug, Default)]
struct Graph {
    /// By namespace, then pod name.
    pods: HashMap<String, HashMap<String, PodReferences>>,
    /// Volume to the claim that it is bound to: namespace and name.
    volumes: HashMap<String, (String, String)>,
    /// VolumeAttachment to node.
    attachments: HashMap<String, String>,
}

impl Graph {
    fn uses(&self, node: &str, namespace: &str, kind: Kind, name: &str) -> bool {
        let wanted = (kind, name.to_owned());
        self.pods.get(namespace).is_some_and(|pods| pods.values().any(|p| p.node == node && p.names.contains(&wanted)))
    }
}

/// The names that a pod's spec refers to.
fn references(pod: &Value) -> HashSet<(Kind, String)> {
    let mut names = HashSet::new();
    let mut add = |kind: Kind, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            names.insert((kind, name.to_owned()));
        }
    };
    let list = |value: &'_ Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let spec = &pod["spec"];
    add(Kind::ServiceAccount, &spec["serviceAccountName"]);
    for secret in list(spec, "imagePullSecrets") {
        add(Kind::Secret, &secret["name"]);
    }
    for volume in list(spec, "volumes") {
        add(Kind::Secret, &volume["secret"]["secretName"]);
        add(Kind::ConfigMap, &volume["configMap"]["name"]);
        add(Kind::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        if volume["ephemeral"].is_object() {
            add(Kind::Claim, &format!("{}-{}", object::name(pod), object::str_at(&volume, &["name"])).into());
        }
        for source in list(&volume["projected"], "sources") {
            add(Kind::Secret, &source["secret"]["name"]);
            add(Kind::ConfigMap, &source["configMap"]["name"]);
        }
        // The secrets of volume drivers, under the two names that their fields have.
        for driver in ["csi", "flexVolume", "rbd", "cephfs", "iscsi", "scaleIO", "storageos", "azureFile"] {
            let source = &volume[driver];
            for secret in [&source["nodePublishSecretRef"]["name"], &source["secretRef"]["name"], &source["secretName"]]
            {
                add(Kind::Secret, secret);
            }
        }
    }
    for container in ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|c| list(spec, c)) {
        for env in list(&container, "env") {
            add(Kind::Secret, &env["valueFrom"]["secretKeyRef"]["name"]);
            add(Kind::ConfigMap, &env["valueFrom"]["configMapKeyRef"]["name"]);
        }
        for from in list(&container, "envFrom") {
            add(Kind::Secret, &from["secretRef"]["name"]);
            add(Kind::ConfigMap, &from["configMapRef"]["name"]);
        }
    }
    names
}

/// What every kubelet may do, whatever runs on it (upstream's `NodeRules`): verbs, group, resources.
const NODE_RULES: &[(&[&str], &str, &[&str])] = &[
    (&["create"], "authentication.k8s.io", &["tokenreviews"]),
    (&["create"], "authorization.k8s.io", &["subjectaccessreviews", "localsubjectaccessreviews"]),
    (&["get", "list", "watch"], "", &["services", "nodes", "pods"]),
    (&["create", "update", "patch"], "", &["nodes"]),
    (&["update", "patch"], "", &["nodes/status", "pods/status"]),
    (&["create", "delete"], "", &["pods"]),
    (&["create"], "", &["pods/eviction"]),
    (&["create", "update", "patch"], "", &["events"]),
    (&["create", "update", "patch"], "events.k8s.io", &["events"]),
    (&["create", "get", "list", "watch"], "certificates.k8s.io", &["certificatesigningrequests"]),
    (&["get", "list", "watch"], "storage.k8s.io", &["csidrivers"]),
    (&["get", "list", "watch"], "node.k8s.io", &["runtimeclasses"]),
    (&["get", "list", "watch"], "certificates.k8s.io", &["clustertrustbundles"]),
    (&["get", "create", "update", "patch", "delete", "list", "watch"], "resource.k8s.io", &["resourceslices"]),
];

/// The Node authorizer.
pub struct NodeAuthorizer {
    graph: RwLock<Graph>,
    rules: Vec<Rule>,
}

impl Default for NodeAuthorizer {
    fn default() -> Self {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let rule = |(verbs, group, resources): &(&[&str], &str, &[&str])| Rule {
            verbs: owned(verbs),
            api_groups: vec![(*group).to_owned()],
            resources: owned(resources),
            ..Rule::default()
        };
        Self { graph: RwLock::default(), rules: NODE_RULES.iter().map(rule).collect() }
    }
}

impl NodeAuthorizer {
    fn judge(&self, node: &str, a: &Attributes) -> Result<(), String> {
        let none = |text: String| Err(text);
        let read = matches!(a.verb.as_str(), "get" | "list" | "watch");
        let related = |kind: Kind, verbs: bool| {
            if !verbs {
                return none(format!("cannot {} this resource", a.verb));
            }
            if a.name.is_empty() {
                return none(format!("can only read resources of this type with a name: {}", a.resource));
            }
            if self.graph.read().uses(node, &a.namespace, kind, &a.name) {
                Ok(())
            } else {
                none(format!("no relationship found between node '{node}' and this object"))
            }
        };
        match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
            ("", "secrets", "") => related(Kind::Secret, read),
            ("", "configmaps", "") => related(Kind::ConfigMap, read),
            ("", "persistentvolumeclaims", "") => related(Kind::Claim, a.verb == "get"),
            ("", "persistentvolumeclaims", "status") => {
                related(Kind::Claim, matches!(a.verb.as_str(), "update" | "patch"))
            }
            ("", "serviceaccounts", "token") => related(Kind::ServiceAccount, a.verb == "create"),
            ("", "serviceaccounts", "") if a.verb == "get" => related(Kind::ServiceAccount, true),
            ("", "persistentvolumes", "") => {
                let graph = self.graph.read();
                let used =
                    graph.volumes.get(&a.name).is_some_and(|(ns, claim)| graph.uses(node, ns, Kind::Claim, claim));
                if a.verb == "get" && used {
                    Ok(())
                } else {
                    none(format!("no relationship found between node '{node}' and this object"))
                }
            }
            ("storage.k8s.io", "volumeattachments", "") => {
                let mine = self.graph.read().attachments.get(&a.name).is_some_and(|n| n == node);
                if a.verb == "get" && mine {
                    Ok(())
                } else {
                    none(format!("no relationship found between node '{node}' and this object"))
                }
            }
            ("coordination.k8s.io", "leases", "") => {
                // Creation names no object; NodeRestriction sees the name in its body.
                let own =
                    a.namespace == "kube-node-lease" && (a.name == node || (a.verb == "create" && a.name.is_empty()));
                let verb = matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete");
                if own && verb {
                    Ok(())
                } else {
                    none("can only access node lease with the same name as the requesting node".to_owned())
                }
            }
            ("storage.k8s.io", "csinodes", "") => {
                let own = a.name == node || (a.verb == "create" && a.name.is_empty());
                let verb = matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete");
                if own && verb {
                    Ok(())
                } else {
                    none("can only access CSINode with the same name as the requesting node".to_owned())
                }
            }
            // A kubelet reads and writes its own Node alone; lists are filtered by the name it asks for.
            ("", "nodes", _) if !a.name.is_empty() && a.name != node => {
                none(format!("node '{node}' cannot {} another node's object", a.verb))
            }
            _ if self.rules.iter().any(|r| r.allows(a)) => Ok(()),
            _ => none(String::new()),
        }
    }
}

impl Authorizer for NodeAuthorizer {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        match node_of(&attributes.user) {
            None => Decision::NoOpinion(String::new()),
            Some(node) => match self.judge(node, attributes) {
                Ok(()) => Decision::Allow,
                Err(reason) => Decision::NoOpinion(reason),
            },
        }
    }
}

impl Observer for NodeAuthorizer {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "pods"), ("", "persistentvolumes"), ("storage.k8s.io", "volumeattachments")]
    }

    fn changed(&self, _group: &str, resource: &str, namespace: &str, name: &str, object: Option<&[u8]>) {
        let value: Option<Value> = object.and_then(|bytes| serde_json::from_slice(bytes).ok());
        match resource {
            "pods" => {
                // A pod that is not on a node, or has ended, gives its node no right.
                let phase = value.as_ref().map_or("", |v| object::str_at(v, &["status", "phase"]));
                let ended = matches!(phase, "Succeeded" | "Failed");
                let node = value.as_ref().map_or("", |v| object::str_at(v, &["spec", "nodeName"])).to_owned();
                let entry = value
                    .as_ref()
                    .filter(|_| !node.is_empty() && !ended)
                    .map(|v| PodReferences { node, names: references(v) });
                let mut graph = self.graph.write();
                match entry {
                    Some(entry) => {
                        graph.pods.entry(namespace.to_owned()).or_default().insert(name.to_owned(), entry);
                    }
                    None => {
                        if let Some(pods) = graph.pods.get_mut(namespace) {
                            pods.remove(name);
                            if pods.is_empty() {
                                graph.pods.remove(namespace);
                            }
                        }
                    }
                }
            }
            "persistentvolumes" => {
                let claim = value.as_ref().map(|v| {
                    let part = |key| object::str_at(v, &["spec", "claimRef", key]).to_owned();
                    (part("namespace"), part("name"))
                });
                let mut graph = self.graph.write();
                match claim.filter(|(_, name)| !name.is_empty()) {
                    Some(claim) => graph.volumes.insert(name.to_owned(), claim),
                    None => graph.volumes.remove(name),
                };
            }
            _ => {
                let node = value.as_ref().map(|v| object::str_at(v, &["spec", "nodeName"]).to_owned());
                let mut graph = self.graph.write();
                match node {
                    Some(node) => graph.attachments.insert(name.to_owned(), node),
                    None => graph.attachments.remove(name),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn may(authorizer: &NodeAuthorizer, node: &str, verb: &str, resource: &str, name: &str) -> bool {
        let (group, resource) = resource.split_once('!').unwrap_or(("", resource));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let namespace = if group == "coordination.k8s.io" { "kube-node-lease" } else { "ns" };
        authorizer.authorize(&Attributes {
            user: UserInfo {
                name: format!("system:node:{node}"),
                groups: vec!["system:nodes".into()],
                ..UserInfo::default()
            },
            verb: verb.into(),
            resource_request: true,
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: if resource == "nodes" { String::new() } else { namespace.into() },
            name: name.into(),
            ..Attributes::default()
        }) == Decision::Allow
    }

    #[test]
    fn a_kubelet_reads_what_its_pods_use() {
        let authorizer = NodeAuthorizer::default();
        let mut pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "root-ca"}}]}}, {"name": "w", "persistentVolumeClaim": {"claimName": "c"}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "from"}}]}]}});
        let tell = |pod: &Value| authorizer.changed("", "pods", "ns", "p", Some(pod.to_string().as_bytes()));
        tell(&pod);
        assert!(!may(&authorizer, "a", "get", "secrets", "env"), "the pod is on no node");
        pod["spec"]["nodeName"] = "a".into();
        tell(&pod);
        authorizer.changed(
            "",
            "persistentvolumes",
            "",
            "pv",
            Some(br#"{"spec":{"claimRef":{"namespace":"ns","name":"c"}}}"#),
        );
        for (verb, resource, name) in [
            ("get", "secrets", "env"),
            ("watch", "secrets", "pull"),
            ("get", "configmaps", "root-ca"),
            ("get", "configmaps", "from"),
            ("get", "persistentvolumeclaims", "c"),
            ("get", "persistentvolumes", "pv"),
            ("create", "serviceaccounts/token", "sa"),
        ] {
            assert!(may(&authorizer, "a", verb, resource, name), "{verb} {resource} {name}");
            assert!(!may(&authorizer, "b", verb, resource, name), "another node: {verb} {resource} {name}");
        }
        assert!(!may(&authorizer, "a", "delete", "secrets", "env") && !may(&authorizer, "a", "list", "secrets", ""));
        authorizer.changed("", "pods", "ns", "p", None);
        assert!(!may(&authorizer, "a", "get", "secrets", "env"));
    }

    #[test]
    fn a_kubelet_writes_its_own_node_and_lease() {
        let authorizer = NodeAuthorizer::default();
        for (verb, resource, name, expect) in [
            ("update", "nodes/status", "a", true),
            ("update", "nodes/status", "b", false),
            ("create", "nodes", "", true),
            ("delete", "nodes", "a", false),
            ("update", "coordination.k8s.io!leases", "a", true),
            ("update", "coordination.k8s.io!leases", "b", false),
            ("list", "pods", "", true),
            ("create", "pods/binding", "p", false),
            ("list", "secrets", "", false),
            ("patch", "pods/status", "p", true),
        ] {
            assert_eq!(may(&authorizer, "a", verb, resource, name), expect, "{verb} {resource} {name}");
        }
        let mut other = Attributes {
            verb: "list".into(),
            resource_request: true,
            resource: "pods".into(),
            ..Attributes::default()
        };
        other.user.name = "system:node:a".into();
        assert_eq!(authorizer.authorize(&other), Decision::NoOpinion(String::new()), "the group is missing");
    }
}
