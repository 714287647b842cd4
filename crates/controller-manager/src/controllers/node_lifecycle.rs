//! `nodelifecycle`: notices kubelets that fall silent, and says by taints what is wrong with a node
//! (`pkg/controller/nodelifecycle`).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Node, NodeCondition, Pod, Taint};
use kybern_api::meta::v1::Time;
use kybern_api::{Condition, Object, condition, encode};
use kybern_apimachinery::json;
use kybern_client::Patch;

use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::{NODE, Snapshot};
use crate::watches::Watches;

/// `--node-monitor-grace-period`.
const GRACE: Duration = Duration::from_secs(50);
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The conditions that only a kubelet can know.
const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Taints `NoSchedule` that follow from a condition: its type, its status, the taint's key.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

pub struct NodeLifecycleController;

impl Controller for NodeLifecycleController {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn component(&self) -> &'static str {
        "node-controller"
    }

    fn account(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.nodes);
        let queue = watches.queue();
        // A renewal needs no look at once: the next one is due when the grace period after it ends. The first lease of a
        // node, or one after silence, brings the node back.
        watches.on(&snapshot.node_leases, move |change, snapshot| {
            let lease = change.object();
            if lease.namespace() != LEASE_NAMESPACE {
                return Vec::new();
            }
            let silent = snapshot.nodes.get(lease.name()).is_some_and(|node| status_of(&node, "Ready") == "Unknown");
            if silent || change.old.is_none() || change.is_removal() {
                vec![lease.name().to_owned()]
            } else {
                queue.add_after(lease.name().to_owned(), GRACE);
                Vec::new()
            }
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(node) = snapshot.nodes.get(key) else { return Plan::idle() };
        let mut plan = Plan::idle();
        let deadline =
            last_heard(&node, snapshot, context) + SignedDuration::try_from(GRACE).unwrap_or(SignedDuration::ZERO);
        if deadline > context.now {
            plan.requeue_at(deadline, context.now);
        } else {
            let mut silent = (*node).clone();
            if mark_silent(&mut silent, context.now) {
                plan.push(Op::update_status(&silent));
                if status_of(&node, "Ready") == "True" {
                    let message = format!("Node {key} status is now: NodeNotReady");
                    plan.push(Op::normal(&*node, "NodeNotReady", message));
                }
                // What follows from the status is decided when it is written: the change brings the node back here.
                return plan;
            }
        }
        if status_of(&node, "Ready") == "Unknown" {
            plan.ops.extend(unready_pods(&node, snapshot, context));
        }
        plan.ops.extend(taint(&node, &wanted_taints(&node), context.now));
        plan
    }
}

fn status_of<'a>(node: &'a Node, kind: &str) -> &'a str {
    node.status.as_ref().and_then(|s| condition::find(&s.conditions, kind)).map_or("", Condition::status)
}

/// When the kubelet last said anything, by its lease or its status. Silence from before this process began does not count:
/// nobody listened.
fn last_heard(node: &Node, snapshot: &Snapshot, context: &Context) -> Timestamp {
    let lease = snapshot.node_leases.get_in(LEASE_NAMESPACE, node.name());
    let renewed = lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
    let ready = node.status.as_ref().and_then(|s| condition::find(&s.conditions, "Ready"));
    let reported = ready.and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0);
    [renewed, reported, Some(pods::created(&node.metadata)), Some(context.started)]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(context.started)
}

