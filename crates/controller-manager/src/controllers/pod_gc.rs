//! `podgc`: pods that no kubelet will ever finish: on nodes that are gone or out of service, or terminating before they got a
//! node; and finished pods beyond a threshold (`pkg/controller/podgc`).

use std::sync::Arc;
use std::time::Duration;

use kybern_api::core::v1::{Node, Pod, PodCondition};
use kybern_api::meta::v1::Time;
use kybern_api::{Object, condition};
use kybern_apimachinery::json;
use kybern_client::{DeleteOptions, Patch};

use crate::controller::{Context, Controller, Op, Plan};
use crate::metrics::FORCED_DELETIONS;
use crate::pods;
use crate::snapshot::{NODE, Snapshot};
use crate::watches::Watches;

/// A node that vanished may come back under its name: its pods are kept so long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Whoever taints a node so knows that nothing runs there any more.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The key under which finished pods are counted.
const FINISHED: &str = "finished";

/// Keys: `finished`, `node/NAME`, `pod/NAMESPACE/NAME`.
pub struct PodGarbageCollector {
    /// How many finished pods may stay; zero: all.
    pub threshold: usize,
}

impl Controller for PodGarbageCollector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn account(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        let queue = watches.queue();
        watches.on(&snapshot.nodes, move |change, snapshot| {
            if change.is_removal() {
                queue.add_after(format!("node/{}", change.object().name()), QUARANTINE);
            }
            let Some(node) = change.new.as_ref().filter(|node| is_out_of_service(node)) else { return Vec::new() };
            if change.old.as_ref().is_some_and(|old| is_out_of_service(old)) {
                return Vec::new();
            }
            let leaving = snapshot.pods.by_index(NODE, node.name()).into_iter().filter(|pod| pod.is_deleting());
            leaving.map(|pod| format!("pod/{}", pod.key())).collect()
        });
        let (queue, threshold) = (watches.queue(), self.threshold);
        watches.on(&snapshot.pods, move |change, snapshot| {
            let Some(pod) = &change.new else { return Vec::new() };
            let node = pods::node_name(pod);
            let bound = change.old.as_ref().is_none_or(|old| pods::node_name(old) != node);
            if bound && !node.is_empty() && snapshot.nodes.get(node).is_none() {
                queue.add_after(format!("node/{node}"), QUARANTINE);
            }
            let mut keys = Vec::new();
            if has_nobody_to_end_it(pod, snapshot) {
                keys.push(format!("pod/{}", pod.key()));
            }
            if pods::is_finished(pod) && threshold > 0 && snapshot.pods.len() > threshold {
                keys.push(FINISHED.to_owned());
            }
            keys
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        match key.split_once('/') {
            Some(("node", node)) => on_missing_node(node, snapshot, context),
            Some(("pod", pod)) => {
                let pod = snapshot.pods.get(pod).filter(|pod| has_nobody_to_end_it(pod, snapshot));
                let mut plan = Plan::of(pod.iter().flat_map(|pod| fail_and_delete(pod, None)).collect());
                if let Some(pod) = &pod {
                    let is_bound = !pods::node_name(pod).is_empty();
                    let reason = if is_bound { "out-of-service" } else { "unscheduled" };
                    plan.count(&FORCED_DELETIONS, [pod.namespace(), reason]);
                }
                plan
            }
            _ => self.finished(snapshot),
        }
    }
}

impl PodGarbageCollector {
    fn finished(&self, snapshot: &Snapshot) -> Plan {
        let mut finished: Vec<Arc<Pod>> = snapshot.pods.list().into_iter().filter(|p| pods::is_finished(p)).collect();
        let surplus = finished.len().saturating_sub(self.threshold);
        // Those that were evicted first: they say the least.
        let is_evicted = |pod: &Pod| pod.status.as_ref().is_some_and(|s| s.reason.as_deref() == Some("Evicted"));
        finished.sort_by_key(|pod| (!is_evicted(pod), pods::created(&pod.metadata), pod.name().to_owned()));
        let mut plan = Plan::of(finished[..surplus].iter().map(|pod| force_delete(pod)).collect());
        finished[..surplus].iter().for_each(|pod| plan.count(&FORCED_DELETIONS, [pod.namespace(), "terminated"]));
        plan
    }
}

fn on_missing_node(node: &str, snapshot: &Snapshot, context: &Context) -> Plan {
    if snapshot.nodes.get(node).is_some() {
        return Plan::idle();
    }
    let orphans: Vec<Arc<Pod>> =
        snapshot.pods.by_index(NODE, node).into_iter().filter(|p| pods::node_name(p) == node).collect();
    if orphans.is_empty() {
        return Plan::idle();
    }
    let absent =
        Op::RequireAbsent { gvr: Node::gvr(), namespace: String::new(), name: node.to_owned(), uid: String::new() };
    let mut plan = Plan::of(vec![absent]);
    for pod in orphans {
        plan.ops.extend(fail_and_delete(
            &pod,
            Some(disruption("DeletionByPodGC", "PodGC: node no longer exists", context)),
        ));
        plan.count(&FORCED_DELETIONS, [pod.namespace(), "orphaned"]);
    }
    plan
}

/// A pod that is deleted, and that no kubelet will end.
fn has_nobody_to_end_it(pod: &Pod, snapshot: &Snapshot) -> bool {
    let node = pods::node_name(pod);
    pod.is_deleting() && (node.is_empty() || snapshot.nodes.get(node).is_some_and(|node| is_out_of_service(&node)))
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref()).into_iter().flatten();
    let is_ready = node.status.as_ref().is_some_and(|status| condition::is_true(&status.conditions, "Ready"));
    !is_ready && taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Nobody else would say that it does not run any more.
fn fail_and_delete(pod: &Pod, why: Option<PodCondition>) -> Vec<Op> {
    let mut ops = Vec::new();
    if !pods::is_finished(pod) {
        let failed = json!({"phase": "Failed"});
        ops.push(match why {
            Some(why) => pods::write_condition(pod, why, failed),
            None => Op::patch_status(pod, Patch::Merge(json!({"metadata": {"uid": pod.uid()}, "status": failed}))),
        });
    }
    ops.push(force_delete(pod));
    ops
}

/// The condition that tells why a pod was removed by the system.
pub(crate) fn disruption(reason: &str, message: &str, context: &Context) -> PodCondition {
    PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(context.now)),
        ..PodCondition::default()
    }
}

