use kybern_api::IntOrString;
use kybern_api::apps::v1::{ControllerRevision, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use kybern_api::core::v1::{Node, Taint};

use super::*;
use crate::testing::{self, NOW, World, created, deleted, meta, pod, selector, status_of, template};

fn set(image: &str) -> DaemonSet {
    let strategy = DaemonSetUpdateStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDaemonSet { max_unavailable: Some(IntOrString::Int(1)), max_surge: None }),
    };
    let spec = DaemonSetSpec {
        selector: selector("agent"),
        template: template("agent", image),
        update_strategy: Some(strategy),
        ..DaemonSetSpec::default()
    };
    DaemonSet { metadata: meta("agent"), spec: Some(spec), status: None }
}

fn world(nodes: &[&str]) -> World {
    let world = World::new();
    world.writers.daemon_sets.upsert(set("i:1"));
    for name in nodes {
        world.writers.nodes.upsert(Node { metadata: meta(name), ..Node::default() });
    }
    world
}

fn run(world: &World) -> Plan {
    world.reconcile(&DaemonSetController::default(), "default/agent")
}

/// Makes the planned pods running and ready, and stores revisions.
fn settle(world: &World, plan: &Plan) {
    for revision in created::<ControllerRevision>(plan) {
        world.writers.revisions.upsert(revision);
    }
    for name in deleted(plan) {
        world.writers.pods.remove(&format!("default/{name}"), "1");
    }
    for made in created::<Pod>(plan) {
        let node = node_of(&made).unwrap().to_owned();
        let hash = made.labels().unwrap()[HASH_LABEL].clone();
        let ready = pod(&format!("agent-{node}-{hash}")).node(&node).ready_at(NOW - 60).build();
        world.writers.pods.upsert(Pod {
            metadata: kybern_api::meta::v1::ObjectMeta {
                labels: made.metadata.labels,
                owner_references: made.metadata.owner_references,
                ..ready.metadata.clone()
            },
            ..ready
        });
    }
}

#[test]
fn every_fitting_node_gets_a_pinned_pod() {
    let world = world(&["n1", "n2", "n3"]);
    let mut tainted = Node { metadata: meta("n3"), ..Node::default() };
    let taint = Taint { key: "mine".into(), effect: "NoSchedule".into(), ..Taint::default() };
    tainted.spec.get_or_insert_default().taints = Some(vec![taint]);
    world.writers.nodes.upsert(tainted);
    let plan = run(&world);
    let pods: Vec<Pod> = created(&plan);
    let nodes: Vec<_> = pods.iter().map(|pod| node_of(pod).unwrap()).collect();
    assert_eq!(nodes, ["n1", "n2"]);
    let revision: ControllerRevision = created(&plan).remove(0);
    assert_eq!((revision.revision, hash(&pods[0])), (1, revision.labels().unwrap()[HASH_LABEL].clone()));
    assert_eq!(revision.data.unwrap().0["spec"]["template"]["$patch"], "replace");
    let status = status_of::<DaemonSet>(&plan).unwrap().status.unwrap();
    assert_eq!((status.desired_number_scheduled, status.number_unavailable), (2, Some(2)));
    settle(&world, &run(&world));
    let status = status_of::<DaemonSet>(&run(&world)).unwrap().status.unwrap();
    assert_eq!((status.number_ready, status.number_available, status.updated_number_scheduled), (2, Some(2), Some(2)));
}

fn hash(pod: &Pod) -> String {
    pod.labels().unwrap()[HASH_LABEL].clone()
}

#[test]
fn an_update_replaces_one_at_a_time() {
    let world = world(&["n1", "n2", "n3"]);
    settle(&world, &run(&world));
    world.writers.daemon_sets.upsert(set("i:2"));
    let mut steps = 0;
    loop {
        let plan = run(&world);
        let changed = !deleted(&plan).is_empty() || !created::<Pod>(&plan).is_empty();
        assert!(deleted(&plan).len() <= 1, "{plan:?}");
        settle(&world, &plan);
        if !changed {
            break;
        }
        assert!(world.snapshot.pods.len() >= 2);
        steps += 1;
        assert!(steps < 20, "the update ends");
    }
    let hashes: std::collections::BTreeSet<String> = world.snapshot.pods.list().iter().map(|p| hash(p)).collect();
    assert_eq!((hashes.len(), world.snapshot.pods.len(), world.snapshot.revisions.len()), (1, 3, 2));
    // Back to the first template: its revision gets the highest number.
    world.writers.daemon_sets.upsert(set("i:1"));
    let plan = run(&world);
    assert!(
        plan.ops
            .iter()
            .any(|op| matches!(op, Op::Patch { patch: kybern_client::Patch::Merge(p), .. } if p["revision"] == 3)),
        "{plan:?}"
    );
}

#[test]
fn a_surge_keeps_the_old_pod_until_the_new_one_serves() {
    let world = world(&["n1"]);
    let mut surging = set("i:1");
    let rolling =
        RollingUpdateDaemonSet { max_unavailable: Some(IntOrString::Int(0)), max_surge: Some(IntOrString::Int(1)) };
    surging.spec.as_mut().unwrap().update_strategy.as_mut().unwrap().rolling_update = Some(rolling);
    world.writers.daemon_sets.upsert(surging.clone());
    settle(&world, &run(&world));
    surging.spec.as_mut().unwrap().template = template("agent", "i:2");
    world.writers.daemon_sets.upsert(surging);
    let plan = run(&world);
    assert_eq!((created::<Pod>(&plan).len(), deleted(&plan).len()), (1, 0));
    settle(&world, &plan);
    let plan = run(&world);
    assert_eq!((created::<Pod>(&plan).len(), deleted(&plan).len()), (0, 1));
}

#[test]
fn pods_go_with_their_node_and_when_they_failed() {
    let world = world(&["n1", "n2"]);
    settle(&world, &run(&world));
    world.writers.nodes.remove("n2", "9");
    world.writers.nodes.remove("default/n2", "9");
    let failed = world.snapshot.pods.list().iter().find(|p| node_of(p) == Some("n1")).unwrap().clone();
    let mut failed = (*failed).clone();
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    world.writers.pods.upsert(failed);
    let plan = run(&world);
    assert_eq!(deleted(&plan).len(), 2);
    assert!(testing::events(&plan)[0].starts_with("FailedDaemonPod: Found failed daemon pod default/agent-n1-"));
}

#[test]
fn a_pod_that_fails_again_waits() {
    let mut world = world(&["n1"]);
    settle(&world, &run(&world));
    let mut failed = (*world.snapshot.pods.list()[0]).clone();
    failed.status.as_mut().unwrap().phase = Some("Failed".into());
    world.writers.pods.upsert(failed);
    let controller = DaemonSetController::default();
    let look = |world: &World| world.reconcile(&controller, "default/agent");
    let plan = look(&world);
    assert_eq!(deleted(&plan).len(), 1);
    assert!(testing::events(&plan)[0].ends_with(" on node n1, will try to kill it"));
    let plan = look(&world);
    assert!(deleted(&plan).is_empty(), "{plan:?}");
    assert_eq!(plan.requeue_after.map(|time| time.as_secs()), Some(1));
    world.now = testing::at(NOW + 1);
    assert_eq!(deleted(&look(&world)).len(), 1);
    assert_eq!(look(&world).requeue_after.map(|time| time.as_secs()), Some(2));
}