/// Sets what only the kubelet knows to `Unknown`. Whether anything changed.
fn mark_silent(node: &mut Node, now: Timestamp) -> bool {
    let status = node.status.get_or_insert_default();
    let mut changed = false;
    for kind in WATCHED {
        let old = condition::find(&status.conditions, kind);
        if old.is_some_and(|c| c.status == "Unknown") {
            continue;
        }
        let (reason, message) = match old {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let unknown = NodeCondition {
            type_: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: old
                .map_or(Some(Time(pods::created(&node.metadata))), |c| c.last_heartbeat_time.clone()),
            last_transition_time: Some(Time(now)),
        };
        condition::set(&mut status.conditions, unknown);
        changed = true;
    }
    changed
}

/// Pods on a silent node may not serve: Services must know (`MarkPodsNotReady`). A kubelet that speaks keeps its pods'
/// readiness itself.
fn unready_pods(node: &Node, snapshot: &Snapshot, context: &Context) -> Vec<Op> {
    let mut ops = Vec::new();
    for pod in snapshot.pods.by_index(NODE, node.name()) {
        if pods::node_name(&pod) != node.name() || !pods::is_ready(&pod) {
            continue;
        }
        let mut unready: Pod = (*pod).clone();
        let status = unready.status.get_or_insert_default();
        if let Some(ready) = status.conditions.iter_mut().flatten().find(|c| c.type_ == "Ready") {
            ready.status = "False".into();
            ready.last_transition_time = Some(Time(context.now));
        }
        ops.push(Op::update_status(&unready));
        ops.push(Op::warning(&*pod, "NodeNotReady", "Node is not ready"));
    }
    ops
}

/// The taints that the node's state calls for, of those that this controller manages.
fn wanted_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    for (kind, status, key) in BY_CONDITION {
        if status_of(node, kind) == status {
            taints.push((key, "NoSchedule"));
            if kind == "Ready" {
                taints.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        taints.push((UNSCHEDULABLE, "NoSchedule"));
    }
    taints
}

fn is_managed(taint: &Taint) -> bool {
    let by_condition = BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key);
    (taint.effect == "NoSchedule" && (by_condition || taint.key == UNSCHEDULABLE))
        || (taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&&*taint.key))
}

/// The patch that brings the managed taints about and leaves all others alone.
fn taint(node: &Node, wanted: &[(&str, &str)], now: Timestamp) -> Option<Op> {
    let have = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let is_wanted = |t: &Taint| wanted.iter().any(|(key, effect)| t.key == *key && t.effect == *effect);
    let mut taints: Vec<Taint> = have.iter().filter(|t| !is_managed(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|t| t.key == *key && t.effect == *effect) {
            let (key, effect) = ((*key).to_owned(), (*effect).to_owned());
            taints.push(Taint { key, effect, time_added: Some(Time(now)), value: None });
        }
    }
    // Evictions count from when a taint was added; who adds one by hand does not say when.
    for taint in taints.iter_mut().filter(|t| t.effect == "NoExecute" && t.time_added.is_none()) {
        taint.time_added = Some(Time(now));
    }
    if taints == have {
        return None;
    }
    let mut changed = node.clone();
    changed.spec.get_or_insert_default().taints = Some(taints);
    let list = encode::value(&changed)["spec"]["taints"].take();
    // Others change taints too: the list is replaced only if it is the one that was read.
    let metadata = json!({"uid": node.uid(), "resourceVersion": node.resource_version()});
    let patch = json!({"metadata": metadata, "spec": {"taints": list}});
    Some(Op::patch(node, Patch::Merge(patch)))
}

#[cfg(test)]
mod tests {
    use kybern_api::coordination::v1::Lease;
    use kybern_api::meta::v1::{MicroTime, ObjectMeta};

    use super::*;
    use crate::testing::{NOW, World, at, events, meta, pod, status_of as written};

    fn node(ready: &str) -> Node {
        let mut node = Node { metadata: ObjectMeta { namespace: None, ..meta("n1") }, ..Node::default() };
        let condition = NodeCondition {
            type_: "Ready".into(),
            status: ready.into(),
            last_heartbeat_time: Some(Time(at(NOW - 300))),
            ..NodeCondition::default()
        };
        node.status.get_or_insert_default().conditions = Some(vec![condition]);
        node
    }

