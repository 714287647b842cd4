//! `disruption`: how many pods of a budget may be disrupted now (`pkg/controller/disruption`).

mod expected;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kybern_api::core::v1::{Pod, PodCondition};
use kybern_api::meta::v1::{Condition, Time};
use kybern_api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use kybern_api::selector::to_go_text;
use kybern_api::{Object, condition, label_selector, owner};
use kybern_apimachinery::json;
use kybern_apimachinery::selector::LabelSelector;
use kybern_client::Change;

use crate::ask::Then;
use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::{SELECTS, Snapshot, label_in};
use crate::watches::Watches;
use expected::{Expected, Unknown, expect};

/// How long a pod that may go is believed to be about to go, and how long one that says so may stay.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
/// What begins the key of a pod; all other keys are budgets'.
const POD: &str = "pod:";
const ALLOWED: &str = "DisruptionAllowed";

pub struct DisruptionController;

impl Controller for DisruptionController {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn component(&self) -> &'static str {
        "controllermanager"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.budgets);
        watches.on(&snapshot.pods, keys_of_pod);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        match key.strip_prefix(POD) {
            Some(key) => snapshot.pods.get(key).map_or_else(Plan::idle, |pod| {
                let mut plan = clean(&pod, context.now);
                plan.ops.extend(ambiguous(&pod, snapshot));
                plan
            }),
            None => snapshot.budgets.get(key).map_or_else(Plan::idle, |budget| judge(budget, snapshot, context.now)),
        }
    }
}

/// The index [`SELECTS`]: one label that all selected pods bear, or the namespace alone where no single one is named.
pub(crate) fn selects(budget: &PodDisruptionBudget) -> Vec<String> {
    let Some(selector) = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return Vec::new() };
    let namespace = budget.namespace();
    let label = selector.match_labels.iter().flatten().next();
    vec![label.map_or_else(|| namespace.to_owned(), |(key, value)| label_in(namespace, key, value))]
}

/// No selector selects nothing, an empty one everything.
fn selector(budget: &PodDisruptionBudget) -> Result<LabelSelector, String> {
    budget.spec.as_ref().and_then(|s| s.selector.as_ref()).map_or_else(|| Ok(LabelSelector::none()), label_selector)
}

/// What matters of a pod to its budgets.
fn facts(pod: &Pod) -> impl PartialEq {
    let controller = owner::controller_of(&pod.metadata).map(|controller| controller.uid.as_str());
    (pod.uid(), pod.labels(), pods::is_ready(pod), pod.is_deleting(), controller)
}

fn keys_of_pod(change: &Change<Pod>, snapshot: &Snapshot) -> Vec<String> {
    let (old, new) = (change.old.as_deref(), change.new.as_deref());
    let (mut keys, mut is_ambiguous) = (Vec::new(), false);
    if old.map(facts) != new.map(facts) {
        keys = new.map_or_else(Vec::new, |pod| budgets_of(pod, snapshot));
        is_ambiguous = keys.len() > 1;
        keys.extend(old.into_iter().flat_map(|pod| budgets_of(pod, snapshot)));
        keys.sort();
        keys.dedup();
    }
    let is_marked = |pod: &&Pod| marked_since(pod).is_some_and(|since| old.and_then(marked_since) != Some(since));
    keys.extend(new.filter(|pod| is_ambiguous || is_marked(pod)).map(|pod| format!("{POD}{}", pod.key())));
    keys
}

fn budgets_of(pod: &Pod, snapshot: &Snapshot) -> Vec<String> {
    let empty = BTreeMap::new();
    let labels = pod.labels().unwrap_or(&empty);
    let named = labels.iter().map(|(key, value)| label_in(pod.namespace(), key, value));
    let values = named.chain([pod.namespace().to_owned()]);
    let budgets = values.flat_map(|value| snapshot.budgets.by_index(SELECTS, &value));
    let selecting = budgets.filter(|budget| selector(budget).is_ok_and(|s| s.matches_btree(labels)));
    selecting.map(|budget| budget.key()).collect()
}

/// A pod of several budgets cannot be evicted.
fn ambiguous(pod: &Pod, snapshot: &Snapshot) -> Option<Op> {
    let budgets = budgets_of(pod, snapshot);
    let first = budgets.first().filter(|_| budgets.len() > 1)?;
    let (namespace, name) = (pod.namespace(), pod.name());
    let chosen = first.strip_prefix(namespace).map_or("", |name| name.trim_start_matches('/'));
    let text =
        format!("Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {chosen:?} arbitrarily.");
    Some(Op::warning(pod, "MultiplePodDisruptionBudgets", text))
}

