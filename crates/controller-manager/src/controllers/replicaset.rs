//! `replicaset`: as many pods as `spec.replicas` says (`pkg/controller/replicaset`).

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use kybern_api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use kybern_api::core::v1::Pod;
use kybern_api::meta::v1::Time;
use kybern_api::{Object, condition, label_selector, owner};
use kybern_client::ObjectRef;

use crate::claim::{claim, keys_of};
use crate::controller::{Context, Controller, Failure, Op, Plan, Verb};
use crate::pods::{self, Availability};
use crate::snapshot::{OWNER, Snapshot};
use crate::watches::Watches;

/// The most pods that are made or removed in one go.
pub(crate) const BURST: usize = 500;

pub struct ReplicaSetController;

impl Controller for ReplicaSetController {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.replica_sets);
        watches.on(&snapshot.pods, |change, snapshot| {
            keys_of(change, &snapshot.replica_sets, |set| label_selector(&set.spec.as_ref()?.selector).ok())
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(set) = snapshot.replica_sets.get(key) else { return Plan::idle() };
        let (mut plan, status) = reconcile(&*set, &set, snapshot, context);
        if let Some(status) = status {
            // Before the pods are made or removed: a failure of the last attempt is told first.
            plan.ops.insert(0, Op::update_status(&ReplicaSet { status: Some(status), ..(*set).clone() }));
        }
        plan
    }
}

/// Reconciles the pods of `owner`, whose wishes are in `set`: a ReplicaSet is both, a ReplicationController is read as one.
/// The status is to be written if there is one.
pub(crate) fn reconcile<O: Object>(
    owner: &O,
    set: &ReplicaSet,
    snapshot: &Snapshot,
    context: &Context,
) -> (Plan, Option<ReplicaSetStatus>) {
    let Some(spec) = &set.spec else { return (Plan::idle(), None) };
    let Ok(selector) = label_selector(&spec.selector) else { return (Plan::idle(), None) };
    let claims = claim(owner, &selector, &snapshot.pods, pods::is_active);
    let mut plan = Plan::of(claims.ops);
    let (active, other): (Vec<_>, Vec<_>) = claims.owned.into_iter().partition(|pod| pods::is_active(pod));
    let terminating = other.iter().filter(|pod| pod.is_deleting() && !pods::is_finished(pod)).count();
    let status = next_status(set, &active, terminating, context, &mut plan);
    if !owner.is_deleting() {
        plan.ops.extend(scale(owner, set, &active, snapshot, context.now));
    }
    (plan, status)
}

/// Makes or removes pods.
fn scale<O: Object>(
    owner: &O,
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    snapshot: &Snapshot,
    now: Timestamp,
) -> Option<Op> {
    let spec = set.spec.as_ref()?;
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let about = ObjectRef::of(owner);
    if active.len() < wanted {
        let template = spec.template.as_ref()?;
        let pod = pods::from_template(template, set.namespace(), set.name(), owner::controller_ref(owner));
        let create = Op::create(&pod).announced(&about);
        return Some(Op::SlowStart(vec![create; (wanted - active.len()).min(BURST)]));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return None;
    }
    let ranks = related_pods_per_node(set, snapshot);
    let mut ordered: Vec<&Arc<Pod>> = active.iter().collect();
    ordered.sort_by(|a, b| pods::deletion_order(a, b, &ranks, now));
    Some(Op::SlowStart(ordered[..surplus].iter().map(|pod| Op::delete(&***pod).announced(&about)).collect()))
}

/// How many active pods each node has of this set and of the other sets of its owner: nodes with many give first.
fn related_pods_per_node(set: &ReplicaSet, snapshot: &Snapshot) -> HashMap<String, usize> {
    let mut uids = vec![set.uid().to_owned()];
    if let Some(owner) = owner::controller_of(&set.metadata) {
        uids.extend(snapshot.replica_sets.by_index(OWNER, &owner.uid).iter().map(|s| s.uid().to_owned()));
        uids.sort();
        uids.dedup();
    }
    let mut ranks = HashMap::new();
    for pod in uids.iter().flat_map(|uid| snapshot.pods.by_index(OWNER, uid)) {
        if pods::is_active(&pod) {
            *ranks.entry(pods::node_name(&pod).to_owned()).or_default() += 1;
        }
    }
    ranks
}

/// The status to write, if it differs. Asks for another look when pods become available by time alone.
fn next_status(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: usize,
    context: &Context,
    plan: &mut Plan,
) -> Option<ReplicaSetStatus> {
    let spec = set.spec.as_ref()?;
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.as_ref());
    let labelled = |pod: &Arc<Pod>| {
        template_labels
            .is_none_or(|wanted| wanted.iter().all(|(k, v)| pod.labels().is_some_and(|l| l.get(k) == Some(v))))
    };
    let mut available = 0;
    for pod in active {
        match pods::availability(pod, min_ready, context.now) {
            Availability::Available => available += 1,
            Availability::In(time) => plan.requeue(time),
            Availability::NotReady => {}
        }
    }
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let old = set.status.clone().unwrap_or_default();
    let mut status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: Some(count(active.iter().filter(|p| labelled(p)).count())).filter(|n| *n > 0),
        ready_replicas: Some(count(active.iter().filter(|p| pods::is_ready(p)).count())).filter(|n| *n > 0),
        available_replicas: Some(available).filter(|n| *n > 0),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions: old.conditions.clone(),
    };
    set_failure(&mut status, context.failure.as_ref(), context.now);
    let unchanged =
        ReplicaSetStatus { terminating_replicas: Some(old.terminating_replicas.unwrap_or(0)), ..old } == status;
    (!unchanged).then_some(status)
}

