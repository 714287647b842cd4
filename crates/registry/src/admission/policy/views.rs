//! What policies keep of the stored objects: themselves with their bindings, compiled once, and the namespaces.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use kybern_apimachinery::{Value, object};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

use super::compiled::ValidatingPolicy;
use crate::tree::text;

/// A policy, and what binds it.
#[derive(Clone)]
pub(super) struct Hook {
    pub policy: Arc<Policy>,
    pub bindings: Vec<Arc<Value>>,
}

pub(super) struct Policy {
    pub object: Value,
    compiled: OnceLock<ValidatingPolicy>,
}

impl Policy {
    /// With its expressions compiled, when it is first asked for: not in the path of commits.
    pub(super) fn compiled(&self) -> &ValidatingPolicy {
        self.compiled.get_or_init(|| ValidatingPolicy::compile(&self.object))
    }
}

#[derive(Default)]
struct State {
    policies: BTreeMap<String, Arc<Policy>>,
    bindings: BTreeMap<String, Arc<Value>>,
    hooks: Arc<Vec<Hook>>,
}

/// The validating policies that are bound.
#[derive(Default)]
pub(crate) struct ValidatingPolicies(RwLock<State>);

impl ValidatingPolicies {
    pub(super) fn hooks(&self) -> Arc<Vec<Hook>> {
        self.0.read().hooks.clone()
    }
}

impl Observer for ValidatingPolicies {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        const GROUP: &str = "admissionregistration.k8s.io";
        &[(GROUP, "validatingadmissionpolicies"), (GROUP, "validatingadmissionpolicybindings")]
    }

    fn changed(&self, _group: &str, resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let mut state = self.0.write();
        match (resource, object) {
            ("validatingadmissionpolicies", Some(policy)) => {
                // A change of the status leaves it as it is.
                let same = |known: &Arc<Policy>| {
                    object::uid(&known.object) == object::uid(policy) && known.object["spec"] == policy["spec"]
                };
                if state.policies.get(name).is_some_and(same) {
                    return;
                }
                let policy = Policy { object: policy.clone(), compiled: OnceLock::new() };
                state.policies.insert(name.to_owned(), Arc::new(policy));
            }
            ("validatingadmissionpolicies", None) => drop(state.policies.remove(name)),
            (_, Some(binding)) => drop(state.bindings.insert(name.to_owned(), Arc::new(binding.clone()))),
            (_, None) => drop(state.bindings.remove(name)),
        }
        let mut bound: BTreeMap<&str, Vec<Arc<Value>>> = BTreeMap::new();
        for binding in state.bindings.values() {
            bound.entry(text(&binding["spec"], "policyName")).or_default().push(binding.clone());
        }
        let hooks = bound
            .into_iter()
            .filter_map(|(name, bindings)| Some(Hook { policy: state.policies.get(name)?.clone(), bindings }));
        state.hooks = Arc::new(hooks.collect());
    }
}

/// The namespaces as they are stored.
#[derive(Default)]
pub(crate) struct NamespaceObjects(RwLock<HashMap<String, Arc<Value>>>);

impl NamespaceObjects {
    pub(super) fn get(&self, name: &str) -> Option<Arc<Value>> {
        self.0.read().get(name).cloned()
    }
}

impl Observer for NamespaceObjects {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "namespaces")]
    }

    fn changed(&self, _group: &str, _resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let mut all = self.0.write();
        match object {
            Some(namespace) => drop(all.insert(name.to_owned(), Arc::new(namespace.clone()))),
            None => drop(all.remove(name)),
        }
    }
}
