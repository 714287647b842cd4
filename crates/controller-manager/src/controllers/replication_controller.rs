//! `replicationcontroller`: the ReplicaSet's forerunner, worked on as one.

use std::collections::BTreeMap;

use kybern_api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use kybern_api::core::v1::{ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use kybern_api::label_selector;
use kybern_api::meta::v1::LabelSelector;
use kybern_apimachinery::selector::LabelSelector as Selector;

use super::replicaset;
use crate::claim::keys_of;
use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::Snapshot;
use crate::watches::Watches;

pub struct ReplicationControllerController;

impl Controller for ReplicationControllerController {
    fn name(&self) -> &'static str {
        "replicationcontroller-controller"
    }

    fn component(&self) -> &'static str {
        "replication-controller"
    }

    fn account(&self) -> &'static str {
        "replication-controller"
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.replication_controllers);
        watches.on(&snapshot.pods, |change, snapshot| keys_of(change, &snapshot.replication_controllers, selector_of));
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, context: &Context) -> Plan {
        let Some(controller) = snapshot.replication_controllers.get(key) else { return Plan::idle() };
        let set = as_set(&controller);
        let (mut plan, status) = replicaset::reconcile(&*controller, &set, snapshot, context);
        if let Some(status) = status {
            let status = Some(from_set_status(status));
            plan.ops.insert(0, Op::update_status(&ReplicationController { status, ..(*controller).clone() }));
        }
        plan
    }
}

fn selector_of(controller: &ReplicationController) -> Option<Selector> {
    let match_labels = controller.spec.as_ref()?.selector.clone();
    label_selector(&LabelSelector { match_labels, match_expressions: None }).ok()
}

fn as_set(controller: &ReplicationController) -> ReplicaSet {
    let spec = controller.spec.clone().unwrap_or_default();
    let selector: BTreeMap<String, String> = spec.selector.unwrap_or_default();
    ReplicaSet {
        metadata: controller.metadata.clone(),
        spec: Some(ReplicaSetSpec {
            replicas: spec.replicas,
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector { match_labels: Some(selector), match_expressions: None },
            template: spec.template,
        }),
        status: controller.status.clone().map(into_set_status),
    }
}

fn into_set_status(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
        type_: c.type_,
        status: c.status,
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    };
    ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        terminating_replicas: None,
        observed_generation: status.observed_generation,
        conditions: status.conditions.map(|list| list.into_iter().map(condition).collect()),
    }
}

fn from_set_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
        type_: c.type_,
        status: c.status,
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    };
    ReplicationControllerStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.map(|list| list.into_iter().map(condition).collect()),
    }
}

#[cfg(test)]
mod tests {
    use kybern_api::core::v1::{Pod, ReplicationControllerSpec};
    use kybern_api::owner;

    use super::*;
    use crate::testing::{NOW, World, created, labels, meta, pod, status_of, template};

    #[test]
    fn pods_are_made_and_counted() {
        let world = World::new();
        let spec = ReplicationControllerSpec {
            replicas: Some(2),
            selector: Some(labels(&[("app", "web")])),
            template: Some(template("web", "i")),
            ..ReplicationControllerSpec::default()
        };
        let controller = ReplicationController { metadata: meta("web"), spec: Some(spec), status: None };
        world.writers.replication_controllers.upsert(controller.clone());
        world
            .writers
            .pods
            .upsert(pod("a").label("app", "web").owned_by(&controller).node("n").ready_at(NOW - 5).build());
        let plan = world.reconcile(&ReplicationControllerController, "default/web");
        let made: Vec<Pod> = created(&plan);
        assert_eq!(made.len(), 1);
        assert_eq!(owner::controller_of(&made[0].metadata).unwrap().kind, "ReplicationController");
        let written = status_of::<ReplicationController>(&plan).unwrap();
        assert_eq!(written.status.as_ref().unwrap().available_replicas, Some(1));
        world.writers.replication_controllers.upsert(written);
        assert!(
            status_of::<ReplicationController>(&world.reconcile(&ReplicationControllerController, "default/web"))
                .is_none()
        );
    }
}
