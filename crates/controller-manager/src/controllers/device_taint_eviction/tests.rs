use kybern_apimachinery::Value;
use kybern_client::{Patch, StoreWriter};

use super::*;
use crate::testing::{NOW, World, at, deleted, events};

fn object<K: Object>(value: Value) -> K {
    K::from_json(value.to_string().as_bytes()).unwrap()
}

struct Taints {
    world: World,
    controller: DeviceTaintEvictionController,
    slices: StoreWriter<ResourceSlice>,
    rules: StoreWriter<DeviceTaintRule>,
}

fn time(seconds: i64) -> String {
    kybern_apimachinery::time::to_rfc3339(at(seconds))
}

impl Taints {
    /// A pod `default/p` on a node, with a claim that has the device `d/pool/a` and bears what `tolerations` say.
    fn new(tolerations: Value) -> Self {
        let world = World::new();
        let index: fn(&ResourceSlice) -> Vec<String> = pool_of;
        let (slices, slice_writer) = Store::new([(POOL, index)]);
        let (rules, rule_writer) = Store::new([]);
        let devices = Devices { slices, rules: Some(rules) };
        let controller = DeviceTaintEvictionController { devices, memory: Mutex::default() };
        let taints = Self { world, controller, slices: slice_writer, rules: rule_writer };
        taints.pod("p", |_| {});
        taints.claim(tolerations, |_| {});
        taints
    }

    fn pod(&self, name: &str, change: impl Fn(&mut Value)) {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": {"containers": [], "nodeName": "n", "resourceClaims": [{"name": "x", "resourceClaimName": "c"}]},
        });
        change(&mut pod);
        self.world.writers.pods.upsert(object(pod));
    }

    fn claim(&self, tolerations: Value, change: impl Fn(&mut Value)) {
        let result = json!({"request": "r", "driver": "d", "pool": "pool", "device": "a", "tolerations": tolerations});
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "default", "uid": "c"},
            "status": {
                "allocation": {"devices": {"results": [result]}},
                "reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-p"}],
            },
        });
        change(&mut claim);
        self.world.writers.resource_claims.upsert(object(claim));
    }

    /// A slice of a generation whose device has these taints: effect and when they were added.
    fn slice(&self, name: &str, generation: i64, taints: &[(&str, i64)]) {
        let taint = |(effect, added): &(&str, i64)| json!({"key": "k", "value": "v", "effect": effect, "timeAdded": time(*added)});
        let taints: Vec<Value> = taints.iter().map(taint).collect();
        self.slices.upsert(object(json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": {
            "driver": "d", "pool": {"name": "pool", "generation": generation, "resourceSliceCount": 1},
            "devices": [{"name": "a", "taints": taints}, {"name": "b"}],
        }})));
    }

    fn rule(&self, effect: &str, selector: Value, status: Value) {
        let taint = json!({"key": "k", "effect": effect, "timeAdded": time(NOW - 5)});
        self.rules.upsert(object(json!({
            "metadata": {"name": "rule", "uid": "rule", "generation": 1, "resourceVersion": "1"},
            "spec": {"deviceSelector": selector, "taint": taint}, "status": status,
        })));
    }

    fn plan(&self, key: &str) -> Plan {
        self.world.reconcile(&self.controller, key)
    }

    /// What the status of the rule is to say, in short.
    fn told(&self) -> String {
        let plan = self.plan("rule");
        let [Op::Patch { patch: Patch::Apply { object, .. }, subresource: Some("status"), .. }] = &plan.ops[..] else {
            return format!("nothing, again in {:?}", plan.requeue_after);
        };
        let condition = &object["status"]["conditions"][0];
        let text = |field: &str| condition[field].as_str().unwrap();
        format!("{} {} {}", text("status"), text("reason"), text("message")).trim().to_owned()
    }
}

#[test]
fn tolerations_decide_when_a_pod_leaves() {
    let bears =
        |seconds: Value| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let (long, short) = (json!(300), json!(150));
    // What is borne, taints and since when; whether it goes, or in how many seconds.
    type Row = (Value, &'static [(&'static str, i64)], bool, Option<u64>);
    let table: &[Row] = &[
        (json!([]), &[], false, None),
        (json!([]), &[("NoSchedule", NOW)], false, None),
        (json!([]), &[("NoExecute", NOW)], true, None),
        (json!([bears(Value::Null)]), &[("NoExecute", NOW - 1000)], false, None),
        (json!([bears(long.clone())]), &[("NoExecute", NOW - 100)], false, Some(200)),
        (json!([bears(long.clone())]), &[("NoExecute", NOW - 300)], true, None),
        (json!([bears(long.clone()), bears(short.clone())]), &[("NoExecute", NOW - 100)], false, Some(50)),
        (json!([bears(long.clone())]), &[("NoExecute", NOW), ("NoExecute", NOW - 250)], false, Some(50)),
        (json!([bears(json!(-1))]), &[("NoExecute", NOW)], true, None),
        (
            json!([{"key": "k", "operator": "Equal", "value": "other", "effect": "NoExecute"}]),
            &[("NoExecute", NOW)],
            true,
            None,
        ),
        // Upstream's evictor reads only tolerations that name the effect.
        (json!([{"operator": "Exists"}]), &[("NoExecute", NOW)], true, None),
    ];
    for (tolerations, published, goes, again) in table {
        let taints = Taints::new(tolerations.clone());
        taints.slice("s", 1, published);
        let plan = taints.plan("default/p");
        let expect: &[&str] = if *goes { &["p"] } else { &[] };
        assert_eq!(deleted(&plan), expect, "{tolerations} {published:?}");
        assert_eq!(plan.requeue_after.map(|after| after.as_secs()), *again, "{tolerations} {published:?}");
    }
}

