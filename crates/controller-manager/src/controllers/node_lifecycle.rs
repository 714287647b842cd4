//! `nodelifecycle`: notices kubelets that fall silent, and says by taints what is wrong with a node
//! (`pkg/controller/nodelifecycle`). How fast nodes lose their pods is decided for all zones together ([`zones`]).

#[cfg(test)]
mod tests;
mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_api::coordination::v1::Lease;
use kybern_api::core::v1::{Node, NodeCondition, PodCondition, Taint};
use kybern_api::meta::v1::Time;
use kybern_api::{Condition, Object, condition, encode};
use kybern_apimachinery::json;
use kybern_client::{Change, EventType, ObjectRef, Patch};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::{NODE, Snapshot};
use crate::watches::Watches;

/// The key under which all zones are looked at; all other keys are nodes'.
const ZONES: &str = ":zones";
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

/// Labels of another name that say the same, as upstream keeps them.
const LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// Upstream's flags `--node-…` and those of zones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How long a kubelet may be silent, and before it has ever said how it is.
    pub grace_period: Duration,
    pub startup_grace_period: Duration,
    /// Nodes of a zone that may begin to lose their pods in a second, and in a large zone of which much is unhealthy.
    pub eviction_rate: f64,
    pub secondary_eviction_rate: f64,
    /// Zones of so many nodes are not large yet.
    pub large_cluster_size_threshold: usize,
    /// The part of a zone's nodes from which on it is unhealthy.
    pub unhealthy_zone_threshold: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace_period: Duration::from_secs(50),
            startup_grace_period: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_cluster_size_threshold: 50,
            unhealthy_zone_threshold: 0.55,
        }
    }
}

pub struct NodeLifecycleController {
    settings: Settings,
    /// When something was last heard of a kubelet: nodes' clocks may be wrong, and this machine's may be set.
    heard: Arc<Mutex<HashMap<String, Instant>>>,
    /// Of each zone, which node last began to lose its pods, and when.
    tainted: Mutex<BTreeMap<String, (String, Timestamp)>>,
    /// The zones that there were at the last look.
    zones: Mutex<BTreeSet<String>>,
    /// The nodes that have been told of.
    known: Mutex<BTreeMap<String, ObjectRef>>,
}

impl NodeLifecycleController {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            heard: Arc::default(),
            tainted: Mutex::default(),
            zones: Mutex::default(),
            known: Mutex::default(),
        }
    }
}

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
        watches.when_missed(&snapshot.nodes);
        let heard = self.heard.clone();
        watches.on(&snapshot.nodes, move |change, _| {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            let name = change.object().name();
            if new.is_none() {
                heard.lock().remove(name);
            } else if old.is_some_and(|old| heartbeat(old) != new.and_then(heartbeat)) {
                heard.lock().insert(name.to_owned(), Instant::now());
            }
            let mut keys = vec![name.to_owned()];
            if old.map(zones::facts) != new.map(zones::facts) {
                keys.push(ZONES.to_owned());
            }
            keys
        });
        // A renewal needs no look at once: the next one is due when the grace period after it ends. The first lease of a
        // node, or one after silence, brings the node back.
        let (queue, heard, grace) = (watches.queue(), self.heard.clone(), self.settings.grace_period);
        watches.on(&snapshot.node_leases, move |change, snapshot| {
            let lease = change.object();
            if lease.namespace() != LEASE_NAMESPACE {
                return Vec::new();
            }
            if change.is_removal() {
                heard.lock().remove(lease.name());
            } else if is_renewed(change) {
                heard.lock().insert(lease.name().to_owned(), Instant::now());
            }
            let silent = snapshot.nodes.get(lease.name()).is_some_and(|node| status_of(&node, "Ready") == "Unknown");
            if silent || change.old.is_none() || change.is_removal() {
                vec![lease.name().to_owned()]
            } else {
                queue.add_after(lease.name().to_owned(), grace);
                Vec::new()
            }
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        if key == ZONES {
            return self.judge_zones(&snapshot.nodes.list(), context.now);
        }
        let mut plan = Plan::of(self.tell(key, snapshot.nodes.get(key).as_deref()));
        let Some(node) = snapshot.nodes.get(key) else { return plan };
        let deadline = self.deadline(&node, context);
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
        plan.ops.extend(taint(&node, zones::loses_pods(&node), context.now));
        plan.ops.extend(label(&node));
        plan
    }
}

