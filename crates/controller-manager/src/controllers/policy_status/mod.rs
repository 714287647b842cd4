//! `validatingadmissionpolicy-status`: says in a policy's status where its expressions do not fit the types of what it is
//! about (`pkg/controller/validatingadmissionpolicystatus`). As upstream's it does not look again when another kind's schema changes.

mod checking;
mod openapi;
mod types;

use checking::Documents;
use kybern_api::DecodeError;
use kybern_apimachinery::{Gvr, Value, json, object};
use kybern_client::store::Cached;
use kybern_client::{Client, Informer, ListOptions, Patch, Store};

use crate::ask::{Ask, Then};
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
        let spec = policy["spec"].clone();
        let needed = checking::documents(&spec);
        if needed.is_empty() {
            return Plan::of(vec![tell(key, generation, &checking::check(&spec, &Documents::new()))]);
        }
        let asks = needed.iter().map(|(group, version)| Ask::Get(openapi::path(group, version))).collect();
        let key = key.to_owned();
        let then = Then::new(move |answers| {
            let fault = answers.iter().filter_map(|answer| answer.as_ref().err()).find(|refusal| !refusal.not_found);
            if let Some(refusal) = fault {
                return vec![Op::Fail(refusal.message.clone())];
            }
            let described = needed.iter().cloned().zip(answers);
            let documents = described.filter_map(|(named, answer)| Some((named, answer.ok()?))).collect();
            vec![tell(&key, generation, &checking::check(&spec, &documents))]
        });
        Plan::of(vec![Op::Ask { asks, then }])
    }
}

/// Writes what was found.
fn tell(key: &str, generation: i64, warnings: &[(String, String)]) -> Op {
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
    Op::Patch { gvr: gvr(), namespace: String::new(), name: key.to_owned(), subresource: Some("status"), patch }
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

    /// As upstream's suite has it, with a parameter of another kind and a schema within itself besides.
    #[test]
    fn kinds_that_are_not_built_in_are_asked_for() {
        let (policies, writer) = Store::new([]);
        let controller = PolicyStatusController { policies };
        let expressions = [
            "object.spec.replicas > '1'",
            "object.spec.maxRetries < 10",
            "object.metadata.labels['a'] == object.spec.next.next.replicas",
            "params.limit == 'x'",
            "object.spec.port == 'http'",
        ];
        writer.upsert(Policy(json!({
            "metadata": {"name": "p", "generation": 1, "resourceVersion": "1"},
            "spec": {
                "paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"},
                "matchConstraints": {"resourceRules": [
                    {"apiGroups": ["example.com", "gone.io"], "apiVersions": ["v1"], "resources": ["crontabs"]},
                ]},
                "validations": expressions.map(|e| json!({"expression": e})),
            },
        })));
        let plan = World::new().reconcile(&controller, "p");
        let [Op::Ask { asks, then }] = &plan.ops[..] else { panic!("{plan:?}") };
        let asked = ["/openapi/v3/apis/example.com/v1", "/openapi/v3/apis/gone.io/v1"];
        assert_eq!(asks[..], asked.map(|path| Ask::Get(path.to_owned())));
        let kind = |kind: &str| json!({"group": "example.com", "version": "v1", "kind": kind});
        let whole = |name: &str, spec: Value| {
            json!({"type": "object", "x-kubernetes-group-version-kind": [kind(name)], "properties": {
                "metadata": {"allOf": [{"$ref": "#/components/schemas/Meta"}]}, "spec": spec, "limit": {"type": "integer"},
            }})
        };
        let document = json!({
            "paths": {
                "/apis/example.com/v1/namespaces/{namespace}/crontabs": {
                    "parameters": [], "get": {"x-kubernetes-group-version-kind": kind("CronTab")},
                },
                "/apis/example.com/v1/namespaces/{namespace}/crontabs/{name}": {},
            },
            "components": {"schemas": {
                "A": whole("CronTab", json!({"$ref": "#/components/schemas/Spec"})), "B": whole("Limit", json!({})),
                "Meta": {"type": "object"},
                "Spec": {"type": "object", "properties": {
                    "replicas": {"type": "integer"}, "next": {"$ref": "#/components/schemas/Spec"},
                    "port": {"x-kubernetes-int-or-string": true},
                }},
            }},
        });
        let refusal = |not_found: bool| crate::ask::Refusal { not_found, conflict: false, message: "no".to_owned() };
        let decided = then.decide(vec![Ok(document.clone()), Err(refusal(true))]);
        let [Op::Patch { patch: Patch::Apply { object, .. }, .. }] = &decided[..] else { panic!("{decided:?}") };
        let warnings = object["status"]["typeChecking"]["expressionWarnings"].as_array().unwrap();
        let told = |n: usize| warnings[n]["warning"].as_str().unwrap();
        assert!(told(0).starts_with("example.com/v1, Kind=CronTab: ERROR: <input>:1:22: found no matching overload"));
        assert!(
            told(0).contains("'_>_' applied to '(int, string)'") && told(1).contains("undefined field 'maxRetries'")
        );
        assert!(told(2).contains("undefined field 'next'") && told(3).contains("applied to '(int, string)'"));
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert_eq!(then.decide(vec![Ok(document), Err(refusal(false))]), [Op::Fail("no".to_owned())]);
    }
}
