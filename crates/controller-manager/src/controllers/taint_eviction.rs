//! `taint-eviction`: pods leave nodes whose `NoExecute` taints they do not tolerate, or no longer
//! (`pkg/controller/tainteviction`).

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Pod, Taint, Toleration};
use kybern_api::node_affinity::tolerates;
use kybern_api::{Object, condition};
use kybern_apimachinery::json;
use parking_lot::Mutex;

use super::pod_gc::disruption;
use crate::controller::{Context, Controller, Op, Plan};
use crate::metrics::{EVICTION_DURATION, EVICTIONS};
use crate::pods;
use crate::snapshot::{NODE, Snapshot};
use crate::watches::Watches;

#[derive(Default)]
pub struct TaintEvictionController {
    /// The pods that are to leave later: it is told when they need not.
    leaving: Mutex<HashSet<String>>,
}

impl Controller for TaintEvictionController {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn account(&self) -> &'static str {
        "node-controller"
    }

    /// Each pod is a key of its own, and a lost node has many.
    fn workers(&self) -> usize {
        20
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.on(&snapshot.pods, |change, _| {
            let node = |pod: &Pod| pods::node_name(pod).to_owned();
            let Some(new) = &change.new else { return vec![change.object().key()] };
            let spec = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.tolerations.clone());
            let known = change.old.as_ref().is_some_and(|old| node(old) == node(new) && spec(old) == spec(new));
            if known || node(new).is_empty() { Vec::new() } else { vec![new.key()] }
        });
        watches.on(&snapshot.nodes, |change, snapshot| {
            let taints = |node: &kybern_api::core::v1::Node| node.spec.as_ref().and_then(|s| s.taints.clone());
            let Some(new) = &change.new else { return Vec::new() };
            if change.old.as_ref().is_some_and(|old| taints(old) == taints(new)) {
                return Vec::new();
            }
            snapshot.pods.by_index(NODE, new.name()).iter().map(|pod| pod.key()).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(pod) = snapshot.pods.get(key).filter(|pod| !pod.is_deleting()) else {
            self.leaving.lock().remove(key);
            return Plan::idle();
        };
        let node = snapshot.nodes.get(pods::node_name(&pod));
        let taints = node.as_ref().and_then(|node| node.spec.as_ref()?.taints.as_deref()).unwrap_or_default();
        let taints: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        match eviction_time(&taints, tolerations, bound(&pod), context.now) {
            None if self.leaving.lock().remove(key) => {
                let message = format!("Cancelling deletion of Pod {key}");
                Plan::of(vec![Op::normal(&*pod, "TaintManagerEviction", message)])
            }
            None => Plan::idle(),
            Some(at) if at > context.now => {
                self.leaving.lock().insert(key.to_owned());
                let mut plan = Plan::idle();
                plan.requeue_at(at, context.now);
                plan
            }
            Some(at) => {
                let mut plan = evict(&pod, context);
                plan.count(&EVICTIONS, []);
                plan.measure(&EVICTION_DURATION, [], context.now.duration_since(at).as_secs_f64());
                plan
            }
        }
    }
}

/// When the pod came to its node: what it tolerates for a while it bears from then on, however old the taint is.
fn bound(pod: &Pod) -> Timestamp {
    let scheduled = pod.status.as_ref().and_then(|status| condition::find(&status.conditions, "PodScheduled"));
    let scheduled = scheduled.filter(|c| c.status == "True").and_then(|c| c.last_transition_time.as_ref());
    scheduled.map_or_else(|| pods::created(&pod.metadata), |time| time.0)
}

/// When a pod must leave: at once if a taint is not tolerated, when the first `tolerationSeconds` end, or never.
fn eviction_time(taints: &[&Taint], tolerations: &[Toleration], bound: Timestamp, now: Timestamp) -> Option<Timestamp> {
    let mut first = None;
    for taint in taints {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Some(now);
        }
        let Some(seconds) = matching.iter().filter_map(|t| t.toleration_seconds).min() else { continue };
        let added = taint.time_added.as_ref().map_or(now, |t| t.0).max(bound);
        let end = added.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        first = Some(first.map_or(end, |old: Timestamp| old.min(end)));
    }
    first
}

