use kybern_api::resource::v1::ResourceClaimTemplate;
use kybern_apimachinery::Value;

use super::*;
use crate::controller::Failure;
use crate::testing::{World, created, deleted, events, flat, status_of, updated};

fn object<K: Object>(value: Value) -> K {
    K::from_json(value.to_string().as_bytes()).unwrap()
}

/// A pod with one claim from the template `t` and one that somebody has made, `own`.
fn user(change: impl Fn(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"containers": [], "resourceClaims": [
            {"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "nic", "resourceClaimName": "own"},
        ]},
    });
    change(&mut pod);
    object(pod)
}

fn template() -> ResourceClaimTemplate {
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "c"}}]);
    let metadata = json!({"labels": {"a": "b"}});
    let spec = json!({"metadata": metadata, "spec": {"devices": {"requests": requests}}});
    object(json!({"metadata": {"name": "t", "namespace": "default"}, "spec": spec}))
}

fn claim(name: &str, status: Value, change: impl Fn(&mut Value)) -> ResourceClaim {
    let metadata = json!({"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"});
    let mut claim = json!({"metadata": metadata, "spec": {}, "status": status});
    change(&mut claim);
    object(claim)
}

fn for_pod(claim: &mut Value) {
    let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
    claim["metadata"]["ownerReferences"] = json!([owner]);
    claim["metadata"]["annotations"] = json!({MADE_FOR: "gpu"});
}

fn reserved() -> Value {
    json!({"allocation": {"devices": {}}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]})
}

#[test]
fn a_claim_is_made_of_its_template_once() {
    let world = World::new();
    let key = "pod/default/p";
    world.writers.pods.upsert(user(|_| {}));
    let plan = world.reconcile(&ResourceClaimController, key);
    assert_eq!(
        events(&plan),
        ["FailedResourceClaimCreation: PodResourceClaim gpu: resource claim template \"t\": \
         resourceclaimtemplate.resource.k8s.io \"t\" not found"]
    );
    world.writers.resource_claim_templates.upsert(template());
    let made = created::<ResourceClaim>(&world.reconcile(&ResourceClaimController, key));
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].metadata.generate_name.as_deref(), Some("p-gpu-"));
    assert_eq!(made[0].labels().unwrap()["a"], "b");
    assert!(made[0].spec.devices.is_some());
    let failure = Failure { verb: Verb::Create, stale: false, message: "exceeded quota".into() };
    let told = events(&world.reconcile_after(&ResourceClaimController, key, failure));
    assert_eq!(told, ["FailedResourceClaimCreation: PodResourceClaim gpu: create ResourceClaim : exceeded quota"]);
    // It was made, and the pod does not know yet.
    let claim = claim("p-gpu-1", json!({}), for_pod);
    assert_eq!(keys_of_claim(&claim, &world.snapshot), [key, "claim/default/p-gpu-1"]);
    world.writers.resource_claims.upsert(claim);
    let plan = world.reconcile(&ResourceClaimController, key);
    let Some(Op::Patch { patch: Patch::Strategic(patch), .. }) = flat(&plan).first().copied() else {
        panic!("{plan:?}")
    };
    let expect = json!([{"name": "gpu", "resourceClaimName": "p-gpu-1"}]);
    assert_eq!(patch["status"]["resourceClaimStatuses"], expect);
    world.writers.pods.upsert(user(|pod| pod["status"] = json!({"resourceClaimStatuses": expect})));
    assert!(world.reconcile(&ResourceClaimController, key).ops.is_empty());
    // Somebody has deleted it.
    world.writers.resource_claims.remove("default/p-gpu-1", "9");
    assert_eq!(created::<ResourceClaim>(&world.reconcile(&ResourceClaimController, key)).len(), 1);
}

#[test]
fn names_are_cut_alike() {
    assert_eq!(prefix("p", "gpu"), "p-gpu-");
    let long = prefix(&"p".repeat(60), &"c".repeat(40));
    assert_eq!((long.len(), long.contains("-ccc")), (56, true), "{long}");
}

#[test]
fn a_pod_that_no_scheduler_has_placed_gets_its_claims_reserved() {
    let world = World::new();
    let placed = |pod: &mut Value| pod["spec"]["nodeName"] = "n".into();
    world.writers.pods.upsert(user(placed));
    world.writers.resource_claims.upsert(claim("own", json!({"allocation": {"devices": {}}}), |_| {}));
    let written = status_of::<ResourceClaim>(&world.reconcile(&ResourceClaimController, "pod/default/p"));
    assert_eq!(consumers(&written.unwrap())[0].uid, "u");
    world.writers.resource_claims.upsert(claim("own", reserved(), |_| {}));
    assert!(status_of::<ResourceClaim>(&world.reconcile(&ResourceClaimController, "pod/default/p")).is_none());
}

#[test]
fn devices_are_given_back_when_no_pod_uses_them() {
    let plan = |status: Value, pod: Option<Pod>, change: &dyn Fn(&mut Value)| {
        let world = World::new();
        pod.into_iter().for_each(|pod| world.writers.pods.upsert(pod));
        let protect = |claim: &mut Value| claim["metadata"]["finalizers"] = json!([FINALIZER]);
        let both = |claim: &mut Value| {
            protect(claim);
            change(claim);
        };
        world.writers.resource_claims.upsert(claim("own", status, both));
        world.reconcile(&ResourceClaimController, "claim/default/own")
    };
    let given_back = |plan: &Plan| {
        let written = status_of::<ResourceClaim>(plan).and_then(|claim| claim.status);
        written.is_some_and(|status| status.allocation.is_none() && status.reserved_for.is_none())
    };
    let ended = |pod: &mut Value| pod["status"] = json!({"phase": "Succeeded"});
    let other = |pod: &mut Value| pod["metadata"]["uid"] = "x".into();
    let going = |claim: &mut Value| claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(plan(reserved(), Some(user(|_| {})), &|_| {}).ops.is_empty());
    for pod in [user(ended), user(other)] {
        assert!(given_back(&plan(reserved(), Some(pod), &|_| {})));
    }
    // A pod that is not seen is asked for first.
    let unseen = plan(reserved(), None, &|_| {});
    assert!(matches!(unseen.ops[0], Op::RequireAbsent { .. }) && given_back(&unseen));
    let unprotected = updated::<ResourceClaim>(&plan(json!({}), None, &|_| {}));
    assert_eq!(unprotected[0].metadata.finalizers, Some(vec![]));
    assert!(plan(json!({}), Some(user(|_| {})), &|_| {}).ops.is_empty(), "its scheduler may be giving it devices");
    assert!(given_back(&plan(json!({"allocation": {}}), None, &going)));
    // What was made for a pod goes with what it needed it for.
    assert_eq!(deleted(&plan(reserved(), Some(user(ended)), &for_pod)), ["own"]);
    assert!(deleted(&plan(reserved(), Some(user(ended)), &|_| {})).is_empty());
    let foreign = json!({"reservedFor": [{"apiGroup": "x.com", "resource": "things", "name": "t", "uid": "t"}]});
    assert!(matches!(plan(foreign, None, &|_| {}).ops[..], [Op::Fail(_)]));
}
