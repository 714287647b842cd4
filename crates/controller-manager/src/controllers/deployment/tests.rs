use kybern_api::IntOrString;
use kybern_api::apps::v1::{DeploymentSpec, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment};
use kybern_api::condition;

use super::revision::{DESIRED_REPLICAS, POD_TEMPLATE_HASH, REVISION};
use super::*;
use crate::testing::{self, World, created, deleted, events, meta, selector, template};

pub(super) fn deployment(replicas: i32, image: &str, surge: &str, unavailable: &str) -> Deployment {
    let number = |text: &str| text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int);
    let rolling =
        RollingUpdateDeployment { max_surge: Some(number(surge)), max_unavailable: Some(number(unavailable)) };
    let spec = DeploymentSpec {
        replicas: Some(replicas),
        selector: selector("web"),
        template: template("web", image),
        strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".into()), rolling_update: Some(rolling) }),
        progress_deadline_seconds: Some(600),
        revision_history_limit: Some(10),
        ..DeploymentSpec::default()
    };
    let mut metadata = meta("web");
    metadata.generation = Some(1);
    Deployment { metadata, spec: Some(spec), status: None }
}

pub(super) const KEY: &str = "default/web";

pub(super) fn run(world: &World) -> Plan {
    world.reconcile(&DeploymentController, KEY)
}

/// Changes the spec, as a user does.
pub(super) fn change(world: &World, change: impl FnOnce(&mut DeploymentSpec)) {
    let mut deployment = (*world.snapshot.deployments.get(KEY).unwrap()).clone();
    change(deployment.spec.as_mut().unwrap());
    *deployment.metadata.generation.as_mut().unwrap() += 1;
    deployment.metadata.resource_version = Some((world.snapshot.deployments.resource_version() + 1).to_string());
    world.writers.deployments.upsert(deployment);
}

/// Every set gets the pods it wants, all available.
fn serve(world: &World) {
    for set in world.snapshot.replica_sets.list() {
        let n = set.spec.as_ref().unwrap().replicas.unwrap();
        report(world, &set, n, n);
    }
}

pub(super) fn report(world: &World, set: &ReplicaSet, actual: i32, available: i32) {
    let mut set = set.clone();
    set.status = Some(ReplicaSetStatus {
        replicas: actual,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        observed_generation: set.metadata.generation,
        ..ReplicaSetStatus::default()
    });
    set.metadata.resource_version = Some((world.snapshot.replica_sets.resource_version() + 1).to_string());
    world.writers.replica_sets.upsert(set);
}

/// Reconciles and serves until nothing is left to do.
fn settle(world: &World) -> Vec<String> {
    let mut seen = Vec::new();
    for _ in 0..100 {
        let plan = run(world);
        if plan.ops.is_empty() {
            return seen;
        }
        seen.extend(events(&plan));
        world.apply(&plan);
        serve(world);
    }
    panic!("the deployment never settles");
}

fn world(deployment: Deployment) -> World {
    let world = World::new();
    world.writers.deployments.upsert(deployment);
    world
}

fn sizes(world: &World) -> Vec<(String, i32)> {
    let image = |s: &ReplicaSet| {
        s.spec.as_ref().unwrap().template.as_ref().unwrap().spec.as_ref().unwrap().containers[0].image.clone().unwrap()
    };
    let mut sizes: Vec<_> = world
        .snapshot
        .replica_sets
        .list()
        .iter()
        .map(|s| (image(s), s.spec.as_ref().unwrap().replicas.unwrap()))
        .collect();
    sizes.sort();
    sizes
}

fn status(world: &World) -> DeploymentStatus {
    world.snapshot.deployments.get(KEY).unwrap().status.clone().unwrap()
}

fn progressing(world: &World) -> (String, String, String) {
    let status = status(world);
    let c = condition::find(&status.conditions, "Progressing").unwrap();
    (c.status.clone(), c.reason.clone().unwrap(), c.message.clone().unwrap())
}

#[test]
fn a_new_deployment_makes_a_set() {
    let world = world(deployment(3, "nginx:1.14", "25%", "25%"));
    let plan = run(&world);
    let set: ReplicaSet = created(&plan).remove(0);
    let hash = set.labels().unwrap()[POD_TEMPLATE_HASH].clone();
    assert_eq!(set.metadata.name, Some(format!("web-{hash}")));
    let spec = set.spec.as_ref().unwrap();
    assert_eq!(spec.replicas, Some(3));
    assert_eq!(spec.selector.match_labels.as_ref().unwrap()[POD_TEMPLATE_HASH], hash);
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!((annotations[REVISION].as_str(), annotations[DESIRED_REPLICAS].as_str()), ("1", "3"));
    assert_eq!(events(&plan), [format!("ScalingReplicaSet: Scaled up replica set web-{hash} from 0 to 3")]);
    settle(&world);
    let deployment = world.snapshot.deployments.get(KEY).unwrap();
    assert_eq!(deployment.metadata.annotations.as_ref().unwrap()[REVISION], "1");
    assert_eq!(status(&world).available_replicas, Some(3));
    let name = format!("ReplicaSet \"web-{hash}\" has successfully progressed.");
    assert_eq!(progressing(&world), ("True".into(), "NewReplicaSetAvailable".into(), name));
}

