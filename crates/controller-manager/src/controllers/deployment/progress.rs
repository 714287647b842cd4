//! Conditions and status (`progress.go`, `sync.go`), with upstream's reasons and texts.

use std::time::Duration;

use kybern_api::apps::v1::{DeploymentCondition, DeploymentStatus};
use kybern_api::meta::v1::Time;
use kybern_api::{Object, condition};

use super::rollout::{Rollout, WorkingSet};
use crate::controller::Plan;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";
const FOUND: &str = "FoundNewReplicaSet";
const CREATED: &str = "NewReplicaSetCreated";
const CREATE_ERROR: &str = "ReplicaSetCreateError";
const UPDATED: &str = "ReplicaSetUpdated";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

impl Rollout<'_> {
    /// `progressDeadlineSeconds`, unless that is unset.
    fn deadline(&self) -> Option<i32> {
        self.spec.progress_deadline_seconds.filter(|n| *n != i32::MAX)
    }

    fn progressing(&self) -> Option<&DeploymentCondition> {
        condition::find(&self.conditions, PROGRESSING)
    }

    fn condition(&self, kind: &str, status: &str, reason: &str, message: String) -> DeploymentCondition {
        let now = Time(self.context.now);
        DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(now.clone()),
            last_transition_time: Some(now),
        }
    }

    /// Sets a condition, unless it has this status and reason already.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let same = condition::find(&self.conditions, kind)
            .is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason));
        if !same {
            let condition = self.condition(kind, status, reason, message);
            condition::set(&mut self.conditions, condition);
        }
    }

    /// Says that the deployment is paused or goes on: time does not count against the deadline meanwhile.
    pub(super) fn note_pause(&mut self) {
        if self.deadline().is_none() {
            return;
        }
        let reason = self.progressing().and_then(|c| c.reason.clone());
        match (self.spec.paused == Some(true), reason.as_deref()) {
            (_, Some(TIMED_OUT)) => {}
            (true, other) if other != Some(PAUSED) => {
                self.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into())
            }
            (false, Some(PAUSED)) => self.set(PROGRESSING, "Unknown", RESUMED, "Deployment is resumed".into()),
            _ => {}
        }
    }
}

pub(super) fn found_new_set(rollout: &mut Rollout<'_>, name: &str) {
    if rollout.deadline().is_some() && rollout.progressing().is_none() {
        rollout.set(PROGRESSING, "True", FOUND, format!("Found new replica set {name:?}"));
    }
}

pub(super) fn created_new_set(rollout: &mut Rollout<'_>, name: &str) {
    if rollout.deadline().is_some() {
        rollout.set(PROGRESSING, "True", CREATED, format!("Created new replica set {name:?}"));
    }
}

pub(super) fn creation_failed(rollout: &mut Rollout<'_>, name: &str, cause: &str) {
    rollout.set(PROGRESSING, "False", CREATE_ERROR, format!("Failed to create new replica set {name:?}: {cause}"));
}

/// Whether everything is rolled out, by the counts of `status` (`DeploymentComplete`).
fn complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let wanted = rollout.replicas();
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|n| n.unwrap_or(0) == wanted)
        && status.observed_generation >= rollout.deployment.metadata.generation
}

/// Whether everything was rolled out when the status was last written.
pub(super) fn is_complete(rollout: &Rollout<'_>) -> bool {
    rollout.deployment.status.as_ref().is_some_and(|status| complete(rollout, status))
}

/// More new, ready or available pods, or fewer old ones, than before (`DeploymentProgressing`).
fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// The status as it shall be. Asks for another look when the deadline passes.
pub(super) fn next_status(rollout: &mut Rollout<'_>, plan: &mut Plan) -> DeploymentStatus {
    let sum = |count: fn(&WorkingSet) -> i32| rollout.all().map(count).sum::<i32>();
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let (wanted, available) = (sum(|s| s.replicas), sum(WorkingSet::available));
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: some(sum(WorkingSet::actual)),
        updated_replicas: some(rollout.new.as_ref().map_or(0, WorkingSet::actual)),
        ready_replicas: some(sum(WorkingSet::ready)),
        available_replicas: some(available),
        unavailable_replicas: some((wanted - available).max(0)),
        terminating_replicas: Some(sum(WorkingSet::terminating)),
        collision_count: old.collision_count,
        conditions: None,
    };
    if available >= rollout.replicas() - rollout.max_unavailable() {
        rollout.set(AVAILABLE, "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into());
    } else {
        rollout.set(
            AVAILABLE,
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.".into(),
        );
    }
    let outside = rollout.spec.paused == Some(true) || rollout.is_scaling_event() || rollout.deployment.is_deleting();
    if !outside {
        judge_progress(rollout, &old, &status);
        let failure = rollout
            .new
            .iter()
            .chain(&rollout.old)
            .find_map(|set| condition::find(&set.object.status.as_ref()?.conditions, REPLICA_FAILURE).cloned());
        match failure {
            Some(f) => {
                rollout.set(REPLICA_FAILURE, &f.status, &f.reason.unwrap_or_default(), f.message.unwrap_or_default())
            }
            None => condition::remove(&mut rollout.conditions, REPLICA_FAILURE),
        }
        requeue_for_deadline(rollout, &status, plan);
    }
    status.conditions = rollout.conditions.clone();
    // An absent count and 0 are the same.
    if old.terminating_replicas.is_none() && status.terminating_replicas == Some(0) {
        status.terminating_replicas = None;
    }
    status
}

fn judge_progress(rollout: &mut Rollout<'_>, old: &DeploymentStatus, status: &DeploymentStatus) {
    let Some(deadline) = rollout.deadline() else {
        return condition::remove(&mut rollout.conditions, PROGRESSING);
    };
    let current = rollout.progressing().cloned();
    let reason = current.as_ref().and_then(|c| c.reason.clone());
    let reason = reason.as_deref();
    if status.replicas == status.updated_replicas && reason == Some(COMPLETE) {
        return;
    }
    let subject = match &rollout.new {
        Some(set) => format!("ReplicaSet {:?}", set.object.name()),
        None => format!("Deployment {:?}", rollout.deployment.name()),
    };
    if complete(rollout, status) {
        rollout.set(PROGRESSING, "True", COMPLETE, format!("{subject} has successfully progressed."));
    } else if has_progressed(old, status) {
        let mut condition = rollout.condition(PROGRESSING, "True", UPDATED, format!("{subject} is progressing."));
        if let Some(current) = current.filter(|c| c.status == "True") {
            condition.last_transition_time = current.last_transition_time;
        }
        condition::remove(&mut rollout.conditions, PROGRESSING);
        condition::set(&mut rollout.conditions, condition);
    } else if let Some(current) = current {
        let since = current.last_update_time.as_ref().map_or(rollout.context.now, |t| t.0);
        let late = rollout.context.now.duration_since(since).as_secs() > i64::from(deadline);
        if reason == Some(TIMED_OUT) || (late && reason != Some(COMPLETE)) {
            rollout.set(PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."));
        }
    }
}

/// A rollout that is stuck makes no event: time must tell.
fn requeue_for_deadline(rollout: &Rollout<'_>, status: &DeploymentStatus, plan: &mut Plan) {
    let (Some(deadline), Some(current)) = (rollout.deadline(), rollout.progressing()) else { return };
    if complete(rollout, status) || current.reason.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let Some(since) = &current.last_update_time else { return };
    let passed = rollout.context.now.duration_since(since.0).as_secs();
    let left = (i64::from(deadline) - passed).max(0).unsigned_abs();
    plan.requeue(Duration::from_secs(left + 1));
}