fn evict(pod: &Pod, context: &Context) -> Plan {
    let message = format!("Marking for deletion Pod {}", pod.key());
    let mut plan = Plan::of(vec![Op::normal(pod, "TaintManagerEviction", message)]);
    if !pod.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, "DisruptionTarget")) {
        let why = "Taint manager: deleting due to NoExecute taint";
        let why = disruption("DeletionByTaintManager", why, context);
        plan.push(pods::write_condition(pod, why, json!({})));
    }
    plan.push(Op::delete(pod));
    plan
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::Node;
    use kybern_api::meta::v1::{ObjectMeta, Time};

    use super::*;
    use crate::testing::{NOW, World, at, deleted, events, meta, pod};

    fn world(added: i64, bound: i64, tolerations: &[Option<i64>]) -> World {
        let world = World::new();
        let mut node = Node { metadata: ObjectMeta { namespace: None, ..meta("n1") }, ..Node::default() };
        let taint = |effect: &str| Taint {
            key: "k".into(),
            effect: effect.into(),
            time_added: Some(Time(at(NOW - added))),
            value: None,
        };
        node.spec.get_or_insert_default().taints = Some(vec![taint("NoSchedule"), taint("NoExecute")]);
        world.writers.nodes.upsert(node);
        let mut pod = pod("a").node("n1").created_at(NOW - bound).build();
        let toleration = |toleration_seconds: &Option<i64>| Toleration {
            key: Some("k".into()),
            operator: Some("Exists".into()),
            toleration_seconds: *toleration_seconds,
            ..Toleration::default()
        };
        pod.spec.as_mut().unwrap().tolerations = Some(tolerations.iter().map(toleration).collect());
        world.writers.pods.upsert(pod);
        world
    }

    #[test]
    fn tolerations_decide_when_a_pod_leaves() {
        // How old the taint and the pod are, what is tolerated; whether it goes, or when it is looked at again.
        type Row = (i64, i64, &'static [Option<i64>], bool, Option<u64>);
        let table: &[Row] = &[
            (0, 500, &[], true, None),
            (1000, 5000, &[None], false, None),
            (100, 500, &[Some(300)], false, Some(200)),
            (301, 500, &[Some(300)], true, None),
            (100, 500, &[Some(300), None, Some(150)], false, Some(50)),
            (0, 500, &[Some(0)], true, None),
            (0, 500, &[Some(-5), Some(10)], true, None),
            (0, 500, &[Some(i64::MAX)], false, None),
            // It came to the node after the taint.
            (1000, 100, &[Some(300)], false, Some(200)),
        ];
        for (added, bound, tolerations, goes, again) in table {
            let plan = world(*added, *bound, tolerations).reconcile(&TaintEvictionController::default(), "default/a");
            let expect: &[&str] = if *goes { &["a"] } else { &[] };
            assert_eq!(deleted(&plan), expect, "{added} {bound} {tolerations:?}");
            if again.is_some() {
                assert_eq!(plan.requeue_after.map(|after| after.as_secs()), *again, "{added} {bound} {tolerations:?}");
            }
        }
    }

    #[test]
    fn what_is_to_come_and_what_is_not_is_told() {
        let (world, controller) = (world(0, 500, &[Some(300)]), TaintEvictionController::default());
        let run = || world.reconcile(&controller, "default/a");
        assert!(run().ops.is_empty());
        let tainted = world.snapshot.nodes.get("n1").unwrap();
        world.writers.nodes.upsert(Node { spec: None, ..(*tainted).clone() });
        assert_eq!(events(&run()), ["TaintManagerEviction: Cancelling deletion of Pod default/a"]);
        assert!(run().ops.is_empty(), "once");
        world.writers.nodes.upsert((*tainted).clone());
        let mut pod = (*world.snapshot.pods.get("default/a").unwrap()).clone();
        pod.spec.as_mut().unwrap().tolerations = None;
        world.writers.pods.upsert(pod);
        let plan = run();
        assert_eq!(events(&plan), ["TaintManagerEviction: Marking for deletion Pod default/a"]);
        let measured: Vec<String> = plan.measures.iter().map(|measure| measure.shown()).collect();
        let name = "taint_eviction_controller_pod_deletion";
        assert_eq!(measured, [format!("{name}s_total{{}} 1"), format!("{name}_duration_seconds{{}} 0")]);
        world.writers.pods.remove("default/a", "99");
        assert!(run().ops.is_empty() && controller.leaving.lock().is_empty());
    }
}
