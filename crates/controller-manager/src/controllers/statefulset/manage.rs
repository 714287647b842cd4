//! Which pods are made and which go, one after the other or all at once (`stateful_set_control.go`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use kybern_api::apps::v1::{StatefulSet, StatefulSetSpec};
use kybern_api::core::v1::Pod;
use kybern_api::scaled::{Round, scaled_value};
use kybern_api::{IntOrString, Object, owner};
use kybern_client::ObjectRef;

use super::identity::{self, Version};
use super::status::is_running_and_ready;
use super::storage::{self, Obstacle};
use crate::controller::{Op, Plan};
use crate::pods;
use crate::snapshot::Snapshot;

/// The most pods that are made in one go.
const BURST: usize = 500;

pub(super) struct Work<'a> {
    pub(super) set: &'a Arc<StatefulSet>,
    pub(super) spec: &'a StatefulSetSpec,
    /// What pods below the partition have.
    pub(super) current: Version<'a>,
    /// What the set says now.
    pub(super) update: Version<'a>,
    /// By ordinal; those beyond the set's range are to go.
    pub(super) pods: BTreeMap<i64, Arc<Pod>>,
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Timestamp,
    pub(super) about: ObjectRef,
}

impl Work<'_> {
    pub(super) fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    pub(super) fn is_rolling(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete")
    }

    fn start(&self) -> i64 {
        self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0).into()
    }

    /// The ordinal after the last.
    fn end(&self) -> i64 {
        self.start() + i64::from(self.spec.replicas.unwrap_or(1).max(0))
    }

    /// The first ordinal that an update reaches.
    fn partition(&self) -> i64 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        self.start() + i64::from(rolling.and_then(|r| r.partition).unwrap_or(0))
    }

    fn condemned(&self) -> impl Iterator<Item = &Arc<Pod>> {
        let range = self.start()..self.end();
        self.pods.iter().rev().filter(move |(ordinal, _)| !range.contains(*ordinal)).map(|(_, pod)| pod)
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !pods::is_available(pod, self.min_ready(), self.now) || pod.is_deleting()
    }

    fn delete(&self, pod: &Pod) -> Op {
        let (pod_name, set) = (pod.name(), self.set.name());
        Op::delete(pod).announced_as(
            &self.about,
            format!("Delete Pod {pod_name} in StatefulSet {set} successful"),
            format!("Delete Pod {pod_name} in StatefulSet {set} failed error"),
        )
    }

    /// Plans the next steps. The answer is how many pods go to be made anew from the new template.
    pub(super) fn manage(&self, plan: &mut Plan) -> i32 {
        let at_once = self.spec.pod_management_policy.as_deref() == Some("Parallel");
        if at_once {
            self.all_at_once(plan);
        } else if !self.one_by_one(plan) {
            return 0;
        }
        if self.is_rolling() { self.roll(plan) } else { 0 }
    }

    /// Each pod after those before it are available, the last one first when there are too many. Whether all is done.
    fn one_by_one(&self, plan: &mut Plan) -> bool {
        for ordinal in self.start()..self.end() {
            let Some(pod) = self.pods.get(&ordinal) else {
                if let Some((claims, pod)) = self.make(ordinal, plan) {
                    plan.ops.extend(claims.into_iter().chain([pod]));
                }
                return false;
            };
            if pods::is_finished(pod) {
                if !pod.is_deleting() {
                    plan.push(self.delete(pod));
                }
                return false;
            }
            let is_up = is_running_and_ready(pod) && !self.is_unavailable(pod);
            if !self.keep(ordinal, pod, is_up, plan) {
                return false;
            }
            if !is_up {
                plan.waiting = Some(format!("pod {} is not available", pod.key()));
                return false;
            }
        }
        for pod in self.condemned() {
            plan.ops.extend(self.settle_owners(pod, true));
        }
        let Some(last) = self.condemned().next() else { return true };
        // What is finished gets no better by waiting.
        let sick = |pod: &&Arc<Pod>| self.is_unavailable(pod) && !pods::is_finished(pod);
        let is_in_turn =
            !sick(&last) || self.condemned().filter(sick).last().is_some_and(|pod| pod.uid() == last.uid());
        if last.is_deleting() || !is_in_turn {
            plan.waiting = Some(format!("pod {} is not gone, or one before it is not available", last.key()));
        } else {
            plan.push(self.delete(last));
        }
        false
    }

    fn all_at_once(&self, plan: &mut Plan) {
        let (mut finished, mut present) = (Vec::new(), 0);
        for (ordinal, pod) in self.pods.range(self.start()..self.end()) {
            present += 1;
            if !pods::is_finished(pod) {
                self.keep(*ordinal, pod, true, plan);
            } else if !pod.is_deleting() {
                finished.push(self.delete(pod));
            }
        }
        let (mut ready, mut claims, mut later) = (Vec::new(), Vec::new(), Vec::new());
        if present < self.end() - self.start() {
            let missing = (self.start()..self.end()).filter(|ordinal| !self.pods.contains_key(ordinal));
            for (its_claims, pod) in missing.filter_map(|ordinal| self.make(ordinal, plan)).take(BURST) {
                let batch = if its_claims.is_empty() { &mut ready } else { &mut later };
                batch.push(pod);
                claims.extend(its_claims);
            }
        }
        for pod in self.condemned() {
            plan.ops.extend(self.settle_owners(pod, true));
        }
        let leaving: Vec<Op> = self.condemned().filter(|pod| !pod.is_deleting()).map(|pod| self.delete(pod)).collect();
        // Pods whose claims are there do not wait for claims that perhaps cannot be made.
        let batches = [finished, ready, claims, later, leaving].into_iter().filter(|ops| !ops.is_empty());
        plan.ops.extend(batches.map(Op::SlowStart));
    }

    /// What makes the claims and the pod of this ordinal, unless something is in its way.
    fn make(&self, ordinal: i64, plan: &mut Plan) -> Option<(Vec<Op>, Op)> {
        let (name, set) = (identity::pod_name(self.set, ordinal), self.set.name());
        let failed = format!("Create Pod {name} in StatefulSet {set} failed error");
        let taken = self.snapshot.pods.get_in(self.set.namespace(), &name).map(|other| {
            let before =
                owner::controller_of(&other.metadata).is_some_and(|c| c.kind == "StatefulSet" && c.name == set);
            if before || other.is_deleting() {
                Obstacle::Waits(format!("another pod {name} is still there"))
            } else {
                Obstacle::Fails(format!("pods \"{name}\" already exists"))
            }
        });
        if let Some(obstacle) = taken.or_else(|| self.obstacle(&name)) {
            if let Obstacle::Fails(why) = &obstacle {
                plan.push(Op::warning(&**self.set, "FailedCreate", format!("{failed}: {why}")));
            }
            let (Obstacle::Waits(why) | Obstacle::Fails(why)) = obstacle;
            plan.waiting = Some(why);
            return None;
        }
        let old = self.is_rolling() && ordinal < self.partition();
        let version = if old { &self.current } else { &self.update };
        let pod = Op::create(&identity::make_pod(self.set, self.spec, version, ordinal)).announced_as(
            &self.about,
            format!("Create Pod {name} in StatefulSet {set} successful"),
            failed,
        );
        Some((self.missing_claims(&name), pod))
    }

    /// Keeps a pod what it has to be: with its labels, and with claims that have their owners. `up`: it is one that serves,
    /// or all are looked after at once. Whether it is, or can be made, one of the set's.
    fn keep(&self, ordinal: i64, pod: &Arc<Pod>, up: bool, plan: &mut Plan) -> bool {
        let is_pending = matches!(pods::phase(pod), "Pending" | "") && !pod.is_deleting();
        if is_pending && self.obstacle(pod.name()).is_none() {
            plan.ops.extend(self.missing_claims(pod.name()));
        }
        if up || is_pending {
            plan.ops.extend(self.settle_owners(pod, false));
        }
        if !up {
            return true;
        }
        let set = self.set.name();
        if let Some(mended) = identity::mended(pod, ordinal) {
            let message = format!("Update Pod {} in StatefulSet {set} successful", pod.name());
            plan.ops.extend([mended, Op::normal(&**self.set, "SuccessfulUpdate", message)]);
        }
        if storage::has_volumes(self.spec, pod) {
            return true;
        }
        let message = format!(
            "Update Pod {} in StatefulSet {set} failed error: its volumes are not the set's claims and cannot be changed; \
             delete the pod to have it made anew",
            pod.name()
        );
        plan.push(Op::warning(&**self.set, "FailedUpdate", message));
        false
    }

    fn serves(&self, pod: &Pod) -> bool {
        !self.is_unavailable(pod) && !pods::is_finished(pod)
    }

    /// How many of the wanted pods are not there, or serve nobody.
    pub(super) fn lacking(&self) -> i64 {
        let serving = self.pods.range(self.start()..self.end()).filter(|(_, pod)| self.serves(pod)).count();
        self.end() - self.start() - i64::try_from(serving).unwrap_or(i64::MAX)
    }

    /// How many may be so while the template changes.
    pub(super) fn max_unavailable(&self) -> i32 {
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
        let limit = rolling.and_then(|r| r.max_unavailable.clone()).unwrap_or(IntOrString::Int(1));
        scaled_value(&limit, self.spec.replicas.unwrap_or(1), Round::Down).unwrap_or(1).max(1)
    }

    /// Deletes pods of old templates, the last first, as many as `maxUnavailable` leaves room for. Those that serve nobody cost
    /// nothing. The answer is how many.
    fn roll(&self, plan: &mut Plan) -> i32 {
        let mut room = i64::from(self.max_unavailable()) - self.lacking();
        let mut deletions = Vec::new();
        for (_, pod) in self.pods.range(self.partition()..self.end().max(self.partition())).rev() {
            // Finished pods are on their way out already.
            if identity::revision(pod) == self.update.revision || pod.is_deleting() || pods::is_finished(pod) {
                continue;
            }
            if self.serves(pod) {
                if room <= 0 {
                    continue;
                }
                room -= 1;
            }
            deletions.push(self.delete(pod));
        }
        let replaced = i32::try_from(deletions.len()).unwrap_or(i32::MAX);
        if !deletions.is_empty() {
            plan.push(Op::SlowStart(deletions));
        }
        replaced
    }
}