#[test]
fn an_update_rolls_and_an_undo_brings_the_old_set_back() {
    let world = world(deployment(3, "nginx:1.14", "25%", "25%"));
    settle(&world);
    change(&world, |spec| spec.template = template("web", "nginx:1.15"));
    let seen = settle(&world);
    assert_eq!(seen.len(), 6, "{seen:?}");
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 0), ("nginx:1.15".into(), 3)]);
    change(&world, |spec| spec.template = template("web", "nginx:1.14"));
    settle(&world);
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 3), ("nginx:1.15".into(), 0)]);
    let deployment = world.snapshot.deployments.get(KEY).unwrap();
    assert_eq!(deployment.metadata.annotations.as_ref().unwrap()[REVISION], "3");
    let histories: Vec<_> = world
        .snapshot
        .replica_sets
        .list()
        .iter()
        .filter_map(|s| s.metadata.annotations.as_ref()?.get(super::revision::REVISION_HISTORY).cloned())
        .collect();
    assert_eq!(histories, ["1"]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let world = world(deployment(2, "nginx:1.14", "1", "0"));
    settle(&world);
    change(&world, |spec| {
        spec.paused = Some(true);
        spec.template = template("web", "nginx:1.15");
        spec.replicas = Some(4);
    });
    settle(&world);
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 4)]);
    assert_eq!(progressing(&world), ("Unknown".into(), "DeploymentPaused".into(), "Deployment is paused".into()));
    change(&world, |spec| spec.paused = None);
    settle(&world);
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 0), ("nginx:1.15".into(), 4)]);
}

#[test]
fn scaling_in_mid_rollout_is_proportional() {
    let world = world(deployment(10, "nginx:1.14", "3", "2"));
    settle(&world);
    change(&world, |spec| spec.template = template("web", "nginx:1.15"));
    for _ in 0..3 {
        world.apply(&run(&world));
    }
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 8), ("nginx:1.15".into(), 5)]);
    change(&world, |spec| spec.replicas = Some(15));
    world.apply(&run(&world));
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 11), ("nginx:1.15".into(), 7)]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut first = deployment(2, "nginx:1.14", "1", "0");
    first.spec.as_mut().unwrap().strategy =
        Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    let world = world(first);
    settle(&world);
    change(&world, |spec| spec.template = template("web", "nginx:1.15"));
    world.apply(&run(&world));
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 0)]);
    assert!(created::<ReplicaSet>(&run(&world)).is_empty(), "old pods are still there");
    let set = world.snapshot.replica_sets.list().remove(0);
    world.writers.pods.upsert(testing::pod("old").owned_by(&*set).build());
    serve(&world);
    assert!(created::<ReplicaSet>(&run(&world)).is_empty(), "a pod still runs");
    world.writers.pods.remove("default/old", "9");
    settle(&world);
    assert_eq!(sizes(&world), [("nginx:1.14".into(), 0), ("nginx:1.15".into(), 2)]);
}

#[test]
fn a_stuck_rollout_exceeds_its_deadline() {
    let mut world = world(deployment(1, "nginx:1.14", "1", "0"));
    settle(&world);
    change(&world, |spec| spec.template = template("web", "broken"));
    for _ in 0..3 {
        world.apply(&run(&world));
    }
    let plan = run(&world);
    assert!(plan.ops.is_empty(), "{:?}", plan.ops);
    assert!(plan.requeue_after.unwrap().as_secs() > 590);
    world.now = testing::at(testing::NOW + 602);
    world.apply(&run(&world));
    let (status, reason, message) = progressing(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ProgressDeadlineExceeded"));
    assert!(message.ends_with("has timed out progressing."), "{message}");
    assert_eq!(run(&world).requeue_after, None);
}

#[test]
fn old_sets_go_beyond_the_history_limit() {
    let world = world(deployment(1, "nginx:0", "1", "0"));
    settle(&world);
    change(&world, |spec| spec.revision_history_limit = Some(1));
    for image in ["nginx:1", "nginx:2", "nginx:3"] {
        change(&world, |spec| spec.template = template("web", image));
        settle(&world);
    }
    let images: Vec<String> = sizes(&world).into_iter().map(|(image, _)| image).collect();
    assert_eq!(images, ["nginx:2", "nginx:3"]);
    assert!(deleted(&run(&world)).is_empty());
}

#[test]
fn a_taken_name_counts_as_a_collision() {
    let world = world(deployment(1, "nginx:1.14", "1", "0"));
    let mut other: ReplicaSet = created(&run(&world)).remove(0);
    other.metadata.owner_references.as_mut().unwrap()[0].uid = "someone-else".into();
    world.writers.replica_sets.upsert(other);
    world.apply(&run(&world));
    assert_eq!(status(&world).collision_count, Some(1));
    assert_eq!(created::<ReplicaSet>(&run(&world)).len(), 1);
}

#[test]
fn a_failed_creation_becomes_a_condition() {
    let world = world(deployment(1, "nginx:1.14", "1", "0"));
    let failure =
        crate::controller::Failure { verb: crate::controller::Verb::Create, stale: false, message: "quota".into() };
    let plan = world.reconcile_after(&DeploymentController, KEY, failure);
    world.apply(&plan);
    let (status, reason, message) = progressing(&world);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ReplicaSetCreateError"));
    assert!(message.ends_with(": quota"), "{message}");
}
