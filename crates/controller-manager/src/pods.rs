//! What several controllers ask about pods, and how they make them.

pub(crate) mod trimmed;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use kybern_api::core::v1::{Pod, PodCondition, PodStatus, PodTemplateSpec, Volume};
use kybern_api::meta::v1::{ObjectMeta, OwnerReference};
use kybern_api::{Condition, Object, condition, encode};
use kybern_apimachinery::{Value, json, object};
use kybern_client::Patch;

use crate::controller::Op;

/// Lower means: delete first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The longest prefix that leaves room for a generated suffix.
const NAME_PREFIX_MAX: usize = 58;

/// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`, or empty.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Whether a pod counts for its controller: neither finished nor being deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !pod.is_deleting()
}

pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|s| condition::is_true(&s.conditions, "Ready"))
}

/// When the pod became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition::find(&pod.status.as_ref()?.conditions, "Ready")?;
    if ready.status() == "True" { ready.transition_time() } else { None }
}

/// Whether a pod has been ready for `min_ready_seconds`; if not yet, how long it lacks.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    let needed = i64::from(min_ready_seconds);
    if needed == 0 {
        return Availability::Available;
    }
    match ready_since(pod).map(|since| needed * 1000 - now.duration_since(since).as_millis() as i64) {
        Some(lacking @ 1..) => Availability::In(Duration::from_millis(lacking.unsigned_abs())),
        Some(_) => Availability::Available,
        None => Availability::NotReady,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    Available,
    /// Ready, but not for long enough: available in this time.
    In(Duration),
    NotReady,
}

pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    availability(pod, min_ready_seconds, now) == Availability::Available
}

/// Writes one condition of the very pod that was seen, and what else is in `status`.
pub(crate) fn write_condition(pod: &Pod, condition: PodCondition, mut status: Value) -> Op {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone());
    condition::set(&mut conditions, condition);
    let written = Pod { status: Some(PodStatus { conditions, ..PodStatus::default() }), ..Pod::default() };
    status["conditions"] = encode::value(&written)["status"]["conditions"].take();
    let metadata = json!({"uid": pod.uid(), "resourceVersion": pod.resource_version()});
    Op::patch_status(pod, Patch::Strategic(json!({"metadata": metadata, "status": status})))
}

pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// The keys of the claims that a pod names, and of those made for its ephemeral volumes.
pub(crate) fn claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let name = |volume: &Volume| match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume.ephemeral.is_some().then(|| ephemeral_claim(pod, &volume.name)),
    };
    volumes.filter_map(name).map(|name| object::key_of(pod.namespace(), &name)).collect()
}

/// The name of the claim that is made for an ephemeral volume.
pub(crate) fn ephemeral_claim(pod: &Pod, volume: &str) -> String {
    format!("{}-{volume}", pod.name())
}

pub(crate) fn created(metadata: &ObjectMeta) -> Timestamp {
    metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let all = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    all.map(|c| c.restart_count).max().unwrap_or(0)
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(DELETION_COST)?.parse().ok()).unwrap_or(0)
}

/// Whether `a` goes before `b` when pods must go (`Less`), upstream's `ActivePodsWithRanks`. `ranks` counts, per node, the
/// pods of related controllers.
pub(crate) fn deletion_order(a: &Pod, b: &Pod, ranks: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let phase_order = |pod: &Pod| match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let rank = |pod: &Pod| ranks.get(node_name(pod)).copied().unwrap_or(0);
    // Ages are compared on a logarithmic scale: among pods of about one age, which goes is not worth caring about.
    let age_bucket = |since: Timestamp| now.duration_since(since).as_secs().max(1).ilog2();
    let newer_first = |a: Option<Timestamp>, b: Option<Timestamp>| match (a, b) {
        (Some(a), Some(b)) => age_bucket(a).cmp(&age_bucket(b)),
        _ => Ordering::Equal,
    };
    node_name(a)
        .is_empty()
        .cmp(&node_name(b).is_empty())
        .reverse()
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| newer_first(ready_since(a), ready_since(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| newer_first(Some(created(&a.metadata)), Some(created(&b.metadata))))
        .then_with(|| a.uid().cmp(b.uid()))
}

/// A pod as a controller makes it: named by the server, after the controller.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner_name: &str,
    owner: OwnerReference,
) -> Pod {
    let source = template.metadata.clone().unwrap_or_default();
    let mut prefix = format!("{owner_name}-");
    prefix.truncate(NAME_PREFIX_MAX);
    let metadata = ObjectMeta {
        generate_name: Some(prefix),
        namespace: Some(namespace.to_owned()),
        labels: source.labels,
        annotations: source.annotations,
        finalizers: source.finalizers,
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Pod { metadata, spec: template.spec.clone(), status: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, NOW, pod};

    #[test]
    fn availability_needs_time() {
        let check = |ready_for: i64, min: i32, expect| {
            let pod = pod("a").ready_at(NOW - ready_for).build();
            assert_eq!(availability(&pod, min, testing::now()), expect, "{ready_for} {min}");
        };
        check(0, 0, Availability::Available);
        check(4, 10, Availability::In(Duration::from_secs(6)));
        check(10, 10, Availability::Available);
        assert_eq!(availability(&pod("a").build(), 0, testing::now()), Availability::NotReady);
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let base = || pod("b").node("n1").phase("Running").ready_at(NOW - 1000).created_at(NOW - 2000);
        let ranks = HashMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 3)]);
        let first = |a: testing::PodBuilder| {
            let (a, b) = (a.uid("z").build(), base().uid("a").build());
            assert_eq!(deletion_order(&a, &b, &ranks, testing::now()), Ordering::Less, "{a:?}");
            assert_eq!(deletion_order(&b, &a, &ranks, testing::now()), Ordering::Greater);
        };
        first(base().node(""));
        first(base().phase("Pending"));
        first(base().not_ready());
        first(base().annotation(DELETION_COST, "-1"));
        first(base().node("n2"));
        first(base().ready_at(NOW - 10));
        first(base().restarts(2));
        first(base().created_at(NOW - 30));
    }
}