#[test]
fn only_who_has_the_device_now_leaves() {
    let goes = |taints: &Taints, key: &str| !deleted(&taints.plan(key)).is_empty();
    let tainted = || {
        let taints = Taints::new(json!([]));
        taints.slice("s", 1, &[("NoExecute", NOW)]);
        taints
    };
    assert!(goes(&tainted(), "default/p"));
    let taints = tainted();
    taints.slice("new", 2, &[]);
    assert!(!goes(&taints, "default/p"), "the pool has a newer generation");
    taints.slice("newer", 3, &[("NoExecute", NOW)]);
    assert!(goes(&taints, "default/p"));
    let taints = tainted();
    taints.pod("p", |pod| pod["spec"]["nodeName"] = Value::Null);
    assert!(!goes(&taints, "default/p"), "it is on no node");
    taints.pod("q", |_| {});
    assert!(!goes(&taints, "default/q"), "it has not reserved the claim");
    let taints = tainted();
    taints.claim(json!([]), |claim| claim["status"]["allocation"] = Value::Null);
    assert!(!goes(&taints, "default/p"), "the claim has no device");
    let taints = tainted();
    let made = |pod: &mut Value| {
        pod["spec"]["resourceClaims"] = json!([{"name": "x", "resourceClaimTemplateName": "t"}]);
        pod["status"]["resourceClaimStatuses"] = json!([{"name": "x", "resourceClaimName": "c"}]);
    };
    taints.pod("p", made);
    assert!(!goes(&taints, "default/p"), "the claim was made for another");
    taints.claim(json!([]), |claim| {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "uid-p", "controller": true});
        claim["metadata"]["ownerReferences"] = json!([owner]);
    });
    assert!(goes(&taints, "default/p"));
}

#[test]
fn what_is_to_come_what_is_not_and_what_was_is_told() {
    let taints = Taints::new(json!([{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]));
    taints.slice("s", 1, &[("NoExecute", NOW)]);
    assert!(taints.plan("default/p").ops.is_empty());
    taints.slice("s", 1, &[]);
    assert_eq!(events(&taints.plan("default/p")), ["DeviceTaintManagerEviction: Cancelling deletion"]);
    assert!(taints.plan("default/p").ops.is_empty(), "once");
    taints.slice("s", 1, &[("NoExecute", NOW - 100)]);
    let plan = taints.plan("default/p");
    assert_eq!(events(&plan), ["DeviceTaintManagerEviction: Marking for deletion"]);
    let Op::Patch { patch: Patch::Strategic(patch), .. } = &plan.ops[1] else { panic!("{plan:?}") };
    let condition = &patch["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("DisruptionTarget"), &json!("DeletionByDeviceTaintManager"))
    );
    taints.pod("p", |pod| pod["metadata"]["deletionTimestamp"] = time(NOW).into());
    let measured: Vec<String> = taints.plan("default/p").measures.iter().map(|measure| measure.shown()).collect();
    let name = "device_taint_eviction_controller_pod_deletion";
    assert_eq!(measured, [format!("{name}s_total{{}} 1"), format!("{name}_duration_seconds{{}} 40")]);
    assert!(taints.plan("default/p").measures.is_empty(), "once");
}

#[test]
fn a_rule_says_how_far_it_is() {
    let all = || json!({"driver": "d"});
    let taints = Taints::new(json!([]));
    taints.slice("s", 1, &[]);
    taints.rule("NoSchedule", all(), json!({}));
    assert_eq!(taints.told(), "False OtherEffect Eviction only happens for the NoExecute effect.");
    taints.rule("None", all(), json!({}));
    assert_eq!(
        taints.told(),
        "False NoEffect 2 published devices selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if \
         the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an \
         update."
    );
    assert!(deleted(&taints.plan("default/p")).is_empty());
    taints.rule("NoExecute", json!({"device": "b"}), json!({}));
    assert_eq!(taints.told(), "False NotStarted");
    assert!(deleted(&taints.plan("default/p")).is_empty());
    taints.rule("NoExecute", all(), json!({}));
    assert_eq!(taints.told(), "True PodsPendingEviction 1 pod needs to be evicted in 1 namespace.");
    assert_eq!(deleted(&taints.plan("default/p")), ["p"]);
    let condition = |since: i64| {
        let (kind, time) = ("EvictionInProgress", time(since));
        json!({"conditions": [{"type": kind, "status": "True", "reason": "PodsPendingEviction", "observedGeneration": 1,
            "message": "1 pod needs to be evicted in 1 namespace.", "lastTransitionTime": time}]})
    };
    taints.rule("NoExecute", all(), condition(NOW - 20));
    assert_eq!(taints.told(), "nothing, again in None");
    taints.rule("NoExecute", all(), condition(NOW - 3));
    assert_eq!(taints.told(), "nothing, again in Some(7s)");
    taints.world.writers.pods.remove("default/p", "99");
    taints.plan("default/p");
    taints.rule("NoExecute", all(), condition(NOW - 20));
    assert_eq!(taints.told(), "False Completed 1 pod evicted since starting the controller.");
}
