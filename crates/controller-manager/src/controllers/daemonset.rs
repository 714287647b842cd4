//! `daemonset`: one pod on every node that fits (`pkg/controller/daemon`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kybern_api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetStatus};
use kybern_api::core::v1::Pod;
use kybern_api::{Object, label_selector, owner};
use kybern_apimachinery::selector::LabelSelector;
use kybern_client::ObjectRef;

use self::backoff::Backoff;
use crate::claim::{claim, keys_of};
use crate::controller::{Context, Controller, Op, Plan};
use crate::history::History;
use crate::pods::{self, Availability};
use crate::snapshot::{Snapshot, node_of};
use crate::watches::Watches;

mod backoff;
pub(crate) mod fit;
mod update;

#[cfg(test)]
mod tests;

/// The most pods that are made or removed in one go.
const BURST: usize = 250;
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
pub(super) const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION_ANNOTATION: &str = "deprecated.daemonset.template.generation";

type Pods = Vec<Arc<Pod>>;

#[derive(Default)]
pub struct DaemonSetController {
    backoff: Backoff,
}

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn account(&self) -> &'static str {
        "daemon-set-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.daemon_sets);
        watches.on(&snapshot.pods, |change, snapshot| keys_of(change, &snapshot.daemon_sets, selector_of));
        watches.on(&snapshot.revisions, |change, snapshot| keys_of(change, &snapshot.daemon_sets, selector_of));
        watches.on(&snapshot.nodes, |change, snapshot| {
            if let (Some(old), Some(new)) = (&change.old, &change.new)
                && !fit::differs(old, new)
            {
                return Vec::new();
            }
            snapshot.daemon_sets.list().iter().map(|set| set.key()).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(set) = snapshot.daemon_sets.get(key) else { return Plan::idle() };
        let Some(spec) = &set.spec else { return Plan::idle() };
        let Ok(selector) = label_selector(&spec.selector) else { return Plan::idle() };
        if selector.is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            return Plan::of(vec![Op::warning(&*set, "SelectingAll", message)]);
        }
        if set.is_deleting() {
            return Plan::idle();
        }
        let claims = claim(&*set, &selector, &snapshot.pods, |pod| !pod.is_deleting());
        if !claims.ops.is_empty() {
            // What is adopted counts once it says whose it is.
            return Plan::of(claims.ops);
        }
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let history = match History::of(&*set, &selector, &spec.template, collisions, HASH_LABEL, snapshot) {
            Ok(history) => history,
            Err(adoptions) => return Plan::of(adoptions),
        };
        let mut plan = Plan::of(history.ops.clone());
        let hash = hash_of(&history.present).cloned().unwrap_or_default();
        let work = Work {
            set: &set,
            spec,
            hash,
            nodes: by_node(snapshot, spec, &claims.owned),
            context,
            backoff: &self.backoff,
        };
        let mut changes = work.manage();
        if changes.is_empty() && spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            // What waits for its time goes on waiting.
            changes = Changes { requeue: changes.requeue, ..update::roll(&work) };
        }
        if changes.is_empty() {
            let live = |r: &ControllerRevision| {
                let hash = hash_of(r);
                claims.owned.iter().any(|pod| pod.labels().and_then(|l| l.get(HASH_LABEL)) == hash)
            };
            plan.ops.extend(history.clean_up(spec.revision_history_limit, live));
        }
        if let Some(status) = work.next_status(history.collision_count, &mut plan) {
            plan.push(Op::update_status(&DaemonSet { status: Some(status), ..(*set).clone() }));
        }
        work.carry_out(changes, &mut plan);
        plan
    }
}

fn selector_of(set: &DaemonSet) -> Option<LabelSelector> {
    label_selector(&set.spec.as_ref()?.selector).ok()
}

fn hash_of(revision: &ControllerRevision) -> Option<&String> {
    revision.labels()?.get(HASH_LABEL)
}

/// A node, what it means to the set, and the set's pods there, the oldest first.
struct OnNode {
    name: String,
    fit: fit::Fit,
    pods: Pods,
}

/// Every node, and after them those that are not known but have pods.
fn by_node(snapshot: &Snapshot, spec: &DaemonSetSpec, owned: &[Arc<Pod>]) -> Vec<OnNode> {
    let mut pods: BTreeMap<&str, Pods> = BTreeMap::new();
    for pod in owned {
        if let Some(node) = node_of(pod) {
            pods.entry(node).or_default().push(pod.clone());
        }
    }
    pods.values_mut().for_each(|pods| pods.sort_by_key(|pod| pods::created(&pod.metadata)));
    let mut nodes: Vec<OnNode> = Vec::new();
    let daemon = fit::Daemon::of(spec);
    for node in snapshot.nodes.list() {
        let (fit, pods) = (daemon.fit(&node), pods.remove(node.name()).unwrap_or_default());
        // Where nothing is and nothing should be, nothing is to be done.
        if fit.should_run || !pods.is_empty() {
            nodes.push(OnNode { name: node.name().to_owned(), fit, pods });
        }
    }
    let unknown = pods.into_iter().map(|(name, pods)| OnNode { name: name.to_owned(), fit: fit::Fit::NO, pods });
    nodes.extend(unknown);
    nodes
}

/// Which pods to make (on which nodes) and which to remove.
#[derive(Default)]
struct Changes {
    create_on: Vec<String>,
    delete: Pods,
    events: Vec<Op>,
    /// Pods that failed again wait.
    requeue: Option<Duration>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.create_on.is_empty() && self.delete.is_empty()
    }
}