/// Since when a pod says that it is being disrupted, though nobody deletes it. The kubelet may take its time.
fn marked_since(pod: &Pod) -> Option<Timestamp> {
    let mark = condition::find(&pod.status.as_ref()?.conditions, "DisruptionTarget")?;
    let is_open = mark.status == "True" && mark.reason.as_deref() != Some("TerminationByKubelet");
    let is_stale = is_open && pods::is_active(pod);
    is_stale.then(|| mark.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Takes back what a pod says of its disruption, if nothing has come of it.
fn clean(pod: &Pod, now: Timestamp) -> Plan {
    let Some(end) = marked_since(pod).map(end_of) else { return Plan::idle() };
    let mut plan = Plan::idle();
    if end > now {
        plan.requeue_at(end, now);
        return plan;
    }
    let mark = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "False".into(),
        observed_generation: pod.metadata.generation,
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    plan.push(pods::write_condition(pod, mark, json!({})));
    plan
}

fn end_of(since: Timestamp) -> Timestamp {
    since.checked_add(PATIENCE).unwrap_or(Timestamp::MAX)
}

fn judge(budget: Arc<PodDisruptionBudget>, snapshot: &Snapshot, now: Timestamp) -> Plan {
    let selector = match selector(&budget) {
        Ok(selector) => selector,
        Err(error) => {
            let event = Op::warning(&*budget, "NoPods", format!("Failed to get pods: {error}"));
            return Plan::of([event].into_iter().chain(forbid(&budget, &error, now)).collect());
        }
    };
    let mut pods = snapshot.pods.list_in(budget.namespace());
    pods.retain(|pod| pod.labels().map_or_else(|| selector.matches(|_| None), |labels| selector.matches_btree(labels)));
    let mut plan = Plan::idle();
    if pods.is_empty() {
        plan.push(Op::normal(&*budget, "NoPods", "No matching pods found"));
    }
    for end in pods.iter().filter_map(|pod| promised(&budget, pod)).map(end_of).filter(|end| *end >= now) {
        plan.requeue_at(end, now);
    }
    let (asks, expected) = match expect(&budget, &pods, snapshot) {
        Ok(expected) => (expected.asks(), Ok(expected)),
        Err(message) => (Vec::new(), Err(Unknown { message, is_lasting: true })),
    };
    let then = move |answers| {
        let counted = expected.clone().and_then(|expected| expected.count(&budget, answers));
        tell(&budget, &pods, counted, now)
    };
    if asks.is_empty() {
        plan.ops.extend(then(Vec::new()));
    } else {
        plan.push(Op::Ask { asks, then: Then::new(then) });
    }
    plan
}

/// When the pod was allowed to go, if it was and nobody has deleted it yet.
fn promised(budget: &PodDisruptionBudget, pod: &Pod) -> Option<Timestamp> {
    let disrupted = budget.status.as_ref()?.disrupted_pods.as_ref()?;
    disrupted.get(pod.name()).filter(|_| !pod.is_deleting()).map(|time| time.0)
}

/// Writes what was found, with events about what should not be.
fn tell(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], found: Result<Expected, Unknown>, now: Timestamp) -> Vec<Op> {
    let found = match found {
        Ok(found) => found,
        Err(Unknown { message, is_lasting }) => {
            let text = format!("Failed to calculate the number of expected pods: {message}");
            let mut ops = vec![Op::warning(budget, "CalculateExpectedPodCountFailed", text)];
            ops.extend(forbid(budget, &message, now));
            ops.extend((!is_lasting).then(|| Op::Fail(format!("budget {}: {message}", budget.key()))));
            return ops;
        }
    };
    let mut ops = Vec::new();
    if found.has_unmanaged {
        let selector = to_go_text(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
        let text = format!(
            "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the \
             status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these \
             pods please set \".spec.minAvailable\" field of the PDB to an integer value."
        );
        ops.push(Op::warning(budget, "UnmanagedPods", text));
    }
    let (mut healthy, mut disrupted) = (0, BTreeMap::new());
    for pod in pods {
        let since = promised(budget, pod);
        if let Some(since) = since {
            if end_of(since) < now {
                let text = format!("Pod was expected by PDB {} to be deleted but it wasn't", budget.key());
                ops.push(Op::warning(&**pod, "NotDeleted", text));
            } else {
                disrupted.insert(pod.name().to_owned(), Time(since));
            }
        }
        let goes = pod.is_deleting() || since.is_some_and(|since| end_of(since) > now);
        healthy += i32::from(!goes && pods::is_ready(pod));
    }
    // With none expected nothing is allowed: the first pods may be there before they are counted.
    let allowed = if found.pods > 0 { healthy.saturating_sub(found.healthy).max(0) } else { 0 };
    let old = budget.status.clone().unwrap_or_default();
    let mut status = PodDisruptionBudgetStatus {
        conditions: old.conditions.clone(),
        current_healthy: healthy,
        desired_healthy: found.healthy,
        disrupted_pods: Some(disrupted).filter(|pods| !pods.is_empty()),
        disruptions_allowed: allowed,
        expected_pods: found.pods,
        observed_generation: budget.metadata.generation,
    };
    let (is_allowed, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_allowed(&mut status, is_allowed, reason, "", now);
    ops.extend(written(budget, status));
    ops
}

/// The last resort: what cannot be counted must not be disrupted.
fn forbid(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> Option<Op> {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = 0;
    set_allowed(&mut status, "False", "SyncFailed", why, now);
    written(budget, status)
}

fn set_allowed(status: &mut PodDisruptionBudgetStatus, is_allowed: &str, reason: &str, message: &str, now: Timestamp) {
    let allowed = Condition {
        type_: ALLOWED.into(),
        status: is_allowed.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: status.observed_generation,
        last_transition_time: Time(now),
    };
    condition::set(&mut status.conditions, allowed);
}

/// The write of a status, if it is another.
fn written(budget: &PodDisruptionBudget, status: PodDisruptionBudgetStatus) -> Option<Op> {
    let mut old = budget.status.clone().unwrap_or_default();
    old.disrupted_pods = old.disrupted_pods.filter(|pods| !pods.is_empty());
    (old != status).then(|| Op::update_status(&PodDisruptionBudget { status: Some(status), ..budget.clone() }))
}
