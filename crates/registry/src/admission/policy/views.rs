//! What policies keep of the stored objects: themselves with their bindings, compiled once.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use kybern_apimachinery::{Gvk, Value, object};
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

use super::compiled::FailurePolicy;
use super::params;
use crate::admission::matching::Criteria;
use crate::tree::{has, text};

/// A sort of policies: where its objects are, and what their specs are compiled to.
pub(crate) trait PolicySort: Send + Sync + Sized + 'static {
    /// The policies and the bindings.
    const RESOURCES: [(&'static str, &'static str); 2];

    fn compile(policy: &Value) -> Self;
}

/// A policy, and what binds it.
pub(super) struct Hook<S> {
    pub policy: Arc<Policy<S>>,
    pub bindings: Vec<Arc<Binding>>,
}

pub(super) struct Policy<S> {
    pub object: Value,
    /// None where it has none, which nobody could have written.
    pub constraints: Option<Criteria>,
    pub param_kind: Option<Gvk>,
    pub failure: FailurePolicy,
    compiled: OnceLock<S>,
}

impl<S: PolicySort> Policy<S> {
    fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        Self {
            constraints: has(spec, "matchConstraints").then(|| Criteria::of_resources(&spec["matchConstraints"])),
            param_kind: params::kind(spec),
            failure: FailurePolicy::of(spec),
            object: object.clone(),
            compiled: OnceLock::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        object::name(&self.object)
    }

    /// With its expressions compiled, when it is first asked for: not in the path of commits.
    pub(super) fn compiled(&self) -> &S {
        self.compiled.get_or_init(|| S::compile(&self.object))
    }
}

pub(super) struct Binding {
    pub object: Value,
    pub resources: Option<Criteria>,
}

impl Binding {
    fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        let resources = has(spec, "matchResources").then(|| Criteria::of_resources(&spec["matchResources"]));
        Self { object: object.clone(), resources }
    }

    pub(super) fn name(&self) -> &str {
        object::name(&self.object)
    }
}

struct State<S> {
    policies: BTreeMap<String, Arc<Policy<S>>>,
    bindings: BTreeMap<String, Arc<Binding>>,
    hooks: Arc<Vec<Hook<S>>>,
}

/// The policies of a sort that are bound.
pub(crate) struct Policies<S>(RwLock<State<S>>);

impl<S> Default for Policies<S> {
    fn default() -> Self {
        let hooks = Arc::new(Vec::new());
        Self(RwLock::new(State { policies: BTreeMap::new(), bindings: BTreeMap::new(), hooks }))
    }
}

impl<S> Policies<S> {
    pub(super) fn hooks(&self) -> Arc<Vec<Hook<S>>> {
        self.0.read().hooks.clone()
    }
}

impl<S: PolicySort> Observer for Policies<S> {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &S::RESOURCES
    }

    fn changed(&self, _group: &str, resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let mut state = self.0.write();
        match (resource == S::RESOURCES[0].1, object) {
            (true, Some(policy)) => {
                // A change of the status leaves it as it is.
                let same = |known: &Arc<Policy<S>>| {
                    object::uid(&known.object) == object::uid(policy) && known.object["spec"] == policy["spec"]
                };
                if state.policies.get(name).is_some_and(same) {
                    return;
                }
                state.policies.insert(name.to_owned(), Arc::new(Policy::new(policy)));
            }
            (true, None) => drop(state.policies.remove(name)),
            (false, Some(binding)) => drop(state.bindings.insert(name.to_owned(), Arc::new(Binding::new(binding)))),
            (false, None) => drop(state.bindings.remove(name)),
        }
        let mut bound: BTreeMap<&str, Vec<Arc<Binding>>> = BTreeMap::new();
        for binding in state.bindings.values() {
            bound.entry(text(&binding.object["spec"], "policyName")).or_default().push(binding.clone());
        }
        let hooks = bound
            .into_iter()
            .filter_map(|(name, bindings)| Some(Hook { policy: state.policies.get(name)?.clone(), bindings }));
        let hooks = hooks.collect();
        state.hooks = Arc::new(hooks);
    }
}
