//! `statefulset`: pods with names of their own, and with claims that outlive them (`pkg/controller/statefulset`).

use std::borrow::Cow;
use std::sync::Arc;

use kybern_api::apps::v1::{ControllerRevision, StatefulSet};
use kybern_api::core::v1::{PersistentVolumeClaim, Pod};
use kybern_api::{Object, label_selector, owner};
use kybern_apimachinery::object;
use kybern_apimachinery::selector::LabelSelector;
use kybern_client::{Change, ObjectRef};

use self::identity::Version;
use self::manage::Work;
use crate::claim::{claim, keys_of};
use crate::controller::{Context, Controller, Plan};
use crate::history::{self, History};
use crate::metrics::{MAX_UNAVAILABLE, UNAVAILABLE};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

mod identity;
mod manage;
mod status;
mod storage;

#[cfg(test)]
mod luck_tests;
#[cfg(test)]
mod tests;

/// Where a revision has its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

pub struct StatefulSetController;

impl Controller for StatefulSetController {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.stateful_sets);
        watches.on(&snapshot.pods, keys_of_pod);
        watches.on(&snapshot.claims, |change, snapshot| sets_of_claim(change.object(), snapshot));
        watches.on(&snapshot.revisions, |change, snapshot| keys_of(change, &snapshot.stateful_sets, selector_of));
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(set) = snapshot.stateful_sets.get(key) else { return forgotten(key) };
        let (Some(spec), Some(selector)) = (&set.spec, selector_of(&set)) else { return Plan::idle() };
        if selector.is_everything() {
            return Plan::idle();
        }
        let claims = claim(&*set, &selector, &snapshot.pods, |pod| identity::ordinal(set.name(), pod).is_some());
        if !claims.ops.is_empty() {
            // What is adopted counts once it says whose it is.
            return Plan::of(claims.ops);
        }
        let old = set.status.clone().unwrap_or_default();
        let collisions = Some(old.collision_count.unwrap_or(0));
        let history = match History::of(&*set, &selector, &spec.template, collisions, HASH_LABEL, snapshot) {
            Ok(history) => history,
            Err(adoptions) => return Plan::of(adoptions),
        };
        let update = Version { revision: history.present.name(), template: Cow::Borrowed(&spec.template) };
        let current = old.current_revision.as_deref().and_then(|name| history.find(name));
        let current = current
            .filter(|r| r.name() != update.revision)
            .and_then(|r| Some(Version { revision: r.name(), template: Cow::Owned(history::template_of(r)?) }));
        let work = Work {
            set: &set,
            spec,
            current: current.unwrap_or_else(|| update.clone()),
            update,
            pods: claims
                .owned
                .into_iter()
                .filter_map(|pod| Some((identity::ordinal(set.name(), &pod)?, pod)))
                .collect(),
            snapshot,
            now: context.now,
            about: ObjectRef::of(&*set),
        };
        let mut plan = Plan::idle();
        if set.is_deleting() {
            // Its pods and revisions are the garbage collector's.
            plan.ops.extend(work.status(&old, &history, 0, &mut Plan::idle()));
            return plan;
        }
        plan.ops.extend(history.ops.clone());
        let mut steps = Plan::idle();
        let replaced = work.manage(&mut steps);
        plan.ops.extend(work.status(&old, &history, replaced, &mut steps));
        plan.ops.append(&mut steps.ops);
        let live = |revision: &ControllerRevision| {
            revision.name() == work.current.revision
                || work.pods.values().any(|pod| identity::revision(pod) == revision.name())
        };
        plan.ops.extend(history.clean_up(spec.revision_history_limit, live));
        let policy = spec.pod_management_policy.as_deref().unwrap_or(POLICIES[0]);
        let labels = [set.namespace(), set.name(), policy];
        if work.is_rolling() {
            steps.measure(&UNAVAILABLE, labels, work.lacking() as f64);
        }
        steps.measure(&MAX_UNAVAILABLE, labels, work.max_unavailable().into());
        Plan { ops: plan.ops, ..steps }
    }
}

const POLICIES: [&str; 2] = ["OrderedReady", "Parallel"];

/// Of a set that has gone nothing is shown.
fn forgotten(key: &str) -> Plan {
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    let mut plan = Plan::idle();
    for policy in POLICIES {
        plan.measure(&UNAVAILABLE, [namespace, name, policy], f64::NAN);
        plan.measure(&MAX_UNAVAILABLE, [namespace, name, policy], f64::NAN);
    }
    plan
}

fn selector_of(set: &StatefulSet) -> Option<LabelSelector> {
    label_selector(&set.spec.as_ref()?.selector).ok()
}

/// The sets that own or select a pod, and the one for which it is in the way because it has a name of its pods.
fn keys_of_pod(change: &Change<Pod>, snapshot: &Snapshot) -> Vec<String> {
    let mut keys = keys_of(change, &snapshot.stateful_sets, selector_of);
    let pod = change.object();
    if let Some((set, _)) = identity::parse(pod.name()) {
        let is_its = owner::controller_of(&pod.metadata).is_some_and(|c| c.kind == StatefulSet::KIND && c.name == set);
        let key = object::key_of(pod.namespace(), set);
        if !is_its && snapshot.stateful_sets.get(&key).is_some() {
            keys.push(key);
        }
    }
    keys
}

/// The sets that a claim's name may come from: `a-b-web-0` is `a-b` of a pod of `web`, or `a` of one of `b-web`.
fn sets_of_claim(claim: &Arc<PersistentVolumeClaim>, snapshot: &Snapshot) -> Vec<String> {
    let Some((rest, _)) = identity::parse(claim.name()) else { return Vec::new() };
    let sets = rest.match_indices('-').map(|(at, _)| object::key_of(claim.namespace(), &rest[at + 1..]));
    sets.filter(|key| snapshot.stateful_sets.get(key).is_some()).collect()
}