struct Work<'a> {
    set: &'a Arc<DaemonSet>,
    spec: &'a DaemonSetSpec,
    hash: String,
    nodes: Vec<OnNode>,
    context: &'a Context,
    backoff: &'a Backoff,
}

impl Work<'_> {
    fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    /// How many nodes should run a pod.
    fn wanted(&self) -> usize {
        self.nodes.iter().filter(|node| node.fit.should_run).count()
    }

    fn is_current(&self, pod: &Pod) -> bool {
        pod.labels().and_then(|l| l.get(HASH_LABEL)) == Some(&self.hash)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready(), self.context.now)
    }

    /// `podsShouldBeOnNode` for every node.
    fn manage(&self) -> Changes {
        let mut changes = Changes::default();
        for OnNode { name, fit, pods } in &self.nodes {
            if pods.is_empty() {
                if fit.should_run {
                    changes.create_on.push(name.clone());
                }
                continue;
            }
            if !fit.may_stay {
                changes.delete.extend(pods.iter().filter(|pod| !pod.is_deleting()).cloned());
                continue;
            }
            let mut running = Vec::new();
            for pod in pods.iter().filter(|pod| !pod.is_deleting()) {
                match pods::phase(pod) {
                    phase @ ("Failed" | "Succeeded") => self.replace_finished(pod, phase, name, &mut changes),
                    _ => running.push(pod.clone()),
                }
            }
            changes.delete.extend(self.surplus(running));
        }
        changes
    }

    fn replace_finished(&self, pod: &Arc<Pod>, phase: &str, node: &str, changes: &mut Changes) {
        let key = || format!("{}/{}/{node}", self.set.uid(), self.set.metadata.generation.unwrap_or(0));
        if phase == "Failed"
            && let Some(left) = self.backoff.wait(key(), self.context.now)
        {
            changes.requeue = Some(changes.requeue.map_or(left, |old| old.min(left)));
            return;
        }
        let (reason, what) =
            if phase == "Failed" { ("FailedDaemonPod", "failed") } else { ("SucceededDaemonPod", "succeeded") };
        let verb = if phase == "Failed" { "kill" } else { "delete" };
        let message = format!("Found {what} daemon pod {} on node {node}, will try to {verb} it", pod.key());
        let event = if phase == "Failed" { Op::warning::<DaemonSet> } else { Op::normal::<DaemonSet> };
        changes.events.push(event(self.set, reason, message));
        changes.delete.push(pod.clone());
    }

    /// Pods beyond the one that stays; while surging an old and a new one stay until the new one is available.
    fn surplus(&self, running: Pods) -> Pods {
        if running.len() <= 1 {
            return Vec::new();
        }
        if update::max_surge(self.spec, self.wanted()) == 0 {
            return running[1..].to_vec();
        }
        let (new, old): (Pods, Pods) = running.into_iter().partition(|pod| self.is_current(pod));
        let (keep_new, drop_new) = new.split_at(new.len().min(1));
        let keep_old = usize::from(!keep_new.iter().any(|pod| self.is_available(pod)));
        let drop_old = &old[old.len().min(keep_old)..];
        drop_new.iter().chain(drop_old).cloned().collect()
    }

    fn carry_out(&self, changes: Changes, plan: &mut Plan) {
        let about = ObjectRef::of(&**self.set);
        plan.ops.extend(changes.events);
        if let Some(delay) = changes.requeue {
            plan.requeue(delay);
        }
        let creates =
            changes.create_on.iter().take(BURST).map(|node| Op::create(&self.make_pod(node)).announced(&about));
        let creates: Vec<Op> = creates.collect();
        if !creates.is_empty() {
            plan.push(Op::SlowStart(creates));
        }
        let deletes: Vec<Op> =
            changes.delete.iter().take(BURST).map(|pod| Op::delete(&**pod).announced(&about)).collect();
        if !deletes.is_empty() {
            plan.push(Op::SlowStart(deletes));
        }
    }

    fn make_pod(&self, node: &str) -> Pod {
        let mut pod = pods::from_template(
            &self.spec.template,
            self.set.namespace(),
            self.set.name(),
            owner::controller_ref(&**self.set),
        );
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), self.hash.clone());
        labels.insert(GENERATION_LABEL.to_owned(), template_generation(self.set));
        fit::pin(pod.spec.get_or_insert_default(), node);
        pod
    }

    fn next_status(&self, collision_count: Option<i32>, plan: &mut Plan) -> Option<DaemonSetStatus> {
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count,
            conditions: self.set.status.as_ref().and_then(|s| s.conditions.clone()),
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for OnNode { fit, pods, .. } in &self.nodes {
            if !fit.should_run {
                status.number_misscheduled += i32::from(!pods.is_empty());
                continue;
            }
            status.desired_number_scheduled += 1;
            // Of several the newest template's: that is the one that stays.
            let Some(pod) = pods.iter().find(|pod| self.is_current(pod)).or(pods.first()) else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pods::is_ready(pod));
            updated += i32::from(self.is_current(pod));
            match pods::availability(pod, self.min_ready(), self.context.now) {
                Availability::Available => available += 1,
                Availability::In(time) => plan.requeue(time),
                Availability::NotReady => {}
            }
        }
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        status.updated_number_scheduled = some(updated);
        status.number_available = some(available);
        status.number_unavailable = some(status.desired_number_scheduled - available);
        (self.set.status.as_ref() != Some(&status)).then_some(status)
    }
}

fn template_generation(set: &DaemonSet) -> String {
    let annotated = set.metadata.annotations.as_ref().and_then(|a| a.get(GENERATION_ANNOTATION)).cloned();
    annotated.unwrap_or_else(|| set.metadata.generation.unwrap_or(1).to_string())
}
