//! The Node authorizer (`plugin/pkg/auth/authorizer/node`): a kubelet may read what the pods on its own node refer to, and
//! write its own node, lease and pods' status.

mod graph;

use kybern_apimachinery::{Value, object};
use kybern_apiserver::access::{Answer, Attributes, Authorizer, Decision, UserInfo};
use kybern_apiserver::connect::{Observer, Unread};
use parking_lot::RwLock;

use self::graph::Graph;
pub use self::graph::{Kind, MIRROR, references};
use super::rbac::Rule;

/// The node that a user is the kubelet of.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix("system:node:")?;
    (!name.is_empty() && user.in_group("system:nodes")).then_some(name)
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
        match (a.group.as_str(), a.resource.as_str(), a.subresource.as_str()) {
            ("", "secrets", _) => self.read(node, Kind::Secret, a),
            ("", "configmaps", _) => self.read(node, Kind::ConfigMap, a),
            ("", "persistentvolumeclaims", "status") => match a.verb.as_str() {
                "update" | "patch" => self.related(node, a, |g| g.uses(node, &a.namespace, Kind::Claim, &a.name)),
                _ => refuse("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims", _) => {
                self.get(node, a, |g| g.uses(node, &a.namespace, Kind::Claim, &a.name))
            }
            ("", "persistentvolumes", _) => self.get(node, a, |g| g.mounts(node, &a.name)),
            ("resource.k8s.io", "resourceclaims", _) => {
                self.get(node, a, |g| g.uses(node, &a.namespace, Kind::ResourceClaim, &a.name))
            }
            ("storage.k8s.io", "volumeattachments", _) => {
                self.get(node, a, |g| g.attachments.get(&a.name).is_some_and(|n| n == node))
            }
            ("", "serviceaccounts", "") if a.verb == "get" => self.read(node, Kind::ServiceAccount, a),
            ("", "serviceaccounts", _) if a.verb != "create" || a.name.is_empty() => {
                refuse("can only create tokens for individual service accounts")
            }
            ("", "serviceaccounts", "token") => {
                self.related(node, a, |g| g.uses(node, &a.namespace, Kind::ServiceAccount, &a.name))
            }
            ("", "serviceaccounts", _) => refuse("can only create token subresource of serviceaccount"),
            ("coordination.k8s.io", "leases", _) => judge_lease(node, a),
            ("storage.k8s.io", "csinodes", sub) => judge_csi_node(node, a, sub),
            ("resource.k8s.io", "resourceslices", sub) => self.judge_slice(node, a, sub),
            ("", "nodes", sub) => judge_node(node, a, sub),
            ("", "pods", sub) => self.judge_pod(node, a, sub),
            _ if self.rules.iter().any(|r| r.allows(a)) => Ok(()),
            _ => refuse(""),
        }
    }

    /// One object, known to be the node's by the graph.
    fn related(&self, node: &str, a: &Attributes, is: impl FnOnce(&Graph) -> bool) -> Result<(), String> {
        if a.name.is_empty() {
            return refuse("No Object name found");
        }
        if is(&self.graph.read()) {
            return Ok(());
        }
        refuse(format!("no relationship found between node '{node}' and this object"))
    }

    fn get(&self, node: &str, a: &Attributes, is: impl FnOnce(&Graph) -> bool) -> Result<(), String> {
        match (a.verb.as_str(), a.subresource.as_str()) {
            ("get", "") => self.related(node, a, is),
            ("get", _) => refuse("cannot get subresource"),
            _ => refuse("can only get individual resources of this type"),
        }
    }

    /// A list or a watch of one name is a read of it.
    fn read(&self, node: &str, kind: Kind, a: &Attributes) -> Result<(), String> {
        if !matches!(a.verb.as_str(), "get" | "list" | "watch") {
            return refuse("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return refuse("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return refuse("can only read namespaced object of this type");
        }
        self.related(node, a, |g| g.uses(node, &a.namespace, kind, &a.name))
    }

    fn judge_slice(&self, node: &str, a: &Attributes, subresource: &str) -> Result<(), String> {
        if !subresource.is_empty() {
            return refuse("cannot authorize ResourceSlice subresources");
        }
        match a.verb.as_str() {
            // NodeRestriction sees whose it is in its body.
            "create" => Ok(()),
            "get" | "update" | "patch" | "delete" => {
                self.related(node, a, |g| g.slices.get(&a.name).is_some_and(|n| n == node))
            }
            "list" | "watch" | "deletecollection" if a.field_selector.exact("nodeName") == Some(node) => Ok(()),
            "list" | "watch" | "deletecollection" => {
                refuse("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => refuse(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
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
            ("", "get" | "list" | "watch") => self.related(node, a, |g| g.runs(node, &a.namespace, &a.name)),
            _ => Err(String::new()),
        }
    }
}

fn refuse(text: impl Into<String>) -> Result<(), String> {
    Err(text.into())
}

fn judge_lease(node: &str, a: &Attributes) -> Result<(), String> {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != "kube-node-lease" {
        return refuse("can only access leases in the \"kube-node-lease\" system namespace");
    }
    // Creation names no object; NodeRestriction sees the name in its body.
    if a.verb != "create" && a.name != node {
        return refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn judge_csi_node(node: &str, a: &Attributes, subresource: &str) -> Result<(), String> {
    if !matches!(a.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return refuse("can only get, create, update, patch, or delete a CSINode");
    }
    if !subresource.is_empty() {
        return refuse("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
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
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        let decision = match node_of(&attributes.user).map(|node| self.judge(node, attributes)) {
            None => Decision::NoOpinion(String::new()),
            Some(Ok(())) => Decision::Allow(None),
            Some(Err(reason)) => Decision::NoOpinion(reason),
        };
        decision.into()
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

    fn reads(&self, _group: &str, resource: &str) -> &'static [&'static [&'static str]] {
        if resource == "pods" { graph::READ_OF_PODS } else { &[] }
    }

    fn sorts_by(&self, _group: &str, resource: &str) -> Option<&'static [&'static str]> {
        (resource == "pods").then_some(&["spec", "nodeName"])
    }

    fn sorted(&self, _group: &str, _resource: &str, namespace: &str, name: &str, pod: Option<(&str, Unread)>) {
        self.graph.write().put_pod(namespace, name, pod);
    }

    fn changed(&self, _group: &str, resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        match resource {
            "persistentvolumes" => self.graph.write().put_volume(name, object),
            _ => {
                let node = object.map(|o| object::str_at(o, &["spec", "nodeName"]).to_owned());
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

    fn show(authorizer: &NodeAuthorizer, pod: Option<&Value>) {
        let unread = |pod: &Value| {
            Unread::new(pod.to_string().into(), std::sync::Arc::new(|bytes: &[u8]| serde_json::from_slice(bytes)))
        };
        let pod = pod.map(|pod| (object::str_at(pod, &["spec", "nodeName"]), unread(pod)));
        authorizer.sorted("", "pods", "ns", "p", pod);
    }

    fn decide(authorizer: &NodeAuthorizer, attributes: &Attributes) -> Decision {
        crate::testing::block(authorizer.authorize(attributes).decision())
    }

    fn may(authorizer: &NodeAuthorizer, node: &str, verb: &str, resource: &str, name: &str) -> bool {
        judge(authorizer, node, verb, resource, name, "") == Decision::Allow(None)
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
        decide(
            authorizer,
            &Attributes {
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
            },
        )
    }

    #[test]
    fn a_kubelet_reads_what_its_pods_use() {
        let authorizer = NodeAuthorizer::default();
        let mut pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {
            "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "root-ca"}}]}}, {"name": "w", "persistentVolumeClaim": {"claimName": "c"}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "env"}}}], "envFrom": [{"configMapRef": {"name": "from"}}]}]}});
        let tell = |pod: &Value| show(&authorizer, Some(pod));
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
        show(&authorizer, None);
        assert!(!may(&authorizer, "a", "get", "secrets", "env"));
    }

    #[test]
    fn attack_a_node_cannot_give_itself_rights_by_a_pod_of_its_own() {
        let authorizer = NodeAuthorizer::default();
        let pod = json!({"metadata": {"name": "p", "annotations": {MIRROR: "x"}}, "spec": {"nodeName": "a",
            "serviceAccountName": "sa", "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}});
        show(&authorizer, Some(&pod));
        assert!(may(&authorizer, "a", "get", "pods", "p"), "it may read what it made");
        assert!(!may(&authorizer, "a", "get", "secrets", "s"));
        assert!(!may(&authorizer, "a", "create", "serviceaccounts/token", "sa"));
    }

    #[test]
    fn a_kubelet_reads_the_secrets_of_its_volumes() {
        let authorizer = NodeAuthorizer::default();
        let pod = json!({"spec": {"nodeName": "a", "resourceClaims": [{"name": "x", "resourceClaimName": "gpu"}],
            "volumes": [{"name": "w", "persistentVolumeClaim": {"claimName": "c"}}]}});
        show(&authorizer, Some(&pod));
        let volume = |claim: &str| {
            json!({"spec": {"claimRef": {"namespace": "ns", "name": claim}, "csi": {
                "nodeStageSecretRef": {"namespace": "ns", "name": "stage"},
                "controllerPublishSecretRef": {"namespace": "ns", "name": "publish"}}}})
        };
        let tell = |v: Value| authorizer.changed("", "persistentvolumes", "", "pv", Some(&v));
        tell(volume("c"));
        assert!(may(&authorizer, "a", "get", "secrets", "stage") && !may(&authorizer, "b", "get", "secrets", "stage"));
        assert!(!may(&authorizer, "a", "get", "secrets", "publish"), "the controllers' side");
        assert!(may(&authorizer, "a", "get", "resource.k8s.io!resourceclaims", "gpu"));
        assert!(!may(&authorizer, "a", "list", "resource.k8s.io!resourceclaims", "gpu"));
        tell(volume("other"));
        assert!(!may(&authorizer, "a", "get", "secrets", "stage"), "another's now");
        authorizer.changed("", "persistentvolumes", "", "pv", None);
        assert!(!may(&authorizer, "a", "get", "persistentvolumes", "pv"));
    }

    #[test]
    fn a_kubelet_reads_the_pods_on_its_node() {
        let authorizer = NodeAuthorizer::default();
        let tell = |pod: Value| show(&authorizer, Some(&pod));
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
            let expect = refusal.map_or(Decision::Allow(None), |text| Decision::NoOpinion(text.to_owned()));
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
        assert_eq!(slices("nodeName=a"), Decision::Allow(None));
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
        assert_eq!(decide(&authorizer, &other), Decision::NoOpinion(String::new()), "the group is missing");
    }
}
