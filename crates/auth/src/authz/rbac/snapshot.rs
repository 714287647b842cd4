//! Roles and bindings, indexed for look-up by user.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::{Value, object};
use kybern_apiserver::access::UserInfo;

use super::rules::Rule;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl Subject {
    /// A binding's subject; a service account without a namespace is in the binding's.
    fn from_value(subject: &Value, namespace: &str) -> Option<Self> {
        let name = object::str_at(subject, &["name"]).to_owned();
        match object::str_at(subject, &["kind"]) {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let own = object::str_at(subject, &["namespace"]);
                Some(Self::ServiceAccount { namespace: if own.is_empty() { namespace } else { own }.to_owned(), name })
            }
            _ => None,
        }
    }

    /// As reasons name it (`describeSubject`).
    fn described(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::ServiceAccount { namespace, name } => format!("ServiceAccount {:?}", format!("{name}/{namespace}")),
        }
    }

    pub fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.in_group(name),
            Self::ServiceAccount { namespace, name } => user
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(ns, n)| ns == namespace && n == name),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    /// `Role` in the binding's namespace, or `ClusterRole`.
    pub cluster: bool,
    pub name: String,
}

/// Whom a binding grants its role, and what is said of what that allows: made once, for every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub subject: Subject,
    pub reason: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub grants: Vec<Grant>,
    pub role: RoleRef,
}

impl Binding {
    pub fn from_value(binding: &Value) -> Self {
        let namespace = object::namespace(binding);
        let (kind, role) =
            (object::str_at(binding, &["roleRef", "kind"]), object::str_at(binding, &["roleRef", "name"]));
        let itself = match (object::name(binding), namespace) {
            (name, "") => format!("ClusterRoleBinding {name:?}"),
            (name, namespace) => format!("RoleBinding {:?}", format!("{name}/{namespace}")),
        };
        let grant = |subject: Subject| {
            let to = subject.described();
            Grant { subject, reason: format!("RBAC: allowed by {itself} of {kind} {role:?} to {to}").into() }
        };
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        Self {
            grants: subjects.filter_map(|subject| Subject::from_value(subject, namespace)).map(grant).collect(),
            role: RoleRef { cluster: kind == "ClusterRole", name: role.to_owned() },
        }
    }
}

type Bindings = HashMap<Arc<str>, Arc<Binding>>;

/// Everything RBAC decides from.
#[derive(Debug, Default)]
pub struct Snapshot {
    cluster_roles: HashMap<Arc<str>, Arc<[Rule]>>,
    /// By `namespace/name`.
    roles: HashMap<Arc<str>, Arc<[Rule]>>,
    cluster_bindings: Bindings,
    /// By namespace, then name.
    bindings: HashMap<Arc<str>, Bindings>,
}

impl Snapshot {
    /// Takes in a new, changed or (`None`) deleted object.
    pub fn apply(&mut self, resource: &str, key: &str, object: Option<&Value>) {
        fn put<T: ?Sized>(map: &mut HashMap<Arc<str>, Arc<T>>, key: &str, value: Option<Arc<T>>) {
            match value {
                Some(value) => map.insert(key.into(), value),
                None => map.remove(key),
            };
        }
        let rules = || object.map(|o| Rule::of_role(o).into());
        let binding = || object.map(|o| Arc::new(Binding::from_value(o)));
        match resource {
            "clusterroles" => put(&mut self.cluster_roles, key, rules()),
            "roles" => put(&mut self.roles, key, rules()),
            "clusterrolebindings" => put(&mut self.cluster_bindings, key, binding()),
            "rolebindings" => {
                let (namespace, name) = object::split_key(key);
                let inner = self.bindings.entry(namespace.into()).or_default();
                put(inner, name, binding());
                if inner.is_empty() {
                    self.bindings.remove(namespace);
                }
            }
            _ => {}
        }
    }

    /// The rules of a role; none when it does not exist.
    pub fn role(&self, role: &RoleRef, namespace: &str) -> Option<&Arc<[Rule]>> {
        if role.cluster {
            self.cluster_roles.get(role.name.as_str())
        } else {
            self.roles.get(object::key_of(namespace, &role.name).as_str())
        }
    }

    /// Every set of rules that applies to a user, cluster-wide first, then those of one namespace, each with what grants it.
    pub fn rules<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a Grant, &'a [Rule])> {
        let local = self.bindings.get(namespace).into_iter().flat_map(|b| b.values());
        let granted = move |binding: &'a Arc<Binding>, namespace: &'a str| {
            let rules = self.role(&binding.role, namespace)?;
            Some((binding.grants.iter().find(|grant| grant.subject.is(user))?, &**rules))
        };
        let cluster = self.cluster_bindings.values().filter_map(move |b| granted(b, ""));
        cluster.chain(local.filter_map(move |b| granted(b, namespace)))
    }
}