fn force_delete(pod: &Pod) -> Op {
    let (namespace, name) = (pod.namespace().to_owned(), pod.name().to_owned());
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(pod.uid()) };
    Op::Delete { gvr: Pod::gvr(), namespace, name, options, announce: None }
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{NodeCondition, Taint};

    use super::*;
    use crate::testing::{World, deleted, meta, pod};

    #[test]
    fn pods_of_a_missing_node_fail_and_go() {
        let world = World::new();
        world.writers.pods.upsert(pod("a").node("gone").build());
        world.writers.pods.upsert(pod("b").node("here").build());
        world.writers.nodes.upsert(Node {
            metadata: kybern_api::meta::v1::ObjectMeta { namespace: None, ..meta("here") },
            ..Node::default()
        });
        let collector = PodGarbageCollector { threshold: 0 };
        assert!(world.reconcile(&collector, "node/here").ops.is_empty());
        let plan = world.reconcile(&collector, "node/gone");
        assert!(matches!(&plan.ops[0], Op::RequireAbsent { name, .. } if name == "gone"));
        let Op::Patch { subresource: Some("status"), patch: Patch::Strategic(patch), .. } = &plan.ops[1] else {
            panic!("{plan:?}")
        };
        assert_eq!(patch["status"]["phase"], "Failed");
        assert_eq!(patch["status"]["conditions"][0]["type"], "DisruptionTarget");
        assert_eq!(deleted(&plan), ["a"]);
        let measured = plan.measures[0].shown();
        assert_eq!(measured, "pod_gc_collector_force_delete_pods_total{namespace=default,reason=orphaned} 1");
    }

    #[test]
    fn unscheduled_terminating_pods_go_at_once() {
        let world = World::new();
        world.writers.pods.upsert(pod("a").deleting().build());
        world.writers.pods.upsert(pod("b").build());
        let collector = PodGarbageCollector { threshold: 0 };
        assert_eq!(deleted(&world.reconcile(&collector, "pod/default/a")), ["a"]);
        assert!(world.reconcile(&collector, "pod/default/b").ops.is_empty());
    }

    #[test]
    fn what_leaves_a_node_out_of_service_goes_at_once() {
        let table = [
            ("False", true, true),
            ("Unknown", true, true),
            ("", true, true),
            ("True", true, false),
            ("False", false, false),
        ];
        for (ready, is_tainted, goes) in table {
            let world = World::new();
            let metadata = kybern_api::meta::v1::ObjectMeta { namespace: None, ..meta("n1") };
            let mut node = Node { metadata, ..Node::default() };
            let said = NodeCondition { type_: "Ready".into(), status: ready.into(), ..NodeCondition::default() };
            node.status.get_or_insert_default().conditions = Some(vec![said]);
            let taint = Taint { key: OUT_OF_SERVICE.into(), effect: "NoExecute".into(), ..Taint::default() };
            node.spec.get_or_insert_default().taints = is_tainted.then(|| vec![taint]);
            world.writers.nodes.upsert(node);
            world.writers.pods.upsert(pod("a").node("n1").deleting().build());
            world.writers.pods.upsert(pod("stays").node("n1").build());
            let collector = PodGarbageCollector { threshold: 0 };
            let plan = world.reconcile(&collector, "pod/default/a");
            assert_eq!(deleted(&plan), if goes { vec!["a"] } else { Vec::new() }, "{ready:?} {is_tainted}");
            assert!(world.reconcile(&collector, "pod/default/stays").ops.is_empty());
        }
    }

    #[test]
    fn the_oldest_finished_pods_go_beyond_the_threshold() {
        let world = World::new();
        for (name, age) in [("a", 10), ("b", 30), ("c", 20), ("evicted", 1)] {
            let mut pod = pod(name).phase("Failed").created_at(crate::testing::NOW - age).build();
            pod.status.as_mut().unwrap().reason = (name == "evicted").then(|| "Evicted".into());
            world.writers.pods.upsert(pod);
        }
        world.writers.pods.upsert(pod("running").created_at(0).build());
        assert_eq!(deleted(&world.reconcile(&PodGarbageCollector { threshold: 1 }, FINISHED)), ["evicted", "b", "c"]);
    }
}
