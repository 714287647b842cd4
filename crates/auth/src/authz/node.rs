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
    /// ResourceSlice to node.
    slices: HashMap<String, String>,
}

impl Graph {
    fn uses(&self, node: &str, namespace: &str, kind: Kind, name: &str) -> bool {
        let wanted = (kind, name.to_owned());
        self.pods.get(namespace).is_some_and(|pods| pods.values().any(|p| p.node == node && p.names.contains(&wanted)))
    }

    /// Whether a pod is, or was, run by a node.
    fn runs(&self, node: &str, namespace: &str, pod: &str) -> bool {
        self.pods.get(namespace).and_then(|pods| pods.get(pod)).is_some_and(|p| p.node == node)
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
    (&["get", "list", "watch"], "", &["services"]),
    (&["create", "update", "patch"], "", &["events"]),
    (&["create", "update", "patch"], "events.k8s.io", &["events"]),
    (&["create", "get", "list", "watch"], "certificates.k8s.io", &["certificatesigningrequests"]),
    (&["get", "list", "watch"], "storage.k8s.io", &["csidrivers"]),
    (&["get", "list", "watch"], "node.k8s.io", &["runtimeclasses"]),
    (&["get", "list", "watch"], "certificates.k8s.io", &["clustertrustbundles"]),
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
            ("", "nodes", sub) => judge_node(node, a, sub),
            ("", "pods", sub) => self.judge_pod(node, a, sub),
            ("resource.k8s.io", "resourceslices", "") => match a.verb.as_str() {
                // NodeRestriction sees whose it is in its body.
                "create" => Ok(()),
                "get" | "update" | "patch" | "delete" => {
                    let mine = self.graph.read().slices.get(&a.name).is_some_and(|n| n == node);
                    if mine {
                        Ok(())
                    } else {
                        none(format!("no relationship found between node '{node}' and this object"))
                    }
                }
                _ if a.field_selector.exact("nodeName") == Some(node) => Ok(()),
                _ => {
                    none("can only list/watch/deletecollection resourceslices with nodeName field selector".to_owned())
                }
            },
            _ if self.rules.iter().any(|r| r.allows(a)) => Ok(()),
            _ => none(String::new()),
        }
    }

    /// A kubelet reads the pods on its node. What it writes of them, NodeRestriction confines to those.
    fn judge_pod(&self, node: &str, a: &Attributes, subresource: &str) -> Result<(), String> {
        match (subresource, a.verb.as_str()) {
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            ("", "list" | "watch") if a.field_selector.exact("spec.nodeName") == Some(node) => Ok(()),
            ("", "list" | "watch") if a.name.is_empty() => {
                Err("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
            ("", "get" | "list" | "watch") => {
                let mine = self.graph.read().runs(node, &a.namespace, &a.name);
                if mine { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
            }
            _ => Err(String::new()),
        }
    }
}

/// A kubelet reads its own Node alone. What it writes, NodeRestriction confines to that.
fn judge_node(node: &str, a: &Attributes, subresource: &str) -> Result<(), String> {
    match (subresource, a.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if a.name == node => Ok(()),
        ("", "get" | "list" | "watch") if a.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
        }
        _ => Err(String::new()),
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
        &[
            ("", "pods"),
            ("", "persistentvolumes"),
            ("storage.k8s.io", "volumeattachments"),
            ("resource.k8s.io", "resourceslices"),
        ]
    }

    fn changed(&self, _group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        let value = object;
        match resource {
            "pods" => {
                // A pod that is not on a node, or has ended, gives its node no right but to read it.
                let phase = value.map_or("", |v| object::str_at(v, &["status", "phase"]));
                let ended = matches!(phase, "Succeeded" | "Failed");
                let node = value.map_or("", |v| object::str_at(v, &["spec", "nodeName"])).to_owned();
                let entry = value
                    .filter(|_| !node.is_empty())
                    .map(|v| PodReferences { node, names: if ended { HashSet::new() } else { references(v) } });
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
                let claim = value.map(|v| {
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
                let node = value.map(|v| object::str_at(v, &["spec", "nodeName"]).to_owned());
                let mut graph = self.graph.write();
                let Graph { attachments, slices, .. } = &mut *graph;
                let nodes = if resource == "resourceslices" { slices } else { attachments };
                match node {
                    Some(node) => nodes.insert(name.to_owned(), node),
                    None => nodes.remove(name),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;
    use kybern_apimachinery::selector::FieldSelector;

    fn may(authorizer: &NodeAuthorizer, node: &str, verb: &str, resource: &str, name: &str) -> bool {
        judge(authorizer, node, verb, resource, name, "") == Decision::Allow
    }

    fn judge(
        authorizer: &NodeAuthorizer,
        node: &str,
        verb: &str,
        resource: &str,
        name: &str,
        selector: &str,
    ) -> Decision {
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
            field_selector: FieldSelector::parse(selector).unwrap(),
            ..Attributes::default()
        })
    }

    #[test]
    fn a_kubelet_reads_what_its_pods_use() {
        let authorizer = NodeAuthorizer::default();
        let mut pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "root-ca"}}]}}, {"name": "w", "persistentVolumeClaim": {"claimName": "c"}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "from"}}]}]}});
        let tell = |pod: &Value| authorizer.changed("", "pods", "ns", "p", Some(pod));
        tell(&pod);
        assert!(!may(&authorizer, "a", "get", "secrets", "env"), "the pod is on no node");
        pod["spec"]["nodeName"] = "a".into();
        tell(&pod);
        authorizer.changed(
            "",
            "persistentvolumes",
            "",
            "pv",
            Some(&json!({"spec":{"claimRef":{"namespace":"ns","name":"c"}}})),
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
    fn a_kubelet_reads_the_pods_on_its_node() {
        let authorizer = NodeAuthorizer::default();
        let tell = |pod: Value| authorizer.changed("", "pods", "ns", "p", Some(&pod));
        let own = "spec.nodeName=a";
        for (verb, name, selector, refusal) in [
            ("list", "", own, None),
            ("watch", "", "status.phase!=Failed,spec.nodeName=a", None),
            ("list", "", "spec.nodeName=b", Some("can only list/watch pods with spec.nodeName field selector")),
            ("watch", "", "spec.nodeName!=a", Some("can only list/watch pods with spec.nodeName field selector")),
            ("watch", "", "", Some("can only list/watch pods with spec.nodeName field selector")),
            ("get", "p", "", Some("no relationship found between node 'a' and this object")),
            ("deletecollection", "", own, Some("")),
        ] {
            let expect = refusal.map_or(Decision::Allow, |text| Decision::NoOpinion(text.to_owned()));
            assert_eq!(judge(&authorizer, "a", verb, "pods", name, selector), expect, "{verb} {name} {selector}");
        }
        tell(json!({"spec": {"nodeName": "a", "imagePullSecrets": [{"name": "pull"}]}}));
        assert!(may(&authorizer, "a", "get", "pods", "p") && may(&authorizer, "a", "watch", "pods", "p"));
        assert!(!may(&authorizer, "b", "get", "pods", "p"));
        tell(json!({"spec": {"nodeName": "a", "imagePullSecrets": [{"name": "pull"}]}, "status": {"phase": "Failed"}}));
        assert!(may(&authorizer, "a", "get", "pods", "p"), "it has ended, and can be read");
        assert!(!may(&authorizer, "a", "get", "secrets", "pull"), "what it used cannot");
        let slice = &json!({"spec": {"nodeName": "a"}});
        authorizer.changed("resource.k8s.io", "resourceslices", "", "s", Some(slice));
        assert!(may(&authorizer, "a", "delete", "resource.k8s.io!resourceslices", "s"));
        assert!(!may(&authorizer, "b", "delete", "resource.k8s.io!resourceslices", "s"));
        let slices = |selector| judge(&authorizer, "a", "list", "resource.k8s.io!resourceslices", "", selector);
        assert_eq!(slices("spec.nodeName=a"), slices(""), "the field is not called so");
        assert_eq!(slices("nodeName=a"), Decision::Allow);
    }

    #[test]
    fn a_kubelet_writes_its_own_node_and_lease() {
        let authorizer = NodeAuthorizer::default();
        for (verb, resource, name, expect) in [
            ("update", "nodes/status", "a", true),
            // Whose they are, NodeRestriction sees.
            ("update", "nodes/status", "b", true),
            ("get", "nodes", "a", true),
            ("get", "nodes", "b", false),
            ("list", "nodes", "", false),
            ("create", "nodes", "", true),
            ("delete", "nodes", "a", false),
            ("update", "coordination.k8s.io!leases", "a", true),
            ("update", "coordination.k8s.io!leases", "b", false),
            ("list", "pods", "", false),
            ("create", "pods", "", true),
            ("create", "pods/eviction", "p", true),
            ("list", "services", "", true),
            ("create", "resource.k8s.io!resourceslices", "", true),
            ("get", "resource.k8s.io!resourceslices", "s", false),
            ("create", "pods/binding", "p", false),
            ("list", "secrets", "", false),
            ("patch", "pods/status", "p", true),
        ] {
            assert_eq!(may(&authorizer, "a", verb, resource, name), expect, "{verb} {resource} {name}");
        }
        let mut other = Attributes {
            verb: "list".into(),
            resource_request: true,
            resource: "services".into(),
            ..Attributes::default()
        };
        other.user.name = "system:node:a".into();
        assert_eq!(authorizer.authorize(&other), Decision::NoOpinion(String::new()), "the group is missing");
    }
}
