//! `taint-eviction`: pods leave nodes whose `NoExecute` taints they do not tolerate, or no longer
//! (`pkg/controller/tainteviction`).

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Pod, Taint, Toleration};
use kybern_api::{Object, condition};

use super::daemonset::fit::tolerates;
use super::pod_gc::disruption;
use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::{NODE, Snapshot};
use crate::watches::Watches;

pub struct TaintEvictionController;

impl Controller for TaintEvictionController {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    fn account(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.on(&snapshot.pods, |change, _| {
            let node = |pod: &Pod| pods::node_name(pod).to_owned();
            let Some(new) = &change.new else { return Vec::new() };
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
        let Some(pod) = snapshot.pods.get(key) else { return Plan::idle() };
        let Some(node) = snapshot.nodes.get(pods::node_name(&pod)) else { return Plan::idle() };
        if pod.is_deleting() {
            return Plan::idle();
        }
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        let taints: Vec<&Taint> = taints.iter().filter(|t| t.effect == "NoExecute").collect();
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        match eviction_time(&taints, tolerations, context.now) {
            None => Plan::idle(),
            Some(at) if at > context.now => {
                let mut plan = Plan::idle();
                plan.requeue_at(at, context.now);
                plan
            }
            Some(_) => evict(&pod, context),
        }
    }
}

/// When a pod must leave: at once if a taint is not tolerated, when the first `tolerationSeconds` end, or never.
fn eviction_time(taints: &[&Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    let mut first = None;
    for taint in taints {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Some(now);
        }
        let Some(seconds) = matching.iter().filter_map(|t| t.toleration_seconds).min() else { continue };
        let added = taint.time_added.as_ref().map_or(now, |t| t.0);
        let end = added.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        first = Some(first.map_or(end, |old: Timestamp| old.min(end)));
    }
    first
}

fn evict(pod: &Pod, context: &Context) -> Plan {
    let message = format!("Marking for deletion Pod {}", pod.key());
    let mut plan = Plan::of(vec![Op::normal(pod, "TaintManagerEviction", message)]);
    let mut marked = pod.clone();
    let status = marked.status.get_or_insert_default();
    if !condition::is_true(&status.conditions, "DisruptionTarget") {
        let why = "Taint manager: deleting due to NoExecute taint";
        condition::set(&mut status.conditions, disruption("DeletionByTaintManager", why, context));
        plan.push(Op::update_status(&marked));
    }
    plan.push(Op::delete(pod));
    plan
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::Node;
    use kybern_api::meta::v1::{ObjectMeta, Time};

    use super::*;
    use crate::testing::{NOW, World, at, deleted, meta, pod};

    fn run(added: i64, toleration_seconds: Option<Option<i64>>) -> Plan {
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
        let mut pod = pod("a").node("n1").build();
        pod.spec.as_mut().unwrap().tolerations = toleration_seconds.map(|toleration_seconds| {
            vec![Toleration {
                key: Some("k".into()),
                operator: Some("Exists".into()),
                toleration_seconds,
                ..Toleration::default()
            }]
        });
        world.writers.pods.upsert(pod);
        world.reconcile(&TaintEvictionController, "default/a")
    }

    #[test]
    fn tolerations_decide_when_a_pod_leaves() {
        assert_eq!(deleted(&run(0, None)), ["a"]);
        let forever = run(1000, Some(None));
        assert!(forever.ops.is_empty() && forever.requeue_after.is_none());
        let later = run(100, Some(Some(300)));
        assert_eq!((later.ops.len(), later.requeue_after.unwrap().as_secs()), (0, 200));
        let plan = run(301, Some(Some(300)));
        assert_eq!(deleted(&plan), ["a"]);
        assert_eq!(crate::testing::events(&plan), ["TaintManagerEviction: Marking for deletion Pod default/a"]);
    }
}