    fn world(node: Node, renewed: i64) -> World {
        let world = World::new();
        world.writers.nodes.upsert(node);
        let mut lease = Lease {
            metadata: ObjectMeta { namespace: Some(LEASE_NAMESPACE.into()), ..meta("n1") },
            ..Lease::default()
        };
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(at(NOW - renewed)));
        world.writers.node_leases.upsert(lease);
        world
    }

    fn run(world: &World) -> Plan {
        world.reconcile(&NodeLifecycleController, "n1")
    }

    fn taints(plan: &Plan) -> Option<Vec<String>> {
        plan.ops.iter().find_map(|op| match op {
            Op::Patch { patch: Patch::Merge(p), .. } => {
                let text = |t: &kybern_apimachinery::Value| {
                    let (key, effect) = (t["key"].as_str().unwrap(), t["effect"].as_str().unwrap());
                    format!("{}:{effect}", key.trim_start_matches("node.kubernetes.io/"))
                };
                Some(p["spec"]["taints"].as_array().unwrap().iter().map(text).collect())
            }
            _ => None,
        })
    }

    #[test]
    fn a_living_node_is_looked_at_again_when_its_grace_ends() {
        let plan = run(&world(node("True"), 10));
        assert!(plan.ops.is_empty(), "{plan:?}");
        assert_eq!(plan.requeue_after.unwrap().as_secs(), 40);
    }

    #[test]
    fn a_silent_node_becomes_unknown_and_its_pods_unready() {
        let world = world(node("True"), 60);
        world.writers.pods.upsert(pod("a").node("n1").ready_at(NOW - 500).build());
        let plan = run(&world);
        let status = written::<Node>(&plan).unwrap().status.unwrap();
        let ready = condition::find(&status.conditions, "Ready").unwrap();
        assert_eq!(
            (ready.status.as_str(), ready.message.as_deref()),
            ("Unknown", Some("Kubelet stopped posting node status."))
        );
        let memory = condition::find(&status.conditions, "MemoryPressure").unwrap();
        assert_eq!(memory.reason.as_deref(), Some("NodeStatusNeverUpdated"));
        assert_eq!(events(&plan), ["NodeNotReady: Node n1 status is now: NodeNotReady"]);
        world.writers.nodes.upsert(written::<Node>(&plan).unwrap());
        let plan = run(&world);
        assert!(written::<Node>(&plan).is_none());
        assert_eq!(events(&plan), ["NodeNotReady: Node is not ready"]);
        assert!(!pods::is_ready(&written::<Pod>(&plan).unwrap()));
        assert_eq!(taints(&plan).unwrap(), ["unreachable:NoSchedule", "unreachable:NoExecute"]);
    }

    #[test]
    fn a_taint_added_by_hand_gets_its_time() {
        let mut tainted = node("True");
        let mine = Taint { key: "mine".into(), effect: "NoExecute".into(), ..Taint::default() };
        tainted.spec.get_or_insert_default().taints = Some(vec![mine]);
        let plan = run(&world(tainted, 1));
        let Op::Patch { patch: Patch::Merge(patch), .. } = &plan.ops[0] else { panic!("{plan:?}") };
        assert_eq!(
            patch["spec"]["taints"][0]["timeAdded"],
            kybern_apimachinery::time::to_rfc3339(crate::testing::now())
        );
    }

    #[test]
    fn silence_counts_from_when_somebody_listens() {
        let world = world(node("True"), 100_000);
        let context = Context { now: world.now, started: at(NOW - 5), failure: None };
        let plan = NodeLifecycleController.reconcile("n1", &world.snapshot, &context);
        assert!(plan.ops.is_empty(), "{plan:?}");
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let mut not_ready = node("False");
        let mine = Taint { key: "mine".into(), effect: "NoSchedule".into(), ..Taint::default() };
        let stale = Taint { key: UNREACHABLE.into(), effect: "NoExecute".into(), ..Taint::default() };
        not_ready.spec.get_or_insert_default().taints = Some(vec![mine, stale]);
        not_ready.spec.as_mut().unwrap().unschedulable = Some(true);
        let plan = run(&world(not_ready.clone(), 1));
        let expect = ["mine:NoSchedule", "not-ready:NoSchedule", "not-ready:NoExecute", "unschedulable:NoSchedule"];
        assert_eq!(taints(&plan).unwrap(), expect);
        not_ready.spec.as_mut().unwrap().unschedulable = None;
        not_ready.status = node("True").status;
        assert_eq!(taints(&run(&world(not_ready, 1))).unwrap(), ["mine:NoSchedule"]);
    }
}
