//! `validatingadmissionpolicy-status`: says in a policy's status where its expressions do not fit the types of what it is
//! about (`pkg/controller/validatingadmissionpolicystatus`). What kinds are custom resources is not looked into.

mod checking;
mod types;

use kybern_api::DecodeError;
use kybern_apimachinery::{Gvr, Value, json, object};
use kybern_client::store::Cached;
use kybern_client::{Client, Informer, ListOptions, Patch, Store};

use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

const NAME: &str = "validatingadmissionpolicy-status-controller";

#[derive(Debug)]
pub struct Policy(Value);

impl Cached for Policy {
    fn decode(json: &[u8]) -> Result<Self, DecodeError> {
        let kind = "ValidatingAdmissionPolicy";
        serde_json::from_slice(json).map(Self).map_err(|e| DecodeError { kind, cause: e.to_string() })
    }
    fn key(&self) -> String {
        object::name(&self.0).to_owned()
    }
    fn resource_version(&self) -> &str {
        object::resource_version(&self.0)
    }
}

pub struct PolicyStatusController {
    policies: Store<Policy>,
}

fn gvr() -> Gvr {
    Gvr::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies")
}

impl PolicyStatusController {
    pub fn new(client: &Client) -> Self {
        Self { policies: Informer::of(client.clone(), &gvr(), ListOptions::default()).spawn() }
    }
}

impl Controller for PolicyStatusController {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        watches.primary(&self.policies);
    }

    fn reconcile(&self, key: &str, _: &Snapshot, _: &Context) -> Plan {
        let Some(policy) = self.policies.get(key) else { return Plan::idle() };
        let policy = &policy.0;
        let generation = policy["metadata"]["generation"].as_i64().unwrap_or(0);
        if generation <= policy["status"]["observedGeneration"].as_i64().unwrap_or(0) {
            return Plan::idle();
        }
        let warnings = checking::check(&policy["spec"]);
        let mut checked = json!({});
        if !warnings.is_empty() {
            let warning = |(field, text): &(String, String)| json!({"fieldRef": field, "warning": text});
            checked["expressionWarnings"] = warnings.iter().map(warning).collect();
        }
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": key},
            "status": {"observedGeneration": generation, "typeChecking": checked},
        });
        let patch = Patch::Apply { manager: NAME.to_owned(), force: true, object };
        let (namespace, name) = (String::new(), key.to_owned());
        Plan::of(vec![Op::Patch { gvr: gvr(), namespace, name, subresource: Some("status"), patch }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn a_policy_is_checked_once_for_each_of_its_generations() {
        let policy = |observed: i64| {
            Policy(json!({
                "metadata": {"name": "p", "generation": 2, "resourceVersion": "1"},
                "spec": {
                    "matchConstraints": {"resourceRules": [
                        {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]},
                    ]},
                    "validations": [{"expression": "object.spec.nope == 1"}],
                },
                "status": {"observedGeneration": observed},
            }))
        };
        let (policies, writer) = Store::new([]);
        let controller = PolicyStatusController { policies };
        writer.upsert(policy(1));
        let plan = World::new().reconcile(&controller, "p");
        let [Op::Patch { patch: Patch::Apply { object, .. }, subresource, .. }] = &plan.ops[..] else {
            panic!("{plan:?}")
        };
        assert_eq!((*subresource, &object["status"]["observedGeneration"]), (Some("status"), &json!(2)));
        let warning = &object["status"]["typeChecking"]["expressionWarnings"][0];
        assert_eq!(warning["fieldRef"], "spec.validations[0].expression");
        writer.upsert(policy(2));
        assert!(World::new().reconcile(&controller, "p").ops.is_empty());
    }
}
