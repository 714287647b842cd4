//! `deployment`: rolls ReplicaSets over (`pkg/controller/deployment`).
//!
//! One reconcile works on copies of the ReplicaSets ([`rollout::Rollout`]): finding or making the new one, scaling,
//! cleaning up; what differs at the end becomes one patch per set, and one status.

use std::sync::Arc;

use jiff::Timestamp;
use kybern_api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kybern_api::core::v1::Pod;
use kybern_api::{Object, label_selector, owner};
use kybern_client::Change;

use self::rollout::Rollout;
use crate::claim::claim;
use crate::controller::{Context, Controller, Op, Plan};
use crate::pods;
use crate::snapshot::{OWNER, Snapshot};
use crate::watches::Watches;

mod progress;
mod revision;
mod rolling;
mod rollout;
mod scaling;

#[cfg(test)]
mod rolling_tests;
#[cfg(test)]
mod tests;

pub struct DeploymentController;

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.deployments);
        watches.on(&snapshot.replica_sets, keys_of_set);
        watches.on(&snapshot.pods, keys_of_gone_pod);
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(deployment) = snapshot.deployments.get(key) else { return Plan::idle() };
        let Some(spec) = &deployment.spec else { return Plan::idle() };
        let Ok(selector) = label_selector(&spec.selector) else { return Plan::idle() };
        if selector.is_everything() {
            return selecting_all(&deployment);
        }
        let claims = claim(&*deployment, &selector, &snapshot.replica_sets, |_| true);
        let mut rollout = Rollout::new(&deployment, spec, claims.owned, snapshot, context);
        rollout.ops.extend(claims.ops);
        if !deployment.is_deleting() {
            decide(&mut rollout, snapshot);
        }
        rollout.into_plan()
    }
}

/// The order of `syncDeployment`.
fn decide(rollout: &mut Rollout<'_>, snapshot: &Snapshot) {
    rollout.note_pause();
    let paused = rollout.spec.paused == Some(true);
    if paused || rollout.is_scaling_event() {
        rollout.adopt_revision();
        scaling::scale(rollout);
        if paused {
            rollout.clean_up();
        }
        return;
    }
    if rollout.is_recreate() {
        rollout.adopt_revision();
        let running = |set: &ReplicaSet| is_running(set, snapshot);
        rolling::recreate(rollout, running);
    } else {
        rollout.ensure_new_set();
        rolling::roll(rollout);
    }
}

/// Whether a set still has pods that may run.
fn is_running(set: &ReplicaSet, snapshot: &Snapshot) -> bool {
    let counted = set.status.as_ref().is_some_and(|s| s.replicas > 0);
    counted || snapshot.pods.by_index(OWNER, set.uid()).iter().any(|pod| !pods::is_finished(pod))
}

fn selecting_all(deployment: &Arc<Deployment>) -> Plan {
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    let mut plan = Plan::of(vec![Op::warning(&**deployment, "SelectingAll", message)]);
    let old = deployment.status.clone().unwrap_or_default();
    if old.observed_generation < deployment.metadata.generation {
        let status = DeploymentStatus { observed_generation: deployment.metadata.generation, ..old };
        plan.push(Op::update_status(&Deployment { status: Some(status), ..(**deployment).clone() }));
    }
    plan
}

fn deployment_of(set: &ReplicaSet) -> Option<String> {
    let controller = owner::controller_of(&set.metadata).filter(|c| c.kind == "Deployment")?;
    Some(format!("{}/{}", set.namespace(), controller.name))
}

/// The deployment that owns or owned the set; for an orphan every deployment of the namespace that selects it.
fn keys_of_set(change: &Change<ReplicaSet>, snapshot: &Snapshot) -> Vec<String> {
    let mut keys = Vec::new();
    for set in [&change.old, &change.new].into_iter().flatten() {
        if owner::controller_of(&set.metadata).is_some() {
            keys.extend(deployment_of(set));
            continue;
        }
        let labels = set.labels().cloned().unwrap_or_default();
        let selects = |d: &Deployment| {
            d.spec.as_ref().is_some_and(|s| {
                label_selector(&s.selector).is_ok_and(|s| !s.is_everything() && s.matches_btree(&labels))
            })
        };
        keys.extend(snapshot.deployments.list_in(set.namespace()).iter().filter(|d| selects(d)).map(|d| d.key()));
    }
    keys.dedup();
    keys
}

/// A `Recreate` deployment waits for its old pods to go.
fn keys_of_gone_pod(change: &Change<Pod>, snapshot: &Snapshot) -> Vec<String> {
    let Some(new) = change.new.as_ref().or(change.old.as_ref()) else { return Vec::new() };
    if !change.is_removal() && !pods::is_finished(new) {
        return Vec::new();
    }
    let Some(controller) = owner::controller_of(&new.metadata) else { return Vec::new() };
    let set = snapshot.replica_sets.get_in(new.namespace(), &controller.name);
    let key = set.and_then(|set| deployment_of(&set));
    let recreates = |key: &String| {
        let deployment = snapshot.deployments.get(key);
        let strategy = deployment.as_ref().and_then(|d| d.spec.as_ref()?.strategy.as_ref()?.type_.as_deref());
        strategy == Some("Recreate")
    };
    key.filter(recreates).into_iter().collect()
}

fn created(set: &ReplicaSet) -> Timestamp {
    pods::created(&set.metadata)
}
