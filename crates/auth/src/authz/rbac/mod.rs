//! Role-based access control (`plugin/pkg/auth/authorizer/rbac`): a snapshot of roles and bindings, kept current by the
//! server, and pure decisions on it.

mod escalation;
mod rules;
mod snapshot;

use kybern_apimachinery::{Value, object};
use kybern_apiserver::access::{Answer, Attributes, Authorizer, Decision, UserInfo};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

pub use escalation::{escalation_refusal, uncovered};
pub use rules::Rule;
pub use snapshot::{Binding, Grant, RoleRef, Snapshot, Subject};

/// The group of RBAC's kinds.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The RBAC authorizer. Changes are made in place: a start shows it every role and binding one by one.
#[derive(Default)]
pub struct Rbac {
    snapshot: RwLock<Snapshot>,
}

impl Rbac {
    /// Every rule that applies to a user in a namespace (empty: cluster-wide only).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let snapshot = self.snapshot.read();
        snapshot.rules(user, namespace).flat_map(|(_, rules)| rules.iter().cloned()).collect()
    }
}

impl Authorizer for Rbac {
    fn authorize<'a>(&'a self, attributes: &'a Attributes) -> Answer<'a> {
        let snapshot = self.snapshot.read();
        let found = snapshot
            .rules(&attributes.user, &attributes.namespace)
            .find(|(_, rules)| rules.iter().any(|rule| rule.allows(attributes)));
        match found {
            Some((grant, _)) => Decision::Allow(Some(grant.reason.clone())).into(),
            None => Decision::NoOpinion(String::new()).into(),
        }
    }
}

impl Observer for Rbac {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, "roles"), (GROUP, "rolebindings"), (GROUP, "clusterroles"), (GROUP, "clusterrolebindings")]
    }

    fn changed(&self, _group: &str, resource: &str, namespace: &str, name: &str, object: Option<&Value>) {
        self.snapshot.write().apply(resource, &object::key_of(namespace, name), object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn put(rbac: &Rbac, resource: &str, object: &Value) {
        rbac.changed(GROUP, resource, object::namespace(object), object::name(object), Some(object));
    }

    fn can(rbac: &Rbac, user: &str, groups: &[&str], verb: &str, resource: &str, namespace: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes {
            user: UserInfo {
                name: user.into(),
                groups: groups.iter().map(|g| (*g).into()).collect(),
                ..UserInfo::default()
            },
            verb: verb.into(),
            resource_request: true,
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            ..Attributes::default()
        };
        // Nothing but memory is asked.
        matches!(rbac.authorize(&attributes), Answer::Now(Decision::Allow(_)))
    }

    #[test]
    fn bindings_grant_and_their_deletion_takes_back() {
        let rbac = Rbac::default();
        put(
            &rbac,
            "clusterroles",
            &json!({"metadata": {"name": "view"}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]}),
        );
        put(
            &rbac,
            "rolebindings",
            &json!({"metadata": {"name": "b", "namespace": "a"},
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "x"}, {"kind": "Group", "name": "dev"}]}),
        );
        let account = "system:serviceaccount:x:sa";
        assert!(can(&rbac, account, &[], "list", "pods", "a"));
        assert!(can(&rbac, "joe", &["dev"], "get", "pods/log", "a"));
        let reason = |user: &str, groups: &[&str], namespace: &str| {
            let groups = groups.iter().map(|group| (*group).to_owned()).collect();
            let user = UserInfo { name: user.to_owned(), groups, ..UserInfo::default() };
            let attributes = Attributes {
                user,
                verb: "get".into(),
                resource_request: true,
                resource: "pods".into(),
                namespace: namespace.into(),
                ..Attributes::default()
            };
            match rbac.authorize(&attributes) {
                Answer::Now(Decision::Allow(reason)) => reason.map(|reason| reason.to_string()),
                _ => None,
            }
        };
        let of =
            |subject: &str| Some(format!("RBAC: allowed by RoleBinding \"b/a\" of ClusterRole \"view\" to {subject}"));
        assert_eq!(reason(account, &[], "a"), of("ServiceAccount \"sa/x\""));
        assert_eq!(reason("joe", &["dev"], "a"), of("Group \"dev\""));
        assert_eq!(reason("joe", &["dev"], "b"), None);
        assert!(!can(&rbac, account, &[], "list", "pods", "b"), "another namespace");
        assert!(!can(&rbac, account, &[], "list", "pods", ""), "all namespaces");
        assert!(!can(&rbac, account, &[], "delete", "pods", "a"));
        assert!(!can(&rbac, account, &[], "get", "pods/exec", "a"));
        put(
            &rbac,
            "clusterrolebindings",
            &json!({"metadata": {"name": "c"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "ann"}]}),
        );
        let expect = "RBAC: allowed by ClusterRoleBinding \"c\" of ClusterRole \"view\" to User \"ann\"";
        assert_eq!(reason("ann", &[], "zzz").as_deref(), Some(expect));
        assert!(can(&rbac, "ann", &[], "list", "pods", "") && can(&rbac, "ann", &[], "list", "pods", "zzz"));
        rbac.changed(GROUP, "clusterrolebindings", "", "c", None);
        assert!(!can(&rbac, "ann", &[], "list", "pods", ""));
        rbac.changed(GROUP, "clusterroles", "", "view", None);
        assert!(!can(&rbac, account, &[], "list", "pods", "a"), "a binding to a role that is gone grants nothing");
    }
}
