//! `podgc`: pods that no kubelet will ever finish: on nodes that are gone, or terminating before they got a node; and
//! finished pods beyond a threshold (`pkg/controller/podgc`).

use std::sync::Arc;
use std::time::Duration;

use kybern_api::core::v1::{Node, Pod, PodCondition};
use kybern_api::meta::v1::Time;
use kybern_api::{Object, condition, encode};
use kybern_apimachinery::json;
use kybern_client::{DeleteOptions, Patch};

use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::{NODE, Snapshot};
use crate::watches::Watches;

/// `--terminated-pod-gc-threshold`.
const THRESHOLD: usize = 12_500;
/// A node that vanished may come back under its name: its pods are kept so long.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The key under which finished pods are counted.
const FINISHED: &str = "finished";

/// Keys: `finished`, `node/NAME`, `pod/NAMESPACE/NAME`.
pub struct PodGarbageCollector {
    /// How many finished pods may stay.
    pub threshold: usize,
}

impl Default for PodGarbageCollector {
    fn default() -> Self {
        Self { threshold: THRESHOLD }
    }
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
        watches.on(&snapshot.nodes, move |change, _| {
            if change.is_removal() {
                queue.add_after(format!("node/{}", change.object().name()), QUARANTINE);
            }
            Vec::new()
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
            if pod.is_deleting() && node.is_empty() {
                keys.push(format!("pod/{}", pod.key()));
            }
            if pods::is_finished(pod) && snapshot.pods.len() > threshold {
                keys.push(FINISHED.to_owned());
            }
            keys
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        match key.split_once('/') {
            Some(("node", node)) => on_missing_node(node, snapshot, context),
            Some(("pod", pod)) => {
                let pod = snapshot.pods.get(pod).filter(|pod| pod.is_deleting() && pods::node_name(pod).is_empty());
                Plan::of(pod.iter().map(|pod| force_delete(pod)).collect())
            }
            _ => self.finished(snapshot),
        }
    }
}

impl PodGarbageCollector {
    fn finished(&self, snapshot: &Snapshot) -> Plan {
        let mut finished: Vec<Arc<Pod>> = snapshot.pods.list().into_iter().filter(|p| pods::is_finished(p)).collect();
        let surplus = finished.len().saturating_sub(self.threshold);
        finished.sort_by_key(|pod| pods::created(&pod.metadata));
        Plan::of(finished[..surplus].iter().map(|pod| force_delete(pod)).collect())
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
        if !pods::is_finished(&pod) {
            let mut failed = (*pod).clone();
            let status = failed.status.get_or_insert_default();

            condition::set(
                &mut status.conditions,
                disruption("DeletionByPodGC", "PodGC: node no longer exists", context),
            );
            let conditions = encode::value(&failed)["status"]["conditions"].take();
            let status =
                json!({"metadata": {"uid": pod.uid()}, "status": {"phase": "Failed", "conditions": conditions}});
            plan.push(Op::patch_status(&*pod, Patch::Merge(status)));
        }
        plan.push(force_delete(&pod));
    }
    plan
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
        let collector = PodGarbageCollector::default();
        assert!(world.reconcile(&collector, "node/here").ops.is_empty());
        let plan = world.reconcile(&collector, "node/gone");
        assert!(matches!(&plan.ops[0], Op::RequireAbsent { name, .. } if name == "gone"));
        let Op::Patch { subresource: Some("status"), patch: Patch::Merge(patch), .. } = &plan.ops[1] else {
            panic!("{plan:?}")
        };
        assert_eq!(patch["status"]["phase"], "Failed");
        assert_eq!(patch["status"]["conditions"][0]["type"], "DisruptionTarget");
        assert_eq!(deleted(&plan), ["a"]);
    }

    #[test]
    fn unscheduled_terminating_pods_go_at_once() {
        let world = World::new();
        world.writers.pods.upsert(pod("a").deleting().build());
        world.writers.pods.upsert(pod("b").build());
        let collector = PodGarbageCollector::default();
        assert_eq!(deleted(&world.reconcile(&collector, "pod/default/a")), ["a"]);
        assert!(world.reconcile(&collector, "pod/default/b").ops.is_empty());
    }

    #[test]
    fn the_oldest_finished_pods_go_beyond_the_threshold() {
        let world = World::new();
        for (name, age) in [("a", 10), ("b", 30), ("c", 20)] {
            world.writers.pods.upsert(pod(name).phase("Succeeded").created_at(crate::testing::NOW - age).build());
        }
        world.writers.pods.upsert(pod("running").created_at(0).build());
        assert_eq!(deleted(&world.reconcile(&PodGarbageCollector { threshold: 1 }, FINISHED)), ["b", "c"]);
    }
}