fn set_failure(status: &mut ReplicaSetStatus, failure: Option<&Failure>, now: Timestamp) {
    let reason = match failure.map(|f| f.verb) {
        Some(Verb::Create) => "FailedCreate",
        Some(Verb::Delete) => "FailedDelete",
        _ => return condition::remove(&mut status.conditions, "ReplicaFailure"),
    };
    if condition::find(&status.conditions, "ReplicaFailure").is_some_and(|c| c.reason.as_deref() == Some(reason)) {
        return;
    }
    let failure = ReplicaSetCondition {
        type_: "ReplicaFailure".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: failure.map(|f| f.message.clone()),
        last_transition_time: Some(Time(now)),
    };
    condition::set(&mut status.conditions, failure);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, NOW, World, created, deleted, pod, replica_set, status_of};

    fn world(replicas: i32, pods: impl IntoIterator<Item = Pod>) -> World {
        let world = World::new();
        world.writers.replica_sets.upsert(replica_set("web", replicas));
        for pod in pods {
            world.writers.pods.upsert(pod);
        }
        world
    }

    fn owned(name: &str) -> testing::PodBuilder {
        pod(name).label("app", "web").owned_by(&replica_set("web", 1)).node("n").phase("Running")
    }

    #[test]
    fn missing_pods_are_made_from_the_template() {
        let plan = world(3, [owned("a").build()]).reconcile(&ReplicaSetController, "default/web");
        let pods: Vec<Pod> = created(&plan);
        assert_eq!(pods.len(), 2);
        assert_eq!(pods[0].metadata.generate_name.as_deref(), Some("web-"));
        assert_eq!(owner::controller_of(&pods[0].metadata).unwrap().uid, "uid-web");
        assert_eq!(pods[0].labels().unwrap()["app"], "web");
    }

    #[test]
    fn surplus_pods_go_the_unready_first() {
        let ready = |name| owned(name).ready_at(NOW - 100).build();
        let plan =
            world(1, [ready("a"), owned("b").build(), ready("c")]).reconcile(&ReplicaSetController, "default/web");
        let gone = deleted(&plan);
        assert_eq!(gone.len(), 2);
        assert_eq!(gone[0], "b");
    }

    #[test]
    fn finished_and_leaving_pods_do_not_count() {
        let pods = [owned("a").phase("Failed").build(), owned("b").deleting().build(), owned("c").build()];
        let plan = world(2, pods).reconcile(&ReplicaSetController, "default/web");
        assert_eq!(created::<Pod>(&plan).len(), 1);
        let status = status_of::<ReplicaSet>(&plan).unwrap().status.unwrap();
        assert_eq!((status.replicas, status.terminating_replicas), (1, Some(1)));
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let orphan = pod("orphan").label("app", "web").node("n").phase("Running").build();
        let mut stranger = owned("stranger").build();
        stranger.metadata.labels.as_mut().unwrap().insert("app".into(), "other".into());
        let plan = world(1, [orphan, stranger]).reconcile(&ReplicaSetController, "default/web");
        let patches: Vec<String> = plan
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Patch { name, patch: kybern_client::Patch::Strategic(p), .. } => Some(format!(
                    "{name}: {}",
                    p["metadata"]["ownerReferences"][0]["$patch"].as_str().unwrap_or("adopt")
                )),
                _ => None,
            })
            .collect();
        assert_eq!(patches, ["stranger: delete", "orphan: adopt"]);
        assert!(created::<Pod>(&plan).is_empty(), "who is adopted counts");
    }

    #[test]
    fn status_counts_and_waits_for_min_ready_seconds() {
        let world = World::new();
        let mut set = replica_set("web", 2);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(10);
        set.metadata.generation = Some(4);
        world.writers.replica_sets.upsert(set);
        world.writers.pods.upsert(owned("a").ready_at(NOW - 60).build());
        world.writers.pods.upsert(owned("b").ready_at(NOW - 3).build());
        let plan = world.reconcile(&ReplicaSetController, "default/web");
        let set = status_of::<ReplicaSet>(&plan).unwrap();
        let status = set.status.clone().unwrap();
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (2, Some(2), Some(1)));
        assert_eq!(status.observed_generation, Some(4));
        assert_eq!(plan.requeue_after.unwrap().as_secs(), 7);
        world.writers.replica_sets.upsert(set);
        assert!(
            world.reconcile(&ReplicaSetController, "default/web").ops.is_empty(),
            "an unchanged status is not written"
        );
    }

    #[test]
    fn a_failure_becomes_a_condition() {
        let world = world(1, []);
        let failure = Failure { verb: Verb::Create, stale: false, message: "quota".into() };
        let plan = world.reconcile_after(&ReplicaSetController, "default/web", failure);
        let conditions = status_of::<ReplicaSet>(&plan).unwrap().status.unwrap().conditions;
        let found = condition::find(&conditions, "ReplicaFailure").unwrap();
        assert_eq!((found.reason.as_deref(), found.message.as_deref()), (Some("FailedCreate"), Some("quota")));
    }

    #[test]
    fn a_leaving_set_makes_nothing() {
        let world = World::new();
        let mut set = replica_set("web", 2);
        set.metadata.deletion_timestamp = Some(Time(testing::now()));
        world.writers.replica_sets.upsert(set);
        assert!(created::<Pod>(&world.reconcile(&ReplicaSetController, "default/web")).is_empty());
    }
}