impl NodeLifecycleController {
    /// When the kubelet has been silent for too long. Silence from before this process began does not count: nobody listened.
    fn deadline(&self, node: &Node, context: &Context) -> Timestamp {
        let heard = self.heard.lock().get(node.name()).copied();
        let heard = heard.and_then(|at| context.now.checked_sub(at.elapsed()).ok());
        let last = heard.unwrap_or(Timestamp::MIN).max(pods::created(&node.metadata)).max(context.started);
        let has_reported = !status_of(node, "Ready").is_empty();
        let grace = if has_reported { self.settings.grace_period } else { self.settings.startup_grace_period };
        last.checked_add(SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
    }

    /// Nodes that come and go are told of once.
    fn tell(&self, name: &str, node: Option<&Node>) -> Vec<Op> {
        let mut known = self.known.lock();
        let event = |about, reason, message| Op::Event { about, kind: EventType::Normal, reason, message };
        match node {
            Some(node) if !known.contains_key(name) => {
                known.insert(name.to_owned(), ObjectRef::of(node));
                vec![event(
                    ObjectRef::of(node),
                    "RegisteredNode",
                    format!("Node {name} event: Registered Node {name} in Controller"),
                )]
            }
            Some(_) => Vec::new(),
            None => known
                .remove(name)
                .into_iter()
                .map(|about| {
                    event(about, "RemovingNode", format!("Node {name} event: Removing Node {name} from Controller"))
                })
                .collect(),
        }
    }
}

/// When the kubelet says that it last reported.
fn heartbeat(node: &Node) -> Option<Timestamp> {
    let ready = condition::find(&node.status.as_ref()?.conditions, "Ready")?;
    ready.last_heartbeat_time.as_ref().map(|time| time.0)
}

fn is_renewed(change: &Change<Lease>) -> bool {
    let renewed = |lease: &Lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0);
    change.old.as_deref().and_then(renewed) < change.new.as_deref().and_then(renewed)
}

/// What labels must be added or changed.
fn label(node: &Node) -> Option<Op> {
    let labels = node.labels()?;
    let missing = |(of, also): (&str, &str)| {
        labels.get(of).filter(|v| labels.get(also) != Some(v)).map(|v| (also.to_owned(), v.clone()))
    };
    let missing: BTreeMap<String, String> = LABELS.into_iter().filter_map(missing).collect();
    let patch = json!({"metadata": {"uid": node.uid(), "labels": missing}});
    (!missing.is_empty()).then(|| Op::patch(node, Patch::Merge(patch)))
}

fn status_of<'a>(node: &'a Node, kind: &str) -> &'a str {
    node.status.as_ref().and_then(|s| condition::find(&s.conditions, kind)).map_or("", Condition::status)
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
        let unready = PodCondition {
            type_: "Ready".into(),
            status: "False".into(),
            last_transition_time: Some(Time(context.now)),
            ..PodCondition::default()
        };
        ops.push(pods::write_condition(&pod, unready, json!({})));
        ops.push(Op::warning(&*pod, "NodeNotReady", "Node is not ready"));
    }
    ops
}

/// The taints that the node's state calls for, of those that this controller manages.
fn wanted_taints(node: &Node, loses_pods: bool) -> Vec<(&'static str, &'static str)> {
    let mut taints = Vec::new();
    for (kind, status, key) in BY_CONDITION {
        if status_of(node, kind) == status {
            taints.push((key, "NoSchedule"));
            if kind == "Ready" && loses_pods {
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
fn taint(node: &Node, loses_pods: bool, now: Timestamp) -> Option<Op> {
    let wanted = wanted_taints(node, loses_pods);
    let have = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let is_wanted = |t: &Taint| wanted.iter().any(|(key, effect)| t.key == *key && t.effect == *effect);
    let mut taints: Vec<Taint> = have.iter().filter(|t| !is_managed(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in &wanted {
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
